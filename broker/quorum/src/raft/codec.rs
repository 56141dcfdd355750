//! Raft's own values as bytes, on disk and between nodes. Integers are big-endian. A length
//! is checked against what is there before anything is set aside for it: any input gives a
//! value or an error.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{CommittedLeaderId, LeaderId};
use tidemark_model::CodecError;
use tidemark_wire::Uuid;

use super::types::{
    Batch, Entry, EntryPayload, LogId, Membership, Proposal, StoredMembership, Vote, VoterId,
    VoterNode,
};

/// More members than a quorum can have, learners included.
const MOST_MEMBERS: usize = 64;
/// A joint configuration is of two.
const MOST_CONFIGS: usize = 2;
/// Longest address (a name of 253 bytes, a colon, a port) with room to spare.
const MOST_ADDRESS_BYTES: usize = 512;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
}

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// A length that is below 4 GiB, as everything here is limited to far less.
    pub(super) fn length(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.out.extend_from_slice(value);
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.out.extend_from_slice(&value.0);
    }

    pub(super) fn voter_id(&mut self, id: VoterId) {
        self.out.extend_from_slice(&id.node_id.to_be_bytes());
        self.uuid(id.directory_id);
    }

    pub(super) fn log_id(&mut self, id: LogId) {
        self.u64(id.leader_id.term);
        self.voter_id(id.leader_id.node_id);
        self.u64(id.index);
    }

    pub(super) fn vote(&mut self, vote: Vote) {
        self.u64(vote.leader_id.term);
        self.voter_id(vote.leader_id.node_id);
        self.bool(vote.committed);
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }

    pub(super) fn membership(&mut self, membership: &Membership) {
        let configs = membership.get_joint_config();
        self.length(configs.len());
        for config in configs {
            self.length(config.len());
            for id in config {
                self.voter_id(*id);
            }
        }
        let nodes: Vec<_> = membership.nodes().collect();
        self.length(nodes.len());
        for (id, node) in nodes {
            self.voter_id(*id);
            self.bytes(node.address.as_bytes());
        }
    }

    pub(super) fn stored_membership(&mut self, stored: &StoredMembership) {
        self.option(*stored.log_id(), Self::log_id);
        self.membership(stored.membership());
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        self.log_id(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => self.u8(BLANK),
            EntryPayload::Normal(proposal) => {
                self.u8(NORMAL);
                self.u64(proposal.epoch);
                self.length(proposal.batches.len());
                for batch in &proposal.batches {
                    self.bytes(batch.bytes());
                }
            }
            EntryPayload::Membership(membership) => {
                self.u8(MEMBERSHIP);
                self.membership(membership);
            }
        }
    }
}

/// About so many bytes an entry takes.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => {
            64 + proposal
                .batches
                .iter()
                .map(|batch| batch.bytes().len() + 4)
                .sum::<usize>()
        }
        _ => 256,
    }
}

/// Takes values off bytes.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    bytes: Bytes,
}

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Reader {
        Reader { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(self) -> Bytes {
        self.bytes
    }

    pub(super) fn finish(self, what: &'static str) -> Result<(), CodecError> {
        match self.bytes.len() {
            0 => Ok(()),
            count => Err(CodecError::Trailing { what, count }),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let array = *self
            .bytes
            .first_chunk()
            .ok_or(CodecError::Truncated(what))?;
        drop(self.bytes.split_to(N));
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>("a byte")?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array("a number")?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array("a number")?))
    }

    pub(super) fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid("a yes or no")),
        }
    }

    /// How many things follow, each of at least `least_bytes`: no more than fit.
    pub(super) fn count(
        &mut self,
        least_bytes: usize,
        most: usize,
        what: &'static str,
    ) -> Result<usize, CodecError> {
        let count = usize::try_from(self.u32()?).map_err(|_| CodecError::Truncated(what))?;
        if count > most {
            return Err(CodecError::Invalid(what));
        }
        if count > self.bytes.len() / least_bytes.max(1) {
            return Err(CodecError::Truncated(what));
        }
        Ok(count)
    }

    /// A part of the input; nothing is copied.
    pub(super) fn bytes(&mut self, what: &'static str) -> Result<Bytes, CodecError> {
        let length = self.count(1, usize::MAX, what)?;
        Ok(self.bytes.split_to(length))
    }

    pub(super) fn text(&mut self, most: usize, what: &'static str) -> Result<String, CodecError> {
        let bytes = self.bytes(what)?;
        if bytes.len() > most {
            return Err(CodecError::Invalid(what));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(CodecError::Invalid(what)),
        }
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, CodecError> {
        Ok(Uuid(self.array("an id")?))
    }

    pub(super) fn voter_id(&mut self) -> Result<VoterId, CodecError> {
        Ok(VoterId {
            node_id: i32::from_be_bytes(self.array("a node's id")?),
            directory_id: self.uuid()?,
        })
    }

    pub(super) fn log_id(&mut self) -> Result<LogId, CodecError> {
        let term = self.u64()?;
        let node_id = self.voter_id()?;
        Ok(LogId::new(
            CommittedLeaderId::new(term, node_id),
            self.u64()?,
        ))
    }

    pub(super) fn vote(&mut self) -> Result<Vote, CodecError> {
        let term = self.u64()?;
        let node_id = self.voter_id()?;
        Ok(Vote {
            leader_id: LeaderId::new(term, node_id),
            committed: self.bool()?,
        })
    }

    pub(super) fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        match self.bool()? {
            true => take(self).map(Some),
            false => Ok(None),
        }
    }

    pub(super) fn membership(&mut self) -> Result<Membership, CodecError> {
        let mut configs = Vec::new();
        for _ in 0..self.count(4, MOST_CONFIGS, "a membership")? {
            let mut config = BTreeSet::new();
            for _ in 0..self.count(20, MOST_MEMBERS, "a membership")? {
                config.insert(self.voter_id()?);
            }
            configs.push(config);
        }
        let mut nodes = BTreeMap::new();
        for _ in 0..self.count(24, MOST_MEMBERS, "a membership")? {
            let id = self.voter_id()?;
            let address = self.text(MOST_ADDRESS_BYTES, "an address")?;
            nodes.insert(id, VoterNode { address });
        }
        if configs.iter().flatten().any(|id| !nodes.contains_key(id)) {
            return Err(CodecError::Invalid("a membership: a voter has no address"));
        }
        Ok(Membership::new(configs, nodes))
    }

    pub(super) fn stored_membership(&mut self) -> Result<StoredMembership, CodecError> {
        let log_id = self.option(Self::log_id)?;
        Ok(StoredMembership::new(log_id, self.membership()?))
    }

    pub(super) fn entry(&mut self) -> Result<Entry, CodecError> {
        let log_id = self.log_id()?;
        let payload = match self.u8()? {
            BLANK => EntryPayload::Blank,
            NORMAL => {
                let epoch = self.u64()?;
                let mut batches = Vec::new();
                for _ in 0..self.count(4, usize::MAX, "a proposal")? {
                    batches.push(Batch::decode(self.bytes("a batch")?)?);
                }
                EntryPayload::Normal(Proposal { epoch, batches })
            }
            MEMBERSHIP => EntryPayload::Membership(self.membership()?),
            newer => {
                return Err(CodecError::Newer {
                    what: "metadata log entry type",
                    found: u64::from(newer),
                    newest: u64::from(MEMBERSHIP),
                });
            }
        };
        Ok(Entry { log_id, payload })
    }
}
