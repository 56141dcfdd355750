//! A cluster as a client sees it: where its brokers are, who leads what, and a connection to each.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_env::clock;
use tidemark_wire::messages::{FindCoordinatorRequest, MetadataRequest};
use tidemark_wire::{ErrorCode, Request};

use crate::connection::{Connection, ConnectionOptions};
use crate::error::ClientError;
use crate::metadata::{Broker, ClusterInfo, TopicInfo, Topics, metadata_request};

/// How a client behaves towards a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Of each connection.
    pub connection: ConnectionOptions,
    /// How long retriable errors are retried before they are returned.
    pub retry_for: Duration,
    /// The first pause between two tries; it doubles up to a second.
    pub retry_backoff: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            connection: ConnectionOptions::default(),
            retry_for: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(50),
        }
    }
}

/// Which broker a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// Any that answers.
    Any,
    /// The one that takes controller requests (any, if that is unknown).
    Controller,
    /// The one with this id.
    Id(i32),
}

/// Requests that may wait long for their answer have connections of their own, because a broker
/// answers those of one connection in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Metadata and admin requests.
    Admin,
    /// Produce requests.
    Produce,
    /// Fetch requests, which long-poll.
    Fetch,
    /// Group membership, where JoinGroup waits for the others.
    Group,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

struct Inner {
    bootstrap: Vec<String>,
    options: ClusterOptions,
    info: Mutex<Arc<ClusterInfo>>,
    slots: Mutex<HashMap<(Node, Lane), Slot>>,
    coordinators: Mutex<HashMap<String, i32>>,
    /// Partitions of which brokers tell an earlier leader than is known: since when, and the epoch.
    earlier: Mutex<BTreeMap<(String, i32), (clock::Instant, i32)>>,
    /// How many addresses are passed over when somebody is to be asked.
    passed_over: AtomicUsize,
}

impl Inner {
    fn new(bootstrap: Vec<String>, options: ClusterOptions) -> Self {
        Self {
            bootstrap,
            options,
            info: Mutex::default(),
            slots: Mutex::default(),
            coordinators: Mutex::default(),
            earlier: Mutex::default(),
            passed_over: AtomicUsize::new(0),
        }
    }
}

/// A handle on a cluster; clones share connections and what is known.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("bootstrap", &self.0.bootstrap)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `host[:port],…` as a list; the port is 9092 where none is given.
///
/// # Errors
/// `Invalid` when there is no address in it or a port is no number.
pub fn parse_bootstrap(text: &str) -> Result<Vec<String>, ClientError> {
    let mut addresses = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let bracketed = part.starts_with('[');
        let has_port = if bracketed {
            part.contains("]:")
        } else {
            part.matches(':').count() == 1
        };
        let address = match (has_port, bracketed || !part.contains(':')) {
            (true, _) => part.to_owned(),
            (false, true) => format!("{part}:9092"),
            (false, false) => format!("[{part}]:9092"),
        };
        let port = address.rsplit(':').next().unwrap_or_default();
        if port.parse::<u16>().is_err() {
            return Err(ClientError::Invalid(format!(
                "'{part}' is not host:port: '{port}' is not a port number"
            )));
        }
        addresses.push(address);
    }
    if addresses.is_empty() {
        return Err(ClientError::Invalid(
            "no bootstrap address given: expected host:port[,host:port…]".to_owned(),
        ));
    }
    Ok(addresses)
}

impl Cluster {
    /// Connects to the first address of `bootstrap` (`host:port,…`) that answers and asks it for the brokers.
    ///
    /// # Errors
    /// `Unreachable` naming all addresses when none answers; `Invalid` for a list that is none.
    pub async fn connect(bootstrap: &str, options: ClusterOptions) -> Result<Self, ClientError> {
        let cluster = Self(Arc::new(Inner::new(parse_bootstrap(bootstrap)?, options)));
        cluster.metadata(Topics::None).await?;
        Ok(cluster)
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &ClusterOptions {
        &self.0.options
    }

    /// What is known without asking: all brokers, and the topics that were ever asked for.
    #[must_use]
    pub fn info(&self) -> Arc<ClusterInfo> {
        lock(&self.0.info).clone()
    }

    /// Asks for the brokers and the given topics (never creating any), remembers the answer and returns it.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn metadata(&self, topics: Topics<'_>) -> Result<ClusterInfo, ClientError> {
        self.metadata_with(topics, false).await
    }

    /// As [`Self::metadata`]; `create` lets a broker that is set so create topics that are not there.
    ///
    /// # Errors
    /// When no broker answers.
    pub async fn metadata_with(
        &self,
        topics: Topics<'_>,
        create: bool,
    ) -> Result<ClusterInfo, ClientError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let connection = self.connection(Node::Any, Lane::Admin).await?;
            let version = connection.version_of::<MetadataRequest>(i16::MAX)?;
            let request = metadata_request(topics, create, version);
            let sent = connection
                .send_at(&request, version, self.0.options.connection.request_timeout)
                .await;
            let response = match sent {
                Ok(response) => response,
                // A connection from before a restart of the broker shows it only now.
                Err(error) if error.is_unreachable() && attempt < 3 => continue,
                Err(error) => return Err(error),
            };
            ClientError::check(response.error_code, None, || "metadata".to_owned())?;
            let mut fresh = ClusterInfo::new(response);
            self.remember(&mut fresh);
            return Ok(fresh);
        }
    }

    /// Remembers an answer, after putting right what a broker that is cut off does not know yet.
    fn remember(&self, fresh: &mut ClusterInfo) {
        let mut info = lock(&self.0.info);
        let known = Arc::make_mut(&mut info);
        let mut earlier = lock(&self.0.earlier);
        let mut is_behind = false;
        for (name, topic) in &mut fresh.topics {
            let told = known.topics.get(name).map(|known| topic.keep_newer(known));
            let told = told.unwrap_or_default();
            earlier.retain(|(topic, partition), _| topic != name || told.contains_key(partition));
            is_behind |= !told.is_empty();
            for (partition, leader_epoch) in told {
                let since = earlier.entry((name.clone(), partition));
                since.or_insert((clock::monotonic(), leader_epoch)).1 = leader_epoch;
            }
        }
        if is_behind {
            // Others may know better.
            self.0.passed_over.fetch_add(1, Ordering::Relaxed);
            lock(&self.0.slots).remove(&(Node::Any, Lane::Admin));
        }
        known.cluster_id.clone_from(&fresh.cluster_id);
        known.controller = fresh.controller;
        known.brokers.clone_from(&fresh.brokers);
        for (name, topic) in &fresh.topics {
            known.topics.insert(name.clone(), topic.clone());
            known.topic_errors.remove(name);
        }
        for (name, code) in &fresh.topic_errors {
            known.topics.remove(name);
            known.topic_errors.insert(name.clone(), *code);
        }
    }

    /// Something was written, or committed, in a leader epoch (KIP-320): whoever led earlier does not
    /// any more, and who leads now must be asked of others.
    pub(crate) fn saw_leader_epoch(&self, topic: &str, partition: i32, leader_epoch: i32) {
        let mut info = lock(&self.0.info);
        if info.leader_epoch(topic, partition) >= Some(leader_epoch) {
            return;
        }
        let topics = &mut Arc::make_mut(&mut info).topics;
        let topic = topics.get_mut(topic);
        if let Some(known) = topic.and_then(|topic| topic.partitions.get_mut(&partition)) {
            known.leader = None;
            known.leader_epoch = leader_epoch;
        }
    }

    /// Whether [`Cluster::only_earlier`] may have anything to tell of any partition.
    pub(crate) fn knows_later_leaders(&self) -> bool {
        !lock(&self.0.earlier).is_empty()
    }

    /// The leader epoch that brokers tell of a partition, if for longer than retries last that is
    /// an earlier one than is known, and nobody is known to lead since. Who goes on is told again
    /// after that time.
    pub(crate) fn only_earlier(&self, topic: &str, partition: i32) -> Option<i32> {
        let mut info = lock(&self.0.info);
        let mut earlier = lock(&self.0.earlier);
        let key = (topic.to_owned(), partition);
        let (since, leader_epoch) = *earlier.get(&key)?;
        if since.elapsed() < self.0.options.retry_for {
            return None;
        }
        let topic = Arc::make_mut(&mut info).topics.get_mut(topic)?;
        let known = topic.partitions.get_mut(&partition)?;
        if known.leader.is_some() {
            return None;
        }
        // It may be what was thought known that is wrong: others go by what brokers say.
        known.leader_epoch = -1;
        earlier.remove(&key);
        Some(leader_epoch)
    }

    /// One topic, from memory if it is known there.
    ///
    /// # Errors
    /// `UnknownTopic`, or the broker's error for it.
    pub async fn topic(&self, name: &str) -> Result<TopicInfo, ClientError> {
        if let Some(topic) = self.info().topics.get(name) {
            return Ok(topic.clone());
        }
        self.fresh_topic(name, false).await
    }

    /// One topic, asked for now; `create` as in [`Self::metadata_with`]. A topic in the making is waited for.
    ///
    /// # Errors
    /// `UnknownTopic`, or the broker's error for it.
    pub async fn fresh_topic(&self, name: &str, create: bool) -> Result<TopicInfo, ClientError> {
        let mut retry = Retry::new(&self.0.options);
        loop {
            let mut info = self.metadata_with(Topics::Named(&[name]), create).await?;
            if let Some(topic) = info.topics.remove(name) {
                return Ok(topic);
            }
            let error = match info.topic_errors.get(name) {
                Some(ErrorCode::UnknownTopicOrPartition) | None => ClientError::UnknownTopic {
                    topic: name.to_owned(),
                },
                Some(code) => ClientError::Server {
                    what: format!("topic {name}"),
                    code: *code,
                    message: None,
                },
            };
            let in_the_making = match &error {
                ClientError::UnknownTopic { .. } => create,
                other => other.is_retriable(),
            };
            if !in_the_making || !retry.pause().await {
                return Err(error);
            }
        }
    }

    /// A connection to a broker, made if there is none.
    ///
    /// # Errors
    /// `Unreachable`, or what went wrong in the first exchange; `Invalid` for a broker id nobody knows.
    pub async fn connection(&self, node: Node, lane: Lane) -> Result<Arc<Connection>, ClientError> {
        let node = match node {
            Node::Controller => match self.info().controller {
                Some(id) => Node::Id(id),
                None => Node::Any,
            },
            other => other,
        };
        let slot = lock(&self.0.slots).entry((node, lane)).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(match node {
            Node::Id(id) => {
                let address = self.address_of(id).await?;
                Connection::connect(&address, &self.0.options.connection).await?
            }
            Node::Any | Node::Controller => self.connect_any().await?,
        });
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn address_of(&self, id: i32) -> Result<String, ClientError> {
        if let Some(broker) = self.info().brokers.get(&id) {
            return Ok(broker.address());
        }
        Box::pin(self.metadata(Topics::None)).await?;
        self.info()
            .brokers
            .get(&id)
            .map(Broker::address)
            .ok_or_else(|| ClientError::Unreachable {
                address: format!("broker {id}"),
                reason: "the cluster does not list it as up".to_owned(),
            })
    }

    /// The bootstrap addresses first: those are what the person typed.
    async fn connect_any(&self) -> Result<Connection, ClientError> {
        let mut addresses = self.0.bootstrap.clone();
        for broker in self.info().brokers.values() {
            let address = broker.address();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let passed_over = self.0.passed_over.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(passed_over);
        let mut last = None;
        for address in &addresses {
            match Connection::connect(address, &self.0.options.connection).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(ClientError::Unreachable { reason, .. }) => ClientError::Unreachable {
                address: addresses.join(", "),
                reason,
            },
            Some(error) => error,
            None => ClientError::Invalid("no bootstrap address".to_owned()),
        })
    }

    /// Sends a request at the newest common version, once.
    ///
    /// # Errors
    /// Those of [`Connection::send`] and [`Self::connection`].
    pub async fn send<R: Request>(
        &self,
        node: Node,
        lane: Lane,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        self.connection(node, lane).await?.send(request).await
    }

    /// The broker that coordinates a consumer group, from memory if known.
    ///
    /// # Errors
    /// The broker's error; COORDINATOR_NOT_AVAILABLE is waited out for `retry_for`.
    pub async fn group_coordinator(&self, group: &str) -> Result<i32, ClientError> {
        if let Some(id) = lock(&self.0.coordinators).get(group) {
            return Ok(*id);
        }
        let mut retry = Retry::new(&self.0.options);
        loop {
            match self.find_coordinator(group).await {
                Ok(id) => {
                    lock(&self.0.coordinators).insert(group.to_owned(), id);
                    return Ok(id);
                }
                Err(error) if error.is_retriable() && retry.pause().await => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Forgets a group's coordinator (after NOT_COORDINATOR, say).
    pub fn forget_coordinator(&self, group: &str) {
        lock(&self.0.coordinators).remove(group);
    }

    async fn find_coordinator(&self, group: &str) -> Result<i32, ClientError> {
        let connection = self.connection(Node::Any, Lane::Admin).await?;
        let version = connection.version_of::<FindCoordinatorRequest>(i16::MAX)?;
        let mut request = FindCoordinatorRequest::default();
        if version >= 4 {
            request.coordinator_keys = vec![group.to_owned()];
        } else {
            request.key = group.to_owned();
        }
        let timeout = self.0.options.connection.request_timeout;
        let response = connection.send_at(&request, version, timeout).await?;
        let (code, message, id, host, port) = match response.coordinators.into_iter().next() {
            Some(c) => (c.error_code, c.error_message, c.node_id, c.host, c.port),
            None => (
                response.error_code,
                response.error_message,
                response.node_id,
                response.host,
                response.port,
            ),
        };
        ClientError::check(code, message.as_deref(), || {
            format!("finding the coordinator of group {group}")
        })?;
        let mut info = lock(&self.0.info);
        let brokers = &mut Arc::make_mut(&mut info).brokers;
        brokers.entry(id).or_insert(Broker {
            id,
            host,
            port,
            rack: None,
        });
        Ok(id)
    }
}

/// Pauses between tries, doubling, until the time for retries is over.
#[derive(Debug)]
pub struct Retry {
    deadline: clock::Instant,
    pause: Duration,
}

impl Retry {
    /// From now on, as the options say.
    #[must_use]
    pub fn new(options: &ClusterOptions) -> Self {
        Self {
            deadline: clock::monotonic() + options.retry_for,
            pause: options.retry_backoff,
        }
    }

    /// Waits before the next try; false when the time is over.
    pub async fn pause(&mut self) -> bool {
        if clock::monotonic() + self.pause > self.deadline {
            return false;
        }
        clock::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(1));
        true
    }
}

#[cfg(test)]
mod tests;
