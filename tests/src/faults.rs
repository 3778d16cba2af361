//! Faults on a cluster, one after the other and some at once, chosen by a seed. None of them may lose anything: of
//! the NATS servers one is down at a time, and only when the others have all that it had.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::cluster::{Cluster, Sites};
use crate::foghorn::Foghorn;
use crate::network::{Network, Site};

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
    /// No packet comes through between its host and those of others.
    CutOff(Peers),
}

/// Those that a process is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// Every NATS server; of these, the other two.
    Nats,
    /// Both event logs.
    EventLogs,
    /// PostgreSQL.
    Postgres,
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
            Fault::CutOff(Peers::Nats) => "cut-off-from-nats",
            Fault::CutOff(Peers::EventLogs) => "cut-off-from-eventlogs",
            Fault::CutOff(Peers::Postgres) => "cut-off-from-postgres",
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

/// Where the parts are on a network whose links can be cut.
#[derive(Debug)]
pub struct Links {
    network: Network,
    sites: Sites,
}

impl Links {
    /// Those of a cluster that was started at these sites of the network.
    #[must_use]
    pub fn new(network: Network, sites: Sites) -> Self {
        Links { network, sites }
    }

    fn change(&self, part: Part, from: Peers, what: fn(&Network, &Site, &Site)) {
        let Sites { nats, eventlogs, fanouts, gateways, postgres, .. } = &self.sites;
        let site = match part {
            Part::Gateway(number) => &gateways[number],
            Part::Fanout(number) => &fanouts[number],
            Part::EventLog(number) => &eventlogs[number],
            Part::Nats(number) => &nats[number],
            Part::Postgres => postgres,
        };
        let others = match from {
            Peers::Nats => &nats[..],
            Peers::EventLogs => &eventlogs[..],
            Peers::Postgres => std::slice::from_ref(postgres),
        };
        for other in others.iter().filter(|other| *other != site) {
            what(&self.network, site, other);
        }
    }
}

/// Chooses faults, makes them, and takes them back in time.
#[derive(Debug)]
pub struct Nemesis {
    /// Without them nothing is cut off.
    links: Option<Links>,
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
    pub fn new(seed: u64, every: Duration, links: Option<Links>) -> Self {
        let next = Instant::now() + every;
        Nemesis {
            links,
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
        match (fault, &self.links) {
            (Fault::CutOff(from), Some(links)) => links.change(part, from, Network::cut),
            _ => begin(cluster, fault, part).await,
        }
        if matches!(fault, Fault::StepDown(_)) {
            return Some(format!("step-down {name}"));
        }
        let away = AWAY_MOST * self.random.f64().powi(2) + self.random.f64();
        self.active.push(Active { until: Instant::now() + Duration::from_secs_f64(away), fault, part });
        Some(format!("{} {name}{leads} for {away:.1} s", fault.name()))
    }

    fn choose(&mut self, cluster: &Cluster) -> (Fault, Part) {
        let random = &mut self.random;
        if self.links.is_some() && random.usize(0..4) == 0 {
            let turn = random.usize(0..2);
            let (from, part) = match random.usize(0..7) {
                0 => (Peers::Nats, Part::Gateway(turn)),
                1 => (Peers::Nats, Part::Fanout(turn)),
                2 => (Peers::Nats, Part::EventLog(turn)),
                3 => (Peers::Nats, Part::Nats(random.usize(0..cluster.nats.len()))),
                4 => (Peers::EventLogs, Part::Gateway(turn)),
                5 => (Peers::EventLogs, Part::Fanout(turn)),
                _ => (Peers::Postgres, Part::EventLog(turn)),
            };
            return (Fault::CutOff(from), part);
        }
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
            (_, Fault::CutOff(from)) => {
                let links = self.links.as_ref().expect("it was cut with them");
                links.change(*part, *from, Network::mend);
            }
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
