//! IncrementalAlterConfigs (KIP-339): set, delete, append to and subtract from single settings.

use super::prelude::*;
use super::{changed, to_each};
use tidemark_config::{Change, Operation};
use tidemark_quorum::decide;
use tidemark_wire::messages::incremental_alter_configs_request::AlterConfigsResource;
use tidemark_wire::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use tidemark_wire::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let names: Vec<(i8, String)> = request
        .resources
        .iter()
        .map(|r| (r.resource_type, r.resource_name.clone()))
        .collect();
    let read = |resource: AlterConfigsResource| {
        let name = decide::parse_resource(resource.resource_type, &resource.resource_name)?;
        let change = |config: tidemark_wire::messages::incremental_alter_configs_request::AlterableConfig| {
            let operation = Operation::from_code(config.config_operation).ok_or_else(|| {
                decide::Refusal {
                    code: ErrorCode::InvalidRequest,
                    message: format!("unknown operation {} on {}", config.config_operation, config.name),
                }
            })?;
            Ok(Change { name: config.name, operation, value: config.value })
        };
        let changes: Result<Vec<Change>, decide::Refusal> =
            resource.configs.into_iter().map(change).collect();
        Ok((name, changes?))
    };
    let (slots, resources) = to_each(request.resources.into_iter().map(read));
    let (count, validate_only) = (resources.len(), request.validate_only);
    let decided = broker.change(move |image, context, _| {
        decide::incremental_alter_configs(image, context, &resources, validate_only)
    });
    let results = super::from_each(slots, changed(decided.await, count));
    let responses =
        names
            .into_iter()
            .zip(results)
            .map(|((resource_type, resource_name), result)| {
                let (error, message) = result.err().unzip();
                AlterConfigsResourceResponse {
                    error_code: error.unwrap_or_default().code(),
                    error_message: message,
                    resource_type,
                    resource_name,
                    ..Default::default()
                }
            });
    IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}
