//! Creating and deleting topics.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_config::{BrokerSettings, ConfigMap, Scope, TopicSettings};
use tidemark_model::{
    BrokerId, CONSUMER_OFFSETS, ConfigResource, IN_BUCKET, Image, MetadataRecord, Partition, Topic,
    TopicId, check_topic_name,
};
use tidemark_wire::{ErrorCode, Uuid};

use super::placement::{check_manual, new_partition, place};
use super::{Context, Decision, Refusal};

/// Most partitions that one request may create.
pub(super) const MOST_PARTITIONS_PER_REQUEST: usize = 10_000;

/// A topic asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 for the broker's default.
    pub num_partitions: i32,
    /// How many replicas; -1 for the broker's default.
    pub replication_factor: i16,
    /// Replicas by partition, where chosen by hand; the two numbers are then -1.
    pub assignments: Vec<(i32, Vec<BrokerId>)>,
    /// Its settings; a `None` value is refused.
    pub configs: Vec<(String, Option<String>)>,
}

/// A topic that was created, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its identity.
    pub topic_id: TopicId,
    /// How many partitions it has.
    pub num_partitions: i32,
    /// How many replicas each has.
    pub replication_factor: i16,
    /// Its own settings.
    pub configs: ConfigMap,
}

/// Decides CreateTopics: each topic by itself, all that are good in one batch.
///
/// `settings` are the deciding broker's, for what is -1; `new_id` hands out random ids.
pub fn create_topics(
    image: &Image,
    context: Context<'_>,
    settings: &BrokerSettings,
    requests: &[NewTopic],
    validate_only: bool,
    mut new_id: impl FnMut() -> Uuid,
) -> Decision<Vec<Result<CreatedTopic, Refusal>>> {
    let mut working = image.clone();
    let mut records = Vec::new();
    let mut partitions_so_far = 0usize;
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for request in requests {
        *names.entry(&request.name).or_default() += 1;
    }
    let mut result = Vec::with_capacity(requests.len());
    for request in requests {
        if names.get(request.name.as_str()).is_some_and(|n| *n > 1) {
            result.push(Err(Refusal::new(
                ErrorCode::InvalidRequest,
                "Duplicate topic name.",
            )));
            continue;
        }
        let decided = create_topic(&working, context, settings, request, &mut new_id).and_then(
            |(created, partitions)| {
                partitions_so_far = partitions_so_far.saturating_add(partitions.len());
                if partitions_so_far > MOST_PARTITIONS_PER_REQUEST {
                    return Err(too_many_partitions());
                }
                let new = topic_records(&request.name, &created, partitions);
                let next = working.apply(&new).map_err(|rejected| {
                    Refusal::new(ErrorCode::UnknownServerError, rejected.to_string())
                })?;
                Ok((created, new, next))
            },
        );
        result.push(decided.map(|(created, mut new, next)| {
            working = next;
            records.append(&mut new);
            created
        }));
    }
    if validate_only {
        records.clear();
    }
    Decision { records, result }
}

pub(super) fn too_many_partitions() -> Refusal {
    Refusal::new(
        ErrorCode::PolicyViolation,
        format!(
            "Excessively large number of partitions per request: at most {MOST_PARTITIONS_PER_REQUEST} at once."
        ),
    )
}

fn create_topic(
    image: &Image,
    context: Context<'_>,
    settings: &BrokerSettings,
    request: &NewTopic,
    new_id: &mut impl FnMut() -> Uuid,
) -> Result<(CreatedTopic, Vec<Partition>), Refusal> {
    check_new_name(image, &request.name)?;
    let topic_id = unused_id(image, new_id);
    let placed = if request.assignments.is_empty() {
        place_by_count(image, settings, request, topic_id)?
    } else {
        placed_by_hand(image, request)?
    };
    let configs = check_configs(image, context, &request.configs)?;
    let replication_factor = placed.first().map_or(0, Vec::len);
    let partitions = placed
        .into_iter()
        .map(|replicas| new_partition(image, replicas))
        .collect::<Result<Vec<_>, _>>()?;
    let created = CreatedTopic {
        topic_id,
        num_partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
        replication_factor: i16::try_from(replication_factor).unwrap_or(i16::MAX),
        configs,
    };
    Ok((created, partitions))
}

fn check_new_name(image: &Image, name: &str) -> Result<(), Refusal> {
    check_topic_name(name)
        .map_err(|e| Refusal::new(ErrorCode::InvalidTopicException, e.to_string()))?;
    if image.topic(name).is_some() {
        return Err(Refusal::new(
            ErrorCode::TopicAlreadyExists,
            format!("Topic '{name}' already exists."),
        ));
    }
    if let Some(restore) = image.restore_of(name) {
        return Err(Refusal::new(
            ErrorCode::TopicAlreadyExists,
            format!(
                "Topic '{}' is coming back from its bucket, and waits for {} brokers.",
                restore.name,
                restore.brokers.max(restore.replication_factor)
            ),
        ));
    }
    if let Some(existing) = image.colliding_topic(name) {
        return Err(Refusal::new(
            ErrorCode::InvalidTopicException,
            format!(
                "Topic '{name}' collides with existing topic: {} ('.' and '_' count as the same character)",
                existing.name
            ),
        ));
    }
    Ok(())
}

/// An id that is neither reserved nor in use; random ones never are but by a broken source.
fn unused_id(image: &Image, new_id: &mut impl FnMut() -> Uuid) -> TopicId {
    const TRIES: usize = 100;
    let mut id = new_id();
    for _ in 0..TRIES {
        if !is_reserved(id) && image.topic_by_id(id).is_none() && image.deletion(id).is_none() {
            break;
        }
        id = new_id();
    }
    id
}

/// Ids of Kafka's with a meaning of their own: zero and one.
fn is_reserved(id: Uuid) -> bool {
    id.0[..15] == [0; 15] && id.0[15] < 2
}

fn place_by_count(
    image: &Image,
    settings: &BrokerSettings,
    request: &NewTopic,
    topic_id: TopicId,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let count = match request.num_partitions {
        -1 => settings.num_partitions,
        n => n,
    };
    let factor = match request.replication_factor {
        -1 => settings.default_replication_factor,
        n => n,
    };
    let factor = usize::try_from(factor).ok().filter(|n| *n > 0);
    let factor = factor.ok_or_else(|| {
        Refusal::new(
            ErrorCode::InvalidReplicationFactor,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        )
    })?;
    let count = usize::try_from(count).ok().filter(|n| *n > 0);
    let count = count.ok_or_else(|| {
        Refusal::new(
            ErrorCode::InvalidPartitions,
            "Number of partitions must be larger than 0, or -1 to use the default value.",
        )
    })?;
    if count > MOST_PARTITIONS_PER_REQUEST {
        return Err(too_many_partitions());
    }
    place(image, 0, count, factor, usize::from(topic_id.0[0]))
}

fn placed_by_hand(image: &Image, request: &NewTopic) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    if request.replication_factor != -1 {
        return Err(Refusal::new(
            ErrorCode::InvalidRequest,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ));
    }
    if request.num_partitions != -1 {
        return Err(Refusal::new(
            ErrorCode::InvalidRequest,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ));
    }
    let mut by_partition = BTreeMap::new();
    let mut factor = None;
    for (partition, replicas) in &request.assignments {
        if by_partition.insert(*partition, replicas.clone()).is_some() {
            return Err(Refusal::new(
                ErrorCode::InvalidReplicaAssignment,
                format!("Found multiple manual partition assignments for partition {partition}"),
            ));
        }
        check_manual(image, replicas, factor)?;
        factor = Some(replicas.len());
    }
    if !(0..).zip(by_partition.keys()).all(|(at, p)| at == *p) {
        return Err(Refusal::new(
            ErrorCode::InvalidReplicaAssignment,
            "partitions should be a consecutive 0-based integer sequence",
        ));
    }
    Ok(by_partition.into_values().collect())
}

fn check_configs(
    image: &Image,
    context: Context<'_>,
    configs: &[(String, Option<String>)],
) -> Result<ConfigMap, Refusal> {
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidConfig, message);
    let mut map = ConfigMap::new();
    for (name, value) in configs {
        let Some(value) = value else {
            return Err(invalid(format!(
                "Null value not supported for topic configs: {name}"
            )));
        };
        tidemark_config::check(Scope::Topic, name, value).map_err(|e| invalid(e.to_string()))?;
        if map.insert(name.clone(), value.clone()).is_some() {
            return Err(invalid(format!(
                "Error due to duplicate config keys: {name}"
            )));
        }
    }
    TopicSettings::resolve(&map, context.layers(image)).map_err(|e| invalid(e.to_string()))?;
    Ok(map)
}

fn topic_records(
    name: &str,
    created: &CreatedTopic,
    partitions: Vec<Partition>,
) -> Vec<MetadataRecord> {
    let topic_id = created.topic_id;
    let topic = std::iter::once(MetadataRecord::TopicCreated {
        topic_id,
        name: name.to_owned(),
    });
    let configs = created
        .configs
        .iter()
        .map(|(name, value)| MetadataRecord::ConfigChanged {
            resource: ConfigResource::Topic(topic_id),
            name: name.clone(),
            value: Some(value.clone()),
        });
    let partitions =
        (0..)
            .zip(partitions)
            .map(|(partition, state)| MetadataRecord::PartitionCreated {
                topic_id,
                partition,
                state,
            });
    topic.chain(configs).chain(partitions).collect()
}

/// Decides the creation of an internal topic when it is first needed; one that exists is
/// answered as it is.
///
/// `__consumer_offsets` gets its settings from `offsets.topic.*`; its replication factor
/// is capped at the number of brokers unless it was set.
pub fn create_internal_topic(
    image: &Image,
    context: Context<'_>,
    settings: &BrokerSettings,
    name: &str,
    new_id: impl FnMut() -> Uuid,
) -> Decision<Result<TopicId, Refusal>> {
    if let Some(topic) = image.topic(name) {
        return Decision {
            records: Vec::new(),
            result: Ok(topic.id),
        };
    }
    if name != CONSUMER_OFFSETS {
        return Decision {
            records: Vec::new(),
            result: Err(Refusal::new(
                ErrorCode::InvalidTopicException,
                format!("this version has no internal topic {name}"),
            )),
        };
    }
    // Fenced ones count: with fewer replicas for as long as the topic exists, because a broker
    // was starting just then, groups would be lost with the first broker that is.
    let available = image.brokers().filter(|b| !b.cordoned).count();
    let demanded = settings.offsets_topic_replication_factor;
    let replication_factor = if settings.offsets_topic_replication_factor_demanded {
        demanded
    } else {
        demanded.min(i16::try_from(available.max(1)).unwrap_or(i16::MAX))
    };
    let request = NewTopic {
        name: name.to_owned(),
        num_partitions: settings.offsets_topic_num_partitions,
        replication_factor,
        assignments: Vec::new(),
        configs: vec![
            ("cleanup.policy".to_owned(), Some("compact".to_owned())),
            ("compression.type".to_owned(), Some("producer".to_owned())),
            (
                "segment.bytes".to_owned(),
                Some(
                    settings
                        .offsets_topic_segment_bytes
                        .max(SMALLEST_SEGMENT_BYTES)
                        .to_string(),
                ),
            ),
        ],
    };
    let Decision {
        records,
        mut result,
    } = create_topics(image, context, settings, &[request], false, new_id);
    Decision {
        records,
        result: result
            .pop()
            .expect("one topic was asked for, and each gets an answer")
            .map(|created| created.topic_id),
    }
}

/// Least `segment.bytes` of a topic; `offsets.topic.segment.bytes` may be set below it.
const SMALLEST_SEGMENT_BYTES: i32 = 1_048_576;

/// How a request names a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicName {
    /// By name.
    Name(String),
    /// By identity.
    Id(TopicId),
}

/// Decides DeleteTopics; each topic by itself. Brokers find out by themselves what they
/// have left of it. What a tiered one has in the bucket is remembered until it is gone from there
/// ([`confirm_deletions`] of [`IN_BUCKET`]).
pub fn delete_topics(
    image: &Image,
    settings: &BrokerSettings,
    requests: &[TopicName],
) -> Decision<Vec<Result<(TopicId, String), Refusal>>> {
    let mut decision = delete_with(image, settings, requests, |topic_id| {
        MetadataRecord::TopicDeleted { topic_id }
    });
    let in_bucket = decision.result.iter().flatten().filter_map(|(id, name)| {
        let configs = image.configs(&ConfigResource::Topic(*id));
        let tiered = configs.get("remote.storage.enable")? == "true";
        let partitions = image.topic_by_id(*id)?.partitions.len();
        tiered.then(|| MetadataRecord::TopicDeletionPending {
            topic_id: *id,
            name: name.clone(),
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
            brokers: vec![IN_BUCKET],
        })
    });
    let in_bucket: Vec<MetadataRecord> = in_bucket.collect();
    decision.records.extend(in_bucket);
    decision
}

/// Decides DeleteTopics; each topic by itself. The metadata remembers each until every
/// broker with a replica has said that nothing is left ([`confirm_deletions`]).
pub fn begin_topic_deletions(
    image: &Image,
    settings: &BrokerSettings,
    requests: &[TopicName],
) -> Decision<Vec<Result<(TopicId, String), Refusal>>> {
    delete_with(image, settings, requests, |topic_id| {
        MetadataRecord::TopicDeletionStarted { topic_id }
    })
}

/// Decides what a broker's word means that nothing is left of deleted topics; those not
/// waited for are passed over.
pub fn confirm_deletions(
    image: &Image,
    broker_id: BrokerId,
    topics: &[TopicId],
) -> Vec<MetadataRecord> {
    let topics: BTreeSet<TopicId> = topics.iter().copied().collect();
    topics
        .into_iter()
        .filter(|id| {
            let job = image.deletion(*id);
            job.is_some_and(|job| job.brokers.contains(&broker_id))
        })
        .map(|topic_id| MetadataRecord::TopicDeletionConfirmed {
            topic_id,
            broker_id,
        })
        .collect()
}

fn delete_with(
    image: &Image,
    settings: &BrokerSettings,
    requests: &[TopicName],
    record: impl Fn(TopicId) -> MetadataRecord,
) -> Decision<Vec<Result<(TopicId, String), Refusal>>> {
    let mut records = Vec::new();
    let mut deleted = BTreeSet::new();
    let result = requests
        .iter()
        .map(|request| {
            let topic = deletable(image, settings, request)?;
            if !deleted.insert(topic.id) {
                return Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "The topic is named twice.",
                ));
            }
            records.push(record(topic.id));
            Ok((topic.id, topic.name.to_string()))
        })
        .collect();
    Decision { records, result }
}

fn deletable<'a>(
    image: &'a Image,
    settings: &BrokerSettings,
    request: &TopicName,
) -> Result<&'a Topic, Refusal> {
    if !settings.delete_topic_enable {
        return Err(Refusal::new(
            ErrorCode::TopicDeletionDisabled,
            "Topic deletion is disabled: delete.topic.enable is false.",
        ));
    }
    let found = match request {
        TopicName::Name(name) => image.topic(name).ok_or_else(|| unknown_topic(name)),
        TopicName::Id(id) => image.topic_by_id(*id).ok_or_else(|| {
            Refusal::new(
                ErrorCode::UnknownTopicId,
                format!("This server does not host topic ID {id}."),
            )
        }),
    };
    found.map(|topic| &**topic)
}

pub(super) fn unknown_topic(name: &str) -> Refusal {
    Refusal::new(
        ErrorCode::UnknownTopicOrPartition,
        format!("The topic '{name}' does not exist."),
    )
}
