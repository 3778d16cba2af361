//! PostgreSQL's errors in words for those who run it.

use std::io::ErrorKind;

use sqlx::migrate::MigrateError;

/// What went wrong, and what to do about it where that is known. Without the line that sqlx adds to what
/// PostgreSQL says: it is one of PostgreSQL's own source.
pub fn words(error: &sqlx::Error) -> String {
    let said = match error {
        sqlx::Error::Database(said) => said,
        sqlx::Error::Io(error) => return io_words(error),
        other => return other.to_string(),
    };
    let code = said.code().unwrap_or_default();
    match advice(&code) {
        Some(advice) => format!("{}; {advice}", said.message()),
        None => format!("{} (SQLSTATE {code})", said.message()),
    }
}

/// The same where there was no answer. What isn't understood of an answer, rustls has found wrong with a certificate.
fn io_words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidData => format!(
            "{error}; PostgreSQL's certificate has to be for the host in postgres.url, and by the authority in the file \
             that sslrootcert names there (or PGSSLROOTCERT)"
        ),
        ErrorKind::NotFound => format!(
            "{error}: the file that sslrootcert names in postgres.url (or PGSSLROOTCERT), or PostgreSQL's socket"
        ),
        _ => error.to_string(),
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
