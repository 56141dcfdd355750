//! What manifests say, and how they change.

use super::*;

#[test]
fn the_newest_manifest_is_the_first_key() {
    run(async {
        let bucket = memory();
        let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
        for sequence in 0..12 {
            let key = PARTITION.manifest(sequence);
            let (created, crc32) = bucket.create_document(&key, &manifest).await.unwrap();
            assert_eq!(created, Created::Ours);
            let first = bucket
                .first_key(&PARTITION.manifests())
                .await
                .unwrap()
                .unwrap();
            assert_eq!(first, key);
            assert_eq!(layout::manifest_sequence(&first), Some(sequence));
            manifest = manifest.succeed(writer(1), crc32).unwrap();
        }
        assert!(
            manifest.succeed(writer(0), 0).is_err(),
            "an older epoch does not follow"
        );
    });
}

#[test]
fn retention_goes_by_time_and_size_and_through_chunks() {
    let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
    let count = MOST_ENTRIES as i64 + 10;
    let mut chunks: Vec<(Uuid, Chunk)> = Vec::new();
    for index in 0..count {
        manifest.append(entry(index * 10, index * 10 + 10, &[(1, index * 10)]));
        if let Some(chunk) = manifest.to_move() {
            let id = new_id();
            manifest.moved(&chunk, id, 0);
            chunks.push((id, chunk));
        }
        manifest.check("x").unwrap();
    }
    assert_eq!((chunks.len(), manifest.chunks.len()), (1, 1));
    assert!(matches!(manifest.find(5), Some(Place::Chunk(_))));
    let last = count * 10 - 5;
    assert!(
        matches!(manifest.find(last), Some(Place::Segment(found)) if found.base_offset <= last && last < found.end_offset)
    );
    assert_eq!(manifest.find(count * 10), None);
    // What is older than entry 20, whose newest record is of second 210.
    let keep = Keep {
        ms: Some(1_000),
        bytes: None,
        local_bytes: 0,
    };
    let now = 210_000 + 1_000;
    assert_eq!(manifest.expired(keep, now), Expired::BringBack);
    manifest.bring_back(chunks[0].1.segments.clone(), now);
    manifest.check("x").unwrap();
    assert_eq!(manifest.head.len(), CHUNK_ENTRIES);
    assert_eq!(manifest.expired(keep, now), Expired::StartAt(200));
    manifest.raise_start(200, now);
    manifest.check("x").unwrap();
    assert_eq!(manifest.start_offset, 200);
    assert_eq!(
        manifest.garbage.len(),
        1 + 20,
        "the chunk and twenty objects"
    );
    assert!(manifest.garbage_due(60_000, now).is_empty());
    assert_eq!(manifest.garbage_due(60_000, now + 60_000).len(), 21);
    // By size: all but what fits.
    let keep = Keep {
        ms: None,
        bytes: Some(5_500),
        local_bytes: 500,
    };
    let mut rounds = 0;
    while let Expired::StartAt(start) = manifest.expired(keep, now)
        && start > manifest.start_offset
    {
        manifest.raise_start(start, now);
        manifest.check("x").unwrap();
        rounds += 1;
    }
    assert_eq!((rounds, manifest.entry_count()), (1, 5));
}

#[test]
fn a_leader_cuts_off_what_it_never_had() {
    let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
    manifest.append(entry(0, 100, &[(1, 0)]));
    manifest.append(entry(100, 200, &[(1, 100), (2, 150)]));
    manifest.append(entry(200, 300, &[(2, 200)]));
    let cut = |log_start, ends: &[(i32, i64)]| {
        let mut manifest = manifest.clone();
        let end = |epoch| {
            ends.iter()
                .find(|(known, _)| *known == epoch)
                .map(|(_, end)| *end)
        };
        let changed = manifest.cut_to_lineage(log_start, end, 0);
        manifest.check("x").unwrap();
        (changed, manifest.end_offset, manifest.garbage.len())
    };
    assert_eq!(cut(0, &[(1, 150), (2, 400)]), (false, 300, 0));
    assert_eq!(
        cut(300, &[(3, 400)]),
        (false, 300, 0),
        "what it no longer knows stays"
    );
    assert_eq!(cut(120, &[(1, 150), (2, 400)]), (false, 300, 0));
    assert_eq!(
        cut(0, &[(1, 150), (3, 400)]),
        (true, 150, 1),
        "epoch 2 was another's"
    );
    assert_eq!(cut(0, &[(1, 130), (3, 400)]), (true, 130, 1));
    assert_eq!(cut(0, &[(1, 150), (2, 250), (3, 400)]), (true, 250, 0));
    assert_eq!(cut(210, &[(3, 400)]), (true, 210, 0));
}

#[test]
fn a_start_above_the_end_leaves_nothing() {
    let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
    manifest.append(entry(0, 100, &[(1, 0)]));
    manifest.raise_start(500, 9);
    manifest.check("x").unwrap();
    assert_eq!((manifest.start_offset, manifest.end_offset), (500, 500));
    assert_eq!(manifest.garbage.len(), 1);
    manifest.append(entry(500, 600, &[(1, 500)]));
    manifest.check("x").unwrap();
}

proptest! {
    /// Whatever lies in a bucket gives an answer, never a panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(document::decode::<Manifest>("x", &bytes).is_err());
        prop_assert!(Tail::decode("x", &bytes.into()).is_err());
    }

    /// A document with any change is refused.
    #[test]
    fn any_change_is_noticed(at in 0usize..10_000, bit in 0u8..8) {
        let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
        manifest.append(entry(0, 100, &[(1, 0), (2, 50)]));
        let bytes = document::encode("x", &manifest).unwrap();
        prop_assert_eq!(document::decode::<Manifest>("x", &bytes).unwrap(), manifest);
        let mut changed = bytes.to_vec();
        let at = at % (changed.len() - 1);
        changed[at] ^= 1 << bit;
        let same_number = |text: &[u8]| text.to_ascii_lowercase() == bytes.to_ascii_lowercase();
        prop_assume!(!same_number(&changed));
        prop_assert!(document::decode::<Manifest>("x", &changed).is_err());
    }

    /// So is a tail.
    #[test]
    fn any_change_of_a_tail_is_noticed(at in 0usize..10_000, bit in 0u8..8) {
        let mut builder = Builder::new("orders", PARTITION, 0);
        builder.add(&batch(0, 10, 1, 0)).unwrap();
        let (tail, _) = builder.finish("x", 1, 1, Uuid([3; 16])).unwrap();
        prop_assert!(Tail::decode("x", &tail).is_ok());
        let mut changed = tail.to_vec();
        let at = at % changed.len();
        changed[at] ^= 1 << bit;
        let lowercase = changed.to_ascii_lowercase() == tail.to_ascii_lowercase();
        prop_assume!(!lowercase);
        prop_assert!(Tail::decode("x", &changed.into()).is_err());
    }
}
