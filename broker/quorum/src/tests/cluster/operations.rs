//! Features, cordons and removal, leases, deletion as a job.

use super::*;
use tidemark_model::FeatureRange;

#[test]
fn features_go_up_where_every_broker_has_the_level_and_down_on_demand() {
    let mut cluster = Cluster::of(0);
    for (id, max) in [(0, 3), (1, 2)] {
        let join = Join {
            features: vec![FeatureRange {
                name: "f".into(),
                min: 1,
                max,
            }],
            ..join_of(id, 1, disk_of(id), None)
        };
        cluster.join_as(&join).unwrap();
    }
    let update = |cluster: &mut Cluster, name: &str, level, upgrade_type| {
        let update = FeatureUpdate {
            name: name.into(),
            level,
            upgrade_type,
        };
        let decision = update_features(&cluster.image, &[update], false);
        cluster.fold(&decision.records);
        code(decision.result[0].clone())
    };
    use UpgradeType::{SafeDowngrade, UnsafeDowngrade, Upgrade};
    for (name, level, upgrade_type, expected) in [
        ("f", 3, Upgrade, ErrorCode::InvalidUpdateVersion),
        ("g", 1, Upgrade, ErrorCode::InvalidUpdateVersion),
        ("f", -1, Upgrade, ErrorCode::InvalidUpdateVersion),
        ("f", 2, Upgrade, ErrorCode::None),
        ("f", 1, Upgrade, ErrorCode::InvalidUpdateVersion),
        ("f", 1, SafeDowngrade, ErrorCode::None),
        ("f", 2, SafeDowngrade, ErrorCode::InvalidUpdateVersion),
        ("f", 0, UnsafeDowngrade, ErrorCode::None),
    ] {
        let got = update(&mut cluster, name, level, upgrade_type);
        assert_eq!(got, expected, "{name} {level} {upgrade_type:?}");
    }
    assert_eq!(cluster.image.feature("f"), 0);
    // All or none, and none when it is only asked.
    let good = FeatureUpdate {
        name: "f".into(),
        level: 1,
        upgrade_type: Upgrade,
    };
    let bad = FeatureUpdate {
        name: "g".into(),
        ..good
    };
    let only_asked = update_features(&cluster.image, std::slice::from_ref(&good), true);
    assert!(only_asked.records.is_empty() && only_asked.result[0].is_ok());
    let both = update_features(&cluster.image, &[good, bad], false);
    assert!(both.records.is_empty() && both.result[0].is_ok());
}

#[test]
fn a_broker_is_removed_when_it_is_empty_and_stopped() {
    let mut cluster = Cluster::of(3);
    cluster.topic("t", &[&[0, 1]]);
    let remove = |cluster: &mut Cluster| {
        let decision = unregister_broker(&cluster.image, 1);
        cluster.fold(&decision.records);
        code(decision.result)
    };
    let cordoned = cordon_broker(&cluster.image, 1, true);
    cluster.fold(&cordoned.records);
    assert!(cordon_broker(&cluster.image, 1, true).records.is_empty());
    assert_eq!(
        remove(&mut cluster),
        ErrorCode::InvalidRequest,
        "it holds replicas"
    );
    let id = cluster.image.topic("t").unwrap().id;
    cluster.reassign("t", 0, Some(&[0, 2])).unwrap();
    let told = code(cluster.alter(id, &[0, 1, 2]));
    assert_eq!(told, ErrorCode::FencedLeaderEpoch, "1 is gone");
    assert_eq!(remove(&mut cluster), ErrorCode::InvalidRequest, "it runs");
    cluster.restart(1);
    assert!(
        cluster.image.broker(1).unwrap().cordoned,
        "a cordon survives a restart"
    );
    cluster.fence(&[1]);
    assert_eq!(remove(&mut cluster), ErrorCode::None);
    assert_eq!(remove(&mut cluster), ErrorCode::BrokerIdNotRegistered);
    let unknown = cordon_broker(&cluster.image, 1, true);
    assert_eq!(code(unknown.result), ErrorCode::BrokerIdNotRegistered);
}

#[test]
fn producer_ids_are_for_brokers_of_their_epoch() {
    let mut cluster = Cluster::of(2);
    let first = allocate_producer_ids(&cluster.image, 0, cluster.epoch(0));
    let second = allocate_producer_ids(&cluster.image, 1, cluster.epoch(1));
    cluster.fold(&first.records);
    assert!(
        cluster.try_fold(&second.records).is_err(),
        "decided on the same image, they are the same ids"
    );
    cluster.restart(0);
    let old = allocate_producer_ids(&cluster.image, 0, cluster.epoch(0) - 1);
    assert_eq!(code(old.result), ErrorCode::StaleBrokerEpoch);
}

#[test]
fn brokers_may_be_stopped_while_enough_stay_in_sync() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1, 2]]);
    cluster.topic("elsewhere", &[&[2]]);
    let request = |cluster: &Cluster, broker_id, token: u8| Disruption {
        broker_id,
        broker_epoch: cluster.epoch(broker_id),
        token: Uuid([token; 16]),
        ttl_ms: 500,
    };
    let begin = |cluster: &mut Cluster, now_ms, request| {
        let decision = begin_disruption(&cluster.image, context(), now_ms, request);
        cluster.fold(&decision.records);
        decision.result
    };
    let first = request(&cluster, 0, 1);
    assert_eq!(begin(&mut cluster, 100, first), Ok(600));
    let second = request(&cluster, 1, 2);
    assert_eq!(
        begin(&mut cluster, 100, second),
        Err(DisruptionRefused::Partitions(vec![first_of(id)])),
        "only 2 would be left"
    );
    let third = request(&cluster, 2, 2);
    assert!(matches!(
        begin(&mut cluster, 100, third),
        Err(DisruptionRefused::Partitions(falls)) if falls.len() == 2
    ));
    let others = Disruption {
        token: Uuid([3; 16]),
        ..first
    };
    assert_eq!(
        begin(&mut cluster, 100, others),
        Err(DisruptionRefused::Held { until_ms: 600 })
    );
    assert_eq!(begin(&mut cluster, 200, first), Ok(700), "one's own again");
    let stale = Disruption {
        broker_epoch: first.broker_epoch - 1,
        ..first
    };
    assert!(matches!(
        begin(&mut cluster, 200, stale),
        Err(DisruptionRefused::Refused(refusal)) if refusal.code == ErrorCode::StaleBrokerEpoch
    ));
    // A restart keeps the lease. When its time has come, the next may go, and who has it
    // is gone from metadata.
    cluster.restart(0);
    cluster.alter(id, &[1, 2, 0]).unwrap();
    assert!(begin(&mut cluster, 699, second).is_err());
    assert!(sweep_leases(&cluster.image, 699).is_empty());
    assert_eq!(begin(&mut cluster, 700, second), Ok(1200));
    let swept = sweep_leases(&cluster.image, 700);
    cluster.fold(&swept);
    assert!(cluster.image.lease(0).is_none() && cluster.image.lease(1).is_some());
    assert!(end_disruption(&cluster.image, 1, Uuid([1; 16])).is_empty());
    let ended = end_disruption(&cluster.image, 1, Uuid([2; 16]));
    cluster.fold(&ended);
    assert_eq!(cluster.image.leases().count(), 0);
}

#[test]
fn two_leases_decided_on_one_image_are_not_both_granted() {
    let mut cluster = Cluster::of(3);
    cluster.topic("t", &[&[0, 1, 2]]);
    let decide = |broker_id| {
        let request = Disruption {
            broker_id,
            broker_epoch: cluster.epoch(broker_id),
            token: Uuid([7; 16]),
            ttl_ms: 500,
        };
        let decision = begin_disruption(&cluster.image, context(), 0, request);
        decision.result.unwrap();
        decision.records
    };
    let (first, second) = (decide(0), decide(1));
    cluster.fold(&first);
    assert!(matches!(
        cluster.try_fold(&second),
        Err(Rejected::Outdated { .. })
    ));
}

#[test]
fn a_deletion_is_a_job_until_every_broker_has_done_it() {
    let mut cluster = Cluster::of(3);
    let id = cluster.topic("t", &[&[0, 1], &[1, 2]]);
    let decision =
        begin_topic_deletions(&cluster.image, &settings(), &[TopicName::Name("t".into())]);
    cluster.fold(&decision.records);
    let job = cluster.image.deletion(id).unwrap();
    assert_eq!(
        (job.partitions, job.brokers.as_slice()),
        (2, &[0, 1, 2][..])
    );
    // The name is free at once, the id is not.
    let again = create_topics(
        &cluster.image,
        context(),
        &settings(),
        &[super::super::new_topic("t", 1, 1)],
        false,
        {
            let mut ids = vec![Uuid([50; 16]), id];
            move || ids.pop().unwrap()
        },
    );
    assert_eq!(again.result[0].clone().unwrap().topic_id, Uuid([50; 16]));
    for broker in [2, 0, 1] {
        let records = confirm_deletions(&cluster.image, broker, &[id, id, Uuid([1; 16])]);
        assert_eq!(records.len(), 1);
        cluster.fold(&records);
        assert!(confirm_deletions(&cluster.image, broker, &[id]).is_empty());
    }
    assert_eq!(cluster.image.deletions().count(), 0);
}
