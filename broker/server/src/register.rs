//! A broker's registration: what it tells the controller of itself.

use crate::StartError;
use crate::broker::new_id;
use crate::controller::{Node, life};
use crate::listeners::{Advertised, endpoints};
use crate::start::ServerConfig;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_config::BrokerSettings;
use tidemark_env::task;
use tidemark_model::BrokerEpoch;
use tidemark_quorum::decide::{Join, Registration};
use tidemark_quorum::{DirectoryIdentity, read_epoch};

/// Registers this process, and waits until the metadata here say so; gives what was registered.
pub(crate) async fn register(
    node: &Arc<Node>,
    config: &ServerConfig,
    dirs: &[PathBuf],
    identities: &[DirectoryIdentity],
    settings: &BrokerSettings,
    listeners: &[Advertised],
) -> Result<(BrokerEpoch, Join), StartError> {
    let (disk, own) = (Arc::clone(&config.disk), identities.to_vec());
    let dirs = dirs.to_vec();
    let recorded = task::blocking(move || {
        let each = dirs.iter().zip(&own);
        each.map(|(dir, identity)| read_epoch(&*disk, dir, identity))
            .collect::<Result<Vec<_>, _>>()
    });
    let join = Join {
        registration: Registration {
            broker_id: settings.node_id,
            incarnation_id: new_id(),
            directories: identities.iter().map(|id| id.directory_id).collect(),
            endpoints: endpoints(settings, listeners),
            rack: settings.rack.clone(),
        },
        cluster_id: identities
            .first()
            .map(|id| id.cluster_id)
            .unwrap_or_default(),
        recorded: recorded.await??,
        features: crate::features::supported(),
    };
    let epoch = life::register(node, &join)
        .await
        .map_err(StartError::Refused)?;
    node.metadata
        .reached(u64::try_from(epoch).unwrap_or(0))
        .await;
    Ok((epoch, join))
}
