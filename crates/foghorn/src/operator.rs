//! `foghorn operator`.

use std::process::ExitCode;

use foghorn_operator::Operator;

use crate::cluster::{bus_error, connect};
use crate::config::Config;
use crate::process::{Process, check_exposure, spawn_admin};

/// `foghorn operator crds`.
pub(crate) fn crds() -> anyhow::Result<ExitCode> {
    print!("{}", foghorn_operator::crds()?);
    Ok(ExitCode::SUCCESS)
}

/// `foghorn operator`: until told to stop.
pub(crate) async fn serve(config: Config) -> anyhow::Result<()> {
    check_exposure(&config, &[config.listen.admin])?;
    let process = Process::start(&config, "operator")?;
    spawn_admin(&config, &process)?;
    // Not watched: without NATS it says so on every object.
    let Some((bus, _)) = connect(&config, &process, "operator").await? else { return Ok(()) };
    let Some(bucket) = process.unless_stopped(bus.policies_to_write()).await else { return Ok(()) };
    let bucket = bucket.map_err(bus_error)?;
    let part = process.health.part("kubernetes", "the API server, to look at the operator's lease");
    // Before the registry is locked, which is not to be held while others are waited for.
    let client = foghorn_operator::client(&config.operator).await?;
    let operator = Operator::new(
        &config.operator,
        client,
        (bus, bucket),
        config.limits.event_bytes,
        part,
        &mut process.registry.write(),
    );
    operator.run(&process.shutdown).await;
    Ok(())
}
