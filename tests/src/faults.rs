//! Faults on a cluster, one after the other and some at once, chosen by a seed. None of them may lose anything: of
//! the NATS servers one is down at a time, and only when the others have all that it had.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::foghorn::Foghorn;

/// Most faults under way at a time.
const AT_ONCE: usize = 3;
/// The longest that a process is away, in seconds.
const AWAY_MOST: f64 = 20.0;

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// By number.
    Gateway(usize),
    /// By number.
    Fanout(usize),
    /// By number.
    EventLog(usize),
    /// By number.
    Nats(usize),
    /// The only one.
    Postgres,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a restart later.
    Kill,
    /// SIGSTOP, and SIGCONT later.
    Hang,
    /// SIGTERM, and a restart after its end.
    Stop,
    /// NATS's lame duck mode (SIGUSR2): clients are sent away, then it ends; and a restart later.
    LameDuck,
    /// A shard's stream gets another leader, as its leader is asked to.
    StepDown(u8),
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Gateway(number) => write!(out, "gateway {number}"),
            Part::Fanout(number) => write!(out, "fan-out {number}"),
            Part::EventLog(number) => write!(out, "event log {number}"),
            Part::Nats(number) => write!(out, "nats-server {number}"),
            Part::Postgres => out.write_str("PostgreSQL"),
        }
    }
}

impl Fault {
    /// For counting: `kill`, `step-down`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Hang => "hang",
            Fault::Stop => "stop",
            Fault::LameDuck => "lame-duck",
            Fault::StepDown(_) => "step-down",
        }
    }
}

/// A fault that will be over.
#[derive(Debug)]
struct Active {
    until: Instant,
    fault: Fault,
    part: Part,
}

/// Chooses faults, makes them, and takes them back in time.
#[derive(Debug)]
pub struct Nemesis {
    random: fastrand::Rng,
    active: Vec<Active>,
    next: Instant,
    /// The mean time between two faults.
    every: Duration,
    counts: BTreeMap<String, usize>,
}

impl Nemesis {
    /// Faults that the seed chooses, one after the other in `every` on average.
    #[must_use]
    pub fn new(seed: u64, every: Duration) -> Self {
        let next = Instant::now() + every;
        Nemesis {
            random: fastrand::Rng::with_seed(seed),
            active: Vec::new(),
            next,
            every,
            counts: BTreeMap::new(),
        }
    }

    /// How many there were of each kind: `kill gateway`.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, usize> {
        &self.counts
    }

    /// What is due now, said in a line each.
    pub async fn act(&mut self, cluster: &mut Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        let now = Instant::now();
        while let Some(at) = self.active.iter().position(|active| active.until <= now) {
            let active = self.active.remove(at);
            lines.push(self.undo(cluster, &active).await);
        }
        if self.next <= now && self.active.len() < AT_ONCE {
            lines.extend(self.begin(cluster).await);
            self.next = Instant::now() + self.every.mul_f64(self.random.f64() * 2.0);
        }
        lines
    }

    /// Takes all back at once.
    pub async fn heal(&mut self, cluster: &mut Cluster) -> Vec<String> {
        let mut lines = Vec::new();
        for active in std::mem::take(&mut self.active) {
            lines.push(self.undo(cluster, &active).await);
        }
        lines
    }

    /// A fault, unless what it would be for is away already.
    async fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let (fault, part) = self.choose(cluster);
        let nats = |part: &Part| matches!(part, Part::Nats(_));
        if self.active.iter().any(|active| active.part == part || nats(&active.part) && nats(&part)) {
            return None;
        }
        if nats(&part) && !cluster.is_copied().await {
            return None;
        }
        let name = part.to_string();
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end();
        *self.counts.entry(format!("{} {kind}", fault.name())).or_default() += 1;
        let leads = match part {
            Part::Nats(number) if cluster.leader_now(0).await == Some(number) => ", leader of shard 0",
            _ => "",
        };
        begin(cluster, fault, part).await;
        if matches!(fault, Fault::StepDown(_)) {
            return Some(format!("step-down {name}"));
        }
        let away = AWAY_MOST * self.random.f64().powi(2) + self.random.f64();
        self.active.push(Active { until: Instant::now() + Duration::from_secs_f64(away), fault, part });
        Some(format!("{} {name}{leads} for {away:.1} s", fault.name()))
    }

    fn choose(&mut self, cluster: &Cluster) -> (Fault, Part) {
        let random = &mut self.random;
        let service = [Fault::Kill, Fault::Kill, Fault::Hang, Fault::Hang, Fault::Stop][random.usize(0..5)];
        match random.usize(0..12) {
            0 | 1 => (service, Part::Gateway(random.usize(0..cluster.gateways.len()))),
            2..=4 => (service, Part::Fanout(random.usize(0..cluster.fanouts.len()))),
            5 | 6 => (service, Part::EventLog(random.usize(0..cluster.eventlogs.len()))),
            7..=9 => {
                let part = Part::Nats(random.usize(0..cluster.nats.len()));
                let fault = match random.usize(0..7) {
                    0..=2 => Fault::Kill,
                    3 | 4 => Fault::Hang,
                    5 => Fault::LameDuck,
                    _ => Fault::StepDown(random.u8(0..cluster.shards)),
                };
                (fault, part)
            }
            _ => ([Fault::Kill, Fault::Hang][random.usize(0..2)], Part::Postgres),
        }
    }

    async fn undo(&mut self, cluster: &mut Cluster, active: &Active) -> String {
        let Active { fault, part, .. } = active;
        match (part, fault) {
            (Part::Nats(number), Fault::Hang) => cluster.nats[*number].signal(Signal::SIGCONT),
            (Part::Nats(number), _) => cluster.nats[*number].restart().await,
            (Part::Postgres, Fault::Hang) => cluster.postgres.resume(),
            (Part::Postgres, _) => cluster.postgres.restart().await,
            (_, Fault::Hang) => service(cluster, *part).signal(Signal::SIGCONT),
            (_, Fault::Stop) => {
                let process = service(cluster, *part);
                let status = process.wait(PATIENCE).await;
                assert!(
                    status.success(),
                    "{}",
                    process.process().report(&format!("was told to stop: {status}"))
                );
                process.relaunch();
            }
            _ => service(cluster, *part).relaunch(),
        }
        format!("{part} is back from {}", fault.name())
    }
}

async fn begin(cluster: &mut Cluster, fault: Fault, part: Part) {
    match (part, fault) {
        (_, Fault::StepDown(shard)) => {
            cluster.step_down(shard).await;
        }
        (Part::Nats(number), Fault::Kill) => cluster.nats[number].kill(),
        (Part::Nats(number), Fault::Hang) => cluster.nats[number].hang().await,
        (Part::Nats(number), _) => cluster.nats[number].signal(Signal::SIGUSR2),
        (Part::Postgres, Fault::Hang) => cluster.postgres.hang(),
        (Part::Postgres, _) => cluster.postgres.kill(),
        (_, Fault::Hang) => service(cluster, part).signal(Signal::SIGSTOP),
        (_, Fault::Stop) => service(cluster, part).sigterm(),
        _ => service(cluster, part).kill(),
    }
}

fn service(cluster: &mut Cluster, part: Part) -> &mut Foghorn {
    match part {
        Part::Gateway(number) => &mut cluster.gateways[number],
        Part::Fanout(number) => &mut cluster.fanouts[number],
        Part::EventLog(number) => &mut cluster.eventlogs[number],
        Part::Nats(_) | Part::Postgres => unreachable!("a server of others"),
    }
}
