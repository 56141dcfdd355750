//! The loops: one for each kind, until the process is told to stop.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join3;
use http::Request;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::client::{Body, ClientBuilder};
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tidemark_crds::{Cluster, ConsumerGroup, Topic};
use tidemark_env::clock;
use tower::BoxError;
use tower::filter::FilterLayer;
use tower::timeout::TimeoutLayer;

use crate::cluster::build::CLUSTER;
use crate::context::{Context, Error, failed};
use crate::lease::{Leadership, Lease};
use crate::metrics::{self, Metrics};
use crate::watched::Watched;
use crate::{cluster, group, topic};

/// How an operator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace that it looks after; all where there is none.
    pub namespace: Option<String>,
    /// How this operator is told from others that wait for its place.
    pub name: String,
    /// The image of brokers where a Cluster does not say.
    pub image: String,
    /// Where metrics are served, `host:port`.
    pub http_listen: String,
}

/// Runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// When Kubernetes cannot be reached at all.
pub async fn run(options: Options) -> Result<(), Error> {
    let leadership = Leadership::default();
    let config = Config::infer()
        .await
        .map_err(|error| Error::kube("finding Kubernetes")(kube::Error::InferConfig(error)))?;
    let connecting = || Error::kube("connecting to Kubernetes");
    let unguarded = Client::try_from(config.clone()).map_err(connecting())?;
    let client = guarded(config, leadership.clone()).map_err(connecting())?;
    let home = unguarded.default_namespace().to_owned();
    let metrics = Arc::new(Metrics::default());
    let serving = metrics::serve(
        &options.http_listen,
        Arc::clone(&metrics),
        leadership.clone(),
    );
    let mut serving = std::pin::pin!(serving);
    let address = &options.http_listen;
    let unserved = |served: std::io::Result<()>| match served {
        Ok(()) => Error::Malformed(format!("metrics are no longer served on {address}")),
        Err(error) => Error::Malformed(format!("metrics on {address}: {error}")),
    };
    let mut lease = Lease::new(unguarded.clone(), &home, &options.name, leadership);
    let version = unguarded
        .apiserver_version()
        .await
        .map_err(Error::kube("asking Kubernetes for its version"))?;
    tracing::info!(
        kubernetes = version.git_version,
        namespace = options.namespace.as_deref().unwrap_or("all"),
        image = options.image,
        "the operator runs"
    );
    let mut stopped = std::pin::pin!(stop_signal()?);
    tokio::select! {
        () = lease.acquire() => {}
        () = &mut stopped => return Ok(()),
        served = &mut serving => return Err(unserved(served)),
    }
    let namespace = options.namespace.as_deref();
    let pods = watcher::Config::default().labels(CLUSTER);
    let clusters = controller_of::<Cluster>(&client, namespace)
        .owns(api::<StatefulSet>(&client, namespace), pods.clone())
        .watches(api::<Pod>(&client, namespace), pods, |pod| {
            let cluster = pod.labels().get(CLUSTER)?;
            let namespace = pod.namespace()?;
            Some(ObjectRef::new(cluster).within(&namespace))
        });
    let topics = controller_of::<Topic>(&client, namespace);
    let groups = controller_of::<ConsumerGroup>(&client, namespace);
    let context = Arc::new(Context::new(
        client.clone(),
        options.image.clone(),
        clusters.store(),
        topics.store(),
        metrics,
    ));
    let all = join3(
        drive(clusters, cluster::reconcile, Arc::clone(&context)),
        drive(topics, topic::reconcile, Arc::clone(&context)),
        drive(groups, group::reconcile, context),
    );
    tokio::select! {
        // They end by the same signal, and with what they were doing.
        _ = all => {
            lease.release().await;
            Ok(())
        }
        error = lease.keep() => Err(error),
        served = &mut serving => Err(unserved(served)),
    }
}

/// How many objects of a kind are looked at at once: all of them at the start would ask for more
/// memory than anything later.
const AT_ONCE: u16 = 32;
/// How long a request to Kubernetes may take: it is over before another operator can lead.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that asks nothing of Kubernetes while this operator does not lead.
fn guarded(config: Config, leadership: Leadership) -> Result<Client, kube::Error> {
    // Until an answer begins: what is watched goes on after that.
    let in_time = TimeoutLayer::new(REQUEST_TIMEOUT);
    let leads = FilterLayer::new(move |request: Request<Body>| match leadership.holds() {
        true => Ok(request),
        false => Err(BoxError::from("this operator does not lead any more")),
    });
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&in_time).with_layer(&leads).build())
}

/// Ends with SIGTERM or Ctrl-C.
fn stop_signal() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let listening = signal(kind);
        signals.push(listening.map_err(|error| Error::Malformed(format!("signals: {error}")))?);
    }
    Ok(async move {
        let waiting = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        drop(futures_util::future::select_all(waiting).await);
    })
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn controller_of<K>(client: &Client, namespace: Option<&str>) -> Controller<Watched<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<Watched<K>> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    Controller::new(api, watcher::Config::default())
        .with_config(controller::Config::default().concurrency(AT_ONCE))
        .shutdown_on_signal()
}

async fn drive<K, F>(
    controller: Controller<Watched<K>>,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
    context: Arc<Context>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
    (): Eq + Hash,
{
    let one = move |object: Arc<Watched<K>>, context: Arc<Context>| async move {
        let (began, metrics) = (clock::monotonic(), Arc::clone(&context.metrics));
        match &object.0 {
            Ok(object) => {
                let done = reconcile(Arc::new(object.clone()), context).await;
                metrics.reconciled(&K::kind(&()), began.elapsed(), done.is_ok());
                done
            }
            Err(invalid) => {
                tracing::warn!(kind = %K::kind(&()), name = object.name_any(), error = %invalid.error, "an object cannot be read");
                Ok(Action::await_change())
            }
        }
    };
    controller
        .run(one, failed, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "reconcile");
            }
        })
        .await;
}
