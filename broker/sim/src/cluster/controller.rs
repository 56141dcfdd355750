//! The controller of several brokers: one object that all of them share, which does not fail.
//!
//! What a quorum of them does with heartbeats is done here for it: a broker that is down for a
//! while is fenced.

use std::path::PathBuf;
use std::sync::Arc;

use tidemark_config::ConfigMap;
use tidemark_env::disk::{Disk, MemDisk};
use tidemark_env::random;
use tidemark_quorum::decide::{Context, Decision, fence_brokers};
use tidemark_quorum::{Controller, StartError};
use tidemark_wire::Uuid;

/// A node of its own, for the identity of its directory.
const NODE: i32 = 1000;

/// A controller with an empty log.
pub(super) fn start() -> Result<Arc<Controller>, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let dir = PathBuf::from("/controller");
    disk.create_dir_all(&dir)?;
    let new_id = || {
        let mut id = [0; 16];
        random::fill(&mut id);
        Uuid(id)
    };
    let started = Controller::start(&disk, &[dir], NODE, new_id)?;
    Ok(started.controller)
}

/// Fences a broker whose heartbeats stay away.
pub(super) fn fence(
    controller: &Controller,
    broker_id: i32,
    fixed: &ConfigMap,
) -> Result<(), String> {
    let fenced = controller.propose(|image| Decision {
        records: fence_brokers(image, Context { broker_id, fixed }, &[broker_id]),
        result: (),
    });
    fenced.map(drop).map_err(|error| error.to_string())
}
