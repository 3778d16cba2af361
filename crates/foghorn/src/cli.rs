//! The command line. Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use foghorn_telemetry::logging::LogFormat;

use crate::client::healthcheck;
use crate::config::{self, Config};
use crate::{client, cluster, demo, log, notifications, operator, outbox, policies, standalone, token};

/// Publish once, heard everywhere: events over Server-Sent Events, in order, resumed.
#[derive(Debug, Parser)]
#[command(name = "foghorn", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process, with nothing else installed
    Standalone(Standalone),
    /// An application to look at: live notifications, a log and a long job, with nothing to set up
    Demo(Demo),
    /// A gateway: holds the listeners' streams
    Gateway(Gateway),
    /// A fan-out: takes publishes, relays the journal to the gateways
    Fanout(Fanout),
    /// An event log: writes the journal to PostgreSQL, answers replays
    Eventlog(Eventlog),
    /// An outbox publisher: publishes what applications' transactions put into their PostgreSQL
    Outbox(Outbox),
    /// Live notifications: stores what users are told, and publishes it
    Notifications(Notifications),
    /// An operator: takes ChannelPolicy objects of Kubernetes to the services
    Operator(Operator),
    /// Publish events
    Publish(client::publish::Args),
    /// Listen to channels and patterns
    Subscribe(client::subscribe::Args),
    /// Measure a deployment
    Bench(client::bench::Args),
    /// Look at what stands between browsers and a deployment: what is wrong with it, and how to mend it
    Doctor(client::doctor::Args),
    /// Check or show the configuration
    Config(ConfigCommand),
    /// Change the policies of a running cluster
    Policies(PoliciesCommand),
    /// Make and look at tokens, for development
    Token(token::Args),
    /// Ask an admin port whether its process is ready (exit code 0) or not (1)
    Healthcheck(healthcheck::Args),
}

/// What every service takes.
#[derive(Debug, Args)]
struct Common {
    /// Configuration file (TOML); every key can also be set as FOGHORN_… in the environment
    #[arg(long, env = "FOGHORN_CONFIG")]
    config: Option<PathBuf>,
    /// Number of shards, 1 to 8; the same in every process of a cluster, and at every start [default: 1]
    #[arg(long)]
    shards: Option<u64>,
    /// How logs look [default: text]
    #[arg(long, value_name = "text|json", value_parser = log_format)]
    log: Option<LogFormat>,
    /// Whoever has no credential may publish and listen to everything, from other machines too
    #[arg(long)]
    allow_anonymous: bool,
}

#[derive(Debug, Args)]
struct Standalone {
    #[command(flatten)]
    common: Common,
    /// Where HTTP is served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Where gRPC is served [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    grpc: Option<SocketAddr>,
    /// Where probes and metrics are served [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<SocketAddr>,
    /// Where events are kept [default: ./foghorn-data]
    #[arg(long, conflicts_with = "ephemeral")]
    data: Option<PathBuf>,
    /// Keep events in memory only
    #[arg(long)]
    ephemeral: bool,
}

#[derive(Debug, Args)]
struct Demo {
    /// Where it is served; an address of loopback. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// Where the bus is, and what looks at a process from outside.
#[derive(Debug, Args)]
struct Cluster {
    /// NATS URLs, separated by commas [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
    /// Where probes and metrics are served [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    admin: Option<SocketAddr>,
}

/// Where the event logs are.
#[derive(Debug, Args)]
struct Logs {
    /// gRPC URLs of event logs, separated by commas [default: http://127.0.0.1:50052]
    #[arg(long, value_name = "URL")]
    eventlog: Option<String>,
}

#[derive(Debug, Args)]
struct Gateway {
    #[command(flatten)]
    common: Common,
    /// Where listeners connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    logs: Logs,
}

#[derive(Debug, Args)]
struct Fanout {
    #[command(flatten)]
    common: Common,
    /// Where publishers connect, by HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Where publishers connect, by gRPC [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    grpc: Option<SocketAddr>,
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    logs: Logs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Eventlog {
    #[command(subcommand)]
    command: Option<EventlogCommand>,
    #[command(flatten)]
    serve: EventlogServe,
}

#[derive(Debug, Subcommand)]
enum EventlogCommand {
    /// Bring the database's schema up to date, and exit
    Migrate(Migrate),
}

#[derive(Debug, Args)]
struct Migrate {
    #[command(flatten)]
    common: Common,
    /// The database [default: postgres://foghorn@127.0.0.1/foghorn]
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

#[derive(Debug, Args)]
struct EventlogServe {
    #[command(flatten)]
    database: Migrate,
    /// Where gateways and fan-outs ask, by gRPC [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    grpc: Option<SocketAddr>,
    #[command(flatten)]
    cluster: Cluster,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Outbox {
    #[command(subcommand)]
    command: Option<OutboxCommand>,
    #[command(flatten)]
    serve: OutboxServe,
}

#[derive(Debug, Subcommand)]
enum OutboxCommand {
    /// Bring the outbox's tables and foghorn.publish in a database up to date, and exit
    Install(OutboxInstall),
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct Operator {
    #[command(subcommand)]
    command: Option<OperatorCommand>,
    #[command(flatten)]
    serve: OperatorServe,
}

#[derive(Debug, Subcommand)]
enum OperatorCommand {
    /// Print the custom resource definitions that have to be in Kubernetes, as YAML
    Crds,
}

#[derive(Debug, Args)]
struct OperatorServe {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    cluster: Cluster,
}

/// Which database.
#[derive(Debug, Args)]
struct OutboxDatabase {
    #[command(flatten)]
    common: Common,
    /// The application's database, postgres://user:password@host/database
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

#[derive(Debug, Args)]
struct OutboxInstall {
    #[command(flatten)]
    database: OutboxDatabase,
    /// A role that may call foghorn.publish, and nothing else; may be given several times
    #[arg(long, value_name = "ROLE")]
    application: Vec<String>,
    /// A role that may drain the outbox; may be given several times
    #[arg(long, value_name = "ROLE")]
    publisher: Vec<String>,
}

#[derive(Debug, Args)]
struct OutboxServe {
    #[command(flatten)]
    database: OutboxDatabase,
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    logs: Logs,
}

#[derive(Debug, Args)]
struct Notifications {
    #[command(flatten)]
    database: Migrate,
    /// Where producers and users ask, by HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    cluster: Cluster,
    #[command(flatten)]
    logs: Logs,
}

#[derive(Debug, Args)]
struct PoliciesCommand {
    #[command(subcommand)]
    command: PoliciesAction,
}

#[derive(Debug, Subcommand)]
enum PoliciesAction {
    /// Have all services take over the policies of a file, in place of those they are configured with
    Apply {
        /// TOML, with [[policy]] tables as in the configuration, and nothing else
        file: PathBuf,
        #[command(flatten)]
        bus: PoliciesBus,
    },
    /// Print the policies that the services were given
    Show(PoliciesBus),
    /// Withdraw them: those that each service is configured with hold again
    Clear(PoliciesBus),
}

/// Where they are kept.
#[derive(Debug, Args)]
struct PoliciesBus {
    #[command(flatten)]
    common: Common,
    /// NATS URLs, separated by commas [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL")]
    nats: Option<String>,
}

#[derive(Debug, Args)]
struct ConfigCommand {
    #[command(subcommand)]
    command: ConfigAction,
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Say what is wrong with the configuration, and where
    Check(ConfigArgs),
    /// Print the whole configuration as it holds, defaults included (secrets are left out)
    Show(ConfigArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The file, whatever --config says
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as services are told of it
    #[arg(long, value_name = "FILE", env = "FOGHORN_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// As given to the services: that anybody may publish and listen is meant
    #[arg(long)]
    allow_anonymous: bool,
}

/// Parses the arguments and does what they say.
pub(crate) fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Standalone(args) => service(args.load(), standalone::run),
        Command::Demo(args) => service(demo::config(args.listen), demo::run),
        Command::Gateway(args) => service(args.load(), cluster::gateway),
        Command::Fanout(args) => service(args.load(), cluster::fanout),
        Command::Eventlog(Eventlog { command: None, serve }) => service(serve.load(), cluster::eventlog),
        Command::Eventlog(Eventlog { command: Some(EventlogCommand::Migrate(args)), .. }) => {
            service(args.load(), cluster::migrate)
        }
        Command::Outbox(Outbox { command: None, serve }) => service(serve.load(), outbox::serve),
        Command::Outbox(Outbox { command: Some(OutboxCommand::Install(args)), .. }) => {
            let (applications, publishers) = (args.application, args.publisher);
            service(args.database.load(), |config| outbox::install(config, applications, publishers))
        }
        Command::Notifications(args) => service(args.load(), notifications::serve),
        Command::Operator(Operator { command: None, serve }) => service(serve.load(), operator::serve),
        Command::Operator(Operator { command: Some(OperatorCommand::Crds), .. }) => client(operator::crds()),
        Command::Publish(args) => client(client::publish::run(args)),
        Command::Subscribe(args) => client(client::subscribe::run(args)),
        Command::Bench(args) => client(client::bench::run(args)),
        Command::Doctor(args) => client(client::doctor::run(&args)),
        Command::Config(args) => config_command(&args.command),
        Command::Policies(PoliciesCommand { command }) => match command {
            PoliciesAction::Apply { file, bus } => {
                service(bus.load(), |config| policies::apply(config, file))
            }
            PoliciesAction::Show(bus) => service(bus.load(), policies::show),
            PoliciesAction::Clear(bus) => service(bus.load(), policies::clear),
        },
        Command::Token(args) => client(token::run(&args)),
        Command::Healthcheck(args) => client(healthcheck::run(&args)),
    }
}

impl Common {
    fn load(self) -> Result<Config, String> {
        let mut config = config::read(self.config.as_deref(), config::environment()?)?;
        config.shards = self.shards.unwrap_or(config.shards);
        config.log.format = self.log.unwrap_or(config.log.format);
        config.allow_anonymous |= self.allow_anonymous;
        Ok(config)
    }
}

impl Standalone {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        config.listen.http = self.listen.unwrap_or(config.listen.http);
        config.listen.grpc = self.grpc.unwrap_or(config.listen.grpc);
        config.listen.admin = self.admin.unwrap_or(config.listen.admin);
        config.standalone.ephemeral |= self.ephemeral;
        if let Some(data) = self.data {
            // Whoever names a folder on the command line means it, whatever the file says.
            config.standalone = config::Standalone { data, ephemeral: false };
        }
        Ok(config)
    }
}

impl Cluster {
    fn apply(self, config: &mut Config) {
        config.nats.url = self.nats.unwrap_or(std::mem::take(&mut config.nats.url));
        config.listen.admin = self.admin.unwrap_or(config.listen.admin);
    }
}

impl Logs {
    fn apply(self, config: &mut Config) {
        config.eventlog.url = self.eventlog.unwrap_or(std::mem::take(&mut config.eventlog.url));
    }
}

impl Gateway {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        self.cluster.apply(&mut config);
        self.logs.apply(&mut config);
        config.listen.http = self.listen.unwrap_or(config.listen.http);
        Ok(config)
    }
}

impl Fanout {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        self.cluster.apply(&mut config);
        self.logs.apply(&mut config);
        config.listen.http = self.listen.unwrap_or(config.listen.http);
        config.listen.grpc = self.grpc.unwrap_or(config.listen.grpc);
        Ok(config)
    }
}

impl Migrate {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        config.postgres.url = self.postgres.unwrap_or(config.postgres.url);
        Ok(config)
    }
}

impl OutboxDatabase {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        config.outbox.postgres = self.postgres.unwrap_or(config.outbox.postgres);
        if !config.outbox.is_configured() {
            return Err(
                "outbox.postgres is empty: name the application's database with --postgres, or in the \
                        configuration"
                    .to_owned(),
            );
        }
        Ok(config)
    }
}

impl OperatorServe {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        self.cluster.apply(&mut config);
        Ok(config)
    }
}

impl OutboxServe {
    fn load(self) -> Result<Config, String> {
        let mut config = self.database.load()?;
        self.cluster.apply(&mut config);
        self.logs.apply(&mut config);
        Ok(config)
    }
}

impl Notifications {
    fn load(self) -> Result<Config, String> {
        let mut config = self.database.load()?;
        self.cluster.apply(&mut config);
        self.logs.apply(&mut config);
        config.listen.http = self.listen.unwrap_or(config.listen.http);
        Ok(config)
    }
}

impl PoliciesBus {
    fn load(self) -> Result<Config, String> {
        let mut config = self.common.load()?;
        config.nats.url = self.nats.unwrap_or(config.nats.url);
        Ok(config)
    }
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, String> {
        let mut config =
            config::read(self.file.as_deref().or(self.config.as_deref()), config::environment()?)?;
        config.allow_anonymous |= self.allow_anonymous;
        Ok(config)
    }
}

impl EventlogServe {
    fn load(self) -> Result<Config, String> {
        let mut config = self.database.load()?;
        self.cluster.apply(&mut config);
        config.listen.grpc = self.grpc.unwrap_or(config.listen.grpc);
        Ok(config)
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| config::ADDRESS.to_owned())
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is neither text nor json")),
    }
}

/// Runs a service until it ends.
fn service<F>(config: Result<Config, String>, run: impl FnOnce(Config) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let checked = config.and_then(|config| {
        config.check()?;
        let logging = foghorn_telemetry::logging::start(config.log.format, &config.log.filter)?;
        Ok((config, logging))
    });
    let (config, logging) = match checked {
        Ok(checked) => checked,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(async {
        log::follow(&config, logging);
        let ended = run(config).await;
        foghorn_telemetry::traces::flush().await;
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<crate::process::Misconfigured>() => usage(&error),
        Err(error) => failed(&error),
    }
}

fn client(ended: anyhow::Result<ExitCode>) -> ExitCode {
    ended.unwrap_or_else(|error| failed(&error))
}

fn config_command(action: &ConfigAction) -> ExitCode {
    let (ConfigAction::Check(args) | ConfigAction::Show(args)) = action;
    let read = args.load().and_then(|config| match action {
        // Which of the addresses a service will use isn't known here, so all of them are looked at.
        ConfigAction::Check(_) => {
            config.check_all_exposure().and_then(|()| config.check_files()).map(|()| config)
        }
        ConfigAction::Show(_) => Ok(config),
    });
    match (read, action) {
        (Err(error), _) if args.json => {
            println!("{}", serde_json::json!({ "ok": false, "error": error }));
            ExitCode::from(2)
        }
        (Err(error), _) => usage(&error),
        (Ok(_), ConfigAction::Check(_)) if args.json => {
            println!("{}", serde_json::json!({ "ok": true }));
            ExitCode::SUCCESS
        }
        (Ok(_), ConfigAction::Check(_)) => {
            println!("the configuration is in order");
            ExitCode::SUCCESS
        }
        (Ok(config), ConfigAction::Show(_)) => show(&config, args.json),
    }
}

fn show(config: &Config, json: bool) -> ExitCode {
    let text = config::without_secrets(config).map_err(anyhow::Error::from).and_then(|config| {
        if json { Ok(serde_json::to_string_pretty(&config)?) } else { Ok(toml::to_string_pretty(&config)?) }
    });
    match text {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn usage(error: &impl std::fmt::Display) -> ExitCode {
    eprintln!("foghorn: {error}");
    ExitCode::from(2)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("foghorn: {}", words(error));
    ExitCode::FAILURE
}

/// An error and its causes. A cause that the text before it quotes already isn't said again.
fn words(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the database can't be migrated: {0}")]
        struct Quoting(#[from] std::io::Error);
        let error = anyhow::Error::from(Quoting(std::io::Error::other("no route"))).context("can't start");
        assert_eq!(words(&error), "can't start: the database can't be migrated: no route");
    }

    #[test]
    fn every_services_help_says_what_holds_without_a_word() {
        let help = |service: &str| {
            let text = Cli::try_parse_from(["foghorn", service, "--help"]).unwrap_err().to_string();
            // However it is broken into lines.
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let (config, nats) = (Config::default(), "[default: nats://127.0.0.1:4222]".to_owned());
        let default = |value: &dyn std::fmt::Display| format!("[default: {value}]");
        let (http, grpc) = (default(&config.listen.http), default(&config.listen.grpc));
        let (admin, log) = (default(&config.listen.admin), default(&config.eventlog.url));
        assert_eq!(nats, default(&config.nats.url));
        for (service, words) in [
            ("standalone", vec![&http, &grpc, &admin]),
            ("gateway", vec![&http, &admin, &nats, &log]),
            ("fanout", vec![&http, &grpc, &admin, &nats, &log]),
            ("eventlog", vec![&grpc, &admin, &nats]),
            ("outbox", vec![&admin, &nats, &log]),
            ("operator", vec![&admin, &nats]),
        ] {
            for words in words {
                assert!(help(service).contains(words), "{service}: no {words}");
            }
        }
        assert!(help("eventlog").contains(&default(&config.postgres.url)));
        assert!(help("fanout").contains("Where publishers connect"));
        let wrong = Cli::try_parse_from(["foghorn", "gateway", "--listen", "localhost:8090"]).unwrap_err();
        assert!(wrong.to_string().contains("127.0.0.1:8080"), "{wrong}");
    }

    #[test]
    fn the_command_line_is_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("foghorn.toml");
        std::fs::write(&file, "[standalone]\nephemeral = true\n").unwrap();
        let load = |more: &[&str]| {
            let words = [&["foghorn", "standalone", "--config", file.to_str().unwrap()], more].concat();
            match Cli::try_parse_from(words).unwrap().command {
                Command::Standalone(standalone) => standalone.load().unwrap().standalone,
                other => unreachable!("{other:?}"),
            }
        };
        assert!(load(&[]).ephemeral);
        let named = load(&["--data", "kept"]);
        assert_eq!((named.data, named.ephemeral), (PathBuf::from("kept"), false));
    }
}
