//! The log's files: what survives a crash at each operation of the disk, what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::{CommittedLeaderId, RaftLogReader, RaftSnapshotBuilder};
use tidemark_env::disk::{Disk, MemDisk, OpenMode, read_file};
use tidemark_wire::Uuid;

use super::super::store::Snapshotted;
use super::super::*;
use super::cluster::set;
use super::*;

const ME: i32 = 4;

fn dir() -> PathBuf {
    PathBuf::from("/data/raft")
}

fn identity() -> VoterIdentity {
    VoterIdentity {
        cluster_id: Uuid([1; 16]),
        voter: voter(ME, 1),
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, voter(1, 1)), index)
}

fn entry(term: u64, index: u64) -> Entry {
    Entry {
        log_id: id(term, index),
        payload: match index {
            0 => EntryPayload::Membership(Membership::new(
                vec![[voter(1, 1), voter(ME, 1)].into()],
                [
                    (voter(1, 1), VoterNode::default()),
                    (voter(ME, 1), VoterNode::default()),
                ]
                .into_iter()
                .collect::<InitialVoters>(),
            )),
            _ => EntryPayload::Normal(Proposal {
                epoch: term,
                batches: vec![Batch::new(set(&format!("t{term}-i{index}")))],
            }),
        },
    }
}

fn open(disk: &MemDisk) -> Result<Opened, StoreError> {
    LogStore::open(Arc::new(disk.clone()), &dir(), identity().voter, true)
}

/// What is known of a log from outside.
#[derive(Debug, Clone, PartialEq, Default)]
struct Model {
    vote: Option<Vote>,
    /// Terms of the entries, from index 0.
    terms: Vec<u64>,
    /// All before this index may be gone.
    purged: u64,
}

impl Model {
    async fn of(store: &mut LogStore, purged: u64) -> Model {
        let entries = store.try_get_log_entries(purged..).await.unwrap();
        for pair in entries.windows(2) {
            assert_eq!(pair[0].log_id.index + 1, pair[1].log_id.index);
        }
        let state = store.get_log_state().await.unwrap();
        let last = state.last_log_id.map_or(0, |id| id.index + 1);
        let mut terms = vec![0; usize::try_from(last).unwrap()];
        for found in &entries {
            assert_eq!(
                found,
                &entry(found.log_id.leader_id.term, found.log_id.index)
            );
            terms[usize::try_from(found.log_id.index).unwrap()] = found.log_id.leader_id.term;
        }
        Model {
            vote: store.read_vote().await.unwrap(),
            terms,
            purged,
        }
    }

    /// With what may be gone left out.
    fn from(&self, purged: u64) -> Model {
        let mut model = self.clone();
        model.purged = purged;
        for term in model
            .terms
            .iter_mut()
            .take(usize::try_from(purged).unwrap())
        {
            *term = 0;
        }
        model
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Vote(u64),
    Append(u64, u64),
    Truncate(u64),
    Committed(u64),
    /// Applies all that is committed and makes a snapshot.
    Snapshot,
    Purge(u64),
}

fn script() -> Vec<Step> {
    let mut steps = vec![Step::Vote(1), Step::Append(1, 3), Step::Committed(1)];
    steps.extend([Step::Append(1, 2), Step::Truncate(3), Step::Vote(3)]);
    steps.extend([Step::Append(3, 4), Step::Committed(5), Step::Snapshot]);
    steps.extend([Step::Purge(3), Step::Append(3, 1), Step::Vote(4)]);
    for _ in 0..4 {
        steps.push(Step::Append(4, 3));
    }
    steps.extend([Step::Committed(15), Step::Snapshot, Step::Purge(12)]);
    steps.extend([Step::Append(4, 3), Step::Vote(9), Step::Append(4, 1)]);
    steps
}

/// Runs the script until the disk fails; the state before the step that failed, and the
/// state that the step was to bring about.
async fn play(disk: &MemDisk, steps: &[Step]) -> Option<(Model, Model)> {
    let mut model = Model::default();
    let Ok(opened) = open(disk) else {
        return Some((Model::default(), Model::default()));
    };
    let mut store = opened.store;
    store.set_segment_bytes(600);
    let (mut machine, _) = Machine::new(&store, opened.fold);
    let mut committed = 0;
    for step in steps {
        let before = model.clone();
        let next = model.terms.len() as u64;
        let done = match *step {
            Step::Vote(term) => {
                let vote = Vote::new(term, voter(1, 1));
                model.vote = Some(vote);
                store.save_vote(&vote).await.is_ok()
            }
            Step::Append(term, count) => {
                model.terms.extend((0..count).map(|_| term));
                let entries: Vec<_> = (next..next + count).map(|at| entry(term, at)).collect();
                store.blocking_append(entries).await.is_ok()
            }
            Step::Truncate(from) => {
                model.terms.truncate(usize::try_from(from).unwrap());
                store.truncate(id(1, from)).await.is_ok()
            }
            Step::Committed(index) => {
                committed = index;
                let at = usize::try_from(index).unwrap();
                let upto = id(model.terms[at], index);
                store.save_committed(Some(upto)).await.is_ok()
            }
            Step::Snapshot => {
                let from = machine.applied_state().await.unwrap().0;
                let from = from.map_or(0, |id| id.index + 1);
                let entries = store.try_get_log_entries(from..=committed).await.unwrap();
                machine.apply(entries).await.unwrap();
                let mut builder = machine.get_snapshot_builder().await;
                builder.build_snapshot().await.is_ok()
            }
            Step::Purge(index) => {
                model.purged = index + 1;
                let at = usize::try_from(index).unwrap();
                store.purge(id(model.terms[at], index)).await.is_ok()
            }
        };
        if !done {
            return Some((before, model));
        }
    }
    None
}

#[test]
fn a_crash_at_any_operation_of_the_disk_leaves_the_state_before_a_step_or_after_it() {
    paused(async {
        let steps = script();
        let (mut torn, mut after_seen, mut before_seen) = (0, 0, 0);
        for operation in 0.. {
            let mut finished = false;
            for seed in 0..12 {
                let disk = MemDisk::default();
                format(&disk, &dir(), identity(), None).unwrap();
                disk.cut_power_after(operation);
                let failed = play(&disk, &steps).await;
                let Some((before, after)) = failed else {
                    finished = true;
                    break;
                };
                disk.crash_torn(seed * 1000 + operation);
                let opened = open(&disk).unwrap();
                torn += u64::from(opened.recovery.torn_bytes > 0);
                let mut store = opened.store;
                // A purge is not waited for: it may show before or after its step.
                let purged = before.purged.max(after.purged);
                let found = Model::of(&mut store, purged).await;
                let (before, after) = (before.from(purged), after.from(purged));
                assert!(
                    found == before || found == after,
                    "operation {operation}, seed {seed}: {found:?} is neither {before:?} nor {after:?}"
                );
                after_seen += u64::from(found == after && before != after);
                before_seen += u64::from(found == before && before != after);
                let committed = store.read_committed().await.unwrap();
                assert!(committed.is_none_or(|id| id.index <= 15));
                // It goes on from there.
                let next = found.terms.len() as u64;
                store.blocking_append([entry(9, next)]).await.unwrap();
                store.save_vote(&Vote::new(10, voter(1, 1))).await.unwrap();
                drop(store);
                disk.crash();
                let mut store = open(&disk).unwrap().store;
                let state = store.get_log_state().await.unwrap();
                assert_eq!(state.last_log_id, Some(id(9, next)));
            }
            if finished {
                assert!(operation > 60, "only {operation} operations");
                break;
            }
        }
        assert!(
            torn > 5 && after_seen > 5 && before_seen > 20,
            "{torn} {after_seen} {before_seen}"
        );
    });
}

#[test]
fn a_restarted_leader_reads_its_own_vote_as_one_that_was_not_granted() {
    paused(async {
        let disk = MemDisk::default();
        format(&disk, &dir(), identity(), None).unwrap();
        let mut store = open(&disk).unwrap().store;
        let mine = Vote::new_committed(5, voter(ME, 1));
        store.save_vote(&mine).await.unwrap();
        drop(store);
        disk.crash();
        let mut store = open(&disk).unwrap().store;
        assert_eq!(
            store.read_vote().await.unwrap(),
            Some(Vote::new(5, voter(ME, 1)))
        );
        let other = Vote::new_committed(6, voter(1, 1));
        store.save_vote(&other).await.unwrap();
        assert_eq!(store.read_vote().await.unwrap(), Some(other));
    });
}

#[test]
fn committed_entries_are_not_taken_back_and_entries_follow_each_other() {
    paused(async {
        let disk = MemDisk::default();
        format(&disk, &dir(), identity(), None).unwrap();
        let mut store = open(&disk).unwrap().store;
        let entries = (0..5).map(|index| entry(1, index));
        store
            .blocking_append(entries.collect::<Vec<_>>())
            .await
            .unwrap();
        store.save_committed(Some(id(1, 3))).await.unwrap();
        store.truncate(id(1, 3)).await.unwrap_err();
        store.truncate(id(1, 4)).await.unwrap();
        store.blocking_append([entry(2, 5)]).await.unwrap_err();
        store.blocking_append([entry(2, 4)]).await.unwrap();
    });
}

#[test]
fn nothing_is_forgotten_on_disk_before_the_snapshot_that_replaces_it_is_there() {
    paused(async {
        let disk = MemDisk::default();
        format(&disk, &dir(), identity(), None).unwrap();
        let mut store = open(&disk).unwrap().store;
        let entries = (0..5).map(|index| entry(1, index));
        store
            .blocking_append(entries.collect::<Vec<_>>())
            .await
            .unwrap();
        // As when a snapshot is being installed: the purge comes first.
        store.purge(id(2, 20)).await.unwrap();
        assert_eq!(
            store.get_log_state().await.unwrap().last_log_id,
            Some(id(2, 20))
        );
        let mut appending = store.clone();
        let after = tidemark_env::task::spawn("append", async move {
            appending.blocking_append([entry(2, 21)]).await
        });
        tokio::task::yield_now().await;
        assert!(!after.is_finished(), "it waits for the snapshot before it");
        let copy = disk.clone();
        copy.crash();
        let reopened = open(&copy).unwrap().store;
        assert_eq!(reopened.last(), Some(id(1, 4)), "nothing is gone");
        assert_eq!(reopened.purged(), None);
        // It cannot be written: what waits is told.
        store.shared.snapshot_is(Snapshotted::Failed);
        after.await.unwrap().unwrap_err();
    });
}

/// A closed log with some groups in two segments, and the paths of its files.
async fn closed() -> (MemDisk, Vec<PathBuf>) {
    let disk = MemDisk::default();
    format(&disk, &dir(), identity(), None).unwrap();
    let mut store = open(&disk).unwrap().store;
    store.set_segment_bytes(600);
    for index in 0..12 {
        store.blocking_append([entry(1, index)]).await.unwrap();
    }
    store.close().await;
    disk.restart();
    let names = disk.list(&dir()).unwrap();
    let segments: Vec<_> = names
        .iter()
        .filter(|entry| entry.name.ends_with(".raft"))
        .map(|entry| dir().join(&entry.name))
        .collect();
    assert!(segments.len() >= 3);
    (disk, segments)
}

fn damage(disk: &MemDisk, path: &Path, at: u64, byte: impl FnOnce(u8) -> u8) {
    let file = disk.open(path, OpenMode::ReadWrite).unwrap();
    let mut old = [0];
    file.read_exact_at(&mut old, at).unwrap();
    file.write_at(&[byte(old[0])], at).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn damage_is_told_from_a_torn_tail() {
    paused(async {
        // Every byte of the first segment and of the last one, but the last group.
        let (disk, segments) = closed().await;
        let first = segments[0].clone();
        let length = disk.open(&first, OpenMode::Read).unwrap().len().unwrap();
        for at in 0..length {
            damage(&disk, &first, at, |byte| byte ^ 0x10);
            let refused = open(&disk).unwrap_err();
            assert!(
                matches!(refused, StoreError::Corrupt { .. }),
                "byte {at}: {refused}"
            );
            damage(&disk, &first, at, |byte| byte ^ 0x10);
        }
        open(&disk).unwrap();
        disk.restart();
        // The end of the last one is a write that nobody was told of.
        let last = segments.last().unwrap();
        let length = disk.open(last, OpenMode::Read).unwrap().len().unwrap();
        damage(&disk, last, length - 1, |byte| byte ^ 1);
        let opened = open(&disk).unwrap();
        assert!(opened.recovery.torn_bytes > 0);
        assert_eq!(opened.store.last(), Some(id(1, 10)));
    });
}

#[test]
fn a_missing_segment_and_a_missing_log_are_damage() {
    paused(async {
        for missing in 0..2 {
            let (disk, segments) = closed().await;
            disk.remove(&segments[missing]).unwrap();
            let error = open(&disk).unwrap_err();
            assert!(
                matches!(error, StoreError::Corrupt { .. }),
                "{missing}: {error}"
            );
        }
        let (disk, segments) = closed().await;
        for segment in &segments {
            disk.remove(segment).unwrap();
        }
        let error = open(&disk).unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    });
}

#[test]
fn a_newer_format_is_refused_by_its_version() {
    paused(async {
        let (disk, segments) = closed().await;
        for path in [segments[0].clone(), dir().join("identity")] {
            let bytes = read_file(&disk, &path, 1 << 20).unwrap();
            let mut newer = bytes.to_vec();
            newer[8..12].copy_from_slice(&7u32.to_be_bytes());
            let crc = super::super::frame::crc32c(&[&newer[..12]]);
            newer[12..16].copy_from_slice(&crc.to_be_bytes());
            let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
            file.write_at(&newer, 0).unwrap();
            let refused = match path.ends_with("identity") {
                true => read_identity(&disk, &dir()).unwrap_err(),
                false => open(&disk).unwrap_err(),
            };
            let text = refused.to_string();
            assert!(
                text.contains("version 7") && text.contains("run the version"),
                "{text}"
            );
            file.write_at(&bytes, 0).unwrap();
        }
    });
}

#[test]
fn a_directory_is_opened_once_at_a_time() {
    paused(async {
        let disk = MemDisk::default();
        format(&disk, &dir(), identity(), None).unwrap();
        let opened = open(&disk).unwrap();
        assert!(matches!(open(&disk), Err(StoreError::InUse { .. })));
        opened.store.close().await;
        open(&disk).unwrap();
    });
}

#[test]
fn an_inspection_tells_what_is_committed_from_what_may_be() {
    paused(async {
        let disk = MemDisk::default();
        format(&disk, &dir(), identity(), None).unwrap();
        let mut store = open(&disk).unwrap().store;
        store.save_vote(&Vote::new(7, voter(1, 1))).await.unwrap();
        let entries = (0..6).map(|index| entry(1, index));
        store
            .blocking_append(entries.collect::<Vec<_>>())
            .await
            .unwrap();
        store.save_committed(Some(id(1, 3))).await.unwrap();
        store.close().await;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        for _ in 0..2 {
            let found = inspect(&disk, &dir()).unwrap();
            assert_eq!(found.committed.applied, Some(id(1, 3)));
            assert_eq!(found.committed.image.index(), 3);
            assert_eq!((found.last, found.uncertain_batches), (Some(id(1, 5)), 2));
            assert_eq!(found.all.image.index(), 5);
            assert_eq!(found.vote, Some(Vote::new(7, voter(1, 1))));
        }
    });
}
