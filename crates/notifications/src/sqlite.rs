//! Notifications in standalone's database, in which the journal is too.

use std::sync::Arc;

use foghorn_bus::Future;
use foghorn_bus::journal::AppendError;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::Event;
use foghorn_core::time::Timestamp;
use foghorn_eventlog::sqlite::{SqliteLog, TransactError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sqlx::SqliteConnection;

use crate::change::{self, Changed};
use crate::notification::{New, User};
use crate::rows::Rows as _;
use crate::store::{Page, Sent, Store, StoreError, Which};

const SCHEMA: &str = include_str!("sqlite.sql");

/// Notifications in the database of standalone's journal.
#[derive(Clone)]
pub struct SqliteStore {
    log: Arc<SqliteLog>,
}

impl SqliteStore {
    /// Makes the tables, where there are none.
    pub async fn open(log: Arc<SqliteLog>) -> Result<Self, StoreError> {
        let store = SqliteStore { log };
        let making = store.transact(|rows| {
            async move {
                sqlx::raw_sql(SCHEMA).execute(rows).await?;
                Ok(((), Vec::new()))
            }
            .boxed()
        });
        making.await?;
        Ok(store)
    }

    /// The one writer does one after the other: a user needs no lock.
    async fn transact<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Changed<T>> + Send + 'static,
    {
        let transacted = self.log.transact(move |connection| {
            let changing = work(connection);
            async move {
                let (answer, events) = changing.await?;
                Ok((answer, events.into_iter().map(entry).collect()))
            }
            .boxed()
        });
        transacted.await.map_err(|error| match error {
            TransactError::Work(error) => error,
            TransactError::Append(AppendError::Full(_)) => {
                StoreError::Full("the database is full".to_owned())
            }
            TransactError::Append(error) => StoreError::Unavailable(error.to_string()),
        })
    }

    async fn expire_some(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let users = self.log.reader().await?.users(before, most).await?;
        let mut expired = 0;
        for id in users {
            // What is stored was a user's id.
            let Ok(user) = User::new(id) else { continue };
            expired += self
                .transact(move |rows| async move { change::expire(rows, &user, before).await }.boxed())
                .await?;
        }
        Ok(expired)
    }
}

/// Nothing is tried twice here: what is committed is real.
fn entry(event: Event) -> NewEntry {
    NewEntry { event, key: Key::invented(rand::random()), traceparent: None }
}

impl Store for SqliteStore {
    fn send(&self, user: User, new: New, most: u32, now: Timestamp) -> Future<'_, Result<Sent, StoreError>> {
        self.transact(move |rows| async move { change::send(rows, &user, new, most, now).await }.boxed())
            .boxed()
    }

    fn list(&self, user: User, which: Which) -> Future<'_, Result<Page, StoreError>> {
        async move { change::list(&mut *self.log.reader().await?, &user, which).await }.boxed()
    }

    fn unread(&self, user: User) -> Future<'_, Result<u64, StoreError>> {
        async move { Ok(self.log.reader().await?.unread(user.id()).await?) }.boxed()
    }

    fn mark(&self, user: User, id: String) -> Future<'_, Result<Option<u64>, StoreError>> {
        self.transact(move |rows| async move { change::mark(rows, &user, &id).await }.boxed()).boxed()
    }

    fn mark_all(&self, user: User) -> Future<'_, Result<u64, StoreError>> {
        self.transact(move |rows| async move { change::mark_all(rows, &user).await }.boxed()).boxed()
    }

    fn erase(&self, user: User) -> Future<'_, Result<u64, StoreError>> {
        self.transact(move |rows| async move { change::erase(rows, &user).await }.boxed()).boxed()
    }

    fn expire(&self, time: Timestamp, users: u32) -> Future<'_, Result<u64, StoreError>> {
        self.expire_some(time, users).boxed()
    }

    fn look(&self) -> Future<'_, Result<(), StoreError>> {
        async move {
            self.log.reader().await?;
            Ok(())
        }
        .boxed()
    }
}
