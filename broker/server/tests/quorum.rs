//! Three brokers in this process that keep their metadata together, over real sockets and disks.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are helpers of tests"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "common/mod.rs"]
mod common;
#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "broker/kit.rs"]
mod kit;

use common::{Connection, get, own_address};
use kit::{batch, first_of, format, produce_request, read, settings_of, values};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_client::ClusterOptions;
use tidemark_config::ConfigMap;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, FileDisk, OpenMode};
use tidemark_server::{InitialVoter, RunningServer, ServerConfig, Voters};
use tidemark_wire::messages::create_topics_request::CreatableTopic;
use tidemark_wire::messages::metadata_response::MetadataResponsePartition;
use tidemark_wire::messages::{CreateTopicsRequest, DescribeQuorumRequest, MetadataRequest};
use tidemark_wire::{ErrorCode, Uuid};

const PATIENCE: Duration = Duration::from_secs(40);

struct Cluster {
    dirs: Vec<TempDir>,
    settings: Vec<ConfigMap>,
    nodes: Vec<Option<RunningServer>>,
}

async fn run(settings: ConfigMap) -> RunningServer {
    run_on(FileDisk::new(), settings).await
}

async fn run_on(disk: FileDisk, settings: ConfigMap) -> RunningServer {
    let config = ServerConfig {
        settings,
        disk: Arc::new(disk),
        net_threads: 1,
        cut_corrupt_logs: false,
        format_if_empty: false,
        bucket: None,
    };
    tidemark_server::start(config).await.expect("it starts")
}

impl Cluster {
    /// Node 0 is a controller and no broker; nodes 1 and 2 are brokers without a vote.
    async fn with_a_controller_alone() -> Cluster {
        let quorum = own_address();
        let dirs: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let common = |id: usize| {
            [
                ("node.id", id.to_string()),
                ("controller.listener.names", "CONTROLLER".to_owned()),
                ("broker.heartbeat.interval.ms", "500".to_owned()),
                ("broker.session.timeout.ms", "20000".to_owned()),
                ("http.listen", "127.0.0.1:0".to_owned()),
                ("log.dirs", dirs[id].path().display().to_string()),
                ("default.replication.factor", "2".to_owned()),
            ]
        };
        let mut settings = Vec::new();
        for id in 0..3 {
            let mut own = common(id).to_vec();
            let voters = match id {
                0 => {
                    own.push(("process.roles", "controller".to_owned()));
                    own.push(("listeners", format!("CONTROLLER://{quorum}")));
                    Voters::Standalone
                }
                _ => {
                    own.push(("process.roles", "broker".to_owned()));
                    own.push(("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()));
                    own.push(("controller.quorum.bootstrap.servers", quorum.clone()));
                    Voters::Others
                }
            };
            let own = settings_of(&own);
            format(&own, &voters);
            settings.push(own);
        }
        let mut nodes = Vec::new();
        for own in &settings {
            nodes.push(Some(run(own.clone()).await));
        }
        Cluster {
            dirs,
            settings,
            nodes,
        }
    }

    async fn start() -> Cluster {
        let addresses = [(); 3].map(|()| own_address());
        let voters = addresses.iter().zip(0..).map(|(address, id)| InitialVoter {
            node_id: id,
            address: address.clone(),
            directory_id: Uuid([id as u8 + 1; 16]),
        });
        let voters = Voters::Initial(voters.collect());
        let dirs: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut settings = Vec::new();
        for (id, address) in addresses.iter().enumerate() {
            let listeners = format!("PLAINTEXT://127.0.0.1:0,CONTROLLER://{address}");
            let own = [
                ("node.id", id.to_string()),
                ("listeners", listeners),
                ("controller.listener.names", "CONTROLLER".to_owned()),
                ("controller.quorum.election.timeout.ms", "600".to_owned()),
                ("broker.heartbeat.interval.ms", "500".to_owned()),
                ("broker.session.timeout.ms", "20000".to_owned()),
                ("http.listen", "127.0.0.1:0".to_owned()),
                ("log.dirs", dirs[id].path().display().to_string()),
                ("default.replication.factor", "2".to_owned()),
                ("offsets.topic.num.partitions", "1".to_owned()),
            ];
            let own = settings_of(&own);
            format(&own, &voters);
            settings.push(own);
        }
        let [a, b, c] = [0, 1, 2].map(|id: usize| run(settings[id].clone()));
        let (a, b, c) = tokio::join!(a, b, c);
        Cluster {
            dirs,
            settings,
            nodes: vec![Some(a), Some(b), Some(c)],
        }
    }

    fn node(&self, id: i32) -> &RunningServer {
        self.nodes[id as usize].as_ref().expect("it runs")
    }

    async fn kill(&mut self, id: i32) {
        let node = self.nodes[id as usize].take().expect("it runs");
        node.kill().await;
    }

    async fn shut_down(&mut self, id: i32) {
        let node = self.nodes[id as usize].take().expect("it runs");
        node.shutdown().await;
    }

    async fn restart(&mut self, id: i32) {
        self.nodes[id as usize] = Some(run(self.settings[id as usize].clone()).await);
    }

    /// The active controller, once `of` knows one that is none of `not`.
    async fn controller(&self, of: i32, not: &[i32]) -> i32 {
        let mut c = Connection::open(self.node(of)).await;
        let deadline = clock::monotonic() + PATIENCE;
        loop {
            let quorum = c.ask(&describe(), 2).await;
            let leader = quorum.topics[0].partitions[0].leader_id;
            if leader >= 0 && !not.contains(&leader) {
                return leader;
            }
            assert!(clock::monotonic() < deadline, "no controller in time");
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn create(&self, through: i32, name: &str) {
        let mut c = Connection::open(self.node(through)).await;
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: name.to_owned(),
                num_partitions: 1,
                replication_factor: -1,
                ..Default::default()
            }],
            timeout_ms: 10_000,
            ..Default::default()
        };
        let deadline = clock::monotonic() + PATIENCE;
        loop {
            let response = c.ask(&request, 7).await;
            match ErrorCode::from_code(response.topics[0].error_code) {
                ErrorCode::None => break,
                ErrorCode::NotController => {
                    assert!(clock::monotonic() < deadline, "no controller in time");
                }
                error => panic!("{error:?}: {:?}", response.topics[0].error_message),
            }
        }
        // Whoever created it finds it at once.
        let metadata = c.ask(&all(), 12).await;
        let mut topics = metadata.topics.iter();
        assert!(topics.any(|topic| topic.name.as_deref() == Some(name)));
    }

    async fn up(&self, as_seen_by: i32) -> Vec<i32> {
        let mut c = Connection::open(self.node(as_seen_by)).await;
        let metadata = c.ask(&all(), 12).await;
        metadata
            .brokers
            .iter()
            .map(|broker| broker.node_id)
            .collect()
    }

    async fn until_up(&self, as_seen_by: i32, expected: &[i32]) {
        let deadline = clock::monotonic() + PATIENCE;
        while self.up(as_seen_by).await != expected {
            assert!(clock::monotonic() < deadline, "never up: {expected:?}");
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The only partition of a topic.
    async fn partition(&self, as_seen_by: i32, topic: &str) -> MetadataResponsePartition {
        let mut c = Connection::open(self.node(as_seen_by)).await;
        let metadata = c.ask(&all(), 12).await;
        let mut topics = metadata.topics.into_iter();
        let found = topics.find(|found| found.name.as_deref() == Some(topic));
        found.expect("the topic").partitions.remove(0)
    }

    async fn until_led(&self, as_seen_by: i32, topic: &str, leader: i32) {
        let deadline = clock::monotonic() + PATIENCE;
        while self.partition(as_seen_by, topic).await.leader_id != leader {
            assert!(clock::monotonic() < deadline, "{leader} never leads");
            clock::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn epoch(&self, id: i32) -> i64 {
        let state = get(self.node(id), "/state").await.1;
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        state["brokerEpoch"].as_i64().unwrap()
    }

    async fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.kill().await;
        }
        drop(self.dirs);
    }
}

fn all() -> MetadataRequest {
    MetadataRequest {
        topics: None,
        ..Default::default()
    }
}

fn describe() -> DescribeQuorumRequest {
    use tidemark_wire::messages::describe_quorum_request::{PartitionData, TopicData};
    DescribeQuorumRequest {
        topics: vec![TopicData {
            topic_name: "__cluster_metadata".into(),
            partitions: vec![PartitionData::default()],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_keep_their_metadata_together_and_outlive_the_controller() {
    let mut cluster = Cluster::start().await;
    cluster.until_up(0, &[0, 1, 2]).await;
    for id in 0..3 {
        cluster.create(id, &format!("through-{id}")).await;
    }
    let controller = cluster.controller(0, &[]).await;
    let mut others = vec![0, 1, 2];
    others.retain(|id| *id != controller);
    let began = clock::monotonic();
    let epoch = cluster.epoch(controller).await;
    cluster.kill(controller).await;
    // Far sooner than its session of 20 s ends: its port refuses the next controller.
    cluster.until_up(others[0], &others).await;
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    cluster.controller(others[0], &[controller]).await;
    cluster.create(others[0], "after").await;
    cluster.create(others[1], "after-that").await;
    cluster.restart(controller).await;
    cluster.until_up(others[1], &[0, 1, 2]).await;
    assert!(cluster.epoch(controller).await > epoch);
    cluster.create(controller, "again").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_is_fenced_at_once_and_a_stopped_one_too() {
    let mut cluster = Cluster::start().await;
    cluster.until_up(0, &[0, 1, 2]).await;
    let controller = cluster.controller(0, &[]).await;
    let mut others = vec![0, 1, 2];
    others.retain(|id| *id != controller);
    let began = clock::monotonic();
    cluster.kill(others[0]).await;
    let mut left = vec![controller, others[1]];
    left.sort_unstable();
    cluster.until_up(controller, &left).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    cluster.restart(others[0]).await;
    cluster.until_up(controller, &[0, 1, 2]).await;
    // A clean stop leaves nothing to be waited for.
    cluster.shut_down(others[1]).await;
    let mut left = vec![controller, others[0]];
    left.sort_unstable();
    cluster.until_up(controller, &left).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_does_not_keep_up_steps_back() {
    let mut cluster = Cluster::with_a_controller_alone().await;
    cluster.until_up(1, &[1, 2]).await;
    cluster.kill(2).await;
    cluster.until_up(1, &[1]).await;
    let mut slow = cluster.settings[2].clone();
    slow.insert("replica.lag.time.max.ms".to_owned(), "1000".to_owned());
    let disk = FileDisk::new().with_flush_delay(Duration::from_secs(1));
    cluster.nodes[2] = Some(run_on(disk, slow).await);
    cluster.until_up(1, &[1, 2]).await;
    let mut topics = 0..100;
    let topic = loop {
        let topic = format!("late{}", topics.next().expect("one of them is led by it"));
        cluster.create(1, &topic).await;
        if cluster.partition(1, &topic).await.leader_id == 2 {
            break topic;
        }
    };
    let mut c = Connection::open(cluster.node(2)).await;
    let deadline = clock::monotonic() + PATIENCE;
    while cluster.partition(1, &topic).await.leader_id == 2 {
        // Nobody waits for it, and something is always on its way to the disk.
        let mut request = produce_request(&topic, 1, vec![(0, batch(&[b"slow"]))]);
        request.timeout_ms = 1;
        drop(c.ask(&request, 12).await);
        let state = cluster.partition(1, &topic).await;
        assert!(clock::monotonic() < deadline, "it leads on: {state:?}");
        clock::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.partition(1, &topic).await.leader_id, 1);
    // It is not given up: it comes back by itself.
    cluster.until_up(1, &[1, 2]).await;
    cluster.stop().await;
}

/// A broker that is eligible and cannot use its log is not chosen: who has the records is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_log_is_damaged_does_not_lead_it_again() {
    let mut cluster = Cluster::start().await;
    cluster.until_up(0, &[0, 1, 2]).await;
    cluster.create(0, "t").await;
    let placed = cluster.partition(0, "t").await;
    let (damaged, whole) = (placed.replica_nodes[0], placed.replica_nodes[1]);
    let third = 3 - damaged - whole;
    let mut c = Connection::open(cluster.node(damaged)).await;
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        let request = produce_request("t", -1, vec![(0, batch(&[b"kept"]))]);
        if first_of(c.ask(&request, 12).await).error_code == 0 {
            break;
        }
        assert!(clock::monotonic() < deadline, "nothing is acknowledged");
    }
    let kept = values(&read(&mut c, "t", 0, 0).await).len();
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        let page = get(cluster.node(whole), "/metrics/partitions").await.1;
        let told =
            format!("tidemark_partition_high_watermark{{topic=\"t\",partition=\"0\"}} {kept}");
        if page.contains(&told) {
            break;
        }
        assert!(clock::monotonic() < deadline, "it is never told");
    }
    cluster.shut_down(damaged).await;
    cluster.until_led(third, "t", whole).await;
    cluster.shut_down(whole).await;
    // Its last batch is not whole.
    let path = cluster.dirs[damaged as usize]
        .path()
        .join("t-0/00000000000000000000.log");
    let file = FileDisk::new().open(&path, OpenMode::ReadWrite).unwrap();
    file.set_len(file.len().unwrap() - 1).unwrap();
    cluster.restart(damaged).await;
    let mut up = vec![damaged, third];
    up.sort_unstable();
    cluster.until_up(third, &up).await;
    let state = cluster.partition(third, "t").await;
    assert_eq!(state.leader_id, -1, "{state:?}");
    cluster.restart(whole).await;
    cluster.until_led(third, "t", whole).await;
    // Alone it is below the minimum, and commits nothing. What was committed it knows.
    let mut c = Connection::open(cluster.node(whole)).await;
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        let found = read(&mut c, "t", 0, 0).await;
        if found.error_code == 0 && values(&found).len() == kept {
            break;
        }
        assert!(clock::monotonic() < deadline, "{found:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_a_controller_that_is_gone_the_next_one_answers() {
    let mut cluster = Cluster::start().await;
    cluster.until_up(0, &[0, 1, 2]).await;
    let gone = cluster.controller(0, &[]).await;
    let bootstrap = cluster.node((gone + 1) % 3).bootstrap();
    let client = tidemark_client::Cluster::connect(&bootstrap, ClusterOptions::default());
    let client = client.await.unwrap();
    assert_eq!(client.info().controller, Some(gone));
    cluster.kill(gone).await;
    let moving = client.reassignments(None).await;
    assert!(moving.as_ref().is_ok_and(Vec::is_empty), "{moving:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_alone_leads_brokers_that_have_no_vote() {
    let mut cluster = Cluster::with_a_controller_alone().await;
    cluster.until_up(1, &[1, 2]).await;
    assert_eq!(cluster.controller(1, &[]).await, 0);
    // Only the leader knows how far each has the log.
    let mut c = Connection::open(cluster.node(1)).await;
    let quorum = c.ask(&describe(), 2).await;
    let voters = &quorum.topics[0].partitions[0].current_voters;
    assert!(voters[0].log_end_offset > 0, "{voters:?}");
    let (status, why) = get(cluster.node(0), "/readyz").await;
    assert!(status.contains(" 200 "), "{status} {why}");
    for id in [1, 2] {
        cluster.create(id, &format!("through-{id}")).await;
    }
    // It watches the ports of brokers, though it has no listener of their kind.
    let began = clock::monotonic();
    cluster.kill(2).await;
    cluster.until_up(1, &[1]).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    cluster.restart(2).await;
    cluster.until_up(1, &[1, 2]).await;
    // Brokers serve on without it, and go on with it.
    let controller = cluster.nodes[0].take().unwrap();
    controller.shutdown().await;
    assert_eq!(cluster.up(1).await, [1, 2]);
    cluster.restart(0).await;
    cluster.create(2, "after").await;
    cluster.stop().await;
}
