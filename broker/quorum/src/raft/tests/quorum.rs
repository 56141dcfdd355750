//! Voters and observers together: elections, cuts, restarts, members that come and go.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::disk::MemDisk;
use tidemark_env::task::spawn;
use tidemark_model::{ConfigResource, Image, MetadataRecord};
use tidemark_wire::Uuid;

use super::super::*;
use super::cluster::*;
use super::*;
use crate::decide::Decision;
use tidemark_env::disk::{Fault, FaultError, FaultOp};

#[test]
fn a_quorum_of_one_begins_and_restarts_at_once() {
    paused(async {
        let mut cluster = Cluster::begin(1).await;
        let begun = clock::monotonic();
        cluster.wait_active().await;
        put(&cluster.at(0), "a").await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_millis(700),
            "no election is waited for"
        );
        for seed in 0..5 {
            cluster.kill(0, Some(seed)).await;
            cluster.start(0).await;
            let begun = clock::monotonic();
            cluster.wait_active().await;
            assert!(begun.elapsed() < Duration::from_millis(700));
            assert!(is_set(&cluster.at(0).image(), "a"));
        }
        cluster.end().await;
    });
}

#[test]
fn three_voters_elect_replicate_and_survive_the_loss_of_their_leader() {
    paused(async {
        let mut cluster = Cluster::begin(3).await;
        let first = cluster.wait_active().await;
        put(&cluster.at(first), "a").await.unwrap();
        cluster.kill(first, Some(1)).await;
        let begun = clock::monotonic();
        let second = cluster.wait_active().await;
        assert_ne!(first, second);
        assert!(
            begun.elapsed() < Duration::from_secs(9),
            "{:?}",
            begun.elapsed()
        );
        put(&cluster.at(second), "b").await.unwrap();
        cluster.start(first).await;
        cluster.settle().await;
        for id in 0..3 {
            let image = cluster.at(id).image();
            assert!(is_set(&image, "a") && is_set(&image, "b"));
        }
        // Those who do not lead say who does.
        let error = put(&cluster.at(first), "c").await.unwrap_err();
        let QuorumError::NotController {
            leader: Some((leader, _)),
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(leader.node_id, cluster.active().unwrap());
        let asked = cluster.at(first);
        let answer = asked.forward("hello".into(), Duration::from_secs(1));
        assert_eq!(answer.await.unwrap(), format!("{first} HELLO"));
        cluster.end().await;
    });
}

#[test]
fn a_leader_that_is_cut_off_stops_acting_before_another_one_acts() {
    paused(async {
        let cluster = Cluster::begin(3).await;
        let old = cluster.wait_active().await;
        put(&cluster.at(old), "a").await.unwrap();
        cluster.net.isolate(old);
        let begun = clock::monotonic();
        wait(Duration::from_secs(60), "another controller", || {
            let active: Vec<_> = (0..3)
                .filter(|id| cluster.at(*id).is_active().is_some())
                .collect();
            assert!(active.len() <= 1, "{active:?} act at once");
            active.first().copied().filter(|id| *id != old)
        })
        .await;
        assert!(cluster.at(old).is_active().is_none());
        assert!(begun.elapsed() < Duration::from_secs(12));
        // raft itself still takes it for the leader there.
        assert!(cluster.at(old).metrics().millis_since_quorum_ack.is_some());
        let refused = put(&cluster.at(old), "b").await.unwrap_err();
        assert!(
            matches!(refused, QuorumError::NotController { .. }),
            "{refused}"
        );
        cluster.net.heal();
        cluster.settle().await;
        assert!(!is_set(&cluster.at(old).image(), "b"));
        cluster.end().await;
    });
}

#[test]
fn what_is_queued_goes_into_few_entries_and_each_decides_on_those_before_it() {
    paused(async {
        let cluster = Cluster::begin(3).await;
        let active = cluster.at(cluster.wait_active().await);
        let before = active.metrics().last_log_index.unwrap();
        let mut asked = Vec::new();
        for _ in 0..500 {
            let active = active.clone();
            asked.push(spawn("put", async move {
                // Each takes the next free number: none is taken twice.
                let decide = |image: &Image| {
                    let taken = image.configs(&ConfigResource::AllBrokers).len();
                    Decision {
                        records: set(&format!("n{taken:04}")),
                        result: taken,
                    }
                };
                active.propose(decide).await.unwrap().0
            }));
        }
        let mut numbers = BTreeSet::new();
        for task in asked {
            numbers.insert(task.await.unwrap());
        }
        assert_eq!(numbers, (0..500).collect());
        let entries = active.metrics().last_log_index.unwrap() - before;
        assert!(entries < 50, "{entries} entries for 500 proposals");
        cluster.settle().await;
        cluster.end().await;
    });
}

#[test]
fn a_batch_that_contradicts_the_image_is_refused_and_changes_nothing() {
    paused(async {
        let cluster = Cluster::begin(1).await;
        let active = cluster.at(cluster.wait_active().await);
        let cluster_id = || {
            let records = vec![MetadataRecord::ClusterId {
                cluster_id: CLUSTER,
            }];
            move |_: &Image| Decision {
                records,
                result: (),
            }
        };
        active.propose(cluster_id()).await.unwrap();
        let before = active.fold();
        let error = active.propose(cluster_id()).await.unwrap_err();
        assert!(matches!(error, QuorumError::Rejected(_)), "{error}");
        assert_eq!(
            active.fold().applied,
            before.applied,
            "it was not even logged"
        );
        // The fold itself refuses, too, and by the leadership of the decision.
        let mut fold = Fold::default();
        let batch = Batch::new(vec![MetadataRecord::ClusterId {
            cluster_id: CLUSTER,
        }]);
        let entry = |index, epoch| Entry {
            log_id: LogId::new(openraft::CommittedLeaderId::new(3, voter(0, 1)), index),
            payload: EntryPayload::Normal(Proposal {
                epoch,
                batches: vec![batch.clone(), batch.clone()],
            }),
        };
        let applied = fold.apply(&entry(0, 2));
        assert!(
            applied
                .outcomes
                .iter()
                .all(|outcome| matches!(outcome, Err(Refused::Epoch { .. })))
        );
        assert_eq!(fold.image.index(), 0);
        let applied = fold.apply(&entry(1, 3));
        assert!(matches!(
            applied.outcomes[..],
            [Ok(()), Err(Refused::Rejected(_))]
        ));
        assert_eq!(fold.image.index(), 1);
        cluster.end().await;
    });
}

#[test]
fn a_wiped_directory_has_no_vote_until_the_quorum_takes_it_in() {
    paused(async {
        let mut cluster = Cluster::begin(3).await;
        let active = cluster.wait_active().await;
        put(&cluster.at(active), "a").await.unwrap();
        let lost = (active + 1) % 3;
        cluster.kill(lost, None).await;
        // An empty directory under a known id; even with the token of the beginning.
        let voters: InitialVoters = [
            (voter(active, 1), node(active)),
            (voter(lost, 2), node(lost)),
            (voter((active + 2) % 3, 1), node((active + 2) % 3)),
        ]
        .into();
        cluster.format(lost, 2, Some(&voters));
        cluster.start(lost).await;
        clock::sleep(Duration::from_secs(20)).await;
        assert_eq!(cluster.at(lost).fold().applied, None);
        assert_eq!(
            cluster.at(lost).status().last,
            None,
            "it begins no quorum of its own"
        );
        // With the third one gone it does not make a majority.
        let third = (active + 2) % 3;
        cluster.kill(third, None).await;
        wait(Duration::from_secs(30), "end of activity", || {
            cluster.active().is_none().then_some(())
        })
        .await;
        cluster.start(third).await;
        let active = cluster.wait_active().await;
        // Under its old name it is refused; the old one is removed first.
        let add = || {
            let quorum = cluster.at(active);
            async move {
                let patience = Duration::from_secs(20);
                quorum
                    .add_voter(voter(lost, 2), node(lost).address, patience)
                    .await
            }
        };
        let error = add().await.unwrap_err();
        assert!(error.to_string().contains("remove"), "{error}");
        cluster
            .at(active)
            .remove_voter(voter(lost, 1), Duration::from_secs(20))
            .await
            .unwrap();
        add().await.unwrap();
        cluster.settle().await;
        assert!(is_set(&cluster.at(lost).image(), "a"));
        let voters: BTreeSet<_> = cluster.at(active).membership().voter_ids().collect();
        assert!(voters.contains(&voter(lost, 2)) && voters.len() == 3);
        cluster.end().await;
    });
}

/// Follows on, and forwards to whoever leads.
async fn follows(cluster: &Cluster, id: i32, name: &str) {
    let active = cluster.wait_active().await;
    put(&cluster.at(active), name).await.unwrap();
    wait(Duration::from_secs(60), "the image without a vote", || {
        is_set(&cluster.at(id).image(), name).then_some(())
    })
    .await;
    let leader = cluster.at(id).leader();
    assert_eq!(leader.map(|(leader, _)| leader.node_id), Some(active));
}

fn has_a_vote(cluster: &Cluster, active: i32, id: i32) -> bool {
    let membership = cluster.at(active).membership();
    membership.voter_ids().any(|voter| voter.node_id == id)
}

#[test]
fn who_loses_its_vote_follows_on_and_gets_it_back() {
    paused(async {
        let cluster = Cluster::begin(3).await;
        let active = cluster.wait_active().await;
        // Of another, then of the one that leads.
        for gone in [(active + 1) % 3, active] {
            let leads = cluster.wait_active().await;
            let quorum = cluster.at(leads);
            let patience = Duration::from_secs(20);
            quorum.remove_voter(voter(gone, 1), patience).await.unwrap();
            // Longer than elections and sessions take.
            clock::sleep(Duration::from_secs(15)).await;
            let leads = cluster.wait_active().await;
            assert!(leads != gone && !has_a_vote(&cluster, leads, gone));
            let term = cluster.at(leads).status().term;
            follows(&cluster, gone, &format!("without {gone}")).await;
            let address = node(gone).address;
            let quorum = cluster.at(leads);
            let added = quorum.add_voter(voter(gone, 1), address, patience);
            added.await.unwrap();
            assert!(has_a_vote(&cluster, leads, gone));
            assert_eq!(cluster.at(leads).status().term, term, "no election");
            cluster.settle().await;
        }
        cluster.end().await;
    });
}

#[test]
fn who_was_taken_out_while_away_follows_again_when_it_is_back() {
    paused(async {
        let mut cluster = Cluster::begin(3).await;
        cluster.settle().await;
        let active = cluster.wait_active().await;
        let away = (active + 1) % 3;
        cluster.kill(away, None).await;
        let patience = Duration::from_secs(20);
        let quorum = cluster.at(active);
        quorum.remove_voter(voter(away, 1), patience).await.unwrap();
        let members = cluster.at(active).membership().nodes().count();
        assert_eq!(members, 2, "it was not there");
        cluster.start(away).await;
        follows(&cluster, away, "back").await;
        let active = cluster.wait_active().await;
        assert!(!has_a_vote(&cluster, active, away));
        // Now it goes for good, as far as the leader can tell.
        cluster.kill(away, None).await;
        wait(Duration::from_secs(600), "end of its membership", || {
            let active = cluster.active()?;
            let members = cluster.at(active).membership().nodes().count();
            (members == 2).then_some(())
        })
        .await;
        cluster.start(away).await;
        follows(&cluster, away, "again").await;
        cluster.end().await;
    });
}

#[test]
fn another_directory_of_a_learner_takes_its_place() {
    paused(async {
        let mut cluster = Cluster::begin(3).await;
        let active = cluster.wait_active().await;
        let wiped = (active + 1) % 3;
        let patience = Duration::from_secs(20);
        let quorum = cluster.at(active);
        let removed = quorum.remove_voter(voter(wiped, 1), patience);
        removed.await.unwrap();
        assert_eq!(quorum.membership().nodes().count(), 3, "it follows on");
        cluster.kill(wiped, None).await;
        cluster.format(wiped, 2, None);
        cluster.start(wiped).await;
        let address = node(wiped).address;
        let added = quorum.add_voter(voter(wiped, 2), address, patience);
        added.await.unwrap();
        let members: BTreeSet<_> = quorum.membership().nodes().map(|(id, _)| *id).collect();
        assert!(members.contains(&voter(wiped, 2)) && members.len() == 3);
        cluster.settle().await;
        cluster.end().await;
    });
}

#[test]
fn observers_follow_from_entries_or_a_snapshot_and_go_on_at_another_voter() {
    paused(async {
        let mut cluster = Cluster::begin(3).await;
        cluster.snapshot_after_bytes = 4096;
        let active = cluster.wait_active().await;
        let (early, early_folds) = cluster.observe(7);
        for n in 0..600 {
            put(&cluster.at(active), &format!("k{n}")).await.unwrap();
        }
        cluster.settle().await;
        for id in 0..3 {
            cluster.at(id).snapshot().await.unwrap();
        }
        wait(Duration::from_secs(10), "purge", || {
            (0..3)
                .all(|id| cluster.at(id).metrics().purged.is_some())
                .then_some(())
        })
        .await;
        let (late, late_folds) = cluster.observe(8);
        let reached = |folds: &tokio::sync::watch::Receiver<Fold>, name: &str| {
            is_set(&folds.borrow().image, name).then_some(())
        };
        wait(Duration::from_secs(10), "early", || {
            reached(&early_folds, "k599")
        })
        .await;
        wait(Duration::from_secs(10), "late", || {
            reached(&late_folds, "k599")
        })
        .await;
        // The voter that it follows goes.
        let followed = 8 % 3;
        cluster.kill(followed, None).await;
        let active = cluster.wait_active().await;
        put(&cluster.at(active), "last").await.unwrap();
        wait(Duration::from_secs(60), "late again", || {
            reached(&late_folds, "last")
        })
        .await;
        wait(Duration::from_secs(60), "early again", || {
            reached(&early_folds, "last")
        })
        .await;
        early.abort();
        late.abort();
        cluster.end().await;
    });
}

#[test]
fn a_voter_far_behind_gets_a_snapshot_and_restarts_from_it() {
    paused(async {
        let mut cluster = Cluster::begin(3).await;
        let active = cluster.wait_active().await;
        let behind = (active + 1) % 3;
        cluster.kill(behind, None).await;
        for n in 0..500 {
            put(&cluster.at(active), &format!("k{n}")).await.unwrap();
        }
        for id in cluster.running() {
            cluster.at(id).snapshot().await.unwrap();
        }
        wait(Duration::from_secs(10), "purge", || {
            cluster.at(active).metrics().purged.map(|_| ())
        })
        .await;
        cluster.start(behind).await;
        cluster.settle().await;
        assert!(cluster.at(behind).metrics().snapshot.is_some());
        cluster.kill(behind, Some(5)).await;
        cluster.start(behind).await;
        assert!(
            is_set(&cluster.at(behind).image(), "k0"),
            "from its snapshot at once"
        );
        cluster.settle().await;
        cluster.end().await;
    });
}

#[test]
fn another_cluster_and_an_unformatted_directory_are_refused() {
    paused(async {
        let cluster = Cluster::begin(1).await;
        cluster.wait_active().await;
        let dial = || {
            Arc::new(NetDial {
                net: cluster.net.clone(),
                from: 5,
            })
        };
        let mut config = QuorumConfig::new(dir(), Uuid([3; 16]), 5);
        config.inline = true;
        let disk = Arc::new(MemDisk::default());
        let start = Quorum::start(disk.clone(), dial(), config.clone(), Arc::new(NoForwarding));
        let error = start.await.unwrap_err();
        assert!(error.to_string().contains("not formatted"), "{error}");
        let identity = VoterIdentity {
            cluster_id: CLUSTER,
            voter: voter(5, 1),
        };
        format(&*disk, Path::new("/raft"), identity, None).unwrap();
        let start = Quorum::start(disk.clone(), dial(), config.clone(), Arc::new(NoForwarding));
        let error = start.await.unwrap_err();
        assert!(error.to_string().contains("belongs to cluster"), "{error}");
        let again = format(&*disk, Path::new("/raft"), identity, None).unwrap_err();
        assert!(matches!(again, StoreError::Formatted { .. }));
        let other = Arc::new(MemDisk::default());
        let identity = VoterIdentity {
            cluster_id: Uuid([3; 16]),
            voter: voter(5, 1),
        };
        format(&*other, Path::new("/raft"), identity, None).unwrap();
        let stranger = Quorum::start(other, dial(), config, Arc::new(NoForwarding))
            .await
            .unwrap();
        let asked = stranger.status_of("node-0", Duration::from_secs(1)).await;
        let error = asked.unwrap_err().to_string();
        assert!(error.contains("is of cluster"), "{error}");
        stranger.close().await;
        cluster.end().await;
    });
}

#[test]
fn a_voter_whose_disk_has_failed_tells_observers_so_instead_of_nothing_at_once() {
    paused(async {
        let mut cluster = Cluster::begin(1).await;
        cluster.wait_active().await;
        put(&cluster.at(0), "a").await.unwrap();
        let (observer, folds) = cluster.observe(7);
        let patience = Duration::from_secs(20);
        wait(patience, "observer", || {
            is_set(&folds.borrow().image, "a").then_some(())
        })
        .await;
        cluster.disks[&0].inject(Fault {
            op: FaultOp::Sync,
            path_contains: String::new(),
            after: 0,
            times: u32::MAX,
            error: FaultError::Eio,
        });
        put(&cluster.at(0), "b").await.unwrap_err();
        let quorum = cluster.at(0);
        wait(patience, "failure", || quorum.has_failed().then_some(())).await;
        // The clock of this test moves only while nobody is busy.
        clock::sleep(Duration::from_secs(60)).await;
        observer.abort();
    });
}

#[test]
fn one_directory_goes_on_alone_after_the_majority_is_lost_and_takes_others_in_again() {
    paused(async {
        for snapshot_after_bytes in [1 << 20, 500] {
            let mut cluster = Cluster::begin(3).await;
            cluster.snapshot_after_bytes = snapshot_after_bytes;
            let leader = cluster.wait_active().await;
            put(&cluster.at(leader), "a").await.unwrap();
            cluster.settle().await;
            let survivor = (leader + 1) % 3;
            for id in 0..3 {
                cluster.kill(id, Some(1)).await;
            }
            // Started again alone it never leads: it does not know what the others have.
            cluster.start(survivor).await;
            clock::sleep(Duration::from_secs(30)).await;
            assert_eq!(cluster.active(), None);
            let disk: Arc<dyn tidemark_env::disk::Disk> =
                Arc::new(cluster.disks[&survivor].clone());
            let in_use = force(&disk, &dir()).unwrap_err();
            assert!(matches!(in_use, StoreError::InUse { .. }), "{in_use}");
            cluster.kill(survivor, None).await;

            let disk: Arc<dyn tidemark_env::disk::Disk> =
                Arc::new(cluster.disks[&survivor].clone());
            let found = inspect(&disk, &dir()).unwrap();
            assert!(is_set(&found.all.image, "a"));
            let identity = force(&disk, &dir()).unwrap();
            assert_eq!(identity.voter, voter(survivor, 1));
            drop(disk);
            cluster.disks[&survivor].crash_torn(2);
            cluster.start(survivor).await;
            assert_eq!(cluster.wait_active().await, survivor);
            assert!(is_set(&cluster.at(survivor).image(), "a"));
            put(&cluster.at(survivor), "b").await.unwrap();

            // Another node, with a directory of its own.
            let newcomer = (survivor + 1) % 3;
            cluster.format(newcomer, 2, None);
            cluster.start(newcomer).await;
            let leading = cluster.at(survivor);
            let patience = Duration::from_secs(30);
            leading
                .add_voter(voter(newcomer, 2), node(newcomer).address, patience)
                .await
                .unwrap();
            put(&leading, "c").await.unwrap();
            drop(leading);
            cluster.settle().await;
            assert!(is_set(&cluster.at(newcomer).image(), "b"));
            cluster.end().await;
        }
    });
}

#[test]
fn a_directory_that_was_in_no_quorum_is_not_gone_on_from() {
    paused(async {
        let mut cluster = Cluster::new();
        cluster.format(0, 1, None);
        let disk: Arc<dyn tidemark_env::disk::Disk> = Arc::new(cluster.disks[&0].clone());
        let error = force(&disk, &dir()).unwrap_err();
        assert!(
            matches!(error, StoreError::NotAVoter { node_id: 0, .. }),
            "{error}"
        );
    });
}
