//! Tables of others in the same database: changed in one transaction with the events that tell of it.

use std::sync::Arc;

use foghorn_bus::journal::AppendError;
use foghorn_core::entry::NewEntry;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection};

use super::SqliteLog;
use super::queue::Change;

/// Why a transaction was rolled back.
#[derive(Debug, thiserror::Error)]
pub enum TransactError<E> {
    /// It failed itself.
    #[error("{0}")]
    Work(E),
    /// It could not be committed.
    #[error(transparent)]
    Append(#[from] AppendError),
}

impl SqliteLog {
    /// Has `work` change what it likes in tables of its own, and appends the entries that it gives: all of it in one
    /// transaction, after which they are real. Such transactions follow each other, and hold up everything that is
    /// published meanwhile, so they have to be short. The size of events is the caller's to check.
    ///
    /// Done also when whoever asked goes away, unless the process ends first.
    pub async fn transact<T, E, W>(&self, work: W) -> Result<T, TransactError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<(T, Vec<NewEntry>), E>>
            + Send
            + 'static,
    {
        let answer = Arc::new(Mutex::new(None));
        let answered = Arc::clone(&answer);
        let change: Change = Box::new(move |connection| {
            let working = work(connection);
            async move {
                let (answer, entries) = match working.await {
                    Ok((answer, entries)) => (Ok(answer), Some(entries)),
                    Err(error) => (Err(error), None),
                };
                *answered.lock() = Some(answer);
                entries
            }
            .boxed()
        });
        self.inner.queue.work(change).await?;
        let answer = answer.lock().take();
        match answer {
            Some(answer) => answer.map_err(TransactError::Work),
            None => Err(AppendError::Unavailable("the database is closed".to_owned()).into()),
        }
    }

    /// A connection to read what is committed with.
    pub async fn reader(&self) -> sqlx::Result<PoolConnection<Sqlite>> {
        self.inner.read.acquire().await
    }
}
