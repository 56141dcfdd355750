//! `tidemark topic alter`.

use serde::Serialize;
use tidemark_client::admin::{ConfigChange, ConfigOp, ConfigResource};

use crate::commands::config::changes;
use crate::context::{Context, existing_topic, parse_setting};
use crate::failure::{Exit, Failure};
use crate::output::plural;

/// Change a topic's settings or add partitions
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["partitions", "set", "unset"]))]
pub struct Args {
    /// Its name
    name: String,
    /// How many partitions it is to have in all; keys move to other partitions then
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Give a setting a value
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
    /// Take a setting back to its default
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// Only say whether it could be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    topic: String,
    partitions: i32,
    set: Vec<(String, String)>,
    unset: Vec<String>,
    done: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let topic = existing_topic(&cluster, &args.name).await?;
    let resource = ConfigResource::Topic(args.name.clone());
    let explain = |error: tidemark_client::ClientError| {
        Failure::from(error).or_next(|| format!("tidemark topic describe {} --all", args.name))
    };
    let wanted: Vec<ConfigChange> = changes(&args.set, &args.unset);
    debug_assert!(
        wanted
            .iter()
            .all(|c| c.op == ConfigOp::Delete || c.value.is_some())
    );
    if let Some(count) = args.partitions
        && count < topic.partition_count()
    {
        return Err(Failure::finding(format!(
            "topic {} has {} and partitions cannot be taken away",
            args.name,
            plural(topic.partition_count().into(), "partition")
        ))
        .next(format!("tidemark topic describe {}", args.name)));
    }
    let grows = args
        .partitions
        .filter(|count| *count != topic.partition_count());
    // What can be refused is asked about first, so that nothing is half done.
    if !wanted.is_empty() {
        cluster
            .alter_configs(&resource, &wanted, true)
            .await
            .map_err(explain)?;
    }
    if let Some(count) = grows {
        cluster
            .create_partitions(&args.name, count, true)
            .await
            .map_err(explain)?;
    }
    if !args.dry_run {
        if !wanted.is_empty() {
            cluster
                .alter_configs(&resource, &wanted, false)
                .await
                .map_err(explain)?;
        }
        if let Some(count) = grows {
            cluster
                .create_partitions(&args.name, count, false)
                .await
                .map_err(explain)?;
        }
    }
    let report = Report {
        topic: args.name.clone(),
        partitions: args.partitions.unwrap_or(topic.partition_count()),
        set: args.set,
        unset: args.unset,
        done: !args.dry_run,
    };
    context.out.show(&report, |out| {
        if args.dry_run {
            return out.line(&format!(
                "Topic {} could be changed like that; nothing was done.",
                report.topic
            ));
        }
        let mut done = Vec::new();
        if let Some(count) = grows {
            done.push(format!("{} now", plural(count.into(), "partition")));
        }
        done.extend(
            report
                .set
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        done.extend(
            report
                .unset
                .iter()
                .map(|name| format!("{name} back to its default")),
        );
        if done.is_empty() {
            done.push("nothing to change".to_owned());
        }
        out.line(&format!("Topic {}: {}.", report.topic, done.join(", ")))
    })?;
    Ok(Exit::Ok)
}
