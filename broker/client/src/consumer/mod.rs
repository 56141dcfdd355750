//! Reading: positions, fetching, and membership in groups.
//!
//! [`Consumer::poll`] does all the work: it joins when its group asks for it, asks where to begin,
//! keeps one fetch on its way to each leader, and gives records out in order. A leader that is new is
//! asked first whether it has what was read (KIP-320). Heartbeats alone run beside it. What
//! [`Consumer::commit`] commits is what `poll` has given out.

pub mod assignor;
mod fetched;
mod fetcher;
mod group;
mod positions;
pub(crate) mod protocol;
mod validation;

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_env::clock;
use tidemark_wire::ErrorCode;
use tokio::sync::mpsc;

pub use fetched::ConsumerRecord;
pub use group::GroupConfig;
pub use positions::Start;

use crate::admin::{OffsetSpec, check_commit, commit_request};
use crate::cluster::{Cluster, Node, Retry};
use crate::error::ClientError;
use crate::metadata::{TopicPartition, Topics};
use fetcher::Answer;
use group::Membership;
use positions::Positions;

/// The newest OffsetCommit version that names topics.
const LAST_COMMIT_WITH_NAMES: i16 = 9;
/// How often the member that dealt a group's partitions looks whether topics have grown.
const WATCH_TOPICS_EVERY: Duration = Duration::from_secs(30);

/// What happens where no offset is committed, or where it has been deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// Read all that is there.
    Earliest,
    /// Read what comes from now on.
    #[default]
    Latest,
    /// Fail.
    None,
}

impl OffsetReset {
    /// What to ask for, unless it is to fail.
    fn start(self) -> Option<OffsetSpec> {
        match self {
            Self::Earliest => Some(OffsetSpec::Earliest),
            Self::Latest => Some(OffsetSpec::Latest),
            Self::None => None,
        }
    }
}

/// How a consumer behaves.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// Membership; also says for which group to commit.
    pub group: Option<GroupConfig>,
    /// Where to begin without a position.
    pub reset: OffsetReset,
    /// How long a broker may hold a fetch that has too little.
    pub max_wait_ms: i32,
    /// How much a fetch waits for.
    pub min_bytes: i32,
    /// How much a fetch may answer in all.
    pub max_bytes: i32,
    /// How much a fetch may answer for one partition.
    pub partition_max_bytes: i32,
    /// Leaves out what was not, or not yet, committed by its transaction.
    pub read_committed: bool,
    /// Commits what was given out that often; `None` leaves it to [`Consumer::commit`].
    pub auto_commit: Option<Duration>,
    /// The most records that one poll gives out.
    pub max_poll_records: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            reset: OffsetReset::Latest,
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            read_committed: false,
            auto_commit: None,
            max_poll_records: 500,
        }
    }
}

/// How far a partition has been read, and how far it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The offset after the last record given out; `None` before it is known.
    pub position: Option<i64>,
    /// The high watermark as of the last answer; `None` before the first.
    pub high_watermark: Option<i64>,
}

/// Reads records.
#[derive(Debug)]
pub struct Consumer {
    cluster: Cluster,
    config: ConsumerConfig,
    positions: Positions,
    membership: Option<Membership>,
    answers: mpsc::UnboundedSender<Answer>,
    inbox: mpsc::UnboundedReceiver<Answer>,
    committed: BTreeMap<TopicPartition, i64>,
    last_commit: clock::Instant,
    last_watch: clock::Instant,
    last_refresh: Option<clock::Instant>,
    refresh_wanted: bool,
    started: clock::Instant,
}

impl Consumer {
    /// A consumer without partitions yet: [`Self::assign`] or [`Self::subscribe`] come next.
    #[must_use]
    pub fn new(cluster: Cluster, config: ConsumerConfig) -> Self {
        let (answers, inbox) = mpsc::unbounded_channel();
        let now = clock::monotonic();
        Self {
            cluster,
            config,
            positions: Positions::default(),
            membership: None,
            answers,
            inbox,
            committed: BTreeMap::new(),
            last_commit: now,
            last_watch: now,
            last_refresh: None,
            refresh_wanted: false,
            started: now,
        }
    }

    /// Reads these partitions, without a group deciding.
    pub fn assign(&mut self, starts: impl IntoIterator<Item = (TopicPartition, Start)>) {
        self.positions.retain(|_| false);
        for (tp, start) in starts {
            self.positions.add(tp, start, -1);
        }
    }

    /// Reads what the group gives this member of these topics.
    ///
    /// # Errors
    /// `Invalid` without a group in the configuration.
    pub fn subscribe(&mut self, topics: Vec<String>) -> Result<(), ClientError> {
        let group = self.config.group.clone().ok_or_else(|| {
            ClientError::Invalid("subscribing needs a group; assign partitions instead".to_owned())
        })?;
        self.positions.retain(|_| false);
        self.membership = Some(Membership::new(self.cluster.clone(), group, topics));
        Ok(())
    }

    /// What is assigned, and how far each partition has been read.
    #[must_use]
    pub fn progress(&self) -> BTreeMap<TopicPartition, Progress> {
        self.positions
            .partitions
            .iter()
            .map(|(tp, position)| {
                let progress = Progress {
                    position: position.consumed,
                    high_watermark: position.high_watermark,
                };
                (tp.clone(), progress)
            })
            .collect()
    }

    /// Whether this member is in its group and the group is at rest (true without a group).
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.membership.as_ref().is_none_or(|m| !m.must_join())
    }

    fn now_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Records, as soon as there are any; none after `wait`.
    ///
    /// # Errors
    /// What does not go away by trying again: authorization, unknown topics, damaged batches, a
    /// position that is gone and no rule for it. It may be called again.
    pub async fn poll(&mut self, wait: Duration) -> Result<Vec<ConsumerRecord>, ClientError> {
        self.poll_up_to(self.config.max_poll_records, wait).await
    }

    /// As [`Self::poll`], but no more than `max` records: those behind them are kept for the next call.
    ///
    /// # Errors
    /// As [`Self::poll`].
    pub async fn poll_up_to(
        &mut self,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<ConsumerRecord>, ClientError> {
        let deadline = clock::monotonic() + wait;
        loop {
            self.join_if_due().await?;
            self.commit_if_due().await;
            let records = self.positions.take(max);
            if !records.is_empty() {
                // The next fetch travels while the caller works.
                self.launch_fetches();
                return Ok(records);
            }
            self.refresh_if_wanted().await?;
            self.check_leaders()?;
            self.resolve_starts().await?;
            self.launch_fetches();
            let pulse = self.membership.as_ref().map(|m| m.pulse.clone());
            let changed = async {
                match &pulse {
                    Some(pulse) => pulse.changed.notified().await,
                    None => std::future::pending().await,
                }
            };
            let pause = Duration::from_millis(100).min(wait);
            tokio::select! {
                Some(answer) = self.inbox.recv() => self.take_answer(answer)?,
                () = changed => {}
                () = clock::sleep_until(deadline) => return Ok(Vec::new()),
                // Partitions that wait for another try have no answer to wake us.
                () = clock::sleep(pause) => {}
            }
            while let Ok(answer) = self.inbox.try_recv() {
                self.take_answer(answer)?;
            }
        }
    }

    async fn join_if_due(&mut self) -> Result<(), ClientError> {
        self.watch_topics().await?;
        let Some(membership) = &self.membership else {
            return Ok(());
        };
        if membership.is_fenced() {
            return Err(ClientError::Server {
                what: format!("staying in group {}", membership.config.group),
                code: ErrorCode::FencedInstanceId,
                message: Some("another member has the same instance id".to_owned()),
            });
        }
        if !membership.must_join() {
            return Ok(());
        }
        let cooperative = membership.config.is_cooperative();
        let lost = membership.is_lost();
        if lost {
            self.positions.retain(|_| false);
        } else if self.config.auto_commit.is_some() {
            self.commit_or_warn().await;
        }
        if !cooperative {
            self.positions.retain(|_| false);
        }
        let owned: Vec<TopicPartition> = self.positions.partitions.keys().cloned().collect();
        let Some(membership) = &mut self.membership else {
            return Ok(());
        };
        let given = membership.join(&owned).await?;
        let revoked = owned.iter().any(|tp| !given.contains(tp));
        if cooperative && revoked {
            // What was given up can go to its new owner once we have joined without it.
            if self.config.auto_commit.is_some() {
                self.commit_or_warn().await;
            }
            if let Some(membership) = &self.membership {
                membership.rejoin();
            }
        }
        self.positions.retain(|tp| given.contains(tp));
        let added: Vec<TopicPartition> = given
            .into_iter()
            .filter(|tp| !self.positions.partitions.contains_key(tp))
            .collect();
        self.begin_at_committed(added).await
    }

    /// The member that dealt the partitions joins again when the topics have grown, come or gone.
    async fn watch_topics(&mut self) -> Result<(), ClientError> {
        let Some(membership) = &self.membership else {
            return Ok(());
        };
        if self.last_watch.elapsed() < WATCH_TOPICS_EVERY || membership.generation < 0 {
            return Ok(());
        }
        self.last_watch = clock::monotonic();
        let watched: Vec<&str> = membership.topics.iter().map(String::as_str).collect();
        let now = match group::counts_of(&self.cluster, &watched).await {
            Ok(now) => now,
            Err(error) if error.is_retriable() => return Ok(()),
            Err(error) => return Err(error),
        };
        let dealt = membership.dealt();
        let is_dealer = !dealt.is_empty();
        if is_dealer
            && watched
                .iter()
                .any(|topic| dealt.get(*topic) != now.get(*topic))
        {
            membership.rejoin();
        }
        Ok(())
    }

    async fn begin_at_committed(&mut self, added: Vec<TopicPartition>) -> Result<(), ClientError> {
        if added.is_empty() {
            return Ok(());
        }
        let Some(group) = self.config.group.as_ref().map(|g| g.group.clone()) else {
            return Ok(());
        };
        let mut retry = Retry::new(self.cluster.options());
        let committed = loop {
            match self.cluster.group_offsets(&group).await {
                Ok(committed) => break committed,
                Err(error) if error.is_retriable() && retry.pause().await => {}
                Err(error) => return Err(error),
            }
        };
        for tp in added {
            let (start, leader_epoch) = match (committed.get(&tp), self.config.reset.start()) {
                (Some(committed), _) => {
                    self.committed.insert(tp.clone(), committed.offset);
                    (Start::Offset(committed.offset), committed.leader_epoch)
                }
                (None, Some(start)) => (Start::At(start), -1),
                (None, None) => {
                    return Err(ClientError::Invalid(format!(
                        "group {group} has no offset in {tp} and no rule where to begin"
                    )));
                }
            };
            self.positions.add(tp, start, leader_epoch);
        }
        Ok(())
    }

    async fn resolve_starts(&mut self) -> Result<(), ClientError> {
        let unresolved = self.positions.unresolved();
        if unresolved.is_empty() {
            return Ok(());
        }
        let read_committed = self.config.read_committed;
        let found = self
            .cluster
            .list_offsets(&unresolved, read_committed)
            .await?;
        let mut beyond_the_end = BTreeMap::new();
        for (tp, listed) in found {
            if listed.offset >= 0 {
                self.positions
                    .resolve(&tp, listed.offset, listed.leader_epoch);
            } else {
                // No record is that late: what comes next is.
                beyond_the_end.insert(tp, OffsetSpec::Latest);
            }
        }
        let ends = self
            .cluster
            .list_offsets(&beyond_the_end, read_committed)
            .await?;
        for (tp, listed) in ends {
            self.positions
                .resolve(&tp, listed.offset.max(0), listed.leader_epoch);
        }
        Ok(())
    }

    async fn refresh_if_wanted(&mut self) -> Result<(), ClientError> {
        let recently = self
            .last_refresh
            .is_some_and(|at| at.elapsed() < Duration::from_millis(200));
        if !self.refresh_wanted || recently {
            return Ok(());
        }
        self.refresh_wanted = false;
        self.last_refresh = Some(clock::monotonic());
        let mut names: Vec<String> = self
            .positions
            .partitions
            .keys()
            .map(|tp| tp.topic.clone())
            .collect();
        names.dedup();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match self.cluster.metadata(Topics::Named(&names)).await {
            Ok(info) => {
                let gone = info
                    .topic_errors
                    .iter()
                    .find(|(_, code)| **code == ErrorCode::UnknownTopicOrPartition);
                match gone {
                    // A group's leader deals without it; a reader of fixed partitions has nothing left.
                    Some((topic, _)) if self.membership.is_none() => {
                        Err(ClientError::UnknownTopic {
                            topic: topic.clone(),
                        })
                    }
                    _ => Ok(()),
                }
            }
            Err(error) if error.is_retriable() => {
                self.refresh_wanted = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn commit_if_due(&mut self) {
        let Some(every) = self.config.auto_commit else {
            return;
        };
        if self.config.group.is_some() && self.last_commit.elapsed() >= every {
            self.commit_or_warn().await;
        }
    }

    async fn commit_or_warn(&mut self) {
        if let Err(error) = self.commit().await {
            tracing::warn!(%error, "offsets could not be committed; records may be read again");
        }
    }

    /// Commits what was given out so far, if that is more than was committed before.
    ///
    /// # Errors
    /// The coordinator's; ILLEGAL_GENERATION and UNKNOWN_MEMBER_ID mean that the group has given the
    /// partitions to others.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.last_commit = clock::monotonic();
        let Some(group) = self.config.group.as_ref().map(|g| g.group.clone()) else {
            return Err(ClientError::Invalid("committing needs a group".to_owned()));
        };
        let mut offsets = self.positions.consumed();
        offsets.retain(|tp, (offset, _)| self.committed.get(tp) != Some(offset));
        if offsets.is_empty() {
            return Ok(());
        }
        let (generation, member_id, instance_id) = match &self.membership {
            Some(m) => (
                m.generation,
                m.member_id.clone(),
                m.config.instance_id.clone(),
            ),
            None => (-1, String::new(), None),
        };
        let request = || {
            commit_request(
                &group,
                generation,
                &member_id,
                instance_id.as_deref(),
                &offsets,
            )
        };
        let mut retry = Retry::new(self.cluster.options());
        loop {
            let coordinator = self.cluster.group_coordinator(&group).await?;
            let result = self
                .cluster
                .ask(Node::Id(coordinator), LAST_COMMIT_WITH_NAMES, |_| request())
                .await
                .and_then(|response| check_commit(&response, &group));
            let Err(error) = result else { break };
            if let (Some(code), Some(membership)) = (error.code(), &self.membership) {
                membership.refused(code);
            }
            let again = match error.code() {
                // Only joining again helps.
                Some(ErrorCode::RebalanceInProgress) => false,
                _ => error.is_retriable(),
            };
            if !again {
                return Err(error);
            }
            self.cluster.forget_coordinator(&group);
            if !retry.pause().await {
                return Err(error);
            }
        }
        for (tp, (offset, _)) in offsets {
            self.committed.insert(tp, offset);
        }
        Ok(())
    }

    /// Commits (with auto-commit) and leaves the group.
    ///
    /// # Errors
    /// That the last commit failed, or that the coordinator could not be told.
    pub async fn close(mut self) -> Result<(), ClientError> {
        let committed = match self.config.auto_commit {
            Some(_) if self.config.group.is_some() => self.commit().await,
            _ => Ok(()),
        };
        if let Some(membership) = &mut self.membership {
            membership.leave().await?;
        }
        committed
    }
}
