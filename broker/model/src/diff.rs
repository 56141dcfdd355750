//! What changed between two images: what a broker acts on. In proportion to the change.

use std::sync::Arc;

use imbl::ordmap::DiffItem;

use crate::image::{Image, Topic};
use crate::record::ConfigResource;

/// One topic that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub enum TopicChange {
    /// It is new.
    Created(Arc<Topic>),
    /// It is gone.
    Deleted(Arc<Topic>),
    /// Partitions were added or changed; settings are in [`Changes::configs`].
    Changed {
        /// As it was.
        before: Arc<Topic>,
        /// As it is.
        after: Arc<Topic>,
    },
}

/// The difference of two images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// Topics, deletions first, so that a name used again is free when its successor comes.
    pub topics: Vec<TopicChange>,
    /// Whose own settings are not what they were.
    pub configs: Vec<ConfigResource>,
    /// Brokers that came, went or changed.
    pub brokers: Vec<crate::BrokerId>,
}

impl Image {
    /// What changed from `before` to this image.
    pub fn changes_since(&self, before: &Image) -> Changes {
        let mut changes = Changes::default();
        let mut later = Vec::new();
        for item in before.topics.diff(&self.topics) {
            match item {
                DiffItem::Add(_, topic) => later.push(TopicChange::Created(topic.clone())),
                DiffItem::Remove(_, topic) => {
                    changes.topics.push(TopicChange::Deleted(topic.clone()));
                }
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => later.push(TopicChange::Changed {
                    before: old.clone(),
                    after: new.clone(),
                }),
            }
        }
        changes.topics.append(&mut later);
        changes.configs = before
            .configs
            .diff(&self.configs)
            .map(|item| key(&item).clone())
            .collect();
        changes.brokers = before
            .brokers
            .diff(&self.brokers)
            .map(|item| *key(&item))
            .collect();
        changes
    }
}

fn key<'a, K, V>(item: &DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
        DiffItem::Update { new: (key, _), .. } => key,
    }
}
