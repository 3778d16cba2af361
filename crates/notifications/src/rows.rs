//! The queries of one connection. PostgreSQL and SQLite understand the same SQL here, so it stands here once.

use foghorn_core::time::Timestamp;

use crate::notification::{Kind, Notification};
use crate::store::Which;

/// A connection, as far as [`change`](crate::change) needs one.
pub(crate) trait Rows: Send {
    /// The user's notification of that id.
    fn find(
        &mut self,
        user: &str,
        id: &str,
    ) -> impl Future<Output = sqlx::Result<Option<Notification>>> + Send;

    /// The serial after the user's highest.
    fn next_serial(&mut self, user: &str) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Stores one.
    fn insert(&mut self, user: &str, new: &Notification) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Deletes all but the newest so many.
    fn trim(&mut self, user: &str, most: u32) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// How many are unread.
    fn unread(&mut self, user: &str) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Marks one as read, or all; how many were not.
    fn mark(&mut self, user: &str, id: Option<&str>) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Deletes those from before a time.
    fn delete(&mut self, user: &str, before: Timestamp) -> impl Future<Output = sqlx::Result<u64>> + Send;

    /// Some, the newest first.
    fn list(
        &mut self,
        user: &str,
        which: Which,
    ) -> impl Future<Output = sqlx::Result<Vec<Notification>>> + Send;

    /// Some users who have notifications from before a time.
    fn users(
        &mut self,
        before: Timestamp,
        most: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<String>>> + Send;
}

#[derive(sqlx::FromRow)]
struct Row {
    serial: i64,
    id: String,
    r#type: String,
    title: String,
    message: String,
    link: Option<String>,
    read: bool,
    created_us: i64,
}

impl From<Row> for Notification {
    fn from(row: Row) -> Self {
        Notification {
            id: row.id,
            // Nothing else is ever stored.
            kind: Kind::parse(&row.r#type).unwrap_or(Kind::Info),
            title: row.title,
            message: row.message,
            link: row.link,
            read: row.read,
            created_at: Timestamp::from_micros(row.created_us),
            serial: count(row.serial),
        }
    }
}

/// Numbers of rows and serials are never negative.
fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

macro_rules! rows {
    ($connection:ty) => {
        impl Rows for $connection {
            async fn find(&mut self, user: &str, id: &str) -> sqlx::Result<Option<Notification>> {
                let found = sqlx::query_as::<_, Row>(
                    "SELECT serial, id, type, title, message, link, read, created_us FROM notifications
                     WHERE user_id = $1 AND id = $2",
                );
                Ok(found.bind(user).bind(id).fetch_optional(self).await?.map(Notification::from))
            }

            async fn next_serial(&mut self, user: &str) -> sqlx::Result<u64> {
                let highest = sqlx::query_scalar::<_, Option<i64>>(
                    "SELECT max(serial) FROM notifications WHERE user_id = $1",
                );
                Ok(count(highest.bind(user).fetch_one(self).await?.unwrap_or(0)) + 1)
            }

            async fn insert(&mut self, user: &str, new: &Notification) -> sqlx::Result<()> {
                let insert = sqlx::query(
                    "INSERT INTO notifications
                         (user_id, serial, id, type, title, message, link, read, created_us)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                );
                insert
                    .bind(user)
                    .bind(number(new.serial))
                    .bind(&new.id)
                    .bind(new.kind.as_str())
                    .bind(&new.title)
                    .bind(&new.message)
                    .bind(&new.link)
                    .bind(new.read)
                    .bind(new.created_at.as_micros())
                    .execute(self)
                    .await?;
                Ok(())
            }

            async fn trim(&mut self, user: &str, most: u32) -> sqlx::Result<u64> {
                let trim = sqlx::query(
                    "DELETE FROM notifications WHERE user_id = $1 AND serial <=
                         (SELECT serial FROM notifications WHERE user_id = $1
                          ORDER BY serial DESC LIMIT 1 OFFSET $2)",
                );
                Ok(trim.bind(user).bind(i64::from(most)).execute(self).await?.rows_affected())
            }

            async fn unread(&mut self, user: &str) -> sqlx::Result<u64> {
                let unread = sqlx::query_scalar::<_, i64>(
                    "SELECT count(*) FROM notifications WHERE user_id = $1 AND NOT read",
                );
                Ok(count(unread.bind(user).fetch_one(self).await?))
            }

            async fn mark(&mut self, user: &str, id: Option<&str>) -> sqlx::Result<u64> {
                let marked = match id {
                    Some(id) => {
                        let mark = sqlx::query(
                            "UPDATE notifications SET read = true WHERE user_id = $1 AND id = $2 AND NOT read",
                        );
                        mark.bind(user).bind(id).execute(self).await?
                    }
                    None => {
                        let mark =
                            sqlx::query("UPDATE notifications SET read = true WHERE user_id = $1 AND NOT read");
                        mark.bind(user).execute(self).await?
                    }
                };
                Ok(marked.rows_affected())
            }

            async fn delete(&mut self, user: &str, before: Timestamp) -> sqlx::Result<u64> {
                let delete = sqlx::query("DELETE FROM notifications WHERE user_id = $1 AND created_us < $2");
                Ok(delete.bind(user).bind(before.as_micros()).execute(self).await?.rows_affected())
            }

            async fn list(&mut self, user: &str, which: Which) -> sqlx::Result<Vec<Notification>> {
                // Two, so that the index of what is unread is used for what is unread.
                let sql = if which.unread {
                    "SELECT serial, id, type, title, message, link, read, created_us FROM notifications
                     WHERE user_id = $1 AND serial < $2 AND NOT read ORDER BY serial DESC LIMIT $3"
                } else {
                    "SELECT serial, id, type, title, message, link, read, created_us FROM notifications
                     WHERE user_id = $1 AND serial < $2 ORDER BY serial DESC LIMIT $3"
                };
                let list = sqlx::query_as::<_, Row>(sql)
                    .bind(user)
                    .bind(which.before.map_or(i64::MAX, number))
                    .bind(i64::from(which.limit));
                Ok(list.fetch_all(self).await?.into_iter().map(Notification::from).collect())
            }

            async fn users(&mut self, before: Timestamp, most: u32) -> sqlx::Result<Vec<String>> {
                let users = sqlx::query_scalar::<_, String>(
                    "SELECT DISTINCT user_id FROM
                         (SELECT user_id FROM notifications WHERE created_us < $1
                          ORDER BY created_us LIMIT $2) AS oldest",
                );
                users.bind(before.as_micros()).bind(i64::from(most)).fetch_all(self).await
            }
        }
    };
}

rows!(sqlx::PgConnection);
rows!(sqlx::SqliteConnection);
