//! Gateways tell each other that they live, and which streams they have.

use std::collections::{HashMap, HashSet};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use foghorn_bus::backoff::Backoff;
use foghorn_bus::gateways::{GatewayName, Notices};
use foghorn_telemetry::health::Part;

use super::message::{Ask, Hex};
use super::roll::{Entry, PARTS, User};
use super::{AGREED_WITHIN, Places, YOUNG, digests, part_of};
use crate::client_id::ClientId;
use crate::members::BEAT;

/// How often streams are compared while nothing changes about who lives, about.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// How long an answer to that is waited for.
const COMPARED_WITHIN: Duration = Duration::from_secs(2);
/// How long a gateway that begins waits for the others to say that they live.
const ACQUAINTED_WITHIN: Duration = Duration::from_millis(250);
/// A gateway that is new to this one hears of it no sooner than this after whoever heard last.
const GREET_AFTER: Duration = Duration::from_millis(20);
/// Streams that are told at a time.
const TOLD_AT_A_TIME: usize = 500;
/// What a gateway says that leaves, after its name.
const LEAVES: &str = " leaves";

impl Places {
    /// Says that this gateway lives and hears which others do, until the gateway ends. `part` is ready once it has.
    pub(crate) async fn keep_up(self: Arc<Self>, part: Part) {
        let mut backoff = Backoff::default();
        loop {
            match self.gateways.hear_all().await {
                Ok(notices) => self.hear(notices, &part).await,
                Err(error) => tracing::warn!(%error, "can't hear which gateways live; trying again"),
            }
            backoff.wait().await;
        }
    }

    async fn hear(&self, mut notices: Box<dyn Notices>, part: &Part) {
        let began = Instant::now();
        let mut beat = began;
        loop {
            tokio::select! {
                // What was said before is heard before anybody is taken for silent.
                biased;
                notice = notices.next() => match notice {
                    Some(notice) if self.noticed(&notice) => beat = beat.min(Instant::now() + GREET_AFTER),
                    Some(_) => {}
                    None => return,
                },
                () = sleep_until(beat) => {
                    self.members.forget_silent().into_iter().for_each(|silent| self.is_gone(silent));
                    self.say(String::new()).await;
                    if began.elapsed() >= ACQUAINTED_WITHIN || self.limit.most == 0 {
                        self.now_acquainted();
                        part.ready();
                        beat = Instant::now() + BEAT.mul_f64(0.9 + 0.2 * fastrand::f64());
                    } else {
                        beat = began + ACQUAINTED_WITHIN;
                    }
                }
            }
        }
    }

    /// The others have had their time.
    fn now_acquainted(&self) {
        if !std::mem::replace(&mut self.known.lock().acquainted, true) {
            self.agreements.send_modify(|changes| *changes += 1);
        }
    }

    async fn say(&self, what: String) {
        let notice = Bytes::from(format!("{}{what}", self.members.own()));
        if let Err(error) = self.gateways.tell_all(notice).await {
            tracing::debug!(%error, "can't say that this gateway lives");
        }
    }

    /// The others need not wait until it has been silent for long enough.
    pub(crate) async fn leave(&self) {
        self.say(LEAVES.to_owned()).await;
    }

    /// Takes in what all are told; whether a gateway is new.
    fn noticed(&self, notice: &[u8]) -> bool {
        let text = std::str::from_utf8(notice).unwrap_or_default();
        let (name, leaves) = text.strip_suffix(LEAVES).map_or((text, false), |name| (name, true));
        let Ok(name) = GatewayName::from_str(name) else { return false };
        if leaves {
            if self.members.left(name) {
                self.is_gone(name);
            }
            return false;
        }
        let is_new = self.members.heard(name);
        if is_new {
            self.view_changed();
        }
        is_new
    }

    /// Its streams are gone with it, and others decide what it has decided.
    fn is_gone(&self, name: GatewayName) {
        {
            let mut known = self.known.lock();
            known.decided.retain(|_, entry| entry.stream.gateway() != name);
            known.told.remove(&name);
        }
        self.view_changed();
    }

    fn view_changed(&self) {
        let members = self.members.others().len() + 1;
        self.metrics.members.set(i64::try_from(members).unwrap_or(i64::MAX));
        self.views.send_modify(|changes| *changes += 1);
        self.agreements.send_modify(|changes| *changes += 1);
    }

    // Agreeing

    /// Returns once every gateway has told all its streams to whoever this one takes for the deciding ones, or after a
    /// time, once for each change of who lives.
    pub(super) async fn until_agreed(&self) {
        let mut changes = self.agreements.subscribe();
        let agreed = async { while !self.is_agreed() && changes.changed().await.is_ok() {} };
        if timeout(AGREED_WITHIN, agreed).await.is_err() {
            self.known.lock().given_up = Some(self.members.view());
        }
    }

    fn is_agreed(&self) -> bool {
        let (view, others) = (self.members.view(), self.members.others());
        let known = self.known.lock();
        let have_told = || others.iter().all(|other| known.told.get(other) == Some(&view));
        known.given_up == Some(view) || known.acquainted && have_told()
    }

    fn has_told(&self, gateway: GatewayName, view: u64) {
        let before = self.known.lock().told.insert(gateway, view);
        if before != Some(view) {
            self.agreements.send_modify(|changes| *changes += 1);
        }
    }

    // Comparing

    /// Tells which streams are over, until the gateway ends.
    pub(crate) async fn keep_told(self: Arc<Self>) {
        let Some(mut ended) = self.to_tell.lock().take() else { return };
        let mut over = Vec::new();
        while ended.recv_many(&mut over, TOLD_AT_A_TIME).await > 0 {
            self.tell_ended(over.drain(..)).await;
        }
    }

    /// Compares what others decide by with what is here, every few seconds and when it changes who lives, until the
    /// gateway ends.
    pub(crate) async fn keep_compared(self: Arc<Self>) {
        if self.limit.most == 0 {
            // Nobody decides anything.
            return;
        }
        let mut views = self.views.subscribe();
        loop {
            let pause = COMPARE_EVERY.mul_f64(0.8 + 0.4 * fastrand::f64());
            let round = async {
                self.compare_with_all().await;
                sleep(pause).await;
            };
            // Anew, with who lives then.
            tokio::select! {
                () = round => {}
                changed = views.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn tell_ended(&self, over: impl Iterator<Item = (User, ClientId)>) {
        let mut by_owner: HashMap<GatewayName, Vec<(Hex, Hex)>> = HashMap::new();
        for (user, stream) in over {
            let told = (Hex::user(user), Hex::stream(stream));
            by_owner.entry(self.members.owner(user)).or_default().push(told);
        }
        let asks = by_owner.into_iter();
        let asks = asks.map(|(owner, streams)| self.ask(owner, Ask::Ended { streams }, COMPARED_WITHIN));
        // What doesn't arrive is found by comparing.
        drop(join_all(asks).await);
    }

    async fn compare_with_all(&self) {
        let view = self.members.view();
        self.forget_strangers();
        let mut by_owner: HashMap<GatewayName, Vec<(User, ClientId, i64)>> = HashMap::new();
        for (user, entry) in self.known.lock().own.iter() {
            let stream = (user, entry.stream, entry.since);
            by_owner.entry(self.members.owner(user)).or_default().push(stream);
        }
        let all = self.members.others().into_iter().chain([self.members.own()]);
        let compared = all.map(|owner| {
            let streams = by_owner.remove(&owner).unwrap_or_default();
            self.compare_with(owner, view, streams)
        });
        drop(join_all(compared.collect::<Vec<_>>()).await);
    }

    /// What a gateway that is gone asked for, or told, may have been taken in after it was known to be gone.
    fn forget_strangers(&self) {
        let members: HashSet<_> = self.members.others().into_iter().chain([self.members.own()]).collect();
        let mut known = self.known.lock();
        known.told.retain(|gateway, _| members.contains(gateway));
        known
            .decided
            .retain(|_, entry| members.contains(&entry.stream.gateway()) || entry.noted.elapsed() < YOUNG);
    }

    async fn compare_with(&self, owner: GatewayName, view: u64, streams: Vec<(User, ClientId, i64)>) {
        let gateway = Hex::gateway(self.members.own());
        let sums = digests(streams.iter().map(|(user, stream, _)| (*user, *stream)));
        let compared = self.ask(owner, Ask::Compare { gateway, view, digests: sums }, COMPARED_WITHIN).await;
        let mut differing = compared.ok().and_then(|answer| answer.differing).unwrap_or_default();
        let mut by_part: HashMap<u8, Vec<(Hex, Hex, i64)>> = HashMap::new();
        for (user, stream, since) in streams {
            let told = (Hex::user(user), Hex::stream(stream), since);
            by_part.entry(part_of(user)).or_default().push(told);
        }
        while !differing.is_empty() {
            let (mut parts, mut streams) = (Vec::new(), Vec::new());
            while streams.len() < TOLD_AT_A_TIME
                && let Some(part) = differing.pop()
            {
                streams.append(&mut by_part.remove(&part).unwrap_or_default());
                parts.push(part);
            }
            let view = differing.is_empty().then_some(view);
            let ask = Ask::Replace { gateway, parts, streams, view };
            if self.ask(owner, ask, COMPARED_WITHIN).await.is_err() {
                return;
            }
        }
    }

    /// In which parts this gateway has other streams of another one than that says.
    pub(super) fn compare(&self, gateway: GatewayName, view: u64, theirs: &[u64]) -> Vec<u8> {
        let known = self.known.lock();
        let decided = known.decided.iter().map(|(user, entry)| (user, entry.stream));
        let here = digests(decided.filter(|(_, stream)| stream.gateway() == gateway));
        drop(known);
        let theirs = theirs.iter().chain(std::iter::repeat(&0)).take(PARTS);
        let differs = |(part, (here, theirs)): (usize, (&u64, &u64))| {
            u8::try_from(part).ok().filter(|_| here != theirs)
        };
        let differing: Vec<u8> = here.iter().zip(theirs).enumerate().filter_map(differs).collect();
        if differing.is_empty() {
            self.has_told(gateway, view);
        }
        differing
    }

    /// These are the streams of a gateway in these parts, and those that were let in so shortly ago that it may not have
    /// known.
    pub(super) fn replace(
        &self,
        gateway: GatewayName,
        parts: &[u8],
        streams: Vec<(User, Entry)>,
        view: Option<u64>,
    ) {
        if self.limit.most > 0 {
            let mut known = self.known.lock();
            known.decided.retain(|user, entry| {
                let is_meant = entry.stream.gateway() == gateway && parts.contains(&part_of(user));
                !is_meant || entry.noted.elapsed() < YOUNG
            });
            for (user, entry) in streams {
                if entry.stream.gateway() == gateway {
                    known.decided.add(user, entry);
                }
            }
        }
        if let Some(view) = view {
            self.has_told(gateway, view);
        }
    }
}
