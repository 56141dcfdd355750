//! `tidemark operator`: looks after clusters, topics and groups on Kubernetes.

use tidemark_operator::Options;

use crate::failure::{Exit, Failure};

/// Look after Tidemark on Kubernetes: Cluster, Topic and ConsumerGroup resources
///
/// Speaks to the Kubernetes that it runs in, or to that of KUBECONFIG. SIGTERM and Ctrl-C stop it;
/// brokers go on without it. Logs go to standard error, one JSON object per line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Look after this namespace only; all where it is not given
    #[arg(long, env = "TIDEMARK_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How this operator is told from others, of which one acts at a time
    #[arg(
        long,
        env = "HOSTNAME",
        default_value = "operator",
        value_name = "NAME"
    )]
    pub name: String,
    /// The image of brokers where a Cluster does not say
    #[arg(long, env = "TIDEMARK_IMAGE", value_name = "IMAGE")]
    pub image: String,
    /// Where metrics are served
    #[arg(
        long,
        env = "TIDEMARK_HTTP_LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "HOST:PORT"
    )]
    pub http_listen: String,
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Failure> {
    let options = Options {
        namespace: args.namespace.filter(|namespace| !namespace.is_empty()),
        image: args.image,
        name: args.name,
        http_listen: args.http_listen,
    };
    let failed = |error: tidemark_operator::Error| Failure::finding(error.to_string());
    tidemark_operator::run(options).await.map_err(failed)?;
    Ok(Exit::Ok)
}
