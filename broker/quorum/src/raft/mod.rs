//! The metadata quorum: one log on one, three or five voters, kept by raft, and folded on
//! every node into the same image.
//!
//! [`format`] gives a directory its identity, [`Quorum`] is a running voter, [`Observer`]
//! follows without a vote. The leader is the controller while [`Activity`] says so:
//! [`Quorum::propose`] decides on the newest image, and answers when the change is committed
//! by a majority and folded in here.
//!
//! **Invariants:** a committed entry never changes; at one index all nodes have the same
//! image; a node id is never backed by two directories of one quorum; nobody is answered
//! before what was decided is durable on a majority.

mod active;
mod client;
mod codec;
mod error;
mod fold;
mod force;
mod frame;
mod identity;
mod inspect;
mod journal;
mod machine;
mod members;
mod observer;
mod propose;
mod quorum;
mod runtime;
mod server;
mod snapshot;
mod store;
mod types;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

pub use active::Activity;
pub use client::{CallError, Dial, Dialled, TcpDial};
pub use error::StoreError;
pub use fold::Fold;
pub use force::force;
pub use identity::{InitialVoters, VoterIdentity, format, format_with, read_identity};
pub use inspect::{Inspection, inspect};
pub use journal::RaftRecovery;
pub use machine::{Builder, Machine};
pub use observer::{Followed, Observer, ObserverConfig};
pub use propose::QuorumError;
pub use quorum::{Quorum, QuorumConfig, QuorumStartError};
pub use runtime::{EnvRandom, EnvRuntime};
pub use server::{Answer, ForwardHandler, NoForwarding};
pub use snapshot::SnapshotBytes;
pub use store::{LogStore, Opened};
pub use types::{
    Applied, Batch, Entry, EntryPayload, LogId, Membership, Proposal, Refused, SnapshotMeta,
    StoredMembership, TypeConfig, Vote, VoterId, VoterNode,
};
pub use wire::NodeStatus;
