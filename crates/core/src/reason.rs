//! Named reasons: why a stream is reset, why it ends. The same word is used in the protocol, in
//! metrics and in logs, and is explained in `docs/streams.md`.

use std::fmt;

/// Why a stream can't be the continuation it was asked to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// Retention has passed the cursor: some events after it are gone.
    Expired,
    /// The journal is another incarnation: positions of the old one mean nothing.
    Epoch,
    /// The journal lost a range before the log had it.
    Hole,
    /// The cursor can't be read, or is of a future that never was.
    Cursor,
    /// The changed subscription that the cursor speaks of is no longer known.
    Subscription,
}

/// Why the server ends a stream. The client may come back by itself after each of them but one, as it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// The gateway is shutting down and lets its streams go at a set pace.
    Drain,
    /// Its gateway has more streams than others, and was told to let some of them begin again elsewhere.
    Rebalance,
    /// The client went away.
    ClientGone,
    /// The client did not read for longer than allowed.
    Slow,
    /// The event log can't be reached and the cursor is older than the ring.
    LogUnavailable,
    /// The gateway holds as many streams as it may.
    Overload,
    /// Whoever asked for it asks too often.
    Limited,
    /// Its user has as many streams in the cluster as one may.
    TooManyStreams,
    /// Its user opened another one beyond what one may have, and this was the oldest. Its client is not to come back
    /// by itself.
    Ousted,
    /// What it was asked for with can't be looked at now: the key of its token has yet to be fetched, or the ticket is
    /// where nobody answers.
    CredentialUnavailable,
    /// The webhook authoriser that it needs the word of doesn't answer now.
    AuthoriserUnavailable,
    /// The webhook authoriser that had allowed what it hears allows it no more, or policies have changed and don't.
    AccessWithdrawn,
    /// What it was changed to hear is kept where nobody answers now.
    SubscriptionUnavailable,
    /// It is a stream of notifications, and how many are unread can't be said now.
    NotificationsUnavailable,
    /// The token that it was opened with is no longer valid.
    TokenExpired,
    /// An operator has revoked what it was opened with, or the stream itself.
    Revoked,
    /// Something broke that should not: a bug, logged as an error.
    Internal,
}

impl ResetReason {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [ResetReason; 5] = [
        ResetReason::Expired,
        ResetReason::Epoch,
        ResetReason::Hole,
        ResetReason::Cursor,
        ResetReason::Subscription,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            ResetReason::Expired => "expired",
            ResetReason::Epoch => "epoch",
            ResetReason::Hole => "hole",
            ResetReason::Cursor => "cursor",
            ResetReason::Subscription => "subscription",
        }
    }

    /// The reason of that word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

impl StreamEnd {
    /// Every ending, for metrics that start at zero.
    pub const ALL: [StreamEnd; 17] = [
        StreamEnd::Drain,
        StreamEnd::Rebalance,
        StreamEnd::ClientGone,
        StreamEnd::Slow,
        StreamEnd::LogUnavailable,
        StreamEnd::Overload,
        StreamEnd::Limited,
        StreamEnd::TooManyStreams,
        StreamEnd::Ousted,
        StreamEnd::CredentialUnavailable,
        StreamEnd::AuthoriserUnavailable,
        StreamEnd::AccessWithdrawn,
        StreamEnd::SubscriptionUnavailable,
        StreamEnd::NotificationsUnavailable,
        StreamEnd::TokenExpired,
        StreamEnd::Revoked,
        StreamEnd::Internal,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            StreamEnd::Drain => "drain",
            StreamEnd::Rebalance => "rebalance",
            StreamEnd::ClientGone => "client-gone",
            StreamEnd::Slow => "slow",
            StreamEnd::LogUnavailable => "log-unavailable",
            StreamEnd::Overload => "overload",
            StreamEnd::Limited => "limited",
            StreamEnd::TooManyStreams => "too-many-streams",
            StreamEnd::Ousted => "ousted",
            StreamEnd::CredentialUnavailable => "credential-unavailable",
            StreamEnd::AuthoriserUnavailable => "authoriser-unavailable",
            StreamEnd::AccessWithdrawn => "access-withdrawn",
            StreamEnd::SubscriptionUnavailable => "subscription-unavailable",
            StreamEnd::NotificationsUnavailable => "notifications-unavailable",
            StreamEnd::TokenExpired => "token-expired",
            StreamEnd::Revoked => "revoked",
            StreamEnd::Internal => "internal",
        }
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
