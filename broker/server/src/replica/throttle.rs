//! Replication throttles (KIP-73): replicas that topics name are filled no faster than their
//! brokers' rates say, as long as they are not in sync.
//!
//! What goes to replicas that are in sync is not counted, other than in Kafka, so that producers
//! leave a move the whole of its rate.

use super::{Replicas, lock};
use std::sync::Mutex;
use std::time::Duration;
use tidemark_config::BrokerSettings;
use tidemark_replication::Throttle;

/// Which side of a replica's fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What this broker gives to followers: `leader.replication.throttled.rate`.
    Leader,
    /// What it takes from leaders: `follower.replication.throttled.rate`.
    Follower,
}

/// What this broker has moved of throttled replicas, on either side.
#[derive(Default)]
pub(super) struct Throttles {
    leader: Mutex<Throttle>,
    follower: Mutex<Throttle>,
}

impl Replicas {
    /// How long nothing may be moved of throttled replicas; `None` where something may be now.
    pub(crate) fn throttled_for(&self, side: Side, settings: &BrokerSettings) -> Option<Duration> {
        let (throttle, rate) = self.throttle(side, settings);
        let wait_ms = lock(throttle).wait_ms(self.now_ms(), rate);
        let wait_ms = u64::try_from(wait_ms).ok().filter(|ms| *ms > 0)?;
        Some(Duration::from_millis(wait_ms))
    }

    /// So many bytes of a throttled replica were moved.
    pub(crate) fn count_throttled(&self, side: Side, settings: &BrokerSettings, bytes: usize) {
        let (throttle, rate) = self.throttle(side, settings);
        lock(throttle).moved(self.now_ms(), rate, bytes as u64);
        self.metrics.throttled(side).inc_by(bytes as u64);
    }

    fn throttle(&self, side: Side, settings: &BrokerSettings) -> (&Mutex<Throttle>, i64) {
        match side {
            Side::Leader => (
                &self.throttles.leader,
                settings.leader_replication_throttled_rate,
            ),
            Side::Follower => (
                &self.throttles.follower,
                settings.follower_replication_throttled_rate,
            ),
        }
    }
}
