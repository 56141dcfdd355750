//! DescribeQuorum (KIP-595): who keeps the metadata, and how far each has it.

use std::collections::BTreeSet;

use super::prelude::*;
use tidemark_quorum::Metadata;
use tidemark_quorum::raft::VoterId;
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
    let replica = |member: VoterId| ReplicaState {
        replica_id: member.node_id,
        replica_directory_id: match tell {
            true => member.directory_id,
            false => Uuid::ZERO,
        },
        log_end_offset: quorum
            .and_then(|quorum| quorum.matched(member))
            .map_or(-1, |last| end(last.saturating_add(1))),
        ..Default::default()
    };
    let voters: BTreeSet<VoterId> = membership.voter_ids().collect();
    // Those that were voters; brokers that pull are not counted.
    let observers = membership.nodes().map(|(member, _)| *member);
    let observers = observers.filter(|member| !voters.contains(member));
    let observers: Vec<ReplicaState> = observers.map(replica).collect();
    let voters: Vec<ReplicaState> = voters.into_iter().map(replica).collect();
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
                    observers: observers.clone(),
                    ..Default::default()
                }
            })
            .collect(),
        topic_name: topic.topic_name,
        ..Default::default()
    });
    let nodes = membership.nodes().map(|(voter, node)| {
        // A quorum of one may listen nowhere.
        let listener = node.address.rsplit_once(':').and_then(|(host, port)| {
            Some(Listener {
                name: "CONTROLLER".to_owned(),
                host: host.trim_matches(['[', ']']).to_owned(),
                port: port.parse().ok()?,
                ..Default::default()
            })
        });
        Node {
            node_id: voter.node_id,
            listeners: listener.into_iter().collect(),
            ..Default::default()
        }
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
