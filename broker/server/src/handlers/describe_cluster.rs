//! DescribeCluster (KIP-700): brokers and controller, without topics.

use super::prelude::*;
use tidemark_wire::messages::describe_cluster_response::DescribeClusterBroker;
use tidemark_wire::messages::{DescribeClusterRequest, DescribeClusterResponse};

const ENDPOINT_BROKERS: i8 = 1;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if request.endpoint_type != ENDPOINT_BROKERS {
        return DescribeClusterResponse {
            error_code: ErrorCode::MismatchedEndpointType.code(),
            error_message: Some(
                "this is a broker's listener: ask it for brokers (endpoint type 1)".into(),
            ),
            endpoint_type: ENDPOINT_BROKERS,
            ..Default::default()
        };
    }
    let image = broker.image();
    // Fenced brokers only for those who ask (KIP-1073).
    let told = |fenced: bool| !fenced || request.include_fenced_brokers;
    let brokers = image.brokers().filter(|broker| told(broker.fenced));
    let brokers = brokers.filter_map(|broker| {
        let endpoint = broker.endpoint(&context.listener)?;
        Some(DescribeClusterBroker {
            broker_id: broker.id,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: broker.rack.clone(),
            is_fenced: broker.fenced,
            ..Default::default()
        })
    });
    DescribeClusterResponse {
        cluster_id: image
            .cluster_id()
            .map(|id| id.to_string())
            .unwrap_or_default(),
        controller_id: broker.controller_id(),
        brokers: brokers.collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            operations::OF_CLUSTER
        } else {
            operations::NOT_ASKED
        },
        ..Default::default()
    }
}
