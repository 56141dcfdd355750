//! What the operator tells of itself and of its clusters, in Prometheus' format.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use kube::ResourceExt;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::ClusterStatus;
use tidemark_env::clock;

use crate::lease::Leadership;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A cluster that was not looked at for so long is there no more: each is looked at twice a minute.
const FORGOTTEN_MS: i64 = 5 * 60_000;
/// Seconds that a reconcile takes.
const BUCKETS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Reasons of a change that is not there yet which are no news: it is under way, or somebody wants it
/// to wait.
const MEANT: [&str; 6] = [
    "AwaitingApproval",
    "OutOfWindow",
    "Paused",
    "DisruptionsOff",
    "Rolling",
    "ScalingDown",
];

/// All of it. Series of what did not happen yet are there, at zero.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    leader: IntGauge,
    reconciles: IntCounterVec,
    durations: HistogramVec,
    restarts: IntCounterVec,
    conditions: IntGaugeVec,
    pending_restarts: IntGaugeVec,
    brokers: IntGaugeVec,
    roll_waiting: GaugeVec,
    clusters: Mutex<BTreeMap<(String, String), Sample>>,
}

/// A cluster, as it was last seen.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sample {
    seen_ms: i64,
    conditions: BTreeMap<String, bool>,
    restarts: i64,
    brokers: i64,
    /// What a roll waits for, and since when.
    waits: Option<(String, i64)>,
}

fn valid<T>(metric: Result<T, prometheus::Error>) -> T {
    metric.expect("names and labels are constants, and each is registered once")
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(name, help);
        let of_cluster = |name: &str, help: &str, label: &[&str]| {
            let labels = [&["namespace", "cluster"][..], label].concat();
            valid(IntGaugeVec::new(opts(name, help), &labels))
        };
        let metrics = Self {
            leader: valid(IntGauge::new(
                "tidemark_operator_leader",
                "1 for the operator that acts, 0 for those that wait for its place.",
            )),
            reconciles: valid(IntCounterVec::new(
                opts(
                    "tidemark_operator_reconciles_total",
                    "Looks at resources, by what came of them.",
                ),
                &["kind", "outcome"],
            )),
            durations: valid(HistogramVec::new(
                HistogramOpts::new(
                    "tidemark_operator_reconcile_duration_seconds",
                    "How long a look at a resource took.",
                )
                .buckets(BUCKETS.to_vec()),
                &["kind"],
            )),
            restarts: valid(IntCounterVec::new(
                opts(
                    "tidemark_operator_restarts_total",
                    "Brokers that were given a new template.",
                ),
                &["namespace", "cluster"],
            )),
            conditions: of_cluster(
                "tidemark_cluster_condition",
                "1 where the condition of a Cluster is True.",
                &["condition"],
            ),
            pending_restarts: of_cluster(
                "tidemark_cluster_pending_restarts",
                "Brokers that are to be restarted for a change.",
                &[],
            ),
            brokers: of_cluster(
                "tidemark_cluster_brokers",
                "Brokers that a Cluster has.",
                &[],
            ),
            roll_waiting: valid(GaugeVec::new(
                opts(
                    "tidemark_cluster_roll_waiting_seconds",
                    "For how long a change of a Cluster has waited for the same thing; what somebody wants to wait is not told.",
                ),
                &["namespace", "cluster", "reason"],
            )),
            clusters: Mutex::default(),
            registry,
        };
        let registry = &metrics.registry;
        valid(registry.register(Box::new(metrics.leader.clone())));
        valid(registry.register(Box::new(metrics.reconciles.clone())));
        valid(registry.register(Box::new(metrics.durations.clone())));
        valid(registry.register(Box::new(metrics.restarts.clone())));
        valid(registry.register(Box::new(metrics.conditions.clone())));
        valid(registry.register(Box::new(metrics.pending_restarts.clone())));
        valid(registry.register(Box::new(metrics.brokers.clone())));
        valid(registry.register(Box::new(metrics.roll_waiting.clone())));
        for kind in ["Cluster", "Topic", "ConsumerGroup"] {
            metrics.durations.with_label_values(&[kind]);
            for outcome in ["done", "error"] {
                metrics.reconciles.with_label_values(&[kind, outcome]);
            }
        }
        metrics
    }
}

impl Metrics {
    /// A look at a resource is over.
    pub fn reconciled(&self, kind: &str, took: Duration, well: bool) {
        let outcome = if well { "done" } else { "error" };
        self.reconciles.with_label_values(&[kind, outcome]).inc();
        self.durations
            .with_label_values(&[kind])
            .observe(took.as_secs_f64());
    }

    /// A broker was given a new template.
    pub fn restarted(&self, cluster: &Cluster) {
        let (namespace, name) = key(cluster);
        self.restarts.with_label_values(&[&namespace, &name]).inc();
    }

    /// A cluster as it was seen now.
    pub fn seen(&self, cluster: &Cluster, status: &ClusterStatus, now_ms: i64) {
        let key = key(cluster);
        self.restarts.with_label_values(&[&key.0, &key.1]);
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let before = clusters.get(&key).and_then(|sample| sample.waits.clone());
        let mut conditions = status.conditions.iter();
        let reconciled = conditions.find(|one| one.type_ == "Reconciled");
        let waiting = reconciled.filter(|one| one.status == "False");
        let reason = waiting.map(|one| one.reason.clone());
        let reason = reason.filter(|reason| !MEANT.contains(&&**reason));
        let waits = reason.map(|reason| match before {
            Some((same, since_ms)) if same == reason => (reason, since_ms),
            _ => (reason, now_ms),
        });
        let restarts = status.disruption.as_ref().map_or(0, |of| of.restarts.len());
        let conditions = status.conditions.iter();
        let sample = Sample {
            seen_ms: now_ms,
            conditions: conditions
                .map(|one| (one.type_.clone(), one.status == "True"))
                .collect(),
            restarts: i64::try_from(restarts).unwrap_or(i64::MAX),
            brokers: i64::try_from(status.brokers.len()).unwrap_or(i64::MAX),
            waits,
        };
        clusters.insert(key, sample);
    }

    /// The page.
    #[must_use]
    pub fn page(&self, leads: bool, now_ms: i64) -> String {
        self.leader.set(i64::from(leads));
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|_, sample| now_ms - sample.seen_ms < FORGOTTEN_MS);
        self.conditions.reset();
        self.pending_restarts.reset();
        self.brokers.reset();
        self.roll_waiting.reset();
        for ((namespace, name), sample) in clusters.iter() {
            let of = [namespace.as_str(), name.as_str()];
            for (condition, is) in &sample.conditions {
                let labels = [of[0], of[1], condition.as_str()];
                self.conditions
                    .with_label_values(&labels)
                    .set(i64::from(*is));
            }
            self.pending_restarts
                .with_label_values(&of)
                .set(sample.restarts);
            self.brokers.with_label_values(&of).set(sample.brokers);
            let (reason, since_ms) = match &sample.waits {
                Some((reason, since_ms)) => (&**reason, *since_ms),
                // So that the series is there before anything has to wait.
                None => ("None", now_ms),
            };
            let labels = [of[0], of[1], reason];
            let waited = Duration::from_millis(u64::try_from(now_ms - since_ms).unwrap_or(0));
            self.roll_waiting
                .with_label_values(&labels)
                .set(waited.as_secs_f64());
        }
        drop(clusters);
        let page = TextEncoder::new().encode_to_string(&self.registry.gather());
        page.unwrap_or_else(|error| {
            tracing::error!(%error, "metrics cannot be written");
            String::new()
        })
    }
}

fn key(cluster: &Cluster) -> (String, String) {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// Serves the page on `address` as long as the process runs.
///
/// # Errors
/// The address is taken, or not ours.
#[allow(
    clippy::disallowed_methods,
    reason = "nothing of Kubernetes is simulated"
)]
pub async fn serve(address: &str, metrics: Arc<Metrics>, leadership: Leadership) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let page = |State((metrics, leadership)): State<(Arc<Metrics>, Leadership)>| async move {
        let page = metrics.page(leadership.holds(), clock::now_ms());
        ([(header::CONTENT_TYPE, PROMETHEUS)], page).into_response()
    };
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state((metrics, leadership));
    axum::serve(listener, router).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster() -> Cluster {
        let document = json!({
            "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster",
            "metadata": {"name": "orders", "namespace": "shop"}, "spec": {"pools": []},
        });
        serde_json::from_value(document).expect("a cluster")
    }

    fn status(reason: &str) -> ClusterStatus {
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({
                "type": type_, "status": status, "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        };
        let document = json!({
            "disruption": {"id": "d", "state": reason, "message": "", "restarts": [1, 2], "reasons": []},
            "conditions": [condition("Ready", "True", "R"), condition("Reconciled", "False", reason)],
        });
        serde_json::from_value(document).expect("a status")
    }

    #[test]
    fn a_roll_that_waits_is_told_with_its_reason_and_since_when() {
        let metrics = Metrics::default();
        let has = |page: &str, line: &str| {
            assert!(page.lines().any(|one| one == line), "{line} in\n{page}");
        };
        has(
            &metrics.page(true, 0),
            "tidemark_operator_reconciles_total{kind=\"Topic\",outcome=\"error\"} 0",
        );
        metrics.seen(&cluster(), &status("MinIsr"), 1_000);
        metrics.seen(&cluster(), &status("MinIsr"), 31_000);
        let page = metrics.page(true, 61_000);
        has(
            &page,
            "tidemark_cluster_roll_waiting_seconds{cluster=\"orders\",namespace=\"shop\",reason=\"MinIsr\"} 60",
        );
        has(
            &page,
            "tidemark_cluster_pending_restarts{cluster=\"orders\",namespace=\"shop\"} 2",
        );
        has(
            &page,
            "tidemark_cluster_condition{cluster=\"orders\",condition=\"Ready\",namespace=\"shop\"} 1",
        );
        has(&page, "tidemark_operator_leader 1");
        has(
            &page,
            "tidemark_operator_restarts_total{cluster=\"orders\",namespace=\"shop\"} 0",
        );
        // Another reason begins anew, and what somebody wants to wait is no news.
        metrics.seen(&cluster(), &status("IsrCatchUp"), 62_000);
        let page = metrics.page(true, 63_000);
        has(
            &page,
            "tidemark_cluster_roll_waiting_seconds{cluster=\"orders\",namespace=\"shop\",reason=\"IsrCatchUp\"} 1",
        );
        assert!(!page.contains("MinIsr"), "{page}");
        metrics.seen(&cluster(), &status("AwaitingApproval"), 70_000);
        let page = metrics.page(false, 80_000);
        has(
            &page,
            "tidemark_cluster_roll_waiting_seconds{cluster=\"orders\",namespace=\"shop\",reason=\"None\"} 0",
        );
        // A cluster that is gone is told of no more.
        let page = metrics.page(false, 80_000 + FORGOTTEN_MS);
        assert!(!page.contains("pending_restarts{"), "{page}");
    }
}
