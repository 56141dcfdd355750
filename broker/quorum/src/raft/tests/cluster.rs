//! A cluster for tests: voters in one runtime whose clock jumps, over links that can be cut
//! and disks that forget. Every state that is seen is held against those seen elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tidemark_env::clock;
use tidemark_env::disk::MemDisk;
use tidemark_env::net::Stream;
use tidemark_env::task::{Task, spawn};
use tidemark_model::{ConfigResource, Image, MetadataRecord};
use tidemark_wire::Uuid;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::super::*;
use super::*;
use crate::decide::Decision;

pub(super) const CLUSTER: Uuid = Uuid([9; 16]);

/// Which links are cut, and who is there.
#[derive(Default)]
pub(super) struct Net {
    nodes: Mutex<BTreeMap<i32, Arc<Quorum>>>,
    cut: Mutex<BTreeSet<(i32, i32)>>,
}

impl Net {
    fn is_cut(&self, from: i32, to: i32) -> bool {
        self.cut.lock().unwrap().contains(&(from, to))
    }

    /// Nothing goes between `node` and the others any more.
    pub(super) fn isolate(&self, node: i32) {
        for other in 0..10 {
            self.cut_one_way(node, other);
            self.cut_one_way(other, node);
        }
    }

    pub(super) fn cut_one_way(&self, from: i32, to: i32) {
        self.cut.lock().unwrap().insert((from, to));
    }

    pub(super) fn heal(&self) {
        self.cut.lock().unwrap().clear();
    }
}

/// One end of a connection.
struct End {
    net: Arc<Net>,
    me: i32,
    peer: i32,
    inner: DuplexStream,
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.net.is_cut(self.peer, self.me) {
            // Nobody wakes it: the caller's patience ends.
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.net.is_cut(self.me, self.peer) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Addresses are `node-ID`.
pub(super) struct NetDial {
    pub(super) net: Arc<Net>,
    pub(super) from: i32,
}

impl Dial for NetDial {
    fn dial<'a>(&'a self, address: &'a str, timeout: Duration) -> Dialled<'a> {
        Box::pin(async move {
            let to: i32 = address.strip_prefix("node-").unwrap().parse().unwrap();
            if self.net.is_cut(self.from, to) || self.net.is_cut(to, self.from) {
                clock::sleep(timeout).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            let node = self.net.nodes.lock().unwrap().get(&to).cloned();
            let node = node.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (mine, theirs) = duplex(64 * 1024);
            let end = |me, peer, inner| {
                Stream::new(End {
                    net: self.net.clone(),
                    me,
                    peer,
                    inner,
                })
            };
            node.serve(end(to, self.from, theirs));
            Ok(end(self.from, to, mine))
        })
    }
}

pub(super) fn dir() -> PathBuf {
    PathBuf::from("/raft")
}

pub(super) fn node(id: i32) -> VoterNode {
    VoterNode {
        address: format!("node-{id}"),
    }
}

/// A cluster that is being tested.
pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    pub(super) disks: BTreeMap<i32, MemDisk>,
    /// Of each applied index that was seen, which entry it was and what the image was.
    seen: Arc<Mutex<BTreeMap<u64, (LogId, u64)>>>,
    watchers: Vec<Task<()>>,
    pub(super) snapshot_after_bytes: u64,
}

/// Echoes, in capitals.
struct Shout;

impl ForwardHandler for Shout {
    fn handle<'a>(&'a self, from: VoterId, payload: Bytes) -> Answer<'a> {
        Box::pin(async move {
            let text = String::from_utf8(payload.to_vec()).map_err(|error| error.to_string())?;
            Ok(format!("{} {}", from.node_id, text.to_uppercase()).into())
        })
    }
}

impl Cluster {
    pub(super) fn new() -> Cluster {
        Cluster {
            net: Arc::default(),
            disks: BTreeMap::new(),
            seen: Arc::default(),
            watchers: Vec::new(),
            snapshot_after_bytes: 1 << 20,
        }
    }

    /// Formats and starts voters `0..count`.
    pub(super) async fn begin(count: i32) -> Cluster {
        let mut cluster = Cluster::new();
        let voters: InitialVoters = (0..count).map(|id| (voter(id, 1), node(id))).collect();
        for id in 0..count {
            cluster.format(id, 1, Some(&voters));
        }
        for id in 0..count {
            cluster.start(id).await;
        }
        cluster
    }

    pub(super) fn format(&mut self, id: i32, directory: u8, voters: Option<&InitialVoters>) {
        let disk = MemDisk::default();
        let identity = VoterIdentity {
            cluster_id: CLUSTER,
            voter: voter(id, directory),
        };
        format(&disk, &dir(), identity, voters).unwrap();
        self.disks.insert(id, disk);
    }

    pub(super) async fn start(&mut self, id: i32) -> Arc<Quorum> {
        let mut config = QuorumConfig::new(dir(), CLUSTER, id);
        config.inline = true;
        config.advertised = Some(node(id).address);
        config.snapshot_after_bytes = self.snapshot_after_bytes;
        let disk = Arc::new(self.disks[&id].clone());
        let dial = Arc::new(NetDial {
            net: self.net.clone(),
            from: id,
        });
        let quorum = Quorum::start(disk, dial, config, Arc::new(Shout))
            .await
            .unwrap();
        self.follow(quorum.watch());
        self.net.nodes.lock().unwrap().insert(id, quorum.clone());
        quorum
    }

    /// Holds every state that is seen there against those seen elsewhere: one entry for
    /// one index, for ever, and one image.
    pub(super) fn follow(&mut self, mut folds: tokio::sync::watch::Receiver<Fold>) {
        let seen = self.seen.clone();
        self.watchers.push(spawn("watcher", async move {
            loop {
                let fold = folds.borrow_and_update().clone();
                if let Some(applied) = fold.applied {
                    let now = (applied, fold.image.hash());
                    let before = *seen.lock().unwrap().entry(applied.index).or_insert(now);
                    assert_eq!(before, now, "index {} has changed", applied.index);
                }
                if folds.changed().await.is_err() {
                    return;
                }
            }
        }));
    }

    /// Starts an observer.
    pub(super) fn observe(&mut self, id: i32) -> (Task<()>, tokio::sync::watch::Receiver<Fold>) {
        let dial = Arc::new(NetDial {
            net: self.net.clone(),
            from: id,
        });
        let config = ObserverConfig {
            cluster_id: CLUSTER,
            node_id: id,
            voters: (0..3).map(|id| node(id).address).collect(),
        };
        let (observer, folds) = Observer::new(dial, config, Fold::default());
        self.follow(folds.clone());
        (spawn("observer", observer.run()), folds)
    }

    /// The process is gone at once; then the power, too, with a seed.
    pub(super) async fn kill(&mut self, id: i32, power: Option<u64>) {
        let quorum = self.net.nodes.lock().unwrap().remove(&id).unwrap();
        // From here on nothing it does counts.
        match power {
            Some(seed) => self.disks[&id].crash_torn(seed),
            None => self.disks[&id].restart(),
        }
        quorum.close().await;
    }

    pub(super) fn running(&self) -> Vec<i32> {
        self.net.nodes.lock().unwrap().keys().copied().collect()
    }

    pub(super) fn at(&self, id: i32) -> Arc<Quorum> {
        self.net.nodes.lock().unwrap()[&id].clone()
    }

    pub(super) fn active(&self) -> Option<i32> {
        let ids = self.running();
        ids.into_iter()
            .find(|id| self.at(*id).is_active().is_some())
    }

    pub(super) async fn wait_active(&self) -> i32 {
        wait(Duration::from_secs(60), "an active controller", || {
            self.active()
        })
        .await
    }

    /// All running voters have the same index as the one that is furthest.
    pub(super) async fn settle(&self) {
        self.wait_active().await;
        wait(Duration::from_secs(60), "the same index everywhere", || {
            let ends: BTreeSet<_> = self
                .running()
                .iter()
                .map(|id| self.at(*id).fold().applied)
                .collect();
            let last = self.at(self.active()?).metrics().last_log_index;
            (ends.len() == 1 && ends.first()?.map(|id| id.index) == last).then_some(())
        })
        .await;
    }

    /// Has all watchers say what they found: the entry and the image's hash at each index
    /// that was seen.
    pub(super) async fn end(mut self) -> BTreeMap<u64, (LogId, u64)> {
        for id in self.running() {
            let quorum = self.net.nodes.lock().unwrap().remove(&id).unwrap();
            quorum.close().await;
        }
        for watcher in std::mem::take(&mut self.watchers) {
            if watcher.is_finished() {
                watcher.await.unwrap();
            } else {
                watcher.abort();
            }
        }
        self.seen.lock().unwrap().clone()
    }
}

/// Waits for a condition, on the clock that jumps.
pub(super) async fn wait<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let begun = clock::monotonic();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < patience, "no {what}");
        clock::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn set(name: &str) -> Vec<MetadataRecord> {
    vec![MetadataRecord::ConfigChanged {
        resource: ConfigResource::AllBrokers,
        name: name.to_owned(),
        value: Some("x".repeat(100)),
    }]
}

pub(super) fn is_set(image: &Image, name: &str) -> bool {
    image
        .configs(&ConfigResource::AllBrokers)
        .contains_key(name)
}

pub(super) async fn put(quorum: &Quorum, name: &str) -> Result<(), QuorumError> {
    let records = set(name);
    let decide = move |_: &Image| Decision {
        records,
        result: (),
    };
    let ((), image) = quorum.propose(decide).await?;
    assert!(is_set(&image, name), "the answer comes with its image");
    Ok(())
}
