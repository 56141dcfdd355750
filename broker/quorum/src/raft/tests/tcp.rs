//! The same over TCP, threads and a real disk.

use std::sync::Arc;
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::disk::FileDisk;

use super::super::*;
use super::cluster::{CLUSTER, is_set, put};
use super::*;

#[test]
fn three_voters_over_tcp_on_real_disks() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FileDisk::new());
        let mut listeners = Vec::new();
        let mut voters = InitialVoters::new();
        for id in 0..3 {
            let listener = tidemark_env::net::listen("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            voters.insert(voter(id, 1), VoterNode { address });
            listeners.push(listener);
        }
        let mut quorums = Vec::new();
        for (id, listener) in (0..).zip(listeners) {
            let path = dir.path().join(id.to_string());
            let identity = VoterIdentity {
                cluster_id: CLUSTER,
                voter: voter(id, 1),
            };
            format(&*disk, &path, identity, Some(&voters)).unwrap();
            let mut config = QuorumConfig::new(path, CLUSTER, id);
            (config.heartbeat_ms, config.election_ms) = (100, 400);
            let handler = Arc::new(NoForwarding);
            let quorum = Quorum::start(disk.clone(), Arc::new(TcpDial), config, handler)
                .await
                .unwrap();
            let serving = quorum.clone();
            quorum.until_closed(async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("a connection");
                    serving.serve(stream);
                }
            });
            quorums.push(quorum);
        }
        let deadline = clock::monotonic() + Duration::from_secs(30);
        let mut name = 0;
        // Whoever leads takes it.
        while name < 20 {
            assert!(clock::monotonic() < deadline, "no controller in time");
            for quorum in &quorums {
                if put(quorum, &format!("k{name}")).await.is_ok() {
                    name += 1;
                }
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
        for quorum in &quorums {
            let mut folds = quorum.watch();
            let all = folds.wait_for(|fold| is_set(&fold.image, "k19"));
            drop(clock::timeout(Duration::from_secs(10), all).await.unwrap());
        }
        for quorum in quorums {
            quorum.close().await;
        }
    });
}
