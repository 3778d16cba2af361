//! Having listeners told who comes and goes.
//!
//! Each gateway tells what changes of its own listeners to the two that look after the channel, those that
//! [`Members`](crate::members::Members) names. Now and then it says what all of it adds up to, and where that differs, it
//! says everything anew: so what was lost on the way is mended, and who comes to look after a channel learns who is there.
//! Of these two one has it published.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use tokio::time::{Instant, sleep, timeout};
use xxhash_rust::xxh3::xxh3_128;

use foghorn_bus::announce::{AnnounceError, Announcer};
use foghorn_bus::gateways::{About, GatewayName, Gateways, Question};
use foghorn_core::channel::Channel;

use super::message::{Change, Heard, Report};
use super::roster::{Roster, Told};
use super::{Listeners, Presence};
use crate::hub::Hub;
use crate::members::Members;

/// What changes is gathered for so long, about.
const GATHERED_FOR: Duration = Duration::from_millis(200);
/// How often it is said what all listeners add up to, about.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// How long an answer to that is waited for.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of a message, about.
const REPORT_BYTES: usize = 256 << 10;
/// Channels on which something is published at a time.
const CHANNELS_AT_A_TIME: usize = 32;
/// Events that are published before it is looked again at what there is to tell.
const EVENTS_AT_A_TIME: usize = 1000;
/// How long that may take.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// What it takes to have listeners told.
#[derive(Clone)]
pub(crate) struct Teller {
    pub(crate) hub: Arc<Hub>,
    pub(crate) gateways: Arc<dyn Gateways>,
    pub(crate) announcer: Arc<dyn Announcer>,
}

/// A channel as a key of [`Members`].
fn key(channel: &Channel) -> u128 {
    xxh3_128(channel.as_str().as_bytes())
}

impl Presence {
    /// Takes part in having listeners told; somebody has to be gone for `debounce` before.
    pub(crate) fn tells(&self, debounce: Duration) {
        *self.roster.lock() = Some(Roster::new(debounce));
    }

    /// What another gateway says of its listeners, and the answer.
    pub(crate) fn answer_to(&self, report: &[u8]) -> Vec<u8> {
        let heard = match serde_json::from_slice(report) {
            Ok(report) => self.hear(&report),
            Err(error) => {
                tracing::debug!(%error, "another gateway says of its listeners what can't be read");
                Heard::default()
            }
        };
        serde_json::to_vec(&heard).unwrap_or_default()
    }

    fn hear(&self, report: &Report) -> Heard {
        let heard = match &mut *self.roster.lock() {
            Some(roster) => roster.hear(report, Instant::now()),
            // Policies differ between gateways: it will be heard once this one has them too.
            None => Heard::default(),
        };
        self.heard.notify_one();
        heard
    }

    /// What has changed and what it adds up to, for each gateway that looks after some of the channels.
    fn unsaid(&self, members: &Members) -> HashMap<GatewayName, (Vec<Change>, u64)> {
        let mut all: HashMap<GatewayName, (Vec<Change>, u64)> = HashMap::new();
        let mut present = self.present.lock();
        for (channel, user) in std::mem::take(&mut present.unsaid) {
            let streams = present.channels.get(&channel).map_or(0, |listeners| listeners.said(user.as_ref()));
            let user = user.map(|user| user.to_string());
            for gateway in members.owners(key(&channel)) {
                let (channel, user) = (channel.as_str().to_owned(), user.clone());
                all.entry(gateway).or_default().0.push(Change { channel, user, streams });
            }
        }
        let told = present.channels.iter().filter(|(_, listeners)| listeners.told);
        let sums: Vec<_> = told.map(|(channel, listeners)| (key(channel), listeners.sum)).collect();
        drop(present);
        for (channel, sum) in sums {
            members.owners(channel).for_each(|gateway| all.entry(gateway).or_default().1 ^= sum);
        }
        all
    }

    /// All listeners on channels that a gateway looks after, and what they add up to.
    fn all(&self, members: &Members, gateway: GatewayName) -> (Vec<Change>, u64) {
        let (mut all, mut sum) = (Vec::new(), 0);
        let present = self.present.lock();
        for (channel, listeners) in present.channels.iter().filter(|(_, listeners)| listeners.told) {
            if members.owners(key(channel)).any(|owner| owner == gateway) {
                all.extend(listeners.changes(channel));
                sum ^= listeners.sum;
            }
        }
        (all, sum)
    }
}

impl Listeners {
    fn changes(&self, channel: &Channel) -> impl Iterator<Item = Change> {
        let change = |user: Option<&Arc<str>>, streams| Change {
            channel: channel.as_str().to_owned(),
            user: user.map(ToString::to_string),
            streams,
        };
        let users = self.users.keys().map(move |user| change(Some(user), 1));
        users.chain((self.anonymous > 0).then(|| change(None, self.anonymous)))
    }
}

impl Teller {
    // To those that look after channels

    /// Tells what changes here, and now and then what all of it adds up to, until the gateway ends.
    pub(crate) async fn keep_saying(self) {
        let mut views = self.hub.places.views();
        let mut compared = Instant::now();
        loop {
            let next = compared + COMPARE_EVERY.mul_f64(0.8 + 0.4 * fastrand::f64());
            let compares = tokio::select! {
                () = self.hub.presence.changed.notified() => Instant::now() >= next,
                changed = views.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(next) => true,
            };
            sleep(GATHERED_FOR.mul_f64(0.5 + fastrand::f64())).await;
            if compares {
                compared = Instant::now();
            }
            self.say(compares).await;
        }
    }

    async fn say(&self, compares: bool) {
        let members = &self.hub.places.members;
        let mut unsaid = self.hub.presence.unsaid(members);
        let all = members.others().into_iter().chain([members.own()]);
        let said = all.filter_map(|gateway| {
            let (changes, sum) = unsaid.remove(&gateway).unwrap_or_default();
            (compares || !changes.is_empty()).then(|| self.say_to(gateway, changes, sum))
        });
        drop(join_all(said.collect::<Vec<_>>()).await);
    }

    async fn say_to(&self, gateway: GatewayName, changes: Vec<Change>, sum: u64) {
        if self.send_all(gateway, false, changes, sum).await == Some(Heard { anew: true }) {
            let (all, sum) = self.hub.presence.all(&self.hub.places.members, gateway);
            self.send_all(gateway, true, all, sum).await;
        }
    }

    /// The last answer; none when one is missing: what was lost doesn't add up later.
    async fn send_all(
        &self,
        gateway: GatewayName,
        mut anew: bool,
        changes: Vec<Change>,
        sum: u64,
    ) -> Option<Heard> {
        let own = self.hub.places.members.own().get();
        let mut rest = changes.into_iter().peekable();
        loop {
            let (mut changes, mut bytes) = (Vec::new(), 0);
            while bytes < REPORT_BYTES
                && let Some(change) = rest.next()
            {
                bytes += change.bytes();
                changes.push(change);
            }
            let is_last = rest.peek().is_none();
            let report = Report { gateway: own, anew, changes, sum: is_last.then_some(sum) };
            let heard = self.send(gateway, report).await?;
            if is_last {
                return Some(heard);
            }
            anew = false;
        }
    }

    async fn send(&self, gateway: GatewayName, report: Report) -> Option<Heard> {
        if gateway == self.hub.places.members.own() {
            return Some(self.hub.presence.hear(&report));
        }
        let body = serde_json::to_vec(&report).ok()?;
        let question = Question { about: About::Listeners, token: None, context: None, body: body.into() };
        let answer = timeout(HEARD_WITHIN, self.gateways.ask(gateway, question)).await.ok()?;
        let answer = answer.inspect_err(|error| {
            tracing::debug!(%gateway, %error, "another gateway doesn't hear of listeners");
        });
        serde_json::from_slice(&answer.ok()?).ok()
    }

    // To listeners

    /// Has listeners told, until the gateway ends.
    pub(crate) async fn keep_telling(self) {
        let mut views = self.hub.places.views();
        loop {
            let pending = self.with_roster(|roster| roster.is_pending());
            tokio::select! {
                () = self.hub.presence.heard.notified() => {}
                changed = views.changed() => match changed {
                    Ok(()) => self.with_roster(|roster| roster.unsettle(Instant::now())),
                    Err(_) => return,
                },
                () = sleep(if pending { GATHERED_FOR } else { COMPARE_EVERY }) => {}
            }
            sleep(GATHERED_FOR).await;
            self.tell().await;
        }
    }

    fn with_roster<T: Default>(&self, look: impl FnOnce(&mut Roster) -> T) -> T {
        self.hub.presence.roster.lock().as_mut().map(look).unwrap_or_default()
    }

    async fn tell(&self) {
        let members = &self.hub.places.members;
        let live: Vec<_> = members.others().into_iter().chain([members.own()]).collect();
        let due = self.with_roster(|roster| {
            let now = Instant::now();
            roster.live(&live, now);
            self.hub.metrics.presence_unkept.inc_by(roster.take_unkept());
            let tells = |channel: &Channel| members.owner(key(channel)) == members.own();
            roster.due(now, EVENTS_AT_A_TIME, tells)
        });
        // Once nobody can publish, it is tried again later, as it is by then.
        let fails = AtomicBool::new(false);
        let told = stream::iter(due).for_each_concurrent(CHANNELS_AT_A_TIME, |(channel, told)| {
            let fails = &fails;
            async move {
                for told in told {
                    if fails.load(Ordering::Relaxed) || self.tell_one(&channel, &told).await.is_err() {
                        fails.store(true, Ordering::Relaxed);
                        return self.with_roster(|roster| roster.failed(&channel, Instant::now()));
                    }
                }
            }
        });
        if timeout(TOLD_WITHIN, told).await.is_err() {
            tracing::debug!("publishing who comes and goes takes too long; what is left is told later");
        }
    }

    async fn tell_one(&self, channel: &Channel, told: &Told) -> Result<(), AnnounceError> {
        let announced = self.announcer.announce(channel.clone(), told.data(channel)).await;
        self.hub.metrics.presence(announced.as_ref().ok().map(|()| told.action));
        if let Err(error) = &announced {
            tracing::debug!(%channel, %error, "who comes and goes can't be published");
        }
        if let Err(AnnounceError::Unavailable(_)) = announced {
            return announced;
        }
        self.with_roster(|roster| roster.done(channel, told, Instant::now()));
        Ok(())
    }
}
