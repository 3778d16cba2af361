//! Who leads: whoever holds a Lease of Kubernetes, renewed in time.
//!
//! As Kubernetes' own components do it. Times in the Lease are for people: how long its holder has been silent is
//! measured by the own clock, from when the Lease was last seen to change, so clocks need not agree. A leader that
//! can't renew stops before another one may begin. It is a hint all the same: what two leaders must not do, the
//! compare-and-set of what they write prevents.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout};

/// A lease that one may come to hold.
pub(crate) struct Lease {
    api: Api<Object>,
    name: String,
    /// Who we are.
    own: String,
    duration: Duration,
    /// The version that was seen last, and since when.
    seen: Option<(String, Instant)>,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is ours.
    Ours,
    /// It is another's.
    Theirs,
}

impl Lease {
    pub(crate) fn new(api: Api<Object>, name: String, own: String, duration: Duration) -> Self {
        Lease { api, name, own, duration, seen: None }
    }

    /// Waits until it is ours. Attempts that fail are told to `failed` and made again.
    pub(crate) async fn acquire(&mut self, mut tried: impl FnMut(&Result<Turn, kube::Error>)) {
        loop {
            let turn = self.attempt().await;
            tried(&turn);
            if matches!(turn, Ok(Turn::Ours)) {
                return;
            }
            sleep(self.step()).await;
        }
    }

    /// Renews it; returns when it isn't ours any more, or may be another's soon.
    pub(crate) async fn keep(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.step()).await;
            let begun = Instant::now();
            match self.attempt().await {
                Ok(Turn::Ours) => renewed = begun,
                Ok(Turn::Theirs) => return tracing::warn!("another operator leads now"),
                Err(error) => tracing::warn!(%error, "can't renew the operator's lease; trying again"),
            }
            // Before another one counts it as over, with a step to stop in.
            if renewed.elapsed() + self.step() >= self.duration * 2 / 3 {
                return tracing::warn!("the operator's lease couldn't be renewed in time");
            }
        }
    }

    /// Gives it up, so that another one need not wait. It ends by itself if that fails.
    pub(crate) async fn release(&mut self) {
        let given_up = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            if let Some(spec) =
                lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&*self.own))
            {
                spec.holder_identity = Some(String::new());
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(self.step(), given_up).await {
            Ok(Ok(())) => {}
            failed => tracing::debug!(?failed, "the operator's lease ends by itself"),
        }
    }

    /// How long between two attempts, by chance up to a quarter less.
    fn step(&self) -> Duration {
        (self.duration / 8).mul_f64(0.75 + 0.25 * fastrand::f64())
    }

    async fn attempt(&mut self) -> Result<Turn, kube::Error> {
        match timeout(self.duration / 4, self.attempt_unhurried()).await {
            // Somebody else was faster.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(Turn::Theirs),
            Ok(turn) => turn,
            Err(_) => Err(kube::Error::Service("the API server doesn't answer".into())),
        }
    }

    async fn attempt_unhurried(&mut self) -> Result<Turn, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let own = Some(self.own.clone());
        let seconds = i32::try_from(self.duration.as_secs()).unwrap_or(i32::MAX);
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let spec = LeaseSpec {
                holder_identity: own,
                lease_duration_seconds: Some(seconds),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            };
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            self.api.create(&PostParams::default(), &Object { metadata, spec: Some(spec) }).await?;
            return Ok(Turn::Ours);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => self.seen.insert((version, Instant::now())).1,
        };
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        // For as long as its holder said, who may be configured for longer.
        let theirs = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default();
        let silent_for = self.duration.max(Duration::from_secs(theirs));
        if holder != self.own && !holder.is_empty() && since.elapsed() < silent_for {
            return Ok(Turn::Theirs);
        }
        if holder != self.own {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        }
        spec.holder_identity = own;
        spec.lease_duration_seconds = Some(seconds);
        spec.renew_time = Some(now);
        // With the version that was read: of two that try, one succeeds.
        let renewed = self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        self.seen = renewed.metadata.resource_version.map(|version| (version, Instant::now()));
        Ok(Turn::Ours)
    }
}
