//! Going on from one directory when the majority is lost for good.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use openraft::CommittedLeaderId;
use tidemark_env::disk::Disk;
use tokio::sync::oneshot;

use super::error::StoreError;
use super::identity::{VoterIdentity, read_identity};
use super::journal::Event;
use super::store::LogStore;
use super::types::{Entry, EntryPayload, LogId, Membership, Vote};
use super::writer::Done;

/// Makes the voter of `dir` the only one of its quorum, with all that it has as what is
/// committed. What [`super::inspect`] calls uncertain is in force from then on, and what only
/// others had is lost. The process that uses the directory must be stopped; at its next start it
/// leads alone, and others can be added.
///
/// The other voters must never start again with their directories: among themselves they may
/// still be a majority of the quorum that was. Blocks.
///
/// # Errors
/// [`StoreError::NotAVoter`] for a directory that has never been in a quorum; those of opening it
/// and of the disk.
pub fn force(disk: &Arc<dyn Disk>, dir: &Path) -> Result<VoterIdentity, StoreError> {
    let identity = read_identity(&**disk, dir)?.ok_or_else(|| StoreError::NotFormatted {
        path: dir.to_owned(),
    })?;
    let me = identity.voter;
    let opened = LogStore::open(disk.clone(), dir, me, true)?;
    let store = opened.store;
    let snapshotted = opened.fold.applied;
    let mut all = opened.fold;
    for entry in store.read(all.next_index(), u64::MAX, usize::MAX) {
        all.apply(&entry);
    }
    let node = all.membership.membership().get_node(&me).cloned();
    let node = node.ok_or_else(|| StoreError::NotAVoter {
        path: dir.to_owned(),
        node_id: me.node_id,
    })?;
    let last = store.last().max(all.applied);
    let voted = store.vote_and_committed().0;
    let term = voted.map_or(0, |vote| vote.leader_id.term);
    let term = term.max(last.map_or(0, |last| last.leader_id.term)) + 1;
    let log_id = LogId::new(
        CommittedLeaderId::new(term, me),
        last.map_or(0, |last| last.index + 1),
    );
    let alone = Membership::new(vec![BTreeSet::from([me])], BTreeMap::from([(me, node)]));
    let mut events = Vec::new();
    if let Some(snapshotted) = snapshotted
        && Some(snapshotted) > store.last()
    {
        // A hole before the new entry: the snapshot fills it.
        events.push(Event::Purged(snapshotted));
    }
    events.extend([
        Event::Voted(Vote::new(term, me)),
        Event::Entry(Entry {
            log_id,
            payload: EntryPayload::Membership(alone),
        }),
        Event::Committed(log_id),
    ]);
    // One group: all of it, or nothing.
    let (told, mut written) = oneshot::channel();
    store.shared.write(events, Done::Reply(told));
    match written.try_recv() {
        Ok(result) => result.map_err(StoreError::io(dir))?,
        Err(_) => return Err(StoreError::Failed),
    }
    Ok(identity)
}
