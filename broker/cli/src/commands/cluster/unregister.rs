//! `tidemark cluster unregister`.

use serde::Serialize;
use tidemark_wire::ErrorCode;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Take a broker that is stopped and empty out of the cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker
    broker: i32,
}

#[derive(Debug, Serialize)]
struct Report {
    unregistered: i32,
}

/// Runs the command.
pub async fn run(args: &Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let broker = args.broker;
    cluster.unregister_broker(broker).await.map_err(|error| {
        let next = match error.code() {
            Some(ErrorCode::BrokerIdNotRegistered) => "tidemark cluster describe".to_owned(),
            _ => format!("tidemark cluster drain {broker}"),
        };
        Failure::from(error).or_next(|| next)
    })?;
    let report = Report {
        unregistered: broker,
    };
    context.out.show(&report, |out| {
        out.line(&format!("Broker {broker} belongs to the cluster no more."))
    })?;
    Ok(Exit::Ok)
}
