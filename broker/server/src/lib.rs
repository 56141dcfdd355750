//! Listeners, one handler per API, the partition runtime, metrics and health.
//!
//! [`start`] gives a running broker. Handlers translate between the wire and the pure cores below:
//! `quorum` decides changes of the metadata, `coordinator` those of groups, `log` holds records.
//!
//! **Invariant:** a client hears of a change only when a power cut could not take it back.

mod broker;
mod context;
mod controller;
mod dispatch;
mod errors;
mod fatal;
mod features;
mod fetch;
mod format;
mod groups;
mod handlers;
mod health;
mod http;
mod import;
mod listeners;
mod lost_quorum;
mod maintenance;
mod metrics;
mod net;
mod partition;
mod register;
mod replica;
mod restore;
mod start;
#[cfg(test)]
mod testing;
mod tier;
mod tls;
mod topics;
mod voters;

pub use controller::JoinError;
pub use fatal::Fatal;
pub use format::{
    FormatError, Formatted, InitialVoter, Unformatted, Voters, format, format_with, quorum_dir,
    read_formatted,
};
pub use import::{
    ImportConfig, ImportFailure, ImportProgress, ImportReport, ImportedPartition, SourceError,
    import_partitions,
};
pub use listeners::Advertised;
pub use lost_quorum::{QuorumDirectory, force_quorum, inspect_quorum};
pub use partition::RegistryError;
pub use restore::{
    ClampReport, PartReport, RestoreError, RestoreOptions, RestoreReport, TopicReport,
    preview_restore, restore,
};
pub use start::{RunningServer, ServerConfig, StartError, start};
pub use tidemark_quorum::raft::StoreError as QuorumStoreError;
