//! What a partition has in the bucket: pure.
//!
//! A manifest is a whole statement, computed from its predecessor in full, whose checksum it
//! names. It says in which (cluster generation, leader epoch) it was written; neither ever
//! decreases along the chain.
//!
//! So that a manifest stays small however much is kept, entries beyond [`MOST_ENTRIES`] move
//! into chunks, objects of their own that never change. When a chunk's segments begin to expire
//! its entries come back.
//!
//! **Invariant** ([`Manifest::check`]): entries are contiguous from `base_offset` to `end_offset`,
//! and `start_offset` lies between the two.

use serde::{Deserialize, Serialize};
use tidemark_wire::Uuid;

use crate::document::Document;
use crate::error::TierError;
use crate::layout::PartitionId;

/// Entries that a manifest holds itself, before older ones move into a chunk.
pub const MOST_ENTRIES: usize = 1024;
/// Entries of one chunk.
pub const CHUNK_ENTRIES: usize = 512;

/// One object with records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Offset of its first record.
    pub base_offset: i64,
    /// The offset after the last record that counts; the object may hold more, which a leader
    /// without those records has cut off.
    pub end_offset: i64,
    /// The leader epoch that it was uploaded in.
    pub leader_epoch: i32,
    /// Makes its key unique.
    #[serde(with = "text")]
    pub id: Uuid,
    /// Bytes of the object.
    pub size_bytes: u64,
    /// Bytes of the records, which come first in it.
    pub log_bytes: u64,
    /// CRC-32 of the object.
    pub crc32: u32,
    /// The largest timestamp of its records in milliseconds, -1 without.
    pub max_timestamp_ms: i64,
    /// The leader epochs of its records, with their first offsets.
    pub epochs: Vec<(i32, i64)>,
}

impl SegmentRef {
    /// The object's key.
    pub fn key(&self, partition: PartitionId) -> String {
        partition.segment(self.base_offset, self.leader_epoch, self.id)
    }

    fn discarded(&self, partition: PartitionId, now_ms: i64) -> Garbage {
        Garbage {
            key: self.key(partition),
            since_ms: now_ms,
        }
    }
}

impl ChunkRef {
    fn discarded(&self, partition: PartitionId, now_ms: i64) -> Garbage {
        Garbage {
            key: partition.chunk(self.id),
            since_ms: now_ms,
        }
    }
}

/// Older entries, in an object of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Offset of the first record of the first entry.
    pub base_offset: i64,
    /// The offset after the last.
    pub end_offset: i64,
    /// Makes its key unique.
    #[serde(with = "text")]
    pub id: Uuid,
    /// How many entries are in it.
    pub entries: u32,
    /// Bytes of all their objects.
    pub size_bytes: u64,
    /// The largest timestamp in them.
    pub max_timestamp_ms: i64,
    /// The largest timestamp in the first of them.
    pub first_max_timestamp_ms: i64,
    /// The checksum of the chunk's document.
    pub crc32: u32,
}

/// The document of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its entries, oldest first.
    pub segments: Vec<SegmentRef>,
}

impl Document for Chunk {
    const FORMAT: &'static str = "tidemark-chunk";
}

/// An object that no longer counts and is to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Its key.
    pub key: String,
    /// When the manifest began not to count it, in milliseconds since 1970.
    pub since_ms: i64,
}

/// Who writes a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The cluster's generation in this bucket.
    pub generation: u32,
    /// The leader epoch.
    pub leader_epoch: i32,
    /// The process; tells a lost answer from a lost race.
    #[serde(with = "text")]
    pub id: Uuid,
}

impl Writer {
    fn rank(&self) -> (u32, i32) {
        (self.generation, self.leader_epoch)
    }
}

/// Which manifest came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Predecessor {
    /// Its number.
    pub sequence: u64,
    /// The checksum of its document.
    pub crc32: u32,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The topic's name, for people.
    pub topic: String,
    /// The topic's id.
    #[serde(with = "text")]
    pub topic_id: Uuid,
    /// The partition's index.
    pub partition: i32,
    /// Counts manifests from 0.
    pub sequence: u64,
    /// Who wrote it.
    pub writer: Writer,
    /// The one before; none before the first.
    pub predecessor: Option<Predecessor>,
    /// The first offset that can be read. May lie inside of the first entry.
    pub start_offset: i64,
    /// The offset after the last entry: where the next upload begins.
    pub end_offset: i64,
    /// The oldest entries, of a chunk that came back.
    pub head: Vec<SegmentRef>,
    /// Then these.
    pub chunks: Vec<ChunkRef>,
    /// The newest entries.
    pub segments: Vec<SegmentRef>,
    /// What is to be deleted.
    pub garbage: Vec<Garbage>,
    /// For a compacted partition: when its entries were taken, all at once, as a backup of the whole
    /// of it, in milliseconds since 1970. None where entries follow one another as they are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_at_ms: Option<i64>,
    /// Of a backup: the leader epoch of who made it, or of the restore that took it over. Manifests
    /// that only tell of other things, such as what was deleted, keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_leader_epoch: Option<i32>,
}

impl Document for Manifest {
    const FORMAT: &'static str = "tidemark-manifest";
}

/// Where something is to be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// In this object.
    Segment(&'a SegmentRef),
    /// In one of this chunk's.
    Chunk(&'a ChunkRef),
}

/// How long things are kept in the bucket and on local disks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// `retention.ms`; none without limit.
    pub ms: Option<i64>,
    /// `retention.bytes`; none without limit.
    pub bytes: Option<u64>,
    /// Bytes that lie behind the manifest's end, on the leader's disk only.
    pub local_bytes: u64,
}

/// What retention asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The start belongs here; it may be there already.
    StartAt(i64),
    /// The entries of the oldest chunk are needed to tell ([`Manifest::bring_back`]).
    BringBack,
}

impl Manifest {
    /// The first manifest of a partition, empty at `offset`.
    pub fn first(topic: &str, partition: PartitionId, writer: Writer, offset: i64) -> Manifest {
        Manifest {
            topic: topic.to_owned(),
            topic_id: partition.topic_id,
            partition: partition.partition,
            sequence: 0,
            writer,
            predecessor: None,
            start_offset: offset,
            end_offset: offset,
            head: Vec::new(),
            chunks: Vec::new(),
            segments: Vec::new(),
            garbage: Vec::new(),
            backup_at_ms: None,
            backup_leader_epoch: None,
        }
    }

    /// The same statement by `writer`, to be changed and written next. `crc32` is the checksum of
    /// this one's document.
    ///
    /// # Errors
    /// This one's writer counts for more.
    pub fn succeed(&self, writer: Writer, crc32: u32) -> Result<Manifest, TierError> {
        if writer.rank() < self.writer.rank() {
            let key = self.id().manifest(self.sequence);
            let (generation, epoch) = self.writer.rank();
            return Err(TierError::Superseded {
                key,
                reason: format!(
                    "it is of generation {generation}, leader epoch {epoch}; this broker leads in \
                     generation {}, epoch {}",
                    writer.generation, writer.leader_epoch
                ),
            });
        }
        let taken_over = self.backup_at_ms.is_some() && writer.generation > self.writer.generation;
        let backup_leader_epoch = match taken_over {
            true => Some(writer.leader_epoch),
            false => self.backup_leader_epoch,
        };
        Ok(Manifest {
            sequence: self.sequence + 1,
            backup_leader_epoch,
            writer,
            predecessor: Some(Predecessor {
                sequence: self.sequence,
                crc32,
            }),
            ..self.clone()
        })
    }

    /// The partition.
    pub fn id(&self) -> PartitionId {
        PartitionId {
            topic_id: self.topic_id,
            partition: self.partition,
        }
    }

    /// Where the entries begin; not above `start_offset`.
    pub fn base_offset(&self) -> i64 {
        let first = self.head.first().map(|entry| entry.base_offset);
        let first = first.or(self.chunks.first().map(|chunk| chunk.base_offset));
        let first = first.or(self.segments.first().map(|entry| entry.base_offset));
        first.unwrap_or(self.end_offset)
    }

    /// Bytes of all objects that count.
    pub fn size_bytes(&self) -> u64 {
        let entries = self.head.iter().chain(&self.segments);
        let entries = entries.map(|entry| entry.size_bytes);
        let chunks = self.chunks.iter().map(|chunk| chunk.size_bytes);
        entries.chain(chunks).fold(0, u64::saturating_add)
    }

    /// How many objects with records count.
    pub fn entry_count(&self) -> usize {
        let in_chunks = self.chunks.iter().map(|chunk| chunk.entries as usize);
        self.head.len() + self.segments.len() + in_chunks.sum::<usize>()
    }

    /// Whether the manifest is what every one is. For what comes from a bucket.
    ///
    /// # Errors
    /// What it breaks.
    pub fn check(&self, key: &str) -> Result<(), TierError> {
        let damaged = |reason: String| Err(TierError::damaged(key, reason));
        let mut next = self.base_offset();
        let mut follow = |base: i64, end: i64| {
            if base != next || end <= base {
                return Err(TierError::damaged(
                    key,
                    format!("an entry from {base} to {end} follows one that ends at {next}"),
                ));
            }
            next = end;
            Ok(())
        };
        for entry in &self.head {
            follow(entry.base_offset, entry.end_offset)?;
        }
        for chunk in &self.chunks {
            follow(chunk.base_offset, chunk.end_offset)?;
        }
        for entry in &self.segments {
            follow(entry.base_offset, entry.end_offset)?;
        }
        if next != self.end_offset {
            return damaged(format!(
                "its entries end at {next}, and it says {}",
                self.end_offset
            ));
        }
        if self.start_offset < self.base_offset() || self.start_offset > self.end_offset {
            return damaged(format!(
                "its start {} is not between {} and {}",
                self.start_offset,
                self.base_offset(),
                self.end_offset
            ));
        }
        let entries = self.head.iter().chain(&self.segments);
        for entry in entries {
            let mut next = entry.base_offset;
            let fits = |(index, (_, start)): (usize, &(i32, i64))| {
                let fits = match index {
                    0 => *start == next,
                    _ => *start > next,
                };
                next = *start;
                fits
            };
            if entry.epochs.is_empty() || !entry.epochs.iter().enumerate().all(fits) {
                return damaged(format!(
                    "the leader epochs of the entry at {} do not begin with it, one after the other",
                    entry.base_offset
                ));
            }
            if entry.log_bytes == 0 || entry.log_bytes > entry.size_bytes {
                return damaged(format!(
                    "the entry at {} has {} bytes of records in an object of {}",
                    entry.base_offset, entry.log_bytes, entry.size_bytes
                ));
            }
        }
        let number_fits = match self.predecessor {
            None => self.sequence == 0,
            Some(before) => before.sequence.checked_add(1) == Some(self.sequence),
        };
        if !number_fits {
            return damaged(format!(
                "number {} does not follow its predecessor",
                self.sequence
            ));
        }
        Ok(())
    }

    /// Adds an object at the end.
    ///
    /// # Panics
    /// It does not continue the entries: whoever uploads begins at the end.
    pub fn append(&mut self, segment: SegmentRef) {
        assert_eq!(
            segment.base_offset, self.end_offset,
            "uploads are contiguous"
        );
        assert!(
            segment.end_offset > segment.base_offset,
            "an upload has records"
        );
        self.end_offset = segment.end_offset;
        self.segments.push(segment);
    }

    /// Puts a new backup of the whole partition, which begins at `start`, in the place of what
    /// was there. Chunks go with what they name: `chunked` are their entries.
    ///
    /// # Panics
    /// The entries do not follow each other from `start` on.
    pub fn replace(
        &mut self,
        start: i64,
        entries: Vec<SegmentRef>,
        chunked: &[SegmentRef],
        now_ms: i64,
    ) {
        let id = self.id();
        let old = self.head.drain(..).chain(self.segments.drain(..));
        let old = old.chain(chunked.iter().cloned());
        self.garbage
            .extend(old.map(|entry| entry.discarded(id, now_ms)));
        let chunks = self.chunks.drain(..);
        self.garbage
            .extend(chunks.map(|chunk| chunk.discarded(id, now_ms)));
        self.start_offset = start;
        self.end_offset = start;
        for entry in entries {
            self.append(entry);
        }
        self.backup_at_ms = Some(now_ms);
        self.backup_leader_epoch = Some(self.writer.leader_epoch);
    }

    /// Cuts off what lies at `offset` and above: the partition goes back to a moment. `entries` are
    /// all entries, those in chunks included.
    pub fn cut_at(&mut self, offset: i64, entries: &[SegmentRef], now_ms: i64) {
        if offset >= self.end_offset {
            return;
        }
        let id = self.id();
        let offset = offset.max(self.base_offset());
        // Each that goes is named: what a chunk names counts until its own end is passed.
        let gone = entries.iter().filter(|entry| entry.base_offset >= offset);
        self.garbage
            .extend(gone.map(|entry| entry.discarded(id, now_ms)));
        let kept = |entry: &&SegmentRef| entry.base_offset < offset;
        self.head.retain(|entry| entry.base_offset < offset);
        self.segments.retain(|entry| entry.base_offset < offset);
        let cut_chunks: Vec<ChunkRef> = self
            .chunks
            .extract_if(.., |chunk| chunk.end_offset > offset)
            .collect();
        if let Some(first) = cut_chunks.first() {
            let inside = |entry: &&SegmentRef| entry.base_offset >= first.base_offset;
            let back = entries.iter().filter(inside).filter(kept);
            let back: Vec<SegmentRef> = back.cloned().collect();
            self.segments.splice(0..0, back);
        }
        self.garbage
            .extend(cut_chunks.iter().map(|chunk| chunk.discarded(id, now_ms)));
        for last in [&mut self.segments, &mut self.head] {
            if let Some(last) = last.last_mut() {
                last.end_offset = last.end_offset.min(offset);
                let end = last.end_offset;
                last.epochs.retain(|(_, start)| *start < end);
            }
        }
        self.end_offset = offset;
        self.start_offset = self.start_offset.min(offset);
    }

    /// The highest leader epoch that it tells of.
    pub fn highest_epoch(&self) -> i32 {
        let entries = self.head.iter().chain(&self.segments);
        let of_records = entries.flat_map(|entry| &entry.epochs);
        let of_records = of_records.map(|(epoch, _)| *epoch).max();
        of_records.unwrap_or(0).max(self.writer.leader_epoch)
    }

    /// Moves the start up to `offset` (DeleteRecords, retention); what lies below does not count
    /// any more. Above the end, the manifest is empty there.
    pub fn raise_start(&mut self, offset: i64, now_ms: i64) {
        if offset <= self.start_offset {
            return;
        }
        self.start_offset = offset;
        self.end_offset = self.end_offset.max(offset);
        let id = self.id();
        let below = |entry: &mut SegmentRef| entry.end_offset <= offset;
        let gone = self.head.extract_if(.., below);
        self.garbage
            .extend(gone.map(|entry| entry.discarded(id, now_ms)));
        let gone = self.segments.extract_if(.., below);
        self.garbage
            .extend(gone.map(|entry| entry.discarded(id, now_ms)));
        // What is in a chunk is found by its document: `Garbage` of it stands for its segments.
        let gone = self
            .chunks
            .extract_if(.., |chunk| chunk.end_offset <= offset);
        self.garbage
            .extend(gone.map(|chunk| chunk.discarded(id, now_ms)));
    }

    /// What `keep` asks for. Whole entries go.
    pub fn expired(&self, keep: Keep, now_ms: i64) -> Expired {
        let mut start = self.start_offset;
        let mut excess = match keep.bytes {
            Some(limit) => {
                let all = self.size_bytes().saturating_add(keep.local_bytes);
                all.saturating_sub(limit)
            }
            None => 0,
        };
        let mut goes = |size_bytes: u64, max_timestamp_ms: i64| {
            let large = excess > 0 && excess >= size_bytes;
            excess = excess.saturating_sub(size_bytes);
            let old = keep.ms.is_some_and(|ms| {
                max_timestamp_ms >= 0 && now_ms.saturating_sub(max_timestamp_ms) > ms
            });
            large || old
        };
        for entry in &self.head {
            if !goes(entry.size_bytes, entry.max_timestamp_ms) {
                return Expired::StartAt(start);
            }
            start = start.max(entry.end_offset);
        }
        match self.chunks.first() {
            Some(chunk) if self.head.is_empty() => {
                let first_bytes = chunk.size_bytes / u64::from(chunk.entries.max(1));
                return match goes(first_bytes, chunk.first_max_timestamp_ms) {
                    true => Expired::BringBack,
                    false => Expired::StartAt(start),
                };
            }
            // What is before it goes first.
            Some(_) => return Expired::StartAt(start),
            None => {}
        }
        for entry in &self.segments {
            if !goes(entry.size_bytes, entry.max_timestamp_ms) {
                break;
            }
            start = start.max(entry.end_offset);
        }
        Expired::StartAt(start)
    }

    /// Takes the entries of the oldest chunk back, because they begin to go.
    ///
    /// # Panics
    /// They are not those of the oldest chunk, or older entries are there.
    pub fn bring_back(&mut self, entries: Vec<SegmentRef>, now_ms: i64) {
        assert!(
            self.head.is_empty(),
            "older entries go before a chunk comes back"
        );
        let chunk = self.chunks.remove(0);
        assert_eq!(
            entries.first().map(|entry| entry.base_offset),
            Some(chunk.base_offset),
            "the oldest chunk comes back"
        );
        let id = self.id();
        self.garbage.push(chunk.discarded(id, now_ms));
        self.head = entries;
        // What lies below the start already goes at once.
        let start = self.start_offset;
        let gone = self
            .head
            .extract_if(.., |entry| entry.end_offset <= start)
            .map(|entry| entry.discarded(id, now_ms));
        self.garbage.extend(gone);
    }

    /// The entries that have to move into a chunk now, if any: the caller writes it, and says so
    /// by [`Manifest::moved`].
    pub fn to_move(&self) -> Option<Chunk> {
        (self.segments.len() > MOST_ENTRIES).then(|| Chunk {
            segments: self.segments[..CHUNK_ENTRIES].to_vec(),
        })
    }

    /// The oldest of `segments` are in the chunk `id` now, whose document has checksum `crc32`.
    pub fn moved(&mut self, chunk: &Chunk, id: Uuid, crc32: u32) {
        let (Some(first), Some(last)) = (chunk.segments.first(), chunk.segments.last()) else {
            return;
        };
        let timestamps = chunk.segments.iter().map(|entry| entry.max_timestamp_ms);
        self.chunks.push(ChunkRef {
            base_offset: first.base_offset,
            end_offset: last.end_offset,
            id,
            entries: u32::try_from(chunk.segments.len()).unwrap_or(u32::MAX),
            size_bytes: chunk.segments.iter().map(|entry| entry.size_bytes).sum(),
            max_timestamp_ms: timestamps.max().unwrap_or(-1),
            first_max_timestamp_ms: first.max_timestamp_ms,
            crc32,
        });
        self.segments.drain(..chunk.segments.len());
    }

    /// Cuts off what a new leader does not have: everything from the first offset on that is not
    /// of its own lineage. `epoch_end` says where an epoch ends in the leader's log, `None` for
    /// one that it does not have; what lies below `log_start` it no longer knows, and keeps.
    /// Chunks are older than any such thing. Says whether anything was cut.
    pub fn cut_to_lineage(
        &mut self,
        log_start: i64,
        epoch_end: impl Fn(i32) -> Option<i64>,
        now_ms: i64,
    ) -> bool {
        let mut common = self.end_offset;
        'entries: for entry in &self.segments {
            for (index, (epoch, start)) in entry.epochs.iter().enumerate() {
                let next = entry.epochs.get(index + 1).map(|(_, start)| *start);
                let end = next.unwrap_or(entry.end_offset).min(entry.end_offset);
                let has = epoch_end(*epoch).unwrap_or(*start);
                let has = has.max(*start).max(log_start);
                if has < end {
                    common = has;
                    break 'entries;
                }
            }
        }
        if common >= self.end_offset {
            return false;
        }
        let id = self.id();
        let gone = self
            .segments
            .extract_if(.., |entry| entry.base_offset >= common)
            .map(|entry| entry.discarded(id, now_ms));
        self.garbage.extend(gone);
        if let Some(last) = self.segments.last_mut() {
            last.end_offset = last.end_offset.min(common);
            let end = last.end_offset;
            last.epochs.retain(|(_, start)| *start < end);
        }
        self.end_offset = common;
        self.start_offset = self.start_offset.min(common);
        true
    }

    /// What is to be deleted now: what has been garbage for `grace_ms`.
    pub fn garbage_due(&self, grace_ms: i64, now_ms: i64) -> Vec<&Garbage> {
        let due = |garbage: &&Garbage| now_ms.saturating_sub(garbage.since_ms) >= grace_ms;
        self.garbage.iter().filter(due).collect()
    }

    /// These are deleted.
    pub fn forget(&mut self, keys: &[String]) {
        self.garbage.retain(|garbage| !keys.contains(&garbage.key));
    }

    /// Where the record with `offset` is; `None` outside of what can be read.
    pub fn find(&self, offset: i64) -> Option<Place<'_>> {
        if offset < self.start_offset || offset >= self.end_offset {
            return None;
        }
        let within = |entries: &'_ [SegmentRef]| {
            let after = entries.partition_point(|entry| entry.base_offset <= offset);
            after
                .checked_sub(1)
                .filter(|index| offset < entries[*index].end_offset)
        };
        if let Some(index) = within(&self.head) {
            return Some(Place::Segment(&self.head[index]));
        }
        if let Some(index) = within(&self.segments) {
            return Some(Place::Segment(&self.segments[index]));
        }
        let holds = |chunk: &&ChunkRef| chunk.base_offset <= offset && offset < chunk.end_offset;
        self.chunks.iter().find(holds).map(Place::Chunk)
    }

    /// Where the first record may be whose timestamp is `timestamp_ms` or later, in what ends
    /// above offset `from`.
    pub fn find_by_time_from(&self, timestamp_ms: i64, from: i64) -> Option<Place<'_>> {
        let fits =
            |entry: &&SegmentRef| entry.max_timestamp_ms >= timestamp_ms && entry.end_offset > from;
        if let Some(entry) = self.head.iter().find(fits) {
            return Some(Place::Segment(entry));
        }
        let chunk = self
            .chunks
            .iter()
            .find(|chunk| chunk.max_timestamp_ms >= timestamp_ms && chunk.end_offset > from);
        if let Some(chunk) = chunk {
            return Some(Place::Chunk(chunk));
        }
        self.segments.iter().find(fits).map(Place::Segment)
    }

    /// The leader epoch of the record at `offset`, of entries that the manifest holds itself.
    pub fn epoch_at(&self, offset: i64) -> Option<i32> {
        match self.find(offset)? {
            Place::Segment(entry) => {
                let before = entry
                    .epochs
                    .iter()
                    .take_while(|(_, start)| *start <= offset);
                before.last().map(|(epoch, _)| *epoch)
            }
            Place::Chunk(_) => None,
        }
    }
}

/// Ids as text.
mod text {
    use serde::{Deserialize, Deserializer, Serializer};
    use tidemark_wire::Uuid;

    pub(super) fn serialize<S: Serializer>(id: &Uuid, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Uuid, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse()
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is no id")))
    }
}
