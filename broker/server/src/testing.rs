//! A broker that runs, and the metadata of another one, for tests of what is told of both.

#![allow(clippy::panic, reason = "these are helpers of tests")]

pub(crate) mod counting;

use crate::broker::Broker;
use crate::context::{Context, UNKNOWN_PEER};
use crate::{RunningServer, ServerConfig};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tidemark_config::ConfigMap;
use tidemark_env::disk::FileDisk;
use tidemark_model::{
    BrokerEpoch, Endpoint, Image, MetadataRecord, NO_LEADER, Partition as PartitionState,
    TopicPartition,
};
use tidemark_quorum::decide::{self, Decision, Heartbeat, Join, NewTopic, Registration};
use tidemark_wire::{ApiKey, Uuid};

/// The broker that runs.
pub(crate) const HERE: i32 = 1;
/// The one that is only registered.
pub(crate) const ELSEWHERE: i32 = 2;
/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Both.
pub(crate) struct Two {
    pub(crate) server: RunningServer,
    pub(crate) broker: Arc<Broker>,
    epoch_elsewhere: BrokerEpoch,
    _dir: TempDir,
}

/// A request on the listener `PLAINTEXT`, which both have.
pub(crate) fn context(api: ApiKey, version: i16) -> Context {
    Context {
        api,
        version,
        correlation_id: 0,
        client_id: String::new(),
        peer: UNKNOWN_PEER,
        listener: Arc::from("PLAINTEXT"),
        held: Mutex::default(),
        announced: Mutex::default(),
    }
}

impl Two {
    /// Starts the one, with these settings on top, and registers the other.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Two {
        Two::start_beside(None, settings).await
    }

    /// The same, where the other one's port for brokers is this one.
    pub(crate) async fn start_beside(port: Option<u16>, settings: &[(&str, &str)]) -> Two {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log_dirs = dir.path().display().to_string();
        let own = [
            ("node.id", "1"),
            ("listeners", "PLAINTEXT://127.0.0.1:0,LOCAL://127.0.0.1:0"),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,LOCAL:PLAINTEXT",
            ),
            ("http.listen", "127.0.0.1:0"),
            // Nobody looks whether the other is there.
            ("inter.broker.listener.name", "LOCAL"),
            ("broker.session.timeout.ms", "600000"),
            ("log.dirs", &log_dirs),
            // The other one takes nothing.
            ("min.insync.replicas", "1"),
        ];
        let all = own.iter().chain(settings);
        let server = crate::start(ServerConfig {
            settings: all
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<ConfigMap>(),
            disk: Arc::new(FileDisk::new()),
            net_threads: 1,
            cut_corrupt_logs: false,
            format_if_empty: true,
            bucket: None,
        })
        .await
        .expect("the broker starts");
        let broker = Arc::clone(server.broker().expect("a broker"));
        let other = Registration {
            broker_id: ELSEWHERE,
            incarnation_id: Uuid([2; 16]),
            directories: vec![Uuid([3; 16])],
            endpoints: [
                ("PLAINTEXT", "127.0.0.2", Some(9)),
                ("LOCAL", "127.0.0.1", port),
            ]
            .into_iter()
            .filter_map(|(name, host, port)| {
                Some(Endpoint {
                    name: name.into(),
                    host: host.into(),
                    port: port?,
                    security_protocol: 0,
                })
            })
            .collect(),
            rack: Some("far".into()),
        };
        let join = Join {
            registration: other,
            cluster_id: broker.image().cluster_id().expect("a cluster"),
            recorded: Vec::new(),
            features: crate::features::supported(),
        };
        let registered = broker.node.register(join).await;
        let epoch_elsewhere = registered.expect("a change").expect("a registration");
        let two = Two {
            server,
            broker,
            epoch_elsewhere,
            _dir: dir,
        };
        two.heartbeat_elsewhere(false).await;
        two
    }

    /// A heartbeat of the other one; `want_fence` takes it out of use.
    pub(crate) async fn heartbeat_elsewhere(&self, want_fence: bool) {
        let beat = Heartbeat {
            broker_id: ELSEWHERE,
            broker_epoch: self.epoch_elsewhere,
            image_index: u64::MAX,
            want_fence,
            want_shutdown: false,
            damaged: Vec::new(),
        };
        let answer = self.broker.node.heartbeat(beat).await.expect("a change");
        assert_eq!(answer.expect("a broker").is_fenced, want_fence);
    }

    /// Makes a topic with so many partitions, each on these brokers.
    pub(crate) async fn topic(&self, name: &str, partitions: i32, replicas: Vec<i32>) {
        let new = NewTopic {
            name: name.into(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: (0..partitions).map(|at| (at, replicas.clone())).collect(),
            configs: Vec::new(),
        };
        let created = self.broker.change(move |image, context, settings| {
            decide::create_topics(
                image,
                context,
                settings,
                &[new],
                false,
                crate::broker::new_id,
            )
        });
        let created = created.await.expect("a change");
        assert!(created[0].is_ok(), "{created:?}");
    }

    /// Has partition 0 of a topic led by another leader, in a new epoch, which is in the ISR
    /// alone then.
    pub(crate) async fn elect(&self, topic: &'static str, leader: i32) {
        let decide = move |image: &Image, _: decide::Context<'_>, _: &_| {
            let topic = image.topic(topic).expect("the topic");
            let before = topic.partition(0).expect("a partition");
            let leader_epoch = before.leader_epoch + 1;
            let clean = leader == NO_LEADER || before.isr.contains(&leader);
            let after = PartitionState {
                replicas: before.replicas.clone(),
                isr: match leader {
                    NO_LEADER => before.isr.clone(),
                    leader => vec![leader],
                },
                leader,
                leader_epoch,
                partition_epoch: before.partition_epoch + 1,
                unclean_epoch: match clean {
                    true => before.unclean_epoch,
                    false => leader_epoch,
                },
                ..PartitionState::default()
            };
            let at = TopicPartition {
                topic_id: topic.id,
                partition: 0,
            };
            let epoch_of = |id| image.broker(id).map(|broker| broker.epoch);
            Decision {
                records: vec![MetadataRecord::partition_change(
                    at, before, after, epoch_of,
                )],
                result: (),
            }
        };
        self.broker.change(decide).await.expect("another leader");
    }
}
