//! Metadata records as bytes: a batch is a format version, a count, and records, each
//! with its type, its version and its length. Lengths are checked before anything is
//! allocated; any input gives records or an error.

mod bytes;
mod take;

use bytes::{
    Input, put_brokers, put_bytes, put_length, put_option, put_signed, put_text, put_unsigned,
    put_uuid,
};
use take::take_record;

use crate::image::{ConfigMap, Restore, RestoredPartition};
use crate::partition::Partition;
use crate::record::{ConfigResource, Endpoint, FeatureRange, MetadataRecord, RestoredBroker};

/// Version of the framing below.
const FORMAT_VERSION: u8 = 1;

/// Why bytes are no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by a newer Tidemark.
    #[error(
        "{what} {found} is newer than {newest}, the newest that this version reads: run the version that wrote it, or a newer one"
    )]
    Newer {
        /// What has a version.
        what: &'static str,
        /// The version found.
        found: u64,
        /// The newest known here.
        newest: u64,
    },
    /// The bytes end too early, or a length goes past them.
    #[error("the bytes end within {0}")]
    Truncated(&'static str),
    /// A value that cannot be.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// Bytes are left over.
    #[error("{count} bytes follow {what}")]
    Trailing {
        /// What ended before them.
        what: &'static str,
        /// How many.
        count: usize,
    },
}

/// Encodes records as one batch.
pub fn encode_batch(records: &[MetadataRecord]) -> Vec<u8> {
    let mut encoder = Encoder::default();
    for record in records {
        encoder.push(record);
    }
    encoder.finish()
}

/// Encodes a batch record by record.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    count: usize,
    records: Vec<u8>,
    body: Vec<u8>,
}

impl Encoder {
    pub(crate) fn push(&mut self, record: &MetadataRecord) {
        self.body.clear();
        let record_type = put_record(&mut self.body, record);
        put_unsigned(&mut self.records, record_type);
        put_unsigned(&mut self.records, written_version(record, record_type));
        put_bytes(&mut self.records, &self.body);
        self.count += 1;
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut head = vec![FORMAT_VERSION];
        put_length(&mut head, self.count);
        let mut out = self.records;
        out.splice(0..0, head);
        out
    }
}

/// Decodes one batch; the whole input must be it.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<MetadataRecord>, CodecError> {
    let mut reader = BatchReader::new(bytes)?;
    // Grown as records come: a count alone reserves nothing.
    let mut records = Vec::new();
    while let Some(record) = reader.next_record()? {
        records.push(record);
    }
    Ok(records)
}

/// Decodes one batch record by record; the whole input must be it.
#[derive(Debug)]
pub(crate) struct BatchReader<'a> {
    input: Input<'a>,
    left: usize,
}

impl<'a> BatchReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut input = Input { bytes };
        let version = input.byte("the batch")?;
        if version > FORMAT_VERSION {
            return Err(CodecError::Newer {
                what: "metadata batch format",
                found: u64::from(version),
                newest: u64::from(FORMAT_VERSION),
            });
        }
        if version == 0 {
            return Err(CodecError::Invalid("metadata batch format 0"));
        }
        let left = input.count("the batch")?;
        Ok(Self { input, left })
    }

    /// The next record; `None` once the batch ends where the bytes do.
    pub(crate) fn next_record(&mut self) -> Result<Option<MetadataRecord>, CodecError> {
        let input = &mut self.input;
        let Some(left) = self.left.checked_sub(1) else {
            return match input.bytes.len() {
                0 => Ok(None),
                count => Err(CodecError::Trailing {
                    what: "the batch",
                    count,
                }),
            };
        };
        self.left = left;
        let record_type = input.unsigned("a record")?;
        let record_version = input.unsigned("a record")?;
        let mut body = Input {
            bytes: input.slice("a record")?,
        };
        let newest = newest_version(record_type);
        if record_version > newest {
            return Err(CodecError::Newer {
                what: "metadata record version",
                found: record_version,
                newest,
            });
        }
        if record_version == 0 {
            return Err(CodecError::Invalid("the version of a record"));
        }
        let record = take_record(&mut body, record_type, record_version)?;
        body.finish("a record")?;
        Ok(Some(record))
    }
}

/// The version in which a record is written: levels that older versions have are theirs to read.
fn written_version(record: &MetadataRecord, record_type: u64) -> u64 {
    match record {
        MetadataRecord::FeatureLevel { level: ..2, .. } => 1,
        _ => newest_version(record_type),
    }
}

/// The newest version of a record type; older ones are read.
///
/// Version 2 brought what a cluster of more than one broker needs: features, ELR kept
/// beyond lost disks, reassignments, unclean elections. Version 3 of a partition brought where
/// the log of one begins that came back from a bucket.
fn newest_version(record_type: u64) -> u64 {
    match record_type {
        BROKER_REGISTERED | PARTITION_CHANGED => 2,
        PARTITION_CREATED => 3,
        // Where an upgrade is tested: what the version before cannot read.
        FEATURE_LEVEL if cfg!(feature = "next-version") => 2,
        _ => 1,
    }
}

const CLUSTER_ID: u64 = 1;
const FEATURE_LEVEL: u64 = 2;
const BROKER_REGISTERED: u64 = 3;
const BROKER_FENCED: u64 = 4;
const BROKER_UNREGISTERED: u64 = 5;
const TOPIC_CREATED: u64 = 6;
const PARTITION_CREATED: u64 = 7;
const PARTITION_CHANGED: u64 = 8;
const TOPIC_DELETED: u64 = 9;
const CONFIG_CHANGED: u64 = 10;
const PRODUCER_ID_BLOCK: u64 = 11;
const NEXT_PRODUCER_ID: u64 = 12;
const BROKER_SHUTTING_DOWN: u64 = 13;
const BROKER_CORDONED: u64 = 14;
const TOPIC_DELETION_STARTED: u64 = 15;
const TOPIC_DELETION_PENDING: u64 = 16;
const TOPIC_DELETION_CONFIRMED: u64 = 17;
const DISRUPTION_GRANTED: u64 = 18;
const DISRUPTION_ENDED: u64 = 19;
const TOPIC_RESTORE_PENDING: u64 = 20;
const NEWEST_RECORD_TYPE: u64 = TOPIC_RESTORE_PENDING;

fn put_record(out: &mut Vec<u8>, record: &MetadataRecord) -> u64 {
    match record {
        MetadataRecord::ClusterId { cluster_id } => {
            put_uuid(out, *cluster_id);
            CLUSTER_ID
        }
        MetadataRecord::FeatureLevel { name, level } => {
            put_text(out, name);
            put_signed(out, i64::from(*level));
            FEATURE_LEVEL
        }
        MetadataRecord::BrokerRegistered {
            broker_id,
            incarnation_id,
            broker_epoch,
            previous_epoch,
            directories,
            endpoints,
            rack,
            fenced,
            logs_lost,
            features,
            restored,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_uuid(out, *incarnation_id);
            put_signed(out, *broker_epoch);
            put_option(out, previous_epoch.as_ref(), |out, e| put_signed(out, *e));
            put_length(out, directories.len());
            for directory in directories {
                put_uuid(out, *directory);
            }
            put_length(out, endpoints.len());
            for endpoint in endpoints {
                put_text(out, &endpoint.name);
                put_text(out, &endpoint.host);
                put_unsigned(out, u64::from(endpoint.port));
                put_signed(out, i64::from(endpoint.security_protocol));
            }
            put_option(out, rack.as_ref(), |out, rack| put_text(out, rack));
            out.push(u8::from(*fenced));
            out.push(u8::from(*logs_lost));
            put_length(out, features.len());
            for feature in features {
                put_text(out, &feature.name);
                put_signed(out, i64::from(feature.min));
                put_signed(out, i64::from(feature.max));
            }
            put_option(out, restored.as_ref(), |out, known| {
                put_unsigned(out, known.registered_at);
                put_option(out, known.unfenced_epoch.as_ref(), |out, e| {
                    put_signed(out, *e);
                });
                out.push(u8::from(known.shutting_down));
                out.push(u8::from(known.cordoned));
            });
            BROKER_REGISTERED
        }
        MetadataRecord::BrokerFenced {
            broker_id,
            broker_epoch,
            fenced,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_signed(out, *broker_epoch);
            out.push(u8::from(*fenced));
            BROKER_FENCED
        }
        MetadataRecord::BrokerUnregistered {
            broker_id,
            broker_epoch,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_signed(out, *broker_epoch);
            BROKER_UNREGISTERED
        }
        MetadataRecord::BrokerShuttingDown {
            broker_id,
            broker_epoch,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_signed(out, *broker_epoch);
            BROKER_SHUTTING_DOWN
        }
        MetadataRecord::BrokerCordoned {
            broker_id,
            broker_epoch,
            cordoned,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_signed(out, *broker_epoch);
            out.push(u8::from(*cordoned));
            BROKER_CORDONED
        }
        MetadataRecord::TopicCreated { topic_id, name } => {
            put_uuid(out, *topic_id);
            put_text(out, name);
            TOPIC_CREATED
        }
        MetadataRecord::PartitionCreated {
            topic_id,
            partition,
            state,
        } => {
            put_uuid(out, *topic_id);
            put_signed(out, i64::from(*partition));
            put_brokers(out, &state.replicas);
            put_brokers(out, &state.isr);
            put_brokers(out, &state.elr);
            put_signed(out, i64::from(state.leader));
            put_signed(out, i64::from(state.leader_epoch));
            put_signed(out, i64::from(state.partition_epoch));
            put_brokers(out, &state.last_known_elr);
            put_brokers(out, &state.adding);
            put_brokers(out, &state.removing);
            put_signed(out, i64::from(state.unclean_epoch));
            put_signed(out, state.first_offset);
            out.push(u8::from(state.from_backup));
            PARTITION_CREATED
        }
        MetadataRecord::PartitionChanged {
            topic_id,
            partition,
            expected_epoch,
            leader,
            leader_epoch,
            isr,
            elr,
            replicas,
            last_known_elr,
            reassignment,
            joined,
            unclean,
        } => {
            put_uuid(out, *topic_id);
            put_signed(out, i64::from(*partition));
            put_signed(out, i64::from(*expected_epoch));
            put_signed(out, i64::from(*leader));
            put_signed(out, i64::from(*leader_epoch));
            put_brokers(out, isr);
            put_brokers(out, elr);
            put_option(out, replicas.as_ref(), |out, r| put_brokers(out, r));
            put_brokers(out, last_known_elr);
            put_option(out, reassignment.as_ref(), |out, (adding, removing)| {
                put_brokers(out, adding);
                put_brokers(out, removing);
            });
            put_length(out, joined.len());
            for (broker_id, broker_epoch) in joined {
                put_signed(out, i64::from(*broker_id));
                put_signed(out, *broker_epoch);
            }
            out.push(u8::from(*unclean));
            PARTITION_CHANGED
        }
        MetadataRecord::TopicDeleted { topic_id } => {
            put_uuid(out, *topic_id);
            TOPIC_DELETED
        }
        MetadataRecord::ConfigChanged {
            resource,
            name,
            value,
        } => {
            put_resource(out, resource);
            put_text(out, name);
            put_option(out, value.as_ref(), |out, value| put_text(out, value));
            CONFIG_CHANGED
        }
        MetadataRecord::ProducerIdBlock {
            broker_id,
            broker_epoch,
            first,
            next,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_signed(out, *broker_epoch);
            put_signed(out, *first);
            put_signed(out, *next);
            PRODUCER_ID_BLOCK
        }
        MetadataRecord::NextProducerId { next } => {
            put_signed(out, *next);
            NEXT_PRODUCER_ID
        }
        MetadataRecord::TopicDeletionStarted { topic_id } => {
            put_uuid(out, *topic_id);
            TOPIC_DELETION_STARTED
        }
        MetadataRecord::TopicDeletionPending {
            topic_id,
            name,
            partitions,
            brokers,
        } => {
            put_uuid(out, *topic_id);
            put_text(out, name);
            put_signed(out, i64::from(*partitions));
            put_brokers(out, brokers);
            TOPIC_DELETION_PENDING
        }
        MetadataRecord::TopicDeletionConfirmed {
            topic_id,
            broker_id,
        } => {
            put_uuid(out, *topic_id);
            put_signed(out, i64::from(*broker_id));
            TOPIC_DELETION_CONFIRMED
        }
        MetadataRecord::DisruptionGranted {
            broker_id,
            broker_epoch,
            token,
            expires_at_ms,
            decided_at,
        } => {
            put_signed(out, i64::from(*broker_id));
            put_signed(out, *broker_epoch);
            put_uuid(out, *token);
            put_signed(out, *expires_at_ms);
            put_option(out, decided_at.as_ref(), |out, at| put_unsigned(out, *at));
            DISRUPTION_GRANTED
        }
        MetadataRecord::DisruptionEnded { broker_id, token } => {
            put_signed(out, i64::from(*broker_id));
            put_uuid(out, *token);
            DISRUPTION_ENDED
        }
        MetadataRecord::TopicRestorePending(restore) => {
            put_uuid(out, restore.topic_id);
            put_text(out, &restore.name);
            put_signed(out, i64::from(restore.replication_factor));
            put_signed(out, i64::from(restore.brokers));
            put_length(out, restore.configs.len());
            for (name, value) in &restore.configs {
                put_text(out, name);
                put_text(out, value);
            }
            put_length(out, restore.partitions.len());
            for partition in &restore.partitions {
                put_signed(out, i64::from(partition.leader_epoch));
                put_signed(out, partition.first_offset);
                out.push(u8::from(partition.from_backup));
            }
            TOPIC_RESTORE_PENDING
        }
    }
}

fn put_resource(out: &mut Vec<u8>, resource: &ConfigResource) {
    match resource {
        ConfigResource::Topic(id) => {
            out.push(1);
            put_uuid(out, *id);
        }
        ConfigResource::Broker(id) => {
            out.push(2);
            put_signed(out, i64::from(*id));
        }
        ConfigResource::AllBrokers => out.push(3),
        ConfigResource::Group(name) => {
            out.push(4);
            put_text(out, name);
        }
    }
}
