//! The operator's way to brokers: Kafka's protocol, and their state over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tidemark_client::{ClientError, Cluster, ClusterOptions, ConnectionOptions};
use tidemark_env::clock;

/// How long a broker may take over an answer: a reconcile does not wait for one that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the state of a broker may be.
const STATE_BYTES: usize = 1 << 20;

/// Connects to a cluster.
///
/// # Errors
/// When none of the addresses answers.
pub async fn connect(bootstrap: &str) -> Result<Cluster, ClientError> {
    let options = ClusterOptions {
        connection: ConnectionOptions {
            client_id: "tidemark-operator".to_owned(),
            connect_timeout: Duration::from_secs(2),
            request_timeout: PATIENCE,
            ..ConnectionOptions::default()
        },
        retry_for: Duration::from_secs(2),
        ..ClusterOptions::default()
    };
    Cluster::connect(bootstrap, options).await
}

/// What a broker says of itself under `/state`, and why it is not ready, if it is not; `None` when
/// it does not answer.
pub async fn state(host: &str, port: u16) -> Option<(Value, Option<String>)> {
    let state = get(host, port, "/state").await?;
    let state = serde_json::from_slice(&state.1).ok()?;
    let (ready, why) = get(host, port, "/readyz").await?;
    let why = (!ready).then(|| String::from_utf8_lossy(&why).trim().to_owned());
    Some((state, why))
}

/// Whether the answer is a good one, and its body.
async fn get(host: &str, port: u16, path: &str) -> Option<(bool, Bytes)> {
    let uri = format!("http://{host}:{port}{path}").parse().ok()?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer = client.get(uri).await.ok()?;
        let good = answer.status().is_success();
        let body = Limited::new(answer.into_body(), STATE_BYTES);
        Some((good, body.collect().await.ok()?.to_bytes()))
    };
    clock::timeout(Duration::from_secs(2), asked).await.ok()?
}
