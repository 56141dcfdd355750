//! `tidemark cluster drain`: cordon a broker, move everything off it, and wait for that.

use serde::Serialize;
use tidemark_client::Topics;

use super::plan;
use super::reassign::{self, Report as Moves};
use super::watch;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::plural;

/// Move everything off a broker (shows the plan; --execute does it)
///
/// The broker gets no new replicas from then on. What it holds goes to the brokers of the same or
/// an unused rack that hold least. Run again, it goes on where it stopped.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker
    broker: i32,
    /// Do it
    #[arg(long)]
    execute: bool,
    /// Only show the plan, which is what happens without --execute, too
    #[arg(long, conflicts_with = "execute")]
    dry_run: bool,
    /// Do not wait until all is moved
    #[arg(long)]
    no_wait: bool,
    /// Copy no faster than so many bytes a second on each broker
    #[arg(long, value_name = "BYTES_PER_S", value_parser = clap::value_parser!(u64).range(1..))]
    throttle: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    broker: i32,
    cordoned: bool,
    /// Replicas that it holds now.
    left: usize,
    #[serde(flatten)]
    moves: Moves,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let broker = args.broker;
    let known = plan::known_broker(&cluster, broker).await?;
    // A broker that is down cannot be told, and gets nothing while it is.
    let cordoned = args.execute && !known.fenced;
    if cordoned {
        cluster.cordon(broker, true).await?;
    }
    let moving = cluster.reassignments(None).await?;
    let info = cluster.metadata(Topics::All).await?;
    let targets = plan::targets(&cluster, &[]).await?;
    let moves =
        plan::drain(&plan::current(&info, &moving), broker, &targets).map_err(|problem| {
            Failure::finding(format!("broker {broker} cannot be drained: {problem}"))
                .next("tidemark cluster describe")
        })?;
    let moves =
        reassign::carry_out(&cluster, moves, args.execute, !args.no_wait, args.throttle).await?;
    if args.execute && !args.no_wait {
        // Those too that were on their way before.
        let leaving = moving
            .into_iter()
            .filter(|one| one.removing.contains(&broker));
        let leaving: Vec<_> = leaving.map(|one| one.partition).collect();
        if !leaving.is_empty() {
            watch::until_moved(&cluster, &leaving).await?;
        }
    }
    let info = cluster.metadata(Topics::All).await?;
    let partitions = info
        .topics
        .values()
        .flat_map(|topic| topic.partitions.values());
    let report = Report {
        broker,
        cordoned,
        left: partitions.filter(|p| p.replicas.contains(&broker)).count(),
        moves,
    };
    let throttle = args.throttle.map(|rate| format!(" --throttle {rate}"));
    let throttle = throttle.unwrap_or_default();
    context.out.show(&report, |out| {
        reassign::show(out, &report.moves)?;
        match (args.execute, report.left) {
            (true, 0) => out.line(&format!(
                "Broker {broker} holds nothing and gets nothing. To take it out of the cluster: stop it, then tidemark cluster unregister {broker}"
            )),
            (true, left) => out.line(&format!(
                "Broker {broker} still holds {}: tidemark cluster drain {broker}{throttle} --execute goes on",
                plural(left as i64, "replica")
            )),
            (false, _) => out.line(&format!(
                "Nothing was done. To do it: tidemark cluster drain {broker}{throttle} --execute"
            )),
        }
    })?;
    Ok(report.moves.exit())
}
