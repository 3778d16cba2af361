//! Who listens to the channels that a gateway looks after, by what all gateways say, and what listeners have been told.
//!
//! What is to be told is the difference between the two, looked at now and again: who comes back in time makes none, and
//! what could not be told is told later, as it is by then.
//!
//! Two gateways look after a channel. One tells; the other does the same in silence, a little later, so that it knows
//! what has been told when the first is gone. What was told just before may be told twice then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use foghorn_bus::gateways::GatewayName;
use foghorn_core::channel::Channel;

use super::message::{Change, Heard, Report, part_of_sum};
use crate::members::SILENT;

/// Most changes of a channel that are told one by one at a time; more are told as one `count`.
const NAMED_MOST: usize = 20;
/// Changes of channels with more listeners are told by `count` alone.
const NAMED_LISTENERS: usize = 1000;
/// How long nothing more is told on a channel after something was.
const PAUSE: Duration = Duration::from_secs(1);
/// Listeners that may be told in a second, about: the pause of a channel with more of them is longer.
const TOLD_PER_SECOND: f64 = 5000.0;
/// How much later whoever tells in silence does so: by then it knows that the other one is gone.
const LATER: Duration = SILENT.saturating_add(Duration::from_secs(2));
/// Users on channels, by gateway, that are kept in mind: about 200 MB. What finds no room isn't told.
const KNOWN_MAX: usize = 1_000_000;

/// What listeners are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) action: Action,
    /// These are known to be there from then on.
    joined: Vec<Arc<str>>,
    /// These are not any more.
    left: Vec<Arc<str>>,
    anonymous: usize,
    /// How many listen: users, and streams of nobody in particular.
    count: usize,
}

/// How it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// A user listens who didn't.
    Join,
    /// One doesn't any more.
    Leave,
    /// More changed than is told one by one, or nobody in particular came or went: so many listen.
    Count,
}

impl Action {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Action::Join => "join",
            Action::Leave => "leave",
            Action::Count => "count",
        }
    }
}

/// An event's data.
#[derive(Serialize)]
struct Data<'a> {
    channel: &'a str,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    count: usize,
}

impl Told {
    /// The data of the event on this channel.
    pub(super) fn data(&self, channel: &Channel) -> String {
        let user = match self.action {
            Action::Join => self.joined.first(),
            Action::Leave => self.left.first(),
            Action::Count => None,
        };
        let (channel, user) = (channel.as_str(), user.map(|user| &**user));
        let data = Data { channel, action: self.action, user, count: self.count };
        serde_json::to_string(&data).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Roster {
    /// How long somebody has to be gone before listeners are told.
    debounce: Duration,
    rooms: HashMap<Channel, Room>,
    /// Those where something may have to be told.
    pending: HashSet<Channel>,
    /// What the listeners of each gateway add up to.
    sums: HashMap<GatewayName, u64>,
    known: usize,
    unkept: u64,
    /// Of a channel that is new until then, others may have been looking after until now: who is there is no news.
    settled: Instant,
}

#[derive(Debug, Default)]
struct Room {
    /// Where each user listens.
    users: HashMap<Arc<str>, Vec<GatewayName>>,
    anonymous: HashMap<GatewayName, usize>,
    told: HashSet<Arc<str>>,
    told_anonymous: usize,
    /// Who is here and not told, since when.
    joined: HashMap<Arc<str>, Instant>,
    /// Who is told and not here, since when.
    left: HashMap<Arc<str>, Instant>,
    /// Since when there are more or fewer of nobody in particular than was told.
    anonymous_since: Option<Instant>,
    /// Whether another gateway tells.
    silent: bool,
    /// How long somebody has to be gone before that one can have told it.
    untold_for: Duration,
    /// Nothing is told before.
    next: Option<Instant>,
    /// Nor before this; then how many there are.
    settles: Option<Instant>,
}

impl Roster {
    pub(super) fn new(debounce: Duration) -> Self {
        Roster {
            debounce,
            rooms: HashMap::new(),
            pending: HashSet::new(),
            sums: HashMap::new(),
            known: 0,
            unkept: 0,
            settled: Instant::now() + debounce,
        }
    }

    /// Whether something may have to be told before long.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// How many changes have found no room, since it was last asked.
    pub(super) fn take_unkept(&mut self) -> u64 {
        std::mem::take(&mut self.unkept)
    }

    /// It has changed which gateways live.
    pub(super) fn unsettle(&mut self, now: Instant) {
        self.settled = now + self.debounce;
    }

    /// These gateways live: others have no listeners.
    pub(super) fn live(&mut self, gateways: &[GatewayName], now: Instant) {
        let gone: Vec<_> = self.sums.keys().filter(|gateway| !gateways.contains(gateway)).copied().collect();
        gone.into_iter().for_each(|gateway| self.forget(gateway, now));
    }

    /// What a gateway says of its listeners.
    pub(super) fn hear(&mut self, report: &Report, now: Instant) -> Heard {
        let gateway = GatewayName::new(report.gateway);
        if report.anew {
            self.forget(gateway, now);
        }
        self.sums.entry(gateway).or_default();
        report.changes.iter().for_each(|change| self.take(gateway, change, now));
        let here = self.sums.get(&gateway);
        // At the bound it need not add up.
        Heard { anew: self.known < KNOWN_MAX && report.sum.is_some_and(|sum| here != Some(&sum)) }
    }

    fn take(&mut self, gateway: GatewayName, change: &Change, now: Instant) {
        let Ok(channel) = Channel::parse(change.channel.as_str()) else { return };
        let is_new = !self.rooms.contains_key(&channel);
        if change.streams > 0 && self.known >= KNOWN_MAX || change.streams == 0 && is_new {
            self.unkept += u64::from(change.streams > 0);
            return;
        }
        let room = self.rooms.entry(channel.clone()).or_default();
        room.untold_for = self.debounce.saturating_sub(PAUSE);
        if is_new && now < self.settled {
            room.settles = Some(self.settled);
        }
        let user = change.user.as_deref();
        let (before, after) = match user {
            Some(user) => room.user(gateway, user, change.streams > 0, now),
            None => room.anonymous(gateway, change.streams, now),
        };
        let part = part_of_sum(&channel, user, before) ^ part_of_sum(&channel, user, after);
        *self.sums.entry(gateway).or_default() ^= part;
        self.known = self.known + usize::from(after > 0) - usize::from(before > 0);
        self.pending.insert(channel);
    }

    /// A gateway has no listeners, or is to say anew which.
    fn forget(&mut self, gateway: GatewayName, now: Instant) {
        if self.sums.remove(&gateway).is_none() {
            return;
        }
        for (channel, room) in &mut self.rooms {
            let of_gateway =
                |(user, at): (&Arc<str>, &Vec<GatewayName>)| at.contains(&gateway).then(|| user.clone());
            let users: Vec<_> = room.users.iter().filter_map(of_gateway).collect();
            let (before, _) = room.anonymous(gateway, 0, now);
            self.known -= users.len() + usize::from(before > 0);
            if !users.is_empty() || before > 0 {
                self.pending.insert(channel.clone());
            }
            users.iter().for_each(|user| _ = room.user(gateway, user, false, now));
        }
    }

    /// What is to be told now, at most so many events, on channels where this gateway `tells`. Where another does, that
    /// counts as told.
    pub(super) fn due(
        &mut self,
        now: Instant,
        most: usize,
        tells: impl Fn(&Channel) -> bool,
    ) -> Vec<(Channel, Vec<Told>)> {
        let (mut due, mut events) = (Vec::new(), 0);
        for channel in self.pending.iter().cloned().collect::<Vec<_>>() {
            if events >= most {
                break;
            }
            let Some(room) = self.rooms.get_mut(&channel) else { continue };
            let tells = tells(&channel);
            room.silent = !tells;
            let later = if tells { Duration::ZERO } else { LATER };
            let told = room.due(now, later, self.debounce + later);
            if tells && !told.is_empty() {
                events += told.len();
                due.push((channel, told));
            } else {
                told.iter().for_each(|told| room.done(told, now));
                self.tidy(&channel);
            }
        }
        due
    }

    /// Listeners were told, or never will be.
    pub(super) fn done(&mut self, channel: &Channel, told: &Told, now: Instant) {
        if let Some(room) = self.rooms.get_mut(channel) {
            room.done(told, now);
            self.tidy(channel);
        }
    }

    /// They could not be told.
    pub(super) fn failed(&mut self, channel: &Channel, now: Instant) {
        if let Some(room) = self.rooms.get_mut(channel) {
            room.next = Some(now + PAUSE);
        }
    }

    fn tidy(&mut self, channel: &Channel) {
        if self.rooms.get(channel).is_some_and(|room| !room.is_pending()) {
            self.pending.remove(channel);
        }
        if self.rooms.get(channel).is_some_and(Room::is_empty) {
            self.rooms.remove(channel);
        }
    }
}

impl Room {
    /// Whether a user listens at a gateway, before and now, as numbers.
    fn user(&mut self, gateway: GatewayName, user: &str, listens: bool, now: Instant) -> (usize, usize) {
        let listened = self.users.get(user).is_some_and(|at| at.contains(&gateway));
        if listened == listens {
            return (usize::from(listened), usize::from(listens));
        }
        if listens {
            let user: Arc<str> = user.into();
            // What another tells may have been told, or not: when that one is gone, it is told again. Not who is back
            // before it can have been, as when a gateway says anew who listens there.
            let long = |since: Instant| now.duration_since(since) >= self.untold_for;
            if self.left.remove(&user).is_some_and(long) && self.silent {
                self.told.remove(&user);
            }
            if !self.told.contains(&user) {
                self.joined.entry(user.clone()).or_insert(now);
            }
            self.users.entry(user).or_default().push(gateway);
        } else if let Some((user, mut at)) = self.users.remove_entry(user) {
            at.retain(|other| *other != gateway);
            if !at.is_empty() {
                self.users.insert(user, at);
            } else {
                let untold = self.joined.remove(&user).is_some();
                if !untold || self.silent {
                    self.told.insert(user.clone());
                    self.left.insert(user, now);
                }
            }
        }
        (usize::from(listened), usize::from(listens))
    }

    /// How many streams of nobody in particular there are at a gateway, before and now.
    fn anonymous(&mut self, gateway: GatewayName, streams: usize, now: Instant) -> (usize, usize) {
        let before = match streams {
            0 => self.anonymous.remove(&gateway),
            _ => self.anonymous.insert(gateway, streams),
        };
        self.look_at_anonymous(now);
        (before.unwrap_or(0), streams)
    }

    fn look_at_anonymous(&mut self, now: Instant) {
        let as_told = self.anonymous.values().sum::<usize>() == self.told_anonymous;
        self.anonymous_since = if as_told { None } else { self.anonymous_since.or(Some(now)) };
    }

    /// What there is to tell of who has been here for `joined_for`, or gone for `left_for`.
    fn due(&self, now: Instant, joined_for: Duration, left_for: Duration) -> Vec<Told> {
        if self.next.is_some_and(|next| now < next) || self.settles.is_some_and(|settles| now < settles) {
            return Vec::new();
        }
        let settled = self.settles.is_some();
        let since = |changed: &HashMap<Arc<str>, Instant>, long: Duration| -> Vec<Arc<str>> {
            let is_due = |since: &Instant| settled || now.duration_since(*since) >= long;
            changed.iter().filter(|(_, at)| is_due(at)).map(|(user, _)| user.clone()).collect()
        };
        let (joined, left) = (since(&self.joined, joined_for), since(&self.left, left_for));
        let shown = self.anonymous_since.is_some_and(|at| settled || now.duration_since(at) >= left_for);
        let anonymous = if shown { self.anonymous.values().sum() } else { self.told_anonymous };
        let mut count = self.told.len() + self.told_anonymous;
        let after = self.told.len() + joined.len() - left.len() + anonymous;
        let changes = joined.len() + left.len();
        if settled || changes > NAMED_MOST || changes > 0 && count.max(after) > NAMED_LISTENERS {
            return vec![Told { action: Action::Count, joined, left, anonymous, count: after }];
        }
        let mut told = Vec::new();
        let mut tell = |action, joined, left, anonymous, count| {
            told.push(Told { action, joined, left, anonymous, count });
        };
        for user in left {
            count -= 1;
            tell(Action::Leave, Vec::new(), vec![user], self.told_anonymous, count);
        }
        for user in joined {
            count += 1;
            tell(Action::Join, vec![user], Vec::new(), self.told_anonymous, count);
        }
        if shown {
            tell(Action::Count, Vec::new(), Vec::new(), anonymous, after);
        }
        told
    }

    fn done(&mut self, told: &Told, now: Instant) {
        self.settles = None;
        for user in &told.joined {
            self.joined.remove(user);
            self.told.insert(user.clone());
            // Gone meanwhile.
            if !self.users.contains_key(user) {
                self.left.insert(user.clone(), now);
            }
        }
        for user in &told.left {
            self.left.remove(user);
            self.told.remove(user);
            // Back meanwhile.
            if self.users.contains_key(user) {
                self.joined.insert(user.clone(), now);
            }
        }
        self.told_anonymous = told.anonymous;
        self.anonymous_since = None;
        self.look_at_anonymous(now);
        #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let share = Duration::from_secs_f64(told.count as f64 / TOLD_PER_SECOND);
        self.next = Some(now + PAUSE.max(share));
    }

    fn is_pending(&self) -> bool {
        self.settles.is_some()
            || !self.joined.is_empty()
            || !self.left.is_empty()
            || self.anonymous_since.is_some()
    }

    fn is_empty(&self) -> bool {
        !self.is_pending() && self.users.is_empty() && self.anonymous.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBOUNCE: Duration = Duration::from_secs(5);

    /// A roster with what is told by it, and a clock that is put forward by hand.
    struct Stage {
        roster: Roster,
        now: Instant,
        tells: bool,
    }

    impl Stage {
        /// One that has been there for long.
        fn new() -> Self {
            let roster = Roster::new(DEBOUNCE);
            let now = roster.settled;
            Stage { roster, now, tells: true }
        }

        fn says(&mut self, gateway: u64, changes: &[(&str, usize)]) {
            let change = |(user, streams): &(&str, usize)| Change {
                channel: "room".to_owned(),
                user: (!user.is_empty()).then(|| (*user).to_owned()),
                streams: *streams,
            };
            let changes = changes.iter().map(change).collect();
            self.roster.hear(&Report { gateway, anew: false, changes, sum: None }, self.now);
        }

        fn pass(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
        }

        fn due(&mut self) -> Vec<(Channel, Vec<Told>)> {
            let tells = self.tells;
            self.roster.due(self.now, 1000, |_| tells)
        }

        /// What is told now, sorted.
        fn told(&mut self) -> Vec<String> {
            let mut all = Vec::new();
            for (channel, told) in self.due() {
                for told in told {
                    self.roster.done(&channel, &told, self.now);
                    let user =
                        told.joined.first().or(told.left.first()).filter(|_| told.action != Action::Count);
                    let user = user.map(|user| format!(" {user}")).unwrap_or_default();
                    all.push(format!("{}{user} {}", told.action.as_str(), told.count));
                }
            }
            all
        }

        /// What is told within so many seconds.
        fn told_within(&mut self, seconds: u64) -> Vec<String> {
            let mut all = Vec::new();
            for _ in 0..seconds * 5 {
                all.extend(self.told());
                self.pass(200);
            }
            all
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_is_told_at_once_and_who_goes_once_they_are_not_back_in_time() {
        let mut stage = Stage::new();
        stage.says(1, &[("ann", 1)]);
        assert_eq!(stage.told(), ["join ann 1"]);
        // By another gateway too, then by that one alone.
        stage.says(2, &[("ann", 1)]);
        stage.says(1, &[("ann", 0)]);
        assert_eq!(stage.told_within(10), [""; 0]);
        stage.says(2, &[("ann", 0)]);
        stage.pass(4900);
        stage.says(1, &[("ann", 1)]);
        assert_eq!(stage.told_within(10), [""; 0], "back in time");
        stage.says(1, &[("ann", 0)]);
        stage.pass(4800);
        assert_eq!(stage.told(), [""; 0]);
        stage.pass(200);
        assert_eq!(stage.told(), ["leave ann 0"]);
        assert!(stage.roster.rooms.is_empty() && stage.roster.pending.is_empty() && stage.roster.known == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_of_nobody_in_particular_are_told_by_their_number_when_it_lasts() {
        let mut stage = Stage::new();
        stage.says(1, &[("ann", 1), ("", 2)]);
        assert_eq!(stage.told_within(10), ["join ann 1", "count 3"]);
        stage.says(1, &[("", 1)]);
        stage.pass(3000);
        stage.says(2, &[("", 1)]);
        assert_eq!(stage.told_within(10), [""; 0]);
        stage.says(2, &[("", 0)]);
        assert_eq!(stage.told_within(10), ["count 2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_one_event_and_the_more_listen_the_less_often_they_are_told() {
        let mut stage = Stage::new();
        let users: Vec<_> = (0..18_000).map(|n| format!("u{n}")).collect();
        let come: Vec<_> = users.iter().map(|user| (user.as_str(), 1)).collect();
        stage.says(1, &come);
        assert_eq!(stage.told(), ["count 18000"]);
        // A hundred more in a second, as they come.
        let more: Vec<_> = (0..100).map(|n| format!("v{n}")).collect();
        let mut told = Vec::new();
        for ten in more.chunks(10) {
            stage.says(2, &ten.iter().map(|user| (user.as_str(), 1)).collect::<Vec<_>>());
            stage.pass(100);
            told.extend(stage.told());
        }
        assert_eq!(told, [""; 0]);
        assert_eq!(stage.told_within(10), ["count 18100"], "3.6 s after the last");
        // Few by name, many at a time by number.
        let mut stage = Stage::new();
        stage.says(1, &come[..20]);
        assert_eq!(stage.told().len(), 20);
        stage.says(1, &come[20..41]);
        assert_eq!(stage.told(), [""; 0], "not a second later");
        stage.pass(1000);
        assert_eq!(stage.told(), ["count 41"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_there_when_a_gateway_begins_to_look_after_a_channel_is_no_news() {
        let mut stage = Stage::new();
        stage.roster.unsettle(stage.now);
        stage.says(1, &[("ann", 1), ("bob", 1)]);
        stage.pass(2000);
        stage.says(2, &[("eve", 1), ("", 1)]);
        assert_eq!(stage.told_within(10), ["count 4"]);
        stage.says(2, &[("eve", 0), ("dan", 1)]);
        assert_eq!(stage.told_within(10), ["join dan 5", "leave eve 4"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_there_is_no_news_when_a_gateway_says_anew_who_listens_there() {
        let mut stage = Stage { tells: false, ..Stage::new() };
        let users: Vec<_> = (0..30).map(|n| format!("u{n}")).collect();
        let there: Vec<_> = users.iter().map(|user| (user.as_str(), 1)).collect();
        stage.says(1, &there);
        assert_eq!(stage.told_within(20), [""; 0]);
        // The other one is gone, and before anything else has changed here.
        stage.tells = true;
        stage.roster.hear(&Report { gateway: 1, anew: true, changes: Vec::new(), sum: None }, stage.now);
        stage.says(1, &there);
        assert_eq!(stage.told_within(20), [""; 0]);
        stage.says(1, &[("u0", 0)]);
        assert_eq!(stage.told_within(20), ["leave u0 29"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_looked_after_a_channel_in_silence_goes_on_where_the_other_died() {
        let mut stage = Stage::new();
        stage.tells = false;
        stage.says(1, &[("ann", 1), ("bob", 1)]);
        stage.says(2, &[("eve", 1)]);
        assert_eq!(stage.told_within(20), [""; 0]);
        // One comes and one goes shortly before gateway 1, which told all that or not, dies with its listeners.
        stage.says(1, &[("fay", 1)]);
        stage.says(2, &[("eve", 0), ("dan", 1)]);
        assert_eq!(stage.told_within(6), [""; 0]);
        stage.roster.live(&[GatewayName::new(2), GatewayName::new(3)], stage.now);
        stage.tells = true;
        let mut told = stage.told();
        told.sort();
        assert_eq!(told, ["join dan 4", "leave eve 3"]);
        // Two come back.
        stage.says(3, &[("bob", 1)]);
        stage.says(2, &[("eve", 1)]);
        let mut told = stage.told_within(20);
        told.iter_mut().for_each(|told| _ = told.pop());
        told.sort();
        assert_eq!(told, ["join eve ", "leave ann ", "leave fay "]);
        let room = &stage.roster.rooms[&Channel::parse("room").unwrap()];
        assert_eq!((room.told.len(), room.users.len()), (3, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_told_is_told_later_as_it_is_by_then() {
        let mut stage = Stage::new();
        stage.says(1, &[("ann", 1), ("bob", 1)]);
        let due = stage.due();
        assert_eq!((due.len(), due[0].1.len()), (1, 2));
        stage.roster.failed(&due[0].0, stage.now);
        stage.says(1, &[("bob", 0), ("eve", 1)]);
        assert_eq!(stage.told(), [""; 0]);
        let mut told = stage.told_within(3);
        told.iter_mut().for_each(|told| told.truncate("join ann".len()));
        told.sort();
        assert_eq!(told, ["join ann", "join eve"]);
        // One who goes while it is told is told to have gone, too.
        stage.says(1, &[("fay", 1)]);
        let due = stage.due();
        stage.says(1, &[("fay", 0)]);
        stage.roster.done(&due[0].0, &due[0].1[0], stage.now);
        assert_eq!(stage.told_within(10), ["leave fay 2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_add_up_is_to_be_said_anew() {
        let mut stage = Stage::new();
        let channel = Channel::parse("room").unwrap();
        let sum = part_of_sum(&channel, Some("ann"), 1) ^ part_of_sum(&channel, None, 2);
        let change = |user: Option<&str>, streams| Change {
            channel: "room".to_owned(),
            user: user.map(str::to_owned),
            streams,
        };
        let mut hear = |anew, changes, sum| {
            stage.roster.hear(&Report { gateway: 1, anew, changes, sum }, stage.now).anew
        };
        assert!(hear(false, vec![change(Some("ann"), 1)], Some(sum)), "one was lost on the way");
        assert!(!hear(true, vec![change(Some("ann"), 1)], None), "more is to come");
        assert!(!hear(false, vec![change(None, 2)], Some(sum)));
        assert!(!hear(false, vec![change(None, 2)], Some(sum)), "said twice");
        assert!(!hear(false, vec![change(Some("ann"), 0), change(None, 0)], Some(0)));
        assert!(hear(false, vec![], Some(sum)) && !hear(true, vec![], Some(0)));
        assert_eq!(stage.roster.known, 0);
    }
}
