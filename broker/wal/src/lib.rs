//! One disk's write-ahead log: a ring of files that are written before they are needed,
//! one writer, group commit. It knows nothing of Kafka's formats.
//!
//! Partitions append records under their own locks; a record is copied once, into a
//! chunk of memory from which it is written to the disk, served to readers and written
//! into its segment later. The writer takes whatever queued up while the last write was
//! under way, writes it as one group, tells those who are touched, and goes on at once:
//! no timer is involved.
//!
//! **Invariants.** A group that was told to be durable is found by [`scan`] after any
//! crash, or is named as damaged. A file is written over only when all its groups are at
//! or below what [`Wal::recycle`] was told. Groups are numbered without gaps, one is in
//! flight at a time, and a number belongs to one group for ever.
//!
//! Locks, in the order in which they are taken: a partition's, then the queue's. The
//! writer holds its own while it writes and while it tells members, which take their
//! partition's locks: who holds one of those must not wait for a group that touches it.
//!
//! The format on the disk is described in `format.rs`.

mod format;
mod pool;
mod queue;
mod ring;
mod room;
mod scan;
mod types;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

pub use scan::{Damage, Entry, EntryKind, Scan, Torn, Verify, scan};
pub use types::{
    Failure, GroupWritten, Limits, LogId, Lsn, Member, Placed, Pressure, Record, RingId, WalConfig,
};
pub use wal::Wal;
