//! Publishing alone: how many acknowledged events a second, and how long an ack takes; and, in turns with
//! it, what the plain client gets out of JetStream.

mod raw;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::ServerAddr;
use reqwest::Url;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;

use foghorn_rpc::v1::publish_result::Result as Outcome;

use self::raw::{Raw, Size};
use self::report::{RawReport, Report};
use super::door::{Door, Outgoing, REQUEST_DEADLINE, Target, grpc_client, request};
use super::jetstream;
use super::latency::{Latencies, record};
use super::rounds::{ROUNDS, Side, Spread, Stopwatch, Turn, per, processes, turns};
use super::{Common, after_cleanup, at_least_one, limits, progress, unless_interrupted};
use crate::client::http::base_url;
use crate::client::interrupt::Interrupts;

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
    /// How many events in a round
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = at_least_one)]
    count: usize,
    /// How many rounds; what is printed are medians, and the range
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = at_least_one)]
    rounds: usize,
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
    /// In turns with the rounds, publish as many events of the same size to this NATS server's JetStream by
    /// a plain client, into a stream that is made for it and deleted afterwards
    #[arg(long, value_name = "URL", value_parser = jetstream::server)]
    raw_nats: Option<ServerAddr>,
    /// Most of the plain client's publishes without an ack at a time
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "raw_nats", value_parser = at_least_one)]
    raw_in_flight: usize,
    /// Copies of the plain client's stream; as many as Foghorn's has
    #[arg(long, value_name = "N", default_value_t = 1, requires = "raw_nats", value_parser = at_least_one)]
    raw_replicas: usize,
    #[command(flatten)]
    common: Common,
}

/// What the publishers share.
struct Work {
    /// The next event's number.
    next: AtomicU64,
    count: u64,
    data: Vec<u8>,
    channels: Vec<String>,
    latencies: Arc<Latencies>,
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
    let mut interrupts = Interrupts::catch()?;
    let run = rand::random::<u32>();
    let bench = Bench {
        channels: (0..args.channels).map(|at| format!("{}.{run:08x}.{at}", args.prefix)).collect(),
        latencies: Arc::new(Latencies::new()?),
        args,
    };
    let raw = bench.open_raw().await?;
    let measured = unless_interrupted(&mut interrupts, bench.measure(raw.as_ref())).await;
    let deleted = match &raw {
        Some(raw) => raw.delete().await,
        None => Ok(()),
    };
    let report = after_cleanup(measured, deleted)?;
    report.print(bench.args.common.json)?;
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench {
    args: Args,
    channels: Vec<String>,
    latencies: Arc<Latencies>,
}

impl Bench {
    async fn open_raw(&self) -> anyhow::Result<Option<Raw>> {
        let Some(server) = &self.args.raw_nats else { return Ok(None) };
        let size = Size {
            count: self.args.count as u64,
            bytes: self.args.size,
            channels: self.channels.clone(),
            rounds: self.args.rounds,
            in_flight: self.args.raw_in_flight,
            replicas: self.args.raw_replicas,
        };
        Raw::open(server, size).await.map(Some)
    }

    async fn measure(&self, raw: Option<&Raw>) -> anyhow::Result<Report> {
        let (mut ours, mut bare, mut all) = (Vec::new(), Vec::new(), Done::default());
        for round in 0..self.args.rounds {
            for side in turns(round) {
                let (name, turn) = match (side, raw) {
                    (Side::Ours, _) => ("through the door", self.turn(&mut all).await?),
                    (Side::Bare, Some(raw)) => ("plain client", raw.turn(&self.args.common.pid).await?),
                    (Side::Bare, None) => continue,
                };
                progress(round, self.args.rounds, format_args!("{name}: {:.0} events/s", turn.per_second()));
                match side {
                    Side::Ours => ours.push(turn),
                    Side::Bare => bare.push(turn),
                }
            }
        }
        self.report(all, &ours, &bare)
    }

    /// One round through the door.
    async fn turn(&self, all: &mut Done) -> anyhow::Result<Turn> {
        let work = Arc::new(Work {
            next: AtomicU64::new(0),
            count: self.args.count as u64,
            data: vec![b'x'; self.args.size],
            channels: self.channels.clone(),
            latencies: self.latencies.clone(),
        });
        let mut publishers = Vec::new();
        for index in 0..self.args.concurrency {
            publishers.push(Publisher::open(index, &self.args, work.clone()).await?);
        }
        let watch = Stopwatch::start(&self.args.common.pid)?;
        let mut running = JoinSet::new();
        for publisher in publishers {
            running.spawn(publisher.run());
        }
        let mut acked = 0;
        while let Some(done) = running.join_next().await {
            let done = done?;
            acked += done.acked;
            all.failed += done.failed;
            all.why = all.why.take().or(done.why);
        }
        all.acked += acked;
        watch.stop(acked)
    }

    fn report(&self, all: Done, ours: &[Turn], bare: &[Turn]) -> anyhow::Result<Report> {
        let used = processes(ours);
        let cpu: f64 = used.iter().map(|used| used.cpu_seconds).sum();
        let raw = if bare.is_empty() {
            None
        } else {
            Some(RawReport {
                in_flight: self.args.raw_in_flight,
                acknowledged_per_second: Spread::of(bare.iter().map(Turn::per_second))?,
                processes: processes(bare),
                ratio: Spread::of_ratios(ours, bare, Turn::per_second)?,
            })
        };
        Ok(Report {
            concurrency: self.args.concurrency,
            batch: self.args.batch,
            rounds: self.args.rounds,
            seconds: ours.iter().map(|turn| turn.seconds).sum(),
            acknowledged: all.acked,
            failed: all.failed,
            failure: all.why,
            acknowledged_per_second: Spread::of(ours.iter().map(Turn::per_second))?,
            ack_latency_ms: self.latencies.percentiles()?,
            acknowledged_per_cpu_second: (cpu > 0.0).then(|| per(all.acked, cpu)),
            processes: used,
            raw,
        })
    }
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
