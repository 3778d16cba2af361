//! `foghorn`: every service, and the commands of those who use them.

mod cli;
mod config;

mod cluster;
mod demo;
mod standalone;

mod console;
mod jwks;
mod keys;
mod log;
mod notifications;
mod operator;
mod outbox;
mod page;
mod policies;
mod process;
mod revocations;
mod router;
mod status;
mod tickets;
mod webhook;

mod token;

mod client;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
