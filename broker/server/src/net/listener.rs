//! Accepts connections and hands each to a net thread, where it stays.

use super::connection;
use crate::broker::Broker;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_env::net::{self, Listener};
use tidemark_env::runtime::NetThreads;
use tidemark_env::{clock, task};
use tokio::sync::watch;

/// Waits this long after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A bound socket that takes no connections yet.
pub(crate) struct Acceptor {
    listener: Listener,
    /// The address that was bound, with the real port.
    pub(crate) address: SocketAddr,
}

/// Binds `address` (`host:port`).
pub(crate) async fn bind(address: &str) -> std::io::Result<Acceptor> {
    let listener = net::listen(address).await?;
    let address = listener.local_addr()?;
    Ok(Acceptor { listener, address })
}

impl Acceptor {
    /// The socket, for somebody else to accept.
    pub(crate) fn into_listener(self) -> Listener {
        self.listener
    }

    /// Accepts until `stop` turns true.
    pub(crate) fn run(
        self,
        broker: Arc<Broker>,
        name: Arc<str>,
        threads: Arc<NetThreads>,
        stop: watch::Receiver<bool>,
    ) {
        let open = Arc::new(Open::default());
        drop(task::spawn("accept", async move {
            let mut stopped = stop.clone();
            loop {
                let accepted = tokio::select! {
                    accepted = self.listener.accept() => accepted,
                    _ = stopped.wait_for(|stop| *stop) => return,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        let settings = broker.settings();
                        let Some(slot) = open.enter(
                            peer.ip(),
                            settings.max_connections,
                            settings.max_connections_per_ip,
                        ) else {
                            broker.metrics.connections_refused.inc();
                            tracing::warn!(%peer, "connection refused: max.connections or max.connections.per.ip is reached");
                            continue;
                        };
                        let (broker, name, stop) =
                            (Arc::clone(&broker), Arc::clone(&name), stop.clone());
                        let index = threads.next_index();
                        drop(threads.spawn_on(index, "connection", async move {
                            connection::serve(broker, stream, peer, name, stop).await;
                            drop(slot);
                        }));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "accept failed; trying again");
                        clock::sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        }));
    }
}

/// Counts open connections, in all and by address.
#[derive(Default)]
struct Open(Mutex<(i32, HashMap<IpAddr, i32>)>);

struct Slot(Arc<Open>, IpAddr);

impl Open {
    fn enter(self: &Arc<Self>, ip: IpAddr, most: i32, most_per_ip: i32) -> Option<Slot> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = open.1.get(&ip).copied().unwrap_or(0);
        if open.0 >= most || of_ip >= most_per_ip {
            return None;
        }
        open.0 += 1;
        open.1.insert(ip, of_ip + 1);
        Some(Slot(Arc::clone(self), ip))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 -= 1;
        if let Some(count) = open.1.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.1.remove(&self.1);
            }
        }
    }
}
