//! A server with a full journal of one shard, made for the benchmark and cleared away after it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{ServerAddr, jetstream};
use bytes::Bytes;
use foghorn_bus::metrics::Metrics;
use foghorn_bus::nats::{Bus, NatsJournal, NatsOptions, Parameters};
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::shard::ShardCount;
use tokio::time::timeout;

use crate::client::bench::jetstream::{Load, delete, stream_bytes, stream_names};

/// The shard's stream.
pub(super) const STREAM: &str = "FOGHORN_0";
/// What the streams of a deployment begin with, those behind its buckets included.
const PREFIXES: [&str; 2] = ["FOGHORN_", "KV_FOGHORN_"];
/// The streams that opening a journal makes.
const MADE: [&str; 3] = [STREAM, "KV_FOGHORN_cluster", "KV_FOGHORN_epochs"];
/// How long opening the journal may take.
const OPEN_DEADLINE: Duration = Duration::from_secs(30);
/// Most publishes without an ack while the journal is filled.
pub(super) const FILL_IN_FLIGHT: usize = 1000;

/// Whether a stream belongs to a deployment of Foghorn.
fn is_foghorns(stream: &str) -> bool {
    PREFIXES.iter().any(|prefix| stream.starts_with(prefix))
}

/// An error where there are streams of Foghorn's: they are somebody's events.
pub(super) async fn refuse_others(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    let mut found = stream_names(jetstream).await?;
    found.retain(|name| is_foghorns(name));
    if !found.is_empty() {
        found.sort();
        bail!(
            "that NATS server has streams of a Foghorn already ({}), which this would mix with its own and delete: \
             use a server for the benchmark alone",
            found.join(", ")
        );
    }
    Ok(())
}

/// Connects as a fan-out does, and makes the journal.
pub(super) async fn open(server: &ServerAddr, bytes: u64) -> anyhow::Result<(Bus, NatsJournal)> {
    let options = NatsOptions {
        urls: vec![server.clone().into_inner().to_string()],
        journal_bytes: bytes,
        name: "foghorn-bench".to_owned(),
        ..NatsOptions::default()
    };
    let opening = async {
        let bus = Bus::connect(options, Metrics::default()).await?;
        let journal = bus.journal(&parameters()).await?;
        anyhow::Ok((bus, journal))
    };
    let opened = timeout(OPEN_DEADLINE, opening).await;
    opened.with_context(|| format!("the journal could not be opened within {OPEN_DEADLINE:?}"))?
}

/// Of the cluster that this is for as long as it lasts.
pub(super) fn parameters() -> Parameters {
    Parameters { shards: ShardCount::ONE, event_bytes: FRAME_BYTES_DEFAULT }
}

/// Fills the journal.
pub(super) async fn fill(
    jetstream: &jetstream::Context,
    count: usize,
    size: usize,
    channels: usize,
) -> anyhow::Result<()> {
    let load = Load {
        subjects: (0..channels).map(|at| format!("foghorn.journal.0.bench.{at}")).collect(),
        data: Bytes::from(vec![b'x'; size]),
        count: count as u64,
        in_flight: FILL_IN_FLIGHT,
    };
    load.publish(jetstream).await.context("can't fill the journal")
}

/// The journal's bound: what goes into it.
pub(super) fn journal_bytes(count: usize, size: usize) -> u64 {
    stream_bytes(count as u64, size)
}

/// Deletes what [`open`] has made, as far as it has.
pub(super) async fn clear(jetstream: &jetstream::Context) -> anyhow::Result<()> {
    let there = stream_names(jetstream).await.context("the streams of the benchmark are left behind")?;
    let mut failed = Ok(());
    for stream in MADE.iter().filter(|made| there.iter().any(|name| name == *made)) {
        let deleted = delete(jetstream, stream).await;
        failed = failed.and(deleted);
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployments_streams_are_known() {
        for name in MADE.into_iter().chain(["FOGHORN_7", "KV_FOGHORN_leases"]) {
            assert!(is_foghorns(name), "{name}");
        }
        for name in ["foghorn_bench_1", "ORDERS", "KV_x", "MY_FOGHORN_0"] {
            assert!(!is_foghorns(name), "{name}");
        }
    }
}
