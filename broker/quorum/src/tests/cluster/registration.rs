//! Identities of processes and disks.

use super::*;

#[test]
fn a_new_process_leads_nothing_until_it_has_caught_up() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    let (old, registered) = (cluster.epoch(0), cluster.state(id, 0));
    let new = cluster.join(0, 2, 0, Some(old)).unwrap();
    assert!(new > old);
    let state = cluster.state(id, 0);
    assert_eq!((state.leader, state.isr), (1, vec![1, 2]));
    assert_eq!(state.leader_epoch, registered.leader_epoch + 1);
    // The image of before its registration is not enough.
    let early = Heartbeat {
        image_index: cluster.image.index() - 1,
        ..cluster.heartbeat(0)
    };
    let answer = cluster.send(&early).unwrap();
    assert!(answer.is_fenced && !answer.is_caught_up);
    assert!(!cluster.beat(0).is_fenced);
    assert_eq!(cluster.state(id, 0).leader, 1, "its place was taken");
}

#[test]
fn the_only_one_that_holds_a_partition_leads_it_again_in_a_new_epoch() {
    let mut cluster = Cluster::of(2);
    let id = cluster.topic("t", &[&[0]]);
    let old = cluster.epoch(0);
    cluster.join(0, 2, 0, Some(old)).unwrap();
    assert_eq!(cluster.brief(id), (NO_LEADER, vec![], vec![0]));
    cluster.beat(0);
    assert_eq!(cluster.brief(id), (0, vec![0], vec![]));
    assert_eq!(cluster.state(id, 0).leader_epoch, 2);
}

#[test]
fn without_the_epoch_bump_the_fold_refuses_a_registration() {
    let mut cluster = Cluster::of(2);
    cluster.topic("t", &[&[0, 1]]);
    let join = join_of(0, 2, 0, Some(cluster.epoch(0)));
    let decision = register(&cluster.image, context(), &cluster.sessions, 0, &join);
    assert!(cluster.image.apply(&decision.records[..1]).is_err());
    assert!(cluster.image.apply(&decision.records).is_ok());
}

#[test]
fn the_same_process_gets_the_same_epoch() {
    let mut cluster = Cluster::of(1);
    let (epoch, index) = (cluster.epoch(0), cluster.image.index());
    assert_eq!(cluster.join(0, 1, 0, Some(epoch)).unwrap(), epoch);
    assert_eq!(cluster.image.index(), index, "nothing is written");
}

#[test]
fn the_same_process_is_reached_elsewhere_and_leads_on() {
    let mut cluster = Cluster::of(2);
    let id = cluster.topic("t", &[&[0, 1]]);
    let (epoch, before) = (cluster.epoch(0), cluster.state(id, 0));
    let mut join = join_of(0, 1, 0, Some(epoch));
    join.registration.endpoints[0].port = 31_092;
    let decision = register(&cluster.image, context(), &cluster.sessions, 0, &join);
    assert_eq!(decision.result.unwrap(), epoch);
    let image = cluster.image.apply(&decision.records).unwrap();
    let broker = image.broker(0).unwrap();
    assert_eq!((broker.epoch, broker.fenced), (epoch, false));
    assert_eq!(broker.endpoints[0].port, 31_092);
    assert_eq!(**image.partition(id, 0).unwrap(), before);
}

#[test]
fn the_disk_takes_the_session_along_and_another_disk_waits_for_its_end() {
    let mut cluster = Cluster::of(2);
    let epoch = cluster.epoch(0);
    assert_eq!(
        code(cluster.join(0, 2, 90, None)),
        ErrorCode::DuplicateBrokerRegistration
    );
    cluster.now_ms += SESSION_MS;
    assert_eq!(
        code(cluster.join(0, 2, 90, None)),
        ErrorCode::DuplicateBrokerRegistration
    );
    let mut by_disk = cluster.clone();
    assert!(by_disk.join(0, 2, 0, Some(epoch)).is_ok());
    cluster.now_ms += 1;
    assert!(cluster.join(0, 2, 90, None).is_ok());
}

#[test]
fn a_lost_or_rolled_back_disk_is_out_of_every_isr_and_elr() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.restart(0);
    cluster.alter(id, &[1, 2, 0]).unwrap();
    let epoch = cluster.epoch(0);
    // Below min ISR, so that all three count.
    cluster.fence(&[1, 2]);
    assert_eq!(cluster.brief(id), (0, vec![0], vec![1, 2]));
    let after = |disk: u16, recorded: Option<BrokerEpoch>| {
        let mut cluster = cluster.clone();
        cluster.now_ms += SESSION_MS + 1;
        cluster.join(0, 500, disk, recorded).unwrap();
        let state = cluster.state(id, 0);
        (state.isr, state.elr, state.last_known_elr)
    };
    let kept = (vec![], vec![0, 1, 2], vec![]);
    let lost = (vec![], vec![1, 2], vec![0]);
    assert_eq!(after(0, Some(epoch)), kept);
    assert_eq!(after(0, Some(epoch - 1)), lost, "rolled back");
    assert_eq!(after(0, None), lost, "emptied");
    assert_eq!(after(91, Some(epoch)), lost, "another disk");
}

#[test]
fn an_epoch_in_which_it_was_never_unfenced_needs_not_be_on_disk() {
    let mut cluster = Cluster::of(2);
    let id = cluster.topic("t", &[&[0]]);
    let used = cluster.epoch(0);
    // It registers, and crashes before it has written its epoch down.
    cluster.join(0, 2, 0, Some(used)).unwrap();
    cluster.join(0, 3, 0, Some(used)).unwrap();
    assert_eq!(cluster.brief(id).2, [0]);
    // Once it was unfenced, its disk has to know.
    cluster.beat(0);
    cluster.join(0, 4, 0, Some(used)).unwrap();
    assert!(cluster.brief(id).2.is_empty());
}

#[test]
fn foreign_disks_clusters_and_features_are_refused() {
    let mut cluster = Cluster::of(2);
    let good = join_of(5, 1, 50, None);
    let mut other_cluster = good.clone();
    other_cluster.cluster_id = Uuid([1; 16]);
    let mut other_broker = good.clone();
    other_broker.recorded[0].broker_id = 6;
    let mut copied = good.clone();
    copied.registration.directories = vec![directory(1)];
    let future = join_of(0, 9, 0, Some(cluster.epoch(0) + 1));
    for (join, expected) in [
        (&other_cluster, ErrorCode::InconsistentClusterId),
        (&other_broker, ErrorCode::InvalidRegistration),
        (&copied, ErrorCode::InvalidRegistration),
        (&future, ErrorCode::InvalidRegistration),
    ] {
        assert_eq!(code(cluster.join_as(join)), expected);
    }
    cluster.fold(&[MetadataRecord::FeatureLevel {
        name: "f".into(),
        level: 2,
    }]);
    assert_eq!(code(cluster.join_as(&good)), ErrorCode::UnsupportedVersion);
    let has_it = Join {
        features: vec![tidemark_model::FeatureRange {
            name: "f".into(),
            min: 1,
            max: 2,
        }],
        ..good
    };
    assert!(cluster.join_as(&has_it).is_ok());
}
