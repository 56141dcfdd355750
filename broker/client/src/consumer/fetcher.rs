//! Fetch requests, one on its way to each leader, and what their answers mean.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tidemark_env::task;
use tidemark_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use tidemark_wire::messages::{FetchRequest, FetchResponse};
use tidemark_wire::{ErrorCode, Records, Uuid};

use super::Consumer;
use super::fetched::parse;
use super::positions::{Buffered, Ready, Start};
use super::validation::Ends;
use crate::cluster::{Cluster, Lane, Node};
use crate::error::{ClientError, error_code};
use crate::metadata::TopicPartition;

/// The newest Fetch version that names topics; later ones have only ids.
const LAST_WITH_NAMES: i16 = 12;
/// The pause of a partition after an error.
const RETRY_AFTER_MS: i64 = 100;

/// One partition as it was asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) tp: TopicPartition,
    pub(super) offset: i64,
    pub(super) epoch: u64,
    /// The epoch in which the broker that is asked leads.
    pub(super) leader_epoch: i32,
    pub(super) topic_id: Uuid,
}

/// What has come back.
#[derive(Debug)]
pub(super) enum Answer {
    Fetched(Vec<Asked>, Result<FetchResponse, ClientError>),
    Validated(Vec<Asked>, Result<Ends, ClientError>),
}

impl Consumer {
    /// Sends a fetch to each leader that has something to be fetched and no fetch on its way, and
    /// asks those that are new about what was read (KIP-320).
    pub(super) fn launch_fetches(&mut self) {
        let info = self.cluster.info();
        let leader_of = |tp: &TopicPartition| {
            let topic = info.topics.get(&tp.topic)?;
            let partition = topic.partitions.get(&tp.partition)?;
            Some((partition.leader?, partition.leader_epoch, topic.id))
        };
        // One fetch per leader at a time: a broker answers a connection's requests in order, and a
        // long poll would hold up those behind it.
        let busy: Vec<i32> = self
            .positions
            .partitions
            .iter()
            .filter(|(_, position)| position.fetching)
            .filter_map(|(tp, _)| leader_of(tp).map(|(leader, ..)| leader))
            .collect();
        let mut by_leader: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        let mut to_validate: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        for (tp, offset, epoch) in self.positions.fetchable(self.now_ms()) {
            let Some((leader, leader_epoch, topic_id)) = leader_of(&tp) else {
                self.refresh_wanted = true;
                continue;
            };
            if busy.contains(&leader) {
                continue;
            }
            let Some(position) = self.positions.partitions.get_mut(&tp) else {
                continue;
            };
            let ask = match position.ready(topic_id, leader_epoch) {
                Ready::Fetch => &mut by_leader,
                Ready::Validate => &mut to_validate,
                Ready::Deposed => {
                    let read_in = position.leader_epoch;
                    tracing::debug!(partition = %tp, leader, leader_epoch, read_in, "a deposed leader is not asked");
                    self.cluster
                        .saw_leader_epoch(&tp.topic, tp.partition, read_in);
                    self.refresh_wanted = true;
                    continue;
                }
            };
            position.fetching = true;
            ask.entry(leader).or_default().push(Asked {
                tp,
                offset,
                epoch,
                leader_epoch,
                topic_id,
            });
        }
        self.launch_validations(to_validate);
        for (leader, asked) in by_leader {
            let cluster = self.cluster.clone();
            let answers = self.answers.clone();
            let request = self.fetch_request(&asked);
            let patience =
                Duration::from_millis(u64::try_from(self.config.max_wait_ms).unwrap_or(0));
            task::spawn("fetch", async move {
                let result = fetch(&cluster, leader, &request, patience).await;
                // Nobody listens any more when the consumer is gone.
                drop(answers.send(Answer::Fetched(asked, result)));
            });
        }
    }

    fn fetch_request(&self, asked: &[Asked]) -> FetchRequest {
        let mut topics: BTreeMap<&str, FetchTopic> = BTreeMap::new();
        for partition in asked {
            let topic = topics
                .entry(&partition.tp.topic)
                .or_insert_with(|| FetchTopic {
                    topic: partition.tp.topic.clone(),
                    topic_id: partition.topic_id,
                    ..FetchTopic::default()
                });
            topic.partitions.push(FetchPartition {
                partition: partition.tp.partition,
                current_leader_epoch: partition.leader_epoch,
                fetch_offset: partition.offset,
                partition_max_bytes: self.config.partition_max_bytes,
                ..FetchPartition::default()
            });
        }
        FetchRequest {
            max_wait_ms: self.config.max_wait_ms,
            min_bytes: self.config.min_bytes,
            max_bytes: self.config.max_bytes,
            isolation_level: i8::from(self.config.read_committed),
            topics: topics.into_values().collect(),
            ..FetchRequest::default()
        }
    }

    /// Takes in what came back.
    pub(super) fn take_answer(&mut self, answer: Answer) -> Result<(), ClientError> {
        match answer {
            Answer::Fetched(asked, result) => self.take_fetched(asked, result),
            Answer::Validated(asked, result) => self.take_validated(asked, result),
        }
    }

    /// When a partition is asked for again after an error.
    pub(super) fn retry_at_ms(&self) -> i64 {
        self.now_ms() + RETRY_AFTER_MS
    }

    /// A request failed as a whole: what it asked for is asked for again.
    pub(super) fn failed(
        &mut self,
        asked: &[Asked],
        error: ClientError,
    ) -> Result<(), ClientError> {
        let retry_at_ms = self.retry_at_ms();
        for asked in asked {
            if let Some(position) = self.positions.answered(&asked.tp, asked.epoch) {
                position.retry_at_ms = retry_at_ms;
            }
        }
        self.refresh_wanted = true;
        match error.is_retriable() {
            true => {
                tracing::debug!(%error, "a fetch failed");
                Ok(())
            }
            false => Err(error),
        }
    }

    fn take_fetched(
        &mut self,
        asked: Vec<Asked>,
        result: Result<FetchResponse, ClientError>,
    ) -> Result<(), ClientError> {
        let retry_at_ms = self.retry_at_ms();
        let response = result.and_then(|response| {
            ClientError::check(response.error_code, None, || "fetching".to_owned())?;
            Ok(response)
        });
        let response = match response {
            Ok(response) => response,
            Err(error) => return self.failed(&asked, error),
        };
        let info = self.cluster.info();
        let mut by_name = HashMap::new();
        for topic in response.responses {
            for partition in topic.partitions {
                let key = (
                    topic.topic.clone(),
                    topic.topic_id,
                    partition.partition_index,
                );
                by_name.insert(key, partition);
            }
        }
        let mut failed = Ok(());
        for asked in asked {
            let tp = &asked.tp;
            let by_id = (String::new(), asked.topic_id, tp.partition);
            let found = by_name
                .remove(&(tp.topic.clone(), Uuid::ZERO, tp.partition))
                .or_else(|| by_name.remove(&by_id));
            let Some(position) = self.positions.answered(tp, asked.epoch) else {
                continue;
            };
            let Some(data) = found else {
                position.retry_at_ms = retry_at_ms;
                continue;
            };
            match error_code(data.error_code) {
                ErrorCode::None => {}
                // Whoever leads by now may have it.
                ErrorCode::OffsetOutOfRange
                    if info.leader_epoch(&tp.topic, tp.partition) != Some(asked.leader_epoch) =>
                {
                    position.retry_at_ms = retry_at_ms;
                    continue;
                }
                ErrorCode::OffsetOutOfRange => {
                    let Some(start) = self.config.reset.start() else {
                        position.retry_at_ms = retry_at_ms;
                        failed = Err(ClientError::OffsetOutOfRange {
                            topic: tp.topic.clone(),
                            partition: tp.partition,
                            offset: asked.offset,
                        });
                        continue;
                    };
                    tracing::warn!(
                        partition = %tp,
                        offset = asked.offset,
                        leader_epoch = asked.leader_epoch,
                        ?start,
                        "the offset is out of range, going on elsewhere"
                    );
                    position.fetch = Start::At(start);
                    continue;
                }
                code => {
                    position.retry_at_ms = retry_at_ms;
                    self.refresh_wanted = true;
                    if !code.is_retriable() {
                        failed =
                            ClientError::check(data.error_code, None, || format!("reading {tp}"));
                    }
                    continue;
                }
            }
            position.high_watermark = Some(
                if self.config.read_committed && data.last_stable_offset >= 0 {
                    data.last_stable_offset
                } else {
                    data.high_watermark
                },
            );
            let bytes = data.records.and_then(Records::into_bytes);
            let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
                continue;
            };
            let aborted = self
                .config
                .read_committed
                .then(|| data.aborted_transactions.unwrap_or_default());
            let topic: Arc<str> = tp.topic.as_str().into();
            match parse(
                &topic,
                tp.partition,
                asked.offset,
                bytes,
                aborted.as_deref(),
            ) {
                Ok(parsed) => self.positions.push(Buffered {
                    from: tp.clone(),
                    records: parsed.records.into(),
                    next_offset: parsed.next_offset,
                    leader_epoch: parsed.leader_epoch,
                }),
                Err(error) => {
                    position.retry_at_ms = retry_at_ms;
                    failed = Err(error);
                }
            }
        }
        failed
    }
}

async fn fetch(
    cluster: &Cluster,
    leader: i32,
    request: &FetchRequest,
    patience: Duration,
) -> Result<FetchResponse, ClientError> {
    let connection = cluster.connection(Node::Id(leader), Lane::Fetch).await?;
    let all_have_ids = request.topics.iter().all(|topic| !topic.topic_id.is_zero());
    let cap = if all_have_ids {
        i16::MAX
    } else {
        LAST_WITH_NAMES
    };
    let version = connection.version_of::<FetchRequest>(cap)?;
    let timeout = cluster.options().connection.request_timeout + patience;
    connection.send_at(request, version, timeout).await
}
