//! Metadata records as bytes: a batch is a format version, a count, and records, each
//! with its type, its version and its length. Lengths are checked before anything is
//! allocated; any input gives records or an error.

use tidemark_wire::Uuid;

use crate::image::Partition;
use crate::record::{ConfigResource, Endpoint, MetadataRecord};

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
    let mut out = vec![FORMAT_VERSION];
    put_length(&mut out, records.len());
    let mut body = Vec::new();
    for record in records {
        body.clear();
        let record_type = put_record(&mut body, record);
        put_unsigned(&mut out, record_type);
        put_unsigned(&mut out, RECORD_VERSION);
        put_bytes(&mut out, &body);
    }
    out
}

/// Decodes one batch; the whole input must be it.
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<MetadataRecord>, CodecError> {
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
    let count = input.count("the batch")?;
    // Grown as records come: a count alone reserves nothing.
    let mut records = Vec::new();
    for _ in 0..count {
        let record_type = input.unsigned("a record")?;
        let record_version = input.unsigned("a record")?;
        let mut body = Input {
            bytes: input.slice("a record")?,
        };
        if record_version > RECORD_VERSION {
            return Err(CodecError::Newer {
                what: "metadata record version",
                found: record_version,
                newest: RECORD_VERSION,
            });
        }
        if record_version != RECORD_VERSION {
            return Err(CodecError::Invalid("the version of a record"));
        }
        let record = take_record(&mut body, record_type)?;
        body.finish("a record")?;
        records.push(record);
    }
    input.finish("the batch")?;
    Ok(records)
}

/// Version of every record type so far.
const RECORD_VERSION: u64 = 1;

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
const NEWEST_RECORD_TYPE: u64 = NEXT_PRODUCER_ID;

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
        } => {
            put_uuid(out, *topic_id);
            put_signed(out, i64::from(*partition));
            put_signed(out, i64::from(*expected_epoch));
            put_signed(out, i64::from(*leader));
            put_signed(out, i64::from(*leader_epoch));
            put_brokers(out, isr);
            put_brokers(out, elr);
            put_option(out, replicas.as_ref(), |out, r| put_brokers(out, r));
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
    }
}

fn take_record(input: &mut Input<'_>, record_type: u64) -> Result<MetadataRecord, CodecError> {
    Ok(match record_type {
        CLUSTER_ID => MetadataRecord::ClusterId {
            cluster_id: input.uuid()?,
        },
        FEATURE_LEVEL => MetadataRecord::FeatureLevel {
            name: input.text()?,
            level: input.number()?,
        },
        BROKER_REGISTERED => take_registration(input)?,
        BROKER_FENCED => MetadataRecord::BrokerFenced {
            broker_id: input.number()?,
            broker_epoch: input.number()?,
            fenced: input.boolean()?,
        },
        BROKER_UNREGISTERED => MetadataRecord::BrokerUnregistered {
            broker_id: input.number()?,
            broker_epoch: input.number()?,
        },
        TOPIC_CREATED => MetadataRecord::TopicCreated {
            topic_id: input.uuid()?,
            name: input.text()?,
        },
        PARTITION_CREATED => MetadataRecord::PartitionCreated {
            topic_id: input.uuid()?,
            partition: input.number()?,
            state: Partition {
                replicas: input.brokers()?,
                isr: input.brokers()?,
                elr: input.brokers()?,
                leader: input.number()?,
                leader_epoch: input.number()?,
                partition_epoch: input.number()?,
            },
        },
        PARTITION_CHANGED => MetadataRecord::PartitionChanged {
            topic_id: input.uuid()?,
            partition: input.number()?,
            expected_epoch: input.number()?,
            leader: input.number()?,
            leader_epoch: input.number()?,
            isr: input.brokers()?,
            elr: input.brokers()?,
            replicas: input.option(Input::brokers)?,
        },
        TOPIC_DELETED => MetadataRecord::TopicDeleted {
            topic_id: input.uuid()?,
        },
        CONFIG_CHANGED => MetadataRecord::ConfigChanged {
            resource: take_resource(input)?,
            name: input.text()?,
            value: input.option(Input::text)?,
        },
        PRODUCER_ID_BLOCK => MetadataRecord::ProducerIdBlock {
            broker_id: input.number()?,
            broker_epoch: input.number()?,
            first: input.number()?,
            next: input.number()?,
        },
        NEXT_PRODUCER_ID => MetadataRecord::NextProducerId {
            next: input.number()?,
        },
        newer => {
            return Err(CodecError::Newer {
                what: "metadata record type",
                found: newer,
                newest: NEWEST_RECORD_TYPE,
            });
        }
    })
}

fn take_registration(input: &mut Input<'_>) -> Result<MetadataRecord, CodecError> {
    let broker_id = input.number()?;
    let incarnation_id = input.uuid()?;
    let broker_epoch = input.number()?;
    let previous_epoch = input.option(Input::number)?;
    let directories = input.list(Input::uuid)?;
    let endpoints = input.list(|input| {
        Ok(Endpoint {
            name: input.text()?,
            host: input.text()?,
            port: u16::try_from(input.unsigned("a port")?)
                .map_err(|_| CodecError::Invalid("a port"))?,
            security_protocol: input.number()?,
        })
    })?;
    Ok(MetadataRecord::BrokerRegistered {
        broker_id,
        incarnation_id,
        broker_epoch,
        previous_epoch,
        directories,
        endpoints,
        rack: input.option(Input::text)?,
        fenced: input.boolean()?,
    })
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

fn take_resource(input: &mut Input<'_>) -> Result<ConfigResource, CodecError> {
    Ok(match input.byte("a config resource")? {
        1 => ConfigResource::Topic(input.uuid()?),
        2 => ConfigResource::Broker(input.number()?),
        3 => ConfigResource::AllBrokers,
        4 => ConfigResource::Group(input.text()?),
        _ => return Err(CodecError::Invalid("the type of a config resource")),
    })
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_unsigned(
        out,
        (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned(),
    );
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put_unsigned(out, length as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

fn put_uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(&id.0);
}

fn put_brokers(out: &mut Vec<u8>, brokers: &[i32]) {
    put_length(out, brokers.len());
    for broker in brokers {
        put_signed(out, i64::from(*broker));
    }
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// What is left to read.
struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(CodecError::Truncated(what))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(self.take(1, what)?[0])
    }

    fn unsigned(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(what)?;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                break;
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Invalid("a number longer than 64 bits"))
    }

    fn number<T: TryFrom<i64>>(&mut self) -> Result<T, CodecError> {
        let raw = self.unsigned("a number")?;
        let value = (raw >> 1).cast_signed() ^ -((raw & 1).cast_signed());
        T::try_from(value).map_err(|_| CodecError::Invalid("a number out of range"))
    }

    /// A count of things of at least a byte each: more than there are bytes is a lie.
    fn count(&mut self, what: &'static str) -> Result<usize, CodecError> {
        usize::try_from(self.unsigned(what)?)
            .ok()
            .filter(|count| *count <= self.bytes.len())
            .ok_or(CodecError::Truncated(what))
    }

    fn slice(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = self.count(what)?;
        self.take(length, what)
    }

    fn text(&mut self) -> Result<String, CodecError> {
        let bytes = self.slice("a text")?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| CodecError::Invalid("a text that is not UTF-8"))
    }

    fn uuid(&mut self) -> Result<Uuid, CodecError> {
        let bytes = self.take(16, "an id")?;
        bytes
            .try_into()
            .map(Uuid)
            .map_err(|_| CodecError::Truncated("an id"))
    }

    fn boolean(&mut self) -> Result<bool, CodecError> {
        match self.byte("a flag")? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid("a flag")),
        }
    }

    fn option<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<T>, CodecError> {
        Ok(if self.boolean()? {
            Some(take(self)?)
        } else {
            None
        })
    }

    fn list<T>(
        &mut self,
        take: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count("a list")?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(take(self)?);
        }
        Ok(items)
    }

    fn brokers(&mut self) -> Result<Vec<i32>, CodecError> {
        self.list(Input::number)
    }

    fn finish(self, what: &'static str) -> Result<(), CodecError> {
        match self.bytes.len() {
            0 => Ok(()),
            count => Err(CodecError::Trailing { what, count }),
        }
    }
}
