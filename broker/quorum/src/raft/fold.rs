//! Committed entries folded into the image; pure. Every node folds the same.

use std::sync::Arc;

use tidemark_model::Image;

use super::types::{Applied, Entry, EntryPayload, LogId, Refused, StoredMembership};

/// All that committed entries come to at one place of the log.
#[derive(Debug, Clone, Default)]
pub struct Fold {
    /// The last entry folded in.
    pub applied: Option<LogId>,
    /// Who is in the quorum.
    pub membership: StoredMembership,
    /// The metadata.
    pub image: Arc<Image>,
}

impl Fold {
    /// Index of the entry that comes next.
    pub fn next_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index + 1)
    }

    /// Folds the next entry in. A batch that is refused leaves the image as it was, on
    /// every node alike.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        debug_assert!(
            self.applied < Some(entry.log_id),
            "{} is applied after {:?}",
            entry.log_id,
            self.applied
        );
        self.applied = Some(entry.log_id);
        let mut outcomes = Vec::new();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            EntryPayload::Normal(proposal) => {
                outcomes.reserve(proposal.batches.len());
                let logged = entry.log_id.leader_id.term;
                for batch in &proposal.batches {
                    if proposal.epoch != logged {
                        outcomes.push(Err(Refused::Epoch {
                            decided: proposal.epoch,
                            logged,
                        }));
                        continue;
                    }
                    let applied = self.image.apply(batch.records());
                    outcomes.push(match applied {
                        Ok(image) => {
                            self.image = Arc::new(image);
                            Ok(())
                        }
                        Err(rejected) => Err(rejected.into()),
                    });
                }
            }
        }
        Applied {
            outcomes,
            image: self.image.clone(),
        }
    }
}
