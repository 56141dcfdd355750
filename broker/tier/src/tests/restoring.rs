//! What a restore finds, and takes over.

use super::*;

#[test]
fn a_partition_goes_back_to_a_moment_also_where_that_is_in_a_chunk() {
    let mut whole = Manifest::first("orders", PARTITION, writer(1), 0);
    let (mut chunked, mut all) = (Vec::new(), Vec::new());
    for index in 0..MOST_ENTRIES as i64 + 10 {
        let one = entry(index * 10, index * 10 + 10, &[(1, index * 10)]);
        all.push(one.clone());
        whole.append(one);
        if let Some(chunk) = whole.to_move() {
            whole.moved(&chunk, new_id(), 0);
            chunked.extend(chunk.segments);
        }
    }
    assert_eq!(chunked.len(), CHUNK_ENTRIES);
    for offset in [0, 25, 30, CHUNK_ENTRIES as i64 * 10 + 5, 10_335, 99_999] {
        let mut cut = whole.clone();
        cut.cut_at(offset, &all, 7);
        cut.check("x").unwrap();
        let end = offset.min(whole.end_offset);
        assert_eq!(cut.end_offset, end);
        let gone = all.iter().filter(|entry| entry.base_offset >= end);
        for entry in gone.clone() {
            let key = entry.key(PARTITION);
            assert!(cut.garbage.iter().any(|garbage| garbage.key == key));
        }
        let chunks = whole.chunks.len() - cut.chunks.len();
        assert_eq!(cut.garbage.len(), gone.count() + chunks, "{offset}");
        assert_eq!(cut.entry_count() as i64, (end + 9) / 10, "{offset}");
    }
}

#[test]
fn a_backup_takes_the_place_of_the_one_before() {
    let mut manifest = Manifest::first("table", PARTITION, writer(1), 0);
    manifest.replace(0, vec![entry(0, 40, &[(1, 0)])], &[], 5);
    manifest.check("x").unwrap();
    let first = manifest.segments[0].key(PARTITION);
    manifest.replace(
        10,
        vec![entry(10, 30, &[(1, 10)]), entry(30, 90, &[(1, 30)])],
        &[],
        9,
    );
    manifest.check("x").unwrap();
    assert_eq!((manifest.start_offset, manifest.end_offset), (10, 90));
    assert_eq!(manifest.backup_at_ms, Some(9));
    assert_eq!(manifest.garbage.len(), 1);
    assert_eq!(manifest.garbage[0].key, first);
}

#[test]
fn who_made_a_backup_is_known_whoever_tells_of_it() {
    let mut manifest = Manifest::first("table", PARTITION, writer(3), 0);
    assert_eq!(manifest.backup_leader_epoch, None);
    manifest.replace(0, vec![entry(0, 40, &[(1, 0)])], &[], 5);
    assert_eq!(manifest.backup_leader_epoch, Some(3));
    let told = manifest.succeed(writer(4), 0).unwrap();
    assert_eq!(told.backup_leader_epoch, Some(3));
    let restore = Writer {
        generation: told.writer.generation + 1,
        ..writer(0)
    };
    let taken_over = told.succeed(restore, 0).unwrap();
    assert_eq!(taken_over.backup_leader_epoch, Some(0));
    let log = Manifest::first("orders", PARTITION, writer(3), 0);
    let taken_over = log.succeed(restore, 0).unwrap();
    assert_eq!(taken_over.backup_leader_epoch, None);
}

#[test]
fn what_was_taken_over_is_written_by_nobody_of_before() {
    run(async {
        let bucket = memory();
        let mut manifest = Manifest::first("orders", PARTITION, writer(7), 0);
        manifest.append(upload(&bucket, 4, 7).await);
        let key = PARTITION.manifest(0);
        let (_, crc32) = bucket.create_document(&key, &manifest).await.unwrap();
        // Batches have the timestamps 0 to 9, 1,000 to 1,009, ...
        let part = restore::part(&bucket, PARTITION, Some(2_000))
            .await
            .unwrap();
        assert_eq!((part.start_offset(), part.end_offset), (0, 20));
        let exact = restore::part(&bucket, PARTITION, Some(1_009))
            .await
            .unwrap();
        assert_eq!(exact.end_offset, 20);
        let none = restore::part(&bucket, PARTITION, Some(-5)).await.unwrap();
        assert_eq!(none.end_offset, 0);
        let latest = restore::part(&bucket, PARTITION, None).await.unwrap();
        assert_eq!(latest.end_offset, 40);

        let restorer = Writer {
            generation: 2,
            leader_epoch: 0,
            id: Uuid([2; 16]),
        };
        let taken = restore::take_over(&bucket, &part, restorer, 5, |_| {}).await;
        assert_eq!(taken.unwrap().unwrap().end_offset, 20);
        // Who knew only of the first manifest loses; who looks is told why.
        let late = manifest.succeed(writer(9), crc32).unwrap();
        let lost = bucket.create_document(&PARTITION.manifest(1), &late).await;
        assert!(matches!(lost.unwrap().0, Created::Theirs(_)));
        let after = restore::part(&bucket, PARTITION, None).await.unwrap();
        let (newest, crc32) = after.manifest.clone().unwrap();
        let refused = newest.succeed(writer(9), crc32);
        assert!(matches!(refused, Err(TierError::Superseded { .. })));
        // Once more it stays as it is.
        let again = restore::take_over(&bucket, &after, restorer, 6, |_| {}).await;
        assert_eq!(again.unwrap().unwrap(), newest);

        let other = memory();
        restore::copy(&bucket, &other, &after, restorer, None)
            .await
            .unwrap();
        let copied = restore::part(&other, PARTITION, None).await.unwrap();
        assert_eq!((copied.start_offset(), copied.end_offset), (0, 20));
        let mut pieces = restore::Pieces::open(&other, PARTITION, &copied.entries[0])
            .await
            .unwrap();
        let mut next = 0;
        while let Some(batches) = pieces.next().await.unwrap() {
            for batch in batches {
                assert_eq!(batch.header.base_offset, next);
                next = batch.header.next_offset();
            }
        }
        assert_eq!(next, 20);
    });
}

#[test]
fn metadata_are_found_by_generation_and_by_time() {
    run(async {
        let bucket = memory();
        assert_eq!(restore::metadata(&bucket, 5, None).await.unwrap(), None);
        for (generation, index, taken_at_ms) in [(1, 9, 10), (1, 30, 20), (2, 0, 30), (2, 4, 40)] {
            let snapshot = catalog::Snapshot {
                cluster_id: "c".to_owned(),
                generation,
                index,
                taken_at_ms,
                next_producer_id: 0,
                features: Default::default(),
                brokers: vec![],
                settings: Default::default(),
                groups: Default::default(),
                topics: vec![],
                restored: None,
            };
            let key = layout::metadata(generation, index);
            assert_eq!(layout::metadata_of(&key), Some((generation, index)));
            bucket.create_document(&key, &snapshot).await.unwrap();
        }
        let taken = async |generation, at_ms| {
            let found = restore::metadata(&bucket, generation, at_ms).await;
            found.unwrap().unwrap().taken_at_ms
        };
        assert_eq!(taken(2, None).await, 40);
        assert_eq!(taken(1, None).await, 20);
        assert_eq!(taken(2, Some(35)).await, 30);
        assert_eq!(taken(2, Some(19)).await, 10);
        assert_eq!(taken(2, Some(1)).await, 10, "the oldest there is");
    });
}
