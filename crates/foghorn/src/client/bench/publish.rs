//! Publishing alone: how many acknowledged events a second, and how long an ack takes.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Url;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;

use foghorn_rpc::v1::publish_result::Result as Outcome;

use super::deliver::{at_least_one, per};
use super::door::{Door, Outgoing, REQUEST_DEADLINE, Target, grpc_client, request};
use super::latency::{Latencies, Percentiles, record};
use super::process::{self, Used};
use super::{Common, limits};
use crate::client::http::base_url;

/// What `foghorn bench publish` takes.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("door").required(true).args(["url", "grpc"])))]
pub(super) struct Args {
    /// Publish by HTTP
    #[arg(long, value_name = "URL", value_parser = base_url)]
    url: Option<Url>,
    /// Publish by gRPC, such as http://127.0.0.1:50051
    #[arg(long, value_name = "URL", value_parser = base_url)]
    grpc: Option<Url>,
    /// How many publishers, each on its own connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    concurrency: usize,
    /// How many events in all
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = at_least_one)]
    count: usize,
    /// Bytes of data in an event
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    size: usize,
    /// Events in one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    batch: usize,
    /// Publish on a gRPC stream for each publisher, with so many events unanswered at a time
    #[arg(long, value_name = "N", conflicts_with_all = ["url", "batch"], value_parser = at_least_one)]
    stream: Option<usize>,
    /// How many channels the events go to, in turn: those of one channel wait for one another
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one)]
    channels: usize,
    /// What channel names begin with
    #[arg(long, value_name = "CHANNEL", default_value = "bench")]
    prefix: String,
    #[command(flatten)]
    common: Common,
}

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    concurrency: usize,
    batch: usize,
    seconds: f64,
    acknowledged: u64,
    failed: u64,
    failure: Option<String>,
    acknowledged_per_second: f64,
    /// Of a request; on a stream, of an event.
    ack_latency_ms: Percentiles,
    acknowledged_per_cpu_second: Option<f64>,
    processes: Vec<Used>,
}

/// What the publishers share.
struct Work {
    /// The next event's number.
    next: AtomicU64,
    count: u64,
    data: Vec<u8>,
    channels: Vec<String>,
    latencies: Latencies,
}

/// What one publisher did.
#[derive(Default)]
struct Done {
    acked: u64,
    failed: u64,
    why: Option<String>,
}

/// Measures and prints.
pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    limits::allow(args.concurrency)?;
    let run = rand::random::<u32>();
    let work = Arc::new(Work {
        next: AtomicU64::new(0),
        count: args.count as u64,
        data: vec![b'x'; args.size],
        channels: (0..args.channels).map(|at| format!("{}.{run:08x}.{at}", args.prefix)).collect(),
        latencies: Latencies::new()?,
    });
    let mut publishers = Vec::new();
    for index in 0..args.concurrency {
        publishers.push(Publisher::open(index, &args, work.clone()).await?);
    }
    let before = process::look(&args.common.pid)?;
    let start = Instant::now();
    let mut running = JoinSet::new();
    for publisher in publishers {
        running.spawn(publisher.run());
    }
    let mut all = Done::default();
    while let Some(done) = running.join_next().await {
        let done = done?;
        all.acked += done.acked;
        all.failed += done.failed;
        all.why = all.why.or(done.why);
    }
    let seconds = start.elapsed().as_secs_f64();
    let processes = process::used(&before, &before, &process::look(&args.common.pid)?);
    let cpu: f64 = processes.iter().map(|used| used.cpu_seconds).sum();
    let report = Report {
        concurrency: args.concurrency,
        batch: args.batch,
        seconds,
        acknowledged: all.acked,
        failed: all.failed,
        failure: all.why,
        acknowledged_per_second: per(all.acked, seconds),
        ack_latency_ms: work.latencies.percentiles()?,
        acknowledged_per_cpu_second: (cpu > 0.0).then(|| per(all.acked, cpu)),
        processes,
    };
    print(&report, args.common.json)?;
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, report)?;
        return Ok(writeln!(out)?);
    }
    let Report { acknowledged, seconds, acknowledged_per_second, .. } = report;
    writeln!(
        out,
        "published     {acknowledged} events in {seconds:.1} s: {acknowledged_per_second:.0} events/s acknowledged"
    )?;
    if let Some(failure) = &report.failure {
        writeln!(out, "  {} events without an ack: {failure}", report.failed)?;
    }
    writeln!(out, "ack latency   {}", report.ack_latency_ms)?;
    process::print(&mut out, &report.processes)?;
    if let Some(rate) = report.acknowledged_per_cpu_second {
        writeln!(out, "              {rate:.0} acknowledged publishes per CPU second")?;
    }
    Ok(())
}

impl Work {
    /// The next events to publish; none when all have been taken.
    fn take(&self, most: usize) -> Vec<Outgoing> {
        let first = self.next.fetch_add(most as u64, Ordering::Relaxed);
        let event = |number: u64| {
            let at = usize::try_from(number).unwrap_or_default() % self.channels.len();
            Outgoing { channel: self.channels[at].clone(), data: self.data.clone() }
        };
        (first..(first + most as u64).min(self.count)).map(event).collect()
    }
}

/// One publisher, connected.
enum Publisher {
    Requests { index: usize, door: Door, batch: usize, work: Arc<Work> },
    Stream { index: usize, url: Url, window: usize, work: Arc<Work> },
}

impl Publisher {
    async fn open(index: usize, args: &Args, work: Arc<Work>) -> anyhow::Result<Self> {
        let door = match (&args.grpc, &args.url) {
            (Some(url), _) => match args.stream {
                Some(window) => return Ok(Publisher::Stream { index, url: url.clone(), window, work }),
                None => Door::grpc(url).await?,
            },
            (None, Some(url)) => Door::http(Target::resolve(url).await?),
            (None, None) => anyhow::bail!("neither --url nor --grpc"),
        };
        Ok(Publisher::Requests { index, door, batch: args.batch, work })
    }

    async fn run(self) -> Done {
        match self {
            Publisher::Requests { index, door, batch, work } => requests(index, door, batch, &work).await,
            Publisher::Stream { index, url, window, work } => stream(index, &url, window, &work).await,
        }
    }
}

async fn requests(index: usize, mut door: Door, batch: usize, work: &Work) -> Done {
    let mut done = Done::default();
    loop {
        let events = work.take(batch);
        if events.is_empty() {
            return done;
        }
        let start = Instant::now();
        let (acked, why) = match door.publish(&events).await {
            Ok((acks, why)) => (acks.iter().filter(|acked| **acked).count(), why),
            Err(why) => (0, Some(why)),
        };
        record(&mut work.latencies.of(index), start.elapsed());
        done.acked += acked as u64;
        done.failed += (events.len() - acked) as u64;
        done.why = done.why.or(why);
    }
}

/// Events on one stream, answered in order; at most `window` are unanswered.
async fn stream(index: usize, url: &Url, window: usize, work: &Work) -> Done {
    let mut done = Done::default();
    if let Err(why) = Box::pin(stream_through(index, url, window, work, &mut done)).await {
        // What was sent and not answered is not acknowledged.
        done.why = Some(why);
    }
    done
}

async fn stream_through(
    index: usize,
    url: &Url,
    window: usize,
    work: &Work,
    done: &mut Done,
) -> Result<(), String> {
    let mut client = grpc_client(url).await.map_err(|error| format!("{error:#}"))?;
    let (sender, receiver) = mpsc::channel(window);
    // The server may answer the call itself only once it has seen an event.
    let mut unanswered = std::collections::VecDeque::new();
    for event in work.take(window) {
        unanswered.push_back(Instant::now());
        sender.send(request(&event)).await.map_err(|_| "the stream ended".to_owned())?;
    }
    done.failed = unanswered.len() as u64;
    let answers = client.publish_stream(ReceiverStream::new(receiver)).await;
    let mut answers = answers.map_err(|status| status.to_string())?.into_inner();
    let mut sender = Some(sender);
    while let Some(sent) = unanswered.pop_front() {
        let next = timeout(REQUEST_DEADLINE, answers.message()).await;
        let answer =
            next.map_err(|_| "no answer in time".to_owned())?.map_err(|status| status.to_string())?;
        let Some(answer) = answer else { return Err("the server ended the stream".to_owned()) };
        record(&mut work.latencies.of(index), sent.elapsed());
        match answer.result {
            Some(Outcome::Ok(_)) => {
                done.acked += 1;
                done.failed -= 1;
            }
            Some(Outcome::Error(error)) => {
                done.why.get_or_insert(error.message);
            }
            None => {}
        }
        let event = work.take(1).pop();
        match (&sender, event) {
            (Some(open), Some(event)) => {
                unanswered.push_back(Instant::now());
                done.failed += 1;
                open.send(request(&event)).await.map_err(|_| "the stream ended".to_owned())?;
            }
            _ => sender = None,
        }
    }
    Ok(())
}
