//! Faults at random, from seeds, under a load: nothing that was acknowledged is lost, and no
//! committed entry ever changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemark_env::clock;
use tidemark_env::task::spawn;

use super::super::runtime::seeded;
use super::super::{QuorumError, VoterId};
use super::cluster::*;
use super::*;
use tidemark_env::random::Random;

const PATIENCE: Duration = Duration::from_secs(20);

/// Has the quorum take in the directory that node `id` has now, instead of any other.
async fn rejoin(cluster: &Cluster, id: i32, now: VoterId) -> Result<(), QuorumError> {
    let none = QuorumError::NotController { leader: None };
    let active = cluster.at(cluster.active().ok_or(none)?);
    let membership = active.membership();
    for (known, _) in membership.nodes() {
        if known.node_id == id && *known != now {
            active.remove_voter(*known, PATIENCE).await?;
        }
    }
    if !active.membership().voter_ids().any(|voter| voter == now) {
        active.add_voter(now, node(id).address, PATIENCE).await?;
    }
    Ok(())
}

/// Whether the active node counts the present directory of each node among the voters.
fn all_vote(cluster: &Cluster, directories: &BTreeMap<i32, u8>) -> bool {
    let voters: Option<BTreeSet<VoterId>> = cluster
        .active()
        .map(|active| cluster.at(active).membership().voter_ids().collect());
    voters.is_some_and(|voters| {
        let mut each = directories.iter();
        each.all(|(id, directory)| voters.contains(&voter(*id, *directory)))
    })
}

/// Faults at random under a load; what was reached comes back, and what was seen.
async fn history(seed: u64) -> (BTreeMap<&'static str, u64>, String) {
    seeded::install(seed);
    let mut random = Random::at(seed);
    let mut reached: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut cluster = Cluster::begin(3).await;
    cluster.snapshot_after_bytes = 8192;
    let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut leaders = BTreeSet::new();
    let mut loads = Vec::new();
    let mut directories = BTreeMap::from([(0, 1), (1, 1), (2, 1)]);
    let (observer, observed) = cluster.observe(7);
    for round in 0..30 {
        for id in cluster.running() {
            for n in 0..random.below(20) {
                let (node, acknowledged) = (cluster.at(id), acknowledged.clone());
                let name = format!("r{round}-{id}-{n}");
                loads.push(spawn("load", async move {
                    if put(&node, &name).await.is_ok() {
                        acknowledged.lock().unwrap().insert(name);
                    }
                }));
            }
        }
        let node = i32::try_from(random.below(3)).unwrap();
        let running = cluster.running().contains(&node);
        match random.below(10) {
            0 | 1 if running => {
                let power = (random.below(2) == 0).then(|| random.below(1 << 40));
                cluster.kill(node, power).await;
                *reached.entry("killed").or_default() += 1;
            }
            0..3 if !running => {
                cluster.start(node).await;
                *reached.entry("started").or_default() += 1;
            }
            3 => {
                cluster.net.isolate(node);
                *reached.entry("isolated").or_default() += 1;
            }
            4 => {
                let other = i32::try_from(random.below(3)).unwrap();
                cluster.net.cut_one_way(node, other);
                *reached.entry("one way").or_default() += 1;
            }
            5..8 => cluster.net.heal(),
            // One at a time: the next only when the one before votes again, or a majority is gone.
            8 if running
                && cluster.active().is_some_and(|active| active != node)
                && all_vote(&cluster, &directories) =>
            {
                cluster.net.heal();
                let power = (random.below(2) == 0).then(|| random.below(1 << 40));
                cluster.kill(node, power).await;
                let directory = directories[&node] + 1;
                directories.insert(node, directory);
                cluster.format(node, directory, None);
                cluster.start(node).await;
                let joined = rejoin(&cluster, node, voter(node, directory)).await;
                *reached.entry("replaced").or_default() += u64::from(joined.is_ok());
            }
            _ if running => {
                drop(cluster.at(node).snapshot().await);
                *reached.entry("snapshots").or_default() += 1;
            }
            _ => {}
        }
        clock::sleep(Duration::from_millis(random.below(4000))).await;
        if let Some(active) = cluster.active() {
            let epoch = cluster.at(active).is_active();
            leaders.extend(epoch.map(|epoch| (epoch, active)));
        }
    }
    cluster.net.heal();
    for id in 0..3 {
        if !cluster.running().contains(&id) {
            cluster.start(id).await;
        }
    }
    for (id, directory) in directories {
        let begun = clock::monotonic();
        while let Err(error) = rejoin(&cluster, id, voter(id, directory)).await {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "seed {seed}: {error}"
            );
            clock::sleep(Duration::from_secs(1)).await;
        }
    }
    cluster.settle().await;
    for load in loads {
        // A node that was killed leaves its proposers without an answer.
        load.await.unwrap();
    }
    cluster.settle().await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    for id in 0..3 {
        let image = cluster.at(id).image();
        for name in &acknowledged {
            assert!(
                is_set(&image, name),
                "seed {seed}: {name} was lost at node {id}"
            );
        }
    }
    let last = cluster.at(0).fold().applied;
    wait(Duration::from_secs(60), "the observer", || {
        (observed.borrow().applied >= last).then_some(())
    })
    .await;
    observer.abort();
    *reached.entry("acknowledged").or_default() += acknowledged.len() as u64;
    *reached.entry("leaderships").or_default() += leaders.len() as u64;
    let terms: BTreeSet<_> = leaders.iter().map(|(epoch, _)| epoch).collect();
    assert_eq!(
        terms.len(),
        leaders.len(),
        "two leaders in one term: {leaders:?}"
    );
    let seen = cluster.end().await;
    (reached, format!("{acknowledged:?} {seen:?}"))
}

#[test]
fn equal_seeds_give_equal_histories() {
    for seed in 1..4 {
        let first = paused(history(seed));
        let second = paused(history(seed));
        assert!(first == second, "seed {seed}: {:?} {:?}", first.0, second.0);
    }
    assert_ne!(paused(history(4)).1, paused(history(5)).1);
}

#[test]
fn seeded_histories_lose_nothing_that_was_acknowledged() {
    let seeds = std::env::var("RAFT_SEEDS").map_or(15, |seeds| seeds.parse().unwrap());
    let mut reached: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..seeds {
        for (what, count) in paused(history(seed)).0 {
            *reached.entry(what).or_default() += count;
        }
    }
    println!("{reached:?}");
    for what in [
        "killed",
        "started",
        "isolated",
        "one way",
        "snapshots",
        "replaced",
    ] {
        assert!(
            4 * reached[what] > seeds,
            "{what} was hardly reached: {reached:?}"
        );
    }
    assert!(reached["acknowledged"] > 50 * seeds, "{reached:?}");
    assert!(reached["leaderships"] > seeds, "{reached:?}");
}
