//! Any records: folding them, a snapshot on the way, and the codec.

use proptest::prelude::*;

use super::*;

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
