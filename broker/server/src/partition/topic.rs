//! What the partitions of one topic that are here have in common.

use super::Policy;
use crate::replica::Replicas;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use tidemark_model::{Topic, TopicId};

/// A topic of which partitions are here.
pub(crate) struct TopicHere {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    /// What all replicas share.
    pub(super) replicas: Arc<Replicas>,
    policy: RwLock<Arc<Policy>>,
}

impl TopicHere {
    pub(super) fn new(
        topic: &Topic,
        policy: Arc<Policy>,
        replicas: &Arc<Replicas>,
    ) -> Arc<TopicHere> {
        Arc::new(TopicHere {
            name: Arc::clone(&topic.name),
            id: topic.id,
            replicas: Arc::clone(replicas),
            policy: RwLock::new(policy),
        })
    }

    /// The settings in force.
    pub(super) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts new settings in force.
    pub(super) fn set_policy(&self, policy: Arc<Policy>) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

impl fmt::Display for TopicHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
