//! A listener: comes back with its cursor whenever its stream ends, and checks every event as it comes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_core::cursor::Cursor;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::ledger::At;
use super::{GROUPS, Shared, channel};
use crate::sse::{Block, NoBlock, SseClient};

/// A stream is kept alive every 5 s, and no fault lasts for longer than 30 s.
const SILENCE: Duration = Duration::from_secs(60);
/// How long listeners have for what is left when everything is published; what is not there then is missing.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// How a listener behaves.
#[derive(Debug, Clone, Copy)]
enum Habit {
    /// Stays until its stream ends.
    Stays,
    /// Leaves after a while and comes back after another; these are the most seconds of each.
    Comes { stay: f64, away: f64 },
}

/// What is known of one of its channels.
#[derive(Debug)]
struct Expected {
    next: usize,
    /// Where the ledger keeps it.
    place: usize,
}

/// One that listens.
pub(super) struct Listener {
    shared: Arc<Shared>,
    name: String,
    query: String,
    habit: Habit,
    random: fastrand::Rng,
    /// Which gateway is next.
    turn: usize,
    cursor: String,
    expected: HashMap<usize, Expected>,
    /// The last seq in each shard.
    seqs: HashMap<u8, u64>,
    totals: watch::Receiver<Option<Vec<usize>>>,
    give_up: Option<Instant>,
    live: Arc<AtomicUsize>,
    was_live: bool,
    /// Since when it hears what comes, not what it had missed.
    live_since_ms: Option<u64>,
}

/// How a stream went on or ended.
enum Turn {
    GoesOn,
    Ended,
    /// It has everything, or gives up.
    Done,
}

impl Listener {
    /// The listener of this number; `live` counts those that have been live once.
    pub(super) fn new(
        shared: Arc<Shared>,
        number: usize,
        totals: watch::Receiver<Option<Vec<usize>>>,
        live: Arc<AtomicUsize>,
    ) -> Self {
        let mut random = fastrand::Rng::with_seed(shared.plan.seed.wrapping_add(number as u64 + 1));
        let publishers = shared.plan.publishers;
        let (topics, channels) = topics(number, publishers, &mut random);
        let habit = match number / 10 % 4 {
            _ if shared.plan.stay => Habit::Stays,
            0 | 1 => Habit::Stays,
            2 => Habit::Comes { stay: 20.0, away: 5.0 },
            _ => Habit::Comes { stay: 40.0, away: 40.0 },
        };
        let expected = channels
            .into_iter()
            .map(|c| (c, Expected { next: 0, place: shared.ledger.listens(c) }))
            .collect();
        let envelope = if number.is_multiple_of(3) { "&envelope=1" } else { "" };
        Listener {
            name: format!("listener {number} ({topics}, {habit:?})"),
            query: format!("channels={topics}{envelope}"),
            shared,
            habit,
            random,
            turn: number,
            cursor: String::new(),
            expected,
            seqs: HashMap::new(),
            totals,
            give_up: None,
            live,
            was_live: false,
            live_since_ms: None,
        }
    }

    /// Listens until it has everything there is, once that is known.
    pub(super) async fn run(mut self) {
        loop {
            self.turn += 1;
            self.look_at_the_time();
            match self.stream().await {
                Turn::Done => return,
                Turn::GoesOn | Turn::Ended => {}
            }
            if self.was_live {
                self.shared.ledger.reconnected();
            }
            self.stay_away().await;
        }
    }

    async fn stay_away(&mut self) {
        let least = 0.05 + self.random.f64() * 0.5;
        let away = match self.habit {
            Habit::Comes { away, .. } if self.totals.borrow().is_none() => self.random.f64() * away,
            _ => 0.0,
        };
        let mut totals = self.totals.clone();
        tokio::select! {
            () = sleep(Duration::from_secs_f64(least.max(away))) => {}
            _ = totals.wait_for(Option::is_some), if away > 0.0 => {}
        }
    }

    /// When everything is published, its time begins to run.
    fn look_at_the_time(&mut self) {
        if self.totals.borrow_and_update().is_some() && self.give_up.is_none() {
            self.give_up = Some(Instant::now() + LAST_WAIT);
        }
    }

    /// One stream, from its beginning to its end.
    async fn stream(&mut self) -> Turn {
        let gateways = &self.shared.addresses.gateways;
        let url = format!("http://{}/api/events?{}", gateways[self.turn % gateways.len()], self.query);
        let cursor = self.cursor.clone();
        let headers: Vec<(&str, &str)> =
            Some(("Last-Event-ID", &*cursor)).filter(|_| !cursor.is_empty()).into_iter().collect();
        self.live_since_ms = None;
        let mut stream = match SseClient::connect(&url, &headers).await {
            Ok(stream) => stream,
            Err(error) => return self.done_or(Turn::Ended, || format!("no gateway answers: {error:#}")),
        };
        if stream.status() != 200 {
            self.shared.ledger.violation(&format!("{} got status {}", self.name, stream.status()));
            return Turn::Ended;
        }
        let leaves = match self.habit {
            Habit::Stays => None,
            Habit::Comes { stay, .. } => {
                Some(Instant::now() + Duration::from_secs_f64(self.random.f64() * stay))
            }
        };
        let mut silent_since = Instant::now();
        loop {
            self.look_at_the_time();
            if let turn @ (Turn::Ended | Turn::Done) = self.done_or(Turn::GoesOn, || "still open".to_owned())
            {
                return turn;
            }
            let leaves = leaves.filter(|_| self.give_up.is_none() && self.was_live);
            let now = Instant::now();
            if leaves.is_some_and(|at| now >= at) {
                return Turn::Ended;
            }
            let until = [Some(silent_since + SILENCE), leaves, self.give_up].into_iter().flatten().min();
            let limit = until.map_or(SILENCE, |until| until.saturating_duration_since(now));
            let block = tokio::select! {
                block = stream.next_within(limit) => block,
                _ = self.totals.changed() => continue,
            };
            match block {
                Ok(block) => {
                    silent_since = Instant::now();
                    stream.last_event_id().clone_into(&mut self.cursor);
                    self.take(&block);
                }
                Err(NoBlock::Quiet) if silent_since.elapsed() >= SILENCE => {
                    self.shared
                        .ledger
                        .violation(&format!("{}: nothing for {SILENCE:?} from {url}", self.name));
                    return Turn::Ended;
                }
                Err(NoBlock::Quiet) => {}
                Err(NoBlock::End | NoBlock::Broken(_)) => return Turn::Ended,
            }
        }
    }

    /// `Done` when it has everything or its time is over, which is a violation; else `otherwise`.
    fn done_or(&self, otherwise: Turn, how: impl Fn() -> String) -> Turn {
        let totals = self.totals.borrow();
        let Some(totals) = totals.as_ref() else { return otherwise };
        let missing: Vec<String> = self
            .expected
            .iter()
            .filter(|(channel, expected)| expected.next < totals[**channel])
            .map(|(channel, expected)| {
                format!(
                    "{} from {} of {}",
                    self.shared.ledger.name(*channel),
                    expected.next,
                    totals[*channel]
                )
            })
            .collect();
        if missing.is_empty() {
            return Turn::Done;
        }
        if self.give_up.is_some_and(|at| Instant::now() >= at) {
            self.shared.ledger.violation(&format!("{} lacks {} ({})", self.name, missing.join(", "), how()));
            return Turn::Done;
        }
        otherwise
    }

    fn take(&mut self, block: &Block) {
        let ledger = &self.shared.ledger;
        match block.event_type() {
            "connected" if !self.cursor.is_empty() && self.was_live => {
                // Whatever was not recovered is told by a reset.
            }
            "stream-live" => {
                self.live_since_ms.get_or_insert(ledger.now_ms());
                if !std::mem::replace(&mut self.was_live, true) {
                    self.live.fetch_add(1, Ordering::SeqCst);
                }
            }
            "stream-stale" => ledger.stale(),
            "stream-reset" => {
                ledger.reset();
                ledger.violation(&format!("{} was reset: {block:?}", self.name));
            }
            "message" if block.is_event() => self.event(block),
            _ => {}
        }
    }

    /// The next of its channel, and above what came before in its shard.
    fn event(&mut self, block: &Block) {
        let ledger = &self.shared.ledger;
        let text = block.data.as_deref().unwrap_or_default();
        let envelope: serde_json::Value;
        let data = if self.query.ends_with("&envelope=1") {
            envelope = serde_json::from_str(text).unwrap_or_default();
            envelope["data"].as_str().unwrap_or_default()
        } else {
            text
        };
        let mut words = data.split(' ').map(str::parse::<usize>);
        let (Some(Ok(channel)), Some(Ok(number)), Some(Ok(sent_ms))) =
            (words.next(), words.next(), words.next())
        else {
            return ledger.violation(&format!("{} got what nobody published: {block:?}", self.name));
        };
        let Some(expected) = self.expected.get_mut(&channel) else {
            return ledger.violation(&format!("{} got an event of channel {channel}", self.name));
        };
        let shard = ledger.shard(channel);
        let Some((epoch, seq)) = Cursor::parse(&self.cursor).ok().and_then(|cursor| cursor.get(shard)) else {
            return ledger.violation(&format!("{} got an event without a position: {block:?}", self.name));
        };
        let at = At { shard: shard.get(), epoch: Some(epoch.get()), seq };
        ledger.heard(channel, number, at, &self.name);
        let last = self.seqs.insert(shard.get(), seq).unwrap_or(0);
        if seq <= last {
            ledger.violation(&format!("{} got seq {seq} of shard {shard} after {last}", self.name));
        }
        if number != expected.next {
            let (name, next) = (ledger.name(channel), expected.next);
            ledger.violation(&format!("{} got {name} {number} (seq {seq}) in place of {next}", self.name));
        }
        expected.next = number + 1;
        ledger.reached(channel, expected.place, expected.next);
        let sent_ms = sent_ms as u64;
        if self.live_since_ms.is_some_and(|since| since < sent_ms) {
            ledger.took(sent_ms);
        }
    }
}

/// What a listener asks for, and the channels that are.
fn topics(number: usize, publishers: usize, random: &mut fastrand::Rng) -> (String, Vec<usize>) {
    let any = random.usize(0..publishers);
    match number % 10 {
        // `load.>`, as a URL has it.
        0 => ("load.%3E".to_owned(), (0..publishers).collect()),
        1..=3 => {
            let group = any % GROUPS;
            (format!("load.{group}.*"), (0..publishers).filter(|c| c % GROUPS == group).collect())
        }
        4..=6 => (channel(any), vec![any]),
        _ => {
            let mut some = vec![any, (any + 1) % publishers, (any + 6) % publishers];
            some.sort_unstable();
            some.dedup();
            (some.iter().map(|c| channel(*c)).collect::<Vec<_>>().join(","), some)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use foghorn_core::position::{Epoch, Position};
    use foghorn_core::shard::{Shard, ShardCount};

    use super::super::ledger::Ledger;
    use super::super::{Addresses, Plan};
    use super::*;

    /// One that listens to both of two channels, and what it is found to have been wronged by.
    fn hears(blocks: impl IntoIterator<Item = Block>) -> Vec<String> {
        let [gateways, publish, grpc, nats] = [(); 4].map(|()| Vec::new());
        let addresses = Addresses { gateways, publish, grpc, nats, database: String::new() };
        let ledger = Ledger::new((0..2).map(channel).collect(), ShardCount::ONE);
        let plan = Plan { publishers: 2, listeners: 1, ..Plan::default() };
        let (stop, hold, held) = (AtomicBool::default(), AtomicBool::default(), AtomicUsize::default());
        let shared = Arc::new(Shared { addresses, plan, ledger, stop, hold, held });
        let (_sender, totals) = watch::channel(None);
        // Number 10 wants no envelopes.
        let mut listener = Listener::new(shared.clone(), 10, totals, Arc::default());
        for block in blocks {
            listener.cursor = block.id.clone().unwrap_or_default();
            listener.take(&block);
        }
        shared.ledger.violations()
    }

    fn event(channel: usize, number: usize, seq: u64) -> Block {
        let at = Position { shard: Shard::ZERO, epoch: Epoch::new(7), seq };
        Block {
            id: Some(Cursor::single(at).to_string()),
            data: Some(format!("{channel} {number} 0 x")),
            ..Block::default()
        }
    }

    #[tokio::test]
    async fn the_oracle_has_nothing_against_what_is_right() {
        assert_eq!(hears([event(0, 0, 1), event(1, 0, 2), event(0, 1, 5)]), [""; 0]);
    }

    #[tokio::test]
    async fn the_oracle_notices_what_is_missing_comes_twice_or_out_of_order() {
        for (blocks, what) in [
            ([event(0, 0, 1), event(1, 0, 2), event(0, 2, 3)], "(seq 3) in place of 1"),
            ([event(0, 0, 1), event(0, 0, 1), event(0, 1, 2)], "after 1"),
            ([event(0, 0, 1), event(0, 0, 2), event(0, 1, 3)], "others at 1"),
            ([event(0, 0, 2), event(1, 0, 1), event(0, 1, 3)], "got seq 1 of shard 0 after 2"),
        ] {
            let found = hears(blocks);
            assert!(found.iter().any(|found| found.contains(what)), "{what}: {found:?}");
        }
    }

    #[tokio::test]
    async fn the_oracle_notices_a_reset_and_what_nobody_published() {
        let reset =
            Block { event: Some("stream-reset".to_owned()), data: Some("{}".to_owned()), ..event(0, 0, 1) };
        assert!(hears([reset])[0].contains("was reset"));
        let stranger = Block { data: Some("hello".to_owned()), ..event(0, 0, 1) };
        assert!(hears([stranger])[0].contains("nobody published"));
        let elsewhere = Block { data: Some("5 0 0 x".to_owned()), ..event(0, 0, 1) };
        assert!(hears([elsewhere])[0].contains("channel 5"));
    }
}
