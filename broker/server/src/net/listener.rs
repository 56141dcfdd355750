//! Accepts connections and hands each to a net thread, where it stays.

use super::connection;
use super::slots::Open;
use crate::broker::Broker;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::net::{self, Listener, Stream};
use tidemark_env::runtime::NetThreads;
use tidemark_env::{clock, task};
use tokio::sync::watch;

/// Waits this long after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// TLS begins within this time, or the connection ends.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A bound socket that takes no connections yet.
pub(crate) struct Acceptor {
    listener: Listener,
    tls: Option<Arc<tidemark_tls::Server>>,
    /// The address that was bound, with the real port.
    pub(crate) address: SocketAddr,
}

/// Binds `address` (`host:port`), whose connections speak TLS if there is any.
pub(crate) async fn bind(
    address: &str,
    tls: Option<Arc<tidemark_tls::Server>>,
) -> std::io::Result<Acceptor> {
    let listener = net::listen(address).await?;
    let address = listener.local_addr()?;
    Ok(Acceptor {
        listener,
        tls,
        address,
    })
}

/// Has who connected begin TLS, where the listener speaks it. `None` if that fails.
async fn secure(
    tls: Option<&tidemark_tls::Server>,
    stream: Stream,
    peer: SocketAddr,
) -> Option<Stream> {
    let Some(tls) = tls else { return Some(stream) };
    match tls.accept(stream, HANDSHAKE).await {
        Ok((stream, principal)) => {
            tracing::debug!(%peer, %principal, "a client has begun TLS");
            Some(stream)
        }
        Err(error) => {
            tracing::warn!(%peer, %error, "connection refused: no TLS came about");
            None
        }
    }
}

impl Acceptor {
    /// Gives connections to `serve` until it is dropped, as they are begun.
    pub(crate) async fn run_with(self, serve: impl Fn(Stream) + Send + Sync + 'static) {
        let serve = Arc::new(serve);
        loop {
            let (stream, peer) = self.next().await;
            let Some(tls) = self.tls.clone() else {
                serve(stream);
                continue;
            };
            let serve = Arc::clone(&serve);
            drop(task::spawn("tls-accept", async move {
                if let Some(stream) = secure(Some(&tls), stream, peer).await {
                    serve(stream);
                }
            }));
        }
    }

    /// The next connection, however often that fails before.
    async fn next(&self) -> (Stream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed; trying again");
                    clock::sleep(ACCEPT_RETRY).await;
                }
            }
        }
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
                let (stream, peer) = tokio::select! {
                    accepted = self.next() => accepted,
                    _ = stopped.wait_for(|stop| *stop) => return,
                };
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
                let (broker, name, stop) = (Arc::clone(&broker), Arc::clone(&name), stop.clone());
                let seat = threads.seat();
                let send_buffer = settings.socket_send_buffer_bytes;
                let tls = self.tls.clone();
                drop(threads.spawn_on(seat.index(), "connection", async move {
                    let ready = stream.settle().and_then(|stream| {
                        if let Some(bytes) = send_buffer {
                            stream.bound_send_buffer(bytes)?;
                        }
                        Ok(stream)
                    });
                    let stream = match ready {
                        Ok(stream) => stream,
                        Err(error) => {
                            tracing::warn!(%peer, %error, "connection refused");
                            return;
                        }
                    };
                    match secure(tls.as_deref(), stream, peer).await {
                        Some(stream) => {
                            connection::serve(broker, stream, peer, name, seat, stop).await;
                        }
                        None => broker.metrics.handshakes_failed.inc(),
                    }
                    drop(slot);
                }));
            }
        }));
    }
}
