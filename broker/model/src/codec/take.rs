//! Records out of bytes.

use super::bytes::Input;
use super::*;

pub(super) fn take_record(
    input: &mut Input<'_>,
    record_type: u64,
    version: u64,
) -> Result<MetadataRecord, CodecError> {
    let cluster = version >= 2;
    Ok(match record_type {
        CLUSTER_ID => MetadataRecord::ClusterId {
            cluster_id: input.uuid()?,
        },
        FEATURE_LEVEL => MetadataRecord::FeatureLevel {
            name: input.text()?,
            level: input.number()?,
        },
        BROKER_REGISTERED => take_registration(input, cluster)?,
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
            state: take_partition(input, version)?,
        },
        PARTITION_CHANGED => take_partition_change(input, cluster)?,
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
        BROKER_SHUTTING_DOWN => MetadataRecord::BrokerShuttingDown {
            broker_id: input.number()?,
            broker_epoch: input.number()?,
        },
        BROKER_CORDONED => MetadataRecord::BrokerCordoned {
            broker_id: input.number()?,
            broker_epoch: input.number()?,
            cordoned: input.boolean()?,
        },
        TOPIC_DELETION_STARTED => MetadataRecord::TopicDeletionStarted {
            topic_id: input.uuid()?,
        },
        TOPIC_DELETION_PENDING => MetadataRecord::TopicDeletionPending {
            topic_id: input.uuid()?,
            name: input.text()?,
            partitions: input.number()?,
            brokers: input.brokers()?,
        },
        TOPIC_DELETION_CONFIRMED => MetadataRecord::TopicDeletionConfirmed {
            topic_id: input.uuid()?,
            broker_id: input.number()?,
        },
        DISRUPTION_GRANTED => MetadataRecord::DisruptionGranted {
            broker_id: input.number()?,
            broker_epoch: input.number()?,
            token: input.uuid()?,
            expires_at_ms: input.number()?,
            decided_at: input.option(|input| input.unsigned("an index"))?,
        },
        DISRUPTION_ENDED => MetadataRecord::DisruptionEnded {
            broker_id: input.number()?,
            token: input.uuid()?,
        },
        TOPIC_RESTORE_PENDING => MetadataRecord::TopicRestorePending(Restore {
            topic_id: input.uuid()?,
            name: input.text()?,
            replication_factor: input.number()?,
            brokers: input.number()?,
            configs: ConfigMap::from_iter(input.list(|input| Ok((input.text()?, input.text()?)))?),
            partitions: input.list(|input| {
                Ok(RestoredPartition {
                    leader_epoch: input.number()?,
                    first_offset: input.number()?,
                    from_backup: input.boolean()?,
                })
            })?,
        }),
        newer => {
            return Err(CodecError::Newer {
                what: "metadata record type",
                found: newer,
                newest: NEWEST_RECORD_TYPE,
            });
        }
    })
}

fn take_registration(input: &mut Input<'_>, cluster: bool) -> Result<MetadataRecord, CodecError> {
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
        logs_lost: cluster && input.boolean()?,
        features: if cluster {
            input.list(|input| {
                Ok(FeatureRange {
                    name: input.text()?,
                    min: input.number()?,
                    max: input.number()?,
                })
            })?
        } else {
            Vec::new()
        },
        restored: if cluster {
            input.option(|input| {
                Ok(RestoredBroker {
                    registered_at: input.unsigned("an index")?,
                    unfenced_epoch: input.option(Input::number)?,
                    shutting_down: input.boolean()?,
                    cordoned: input.boolean()?,
                })
            })?
        } else {
            None
        },
    })
}

fn take_partition(input: &mut Input<'_>, version: u64) -> Result<Partition, CodecError> {
    let mut state = Partition {
        replicas: input.brokers()?,
        isr: input.brokers()?,
        elr: input.brokers()?,
        leader: input.number()?,
        leader_epoch: input.number()?,
        partition_epoch: input.number()?,
        ..Partition::default()
    };
    if version >= 2 {
        state.last_known_elr = input.brokers()?;
        state.adding = input.brokers()?;
        state.removing = input.brokers()?;
        state.unclean_epoch = input.number()?;
    }
    if version >= 3 {
        state.first_offset = input.number()?;
        state.from_backup = input.boolean()?;
    }
    Ok(state)
}

fn take_partition_change(
    input: &mut Input<'_>,
    cluster: bool,
) -> Result<MetadataRecord, CodecError> {
    let topic_id = input.uuid()?;
    let partition = input.number()?;
    let expected_epoch = input.number()?;
    let leader = input.number()?;
    let leader_epoch = input.number()?;
    let isr = input.brokers()?;
    let elr = input.brokers()?;
    let replicas = input.option(Input::brokers)?;
    let (mut last_known_elr, mut reassignment, mut joined, mut unclean) =
        (Vec::new(), None, Vec::new(), false);
    if cluster {
        last_known_elr = input.brokers()?;
        reassignment = input.option(|input| Ok((input.brokers()?, input.brokers()?)))?;
        joined = input.list(|input| Ok((input.number()?, input.number()?)))?;
        unclean = input.boolean()?;
    }
    Ok(MetadataRecord::PartitionChanged {
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
    })
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
