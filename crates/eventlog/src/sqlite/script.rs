//! Statements that are run together.

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Sqlite, SqliteConnection, Type};

/// Statements and what is bound to them. SQLite's connection has a thread of its own, and the way there and back costs
/// more than most statements do: so they go there together.
///
/// Their texts are kept prepared, so there must not be many different ones.
#[derive(Debug, Default)]
pub(super) struct Script {
    text: String,
    arguments: SqliteArguments,
}

impl Script {
    /// Appends a statement, whose parameters are `?`.
    pub(super) fn add(&mut self, statement: &str) {
        self.text.push_str(statement);
        self.text.push(';');
    }

    /// Binds a value to the next parameter.
    ///
    /// # Errors
    ///
    /// When it has no form that SQLite knows.
    pub(super) fn bind<'t, T>(&mut self, value: T) -> sqlx::Result<()>
    where
        T: Encode<'t, Sqlite> + Type<Sqlite>,
    {
        self.arguments.add(value).map_err(sqlx::Error::Encode)
    }

    /// Runs what was added since it was run last, one after the other until one fails.
    pub(super) async fn run(&mut self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        let Script { text, arguments } = std::mem::take(self);
        sqlx::query_with(AssertSqlSafe(text), arguments).execute(connection).await?;
        Ok(())
    }
}
