//! `tidemark cluster reassign`: from a plan file or a plan made here; a preview first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;
use tidemark_client::{Cluster, TopicPartition, Topics};

use super::plan::{self, Move, PlanFile, PlannedPartition};
use super::throttle::{self, Throttles};
use super::watch;
use crate::context::{Context, existing_topic};
use crate::failure::{Exit, Failure};
use crate::input::read_text;
use crate::output::{Out, Table, ids, plural};

/// Move replicas to other brokers (shows the plan; --execute does it)
///
/// With a plan in the format of Kafka's own tool, or with one made here, which spreads replicas
/// over brokers and racks and moves no more than that takes. With -o json the output is such a
/// plan, and has one that leads back. Without a plan: what is being moved.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A plan file; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["topics", "brokers"])]
    plan: Option<PathBuf>,
    /// Make a plan for these topics; all, where only brokers are named
    #[arg(long, value_name = "TOPIC,…", value_delimiter = ',')]
    topics: Vec<String>,
    /// Make a plan that spreads over these brokers; all that are up, where only topics are named
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    brokers: Vec<i32>,
    /// Do it
    #[arg(long)]
    execute: bool,
    /// Only show the plan, which is what happens without --execute, too
    #[arg(long, conflicts_with_all = ["execute", "cancel"])]
    dry_run: bool,
    /// Cancel the moves under way: of the plan or topics, or all (needs --execute, too)
    #[arg(long, conflicts_with = "brokers")]
    cancel: bool,
    /// Do not wait until all is moved
    #[arg(long)]
    no_wait: bool,
    /// Copy no faster than so many bytes a second on each broker: these moves and those under way.
    /// Taken away when all is moved
    #[arg(long, value_name = "BYTES_PER_S", conflicts_with = "cancel",
          value_parser = clap::value_parser!(u64).range(1..))]
    throttle: Option<u64>,
    /// Take throttles away, such as those of moves that were not waited for
    #[arg(long, conflicts_with_all = ["plan", "topics", "brokers", "execute", "cancel", "throttle"])]
    unthrottle: bool,
}

/// A plan, and what became of it.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    plan: PlanFile,
    /// The plan that undoes it.
    back: PlanFile,
    executed: bool,
    /// Whether all that was asked for is where it should be.
    done: bool,
    /// Whether a throttle is left in force.
    throttled: bool,
    moves: Vec<Outcome>,
}

/// One move, and why it was refused.
#[derive(Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    moved: Move,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Ongoing {
    topic: String,
    partition: i32,
    replicas: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    if args.cancel {
        return cancel(&args, &cluster, context).await;
    }
    if args.unthrottle {
        return unthrottle(&cluster, context).await;
    }
    if args.plan.is_none() && args.topics.is_empty() && args.brokers.is_empty() {
        if let (Some(bytes_per_s), true) = (args.throttle, args.execute) {
            throttle::put(&cluster, &[], bytes_per_s).await?;
            return list(&cluster, context).await;
        }
        if args.execute || args.dry_run {
            return Err(
                Failure::usage("there is no plan: name topics, brokers or a plan file")
                    .next("tidemark cluster reassign --topics TOPIC"),
            );
        }
        return list(&cluster, context).await;
    }
    let moves = planned(&args, &cluster).await?;
    let report = carry_out(&cluster, moves, args.execute, !args.no_wait, args.throttle).await?;
    context.out.show(&report, |out| {
        show(out, &report)?;
        if !args.execute && !report.moves.is_empty() {
            out.line(&format!(
                "Nothing was done. To do it: tidemark cluster reassign{} --execute",
                args.repeated()
            ))?;
        }
        Ok(())
    })?;
    Ok(report.exit())
}

impl Args {
    /// What it was called with, to be repeated.
    fn repeated(&self) -> String {
        let mut line = String::new();
        if let Some(file) = &self.plan {
            line += &format!(" --plan {}", file.display());
        }
        if !self.topics.is_empty() {
            line += &format!(" --topics {}", self.topics.join(","));
        }
        if !self.brokers.is_empty() {
            line += &format!(" --brokers {}", ids(&self.brokers));
        }
        if let Some(bytes_per_s) = self.throttle {
            line += &format!(" --throttle {bytes_per_s}");
        }
        line
    }

    fn file(&self) -> Result<Option<PlanFile>, Failure> {
        let Some(path) = &self.plan else {
            return Ok(None);
        };
        let name = path.display().to_string();
        let text = read_text(path).map_err(|error| Failure::file(&name, &error))?;
        let plan = plan::parse(&text)
            .map_err(|problem| Failure::usage(format!("{name} is no plan: {problem}")))?;
        Ok(Some(plan))
    }
}

/// What has to be moved.
async fn planned(args: &Args, cluster: &Cluster) -> Result<Vec<Move>, Failure> {
    let moving = cluster.reassignments(None).await?;
    if let Some(file) = args.file()? {
        let named: BTreeSet<&str> = file.partitions.iter().map(|p| &*p.topic).collect();
        for topic in named {
            existing_topic(cluster, topic).await?;
        }
        let now: BTreeMap<_, _> = plan::current(&cluster.info(), &moving)
            .into_iter()
            .collect();
        let mut moves = Vec::new();
        for partition in file.partitions {
            let Some(from) = now.get(&partition.at()) else {
                return Err(Failure::usage(format!(
                    "there is no partition {}",
                    partition.at()
                )));
            };
            if *from != partition.replicas {
                moves.push(Move {
                    topic: partition.topic,
                    partition: partition.partition,
                    from: from.clone(),
                    to: partition.replicas,
                });
            }
        }
        return Ok(moves);
    }
    for topic in &args.topics {
        existing_topic(cluster, topic).await?;
    }
    let info = cluster.metadata(Topics::All).await?;
    let mut all = plan::current(&info, &moving);
    all.retain(|(tp, _)| args.topics.is_empty() || args.topics.contains(&tp.topic));
    let targets = plan::targets(cluster, &args.brokers).await?;
    plan::spread(&all, &targets).map_err(Failure::finding)
}

/// Says what is to be moved, and waits for it; a throttle goes when nothing is being moved any
/// more.
pub async fn carry_out(
    cluster: &Cluster,
    moves: Vec<Move>,
    execute: bool,
    wait: bool,
    throttle: Option<u64>,
) -> Result<Report, Failure> {
    let mut errors: BTreeMap<TopicPartition, String> = BTreeMap::new();
    let mut done = moves.is_empty();
    let mut throttled = false;
    if execute && !moves.is_empty() {
        if let Some(bytes_per_s) = throttle {
            throttle::put(cluster, &moves, bytes_per_s).await?;
            throttled = true;
        }
        let asked: Vec<(TopicPartition, Option<Vec<i32>>)> = moves
            .iter()
            .map(|one| (one.at(), Some(one.to.clone())))
            .collect();
        for (tp, result) in cluster.reassign(&asked).await? {
            if let Err(error) = result {
                errors.insert(tp, error.to_string());
            }
        }
        if wait {
            let taken = moves
                .iter()
                .map(Move::at)
                .filter(|tp| !errors.contains_key(tp));
            let taken: Vec<TopicPartition> = taken.collect();
            if !taken.is_empty() {
                watch::until_moved(cluster, &taken).await?;
            }
            done = errors.is_empty();
            if throttled && cluster.reassignments(None).await?.is_empty() {
                let info = cluster.metadata(Topics::All).await?;
                let left = throttle::find(cluster, &info).await?;
                throttle::clear(cluster, &left).await?;
                throttled = false;
            }
        }
    }
    let file = |of: &dyn Fn(&Move) -> Vec<i32>| PlanFile {
        version: 1,
        partitions: moves
            .iter()
            .map(|one| PlannedPartition {
                topic: one.topic.clone(),
                partition: one.partition,
                replicas: of(one),
            })
            .collect(),
    };
    Ok(Report {
        plan: file(&|one| one.to.clone()),
        back: file(&|one| one.from.clone()),
        executed: execute,
        done,
        throttled,
        moves: moves
            .into_iter()
            .map(|moved| Outcome {
                error: errors.remove(&moved.at()),
                moved,
            })
            .collect(),
    })
}

impl Report {
    /// How the command ends.
    pub fn exit(&self) -> Exit {
        match self.moves.iter().any(|one| one.error.is_some()) {
            true => Exit::Finding,
            false => Exit::Ok,
        }
    }

    /// How many moves were refused.
    pub fn refused(&self) -> usize {
        self.moves.iter().filter(|one| one.error.is_some()).count()
    }
}

/// Moves, and what became of them.
pub fn show(out: &mut Out, report: &Report) -> Result<(), Failure> {
    let moves: Vec<Move> = report.moves.iter().map(|one| one.moved.clone()).collect();
    plan::show(out, &moves)?;
    for one in &report.moves {
        if let Some(error) = &one.error {
            out.line(&format!("refused: {error}"))?;
        }
    }
    let count = plural((moves.len() - report.refused()) as i64, "partition");
    match (moves.is_empty(), report.executed, report.done) {
        (true, _, _) => out.line("Nothing has to be moved."),
        (_, true, true) => out.line(&format!("{count} moved.")),
        (_, true, false) => out.line(&format!(
            "{count} being moved: `tidemark cluster reassign` shows what is left"
        )),
        (_, false, _) => Ok(()),
    }?;
    match report.throttled {
        true => out
            .line("The throttle stays. When all is moved: tidemark cluster reassign --unthrottle"),
        false => Ok(()),
    }
}

async fn unthrottle(cluster: &Cluster, context: &mut Context) -> Result<Exit, Failure> {
    let info = cluster.metadata(Topics::All).await?;
    let found = throttle::find(cluster, &info).await?;
    throttle::clear(cluster, &found).await?;
    context.out.show(&found, |out| match found.is_empty() {
        true => out.line("Nothing is throttled."),
        false => out.line(&format!("Not throttled any more: {}.", found.text())),
    })?;
    Ok(Exit::Ok)
}

async fn list(cluster: &Cluster, context: &mut Context) -> Result<Exit, Failure> {
    let moving = cluster.reassignments(None).await?;
    let moving = moving.into_iter().map(|one| Ongoing {
        topic: one.partition.topic,
        partition: one.partition.partition,
        replicas: one.replicas,
        adding: one.adding,
        removing: one.removing,
    });
    let moving: Vec<Ongoing> = moving.collect();
    let throttles = throttle::find(cluster, &cluster.metadata(Topics::All).await?).await?;
    context.out.show(&moving, |out| {
        if moving.is_empty() {
            out.line("Nothing is being moved.")?;
            return throttled(out, &throttles);
        }
        let mut table = Table::new(&["PARTITION", "REPLICAS", "COMING", "GOING"]);
        for one in &moving {
            table.row(vec![
                TopicPartition::new(one.topic.clone(), one.partition).to_string(),
                ids(&one.replicas),
                ids(&one.adding),
                ids(&one.removing),
            ]);
        }
        out.table(&table)?;
        throttled(out, &throttles)
    })?;
    Ok(Exit::Ok)
}

fn throttled(out: &mut Out, throttles: &Throttles) -> Result<(), Failure> {
    if throttles.is_empty() {
        return Ok(());
    }
    out.line(&format!(
        "Throttled: {}. To take that away: tidemark cluster reassign --unthrottle",
        throttles.text()
    ))
}

async fn cancel(args: &Args, cluster: &Cluster, context: &mut Context) -> Result<Exit, Failure> {
    let file = args.file()?;
    let planned: Option<BTreeSet<TopicPartition>> =
        file.map(|file| file.partitions.iter().map(PlannedPartition::at).collect());
    let mut moving = cluster.reassignments(None).await?;
    moving.retain(|one| match &planned {
        Some(planned) => planned.contains(&one.partition),
        None => args.topics.is_empty() || args.topics.contains(&one.partition.topic),
    });
    let moves = moving.into_iter().map(|one| {
        let stays = one
            .replicas
            .iter()
            .copied()
            .filter(|id| !one.adding.contains(id));
        Move {
            to: stays.collect(),
            from: one.replicas,
            topic: one.partition.topic,
            partition: one.partition.partition,
        }
    });
    let moves: Vec<Move> = moves.collect();
    let mut errors = BTreeMap::new();
    if args.execute && !moves.is_empty() {
        let asked: Vec<_> = moves.iter().map(|one| (one.at(), None)).collect();
        for (tp, result) in cluster.reassign(&asked).await? {
            if let Err(error) = result {
                errors.insert(tp, error.to_string());
            }
        }
    }
    let outcomes = moves.into_iter().map(|moved| Outcome {
        error: errors.remove(&moved.at()),
        moved,
    });
    let outcomes: Vec<Outcome> = outcomes.collect();
    context.out.show(&outcomes, |out| {
        let moves: Vec<Move> = outcomes.iter().map(|one| one.moved.clone()).collect();
        plan::show(out, &moves)?;
        for error in outcomes.iter().filter_map(|one| one.error.as_ref()) {
            out.line(&format!("refused: {error}"))?;
        }
        match (moves.is_empty(), args.execute) {
            (true, _) => out.line("Nothing is being moved."),
            (false, true) => out.line("Cancelled: replicas that were on their way go."),
            (false, false) => out.line(&format!(
                "Nothing was done. To do it: tidemark cluster reassign --cancel{} --execute",
                args.repeated()
            )),
        }
    })?;
    let failed = outcomes.iter().any(|one| one.error.is_some());
    Ok(if failed { Exit::Finding } else { Exit::Ok })
}
