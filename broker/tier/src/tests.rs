use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use proptest::prelude::*;
use tidemark_env::disk::{Disk, MemDisk, OpenMode};
use tidemark_env::task;
use tidemark_records::{BatchBuilder, BatchOptions, RecordRef};
use tidemark_wire::Uuid;

use crate::bucket::Created;
use crate::document;
use crate::manifest::{CHUNK_ENTRIES, Chunk, Expired, Keep, MOST_ENTRIES};
use crate::reader::BLOCK_BYTES;
use crate::segment::{Builder, Section, Tail};
use crate::upload::{Upload, new_id};
use crate::*;

const PARTITION: PartitionId = PartitionId {
    topic_id: Uuid([7; 16]),
    partition: 3,
};

fn writer(leader_epoch: i32) -> Writer {
    Writer {
        generation: 1,
        leader_epoch,
        id: Uuid([1; 16]),
    }
}

fn memory() -> Bucket {
    Bucket::new(Arc::new(InMemory::new()), "some/prefix".into(), "memory:")
}

fn at(base_offset: i64, partition_leader_epoch: i32) -> BatchOptions {
    BatchOptions {
        base_offset,
        partition_leader_epoch,
        ..BatchOptions::default()
    }
}

fn batch(base_offset: i64, count: i64, epoch: i32, timestamp_ms: i64) -> Bytes {
    let mut builder = BatchBuilder::new(at(base_offset, epoch));
    for index in 0..count {
        let value = format!("value {}", base_offset + index);
        let record = RecordRef {
            timestamp_ms: timestamp_ms + index,
            value: Some(value.as_bytes()),
            ..RecordRef::default()
        };
        builder.append(&record).unwrap();
    }
    builder.build().unwrap()
}

fn entry(base_offset: i64, end_offset: i64, epochs: &[(i32, i64)]) -> SegmentRef {
    SegmentRef {
        base_offset,
        end_offset,
        leader_epoch: epochs.last().map_or(0, |(epoch, _)| *epoch),
        id: new_id(),
        size_bytes: 1000,
        log_bytes: 900,
        crc32: 0,
        max_timestamp_ms: end_offset * 1000,
        epochs: epochs.to_vec(),
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

/// Uploads batches of ten records from offset 0 on.
async fn upload(bucket: &Bucket, batches: i64, epoch: i32) -> SegmentRef {
    let mut upload = Upload::new(bucket, ("orders", PARTITION), 0, (1, epoch));
    for index in 0..batches {
        let bytes = batch(index * 10, 10, epoch, 1_000 * index);
        upload.add(&bytes).await.unwrap();
    }
    upload.finish().await.unwrap()
}

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
fn of_two_creators_one_wins_and_the_other_knows() {
    run(async {
        let bucket = memory();
        bucket.probe().await.unwrap();
        let (first, second) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        assert_eq!(bucket.create("x/1", &first).await.unwrap(), Created::Ours);
        // The answer was lost, and it is tried again.
        assert_eq!(bucket.create("x/1", &first).await.unwrap(), Created::Ours);
        let lost = bucket.create("x/1", &second).await.unwrap();
        assert_eq!(lost, Created::Theirs(first));
    });
}

#[test]
fn a_directory_is_a_bucket() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}/new/one", dir.path().display());
        let bucket = Bucket::open(&url, &BucketOptions::default()).unwrap();
        bucket.probe().await.unwrap();
        let entry = upload(&bucket, 10, 5).await;
        let (objects, others) = verify::by_partition(&bucket).await.unwrap();
        assert_eq!(others, []);
        assert_eq!(objects[&PARTITION][0].key, entry.key(PARTITION));
    });
    let nothing = Bucket::open("ftp://x/y", &BucketOptions::default());
    assert!(nothing.unwrap_err().to_string().contains("s3://bucket"));
}

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
fn verify_finds_each_kind_of_damage() {
    run(async {
        let bucket = memory();
        let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
        let entry = upload(&bucket, 10, 1).await;
        manifest.append(entry.clone());
        bucket
            .create_document(&PARTITION.manifest(0), &manifest)
            .await
            .unwrap();
        let look = async || {
            let (objects, _) = verify::by_partition(&bucket).await.unwrap();
            let (_, findings) = verify::partition(&bucket, PARTITION, &objects[&PARTITION], true)
                .await
                .unwrap();
            findings
                .iter()
                .map(|finding| finding.kind)
                .collect::<Vec<_>>()
        };
        assert!(look().await.is_empty());
        let key = entry.key(PARTITION);
        let whole = bucket.get(&key).await.unwrap();
        let mut flipped = whole.to_vec();
        flipped[100] ^= 1;
        bucket.put(&key, flipped.into()).await.unwrap();
        assert_eq!(look().await, ["damaged"]);
        bucket.put(&key, whole.slice(..50)).await.unwrap();
        assert_eq!(look().await, ["damaged"]);
        bucket.delete(&key).await.unwrap();
        assert_eq!(look().await, ["missing"]);
        bucket.put(&key, whole).await.unwrap();
        let foreign = format!("{}/notes.txt", PARTITION.prefix());
        bucket
            .put(&foreign, Bytes::from_static(b"hello"))
            .await
            .unwrap();
        assert_eq!(look().await, ["orphan"]);
        bucket.delete(&foreign).await.unwrap();
        let mut other = manifest.succeed(writer(1), 12345).unwrap();
        other.garbage.clear();
        bucket
            .create_document(&PARTITION.manifest(1), &other)
            .await
            .unwrap();
        assert_eq!(look().await, ["gap"]);
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

#[test]
fn keys_name_their_partition() {
    let keys = [
        PARTITION.segment(5, 1, Uuid([2; 16])),
        PARTITION.chunk(Uuid([2; 16])),
        PARTITION.manifest(9),
    ];
    for key in keys {
        assert_eq!(layout::partition_of(&key), Some(PARTITION), "{key}");
    }
    assert_eq!(layout::partition_of("topics/abc/topic.json"), None);
    assert_eq!(layout::partition_of("00/x/1/y"), None);
    assert!(!task::is_simulated());
}

/// A store in memory that flips a byte of some answers.
#[derive(Debug, Default)]
struct Flips {
    store: InMemory,
    /// How many answers to requests for a range are to be wrong.
    left: std::sync::atomic::AtomicU32,
}

impl std::fmt::Display for Flips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("flips")
    }
}

#[async_trait::async_trait]
impl object_store::ObjectStore for Flips {
    async fn put_opts(
        &self,
        location: &Path,
        payload: object_store::PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        use std::sync::atomic::Ordering::Relaxed;
        let ranged = options.range.is_some();
        let found = self.store.get_opts(location, options).await?;
        let flips = ranged
            && self
                .left
                .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                .is_ok();
        if !flips {
            return Ok(found);
        }
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
        let mut bytes = found.bytes().await?.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let answer = futures_util::stream::iter([Ok(Bytes::from(bytes))]);
        Ok(object_store::GetResult {
            payload: object_store::GetResultPayload::Stream(Box::pin(answer)),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    fn delete_stream(
        &self,
        locations: futures_util::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>>
    {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// Batches of 40 records each from offset 0 on, uploaded.
async fn uploaded(bucket: &Bucket, batches: i64) -> SegmentRef {
    let mut upload = Upload::new(bucket, ("orders", PARTITION), 0, (1, 5));
    for number in 0..batches {
        upload.add(&batch(number * 40, 40, 5, 1000)).await.unwrap();
    }
    upload.finish().await.unwrap()
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
fn only_what_nobody_can_name_any_more_is_an_orphan() {
    use crate::orphans::orphans;
    let mut manifest = Manifest::first("orders", PARTITION, writer(5), 0);
    let (counted, cut) = (entry(0, 10, &[(4, 0)]), entry(10, 20, &[(4, 10)]));
    let in_chunk = entry(0, 5, &[(2, 0)]);
    manifest.append(counted.clone());
    manifest.garbage.push(Garbage {
        key: cut.key(PARTITION),
        since_ms: 0,
    });
    let of = |epoch: i32| PARTITION.segment(10, epoch, new_id());
    let (older, own, later) = (of(4), of(5), of(6));
    let chunk = PARTITION.chunk(new_id());
    let other = PartitionId {
        partition: 4,
        ..PARTITION
    };
    let others = other.segment(10, 1, new_id());
    let foreign = format!("{}/notes.txt", PARTITION.prefix());
    let keys = [
        counted.key(PARTITION),
        cut.key(PARTITION),
        in_chunk.key(PARTITION),
        older.clone(),
        own.clone(),
        later,
        chunk.clone(),
        others,
        foreign,
        PARTITION.manifest(0),
    ];
    let found = orphans(&manifest, &[in_chunk], keys.iter().map(String::as_str));
    assert_eq!(found, [older, own, chunk]);
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

/// A store that counts how often objects are read.
#[derive(Debug)]
struct Counting {
    store: InMemory,
    gets: Arc<AtomicU64>,
}

impl std::fmt::Display for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// Batches of half a MiB, twenty blocks of them: memory has room for four.
#[test]
fn what_is_on_the_shelf_is_not_fetched_again() {
    let gets = Arc::new(AtomicU64::new(0));
    let store = Counting {
        store: InMemory::new(),
        gets: Arc::clone(&gets),
    };
    let bucket = Bucket::new(Arc::new(store), "some/prefix".into(), "memory:");
    let large = |offset: i64| {
        let mut builder = BatchBuilder::new(at(offset, 1));
        let value = vec![u8::try_from(offset % 200).unwrap(); 512 << 10];
        let record = RecordRef {
            timestamp_ms: 1,
            value: Some(&value),
            ..RecordRef::default()
        };
        builder.append(&record).unwrap();
        builder.build().unwrap()
    };
    run(async {
        let mut upload = Upload::new(&bucket, ("orders", PARTITION), 0, (1, 1));
        for offset in 0..80 {
            upload.add(&large(offset)).await.unwrap();
        }
        let entry = upload.finish().await.unwrap();
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
