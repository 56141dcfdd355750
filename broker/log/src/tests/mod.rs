//! Tests of the log on the memory disk and on real files.

mod basics;
mod damage;
mod formats;
mod imports;
mod model;
mod sharing;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_env::disk::{Disk, MemDisk};
use tidemark_records::{Batch, BatchBuilder};

use crate::{Log, LogConfig, OnCorruption, OpenArgs, OpenError, Recovery};

pub(crate) const NOW_MS: i64 = 1_700_000_000_000;

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data/topic-0")
}

pub(crate) fn memory_disk() -> MemDisk {
    let disk = MemDisk::new();
    disk.create_dir_all(&PathBuf::from("/data")).unwrap();
    disk.sync_dir(&PathBuf::from("/")).unwrap();
    disk
}

pub(crate) fn open_in(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: &LogConfig,
) -> Result<(Log, Recovery), OpenError> {
    Log::open(OpenArgs {
        disk,
        dir,
        topic_id: None,
        config: Arc::new(config.clone()),
        on_corruption: OnCorruption::Refuse,
        now_ms: NOW_MS,
    })
}

pub(crate) fn open(disk: &MemDisk, config: &LogConfig) -> Result<(Log, Recovery), OpenError> {
    open_in(Arc::new(disk.clone()), dir(), config)
}

pub(crate) fn flush(log: &mut Log) {
    if let Some(ticket) = log.flush_target() {
        let done = ticket.run().unwrap();
        log.flushed(done);
    }
}

pub(crate) fn checkpoint(log: &mut Log) {
    if let Some(job) = log.checkpoint_job().unwrap() {
        let done = job.run().unwrap();
        log.checkpointed(done);
    }
}

/// All batches from `from` up to the log's end.
pub(crate) fn read_all(log: &Log, from: i64) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut offset = from;
    while offset < log.end_offset() {
        let read = log
            .read_plan(offset, 1 << 20, log.end_offset(), true)
            .unwrap()
            .load()
            .unwrap();
        assert!(read.next_offset > offset, "{read:?}");
        offset = read.next_offset;
        batches.extend(split(read.records));
    }
    batches
}

pub(crate) fn split(mut bytes: Bytes) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = Batch::split_first(&mut bytes).unwrap() {
        batch.verify_crc().unwrap();
        batches.push(batch);
    }
    batches
}
