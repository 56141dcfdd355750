//! `tidemark broker`: a broker in the foreground.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tidemark_config::ConfigMap;
use tidemark_env::{clock, task};
use tidemark_server::RunningServer;

use super::{format, serve};
use crate::context::{Context, parse_setting};
use crate::failure::{Exit, Failure};

/// The setting of the file that is followed while the broker runs.
const ADVERTISED: &str = "advertised.listeners";
/// How often the file is looked at.
const REREAD: Duration = Duration::from_secs(5);

/// Run a broker in the foreground
///
/// Its directories are formatted once before, by `tidemark format`. SIGTERM and Ctrl-C stop it
/// cleanly. Other advertised.listeners in the file are taken while it runs. Logs go to standard error, one JSON object per line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration, a YAML file with a `config:` map of settings by Kafka's names, or a
    /// .properties file as Kafka's
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A setting that goes before the file's, by Kafka's name
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// Cut logs at damage in acknowledged records instead of leaving their partitions offline; loses what follows it
    #[arg(long)]
    pub cut_corrupt_logs: bool,
}

/// The configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    config: std::collections::BTreeMap<String, Scalar>,
}

/// A setting as people write it: `9092`, `true`, `0.5` or text.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<String>),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(value) => value,
            Self::List(items) => items.join(","),
        }
    }
}

fn parse(path: &str, text: &str) -> Result<ConfigMap, Failure> {
    let file: File = serde_norway::from_str(text).map_err(|error| {
        Failure::usage(format!(
            "{path}: {error}. The file is YAML with one map, `config:`, of settings by Kafka's names"
        ))
    })?;
    Ok(file
        .config
        .into_iter()
        .map(|(name, value)| (name, value.text()))
        .collect())
}

/// Reads Java properties as Kafka's `server.properties` has them; of a name that is there twice
/// the last counts.
fn parse_properties(path: &str, text: &str) -> Result<ConfigMap, Failure> {
    let mut settings = ConfigMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            line.push_str(lines.next().unwrap_or_default().trim());
        }
        let (name, value) = line
            .split_once(['=', ':'])
            .ok_or_else(|| Failure::usage(format!("{path}: '{line}' is not written name=value")))?;
        settings.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    Ok(settings)
}

/// The settings in a configuration file: YAML, or Java properties where its name says so.
pub fn read_settings(file: &Path) -> Result<ConfigMap, Failure> {
    read(file, |extension| extension != "properties")
}

/// The settings in a client's file: Java properties, or YAML where its name says so.
pub fn read_client_settings(file: &Path) -> Result<ConfigMap, Failure> {
    read(file, |extension| matches!(extension, "yaml" | "yml"))
}

fn read(file: &Path, is_yaml: impl Fn(&str) -> bool) -> Result<ConfigMap, Failure> {
    let path = file.display().to_string();
    let text = crate::input::read_text(file).map_err(|error| Failure::file(&path, &error))?;
    let extension = file.extension().and_then(|e| e.to_str());
    match is_yaml(extension.unwrap_or_default()) {
        true => parse(&path, &text),
        false => parse_properties(&path, &text),
    }
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let mut settings = read_settings(&args.config)?;
    settings.extend(args.set.iter().cloned());
    let resolved = format::resolve(&settings)?;
    format::require_formatted(&args.config, &args.set, &resolved).await?;
    let servers = vec![serve::start(settings, args.cut_corrupt_logs, 0).await?];
    let signals = serve::StopSignals::take()?;
    context.out.line(&serve::greeting(&servers))?;
    context.out.flush()?;
    tokio::select! {
        stopped = serve::stopped_by(&servers, signals) => stopped?,
        never = follow_addresses(&servers, &args) => match never {},
    }
    serve::shutdown(servers).await;
    Ok(Exit::Ok)
}

/// Looks every few seconds whether the file gives other `advertised.listeners`, and has the broker
/// reached there: an address that a load balancer gets late restarts nobody.
async fn follow_addresses(servers: &[RunningServer], args: &Args) -> Infallible {
    let mut seen: Option<String> = None;
    loop {
        clock::sleep(REREAD).await;
        let path = args.config.clone();
        let read = task::blocking(move || read_settings(&path)).await;
        let mut settings = match read {
            Ok(Ok(settings)) => settings,
            // It is being written, or is gone: what was read of it before goes on.
            Ok(Err(_)) | Err(_) => continue,
        };
        settings.extend(args.set.iter().cloned());
        let addresses = settings.get(ADVERTISED).cloned().unwrap_or_default();
        if seen.as_ref() == Some(&addresses) {
            continue;
        }
        for server in servers {
            match server.advertise(&settings).await {
                Ok(false) => {}
                Ok(true) => tracing::info!(addresses, "this broker is reached elsewhere now"),
                Err(error) => {
                    tracing::warn!(%error, addresses, "this broker is reached as before");
                }
            }
        }
        seen = Some(addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_as_people_write_them() {
        let settings = parse(
            "f",
            "config:\n  node.id: 1\n  auto.create.topics.enable: false\n  log.dirs: [a, b]\n",
        );
        let settings = settings.expect("a good file");
        assert_eq!(settings["node.id"], "1");
        assert_eq!(settings["auto.create.topics.enable"], "false");
        assert_eq!(settings["log.dirs"], "a,b");
    }

    #[test]
    fn a_servers_properties_are_read_as_kafka_reads_them() {
        let text = "# a broker\n\nnode.id = 1\nlisteners=PLAINTEXT://:9092,\\\n  CONTROLLER://:9093\n\
                    log.dirs:/a\nnode.id=2\n! end";
        let settings = parse_properties("f.properties", text).expect("a good file");
        assert_eq!(settings["node.id"], "2");
        assert_eq!(
            settings["listeners"],
            "PLAINTEXT://:9092,CONTROLLER://:9093"
        );
        assert_eq!(settings["log.dirs"], "/a");
        assert_eq!(settings.len(), 3);
        let error = parse_properties("f.properties", "node.id").expect_err("no value");
        assert!(error.message.contains("node.id"), "{}", error.message);
    }

    #[test]
    fn a_file_of_another_shape_says_what_is_expected() {
        let error = parse("f.yaml", "listeners: x\n").expect_err("no such field");
        assert_eq!(error.exit as i32, 2);
        assert!(error.message.contains("config:"), "{}", error.message);
    }
}
