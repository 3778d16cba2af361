//! The NATS servers: a stream per shard, the records of epochs, and everything that was ever stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foghorn_bus::journal::{Appended, Size};
use foghorn_core::entry::{self, Entry, InvalidEntry, NewEntry};
use foghorn_core::event::{Event, EventError, Ttl};
use foghorn_core::position::{Digest, Epoch, Position};
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mutant::Mutant;
use crate::world::{Cause, World};

/// All servers, as one.
#[derive(Debug)]
pub struct Servers {
    world: Arc<World>,
    state: Mutex<State>,
    /// Something was stored, or is different.
    pub(super) changed: Notify,
    /// A record of an epoch was written.
    pub(super) recorded: Notify,
}

#[derive(Debug, Default)]
struct State {
    streams: Vec<Stream>,
    records: Vec<Option<EpochRecord>>,
    /// Every record that was ever written.
    epochs: Vec<EpochRecord>,
    history: Vec<Stored>,
    /// Until then the streams have no leader.
    leaderless: Option<Instant>,
    /// A new leader says so many entries too few, until then.
    stale: Option<(u64, Instant)>,
    created: u64,
    /// Entries at which a stream refuses more.
    most: Option<usize>,
}

/// What became of an append.
pub(super) enum Took {
    Acked(Appended),
    /// The stream is at its bound.
    Full,
    NoLeader,
}

#[derive(Debug, Clone)]
struct Stream {
    created: u64,
    /// Rises with everything that the shard loses.
    life: u64,
    first: u64,
    last: u64,
    entries: BTreeMap<u64, Entry>,
    keys: BTreeMap<[u8; 16], u64>,
    /// Consumers of before are gone.
    consumers: u64,
}

/// Which epoch a stream is in, as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRecord {
    /// Of which.
    pub shard: Shard,
    /// The epoch.
    pub epoch: Epoch,
    /// The stream that it belongs to.
    pub created: u64,
    /// The stream's life when it was recorded.
    pub life: u64,
    /// The first seq of the epoch.
    pub first_seq: u64,
    /// The epoch whose entries before that are this one's too.
    pub continues: Option<Epoch>,
    /// When it was recorded.
    pub at: Duration,
}

/// Something that was stored once.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where.
    pub shard: Shard,
    /// In which stream.
    pub created: u64,
    /// In which life of it.
    pub life: u64,
    /// At which seq.
    pub seq: u64,
    /// The channel.
    pub channel: String,
    /// What tells events apart.
    pub data: String,
    /// What tells entries apart.
    pub digest: Digest,
    /// When.
    pub time: Timestamp,
    /// Seconds after which it is not owed any more.
    pub ttl: Option<u32>,
    /// Whether the stream has lost it.
    pub lost: bool,
    /// Whether it was lost once, if only until an old copy brought it back.
    pub was_lost: bool,
    /// Whether it was purged before the log had it.
    pub purged: bool,
}

/// What a stream's leader says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Info {
    pub(super) created: u64,
    pub(super) first: u64,
    pub(super) last: u64,
}

/// A copy of a stream, and of its record, as a backup has it.
#[derive(Debug, Clone)]
pub struct Copy {
    stream: Stream,
    record: Option<EpochRecord>,
    /// Of everything that had been stored by then, what was lost.
    lost: Vec<bool>,
}

impl Copy {
    /// The last seq in it.
    pub fn last(&self) -> u64 {
        self.stream.last
    }
}

impl Servers {
    /// Servers with empty streams.
    pub fn new(world: &Arc<World>) -> Arc<Self> {
        let shards = usize::from(world.shards.get());
        let mut state = State { records: vec![None; shards], created: 1, ..State::default() };
        state.streams = (0..shards).map(|_| Stream::new(1)).collect();
        Arc::new(Servers {
            world: world.clone(),
            state: Mutex::new(state),
            changed: Notify::new(),
            recorded: Notify::new(),
        })
    }

    /// Everything that was ever stored, in order.
    pub fn history(&self) -> Vec<Stored> {
        self.state.lock().history.clone()
    }

    /// Every epoch that there was.
    pub fn epochs(&self) -> Vec<EpochRecord> {
        self.state.lock().epochs.clone()
    }

    /// The epoch that a shard is in.
    pub fn record(&self, shard: Shard) -> Option<EpochRecord> {
        self.state.lock().records[shard.index()]
    }

    /// First and last seq of a stream, and which it is.
    pub fn bounds(&self, shard: Shard) -> (u64, u64, u64) {
        let state = self.state.lock();
        let stream = &state.streams[shard.index()];
        (stream.created, stream.first, stream.last)
    }

    /// How full a stream is; an entry is as good as a byte.
    pub(super) fn size(&self, shard: Shard) -> Size {
        let state = self.state.lock();
        let bytes = state.streams[shard.index()].entries.len() as u64;
        Size { bytes, most: state.most.map(|most| most as u64) }
    }

    /// How often a shard has lost something.
    pub fn life(&self, shard: Shard) -> u64 {
        self.state.lock().streams[shard.index()].life
    }

    /// Stores an entry that isn't a valid event.
    pub fn put_invalid(&self, shard: Shard) {
        let mut state = self.state.lock();
        let now = self.world.now();
        let stream = &mut state.streams[shard.index()];
        stream.last += 1;
        let digest = entry::digest(now, None, "?", None, &stream.last.to_le_bytes());
        let event = Err(InvalidEntry::Event(EventError::Ttl));
        stream.entries.insert(
            stream.last,
            Entry { seq: stream.last, time: now, key: None, digest, traceparent: None, event },
        );
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes an entry, if it can.
    pub(super) fn append(&self, shard: Shard, new: &NewEntry, epoch: Epoch) -> Took {
        let mut state = self.state.lock();
        if state.is_leaderless() {
            return Took::NoLeader;
        }
        let now = self.world.now();
        let most = state.most.unwrap_or(usize::MAX);
        let stream = &mut state.streams[shard.index()];
        let key = *new.key.as_bytes();
        if let Some(seq) = stream.keys.get(&key).copied().filter(|_| !self.world.is(Mutant::DedupeOff)) {
            return Took::Acked(Appended { position: Position { shard, epoch, seq }, duplicate: true });
        }
        if stream.entries.len() >= most {
            if !self.world.is(Mutant::FullDropsOldest) {
                return Took::Full;
            }
            stream.trim(stream.first);
        }
        stream.last += 1;
        let seq = stream.last;
        let Event { channel, event_type, data, .. } = &new.event;
        let event_type = event_type.as_ref().map(|text| text.as_str());
        let digest = entry::digest(now, Some(&new.key), channel.as_str(), event_type, data.as_bytes());
        let event = Ok(new.event.clone());
        stream.entries.insert(
            seq,
            Entry { seq, time: now, key: Some(new.key), digest, traceparent: new.traceparent, event },
        );
        stream.keys.insert(key, seq);
        let stored = Stored {
            shard,
            created: stream.created,
            life: stream.life,
            seq,
            channel: channel.to_string(),
            data: data.to_string(),
            digest,
            time: now,
            ttl: new.event.ttl.map(Ttl::seconds),
            lost: false,
            was_lost: false,
            purged: false,
        };
        state.history.push(stored);
        drop(state);
        self.changed.notify_waiters();
        Took::Acked(Appended { position: Position { shard, epoch, seq }, duplicate: false })
    }

    /// From now on a stream takes so many entries, or as many as there are.
    pub fn set_most(&self, most: Option<usize>) {
        self.state.lock().most = most;
    }

    /// What the leader says; none while there is none.
    pub(super) fn info(&self, shard: Shard) -> Option<Info> {
        let state = self.state.lock();
        if state.is_leaderless() {
            return None;
        }
        let behind = state.stale.filter(|(_, until)| Instant::now() < *until).map_or(0, |(behind, _)| behind);
        let stream = &state.streams[shard.index()];
        let least = stream.first.saturating_sub(1);
        let last = stream.last.saturating_sub(behind).max(least);
        Some(Info { created: stream.created, first: stream.first, last })
    }

    /// Which consumers are alive.
    pub(super) fn consumers(&self, shard: Shard) -> u64 {
        self.state.lock().streams[shard.index()].consumers
    }

    /// The first entry after a seq.
    pub(super) fn next(&self, shard: Shard, after: u64) -> Option<Entry> {
        let state = self.state.lock();
        let entry = state.streams[shard.index()].entries.range(after + 1..).next();
        entry.map(|(_, entry)| self.as_seen(entry))
    }

    /// The entries in `(after, upto]`, so many at most.
    pub(super) fn entries(&self, shard: Shard, after: u64, upto: u64, most: usize) -> Vec<Entry> {
        let state = self.state.lock();
        let range = state.streams[shard.index()].entries.range(after + 1..=upto.max(after + 1));
        let entries = range.take(most).filter(|(seq, _)| **seq <= upto);
        entries.map(|(_, entry)| self.as_seen(entry)).collect()
    }

    fn as_seen(&self, entry: &Entry) -> Entry {
        let mut entry = entry.clone();
        if self.world.is(Mutant::DigestsAlike) {
            entry.digest = Digest(7);
        }
        entry
    }

    /// The seq before the first entry at `time` or later.
    pub(super) fn seek(&self, shard: Shard, time: Timestamp) -> u64 {
        let state = self.state.lock();
        let stream = &state.streams[shard.index()];
        let found = stream.entries.values().find(|entry| entry.time >= time);
        found.map_or(stream.last, |entry| entry.seq - 1)
    }

    /// Forgets entries up to a seq.
    pub(super) fn trim(&self, shard: Shard, through: u64) {
        self.state.lock().streams[shard.index()].trim(through);
    }

    /// Writes the record of an epoch, if it is still what the caller has seen.
    pub(super) fn put_record(&self, seen: Option<EpochRecord>, mut record: EpochRecord) -> bool {
        let mut state = self.state.lock();
        let at = record.shard.index();
        if state.records[at] != seen {
            return false;
        }
        (record.life, record.at) = (state.streams[at].life, self.world.elapsed());
        state.records[at] = Some(record);
        state.epochs.push(record);
        drop(state);
        let EpochRecord { shard, epoch, first_seq, .. } = record;
        self.world.tell("journal", &format!("shard {shard} is in epoch {epoch} from seq {first_seq}"));
        self.recorded.notify_waiters();
        true
    }

    /// For so long there is no leader; then a new one that for a moment lacks the last entries.
    ///
    /// False when the last one was elected just now: of several in a row, each lacking something, looks make a
    /// loss.
    pub fn change_leader(&self, outage: Duration, lacks: u64, for_long: Duration) -> bool {
        let mut state = self.state.lock();
        if state.stale.is_some_and(|(_, until)| Instant::now() < until + Duration::from_secs(2)) {
            return false;
        }
        let elected = Instant::now() + outage;
        state.leaderless = Some(elected);
        state.stale = (lacks > 0).then_some((lacks, elected + for_long));
        state.streams.iter_mut().for_each(|stream| stream.consumers += 1);
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// A copy of a stream as it is, for [`restore`](Self::restore).
    pub fn copy(&self, shard: Shard) -> Copy {
        let state = self.state.lock();
        Copy {
            stream: state.streams[shard.index()].clone(),
            record: state.records[shard.index()],
            lost: state.history.iter().map(|stored| stored.lost).collect(),
        }
    }

    /// Every server loses power: the last entries, not synced, are gone. How many there were to lose.
    pub fn lose_tail(&self, shard: Shard, entries: u64) -> u64 {
        let mut state = self.state.lock();
        let stream = &mut state.streams[shard.index()];
        let last = stream.last.saturating_sub(entries).max(stream.first.saturating_sub(1));
        let lost = stream.last - last;
        if lost == 0 {
            return 0;
        }
        self.world.note(Cause::Lost(shard, last));
        stream.cut(last);
        let created = stream.created;
        for stored in state.history.iter_mut().filter(|s| s.shard == shard && s.created == created) {
            stored.lost |= stored.seq > last;
            stored.was_lost |= stored.lost;
        }
        drop(state);
        self.changed.notify_waiters();
        lost
    }

    /// A stream is what it was when it was copied; with or without the record of its epoch.
    pub fn restore(&self, shard: Shard, copy: &Copy, with_record: bool) {
        let mut state = self.state.lock();
        let now = &state.streams[shard.index()];
        if let Some(last) = now.lost_by(&copy.stream) {
            self.world.note(Cause::Lost(shard, last));
        } else if with_record && state.records[shard.index()] != copy.record {
            self.world.note(Cause::RecordBack(shard));
        }
        let (life, consumers) = (now.life + 1, now.consumers + 1);
        state.streams[shard.index()] = Stream { life, consumers, ..copy.stream.clone() };
        if with_record {
            state.records[shard.index()] = copy.record;
        }
        // What came since is gone, and what was lost since is back.
        for (nth, stored) in state.history.iter_mut().enumerate().filter(|(_, s)| s.shard == shard) {
            stored.lost = copy.lost.get(nth).copied().unwrap_or(true);
            stored.was_lost |= stored.lost;
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// A stream is lost and made anew; with the record of its epoch, or without.
    pub fn wipe(&self, shard: Shard, with_record: bool) {
        let mut state = self.state.lock();
        state.created += 1;
        self.world.note(Cause::Lost(shard, 0));
        let created = state.created;
        let now = &state.streams[shard.index()];
        let (life, consumers) = (now.life + 1, now.consumers + 1);
        state.streams[shard.index()] = Stream { life, consumers, ..Stream::new(created) };
        if with_record {
            state.records[shard.index()] = None;
        }
        for stored in state.history.iter_mut().filter(|stored| stored.shard == shard) {
            (stored.lost, stored.was_lost) = (true, true);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Somebody purges a stream up to a seq, whether or not the log has it.
    pub fn purge(&self, shard: Shard, through: u64, log_has: u64) {
        let mut state = self.state.lock();
        let stream = &mut state.streams[shard.index()];
        let through = through.min(stream.last);
        if through > log_has && through >= stream.first {
            self.world.note(Cause::Purged(shard, through));
        }
        stream.trim(through);
        let created = stream.created;
        for stored in state.history.iter_mut().filter(|s| s.shard == shard && s.created == created) {
            stored.purged |= stored.seq <= through && stored.seq > log_has;
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

impl State {
    fn is_leaderless(&self) -> bool {
        self.leaderless.is_some_and(|until| Instant::now() < until)
    }
}

impl Stream {
    fn new(created: u64) -> Self {
        Stream {
            created,
            life: 0,
            first: 1,
            last: 0,
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            consumers: 0,
        }
    }

    /// The last seq up to which `other` is the same, if it lacks something of what is here.
    fn lost_by(&self, other: &Stream) -> Option<u64> {
        if self.created != other.created {
            return Some(0);
        }
        let both = self.first.max(other.first);
        let differs = |(seq, entry): &(&u64, &Entry)| {
            other.entries.get(seq).is_some_and(|other| other.digest != entry.digest)
        };
        let first = self.entries.range(both..).find(differs).map(|(seq, _)| seq - 1);
        first.or((other.last < self.last).then_some(other.last))
    }

    fn trim(&mut self, through: u64) {
        self.entries = self.entries.split_off(&(through + 1));
        self.first = self.first.max(through + 1);
    }

    fn cut(&mut self, last: u64) {
        self.entries.split_off(&(last + 1));
        self.keys.retain(|_, seq| *seq <= last);
        self.last = last;
        self.life += 1;
        self.consumers += 1;
    }
}
