//! What a transaction does, on either database: the rows it changes, and what it publishes.
//!
//! The transaction has the user's lock already. Whenever the number of unread notifications may have changed, it is
//! counted anew in the same transaction; nothing is ever added to a number that was stored.

use foghorn_core::event::Event;
use foghorn_core::time::Timestamp;

use crate::notification::{New, Notification, User};
use crate::rows::Rows;
use crate::store::{Page, Sent, StoreError, Which};

/// What a change answers, and the events that are published with it, in order.
pub(crate) type Changed<T> = Result<(T, Vec<Event>), StoreError>;

pub(crate) async fn send<R: Rows>(
    rows: &mut R,
    user: &User,
    new: New,
    most: u32,
    now: Timestamp,
) -> Changed<Sent> {
    let id = match new.id {
        Some(id) => {
            if let Some(known) = rows.find(user.id(), &id).await? {
                return Ok((Sent::Known(known), Vec::new()));
            }
            id
        }
        None => format!("{:032x}", rand::random::<u128>()),
    };
    let notification = Notification {
        id,
        kind: new.kind,
        title: new.title,
        message: new.message,
        link: new.link,
        read: false,
        created_at: now,
        serial: rows.next_serial(user.id()).await?,
    };
    rows.insert(user.id(), &notification).await?;
    rows.trim(user.id(), most).await?;
    let unread = rows.unread(user.id()).await?;
    let events = vec![user.told(&notification)?, user.counted(unread)?];
    Ok((Sent::New(notification), events))
}

pub(crate) async fn mark<R: Rows>(rows: &mut R, user: &User, id: &str) -> Changed<Option<u64>> {
    let marked = rows.mark(user.id(), Some(id)).await?;
    if marked == 0 && rows.find(user.id(), id).await?.is_none() {
        return Ok((None, Vec::new()));
    }
    let unread = rows.unread(user.id()).await?;
    Ok((Some(unread), counted(user, unread, marked)?))
}

pub(crate) async fn mark_all<R: Rows>(rows: &mut R, user: &User) -> Changed<u64> {
    let marked = rows.mark(user.id(), None).await?;
    Ok((marked, counted(user, 0, marked)?))
}

pub(crate) async fn erase<R: Rows>(rows: &mut R, user: &User) -> Changed<u64> {
    let erased = rows.delete(user.id(), Timestamp::from_micros(i64::MAX)).await?;
    Ok((erased, counted(user, 0, erased)?))
}

/// Deletes what is from before a time.
pub(crate) async fn expire<R: Rows>(rows: &mut R, user: &User, before: Timestamp) -> Changed<u64> {
    let unread = rows.unread(user.id()).await?;
    let expired = rows.delete(user.id(), before).await?;
    let left = rows.unread(user.id()).await?;
    Ok((expired, counted(user, left, unread - left)?))
}

pub(crate) async fn list<R: Rows>(rows: &mut R, user: &User, which: Which) -> Result<Page, StoreError> {
    // One more, to know whether there are more.
    let asked = Which { limit: which.limit + 1, ..which };
    let mut notifications = rows.list(user.id(), asked).await?;
    let most = usize::try_from(which.limit).unwrap_or(usize::MAX);
    let more = notifications.len() > most;
    notifications.truncate(most);
    Ok(Page { notifications, more, unread: rows.unread(user.id()).await? })
}

/// Nothing is said of a count that is as it was: a retry of what was done is quiet.
fn counted(user: &User, unread: u64, changes: u64) -> Result<Vec<Event>, StoreError> {
    if changes == 0 { Ok(Vec::new()) } else { Ok(vec![user.counted(unread)?]) }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // foghorn.publish's, where as many events wait in the outbox as may; PostgreSQL's and SQLite's own, where
        // the disk is full.
        let code = error.as_database_error().and_then(|error| error.code());
        match code.as_deref() {
            Some("53400" | "53100" | "13") => StoreError::Full(error.to_string()),
            _ => StoreError::Unavailable(error.to_string()),
        }
    }
}
