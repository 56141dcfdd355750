//! Changing settings of topics, brokers and groups.

use std::collections::BTreeSet;

use tidemark_config::alter::{self, Change, Target};
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigError, ConfigMap, TopicSettings};
use tidemark_model::{BrokerId, ConfigResource, Image, MetadataRecord, Partition};
use tidemark_wire::ErrorCode;

use super::removal::cordon_broker;
use super::topics::unknown_topic;
use super::{Context, Decision, Refusal};

/// Settings by name, as AlterConfigs carries them; a `None` value is refused.
pub type ConfigValues = Vec<(String, Option<String>)>;

/// A resource as requests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceName {
    /// A topic by name.
    Topic(String),
    /// One broker.
    Broker(BrokerId),
    /// All brokers: the broker resource with the empty name.
    AllBrokers,
    /// A group by id.
    Group(String),
}

impl ResourceName {
    fn target(&self) -> Target {
        match self {
            Self::Topic(_) => Target::Topic,
            Self::Broker(_) => Target::Broker,
            Self::AllBrokers => Target::AllBrokers,
            Self::Group(_) => Target::Group,
        }
    }
}

/// Reads a resource's type and name as the config requests carry them.
pub fn parse_resource(resource_type: i8, name: &str) -> Result<ResourceName, Refusal> {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    const GROUP: i8 = 32;
    match resource_type {
        TOPIC => Ok(ResourceName::Topic(name.to_owned())),
        BROKER if name.is_empty() => Ok(ResourceName::AllBrokers),
        BROKER => name.parse().map(ResourceName::Broker).map_err(|_| {
            Refusal::new(
                ErrorCode::InvalidRequest,
                format!("Node id must be an integer, but it is: {name}"),
            )
        }),
        GROUP if name.is_empty() => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            "Default group resources are not allowed.",
        )),
        GROUP => Ok(ResourceName::Group(name.to_owned())),
        other => Err(Refusal::new(
            ErrorCode::InvalidRequest,
            format!("Config resources of type {other} are not served."),
        )),
    }
}

/// Finds a resource and its own settings; unknown topics and brokers are refused.
pub fn resource_configs<'a>(
    image: &'a Image,
    name: &ResourceName,
) -> Result<(ConfigResource, &'a ConfigMap), Refusal> {
    let resource = match name {
        ResourceName::Topic(topic) => {
            let topic = image.topic(topic).ok_or_else(|| unknown_topic(topic))?;
            ConfigResource::Topic(topic.id)
        }
        ResourceName::Broker(id) => {
            if image.broker(*id).is_none() {
                return Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    format!("No broker with id {id} is registered."),
                ));
            }
            ConfigResource::Broker(*id)
        }
        ResourceName::AllBrokers => ConfigResource::AllBrokers,
        ResourceName::Group(group) => ConfigResource::Group(group.clone()),
    };
    let configs = image.configs(&resource);
    Ok((resource, configs))
}

/// Decides IncrementalAlterConfigs (KIP-339); each resource whole or not at all.
pub fn incremental_alter_configs(
    image: &Image,
    context: Context<'_>,
    requests: &[(ResourceName, Vec<Change>)],
    validate_only: bool,
) -> Decision<Vec<Result<(), Refusal>>> {
    alter_each(
        image,
        context,
        requests,
        validate_only,
        |target, before, changes| alter::apply(target, before, changes),
    )
}

/// Decides AlterConfigs: the settings given replace all that a resource has.
pub fn alter_configs(
    image: &Image,
    context: Context<'_>,
    requests: &[(ResourceName, ConfigValues)],
    validate_only: bool,
) -> Decision<Vec<Result<(), Refusal>>> {
    alter_each(
        image,
        context,
        requests,
        validate_only,
        |target, _, values| alter::replace(target, values),
    )
}

fn alter_each<C>(
    image: &Image,
    context: Context<'_>,
    requests: &[(ResourceName, C)],
    validate_only: bool,
    change: impl Fn(Target, &ConfigMap, &C) -> Result<ConfigMap, ConfigError>,
) -> Decision<Vec<Result<(), Refusal>>> {
    let mut working = image.clone();
    let mut records = Vec::new();
    let mut result = Vec::with_capacity(requests.len());
    for (at, (name, changes)) in requests.iter().enumerate() {
        let twice = requests
            .iter()
            .enumerate()
            .any(|(other_at, (other, _))| other_at != at && other == name);
        let decided = if twice {
            Err(Refusal::new(
                ErrorCode::InvalidRequest,
                "Each resource must appear at most once.",
            ))
        } else {
            alter_one(&working, context, name, |before| {
                change(name.target(), before, changes)
            })
        };
        result.push(decided.and_then(|mut new| {
            // ELR changes of an earlier resource may meet those of a later one: each is
            // decided on the image that the ones before it make.
            working = working.apply(&new).map_err(|rejected| {
                Refusal::new(ErrorCode::UnknownServerError, rejected.to_string())
            })?;
            records.append(&mut new);
            Ok(())
        }));
    }
    if validate_only {
        records.clear();
    }
    Decision { records, result }
}

fn alter_one(
    image: &Image,
    context: Context<'_>,
    name: &ResourceName,
    change: impl Fn(&ConfigMap) -> Result<ConfigMap, ConfigError>,
) -> Result<Vec<MetadataRecord>, Refusal> {
    let invalid = |error: ConfigError| Refusal::new(ErrorCode::InvalidConfig, error.to_string());
    let (resource, before) = resource_configs(image, name)?;
    let after = change(before).map_err(invalid)?;
    let layers = context.layers(image);
    match &resource {
        ConfigResource::Topic(_) => {
            let settings = TopicSettings::resolve(&after, layers).map_err(invalid)?;
            // Where nothing can be said of the old settings, nothing is in the bucket either.
            let before = TopicSettings::resolve(before, layers).ok();
            let before = before.filter(|before| before.remote_storage_enable);
            if let Some(before) = &before
                && before.cleanup_compact != settings.cleanup_compact
            {
                return Err(invalid(ConfigError::Conflict(
                    "cleanup.policy of a tiered topic cannot change between compact and delete: \
                     what is in the bucket is of the other kind, and would be lost to readers. \
                     Create another topic and copy the records"
                        .to_owned(),
                )));
            }
            let tiered = before.is_some();
            if tiered && !settings.remote_storage_enable {
                return Err(invalid(ConfigError::Conflict(
                    "remote.storage.enable cannot be turned off again: records that are only in \
                     the bucket would be lost to readers. Raise local.retention.ms and \
                     local.retention.bytes to keep new records on local disks"
                        .to_owned(),
                )));
            }
        }
        ConfigResource::Broker(id) if *id == context.broker_id => {
            check_broker(BrokerLayers {
                dynamic: &after,
                ..layers
            })
            .map_err(invalid)?;
        }
        ConfigResource::AllBrokers => {
            check_broker(BrokerLayers {
                dynamic_default: &after,
                ..layers
            })
            .map_err(invalid)?;
        }
        ConfigResource::Broker(_) | ConfigResource::Group(_) => {}
    }
    let changed = alter::difference(before, &after);
    let min_isr_changed = changed
        .iter()
        .any(|(name, _)| name == "min.insync.replicas");
    let mut records: Vec<MetadataRecord> = changed
        .into_iter()
        .map(|(name, value)| MetadataRecord::ConfigChanged {
            resource: resource.clone(),
            name,
            value,
        })
        .collect();
    if min_isr_changed {
        records.append(&mut clear_elr(image, &resource));
    }
    if let ConfigResource::Broker(id) = resource
        && before.get(CORDONED_DIRS) != after.get(CORDONED_DIRS)
    {
        let cordoned = after
            .get(CORDONED_DIRS)
            .is_some_and(|dirs| covers_all(image, id, dirs));
        records.append(&mut cordon_broker(image, id, cordoned).records);
    }
    Ok(records)
}

/// The directories of a broker that get no new replicas (KIP-1066).
const CORDONED_DIRS: &str = "cordoned.log.dirs";

/// Whether these are all directories of a broker: `*`, or as many as it has.
fn covers_all(image: &Image, broker_id: BrokerId, dirs: &str) -> bool {
    let listed: BTreeSet<&str> = dirs
        .split(',')
        .map(str::trim)
        .filter(|d| !d.is_empty())
        .collect();
    let has = image
        .broker(broker_id)
        .map_or(0, |broker| broker.directories.len());
    listed.contains("*") || (has > 0 && listed.len() >= has)
}

fn check_broker(layers: BrokerLayers<'_>) -> Result<(), ConfigError> {
    BrokerSettings::resolve(layers)?;
    TopicSettings::resolve(&ConfigMap::new(), layers)?;
    Ok(())
}

/// Who is eligible was judged by the old min.insync.replicas: nobody is, in the same batch.
///
/// Where nobody is in sync, nothing was acknowledged since: those that are eligible are
/// the only ones that hold everything, and stay it until one of them leads.
fn clear_elr(image: &Image, resource: &ConfigResource) -> Vec<MetadataRecord> {
    let concerned = |topic_id| match resource {
        ConfigResource::Topic(id) => *id == topic_id,
        ConfigResource::Broker(_) | ConfigResource::AllBrokers => true,
        ConfigResource::Group(_) => false,
    };
    image
        .unsettled_partitions()
        .filter(|(at, state)| {
            concerned(at.topic_id) && !state.elr.is_empty() && !state.isr.is_empty()
        })
        .map(|(at, state)| {
            let after = Partition {
                elr: Vec::new(),
                last_known_elr: Vec::new(),
                ..(**state).clone()
            };
            MetadataRecord::partition_change(at, state, after, |_| None)
        })
        .collect()
}
