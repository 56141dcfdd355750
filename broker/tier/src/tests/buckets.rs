//! What lies in a bucket: creating, listing, verifying.

use super::*;

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
fn pieces_of_an_object_are_whole_and_one_that_is_cut_short_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let local = Bucket::open(&url, &BucketOptions::default()).unwrap();
    run(async {
        for bucket in [memory(), local] {
            let whole: Bytes = (0..=255).cycle().take(10_000).collect();
            bucket.put("x", whole.clone()).await.unwrap();
            for (at, len, pieces) in [(0, 10_000, 4), (17, 6_000, 2), (9_999, 1, 1), (5, 3_001, 2)]
            {
                let mut taken = Vec::new();
                let all = bucket.get_pieces("x", (at, len), 3_000, |piece| taken.push(piece));
                all.await.unwrap();
                assert_eq!(taken.len(), pieces);
                assert!(taken[..pieces - 1].iter().all(|piece| piece.len() == 3_000));
                let (from, to) = (at as usize, (at + len) as usize);
                assert_eq!(taken.concat(), whole[from..to]);
            }
            let mut taken = Vec::new();
            let cut = bucket.get_pieces("x", (0, 14_000), 3_000, |piece| taken.push(piece));
            assert!(matches!(cut.await, Err(TierError::Damaged { .. })));
            assert_eq!(taken.concat(), whole[..9_000], "only whole ones");
        }
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

/// What a broker puts there or lets go of between a list and a look is not wrong; what is, stays.
#[test]
fn a_bucket_in_use_is_looked_through_as_it_is_now() {
    run(async {
        let bucket = memory();
        let first = upload(&bucket, 10, 1).await;
        let mut next = Upload::new(&bucket, ("orders", PARTITION), 100, (1, 1));
        next.add(&batch(100, 10, 1, 20_000)).await.unwrap();
        let next = next.finish().await.unwrap();
        let mut manifest = Manifest::first("orders", PARTITION, writer(1), 0);
        manifest.append(first.clone());
        manifest.append(next.clone());
        let old = PARTITION.manifest(0);
        let (_, crc32) = bucket.create_document(&old, &manifest).await.unwrap();
        let (mut listed, _) = verify::by_partition(&bucket).await.unwrap();
        let listed = listed.remove(&PARTITION).unwrap();
        let kinds = async || {
            let (_, findings) = verify::partition(&bucket, PARTITION, &listed, true)
                .await
                .unwrap();
            findings.into_iter().map(|finding| finding.kind).collect()
        };

        // Its leader lets go of the first object, and of the manifest that named it.
        let mut newer = manifest.succeed(writer(1), crc32).unwrap();
        newer.raise_start(100, 0);
        newer.forget(&[first.key(PARTITION)]);
        bucket
            .create_document(&PARTITION.manifest(1), &newer)
            .await
            .unwrap();
        bucket.delete(&first.key(PARTITION)).await.unwrap();
        bucket.delete(&old).await.unwrap();
        let newest = verify::newest(&bucket, PARTITION, &listed).await.unwrap();
        assert_eq!(newest.unwrap().manifest.sequence, 1);
        let found: Vec<&str> = kinds().await;
        assert!(found.is_empty(), "{found:?}");

        bucket.delete(&next.key(PARTITION)).await.unwrap();
        assert_eq!(kinds().await, ["missing"]);
        bucket.delete(&PARTITION.manifest(1)).await.unwrap();
        let newest = verify::newest(&bucket, PARTITION, &listed).await;
        assert_eq!(newest.unwrap(), None, "all of it is gone");
    });
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
