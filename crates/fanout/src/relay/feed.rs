//! Sending: batches stamped, retried a few times, counted, noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_core::batch::{Batch, TRACED_MAX};
use foghorn_core::entry::Entry;
use foghorn_core::position::Epoch;
use foghorn_telemetry::traces::{self, Span, Stage};
use tracing::Instrument as _;

use super::Relay;
use crate::batching::Batching;
use crate::metrics::BatchLabel;

/// How often a batch is sent again before gateways are left to find it missing.
const SEND_RETRIES: usize = 8;

/// What one epoch's batches go through.
pub(super) struct Sender<'a> {
    relay: &'a Relay,
    epoch: Epoch,
    batching: Batching,
    /// The leader's tip as far as it is known.
    tip: u64,
    /// The note for the next relay.
    sent: &'a AtomicU64,
    /// Of the traced events that are gathered.
    spans: Vec<Span>,
}

impl<'a> Sender<'a> {
    pub(super) fn new(relay: &'a Relay, epoch: Epoch, after: u64, sent: &'a AtomicU64) -> Self {
        let batching = Batching::new(relay.shard, epoch, after, relay.feed.batch_bytes());
        Sender { relay, epoch, batching, tip: after, sent, spans: Vec::new() }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last seq taken.
    pub(super) fn to(&self) -> u64 {
        self.batching.to()
    }

    /// Entries taken and not sent yet.
    pub(super) fn entries(&self) -> usize {
        self.batching.entries()
    }

    /// The leader is known to hold `tip`.
    pub(super) fn knows(&mut self, tip: u64) {
        self.tip = self.tip.max(tip);
    }

    /// Takes an entry; sends the batch before it when that is full. `false` when it shows that the
    /// journal has given a seq out again.
    pub(super) async fn take(&mut self, mut entry: Entry) -> bool {
        let fresh = entry.seq > self.to() && entry.event.is_ok() && self.spans.len() < TRACED_MAX;
        let span = traces::passing(Stage::Relay, entry.traceparent.filter(|_| fresh));
        entry.traceparent = span.as_ref().map(Span::context);
        let taken = self.batching.push(entry);
        if let Some(why) = taken.invalid {
            self.relay.metrics.invalid_entry(&why);
            tracing::debug!(shard = %self.relay.shard, seq = self.to(), %why, "journal entry skipped");
        }
        if let Some(full) = taken.full {
            self.send(full).await;
        }
        self.spans.extend(span);
        !taken.differs
    }

    /// The journal holds nothing more up to `to`.
    pub(super) fn cover(&mut self, to: u64) {
        self.batching.cover(to);
    }

    /// Sends what has been taken.
    pub(super) async fn flush(&mut self) {
        if self.batching.entries() > 0 {
            let batch = self.batching.take();
            self.send(batch).await;
        }
    }

    /// Says where the shard is.
    pub(super) async fn send_beacon(&mut self) {
        let batch = self.batching.take();
        self.send(batch).await;
    }

    /// Goes on after `after` without covering what is before it.
    pub(super) async fn jump(&mut self, after: u64) {
        self.flush().await;
        self.batching.jump(after);
    }

    async fn send(&mut self, mut batch: Batch) {
        let metrics = &self.relay.metrics;
        self.tip = self.tip.max(batch.to);
        batch.tip = self.tip;
        batch.sent_at = self.relay.clock.now();
        let kind = if batch.events.is_empty() { "beacon" } else { "events" };
        if let Some(first) = batch.events.first() {
            metrics.relay_delay_seconds.observe(batch.sent_at.since(first.time).as_secs_f64());
        }
        let of_batch = self.link_spans(&mut batch);
        let (from, to, events, bytes) =
            (batch.from, batch.to, batch.events.len() as u64, batch.wire_len() as u64);
        let lines = traces::lines(batch.traced.as_ref().and_then(|traced| Some(traced.events.first()?.1)));
        let sent = self.deliver(Arc::new(batch)).instrument(lines).await;
        for mut span in self.spans.drain(..).chain(of_batch) {
            span.set("foghorn.batch.range", format!("({from}, {to}]"));
            if sent { span.end() } else { span.fail("not sent") }
        }
        if !sent {
            return;
        }
        // What the overlap sends again is no step back.
        self.sent.fetch_max(to, Ordering::Relaxed);
        metrics.relay_batches.get_or_create(&BatchLabel { kind }).inc();
        metrics.relay_events.inc_by(events);
        metrics.relay_bytes.inc_by(bytes);
    }

    /// Links the events' spans with one of the batch, if there are any: what they have in common.
    fn link_spans(&mut self, batch: &mut Batch) -> Option<Span> {
        let traced = batch.traced.as_mut()?;
        let mut of_batch = traces::root("relay batch")?;
        traced.batch = of_batch.context();
        for span in &mut self.spans {
            span.link(of_batch.context());
            of_batch.link(span.context());
        }
        Some(of_batch)
    }

    /// Whether it was sent. Not forever: what can't be sent at all must not hold up what can.
    async fn deliver(&self, batch: Arc<Batch>) -> bool {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        for _ in 0..SEND_RETRIES {
            let Err(error) = self.relay.feed.send(batch.clone()).await else { return true };
            tracing::debug!(%error, shard = %batch.shard, "batch not sent");
            // A beacon is out of date by then, and the next one says the same.
            if batch.from == batch.to {
                return false;
            }
            self.relay.metrics.relay_send_retries.inc();
            backoff.wait().await;
        }
        self.relay.metrics.relay_unsent.inc();
        tracing::error!(
            shard = %batch.shard, from = batch.from, to = batch.to, bytes = batch.wire_len(),
            "a batch could not be sent; gateways fetch its range from the event log"
        );
        false
    }
}
