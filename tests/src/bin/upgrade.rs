//! `upgrade`: a cluster of one version becomes one of another, process by process and under load, goes back and comes
//! again; and the oracle's verdict.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use foghorn_tests::cluster::Cluster;
use foghorn_tests::env;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::load::{Load, Plan};
use serde_json::json;

/// Acks between two steps, so that each mixture of versions is put to the test.
const ACKS: usize = 150;
/// What a binary says of a configuration or a database that it can't work with.
const REFUSED: i32 = 2;

/// Runs a cluster through an upgrade under load, and judges what everybody heard.
#[derive(Debug, Parser)]
#[command(name = "upgrade")]
struct Arguments {
    /// The version before: its `foghorn`.
    #[arg(long)]
    before: PathBuf,
    /// The version after; by default the one that was built with this program, or `FOGHORN_BIN`.
    #[arg(long)]
    after: Option<PathBuf>,
    /// Shards.
    #[arg(long, default_value_t = 2)]
    shards: u8,
    /// Prints the summary as JSON, on the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    let violations = runtime.block_on(upgrade(&arguments));
    violations.iter().for_each(|violation| println!("WRONG {violation}"));
    if !violations.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("all is well");
    ExitCode::SUCCESS
}

async fn upgrade(arguments: &Arguments) -> Vec<String> {
    let (before, after) = (&arguments.before, &arguments.after.clone().unwrap_or_else(env::foghorn));
    println!("from {} to {}", version(before), version(after));
    let mut cluster = Cluster::start_as(before, arguments.shards).await;
    let load = Load::start(&cluster, Plan { pause: Duration::from_millis(300), ..Plan::default() }).await;
    load.acked(ACKS).await;

    // As the chart does it: the schema first, gateways last.
    assert_eq!(migrate(after, &cluster.database), 0, "the schema can't be brought up to date");
    forward(&mut cluster, &load, after).await;
    let logs_go_back = migrate(before, &cluster.database) != REFUSED;
    back(&mut cluster, &load, before, logs_go_back).await;
    forward(&mut cluster, &load, after).await;

    let counts = load.counts();
    let violations = load.finish(&cluster).await;
    println!("{} acked, {} heard, {} resets", counts.acked, counts.heard, counts.resets);
    if arguments.json {
        let summary = json!({
            "acked": counts.acked, "heard": counts.heard, "resets": counts.resets,
            "logsWentBack": logs_go_back, "violations": violations,
        });
        println!("{summary}");
    }
    violations
}

async fn forward(cluster: &mut Cluster, load: &Load, after: &Path) {
    for (kind, processes) in [
        ("event log", &mut cluster.eventlogs),
        ("fan-out", &mut cluster.fanouts),
        ("gateway", &mut cluster.gateways),
    ] {
        replace(kind, processes, load, after).await;
    }
}

async fn back(cluster: &mut Cluster, load: &Load, before: &Path, logs_too: bool) {
    replace("gateway", &mut cluster.gateways, load, before).await;
    replace("fan-out", &mut cluster.fanouts, load, before).await;
    if logs_too {
        replace("event log", &mut cluster.eventlogs, load, before).await;
    } else {
        println!("event logs stay: those of before refuse the schema");
    }
}

/// One after the other is told to stop, and comes back as another version.
async fn replace(kind: &str, processes: &mut [Foghorn], load: &Load, binary: &Path) {
    for (number, process) in processes.iter_mut().enumerate() {
        process.replace(binary).await;
        load.acked(ACKS).await;
        println!("{kind} {number} is {}", version(binary));
    }
}

/// The exit code of the schema's migration by a version.
fn migrate(binary: &Path, database: &str) -> i32 {
    let ran = Command::new(binary).args(["eventlog", "migrate", "--postgres", database]).status();
    ran.ok().and_then(|status| status.code()).unwrap_or(-1)
}

fn version(binary: &Path) -> String {
    let said = Command::new(binary).arg("--version").output();
    let said = said.unwrap_or_else(|error| panic!("{}: {error}", binary.display())).stdout;
    format!("{} ({})", String::from_utf8_lossy(&said).trim(), binary.display())
}
