//! The commands of those who use Foghorn: publish, subscribe, bench, doctor, healthcheck. They know no more than any other
//! client: the HTTP API, the event stream and gRPC. Only what `bench` compares with goes deeper.

pub(crate) mod healthcheck;

pub(crate) mod publish;

pub(crate) mod subscribe;

pub(crate) mod bench;

pub(crate) mod doctor;

pub(crate) mod http;
mod interrupt;

#[cfg(test)]
mod testing;

use std::future::Future;

use anyhow::Context as _;

/// Runs a command to its end. A name lookup that is still under way then doesn't keep the process.
fn block_on<F: Future>(future: F) -> anyhow::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("can't start the asynchronous runtime")?;
    let output = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(output)
}
