//! From publish to receipt: listeners and publishers at a time, and an oracle between them.

mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::door::{Door, Target};
use super::listener::{Audience, Listener, Live};
use super::oracle::{Faults, Heard, Published};
use super::process::{self, Used};
use super::publisher::{Done, Publisher, nanos, seconds};
use super::rounds::per;
use super::scan::STAMP_BYTES;
use super::{Common, at_least_one, limits};
use crate::client::http::base_url;
pub(super) use report::Report;

/// How long all listeners may take to be live.
const LIVE_DEADLINE: Duration = Duration::from_secs(120);
/// How often it is looked whether everything has been heard.
const LOOK: Duration = Duration::from_millis(20);

/// What `foghorn bench deliver` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where listeners connect; given several times, they take turns
    #[arg(long, env = "FOGHORN_URL", default_value = "http://127.0.0.1:8080", value_parser = base_url)]
    url: Vec<Url>,
    /// Where events are published [default: the first --url]
    #[arg(long, value_name = "URL", value_parser = base_url)]
    publish_url: Option<Url>,
    /// How many listeners, each of one channel
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    connections: usize,
    /// How many channels
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    channels: usize,
    /// Events published a second, over all channels; 0 for as fast as acks come
    #[arg(long, value_name = "N", default_value_t = 1000.0, value_parser = rate)]
    rate: f64,
    /// How long is published
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Bytes of data in an event (at least 37)
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    size: usize,
    /// How many publishers, each on its own connection and with channels of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    publishers: usize,
    /// Most events in one request; several only when a publisher is behind
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    batch: usize,
    /// After publishing, how long without any receipt until what is missing counts as lost
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    settle: Duration,
    /// What channel names begin with
    #[arg(long, value_name = "CHANNEL", default_value = "bench")]
    prefix: String,
    #[command(flatten)]
    common: Common,
}

/// Measures and prints.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.common.json;
    let report = measure(args).await?;
    report.print(json)?;
    let Faults { lost, duplicated, reordered } = report.faults;
    let exact = lost + duplicated + reordered + report.resets == 0;
    Ok(if exact && report.events > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn measure(args: Args) -> anyhow::Result<Report> {
    let mut bench = Bench::prepare(args).await?;
    let before = process::look(&bench.args.common.pid)?;
    let began = Instant::now();
    bench.listen().await?;
    let connect_seconds = began.elapsed().as_secs_f64();
    let connected = process::look(&bench.args.common.pid)?;
    let start = Instant::now();
    let done = bench.publish().await?;
    let publish_seconds = start.elapsed().as_secs_f64();
    let published = bench.published(&done);
    bench.settle(&published).await;
    let after = process::look(&bench.args.common.pid)?;
    bench.stop();
    let processes = process::used(&before, &connected, &after);
    bench.judge(&done, &published, start, publish_seconds, connect_seconds, processes)
}

struct Bench {
    args: Args,
    targets: Vec<Target>,
    publish_target: Target,
    /// Their names; no earlier benchmark has used them.
    channels: Vec<String>,
    audience: Arc<Audience>,
    heard: Vec<Arc<Mutex<Heard>>>,
    listeners: Vec<AbortHandle>,
}

impl Bench {
    async fn prepare(mut args: Args) -> anyhow::Result<Self> {
        limits::allow(args.connections + args.publishers)?;
        args.size = args.size.max(STAMP_BYTES);
        args.publishers = args.publishers.min(args.channels);
        let mut targets = Vec::new();
        for url in &args.url {
            targets.push(Target::resolve(url).await?);
        }
        let publish_target = match (&args.publish_url, targets.first()) {
            (Some(url), _) => Target::resolve(url).await?,
            (None, Some(first)) => first.clone(),
            (None, None) => bail!("no --url"),
        };
        let run = rand::random::<u32>();
        let channels = (0..args.channels).map(|at| format!("{}.{run:08x}.{at}", args.prefix)).collect();
        let audience = Arc::new(Audience::new(Instant::now())?);
        Ok(Bench {
            args,
            targets,
            publish_target,
            channels,
            audience,
            heard: Vec::new(),
            listeners: Vec::new(),
        })
    }

    /// Opens all streams, and waits until each is live: from then on every event is owed.
    async fn listen(&mut self) -> anyhow::Result<()> {
        for index in 0..self.args.connections {
            let heard = Arc::new(Mutex::new(Heard::default()));
            self.heard.push(heard.clone());
            let listener = Listener {
                index,
                target: self.targets[index % self.targets.len()].clone(),
                channel: self.channels[index % self.channels.len()].clone(),
                audience: self.audience.clone(),
                heard,
            };
            self.listeners.push(tokio::spawn(listener.run()).abort_handle());
        }
        let all = self.args.connections;
        let mut live = self.audience.live.subscribe();
        let all_or_refused = live.wait_for(|live| live.count >= all || live.refused.is_some());
        let in_time = timeout(LIVE_DEADLINE, all_or_refused).await.is_ok();
        let Live { count, refused } = live.borrow().clone();
        if let Some(refused) = refused {
            bail!("the server refuses to stream: {refused}");
        }
        if !in_time {
            let trouble = self.audience.trouble.lock().clone();
            let trouble = trouble.unwrap_or_else(|| "the server sends no stream-live".to_owned());
            bail!("only {count} of {all} listeners were live after {} s: {trouble}", LIVE_DEADLINE.as_secs());
        }
        Ok(())
    }

    async fn publish(&self) -> anyhow::Result<Vec<Done>> {
        let until = Instant::now() + self.args.duration;
        let count = self.args.publishers;
        let mut publishers = JoinSet::new();
        for index in 0..count {
            let channels = self.channels.iter().cloned().enumerate().skip(index).step_by(count);
            #[expect(clippy::cast_precision_loss, reason = "a small count")]
            let share = self.args.rate / count as f64;
            let publisher = Publisher {
                door: Door::http(self.publish_target.clone()),
                channels: channels.collect(),
                rate: (share > 0.0).then_some(share),
                phase: if share > 0.0 { seconds(index as u64, self.args.rate) } else { Duration::ZERO },
                batch: self.args.batch,
                size: self.args.size,
                until,
                epoch: self.audience.epoch,
            };
            publishers.spawn(publisher.run());
        }
        let mut done = Vec::new();
        while let Some(ended) = publishers.join_next().await {
            done.push(ended?);
        }
        Ok(done)
    }

    fn published(&self, done: &[Done]) -> Vec<Published> {
        let mut published = vec![Published::default(); self.channels.len()];
        for (channel, of) in done.iter().flat_map(|done| &done.channels) {
            published[*channel] = of.clone();
        }
        published
    }

    fn expected(&self, published: &[Published]) -> u64 {
        (0..self.args.connections).map(|index| published[index % published.len()].acked()).sum()
    }

    /// Waits until everything has been heard, or nothing comes any more.
    async fn settle(&self, published: &[Published]) {
        let expected = self.expected(published);
        let mut last = (self.audience.heard.load(Ordering::Relaxed), Instant::now());
        while last.0 < expected && last.1.elapsed() < self.args.settle {
            tokio::time::sleep(LOOK).await;
            let heard = self.audience.heard.load(Ordering::Relaxed);
            if heard > last.0 {
                last = (heard, Instant::now());
            }
        }
    }

    fn stop(&self) {
        self.listeners.iter().for_each(AbortHandle::abort);
    }

    fn judge(
        &self,
        done: &[Done],
        published: &[Published],
        start: Instant,
        publish_seconds: f64,
        connect_seconds: f64,
        processes: Vec<Used>,
    ) -> anyhow::Result<Report> {
        let mut faults = Faults::default();
        for (index, heard) in self.heard.iter().enumerate() {
            faults += heard.lock().faults(&published[index % published.len()]);
        }
        let audience = &self.audience;
        let last = audience.last.load(Ordering::Relaxed);
        let seconds = Duration::from_nanos(last.saturating_sub(nanos(start - audience.epoch))).as_secs_f64();
        let events = published.iter().map(Published::acked).sum();
        let deliveries = audience.heard.load(Ordering::Relaxed);
        let cpu: f64 = processes.iter().map(|used| used.cpu_seconds).sum();
        let trouble = audience.trouble.lock().clone();
        Ok(Report {
            connections: self.args.connections,
            channels: self.args.channels,
            connect_seconds,
            seconds: publish_seconds,
            events,
            events_per_second: per(events, publish_seconds),
            unacknowledged: published.iter().map(Published::unacked_count).sum(),
            failed_requests: done.iter().map(|done| done.failed_requests).sum(),
            failure: done.iter().find_map(|done| done.why.clone()),
            deliveries,
            expected_deliveries: self.expected(published),
            deliveries_per_second: per(deliveries, seconds),
            latency_ms: audience.latencies.percentiles()?,
            faults,
            resets: audience.resets.load(Ordering::Relaxed),
            reconnects: audience.reconnects.load(Ordering::Relaxed),
            trouble,
            deliveries_per_cpu_second: (cpu > 0.0).then(|| per(deliveries, cpu)),
            processes,
        })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1e9).contains(&rate) => Ok(rate),
        _ => Err("it is events a second, 0 for as fast as acks come".to_owned()),
    }
}
