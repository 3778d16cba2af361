//! The log's filter, as the configuration file has it: a change of it holds at once.

use std::time::Duration;

use foghorn_telemetry::logging::Logging;

use crate::config::{Config, Seen, Watched};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the file that `config` was read from, for as long as the process runs.
pub(crate) fn follow(config: &Config, logging: Logging) {
    if let Some(file) = Watched::of(config) {
        tokio::spawn(run(file, config.log.filter.clone(), logging));
    }
}

async fn run(mut file: Watched, mut filter: String, logging: Logging) {
    loop {
        if let Seen::Changed(read) = file.look().await {
            match read.and_then(|config| changed(&config, &filter, &logging)) {
                Ok(None) => {}
                Ok(Some(fresh)) => {
                    filter = fresh;
                    tracing::info!(filter, "what is logged has changed with the configuration");
                }
                Err(error) => {
                    tracing::warn!(error, "the configuration has changed and is wrong; what is logged stays");
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The filter that is configured now, if it is another.
fn changed(config: &Config, filter: &str, logging: &Logging) -> Result<Option<String>, String> {
    let fresh = &config.log.filter;
    if fresh == filter {
        return Ok(None);
    }
    logging.set(fresh).map_err(|error| format!("log.filter: {error}"))?;
    Ok(Some(fresh.clone()))
}
