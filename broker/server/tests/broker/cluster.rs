//! Three brokers in this process, and a controller beside them.

use crate::common::{Connection, get, own_address, series};
use crate::kit::{
    batch, batches, create, fetch_request, first_of, format, from, partitions_of, produce_request,
    read, settings_of, until,
};
use crate::slow_disk::{OpenAtEnd, SlowDisk};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tidemark_config::ConfigMap;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_model::{BrokerId, Image, Partition};
use tidemark_server::{RunningServer, ServerConfig, StartError, Voters};
use tidemark_wire::messages::AlterPartitionReassignmentsRequest;
use tidemark_wire::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use tidemark_wire::messages::produce_response::PartitionProduceResponse;

/// A version of Fetch that followers do not answer to consumers.
const LEADERS_ONLY: i16 = 10;
pub const ALL: i16 = -1;

/// The node that is a controller alone.
const CONTROLLER: usize = 3;

pub struct Cluster {
    controller: RunningServer,
    /// Where brokers find it.
    quorum: String,
    pub dirs: Vec<TempDir>,
    /// Of each broker's disk.
    gates: Vec<OpenAtEnd>,
    pub nodes: Vec<Option<RunningServer>>,
    settings: Vec<(String, String)>,
}

/// Starts a controller whose listener is here.
async fn start_controller(
    dir: &Path,
    quorum: &str,
    settings: &[(String, String)],
) -> RunningServer {
    let mut own = settings_of(&[
        ("node.id", CONTROLLER.to_string()),
        ("process.roles", "controller".to_owned()),
        ("listeners", format!("CONTROLLER://{quorum}")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("broker.session.timeout.ms", "30000".to_owned()),
        ("http.listen", "127.0.0.1:0".to_owned()),
        ("default.replication.factor", "3".to_owned()),
        ("min.insync.replicas", "2".to_owned()),
        ("offsets.topic.num.partitions", "1".to_owned()),
        ("log.dirs", dir.display().to_string()),
    ]);
    own.extend(settings.iter().cloned());
    format(&own, &Voters::Standalone);
    start(own, Arc::new(FileDisk::new()))
        .await
        .expect("the controller starts")
}

async fn start(settings: ConfigMap, disk: Arc<dyn Disk>) -> Result<RunningServer, StartError> {
    let config = ServerConfig {
        settings,
        disk,
        net_threads: 1,
        cut_corrupt_logs: false,
        format_if_empty: false,
        bucket: None,
    };
    tidemark_server::start(config).await
}

impl Cluster {
    /// Three brokers with these settings on top.
    pub async fn start(settings: &[(&str, &str)]) -> Cluster {
        let dirs: Vec<TempDir> = (0..=CONTROLLER)
            .map(|_| tempfile::tempdir().unwrap())
            .collect();
        let settings: Vec<(String, String)> = settings
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let quorum = own_address();
        let controller = start_controller(dirs[CONTROLLER].path(), &quorum, &settings).await;
        let mut cluster = Cluster {
            controller,
            quorum,
            dirs,
            gates: (0..3).map(|_| OpenAtEnd(Arc::default())).collect(),
            nodes: vec![None, None, None],
            settings,
        };
        for id in 0..3 {
            format(&cluster.settings_of(id), &Voters::Others);
            cluster.start_node(id).await;
        }
        cluster
    }

    fn settings_of(&self, id: usize) -> ConfigMap {
        let mut settings = settings_of(&[
            ("node.id", id.to_string()),
            ("process.roles", "broker".to_owned()),
            ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
            ("controller.listener.names", "CONTROLLER".to_owned()),
            ("controller.quorum.bootstrap.servers", self.quorum.clone()),
            ("broker.heartbeat.interval.ms", "500".to_owned()),
            ("http.listen", "127.0.0.1:0".to_owned()),
            ("log.dirs", self.dirs[id].path().display().to_string()),
            ("default.replication.factor", "3".to_owned()),
            ("min.insync.replicas", "2".to_owned()),
            ("offsets.topic.num.partitions", "1".to_owned()),
            ("replica.lag.time.max.ms", "600".to_owned()),
            ("broker.rack", format!("rack-{id}")),
        ]);
        settings.extend(self.settings.iter().cloned());
        settings
    }

    pub async fn start_node(&mut self, id: usize) {
        let disk = SlowDisk::behind(&self.gates[id].0);
        let server = start(self.settings_of(id), disk).await;
        self.nodes[id] = Some(server.expect("the broker starts"));
    }

    /// Ends a broker as kill -9 does. The controller hears of it at once.
    pub async fn kill(&mut self, id: BrokerId) {
        let node = self.nodes[id as usize].take().expect("it runs");
        node.kill().await;
    }

    /// From now on nothing becomes durable on a broker that lives on.
    pub fn hang_disk(&self, id: BrokerId) {
        self.gates[id as usize].0.shut();
    }

    pub fn mend_disk(&self, id: BrokerId) {
        self.gates[id as usize].0.open();
    }

    pub fn node(&self, id: BrokerId) -> &RunningServer {
        self.nodes[id as usize].as_ref().expect("it runs")
    }

    pub async fn connect(&self, id: BrokerId) -> Connection {
        Connection::open(self.node(id)).await
    }

    /// The controller's.
    pub fn image(&self) -> Arc<Image> {
        self.controller.image().expect("it has some")
    }

    pub fn state(&self, topic: &str) -> Partition {
        let image = self.image();
        let topic = image.topic(topic).expect("the topic");
        Partition::clone(topic.partition(0).expect("its partition"))
    }

    /// Waits until so many are in sync.
    pub async fn until_in_sync(&self, topic: &str, count: usize) {
        until("the ISR is of that size", async || {
            self.state(topic).isr.len() == count
        })
        .await;
    }

    /// Waits until another broker leads; gives which.
    pub async fn until_led_by_another(&self, topic: &str, than: BrokerId) -> BrokerId {
        until("another broker leads", async || {
            let leader = self.state(topic).leader;
            leader >= 0 && leader != than
        })
        .await;
        self.state(topic).leader
    }

    /// A topic of one partition; gives its leader.
    pub async fn topic(&self, name: &str, configs: &[(&str, &str)]) -> BrokerId {
        let mut c = self.connect(0).await;
        let response = c.ask(&create(name, 1, configs), 7).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
        let leader = self.state(name).leader;
        let mut c = self.connect(leader).await;
        let request = fetch_request(name, vec![from(0, 0)]);
        until("the leader serves", async || {
            let response = c.ask(&request, LEADERS_ONLY).await;
            partitions_of(&response)[0].error_code == 0
        })
        .await;
        leader
    }

    /// Has the only partition of a topic moved to these brokers.
    pub async fn reassign(&self, topic: &str, replicas: &[BrokerId]) {
        let request = AlterPartitionReassignmentsRequest {
            timeout_ms: 10_000,
            topics: vec![ReassignableTopic {
                name: topic.into(),
                partitions: vec![ReassignablePartition {
                    partition_index: 0,
                    replicas: Some(replicas.to_vec()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut c = self.connect(0).await;
        let answer = c.ask(&request, 0).await;
        assert_eq!(
            answer.responses[0].partitions[0].error_code, 0,
            "{answer:?}"
        );
    }

    /// The bytes of the log that a broker gives to consumers.
    pub async fn bytes(&self, id: BrokerId, topic: &str) -> Vec<u8> {
        let mut c = self.connect(id).await;
        let data = read(&mut c, topic, 0, 0).await;
        assert_eq!(data.error_code, 0, "broker {id}");
        batches(&data)
            .iter()
            .flat_map(|b| b.bytes.to_vec())
            .collect()
    }

    /// Waits until a follower gives out the same as the leader.
    pub async fn level(&self, follower: BrokerId, leader: BrokerId, topic: &str) {
        let own = self.bytes(leader, topic).await;
        until("the follower gives out the same", async || {
            self.bytes(follower, topic).await == own
        })
        .await;
    }

    pub async fn number(&self, id: BrokerId, what: &str, topic: &str) -> i64 {
        let page = get(self.node(id), "/metrics/partitions").await.1;
        let name = format!("tidemark_partition_{what}{{topic=\"{topic}\",partition=\"0\"}}");
        match page.contains(&name) {
            true => series(&page, &name).parse().unwrap(),
            false => -1,
        }
    }
}

pub async fn produce_with(
    c: &mut Connection,
    topic: &str,
    acks: i16,
    value: &str,
) -> PartitionProduceResponse {
    let request = produce_request(topic, acks, vec![(0, batch(&[value.as_bytes()]))]);
    first_of(c.ask(&request, 12).await)
}
