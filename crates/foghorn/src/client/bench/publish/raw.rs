//! What publishing through the door is compared with: the same number of bodies of the same size, by the
//! plain client, into a stream that is set up like a journal's.

use anyhow::Context as _;
use async_nats::ServerAddr;
use async_nats::jetstream;
use bytes::Bytes;

use crate::client::bench::jetstream::{Load, context, delete, like_a_journal, stream_bytes};
use crate::client::bench::rounds::{Stopwatch, Turn};

/// A stream of the benchmark's own, and what goes into it in one turn.
pub(super) struct Raw {
    jetstream: jetstream::Context,
    stream: String,
    load: Load,
}

/// What is published, and how often.
pub(super) struct Size {
    pub(super) count: u64,
    pub(super) bytes: usize,
    pub(super) channels: Vec<String>,
    pub(super) rounds: usize,
    pub(super) in_flight: usize,
    pub(super) replicas: usize,
}

impl Raw {
    /// Connects and makes the stream.
    pub(super) async fn open(server: &ServerAddr, size: Size) -> anyhow::Result<Self> {
        let Size { count, bytes, channels, rounds, in_flight, replicas } = size;
        let jetstream = context(server, in_flight).await?;
        let stream = format!("foghorn_bench_{:08x}", rand::random::<u32>());
        let room = stream_bytes(count.saturating_mul(rounds as u64), bytes);
        let made = jetstream.create_stream(like_a_journal(&stream, replicas, room)).await;
        made.with_context(|| format!("can't make the stream {stream} of {room} bytes"))?;
        // As deep as a journal's: `foghorn.journal.<shard>.<channel>`.
        let subjects = channels.iter().map(|channel| format!("{stream}.raw.0.{channel}")).collect();
        let load = Load { subjects, data: Bytes::from(vec![b'x'; bytes]), count, in_flight };
        Ok(Raw { jetstream, stream, load })
    }

    /// Publishes once what a round publishes.
    pub(super) async fn turn(&self, pids: &[u32]) -> anyhow::Result<Turn> {
        let watch = Stopwatch::start(pids)?;
        self.load.publish(&self.jetstream).await?;
        watch.stop(self.load.count)
    }

    /// Deletes the stream.
    pub(super) async fn delete(&self) -> anyhow::Result<()> {
        delete(&self.jetstream, &self.stream).await
    }
}
