//! Who may lead a partition, who is in its ISR and its ELR, and what a lease rests on.

use super::*;

#[test]
fn a_new_incarnation_must_not_continue_its_leader_epochs() {
    let image = image_with_one_topic();
    let anew = register(0, 2, 5, Some(1));
    assert!(matches!(
        image.apply(std::slice::from_ref(&anew)),
        Err(Rejected::LeaderEpochKept { broker_id: 0, .. })
    ));
    // Bumping the epoch with the same leader is enough, and so is another leader.
    for leader in [0, 1] {
        let bumped = leader_changed(1, 0, leader, 1, &[0, 1]);
        let next = image.apply(&[anew.clone(), bumped]).unwrap();
        assert_eq!(next.partition(topic_id(1), 0).unwrap().leader_epoch, 1);
        assert_eq!(next.broker(0).unwrap().epoch, 5);
    }
    // The same process may be reached elsewhere, and goes on; another one may not in its name.
    let moved = |incarnation| {
        let mut record = register(0, incarnation, 1, Some(1));
        if let MetadataRecord::BrokerRegistered { endpoints, .. } = &mut record {
            endpoints[0].port = 9999;
        }
        record
    };
    let next = image.apply(&[moved(1)]).unwrap();
    assert_eq!(next.broker(0).unwrap().endpoints[0].port, 9999);
    assert_eq!(next.broker(0).unwrap().epoch, 1);
    assert_eq!(
        next.partition(topic_id(1), 0),
        image.partition(topic_id(1), 0)
    );
    assert!(matches!(
        image.apply(&[moved(2)]),
        Err(Rejected::BrokerEpochNotRaised { broker_id: 0, .. })
    ));
    // The same process registering again keeps its epochs.
    assert!(image.apply(&[register(0, 1, 5, Some(1))]).is_ok());
    // One that leads nothing has nothing to bump.
    assert!(image.apply(&[register(1, 2, 5, Some(2))]).is_ok());
    // A broker does not leave while it holds replicas.
    let left = MetadataRecord::BrokerUnregistered {
        broker_id: 0,
        broker_epoch: 1,
    };
    let moved = |replicas| MetadataRecord::PartitionChanged {
        topic_id: topic_id(1),
        partition: 0,
        expected_epoch: 0,
        leader: 1,
        leader_epoch: 1,
        isr: vec![1],
        elr: Vec::new(),
        replicas,
        last_known_elr: Vec::new(),
        reassignment: None,
        joined: Vec::new(),
        unclean: false,
    };
    assert!(matches!(
        image.apply(&[left.clone(), moved(None)]),
        Err(Rejected::KeptIn {
            role: "replicas",
            ..
        })
    ));
    let image = image.apply(&[left, moved(Some(vec![1]))]).unwrap();
    assert_eq!((image.replica_count(0), image.replica_count(1)), (0, 1));
}

/// A change of partition 0 of topic 1, whose state is `image`'s but for what `change` does.
fn changed(
    image: &Image,
    change: impl FnOnce(&mut Partition),
    joined: &[(BrokerId, i64)],
    unclean: bool,
) -> Result<Image, Rejected> {
    let before = image.partition(topic_id(1), 0).unwrap();
    let mut after = (**before).clone();
    change(&mut after);
    if unclean {
        after.unclean_epoch = after.leader_epoch;
    }
    let at = TopicPartition {
        topic_id: topic_id(1),
        partition: 0,
    };
    let epoch_of = |id| joined.iter().find(|(b, _)| *b == id).map(|(_, e)| *e);
    image.apply(&[MetadataRecord::partition_change(
        at, before, after, epoch_of,
    )])
}

#[test]
fn nobody_is_taken_to_hold_what_it_was_not_known_to_hold() {
    let image = image_with_one_topic();
    let lead = |leader: BrokerId, isr: &[BrokerId], elr: &[BrokerId]| {
        let (isr, elr) = (isr.to_vec(), elr.to_vec());
        move |p: &mut Partition| {
            p.leader_epoch += i32::from(p.leader != leader);
            p.leader = leader;
            p.isr = isr;
            p.elr = elr;
        }
    };
    let only_0 = changed(&image, lead(0, &[0], &[]), &[], false).unwrap();
    // Broker 1 is out: no clean leader, not eligible, and back only by its present epoch.
    for bad in [
        changed(&only_0, lead(1, &[1, 0], &[]), &[(1, 2)], false),
        changed(&only_0, lead(0, &[0], &[1]), &[], false),
        changed(&only_0, lead(0, &[0, 1], &[]), &[], false),
        changed(&only_0, lead(0, &[0, 1], &[]), &[(1, 1)], false),
        changed(&only_0, |_| {}, &[], true),
    ] {
        assert!(bad.is_err());
    }
    assert!(changed(&only_0, lead(0, &[0, 1], &[]), &[(1, 2)], false).is_ok());
    let unclean = changed(&only_0, lead(1, &[1], &[]), &[(1, 2)], true).unwrap();
    assert_eq!(unclean.partition(topic_id(1), 0).unwrap().unclean_epoch, 1);
    let eligible = changed(&image, lead(0, &[0], &[1]), &[], false).unwrap();
    let elected = changed(&eligible, lead(1, &[1], &[]), &[(1, 2)], false).unwrap();
    assert_eq!(elected.partition(topic_id(1), 0).unwrap().unclean_epoch, -1);
    // One that is down does not come back into the ISR.
    for down in [
        MetadataRecord::BrokerFenced {
            broker_id: 1,
            broker_epoch: 2,
            fenced: true,
        },
        MetadataRecord::BrokerShuttingDown {
            broker_id: 1,
            broker_epoch: 2,
        },
    ] {
        assert!(
            matches!(
                image.apply(std::slice::from_ref(&down)),
                Err(Rejected::KeptIn { role: "ISR", .. })
            ),
            "who is down is in no ISR"
        );
        let down = only_0.apply(&[down]).unwrap();
        assert!(changed(&down, lead(0, &[0, 1], &[]), &[(1, 2)], false).is_err());
    }
}

#[test]
fn lost_logs_are_in_no_isr_and_no_elr() {
    let image = image_with_one_topic();
    let eligible = changed(
        &image,
        |p| {
            p.isr = vec![0];
            p.elr = vec![1];
        },
        &[],
        false,
    )
    .unwrap();
    let again = |lost: bool, directory: u8| {
        let mut record = register(1, 2, 5, Some(2));
        if let MetadataRecord::BrokerRegistered {
            logs_lost,
            directories,
            ..
        } = &mut record
        {
            *logs_lost = lost;
            *directories = vec![Uuid([directory; 16])];
        }
        record
    };
    assert!(eligible.apply(&[again(false, 9)]).is_ok());
    for lost in [again(true, 9), again(false, 8)] {
        assert!(matches!(
            eligible.apply(std::slice::from_ref(&lost)),
            Err(Rejected::KeptIn { role: "ELR", .. })
        ));
        let out = MetadataRecord::PartitionChanged {
            topic_id: topic_id(1),
            partition: 0,
            expected_epoch: 1,
            leader: 0,
            leader_epoch: 0,
            isr: vec![0],
            elr: Vec::new(),
            replicas: None,
            last_known_elr: vec![1],
            reassignment: None,
            joined: Vec::new(),
            unclean: false,
        };
        assert!(eligible.apply(&[lost, out]).is_ok());
    }
}

#[test]
fn a_lease_is_granted_on_the_image_it_was_decided_on() {
    let image = image_with_one_topic();
    let grant = |token: u8, decided_at| MetadataRecord::DisruptionGranted {
        broker_id: 0,
        broker_epoch: 1,
        token: Uuid([token; 16]),
        expires_at_ms: 7,
        decided_at: Some(decided_at),
    };
    assert!(matches!(
        image.apply(&[grant(1, 0)]),
        Err(Rejected::Outdated { .. })
    ));
    let leased = image.apply(&[grant(1, 1)]).unwrap();
    assert_eq!(leased.lease(0).unwrap().expires_at_ms, 7);
    assert!(leased.apply(&[grant(2, 2)]).is_err(), "another's");
    assert!(leased.apply(&[grant(1, 2)]).is_ok(), "one's own again");
    let end = |token: u8| MetadataRecord::DisruptionEnded {
        broker_id: 0,
        token: Uuid([token; 16]),
    };
    assert!(leased.apply(&[end(2)]).is_err());
    assert_eq!(leased.apply(&[end(1)]).unwrap().leases().count(), 0);
}
