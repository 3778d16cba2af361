//! Transactional publishing: what applications put into the outbox of their own PostgreSQL, by
//! `foghorn.publish` inside their own transactions, comes into the journal if and when those commit.
//!
//! The **outbox publisher** drains it ([`publisher::OutboxPublisher`]), one process at a time. Three things
//! make that exactly once in effect:
//!
//! - Who drains is decided in the application's database itself, by a term and a lease that its clock alone
//!   measures ([`table`]). Every statement is fenced by the term, and no append begins once the lease may be
//!   over ([`authority`]).
//! - What is about to be appended is written down before, with where the journal ends ([`table::Attempt`]).
//! - What was tried without word of how it ended is fenced off first, so that it can't come into the journal any
//!   more ([`fences`]). Then it is looked for there, and in the event log where the journal begins later, before
//!   it is tried again ([`lookup`]). The journal's own dedupe forgets after a while.
//!
//! Order: see `foghorn.publish` in `migrations/outbox`.

pub mod metrics;
pub mod publisher;
pub mod schema;
pub mod table;

mod authority;
mod event;
mod fences;
mod lookup;
