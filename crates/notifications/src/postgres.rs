//! Notifications in PostgreSQL, with the outbox beside them.

use std::str::FromStr as _;
use std::time::Duration;

use foghorn_bus::Future;
use foghorn_core::event::{Event, EventType};
use foghorn_core::time::Timestamp;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{PgConnection, Postgres, Transaction};

use crate::change::{self, Changed};
use crate::notification::{New, User};
use crate::rows::Rows as _;
use crate::store::{Page, Sent, Store, StoreError, Which};

/// Where the steps that were taken are recorded.
pub const RECORD: &str = "foghorn._notification_migrations";
/// Longest that a statement may take in PostgreSQL, that a lock is waited for, and a connection.
const STATEMENT: Duration = Duration::from_secs(10);
const LOCK: Duration = Duration::from_secs(5);
const ACQUIRE: Duration = Duration::from_secs(3);
/// The class of the advisory locks of users. foghorn.publish has its own, which is taken after.
const LOCKS: i32 = 1_179_600_713;

/// The steps, all in the schema `foghorn`. The outbox's come before.
pub fn migrator() -> Migrator {
    sqlx::migrate!("../../migrations/notifications")
}

/// Notifications in PostgreSQL. Clones share its connections.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pool: PgPool,
}

impl PostgresStore {
    /// Does not connect yet; an error means that the URL makes no sense.
    pub fn new(url: &str, connections: u32) -> Result<Self, sqlx::Error> {
        let connect = PgConnectOptions::from_str(url)?.application_name("foghorn-notifications").options([
            ("search_path", "foghorn".to_owned()),
            ("statement_timeout", format!("{}ms", STATEMENT.as_millis())),
            ("lock_timeout", format!("{}ms", LOCK.as_millis())),
            ("idle_in_transaction_session_timeout", "30s".to_owned()),
            // After the user's lock each statement has to see what its last holder has committed.
            ("default_transaction_isolation", "read committed".to_owned()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE)
            .max_lifetime(Duration::from_secs(30 * 60))
            .connect_lazy_with(connect);
        Ok(PostgresStore { pool })
    }

    /// Has `work` change rows with the user's lock, and publishes what it says, in one transaction.
    async fn transact<T, W>(&self, user: &User, work: W) -> Result<T, StoreError>
    where
        W: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Changed<T>>,
    {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1, hashtext($2))")
            .bind(LOCKS)
            .bind(user.id())
            .execute(&mut *transaction)
            .await?;
        let (answer, events) = work(&mut transaction).await?;
        for event in events {
            publish(&mut transaction, &event).await?;
        }
        transaction.commit().await?;
        Ok(answer)
    }

    async fn expire_some(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let users = self.pool.acquire().await?.users(before, most).await?;
        let mut expired = 0;
        for id in users {
            // What is stored was a user's id.
            let Ok(user) = User::new(id) else { continue };
            let of = user.clone();
            expired += self
                .transact(&user, move |rows| async move { change::expire(rows, &of, before).await }.boxed())
                .await?;
        }
        Ok(expired)
    }
}

/// Into the outbox: published if, and when, the transaction commits.
async fn publish(transaction: &mut Transaction<'_, Postgres>, event: &Event) -> sqlx::Result<()> {
    sqlx::query("SELECT foghorn.publish($1, $2, $3)")
        .bind(event.channel.as_str())
        .bind(event.event_type.as_ref().map(EventType::as_str))
        .bind(&*event.data)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

impl Store for PostgresStore {
    fn send(&self, user: User, new: New, most: u32, now: Timestamp) -> Future<'_, Result<Sent, StoreError>> {
        let of = user.clone();
        async move {
            self.transact(&user, move |rows| {
                async move { change::send(rows, &of, new, most, now).await }.boxed()
            })
            .await
        }
        .boxed()
    }

    fn list(&self, user: User, which: Which) -> Future<'_, Result<Page, StoreError>> {
        async move { change::list(&mut *self.pool.acquire().await?, &user, which).await }.boxed()
    }

    fn unread(&self, user: User) -> Future<'_, Result<u64, StoreError>> {
        async move { Ok(self.pool.acquire().await?.unread(user.id()).await?) }.boxed()
    }

    fn mark(&self, user: User, id: String) -> Future<'_, Result<Option<u64>, StoreError>> {
        let of = user.clone();
        async move {
            self.transact(&user, move |rows| async move { change::mark(rows, &of, &id).await }.boxed()).await
        }
        .boxed()
    }

    fn mark_all(&self, user: User) -> Future<'_, Result<u64, StoreError>> {
        let of = user.clone();
        async move {
            self.transact(&user, move |rows| async move { change::mark_all(rows, &of).await }.boxed()).await
        }
        .boxed()
    }

    fn erase(&self, user: User) -> Future<'_, Result<u64, StoreError>> {
        let of = user.clone();
        async move {
            self.transact(&user, move |rows| async move { change::erase(rows, &of).await }.boxed()).await
        }
        .boxed()
    }

    fn expire(&self, time: Timestamp, users: u32) -> Future<'_, Result<u64, StoreError>> {
        self.expire_some(time, users).boxed()
    }

    fn look(&self) -> Future<'_, Result<(), StoreError>> {
        async move {
            sqlx::query("SELECT 1").execute(&self.pool).await?;
            Ok(())
        }
        .boxed()
    }
}
