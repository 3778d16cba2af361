//! `foghorn healthcheck`: a probe for container runtimes that can only run a command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The admin port's URL
    #[arg(long, env = "FOGHORN_ADMIN_URL", default_value = "http://127.0.0.1:9090")]
    admin: http::Uri,
}

const DEADLINE: Duration = Duration::from_secs(5);

/// Exit code 0 when ready; else 1, and what it waits for on standard output.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let uri: http::Uri = format!("{}/readyz", args.admin.to_string().trim_end_matches('/')).parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
        let answer = tokio::time::timeout(DEADLINE, client.get(uri.clone()));
        let answer =
            answer.await.context("no answer within 5 s")?.with_context(|| format!("can't ask {uri}"))?;
        let ready = answer.status().is_success();
        let body = answer.into_body().collect().await?.to_bytes();
        println!("{}", String::from_utf8_lossy(&body).trim_end());
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
