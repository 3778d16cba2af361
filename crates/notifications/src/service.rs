//! Notifications put together: the store, its retention, and what the doors need.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foghorn_auth::Authenticator;
use foghorn_bus::Future;
use foghorn_bus::clock::Clock;
use foghorn_bus::nats::UnreadQuestions;
use foghorn_bus::notifications::{Unread, UnreadError};
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::event::EventError;
use foghorn_http::client::{AddressLimiter, Proxies};
use foghorn_http::limit::Limiter;
use foghorn_telemetry::shutdown::Shutdown;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;

use crate::config::Config;
use crate::http::NotificationsHandler;
use crate::metrics::{Action, Deleted, Metrics};
use crate::notification::{Notification, User};
use crate::store::{Store, StoreError};

/// How often retention looks, about.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// Of how many users at a time.
const RETAIN_USERS: u32 = 100;
/// Most requests that are worked on at a time; the others are told to come back.
pub(crate) const REQUESTS_MAX: usize = 512;

/// Most questions of gateways that are answered at a time.
const QUESTIONS_MAX: usize = 64;

/// What notifications stand on.
pub struct Ports {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// Who may notify whom.
    pub auth: Arc<Authenticator>,
    /// How large events may be, and on which channels a webhook says who may publish; may change.
    pub policies: SharedPolicies,
    /// How large at most, as an SSE frame.
    pub frame_bytes: usize,
    /// Whose word is taken for whom a request is from.
    pub proxies: Proxies,
    /// What counts as now.
    pub clock: Clock,
}

/// Live notifications. Hands out its door, and runs retention.
pub struct Notifications {
    pub(crate) ports: Ports,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) addresses: AddressLimiter,
    pub(crate) subjects: Limiter,
    pub(crate) room: Semaphore,
    pub(crate) shutdown: Shutdown,
}

impl Notifications {
    /// Puts it together and registers its metrics. `config` has been [checked](Config::check).
    pub fn new(ports: Ports, config: Config, shutdown: Shutdown, registry: &mut Registry) -> Arc<Self> {
        let addresses = AddressLimiter::new(ports.proxies.clone(), config.address_rate());
        let subjects = Limiter::new(config.subject_rate());
        let (metrics, room) = (Metrics::register(registry), Semaphore::new(REQUESTS_MAX));
        Arc::new(Notifications { ports, config, metrics, addresses, subjects, room, shutdown })
    }

    /// What answers `/api/notifications…`, but for its stream.
    pub fn http(self: &Arc<Self>) -> NotificationsHandler {
        NotificationsHandler::new(Arc::clone(self))
    }

    /// Answers what gateways ask, until shutdown. So many at a time; the others wait in the bus's bounded queue.
    pub async fn answer(self: &Arc<Self>, mut questions: UnreadQuestions) {
        let room = Arc::new(Semaphore::new(QUESTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let question = tokio::select! {
                question = questions.next() => question,
                () = self.shutdown.wait() => return,
            };
            let (Some(question), notifications) = (question, Arc::clone(self)) else { return };
            tokio::spawn(async move {
                let unread = notifications.unread(&question.user).await;
                question.answer(unread.ok()).await;
                drop(permit);
            });
        }
    }

    /// How many of a user's notifications are unread.
    async fn count(&self, user: User) -> Result<u64, StoreError> {
        let began = Instant::now();
        let unread = self.ports.store.unread(user).await;
        let outcome = unread.as_ref().map_or_else(outcome, |_| "done");
        self.metrics.answered(Action::Count, outcome, began.elapsed());
        unread
    }

    /// Deletes what is older than it is kept, until shutdown. All processes do: who comes second finds nothing.
    pub async fn retain(&self) {
        loop {
            if let Err(error) = self.retain_once().await {
                self.metrics.retention_failed();
                tracing::warn!(%error, "old notifications can't be deleted now; they stay until the next round");
            }
            tokio::select! {
                () = tokio::time::sleep(RETAIN_EVERY.mul_f64(0.75 + rand::random::<f64>() / 2.0)) => {}
                () = self.shutdown.wait() => return,
            }
        }
    }

    /// One round of retention.
    async fn retain_once(&self) -> Result<(), StoreError> {
        let before = self.ports.clock.now().minus(self.config.age);
        while !self.shutdown.is_set() {
            let expired = self.ports.store.expire(before, RETAIN_USERS).await?;
            self.metrics.deleted(Deleted::Expired, expired);
            if expired == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Whether the event that would tell of it may be published: looked at before anything is stored.
    pub(crate) fn check_size(&self, user: &User, notification: &Notification) -> Result<(), EventError> {
        let most = self.ports.policies.get().event_bytes(user.channel().as_str(), self.ports.frame_bytes);
        user.told(notification)?.check_size(most)
    }
}

impl Unread for Notifications {
    fn unread<'a>(&'a self, user: &'a str) -> Future<'a, Result<u64, UnreadError>> {
        Box::pin(async move {
            let user = User::new(user).map_err(|error| UnreadError(error.to_string()))?;
            self.count(user).await.map_err(|error| UnreadError(error.to_string()))
        })
    }
}

/// What metrics count an error as.
pub(crate) fn outcome(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable(_) => "unavailable",
        StoreError::Full(_) => "full",
        StoreError::Event(_) => "invalid",
    }
}
