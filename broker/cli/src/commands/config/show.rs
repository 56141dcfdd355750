//! `tidemark config show`.

use tidemark_client::admin::ConfigSource;

use super::{SettingReport, Whose, settings_table};
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Show settings
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    whose: Whose,
    /// Only settings whose name contains this
    filter: Option<String>,
    /// Show those that nobody set, too
    #[arg(long, short = 'a')]
    all: bool,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let entries = cluster.describe_configs(&args.whose.resource()).await?;
    let all = args.all || args.filter.is_some();
    let settings: Vec<SettingReport> = entries
        .iter()
        .filter(|entry| all || entry.source != ConfigSource::Default)
        .filter(|entry| {
            args.filter
                .as_deref()
                .is_none_or(|text| entry.name.contains(text))
        })
        .map(SettingReport::new)
        .collect();
    context.out.show(&settings, |out| {
        if settings.is_empty() {
            return out.line("Nothing is set. Add --all to see the defaults.");
        }
        out.table(&settings_table(&settings))
    })?;
    Ok(Exit::Ok)
}
