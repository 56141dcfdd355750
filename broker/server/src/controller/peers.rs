//! Brokers whose process is gone are noticed at once: the controller keeps a connection to each,
//! and connects again when it ends. A port that refuses has nobody behind it any more; anything
//! else proves nothing, and their sessions tell.

use super::Node;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tidemark_env::clock;
use tidemark_env::task::{self, Task};
use tidemark_model::{BrokerEpoch, BrokerId, Endpoint, Image};
use tokio::io::AsyncReadExt;

/// Connecting takes no longer.
const CONNECT: Duration = Duration::from_secs(2);
/// Between two tries, where the first was no refusal.
const PAUSE: Duration = Duration::from_secs(1);

/// Kafka's number of listeners without TLS.
const PLAINTEXT: i16 = 0;

/// Those that are watched.
#[derive(Default)]
pub(super) struct Peers {
    watched: BTreeMap<(BrokerId, BrokerEpoch), Task<()>>,
}

impl Peers {
    /// Watches every broker that is up, and no others.
    pub(super) fn follow(&mut self, node: &Arc<Node>, image: &Image) {
        let up = |id: BrokerId, epoch| {
            image
                .broker(id)
                .filter(|b| b.epoch == epoch && !b.fenced && id != node.id)
        };
        self.watched.retain(|(id, epoch), task| {
            let stays = up(*id, *epoch).is_some();
            if !stays {
                task.abort();
            }
            stays
        });
        for broker in image.brokers() {
            let at = (broker.id, broker.epoch);
            if self.watched.contains_key(&at) || up(broker.id, broker.epoch).is_none() {
                continue;
            }
            let tls = node.tls.to_brokers();
            let named = &node.settings.inter_broker_listener;
            let mut endpoints = broker.endpoints.iter();
            let endpoint = match node.settings.roles.broker {
                true => endpoints.find(|endpoint| endpoint.name == *named),
                // A controller alone has no listener of that name, nor what it takes to speak TLS
                // to one.
                false => endpoints.find(|endpoint| endpoint.security_protocol == PLAINTEXT),
            };
            if let Some(endpoint) = endpoint {
                let watching = watch(Arc::downgrade(node), at, address(endpoint), tls);
                self.watched
                    .insert(at, task::spawn("controller-peer", watching));
            }
        }
    }

    /// Watches nobody.
    pub(super) fn clear(&mut self) {
        for (_, task) in std::mem::take(&mut self.watched) {
            task.abort();
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.clear();
    }
}

fn address(endpoint: &Endpoint) -> String {
    match endpoint.host.contains(':') && !endpoint.host.starts_with('[') {
        true => format!("[{}]:{}", endpoint.host, endpoint.port),
        false => format!("{}:{}", endpoint.host, endpoint.port),
    }
}

async fn watch(
    node: Weak<Node>,
    (id, epoch): (BrokerId, BrokerEpoch),
    address: String,
    tls: Option<Arc<tidemark_tls::Client>>,
) {
    loop {
        // A listener of TLS would end a connection that does not begin it.
        match tidemark_tls::connect(&address, tls.as_deref(), CONNECT).await {
            Ok(mut stream) => {
                // Nothing is asked, so nothing comes but its end.
                let mut byte = [0];
                drop(stream.read(&mut byte).await);
            }
            Err(error) => {
                let Some(node) = node.upgrade() else { return };
                if error.kind() == ErrorKind::ConnectionRefused {
                    tracing::info!(
                        broker = id,
                        address,
                        "the broker's port refuses connections: its process is gone"
                    );
                    node.refused(id, epoch);
                }
                drop(node);
                clock::sleep(PAUSE).await;
            }
        }
    }
}
