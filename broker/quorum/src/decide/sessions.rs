//! Who has been heard of: the controller's memory of brokers' heartbeats, and what they
//! lead to (KIP-631). Not in metadata: a new controller begins a new one.

use std::collections::BTreeMap;

use tidemark_model::{BrokerEpoch, BrokerId, Image, TopicPartition};

use super::brokers::check_epoch;
use super::fencing::{begin_shutdown, give_up_damaged, may_step_back, unfence_broker};
use super::{Context, Decision, Refusal, fence_brokers};

/// A broker's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The broker.
    pub broker_id: BrokerId,
    /// Its epoch.
    pub broker_epoch: BrokerEpoch,
    /// Index of the image that it acts on.
    pub image_index: u64,
    /// Whether it is not ready to lead, or takes no more records: then it is fenced as long as
    /// others can lead in its place.
    pub want_fence: bool,
    /// Whether it would like to stop.
    pub want_shutdown: bool,
    /// Partitions whose logs are damaged there: it has them, and cannot use them.
    pub damaged: Vec<TopicPartition>,
}

/// What a broker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// Whether its image is at its registration or later.
    pub is_caught_up: bool,
    /// Whether it may not lead.
    pub is_fenced: bool,
    /// Whether it may stop now.
    pub should_shut_down: bool,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    epoch: BrokerEpoch,
    heard_ms: i64,
    image_index: u64,
    /// Its port refuses connections: the process is gone.
    refused: bool,
    /// Image in which it led nothing any more, once it wants to stop.
    shutdown_index: Option<u64>,
}

/// The sessions of all brokers. Times are of one monotonic clock, in ms.
#[derive(Debug, Clone)]
pub struct Sessions {
    timeout_ms: i64,
    brokers: BTreeMap<BrokerId, Session>,
}

impl Sessions {
    /// For a controller that begins to act: every broker that is not fenced gets a full
    /// session before it is fenced. `timeout_ms` is `broker.session.timeout.ms`.
    pub fn begin(image: &Image, now_ms: i64, timeout_ms: i64) -> Self {
        let mut sessions = Self {
            timeout_ms,
            brokers: BTreeMap::new(),
        };
        sessions.grant_all(image, now_ms);
        sessions
    }

    /// Gives every broker that is not fenced a full session from now on: after the
    /// controller itself stood still, silence proves nothing.
    pub fn grant_all(&mut self, image: &Image, now_ms: i64) {
        for broker in image.brokers().filter(|b| !b.fenced) {
            self.hear(broker.id, broker.epoch, now_ms);
        }
    }

    /// A broker has registered.
    pub fn registered(&mut self, broker_id: BrokerId, epoch: BrokerEpoch, now_ms: i64) {
        self.hear(broker_id, epoch, now_ms);
    }

    /// A broker's port refuses connections, after one was reset: its process is gone, and
    /// there is nothing to wait for. Counts for this epoch only.
    pub fn refused(&mut self, broker_id: BrokerId, epoch: BrokerEpoch) {
        if let Some(session) = self.brokers.get_mut(&broker_id)
            && session.epoch == epoch
        {
            session.refused = true;
        }
    }

    /// Whether a broker has been heard of within its session.
    pub fn is_live(&self, broker_id: BrokerId, now_ms: i64) -> bool {
        self.brokers.get(&broker_id).is_some_and(|session| {
            !session.refused && now_ms.saturating_sub(session.heard_ms) <= self.timeout_ms
        })
    }

    /// The brokers that are not fenced and whose session has expired: to be fenced
    /// together, by [`fence_brokers`].
    pub fn expired(&self, image: &Image, now_ms: i64) -> Vec<BrokerId> {
        image
            .brokers()
            .filter(|b| !b.fenced && !self.is_live(b.id, now_ms))
            .map(|b| b.id)
            .collect()
    }

    /// When the next session expires if nobody is heard of, in ms; `None` if nobody is up.
    pub fn next_expiry_ms(&self, image: &Image) -> Option<i64> {
        image
            .brokers()
            .filter(|b| !b.fenced)
            .map(|b| match self.brokers.get(&b.id) {
                Some(session) if !session.refused => session
                    .heard_ms
                    .saturating_add(self.timeout_ms)
                    .saturating_add(1),
                _ => i64::MIN,
            })
            .min()
    }

    fn hear(&mut self, broker_id: BrokerId, epoch: BrokerEpoch, now_ms: i64) -> &mut Session {
        let session = self.brokers.entry(broker_id).or_insert(Session {
            epoch,
            heard_ms: now_ms,
            image_index: 0,
            refused: false,
            shutdown_index: None,
        });
        if session.epoch != epoch {
            *session = Session {
                epoch,
                heard_ms: now_ms,
                image_index: 0,
                refused: false,
                shutdown_index: None,
            };
        }
        session.heard_ms = session.heard_ms.max(now_ms);
        session.refused = false;
        session
    }

    /// Decides a heartbeat.
    ///
    /// - With damaged logs: it counts for these no more, before anything else, as it might be
    ///   chosen to lead them.
    /// - Fenced: unfenced once its image is at its registration, unless it does not want to
    ///   be; or told to stop, if it would like to.
    /// - Unfenced: fenced if it asks for it. If it would like to stop, all that it leads
    ///   goes to others in one batch.
    /// - Shutting down: told to stop as soon as every other broker that is up acts on an
    ///   image in which this one leads nothing.
    pub fn heartbeat(
        &mut self,
        image: &Image,
        context: Context<'_>,
        now_ms: i64,
        beat: &Heartbeat,
    ) -> Decision<Result<HeartbeatAnswer, Refusal>> {
        let broker = match check_epoch(image, beat.broker_id, beat.broker_epoch) {
            Ok(broker) => broker,
            Err(refusal) => {
                return Decision {
                    records: Vec::new(),
                    result: Err(refusal),
                };
            }
        };
        let session = self.hear(beat.broker_id, beat.broker_epoch, now_ms);
        session.image_index = session.image_index.max(beat.image_index);
        let is_caught_up = beat.image_index >= broker.registered_at;
        let mut answer = HeartbeatAnswer {
            is_caught_up,
            is_fenced: broker.fenced,
            should_shut_down: false,
        };
        let mut records = give_up_damaged(image, context, broker.id, &beat.damaged);
        if !records.is_empty() {
            // What else it asks for, it asks again.
        } else if broker.fenced {
            if beat.want_shutdown {
                answer.should_shut_down = true;
            } else if !beat.want_fence && is_caught_up && !broker.shutting_down {
                records = unfence_broker(image, context, broker.id);
                answer.is_fenced = false;
            }
        } else if beat.want_fence && !beat.want_shutdown {
            // Two that step back at once may have counted on one another.
            if may_step_back(image, broker.id) {
                records = fence_brokers(image, context, &[broker.id]);
                answer.is_fenced = true;
            }
        } else if broker.shutting_down {
            // At this image at the latest it leads nothing.
            let left_at = *session.shutdown_index.get_or_insert(image.index());
            answer.should_shut_down = self.all_others_are_at(image, broker.id, left_at);
        } else if beat.want_shutdown {
            records = begin_shutdown(image, context, broker.id);
        }
        Decision {
            records,
            result: Ok(answer),
        }
    }

    fn all_others_are_at(&self, image: &Image, broker_id: BrokerId, index: u64) -> bool {
        image
            .brokers()
            .filter(|b| b.id != broker_id && b.is_active())
            .all(|b| {
                let session = self.brokers.get(&b.id).filter(|s| s.epoch == b.epoch);
                session.is_some_and(|s| s.image_index >= index)
            })
    }
}
