//! One file per subcommand.

pub mod broker;
pub mod cluster;
pub mod completions;
pub mod config;
pub mod consume;
pub mod dev;
pub mod doctor;
pub mod format;
pub mod group;
pub mod kube;
pub mod log;
pub mod operator;
pub mod places;
pub mod produce;
pub mod serve;
pub mod tier;
pub mod topic;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{Arguments, Command};
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Does what the command line says.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Dev(args) => dev::run(args, context).await,
        Command::Broker(args) => broker::run(args, context).await,
        Command::Operator(args) => operator::run(args).await,
        Command::Format(args) => format::run(args, context).await,
        Command::Topic(command) => topic::run(command, context).await,
        Command::Produce(args) => produce::run(args, context).await,
        Command::Consume(args) => consume::run(args, context).await,
        Command::Kube(args) => kube::run(args, context).await,
        Command::Group(command) => group::run(command, context).await,
        Command::Config(command) => config::run(command, context).await,
        Command::Cluster(args) => cluster::run(args, context).await,
        Command::Log(command) => log::run(command, context).await,
        Command::Tier(command) => tier::run(command, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Completions(args) => completions::run(&args, context),
    }
}

/// Only people at a terminal see colours, and only those who did not turn them off.
fn colours() -> bool {
    let off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !off && std::io::stderr().is_terminal()
}

/// Logs to standard error: brokers say what they do, tools only what is worth a warning.
pub fn logging(arguments: &Arguments) {
    let serves = matches!(
        arguments.command,
        Command::Dev(_) | Command::Broker(_) | Command::Operator(_)
    );
    let level = match (arguments.verbose, serves) {
        // What raft has to say to itself; what it comes to is said by the broker.
        (0, true) => "info,openraft=off",
        (0, false) => "warn",
        (1, _) => "debug",
        (_, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("TIDEMARK_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours())
        .with_writer(std::io::stderr);
    if matches!(arguments.command, Command::Broker(_) | Command::Operator(_)) {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}
