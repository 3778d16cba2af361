//! What every process shows of itself: logs, metrics, traces, health; and how it is told to stop.

pub mod admin;
pub mod health;
pub mod logging;
pub mod process;
pub mod shutdown;
pub mod status;
pub mod traces;
