//! One partition's log in Kafka's file format, on a Disk.
//!
//! A [`Log`] is a plain struct that its owner keeps behind one lock. Under the lock
//! it appends ([`Log::append_as_leader`]: a copy into the write-ahead log of its
//! directory) and hands out *plans* and *jobs*; what takes file reads, writes or syncs
//! is done by them, outside the lock:
//!
//! * [`Log::read_plan`] -> [`ReadPlan::run`] (or `load`, into memory) for records,
//! * [`Log::producers_plan`] -> [`ProducersPlan::run`] for who wrote what lies below an offset,
//! * [`Log::timestamp_plan`] -> [`TimestampPlan::run`] for offsets by time,
//! * [`Log::write_job`] -> [`WriteJob::run`] -> [`Log::written`] to write durable records
//!   into segment files, behind the data path,
//! * [`Log::checkpoint_part`] -> [`write_checkpoint`] to let the write-ahead log go and shorten
//!   the next recovery.
//!
//! Two numbers tell where a log ends: [`Log::end_offset`] is what has been appended,
//! [`Log::durable_offset`] what survives a power cut: the write-ahead log tells it
//! ([`Log::durable`]). The high watermark is the caller's.
//!
//! Files of a partition's directory are Kafka's: `.log`, `.index`, `.timeindex`,
//! `.txnindex`, `.snapshot`, `leader-epoch-checkpoint`, `partition.metadata`. Beside the
//! partitions' directories lies our own `tidemark-checkpoint` ([`checkpoint`]).

mod behind;
pub mod checkpoint;
mod config;
mod cursor;
pub mod dump;
mod epochs;
mod error;
mod handover;
pub mod import;
mod index;
mod log;
mod names;
mod producers;
mod read;
mod recovery;
mod retention;
mod roll;
mod scan;
mod segment;
mod snapshot;
mod sync;
mod tail;
mod timestamps;
mod truncate;
mod txn_index;

#[cfg(test)]
mod tests;

pub use behind::WriteJob;
pub use config::LogConfig;
pub use epochs::{EpochEnd, EpochEntry, LeaderEpochs};
pub use error::{AppendError, LogError, OpenError, ReadError};
pub use handover::{PlacedProducers, ProducersPlace, ProducersPlan, ProducersSnapshot};
pub use index::{OffsetPosition, TimestampOffset};
pub use log::{Appended, Log};
pub use producers::{ProducerBatch, ProducerEntry, Producers, SequenceCheck};
pub use read::{LoadedRecords, Piece, ReadPlan, ReadRecords};
pub use recovery::{KeptTail, Known, OnCorruption, OpenArgs, RecoveredDir, Recovery, topic_id_of};
pub use retention::{Deletions, RetentionReport};
pub use segment::DataDir;
pub use sync::{CheckpointPart, write_checkpoint};
pub use timestamps::{FoundTimestamp, TimestampPlan, TimestampTarget};
pub use truncate::PendingCut;
pub use txn_index::{AbortedPlan, AbortedTransaction};
