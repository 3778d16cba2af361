//! The tests that need the real components, as one program.

// A helper of a test is a test, too, only clippy cannot tell.
#![allow(clippy::unwrap_used)]

mod auth;
mod behaviour;
mod bench;
mod bounds;
mod bus;
mod canary;
mod clock;
mod compression;
mod crash;
mod dashboards;
mod demo;
mod deployment;
mod doctor;
mod documents;
mod doors;
mod faults;
mod harness;
mod hostile;
mod http2;
mod ingress;
mod kubernetes;
mod log_faults;
mod log_nats;
mod log_postgres;
mod log_sqlite;
mod log_suite;
mod log_tables;
mod notifications;
mod operator;
mod outages;
mod outbox;
mod page;
mod pitfalls;
mod power_loss;
mod processes;
mod proxy;
mod publishers;
mod regress;
mod retries;
mod storms;
mod traces;
