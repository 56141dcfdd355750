//! Where a broker listens, and what clients are told of it.

use crate::StartError;
use crate::net::{self, Acceptor};
use crate::tls::Tls;
use std::net::SocketAddr;
use tidemark_config::{BrokerSettings, Listener};
use tidemark_env::net as sockets;

/// Where a listener can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// The listener's name.
    pub name: String,
    /// What is bound, with the real port.
    pub bound: SocketAddr,
    /// What clients are told, `host:port`.
    pub advertised: String,
}

/// Binds a listener.
pub(crate) async fn bind(listener: &Listener, tls: &Tls) -> Result<Acceptor, StartError> {
    let host = if listener.host.is_empty() {
        "0.0.0.0"
    } else {
        &listener.host
    };
    let address = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{}", listener.port)
    } else {
        format!("{host}:{}", listener.port)
    };
    net::bind(&address, tls.of(&listener.name))
        .await
        .map_err(|source| StartError::Listen { address, source })
}

/// What others are told of a listener: `advertised.listeners`, or where it is bound.
pub(crate) fn advertised(
    settings: &BrokerSettings,
    listener: &Listener,
    acceptor: &Acceptor,
) -> Advertised {
    let told = settings
        .advertised_listeners
        .iter()
        .find(|told| told.name == listener.name)
        .unwrap_or(listener);
    let host = match told.host.as_str() {
        "" | "0.0.0.0" | "::" => sockets::host_name(),
        host => host.to_string(),
    };
    let port = if told.port == 0 {
        acceptor.address.port()
    } else {
        told.port
    };
    Advertised {
        name: listener.name.clone(),
        bound: acceptor.address,
        advertised: format!("{host}:{port}"),
    }
}
