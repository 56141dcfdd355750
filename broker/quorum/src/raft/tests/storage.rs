//! openraft's own suite over this storage.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use tidemark_env::disk::MemDisk;
use tidemark_wire::Uuid;

use super::super::store::Snapshotted;
use super::super::types::{StorageError, VoterId};
use super::super::*;
use super::*;

impl From<u64> for VoterId {
    fn from(id: u64) -> VoterId {
        match id {
            // The suite takes this for the default.
            0 => VoterId::default(),
            id => voter(i32::try_from(id).unwrap(), 1),
        }
    }
}

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, Machine> for Stores {
    async fn build(&self) -> Result<((), LogStore, Machine), StorageError> {
        let disk = Arc::new(MemDisk::default());
        let dir = Path::new("/raft");
        let voter = voter(77, 1);
        let identity = VoterIdentity {
            cluster_id: Uuid([1; 16]),
            voter,
        };
        format(&*disk, dir, identity, None).unwrap();
        let opened = LogStore::open(disk, dir, voter, true).unwrap();
        let (machine, _) = Machine::new(&opened.store, opened.fold);
        Ok(((), opened.store, machine))
    }
}

type Ours = Suite<TypeConfig, LogStore, Machine, Stores, ()>;

fn run<F: Future<Output = Result<(), StorageError>>>(test: impl FnOnce(LogStore, Machine) -> F) {
    paused(async {
        let ((), store, machine) = Stores.build().await.unwrap();
        // The suite purges without snapshots; here a purge waits for one.
        let far = LogId::new(
            openraft::CommittedLeaderId::new(u64::MAX, voter(0, 1)),
            u64::MAX,
        );
        store.shared.snapshot_is(Snapshotted::Through(Some(far)));
        test(store, machine).await.unwrap();
    });
}

// All of them but `get_initial_state_membership_from_log_and_sm`, which appends entries that
// do not follow each other: this log refuses them.
#[test]
fn openrafts_own_suite_passes() {
    run(Ours::last_membership_in_log_initial);
    run(Ours::last_membership_in_log);
    run(Ours::last_membership_in_log_multi_step);
    run(Ours::get_membership_initial);
    run(Ours::get_membership_from_log_and_empty_sm);
    run(Ours::get_membership_from_empty_log_and_sm);
    run(Ours::get_membership_from_log_le_sm_last_applied);
    run(Ours::get_membership_from_log_gt_sm_last_applied_1);
    run(Ours::get_membership_from_log_gt_sm_last_applied_2);
    run(Ours::get_initial_state_without_init);
    run(Ours::get_initial_state_with_state);
    run(Ours::get_initial_state_last_log_gt_sm);
    run(Ours::get_initial_state_last_log_lt_sm);
    run(Ours::get_initial_state_log_ids);
    run(Ours::get_initial_state_re_apply_committed);
    run(Ours::save_vote);
    run(Ours::get_log_entries);
    run(Ours::limited_get_log_entries);
    run(Ours::try_get_log_entry);
    run(Ours::initial_logs);
    run(Ours::get_log_state);
    run(Ours::get_log_id);
    run(Ours::last_id_in_log);
    run(Ours::last_applied_state);
    run(Ours::purge_logs_upto_0);
    run(Ours::purge_logs_upto_5);
    run(Ours::purge_logs_upto_20);
    run(Ours::delete_logs_since_11);
    run(Ours::delete_logs_since_0);
    run(Ours::append_to_log);
    run(Ours::snapshot_meta);
    run(Ours::apply_single);
    run(Ours::apply_multiple);
    paused(async { Ours::transfer_snapshot(&Stores).await.unwrap() });
}
