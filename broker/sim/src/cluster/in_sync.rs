//! The end of a history: every replica is in sync, as each broker sees it.

use std::time::Duration;

use tidemark_client::{ClientError, Cluster, Lane, Node};
use tidemark_env::clock;
use tidemark_wire::messages::metadata_response::MetadataResponsePartition;
use tidemark_wire::messages::{MetadataRequest, MetadataResponse};

use super::load::{PAUSE, Shared};

/// The last version for which all topics are asked for in the same way.
const VERSION: i16 = 12;

/// Waits until each of `brokers` runs, and says itself that no partition lacks a leader or a
/// replica in sync. What was committed is on every disk then.
pub(super) async fn wait(shared: Shared, brokers: i32) {
    for broker in 0..brokers {
        let mut cluster = shared.cluster().await;
        shared.wait_for(&format!("broker {broker}"));
        loop {
            match ask(&cluster, broker).await {
                Ok(response) => match missing(&response) {
                    None => break,
                    Some(missing) => shared.wait_for(&format!("{missing}, says broker {broker}")),
                },
                Err(_) => cluster = shared.cluster().await,
            }
            clock::sleep(PAUSE).await;
        }
    }
}

async fn ask(cluster: &Cluster, broker: i32) -> Result<MetadataResponse, ClientError> {
    let all = MetadataRequest {
        topics: None,
        ..MetadataRequest::default()
    };
    let connection = cluster.connection(Node::Id(broker), Lane::Admin).await?;
    connection
        .send_at(&all, VERSION, Duration::from_secs(5))
        .await
}

/// The first partition that lacks a leader or a replica in sync.
fn missing(response: &MetadataResponse) -> Option<String> {
    if response.topics.is_empty() {
        return Some("topics".to_owned());
    }
    response.topics.iter().find_map(|topic| {
        let whole = |partition: &&MetadataResponsePartition| {
            partition.leader_id >= 0 && partition.isr_nodes.len() == partition.replica_nodes.len()
        };
        let partition = topic.partitions.iter().find(|p| !whole(p))?;
        Some(format!(
            "{}-{}: leader {}, in sync {:?} of {:?}",
            topic.name.as_deref().unwrap_or_default(),
            partition.partition_index,
            partition.leader_id,
            partition.isr_nodes,
            partition.replica_nodes
        ))
    })
}
