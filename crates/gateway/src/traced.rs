//! What is seen of traced events here: that they came, and when the first stream and the last were written them.
//!
//! Nothing is made of a delivery: an event that is traced has a few numbers of its own, and what counts deliveries
//! moves them. It is watched for a while, since nobody knows which write is the last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use foghorn_core::batch::Traced;
use foghorn_telemetry::traces::{self, Span, Stage};

use crate::ring::Ring;

/// For how long writes are noted. Who is written to later is behind, and gets what it lacks as if it came anew.
const WATCHED: Duration = Duration::from_secs(5);

/// The writes of one event.
#[derive(Debug)]
pub(crate) struct Writes {
    came: Instant,
    /// In nanoseconds since then, and 1 more; 0: none yet.
    first: AtomicU64,
    last: AtomicU64,
    streams: AtomicU64,
}

/// The events of a batch that are traced.
pub(crate) struct Watched {
    came: SystemTime,
    events: Vec<(Span, Arc<Writes>)>,
}

impl Writes {
    fn new() -> Self {
        let (first, last, streams) = Default::default();
        Writes { came: Instant::now(), first, last, streams }
    }

    /// A stream has just been written it. How many more are is said later.
    pub(crate) fn begun(&self) {
        self.note(self.since());
    }

    /// So many streams have been written it.
    pub(crate) fn wrote(&self, streams: u64) {
        self.note(self.since());
        self.streams.fetch_add(streams, Ordering::Relaxed);
    }

    fn since(&self) -> u64 {
        u64::try_from(self.came.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn note(&self, since: u64) {
        if self.first.load(Ordering::Relaxed) == 0 {
            // Whoever is before us was earlier.
            let _lost = self.first.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed).is_err();
        }
        self.last.fetch_max(since, Ordering::Relaxed);
    }

    /// When the first and the last were, if there were any.
    fn times(&self) -> Option<[Duration; 2]> {
        let time = |since: &AtomicU64| since.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos);
        Some([time(&self.first)?, time(&self.last)?])
    }
}

impl Watched {
    /// Watches what is traced of a batch that a ring has just taken in, from after `head` on.
    pub(crate) fn new(traced: &Traced, head: u64, ring: &Ring) -> Self {
        let watch = |(seq, context): &(u64, _)| {
            let mut span = traces::passing(Stage::Gateway, Some(*context).filter(|_| *seq > head))?;
            span.link(traced.batch);
            let writes = Arc::new(Writes::new());
            ring.note_writes(*seq, &writes);
            Some((span, writes))
        };
        Watched { came: SystemTime::now(), events: traced.events.iter().filter_map(watch).collect() }
    }

    /// Who hears them has been told. Has what comes of it noted.
    pub(crate) fn told(self) {
        if self.events.is_empty() {
            return;
        }
        let told = SystemTime::now();
        tokio::spawn(async move {
            tokio::time::sleep(WATCHED).await;
            self.end(told);
        });
    }

    fn end(self, told: SystemTime) {
        for (mut span, writes) in self.events {
            let streams = writes.streams.load(Ordering::Relaxed);
            span.set("foghorn.deliveries", i64::try_from(streams).unwrap_or(i64::MAX));
            if let Some([first, last]) = writes.times() {
                span.record_child("first write", self.came, self.came + first);
                span.record_child("last write", self.came, self.came + last);
            }
            span.end_at(told);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_write_are_noted_and_how_many_there_were() {
        let writes = Writes::new();
        assert_eq!(writes.times(), None);
        writes.note(5);
        writes.note(9);
        writes.note(7);
        assert_eq!(writes.times(), Some([Duration::from_nanos(4), Duration::from_nanos(8)]));
        writes.begun();
        writes.wrote(3);
        writes.wrote(2);
        let [first, last] = writes.times().unwrap();
        assert_eq!(first, Duration::from_nanos(4));
        assert!(last > Duration::from_nanos(8));
        assert_eq!(writes.streams.load(Ordering::Relaxed), 5);
    }
}
