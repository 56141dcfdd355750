//! The command line: what all commands share, and which commands there are.

#[cfg(test)]
mod pages;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::commands;
use crate::context::parse_timeout;
use crate::output::Format;

/// Where a broker is looked for when nothing says otherwise.
pub const DEFAULT_BOOTSTRAP: &str = "127.0.0.1:9092";

/// A Kafka-compatible streaming platform in one binary.
///
/// The broker commands run Tidemark; all others work against any Kafka cluster.
/// Exit codes: 0 ok, 1 a finding or a refusal, 2 a command line that makes no sense, 3 nobody answered.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark",
    version,
    max_term_width = 100,
    propagate_version = true
)]
pub struct Arguments {
    /// Brokers to begin with: host[:port],…
    #[arg(long, short = 'b', global = true, env = "TIDEMARK_BOOTSTRAP", default_value = DEFAULT_BOOTSTRAP, value_name = "HOST:PORT")]
    pub bootstrap: String,

    /// Tables for people or JSON for scripts
    #[arg(long, short = 'o', global = true, value_enum, default_value = "table")]
    pub output: Format,

    /// How long one request may take
    #[arg(long, global = true, default_value = "10s", value_parser = parse_timeout, value_name = "DURATION")]
    pub timeout: Duration,

    /// A client's settings by Kafka's names, as for Kafka's own tools: security.protocol and ssl.*
    #[arg(
        long,
        global = true,
        env = "TIDEMARK_COMMAND_CONFIG",
        value_name = "FILE"
    )]
    pub command_config: Option<PathBuf>,

    /// Log what happens on standard error; twice for more
    #[arg(long, short = 'v', global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Arguments {
    /// The bootstrap address if it was typed, so that hints can repeat it.
    pub fn bootstrap_if_typed(&self) -> Option<String> {
        let from_env = std::env::var("TIDEMARK_BOOTSTRAP").ok();
        let typed =
            self.bootstrap != DEFAULT_BOOTSTRAP && from_env.as_ref() != Some(&self.bootstrap);
        typed.then(|| self.bootstrap.clone())
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a broker on this machine for development
    Dev(commands::dev::Args),
    /// Run a broker in the foreground
    Broker(commands::broker::Args),
    /// Look after Tidemark on Kubernetes: Cluster, Topic and ConsumerGroup resources
    Operator(commands::operator::Args),
    /// Look at Tidemark on Kubernetes, and ask its operator for things (kubectl tidemark)
    Kube(commands::kube::Args),
    /// Give a broker's empty data directories their identity, once
    Format(commands::format::Args),
    /// Make, list, describe, change and delete topics
    #[command(subcommand)]
    Topic(commands::topic::Command),
    /// Write records from standard input or files
    Produce(commands::produce::Args),
    /// Read records
    Consume(commands::consume::Args),
    /// List, describe, reset and delete consumer groups
    #[command(subcommand)]
    Group(commands::group::Command),
    /// Show and change settings of brokers, topics and groups
    #[command(subcommand)]
    Config(commands::config::Command),
    /// Show the brokers of the cluster, and move what they lead and hold
    Cluster(commands::cluster::Args),
    /// Look into log files
    #[command(subcommand)]
    Log(commands::log::Command),
    /// Look into a bucket that topics are tiered to; no broker has to run
    #[command(subcommand)]
    Tier(commands::tier::Command),
    /// Look for what is wrong, say why, and what to type next
    Doctor(commands::doctor::Args),
    /// Print a completion script for a shell
    Completions(commands::completions::Args),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn shared_arguments_go_before_and_after_the_command() {
        for line in [
            ["tidemark", "-b", "h:1", "-o", "json", "topic", "list"],
            ["tidemark", "topic", "list", "-b", "h:1", "-o", "json"],
        ] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert_eq!(arguments.bootstrap, "h:1");
            assert_eq!(arguments.output, Format::Json);
        }
    }
}
