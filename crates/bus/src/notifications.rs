//! How many notifications of a user are unread, as a gateway asks whoever keeps them: a stream of notifications begins
//! with it.

use crate::Future;

/// Who knows.
pub trait Unread: Send + Sync + 'static {
    /// How many of the notifications of the user of this id are unread. What was committed before it was asked is
    /// counted.
    fn unread<'a>(&'a self, user: &'a str) -> Future<'a, Result<u64, UnreadError>>;
}

/// It isn't known now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnreadError(pub String);

/// For who has no notifications: nobody knows.
#[derive(Debug, Clone, Copy)]
pub struct Nobody;

impl Unread for Nobody {
    fn unread<'a>(&'a self, _: &'a str) -> Future<'a, Result<u64, UnreadError>> {
        Box::pin(std::future::ready(Err(UnreadError("there are no notifications here".to_owned()))))
    }
}
