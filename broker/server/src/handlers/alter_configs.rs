//! AlterConfigs: replaces all settings of a resource.

use super::prelude::*;
use super::{changed, from_each, to_each};
use tidemark_quorum::decide;
use tidemark_wire::messages::alter_configs_request::AlterConfigsResource;
use tidemark_wire::messages::alter_configs_response::AlterConfigsResourceResponse;
use tidemark_wire::messages::{AlterConfigsRequest, AlterConfigsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let names: Vec<(i8, String)> = request
        .resources
        .iter()
        .map(|r| (r.resource_type, r.resource_name.clone()))
        .collect();
    let read = |resource: AlterConfigsResource| {
        let name = decide::parse_resource(resource.resource_type, &resource.resource_name)?;
        let values: Vec<(String, Option<String>)> = resource
            .configs
            .into_iter()
            .map(|c| (c.name, c.value))
            .collect();
        Ok((name, values))
    };
    let (slots, resources) = to_each(request.resources.into_iter().map(read));
    let (count, validate_only) = (resources.len(), request.validate_only);
    let decided = broker.change(move |image, context, _| {
        decide::alter_configs(image, context, &resources, validate_only)
    });
    let results = from_each(slots, changed(decided.await, count));
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
    AlterConfigsResponse {
        responses: responses.collect(),
        ..Default::default()
    }
}
