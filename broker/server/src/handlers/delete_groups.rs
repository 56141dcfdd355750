//! DeleteGroups: remove empty groups and their offsets.

use super::prelude::*;
use tidemark_coordinator as request;
use tidemark_wire::messages::delete_groups_response::DeletableGroupResult;
use tidemark_wire::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    asked: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(asked.groups_names.len());
    for group_id in asked.groups_names {
        let request = Request::DeleteGroups(request::DeleteGroups {
            group_ids: vec![group_id],
        });
        let Response::DeleteGroups(deleted) = broker.groups.ask(broker, request).await else {
            continue;
        };
        results.extend(
            deleted
                .into_iter()
                .map(|(group_id, error)| DeletableGroupResult {
                    group_id,
                    error_code: error.code(),
                    ..Default::default()
                }),
        );
    }
    DeleteGroupsResponse {
        results,
        ..Default::default()
    }
}
