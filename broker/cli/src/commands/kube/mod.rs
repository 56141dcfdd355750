//! `tidemark kube`, which is `kubectl tidemark` where the binary is called kubectl-tidemark: looks
//! at clusters on Kubernetes, and asks their operator for things.
//!
//! What it does there it does through kubectl: contexts, credentials and rights are those of whoever
//! types it. Only `release` speaks to the API server itself: it runs in a pod, where there is no kubectl.

mod doctor;
mod gather;
mod kubectl;
mod metrics;
mod plan;
mod status;

use tidemark_crds::Cluster;

pub use self::doctor::run as doctor;
use self::kubectl::Kubectl;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::plural;

/// Look at Tidemark on Kubernetes, and ask its operator for things
///
/// Through kubectl (or KUBECTL), with its contexts and rights. `kubectl tidemark` is the same where
/// this binary is on the path as kubectl-tidemark.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which Kubernetes, and where in it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Place {
    /// The namespace; that of the context where it is not given
    #[arg(long, short = 'n', global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub context: Option<String>,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show clusters, or one with its brokers, topics and groups (exit code 1 when it is not well)
    Status {
        /// The Cluster; all where it is not given
        cluster: Option<String>,
    },
    /// Show what a pending change will restart, and what waits for approval
    Plan {
        /// The Cluster
        cluster: String,
    },
    /// Let a plan be carried out
    Approve {
        /// The Cluster, or the Topic with --topic
        name: String,
        /// The plan, as `plan` shows it: another one is not approved by it
        plan: String,
        /// NAME is a Topic, whose pending changes delete records
        #[arg(long)]
        topic: bool,
    },
    /// Have all brokers restarted, one by one, when it is safe
    Restart {
        /// The Cluster
        cluster: String,
    },
    /// Move everything off a broker (shows the plan; --execute does it)
    Drain {
        /// The Cluster
        cluster: String,
        /// The broker
        broker: i32,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
    /// Show what brokers log
    Logs {
        /// The Cluster
        cluster: String,
        /// Of this broker; of all where it is not given
        #[arg(long, value_name = "ID")]
        broker: Option<i32>,
        /// Go on with what comes
        #[arg(long, short = 'f')]
        follow: bool,
        /// So many lines of each
        #[arg(long, default_value_t = 200, value_name = "LINES")]
        tail: u32,
    },
    /// Run a tidemark command beside a broker: run orders -- topic list
    Run {
        /// The Cluster
        cluster: String,
        /// The command, without `tidemark`
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Write all that helps to find out what is wrong into a directory: resources, logs, metrics; no secrets, no records
    Gather {
        /// The Cluster
        cluster: String,
        /// Where to; it must not be there
        #[arg(long, value_name = "DIR")]
        to: Option<std::path::PathBuf>,
    },
    /// Take the operator's finalizer from all Topics: for after it was uninstalled
    Release {
        /// In all namespaces
        #[arg(long)]
        all_namespaces: bool,
        /// First wait until no pod has these labels: an operator that runs puts its finalizer back
        #[arg(long, value_name = "LABELS", requires = "after_namespace")]
        after: Option<String>,
        /// Where those pods are
        #[arg(long, value_name = "NAMESPACE")]
        after_namespace: Option<String>,
    },
}

/// The name under which kubectl finds a plugin called `tidemark`.
const PLUGIN: &str = "kubectl-tidemark";

/// Whether this process was called as a plugin of kubectl.
pub fn is_plugin(program: Option<&std::ffi::OsStr>) -> bool {
    let name = program
        .map(std::path::Path::new)
        .and_then(|path| path.file_name());
    name.and_then(|name| name.to_str())
        .is_some_and(|name| name == PLUGIN || name == "kubectl_tidemark")
}

/// A command of this module as it is to be typed next.
fn typed(place: &Place, command: &str) -> String {
    let plugin = is_plugin(std::env::args_os().next().as_deref());
    let name = if plugin {
        "kubectl tidemark"
    } else {
        "tidemark kube"
    };
    let mut line = name.to_owned();
    if let Some(namespace) = &place.namespace {
        line.push_str(&format!(" -n {namespace}"));
    }
    if let Some(context) = &place.context {
        line.push_str(&format!(" --context {context}"));
    }
    // Last: it may end in a command that has options of its own.
    format!("{line} {command}")
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let place = args.place;
    let kubectl = Kubectl::new(&place);
    match args.command {
        Command::Status { cluster: None } => status::all(&kubectl, context).await,
        Command::Status {
            cluster: Some(name),
        } => status::one(&kubectl, &place, &name, context).await,
        Command::Plan { cluster } => plan::show(&kubectl, &place, &cluster, context).await,
        Command::Approve {
            name,
            plan,
            topic: false,
        } => plan::approve(&kubectl, &place, &name, &plan, context).await,
        Command::Approve {
            name,
            plan,
            topic: true,
        } => plan::approve_topic(&kubectl, &name, &plan, context).await,
        Command::Restart { cluster } => plan::restart(&kubectl, &place, &cluster, context).await,
        Command::Drain {
            cluster,
            broker,
            execute,
        } => {
            let broker = broker.to_string();
            let mut command = vec!["cluster", "drain", broker.as_str()];
            command.extend(execute.then_some("--execute"));
            let command = command.into_iter().map(str::to_owned).collect::<Vec<_>>();
            beside(&kubectl, &place, &cluster, &command, context).await
        }
        Command::Run { cluster, command } => {
            beside(&kubectl, &place, &cluster, &command, context).await
        }
        Command::Logs {
            cluster,
            broker,
            follow,
            tail,
        } => {
            let mut labels = format!("{CLUSTER_LABEL}={cluster}");
            if let Some(broker) = broker {
                labels.push_str(&format!(",{BROKER_LABEL}={broker}"));
            }
            let tail = format!("--tail={tail}");
            let mut line = vec![
                "logs",
                "-l",
                &labels,
                "-c",
                "broker",
                "--prefix",
                &tail,
                "--max-log-requests=100",
            ];
            line.extend(follow.then_some("-f"));
            kubectl.hand_over(&line).await
        }
        Command::Gather { cluster, to } => {
            gather::run(&kubectl, &place, &cluster, to, context).await
        }
        Command::Release {
            all_namespaces,
            after,
            after_namespace,
        } => {
            let after = after.as_deref().zip(after_namespace.as_deref());
            if all_namespaces == place.namespace.is_some() {
                return Err(Failure::usage(
                    "say where: either --namespace NAMESPACE or --all-namespaces",
                ));
            }
            let failed = |error: tidemark_operator::Error| Failure::finding(error.to_string());
            let released = tidemark_operator::release::run(place.namespace.as_deref(), after)
                .await
                .map_err(failed)?;
            context
                .out
                .line(&format!("Released {}.", plural(released as i64, "topic")))?;
            Ok(Exit::Ok)
        }
    }
}

/// The label of what belongs to a cluster.
const CLUSTER_LABEL: &str = "tidemark.dev/cluster";
/// The label of what belongs to a broker.
const BROKER_LABEL: &str = "tidemark.dev/broker-id";

/// Reads a Cluster.
async fn cluster(kubectl: &Kubectl, place: &Place, name: &str) -> Result<Cluster, Failure> {
    let failed = |failure: Failure| match failure.message.contains("NotFound") {
        true => failure.next(typed(place, "status")),
        false => failure,
    };
    kubectl
        .get(&["cluster.tidemark.dev", name])
        .await
        .map_err(failed)
}

/// A pod of the cluster whose broker serves.
async fn pod(kubectl: &Kubectl, place: &Place, name: &str) -> Result<String, Failure> {
    let cluster = cluster(kubectl, place, name).await?;
    let brokers = cluster.status.unwrap_or_default().brokers;
    let ready = brokers.iter().find(|broker| broker.state == "Ready");
    let ready = ready.ok_or_else(|| {
        Failure::finding(format!("no broker of {name} is ready"))
            .next(typed(place, &format!("status {name}")))
    })?;
    Ok(pod_name(name, ready.id))
}

/// As the operator names the pod of a broker.
fn pod_name(cluster: &str, broker: i32) -> String {
    format!("{cluster}-{broker}-0")
}

/// Runs a tidemark command in a broker's pod, with our standard input and output.
async fn beside(
    kubectl: &Kubectl,
    place: &Place,
    cluster: &str,
    command: &[String],
    context: &Context,
) -> Result<Exit, Failure> {
    let pod = pod(kubectl, place, cluster).await?;
    let mut line = vec!["exec", "-i", &pod, "-c", "broker", "--", "tidemark"];
    if context.out.is_json() {
        line.extend(["-o", "json"]);
    }
    line.extend(command.iter().map(String::as_str));
    kubectl.hand_over(&line).await
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_plugin_is_known_by_its_name() {
        for (name, is) in [
            ("/usr/local/bin/kubectl-tidemark", true),
            ("kubectl-tidemark", true),
            ("tidemark", false),
            ("/kubectl-tidemark/tidemark", false),
        ] {
            assert_eq!(is_plugin(Some(OsStr::new(name))), is, "{name}");
        }
        assert!(!is_plugin(None));
    }

    #[test]
    fn what_is_typed_next_goes_to_the_same_place() {
        let place = Place {
            namespace: Some("shop".into()),
            context: None,
        };
        assert_eq!(
            typed(&place, "plan orders"),
            "tidemark kube -n shop plan orders"
        );
    }
}
