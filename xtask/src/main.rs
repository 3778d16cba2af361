//! The project's chores, in one place for people and for CI: `cargo xtask tools | test | simulate | codegen | ci`.

mod ci;
mod codegen;
mod command;
mod simulate;
mod test;
mod tools;
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
    /// Find or install what the tests need: PostgreSQL, nats-server, nginx, chromium and chromedriver
    Tools,
    /// Build the product and run the tests against it
    Test(test::Options),
    /// Run the simulation: thousands of seeds, or one with its story
    Simulate(simulate::Options),
    /// Generate the gRPC code of crates/rpc from its .proto file
    Codegen {
        /// Change nothing, fail when the committed files are not what would be generated
        #[arg(long)]
        check: bool,
    },
    /// Everything a change has to pass: format, clippy, generated code, tests
    Ci,
}

fn main() -> ExitCode {
    command::watch_for_interrupts();
    let outcome = match Arguments::parse().chore {
        Chore::Tools => tools::ensure().map(|tools| print!("{tools}")),
        Chore::Test(options) => test::run(&options),
        Chore::Simulate(options) => simulate::run(&options),
        Chore::Codegen { check: false } => codegen::write(),
        Chore::Codegen { check: true } => codegen::check(),
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
