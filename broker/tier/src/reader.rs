//! Reads from the bucket: by blocks, through a cache in memory with a hard bound, and one on disk
//! where there is a [`Shelf`].
//!
//! Blocks of objects, what follows their records, and chunks never change, so what is in the
//! cache is right for ever. Whoever asks for a block that is on its way waits for that one. What
//! is given out has the CRCs of its batches checked.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quick_cache::sync::{DefaultLifecycle, GuardResult};
use quick_cache::{OptionsBuilder, Weighter};
use tidemark_env::{clock, task};
use tidemark_records::{BATCH_OVERHEAD_BYTES, Batch, BatchHeader, Limits};
use tidemark_wire::Uuid;

use crate::bucket::Bucket;
use crate::budget::Requests;
use crate::error::TierError;
use crate::layout::PartitionId;
use crate::manifest::{Chunk, ChunkRef, SegmentRef};
use crate::segment::Tail;
use crate::shelf::Shelf;
use crate::streams::{Ahead, Streams};

/// Objects are read in pieces of this size.
pub const BLOCK_BYTES: u64 = 2 << 20;
/// Stands on the shelf for what follows an object's records.
const TAIL: u64 = u64::MAX;
/// This part of the cache is for what was read more than once; the rest goes in the order in which
/// it came, so that what is read ahead stays until it is read.
const KEPT: f64 = 0.25;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Block(Uuid, u64),
    Tail(Uuid),
    Chunk(Uuid),
}

#[derive(Debug, Clone)]
enum Cached {
    Block(Bytes),
    Tail(Arc<Tail>),
    Chunk(Arc<Chunk>),
}

#[derive(Debug, Clone)]
struct Bytewise;

impl Weighter<Key, Cached> for Bytewise {
    fn weight(&self, _: &Key, value: &Cached) -> u64 {
        const OVERHEAD_BYTES: usize = 128;
        let bytes = match value {
            Cached::Block(bytes) => bytes.len(),
            Cached::Tail(tail) => tail.index.len() * 24,
            Cached::Chunk(chunk) => chunk.segments.len() * 160,
        };
        (bytes + OVERHEAD_BYTES) as u64
    }
}

/// What was read, up to so many bytes; what was not asked for longest goes first.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Blocks>);

/// What is thrown out is a function of what was asked for: ids are random already, and a
/// simulation has to be able to repeat itself.
type Hasher = BuildHasherDefault<DefaultHasher>;
type Blocks = quick_cache::sync::Cache<Key, Cached, Bytewise, Hasher>;

impl Cache {
    /// A cache of `capacity_bytes`, at least a few blocks.
    pub fn new(capacity_bytes: u64) -> Cache {
        let capacity_bytes = capacity_bytes.max(4 * BLOCK_BYTES);
        let items = usize::try_from(capacity_bytes / BLOCK_BYTES * 4).unwrap_or(64);
        // Parts of their own would have room for a few blocks each.
        let mut options = OptionsBuilder::new();
        options.estimated_items_capacity(items).shards(1);
        options.weight_capacity(capacity_bytes).hot_allocation(KEPT);
        let options = options.build().expect("both capacities are set");
        Cache(Arc::new(Blocks::with_options(
            options,
            Bytewise,
            Hasher::default(),
            DefaultLifecycle::default(),
        )))
    }

    /// Bytes in it.
    pub fn size_bytes(&self) -> u64 {
        self.0.weight()
    }
}

/// A record found by its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
}

/// Whole batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColdRecords {
    /// The batches; the first may begin below the offset asked for.
    pub bytes: Bytes,
    /// Where to read on.
    pub next_offset: i64,
}

/// Reads a bucket.
#[derive(Debug, Clone)]
pub struct Reader {
    bucket: Bucket,
    cache: Cache,
    shelf: Option<Shelf>,
    requests: Requests,
    streams: Arc<Mutex<Streams>>,
}

impl Reader {
    /// Reads `bucket` through `cache`, by so many requests at a time.
    pub fn new(bucket: Bucket, cache: Cache, requests: Requests) -> Reader {
        let streams = Streams::new(cache.0.capacity() / BLOCK_BYTES);
        Reader {
            bucket,
            cache,
            shelf: None,
            requests,
            streams: Arc::new(Mutex::new(streams)),
        }
    }

    /// Keeps what was read on `shelf`, too.
    #[must_use]
    pub fn with_shelf(self, shelf: Option<Shelf>) -> Reader {
        Reader { shelf, ..self }
    }

    /// The entries of a chunk.
    ///
    /// # Errors
    /// It is missing, damaged, or the bucket does not answer.
    pub async fn chunk(
        &self,
        partition: PartitionId,
        chunk: &ChunkRef,
    ) -> Result<Arc<Chunk>, TierError> {
        let load = async {
            let found = self.bucket.chunk(partition, chunk).await?;
            Ok(Cached::Chunk(Arc::new(found)))
        };
        match self
            .cache
            .0
            .get_or_insert_async(&Key::Chunk(chunk.id), load)
            .await?
        {
            Cached::Chunk(found) => Ok(found),
            _ => {
                let key = partition.chunk(chunk.id);
                Err(TierError::damaged(&key, "its id is not unique"))
            }
        }
    }

    /// The index and footer of an object.
    ///
    /// # Errors
    /// As [`Reader::chunk`].
    pub async fn tail(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
    ) -> Result<Arc<Tail>, TierError> {
        let key = entry.key(partition);
        let load = async {
            let len = entry.size_bytes - entry.log_bytes;
            let shelved = self.shelved(entry.id, TAIL).await;
            let bytes = match &shelved {
                Some(bytes) => bytes.clone(),
                None => self.bucket.get_range(&key, entry.log_bytes, len).await?,
            };
            let tail = Tail::decode(&key, &bytes)?;
            if shelved.is_none() {
                self.shelve(entry.id, TAIL, &bytes);
            }
            if tail.footer.log_bytes != entry.log_bytes {
                return Err(TierError::damaged(
                    &key,
                    "its footer speaks of other records",
                ));
            }
            Ok(Cached::Tail(Arc::new(tail)))
        };
        match self
            .cache
            .0
            .get_or_insert_async(&Key::Tail(entry.id), load)
            .await?
        {
            Cached::Tail(found) => Ok(found),
            _ => Err(TierError::damaged(&key, "its id is not unique")),
        }
    }

    async fn block(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        number: u64,
    ) -> Result<Bytes, TierError> {
        let key = entry.key(partition);
        let at = number * BLOCK_BYTES;
        let load = async {
            let len = BLOCK_BYTES.min(entry.log_bytes.saturating_sub(at));
            if let Some(bytes) = self.shelved(entry.id, number).await
                && bytes.len() as u64 == len
            {
                return Ok(Cached::Block(bytes));
            }
            self.streams().missed(entry.id, number);
            let _one_more = self.requests.take().await;
            let bytes = self.bucket.get_range(&key, at, len).await?;
            self.shelve(entry.id, number, &bytes);
            Ok(Cached::Block(bytes))
        };
        match self
            .cache
            .0
            .get_or_insert_async(&Key::Block(entry.id, number), load)
            .await?
        {
            Cached::Block(found) => Ok(found),
            _ => Err(TierError::damaged(&key, "its id is not unique")),
        }
    }

    async fn shelved(&self, id: Uuid, number: u64) -> Option<Bytes> {
        let shelf = self.shelf.clone().filter(|shelf| shelf.has(id, number))?;
        let read = task::blocking(move || shelf.get(id, number)).await;
        read.ok().flatten()
    }

    /// Nobody waits for it.
    fn shelve(&self, id: Uuid, number: u64, bytes: &Bytes) {
        if let Some(shelf) = self.shelf.clone() {
            let bytes = bytes.clone();
            drop(task::spawn("tier-shelve", async move {
                drop(task::blocking(move || shelf.put(id, number, &bytes)).await);
            }));
        }
    }

    /// Gets what who has read up to `position` will ask for on its way: some blocks, in the object
    /// that comes `next`, too.
    fn read_ahead(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        next: Option<&SegmentRef>,
        position: u64,
    ) {
        let here = position / BLOCK_BYTES;
        let Ahead { blocks, run } = self.streams().read(entry.id, here, clock::monotonic());
        let there = entry.log_bytes.div_ceil(BLOCK_BYTES);
        self.fetch_ahead(partition, entry, blocks.start..blocks.end.min(there), run);
        if let Some(next) = next.filter(|_| blocks.end > there) {
            let wanted = (blocks.end - there).next_multiple_of(run);
            let blocks = self.streams().goes_on(entry.id, next.id, wanted);
            let there = next.log_bytes.div_ceil(BLOCK_BYTES);
            self.fetch_ahead(partition, next, blocks.start..blocks.end.min(there), run);
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the blocks `numbers` on their way: each run of them by a request of its own, which
    /// begins at a multiple of `run`.
    fn fetch_ahead(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        mut numbers: Range<u64>,
        run: u64,
    ) {
        while !numbers.is_empty() {
            let end = ((numbers.start / run + 1) * run).min(numbers.end);
            let (reader, entry, blocks) = (self.clone(), entry.clone(), numbers.start..end);
            drop(task::spawn("tier-read-ahead", async move {
                if let Err(error) = reader.load(partition, &entry, blocks).await {
                    // Who needs it asks again, and hears of it.
                    tracing::debug!(%error, "nothing was read ahead");
                }
            }));
            numbers.start = end;
        }
    }

    /// Brings blocks into the cache: those that nobody else gets, as many as follow each other by
    /// one request.
    async fn load(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        mut numbers: Range<u64>,
    ) -> Result<(), TierError> {
        if numbers.start == 0 {
            self.tail(partition, entry).await?;
        }
        while !numbers.is_empty() {
            let first = numbers.start;
            let mut claimed = VecDeque::new();
            for number in numbers.clone() {
                let shelf = self.shelf.as_ref();
                if shelf.is_some_and(|shelf| shelf.has(entry.id, number)) {
                    break;
                }
                let key = Key::Block(entry.id, number);
                match self.cache.0.get_value_or_guard(&key, Some(Duration::ZERO)) {
                    GuardResult::Guard(guard) => claimed.push_back((number, guard)),
                    GuardResult::Value(_) | GuardResult::Timeout => break,
                }
            }
            if claimed.is_empty() {
                self.block(partition, entry, first).await?;
                numbers.start += 1;
                continue;
            }
            numbers.start += claimed.len() as u64;
            let at = first * BLOCK_BYTES;
            let end = (numbers.start * BLOCK_BYTES).min(entry.log_bytes);
            let _one_more = self.requests.take().await;
            let key = entry.key(partition);
            let keep = |block: Bytes| {
                if let Some((number, guard)) = claimed.pop_front() {
                    self.shelve(entry.id, number, &block);
                    // What was forgotten meanwhile does not come back.
                    drop(guard.insert(Cached::Block(block)));
                }
            };
            self.bucket
                .get_pieces(&key, (at, end - at), BLOCK_BYTES as usize, keep)
                .await?;
        }
        Ok(())
    }

    /// `len` bytes of records at `at`, or fewer at their end.
    async fn bytes(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        at: u64,
        len: u64,
    ) -> Result<Bytes, TierError> {
        let end = (at + len).min(entry.log_bytes);
        let (first, last) = (at / BLOCK_BYTES, end.saturating_sub(1) / BLOCK_BYTES);
        let within = |block: &Bytes, number: u64| {
            let base = number * BLOCK_BYTES;
            let from = usize::try_from(at.max(base) - base).unwrap_or(usize::MAX);
            let to = usize::try_from(end - base).unwrap_or(usize::MAX);
            block.slice(from.min(block.len())..to.min(block.len()))
        };
        if at >= end {
            return Ok(Bytes::new());
        }
        let block = self.block(partition, entry, first).await?;
        if first == last {
            return Ok(within(&block, first));
        }
        let mut joined = BytesMut::from(&within(&block, first)[..]);
        for number in first + 1..=last {
            let block = self.block(partition, entry, number).await?;
            joined.extend_from_slice(&within(&block, number));
        }
        Ok(joined.freeze())
    }

    /// Where the batch begins that holds `offset`, and its header.
    async fn seek(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        offset: i64,
    ) -> Result<(u64, BatchHeader), TierError> {
        let tail = self.tail(partition, entry).await?;
        let start = tail.entry_of(offset);
        let (mut at, mut expected) = (start.position, start.base_offset);
        loop {
            let header = self.header(partition, entry, at).await?;
            check_place(entry, &header, expected)
                .map_err(|reason| TierError::damaged(&entry.key(partition), reason))?;
            if header.next_offset() > offset {
                return Ok((at, header));
            }
            at += header.size_bytes() as u64;
            expected = header.next_offset();
        }
    }

    async fn header(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        at: u64,
    ) -> Result<BatchHeader, TierError> {
        let head = self
            .bytes(partition, entry, at, BATCH_OVERHEAD_BYTES as u64)
            .await?;
        let header = BatchHeader::parse(&head).map_err(|error| {
            TierError::damaged(&entry.key(partition), format!("at {at}: {error}"))
        })?;
        if at + header.size_bytes() as u64 > entry.log_bytes {
            let key = entry.key(partition);
            return Err(TierError::damaged(
                &key,
                format!("the batch at {at} does not end"),
            ));
        }
        Ok(header)
    }

    /// Whole batches from the one that holds `offset` on: at most `max_bytes`, but at least one.
    /// Only what the entry counts is given out. What came damaged is read once more: it may have
    /// been so on its way only.
    ///
    /// # Errors
    /// The object is missing, damaged, or the bucket does not answer.
    pub async fn read(
        &self,
        partition: PartitionId,
        (entry, next): (&SegmentRef, Option<&SegmentRef>),
        offset: i64,
        max_bytes: u64,
    ) -> Result<ColdRecords, TierError> {
        let read = || self.read_once(partition, (entry, next), offset, max_bytes);
        match read().await {
            Err(TierError::Damaged { .. }) => {}
            read => return read,
        }
        self.forget(entry);
        let read = read().await;
        if let Err(TierError::Damaged { .. }) = read {
            self.forget(entry);
        }
        read
    }

    /// Blocks are checked by those who read batches out of them: damaged ones must not stay.
    fn forget(&self, entry: &SegmentRef) {
        // More than a segment can have: what a manifest says may be anything.
        const MOST_BLOCKS: u64 = 4096;
        for number in 0..=(entry.log_bytes / BLOCK_BYTES).min(MOST_BLOCKS) {
            self.cache.0.remove(&Key::Block(entry.id, number));
        }
        if let Some(shelf) = self.shelf.clone() {
            let gone = shelf.forget(entry.id);
            drop(task::spawn("tier-shelve", async move {
                drop(task::blocking(move || shelf.delete(&gone)).await);
            }));
        }
    }

    async fn read_once(
        &self,
        partition: PartitionId,
        (entry, next): (&SegmentRef, Option<&SegmentRef>),
        offset: i64,
        max_bytes: u64,
    ) -> Result<ColdRecords, TierError> {
        let key = entry.key(partition);
        let (at, first) = self.seek(partition, entry, offset).await?;
        // To the end of the block: reading over would wait for the next one.
        let block_end = (at / BLOCK_BYTES + 1) * BLOCK_BYTES;
        let len = max_bytes.min(block_end - at).max(first.size_bytes() as u64);
        let bytes = self.bytes(partition, entry, at, len).await?;
        let mut rest = bytes.clone();
        let mut end = 0;
        let mut next_offset = first.base_offset;
        loop {
            let batch = match Batch::split_first(&mut rest) {
                Ok(Some(batch)) => batch,
                Ok(None) => break,
                // Cut by the limit, unless it is the first.
                Err(_) if end > 0 => break,
                Err(error) => return Err(TierError::damaged(&key, error.to_string())),
            };
            if next_offset >= entry.end_offset {
                break;
            }
            check_place(entry, &batch.header, next_offset)
                .map_err(|reason| TierError::damaged(&key, reason))?;
            batch.verify_crc().map_err(|error| {
                TierError::damaged(&key, format!("at {}: {error}", at + end as u64))
            })?;
            end += batch.header.size_bytes();
            next_offset = batch.header.next_offset();
        }
        self.read_ahead(partition, entry, next, at + end as u64);
        Ok(ColdRecords {
            bytes: bytes.slice(..end),
            next_offset,
        })
    }

    /// The first record at or above `from_offset` whose timestamp is `timestamp_ms` or later.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub async fn find_by_time(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        from_offset: i64,
        timestamp_ms: i64,
    ) -> Result<Option<Timed>, TierError> {
        let find = || self.find_once(partition, entry, from_offset, timestamp_ms);
        match find().await {
            Err(TierError::Damaged { .. }) => {}
            found => return found,
        }
        self.forget(entry);
        let found = find().await;
        if let Err(TierError::Damaged { .. }) = found {
            self.forget(entry);
        }
        found
    }

    async fn find_once(
        &self,
        partition: PartitionId,
        entry: &SegmentRef,
        from_offset: i64,
        timestamp_ms: i64,
    ) -> Result<Option<Timed>, TierError> {
        let key = entry.key(partition);
        let damaged =
            |error: tidemark_records::BatchError| TierError::damaged(&key, error.to_string());
        let tail = self.tail(partition, entry).await?;
        let mut from = tail.entry_of(from_offset).position;
        while let Some((begin, end)) = tail.stretch_by_time(timestamp_ms, from) {
            let mut at = begin;
            while at < end {
                let header = self.header(partition, entry, at).await?;
                let size = header.size_bytes() as u64;
                let wanted =
                    header.max_timestamp_ms >= timestamp_ms && header.next_offset() > from_offset;
                if header.base_offset >= entry.end_offset {
                    return Ok(None);
                }
                if wanted {
                    let mut bytes = self.bytes(partition, entry, at, size).await?;
                    let batch = Batch::split_first(&mut bytes).map_err(damaged)?;
                    let Some(batch) = batch else { break };
                    batch.verify_crc().map_err(damaged)?;
                    for record in batch.records(Limits::default()).map_err(damaged)? {
                        let record = record.map_err(damaged)?;
                        if record.timestamp_ms >= timestamp_ms && record.offset >= from_offset {
                            return Ok(Some(Timed {
                                offset: record.offset,
                                timestamp_ms: record.timestamp_ms,
                                leader_epoch: header.partition_leader_epoch,
                            }));
                        }
                    }
                }
                at += size;
            }
            from = end;
        }
        Ok(None)
    }
}

/// Offset and leader epoch of a batch are not under its CRC: they follow from where it is.
fn check_place(entry: &SegmentRef, header: &BatchHeader, expected: i64) -> Result<(), String> {
    let offset = header.base_offset;
    if offset != expected {
        return Err(format!("a batch says {offset} where {expected} belongs"));
    }
    let at = offset.max(entry.base_offset);
    let before = entry.epochs.iter().take_while(|(_, start)| *start <= at);
    let epoch = before.last().map(|(epoch, _)| *epoch);
    if at < entry.end_offset && epoch != Some(header.partition_leader_epoch) {
        return Err(format!(
            "the batch at {offset} says leader epoch {}",
            header.partition_leader_epoch
        ));
    }
    Ok(())
}
