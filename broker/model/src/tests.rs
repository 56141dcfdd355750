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
        elr: Vec::new(),
        leader: replicas[0],
        leader_epoch: 0,
        partition_epoch: 0,
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
    // The same process registering again keeps its epochs.
    assert!(image.apply(&[register(0, 1, 5, Some(1))]).is_ok());
    // One that leads nothing has nothing to bump.
    assert!(image.apply(&[register(1, 2, 5, Some(2))]).is_ok());
    // A leader does not leave without its partitions going to somebody.
    let left = MetadataRecord::BrokerUnregistered {
        broker_id: 0,
        broker_epoch: 1,
    };
    assert!(image.apply(std::slice::from_ref(&left)).is_err());
    assert!(
        image
            .apply(&[left, leader_changed(1, 0, 1, 1, &[1])])
            .is_ok()
    );
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
            MetadataRecord::BrokerFenced {
                broker_id: 1,
                broker_epoch: 2,
                fenced: true,
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
        (0..3i32, 0..3u8, 0..6i64, prop::option::of(0..6i64)).prop_map(
            |(id, incarnation, epoch, previous)| register(id, incarnation, epoch, previous)
        ),
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
        (1..4u8, name).prop_map(|(n, name)| created(n, name)),
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
            any_brokers(),
            any_brokers(),
            prop::option::of(any_brokers())
        )
            .prop_map(
                |(n, partition, expected_epoch, leader, leader_epoch, isr, elr, replicas)| {
                    MetadataRecord::PartitionChanged {
                        topic_id: topic_id(n),
                        partition,
                        expected_epoch,
                        leader,
                        leader_epoch,
                        isr,
                        elr,
                        replicas,
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
        let straight = fold(Image::default(), &batches);
        let prefix = fold(Image::default(), &batches[..cut]);
        let records = decode_batch(&encode_batch(&prefix.snapshot())).unwrap();
        let restored = Image::restore(prefix.index(), &records).unwrap();
        prop_assert_eq!(restored.hash(), prefix.hash());
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
