//! Of several operators one acts: the one that holds the Lease.
//!
//! Clocks are not compared: a candidate takes the Lease after it has seen nobody renew it for as long
//! as it is good, by its own clock. Who holds it asks nothing of Kubernetes ([`Leadership`]) once it
//! could not renew it for [`DEADLINE_MS`], which is over well before anybody else takes it; so an
//! operator that was cut off, or stood still, does not act on what it believed before.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as KubeLease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tidemark_env::{clock, random};

use crate::context::Error;

/// The Lease's name.
pub const NAME: &str = "tidemark-operator";
/// Nobody takes the Lease before nobody has renewed it for so long.
const DURATION_MS: i64 = 15_000;
/// Who holds it acts no longer than this after its last renewal was sent. A request that is under way
/// then has the rest of the time to end.
const DEADLINE_MS: i64 = 10_000;
/// It is renewed, or looked at, this often.
const PERIOD: Duration = Duration::from_secs(2);
/// One request may take so long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether this operator may act; shared by all that act.
#[derive(Debug, Clone, Default)]
pub struct Leadership {
    until_ms: Arc<AtomicI64>,
}

impl Leadership {
    /// Whether it may act now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds_at(clock::steady_ms())
    }

    fn holds_at(&self, now_ms: i64) -> bool {
        now_ms < self.until_ms.load(Ordering::Acquire)
    }

    fn renewed(&self, sent_ms: i64) {
        let until_ms = sent_ms + DEADLINE_MS;
        self.until_ms.store(until_ms, Ordering::Release);
    }

    fn ends(&self) {
        self.until_ms.store(0, Ordering::Release);
    }
}

/// What a candidate has seen of the Lease.
#[derive(Debug, Default)]
struct Seen {
    /// Its last version, and when that was first seen, in ms of a clock that does not jump.
    last: Option<(LeaseSpec, i64)>,
}

impl Seen {
    /// Whether `me` may take the Lease, which is `now`, or renew it.
    fn may_take(&mut self, lease: &LeaseSpec, me: &str, now_ms: i64) -> bool {
        let since_ms = match &self.last {
            Some((last, since_ms)) if last == lease => *since_ms,
            _ => {
                self.last = Some((lease.clone(), now_ms));
                now_ms
            }
        };
        let good_ms = lease
            .lease_duration_seconds
            .map_or(DURATION_MS, |s| i64::from(s) * 1_000);
        match lease.holder_identity.as_deref() {
            None | Some("") => true,
            Some(holder) => holder == me || now_ms - since_ms > good_ms,
        }
    }
}

/// What the Lease says once `me` has it, or has renewed it.
fn taken(before: &LeaseSpec, me: &str, now: Timestamp) -> LeaseSpec {
    let mine = before.holder_identity.as_deref() == Some(me);
    let seconds = i32::try_from(DURATION_MS / 1_000).unwrap_or(i32::MAX);
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(now)),
        acquire_time: match mine {
            true => before.acquire_time.clone(),
            false => Some(MicroTime(now)),
        },
        lease_transitions: match mine {
            true => before.lease_transitions,
            false => Some(before.lease_transitions.unwrap_or(0) + 1),
        },
        ..LeaseSpec::default()
    }
}

/// The Lease, as one operator goes about it.
pub struct Lease {
    api: Api<KubeLease>,
    me: String,
    seen: Seen,
    leadership: Leadership,
}

impl Lease {
    /// The Lease in a namespace, for the operator that is told as `name`. `client` is not guarded by
    /// the leadership.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, leadership: Leadership) -> Self {
        let mut bytes = [0; 4];
        random::fill(&mut bytes);
        // A container that starts again in its pod is another operator.
        let me = format!("{name}_{:08x}", u32::from_be_bytes(bytes));
        Self {
            api: Api::namespaced(client, namespace),
            me,
            seen: Seen::default(),
            leadership,
        }
    }

    /// Waits until this operator leads. While Kubernetes cannot be asked it goes on trying.
    pub async fn acquire(&mut self) {
        let mut told = false;
        loop {
            match self.attempt().await {
                Ok(true) => {
                    tracing::info!(me = self.me, "this operator leads");
                    return;
                }
                Ok(false) if told => {}
                Ok(false) => {
                    let holder = self
                        .seen
                        .last
                        .as_ref()
                        .map(|(lease, _)| &lease.holder_identity);
                    tracing::info!(
                        me = self.me,
                        ?holder,
                        "another operator leads: this one waits"
                    );
                    told = true;
                }
                Err(error) => tracing::warn!(%error, "the operators' lease"),
            }
            clock::sleep(PERIOD).await;
        }
    }

    /// Renews the Lease until that is not possible any more.
    pub async fn keep(&mut self) -> Error {
        loop {
            clock::sleep(PERIOD).await;
            match self.attempt().await {
                Ok(true) => {}
                Ok(false) => {
                    self.leadership.ends();
                    return Error::NotLeading("another operator has the lease".to_owned());
                }
                Err(error) if self.leadership.holds() => {
                    tracing::warn!(%error, "the lease could not be renewed");
                }
                Err(error) => return Error::NotLeading(error.to_string()),
            }
        }
    }

    /// Gives the Lease back, so that another operator need not wait. Best effort: it ends anyway.
    pub async fn release(&mut self) {
        self.leadership.ends();
        let Ok(Some(mut lease)) = self.api.get_opt(NAME).await else {
            return;
        };
        let Some(spec) = &mut lease.spec else { return };
        if spec.holder_identity.as_deref() != Some(&self.me) {
            return;
        }
        spec.holder_identity = None;
        spec.renew_time = None;
        spec.acquire_time = None;
        if let Err(error) = self.api.replace(NAME, &PostParams::default(), &lease).await {
            tracing::warn!(%error, "the lease could not be given back");
        }
    }

    /// Takes or renews the Lease, if that is due to this operator.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let took = clock::timeout(PATIENCE, self.attempt_now()).await;
        took.unwrap_or_else(|_| Err(Error::NotLeading("no answer in time".to_owned())))
    }

    async fn attempt_now(&mut self) -> Result<bool, Error> {
        let found = self.api.get_opt(NAME).await;
        let found = found.map_err(Error::kube("reading the lease"))?;
        let before = found.as_ref().and_then(|lease| lease.spec.clone());
        let before = before.unwrap_or_default();
        let sent_ms = clock::steady_ms();
        if !self.seen.may_take(&before, &self.me, sent_ms) {
            return Ok(false);
        }
        let now = Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
        let spec = Some(taken(&before, &self.me, now));
        let params = PostParams::default();
        // Only over the version that was read: of two that take it one does.
        let written = match found {
            Some(lease) => {
                let lease = KubeLease { spec, ..lease };
                self.api.replace(NAME, &params, &lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                };
                self.api
                    .create(&params, &KubeLease { metadata, spec })
                    .await
            }
        };
        match written {
            Ok(_) => {
                self.leadership.renewed(sent_ms);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(Error::kube("writing the lease")(error)),
        }
    }
}
