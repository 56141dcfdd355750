//! What every reconcile needs, and how one fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use tidemark_client::{ClientError, Cluster as Brokers};
use tidemark_crds::common::ClusterRef;
use tidemark_crds::group::Standing;
use tidemark_crds::{Cluster, Topic};
use tidemark_env::clock;

use crate::cluster::build;
use crate::contact::{self, Ways};
use crate::metrics::Metrics;
use crate::watched::Watched;

/// How soon something that is under way is looked at again.
pub const BUSY: Duration = Duration::from_secs(2);
/// How soon something that waits is looked at again.
pub const WAITING: Duration = Duration::from_secs(5);
/// How soon something that is well is looked at again: what changes in a broker tells nobody.
pub const WELL: Duration = Duration::from_secs(30);
/// How long a way to brokers is used: after that their addresses are asked for again.
const CONTACT: Duration = Duration::from_secs(5 * 60);
/// How soon a reconcile that failed is tried again.
const FAILED: Duration = Duration::from_secs(5);

/// What every reconcile needs.
pub struct Context {
    /// The way to the API server.
    pub client: Client,
    /// The image of brokers where a Cluster does not say.
    pub image: String,
    /// Who we are in events.
    pub recorder: Recorder,
    /// Where groups were seen to stand, by namespace and name. What is forgotten is seen anew.
    pub standing: Mutex<BTreeMap<(String, String), Standing>>,
    /// All Clusters, as the watch tells.
    clusters: Store<Watched<Cluster>>,
    /// All Topics, as the watch tells.
    topics: Store<Watched<Topic>>,
    /// The ways to brokers that are open, by bootstrap address, and since when.
    contacts: Mutex<BTreeMap<String, (Brokers, clock::Instant)>>,
    /// Who we are to brokers.
    pub ways: Ways,
    /// What is told of what we do.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// For an operator whose clusters run `image` by default, and that watches these.
    #[must_use]
    pub fn new(
        client: Client,
        image: String,
        clusters: Store<Watched<Cluster>>,
        topics: Store<Watched<Topic>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reporter = Reporter {
            controller: "tidemark-operator".to_owned(),
            instance: None,
        };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            image,
            recorder,
            standing: Mutex::default(),
            clusters,
            topics,
            contacts: Mutex::default(),
            ways: Ways::default(),
            metrics,
        }
    }

    /// The objects of a kind in the namespace of another object.
    pub fn beside<K>(&self, object: &impl ResourceExt) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let namespace = object.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }

    /// The cluster that a resource names, as the watch tells; one that it does not know of is asked
    /// for.
    ///
    /// # Errors
    /// Kubernetes'.
    pub async fn cluster_of(
        &self,
        resource: &impl ResourceExt,
        named: &ClusterRef,
    ) -> Result<Option<Cluster>, Error> {
        let namespace = resource.namespace().unwrap_or_default();
        let at = ObjectRef::new(&named.name).within(&namespace);
        let known = self.clusters.get(&at);
        match known.as_ref().map(|known| &known.0) {
            Some(Ok(cluster)) => Ok(Some(cluster.clone())),
            _ => self.cluster_now(resource, named).await,
        }
    }

    /// The cluster that a resource names, read live.
    ///
    /// # Errors
    /// Kubernetes'.
    pub async fn cluster_now(
        &self,
        resource: &impl ResourceExt,
        named: &ClusterRef,
    ) -> Result<Option<Cluster>, Error> {
        let found = self.beside::<Cluster>(resource).get_opt(&named.name).await;
        found.map_err(Error::kube("reading the cluster"))
    }

    /// All Topics, as the watch tells.
    #[must_use]
    pub fn topics(&self) -> Vec<Arc<Watched<Topic>>> {
        self.topics.state()
    }

    /// The way to a cluster's brokers: thousands of topics at rest are not worth as many connections.
    ///
    /// # Errors
    /// When none of its brokers answers, and Kubernetes'.
    pub async fn brokers_of(&self, cluster: &Cluster) -> Result<Brokers, Error> {
        let bootstrap = build::bootstrap_host(cluster);
        let open = self.with_contacts(|contacts| {
            contacts.retain(|_, (_, since)| since.elapsed() < CONTACT);
            contacts.get(&bootstrap).map(|(brokers, _)| brokers.clone())
        });
        if let Some(brokers) = open {
            return Ok(brokers);
        }
        let brokers = contact::reach(self, cluster).await?;
        let one = (brokers.clone(), clock::monotonic());
        self.with_contacts(|contacts| contacts.insert(bootstrap, one));
        Ok(brokers)
    }

    /// Uses a way to brokers no more that failed.
    pub fn forget_brokers_of(&self, cluster: &Cluster) {
        self.with_contacts(|contacts| contacts.remove(&build::bootstrap_host(cluster)));
    }

    fn with_contacts<T>(
        &self,
        act: impl FnOnce(&mut BTreeMap<String, (Brokers, clock::Instant)>) -> T,
    ) -> T {
        act(&mut self.contacts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells people about an object. What is not told does not stop what is done.
    pub async fn tell<K>(&self, about: &K, warning: bool, reason: &str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_: match warning {
                true => EventType::Warning,
                false => EventType::Normal,
            },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1_000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let reference: ObjectReference = about.object_ref(&());
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::warn!(%error, reason, "an event could not be written");
        }
    }
}

/// Why a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kubernetes refused, or could not be reached.
    #[error("{what}: {source}")]
    Kube {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// The brokers refused, or could not be reached.
    #[error("{0}")]
    Brokers(#[from] ClientError),
    /// This operator does not lead, or not any more.
    #[error("this operator does not lead: {0}")]
    NotLeading(String),
    /// An object of ours is not what it should be.
    #[error("{0}")]
    Malformed(String),
}

impl Error {
    /// An error of Kubernetes, with what was being done.
    pub fn kube(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Kube {
            what,
            source: Box::new(source),
        }
    }
}

/// What is done about a reconcile that failed: it is told, and tried again.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a controller calls it with values"
)]
pub fn failed<K: ResourceExt<DynamicType = ()>>(
    object: Arc<K>,
    error: &Error,
    _: Arc<Context>,
) -> Action {
    tracing::warn!(
        kind = %K::kind(&()),
        namespace = object.namespace().unwrap_or_default(),
        name = object.name_any(),
        %error,
        "a reconcile failed"
    );
    Action::requeue(FAILED)
}
