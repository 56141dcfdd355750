//! What is decided, and which of Kafka's errors refuses what.

use tidemark_config::alter::{Change, Operation};
use tidemark_config::{BrokerSettings, ConfigMap};
use tidemark_model::{
    ConfigResource, IN_BUCKET, Image, MetadataRecord, NO_LEADER, Partition, Restore,
    RestoredPartition,
};
use tidemark_wire::{ErrorCode, Uuid};

use super::{context, ids_from, image_with_brokers, new_topic, registration, settings};
use crate::decide::*;

fn create(image: &Image, requests: &[NewTopic]) -> Decision<Vec<Result<CreatedTopic, Refusal>>> {
    create_topics(image, context(), &settings(), requests, false, ids_from(50))
}

fn refused(image: &Image, request: NewTopic) -> ErrorCode {
    let mut decision = create(image, &[request]);
    assert!(decision.records.is_empty());
    decision.result.pop().unwrap().unwrap_err().code
}

/// The image after a decision all of whose items were accepted.
fn applied<T>(image: &Image, decision: Decision<Vec<Result<T, Refusal>>>) -> Image {
    for item in decision.result {
        item.map(drop).unwrap();
    }
    image.apply(&decision.records).unwrap()
}

fn codes<T>(decision: &Decision<Vec<Result<T, Refusal>>>) -> Vec<ErrorCode> {
    decision
        .result
        .iter()
        .map(|item| item.as_ref().err().map_or(ErrorCode::None, |r| r.code))
        .collect()
}

#[test]
fn topics_are_created_each_by_itself() {
    let image = image_with_brokers(1);
    let image = applied(&image, create(&image, &[new_topic("there", 1, 1)]));
    let decision = create(
        &image,
        &[
            new_topic("a", 3, 1),
            new_topic("there", 1, 1),
            new_topic("b.c", -1, -1),
            new_topic("b_c", 1, 1),
            new_topic("twice", 1, 1),
            new_topic("twice", 1, 1),
        ],
    );
    assert_eq!(
        codes(&decision),
        [
            ErrorCode::None,
            ErrorCode::TopicAlreadyExists,
            ErrorCode::None,
            ErrorCode::InvalidTopicException,
            ErrorCode::InvalidRequest,
            ErrorCode::InvalidRequest,
        ]
    );
    let created = decision.result[0].clone().unwrap();
    assert_eq!((created.num_partitions, created.replication_factor), (3, 1));
    let image = image.apply(&decision.records).unwrap();
    assert_eq!(image.topic_count(), 3);
    let topic = image.topic("a").unwrap();
    assert_eq!(topic.id, created.topic_id);
    assert_eq!(topic.partitions.len(), 3);
    assert_eq!(topic.partition(2).unwrap().isr, [0]);
}

#[test]
fn validation_alone_changes_nothing() {
    let image = image_with_brokers(1);
    let decision = create_topics(
        &image,
        context(),
        &settings(),
        &[new_topic("a", 3, 1), new_topic("b", 1, 5)],
        true,
        ids_from(50),
    );
    assert!(decision.records.is_empty());
    assert_eq!(
        codes(&decision),
        [ErrorCode::None, ErrorCode::InvalidReplicationFactor]
    );
}

#[test]
fn bad_topics_get_kafkas_errors() {
    let image = image_with_brokers(2);
    let by_hand = |assignments: &[(i32, &[i32])]| NewTopic {
        assignments: assignments
            .iter()
            .map(|(p, replicas)| (*p, replicas.to_vec()))
            .collect(),
        ..new_topic("t", -1, -1)
    };
    let with_config = |name: &str, value: Option<&str>| NewTopic {
        configs: vec![(name.into(), value.map(Into::into))],
        ..new_topic("t", 1, 1)
    };
    for (request, code) in [
        (new_topic("", 1, 1), ErrorCode::InvalidTopicException),
        (new_topic("a b", 1, 1), ErrorCode::InvalidTopicException),
        (new_topic("t", 0, 1), ErrorCode::InvalidPartitions),
        (new_topic("t", -2, 1), ErrorCode::InvalidPartitions),
        (new_topic("t", i32::MAX, 1), ErrorCode::PolicyViolation),
        (new_topic("t", 1, 0), ErrorCode::InvalidReplicationFactor),
        (new_topic("t", 1, -2), ErrorCode::InvalidReplicationFactor),
        (new_topic("t", 1, 3), ErrorCode::InvalidReplicationFactor),
        (by_hand(&[(1, &[0])]), ErrorCode::InvalidReplicaAssignment),
        (
            by_hand(&[(0, &[0]), (2, &[0])]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            by_hand(&[(0, &[0]), (0, &[1])]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (by_hand(&[(0, &[])]), ErrorCode::InvalidReplicaAssignment),
        (
            by_hand(&[(0, &[0, 0])]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (by_hand(&[(0, &[7])]), ErrorCode::InvalidReplicaAssignment),
        (
            by_hand(&[(0, &[0]), (1, &[0, 1])]),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            NewTopic {
                num_partitions: 1,
                ..by_hand(&[(0, &[0])])
            },
            ErrorCode::InvalidRequest,
        ),
        (
            NewTopic {
                replication_factor: 1,
                ..by_hand(&[(0, &[0])])
            },
            ErrorCode::InvalidRequest,
        ),
        (
            with_config("retention.ms", Some("-5")),
            ErrorCode::InvalidConfig,
        ),
        (with_config("retention.ms", None), ErrorCode::InvalidConfig),
        (with_config("no.such", Some("1")), ErrorCode::InvalidConfig),
        (
            with_config("remote.storage.enable", Some("true")),
            ErrorCode::InvalidConfig,
        ),
        (
            with_config("max.compaction.lag.ms", Some("1")),
            ErrorCode::None,
        ),
    ] {
        let expected = format!("{request:?}");
        if code == ErrorCode::None {
            assert!(create(&image, &[request]).result[0].is_ok(), "{expected}");
        } else {
            assert_eq!(refused(&image, request), code, "{expected}");
        }
    }
    // Each is fine alone, and together they are too many.
    let many: Vec<NewTopic> = (0..3)
        .map(|n| new_topic(&format!("m{n}"), 4000, 1))
        .collect();
    assert_eq!(
        codes(&create(&image, &many)),
        [ErrorCode::None, ErrorCode::None, ErrorCode::PolicyViolation]
    );
}

#[test]
fn replicas_chosen_by_hand_are_taken_as_they_are() {
    let image = image_with_brokers(3);
    let request = NewTopic {
        assignments: vec![(1, vec![0, 2]), (0, vec![2, 1])],
        ..new_topic("t", -1, -1)
    };
    let image = applied(&image, create(&image, &[request]));
    let topic = image.topic("t").unwrap();
    assert_eq!(topic.partition(0).unwrap().replicas, [2, 1]);
    assert_eq!(topic.partition(1).unwrap().leader, 0);
}

#[test]
fn placement_spreads_leaders_and_replicas() {
    let image = image_with_brokers(4);
    let image = applied(&image, create(&image, &[new_topic("t", 24, 3)]));
    let topic = image.topic("t").unwrap();
    for broker in 0..4 {
        let leads = topic
            .partitions
            .iter()
            .filter(|p| p.leader == broker)
            .count();
        let holds = topic
            .partitions
            .iter()
            .filter(|p| p.replicas.contains(&broker))
            .count();
        assert_eq!((leads, holds), (6, 18), "broker {broker}");
    }
    let replica_sets: std::collections::BTreeSet<Vec<i32>> = topic
        .partitions
        .iter()
        .map(|p| p.replicas.clone())
        .collect();
    assert!(replica_sets.len() >= 12, "followers vary: {replica_sets:?}");
}

#[test]
fn partitions_are_added_and_never_taken() {
    let image = image_with_brokers(2);
    let image = applied(&image, create(&image, &[new_topic("t", 2, 2)]));
    let more = |name: &str, count, assignments: Option<Vec<Vec<i32>>>| MorePartitions {
        name: name.into(),
        count,
        assignments,
    };
    for (request, code) in [
        (more("t", 2, None), ErrorCode::InvalidPartitions),
        (more("t", 1, None), ErrorCode::InvalidPartitions),
        (more("t", -1, None), ErrorCode::InvalidPartitions),
        (more("t", i32::MAX, None), ErrorCode::PolicyViolation),
        (more("nope", 5, None), ErrorCode::UnknownTopicOrPartition),
        (
            more("t", 4, Some(vec![vec![0, 1]])),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            more("t", 3, Some(vec![vec![0]])),
            ErrorCode::InvalidReplicaAssignment,
        ),
        (
            more("t", 3, Some(vec![vec![0, 9]])),
            ErrorCode::InvalidReplicaAssignment,
        ),
    ] {
        let decision = create_partitions(&image, std::slice::from_ref(&request), false);
        assert_eq!(codes(&decision), [code], "{request:?}");
        assert!(decision.records.is_empty());
    }
    assert!(
        create_partitions(&image, &[more("t", 5, None)], true)
            .records
            .is_empty()
    );
    let image = applied(
        &image,
        create_partitions(&image, &[more("t", 4, None)], false),
    );
    let image = applied(
        &image,
        create_partitions(&image, &[more("t", 5, Some(vec![vec![1, 0]]))], false),
    );
    let topic = image.topic("t").unwrap();
    assert_eq!(topic.partitions.len(), 5);
    assert_eq!(topic.partition(4).unwrap().replicas, [1, 0]);
    assert_eq!(topic.partition(3).unwrap().replicas.len(), 2);
}

#[test]
fn topics_that_come_back_wait_for_brokers_and_are_placed_once() {
    let restore = |n: u8, name: &str, replication_factor, brokers| {
        let partition = |first_offset| RestoredPartition {
            leader_epoch: 1_000,
            first_offset,
            from_backup: first_offset == 9,
        };
        MetadataRecord::TopicRestorePending(Restore {
            topic_id: Uuid([n; 16]),
            name: name.to_owned(),
            replication_factor,
            brokers,
            configs: ConfigMap::from([("retention.ms".to_owned(), "5".to_owned())]),
            partitions: vec![partition(0), partition(9)],
        })
    };
    let image = image_with_brokers(2)
        .apply(&[
            restore(1, "orders", 2, 2),
            restore(2, "three", 3, 1),
            restore(3, "late", 1, 3),
        ])
        .unwrap();
    let taken = refused(&image, new_topic("three", 1, 1));
    assert_eq!(taken, ErrorCode::TopicAlreadyExists);
    let image = image.apply(&place_restored(&image)).unwrap();
    assert!(place_restored(&image).is_empty());
    let waiting: Vec<&str> = image.restores().map(|r| r.name.as_str()).collect();
    assert_eq!(waiting, ["three", "late"]);
    let topic = image.topic("orders").unwrap();
    assert_eq!(topic.id, Uuid([1; 16]));
    let state = topic.partition(1).unwrap();
    assert_eq!((state.first_offset, state.from_backup), (9, true));
    assert_eq!((state.leader_epoch, state.isr.len()), (1_000, 2));
    assert_eq!(image.configs(&ConfigResource::Topic(topic.id)).len(), 1);
    let more = register_broker(&image, &registration(2, 1), LostDirectories::Refuse);
    let image = image.apply(&more.records).unwrap();
    let image = image.apply(&place_restored(&image)).unwrap();
    assert_eq!((image.restores().count(), image.topic_count()), (0, 3));
}

#[test]
fn a_deleted_topic_is_remembered_until_the_bucket_has_nothing_of_it() {
    let image = image_with_brokers(1);
    let image = applied(&image, create(&image, &[new_topic("t", 2, 1)]));
    let id = image.topic("t").unwrap().id;
    let image = image
        .apply(&[MetadataRecord::ConfigChanged {
            resource: ConfigResource::Topic(id),
            name: "remote.storage.enable".to_owned(),
            value: Some("true".to_owned()),
        }])
        .unwrap();
    let names = [TopicName::Name("t".to_owned())];
    let image = applied(&image, delete_topics(&image, &settings(), &names));
    let job = image.deletion(id).unwrap();
    assert_eq!((job.partitions, &job.brokers[..]), (2, &[IN_BUCKET][..]));
    let image = image
        .apply(&confirm_deletions(&image, IN_BUCKET, &[id]))
        .unwrap();
    assert_eq!(image.deletions().count(), 0);
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    let image = image_with_brokers(1);
    let image = applied(
        &image,
        create(&image, &[new_topic("a", 1, 1), new_topic("b", 1, 1)]),
    );
    let b = image.topic("b").unwrap().id;
    let decision = delete_topics(
        &image,
        &settings(),
        &[
            TopicName::Name("a".into()),
            TopicName::Id(b),
            TopicName::Name("c".into()),
            TopicName::Id(Uuid([77; 16])),
            TopicName::Name("b".into()),
        ],
    );
    assert_eq!(
        codes(&decision),
        [
            ErrorCode::None,
            ErrorCode::None,
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::UnknownTopicId,
            ErrorCode::InvalidRequest
        ]
    );
    assert_eq!(image.apply(&decision.records).unwrap().topic_count(), 0);
    let disabled = BrokerSettings {
        delete_topic_enable: false,
        ..settings()
    };
    let decision = delete_topics(&image, &disabled, &[TopicName::Id(b)]);
    assert_eq!(codes(&decision), [ErrorCode::TopicDeletionDisabled]);
}

fn set(name: &str, value: &str) -> Change {
    Change {
        name: name.into(),
        operation: Operation::Set,
        value: Some(value.into()),
    }
}

#[test]
fn settings_change_and_fall_back() {
    let image = image_with_brokers(1);
    let image = applied(&image, create(&image, &[new_topic("t", 1, 1)]));
    let topic = ResourceName::Topic("t".into());
    let alter = |image: &Image, resource: &ResourceName, change: Change| {
        incremental_alter_configs(image, context(), &[(resource.clone(), vec![change])], false)
    };
    let changed = applied(&image, alter(&image, &topic, set("retention.ms", "9")));
    let (resource, configs) = resource_configs(&changed, &topic).unwrap();
    assert_eq!(configs["retention.ms"], "9");
    let id = changed.topic("t").unwrap().id;
    let in_force = context().topic_settings(&changed, id).unwrap();
    assert_eq!(in_force.retention_ms, Some(9));
    let same = alter(&changed, &topic, set("retention.ms", "9"));
    assert!(
        same.records.is_empty(),
        "nothing changes, nothing is written"
    );
    let delete = Change {
        name: "retention.ms".into(),
        operation: Operation::Delete,
        value: None,
    };
    let back = applied(&changed, alter(&changed, &topic, delete));
    assert_eq!(back.hash(), image.hash());

    let replaced = applied(
        &changed,
        alter_configs(
            &changed,
            context(),
            &[(
                topic.clone(),
                vec![("segment.bytes".into(), Some("2097152".into()))],
            )],
            false,
        ),
    );
    assert_eq!(
        replaced.configs(&resource).keys().collect::<Vec<_>>(),
        ["segment.bytes"]
    );
    for (resource, change, code) in [
        (topic.clone(), set("no.such", "1"), ErrorCode::InvalidConfig),
        (
            topic.clone(),
            set("retention.ms", "x"),
            ErrorCode::InvalidConfig,
        ),
        (
            topic.clone(),
            set("min.compaction.lag.ms", "9223372036854775807"),
            ErrorCode::None,
        ),
        (
            ResourceName::Topic("u".into()),
            set("retention.ms", "1"),
            ErrorCode::UnknownTopicOrPartition,
        ),
        (
            ResourceName::Broker(0),
            set("node.id", "1"),
            ErrorCode::InvalidConfig,
        ),
        (
            ResourceName::Broker(9),
            set("message.max.bytes", "1"),
            ErrorCode::InvalidRequest,
        ),
        (
            ResourceName::AllBrokers,
            set("message.max.bytes", "1"),
            ErrorCode::None,
        ),
        (
            ResourceName::Group("g".into()),
            set("consumer.session.timeout.ms", "50000"),
            ErrorCode::None,
        ),
    ] {
        let decision = alter(&image, &resource, change.clone());
        assert_eq!(codes(&decision), [code], "{resource:?} {change:?}");
    }
    let twice = [
        (topic.clone(), vec![set("retention.ms", "1")]),
        (topic, vec![set("retention.ms", "2")]),
    ];
    let decision = incremental_alter_configs(&image, context(), &twice, false);
    assert_eq!(codes(&decision), [ErrorCode::InvalidRequest; 2]);
}

#[test]
fn resources_are_read_as_requests_carry_them() {
    assert_eq!(parse_resource(4, ""), Ok(ResourceName::AllBrokers));
    assert_eq!(parse_resource(4, "3"), Ok(ResourceName::Broker(3)));
    assert_eq!(parse_resource(2, "t"), Ok(ResourceName::Topic("t".into())));
    for (resource_type, name) in [(4, "x"), (8, "0"), (32, ""), (0, "t"), (-1, "t")] {
        assert!(
            parse_resource(resource_type, name).is_err(),
            "{resource_type} {name}"
        );
    }
}

#[test]
fn a_changed_min_isr_clears_who_is_eligible() {
    let image = image_with_brokers(2);
    let image = applied(&image, create(&image, &[new_topic("t", 1, 2)]));
    let id = image.topic("t").unwrap().id;
    let image = image
        .apply(&[MetadataRecord::PartitionChanged {
            topic_id: id,
            partition: 0,
            expected_epoch: 0,
            leader: image.partition(id, 0).unwrap().leader,
            leader_epoch: 0,
            isr: vec![image.partition(id, 0).unwrap().leader],
            elr: vec![1 - image.partition(id, 0).unwrap().leader],
            replicas: None,
            last_known_elr: Vec::new(),
            reassignment: None,
            joined: Vec::new(),
            unclean: false,
        }])
        .unwrap();
    for resource in [
        ResourceName::Topic("t".into()),
        ResourceName::AllBrokers,
        ResourceName::Broker(0),
    ] {
        let changes = [(resource, vec![set("min.insync.replicas", "1")])];
        let after = applied(
            &image,
            incremental_alter_configs(&image, context(), &changes, false),
        );
        assert!(after.partition(id, 0).unwrap().elr.is_empty());
    }
    let changes = [(
        ResourceName::AllBrokers,
        vec![set("message.max.bytes", "99")],
    )];
    let after = applied(
        &image,
        incremental_alter_configs(&image, context(), &changes, false),
    );
    assert!(!after.partition(id, 0).unwrap().elr.is_empty());
}

#[test]
fn a_new_incarnation_gets_new_leader_epochs_in_one_batch() {
    let image = image_with_brokers(2);
    let image = applied(
        &image,
        create(&image, &[new_topic("alone", 2, 1), new_topic("both", 2, 2)]),
    );
    let register = |image: &Image, incarnation| {
        register_broker(
            image,
            &registration(0, incarnation),
            LostDirectories::Refuse,
        )
    };
    let same = register(&image, 1);
    assert!(same.records.is_empty());
    let epoch = same.result.unwrap();

    let decision = register(&image, 2);
    let new_epoch = decision.result.unwrap();
    assert!(new_epoch > epoch);
    let after = image.apply(&decision.records).unwrap();
    let mut led = 0;
    for topic in image.topics() {
        for (n, old) in (0..).zip(&topic.partitions) {
            let new = after.partition(topic.id, n).unwrap();
            if old.leader == 0 {
                led += 1;
                assert_eq!(new.leader_epoch, old.leader_epoch + 1);
                let expected = if &*topic.name == "alone" { 0 } else { 1 };
                assert_eq!(new.leader, expected, "another in-sync member is preferred");
            } else {
                assert_eq!(new, old);
            }
        }
    }
    assert!(led >= 2);
    // Leaving the bump out is what the fold refuses.
    assert!(image.apply(&decision.records[..1]).is_err());
}

#[test]
fn a_broker_without_a_directory_it_had_is_refused_or_out_of_sync() {
    let image = image_with_brokers(2);
    let image = applied(
        &image,
        create(&image, &[new_topic("alone", 2, 1), new_topic("both", 2, 2)]),
    );
    let replaced = Registration {
        directories: vec![Uuid([200; 16])],
        ..registration(0, 2)
    };
    let decision = register_broker(&image, &replaced, LostDirectories::Refuse);
    assert_eq!(
        decision.result.unwrap_err().code,
        ErrorCode::InvalidRegistration
    );

    let decision = register_broker(&image, &replaced, LostDirectories::OutOfSync);
    let after = image.apply(&decision.records).unwrap();
    for topic in after.topics() {
        for (n, new) in (0..).zip(&topic.partitions) {
            assert!(!new.isr.contains(&0) && new.leader != 0);
            if image.partition(topic.id, n).unwrap().replicas == [0] {
                assert_eq!((new.leader, new.isr.len()), (NO_LEADER, 0));
            }
        }
    }
    // Another directory besides is no loss.
    let more = Registration {
        directories: vec![Uuid([100; 16]), Uuid([201; 16])],
        ..registration(0, 2)
    };
    assert!(
        register_broker(&image, &more, LostDirectories::Refuse)
            .result
            .is_ok()
    );
    // The directory of another broker is a copy.
    let copied = Registration {
        directories: vec![Uuid([101; 16])],
        ..registration(5, 1)
    };
    assert!(
        register_broker(&image, &copied, LostDirectories::OutOfSync)
            .result
            .is_err()
    );
}

#[test]
fn producer_ids_are_given_once() {
    let image = image_with_brokers(1);
    let epoch = image.broker(0).unwrap().epoch;
    let first = allocate_producer_ids(&image, 0, epoch);
    assert_eq!(
        first.result,
        Ok(ProducerIds {
            first: 0,
            count: 1000
        })
    );
    let image = image.apply(&first.records).unwrap();
    let second = allocate_producer_ids(&image, 0, epoch);
    assert_eq!(second.result.unwrap().first, 1000);
    let code = |broker, epoch| {
        allocate_producer_ids(&image, broker, epoch)
            .result
            .unwrap_err()
            .code
    };
    assert_eq!(code(1, 1), ErrorCode::BrokerIdNotRegistered);
    assert_eq!(code(0, epoch + 1), ErrorCode::StaleBrokerEpoch);
    assert!(image.apply(&first.records).is_err(), "a block applies once");
}

#[test]
fn the_offsets_topic_is_made_when_first_needed() {
    let image = image_with_brokers(1);
    let make = |image: &Image, settings: &BrokerSettings| {
        create_internal_topic(
            image,
            context(),
            settings,
            "__consumer_offsets",
            ids_from(70),
        )
    };
    let decision = make(&image, &settings());
    let id = decision.result.unwrap();
    let after = image.apply(&decision.records).unwrap();
    let topic = after.topic("__consumer_offsets").unwrap();
    assert_eq!((topic.id, topic.partitions.len()), (id, 50));
    assert!(topic.is_internal());
    let configs = after.configs(&ConfigResource::Topic(id));
    assert_eq!(configs["cleanup.policy"], "compact");
    assert_eq!(configs["segment.bytes"], "104857600");
    let again = make(&after, &settings());
    assert!(again.records.is_empty() && again.result == Ok(id));

    // What was set is demanded.
    let fixed: ConfigMap = [(
        "offsets.topic.replication.factor".to_owned(),
        "2".to_owned(),
    )]
    .into();
    let empty = ConfigMap::new();
    let demanding = BrokerSettings::resolve(tidemark_config::BrokerLayers {
        dynamic: &empty,
        dynamic_default: &empty,
        fixed: &fixed,
    })
    .unwrap();
    assert_eq!(
        make(&image, &demanding).result.unwrap_err().code,
        ErrorCode::InvalidReplicationFactor
    );
    // Groups are found by the number of partitions.
    let more = MorePartitions {
        name: "__consumer_offsets".into(),
        count: 60,
        assignments: None,
    };
    assert_eq!(
        codes(&create_partitions(&after, &[more], false)),
        [ErrorCode::InvalidRequest]
    );
}

#[test]
fn partitions_need_a_broker_that_is_up() {
    let image = image_with_brokers(2);
    let epoch = image.broker(1).unwrap().epoch;
    let image = image
        .apply(&[MetadataRecord::BrokerFenced {
            broker_id: 1,
            broker_epoch: epoch,
            fenced: true,
        }])
        .unwrap();
    assert_eq!(
        refused(&image, new_topic("t", 1, 2)),
        ErrorCode::InvalidReplicationFactor
    );
    let by_hand = |replicas: Vec<i32>| NewTopic {
        assignments: vec![(0, replicas)],
        ..new_topic("t", -1, -1)
    };
    assert_eq!(
        refused(&image, by_hand(vec![1])),
        ErrorCode::InvalidReplicaAssignment
    );
    let image = applied(&image, create(&image, &[by_hand(vec![1, 0])]));
    let state: &Partition = image.topic("t").unwrap().partition(0).unwrap();
    assert_eq!((state.leader, state.isr.as_slice()), (0, &[0][..]));
}
