//! Tests over a store in memory, a directory, and stores that fail.

mod buckets;
mod manifests;
mod reading;
mod restoring;
mod stores;

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
use stores::{Counting, Flips};

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

/// Batches of 40 records each from offset 0 on, uploaded.
async fn uploaded(bucket: &Bucket, batches: i64) -> SegmentRef {
    let mut upload = Upload::new(bucket, ("orders", PARTITION), 0, (1, 5));
    for number in 0..batches {
        upload.add(&batch(number * 40, 40, 5, 1000)).await.unwrap();
    }
    upload.finish().await.unwrap()
}
