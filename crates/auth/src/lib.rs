//! Who somebody is, and what they may: tokens, credentials and grants.
//!
//! A credential is a JWT ([`token`]), verified with a key that its `kid` names and by that key's algorithm
//! alone ([`keys`]), also where issuers publish their keys ([`jwks`]). Whoever presented it is a [`Caller`], and
//! what a caller may listen to and publish on is decided in one pure place, [`access`], or left by it to an application,
//! the [`webhook`]. What was revoked is in
//! [`revocation`]. A [`ticket`] opens one stream in a caller's name. [`Authenticator`] is what services hold.
//!
//! Read first: [`access`], then [`Authenticator`].

pub mod access;

pub mod authenticator;
mod requester;

pub mod credential;
pub mod token;

mod cache;

pub mod jwks;
pub mod keys;
pub mod mint;

mod crypto;

pub mod audit;
pub mod refusal;
pub mod revocation;
pub mod ticket;
pub mod webhook;

pub mod config;

pub use access::Caller;
pub use authenticator::Authenticator;
pub use refusal::Refusal;
pub use requester::Requester;
pub use webhook::{Context, Webhook};

#[cfg(test)]
mod testing;
