//! The operator's way to brokers: Kafka's protocol, and their state over HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::Value;
use tidemark_client::{ClientError, Cluster, ClusterOptions, ConnectionOptions};
use tidemark_config::{ClientAuth, Pem, TlsSettings, TlsVersion};
use tidemark_crds as crds;
use tidemark_env::clock;
use tidemark_tls::Client;

use crate::cluster::authority::{Authorities, Pair};
use crate::cluster::build::{self, REPLICATION_PORT};
use crate::cluster::certificates;
use crate::context::{Context, Error};

/// How long a broker may take over an answer: a reconcile does not wait for one that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the state of a broker may be.
const STATE_BYTES: usize = 1 << 20;

/// How long a certificate of the operator is good; it is made anew after half of that.
const IDENTITY_MS: i64 = 24 * 3_600 * 1_000;

/// Who the operator is to the brokers of clusters, as long as that is good.
#[derive(Debug, Default)]
pub struct Ways(Mutex<BTreeMap<(String, String), Way>>);

#[derive(Debug, Clone)]
struct Way {
    /// Whom it was made by, and whom it trusts.
    of: (Option<Pair>, String),
    until_ms: i64,
    client: Arc<Client>,
}

impl Ways {
    fn key(cluster: &crds::Cluster) -> (String, String) {
        (cluster.namespace().unwrap_or_default(), cluster.name_any())
    }

    /// The way to a cluster with these authorities.
    ///
    /// # Errors
    /// Authorities that cannot be used.
    pub fn by(
        &self,
        cluster: &crds::Cluster,
        authorities: &Authorities,
        now_ms: i64,
    ) -> Result<Arc<Client>, Error> {
        let key = Self::key(cluster);
        // Where the Secret was lost there is only one that is to sign: brokers trust it soon.
        let next = authorities.next.as_ref().map(|(pair, _)| pair);
        let signer = authorities.current.as_ref().or(next);
        let of = (signer.cloned(), authorities.trusted());
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = ways
            .get(&key)
            .filter(|way| way.of == of && now_ms < way.until_ms)
        {
            return Ok(Arc::clone(&way.client));
        }
        let malformed = |text: String| Error::Malformed(text);
        let Some(signer) = signer else {
            return Err(malformed("the cluster has no authority".to_owned()));
        };
        let name = (&*key.1, "tidemark-operator");
        let own = signer.issue(name, &BTreeSet::new(), now_ms, IDENTITY_MS);
        let own = own.map_err(|error| malformed(error.to_string()))?.file();
        let client = Client::load(TlsSettings {
            certificate_chain: Some(Pem::Text(own.clone())),
            key: Some(Pem::Text(own)),
            trusted: Some(Pem::Text(of.1.clone())),
            client_auth: ClientAuth::None,
            versions: vec![TlsVersion::V12, TlsVersion::V13],
            verify_host_name: true,
        });
        let client = Arc::new(client.map_err(|error| malformed(error.to_string()))?);
        let way = Way {
            of,
            until_ms: now_ms + IDENTITY_MS / 2,
            client: Arc::clone(&client),
        };
        ways.insert(key, way);
        Ok(client)
    }

    fn known(&self, cluster: &crds::Cluster, now_ms: i64) -> Option<Arc<Client>> {
        let ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let way = ways.get(&Self::key(cluster))?;
        (now_ms < way.until_ms).then(|| Arc::clone(&way.client))
    }

    /// Forgets the way to a cluster: its authorities are to be read again.
    pub fn forget(&self, cluster: &crds::Cluster) {
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ways.remove(&Self::key(cluster));
    }
}

/// Who the operator is to a cluster's brokers, by the authorities that were last seen of it.
///
/// # Errors
/// Kubernetes'; a cluster without authorities.
pub async fn way(context: &Context, cluster: &crds::Cluster) -> Result<Arc<Client>, Error> {
    let now_ms = clock::now_ms();
    if let Some(way) = context.ways.known(cluster, now_ms) {
        return Ok(way);
    }
    let name = certificates::authority_name(cluster);
    let secrets: Api<Secret> = context.beside(cluster);
    let secret = secrets.get_opt(&name).await;
    let secret = secret.map_err(Error::kube(format!("reading Secret {name}")))?;
    let authorities = secret.as_ref().map(certificates::read_authorities);
    context
        .ways
        .by(cluster, &authorities.unwrap_or_default(), now_ms)
}

/// Connects to those of a cluster's brokers that are ready.
///
/// # Errors
/// Kubernetes'; when no broker answers.
pub async fn reach(context: &Context, cluster: &crds::Cluster) -> Result<Cluster, Error> {
    let way = way(context, cluster).await?;
    let bootstrap = format!("{}:{REPLICATION_PORT}", build::bootstrap_host(cluster));
    let connected = connect(&bootstrap, &way).await;
    if connected.is_err() {
        context.ways.forget(cluster);
    }
    Ok(connected?)
}

/// Connects to a cluster.
///
/// # Errors
/// When none of the addresses answers.
pub async fn connect(bootstrap: &str, way: &Arc<Client>) -> Result<Cluster, ClientError> {
    let options = ClusterOptions {
        connection: ConnectionOptions {
            tls: Some(Arc::clone(way)),
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
    let client: HttpClient<_, Empty<Bytes>> =
        HttpClient::builder(TokioExecutor::new()).build_http();
    let asked = async {
        let answer = client.get(uri).await.ok()?;
        let good = answer.status().is_success();
        let body = Limited::new(answer.into_body(), STATE_BYTES);
        Some((good, body.collect().await.ok()?.to_bytes()))
    };
    clock::timeout(Duration::from_secs(2), asked).await.ok()?
}
