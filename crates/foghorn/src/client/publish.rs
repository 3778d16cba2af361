//! `foghorn publish`: an event, or each line of a file or of standard input as one.

mod batch;
mod lines;
mod report;
mod send;

use std::io::{IsTerminal as _, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::value::RawValue;

use foghorn_core::channel::Channel;
use foghorn_core::event::{EventId, EventType, FRAME_BYTES_MAX, Ttl, parse_data};

use super::http::{Server, ServerArgs};
use super::interrupt::Interrupts;
use batch::{Event, Numbered};
use report::Report;
use send::Sender;

/// What `foghorn publish` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Failed attempts (no connection, 429, 5xx) are repeated with the same id, so a repeat \
    never doubles an event: servers remember ids for two minutes, or as long as they are configured to.\n\n\
    Exit codes: 0 published, 1 some or all was not, 2 wrong usage."
)]
pub(crate) struct Args {
    /// The channel, such as orders.eu.42
    #[arg(value_parser = |text: &str| Channel::parse(text.to_owned()))]
    channel: Channel,
    /// The data. Without it, or with -, standard input is read (less one line break at its end)
    #[arg(allow_negative_numbers = true)]
    data: Option<String>,
    /// Read the data from a file instead
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// Publish each line as an event, as it comes and in order: `tail -F app.log | foghorn publish logs.web1 --lines`
    #[arg(long)]
    lines: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// The SSE event type
    #[arg(long, value_name = "TYPE", value_parser = |text: &str| EventType::parse(text.to_owned()))]
    event: Option<EventType>,
    /// The idempotency key: one more event with it on the channel is not published again [default: random]
    #[arg(long, conflicts_with = "lines", value_parser = |text: &str| EventId::parse(text.to_owned()))]
    id: Option<EventId>,
    /// After how long nobody needs the event any more, such as 10m
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Ttl>,
    /// What to wait for: the journal has the event (accepted), or the event log too (durable)
    #[arg(long, value_enum, default_value_t)]
    ack: Ack,
    /// The data (or each line) is JSON; anything but a JSON string goes out as compact JSON
    #[arg(long)]
    json_data: bool,
    /// How long to go on trying when the server can't be reached, is overloaded or doesn't answer; 0s for one
    /// attempt
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    retry_for: Duration,
    /// Print results as JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// What an ack promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Ack {
    #[default]
    Accepted,
    Durable,
}

/// Publishes what the arguments say.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let is_stdin = args.data.as_deref().is_none_or(|data| data == "-") && args.file.is_none();
    if args.data.is_none() && is_stdin && std::io::stdin().is_terminal() {
        eprintln!(
            "foghorn: nothing to publish: give the data after the channel, with --file, or on standard input"
        );
        return Ok(ExitCode::from(2));
    }
    let input: Box<dyn Read + Send> = match (&args.file, &args.data) {
        (Some(path), _) => {
            Box::new(std::fs::File::open(path).with_context(|| format!("can't open {}", path.display()))?)
        }
        (None, Some(data)) if !is_stdin => Box::new(std::io::Cursor::new(data.clone())),
        _ => Box::new(std::io::stdin()),
    };
    let report = Report::new(std::io::stdout(), std::io::stderr(), args.json);
    super::block_on(Box::pin(publish(args, input, report)))?
}

async fn publish<O, E>(
    args: Args,
    mut input: Box<dyn Read + Send>,
    mut report: Report<O, E>,
) -> anyhow::Result<ExitCode>
where
    O: std::io::Write,
    E: std::io::Write,
{
    let sender = Sender::new(Server::new(&args.server)?, &args);
    if args.lines {
        let mut interrupts = Interrupts::catch()?;
        return lines::publish(args.json_data, sender, input, report, &mut interrupts).await;
    }
    let event = match single(&args, &mut input) {
        Ok(event) => event,
        Err(why) => {
            report.unusable(None, &why)?;
            return Ok(ExitCode::FAILURE);
        }
    };
    sender.deliver(vec![event], &mut report).await?;
    Ok(if report.counts.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// All of the input as one event.
fn single(args: &Args, input: &mut dyn Read) -> Result<Numbered, String> {
    let mut bytes = Vec::new();
    // A byte more than could ever be published, and a line break at the end.
    let most = FRAME_BYTES_MAX as u64 + 2;
    input.take(most + 1).read_to_end(&mut bytes).map_err(|error| format!("can't read the data: {error}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("the data have more than {FRAME_BYTES_MAX} bytes, which no server takes"));
    }
    if args.data.as_deref().is_none_or(|data| data == "-") {
        let end = bytes.strip_suffix(b"\r\n").or_else(|| bytes.strip_suffix(b"\n")).map(<[u8]>::len);
        bytes.truncate(end.unwrap_or(bytes.len()));
    }
    if bytes.is_empty() && args.data.is_none() && args.file.is_none() {
        return Err(
            "standard input was empty; for an event without data give '' after the channel".to_owned()
        );
    }
    let text = parse_data(bytes.into()).map_err(|error| error.to_string())?;
    let id = args.id.as_ref().map_or_else(random_id, |id| id.as_str().to_owned());
    Ok(Numbered { line: None, event: Event { id, data: data(text.to_string(), args.json_data)? } })
}

/// A text as JSON: a string, or the JSON that it is.
fn data(text: String, is_json: bool) -> Result<Box<RawValue>, String> {
    let value = if is_json { RawValue::from_string(text) } else { serde_json::value::to_raw_value(&text) };
    value.map_err(|error| format!("the data are not JSON: {error}"))
}

fn random_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn ttl(text: &str) -> Result<Ttl, String> {
    let time =
        humantime::parse_duration(text).map_err(|error| format!("{error}; give it like 90s, 10m, 2h"))?;
    if time.subsec_nanos() > 0 {
        return Err("it must be whole seconds".to_owned());
    }
    Ttl::new(time.as_secs()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
