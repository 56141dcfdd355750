//! The records of `__consumer_offsets` in Kafka's own format.
//!
//! A key is its type (an `i16`: 0 and 1 offset commits, 2 group metadata, 3 and
//! above those of the newer group kinds) and the key's fields; a value is its
//! schema version (an `i16`) and the fields; no value is a tombstone. Written
//! as Kafka 4.3 writes them: group metadata at version 3, offset commits at
//! version 4, or at 1 where a client asked for a retention of its own. Read at
//! all versions.

use bytes::Bytes;
use tidemark_wire::messages::group_metadata_value::MemberMetadata;
use tidemark_wire::messages::{
    GroupMetadataKey, GroupMetadataValue, OffsetCommitKey, OffsetCommitValue,
};
use tidemark_wire::{DecodeError, EncodeError, Message, Reader, Uuid, Writer};

const LEGACY_OFFSET_COMMIT_KEY: i16 = 0;
const OFFSET_COMMIT_KEY: i16 = 1;
const GROUP_METADATA_KEY: i16 = 2;

const GROUP_METADATA_VALUE_VERSION: i16 = 3;
const OFFSET_COMMIT_VALUE_VERSION: i16 = 4;
/// The one version with an expire timestamp.
const OFFSET_COMMIT_VALUE_VERSION_WITH_EXPIRY: i16 = 1;

/// A record to append to the coordinator's partition of `__consumer_offsets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The key, type prefix included.
    pub key: Bytes,
    /// The value, version prefix included; `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// A committed offset and what was committed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset to be read.
    pub offset: i64,
    /// Leader epoch of the last record read, -1 if unknown.
    pub leader_epoch: i32,
    /// The client's note.
    pub metadata: String,
    /// When it was committed, milliseconds since the epoch.
    pub commit_timestamp_ms: i64,
    /// When it expires, if the client asked for a retention of its own.
    pub expire_timestamp_ms: Option<i64>,
    /// The id of the topic, [`Uuid::ZERO`] if unknown.
    pub topic_id: Uuid,
}

/// What a group metadata record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRecord {
    /// Empty for a group that has had no members.
    pub(crate) protocol_type: String,
    pub(crate) generation_id: i32,
    pub(crate) protocol_name: Option<String>,
    pub(crate) leader_id: Option<String>,
    pub(crate) state_timestamp_ms: Option<i64>,
    pub(crate) members: Vec<MemberRecord>,
}

/// One member of a [`GroupRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRecord {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    pub(crate) subscription: Bytes,
    pub(crate) assignment: Bytes,
}

/// A record that this coordinator understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CoordinatorRecord {
    OffsetCommit {
        group_id: String,
        topic: String,
        partition: i32,
        /// `None` forgets the offset.
        value: Option<OffsetAndMetadata>,
    },
    GroupMetadata {
        group_id: String,
        /// `None` forgets the group.
        value: Option<GroupRecord>,
    },
}

/// Why a record of the log cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The key or value does not follow its schema.
    #[error(
        "the {part} of the record at offset {offset} of the offsets topic cannot be read: {source}; look at it with `tidemark log dump`"
    )]
    Corrupt {
        /// Offset of the record.
        offset: i64,
        /// `key` or `value`.
        part: &'static str,
        /// What is wrong.
        source: DecodeError,
    },
    /// A record that was read and changed cannot be written again.
    #[error("the record at offset {offset} of the offsets topic cannot be written anew: {source}")]
    Unwritable {
        /// Offset of the record.
        offset: i64,
        /// Why.
        source: EncodeError,
    },
    /// Only a coordinator that is still loading can replay.
    #[error("the record at offset {offset} came after loading had ended; load a new coordinator")]
    NotLoading {
        /// Offset of the record.
        offset: i64,
    },
}

impl GroupRecord {
    /// An upper bound of the record's value in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let text = |s: &Option<String>| s.as_ref().map_or(0, String::len);
        let head = self.protocol_type.len() + text(&self.protocol_name) + text(&self.leader_id);
        let members = self.members.iter().map(|m| {
            let ids = m.member_id.len() + text(&m.instance_id);
            let client = m.client_id.len() + m.client_host.len();
            ids + client + m.subscription.len() + m.assignment.len() + 24
        });
        head + 32 + members.sum::<usize>()
    }
}

impl CoordinatorRecord {
    /// The record as it goes into the log. Fails only if a string is longer
    /// than its length field can say.
    pub(crate) fn encode(&self) -> Result<LogRecord, EncodeError> {
        match self {
            Self::OffsetCommit {
                group_id,
                topic,
                partition,
                value,
            } => Ok(LogRecord {
                key: prefixed(
                    OFFSET_COMMIT_KEY,
                    &OffsetCommitKey {
                        group: group_id.clone(),
                        topic: topic.clone(),
                        partition: *partition,
                        ..Default::default()
                    },
                    0,
                )?,
                value: value.as_ref().map(encode_offset).transpose()?,
            }),
            Self::GroupMetadata { group_id, value } => Ok(LogRecord {
                key: prefixed(
                    GROUP_METADATA_KEY,
                    &GroupMetadataKey {
                        group: group_id.clone(),
                        ..Default::default()
                    },
                    0,
                )?,
                value: value.as_ref().map(encode_group).transpose()?,
            }),
        }
    }

    /// Reads a record, or `None` for one of a kind that belongs to the newer
    /// group protocols.
    pub(crate) fn decode(
        offset: i64,
        key: &Bytes,
        value: Option<&Bytes>,
    ) -> Result<Option<Self>, ReplayError> {
        let corrupt = |part| {
            move |source| ReplayError::Corrupt {
                offset,
                part,
                source,
            }
        };
        let mut reader = Reader::new(key.clone());
        match reader.i16().map_err(corrupt("key"))? {
            LEGACY_OFFSET_COMMIT_KEY | OFFSET_COMMIT_KEY => {
                let key = read::<OffsetCommitKey>(&mut reader, 0).map_err(corrupt("key"))?;
                let value = value.map(decode_offset).transpose();
                Ok(Some(Self::OffsetCommit {
                    group_id: key.group,
                    topic: key.topic,
                    partition: key.partition,
                    value: value.map_err(corrupt("value"))?,
                }))
            }
            GROUP_METADATA_KEY => {
                let key = read::<GroupMetadataKey>(&mut reader, 0).map_err(corrupt("key"))?;
                let value = value.map(decode_group).transpose();
                Ok(Some(Self::GroupMetadata {
                    group_id: key.group,
                    value: value.map_err(corrupt("value"))?,
                }))
            }
            _ => Ok(None),
        }
    }
}

fn encode_offset(value: &OffsetAndMetadata) -> Result<Bytes, EncodeError> {
    let version = if value.expire_timestamp_ms.is_some() {
        OFFSET_COMMIT_VALUE_VERSION_WITH_EXPIRY
    } else {
        OFFSET_COMMIT_VALUE_VERSION
    };
    let message = OffsetCommitValue {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.clone(),
        commit_timestamp: value.commit_timestamp_ms,
        expire_timestamp: value.expire_timestamp_ms.unwrap_or(-1),
        topic_id: value.topic_id,
        ..Default::default()
    };
    prefixed(version, &message, version)
}

fn decode_offset(value: &Bytes) -> Result<OffsetAndMetadata, DecodeError> {
    let mut reader = Reader::new(value.clone());
    let version = reader.i16()?;
    let value = read::<OffsetCommitValue>(&mut reader, version)?;
    Ok(OffsetAndMetadata {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata,
        commit_timestamp_ms: value.commit_timestamp,
        expire_timestamp_ms: (value.expire_timestamp != -1).then_some(value.expire_timestamp),
        topic_id: value.topic_id,
    })
}

fn encode_group(value: &GroupRecord) -> Result<Bytes, EncodeError> {
    let message = GroupMetadataValue {
        protocol_type: value.protocol_type.clone(),
        generation: value.generation_id,
        protocol: value.protocol_name.clone(),
        leader: value.leader_id.clone(),
        current_state_timestamp: value.state_timestamp_ms.unwrap_or(-1),
        members: value
            .members
            .iter()
            .map(|m| MemberMetadata {
                member_id: m.member_id.clone(),
                group_instance_id: m.instance_id.clone(),
                client_id: m.client_id.clone(),
                client_host: m.client_host.clone(),
                rebalance_timeout: m.rebalance_timeout_ms,
                session_timeout: m.session_timeout_ms,
                subscription: m.subscription.clone(),
                assignment: m.assignment.clone(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    prefixed(
        GROUP_METADATA_VALUE_VERSION,
        &message,
        GROUP_METADATA_VALUE_VERSION,
    )
}

fn decode_group(value: &Bytes) -> Result<GroupRecord, DecodeError> {
    let mut reader = Reader::new(value.clone());
    let version = reader.i16()?;
    let value = read::<GroupMetadataValue>(&mut reader, version)?;
    Ok(GroupRecord {
        protocol_type: value.protocol_type,
        generation_id: value.generation,
        protocol_name: value.protocol,
        leader_id: value.leader,
        state_timestamp_ms: (value.current_state_timestamp != -1)
            .then_some(value.current_state_timestamp),
        members: value
            .members
            .into_iter()
            .map(|m| MemberRecord {
                member_id: m.member_id,
                instance_id: m.group_instance_id,
                client_id: m.client_id,
                client_host: m.client_host,
                // Version 0 had the session timeout only.
                rebalance_timeout_ms: if m.rebalance_timeout == -1 {
                    m.session_timeout
                } else {
                    m.rebalance_timeout
                },
                session_timeout_ms: m.session_timeout,
                // Copied, so that a small slice does not keep a whole batch alive.
                subscription: Bytes::copy_from_slice(&m.subscription),
                assignment: Bytes::copy_from_slice(&m.assignment),
            })
            .collect(),
    })
}

fn prefixed<M: Message>(prefix: i16, message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    writer.i16(prefix);
    message.encode(&mut writer, version)?;
    Ok(writer.into_bytes())
}

fn read<M: Message>(reader: &mut Reader, version: i16) -> Result<M, DecodeError> {
    let message = M::decode(reader, version)?;
    reader.finish()?;
    Ok(message)
}
