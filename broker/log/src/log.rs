//! The log itself: its state, and appending.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_records::{Batch, BatchHeader, TimestampType};
use tidemark_wal::{LogId, Lsn, Member, Placed, Record};

use crate::behind::Behind;
use crate::config::LogConfig;
use crate::epochs::{EpochEnd, LeaderEpochs};
use crate::error::{AppendError, LogError};
use crate::producers::{Producers, SequenceCheck};
use crate::segment::{LogShared, Segment, Segments};
use crate::tail::{NO_TIMESTAMP, Tail};

/// Replayed records are written to their segment when there are so many bytes of them.
const REPLAY_BYTES: u64 = 4 << 20;

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record. The answer is due when the high watermark is above
    /// it, for a duplicate as for an original.
    pub last_offset: i64,
    /// The log's time of append in milliseconds, -1 where producers set timestamps.
    pub log_append_time_ms: i64,
    /// First offset of the log.
    pub log_start_offset: i64,
    /// Whether the log had the batch already; nothing was appended then.
    pub duplicate: bool,
    /// The leader epoch that it was appended in; of a duplicate, the present one.
    pub leader_epoch: i32,
}

/// Nobody is to be told of a group.
pub(crate) fn nobody(_: Lsn) -> Option<Arc<dyn Member>> {
    None
}

/// A partition's log. See the crate's documentation for who calls what where.
#[derive(Debug)]
pub struct Log {
    pub(crate) shared: Arc<LogShared>,
    pub(crate) config: Arc<LogConfig>,
    /// Oldest first; the last one is appended to. Never empty.
    pub(crate) segments: Segments,
    /// Bookkeeping of the last segment; loaded at the first append.
    pub(crate) tail: Option<Box<Tail>>,
    pub(crate) log_start: i64,
    pub(crate) end: i64,
    /// Records below are known to be committed, as far as this log was told; for checkpoints.
    pub(crate) committed: i64,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) producers: Producers,
    /// Its id in the write-ahead log.
    pub(crate) id: LogId,
    /// What the files are behind with; `None` when that is nothing. Most logs are at rest, and cost
    /// little then.
    pub(crate) behind: Option<Box<Behind>>,
    /// Whether there is a producers' snapshot of the end on disk.
    pub(crate) snapshot_at_end: bool,
    /// Bytes appended since the last one.
    pub(crate) since_snapshot_bytes: u32,
    /// When it was opened: the age of records without timestamps.
    pub(crate) opened_ms: i64,
}

impl Log {
    /// First offset of the log: below it records are deleted.
    pub fn log_start_offset(&self) -> i64 {
        self.log_start
    }

    /// The offset that the next record gets.
    pub fn end_offset(&self) -> i64 {
        self.end
    }

    /// All records below survive a power cut.
    pub fn durable_offset(&self) -> i64 {
        let behind = self.behind.as_ref();
        behind.map_or(self.end, |behind| behind.durable_end)
    }

    /// Records below were known to be committed when this was noted last, by this process or, as
    /// its checkpoint has it, by an earlier one. At least the log start.
    pub fn committed_offset(&self) -> i64 {
        self.committed.clamp(self.log_start, self.end)
    }

    /// Notes a high watermark, for checkpoints.
    pub fn note_committed(&mut self, high_watermark: i64) {
        self.committed = self.committed.max(high_watermark.min(self.end));
    }

    /// Bumped by every truncation; what was synced under an older one says nothing.
    pub fn generation(&self) -> u64 {
        self.shared.generation()
    }

    /// Bytes of all segments, without indexes.
    pub fn size_bytes(&self) -> u64 {
        let sizes = self.segments.iter().map(|s| u64::from(s.size_bytes));
        sizes.sum()
    }

    /// How many segments there are, the active one included.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The leader epochs.
    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Where `epoch` ends, for OffsetsForLeaderEpoch; `None` when it is above all
    /// known epochs.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<EpochEnd> {
        self.epochs.end_offset(epoch, self.end)
    }

    /// The producers, for DescribeProducers.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// The settings in use.
    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// Replaces the settings; they hold from the next operation on.
    pub fn set_config(&mut self, config: Arc<LogConfig>) {
        self.config = config;
    }

    /// Its id in the write-ahead log.
    pub fn id(&self) -> LogId {
        self.id
    }

    /// The partition's directory.
    pub fn dir(&self) -> PathBuf {
        self.shared.dir()
    }

    /// Why the log is out of use, if it is.
    pub fn failure(&self) -> Option<&str> {
        self.behind.as_ref()?.failed.as_deref()
    }

    /// Puts the log out of use: every later change is refused. For a failed sync,
    /// after which the page cache cannot be trusted.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.behind().failed.get_or_insert_with(|| reason.into());
    }

    /// Forgets producers silent for `producer.id.expiration.ms`. Returns how many.
    pub fn expire_producers(&mut self, now_ms: i64) -> usize {
        self.producers
            .expire(now_ms, self.config.producer_id_expiration_ms)
    }

    pub(crate) fn active(&self) -> &Segment {
        self.segments
            .last()
            .expect("a log has at least one segment")
    }

    pub(crate) fn active_mut(&mut self) -> &mut Segment {
        self.segments
            .last_mut()
            .expect("a log has at least one segment")
    }

    pub(crate) fn check_usable(&self) -> Result<(), LogError> {
        match self.failure() {
            None => Ok(()),
            Some(reason) => Err(LogError::Failed {
                reason: reason.to_owned(),
            }),
        }
    }

    /// Begins `epoch` at the end of the log when it is newer than all that the log knows.
    /// It may be acted on when the returned group is durable; `None` when there is
    /// nothing to wait for.
    ///
    /// # Errors
    /// The disk failed, now or earlier.
    pub fn start_epoch(&mut self, epoch: i32) -> Result<Option<Lsn>, LogError> {
        self.begin_epoch(epoch, nobody)
    }

    /// [`Log::start_epoch`]; who `touched` names is told when the group is durable.
    ///
    /// # Errors
    /// The disk failed, now or earlier.
    pub fn begin_epoch(
        &mut self,
        epoch: i32,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Option<Lsn>, LogError> {
        self.check_usable()?;
        if self.epochs.latest().is_some_and(|latest| latest >= epoch) {
            return Ok(None);
        }
        let record = Record::Epoch {
            leader_epoch: epoch,
            start_offset: self.end,
        };
        let lsn = self.journal_for(&record, touched)?;
        self.assign_epoch(epoch, self.end);
        Ok(Some(lsn))
    }

    pub(crate) fn assign_epoch(&mut self, epoch: i32, start_offset: i64) {
        let changed = self.epochs.assign(epoch, start_offset);
        self.note_epochs(changed);
    }

    /// Takes note of whether the epochs have changed.
    pub(crate) fn note_epochs(&mut self, changed: bool) {
        if changed {
            self.behind().epochs_dirty = true;
        }
    }

    /// Puts a record without records of its own into the write-ahead log.
    pub(crate) fn journal(&self, record: &Record<'_>) -> Result<Lsn, LogError> {
        self.journal_for(record, nobody)
    }

    fn journal_for(
        &self,
        record: &Record<'_>,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Lsn, LogError> {
        Ok(self.place(record, touched)?.lsn)
    }

    fn place(
        &self,
        record: &Record<'_>,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Placed, LogError> {
        let Some(wal) = &self.shared.parent.wal else {
            return Err(LogError::Failed {
                reason: "it was opened to be looked at".to_owned(),
            });
        };
        let placed = wal.append(self.id, record, touched);
        placed.map_err(|failure| LogError::Failed {
            reason: failure.to_string(),
        })
    }

    /// Appends a client's batch, which `tidemark_records::validate_produce` accepted:
    /// gives it offsets and the leader's epoch, and copies its bytes into the
    /// write-ahead log. `touched` names who is to be told when the group is durable,
    /// unless it is registered in that group already: it then calls [`Log::durable`].
    ///
    /// Advances the end. No I/O is done.
    ///
    /// # Errors
    /// See [`AppendError`]; the log is unchanged then.
    pub fn append_as_leader(
        &mut self,
        batch: &Batch,
        leader_epoch: i32,
        now_ms: i64,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Appended, AppendError> {
        self.check_usable()?;
        if let Some(current) = self.epochs.latest()
            && leader_epoch < current
        {
            return Err(AppendError::StaleLeaderEpoch {
                epoch: leader_epoch,
                current,
            });
        }
        let size_bytes = batch.bytes.len();
        let max_bytes = self.config.segment_bytes;
        if u64::try_from(size_bytes).unwrap_or(u64::MAX) > u64::from(max_bytes) {
            return Err(AppendError::TooLarge {
                size_bytes,
                max_bytes,
            });
        }
        let log_append_time_ms = match batch.header.timestamp_type() {
            TimestampType::CreateTime => NO_TIMESTAMP,
            TimestampType::LogAppendTime => batch.header.max_timestamp_ms,
        };
        if let SequenceCheck::Duplicate(original) = self.producers.check(&batch.header)? {
            return Ok(Appended {
                base_offset: original.first_offset(),
                last_offset: original.last_offset,
                log_append_time_ms: if log_append_time_ms == NO_TIMESTAMP {
                    NO_TIMESTAMP
                } else {
                    original.timestamp_ms
                },
                log_start_offset: self.log_start,
                duplicate: true,
                leader_epoch,
            });
        }
        let mut header = batch.header;
        header.base_offset = self.end;
        header.partition_leader_epoch = leader_epoch;
        if header.last_offset() == i64::MAX {
            return Err(AppendError::NoOffsets {
                reason: "the partition's offsets are used up",
            });
        }
        self.roll_if_due(
            size_bytes,
            header.max_timestamp_ms,
            header.last_offset(),
            now_ms,
        )?;
        // Offset, length and epoch are the first 16 bytes and outside of the CRC.
        let mut prefix = [0u8; 16];
        prefix[..8].copy_from_slice(&header.base_offset.to_be_bytes());
        prefix[8..12].copy_from_slice(&header.length_bytes.to_be_bytes());
        prefix[12..].copy_from_slice(&leader_epoch.to_be_bytes());
        let rest = batch.bytes.get(16..).unwrap_or_default();
        self.write_ahead(&header, header.next_offset(), &[&prefix, rest], touched)?;
        self.note_appended(&header, now_ms);
        Ok(Appended {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            log_append_time_ms,
            log_start_offset: self.log_start,
            duplicate: false,
            leader_epoch,
        })
    }

    /// Appends batches as another leader wrote them: offsets and epochs are in them,
    /// CRCs have been checked. They must be whole and continue the log. `touched` is as
    /// for [`Log::append_as_leader`].
    ///
    /// # Errors
    /// See [`AppendError`]; the log is unchanged then.
    pub fn append_as_follower(
        &mut self,
        bytes: &Bytes,
        now_ms: i64,
        mut touched: impl FnMut(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Appended, AppendError> {
        self.check_usable()?;
        let mut headers = Vec::new();
        let mut rest = bytes.clone();
        let mut expected = self.end;
        let mut epoch = self.epochs.latest().unwrap_or(i32::MIN);
        while let Some(batch) = Batch::split_first(&mut rest)? {
            let header = batch.header;
            if header.base_offset != expected {
                return Err(AppendError::NotContiguous {
                    base_offset: header.base_offset,
                    end: expected,
                });
            }
            if header.partition_leader_epoch < epoch {
                return Err(AppendError::StaleLeaderEpoch {
                    epoch: header.partition_leader_epoch,
                    current: epoch,
                });
            }
            if header.last_offset() == i64::MAX {
                return Err(AppendError::NoOffsets {
                    reason: "the partition's offsets are used up",
                });
            }
            epoch = header.partition_leader_epoch;
            expected = header.next_offset();
            headers.push(header);
        }
        let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
            return Err(AppendError::NoOffsets {
                reason: "there is no batch in it",
            });
        };
        let max_bytes = self.config.segment_bytes;
        if bytes.len() as u64 > u64::from(max_bytes) {
            return Err(AppendError::TooLarge {
                size_bytes: bytes.len(),
                max_bytes,
            });
        }
        let appended = Appended {
            base_offset: first.base_offset,
            last_offset: last.last_offset(),
            log_append_time_ms: NO_TIMESTAMP,
            log_start_offset: self.log_start,
            duplicate: false,
            leader_epoch: last.partition_leader_epoch,
        };
        let newest_ms = headers.iter().map(|header| header.max_timestamp_ms).max();
        self.roll_if_due(
            bytes.len(),
            newest_ms.unwrap_or(NO_TIMESTAMP),
            appended.last_offset,
            now_ms,
        )?;
        // A record each: a read or a truncation finds every batch by its offsets.
        let mut at = 0;
        for header in &headers {
            let batch = &bytes[at..at + header.size_bytes()];
            self.write_ahead(header, header.next_offset(), &[batch], &mut touched)?;
            self.note_appended(header, now_ms);
            at += header.size_bytes();
        }
        Ok(appended)
    }

    /// Puts a batch into the write-ahead log, to be written at the end of the active
    /// segment once it is durable.
    fn write_ahead(
        &mut self,
        header: &BatchHeader,
        next_offset: i64,
        parts: &[&[u8]],
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<(), AppendError> {
        let record = Record::Batches {
            base_offset: header.base_offset,
            next_offset,
            leader_epoch: header.partition_leader_epoch,
            parts,
        };
        let placed = self.place(&record, touched)?;
        self.note_unwritten(
            placed,
            (header.base_offset, next_offset),
            header.max_timestamp_ms,
            header.size_bytes(),
        );
        Ok(())
    }

    /// Appends a batch that the write-ahead log holds durably in group `lsn`, at start.
    pub(crate) fn replay_batch(&mut self, lsn: Lsn, bytes: &Bytes, now_ms: i64) -> io::Result<()> {
        let header = BatchHeader::parse(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.roll_if_due(
            bytes.len(),
            header.max_timestamp_ms,
            header.last_offset(),
            now_ms,
        )
        .map_err(io::Error::other)?;
        let placed = Placed { lsn, position: 0 };
        let offsets = (header.base_offset, header.next_offset());
        self.note_unwritten(placed, offsets, header.max_timestamp_ms, bytes.len());
        self.note_appended(&header, now_ms);
        self.durable(lsn, bytes);
        if self.unwritten_bytes() >= REPLAY_BYTES {
            self.settle().map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Takes note of a batch at the end of the active segment.
    pub(crate) fn note_appended(&mut self, header: &BatchHeader, now_ms: i64) {
        debug_assert_eq!(header.base_offset, self.end, "offsets are contiguous");
        let position = self.active().size_bytes;
        let size = u32::try_from(header.size_bytes()).unwrap_or(u32::MAX);
        let interval = self.config.index_interval_bytes;
        if let Some(tail) = &mut self.tail {
            tail.note_batch(header, position, interval);
        }
        let active = self.active_mut();
        active.size_bytes += size;
        active.set_max_timestamp(None);
        self.producers.record(header, now_ms);
        self.assign_epoch(header.partition_leader_epoch, header.base_offset);
        self.end = header.next_offset();
        self.snapshot_at_end = false;
        debug_assert!((self.log_start..=self.end).contains(&self.durable_offset()));
    }

    /// Closes file handles that have not been used since the last call, and drops the
    /// bookkeeping of a log that nobody has appended to since. Call it now and then,
    /// every minute say; everything opens again when it is needed.
    pub fn release_idle(&mut self) {
        let appended = self.tail.as_mut().is_some_and(|tail| tail.take_appended());
        let idle = self.is_settled() && !appended;
        let last = self.segments.len() - 1;
        for (index, segment) in self.segments.iter_mut().enumerate() {
            if index < last || idle {
                segment.release_unused();
            }
        }
        if idle {
            self.forget_finished();
            // All entries are in the files: a settled log has none that wait.
            if let Some(tail) = self.tail.take() {
                // For retention, which would load it to look.
                self.active_mut()
                    .set_max_timestamp(Some(tail.max_timestamp));
            }
            self.segments.shrink_to_fit();
        }
    }
}
