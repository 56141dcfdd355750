//! Folding, rejection, snapshots and the codec.

use tidemark_wire::Uuid;

use super::*;

mod leadership;
mod properties;

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
