//! One run, from a seed to a verdict.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::{Arc, Once};
use std::time::Duration;

use foghorn_core::shard::ShardCount;
use foghorn_fanout::publish::Ack;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{Client, Seen};
use crate::cluster::{Cluster, Kind};
use crate::faults::{Trouble, make};
use crate::mutant::Mutant;
use crate::oracle::{Violation, judge};
use crate::publisher::{Published, ToPublish, publish, publish_one};
use crate::world::World;

/// How long everything has to find together again once it is healed: the longest backoffs, doubts and patience
/// one after the other.
const SETTLES: Duration = Duration::from_secs(40);
/// How long publishing an event may take then, the retries included.
const ACKED_WITHIN: Duration = Duration::from_secs(60);
/// How long the last events have to reach everybody.
const ARRIVES: Duration = Duration::from_secs(12);
const CHANNELS: [&[&str]; 4] = [&["a.0", "a.1"], &["s.0", "s.1"], &["b.0", "b.1"], &["n.0", "l.0"]];

/// What came of a seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What should not have been; empty when all is well.
    pub violations: Vec<Violation>,
    /// What happened.
    pub story: String,
    /// What each client saw.
    pub clients: Vec<(String, String)>,
    /// How many events were acked.
    pub events: usize,
    /// How many times an event was given to a client.
    pub deliveries: usize,
    /// How many resets clients were told, by reason.
    pub resets: std::collections::BTreeMap<String, usize>,
}

impl Outcome {
    /// Everything, to be compared byte for byte.
    pub fn whole(&self) -> String {
        let clients: String = self.clients.iter().map(|(name, seen)| format!("== {name}\n{seen}")).collect();
        format!("seed {}\n{}{clients}{:?}\n", self.seed, self.story, self.violations)
    }

    /// What a person wants to read of a seed that failed: what is wrong, the faults, and what the clients
    /// concerned saw.
    pub fn report(&self) -> String {
        let mut text =
            format!("seed {}: {} events, {} deliveries\n", self.seed, self.events, self.deliveries);
        for Violation { who, what } in &self.violations {
            // A string takes whatever is written.
            let _ok = writeln!(text, "  WRONG  {who}: {what}").is_ok();
        }
        text.push_str(&self.story);
        for (name, seen) in &self.clients {
            if self.violations.iter().any(|violation| violation.who == *name) {
                let _ok = write!(text, "== {name} saw\n{seen}").is_ok();
            }
        }
        text
    }
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Panics of tasks are violations, not noise.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = PANICS.try_with(|panics| panics.borrow_mut().push(info.to_string()));
            if kept.is_err() || std::env::var_os("FOGHORN_SIMULATION_PANICS").is_some() {
                before(info);
            }
        }));
    });
}

/// Runs a seed, with something broken on purpose or nothing.
///
/// # Panics
/// When no runtime can be made.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    keep_panics();
    PANICS.with(|panics| panics.borrow_mut().clear());
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    #[expect(clippy::expect_used, reason = "without a runtime there is nothing to do")]
    let runtime = runtime.expect("a runtime");
    let mut outcome = runtime.block_on(scenario(seed, mutant));
    drop(runtime);
    for panic in PANICS.with(|panics| std::mem::take(&mut *panics.borrow_mut())) {
        outcome.violations.push(Violation { who: "panic".to_owned(), what: panic });
    }
    outcome
}

async fn scenario(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let shards = ShardCount::new(if seed.is_multiple_of(3) { 2 } else { 1 }).unwrap_or(ShardCount::ONE);
    let world = World::new(seed, shards, mutant);
    let cluster = Cluster::new(&world, world.pick(1..4), world.pick(1..3), world.pick(1..3));
    let trouble = Trouble::new(&cluster);
    world.tell("world", &format!("{shards:?} shards, {trouble:?}"));
    for kind in [Kind::Log, Kind::Fanout, Kind::Gateway] {
        for at in 0..cluster.count(kind) {
            cluster.start(kind, at);
        }
    }
    let (published, mut tasks) = (Arc::new(Published::default()), JoinSet::new());
    for (nth, channels) in CHANNELS.into_iter().enumerate() {
        tasks.spawn(publish(cluster.clone(), published.clone(), channels.to_vec(), nth == 0));
    }
    let clients: Vec<Arc<Client>> = (0..world.pick(3..8)).map(|number| Client::new(&world, number)).collect();
    let mut listening = JoinSet::new();
    for client in &clients {
        listening.spawn(client.clone().run(cluster.clone()));
    }
    make(cluster.clone(), trouble).await;
    sleep(world.millis(0..3000)).await;
    drop(tasks);
    clients.iter().for_each(|client| client.settle());
    sleep(SETTLES).await;
    world.tell("world", "the last events");
    let mut unacked = Vec::new();
    for channel in CHANNELS.concat() {
        let event = ToPublish { channel, data: format!("{channel}#last"), ttl: None, ack: Ack::Durable };
        if timeout(ACKED_WITHIN, publish_one(&cluster, &published, event)).await.is_err() {
            let what = format!("the last event of {channel} was not acked within {ACKED_WITHIN:?}");
            unacked.push(Violation { who: "publisher".to_owned(), what });
        }
    }
    sleep(ARRIVES).await;
    let acked = published.acked();
    let mut violations = judge(&cluster, trouble, &clients, &acked);
    violations.append(&mut unacked);
    let mut resets = std::collections::BTreeMap::new();
    let mut deliveries = 0;
    for (_, seen) in clients.iter().flat_map(|client| client.seen()) {
        match seen {
            Seen::Reset { reason, .. } => *resets.entry(reason).or_default() += 1,
            Seen::Event { .. } => deliveries += 1,
            _ => {}
        }
    }
    Outcome {
        seed,
        violations,
        story: world.story(),
        clients: clients.iter().map(|client| (client.name.clone(), told(client))).collect(),
        events: acked.len(),
        deliveries,
        resets,
    }
}

/// A client's story, a line for each thing it saw.
fn told(client: &Client) -> String {
    let topics: Vec<&str> = client.topics.iter().map(|topic| topic.as_str()).collect();
    let mut text = format!("listens to {}, {:?}, slow: {}\n", topics.join(","), client.begin, client.slow);
    for (at, seen) in client.seen() {
        let _ok = writeln!(text, "{:>8.3}  {}", at.as_secs_f64(), line(&seen)).is_ok();
    }
    text
}

fn line(seen: &Seen) -> String {
    match seen {
        Seen::Asked { gateway, last_event_id } => {
            let cursor = last_event_id.as_deref().map(foghorn_core::cursor::Cursor::parse);
            match cursor {
                Some(Ok(cursor)) => format!("asks {gateway} after {cursor:?}"),
                Some(Err(_)) => format!("asks {gateway} after {last_event_id:?}"),
                None => format!("asks {gateway} from now on"),
            }
        }
        Seen::Connected { recovered, id } => format!("connected, recovered: {recovered}, {id:?}"),
        Seen::Reset { reason, id } => format!("stream-reset {reason}, {id:?}"),
        Seen::Live { id } => format!("stream-live {id:?}"),
        Seen::Stale => "stream-stale".to_owned(),
        Seen::End { reason, id } => format!("stream-end {reason}, {id:?}"),
        Seen::At { id } => format!("at {id:?}"),
        Seen::Event { id, data } => format!("{data} {id:?}"),
        Seen::Cut => "cut".to_owned(),
        Seen::Strange(what) => what.clone(),
    }
}
