//! DescribeQuorum (KIP-595): who keeps the metadata, and how far each has it.

use super::prelude::*;
use tidemark_quorum::Metadata;
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
    // Directories and nodes are told from version 2 on (KIP-853).
    let tell = context.version >= 2;
    let watched = broker.controller.watch();
    let fold = watched.borrow().clone();
    let membership = fold.membership.membership().clone();
    let quorum = match &*broker.controller {
        Metadata::Voter(quorum) => Some(quorum),
        _ => None,
    };
    let voters: Vec<ReplicaState> = membership
        .voter_ids()
        .map(|voter| ReplicaState {
            replica_id: voter.node_id,
            replica_directory_id: match tell {
                true => voter.directory_id,
                false => Uuid::ZERO,
            },
            log_end_offset: quorum
                .and_then(|quorum| quorum.matched(voter))
                .map_or(-1, |last| end(last.saturating_add(1))),
            ..Default::default()
        })
        .collect();
    let term = quorum.map(|quorum| quorum.status().term);
    let term = term.or(fold.applied.map(|applied| applied.leader_id.term));
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
                    leader_id: broker.controller.controller_id().unwrap_or(-1),
                    leader_epoch: i32::try_from(term.unwrap_or(0)).unwrap_or(i32::MAX),
                    high_watermark: end(fold.next_index()),
                    current_voters: voters.clone(),
                    ..Default::default()
                }
            })
            .collect(),
        topic_name: topic.topic_name,
        ..Default::default()
    });
    let nodes = membership.nodes().filter_map(|(voter, node)| {
        let (host, port) = node.address.rsplit_once(':')?;
        Some(Node {
            node_id: voter.node_id,
            listeners: vec![Listener {
                name: "CONTROLLER".to_owned(),
                host: host.trim_matches(['[', ']']).to_owned(),
                port: port.parse().ok()?,
                ..Default::default()
            }],
            ..Default::default()
        })
    });
    DescribeQuorumResponse {
        topics: topics.collect(),
        nodes: match tell {
            true => nodes.collect(),
            false => Vec::new(),
        },
        ..Default::default()
    }
}

fn end(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
