//! Folding, rejection, snapshots and the codec.

use proptest::prelude::*;
use tidemark_wire::Uuid;

use super::*;

fn topic_id(n: u8) -> TopicId {
    Uuid([n; 16])
}

fn partition_on(replicas: &[BrokerId]) -> Partition {
    Partition {
        replicas: replicas.to_vec(),
        isr: replicas.to_vec(),
        leader: replicas[0],
        ..Partition::default()
    }
}

fn register(
    broker_id: BrokerId,
    incarnation: u8,
    epoch: i64,
    previous: Option<i64>,
) -> MetadataRecord {
    MetadataRecord::BrokerRegistered {
        broker_id,
        incarnation_id: Uuid([incarnation; 16]),
        broker_epoch: epoch,
        previous_epoch: previous,
        directories: vec![Uuid([9; 16])],
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: Some("a".into()),
        fenced: false,
        logs_lost: false,
        features: Vec::new(),
        restored: None,
    }
}

fn created(n: u8, name: &str) -> MetadataRecord {
    MetadataRecord::TopicCreated {
        topic_id: topic_id(n),
        name: name.into(),
    }
}

fn partition_created(n: u8, partition: i32, replicas: &[BrokerId]) -> MetadataRecord {
    MetadataRecord::PartitionCreated {
        topic_id: topic_id(n),
        partition,
        state: partition_on(replicas),
    }
}

fn leader_changed(
    n: u8,
    expected_epoch: i32,
    leader: BrokerId,
    leader_epoch: i32,
    isr: &[BrokerId],
) -> MetadataRecord {
    MetadataRecord::PartitionChanged {
        topic_id: topic_id(n),
        partition: 0,
        expected_epoch,
        leader,
        leader_epoch,
        isr: isr.to_vec(),
        elr: Vec::new(),
        replicas: None,
        last_known_elr: Vec::new(),
        reassignment: None,
        joined: Vec::new(),
        unclean: false,
    }
}

fn image_with_one_topic() -> Image {
    Image::default()
        .apply(&[
            register(0, 1, 1, None),
            register(1, 1, 2, None),
            created(1, "orders"),
            partition_created(1, 0, &[0, 1]),
        ])
        .unwrap()
}

#[test]
fn topics_are_found_by_name_and_by_id() {
    let image = image_with_one_topic();
    assert_eq!(image.index(), 1);
    let topic = image.topic("orders").unwrap();
    assert_eq!(image.topic_by_id(topic_id(1)), Some(topic));
    assert_eq!(topic.partition(0).unwrap().leader, 0);
    assert!(topic.partition(1).is_none() && topic.partition(-1).is_none());
    assert!(image.topic("order").is_none());

    let image = image
        .apply(&[created(2, "a"), created(3, "p"), created(4, "z")])
        .unwrap();
    let names = |from, inclusive| -> Vec<String> {
        image
            .topics_from(from, inclusive)
            .map(|t| t.name.to_string())
            .collect()
    };
    assert_eq!(names("orders", true), ["orders", "p", "z"]);
    assert_eq!(names("orders", false), ["p", "z"]);

    let gone = image
        .apply(&[MetadataRecord::TopicDeleted {
            topic_id: topic_id(1),
        }])
        .unwrap();
    assert!(gone.topic("orders").is_none() && gone.topic_by_id(topic_id(1)).is_none());
    assert!(image.topic("orders").is_some(), "an image does not change");
    assert!(
        gone.apply(&[created(5, "orders")]).is_ok(),
        "the name is free"
    );
}

#[test]
fn names_that_differ_in_dot_and_underscore_collide() {
    let image = Image::default().apply(&[created(1, "a.b_c")]).unwrap();
    for name in ["a.b_c", "a_b.c", "a_b_c", "a.b.c"] {
        assert!(image.apply(&[created(2, name)]).is_err(), "{name}");
    }
    assert_eq!(&*image.colliding_topic("a_b_c").unwrap().name, "a.b_c");
    assert!(image.apply(&[created(2, "a-b-c")]).is_ok());
}

#[test]
fn topic_names_follow_kafkas_rules() {
    let longest = "x".repeat(249);
    for good in [
        "a",
        "A.b_c-9",
        "...",
        longest.as_str(),
        "__consumer_offsets",
    ] {
        assert_eq!(check_topic_name(good), Ok(()), "{good}");
    }
    let long = "x".repeat(250);
    for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", long.as_str()] {
        assert!(check_topic_name(bad).is_err(), "{bad}");
    }
    assert!(is_internal_topic("__consumer_offsets") && !is_internal_topic("orders"));
}

#[test]
fn a_batch_applies_whole_or_not_at_all() {
    let image = image_with_one_topic();
    let before = image.hash();
    let rejected = image.apply(&[created(2, "good"), created(3, "orders")]);
    assert_eq!(
        rejected.unwrap_err(),
        Rejected::TopicExists("orders".into())
    );
    assert_eq!(image.hash(), before);
    assert!(image.topic("good").is_none());
}

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

#[test]
fn a_deleted_topic_is_remembered_until_its_data_is_gone() {
    let image = image_with_one_topic();
    let started = MetadataRecord::TopicDeletionStarted {
        topic_id: topic_id(1),
    };
    let image = image.apply(&[started]).unwrap();
    assert!(image.topic("orders").is_none());
    assert_eq!(image.replica_count(0), 0);
    assert_eq!(image.deletion(topic_id(1)).unwrap().brokers, [0, 1]);
    assert!(
        image.apply(&[created(1, "again")]).is_err(),
        "its id is in use"
    );
    assert!(image.apply(&[created(2, "orders")]).is_ok());
    let confirmed = |broker_id| MetadataRecord::TopicDeletionConfirmed {
        topic_id: topic_id(1),
        broker_id,
    };
    let image = image.apply(&[confirmed(1)]).unwrap();
    assert!(image.apply(&[confirmed(1)]).is_err());
    // A broker that is gone for good holds nothing either.
    let left = MetadataRecord::BrokerUnregistered {
        broker_id: 0,
        broker_epoch: 1,
    };
    for last in [confirmed(0), left] {
        assert_eq!(image.apply(&[last]).unwrap().deletions().count(), 0);
    }
}

#[test]
fn records_of_the_first_version_are_read() {
    // Type 7 (a partition is created), version 1: topic id, index 0, replicas [0, 1],
    // ISR [0], no ELR, leader 0, epochs 3 and 4, in zigzag.
    let mut body = vec![1; 16];
    body.extend([0, 2, 0, 2, 1, 0, 0, 0, 6, 8]);
    let mut bytes = vec![1, 1, 7, 1, u8::try_from(body.len()).unwrap()];
    bytes.extend(body);
    assert_eq!(
        decode_batch(&bytes).unwrap(),
        [MetadataRecord::PartitionCreated {
            topic_id: topic_id(1),
            partition: 0,
            state: Partition {
                isr: vec![0],
                leader_epoch: 3,
                partition_epoch: 4,
                ..partition_on(&[0, 1])
            },
        }]
    );
    // Type 8, version 1: the same partition changes.
    let mut body = vec![1; 16];
    body.extend([0, 8, 2, 8, 1, 2, 0, 0]);
    let mut bytes = vec![1, 1, 8, 1, u8::try_from(body.len()).unwrap()];
    bytes.extend(body);
    let decoded = decode_batch(&bytes).unwrap();
    assert_eq!(decoded, [leader_changed(1, 4, 1, 4, &[1])]);
    // Type 3, version 1: a registration without directories and listeners, not fenced.
    let mut body = vec![2];
    body.extend([5; 16]);
    body.extend([6, 0, 0, 0, 0, 0]);
    let mut bytes = vec![1, 1, 3, 1, u8::try_from(body.len()).unwrap()];
    bytes.extend(body);
    assert!(matches!(
        decode_batch(&bytes).unwrap()[0],
        MetadataRecord::BrokerRegistered {
            broker_id: 1,
            broker_epoch: 3,
            logs_lost: false,
            restored: None,
            ..
        }
    ));
}

fn restore_pending(n: u8, name: &str, replication_factor: i32) -> MetadataRecord {
    let partition = |first_offset| RestoredPartition {
        leader_epoch: 1_000,
        first_offset,
        from_backup: first_offset == 7,
    };
    MetadataRecord::TopicRestorePending(Restore {
        topic_id: topic_id(n),
        name: name.to_owned(),
        replication_factor,
        brokers: 1,
        configs: ConfigMap::from([("retention.ms".to_owned(), "5".to_owned())]),
        partitions: vec![partition(0), partition(7)],
    })
}

#[test]
fn a_topic_that_comes_back_keeps_its_name_and_its_id() {
    let image = Image::default()
        .apply(&[register(0, 1, 1, None), restore_pending(1, "a.b", 1)])
        .unwrap();
    assert_eq!(image.restore_of("a_b").unwrap().name, "a.b");
    for stranger in [
        created(2, "a.b"),
        created(2, "a_b"),
        created(1, "c"),
        restore_pending(1, "c", 1),
        restore_pending(2, "a_b", 1),
        restore_pending(2, "c", 0),
    ] {
        assert!(
            image.apply(std::slice::from_ref(&stranger)).is_err(),
            "{stranger:?}"
        );
    }
    let state = Partition {
        first_offset: 7,
        from_backup: true,
        ..partition_on(&[0])
    };
    let placed = MetadataRecord::PartitionCreated {
        topic_id: topic_id(1),
        partition: 0,
        state,
    };
    let image = image.apply(&[created(1, "a.b"), placed]).unwrap();
    assert_eq!(image.restores().count(), 0);
    assert!(image.restore_of("a.b").is_none());
    // Where its log begins stays, whatever else changes.
    let image = image
        .apply(&[leader_changed(1, 0, NO_LEADER, 5, &[])])
        .unwrap();
    let state = image.partition(topic_id(1), 0).unwrap();
    assert_eq!((state.first_offset, state.from_backup), (7, true));
}

#[test]
fn stale_records_are_rejected() {
    let image = image_with_one_topic();
    let second_registration = [register(0, 2, 5, None)];
    let lower_epoch = [register(0, 1, 1, Some(1))];
    let stale_fence = [MetadataRecord::BrokerFenced {
        broker_id: 0,
        broker_epoch: 9,
        fenced: true,
    }];
    let stale_partition = [leader_changed(1, 3, 1, 1, &[0, 1])];
    let leader_in_old_epoch = [leader_changed(1, 0, 1, 0, &[0, 1])];
    let leader_out_of_isr = [leader_changed(1, 0, 1, 1, &[0])];
    let foreign_isr = [leader_changed(1, 0, 0, 1, &[0, 7])];
    let doubled_isr = [leader_changed(1, 0, 0, 1, &[0, 0])];
    let out_of_order = [partition_created(1, 2, &[0])];
    let no_replicas = [MetadataRecord::PartitionCreated {
        topic_id: topic_id(1),
        partition: 1,
        state: Partition {
            replicas: vec![],
            leader: NO_LEADER,
            ..partition_on(&[0])
        },
    }];
    let taken_id = [created(1, "other")];
    let zero_id = [created(0, "other")];
    let no_topic = [MetadataRecord::ConfigChanged {
        resource: ConfigResource::Topic(topic_id(8)),
        name: "retention.ms".into(),
        value: None,
    }];
    let skipped_ids = [MetadataRecord::ProducerIdBlock {
        broker_id: 0,
        broker_epoch: 1,
        first: 1000,
        next: 2000,
    }];
    for batch in [
        &second_registration[..],
        &lower_epoch,
        &stale_fence,
        &stale_partition,
        &leader_in_old_epoch,
        &leader_out_of_isr,
        &foreign_isr,
        &doubled_isr,
        &out_of_order,
        &no_replicas,
        &taken_id,
        &zero_id,
        &no_topic,
        &skipped_ids,
    ] {
        assert!(image.apply(batch).is_err(), "{batch:?}");
    }
}

#[test]
fn changes_between_images_are_named() {
    let before = image_with_one_topic();
    let after = before
        .apply(&[
            created(2, "new"),
            partition_created(1, 1, &[1]),
            MetadataRecord::ConfigChanged {
                resource: ConfigResource::AllBrokers,
                name: "message.max.bytes".into(),
                value: Some("9".into()),
            },
            MetadataRecord::BrokerCordoned {
                broker_id: 1,
                broker_epoch: 2,
                cordoned: true,
            },
        ])
        .unwrap();
    let changes = after.changes_since(&before);
    assert_eq!(changes.configs, [ConfigResource::AllBrokers]);
    assert_eq!(changes.brokers, [1]);
    assert_eq!(changes.topics.len(), 2);
    assert!(
        changes
            .topics
            .iter()
            .any(|c| matches!(c, TopicChange::Created(t) if &*t.name == "new"))
    );
    assert!(changes.topics.iter().any(
        |c| matches!(c, TopicChange::Changed { before, after } if before.partitions.len() == 1 && after.partitions.len() == 2)
    ));
    assert_eq!(after.changes_since(&after), Changes::default());
    let back = before.changes_since(&after);
    assert!(matches!(&back.topics[0], TopicChange::Deleted(t) if &*t.name == "new"));
}

#[test]
fn bytes_of_a_newer_version_say_so() {
    let mut bytes = encode_batch(&[created(1, "a")]);
    bytes[0] = 2;
    let error = decode_batch(&bytes).unwrap_err();
    assert!(matches!(error, CodecError::Newer { .. }), "{error}");
    // A record type that does not exist yet: type, version 1, empty body.
    let error = decode_batch(&[1, 1, 99, 1, 0]).unwrap_err();
    assert!(
        error.to_string().contains("run the version that wrote it"),
        "{error}"
    );
}

fn any_brokers() -> impl Strategy<Value = Vec<BrokerId>> {
    prop::collection::vec(0..3i32, 0..4)
}

fn any_registration() -> impl Strategy<Value = MetadataRecord> {
    let ids = (0..3i32, 0..3u8, 0..6i64, prop::option::of(0..6i64));
    let rest = (any::<bool>(), any::<bool>(), prop::option::of(0..2i16));
    (ids, rest).prop_map(|((id, incarnation, epoch, previous), rest)| {
        let mut record = register(id, incarnation, epoch, previous);
        if let MetadataRecord::BrokerRegistered {
            fenced,
            logs_lost,
            features,
            ..
        } = &mut record
        {
            (*fenced, *logs_lost) = (rest.0, rest.1);
            features.extend(rest.2.map(|min| FeatureRange {
                name: "f".into(),
                min,
                max: 2,
            }));
        }
        record
    })
}

fn any_record() -> impl Strategy<Value = MetadataRecord> {
    let name = prop::sample::select(vec!["a", "b", "a.b", "a_b", "", "c/d"]);
    let resource = prop_oneof![
        (1..4u8).prop_map(|n| ConfigResource::Topic(topic_id(n))),
        (0..3i32).prop_map(ConfigResource::Broker),
        Just(ConfigResource::AllBrokers),
        Just(ConfigResource::Group("g".into())),
    ];
    prop_oneof![
        Just(MetadataRecord::ClusterId {
            cluster_id: Uuid([7; 16])
        }),
        (-1..3i16).prop_map(|level| MetadataRecord::FeatureLevel {
            name: "f".into(),
            level
        }),
        any_registration(),
        (0..3i32, 0..6i64).prop_map(|(broker_id, broker_epoch)| {
            MetadataRecord::BrokerShuttingDown {
                broker_id,
                broker_epoch,
            }
        }),
        (0..3i32, 0..6i64, any::<bool>()).prop_map(|(broker_id, broker_epoch, cordoned)| {
            MetadataRecord::BrokerCordoned {
                broker_id,
                broker_epoch,
                cordoned,
            }
        }),
        (1..4u8).prop_map(|n| MetadataRecord::TopicDeletionStarted {
            topic_id: topic_id(n)
        }),
        (1..4u8, 0..3i32).prop_map(|(n, broker_id)| MetadataRecord::TopicDeletionConfirmed {
            topic_id: topic_id(n),
            broker_id
        }),
        (0..3i32, 0..6i64, 0..2u8, 0..60u64).prop_map(|(broker_id, broker_epoch, token, at)| {
            MetadataRecord::DisruptionGranted {
                broker_id,
                broker_epoch,
                token: Uuid([token; 16]),
                expires_at_ms: 5,
                decided_at: Some(at),
            }
        }),
        (0..3i32, 0..2u8).prop_map(|(broker_id, token)| MetadataRecord::DisruptionEnded {
            broker_id,
            token: Uuid([token; 16]),
        }),
        (0..3i32, 0..6i64, any::<bool>()).prop_map(|(broker_id, broker_epoch, fenced)| {
            MetadataRecord::BrokerFenced {
                broker_id,
                broker_epoch,
                fenced,
            }
        }),
        (0..3i32, 0..6i64).prop_map(|(broker_id, broker_epoch)| {
            MetadataRecord::BrokerUnregistered {
                broker_id,
                broker_epoch,
            }
        }),
        (1..4u8, name.clone()).prop_map(|(n, name)| created(n, name)),
        (1..4u8, name, 0..3i32).prop_map(|(n, name, factor)| restore_pending(n, name, factor)),
        (
            1..4u8,
            0..3i32,
            prop::sample::subsequence(vec![0, 1, 2], 1..=3)
        )
            .prop_map(|(n, partition, replicas)| partition_created(n, partition, &replicas)),
        (
            1..4u8,
            0..3i32,
            0..4i32,
            -1..3i32,
            0..4i32,
            (any_brokers(), any_brokers()),
            prop::option::of(any_brokers()),
            (
                any_brokers(),
                prop::option::of((any_brokers(), any_brokers())),
                prop::collection::vec((0..3i32, 0..6i64), 0..2),
                any::<bool>()
            )
        )
            .prop_map(
                |(
                    n,
                    partition,
                    expected_epoch,
                    leader,
                    leader_epoch,
                    (isr, elr),
                    replicas,
                    (last_known_elr, reassignment, joined, unclean),
                )| {
                    MetadataRecord::PartitionChanged {
                        topic_id: topic_id(n),
                        partition,
                        expected_epoch,
                        leader,
                        leader_epoch,
                        isr,
                        elr,
                        replicas,
                        last_known_elr,
                        reassignment,
                        joined,
                        unclean,
                    }
                }
            ),
        (1..4u8).prop_map(|n| MetadataRecord::TopicDeleted {
            topic_id: topic_id(n)
        }),
        (
            resource,
            prop::sample::select(vec!["x", "y"]),
            prop::option::of("[a-c]{0,2}")
        )
            .prop_map(|(resource, name, value)| MetadataRecord::ConfigChanged {
                resource,
                name: name.into(),
                value
            }),
        (0..3i32, 0..6i64, 0..3i64).prop_map(|(broker_id, broker_epoch, block)| {
            MetadataRecord::ProducerIdBlock {
                broker_id,
                broker_epoch,
                first: block * 1000,
                next: (block + 1) * 1000,
            }
        }),
        any::<i64>().prop_map(|next| MetadataRecord::NextProducerId { next }),
    ]
}

/// Batches of which each is folded, or rejected, on what the ones before it made.
fn any_batches() -> impl Strategy<Value = Vec<Vec<MetadataRecord>>> {
    prop::collection::vec(prop::collection::vec(any_record(), 1..4), 0..60)
}

/// Folds what applies and asserts that what does not leaves no trace.
fn fold(start: Image, batches: &[Vec<MetadataRecord>]) -> Image {
    let mut image = start;
    for batch in batches {
        let (hash, index) = (image.hash(), image.index());
        match image.apply(batch) {
            Ok(next) => {
                assert_eq!(next.index(), index + 1);
                image = next;
            }
            Err(_) => assert_eq!((image.hash(), image.index()), (hash, index)),
        }
    }
    image
}

proptest! {
    #[test]
    fn folding_equals_folding_by_way_of_a_snapshot(batches in any_batches(), cut in 0..60usize) {
        let cut = cut.min(batches.len());
        let start = Image::default().apply(&(0..3).map(|id| register(id, 1, 1, None)).collect::<Vec<_>>()).unwrap();
        let straight = fold(start.clone(), &batches);
        let prefix = fold(start, &batches[..cut]);
        let records = decode_batch(&encode_batch(&prefix.snapshot())).unwrap();
        let restored = Image::restore(prefix.index(), &records).unwrap();
        prop_assert_eq!(restored.hash(), prefix.hash());
        prop_assert_eq!(&restored.partition_index, &prefix.partition_index);
        prop_assert_eq!(prefix.encode_snapshot(), encode_batch(&prefix.snapshot()));
        let streamed = decode_snapshot(prefix.index(), &prefix.encode_snapshot()).unwrap();
        prop_assert_eq!(streamed.hash(), prefix.hash());
        let by_snapshot = fold(restored, &batches[cut..]);
        prop_assert_eq!(by_snapshot.hash(), straight.hash());
        prop_assert_eq!(by_snapshot.index(), straight.index());
        prop_assert_eq!(by_snapshot.changes_since(&straight), Changes::default());
    }

    #[test]
    fn records_survive_the_codec(batch in prop::collection::vec(any_record(), 0..8)) {
        prop_assert_eq!(decode_batch(&encode_batch(&batch)).unwrap(), batch);
    }

    #[test]
    fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(batch) = decode_batch(&bytes) {
            prop_assert_eq!(decode_batch(&encode_batch(&batch)).unwrap(), batch);
        }
    }

    #[test]
    fn damaged_bytes_decode_or_err(batch in prop::collection::vec(any_record(), 1..4), at in any::<prop::sample::Index>(), mask in 1..=255u8) {
        let mut bytes = encode_batch(&batch);
        let cut = at.index(bytes.len());
        prop_assert!(decode_batch(&bytes[..cut]).is_err(), "a proper prefix is never a batch");
        bytes[cut] ^= mask;
        drop(decode_batch(&bytes));
    }
}
