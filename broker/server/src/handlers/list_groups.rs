//! ListGroups: the groups that this broker coordinates.

use super::prelude::*;
use tidemark_coordinator as request;
use tidemark_wire::messages::list_groups_response::ListedGroup;
use tidemark_wire::messages::{ListGroupsRequest, ListGroupsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    asked: ListGroupsRequest,
) -> ListGroupsResponse {
    let filter = request::ListGroups {
        states_filter: asked.states_filter,
        types_filter: asked.types_filter,
    };
    let listed = broker.groups.list(broker, filter).await;
    let groups = listed.groups.into_iter().map(|group| ListedGroup {
        group_id: group.group_id,
        protocol_type: group.protocol_type,
        group_state: group.state.to_string(),
        group_type: group.group_type.to_string(),
        ..Default::default()
    });
    ListGroupsResponse {
        error_code: listed.error.code(),
        groups: groups.collect(),
        ..Default::default()
    }
}
