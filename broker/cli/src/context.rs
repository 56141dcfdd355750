//! What every command gets: the cluster to speak to and the place to write to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemark_client::{Cluster, ClusterInfo, ClusterOptions, ConnectionOptions, TopicInfo, Topics};

use crate::commands::broker::read_client_settings;
use crate::failure::Failure;
use crate::output::Out;
use crate::suggest::closest;
use crate::when::parse_duration;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// `host:port,…` to begin with.
    pub bootstrap: String,
    /// How long one request may take.
    pub timeout: Duration,
    /// For connections, where they speak TLS.
    pub tls: Option<Arc<tidemark_tls::Client>>,
    /// Where answers go.
    pub out: Out,
}

/// How a client is to speak to brokers, by a file of Kafka's names: `None` for PLAINTEXT. Other
/// settings in it are those of other clients, and mean nothing here.
pub fn read_client_tls(file: &Path) -> Result<Option<Arc<tidemark_tls::Client>>, Failure> {
    let settings = read_client_settings(file)?;
    let wrong = |reason: String| Failure::usage(format!("{}: {reason}", file.display()));
    match settings.get("security.protocol").map(String::as_str) {
        None | Some("PLAINTEXT") => Ok(None),
        Some("SSL") => {
            let of_client = tidemark_config::tls::of_client(&settings);
            let client = tidemark_tls::Client::load(of_client.map_err(|e| wrong(e.to_string()))?);
            Ok(Some(Arc::new(client.map_err(|e| wrong(e.to_string()))?)))
        }
        Some(other) => Err(wrong(format!(
            "security.protocol={other} is not spoken: PLAINTEXT and SSL are"
        ))),
    }
}

impl Context {
    /// The options of a client with this command's timeout.
    pub fn cluster_options(&self) -> ClusterOptions {
        ClusterOptions {
            connection: ConnectionOptions {
                client_id: "tidemark-cli".to_owned(),
                connect_timeout: self.timeout,
                request_timeout: self.timeout,
                tls: self.tls.clone(),
                ..ConnectionOptions::default()
            },
            retry_for: self.timeout,
            ..ClusterOptions::default()
        }
    }

    /// Connects to the cluster.
    pub async fn cluster(&self) -> Result<Cluster, Failure> {
        Ok(Cluster::connect(&self.bootstrap, self.cluster_options()).await?)
    }
}

/// One topic as it is now; if there is none of that name, an error that says which was meant.
pub async fn existing_topic(cluster: &Cluster, name: &str) -> Result<TopicInfo, Failure> {
    match cluster.fresh_topic(name, false).await {
        Ok(topic) => Ok(topic),
        Err(error @ tidemark_client::ClientError::UnknownTopic { .. }) => {
            let failure = Failure::from(error);
            // Only to be helpful: the error stands without it.
            match cluster.metadata(Topics::All).await {
                Ok(all) => Err(unknown_topic(failure, name, &all)),
                Err(_) => Err(failure),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn unknown_topic(mut failure: Failure, name: &str, all: &ClusterInfo) -> Failure {
    if let Some(meant) = closest(name, all.topics.keys().map(String::as_str)) {
        failure.message = format!("{}; did you mean {meant}?", failure.message);
        return failure.next(format!("tidemark topic describe {meant}"));
    }
    if all.topics.values().all(|topic| topic.internal) {
        return failure.next(format!("tidemark topic create {name}"));
    }
    failure
}

/// `name=value` as clap reads it.
pub fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!(
            "'{text}' is not name=value, such as retention.ms=604800000"
        )),
    }
}

/// A duration as clap reads it.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let ms = parse_duration(text)?;
    match u64::try_from(ms) {
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("a timeout must be longer than nothing".to_owned()),
    }
}
