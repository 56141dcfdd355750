//! `tidemark cluster disrupt`.

use serde::Serialize;
use tidemark_client::admin::Disruption;
use tidemark_wire::{ErrorCode, Uuid};

use crate::commands::format::random_uuid;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::when::{format_moment, parse_duration};

/// Partitions that are named, where many hinder.
const NAMED: usize = 5;

/// Ask for leave to stop a broker for a while
///
/// It is granted while every partition that the broker holds keeps enough in sync for acks=all
/// without it, and without all others that there is leave to stop: whoever asks before each
/// restart, and waits for /readyz after it, takes nothing down.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The broker
    broker: i32,
    /// When it will be back, at the latest
    #[arg(long = "for", default_value = "10m", value_parser = parse_duration, value_name = "DURATION")]
    ttl_ms: i64,
    /// Who asks: again for more time, or to give the leave back
    #[arg(long)]
    token: Option<Uuid>,
    /// Give the leave back: the broker is there again
    #[arg(long, requires = "token")]
    end: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    broker: i32,
    granted: bool,
    token: String,
    until_ms: Option<i64>,
    /// Some of the partitions that would have too few in sync.
    hindered_by: Vec<String>,
}

/// Runs the command.
pub async fn run(args: &Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let (broker, token) = (args.broker, args.token.unwrap_or_else(random_uuid));
    let mut report = Report {
        broker,
        granted: false,
        token: token.to_string(),
        until_ms: None,
        hindered_by: Vec::new(),
    };
    if args.end {
        cluster.end_disruption(broker, token).await?;
        context.out.show(&report, |out| {
            out.line(&format!(
                "Nobody has leave to stop broker {broker} by this token any more."
            ))
        })?;
        return Ok(Exit::Ok);
    }
    let asked = cluster.begin_disruption(broker, token, args.ttl_ms).await;
    let asked = asked.map_err(|error| {
        let unknown = error.code() == Some(ErrorCode::BrokerIdNotRegistered);
        Failure::from(error).or_next(|| match unknown {
            true => "tidemark cluster describe".to_owned(),
            false => format!("tidemark cluster disrupt {broker}   again, in a while"),
        })
    })?;
    let exit = match asked {
        Disruption::Granted { until_ms } => {
            (report.granted, report.until_ms) = (true, Some(until_ms));
            Exit::Ok
        }
        Disruption::Hindered(partitions) => {
            report.hindered_by = partitions.iter().map(ToString::to_string).collect();
            Exit::Finding
        }
    };
    context.out.show(&report, |out| match report.until_ms {
        Some(until_ms) => {
            let until = format_moment(until_ms);
            out.line(&format!("Broker {broker} may be stopped, until {until}."))?;
            out.line(&format!(
                "next: tidemark cluster disrupt {broker} --end --token {token}   when it is back"
            ))
        }
        None => {
            let first = report.hindered_by.iter().take(NAMED).cloned();
            let first: Vec<String> = first.collect();
            out.line(&format!(
                "Broker {broker} may not be stopped now: {} would have fewer in sync than acks=all needs.",
                first.join(", ")
            ))?;
            out.line("next: tidemark cluster describe   says what is not in sync")
        }
    })?;
    Ok(exit)
}
