//! `foghorn doctor`: what the way to a deployment does to event streams, and how to mend it.
//!
//! It does what a browser would, and looks at when things come. It knows nothing of what stands between, and needs
//! nothing there: what it says it has seen.

mod checks;
mod finding;
mod stream;

use std::process::ExitCode;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde_json::json;

use foghorn_core::channel::Channel;
use foghorn_core::secret::Secret;

use super::http::{Server, ServerArgs, base_url};
use super::interrupt::Interrupts;
use checks::Doctor;
use finding::{Finding, Verdict};

/// What `foghorn doctor` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Give the address that browsers use, so that all that stands between is on the way.\n\n\
    Exit codes: 0 nothing is wrong (there may be advice), 1 something is, 2 wrong usage."
)]
pub(crate) struct Args {
    /// The deployment's address, with a path if it is not at the top
    #[arg(value_name = "URL", value_parser = base_url)]
    url: Url,
    /// Trust the certificates in this PEM file, and no others
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
    /// The token to be known by. Better given in the environment: other users of this machine see arguments
    #[arg(long, env = "FOGHORN_TOKEN", hide_env_values = true)]
    token: Option<Secret>,
    /// A channel that may be listened to, best a quiet one
    #[arg(long, default_value = "doctor", value_parser = |text: &str| Channel::parse(text))]
    channel: Channel,
    /// Also publish to the channel, and see how late that is heard
    #[arg(long)]
    publish: bool,
    /// A page's origin, like https://app.example.com: is it let in (CORS)?
    #[arg(long, value_parser = origin)]
    origin: Option<HeaderValue>,
    /// How long to watch a stream for being cut; proxies cut after 15 s or 60 s more often than not
    #[arg(long, value_name = "TIME", default_value = "65s", value_parser = watch)]
    watch: Duration,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Looks at everything, and says what it finds as it goes.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let server = ServerArgs { url: args.url.clone(), ca: args.ca.clone(), token: args.token.clone() };
    let server = Server::of_browsers(&server)?;
    super::block_on(async {
        let mut interrupts = Interrupts::catch()?;
        let mut findings = Vec::new();
        let mut doctor = Doctor::new(server, args, |finding: Finding| {
            if !args.json {
                println!("{finding}");
            }
            findings.push(finding);
        });
        let whole = tokio::select! {
            () = doctor.examine() => true,
            () = interrupts.next() => false,
        };
        drop(doctor);
        let healthy = whole && findings.iter().all(|finding| finding.verdict != Verdict::Wrong);
        if args.json {
            let url = args.url.as_str();
            println!("{}", json!({ "url": url, "ok": healthy, "whole": whole, "findings": findings }));
        }
        Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })?
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let help = "it is a scheme and a host, and a port if it is not the scheme's: https://app.example.com";
    let url = Url::parse(text).map_err(|_| help.to_owned())?;
    if url.origin().ascii_serialization() != text {
        return Err(help.to_owned());
    }
    HeaderValue::from_str(text).map_err(|_| help.to_owned())
}

fn watch(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::ZERO..=Duration::from_secs(24 * 3600);
    if bounds.contains(&time) { Ok(time) } else { Err("a day at most".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        assert!(origin("https://app.example.com").is_ok() && origin("http://localhost:3000").is_ok());
        for bad in ["app.example.com", "https://app.example.com/", "https://app.example.com:443", "null", "*"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
