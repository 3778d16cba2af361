//! Reading the journal in pages.
//!
//! Direct gets are spread over the replicas and know nothing of what was acked a moment ago, so what
//! they answer is checked against the leader's tip, and what they leave out is asked of the leader.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, header};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use foghorn_core::entry::Entry;
use foghorn_core::time::Timestamp;

use super::api::{Api, ApiError, Get};
use super::link::Link;
use super::message::{Fields, Rules};
use super::stream;
use crate::journal::Bounds;
use crate::metrics::Metrics;

/// How long a page may take.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);
/// Silence within a batch after which the leader is asked instead.
const BATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// Most entries asked for in one request. The client queues what it is sent, so bytes are bounded too.
const BATCH_ENTRIES: usize = 1000;
const BATCH_BYTES: usize = 8 << 20;

const PENDING: HeaderName = HeaderName::from_static("Nats-Num-Pending");

pub(super) struct Reader<'a> {
    /// What entries come over; requests to the leader go over the other.
    pub(super) link: &'a Link,
    pub(super) api: &'a Api,
    pub(super) metrics: &'a Metrics,
    pub(super) rules: Rules,
}

/// Entries read so far.
#[derive(Debug)]
struct Page {
    entries: Vec<Entry>,
    /// The range read ends here.
    to: u64,
    events_left: usize,
    bytes_left: usize,
}

impl Page {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.to = entry.seq;
        self.entries.push(entry);
        self.events_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }

    fn is_full(&self) -> bool {
        self.events_left == 0 || self.bytes_left == 0
    }
}

/// How a batch ended.
enum BatchEnd {
    /// The replica has more.
    More,
    /// That was all the replica has.
    All,
    /// It broke off.
    Broken,
}

impl Reader<'_> {
    /// The entries after `after`, up to what `bounds` says, as far as the limits allow; and the end of
    /// the range that they cover.
    pub(super) async fn page(
        &self,
        bounds: Bounds,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Result<(Vec<Entry>, u64), ApiError> {
        let deadline = Instant::now() + PAGE_DEADLINE;
        let mut page =
            Page { entries: Vec::new(), to: after, events_left: events.max(1), bytes_left: bytes.max(1) };
        while page.to < bounds.last && !page.is_full() {
            if Instant::now() >= deadline {
                return Err(ApiError::Unreachable(format!("a page took over {PAGE_DEADLINE:?}")));
            }
            match self.batch(&mut page).await? {
                BatchEnd::More => continue,
                BatchEnd::All if page.to >= bounds.last => break,
                BatchEnd::All | BatchEnd::Broken if page.is_full() => break,
                BatchEnd::All => {}
                BatchEnd::Broken => {
                    self.metrics.read_retries.inc();
                }
            }
            // Deleted up to the tip, or a replica that is behind, or an entry that the client can't
            // read: only the leader knows.
            match self.next(page.to).await? {
                Some((entry, size)) => page.push(entry, size),
                None => page.to = bounds.last,
            }
        }
        Ok((page.entries, page.to))
    }

    /// The entry after `after`, from the leader and in a form that any entry can be read in.
    pub(super) async fn next(&self, after: u64) -> Result<Option<(Entry, usize)>, ApiError> {
        let get = Get { seq: Some(after + 1), next_by_subject: Some(">"), ..Get::default() };
        let Some(message) = self.api.get(&stream::name(self.rules.shard), &get).await? else {
            return Ok(None);
        };
        let prefix = stream::subject_prefix(self.rules.shard);
        let channel = message.subject.strip_prefix(&prefix).unwrap_or_default();
        let size = message.subject.len() + message.hdrs.len() + message.data.len();
        let (seq, time) = (message.seq, message.time()?);
        let mut unfolded = String::new();
        let fields = Fields::parse(&message.hdrs, &mut unfolded);
        Ok(Some((self.rules.entry(seq, time, channel, fields, &message.data.into()), size)))
    }

    /// The seq of the first entry at `time` or later; none when there is none.
    pub(super) async fn first_at(&self, time: Timestamp) -> Result<Option<u64>, ApiError> {
        let start_time = Some(time.to_string());
        let get = Get { start_time, next_by_subject: Some(">"), ..Get::default() };
        Ok(self.api.get(&stream::name(self.rules.shard), &get).await?.map(|message| message.seq))
    }

    /// Asks any replica for what follows `page`.
    async fn batch(&self, page: &mut Page) -> Result<BatchEnd, ApiError> {
        let get = Get {
            seq: Some(page.to + 1),
            next_by_subject: Some(">"),
            batch: Some(page.events_left.min(BATCH_ENTRIES)),
            max_bytes: Some(page.bytes_left.min(BATCH_BYTES)),
            ..Get::default()
        };
        let Some(client) = self.link.connected_client() else { return Ok(BatchEnd::Broken) };
        let body = serde_json::to_vec(&get).map_err(|error| ApiError::Unreachable(error.to_string()))?;
        let failed = |error: &dyn std::fmt::Display| ApiError::Unreachable(error.to_string());
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let subject = format!("$JS.API.DIRECT.GET.{}", stream::name(self.rules.shard));
        client.publish_with_reply(subject, inbox, body.into()).await.map_err(|error| failed(&error))?;
        loop {
            let Ok(Some(answer)) = timeout_at(Instant::now() + BATCH_TIMEOUT, answers.next()).await else {
                return Ok(BatchEnd::Broken);
            };
            // A stored message may carry a status line of its publisher's making; only the server's own
            // answers lack a subject.
            let headers = answer.headers.as_ref();
            if let Some((seq, time, channel)) = headers.and_then(|headers| self.stored(headers)) {
                let entry = self.rules.entry(seq, time, channel, Fields::of(headers), &answer.payload);
                if seq > page.to && !page.is_full() {
                    page.push(entry, answer.length);
                }
                continue;
            }
            let pending = headers.and_then(|headers| headers.get_last(PENDING)).map(|value| value.as_str());
            return Ok(match answer.status.map(|status| status.as_u16()) {
                Some(204) if pending.is_some_and(|pending| pending != "0") => BatchEnd::More,
                Some(204 | 404) => BatchEnd::All,
                _ => BatchEnd::Broken,
            });
        }
    }

    /// Seq, time and channel, from headers that the server puts last: earlier ones of the same name are
    /// the publisher's.
    fn stored<'h>(&self, headers: &'h HeaderMap) -> Option<(u64, Timestamp, &'h str)> {
        let seq = headers.get_last(header::NATS_SEQUENCE)?.as_str().parse().ok()?;
        let time = headers.get_last(header::NATS_TIME_STAMP)?.as_str().parse().ok()?;
        let subject = headers.get_last(header::NATS_SUBJECT)?.as_str();
        let prefix = stream::subject_prefix(self.rules.shard);
        Some((seq, time, subject.strip_prefix(&prefix).unwrap_or_default()))
    }
}
