//! Settings of topics, brokers and groups: read and changed.

use std::collections::BTreeMap;

use tidemark_wire::ErrorCode;
use tidemark_wire::messages::describe_configs_request::DescribeConfigsResource;
use tidemark_wire::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use tidemark_wire::messages::{DescribeConfigsRequest, IncrementalAlterConfigsRequest};

use crate::cluster::{Cluster, Node};
use crate::error::ClientError;

/// Settings that are asked for at once, in one request: an answer about more would be large.
const MOST_RESOURCES: usize = 500;

/// What has settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic by name.
    Topic(String),
    /// One broker by id.
    Broker(i32),
    /// The defaults that all brokers share.
    BrokerDefault,
    /// A group by id.
    Group(String),
}

impl ConfigResource {
    fn kind(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) | Self::BrokerDefault => 4,
            Self::Group(_) => 32,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Topic(name) | Self::Group(name) => name.clone(),
            Self::Broker(id) => id.to_string(),
            Self::BrokerDefault => String::new(),
        }
    }

    /// A broker's settings are its own to tell; the rest any broker knows.
    fn node(&self) -> Node {
        match self {
            Self::Broker(id) => Node::Id(*id),
            _ => Node::Any,
        }
    }
}

impl std::fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Broker(id) => write!(f, "broker {id}"),
            Self::BrokerDefault => f.write_str("all brokers"),
            Self::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic,
    /// Set on this broker while it ran.
    Broker,
    /// Set for all brokers while they ran.
    BrokerDefault,
    /// In the broker's configuration file.
    File,
    /// Nobody set it.
    Default,
    /// Set on the group, or another source that came later.
    Other(i8),
}

impl ConfigSource {
    fn from_wire(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::Broker,
            3 => Self::BrokerDefault,
            4 => Self::File,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }

    /// A word for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Broker => "broker",
            Self::BrokerDefault => "all brokers",
            Self::File => "file",
            Self::Default => "default",
            Self::Other(8) => "group",
            Self::Other(_) => "other",
        }
    }
}

/// One setting.
#[derive(Debug, Clone)]
pub struct ConfigEntry {
    /// Its name.
    pub name: String,
    /// Its value; `None` when null or secret.
    pub value: Option<String>,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Cannot be changed while running.
    pub read_only: bool,
    /// A secret.
    pub sensitive: bool,
    /// What the broker says about it, if asked and if it knows.
    pub documentation: Option<String>,
}

/// What to do with a setting (KIP-339).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigOp {
    /// Give it a value.
    Set = 0,
    /// Back to its default.
    Delete = 1,
    /// Add to a list.
    Append = 2,
    /// Take from a list.
    Subtract = 3,
}

/// A change of one setting.
#[derive(Debug, Clone)]
pub struct ConfigChange {
    /// Its name.
    pub name: String,
    /// What to do.
    pub op: ConfigOp,
    /// The value; `None` for [`ConfigOp::Delete`].
    pub value: Option<String>,
}

/// Whether what was asked about does not exist.
fn is_gone(error: &ClientError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::GroupIdNotFound)
    )
}

impl Cluster {
    /// All settings of something, sorted by name.
    ///
    /// # Errors
    /// The broker's, such as UNKNOWN_TOPIC_OR_PARTITION.
    pub async fn describe_configs(
        &self,
        resource: &ConfigResource,
    ) -> Result<Vec<ConfigEntry>, ClientError> {
        let mut found = self
            .describe_configs_at(resource.node(), std::slice::from_ref(resource), None)
            .await?;
        found.remove(resource).unwrap_or_else(|| {
            Err(ClientError::Server {
                what: format!("settings of {resource}"),
                code: ErrorCode::UnknownServerError,
                message: Some("the answer is empty".to_owned()),
            })
        })
    }

    /// Settings of many topics or groups, in as few requests as that takes; of each those named in
    /// `keys`, or all. What is not there (any more) is left out.
    ///
    /// # Errors
    /// The broker's.
    pub async fn describe_configs_of(
        &self,
        resources: &[ConfigResource],
        keys: Option<&[String]>,
    ) -> Result<BTreeMap<ConfigResource, Vec<ConfigEntry>>, ClientError> {
        let mut all = BTreeMap::new();
        for some in resources.chunks(MOST_RESOURCES) {
            let found = self.describe_configs_at(Node::Any, some, keys).await?;
            for (resource, entries) in found {
                match entries {
                    Ok(entries) => {
                        all.insert(resource, entries);
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(all)
    }

    async fn describe_configs_at(
        &self,
        node: Node,
        resources: &[ConfigResource],
        keys: Option<&[String]>,
    ) -> Result<BTreeMap<ConfigResource, Result<Vec<ConfigEntry>, ClientError>>, ClientError> {
        let response = self
            .ask(node, i16::MAX, |version| DescribeConfigsRequest {
                resources: resources
                    .iter()
                    .map(|resource| DescribeConfigsResource {
                        resource_type: resource.kind(),
                        resource_name: resource.name(),
                        configuration_keys: keys.map(<[String]>::to_vec),
                        ..DescribeConfigsResource::default()
                    })
                    .collect(),
                include_documentation: version >= 3 && keys.is_none(),
                ..DescribeConfigsRequest::default()
            })
            .await?;
        let asked: BTreeMap<(i8, String), &ConfigResource> = resources
            .iter()
            .map(|one| ((one.kind(), one.name()), one))
            .collect();
        let mut all = BTreeMap::new();
        for result in response.results {
            let Some(resource) = asked.get(&(result.resource_type, result.resource_name)) else {
                continue;
            };
            let checked =
                ClientError::check(result.error_code, result.error_message.as_deref(), || {
                    format!("settings of {resource}")
                });
            let entries = checked.map(|()| {
                let entries = result.configs.into_iter().map(|config| ConfigEntry {
                    name: config.name,
                    value: config.value,
                    source: ConfigSource::from_wire(config.config_source),
                    read_only: config.read_only,
                    sensitive: config.is_sensitive,
                    documentation: config.documentation,
                });
                let mut entries: Vec<ConfigEntry> = entries.collect();
                entries.sort_by(|a, b| a.name.cmp(&b.name));
                entries
            });
            all.insert((*resource).clone(), entries);
        }
        Ok(all)
    }

    /// Changes settings, all or none; with `validate_only` only says whether it could be done.
    ///
    /// # Errors
    /// The broker's, such as INVALID_CONFIG with the reason.
    pub async fn alter_configs(
        &self,
        resource: &ConfigResource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        self.alter_configs_at(resource.node(), resource, changes, validate_only)
            .await
    }

    pub(super) async fn alter_configs_at(
        &self,
        node: Node,
        resource: &ConfigResource,
        changes: &[ConfigChange],
        validate_only: bool,
    ) -> Result<(), ClientError> {
        let response = self
            .ask(node, i16::MAX, |_| IncrementalAlterConfigsRequest {
                resources: vec![AlterConfigsResource {
                    resource_type: resource.kind(),
                    resource_name: resource.name(),
                    configs: changes
                        .iter()
                        .map(|change| AlterableConfig {
                            name: change.name.clone(),
                            config_operation: change.op as i8,
                            value: change.value.clone(),
                            ..AlterableConfig::default()
                        })
                        .collect(),
                    ..AlterConfigsResource::default()
                }],
                validate_only,
                ..IncrementalAlterConfigsRequest::default()
            })
            .await?;
        for result in response.responses {
            ClientError::check(result.error_code, result.error_message.as_deref(), || {
                format!("changing settings of {resource}")
            })?;
        }
        Ok(())
    }
}
