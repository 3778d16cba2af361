//! PostgreSQL's errors in words for those who run it.

use sqlx::migrate::MigrateError;

/// What went wrong, and what to do about it where that is known. Without the line that sqlx adds to what
/// PostgreSQL says: it is one of PostgreSQL's own source.
pub(crate) fn words(error: &sqlx::Error) -> String {
    let sqlx::Error::Database(said) = error else { return error.to_string() };
    let code = said.code().unwrap_or_default();
    match advice(&code) {
        Some(advice) => format!("{}; {advice}", said.message()),
        None => format!("{} (SQLSTATE {code})", said.message()),
    }
}

/// The same of a migration's step.
pub(super) fn migration_words(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(error) => words(error),
        MigrateError::ExecuteMigration(error, step) => format!("step {step}: {}", words(error)),
        other => other.to_string(),
    }
}

fn advice(code: &str) -> Option<&'static str> {
    match code {
        "3D000" => Some("create it (CREATE DATABASE), or name another in postgres.url"),
        "28000" | "28P01" => Some("correct the user or the password in postgres.url"),
        "42501" => Some("give the user the right to create a schema in the database, and to what is in it"),
        "53300" => Some("raise PostgreSQL's max_connections, or lower postgres.connections"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::postgres::PostgresOptions;

    #[test]
    fn a_place_has_no_secret() {
        for (url, place) in [
            ("postgres://fog:hunter2@db.example:5433/events", "db.example:5433 (database events)"),
            ("postgres://fog:hunter2@db.example", "db.example:5432 (database fog)"),
            ("postgresql:///events?host=/run/postgresql&user=fog", "/run/postgresql (database events)"),
            ("postgres://fog:hunter2@bad host/", "an unreadable URL"),
        ] {
            assert_eq!(PostgresOptions::new(url).place(), place);
        }
    }
}
