//! What a quorum of one costs on a real disk, over real time. For `--ignored --nocapture`, in
//! the release profile.

use std::sync::Arc;
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::disk::FileDisk;
use tidemark_env::task::spawn;
use tidemark_model::Image;

use super::super::*;
use super::cluster::{CLUSTER, node, set};
use super::*;
use crate::decide::Decision;

async fn put(quorum: &Quorum, name: &str) {
    let records = set(name);
    let decide = move |_: &Image| Decision {
        records,
        result: (),
    };
    quorum.propose(decide).await.unwrap();
}

async fn open(disk: Arc<FileDisk>, config: &QuorumConfig) -> Arc<Quorum> {
    let handler = Arc::new(NoForwarding);
    let quorum = Quorum::start(disk, Arc::new(TcpDial), config.clone(), handler)
        .await
        .unwrap();
    let mut activity = quorum.activity();
    while activity.epoch().is_none() {
        assert!(activity.changed().await);
    }
    quorum
}

async fn at_once(quorum: &Arc<Quorum>, proposers: usize, total: usize) -> f64 {
    let begun = clock::monotonic();
    let mut tasks = Vec::new();
    for task in 0..proposers {
        let quorum = quorum.clone();
        tasks.push(spawn("put", async move {
            for n in 0..total / proposers {
                put(&quorum, &format!("k{}", (task + n * 7) % 100)).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    total as f64 / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement"]
fn a_quorum_of_one_on_a_real_disk() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let at = std::env::var("RAFT_DIR").map_or_else(|_| std::env::temp_dir(), Into::into);
        let dir = tempfile::tempdir_in(at).unwrap();
        let disk = Arc::new(FileDisk::new());
        let path = dir.path().join("raft");
        let voters: InitialVoters = [(voter(0, 1), node(0))].into();
        let identity = VoterIdentity {
            cluster_id: CLUSTER,
            voter: voter(0, 1),
        };
        format(&*disk, &path, identity, Some(&voters)).unwrap();
        let config = QuorumConfig::new(path, CLUSTER, 0);
        let begun = clock::monotonic();
        let quorum = open(disk.clone(), &config).await;
        println!("first start until active: {:?}", begun.elapsed());
        println!(
            "one by one: {:.0} proposals/s",
            at_once(&quorum, 1, 1000).await
        );
        println!(
            "64 at once: {:.0} proposals/s",
            at_once(&quorum, 64, 20_000).await
        );
        println!(
            "512 at once: {:.0} proposals/s",
            at_once(&quorum, 512, 50_000).await
        );
        let last = quorum.status().last.unwrap().index;
        println!("{last} entries");
        quorum.close().await;
        let begun = clock::monotonic();
        let quorum = open(disk, &config).await;
        println!("restart until active: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5));
        quorum.close().await;
    });
}
