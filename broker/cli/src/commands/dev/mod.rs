//! `tidemark dev`: a ready broker on this machine, or a cluster of some, or what a file of
//! Kubernetes resources names.

mod cluster;
mod fields;
mod file;
mod follow;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use futures_util::future::try_join_all;
use tidemark_config::ConfigMap;
use tidemark_env::disk::{Disk, FileDisk, read_file, write_file_atomic};
use tidemark_env::{net, random, task};
use tidemark_server::{RunningServer, Voters};

use self::cluster::{FILE_NAME, Found, MOST_BROKERS, Plan, Run, Voter, choose, voters_of};
use self::follow::Follower;
use super::{format, serve};
use crate::args::DEFAULT_BOOTSTRAP;
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};

/// Longest file that is read.
const MOST_BYTES: usize = 64 << 10;

/// Run a broker on this machine for development
///
/// Prints `ready` with its address once it serves, and what to type next. Ctrl-C stops it. With
/// `--brokers 3` it is a cluster of three in one process: each keeps its data below the data
/// directory, and more can be added to the same data later.
///
/// With `-f FILE` it runs the brokers of the Cluster in a file of Kubernetes resources and applies
/// its Topics and ConsumerGroups, checked and planned as the operator does; an edit of the file is
/// applied again. What the file asks for and means nothing here is said.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cluster, Topic and ConsumerGroup resources to apply, and to apply again when the file changes
    #[arg(short, long, value_name = "FILE", conflicts_with = "brokers")]
    pub file: Option<PathBuf>,
    /// How many brokers; as many as the data directory has, or one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_BROKERS)))]
    pub brokers: Option<u8>,
    /// Where to listen; port 0 picks a free one; more brokers take the ports after it
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub listen: String,
    /// Where to keep the data; kept between runs
    #[arg(long, default_value = "./data", value_name = "DIR")]
    pub data: PathBuf,
    /// A setting, by Kafka's name: --set log.retention.hours=24
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// Cut logs at damage in acknowledged records instead of leaving their partitions offline; loses what follows it
    #[arg(long)]
    pub cut_corrupt_logs: bool,
}

/// Where quorums listen: below 32768, from which on Linux gives ports to outgoing connections.
const QUORUM_PORTS: Range<u16> = 20_000..32_000;

/// What differs from a broker's defaults here.
fn defaults(listeners: String, directory: String) -> ConfigMap {
    let ours = [
        ("listeners", listeners),
        ("log.dirs", directory),
        // Several development brokers may run side by side.
        ("http.listen", "127.0.0.1:0".to_owned()),
        // Nobody wants to wait for members that do not come.
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    ours.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Runs the command.
pub async fn run(mut args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let mut follower = match &args.file {
        Some(file) => Some(Follower::open(file, &args.data).await?),
        None => None,
    };
    let mut voters = None;
    if let Some(follower) = &follower {
        let cluster = follower.cluster();
        args.brokers = Some(cluster.brokers);
        voters = Some(cluster.voters);
        // What is typed goes before what the file says.
        args.set.splice(0..0, cluster.settings.clone());
    }
    let data = args.data.clone();
    let found = task::blocking(move || find(&FileDisk::new(), &data)).await;
    let found = found.map_err(Failure::bug)??;
    let servers = match choose(found, args.brokers, &args.data)? {
        Run::Single => vec![start_single(args).await?],
        Run::New(brokers) => {
            let plan = new_plan(brokers, voters.unwrap_or_else(|| voters_of(brokers))).await?;
            start_cluster(plan, args).await?
        }
        Run::Cluster(plan) => {
            if let Some(voters) = voters.filter(|voters| usize::from(*voters) != plan.voters.len())
            {
                return Err(Failure::usage(format!(
                    "quorum.voters: {voters}: the number of voters is chosen when the cluster is made, and {} has {}",
                    args.data.display(),
                    plan.voters.len()
                )));
            }
            start_cluster(plan, args).await?
        }
    };
    let signals = serve::StopSignals::take()?;
    let serving = async {
        let lines = match &mut follower {
            Some(follower) => follower.begin(serve::bootstrap(&servers), context).await,
            None => Vec::new(),
        };
        greet(&servers, &lines, follower.as_ref(), context)?;
        match follower {
            Some(follower) => follower.follow(context).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        stopped = serve::stopped_by(&servers, signals) => stopped?,
        failed = serving => failed?,
    }
    serve::shutdown(servers).await;
    Ok(Exit::Ok)
}

/// Says that it is ready, what was done, and what to type next.
fn greet(
    servers: &[RunningServer],
    lines: &[String],
    follower: Option<&Follower>,
    context: &mut Context,
) -> Result<(), Failure> {
    let bootstrap = serve::bootstrap(servers);
    let out = &mut context.out;
    out.line(&serve::greeting(servers))?;
    let http = servers.iter().filter_map(RunningServer::http);
    let http: Vec<String> = http.map(|at| format!("http://{at}/")).collect();
    match http.len() {
        0 => {}
        1 => out.line(&format!("       {} has health and metrics", http[0]))?,
        _ => out.line(&format!(
            "       {} have health and metrics",
            http.join(" ")
        ))?,
    }
    for line in lines {
        out.line(line)?;
    }
    // One of several is enough to begin with.
    let flag = if bootstrap.split(',').next() == Some(DEFAULT_BOOTSTRAP) {
        String::new()
    } else {
        format!(" --bootstrap {bootstrap}")
    };
    let next = match follower.and_then(Follower::first_topic) {
        Some(topic) => [format!("produce {topic}"), format!("consume {topic}")],
        None => [
            "produce greetings --create".to_owned(),
            "consume greetings".to_owned(),
        ],
    };
    out.line(&format!("next:  echo hello | tidemark{flag} {}", next[0]))?;
    out.line(&format!("       tidemark{flag} {}", next[1]))?;
    out.flush()
}

async fn start_single(args: Args) -> Result<RunningServer, Failure> {
    let listeners = format!("PLAINTEXT://{}", args.listen);
    let mut settings = defaults(listeners, args.data.display().to_string());
    settings.extend(args.set);
    let resolved = format::resolve(&settings)?;
    format::format_once(&resolved, None, Voters::Standalone, None).await?;
    serve::start(settings, args.cut_corrupt_logs, 0).await
}

/// Starts all brokers at once: none is ready before there is a majority of voters.
async fn start_cluster(plan: Plan, args: Args) -> Result<Vec<RunningServer>, Failure> {
    let each = plan.settings(&args.data, &args.listen, &args.set)?;
    let (kept, data) = (plan.clone(), args.data.clone());
    // Before anything is formatted by it: a formatting that is cut short goes on with the same.
    let keeping = task::blocking(move || keep(&FileDisk::new(), &data, &kept)).await;
    keeping.map_err(Failure::bug)??;
    for (node_id, settings) in plan.nodes().zip(&each) {
        let (cluster_id, voters) = plan.identity(node_id)?;
        let resolved = format::resolve(settings)?;
        format::format_once(&resolved, Some(cluster_id), voters, None).await?;
    }
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let net_threads = cores.div_ceil(each.len().max(1));
    let starting = each
        .into_iter()
        .map(|settings| serve::start(settings, args.cut_corrupt_logs, net_threads));
    try_join_all(starting).await
}

/// A cluster that there was not before.
async fn new_plan(brokers: u8, voting: u8) -> Result<Plan, Failure> {
    // All are held until all are known, so that they differ.
    let mut held = Vec::new();
    let mut voters = Vec::new();
    for _ in 0..voting {
        let (listener, port) = quorum_port().await?;
        voters.push(Voter {
            port,
            directory_id: format::random_uuid().to_string(),
        });
        held.push(listener);
    }
    Ok(Plan {
        cluster_id: format::random_uuid().to_string(),
        brokers,
        voters,
    })
}

/// A port for a quorum, that nobody else listens on. It is kept with the data, so it is none of
/// those that the system gives to outgoing connections: it would be taken at some later start.
async fn quorum_port() -> Result<(net::Listener, u16), Failure> {
    let mut tries = 0..200;
    loop {
        let port = random::below(u64::from(QUORUM_PORTS.end - QUORUM_PORTS.start));
        let port = QUORUM_PORTS.start + u16::try_from(port).map_err(Failure::bug)?;
        match net::listen(&format!("127.0.0.1:{port}")).await {
            Ok(listener) => return Ok((listener, port)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries.next().is_some() => {}
            Err(error) => {
                let what = format!("no free port for the quorum: {error}");
                return Err(Failure::finding(what));
            }
        }
    }
}

/// What the data directory holds. Blocks.
fn find(disk: &dyn Disk, data: &Path) -> Result<Found, Failure> {
    let (plan, single) = (data.join(FILE_NAME), data.join("meta.properties"));
    let path = plan.display().to_string();
    let failed = |error| Failure::file(&path, &error);
    if disk.exists(&plan).map_err(failed)? {
        let bytes = read_file(disk, &plan, MOST_BYTES).map_err(failed)?;
        let plan: Plan = serde_json::from_slice(&bytes)
            .map_err(|error| Failure::finding(format!("{path}: {error}")))?;
        let sound = (2..=MOST_BROKERS).contains(&plan.brokers)
            && (1..=usize::from(plan.brokers)).contains(&plan.voters.len());
        return match sound {
            true => Ok(Found::Cluster(plan)),
            false => Err(Failure::finding(format!(
                "{path} does not describe a cluster of `tidemark dev`"
            ))),
        };
    }
    match disk.exists(&single).map_err(failed)? {
        true => Ok(Found::Single),
        false => Ok(Found::Nothing),
    }
}

/// Notes the cluster in its data directory. Blocks.
fn keep(disk: &dyn Disk, data: &Path, plan: &Plan) -> Result<(), Failure> {
    let path = data.join(FILE_NAME);
    let failed = |error| Failure::file(&path.display().to_string(), &error);
    let text = serde_json::to_string_pretty(plan).map_err(Failure::bug)?;
    disk.create_dir_all(data).map_err(failed)?;
    write_file_atomic(disk, &path, text.as_bytes()).map_err(failed)
}
