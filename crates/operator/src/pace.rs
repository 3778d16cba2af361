//! Who drains when, and who sheds what: of what gateways report and of how their pods are, without asking anybody.
//!
//! A gateway that was told to stop takes no streams on, but keeps those it has until it is told to drain. So a rollout in
//! which new gateways come first moves each stream once: the old ones all stop taking streams on before the first lets go.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use foghorn_bus::gateways::GatewayName;
use foghorn_bus::rollout::{Order, Phase, Report};
use tokio::time::Instant;

use crate::fleet::GatewayFleetSpec;

/// For so long nobody is told to drain by one who has just begun to listen: those who drain report within it.
pub(crate) const LISTENS_FIRST: Duration = Duration::from_secs(6);
/// A gateway that serves and hasn't reported for so long is gone; it does every five seconds.
const SERVING_SILENT: Duration = Duration::from_secs(15);
/// So is one that waits or drains; it reports every second, and says so when it is through.
const LEAVING_SILENT: Duration = Duration::from_secs(10);
/// After so long without a look at Kubernetes gateways are paced by what they say alone: better than all of them late.
const LOOKS_WITHIN: Duration = Duration::from_secs(20);
/// Gateways have to have served for so long before anybody sheds, and after a shed streams have so long to come back.
const SETTLES: Duration = Duration::from_secs(15);
/// After sheds that didn't help (whoever balances has reasons of its own) the next one waits twice as long, up to this.
const SHED_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Fewer streams below the mean than this are not worth anybody's reconnect.
const SHED_LEAST: u64 = 100;
/// Most gateways that are known at a time; what else reports isn't paced.
const GATEWAYS_MAX: usize = 10_000;
/// A cost is written again when it is another by a tenth of what it was, and by so much at least.
const COST_STEP: u64 = 10;

/// Most that people haven't been told of yet; more, while Kubernetes can't be told, is only logged and counted.
const HAPPENED_MAX: usize = 1000;

/// How a fleet is paced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    /// The share of what gateways may begin that may come of others, 0 to 1.
    accept_share: f64,
    /// The share below the mean from which on others shed to a gateway; none for never.
    shed_from: Option<f64>,
}

impl From<&GatewayFleetSpec> for Settings {
    fn from(spec: &GatewayFleetSpec) -> Self {
        Settings {
            accept_share: f64::from(spec.accept_share.unwrap_or(10).clamp(1, 100)) / 100.0,
            shed_from: Some(f64::from(spec.shed_from.unwrap_or(25)) / 100.0).filter(|from| *from > 0.0),
        }
    }
}

/// Whether a fleet is paced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Paced {
    /// Nobody has been able to look yet: gateways may well wait until somebody is.
    Unknown,
    /// It isn't.
    No,
    /// It is, in this way.
    By(Settings),
}

/// A pod of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) name: String,
    /// Which of the Deployment's templates it was made of.
    pub(crate) revision: String,
    /// When it was made, as text that sorts.
    pub(crate) created: String,
    pub(crate) ready: bool,
    /// Whether it was told to stop.
    pub(crate) terminating: bool,
    /// What deleting it is said to cost.
    pub(crate) cost: Option<i64>,
}

/// Something that people are told of, about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) pod: String,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// How often it was tried to tell them.
    pub(crate) tries: u8,
}

/// Every reason of such an event.
pub(crate) const REASONS: [&str; 3] = [WAITS, BEGINS, SHEDS];
const WAITS: &str = "DrainWaits";
const BEGINS: &str = "DrainBegins";
const SHEDS: &str = "Sheds";

#[derive(Debug)]
struct Gateway {
    report: Report,
    heard: Instant,
    /// When it was first heard in its phase.
    since: Instant,
    /// It was told to drain, and may not have said that it does.
    granted: bool,
    /// What it is to be told next.
    shed: Option<Order>,
}

impl Gateway {
    fn leaves(&self) -> bool {
        self.report.phase != Phase::Serving
    }

    fn has_room(&self) -> bool {
        self.report.streams < self.report.streams_max
    }

    fn drains(&self) -> bool {
        self.granted || self.report.phase == Phase::Draining
    }
}

/// Pods of a rollout.
#[derive(Debug, Default, PartialEq, Eq)]
struct Revisions {
    /// Of an earlier revision: those that take streams on, and those that were told to stop.
    accepting: usize,
    stopping: usize,
    /// Of the last one: those that take streams on.
    current: usize,
}

/// Gateways in numbers, as their object's status says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) gateways: u32,
    pub(crate) streams: u64,
    pub(crate) waiting: Vec<String>,
    pub(crate) draining: Vec<String>,
    pub(crate) shedding: Vec<String>,
}

/// All gateways that report.
#[derive(Debug)]
pub(crate) struct Fleet {
    gateways: BTreeMap<GatewayName, Gateway>,
    paced: Paced,
    pods: Vec<Pod>,
    /// When they were seen.
    seen: Instant,
    began: Instant,
    happened: VecDeque<Happening>,
    /// How much of each reason happened since that was asked last.
    counted: [u64; REASONS.len()],
    /// No shed before then.
    next_shed: Instant,
    shed_pause: Duration,
    /// Which gateway was the emptiest at the last shed, and how far below the mean, as a share of it.
    shed_at: Option<(GatewayName, f64)>,
}

impl Fleet {
    pub(crate) fn new(now: Instant) -> Self {
        Fleet {
            gateways: BTreeMap::new(),
            paced: Paced::Unknown,
            pods: Vec::new(),
            seen: now,
            began: now,
            happened: VecDeque::new(),
            counted: [0; REASONS.len()],
            next_shed: now,
            shed_pause: SETTLES,
            shed_at: None,
        }
    }

    /// From now on it isn't paced.
    pub(crate) fn unpaced(&mut self) {
        self.paced = Paced::No;
        self.happened.clear();
    }

    /// From now on it is paced so, with what is known of its pods now.
    pub(crate) fn paced(&mut self, settings: Settings, pods: Vec<Pod>, now: Instant) {
        (self.paced, self.pods, self.seen) = (Paced::By(settings), pods, now);
    }

    /// What people are to be told of next. Of what is no pod of the fleet they can't be.
    pub(crate) fn next_happening(&mut self) -> Option<Happening> {
        let pods = &self.pods;
        self.happened.retain(|happening| pods.iter().any(|pod| pod.name == happening.pod));
        self.happened.pop_front()
    }

    /// How much of each of [`REASONS`] happened since this was asked last.
    pub(crate) fn counted(&mut self) -> [u64; REASONS.len()] {
        std::mem::take(&mut self.counted)
    }

    /// Takes in what a gateway reports; what it is to do.
    pub(crate) fn order(&mut self, report: Report, now: Instant) -> Order {
        let (name, phase) = (report.gateway, report.phase);
        let pod = report.pod.clone();
        if phase == Phase::Gone {
            self.gateways.remove(&name);
            return Order::Continue;
        }
        let is_new = !self.gateways.contains_key(&name);
        if is_new && self.gateways.len() >= GATEWAYS_MAX {
            return if phase == Phase::Waiting { Order::Drain } else { Order::Continue };
        }
        let gateway = self.gateways.entry(name).or_insert_with(|| Gateway {
            report: report.clone(),
            heard: now,
            since: now,
            granted: false,
            shed: None,
        });
        if gateway.report.phase != phase {
            gateway.since = now;
        }
        let began_to_wait = phase == Phase::Waiting && (is_new || gateway.report.phase != phase);
        (gateway.report, gateway.heard) = (report, now);
        match phase {
            Phase::Draining | Phase::Gone => Order::Continue,
            Phase::Serving => gateway.shed.take().unwrap_or(Order::Continue),
            Phase::Waiting if gateway.granted => Order::Drain,
            Phase::Waiting => match self.waits_for(name, now) {
                Some(why) => {
                    if began_to_wait {
                        self.tell(pod, WAITS, format!("waits before it lets its streams go: {why}"));
                    }
                    Order::Wait { why }
                }
                None => {
                    self.grant(name, pod);
                    Order::Drain
                }
            },
        }
    }

    fn grant(&mut self, name: GatewayName, pod: String) {
        let Some(gateway) = self.gateways.get_mut(&name) else { return };
        gateway.granted = true;
        let Report { streams, pace, .. } = gateway.report;
        self.tell(pod, BEGINS, format!("lets its {streams} streams go, {pace:.0} in a second"));
    }

    fn tell(&mut self, pod: String, reason: &'static str, message: String) {
        tracing::info!(pod, reason, "{message}");
        let counted = REASONS.iter().zip(&mut self.counted).find(|(known, _)| **known == reason);
        counted.into_iter().for_each(|(_, count)| *count += 1);
        if self.happened.len() < HAPPENED_MAX {
            self.happened.push_back(Happening { pod, reason, message, tries: 0 });
        }
    }

    /// People couldn't be told, and are to be before anything else.
    pub(crate) fn untold(&mut self, happening: Happening) {
        if self.happened.len() < HAPPENED_MAX {
            self.happened.push_front(happening);
        }
    }

    /// What a gateway that was told to stop has to wait for, if anything.
    fn waits_for(&self, name: GatewayName, now: Instant) -> Option<String> {
        let settings = match self.paced {
            Paced::Unknown if now.duration_since(self.began) < LOOKS_WITHIN => {
                return Some("the operator has yet to see its fleet and pods".to_owned());
            }
            // By what gateways say alone.
            Paced::Unknown => Settings::from(&GatewayFleetSpec::default()),
            Paced::No => return None,
            Paced::By(settings) => settings,
        };
        if now.duration_since(self.began) < LISTENS_FIRST {
            return Some("the operator has just begun to hear how gateways are".to_owned());
        }
        let Revisions { accepting, stopping, current } = self.revisions();
        // As many new ones as old ones: they all came first. Where they come one by one that is so for a step at most.
        if accepting > 0 && accepting + stopping == current {
            return Some(format!("{accepting} gateways of an earlier revision still take streams on"));
        }
        let own = &self.gateways[&name];
        let before = |(other, gateway): &(&GatewayName, &Gateway)| {
            !gateway.granted
                && gateway.report.phase == Phase::Waiting
                && (gateway.since, **other) < (own.since, name)
        };
        if let Some((_, first)) = self.gateways.iter().find(before) {
            return Some(format!("{} waits for longer", first.report.pod));
        }
        let Some(accepted) = self.accepted(settings) else {
            return Some("no gateway takes streams on".to_owned());
        };
        let others = self.gateways.iter().filter(|(other, _)| **other != name).map(|(_, gateway)| gateway);
        let lets_go = |gateway: &&Gateway| gateway.drains() || gateway.report.shedding > 0;
        let draining: Vec<_> = others.filter(lets_go).collect();
        let pace = own.report.pace + draining.iter().map(|gateway| gateway.report.pace).sum::<f64>();
        (!draining.is_empty() && pace > accepted).then(|| {
            format!(
                "{} drain or shed already, and with this one {pace:.0} streams would come back in a second, where the others \
                 take {accepted:.0}",
                draining.len()
            )
        })
    }

    /// The pods of the last revision against those before it. The last is one that isn't being stopped, as the other is that
    /// is rolled back from; of two such the one whose oldest pod is the youngest, as an earlier ReplicaSet may replace a pod
    /// at any time.
    fn revisions(&self) -> Revisions {
        let mut begun: BTreeMap<&str, (bool, &str)> = BTreeMap::new();
        for pod in &self.pods {
            let (stays, first) = begun.entry(&pod.revision).or_insert((true, &pod.created));
            *stays &= !pod.terminating;
            *first = (*first).min(&pod.created);
        }
        let Some(last) = begun.iter().max_by_key(|(_, stays_and_begun)| **stays_and_begun) else {
            return Revisions::default();
        };
        let (current, earlier): (Vec<_>, Vec<_>) = self.pods.iter().partition(|pod| pod.revision == *last.0);
        Revisions {
            accepting: earlier.iter().filter(|pod| pod.ready && !pod.terminating).count(),
            stopping: earlier.iter().filter(|pod| pod.terminating).count(),
            current: current.iter().filter(|pod| pod.ready && !pod.terminating).count(),
        }
    }

    /// Whether it serves, and is where a balancer leads.
    fn is_led_to(&self, gateway: &Gateway) -> bool {
        let pod = self.pods.iter().find(|pod| pod.name == gateway.report.pod);
        !gateway.leaves() && pod.is_none_or(|pod| pod.ready && !pod.terminating)
    }

    /// How many streams of others may begin in a second; none where nobody takes any on.
    fn accepted(&self, settings: Settings) -> Option<f64> {
        let budget = |gateway: &Gateway| match gateway.report.streams_per_second {
            0 => f64::INFINITY,
            most => f64::from(most),
        };
        let accepting =
            self.gateways.values().filter(|gateway| gateway.has_room() && self.is_led_to(gateway));
        accepting.map(budget).reduce(|one, other| one + other).map(|all| all * settings.accept_share)
    }

    /// Forgets who is gone, and what of pods was seen too long ago. To be called every few seconds, whatever else can be
    /// seen.
    pub(crate) fn forget(&mut self, now: Instant) {
        if now.duration_since(self.seen) >= LOOKS_WITHIN {
            self.pods.clear();
        }
        self.gateways.retain(|_, gateway| {
            let silent = if gateway.leaves() { LEAVING_SILENT } else { SERVING_SILENT };
            now.duration_since(gateway.heard) < silent
        });
    }

    /// Has crowded gateways shed. To be called every few seconds.
    pub(crate) fn look(&mut self, now: Instant) {
        self.forget(now);
        if let Paced::By(settings) = self.paced
            && let Some(from) = settings.shed_from
        {
            self.shed(settings, from, now);
        }
    }

    fn shed(&mut self, settings: Settings, from: f64, now: Instant) {
        let is_settled = |gateway: &Gateway| {
            !gateway.leaves()
                && gateway.report.shedding == 0
                && gateway.shed.is_none()
                && now.duration_since(gateway.since) >= SETTLES
        };
        let gateways = self.gateways.len();
        let may_shed = |gateway: &Gateway| is_settled(gateway) && self.is_led_to(gateway);
        // In a rollout streams are about to be moved anyway.
        let is_rollout = self.pods.windows(2).any(|pods| pods[0].revision != pods[1].revision);
        if gateways < 2 || now < self.next_shed || is_rollout || !self.gateways.values().all(may_shed) {
            return;
        }
        let emptiest = self.gateways.iter().min_by_key(|(_, gateway)| gateway.report.streams);
        let Some((emptiest, least)) = emptiest
            .filter(|(_, gateway)| gateway.has_room())
            .map(|(name, g)| (*name, g.report.streams as f64))
        else {
            return;
        };
        let Some(accepted) = self.accepted(settings) else { return };
        let all_streams: u64 = self.gateways.values().map(|gateway| gateway.report.streams).sum();
        let mean = all_streams as f64 / gateways as f64;
        // By who has room, and not by who is crowded: of many gateways one that is new makes none crowded.
        if least > mean * (1.0 - from) || mean - least < SHED_LEAST as f64 {
            (self.shed_pause, self.shed_at) = (SETTLES, None);
            return;
        }
        let emptier = 1.0 - least / mean;
        // A balancer that goes round sends it one of as many as there are gateways, at each time; half of that has helped.
        let helps = 1.0 - 0.5 / gateways as f64;
        let helped =
            self.shed_at.is_none_or(|(other, before)| other != emptiest || emptier <= before * helps);
        self.shed_pause = if helped { SETTLES } else { (self.shed_pause * 2).min(SHED_PAUSE_MAX) };
        self.shed_at = Some((emptiest, emptier));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a count of streams"
        )]
        let surplus = |gateway: &Gateway| (gateway.report.streams as f64 - mean).max(0.0) as u64;
        let crowded: Vec<GatewayName> =
            self.gateways.iter().filter(|(_, gateway)| surplus(gateway) > 0).map(|(name, _)| *name).collect();
        let all: u64 = crowded.iter().map(|name| surplus(&self.gateways[name])).sum();
        let mut longest = Duration::ZERO;
        for name in crowded {
            let Some(gateway) = self.gateways.get_mut(&name) else { continue };
            let streams = surplus(gateway);
            // No faster than it would drain, and than all of them are taken.
            let own = streams as f64 / gateway.report.pace.max(0.001);
            let over = Duration::from_secs_f64(own.max(all as f64 / accepted).clamp(1.0, 3600.0));
            let seconds = over.as_secs() + u64::from(over.subsec_nanos() > 0);
            longest = longest.max(Duration::from_secs(seconds));
            gateway.shed = Some(Order::Shed { streams, seconds });
            let pod = gateway.report.pod.clone();
            let message =
                format!("sheds {streams} of its streams over {seconds} s, as others have more room");
            self.tell(pod, SHEDS, message);
        }
        self.next_shed = now + longest + self.shed_pause;
    }

    /// Pods whose cost of being deleted isn't about what it is by now: their streams. Kubernetes scales down by the lowest.
    pub(crate) fn costs(&self) -> Vec<(String, i64)> {
        let changed = |pod: &Pod| {
            let gateway = self.gateways.values().find(|gateway| gateway.report.pod == pod.name)?;
            let cost = i64::try_from(gateway.report.streams).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
            // Each is a write for the API server: what makes no difference isn't worth it. Without one it is 0.
            let before = pod.cost.unwrap_or(0);
            let is_same = before.abs_diff(cost) <= (before.unsigned_abs() / 10).max(COST_STEP);
            (!pod.terminating && !is_same).then(|| (pod.name.clone(), cost))
        };
        self.pods.iter().filter_map(changed).collect()
    }

    /// Whether any gateway leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.gateways.values().any(Gateway::leaves)
    }

    /// All of them, in numbers.
    pub(crate) fn summary(&self) -> Summary {
        let names = |is_meant: &dyn Fn(&Gateway) -> bool| {
            let mut pods: Vec<_> =
                self.gateways.values().filter(|g| is_meant(g)).map(|g| g.report.pod.clone()).collect();
            pods.sort();
            pods
        };
        Summary {
            gateways: u32::try_from(self.gateways.len()).unwrap_or(u32::MAX),
            streams: self.gateways.values().map(|gateway| gateway.report.streams).sum(),
            waiting: names(&|gateway| gateway.report.phase == Phase::Waiting && !gateway.granted),
            draining: names(&Gateway::drains),
            shedding: names(&|gateway| gateway.report.shedding > 0 || gateway.shed.is_some()),
        }
    }
}

#[cfg(test)]
mod tests;
