//! Uploads, and what is read of them.

use super::*;

#[test]
fn what_is_uploaded_is_read_at_every_offset_and_by_time() {
    run(async {
        let bucket = memory();
        let entry = upload(&bucket, 400, 5).await;
        assert_eq!((entry.base_offset, entry.end_offset), (0, 4_000));
        assert_eq!(entry.epochs, [(5, 0)]);
        let reader = Reader::new(bucket, Cache::new(0), Requests::new(4));
        for offset in 0..4_000 {
            let found = reader
                .read(PARTITION, (&entry, None), offset, 1)
                .await
                .unwrap();
            assert_eq!(
                found.bytes,
                batch(offset / 10 * 10, 10, 5, offset / 10 * 1_000)
            );
            assert_eq!(found.next_offset, offset / 10 * 10 + 10);
        }
        let all = reader
            .read(PARTITION, (&entry, None), 0, 1 << 30)
            .await
            .unwrap();
        assert_eq!(all.next_offset, 4_000);
        for (timestamp, offset) in [
            (0, Some(0)),
            (5_003, Some(53)),
            (5_010, Some(60)),
            (399_009, Some(3_999)),
            (400_000, None),
        ] {
            let found = reader
                .find_by_time(PARTITION, &entry, 0, timestamp)
                .await
                .unwrap();
            assert_eq!(found.map(|found| found.offset), offset, "at {timestamp}");
        }
        let later = reader
            .find_by_time(PARTITION, &entry, 3_000, 0)
            .await
            .unwrap();
        assert_eq!(later.map(|found| found.offset), Some(3_000));
    });
}

#[test]
fn what_a_manifest_does_not_count_is_not_given_out() {
    run(async {
        let bucket = memory();
        let mut entry = upload(&bucket, 10, 5).await;
        entry.end_offset = 50;
        let reader = Reader::new(bucket, Cache::new(0), Requests::new(4));
        let found = reader
            .read(PARTITION, (&entry, None), 0, 1 << 20)
            .await
            .unwrap();
        assert_eq!(found.next_offset, 50);
        let found = reader
            .find_by_time(PARTITION, &entry, 0, 6_000)
            .await
            .unwrap();
        assert_eq!(found, None);
    });
}

#[test]
fn an_upload_in_parts_is_whole() {
    run(async {
        let bucket = memory();
        let mut upload = Upload::new(&bucket, ("orders", PARTITION), 0, (1, 1));
        let value = Bytes::from(vec![9; 1 << 20]);
        for offset in 0..20 {
            let mut builder = BatchBuilder::new(at(offset, 1));
            let value = Some(&value[..]);
            builder
                .append(&RecordRef {
                    value,
                    ..RecordRef::default()
                })
                .unwrap();
            upload.add(&builder.build().unwrap()).await.unwrap();
        }
        let entry = upload.finish().await.unwrap();
        assert!(entry.size_bytes > 20 << 20);
        let reader = Reader::new(bucket, Cache::new(0), Requests::new(4));
        let mut next = 0;
        while next < 20 {
            let found = reader
                .read(PARTITION, (&entry, None), next, 3 << 20)
                .await
                .unwrap();
            assert!(found.next_offset > next);
            next = found.next_offset;
        }
    });
}

#[test]
fn damage_is_told_and_not_given_out() {
    run(async {
        let bucket = memory();
        let entry = upload(&bucket, 10, 5).await;
        let key = entry.key(PARTITION);
        let whole = bucket.get(&key).await.unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.to_vec();
            changed[at] ^= 0x10;
            bucket.put(&key, changed.into()).await.unwrap();
            let checked = upload::check_object(&bucket, &key, entry.size_bytes, entry.crc32).await;
            assert!(
                matches!(checked, Err(TierError::Damaged { .. })),
                "byte {at}"
            );
            // A reader notices, or is given what was put there.
            let reader = Reader::new(bucket.clone(), Cache::new(0), Requests::new(4));
            if let Ok(found) = reader.read(PARTITION, (&entry, None), 0, 1 << 20).await {
                assert_eq!(found.bytes, whole.slice(..found.bytes.len()), "byte {at}");
            }
        }
        bucket
            .put(&key, whole.slice(..whole.len() / 2))
            .await
            .unwrap();
        let short = upload::check_object(&bucket, &key, entry.size_bytes, entry.crc32).await;
        assert!(matches!(short, Err(TierError::Damaged { .. })));
    });
}

#[test]
fn damaged_records_are_not_uploaded() {
    run(async {
        let bucket = memory();
        let mut upload = Upload::new(&bucket, ("orders", PARTITION), 0, (1, 1));
        let mut bytes = batch(0, 10, 1, 0).to_vec();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert!(upload.add(&bytes.into()).await.is_err());
        let gap = batch(5, 1, 1, 0);
        let mut upload = Upload::new(&bucket, ("orders", PARTITION), 3, (1, 1));
        assert!(upload.add(&gap).await.is_err());
    });
}

#[test]
fn what_comes_damaged_is_read_again_and_does_not_stay_in_the_cache() {
    use std::sync::atomic::Ordering::Relaxed;
    run(async {
        let store = Arc::new(Flips::default());
        let entry = uploaded(&reader_bucket(&store), 20).await;
        let reader = Reader::new(reader_bucket(&store), Cache::new(0), Requests::new(4));
        let read = async || reader.read(PARTITION, (&entry, None), 0, 1 << 20).await;
        // The tail is good; then comes the block.
        reader.tail(PARTITION, &entry).await.unwrap();
        store.left.store(1, Relaxed);
        assert_eq!(read().await.unwrap().next_offset, 800, "once is on its way");
        let reader = Reader::new(reader_bucket(&store), Cache::new(0), Requests::new(4));
        reader.tail(PARTITION, &entry).await.unwrap();
        let read = async || reader.read(PARTITION, (&entry, None), 0, 1 << 20).await;
        store.left.store(2, Relaxed);
        let damaged = read().await.unwrap_err();
        assert!(matches!(damaged, TierError::Damaged { .. }), "{damaged}");
        assert_eq!(
            read().await.unwrap().next_offset,
            800,
            "nothing damaged was kept"
        );
    });
}

fn reader_bucket(store: &Arc<Flips>) -> Bucket {
    Bucket::new(store.clone(), "some/prefix".into(), "memory:")
}

#[test]
fn a_budget_is_kept_to_and_what_was_not_used_does_not_add_up() {
    use std::time::Duration;
    use tidemark_env::clock;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let budget = BytesPerSecond::default();
        let began = clock::monotonic();
        budget.take(u64::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "without a limit");
        budget.set(Some(1000));
        clock::sleep(Duration::from_secs(60)).await;
        let began = clock::monotonic();
        for _ in 0..11 {
            budget.take(1000).await;
        }
        let took = began.elapsed().as_secs();
        assert!((9..=10).contains(&took), "{took} s");
    });
}

/// The tail of an object with three batches, and `sections` behind its index, which the footer
/// tells of as `told`.
fn tail_with(sections: &[&[u8]], told: impl Fn(&mut Vec<Section>)) -> Result<Tail, TierError> {
    let mut builder = Builder::new("orders", PARTITION, 0);
    for index in 0..3 {
        builder.add(&batch(index * 10, 10, 1, 0)).unwrap();
    }
    let (tail, entry) = builder.finish("x", 1, 1, new_id()).unwrap();
    let plain = Tail::decode("x", &tail).unwrap();
    assert_eq!(entry.size_bytes - entry.log_bytes, tail.len() as u64);
    let index_bytes = usize::try_from(plain.footer.index_bytes).unwrap();
    let mut footer = plain.footer.clone();
    footer.sections = sections
        .iter()
        .map(|bytes| Section {
            kind: "of tomorrow".to_owned(),
            bytes: bytes.len() as u64,
            crc32: crc32fast::hash(bytes),
        })
        .collect();
    told(&mut footer.sections);
    let footer = document::encode("x", &footer).unwrap();
    let footer_bytes = u32::try_from(footer.len()).unwrap().to_be_bytes();
    let end = &tail[tail.len() - 8..];
    let sections = sections.concat();
    let parts: [&[u8]; 5] = [&tail[..index_bytes], &sections, &footer, &footer_bytes, end];
    let found = Tail::decode("x", &parts.concat().into())?;
    assert_eq!(found.index, plain.index);
    Ok(found)
}

#[test]
fn what_later_versions_put_behind_the_index_is_passed_over() {
    let found = tail_with(&[b"aborted", b"", &[0; 5000]], |_| {}).unwrap();
    assert_eq!(found.footer.sections.len(), 3);
    assert!(tail_with(&[], |_| {}).unwrap().footer.sections.is_empty());
    for wrong in [
        |sections: &mut Vec<Section>| sections[0].bytes -= 1,
        |sections: &mut Vec<Section>| sections[1].bytes = u64::MAX,
        |sections: &mut Vec<Section>| sections[1].crc32 ^= 1,
        |sections: &mut Vec<Section>| drop(sections.pop()),
        |sections: &mut Vec<Section>| sections.clear(),
    ] {
        let refused = tail_with(&[b"one", b"other"], wrong).unwrap_err();
        assert!(matches!(refused, TierError::Damaged { .. }), "{refused}");
    }
}

/// A batch of one record of half a MiB.
fn large(offset: i64) -> Bytes {
    let mut builder = BatchBuilder::new(at(offset, 1));
    let value = vec![u8::try_from(offset % 200).unwrap(); 512 << 10];
    let record = RecordRef {
        timestamp_ms: 1,
        value: Some(&value),
        ..RecordRef::default()
    };
    builder.append(&record).unwrap();
    builder.build().unwrap()
}

/// A bucket that counts how often it is read, and 80 large batches in an object there: 21 blocks.
async fn counted() -> (Bucket, Arc<AtomicU64>, SegmentRef) {
    let gets = Arc::new(AtomicU64::new(0));
    let store = Counting {
        store: InMemory::new(),
        gets: Arc::clone(&gets),
    };
    let bucket = Bucket::new(Arc::new(store), "some/prefix".into(), "memory:");
    let mut upload = Upload::new(&bucket, ("orders", PARTITION), 0, (1, 1));
    for offset in 0..80 {
        upload.add(&large(offset)).await.unwrap();
    }
    let entry = upload.finish().await.unwrap();
    (bucket, gets, entry)
}

#[test]
fn who_reads_on_has_runs_of_blocks_fetched_by_one_request() {
    run(async {
        let (bucket, gets, entry) = counted().await;
        let before = gets.load(Ordering::Relaxed);
        let reader = Reader::new(bucket, Cache::new(64 << 20), Requests::new(4));
        for offset in 0..80 {
            let read = reader.read(PARTITION, (&entry, None), offset, 1).await;
            assert_eq!(read.unwrap().bytes, large(offset));
            // What is read ahead has its turn.
            tokio::task::yield_now().await;
        }
        // What follows the records; blocks 0 to 3 one by one, 4 and 5, 6 and 7, 8 to 11, 12 to 15,
        // and the rest.
        assert_eq!(entry.log_bytes.div_ceil(BLOCK_BYTES), 21);
        let gets = gets.load(Ordering::Relaxed) - before;
        assert_eq!(gets, 10);
    });
}

/// Memory has room for four of the blocks.
#[test]
fn what_is_on_the_shelf_is_not_fetched_again() {
    run(async {
        let (bucket, gets, entry) = counted().await;
        let disk = Arc::new(MemDisk::new());
        let shelf = Shelf::open(disk.clone(), "/cache".into(), 100 << 20).unwrap();
        let reader = Reader::new(bucket, Cache::new(0), Requests::new(4));
        let reader = reader.with_shelf(Some(shelf.clone()));
        let mut counts = Vec::new();
        for round in 0..3 {
            let before = gets.load(Ordering::Relaxed);
            for offset in 0..80 {
                let read = reader.read(PARTITION, (&entry, None), offset, 1).await;
                assert_eq!(read.unwrap().bytes, large(offset));
            }
            counts.push(gets.load(Ordering::Relaxed) - before);
            let blocks = entry.log_bytes.div_ceil(BLOCK_BYTES);
            while !(0..blocks)
                .chain([u64::MAX])
                .all(|number| shelf.has(entry.id, number))
            {
                tokio::task::yield_now().await;
            }
            if round == 1 {
                // Whatever happens to the files, what is read is right.
                for file in disk.list(std::path::Path::new("/cache")).unwrap() {
                    let path = std::path::Path::new("/cache").join(file.name);
                    let file = disk.open(&path, OpenMode::ReadWrite).unwrap();
                    file.write_at(b"damaged", 1000).unwrap();
                }
            }
        }
        assert!(counts[0] >= 20, "{counts:?}");
        assert_eq!(counts[1], 0, "{counts:?}");
        assert!(counts[2] >= 16, "all but what is in memory: {counts:?}");
    });
}
