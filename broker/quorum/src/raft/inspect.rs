//! What one directory knows, without taking part: for those who have lost the majority and
//! must decide which of the rest to go on from.

use std::path::Path;
use std::sync::Arc;

use tidemark_env::disk::Disk;

use super::error::StoreError;
use super::fold::Fold;
use super::identity::{VoterIdentity, read_identity};
use super::store::LogStore;
use super::types::{EntryPayload, LogId, Vote};

/// What one directory knows.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Whose it is.
    pub identity: VoterIdentity,
    /// Its vote: a later term than that of its last entry means that others may have gone on
    /// without it.
    pub vote: Option<Vote>,
    /// All that is known here to be committed, folded.
    pub committed: Fold,
    /// The last entry that it has. What others committed after it would be lost, and cannot
    /// be seen from here.
    pub last: Option<LogId>,
    /// Batches in entries after the committed ones: each may have been acknowledged, or may
    /// never have been. Going on from here makes all of them committed.
    pub uncertain_batches: usize,
    /// All that it has, folded.
    pub all: Fold,
}

impl Inspection {
    /// How this directory's log compares with another's: of two that were in one quorum, the
    /// greater one lacks nothing that the other one has and that was committed.
    pub fn position(&self) -> (Option<LogId>, Option<Vote>) {
        (self.last, self.vote.filter(|vote| vote.committed))
    }
}

/// Looks at a directory that nobody uses. Nothing is changed but that a torn end is cut.
/// Blocks.
///
/// # Errors
/// Those of opening it.
pub fn inspect(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Inspection, StoreError> {
    let identity = read_identity(&**disk, dir)?.ok_or_else(|| StoreError::NotFormatted {
        path: dir.to_owned(),
    })?;
    let opened = LogStore::open(disk.clone(), dir, identity.voter, true)?;
    let store = opened.store;
    let (vote, committed) = store.vote_and_committed();
    let mut all = opened.fold;
    let mut known = all.clone();
    let mut uncertain_batches = 0;
    for entry in store.read(all.next_index(), u64::MAX, usize::MAX) {
        all.apply(&entry);
        if Some(entry.log_id) <= committed {
            known = all.clone();
        } else if let EntryPayload::Normal(proposal) = &entry.payload {
            uncertain_batches += proposal.batches.len();
        }
    }
    Ok(Inspection {
        identity,
        vote,
        committed: known,
        last: store.last().max(all.applied),
        uncertain_batches,
        all,
    })
}
