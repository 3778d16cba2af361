//! Reading the journal in pages.
//!
//! Direct gets are spread over the replicas and know nothing of what was acked a moment ago, so what
//! they answer is checked against the leader's tip, and what they leave out is asked of the leader.

use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, header};
use bytes::Bytes;
use tokio::time::Instant;

use foghorn_core::entry::Entry;
use foghorn_core::time::Timestamp;

use super::api::{Api, ApiError, Get};
use super::block::{PENDING, is_harmless, is_usual_direct};
use super::link::{Link, Watched};
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

/// How many entries in a row have to be harmless before they are taken in a form that the client library
/// may drop the connection over, or die of.
const CAREFUL: usize = 8;
/// Bounds on what is read so at a time: entries, about so many bytes, and when it ends.
const AHEAD_ENTRIES: usize = 512;
const AHEAD_BYTES: usize = 8 << 20;
const AHEAD_DEADLINE: Duration = Duration::from_secs(3);

pub(super) struct Reader<'a> {
    /// What entries come over; requests to the leader go over the other.
    pub(super) link: &'a Link,
    pub(super) api: &'a Api,
    pub(super) metrics: &'a Metrics,
    pub(super) rules: Rules,
}

/// An entry from the leader, in a form that any entry can be read in.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    bytes: usize,
    /// Whether the client library could surely read it in the other forms too.
    harmless: bool,
}

/// Entries read so far.
#[derive(Debug)]
struct Page {
    entries: Vec<Entry>,
    /// The range read begins after this.
    after: u64,
    /// The range read ends here.
    to: u64,
    events_left: usize,
    bytes_left: usize,
    deadline: Instant,
}

impl Page {
    fn push(&mut self, entry: Entry, bytes: usize) {
        self.to = entry.seq;
        self.entries.push(entry);
        self.events_left -= 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
    }

    fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
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
        let mut page = Page {
            entries: Vec::new(),
            after,
            to: after,
            events_left: events.max(1),
            bytes_left: bytes.max(1),
            deadline: Instant::now() + PAGE_DEADLINE,
        };
        while page.to < bounds.last && !page.is_full() {
            if page.is_late() {
                if page.to > page.after {
                    break;
                }
                return Err(ApiError::Unreachable(format!("a page took over {PAGE_DEADLINE:?}")));
            }
            match self.batch(&mut page).await? {
                BatchEnd::More => continue,
                BatchEnd::All => {}
                BatchEnd::Broken => {
                    self.metrics.read_retries.inc();
                }
            }
            // Deleted up to the tip, or a replica that is behind, or entries that the client can't read:
            // only the leader knows.
            self.carefully(&mut page, bounds).await?;
        }
        Ok((page.entries, page.to))
    }

    /// Takes at least the next entry from the leader, and what is near to one that does harm.
    async fn carefully(&self, page: &mut Page, bounds: Bounds) -> Result<(), ApiError> {
        let mut left = 1;
        while left > 0 && page.to < bounds.last && !page.is_full() {
            let Some(stored) = self.next(page.to).await? else {
                page.to = bounds.last;
                break;
            };
            left = if stored.harmless { left - 1 } else { CAREFUL };
            page.push(stored.entry, stored.bytes);
            if page.is_late() {
                break;
            }
        }
        Ok(())
    }

    /// The entries after `after` that should be taken in this form: up to the first few that are harmless
    /// in a row. One alone would not do: a caller may begin with an entry that it had already.
    pub(super) async fn ahead(&self, mut after: u64) -> Result<Vec<Entry>, ApiError> {
        let deadline = Instant::now() + AHEAD_DEADLINE;
        let (mut entries, mut bytes, mut harmless) = (Vec::new(), 0, 0);
        while harmless < CAREFUL && entries.len() < AHEAD_ENTRIES {
            if entries.len() >= 2 && (bytes >= AHEAD_BYTES || Instant::now() >= deadline) {
                break;
            }
            let Some(stored) = self.next(after).await? else { break };
            harmless = if stored.harmless { harmless + 1 } else { 0 };
            after = stored.entry.seq;
            bytes += stored.bytes;
            entries.push(stored.entry);
        }
        Ok(entries)
    }

    /// The entry after `after`, from the leader.
    async fn next(&self, after: u64) -> Result<Option<Stored>, ApiError> {
        self.get(Get { seq: Some(after + 1), next_by_subject: Some(">"), ..Get::default() }).await
    }

    /// The entry at `seq`, from the leader; none when there is none.
    pub(super) async fn at(&self, seq: u64) -> Result<Option<Entry>, ApiError> {
        Ok(self.get(Get { seq: Some(seq), ..Get::default() }).await?.map(|stored| stored.entry))
    }

    /// The entry at `seq`, from the leader; none when it was deleted. For one that came in a form that
    /// doesn't show all of it.
    pub(super) async fn again(&self, seq: u64, time: Timestamp) -> Result<Option<Entry>, ApiError> {
        self.metrics.entries_read_again.inc();
        let stored = self.get(Get { seq: Some(seq), ..Get::default() }).await?;
        match stored {
            Some(Stored { entry, .. }) if entry.time != time => {
                Err(ApiError::Unreachable(format!("the journal has another entry at {seq} now")))
            }
            stored => Ok(stored.map(|stored| stored.entry)),
        }
    }

    async fn get(&self, get: Get) -> Result<Option<Stored>, ApiError> {
        let Some(message) = self.api.get(&stream::name(self.rules.shard), &get).await? else {
            return Ok(None);
        };
        let (seq, time, data) = (message.seq, message.time()?, Bytes::from(message.data));
        let bytes = message.subject.len() + message.hdrs.len() + data.len();
        // The client library takes white space, and fails on what is no text.
        let odd = |c: char| c.is_whitespace() || c == char::REPLACEMENT_CHARACTER;
        let harmless = is_harmless(&message.hdrs) && !message.subject.contains(odd);
        let entry = self.rules.stored(seq, time, &message.subject, &message.hdrs, &data);
        Ok(Some(Stored { entry, bytes, harmless }))
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
        let inbox = client.new_inbox();
        // An error is of a client that died just now.
        let Ok(answers) = client.subscribe(inbox.clone()).await else { return Ok(BatchEnd::Broken) };
        let mut answers = Watched::new(answers, &client);
        let stream = stream::name(self.rules.shard);
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        if client.publish_with_reply(subject, inbox, body.into()).await.is_err() {
            return Ok(BatchEnd::Broken);
        }
        let mut order = Order::default();
        loop {
            let Ok(answer) = answers.next(BATCH_TIMEOUT).await else { return Ok(BatchEnd::Broken) };
            // A stored message may carry a status line of its publisher's making; only the server's own
            // answers lack a subject.
            let headers = answer.headers.as_ref();
            let message = headers.and_then(stored);
            if !order.follows(number(headers, header::NATS_LAST_SEQUENCE), message.map(|(seq, ..)| seq)) {
                return Ok(BatchEnd::Broken);
            }
            if let Some((seq, time, subject)) = message {
                if seq <= page.to || page.is_full() {
                    continue;
                }
                if is_usual_direct(&answer, &stream) {
                    let entry = self.rules.entry(seq, time, subject, Fields::of(headers), &answer.payload);
                    page.push(entry, answer.length);
                } else if page.is_late() {
                    return Ok(BatchEnd::Broken);
                } else {
                    match self.again(seq, time).await? {
                        Some(entry) => page.push(entry, answer.length),
                        None => page.to = seq,
                    }
                }
                continue;
            }
            return Ok(match answer.status.map(|status| status.as_u16()) {
                Some(204) if number(headers, PENDING).is_some_and(|pending| pending > 0) => BatchEnd::More,
                Some(204 | 404) => BatchEnd::All,
                _ => BatchEnd::Broken,
            });
        }
    }
}

/// Whether the messages of a batch come one after the other. The subscription survives a reconnect, and
/// with it the loss of what was on its way.
#[derive(Debug, Default)]
struct Order {
    /// The last seq that came; 0 before the first.
    last: u64,
}

impl Order {
    /// Takes note of an answer, a message with its seq or the end of the batch. False when something is
    /// missing before it: `before` is what the server says it sent last in this batch, if anything.
    fn follows(&mut self, before: Option<u64>, seq: Option<u64>) -> bool {
        let follows = before.unwrap_or(0) == self.last && seq.is_none_or(|seq| seq > self.last);
        self.last = seq.unwrap_or(self.last);
        follows
    }
}

/// Seq, time and subject, from headers that the server puts last: earlier ones of the same name are the
/// publisher's.
fn stored(headers: &HeaderMap) -> Option<(u64, Timestamp, &str)> {
    let seq = headers.get_last(header::NATS_SEQUENCE)?.as_str().parse().ok()?;
    let time = headers.get_last(header::NATS_TIME_STAMP)?.as_str().parse().ok()?;
    Some((seq, time, headers.get_last(header::NATS_SUBJECT)?.as_str()))
}

fn number(headers: Option<&HeaderMap>, name: HeaderName) -> Option<u64> {
    headers?.get_last(name)?.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether all of a batch's answers, each with what the server says and its seq, follow one another.
    fn all_follow(answers: &[(Option<u64>, Option<u64>)]) -> bool {
        let mut order = Order::default();
        answers.iter().all(|(before, seq)| order.follows(*before, *seq))
    }

    #[test]
    fn a_batch_with_a_hole_is_found_out() {
        // Seq 6 was deleted: the server steps over it, and says so.
        let first = (Some(0), Some(5));
        let (second, third, end) = ((Some(5), Some(7)), (Some(7), Some(8)), (Some(8), None));
        assert!(all_follow(&[first, second, third, end]));
        assert!(all_follow(&[(Some(0), None)]), "nothing to send");
        assert!(all_follow(&[(None, None)]), "not found");
        // The beginning, the middle, the end lost on the way; something twice.
        assert!(!all_follow(&[second, third, end]));
        assert!(!all_follow(&[first, third, end]));
        assert!(!all_follow(&[first, second, end]));
        assert!(!all_follow(&[first, first]));
        assert!(!all_follow(&[end]));
    }
}
