//! `tidemark cluster cordon` and `uncordon` (KIP-1066).

use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Keep new replicas off a broker, or let them come again
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker
    broker: i32,
}

#[derive(Debug, Serialize)]
struct Report {
    broker: i32,
    cordoned: bool,
}

/// Runs the command.
pub async fn run(args: &Args, cordoned: bool, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let broker = args.broker;
    super::plan::known_broker(&cluster, broker).await?;
    cluster.cordon(broker, cordoned).await?;
    context.out.show(&Report { broker, cordoned }, |out| {
        out.line(&match cordoned {
            true => format!(
                "Broker {broker} gets no new replicas. To move away what it has: tidemark cluster drain {broker}"
            ),
            false => format!("Broker {broker} may have new replicas again."),
        })
    })?;
    Ok(Exit::Ok)
}
