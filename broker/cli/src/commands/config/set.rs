//! `tidemark config set`.

use serde::Serialize;

use super::{Whose, changes};
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};

/// Change settings while the cluster runs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    whose: Whose,
    /// Values to give
    #[arg(value_name = "NAME=VALUE", value_parser = parse_setting, required_unless_present = "unset")]
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
    resource: String,
    set: Vec<(String, String)>,
    unset: Vec<String>,
    done: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let resource = args.whose.resource();
    cluster
        .alter_configs(&resource, &changes(&args.set, &args.unset), args.dry_run)
        .await?;
    let report = Report {
        resource: resource.to_string(),
        set: args.set,
        unset: args.unset,
        done: !args.dry_run,
    };
    context.out.show(&report, |out| {
        out.line(&match report.done {
            true => format!("Changed settings of {}.", report.resource),
            false => format!(
                "Settings of {} could be changed like that; nothing was done.",
                report.resource
            ),
        })
    })?;
    Ok(Exit::Ok)
}
