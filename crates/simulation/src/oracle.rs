//! What must hold after a run, when everything is healed and time has passed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::position::Epoch;
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::shard::{Shard, ShardCount};

use crate::client::{Client, Seen};
use crate::cluster::Cluster;
use crate::faults::Trouble;
use crate::journal::{EpochRecord, Stored};
use crate::publisher::Acked;

/// Something that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Whose story tells it; a client's name, or a part of the cluster.
    pub who: String,
    /// What it is.
    pub what: String,
}

/// What really happened.
struct Truth {
    shards: ShardCount,
    history: Vec<Stored>,
    /// What was ever at a seq, of whichever stream.
    at: HashMap<(Shard, u64), Vec<usize>>,
    epochs: Vec<EpochRecord>,
    current: BTreeMap<Shard, EpochRecord>,
    trouble: Trouble,
    /// What the journal lost at some time.
    lost: HashSet<String>,
    /// Shards of which nobody is left who could know what they lost.
    forgotten: HashSet<Shard>,
}

/// Judges a run.
pub fn judge(
    cluster: &Cluster,
    trouble: Trouble,
    clients: &[std::sync::Arc<Client>],
    acked: &[Acked],
) -> Vec<Violation> {
    let shards = cluster.world.shards;
    let current = shards.shards().filter_map(|shard| Some((shard, cluster.servers.record(shard)?)));
    let history = cluster.servers.history();
    let mut at: HashMap<_, Vec<usize>> = HashMap::new();
    for (nth, stored) in history.iter().enumerate() {
        at.entry((stored.shard, stored.seq)).or_default().push(nth);
    }
    let lost = history.iter().filter(|stored| stored.was_lost).map(|stored| stored.data.clone()).collect();
    let forgotten = shards.shards().filter(|shard| cluster.is_forgotten(*shard)).collect();
    let (epochs, current) = (cluster.servers.epochs(), current.collect());
    let truth = Truth { shards, history, at, epochs, current, trouble, lost, forgotten };
    let mut violations = Vec::new();
    truth.journal(acked, &mut violations);
    truth.log(cluster, &mut violations);
    for client in clients {
        let mut judged = Judged { truth: &truth, client, violations: &mut violations };
        judged.judge();
    }
    violations
}

impl Truth {
    /// The entries that are in a shard's history to stay, by seq.
    fn lasting(&self, shard: Shard) -> impl Iterator<Item = &Stored> {
        self.history.iter().filter(move |stored| stored.shard == shard && !stored.lost)
    }

    /// What was ever stored at a seq.
    fn at(&self, shard: Shard, seq: u64) -> impl Iterator<Item = &Stored> {
        let there = self.at.get(&(shard, seq)).into_iter().flatten();
        there.map(|nth| &self.history[*nth])
    }

    /// The record of an epoch.
    fn epoch(&self, shard: Shard, epoch: Epoch) -> Option<&EpochRecord> {
        self.epochs.iter().find(|record| record.shard == shard && record.epoch == epoch)
    }

    /// What was acked is there, once, unless the journal lost it.
    fn journal(&self, acked: &[Acked], violations: &mut Vec<Violation>) {
        let mut say = |what| violations.push(Violation { who: "journal".to_owned(), what });
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for stored in self.history.iter().filter(|stored| !stored.lost) {
            *times.entry(&stored.data).or_default() += 1;
        }
        let gone: HashSet<&str> =
            self.history.iter().filter(|stored| stored.lost).map(|stored| stored.data.as_str()).collect();
        for acked in acked {
            let lost = gone.contains(acked.data.as_str());
            match times.get(acked.data.as_str()) {
                Some(1) => {}
                None if lost => {}
                // What was lost may have been published again, and then come back with an old copy.
                Some(_) if lost => {}
                Some(times) => say(format!("{} is stored {times} times", acked.data)),
                None => say(format!("{} was acked and was never stored", acked.data)),
            }
        }
    }

    /// The log has what the journal has, at the same positions, and nothing twice.
    fn log(&self, cluster: &Cluster, violations: &mut Vec<Violation>) {
        let mut say = |what| violations.push(Violation { who: "log".to_owned(), what });
        if cluster.tables.doubles() > 0 {
            say(format!("{} rows were stored at positions that had one", cluster.tables.doubles()));
        }
        for (shard, record) in &self.current {
            let head = cluster.tables.head(*shard);
            let (_, _, last) = cluster.servers.bounds(*shard);
            if head != Some((record.epoch, last)) {
                say(format!("shard {shard}: the log is at {head:?}, the journal at {}:{last}", record.epoch));
            }
            for (seq, digest) in cluster.tables.stored(*shard) {
                let mut there = self.at(*shard, seq);
                if !there.any(|stored| !stored.lost && stored.digest == digest) {
                    say(format!(
                        "shard {shard}: the log's row at {}:{seq} is not the journal's",
                        record.epoch
                    ));
                }
            }
        }
    }
}

struct Judged<'a, 'v> {
    truth: &'a Truth,
    client: &'a Client,
    violations: &'v mut Vec<Violation>,
}

/// What a client was given since it began or was last reset.
struct Segment<'a> {
    at: Cursor,
    shards: BTreeMap<Shard, Course<'a>>,
}

/// A segment in one shard.
struct Course<'a> {
    epoch: Epoch,
    from: u64,
    /// What it owes, in order, and how far it has been compared with what was given.
    owed: Vec<&'a Stored>,
    compared: usize,
    given: Vec<(u64, &'a str)>,
    seqs: HashSet<u64>,
    names: HashSet<&'a str>,
}

impl<'a> Segment<'a> {
    fn new(truth: &'a Truth, client: &Client, start: Cursor) -> Self {
        let course = |shard| {
            let (epoch, from) = start.get(shard)?;
            let record = truth.epoch(shard, epoch);
            let owed = truth.lasting(shard).filter(|stored| {
                // What came after the journal lost something is of the next epoch, noticed or not.
                let of_epoch = record.is_some_and(|r| stored.created == r.created && stored.life <= r.life);
                of_epoch && !stored.was_lost && stored.seq > from && wants(client, stored)
            });
            let mut owed: Vec<&Stored> = owed.collect();
            owed.sort_by_key(|stored| stored.seq);
            let (given, seqs, names) = (Vec::new(), HashSet::new(), HashSet::new());
            Some((shard, Course { epoch, from, owed, compared: 0, given, seqs, names }))
        };
        Segment { at: start, shards: truth.shards.shards().filter_map(course).collect() }
    }
}

fn wants(client: &Client, stored: &Stored) -> bool {
    client.topics.iter().any(|topic: &Pattern| topic.matches(&stored.channel))
}

impl<'a> Judged<'a, '_> {
    fn say(&mut self, at: Duration, what: &str) {
        let what = format!("at {:.3}: {what}", at.as_secs_f64());
        self.violations.push(Violation { who: self.client.name.clone(), what });
    }

    fn judge(&mut self) {
        let seen = self.client.seen();
        let truth = self.truth;
        let mut segment: Option<Segment<'_>> = None;
        // Between `connected` without an id and its reset.
        let mut owes_reset = false;
        let (mut live, mut open) = (false, false);
        let mut last_event_id: Option<String> = None;
        for (at, what) in &seen {
            let at = *at;
            if owes_reset && !matches!(what, Seen::Reset { .. } | Seen::Cut | Seen::Asked { .. }) {
                self.say(at, "no stream-reset follows a connected that has no id");
                owes_reset = false;
            }
            match what {
                Seen::Asked { last_event_id: asked } => {
                    (live, open, owes_reset) = (false, true, false);
                    last_event_id.clone_from(asked);
                }
                Seen::Connected { recovered, id: Some(id) } => match &mut segment {
                    Some(segment) if *recovered => self.resumes(at, segment, id),
                    Some(_) => self.say(at, "a known cursor was neither recovered nor reset"),
                    // A cursor that it wasn't given and that happens to be one: of its past nothing is owed.
                    None => segment = Some(Segment::new(truth, self.client, *id)),
                },
                Seen::Connected { recovered, id: None } => {
                    owes_reset = true;
                    if *recovered {
                        self.say(at, "recovered, and a reset follows");
                    }
                }
                Seen::Reset { reason, id } => {
                    owes_reset = false;
                    live = false;
                    self.reset(at, segment.as_ref(), reason, id, last_event_id.as_deref());
                    segment = Some(Segment::new(truth, self.client, *id));
                }
                Seen::Live { id } => {
                    live = true;
                    self.moves(at, segment.as_mut(), id);
                }
                Seen::Stale => live = false,
                Seen::At { id } => self.moves(at, segment.as_mut(), id),
                Seen::Event { id, data } => self.event(at, segment.as_mut(), id, data),
                Seen::End { reason, id } => {
                    let known = StreamEnd::ALL.iter().any(|end| end.as_str() == reason);
                    if !known || reason == StreamEnd::Internal.as_str() {
                        self.say(at, &format!("the stream ends with {reason:?}"));
                    }
                    if let Some(id) = id {
                        self.moves(at, segment.as_mut(), id);
                    }
                    (live, open) = (false, false);
                }
                Seen::Cut => (live, open) = (false, false),
                Seen::Strange(what) => self.say(at, what),
            }
        }
        let end = seen.last().map_or(Duration::ZERO, |(at, _)| *at);
        if !(live && open) {
            self.say(end, "the stream is not live at the end");
        }
        match segment {
            Some(segment) => self.check_final(end, &segment),
            None => self.say(end, "no stream ever began"),
        }
    }

    /// A stream goes on where the last one ended.
    fn resumes(&mut self, at: Duration, segment: &mut Segment<'_>, id: &Cursor) {
        for shard in self.truth.shards.shards() {
            let (before, now) = (segment.at.get(shard), id.get(shard));
            if let (Some(before), Some(now)) = (before, now)
                && before != now
            {
                self.say(at, &format!("recovered at {now:?} and not at {before:?}"));
            }
        }
    }

    /// The cursor moves forward, past nothing that is owed.
    fn moves(&mut self, at: Duration, segment: Option<&mut Segment<'_>>, id: &Cursor) {
        let Some(segment) = segment else { return self.say(at, "a cursor before connected") };
        for shard in self.truth.shards.shards() {
            match (segment.at.get(shard), id.get(shard)) {
                (Some((epoch, seq)), Some((to_epoch, to))) => {
                    if epoch != to_epoch {
                        self.say(
                            at,
                            &format!("shard {shard} moves from epoch {epoch} to {to_epoch}, without a reset"),
                        );
                    } else if to < seq {
                        self.say(at, &format!("shard {shard} moves back from {seq} to {to}"));
                    }
                }
                (Some(_), None) => self.say(at, "a shard is gone from the cursor"),
                _ => {}
            }
        }
        segment.at = *id;
        self.owed_until_now(at, segment);
    }

    /// Everything that lasts, is wanted and is at or below the cursor was given.
    fn owed_until_now(&mut self, at: Duration, segment: &mut Segment<'_>) {
        for (shard, course) in &mut segment.shards {
            let Some((_, to)) = segment.at.get(*shard) else { continue };
            while let Some(stored) = course.owed.get(course.compared).filter(|stored| stored.seq <= to) {
                course.compared += 1;
                if !course.seqs.contains(&stored.seq) {
                    let (epoch, seq, data) = (course.epoch, stored.seq, &stored.data);
                    self.say(
                        at,
                        &format!("the cursor is past {data} at {shard}:{epoch}:{seq}, which was not given"),
                    );
                }
            }
        }
    }

    fn event(&mut self, at: Duration, segment: Option<&mut Segment<'a>>, id: &Cursor, data: &str) {
        let Some(segment) = segment else { return self.say(at, "an event before connected") };
        let channel = data.split('#').next().unwrap_or_default();
        let shard = self.truth.shards.shard_of_str(channel);
        let Some((epoch, seq)) = id.get(shard) else {
            return self.say(at, &format!("{data} comes with a cursor that doesn't name its shard"));
        };
        if !self.client.topics.iter().any(|topic| topic.matches(channel)) {
            self.say(at, &format!("{data} was not asked for"));
        }
        let truth = self.truth;
        // Of whichever life: a loss is noticed a moment later, and then told.
        let known = truth.at(shard, seq).find(|stored| stored.data == data);
        match (known, segment.shards.get_mut(&shard)) {
            (Some(known), Some(course)) => {
                let last = course.given.last().map(|(seq, _)| *seq);
                course.given.push((seq, &known.data));
                course.seqs.insert(seq);
                // What was lost before its ack came is published again.
                let lost = truth.lost.contains(known.data.as_str());
                if !course.names.insert(&known.data) && !lost {
                    self.say(at, &format!("{data} comes twice"));
                }
                if last.is_some_and(|last| last >= seq) {
                    self.say(at, &format!("{data} at {seq} comes after {last:?}"));
                }
            }
            _ => self.say(at, &format!("{data} was never at {shard}:{epoch}:{seq}")),
        }
        self.moves(at, Some(segment), id);
    }

    /// A reset has a reason, and the reason is true.
    fn reset(
        &mut self,
        at: Duration,
        segment: Option<&Segment<'_>>,
        reason: &str,
        id: &Cursor,
        last_event_id: Option<&str>,
    ) {
        let Some(reason) = ResetReason::parse(reason) else {
            return self.say(at, &format!("reset for {reason:?}"));
        };
        // A cursor that it wasn't given may be reset for whatever is wrong with it.
        let foreign = segment.is_none() && self.client.foreign.is_some();
        if foreign && last_event_id == self.client.foreign.as_deref() {
            return;
        }
        let trouble = self.truth.trouble;
        let moved = |judge: fn(Epoch, Epoch) -> bool| {
            self.truth.shards.shards().any(|shard| {
                let before = segment.and_then(|segment| segment.at.get(shard));
                before.zip(id.get(shard)).is_some_and(|((before, _), (now, _))| judge(before, now))
            })
        };
        match reason {
            ResetReason::Epoch if !trouble.losses => self.say(at, "reset for an epoch, and nothing was lost"),
            ResetReason::Epoch if !moved(|before, now| now > before) => {
                self.say(at, "reset for an epoch that is not a later one");
            }
            ResetReason::Expired | ResetReason::Hole if !trouble.purges && !trouble.losses => {
                self.say(at, &format!("reset for {reason}, and nothing was taken"));
            }
            ResetReason::Cursor if !trouble.losses => {
                self.say(at, "reset for its cursor, which was given to it");
            }
            ResetReason::Subscription => self.say(at, "reset for a subscription that it never changed"),
            _ => {}
        }
    }

    /// In the end a client has exactly what is there, from where it began or was last reset.
    fn check_final(&mut self, at: Duration, segment: &Segment<'_>) {
        for (shard, course) in &segment.shards {
            let Some(current) = self.truth.current.get(shard) else { continue };
            if self.truth.forgotten.contains(shard) {
                continue;
            }
            let Course { epoch, from, given, .. } = course;
            if *epoch != current.epoch {
                self.say(at, &format!("shard {shard} is in epoch {}, the client in {epoch}", current.epoch));
                continue;
            }
            let owed = self.truth.lasting(*shard).filter(|stored| {
                stored.created == current.created && stored.seq > *from && wants(self.client, stored)
            });
            let owed: BTreeMap<u64, &str> = owed.map(|stored| (stored.seq, stored.data.as_str())).collect();
            let given: BTreeMap<u64, &str> = given.iter().copied().collect();
            let missing: Vec<_> =
                owed.iter().filter(|(seq, data)| given.get(seq) != Some(data)).take(5).collect();
            let wrong: Vec<_> =
                given.iter().filter(|(seq, data)| owed.get(seq) != Some(data)).take(5).collect();
            if !missing.is_empty() || !wrong.is_empty() {
                self.say(
                    at,
                    &format!("shard {shard} from {epoch}:{from}: missing {missing:?}, wrong {wrong:?}"),
                );
            }
        }
    }
}
