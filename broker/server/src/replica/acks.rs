//! Telling a leader at once what is durable here, on a connection of its own: a fetch may be
//! parked on the other one.

use super::fetcher::Fetcher;
use super::lock;
use crate::broker::Broker;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::{ClientError, Connection};
use tidemark_env::clock;
use tidemark_model::TopicPartition;
use tidemark_replication::DurableReport;
use tidemark_wire::messages::DurableAckRequest;
use tidemark_wire::messages::durable_ack_request::{DurablePartition, DurableTopic};

const VERSION: i16 = 0;
/// After a failure: the next fetch tells the same.
const RETRY: Duration = Duration::from_millis(100);

/// Sends what there is to send, for ever: what comes together meanwhile goes together.
pub(super) async fn run(fetcher: &Arc<Fetcher>, broker: &Arc<Broker>) {
    let mut connection = None;
    fetcher.acks_due.settle();
    loop {
        fetcher.acks_due.changed().await;
        drop(fetcher.acks_due.take());
        let (reports, wants_to_fetch) = {
            let mut acks = lock(&fetcher.acks);
            let wants = std::mem::take(&mut acks.wants_to_fetch);
            (std::mem::take(&mut acks.reports), wants)
        };
        if reports.is_empty() && !wants_to_fetch {
            continue;
        }
        let request = DurableAckRequest {
            broker_id: broker.id,
            broker_epoch: broker.epoch,
            wants_to_fetch,
            topics: topics(reports),
            ..Default::default()
        };
        let sent = send(fetcher, broker, &mut connection, &request);
        match fetcher.unless_deserted(sent).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::debug!(leader = fetcher.leader, %error, "the leader was not told what is durable");
                connection = None;
                clock::sleep(RETRY).await;
            }
            None => connection = None,
        }
    }
}

async fn send(
    fetcher: &Fetcher,
    broker: &Broker,
    connection: &mut Option<Connection>,
    request: &DurableAckRequest,
) -> Result<(), ClientError> {
    let timeout = fetcher.timeout(broker);
    let open = match connection {
        Some(open) if !open.is_closed() => open,
        _ => {
            let opened = fetcher.connect(broker, "acks").await?;
            connection.insert(opened)
        }
    };
    let answer = open.send_at(request, VERSION, timeout).await?;
    ClientError::check(answer.error_code, None, || "DurableAck".to_owned())
}

fn topics(reports: BTreeMap<TopicPartition, DurableReport>) -> Vec<DurableTopic> {
    let mut topics: Vec<DurableTopic> = Vec::new();
    for (at, report) in reports {
        let partition = DurablePartition {
            partition: at.partition,
            leader_epoch: report.leader_epoch,
            generation: report.generation,
            durable_end: report.durable_end,
            ..Default::default()
        };
        match topics
            .last_mut()
            .filter(|last| last.topic_id == at.topic_id)
        {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(DurableTopic {
                topic_id: at.topic_id,
                partitions: vec![partition],
                ..Default::default()
            }),
        }
    }
    topics
}
