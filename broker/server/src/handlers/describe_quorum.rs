//! DescribeQuorum (KIP-595): who keeps the metadata, and how far each has it.

use super::prelude::*;
use tidemark_wire::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use tidemark_wire::messages::{DescribeQuorumRequest, DescribeQuorumResponse};

/// Kafka's name for the log of the metadata.
const METADATA_TOPIC: &str = "__cluster_metadata";

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let image = broker.image();
    // Directories and nodes are told from version 2 on (KIP-853).
    let registered = image.broker(broker.id).filter(|_| context.version >= 2);
    // One broker keeps the metadata alone: what it has published is what is durable.
    let voter = ReplicaState {
        replica_id: broker.id,
        replica_directory_id: registered
            .and_then(|own| own.directories.first().copied())
            .unwrap_or_default(),
        log_end_offset: i64::try_from(image.index()).unwrap_or(i64::MAX),
        ..Default::default()
    };
    let topics = request.topics.into_iter().map(|topic| TopicData {
        partitions: topic
            .partitions
            .into_iter()
            .map(|asked| {
                if topic.topic_name != METADATA_TOPIC || asked.partition_index != 0 {
                    return PartitionData {
                        partition_index: asked.partition_index,
                        error_code: ErrorCode::UnknownTopicOrPartition.code(),
                        error_message: Some(format!(
                            "only {METADATA_TOPIC}, partition 0, is kept by a quorum"
                        )),
                        ..Default::default()
                    };
                }
                PartitionData {
                    partition_index: 0,
                    leader_id: broker.id,
                    // It has led since the cluster began.
                    leader_epoch: 1,
                    high_watermark: voter.log_end_offset,
                    current_voters: vec![voter.clone()],
                    ..Default::default()
                }
            })
            .collect(),
        topic_name: topic.topic_name,
        ..Default::default()
    });
    let nodes = registered.map(|own| Node {
        node_id: own.id,
        listeners: own
            .endpoints
            .iter()
            .map(|endpoint| Listener {
                name: endpoint.name.clone(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    DescribeQuorumResponse {
        topics: topics.collect(),
        nodes: nodes.into_iter().collect(),
        ..Default::default()
    }
}
