//! Load on the broker: idempotent producers with acks=all, topics that come and go, offsets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidemark_client::admin::NewTopic;
use tidemark_client::producer::{Producer, ProducerConfig, ProducerRecord};
use tidemark_client::{ClientError, Cluster, TopicPartition};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::books::{Books, Commits, Life, Partition, Topic};
use crate::chance::Chance;

/// The group whose offsets are committed.
pub const GROUP: &str = "committing";
const PRODUCERS: u16 = 4;
/// Records of one producer on their way at most.
const IN_FLIGHT: usize = 400;

/// The books, written by all who load the broker.
pub type SharedBooks = Arc<Mutex<Books>>;

/// The books, to read or to write.
pub fn lock(books: &SharedBooks) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Producers that live through every cut.
#[derive(Debug)]
pub struct Load {
    cluster: Cluster,
    producers: Vec<Arc<Producer>>,
    books: SharedBooks,
    running: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    receipts: Vec<JoinHandle<()>>,
}

/// Settings of a topic, by Kafka's names.
type Configs = Vec<(String, String)>;

/// The topics of one age of a run.
pub fn topics_of(age: u64) -> Vec<(String, Topic, Configs)> {
    let topic = |partitions: usize, value_bytes, retention_bytes: Option<u64>| Topic {
        life: Life::InDoubt,
        open: true,
        value_bytes,
        retention_bytes,
        partitions: (0..partitions).map(|_| Partition::default()).collect(),
    };
    let config = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![
        (format!("kept-{age}"), topic(4, 1500, None), vec![]),
        (
            format!("rolled-{age}"),
            topic(2, 300, None),
            vec![config("segment.ms", "150")],
        ),
        (
            format!("retained-{age}"),
            topic(2, 12_000, Some(2 << 20)),
            vec![config("retention.bytes", "2097152")],
        ),
    ]
}

async fn create(
    cluster: &Cluster,
    name: &str,
    partitions: usize,
    configs: Configs,
) -> Result<(), ClientError> {
    let new = NewTopic {
        name: name.to_owned(),
        partitions: i32::try_from(partitions).ok(),
        replicas: Some(1),
        assignment: Vec::new(),
        configs,
    };
    cluster.create_topic(&new, false).await.map(|_| ())
}

impl Load {
    /// Producers that have nothing to do yet.
    ///
    /// # Errors
    /// A configuration that contradicts itself.
    pub fn new(cluster: &Cluster, books: &SharedBooks) -> Result<Self, ClientError> {
        let config = |at: u16| ProducerConfig {
            linger_ms: i64::from(at % 3) * 2,
            delivery_timeout_ms: 40_000,
            retry_backoff_ms: 30,
            max_in_flight: 5,
            ..ProducerConfig::default()
        };
        Ok(Self {
            cluster: cluster.clone(),
            producers: (0..PRODUCERS)
                .map(|at| Producer::new(cluster.clone(), config(at)).map(Arc::new))
                .collect::<Result<_, _>>()?,
            books: Arc::clone(books),
            running: Arc::new(AtomicBool::new(false)),
            tasks: Vec::new(),
            receipts: Vec::new(),
        })
    }

    /// Makes the topics of an age; those of the age before are written to no more.
    ///
    /// # Errors
    /// When the broker, which nobody disturbs now, does not make them.
    pub async fn begin_age(&self, age: u64) -> Result<(), String> {
        for (name, mut topic, configs) in topics_of(age) {
            create(&self.cluster, &name, topic.partitions.len(), configs)
                .await
                .map_err(|error| format!("{name} cannot be made: {error}"))?;
            topic.life = Life::There;
            lock(&self.books).topics.insert(name, topic);
        }
        let current: Vec<String> = topics_of(age).into_iter().map(|(name, ..)| name).collect();
        for (name, topic) in &mut lock(&self.books).topics {
            topic.open = current.contains(name);
        }
        Ok(())
    }

    /// Begins to load the broker.
    pub fn begin(&mut self, mut chance: Chance, age: u64) {
        self.running.store(true, Ordering::SeqCst);
        for (number, producer) in self.producers.iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(0);
            let room = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT));
            let (told, mut receipts) = tokio::sync::mpsc::unbounded_channel();
            let books = Arc::clone(&self.books);
            self.receipts.push(tokio::spawn(async move {
                while let Some((topic, partition, id, receipt, permit)) = receipts.recv().await {
                    let receipt: tidemark_client::producer::Receipt = receipt;
                    let outcome = receipt.delivered().await;
                    let mut books = lock(&books);
                    let topic: String = topic;
                    match outcome {
                        Ok(done) => books.acknowledged(&topic, partition, id, done.offset),
                        Err(_) => books.failed += 1,
                    }
                    let permit: tokio::sync::OwnedSemaphorePermit = permit;
                    drop(permit);
                }
            }));
            let (producer, books) = (Arc::clone(producer), Arc::clone(&self.books));
            let (running, mut chance) = (Arc::clone(&self.running), chance.fork());
            self.tasks.push(tokio::spawn(async move {
                while running.load(Ordering::SeqCst) {
                    let names: Vec<(String, usize)> = lock(&books)
                        .topics
                        .iter()
                        .filter(|(_, topic)| topic.open && topic.life == Life::There)
                        .map(|(name, topic)| (name.clone(), topic.partitions.len()))
                        .collect();
                    let Some((topic, partitions)) = names.get(chance.index(names.len())) else {
                        sleep(Duration::from_millis(5)).await;
                        continue;
                    };
                    for _ in 0..=chance.below(12) {
                        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                            return;
                        };
                        if !running.load(Ordering::SeqCst) {
                            return;
                        }
                        let partition = i32::try_from(chance.index(*partitions)).unwrap_or(0);
                        let next = lock(&books).next(number, topic, partition);
                        let Some((id, value_bytes)) = next else { break };
                        let record = ProducerRecord {
                            topic: topic.clone(),
                            partition: Some(partition),
                            value: Some(crate::books::value(topic, partition, id, value_bytes)),
                            ..ProducerRecord::default()
                        };
                        match producer.send(record).await {
                            Ok(receipt) => {
                                drop(told.send((topic.clone(), partition, id, receipt, permit)));
                            }
                            Err(_) => lock(&books).failed += 1,
                        }
                    }
                    sleep(Duration::from_micros(chance.below(4000))).await;
                }
            }));
        }
        let (cluster, books) = (self.cluster.clone(), Arc::clone(&self.books));
        let (running, own) = (Arc::clone(&self.running), chance.fork());
        self.tasks
            .push(tokio::spawn(come_and_go(cluster, books, running, own, age)));
        let (cluster, books) = (self.cluster.clone(), Arc::clone(&self.books));
        let running = Arc::clone(&self.running);
        self.tasks
            .push(tokio::spawn(commit(cluster, books, running, chance, age)));
    }

    /// Nothing new is sent from now on.
    pub fn stop(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    /// Waits until everything sent is acknowledged or has failed, which a broker that is up again
    /// makes possible.
    ///
    /// # Errors
    /// That it takes too long, or a producer that is of no use any more.
    pub async fn settle(&mut self) -> Result<(), String> {
        let limit = Duration::from_secs(15);
        let settled = async {
            for task in self.tasks.drain(..) {
                task.await.map_err(|error| error.to_string())?;
            }
            for producer in &self.producers {
                producer.flush().await.map_err(|error| error.to_string())?;
            }
            for task in self.receipts.drain(..) {
                task.await.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        match tokio::time::timeout(limit, settled).await {
            Ok(result) => result,
            Err(_) => Err(format!(
                "records that were in flight are neither acknowledged nor refused after {limit:?}"
            )),
        }
    }

    /// Why the first record failed, where one did.
    pub fn first_failure(&self) -> Option<String> {
        let failures = self.producers.iter().filter_map(|p| p.stats().first_error);
        failures.map(|error| error.to_string()).next()
    }
}

/// Makes topics, deletes some of them, and deletes those of the age before.
async fn come_and_go(
    cluster: Cluster,
    books: SharedBooks,
    running: Arc<AtomicBool>,
    mut chance: Chance,
    age: u64,
) {
    while running.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(20 + chance.below(250))).await;
        let old: Vec<String> = {
            let books = lock(&books);
            let current: Vec<String> = topics_of(age).into_iter().map(|(name, ..)| name).collect();
            let gone = books
                .topics
                .iter()
                .filter(|(name, topic)| topic.life == Life::There && !current.contains(name));
            gone.map(|(name, _)| name.clone()).collect()
        };
        let many = old.len() > 6;
        if !old.is_empty() && (many || chance.percent(40)) {
            let name = old[chance.index(old.len())].clone();
            set_life(&books, &name, Life::InDoubt);
            let outcome = cluster.delete_topics(std::slice::from_ref(&name)).await;
            if outcome.is_ok_and(|all| all.iter().all(|(_, one)| one.is_ok())) {
                set_life(&books, &name, Life::Deleted);
            }
        } else {
            let name = format!("passing-{}", chance.number());
            let topic = Topic {
                life: Life::InDoubt,
                open: false,
                value_bytes: 100,
                retention_bytes: None,
                partitions: vec![Partition::default()],
            };
            lock(&books).topics.insert(name.clone(), topic);
            if create(&cluster, &name, 1, vec![]).await.is_ok() {
                set_life(&books, &name, Life::There);
            }
        }
    }
}

fn set_life(books: &SharedBooks, name: &str, life: Life) {
    if let Some(topic) = lock(books).topics.get_mut(name) {
        topic.life = life;
    }
}

/// Commits ever larger offsets for the group.
async fn commit(
    cluster: Cluster,
    books: SharedBooks,
    running: Arc<AtomicBool>,
    mut chance: Chance,
    age: u64,
) {
    let topic = format!("kept-{age}");
    while running.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(2 + chance.below(40))).await;
        let number = {
            let mut books = lock(&books);
            let commits: &mut Commits = books.commits.entry(topic.clone()).or_default();
            commits.sent += 1;
            commits.sent
        };
        let offsets = BTreeMap::from([(TopicPartition::new(topic.clone(), 0), number)]);
        if cluster.alter_group_offsets(GROUP, &offsets).await.is_ok()
            && let Some(commits) = lock(&books).commits.get_mut(&topic)
        {
            commits.acked = Some(number);
        }
    }
}
