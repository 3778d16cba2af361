//! The outbox's tables and function: which version this binary is for, and who may do what.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Where the steps that were taken are recorded.
pub const RECORD: &str = "foghorn._outbox_migrations";

/// The steps, all in the schema `foghorn`.
pub fn migrator() -> Migrator {
    sqlx::migrate!("../../migrations/outbox")
}

/// The version this binary is for.
pub(crate) fn version() -> i64 {
    migrator().iter().map(|step| step.version).max().unwrap_or(0)
}

/// What a role is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To call `foghorn.publish`, and nothing else: no table can be seen.
    Publish,
    /// To drain the outbox.
    Drain,
}

/// Gives a role that is there already what it needs.
pub async fn grant(url: &str, role: &str, right: Right) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let role = quoted(role);
    let rights: &[&str] = match right {
        Right::Publish => &["EXECUTE ON FUNCTION foghorn.publish(text, text, text, text, integer)"],
        Right::Drain => &[
            "SELECT, DELETE ON foghorn.outbox",
            "SELECT, UPDATE ON foghorn.outbox_state",
            "SELECT, INSERT ON foghorn.outbox_rejected",
            "SELECT ON foghorn._outbox_migrations",
        ],
    };
    for right in [&["USAGE ON SCHEMA foghorn"], rights].concat() {
        let grant = format!("GRANT {right} TO {role}");
        sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut connection).await?;
    }
    connection.close().await
}

/// An identifier, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_roles_name_is_one_identifier_whatever_is_in_it() {
        assert_eq!(super::quoted(r#"shop"; DROP ROLE x"#), r#""shop""; DROP ROLE x""#);
    }
}
