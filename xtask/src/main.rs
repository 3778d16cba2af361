//! The project's chores, in one place for people and for CI: `cargo xtask tools | test | simulate |
//! client | soak | upgrade | fuzz | codegen | chart | dashboards | image | ci`.

mod chart;
mod ci;
mod client;
mod codegen;
mod command;
mod dashboards;
mod fuzz;
mod image;
mod simulate;
mod soak;
mod test;
mod tools;
mod upgrade;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Foghorn's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Find or install what the tests need: PostgreSQL, nats-server, nginx, Envoy, Prometheus, chromium and chromedriver; a C++ compiler
    /// for fuzzing; and helm, kubectl and Kubernetes' schemas for the chart
    Tools,
    /// Build the product and run the tests against it
    Test(test::Options),
    /// Test the chart and the operator against a real API server of Kubernetes, which is built first
    TestK8s,
    /// Check, test and pack the browsers' client, in Node and in Chromium
    Client,
    /// Feed made-up bytes to the code that reads bytes from outside, guided by what they reach in it
    Fuzz(fuzz::Options),
    /// Run the simulation: thousands of seeds, or one with its story
    Simulate(simulate::Options),
    /// Run a cluster of real processes under load and random faults, and judge what everybody heard
    Soak(soak::Options),
    /// Run a cluster of real processes through an upgrade from another version, back and again, under load, and judge
    /// what everybody heard
    Upgrade(upgrade::Options),
    /// Generate the gRPC code of crates/rpc from its .proto file
    Codegen {
        /// Change nothing, fail when the committed files are not what would be generated
        #[arg(long)]
        check: bool,
    },
    /// Check the Helm chart and the manifests in k8s/: lint, schemas, every configuration through the product's own
    /// check, the restricted Pod Security Standard
    Chart {
        /// Render k8s/ from the chart, and check nothing
        #[arg(long)]
        write: bool,
    },
    /// Check the alerts, their runbooks and the dashboards, and ask each query of a Prometheus that scrapes a cluster
    /// under load
    Dashboards,
    /// Build the image as the Dockerfile says, and look at it: what is in it, what it is made of, whether it runs where
    /// nothing is allowed. Needs Docker, and root where its engine has to be started; takes as long as a release build
    Image(image::Options),
    /// Everything a change has to pass: format, clippy, generated code, the Dockerfile, tests, the chart, alerts and dashboards, the browsers' client, fuzzing
    Ci,
}

fn main() -> ExitCode {
    command::watch_for_interrupts();
    let outcome = match Arguments::parse().chore {
        Chore::Tools => tools(),
        Chore::Test(options) => test::run(&options),
        Chore::TestK8s => test::kubernetes(),
        Chore::Client => client::run(),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::Simulate(options) => simulate::run(&options),
        Chore::Soak(options) => soak::run(&options),
        Chore::Upgrade(options) => upgrade::run(&options),
        Chore::Codegen { check: false } => codegen::write(),
        Chore::Codegen { check: true } => codegen::check(),
        Chore::Chart { write: true } => chart::write(),
        Chore::Chart { write: false } => chart::check(),
        Chore::Dashboards => dashboards::run(),
        Chore::Image(options) => image::run(&options),
        Chore::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tools() -> anyhow::Result<()> {
    print!("{}", tools::ensure()?);
    tools::compiler()?;
    tools::nchan();
    print!("{}", tools::chart_tools()?);
    tools::grafana_types().map(drop)
}
