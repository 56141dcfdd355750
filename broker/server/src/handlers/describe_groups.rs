//! DescribeGroups: state, protocol and members of groups.

use super::prelude::*;
use tidemark_coordinator as request;
use tidemark_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use tidemark_wire::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    asked: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let operations = if asked.include_authorized_operations {
        operations::OF_GROUP
    } else {
        operations::NOT_ASKED
    };
    let mut groups = Vec::with_capacity(asked.groups.len());
    for group_id in asked.groups {
        let request = Request::DescribeGroups(request::DescribeGroups {
            api_version: context.version,
            group_ids: vec![group_id],
        });
        let Response::DescribeGroups(described) = broker.groups.ask(broker, request).await else {
            continue;
        };
        groups.extend(described.into_iter().map(|group| {
            DescribedGroup {
                error_code: group.error.code(),
                error_message: group.error_message,
                group_id: group.group_id,
                group_state: group.state.to_string(),
                protocol_type: group.protocol_type,
                protocol_data: group.protocol,
                members: group
                    .members
                    .into_iter()
                    .map(|member| DescribedGroupMember {
                        member_id: member.member_id,
                        group_instance_id: member.group_instance_id,
                        client_id: member.client_id,
                        client_host: member.client_host,
                        member_metadata: member.metadata,
                        member_assignment: member.assignment,
                        ..Default::default()
                    })
                    .collect(),
                authorized_operations: operations,
                ..Default::default()
            }
        }));
    }
    DescribeGroupsResponse {
        groups,
        ..Default::default()
    }
}
