//! The application of the demo: it writes a log, does a long job when it is asked to, and notifies its user.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foghorn_bus::backoff::Backoff;
use foghorn_telemetry::shutdown::Shutdown;
use rand::seq::IndexedRandom as _;
use reqwest::{Client, header};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::USER;
use super::passes::Passes;
use crate::client;

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often something is told that isn't taken. An id keeps it from being told twice.
const ATTEMPTS: u32 = 5;

/// Milliseconds between lines of the log.
const LINE_EVERY: std::ops::Range<u64> = 300..1500;
const NOTIFY_EVERY: Duration = Duration::from_secs(40);
/// A hundred of them are a job.
const STEP: Duration = Duration::from_millis(120);

/// What a job is at, from which percentage on.
const PHASES: [(u32, &str); 4] = [
    (0, "Reading the originals"),
    (15, "Resizing pictures"),
    (70, "Writing thumbnails"),
    (95, "Checking them"),
];

const LINES: [(&str, &str, &str); 12] = [
    ("info", "web", "GET /orders/4711 200 in 12 ms"),
    ("info", "web", "GET /search?q=lighthouse 200 in 31 ms"),
    ("info", "web", "POST /cart 201 in 9 ms"),
    ("info", "payments", "captured 49.90 EUR for order 4711"),
    ("info", "payments", "settled a batch of 112 payments"),
    ("info", "mailer", "sent \"Your order is on its way\""),
    ("info", "worker", "took job thumbnails-88 from the queue"),
    ("info", "cache", "evicted 1,204 entries, hit rate 97.1 %"),
    ("warning", "web", "GET /export 200 in 2,310 ms: slow"),
    ("warning", "mailer", "mx2.example.com asks to come back later; in 5 minutes again"),
    ("warning", "database", "12 of 16 connections are in use"),
    ("error", "payments", "the card of order 4712 was declined"),
];

const NEWS: [(&str, &str, &str); 4] = [
    ("info", "A new version is out", "It is rolled out by tonight. Nothing for you to do."),
    ("success", "Your order has shipped", "Order 4711 is on its way, and with you by Thursday."),
    ("warning", "Your storage is nearly full", "18.4 of 20 GB are in use. Old exports take up most of it."),
    ("error", "A payment failed", "The card of order 4712 was declined. Try another one."),
];

/// What publishes. Everything it does ends when the process stops.
pub(super) struct Application {
    client: Client,
    origin: String,
    passes: Arc<Passes>,
    shutdown: Shutdown,
    is_working: AtomicBool,
}

impl Application {
    /// One that tells what it has to tell to the server at `address`.
    pub(super) fn new(address: SocketAddr, passes: Arc<Passes>, shutdown: Shutdown) -> anyhow::Result<Self> {
        // Fails only when one is installed already, which is as good.
        let _installed = rustls::crypto::ring::default_provider().install_default().is_ok();
        let client = Client::builder()
            .timeout(DEADLINE)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Without TLS no certificates are needed, and a slim container has none to load.
            .tls_certs_only([])
            .build()?;
        let origin = format!("http://{address}");
        Ok(Application { client, origin, passes, shutdown, is_working: AtomicBool::new(false) })
    }

    /// Writes its log and notifies now and then, from now on.
    pub(super) fn begin(self: &Arc<Self>) {
        self.spawn(async |application| application.write_log().await);
        self.spawn(async |application| application.notify_now_and_then().await);
    }

    /// Begins a job, unless one is under way.
    pub(super) fn begin_job(self: &Arc<Self>) {
        if !self.is_working.swap(true, Ordering::AcqRel) {
            self.spawn(async |application| {
                application.work().await;
                application.is_working.store(false, Ordering::Release);
            });
        }
    }

    /// Notifies the user of something or other. Says whether it could be told.
    pub(super) async fn notify(&self) -> bool {
        let (level, title, message) = NEWS.choose(&mut rand::rng()).copied().unwrap_or(NEWS[0]);
        self.tell_user(level, title, message).await
    }

    fn spawn<F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (work, shutdown) = (work(self.clone()), self.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = shutdown.wait() => {}
            }
        });
    }

    async fn write_log(&self) {
        loop {
            let (level, service, text) = LINES.choose(&mut rand::rng()).copied().unwrap_or(LINES[0]);
            let line = json!({ "level": level, "service": service, "text": text });
            self.publish("demo.log", "line", line).await;
            sleep(Duration::from_millis(rand::random_range(LINE_EVERY))).await;
        }
    }

    async fn notify_now_and_then(&self) {
        loop {
            self.notify().await;
            sleep(NOTIFY_EVERY).await;
        }
    }

    async fn work(&self) {
        let mut steps = interval(STEP);
        // One that was held up doesn't hurry.
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for percent in 0..=100 {
            steps.tick().await;
            let phase =
                PHASES.iter().rev().find(|(from, _)| percent >= *from).map_or("", |(_, phase)| *phase);
            let progress = json!({ "percent": percent, "phase": phase });
            self.publish("demo.job", "progress", progress).await;
        }
        self.tell_user("success", "Your thumbnails are ready", "All 2,400 pictures are done.").await;
    }

    /// The id is in the data too: the page knows by it what it has heard already of what it asks for.
    async fn publish(&self, channel: &str, event: &str, mut data: Value) {
        let id = id();
        data["id"] = id.as_str().into();
        let event = json!({ "channel": channel, "event": event, "data": data, "id": id });
        self.tell("/api/publish", &event).await;
    }

    async fn tell_user(&self, level: &str, title: &str, message: &str) -> bool {
        let notification =
            json!({ "userId": USER, "type": level, "title": title, "message": message, "id": id() });
        self.tell("/api/notifications", &notification).await
    }

    /// Says whether it was taken.
    async fn tell(&self, path: &str, body: &Value) -> bool {
        let mut backoff = Backoff::default();
        for attempt in 1.. {
            let Err(why) = self.post(path, body).await else { return true };
            if attempt == ATTEMPTS {
                tracing::warn!(path, why = format!("{why:#}"), "the demo could not tell something");
                break;
            }
            backoff.wait().await;
        }
        false
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<()> {
        let request = self
            .client
            .post(format!("{}{path}", self.origin))
            .bearer_auth(self.passes.application()?)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
        let answer =
            request.send().await.map_err(|error| anyhow::Error::msg(client::http::explain(&error)))?;
        anyhow::ensure!(answer.status().is_success(), "it was refused with {}", answer.status());
        Ok(())
    }
}

fn id() -> String {
    format!("{:032x}", rand::random::<u128>())
}
