//! Whether this node may act as the controller, now.
//!
//! Being raft's leader is not enough. A new leader first confirms with a quorum, and applies
//! all that was committed before it; one that a quorum has not acknowledged for a while stops
//! acting, as it may have been replaced without knowing.

use std::time::Duration;

use openraft::ServerState;
use tidemark_env::clock::{self, Instant};
use tokio::sync::watch;

use super::types::{Raft, VoterId, VoterNode};

pub(super) type Metrics = openraft::RaftMetrics<VoterId, VoterNode>;

/// A leadership that was confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Confirmed {
    epoch: u64,
    /// When a quorum last acknowledged it, as far as is known.
    acknowledged: Instant,
    /// Since when it has been acknowledged without a gap.
    since: Instant,
}

/// What is known of this node's leadership. Clones follow it.
#[derive(Debug, Clone)]
pub struct Activity {
    confirmed: watch::Receiver<Option<Confirmed>>,
    bound: Duration,
}

impl Activity {
    /// The leadership in which this node may act as the controller, if it may now.
    pub fn epoch(&self) -> Option<u64> {
        self.now().map(|confirmed| confirmed.epoch)
    }

    /// The leadership, and since when it has been in force without a gap: sessions of brokers
    /// that were not heard in the gap begin anew there.
    pub fn epoch_since(&self) -> Option<(u64, Instant)> {
        self.now()
            .map(|confirmed| (confirmed.epoch, confirmed.since))
    }

    fn now(&self) -> Option<Confirmed> {
        let confirmed = (*self.confirmed.borrow())?;
        let age = clock::monotonic().saturating_duration_since(confirmed.acknowledged);
        (age < self.bound).then_some(confirmed)
    }

    /// Ends when [`Activity::epoch`] may have changed; `false` when the node is closing.
    pub async fn changed(&mut self) -> bool {
        let bound = self.bound;
        match clock::timeout(bound, self.confirmed.changed()).await {
            Ok(changed) => changed.is_ok(),
            Err(_) => true,
        }
    }
}

/// The task that keeps [`Activity`] true.
pub(super) struct Watch {
    raft: Raft,
    confirmed: watch::Sender<Option<Confirmed>>,
    bound: Duration,
}

impl Watch {
    pub(super) fn new(raft: Raft, bound: Duration) -> (Watch, Activity) {
        let (confirmed, follow) = watch::channel(None);
        let activity = Activity {
            confirmed: follow,
            bound,
        };
        let watch = Watch {
            raft,
            confirmed,
            bound,
        };
        (watch, activity)
    }

    pub(super) async fn run(self) {
        let mut metrics = self.raft.metrics();
        loop {
            let now = metrics.borrow_and_update().clone();
            let known = *self.confirmed.borrow();
            let next = self.next(known, &now).await;
            if known.map(|known| known.epoch) != next.map(|next| next.epoch) {
                // Confirming took its time: what came meanwhile says how old the last
                // acknowledgement was then, not now. The next heartbeat's is fresh.
                drop(metrics.borrow_and_update());
            }
            if next != known {
                self.confirmed.send_replace(next);
            }
            if metrics.changed().await.is_err() {
                self.confirmed.send_replace(None);
                return;
            }
        }
    }

    async fn next(&self, known: Option<Confirmed>, now: &Metrics) -> Option<Confirmed> {
        let epoch = leads(now)?;
        let acknowledged = acknowledged(now)?;
        match known {
            Some(known) if known.epoch == epoch => {
                let gap = acknowledged.saturating_duration_since(known.acknowledged);
                Some(Confirmed {
                    epoch,
                    acknowledged: acknowledged.max(known.acknowledged),
                    since: match gap < self.bound {
                        true => known.since,
                        false => acknowledged,
                    },
                })
            }
            // It is asked again with the next metrics, which come with every heartbeat.
            _ => {
                let confirming = self.raft.ensure_linearizable();
                let begun = clock::monotonic();
                let confirmed = clock::timeout(self.bound, confirming).await;
                if !matches!(confirmed, Ok(Ok(_))) {
                    return None;
                }
                // Confirmed in a later leadership: with its own metrics, then.
                let still = leads(&self.raft.metrics().borrow()) == Some(epoch);
                still.then_some(Confirmed {
                    epoch,
                    acknowledged: begun,
                    since: begun,
                })
            }
        }
    }
}

/// The term in which raft takes this node for the leader.
pub(super) fn leads(metrics: &Metrics) -> Option<u64> {
    let leads = metrics.running_state.is_ok()
        && metrics.state == ServerState::Leader
        && metrics.current_leader == Some(metrics.id);
    leads.then_some(metrics.current_term)
}

fn acknowledged(metrics: &Metrics) -> Option<Instant> {
    let age = Duration::from_millis(metrics.millis_since_quorum_ack?);
    clock::monotonic().checked_sub(age)
}
