//! `foghorn subscribe`: a well-behaved client of the event stream.
//!
//! It comes back after every end with the cursor of the last event that it printed, so that nothing is
//! missed or printed twice; what the server says is gone (`stream-reset`) is told, never hidden.

mod output;
mod retry;
mod session;

use std::process::ExitCode;
use std::time::Duration;

use reqwest::header::HeaderValue;

use foghorn_core::pattern::Pattern;
use foghorn_core::time::Timestamp;

use super::http::ServerArgs;
use super::interrupt::Interrupts;
use output::{Form, Output};
use session::{End, Session};

/// What `foghorn subscribe` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Events go to standard output; resets, reconnects and the like to standard error. When \
    interrupted it says the cursor to go on from.\n\n\
    Exit codes: 0 done or interrupted, 1 refused or failed, 2 wrong usage."
)]
pub(crate) struct Args {
    /// Channels, or patterns such as orders.* and logs.>
    #[arg(required = true, value_name = "PATTERN", value_parser = |text: &str| Pattern::parse(text))]
    patterns: Vec<Pattern>,
    #[command(flatten)]
    server: ServerArgs,
    /// Begin with the events since a time: how long ago (10m) or RFC 3339 (2026-02-03T04:05:06Z)
    #[arg(long, value_name = "TIME", value_parser = since, conflicts_with = "last")]
    since: Option<String>,
    /// Begin with the newest N events of each channel
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    last: Option<u32>,
    /// Begin after a cursor: the id of an event, or what an earlier run said when it ended
    #[arg(long, value_name = "ID", value_parser = cursor, conflicts_with_all = ["since", "last"])]
    cursor: Option<String>,
    /// Only events of these types, separated by commas (`message` is an event without a type)
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<String>,
    /// Print nothing but the data, as they are
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Print a JSON object a line: {channel, event, id, time, data}; on standard error {control, …}
    #[arg(long)]
    json: bool,
    /// Take the connection for dead when nothing was heard for this long (servers speak every 30 s at most)
    #[arg(long, value_name = "TIME", default_value = "75s", value_parser = idle_timeout)]
    idle_timeout: Duration,
    /// End after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    exit_after: Option<u64>,
    /// End when the stream ends
    #[arg(long)]
    no_reconnect: bool,
}

/// Listens until there is a reason to end.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::block_on(Box::pin(async move {
        let mut interrupts = Interrupts::catch()?;
        let form = if args.raw {
            Form::Raw
        } else if args.json {
            Form::Json
        } else {
            Form::Text
        };
        // Flushed after each piece of the stream.
        let out = std::io::BufWriter::new(std::io::stdout());
        let mut session = Session::new(args, Output::new(out, std::io::stderr(), form))?;
        let end = tokio::select! {
            end = session.listen() => end?,
            () = interrupts.next() => End::Interrupted,
        };
        session.farewell(&end)
    }))?
}

fn since(text: &str) -> Result<String, String> {
    if text.parse::<Timestamp>().is_err() && humantime::parse_duration(text).is_err() {
        return Err("it is how long ago (10m, 2h) or an RFC 3339 time (2026-02-03T04:05:06Z)".to_owned());
    }
    Ok(text.to_owned())
}

fn cursor(text: &str) -> Result<String, String> {
    if text.is_empty() || HeaderValue::from_str(text).is_err() {
        return Err("it is the id of an event, in visible characters".to_owned());
    }
    Ok(text.to_owned())
}

fn idle_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        Ok(_) => Err("it must be more than nothing".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
