//! A coordinator that goes with its partition. The other broker is one of the metadata only.

use super::*;
use crate::handlers::find_coordinator;
use crate::testing::{ELSEWHERE, HERE, PATIENCE, Two, context};
use tidemark_coordinator::{
    CommitPartition, CommitTopic, Heartbeat, JoinGroup, OffsetCommit, OffsetFetch,
};
use tidemark_model::NO_LEADER;
use tidemark_wire::ApiKey;
use tidemark_wire::messages::FindCoordinatorRequest;
use tidemark_wire::messages::find_coordinator_response::Coordinator;

async fn two() -> Two {
    let two = Two::start(&[
        ("offsets.topic.num.partitions", "1"),
        // A first member waits so long for others.
        ("group.initial.rebalance.delay.ms", "3600000"),
    ])
    .await;
    two.broker
        .groups
        .ensure_topic(&two.broker)
        .await
        .expect("a topic");
    two.lead(HERE).await;
    two
}

impl Two {
    async fn lead(&self, leader: i32) {
        self.elect(CONSUMER_OFFSETS, leader).await;
    }

    async fn find(&self) -> Coordinator {
        let context = context(ApiKey::FindCoordinator, 6);
        let request = FindCoordinatorRequest {
            coordinator_keys: vec!["g".into()],
            ..Default::default()
        };
        let found = find_coordinator::handle(&self.broker, &context, request).await;
        found.coordinators.into_iter().next().expect("one answer")
    }

    async fn commit(&self, offset: i64) -> ErrorCode {
        let commit = OffsetCommit {
            api_version: 8,
            group_id: "g".into(),
            generation_id: -1,
            member_id: String::new(),
            group_instance_id: None,
            retention_time_ms: None,
            topics: vec![CommitTopic {
                name: CONSUMER_OFFSETS.into(),
                topic_id: Uuid::ZERO,
                partitions: vec![CommitPartition {
                    partition: 0,
                    offset,
                    leader_epoch: -1,
                    metadata: None,
                }],
            }],
        };
        let request = Request::OffsetCommit(commit);
        match self.broker.groups.ask(&self.broker, request).await {
            Response::OffsetCommit(committed) => committed.topics[0].partitions[0].1,
            other => panic!("{other:?}"),
        }
    }

    /// The stored offset, if there is one, once it is told without an error.
    async fn stored(&self) -> Option<i64> {
        let ask = async {
            loop {
                match self.fetch().await {
                    Ok(stored) => return stored,
                    Err(ErrorCode::CoordinatorLoadInProgress) => {
                        clock::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        clock::timeout(PATIENCE, ask).await.expect("it is loaded")
    }

    async fn fetch(&self) -> Result<Option<i64>, ErrorCode> {
        let request = Request::OffsetFetch(OffsetFetch {
            group_id: "g".into(),
            topics: None,
        });
        match self.broker.groups.ask(&self.broker, request).await {
            Response::OffsetFetch(fetched) if fetched.error == ErrorCode::None => {
                let partition = fetched.topics.first().and_then(|t| t.partitions.first());
                Ok(partition.map(|partition| partition.offset))
            }
            Response::OffsetFetch(fetched) => Err(fetched.error),
            other => panic!("{other:?}"),
        }
    }

    fn join(&self) -> Request {
        Request::JoinGroup(JoinGroup {
            api_version: 3,
            group_id: "members".into(),
            member_id: String::new(),
            group_instance_id: None,
            client_id: "test".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 30_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), bytes::Bytes::new())],
            reason: None,
            random: Uuid([1; 16]),
        })
    }
}

#[tokio::test]
async fn a_coordinator_goes_with_its_partition_and_comes_back_with_all_that_was_committed() {
    let two = two().await;
    let found = two.find().await;
    assert_eq!((found.error_code, found.node_id), (0, HERE));
    assert_eq!(two.stored().await, None);
    assert_eq!(two.commit(7).await, ErrorCode::None);

    two.lead(ELSEWHERE).await;
    let found = two.find().await;
    let at = (found.error_code, found.node_id, &*found.host, found.port);
    assert_eq!(at, (0, ELSEWHERE, "127.0.0.2", 9));
    assert_eq!(two.fetch().await, Err(ErrorCode::NotCoordinator));
    assert_eq!(two.commit(8).await, ErrorCode::NotCoordinator);
    assert!(two.broker.groups.shards().is_empty());

    two.lead(NO_LEADER).await;
    let found = two.find().await;
    let expected = ErrorCode::CoordinatorNotAvailable.code();
    assert_eq!((found.error_code, found.node_id), (expected, -1));

    two.lead(HERE).await;
    assert_eq!(two.find().await.node_id, HERE);
    assert_eq!(two.stored().await, Some(7));
    two.server.shutdown().await;
}

#[tokio::test]
async fn who_waits_is_sent_away_when_the_leader_changes_and_when_only_the_epoch_does() {
    let two = two().await;
    for next in [HERE, ELSEWHERE] {
        two.stored().await;
        let joining = two.broker.groups.ask(&two.broker, two.join());
        let mut joining = std::pin::pin!(joining);
        // It is with the coordinator from the first poll on.
        let waits = clock::timeout(Duration::from_millis(50), &mut joining).await;
        assert!(waits.is_err(), "the first member waits for others");
        two.lead(next).await;
        let answered = clock::timeout(PATIENCE, joining).await.expect("an answer");
        let Response::JoinGroup(answer) = answered else {
            panic!("another API's answer");
        };
        assert_eq!(answer.error, ErrorCode::NotCoordinator);
    }
    two.server.shutdown().await;
}

#[tokio::test]
async fn a_coordinator_of_an_earlier_epoch_appends_nothing() {
    let two = two().await;
    assert_eq!(two.stored().await, None);
    let shard = two.broker.groups.shard(0).expect("a coordinator");
    let topic = Arc::clone(two.broker.image().topic(CONSUMER_OFFSETS).expect("a topic"));
    let partition = two.broker.partitions.get(topic.id, 0).expect("a partition");
    two.lead(HERE).await;
    assert_eq!(two.commit_until_taken(1).await, ErrorCode::None);
    let end = partition.bounds().expect("it is open").end;
    let late = Request::Heartbeat(Heartbeat {
        group_id: "g".into(),
        generation_id: 1,
        member_id: "m".into(),
        group_instance_id: None,
    });
    let answer = shard.ask(Token(u64::MAX), late).await;
    assert_eq!(answer, Response::Heartbeat(ErrorCode::NotCoordinator));
    let log = GroupLog::new(Arc::clone(&partition), 0);
    assert!(log.bounds().is_none());
    let record = tidemark_coordinator::LogRecord {
        key: bytes::Bytes::from_static(b"k"),
        value: None,
    };
    assert_eq!(log.append(&[record]), Err(ErrorCode::NotLeaderOrFollower));
    assert_eq!(partition.bounds().expect("it is open").end, end);
    two.server.shutdown().await;
}

impl Two {
    async fn commit_until_taken(&self, offset: i64) -> ErrorCode {
        self.stored().await;
        self.commit(offset).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lag_is_what_lies_between_the_committed_offset_and_the_high_watermark() {
    let two = two().await;
    assert_eq!(two.commit(0).await, ErrorCode::None);
    let image = two.broker.image();
    let id = image.topic(CONSUMER_OFFSETS).expect("it exists").id;
    let partition = two.broker.partitions.get(id, 0).expect("it is held here");
    let end = partition.bounds().expect("it is open").high_watermark;
    let sample = || {
        let samples = two.broker.groups.samples(&two.broker);
        samples
            .into_iter()
            .find(|s| s.group == "g")
            .expect("listed")
    };
    let behind = sample();
    assert!(end > 0);
    assert_eq!(behind.lag_records, end.unsigned_abs());
    assert_eq!((behind.committed, behind.unknown_partitions), (0, 0));
    // The batch was written just now, by this process's clock.
    assert!(u128::from(behind.lag_ms) < PATIENCE.as_millis());

    // This commit is a record too.
    assert_eq!(two.commit(end + 1).await, ErrorCode::None);
    let caught_up = sample();
    assert_eq!((caught_up.lag_records, caught_up.lag_ms), (0, 0));
    assert_eq!(caught_up.committed, end + 1);
}
