//! `tidemark dev`: a ready broker on this machine.

use std::path::PathBuf;

use tidemark_config::ConfigMap;

use super::serve;
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};

/// Run a broker on this machine for development
///
/// Prints `ready` with its address once it serves, and what to type next. Ctrl-C stops it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 picks a free one
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

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let mut settings = ConfigMap::from([
        (
            "listeners".to_owned(),
            format!("PLAINTEXT://{}", args.listen),
        ),
        ("log.dirs".to_owned(), args.data.display().to_string()),
        // Several development brokers may run side by side.
        ("http.listen".to_owned(), "127.0.0.1:0".to_owned()),
        // Nobody wants to wait for members that do not come.
        (
            "group.initial.rebalance.delay.ms".to_owned(),
            "0".to_owned(),
        ),
    ]);
    settings.extend(args.set);
    let server = serve::start(settings, args.cut_corrupt_logs).await?;
    let signals = serve::StopSignals::take()?;
    let bootstrap = server.bootstrap().to_owned();
    context.out.line(&serve::greeting(&server))?;
    if let Some(http) = server.http() {
        context
            .out
            .line(&format!("       http://{http}/ has health and metrics"))?;
    }
    let flag = if bootstrap == "127.0.0.1:9092" {
        String::new()
    } else {
        format!(" --bootstrap {bootstrap}")
    };
    context.out.line(&format!(
        "next:  echo hello | tidemark{flag} produce greetings --create"
    ))?;
    context
        .out
        .line(&format!("       tidemark{flag} consume greetings"))?;
    context.out.flush()?;
    serve::until_signal(server, signals).await
}
