//! Appending: a JetStream publish, tried again on one key until it is acked or the deadline passes.

use std::borrow::Cow;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use foghorn_core::channel::Channel;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::{Event, Ttl};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;

use super::api::{ApiError, Refusal};
use super::journal::Inner;
use super::message::{expect, headers};
use super::stream;
use crate::backoff::Backoff;
use crate::journal::{AppendError, Appended, Fence};

/// How long an append is tried. A stream whose leader was killed takes none for 4 to 7 s.
const APPEND_DEADLINE: Duration = Duration::from_secs(15);
/// How long one try waits for its ack.
const ACK_TIMEOUT: Duration = Duration::from_millis(2500);

/// What the server answers to a publish.
#[derive(Debug, Deserialize)]
struct PubAck<'a> {
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Refusal>,
}

/// How one try of an append ended.
enum Try {
    Done(Result<Appended, AppendError>),
    /// Surely not stored; worth another try.
    NotStored(String),
    /// Nobody knows; worth another try with the same key.
    Unknown(String),
}

impl Inner {
    /// A fence is an entry like another, which the server can be told to expect as the last of its subject.
    pub(super) async fn raise(&self, fence: Channel) -> Result<Fence, AppendError> {
        // Nobody is owed it.
        let ttl = Ttl::new(1).ok();
        let event = Event { channel: fence.clone(), event_type: None, data: "".into(), id: None, ttl };
        let entry = NewEntry { event, key: Key::invented(rand::random()), traceparent: None };
        let appended = self.append(&entry, None).await?;
        Ok(Fence { channel: fence, seq: appended.position.seq })
    }

    pub(super) async fn append(
        &self,
        entry: &NewEntry,
        fence: Option<&Fence>,
    ) -> Result<Appended, AppendError> {
        let shard = self.parameters.shards.shard_of(&entry.event.channel);
        let subject = format!("{}{}", stream::subject_prefix(shard), entry.event.channel.as_str());
        let deadline = Instant::now() + APPEND_DEADLINE;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        // An earlier try may have been stored without our hearing of it.
        let mut may_be_stored = false;
        loop {
            let why = match self.try_append(shard, &subject, entry, fence, deadline, may_be_stored).await {
                Try::Done(result) => return result,
                Try::NotStored(why) => why,
                Try::Unknown(why) => {
                    may_be_stored = true;
                    why
                }
            };
            let wait = backoff.next_wait();
            if Instant::now() + wait >= deadline {
                return Err(AppendError::Unavailable(why));
            }
            self.bus.0.metrics.append_retries.inc();
            sleep(wait).await;
        }
    }

    async fn try_append(
        &self,
        shard: Shard,
        subject: &str,
        entry: &NewEntry,
        fence: Option<&Fence>,
        deadline: Instant,
        may_be_stored: bool,
    ) -> Try {
        // Into a broken connection requests only queue up, to be sent when nobody waits for them.
        let stands = self.bus.until_connected(deadline).await;
        let Some(client) = self.bus.0.main.client().filter(|_| stands) else {
            return Try::NotStored("no connection to NATS".to_owned());
        };
        // Whatever is stored from now on is numbered above what was seen until now.
        let (before, seen) = self.epochs.seen(shard);
        let mut headers = headers(entry);
        if let Some(fence) = fence {
            expect(&mut headers, shard, fence);
        }
        let request = Request::new().headers(headers).payload(entry.event.data.as_bytes().clone());
        // One timer, over queueing and ack; the request's own is off.
        let request = client.send_request(subject.to_owned(), request.timeout(None));
        let answer = match timeout_at(deadline.min(Instant::now() + ACK_TIMEOUT), request).await {
            Err(_) => return Try::Unknown("no ack in time".to_owned()),
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => match error.kind() {
                RequestErrorKind::NoResponders => {
                    // No leader, or no stream any more.
                    self.epochs.suspect();
                    return Try::NotStored("no leader of the stream answers".to_owned());
                }
                RequestErrorKind::MaxPayloadExceeded => {
                    return Try::Done(Err(AppendError::Refused(error.to_string())));
                }
                _ => return Try::Unknown(error.to_string()),
            },
        };
        let ack: PubAck<'_> = match serde_json::from_slice(&answer.payload) {
            Ok(ack) => ack,
            Err(error) => return Try::Unknown(format!("unreadable ack: {error}")),
        };
        match ack.error {
            None => {}
            Some(Refusal { description, .. }) if description.starts_with("maximum bytes") => {
                return Try::Done(Err(AppendError::Full(shard)));
            }
            Some(refusal) if refusal.may_pass() => {
                return Try::NotStored(ApiError::Refused(refusal).to_string());
            }
            Some(refusal) if fence.is_some() && refusal.is_conflict() => {
                return if refusal.is_lost() {
                    Try::Done(Err(AppendError::Fenced))
                } else {
                    Try::NotStored("another append behind the fence is on its way".to_owned())
                };
            }
            Some(refusal) => {
                return Try::Done(Err(AppendError::Refused(ApiError::Refused(refusal).to_string())));
            }
        }
        // In place of a header that every entry would carry for ever.
        if ack.stream != stream::name(shard) {
            let why = format!("the stream {} took it, which is none of ours", ack.stream);
            return Try::Done(Err(AppendError::Refused(why)));
        }
        if !ack.duplicate && ack.seq <= seen {
            // The stream began anew, or lost its tail, and we are the first to notice.
            if let Err(error) = self.renumbered(shard, before).await {
                return Try::Unknown(format!("the journal's epoch is changing: {error}"));
            }
        }
        let epoch = self.epochs.current(shard);
        self.epochs.saw(shard, epoch, ack.seq);
        // An invented key can only be met again by our own earlier try. A publisher's id may also be
        // that of an earlier publish; JetStream can't tell, so a retried first publish may be reported
        // as a duplicate.
        let duplicate = ack.duplicate && !(may_be_stored && entry.event.id.is_none());
        Try::Done(Ok(Appended { position: Position { shard, epoch, seq: ack.seq }, duplicate }))
    }

    /// A seq was given out again: `before` is over, unless somebody noticed first.
    async fn renumbered(&self, shard: Shard, before: Epoch) -> Result<(), ApiError> {
        let info = stream::info(&self.bus.0.api, shard).await?;
        self.epochs.begin_anew(shard, before, &info).await?;
        Ok(())
    }
}
