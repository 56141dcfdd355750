//! Whether a new leader has what was read (KIP-320). Where it has not, that is told, not passed over.

use std::collections::{BTreeMap, HashMap};

use tidemark_env::task;
use tidemark_wire::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use tidemark_wire::messages::offset_for_leader_epoch_response::EpochEndOffset;
use tidemark_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::Consumer;
use super::fetcher::{Answer, Asked};
use super::positions::Start;
use crate::admin::by_topic;
use crate::cluster::{Cluster, Lane, Node};
use crate::error::ClientError;
use crate::metadata::TopicPartition;

/// The first version that consumers may ask.
const FIRST_OF_CONSUMERS: i16 = 3;
/// How a consumer calls itself in the place of a broker's id.
const CONSUMER: i32 = -1;

/// Where epochs end; `None` from a broker that consumers cannot ask.
pub(super) type Ends = Option<OffsetForLeaderEpochResponse>;

/// What a leader has of what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// All of it.
    Valid,
    /// It has another history from this offset on.
    Diverges(i64),
    /// Nothing of this epoch or an earlier one.
    Unknown,
}

/// What it means for a position that the leader's last record of its epoch, or of an earlier one,
/// is where `end` says.
fn standing(offset: i64, end: &EpochEndOffset) -> Standing {
    match end.end_offset {
        _ if end.leader_epoch < 0 || end.end_offset < 0 => Standing::Unknown,
        end_offset if end_offset < offset => Standing::Diverges(end_offset),
        _ => Standing::Valid,
    }
}

impl Consumer {
    /// An error where, for longer than retries last, brokers know only leaders of before what was
    /// read. Nobody can tell then whether it is there.
    pub(super) fn check_leaders(&self) -> Result<(), ClientError> {
        if !self.cluster.knows_later_leaders() {
            return Ok(());
        }
        for (tp, position) in &self.positions.partitions {
            let Start::Offset(offset) = position.fetch else {
                continue;
            };
            if let Some(leader_epoch) = self.cluster.only_earlier(&tp.topic, tp.partition) {
                return Err(ClientError::OnlyEarlierLeaders {
                    topic: tp.topic.clone(),
                    partition: tp.partition,
                    offset,
                    read_in: position.leader_epoch,
                    leader_epoch,
                });
            }
        }
        Ok(())
    }

    /// Asks each leader where the epochs of what was read end in its log.
    pub(super) fn launch_validations(&self, by_leader: BTreeMap<i32, Vec<Asked>>) {
        for (leader, asked) in by_leader {
            let request = self.epochs_request(&asked);
            let cluster = self.cluster.clone();
            let answers = self.answers.clone();
            task::spawn("validate positions", async move {
                let result = ends(&cluster, leader, &request).await;
                // Nobody listens any more when the consumer is gone.
                drop(answers.send(Answer::Validated(asked, result)));
            });
        }
    }

    fn epochs_request(&self, asked: &[Asked]) -> OffsetForLeaderEpochRequest {
        let read_in = |tp| {
            let position = self.positions.partitions.get(tp);
            position.map_or(-1, |position| position.leader_epoch)
        };
        let topics = by_topic(asked.iter().map(|asked| (&asked.tp, asked)));
        let topics = topics.into_iter().map(|(topic, asked)| {
            let partitions = asked
                .into_iter()
                .map(|(partition, asked)| OffsetForLeaderPartition {
                    partition,
                    current_leader_epoch: asked.leader_epoch,
                    leader_epoch: read_in(&asked.tp),
                    ..OffsetForLeaderPartition::default()
                });
            OffsetForLeaderTopic {
                topic,
                partitions: partitions.collect(),
                ..OffsetForLeaderTopic::default()
            }
        });
        OffsetForLeaderEpochRequest {
            replica_id: CONSUMER,
            topics: topics.collect(),
            ..OffsetForLeaderEpochRequest::default()
        }
    }

    /// Takes in what leaders have of what was read.
    pub(super) fn take_validated(
        &mut self,
        asked: Vec<Asked>,
        result: Result<Ends, ClientError>,
    ) -> Result<(), ClientError> {
        let ends = match result {
            Ok(ends) => ends,
            Err(error) => return self.failed(&asked, error),
        };
        let can_tell = ends.is_some();
        let topics = ends.into_iter().flat_map(|ends| ends.topics);
        let mut ends: HashMap<TopicPartition, EpochEndOffset> = topics
            .flat_map(|topic| {
                let name = topic.topic;
                let partitions = topic.partitions.into_iter();
                partitions.map(move |end| (TopicPartition::new(name.clone(), end.partition), end))
            })
            .collect();
        let retry_at_ms = self.retry_at_ms();
        let mut failed = Ok(());
        for asked in asked {
            let tp = &asked.tp;
            let Some(position) = self.positions.answered(tp, asked.epoch) else {
                continue;
            };
            let end = ends.remove(tp);
            let checked = match &end {
                Some(end) => ClientError::check(end.error_code, None, || format!("reading {tp}")),
                None => Ok(()),
            };
            let standing = match (checked, &end) {
                (Ok(()), Some(end)) => standing(asked.offset, end),
                (Ok(()), None) if !can_tell => Standing::Valid,
                (result, _) => {
                    position.retry_at_ms = retry_at_ms;
                    self.refresh_wanted = true;
                    if result.as_ref().is_err_and(|error| !error.is_retriable()) {
                        failed = result;
                    }
                    continue;
                }
            };
            let diverges_at = match standing {
                Standing::Valid => {
                    position.valid_in = Some((asked.topic_id, asked.leader_epoch));
                    continue;
                }
                Standing::Diverges(at) => Some(at),
                Standing::Unknown => None,
            };
            let truncated = ClientError::LogTruncated {
                topic: tp.topic.clone(),
                partition: tp.partition,
                offset: asked.offset,
                diverges_at,
            };
            let Some(reset) = self.config.reset.start() else {
                position.retry_at_ms = retry_at_ms;
                failed = Err(truncated);
                continue;
            };
            match (diverges_at, end) {
                (Some(at), Some(end)) => {
                    tracing::warn!(
                        "{truncated}; reading goes on there. Whatever was done with records from {at} \
                         on was done with others than the topic has now"
                    );
                    position.fetch = Start::Offset(at);
                    position.consumed = Some(at);
                    position.leader_epoch = end.leader_epoch;
                    position.valid_in = Some((asked.topic_id, asked.leader_epoch));
                }
                _ => {
                    tracing::warn!("{truncated}; reading goes on at the {reset:?}");
                    position.fetch = Start::At(reset);
                }
            }
        }
        failed
    }
}

async fn ends(
    cluster: &Cluster,
    leader: i32,
    request: &OffsetForLeaderEpochRequest,
) -> Result<Ends, ClientError> {
    let connection = cluster.connection(Node::Id(leader), Lane::Admin).await?;
    match connection.version_of::<OffsetForLeaderEpochRequest>(i16::MAX) {
        Ok(version) if version >= FIRST_OF_CONSUMERS => {
            let timeout = cluster.options().connection.request_timeout;
            let response = connection.send_at(request, version, timeout).await?;
            Ok(Some(response))
        }
        // Brokers before 2.3 let only brokers ask.
        Ok(_) | Err(ClientError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_ends_the_epoch_before_the_position_has_another_history() {
        let end = |leader_epoch, end_offset| EpochEndOffset {
            leader_epoch,
            end_offset,
            ..EpochEndOffset::default()
        };
        assert_eq!(standing(10, &end(3, 10)), Standing::Valid);
        assert_eq!(standing(10, &end(3, 500)), Standing::Valid);
        // It begins later than what was read: that is deleted, not cut.
        assert_eq!(standing(10, &end(2, 40)), Standing::Valid);
        assert_eq!(standing(10, &end(3, 9)), Standing::Diverges(9));
        assert_eq!(standing(10, &end(-1, -1)), Standing::Unknown);
    }
}
