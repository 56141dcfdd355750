//! Tests of the metadata quorum.

mod cluster;
mod history;
mod journal;
mod quorum;
mod speed;
mod storage;
mod tcp;
mod wire;

use std::future::Future;
use std::time::Duration;

use tidemark_wire::Uuid;

use super::types::VoterId;

fn voter(node_id: i32, directory: u8) -> VoterId {
    let mut id = [directory; 16];
    id[0] = u8::try_from(node_id).unwrap_or(255);
    VoterId {
        node_id,
        directory_id: Uuid(id),
    }
}

/// Runs `future` on a runtime of its own, whose clock jumps when all tasks wait. What waits
/// for ever ends after five minutes of it.
fn paused<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async {
            let limit = Duration::from_secs(300);
            let ended = tidemark_env::clock::timeout(limit, future).await;
            ended.expect("nothing waits for ever")
        })
}
