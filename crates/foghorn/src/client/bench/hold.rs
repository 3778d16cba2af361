//! Listeners of a gateway that runs already, in one process of many: what `tests/scale/million.py` starts. Hidden, as it
//! is of no use by itself.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::Serialize;

use super::sweep::audience::Audience;
use super::{at_least_one, limits};

/// How long it reads before it looks whether it is asked something.
const LOOK: Duration = Duration::from_millis(100);

/// What `foghorn bench hold` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The gateway
    #[arg(long, value_name = "ADDRESS")]
    server: SocketAddr,
    /// How many streams
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    connections: usize,
}

/// What there is by now: one line of JSON, once all streams are live, and then for each line that is read.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    live: usize,
    deliveries: u64,
    disordered: u64,
    /// From the time that an event names, in nanoseconds since 1970, to its receipt.
    p50_ms: f64,
    max_ms: f64,
}

/// Holds the streams until standard input ends. A stream that the server ends is an error.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    limits::allow(args.connections)?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let began = Instant::now().checked_sub(since_1970).context("the clock doesn't go back to 1970")?;
    let mut audience = Audience::open(args.server, args.connections, began)?;
    let asked = lines();
    tell(args, &audience)?;
    loop {
        match asked.try_recv() {
            Ok(()) => tell(args, &audience)?,
            Err(TryRecvError::Empty) => {
                audience.read(Instant::now() + LOOK)?;
            }
            Err(TryRecvError::Disconnected) => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// One for each line of standard input, until it ends.
fn lines() -> Receiver<()> {
    let (asks, asked) = mpsc::channel();
    thread::spawn(move || {
        let lines = std::io::stdin().lock().lines().map_while(Result::ok);
        // Nobody is there to be told once the streams are gone.
        lines.map_while(|_| asks.send(()).ok()).for_each(drop);
    });
    asked
}

fn tell(args: &Args, audience: &Audience) -> anyhow::Result<()> {
    let heard = audience.heard();
    #[expect(clippy::cast_precision_loss, reason = "below 2^53: an hour in microseconds")]
    let millis = |quantile| heard.latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let report = Report {
        live: args.connections,
        deliveries: heard.deliveries,
        disordered: heard.disordered,
        p50_ms: millis(0.5),
        max_ms: millis(1.0),
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &report)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
