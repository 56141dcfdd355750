//! `tidemark config`: settings of brokers, topics and groups.

mod set;
mod show;

use serde::Serialize;
use tidemark_client::admin::{ConfigChange, ConfigEntry, ConfigOp, ConfigResource};

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Table;

/// Show and change settings of brokers, topics and groups
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show settings
    Show(show::Args),
    /// Change settings while the cluster runs
    Set(set::Args),
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<Exit, Failure> {
    match command {
        Command::Show(args) => show::run(args, context).await,
        Command::Set(args) => set::run(args, context).await,
    }
}

/// Whose settings
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// One broker's
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,
    /// What all brokers share
    #[arg(long)]
    brokers: bool,
    /// A topic's
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// A group's
    #[arg(long, value_name = "ID")]
    group: Option<String>,
}

impl Whose {
    fn resource(&self) -> ConfigResource {
        if let Some(id) = self.broker {
            ConfigResource::Broker(id)
        } else if let Some(name) = &self.topic {
            ConfigResource::Topic(name.clone())
        } else if let Some(id) = &self.group {
            ConfigResource::Group(id.clone())
        } else {
            ConfigResource::BrokerDefault
        }
    }
}

/// One setting as scripts read it.
#[derive(Debug, Serialize)]
pub struct SettingReport {
    name: String,
    value: Option<String>,
    source: &'static str,
    read_only: bool,
    /// The broker keeps it but does not act on it yet.
    honoured: bool,
}

impl SettingReport {
    /// From what the broker said.
    pub fn new(entry: &ConfigEntry) -> Self {
        Self {
            name: entry.name.clone(),
            value: entry.value.clone(),
            source: entry.source.name(),
            read_only: entry.read_only,
            honoured: !is_unhonoured(entry),
        }
    }
}

/// Whether a Tidemark broker says that it keeps the setting without acting on it.
pub fn is_unhonoured(entry: &ConfigEntry) -> bool {
    entry
        .documentation
        .as_deref()
        .is_some_and(|text| text.starts_with("Not honoured yet"))
}

/// Settings for people.
pub fn settings_table(settings: &[SettingReport]) -> Table {
    let mut table = Table::new(&["SETTING", "VALUE", "FROM", "NOTE"]);
    for setting in settings {
        table.row(vec![
            setting.name.clone(),
            setting.value.clone().unwrap_or_else(|| "-".to_owned()),
            setting.source.to_owned(),
            match (setting.honoured, setting.read_only) {
                (false, _) => "kept, not honoured yet".to_owned(),
                (true, true) => "read-only".to_owned(),
                (true, false) => String::new(),
            },
        ]);
    }
    table
}

/// `--set` and `--unset` as changes.
pub fn changes(set: &[(String, String)], unset: &[String]) -> Vec<ConfigChange> {
    let set = set.iter().map(|(name, value)| ConfigChange {
        name: name.clone(),
        op: ConfigOp::Set,
        value: Some(value.clone()),
    });
    let unset = unset.iter().map(|name| ConfigChange {
        name: name.clone(),
        op: ConfigOp::Delete,
        value: None,
    });
    set.chain(unset).collect()
}
