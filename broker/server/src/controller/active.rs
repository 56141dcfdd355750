//! What the active controller does by itself.

use super::{Node, peers};
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::clock;
use tidemark_model::{Image, MetadataRecord};
use tidemark_quorum::decide::{self, Context, Decision};
use tidemark_quorum::{Metadata, QuorumError};

/// Sessions are looked at this often at least.
const TICK: Duration = Duration::from_millis(500);
/// Leases and reassignments are looked at this often.
const TEND: Duration = Duration::from_secs(1);
/// After a change that could not be made.
const PAUSE: Duration = Duration::from_millis(100);
/// Leaders that go back to where they belong at once.
const MOST_MOVED: usize = 1000;

/// Acts whenever this node is the active controller.
pub(super) async fn run(node: Arc<Node>) {
    let Some(mut activity) = node.metadata.activity() else {
        return;
    };
    let mut peers = peers::Peers::default();
    let every = node.settings.leader_imbalance_check_interval_ms;
    let every = Duration::from_millis(u64::try_from(every).unwrap_or(0));
    let mut acted = None;
    let (mut tended, mut balanced) = (clock::monotonic(), clock::monotonic());
    loop {
        let Some(epoch) = activity.epoch() else {
            if acted.take().is_some() {
                tracing::info!("this node is not the active controller any more");
            }
            peers.clear();
            if !activity.changed().await {
                return;
            }
            continue;
        };
        if acted != Some(epoch) {
            if let Err(error) = begin(&node).await {
                tracing::info!(%error, "the controller could not begin");
                clock::sleep(PAUSE).await;
                continue;
            }
            tracing::info!(epoch, "this node is the active controller");
            acted = Some(epoch);
            balanced = clock::monotonic();
        }
        let image = node.metadata.image();
        peers.follow(&node, &image);
        let mut done = fence_expired(&node, &image).await;
        if done.is_ok() && tended.elapsed() >= TEND {
            tended = clock::monotonic();
            done = tend(&node, &image).await;
        }
        if done.is_ok() && node.settings.auto_leader_rebalance_enable && balanced.elapsed() >= every
        {
            balanced = clock::monotonic();
            done = rebalance(&node, &image).await;
        }
        if let Err(error) = done {
            tracing::debug!(%error, "the controller could not make a change");
            clock::sleep(PAUSE).await;
            continue;
        }
        let image = node.metadata.image();
        let wait = node.with_sessions(&image, |sessions, now| {
            let next = sessions.next_expiry_ms(&image)?;
            u64::try_from(next.saturating_sub(now)).ok()
        });
        let wait = wait.map_or(TICK, |ms| TICK.min(Duration::from_millis(ms)));
        tokio::select! {
            () = clock::sleep(wait) => {}
            () = node.woken.notified() => {}
        }
    }
}

/// A new cluster is given its id, and what it begins with where it comes back from a bucket.
async fn begin(node: &Arc<Node>) -> Result<(), QuorumError> {
    let Metadata::Voter(quorum) = &*node.metadata else {
        return Ok(());
    };
    let cluster_id = quorum.identity().cluster_id;
    let first = quorum.first_records().to_vec();
    let named = node.decide(move |image, _, _, _| {
        let mut records = Vec::new();
        if image.cluster_id().is_none() {
            records.push(MetadataRecord::ClusterId { cluster_id });
            records.extend(first);
        }
        Decision {
            records,
            result: (),
        }
    });
    named.await
}

/// Fences brokers of which nothing was heard for a session, all at once.
async fn fence_expired(node: &Arc<Node>, image: &Image) -> Result<(), QuorumError> {
    let expired = node.with_sessions(image, |sessions, now| sessions.expired(image, now));
    if expired.is_empty() {
        return Ok(());
    }
    let fenced = node
        .decide(|image, context, sessions, now| {
            let expired = sessions.expired(image, now);
            Decision {
                records: decide::fence_brokers(image, context, &expired),
                result: expired,
            }
        })
        .await?;
    if !fenced.is_empty() {
        tracing::warn!(brokers = ?fenced, "brokers are fenced: nothing was heard of them");
    }
    Ok(())
}

/// Makes changes that nobody asks for, where there are any.
async fn tend(node: &Arc<Node>, image: &Image) -> Result<(), QuorumError> {
    let now = clock::now_ms();
    let sweep = move |image: &Image, _: Context<'_>| decide::sweep_leases(image, now);
    let complete =
        |image: &Image, context: Context<'_>| decide::complete_reassignments(image, context);
    if !sweep(image, node.context()).is_empty() {
        make(node, sweep).await?;
    }
    if !complete(image, node.context()).is_empty() {
        make(node, complete).await?;
    }
    let place = |image: &Image, _: Context<'_>| decide::place_restored(image);
    if image.restores().next().is_some() && !place(image, node.context()).is_empty() {
        make(node, place).await?;
    }
    Ok(())
}

async fn make<F>(node: &Arc<Node>, records: F) -> Result<(), QuorumError>
where
    F: FnOnce(&Image, Context<'_>) -> Vec<MetadataRecord> + Send + 'static,
{
    let made = node.decide(move |image, context, _, _| Decision {
        records: records(image, context),
        result: (),
    });
    made.await
}

/// Gives leaderships back to preferred leaders.
async fn rebalance(node: &Arc<Node>, image: &Image) -> Result<(), QuorumError> {
    let percent = node.settings.leader_imbalance_per_broker_percentage;
    let percent = usize::try_from(percent).unwrap_or(0);
    let decide = move |image: &Image, context: Context<'_>| {
        decide::rebalance_leaders(image, context, percent, MOST_MOVED).records
    };
    if decide(image, node.context()).is_empty() {
        return Ok(());
    }
    make(node, decide).await
}
