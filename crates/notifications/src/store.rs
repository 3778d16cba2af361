//! Where notifications are, as the doors see it. Two adapters pass one suite: PostgreSQL and SQLite.

use foghorn_bus::Future;
use foghorn_core::event::EventError;
use foghorn_core::time::Timestamp;

use crate::notification::{New, Notification, User};

/// What became of a request to notify somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It is stored and published.
    New(Notification),
    /// One of the user's had its id already. Nothing was changed.
    Known(Notification),
}

/// Which of a user's notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Which {
    /// Only those that are not read.
    pub unread: bool,
    /// Only those older than this serial.
    pub before: Option<u64>,
    /// At most so many, the newest first.
    pub limit: u32,
}

/// Some of a user's notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The newest first.
    pub notifications: Vec<Notification>,
    /// Whether there are older ones.
    pub more: bool,
    /// How many of all are unread.
    pub unread: u64,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached, or says no. Whether a change was made isn't known where the connection broke
    /// as it was.
    #[error("{0}")]
    Unavailable(String),
    /// The database, or the outbox in it, takes no more.
    #[error("{0}")]
    Full(String),
    /// It is no event that may be published.
    #[error(transparent)]
    Event(#[from] EventError),
}

/// Where notifications are. Each change is one transaction with what it publishes.
pub trait Store: Send + Sync + 'static {
    /// Stores a notification, unless the user has one of its id, and deletes all but the newest so many.
    fn send(&self, user: User, new: New, most: u32, now: Timestamp) -> Future<'_, Result<Sent, StoreError>>;

    /// Some of a user's.
    fn list(&self, user: User, which: Which) -> Future<'_, Result<Page, StoreError>>;

    /// How many of a user's are unread.
    fn unread(&self, user: User) -> Future<'_, Result<u64, StoreError>>;

    /// Marks one as read: how many are unread then. None: there is no such.
    fn mark(&self, user: User, id: String) -> Future<'_, Result<Option<u64>, StoreError>>;

    /// Marks all as read: how many were not.
    fn mark_all(&self, user: User) -> Future<'_, Result<u64, StoreError>>;

    /// Deletes all: how many there were.
    fn erase(&self, user: User) -> Future<'_, Result<u64, StoreError>>;

    /// Deletes those from before `time`, of so many users at most: how many were deleted. 0: there are no more.
    fn expire(&self, time: Timestamp, users: u32) -> Future<'_, Result<u64, StoreError>>;

    /// Whether it is there.
    fn look(&self) -> Future<'_, Result<(), StoreError>>;
}
