//! `tidemark cluster`: who is there, who leads, who holds what; and moving it.

mod cordon;
mod describe;
mod disrupt;
mod drain;
mod elect;
mod force;
mod plan;
mod quorum;
mod reassign;
pub mod throttle;
mod unregister;
mod watch;

use tidemark_client::TopicPartition;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Show the brokers of the cluster, and move what they lead and hold
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// `describe` where nothing is said
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the brokers, what they lead and hold, and what is under-replicated
    Describe(describe::Args),
    /// Have leaders elected: the preferred ones, or any at the risk of losing records
    Elect(elect::Args),
    /// Move replicas to other brokers (shows the plan; --execute does it)
    Reassign(reassign::Args),
    /// Move everything off a broker (shows the plan; --execute does it)
    Drain(drain::Args),
    /// Keep new replicas off a broker
    Cordon(cordon::Args),
    /// Let a broker have new replicas again
    Uncordon(cordon::Args),
    /// Ask for leave to stop a broker for a while
    Disrupt(disrupt::Args),
    /// Take a broker that is stopped and empty out of the cluster
    Unregister(unregister::Args),
    /// Show and change who keeps the metadata
    #[command(subcommand)]
    Quorum(quorum::Command),
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let command = args.command.unwrap_or(Command::Describe(describe::Args {}));
    match command {
        Command::Describe(args) => describe::run(args, context).await,
        Command::Elect(args) => elect::run(args, context).await,
        Command::Reassign(args) => reassign::run(args, context).await,
        Command::Drain(args) => drain::run(args, context).await,
        Command::Cordon(args) => cordon::run(&args, true, context).await,
        Command::Uncordon(args) => cordon::run(&args, false, context).await,
        Command::Disrupt(args) => disrupt::run(&args, context).await,
        Command::Unregister(args) => unregister::run(&args, context).await,
        Command::Quorum(command) => quorum::run(command, context).await,
    }
}

/// `TOPIC` or `TOPIC:PARTITION,…`, as clap reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    topic: String,
    /// Empty for all.
    partitions: Vec<i32>,
}

fn parse_named(text: &str) -> Result<Named, String> {
    let (topic, partitions) = match text.rsplit_once(':') {
        None => (text, Ok(Vec::new())),
        Some((topic, list)) => (topic, list.split(',').map(str::parse).collect()),
    };
    match partitions {
        Ok(partitions) if !topic.is_empty() => Ok(Named {
            topic: topic.to_owned(),
            partitions,
        }),
        _ => Err(format!("'{text}' is not TOPIC or TOPIC:PARTITION,…")),
    }
}

/// As it is typed, to be repeated in hints.
fn typed(named: &[Named]) -> String {
    let each = named.iter().map(|one| {
        let partitions: Vec<String> = one.partitions.iter().map(ToString::to_string).collect();
        match partitions.is_empty() {
            true => format!(" {}", one.topic),
            false => format!(" {}:{}", one.topic, partitions.join(",")),
        }
    });
    each.collect()
}

/// The partitions named, of topics that are there.
async fn partitions_of(
    cluster: &tidemark_client::Cluster,
    named: &[Named],
) -> Result<Vec<(TopicPartition, tidemark_client::PartitionInfo)>, Failure> {
    let mut found = std::collections::BTreeMap::new();
    for one in named {
        let topic = crate::context::existing_topic(cluster, &one.topic).await?;
        if let Some(missing) = one
            .partitions
            .iter()
            .find(|p| !topic.partitions.contains_key(p))
        {
            return Err(Failure::usage(format!(
                "topic {} has no partition {missing}, only 0 to {}",
                one.topic,
                topic.partition_count() - 1
            )));
        }
        for (index, partition) in topic.partitions {
            if one.partitions.is_empty() || one.partitions.contains(&index) {
                found.insert(TopicPartition::new(one.topic.clone(), index), partition);
            }
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_partitions_are_named_as_they_are_repeated() {
        for text in ["orders", "orders:0", "orders:0,3"] {
            let named = parse_named(text).unwrap();
            assert_eq!(typed(&[named]), format!(" {text}"));
        }
        for bad in ["", "orders:", "orders:x", ":1", "orders:1,,2"] {
            assert!(parse_named(bad).is_err(), "{bad}");
        }
    }
}
