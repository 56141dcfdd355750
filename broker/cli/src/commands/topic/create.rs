//! `tidemark topic create`.

use serde::Serialize;
use tidemark_client::admin::NewTopic;
use tidemark_wire::ErrorCode;

use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};
use crate::output::plural;

/// Make a topic
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name
    name: String,
    /// How many partitions; the cluster decides if not given
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas of each partition; the cluster decides if not given
    #[arg(long, short = 'r', value_parser = clap::value_parser!(i16).range(1..))]
    replicas: Option<i16>,
    /// A setting of the topic, by Kafka's name: --set retention.ms=604800000
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
    /// Leave a topic of that name as it is
    #[arg(long)]
    if_not_exists: bool,
    /// Only say whether it could be made
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Created {
    topic: String,
    id: Option<String>,
    partitions: Option<i32>,
    created: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let topic = NewTopic {
        name: args.name.clone(),
        partitions: args.partitions,
        replicas: args.replicas,
        assignment: Vec::new(),
        configs: args.set,
    };
    let mut report = Created {
        topic: args.name.clone(),
        id: None,
        partitions: args.partitions,
        created: !args.dry_run,
    };
    match cluster.create_topic(&topic, args.dry_run).await {
        Ok(id) => report.id = (!id.is_zero() && !args.dry_run).then(|| id.to_string()),
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) && args.if_not_exists => {
            report.created = false;
        }
        Err(error) => {
            let failure = match error.code() {
                Some(ErrorCode::TopicAlreadyExists) => {
                    Failure::from(error).next(format!("tidemark topic describe {}", args.name))
                }
                Some(ErrorCode::InvalidReplicationFactor) => {
                    Failure::from(error).next("tidemark cluster")
                }
                _ => Failure::from(error),
            };
            return Err(failure);
        }
    }
    if report.created {
        // The cluster decided what was not given.
        if let Ok(made) = cluster.fresh_topic(&args.name, false).await {
            report.partitions = Some(made.partition_count());
        }
    }
    context.out.show(&report, |out| {
        if args.dry_run {
            out.line(&format!(
                "Topic {} could be made; nothing was done.",
                report.topic
            ))
        } else if !report.created {
            out.line(&format!(
                "Topic {} exists already; nothing was done.",
                report.topic
            ))
        } else {
            let size = report
                .partitions
                .map(|n| format!(" with {}", plural(n.into(), "partition")));
            out.line(&format!(
                "Made topic {}{}.",
                report.topic,
                size.unwrap_or_default()
            ))
        }
    })?;
    Ok(Exit::Ok)
}
