//! DescribeConfigs: every setting with its value, where that comes from, and what it falls back to.

use super::prelude::*;
use tidemark_config::{Described, describe_broker, describe_group, describe_topic};
use tidemark_model::{ConfigResource, Image};
use tidemark_quorum::decide::{self, Refusal, ResourceName};
use tidemark_wire::messages::describe_configs_request::DescribeConfigsResource;
use tidemark_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use tidemark_wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = broker.image();
    let results = request.resources.into_iter().map(|resource| {
        let result = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        };
        match describe(broker, &image, &resource) {
            Ok(described) => {
                let wanted = |config: &Described| match &resource.configuration_keys {
                    Some(keys) if !keys.is_empty() => keys.iter().any(|key| key == config.name),
                    _ => true,
                };
                let configs = described.into_iter().filter(wanted).map(|config| {
                    of_config(
                        config,
                        request.include_synonyms,
                        request.include_documentation,
                    )
                });
                DescribeConfigsResult {
                    configs: configs.collect(),
                    ..result
                }
            }
            Err(refusal) => DescribeConfigsResult {
                error_code: refusal.code.code(),
                error_message: Some(refusal.message),
                ..result
            },
        }
    });
    DescribeConfigsResponse {
        results: results.collect(),
        ..Default::default()
    }
}

fn describe(
    broker: &Broker,
    image: &Image,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Described>, Refusal> {
    let name = decide::parse_resource(resource.resource_type, &resource.resource_name)?;
    let layers = broker.partitions.layers(image);
    if let ResourceName::Broker(id) = name
        && id != broker.id
    {
        return Err(Refusal {
            code: ErrorCode::InvalidRequest,
            message: format!(
                "Unexpected broker id, expected {} but received {id}: ask broker {id} itself",
                broker.id
            ),
        });
    }
    let (resource, own) = decide::resource_configs(image, &name)?;
    Ok(match resource {
        ConfigResource::Topic(_) => describe_topic(own, layers),
        ConfigResource::Group(_) => describe_group(own, layers),
        ConfigResource::Broker(_) => describe_broker(layers),
        // Only what is set for all brokers: there is no broker whose file could be shown.
        ConfigResource::AllBrokers => describe_broker(layers)
            .into_iter()
            .filter(|config| own.contains_key(config.name))
            .collect(),
    })
}

fn of_config(
    config: Described,
    synonyms: bool,
    documentation: bool,
) -> DescribeConfigsResourceResult {
    let of_synonym = |synonym: tidemark_config::Synonym| DescribeConfigsSynonym {
        name: synonym.name.to_string(),
        value: synonym.value,
        source: synonym.source.code(),
        ..Default::default()
    };
    DescribeConfigsResourceResult {
        name: config.name.to_string(),
        value: config.value,
        read_only: config.read_only,
        config_source: config.source.code(),
        is_sensitive: config.sensitive,
        synonyms: if synonyms {
            config.synonyms.into_iter().map(of_synonym).collect()
        } else {
            Vec::new()
        },
        config_type: config.value_type.code(),
        documentation: documentation.then_some(config.documentation),
        ..Default::default()
    }
}
