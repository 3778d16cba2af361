//! The log's filter, as the configuration file has it: a change of it holds at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use foghorn_telemetry::logging::Logging;

use crate::config::{self, Config};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks at the file that `config` was read from, for as long as the process runs.
pub(crate) fn follow(config: &Config, logging: Logging) {
    if let Some(file) = config.file.clone() {
        tokio::spawn(run(file, config.log.filter.clone(), logging));
    }
}

async fn run(file: PathBuf, mut filter: String, logging: Logging) {
    // What was there when we started was read before, perhaps; to read it again changes nothing.
    let mut seen = String::new();
    loop {
        // One that is being written, or mounted, is there the next time.
        if let Ok(text) = tokio::fs::read_to_string(&file).await
            && text != seen
        {
            seen = text;
            match changed(&file, &filter, &logging) {
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

/// The filter that the file, and the environment, give now, if it is another.
fn changed(file: &Path, filter: &str, logging: &Logging) -> Result<Option<String>, String> {
    let fresh = config::read(Some(file), config::environment()?)?.log.filter;
    if fresh == filter {
        return Ok(None);
    }
    logging.set(&fresh).map_err(|error| format!("log.filter: {error}"))?;
    Ok(Some(fresh))
}
