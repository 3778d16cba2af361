//! Following the journal.
//!
//! A push consumer with flow control, one per tail, known to the server only. It numbers what it sends,
//! so anything lost on the way ends the tail, and it sends heartbeats, so silence does too. Ending is
//! all the repair there is: the caller tails anew from the last seq it got.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, HeaderName, Message, header};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use foghorn_core::entry::Entry;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use super::Bus;
use super::api::{Api, ApiError};
use super::block::is_usual;
use super::epoch::Epochs;
use super::link::{Link, NoMessage, Watched};
use super::message::{Fields, Rules};
use super::read::Reader;
use super::stream;
use crate::journal::JournalError;
use crate::metrics::TailEnd;

/// How often the server says that it is there while there is nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which the tail ends.
const SILENCE_MOST: Duration = Duration::from_secs(3);
/// How long the server keeps a consumer whose subscriber is gone.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

const STALLED: HeaderName = HeaderName::from_static("Nats-Consumer-Stalled");

/// A tail on its way.
pub(super) struct Tail {
    bus: Bus,
    epochs: Epochs,
    rules: Rules,
    epoch: Epoch,
    /// Entries that were read before the consumer began.
    ahead: VecDeque<Entry>,
    link: Link,
    client: Arc<Client>,
    messages: Watched,
    /// The consumer's number of the last message that arrived.
    delivered: u64,
    /// The seq of the last entry that it delivered.
    last_given: u64,
    /// The last seq that the caller was given.
    after: u64,
}

impl Tail {
    /// A tail from `after`. Opens the shard's journal, whatever that takes.
    pub(super) async fn open(
        bus: Bus,
        epochs: Epochs,
        rules: Rules,
        after: Position,
    ) -> Result<Tail, JournalError> {
        let unavailable = |error: ApiError| JournalError::Unavailable(error.to_string());
        let (bounds, _) = epochs.look_from(after).await.map_err(unavailable)?;
        let Position { shard, epoch, seq: after } = after;
        if bounds.epoch != epoch {
            return Err(JournalError::Epoch { shard, epoch: bounds.epoch });
        }
        let link = bus.reader_link().await.map_err(|error| JournalError::Unavailable(error.to_string()))?;
        let (api, link) = (Api::new(link.clone()), link.clone());
        // The first entries are read in a form that any entry can be read in: where the client dropped the
        // connection over an entry, or died of it, the next tail begins before that one and passes it.
        let reader = Reader { link: &link, api: &bus.0.api, metrics: &bus.0.metrics, rules: rules.clone() };
        let ahead: VecDeque<_> = reader.ahead(after).await.map_err(unavailable)?.into();
        let from = ahead.back().map_or(after, |entry| entry.seq) + 1;

        let client = link.live_client().await;
        let inbox = client.new_inbox();
        let broken = |error: &dyn std::fmt::Display| JournalError::Unavailable(error.to_string());
        let messages = client.subscribe(inbox.clone()).await.map_err(|error| broken(&error))?;
        let messages = Watched::new(messages, &client);
        create_consumer(&api, shard, &inbox, from).await.map_err(unavailable)?;
        bus.0.metrics.tails_opened.inc();
        Ok(Tail {
            bus,
            epochs,
            rules,
            epoch,
            ahead,
            link,
            client,
            messages,
            delivered: 0,
            last_given: 0,
            after,
        })
    }

    /// The next entry. An error is the end.
    pub(super) async fn next(&mut self) -> Result<Entry, JournalError> {
        if let Some(entry) = self.ahead.pop_front() {
            return Ok(self.give(entry));
        }
        loop {
            let message = match self.messages.next(SILENCE_MOST).await {
                Ok(message) => message,
                Err(NoMessage::Lost) => {
                    return Err(self.end(TailEnd::Closed, "the connection was lost"));
                }
                Err(NoMessage::Silent) => {
                    return Err(self.end(TailEnd::Silent, "neither entries nor heartbeats come"));
                }
            };
            let epoch = self.epochs.current(self.rules.shard);
            if epoch != self.epoch {
                self.bus.0.metrics.tail_ended(TailEnd::Epoch);
                return Err(JournalError::Epoch { shard: self.rules.shard, epoch });
            }
            // By the subject, not by a status: a publisher can put a status line into an entry.
            if !message.subject.starts_with(&self.rules.prefix) {
                self.control(&message).await?;
                continue;
            }
            let Some(delivery) = Delivery::parse(message.reply.as_deref().unwrap_or_default()) else {
                return Err(self.end(TailEnd::Gap, "an entry came without its number"));
            };
            if delivery.consumer_seq != self.delivered + 1 {
                return Err(self.end(TailEnd::Gap, "entries were lost on the way"));
            }
            self.delivered = delivery.consumer_seq;
            // Its numbers went on and the stream's did not: the journal lost its end under an open consumer.
            if delivery.stream_seq <= self.last_given {
                return Err(self.end(TailEnd::Gap, "sequence numbers were given out again"));
            }
            self.last_given = delivery.stream_seq;
            // A consumer may begin before what was asked for when that isn't there yet.
            if delivery.stream_seq <= self.after {
                continue;
            }
            let Delivery { stream_seq, time, .. } = delivery;
            if is_usual(&message) {
                let fields = Fields::of(message.headers.as_ref());
                let entry = self.rules.entry(stream_seq, time, &message.subject, fields, &message.payload);
                return Ok(self.give(entry));
            }
            if let Some(entry) = self.again(stream_seq, time).await? {
                return Ok(self.give(entry));
            }
        }
    }

    /// An entry that came in a form that doesn't show all of it; none when it was deleted meanwhile.
    async fn again(&self, seq: u64, time: Timestamp) -> Result<Option<Entry>, JournalError> {
        let inner = &self.bus.0;
        let rules = self.rules.clone();
        let reader = Reader { link: &self.link, api: &inner.api, metrics: &inner.metrics, rules };
        reader.again(seq, time).await.map_err(|error| self.end(TailEnd::Gap, &error.to_string()))
    }

    fn give(&mut self, entry: Entry) -> Entry {
        self.after = entry.seq;
        self.epochs.saw_entries(self.rules.shard, self.epoch, [&entry]);
        entry
    }

    /// A heartbeat, or the question whether we have read so far.
    async fn control(&mut self, message: &Message) -> Result<(), JournalError> {
        let header = |name: HeaderName| {
            message
                .headers
                .as_ref()
                .and_then(|headers| headers.get(name))
                .map(|value| value.as_str().to_owned())
        };
        // Answered only now, after everything sent before it was taken: this is what slows the server
        // down to the caller's pace. When the question was lost a heartbeat repeats it.
        let question = message.reply.as_deref().map(str::to_owned).or_else(|| header(STALLED));
        if let Some(subject) = question {
            match timeout(SILENCE_MOST, self.client.publish(subject, Bytes::new())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.end(TailEnd::Closed, &error.to_string())),
                Err(_) => return Err(self.end(TailEnd::Silent, "the connection takes nothing")),
            }
        }
        if let Some(sent) = header(header::NATS_LAST_CONSUMER).and_then(|sent| sent.parse::<u64>().ok())
            && sent != self.delivered
        {
            return Err(self.end(TailEnd::Gap, "the last entries were lost on the way"));
        }
        // "Consumer deleted", "Leadership change": nothing more will come.
        match message.status.map(|status| status.as_u16()) {
            Some(100) | None => Ok(()),
            Some(_) => {
                let why = message.description.as_deref().unwrap_or("the server ended it").to_owned();
                Err(self.end(TailEnd::Closed, &why))
            }
        }
    }

    fn end(&self, reason: TailEnd, why: &str) -> JournalError {
        self.bus.0.metrics.tail_ended(reason);
        tracing::debug!(shard = %self.rules.shard, after = self.after, why, "journal tail ended");
        JournalError::Unavailable(format!("the tail ended: {why}"))
    }
}

async fn create_consumer(api: &Api, shard: Shard, inbox: &str, from: u64) -> Result<(), ApiError> {
    let stream = stream::name(shard);
    let name = format!("foghorn-{:016x}", rand::random::<u64>());
    let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    let config = json!({
        "stream_name": stream,
        "config": {
            "name": name,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": true,
            "idle_heartbeat": nanos(HEARTBEAT),
            "inactive_threshold": nanos(ABANDONED_AFTER),
            // It is of no use to anybody but us: one copy, in memory.
            "mem_storage": true,
            "num_replicas": 1,
        },
    });
    api.call::<Value>(&format!("CONSUMER.CREATE.{stream}.{name}"), &config).await.map(drop)
}

/// What a pushed message's reply subject says about it.
#[derive(Debug, PartialEq, Eq)]
struct Delivery {
    stream_seq: u64,
    consumer_seq: u64,
    time: Timestamp,
}

impl Delivery {
    /// Reads `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<nanos>.<pending>`, and
    /// the form since server 2.15 with `<domain>.<account>` after `ACK`.
    fn parse(reply: &str) -> Option<Delivery> {
        // Per entry, so by hand. Neither streams' nor consumers' names have dots.
        let rest = reply.strip_prefix("$JS.ACK.")?.as_bytes();
        let mut dots = [0; 10];
        let mut count = 0;
        for (at, byte) in rest.iter().enumerate() {
            if *byte == b'.' && count < dots.len() {
                dots[count] = at;
                count += 1;
            }
        }
        let before = match count {
            6 => 2,
            8.. => 4,
            _ => return None,
        };
        let number = |dot: usize| {
            let digits = &rest[dots[dot] + 1..dots[dot + 1]];
            digits.iter().try_fold(0_u64, |number, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit <= 9)?;
                number.checked_mul(10)?.checked_add(u64::from(digit))
            })
        };
        let (stream_seq, consumer_seq) = (number(before)?, number(before + 1)?);
        let time = Timestamp::from_nanos(i128::from(number(before + 2)?));
        Some(Delivery { stream_seq, consumer_seq, time })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let expected =
            Delivery { stream_seq: 20, consumer_seq: 7, time: Timestamp::from_micros(1_767_225_600_000_123) };
        let old = "$JS.ACK.FOGHORN_0.foghorn-1.1.20.7.1767225600000123456.3";
        assert_eq!(Delivery::parse(old).as_ref(), Some(&expected));
        for new in [
            "$JS.ACK._.Xa1.FOGHORN_0.foghorn-1.1.20.7.1767225600000123456.3",
            "$JS.ACK._.Xa1.FOGHORN_0.foghorn-1.1.20.7.1767225600000123456.3.random",
        ] {
            assert_eq!(Delivery::parse(new).as_ref(), Some(&expected), "{new}");
        }
        for bad in ["", "$JS.ACK.a", "$JS.ACK.a.b.c.d.e.f.g", "_INBOX.x"] {
            assert_eq!(Delivery::parse(bad), None);
        }
    }
}
