//! Structured logs on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::reload;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, its fields at the top level.
    Json,
}

/// What libraries say of themselves only from warnings on, unless the filter names them: the NATS client tells
/// of connections that we tell of, sqlx passes on PostgreSQL's notices.
const QUIET: &str = "async_nats=warn,sqlx=warn";

/// The filter of a level or of tracing directives (`info`, `info,foghorn_gateway=debug`).
pub fn filter(directives: &str) -> Result<EnvFilter, String> {
    let most = directives.parse::<LevelFilter>();
    let quiet_enough = most.is_ok_and(|level| level < LevelFilter::WARN);
    // Of several directives for one target the last counts.
    let all = if quiet_enough { directives.to_owned() } else { format!("{QUIET},{directives}") };
    EnvFilter::try_new(all).map_err(|error| format!("log filter {directives:?}: {error}"))
}

/// What is logged of a process that logs.
pub struct Logging(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

impl Logging {
    fn by<S: 'static>(handle: reload::Handle<EnvFilter, S>) -> Self {
        Logging(Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string())))
    }

    /// Logs by other directives from now on; `directives` as in [`filter`].
    pub fn set(&self, directives: &str) -> Result<(), String> {
        (self.0)(filter(directives)?)
    }
}

/// Starts logging for the process; `directives` as in [`filter`].
pub fn start(format: LogFormat, directives: &str) -> Result<Logging, String> {
    let filter = filter(directives)?;
    // Colours are for people at a terminal, not for files.
    let colours = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => {
            let builder = builder.with_target(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(|error| error.to_string())?;
            Ok(Logging::by(handle))
        }
        LogFormat::Json => {
            // The only spans are those that say of which trace a line is a part.
            let builder = builder.json().flatten_event(true).with_current_span(true).with_span_list(false);
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map_err(|error| error.to_string())?;
            Ok(Logging::by(handle))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_heard_when_they_are_named() {
        for (directives, expected) in [
            ("info", "async_nats=warn,sqlx=warn,info"),
            ("debug,sqlx=info", "async_nats=warn,sqlx=info,debug"),
            ("error", "error"),
            ("off", "off"),
        ] {
            let sorted = |text: &str| {
                let mut parts: Vec<_> = text.split(',').map(str::to_owned).collect();
                parts.sort();
                parts
            };
            assert_eq!(sorted(&filter(directives).unwrap().to_string()), sorted(expected), "{directives}");
        }
        assert!(filter("foghorn=loud").unwrap_err().contains("foghorn=loud"));
    }
}
