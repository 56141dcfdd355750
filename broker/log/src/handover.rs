//! The producers at an offset, for a replica whose log begins there: it never sees the records
//! below, and has to know whose they are all the same.

use std::io;
use std::sync::Arc;

use tidemark_env::disk;
use tidemark_records::BatchHeader;

use crate::error::ReadError;
use crate::log::Log;
use crate::names;
use crate::producers::Producers;
use crate::recovery::{MAX_SNAPSHOT_BYTES, replay, snapshot_offsets};
use crate::segment::{LogShared, Segment};
use crate::snapshot;

/// A look at the producers at an offset, planned under the log's lock.
#[derive(Debug)]
pub struct ProducersPlan {
    shared: Arc<LogShared>,
    generation: u64,
    offset: i64,
    /// The files below the offset, and where they end.
    segments: Vec<Segment>,
    written_end: i64,
    /// What is not in them yet.
    memory: Vec<BatchHeader>,
}

/// Where the producers are put that a log is to know after its reset.
#[derive(Debug)]
pub struct ProducersPlace {
    shared: Arc<LogShared>,
    offset: i64,
}

/// The producers at an offset lie where a reset to there finds them.
#[derive(Debug)]
pub struct PlacedProducers {
    pub(crate) offset: i64,
}

/// The producers of a leader's log at an offset, in the form of a `.snapshot` file, checked.
#[derive(Debug, Clone)]
pub struct ProducersSnapshot(bytes::Bytes);

impl ProducersSnapshot {
    /// Takes the bytes that [`ProducersPlan::run`] gave elsewhere.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn parse(bytes: bytes::Bytes) -> Result<ProducersSnapshot, String> {
        snapshot::decode(&bytes, 0)?;
        Ok(ProducersSnapshot(bytes))
    }
}

impl Log {
    /// Plans a look at the producers at `offset`: all that this log knows of who wrote the records
    /// below.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] for an offset that is not in the log, or not durable.
    pub fn producers_plan(&self, offset: i64) -> Result<ProducersPlan, ReadError> {
        let first = self.segments.first().map_or(self.end, Segment::base_offset);
        if offset < first || offset > self.durable_offset() {
            return Err(ReadError::OutOfRange {
                offset,
                log_start: first,
                end: self.durable_offset(),
            });
        }
        let below = |segment: &&Segment| segment.base_offset() < offset;
        let segments = self.segments.iter().take_while(below).enumerate();
        let files = segments.map(|(index, segment)| segment.up_to(self.written_bytes(index)));
        let mut memory = Vec::new();
        let written_end = self.files_end().end;
        for batch in self.in_memory(written_end) {
            let Some(bytes) = batch.bytes.as_ref().filter(|_| batch.base_offset < offset) else {
                break;
            };
            memory.push(BatchHeader::parse(bytes).map_err(|error| {
                ReadError::Io(io::Error::new(io::ErrorKind::InvalidData, error))
            })?);
        }
        Ok(ProducersPlan {
            shared: self.shared.clone(),
            generation: self.generation(),
            offset,
            segments: files.collect(),
            written_end,
            memory,
        })
    }

    /// Where the producers at `offset` are put before the log is reset to begin there.
    pub fn producers_place(&self, offset: i64) -> ProducersPlace {
        ProducersPlace {
            shared: self.shared.clone(),
            offset,
        }
    }
}

impl ProducersPlan {
    /// Reads them, in the form of a `.snapshot` file. Blocks.
    ///
    /// # Errors
    /// [`ReadError::Stale`] when the log was truncated or lost the files since: make a new plan.
    /// Otherwise the disk failed.
    pub fn run(&self, now_ms: i64) -> Result<Vec<u8>, ReadError> {
        let shared = &self.shared;
        let mut offsets = snapshot_offsets(shared)?;
        offsets.retain(|offset| *offset <= self.offset);
        offsets.sort_unstable();
        let mut found = None;
        while let Some(offset) = offsets.pop() {
            let path = shared.path(offset, names::SNAPSHOT);
            let bytes = disk::read_file(shared.disk(), &path, MAX_SNAPSHOT_BYTES)?;
            match snapshot::decode(&bytes, now_ms) {
                Ok(producers) => {
                    found = Some((producers, offset));
                    break;
                }
                // One that is being written, or was torn: the one before says the same, and more
                // records are looked at.
                Err(reason) => {
                    tracing::debug!(path = %path.display(), reason, "a producer snapshot is not used");
                }
            }
        }
        let (producers, at) = found.map_or((Producers::default(), None), |(producers, offset)| {
            (producers, Some(offset))
        });
        let end = self.offset.min(self.written_end);
        let mut producers = replay(shared, producers, at, &self.segments, end, now_ms)?;
        let from = at.unwrap_or(i64::MIN);
        for header in self.memory.iter().filter(|h| h.base_offset >= from) {
            producers.record(header, now_ms);
        }
        match shared.generation() == self.generation {
            true => Ok(snapshot::encode(&producers)),
            false => Err(ReadError::Stale),
        }
    }
}

impl ProducersPlace {
    /// Puts them there, durably: the reset that follows keeps them, also if a recovery does it.
    /// Until then it is a snapshot of the log as it was, or one above its end, which the next
    /// opening removes. Blocks.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub fn put(&self, snapshot: &ProducersSnapshot) -> io::Result<PlacedProducers> {
        let path = self.shared.path(self.offset, names::SNAPSHOT);
        disk::write_file_atomic(self.shared.disk(), &path, &snapshot.0)?;
        Ok(PlacedProducers {
            offset: self.offset,
        })
    }
}
