//! What the quorum's log is made of.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_model::{
    BrokerId, CodecError, Image, MetadataRecord, Rejected, decode_batch, encode_batch,
};
use tidemark_wire::Uuid;

use super::runtime::EnvRuntime;
use super::snapshot::SnapshotBytes;

/// A member of the quorum: a node and the directory that backs it (KIP-853).
///
/// A node that comes back with another directory is another member, so that votes and
/// acknowledgements of a lost disk are never taken for those of the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VoterId {
    /// The node's id.
    pub node_id: BrokerId,
    /// Its directory.
    pub directory_id: Uuid,
}

impl fmt::Display for VoterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node_id, self.directory_id)
    }
}

/// Where a member of the quorum listens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VoterNode {
    /// `host:port` of its quorum listener.
    pub address: String,
}

/// One metadata batch, as bytes and as records.
#[derive(Clone)]
pub struct Batch {
    bytes: Bytes,
    records: Arc<Vec<MetadataRecord>>,
}

impl Batch {
    /// A batch of these records.
    pub fn new(records: Vec<MetadataRecord>) -> Batch {
        Batch {
            bytes: encode_batch(&records).into(),
            records: Arc::new(records),
        }
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// The bytes are none, or newer than this version.
    pub fn decode(bytes: Bytes) -> Result<Batch, CodecError> {
        let records = Arc::new(decode_batch(&bytes)?);
        Ok(Batch { bytes, records })
    }

    /// As the model's codec writes it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it says.
    pub fn records(&self) -> &[MetadataRecord] {
        &self.records
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Batch) -> bool {
        self.bytes == other.bytes
    }
}

// Records would drown whatever they are printed with.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.records.len())
    }
}

/// What one log entry carries: everything that was queued when it was proposed. Each batch
/// applies whole or not at all, whatever becomes of the others.
///
/// It names the leadership that decided it and applies in no other: a leader that was replaced
/// and leads again has decided on what is no longer so.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Proposal {
    /// The term of the leader that decided.
    pub epoch: u64,
    /// In the order in which they are applied.
    pub batches: Vec<Batch>,
}

/// Why a batch did not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A precondition does not hold.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// It was decided in another leadership than it was logged in.
    #[error("it was decided in leadership {decided} and logged in leadership {logged}")]
    Epoch {
        /// The term of the decision.
        decided: u64,
        /// The term of the entry.
        logged: u64,
    },
}

/// What became of an entry: the proposer answers from it and from nothing else.
#[derive(Debug, Clone)]
pub struct Applied {
    /// For each batch, whether it applied.
    pub outcomes: Vec<Result<(), Refused>>,
    /// The image after the entry.
    pub image: Arc<Image>,
}

openraft::declare_raft_types!(
    /// The types of the metadata quorum.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = VoterId,
        Node = VoterNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotBytes,
        AsyncRuntime = EnvRuntime,
);

/// Position in the log: who led when it was written, and its index.
pub type LogId = openraft::LogId<VoterId>;
/// Whom a voter follows, or has voted for.
pub type Vote = openraft::Vote<VoterId>;
/// Who is in the quorum.
pub type Membership = openraft::Membership<VoterId, VoterNode>;
/// Who is in the quorum, and where the log says so.
pub type StoredMembership = openraft::StoredMembership<VoterId, VoterNode>;
/// One entry of the log.
pub type Entry = openraft::Entry<TypeConfig>;
/// What a payload of an entry can be.
pub type EntryPayload = openraft::EntryPayload<TypeConfig>;
/// About a snapshot.
pub type SnapshotMeta = openraft::SnapshotMeta<VoterId, VoterNode>;
pub(super) type StorageError = openraft::StorageError<VoterId>;
pub(super) type Raft = openraft::Raft<TypeConfig>;
