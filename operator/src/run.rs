//! The loops: one for each kind, until the process is told to stop.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join3;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tidemark_crds::{Cluster, ConsumerGroup, Topic};

use crate::cluster::build::CLUSTER;
use crate::context::{Context, Error, failed};
use crate::{cluster, group, topic};

/// How an operator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace that it looks after; all where there is none.
    pub namespace: Option<String>,
    /// The image of brokers where a Cluster does not say.
    pub image: String,
}

/// Runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// When Kubernetes cannot be reached at all.
pub async fn run(options: Options) -> Result<(), Error> {
    let client = Client::try_default()
        .await
        .map_err(Error::kube("connecting to Kubernetes"))?;
    let version = client
        .apiserver_version()
        .await
        .map_err(Error::kube("asking Kubernetes for its version"))?;
    tracing::info!(
        kubernetes = version.git_version,
        namespace = options.namespace.as_deref().unwrap_or("all"),
        image = options.image,
        "the operator runs"
    );
    let context = Arc::new(Context::new(client.clone(), options.image.clone()));
    let namespace = options.namespace.as_deref();
    let pods = watcher::Config::default().labels(CLUSTER);
    let clusters = controller::<Cluster>(&client, namespace)
        .owns(api::<StatefulSet>(&client, namespace), pods.clone())
        .watches(api::<Pod>(&client, namespace), pods, |pod| {
            let cluster = pod.labels().get(CLUSTER)?;
            let namespace = pod.namespace()?;
            Some(ObjectRef::new(cluster).within(&namespace))
        });
    join3(
        drive(clusters, cluster::reconcile, Arc::clone(&context)),
        drive(
            controller::<Topic>(&client, namespace),
            topic::reconcile,
            Arc::clone(&context),
        ),
        drive(
            controller::<ConsumerGroup>(&client, namespace),
            group::reconcile,
            context,
        ),
    )
    .await;
    Ok(())
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

/// An object that cannot be read is passed over: it must not stop all the others.
type Guarded<K> = DeserializeGuard<K>;

fn controller<K>(client: &Client, namespace: Option<&str>) -> Controller<Guarded<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let api: Api<Guarded<K>> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    Controller::new(api, watcher::Config::default()).shutdown_on_signal()
}

async fn drive<K, F>(
    controller: Controller<Guarded<K>>,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
    context: Arc<Context>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
    (): Eq + Hash,
{
    let one = move |object: Arc<Guarded<K>>, context: Arc<Context>| async move {
        match &object.0 {
            Ok(object) => reconcile(Arc::new(object.clone()), context).await,
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
