//! Coordinators that move between three brokers, with what was committed.

use crate::cluster::Cluster;
use crate::groups::{commit, committed};
use crate::kit::{code, until};
use tidemark_wire::ErrorCode;
use tidemark_wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse};

const OFFSETS: &str = "__consumer_offsets";
const GROUP: &str = "g";

/// Who coordinates the group, as this broker tells it; `None` while nobody does.
async fn coordinator(cluster: &Cluster, asked: i32) -> Option<i32> {
    let mut c = cluster.connect(asked).await;
    let request = FindCoordinatorRequest {
        coordinator_keys: vec![GROUP.into()],
        ..Default::default()
    };
    let found: FindCoordinatorResponse = c.ask(&request, 6).await;
    let found = &found.coordinators[0];
    (found.error_code == 0).then_some(found.node_id)
}

/// Commits at this broker as soon as it takes it.
async fn commit_at(cluster: &Cluster, id: i32, offset: i64) {
    let mut c = cluster.connect(id).await;
    let passing = [
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::NotCoordinator,
        ErrorCode::CoordinatorNotAvailable,
        // Its metadata are a little behind.
        ErrorCode::UnknownTopicOrPartition,
    ]
    .map(code);
    until("the commit is taken", async || {
        let error = commit(&mut c, GROUP, "t", offset).await;
        assert!(error == 0 || passing.contains(&error), "{error}");
        error == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_survives_its_coordinator() {
    let mut cluster = Cluster::start(&[]).await;
    cluster.topic("t", &[]).await;
    until("there is a coordinator", async || {
        coordinator(&cluster, 0).await.is_some()
    })
    .await;
    let first = coordinator(&cluster, 0).await.expect("there is one");
    assert_eq!(cluster.state(OFFSETS).replicas.len(), 3);
    for asked in 0..3 {
        until("everybody tells the same", async || {
            coordinator(&cluster, asked).await == Some(first)
        })
        .await;
    }
    for offset in 1..=20 {
        commit_at(&cluster, first, offset).await;
    }
    // The others send clients away.
    let other = (first + 1) % 3;
    let mut c = cluster.connect(other).await;
    let refused = commit(&mut c, GROUP, "t", 99).await;
    assert_eq!(refused, code(ErrorCode::NotCoordinator));

    cluster.kill(first).await;
    let second = cluster.until_led_by_another(OFFSETS, first).await;
    until("it tells that it coordinates", async || {
        coordinator(&cluster, second).await == Some(second)
    })
    .await;
    let mut c = cluster.connect(second).await;
    assert_eq!(committed(&mut c, GROUP, "t").await.0, 20);
    commit_at(&cluster, second, 21).await;

    // Back, it follows, and is sent to.
    cluster.start_node(first as usize).await;
    until("it tells who coordinates", async || {
        coordinator(&cluster, first).await == Some(second)
    })
    .await;
    let mut c = cluster.connect(first).await;
    let refused = commit(&mut c, GROUP, "t", 99).await;
    assert_eq!(refused, code(ErrorCode::NotCoordinator));
    until("it is in sync again", async || {
        cluster.state(OFFSETS).isr.contains(&first)
    })
    .await;
    // The deposed one leads again, and has what was committed without it.
    cluster.kill(second).await;
    let third = cluster.until_led_by_another(OFFSETS, second).await;
    let mut c = cluster.connect(third).await;
    assert_eq!(committed(&mut c, GROUP, "t").await.0, 21);
}
