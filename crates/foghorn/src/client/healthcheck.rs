//! `foghorn healthcheck`: a probe for container runtimes that can only run a command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Url;

use super::http::{Server, ServerArgs, base_url};

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The admin port's URL
    #[arg(long, env = "FOGHORN_ADMIN_URL", default_value = "http://127.0.0.1:9090", value_parser = base_url)]
    admin: Url,
}

const DEADLINE: Duration = Duration::from_secs(5);

/// Exit code 0 when ready; else 1, and what it waits for on standard output.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let server = Server::new(&ServerArgs { url: args.admin.clone(), ca: None, token: None })?;
    super::block_on(async {
        let asking = async {
            let answer = server.client.get(server.at("readyz")).send().await?;
            Ok((answer.status().is_success(), answer.text().await?))
        };
        let answer = tokio::time::timeout(DEADLINE, asking).await.context("no answer within 5 s")?;
        let (ready, body) = answer.map_err(|error| anyhow::anyhow!("{}", server.explain(&error)))?;
        println!("{}", body.trim_end());
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })?
}
