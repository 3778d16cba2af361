//! What must hold after a run, when everything is healed and time has passed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use foghorn_core::cursor::Cursor;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::{Policies, Policy, RetentionClass};
use foghorn_core::position::{Digest, Epoch};
use foghorn_core::reason::{ResetReason, StreamEnd};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;

use crate::client::{Begin, Client, Seen};
use crate::cluster::{Cluster, NEWEST, POLICIES, policies};
use crate::faults::Trouble;
use crate::journal::{EpochRecord, Stored};
use crate::publisher::Acked;
use crate::world::Cause;

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
    causes: Vec<(Duration, Cause)>,
    /// What retention took: shard, seq, class.
    gone: Vec<(Shard, u64, RetentionClass)>,
    /// Every hole that the log ever recorded.
    holes: Vec<(Shard, u64, u64)>,
    /// The first seq that each journal has in the end.
    firsts: BTreeMap<Shard, u64>,
    /// When the events of each channel were stored, in order.
    times: HashMap<String, Vec<(Timestamp, Digest)>>,
    /// Whether rings and journal keep everything.
    keeps_all: bool,
    began: Timestamp,
    /// What the journal lost at some time.
    lost: HashSet<String>,
    /// Shards of which nobody is left who could know what they lost.
    forgotten: HashSet<Shard>,
    /// Shards that once lost what only clients knew of.
    forgot: HashSet<Shard>,
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
    let forgot = shards.shards().filter(|shard| cluster.ever_forgot(*shard)).collect();
    let (epochs, current) = (cluster.servers.epochs(), current.collect());
    let (causes, gone, holes) = (cluster.world.causes(), cluster.tables.gone(), cluster.tables.holes());
    let mut times: HashMap<String, Vec<(Timestamp, Digest)>> = HashMap::new();
    for stored in &history {
        times.entry(stored.channel.clone()).or_default().push((stored.time, stored.digest));
    }
    let firsts = shards.shards().map(|shard| (shard, cluster.servers.bounds(shard).1)).collect();
    let (keeps_all, began) = (cluster.keeps_all(), cluster.world.now().minus(cluster.world.elapsed()));
    let truth = Truth {
        shards,
        history,
        at,
        epochs,
        current,
        trouble,
        causes,
        gone,
        holes,
        firsts,
        times,
        keeps_all,
        began,
        lost,
        forgotten,
        forgot,
    };
    let mut violations = cluster.world.wrongs();
    truth.begun(&mut violations);
    truth.journal(acked, &mut violations);
    truth.durable(cluster, acked, &mut violations);
    truth.log(cluster, &mut violations);
    for client in clients {
        let mut judged = Judged {
            truth: &truth,
            client,
            violations: &mut violations,
            kept: BTreeMap::new(),
            excused: BTreeSet::new(),
            origins: BTreeMap::new(),
            asked_at: Duration::ZERO,
            live_since: None,
        };
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

    /// The journal's first entry, by now.
    fn first(&self, shard: Shard) -> u64 {
        self.firsts.get(&shard).copied().unwrap_or(0)
    }

    /// Whether the log has recorded that it lacks an event.
    fn is_in_hole(&self, stored: &Stored) -> bool {
        let within = |(of, after, upto): &(Shard, u64, u64)| {
            *of == stored.shard && (*after + 1..=*upto).contains(&stored.seq)
        };
        self.holes.iter().any(within)
    }

    /// What is known at a moment of a run, in the journal's time.
    fn time(&self, at: Duration) -> Timestamp {
        self.began.plus(at)
    }

    /// Whether something of this kind happened by then.
    fn caused(&self, at: Duration, is: impl Fn(Cause) -> bool) -> bool {
        self.causes.iter().any(|(since, cause)| *since <= at && is(*cause))
    }

    /// Whether the journal is in a later epoch by then.
    fn is_over(&self, shard: Shard, epoch: Epoch, by: Duration) -> bool {
        self.epochs.iter().any(|record| record.shard == shard && record.epoch > epoch && record.at <= by)
    }

    /// An epoch begins when the journal is another one, or has lost something, and once for each time.
    fn begun(&self, violations: &mut Vec<Violation>) {
        for shard in self.shards.shards() {
            let mut records: Vec<_> = self.epochs.iter().filter(|record| record.shard == shard).collect();
            // Where the record was lost with the journal, an epoch may begin that has the number of one before, and
            // whoever knows of that begins another after both.
            let mut numbers = HashSet::new();
            records.retain(|record| numbers.insert(record.epoch));
            for (before, record) in records.into_iter().enumerate() {
                let causes = self.causes.iter().filter(|(at, cause)| {
                    let concerns = match cause {
                        Cause::Lost(of, _) | Cause::RecordBack(of) => *of == shard,
                        _ => false,
                    };
                    concerns && *at <= record.at
                });
                if causes.count() < before {
                    let what = format!(
                        "shard {shard} is in epoch {}, and nothing was lost since the last",
                        record.epoch
                    );
                    violations.push(Violation { who: "journal".to_owned(), what });
                }
            }
        }
    }

    /// The classes that these topics may have events in, whichever policies hold.
    fn classes(&self, topics: &[Pattern]) -> BTreeSet<RetentionClass> {
        let all = (0..POLICIES).map(policies);
        let of = |policies: std::sync::Arc<Policies>| {
            let classes = topics.iter().flat_map(|topic| policies.intersecting(topic).map(Policy::class));
            classes.collect::<Vec<_>>()
        };
        all.flat_map(of).collect()
    }

    /// How many events of a channel came after one by then.
    fn newer(&self, stored: &Stored, at: Duration) -> usize {
        let now = self.time(at);
        let known = self.times[&stored.channel].iter().take_while(|(time, _)| *time <= now);
        known.skip_while(|(_, digest)| *digest != stored.digest).skip(1).count()
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

    /// What was acked as durable is in the journal in the end, whatever that lost, unless the log lost it too, or
    /// it has expired.
    fn durable(&self, cluster: &Cluster, acked: &[Acked], violations: &mut Vec<Violation>) {
        let mut say = |what| violations.push(Violation { who: "log".to_owned(), what });
        if cluster.tables.lost() > 0 {
            say(format!("{} ranges still wait to come back", cluster.tables.lost()));
        }
        if self.caused(Duration::MAX, |cause| cause == Cause::DatabaseBack) {
            return;
        }
        let there: HashSet<&str> =
            self.history.iter().filter(|stored| !stored.lost).map(|stored| stored.data.as_str()).collect();
        for acked in acked.iter().filter(|acked| acked.durable && !there.contains(acked.data.as_str())) {
            let stored = self.history.iter().filter(|stored| stored.data == acked.data);
            let expires = stored.clone().any(|stored| {
                let taken =
                    |(of, seq, _): &(Shard, u64, RetentionClass)| *of == stored.shard && *seq >= stored.seq;
                // Where nothing is left to compare, the log gives up what it has, and says so: a known limit.
                stored.ttl.is_some() || self.gone.iter().any(taken) || self.is_in_hole(stored)
            });
            if !expires && !acked.channel.starts_with("l.") {
                say(format!("{} was acked as durable, lost, and didn't come back", acked.data));
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
            let rows: HashMap<u64, _> = cluster.tables.stored(*shard).into_iter().collect();
            let (created, first, _) = cluster.servers.bounds(*shard);
            let retained = self.gone.iter().filter(|(of, ..)| of == shard).map(|(_, seq, _)| *seq).max();
            let kept = self.lasting(*shard).filter(|stored| {
                let never = stored.channel.starts_with("l.");
                stored.created == created && stored.seq >= first && !never && Some(stored.seq) > retained
            });
            for stored in kept.filter(|stored| !rows.contains_key(&stored.seq)).take(3) {
                say(format!("shard {shard}: the log lacks {} at {}", stored.data, stored.seq));
            }
            for (after, upto) in self.holes.iter().filter(|hole| hole.0 == *shard).map(|(_, a, u)| (*a, *u)) {
                let real = self.caused(Duration::MAX, |cause| match cause {
                    Cause::Purged(of, through) => of == *shard && through > after,
                    Cause::Lost(of, _) | Cause::RecordBack(of) => of == *shard,
                    Cause::DatabaseBack => true,
                    Cause::ClockJumped => false,
                });
                if !real {
                    say(format!("shard {shard}: a hole after {after} up to {upto}, and nothing was taken"));
                }
            }
            for (seq, digest) in rows {
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
    /// What it has, whichever streams and resets it came over.
    kept: BTreeMap<(Shard, u64), (Duration, &'a str)>,
    /// What it need not be given, and was passed over.
    excused: BTreeSet<(Shard, u64)>,
    /// Where it began, as far as it still has what came then.
    origins: BTreeMap<Shard, u64>,
    /// When it asked for the stream that it has.
    asked_at: Duration,
    /// Since when it is live on that.
    live_since: Option<Duration>,
}

/// A position in a shard.
type At = (Epoch, u64);

/// A feed is silent after so long without a batch.
const SILENT: Duration = Duration::from_secs(5);
/// How long it may take until a client has seen what its gateway knows, over a slow network.
const SOON: Duration = Duration::from_secs(4);
/// How long an event may be on its way after its ttl has run out.
const LATE: Duration = Duration::from_secs(15);

/// Whether nothing is left of what a shard had.
fn lost_all(cause: Cause, shard: Shard) -> bool {
    matches!(cause, Cause::Lost(of, _) if of == shard)
}

/// What a client was given since it began or was last reset.
struct Segment<'a> {
    at: Cursor,
    /// Only the newest so many of each channel are owed, until it is live.
    newest: Option<usize>,
    /// The same, and up to where that was so.
    only_newest: Option<(usize, Cursor)>,
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
        Segment {
            at: start,
            newest: None,
            only_newest: None,
            shards: truth.shards.shards().filter_map(course).collect(),
        }
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
        self.silences(&seen);
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
                Seen::Asked { last_event_id: asked, .. } => {
                    (live, open, owes_reset) = (false, true, false);
                    (self.asked_at, self.live_since) = (at, None);
                    last_event_id.clone_from(asked);
                }
                Seen::Connected { recovered, id: Some(id) } => match &mut segment {
                    Some(segment) if *recovered => self.resumes(at, segment, id),
                    Some(_) => self.say(at, "a known cursor was neither recovered nor reset"),
                    // A cursor that it wasn't given and that happens to be one: of its past nothing is owed.
                    None => {
                        let mut first = Segment::new(truth, self.client, *id);
                        if last_event_id.is_none() {
                            self.begins(at, &first);
                            if let Begin::Last(each) = self.client.begin {
                                first.newest = Some(each);
                            }
                        }
                        segment = Some(first);
                    }
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
                    self.live_since = None;
                    self.reset(at, segment.as_ref(), reason, id, last_event_id.as_deref());
                    self.gives_up(segment.as_ref(), id);
                    segment = Some(Segment::new(truth, self.client, *id));
                }
                Seen::Live { id } => {
                    live = true;
                    self.moves(at, segment.as_mut(), id);
                    self.live_since = self.live_since.or(Some(at));
                    if let Some(segment) = &mut segment
                        && let Some(each) = segment.newest.take()
                    {
                        segment.only_newest = Some((each, segment.at));
                    }
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
                if course.seqs.contains(&stored.seq) {
                    continue;
                }
                // What is never replayed isn't in the log, and the journal answers for its own epoch alone.
                let is_over = || self.truth.is_over(*shard, course.epoch, at);
                let unanswered = stored.channel.starts_with("l.") && is_over();
                if unanswered || self.is_excused(stored, at, segment.newest) {
                    self.excused.insert((*shard, stored.seq));
                } else {
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
        // Of whichever life: a loss is noticed a moment later, and then told. What came back may be where it was.
        let known = truth.at(shard, seq).filter(|stored| stored.data == data).last();
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
                self.kept.insert((shard, seq), (at, &known.data));
                let age = truth.time(at).since(known.time);
                if known.ttl.is_some_and(|ttl| age > Duration::from_secs(ttl.into()) + LATE)
                    && !truth.trouble.clocks
                {
                    self.say(at, &format!("{data} has expired and comes {age:?} after it was published"));
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
        let truth = self.truth;
        let Some(segment) = segment else { return self.say(at, "a reset before anything was given") };
        let moves = truth.shards.shards().filter_map(|shard| {
            let (before, now) = (segment.at.get(shard)?, id.get(shard)?);
            (before != now).then_some((shard, before, now))
        });
        let moves: Vec<(Shard, At, At)> = moves.collect();
        let classes = truth.classes(&self.client.topics);
        let crosses = |shard: Shard, from: u64, to: u64| {
            truth.holes.iter().any(|(of, after, upto)| *of == shard && *after < to && *upto > from)
        };
        let true_of = |(shard, (before, from), (now, to)): (Shard, At, At)| match reason {
            ResetReason::Epoch => {
                let known = truth.epoch(shard, now).is_some_and(|record| record.at <= at);
                let back =
                    || truth.caused(at, |cause| cause == Cause::RecordBack(shard) || lost_all(cause, shard));
                known && (now > before || now < before && back())
            }
            ResetReason::Expired => {
                let taken = |(of, seq, class): &(Shard, u64, RetentionClass)| {
                    *of == shard && *seq > from && classes.contains(class)
                };
                // Where the log lost the record of policies, a hole may go by that name.
                now == before && to > from && (truth.gone.iter().any(taken) || crosses(shard, from, to))
            }
            ResetReason::Hole => now == before && to > from && crosses(shard, from, to),
            ResetReason::Cursor => {
                // An open stream has passed more than it told, where there was nothing for its client.
                let is_lost = |since: Duration, cause: Cause| match cause {
                    Cause::Lost(of, last) => of == shard && (last < from || since >= self.asked_at),
                    Cause::RecordBack(of) => of == shard,
                    _ => false,
                };
                truth.causes.iter().any(|(since, cause)| *since <= at && is_lost(*since, *cause))
            }
            ResetReason::Subscription => false,
        };
        let is_true = moves.iter().any(|moved| true_of(*moved));
        // It may stay where it is: at the end of what is still the same, having passed what it wasn't owed.
        let stays = |shard: Shard| {
            let lost = |cause| lost_all(cause, shard) || cause == Cause::RecordBack(shard);
            segment.at.get(shard) == id.get(shard) && truth.caused(at, lost)
        };
        let stays = reason == ResetReason::Cursor && truth.shards.shards().any(stays);
        if !is_true && !stays {
            self.say(at, &format!("reset for {reason} from {:?} to {id:?}, and that is not so", segment.at));
        }
        for (shard, before, now) in moves {
            self.passes_over(at, shard, before, now);
        }
    }

    /// A reset passes over nothing that is still there.
    fn passes_over(&mut self, at: Duration, shard: Shard, before: At, now: At) {
        let truth = self.truth;
        let Some(record) = truth.epoch(shard, now.0) else { return };
        // Also where the record of an epoch in between was put back: the log may know of it.
        let continued = truth.epoch(shard, before.0).is_some_and(|before| before.created == record.created);
        let (classes, until) = (truth.classes(&self.client.topics), truth.time(at));
        let gone = truth.gone.iter().filter(|(of, _, class)| *of == shard && classes.contains(class));
        let floor = gone.map(|(_, seq, _)| *seq).max().unwrap_or(0);
        let from = if before.0 == now.0 { before.1 } else { 0 };
        let there = truth.lasting(shard).filter(|stored| {
            let of_epoch = stored.created == record.created && stored.life <= record.life;
            let is_there = of_epoch && !stored.was_lost && !stored.purged;
            let in_hole = truth
                .holes
                .iter()
                .any(|(of, after, upto)| *of == shard && (*after + 1..=*upto).contains(&stored.seq));
            let passed = stored.seq > from && stored.seq <= now.1 && stored.time < until;
            is_there && passed && !in_hole && stored.seq > floor && wants(self.client, stored)
        });
        if truth.forgot.contains(&shard) {
            return;
        }
        let missed: Vec<&Stored> = there
            .filter(|stored| {
                let at_seq = (shard, stored.seq);
                let had = continued && (self.kept.contains_key(&at_seq) || self.excused.contains(&at_seq))
                    || stored.seq <= self.origin(shard);
                !had && !self.is_excused(stored, at, None)
            })
            .take(3)
            .collect();
        for stored in missed {
            self.say(
                at,
                &format!(
                    "the reset to {now:?} passes over {} at {}, which is there",
                    stored.data, stored.seq
                ),
            );
        }
    }

    /// Before this seq nothing was ever owed to it.
    fn origin(&self, shard: Shard) -> u64 {
        self.origins.get(&shard).copied().unwrap_or(0)
    }

    /// Whoever is reset gives up what came after the reset's position, and keeps what came before it.
    fn gives_up(&mut self, segment: Option<&Segment<'_>>, id: &Cursor) {
        for shard in self.truth.shards.shards() {
            let before = segment.and_then(|segment| segment.at.get(shard));
            let same = before.zip(id.get(shard)).is_some_and(|((before, _), (now, _))| {
                // Also where the record of an epoch in between was put back: the log may know of it.
                let created = |epoch| self.truth.epoch(shard, epoch).map(|record| record.created);
                before == now || created(before) == created(now)
            });
            let to = id.get(shard).map_or(0, |(_, to)| to);
            // A reset that goes on past what has expired also tells that what differs is wrong.
            let (from, until) = (before.map_or(Epoch::new(0), |(epoch, _)| epoch), id.get(shard));
            let between = self.truth.epochs.iter().filter(|record| {
                record.shard == shard
                    && record.epoch > from
                    && until.is_some_and(|(now, _)| record.epoch <= now)
            });
            let differs = between.map(|record| record.first_seq).min().unwrap_or(u64::MAX);
            let told =
                self.kept.keys().filter(|(of, seq)| same && *of == shard && *seq >= differs && *seq <= to);
            self.excused.extend(told.copied());
            self.kept.retain(|(of, seq), _| *of != shard || same && *seq <= to && *seq < differs);
            match before {
                None => drop(self.origins.insert(shard, to)),
                Some(_) if !same => drop(self.origins.remove(&shard)),
                Some(_) => {}
            }
        }
    }

    /// Where a stream begins nothing is passed over that was asked for.
    fn begins(&mut self, at: Duration, first: &Segment<'_>) {
        let truth = self.truth;
        for (shard, course) in &first.shards {
            self.origins.insert(*shard, course.from);
            let Some(record) = truth.epoch(*shard, course.epoch) else { continue };
            let floor = truth.gone.iter().filter(|(of, ..)| of == shard).map(|(_, seq, _)| *seq).max();
            let asked = |stored: &Stored| match self.client.begin {
                Begin::Now => false,
                Begin::Since(time) => stored.time >= time,
                Begin::Last(each) => truth.newer(stored, at) < each,
            };
            // What came while it was asked for may be after the beginning.
            let until = truth.time(at.saturating_sub(Duration::from_secs(12)));
            let passed = truth.lasting(*shard).filter(|stored| {
                let there = stored.created == record.created && !stored.was_lost && !stored.purged;
                let known = stored.seq <= course.from && stored.time < until && Some(stored.seq) > floor;
                // A log that was put back has what its journal still had then, and no more of this epoch.
                let put_back = truth.caused(at, |cause| matches!(cause, Cause::DatabaseBack));
                let dropped = put_back && stored.seq < truth.first(*shard) || truth.is_in_hole(stored);
                there && !dropped && known && asked(stored) && wants(self.client, stored)
            });
            let passed: Vec<String> = passed
                .filter(|stored| !self.is_excused(stored, at, None))
                .map(|stored| stored.data.clone())
                .take(3)
                .collect();
            if !passed.is_empty() {
                self.say(at, &format!("begins after {shard}:{}, and {passed:?} were asked for", course.from));
            }
        }
    }

    /// Whether an event need not be given at a moment.
    fn is_excused(&self, stored: &Stored, at: Duration, newest: Option<usize>) -> bool {
        let truth = self.truth;
        if let Some(each) = newest {
            // Of those that are there.
            let class = |(_, _, class): &&(Shard, u64, RetentionClass)| {
                truth.classes(&self.client.topics).contains(class)
            };
            let gone = truth.gone.iter().filter(|(of, seq, _)| stored.shard == *of && *seq >= stored.seq);
            let is_gone = stored.purged || truth.is_in_hole(stored) || gone.clone().any(|gone| class(&gone));
            if is_gone || truth.newer(stored, at) >= each {
                return true;
            }
        }
        if stored.ttl.is_some_and(|ttl| ttl < 60) {
            return true;
        }
        if stored.channel.starts_with("n.") {
            return truth.newer(stored, at) >= usize::try_from(NEWEST).unwrap_or(usize::MAX);
        }
        if stored.channel.starts_with("l.") {
            let there = self.live_since.is_some_and(|since| truth.time(since) < stored.time);
            return !(there && truth.keeps_all && !truth.trouble.purges);
        }
        false
    }

    /// Whoever is live hears within a moment that the feed has been silent for 5 s, and that it is over.
    fn silences(&mut self, seen: &[(Duration, Seen)]) {
        if self.client.slow {
            return;
        }
        let truth = self.truth;
        let begins = seen.iter().enumerate().filter(|(_, (_, what))| matches!(what, Seen::Asked { .. }));
        let begins: Vec<usize> = begins.map(|(nth, _)| nth).collect();
        for (nth, process) in self.client.asked().iter().enumerate() {
            let Some(from) = begins.get(nth).copied() else { return };
            let until = begins.get(nth + 1).copied().unwrap_or(seen.len());
            let stream = &seen[from..until];
            let ends = stream.iter().find(|(_, what)| matches!(what, Seen::Cut | Seen::End { .. }));
            let ends = ends.map_or(Duration::MAX, |(at, _)| *at);
            for shard in truth.shards.shards() {
                let listens = self.client.topics.iter().any(|topic| {
                    let exact = !topic.as_str().contains(['*', '>']);
                    !exact || truth.shards.shard_of_str(topic.as_str()) == shard
                });
                for (since, over) in process.silences(shard) {
                    let told_by = since + SILENT + SOON;
                    let unclear = !listens
                        || over < told_by
                        || ends < told_by
                        || process.stopped_between(since, told_by);
                    let (before, after) = stream.split_at(stream.partition_point(|(at, _)| *at <= since));
                    let state =
                        before.iter().rfind(|(_, what)| matches!(what, Seen::Live { .. } | Seen::Stale));
                    let live = state.is_some_and(|(_, what)| matches!(what, Seen::Live { .. }));
                    let after = &after[..after.partition_point(|(at, _)| *at <= told_by)];
                    let told = after.iter().any(|(_, what)| matches!(what, Seen::Stale | Seen::Reset { .. }));
                    // Whoever waits for the log is not told, and hears nothing else either.
                    let writes = after.iter().any(|(at, _)| *at > since + SILENT);
                    if live && !unclear && writes && !told {
                        self.say(
                            told_by,
                            &format!("shard {shard} was silent since {since:?}, and it was not told"),
                        );
                    }
                }
            }
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
            let excused = |seq: u64| {
                let only = segment
                    .only_newest
                    .filter(|(_, until)| until.get(*shard).is_some_and(|(_, to)| seq <= to));
                let newest = segment.newest.or(only.map(|(each, _)| each));
                let mut there = self.truth.at(*shard, seq).filter(|stored| !stored.lost);
                self.excused.contains(&(*shard, seq))
                    || there.any(|stored| self.is_excused(stored, at, newest))
            };
            let missing: Vec<_> = owed
                .iter()
                .filter(|(seq, data)| given.get(seq) != Some(data) && !excused(**seq))
                .take(5)
                .collect();
            let wrong: Vec<_> =
                given.iter().filter(|(seq, data)| owed.get(seq) != Some(data)).take(5).collect();
            if !missing.is_empty() || !wrong.is_empty() {
                self.say(
                    at,
                    &format!("shard {shard} from {epoch}:{from}: missing {missing:?}, wrong {wrong:?}"),
                );
            }
            // What it was given before it was reset, and was not told to give up.
            let is_wrong = |((of, seq), (_, data)): &(&(Shard, u64), &(Duration, &str))| {
                let mut there = self.truth.at(*of, *seq);
                of == shard && !there.any(|stored| !stored.lost && stored.data == *data)
            };
            let wrong = self.kept.iter().filter(is_wrong).map(|((_, seq), (_, data))| (*seq, *data));
            let wrong: Vec<_> = wrong.take(5).collect();
            if !wrong.is_empty() && !self.truth.forgot.contains(shard) {
                self.say(at, &format!("shard {shard}: it was never told to give up {wrong:?}"));
            }
        }
    }
}
