//! One partition's log in Kafka's file format, on a Disk.
//!
//! A [`Log`] is a plain struct that its owner keeps behind one lock. Under the lock
//! it appends ([`Log::append_as_leader`]) and hands out *plans*; what takes file
//! reads or syncs is done by the plan, outside the lock:
//!
//! * [`Log::read_plan`] -> [`ReadPlan::run`] (or `load`, into memory) for records,
//! * [`Log::timestamp_plan`] -> [`TimestampPlan::run`] for offsets by time,
//! * [`Log::flush_target`] -> [`FlushTicket::run`] -> [`Log::flushed`] for durability,
//! * [`Log::checkpoint_job`] -> [`CheckpointJob::run`] -> [`Log::checkpointed`] to
//!   shorten the next recovery.
//!
//! Two numbers tell where a log ends: [`Log::end_offset`] is what has been appended,
//! [`Log::durable_offset`] what survives a power cut. The high watermark is the
//! caller's.
//!
//! Files of a partition's directory: Kafka's `.log`, `.index`, `.timeindex`,
//! `.txnindex`, `.snapshot`, `leader-epoch-checkpoint`, `partition.metadata`, and our
//! own `tidemark-checkpoint` ([`checkpoint`]), which Kafka ignores.

pub mod checkpoint;
mod config;
pub mod dump;
mod epochs;
mod error;
mod flush;
pub mod import;
mod index;
mod log;
mod names;
mod producers;
mod read;
mod recovery;
mod retention;
mod scan;
mod segment;
mod snapshot;
mod tail;
mod timestamps;
mod truncate;
mod txn_index;

#[cfg(test)]
mod tests;

pub use config::LogConfig;
pub use epochs::{EpochEnd, EpochEntry, LeaderEpochs};
pub use error::{AppendError, LogError, OpenError, ReadError};
pub use flush::{CheckpointJob, Checkpointed, FlushTicket, Flushed};
pub use index::{OffsetPosition, TimestampOffset};
pub use log::{Appended, Log};
pub use producers::{ProducerBatch, ProducerEntry, Producers, SequenceCheck};
pub use read::{LoadedRecords, Piece, ReadPlan, ReadRecords};
pub use recovery::{OnCorruption, OpenArgs, Recovery, topic_id_of};
pub use retention::{Deletions, RetentionReport};
pub use timestamps::{FoundTimestamp, TimestampPlan, TimestampTarget};
pub use txn_index::{AbortedPlan, AbortedTransaction};
