//! Where a broker listens, and what clients are told of it.

use crate::StartError;
use crate::net::{self, Acceptor};
use crate::tls::Tls;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use tidemark_config::{BrokerSettings, Listener};
use tidemark_env::net as sockets;
use tidemark_model::Endpoint;

/// Where a listener can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// The listener's name.
    pub name: String,
    /// What is bound, with the real port.
    pub bound: SocketAddr,
    /// What clients are told, `host:port`; nothing where `advertised.listeners` leaves it out, as
    /// long as its address is not known.
    pub advertised: Option<String>,
}

/// The listeners of a node as they are advertised now.
pub(crate) type Reached = Arc<RwLock<Vec<Advertised>>>;

/// Where brokers and clients reach this node, as it is registered.
pub(crate) fn endpoints(settings: &BrokerSettings, listeners: &[Advertised]) -> Vec<Endpoint> {
    let endpoint = |listener: &Advertised| {
        let advertised = listener.advertised.as_deref()?;
        let (host, port) = advertised.rsplit_once(':').unwrap_or((advertised, "0"));
        Some(Endpoint {
            name: listener.name.clone(),
            host: host.to_string(),
            port: port.parse().unwrap_or(0),
            // Kafka's numbers: PLAINTEXT is 0, SSL is 1.
            security_protocol: i16::from(settings.tls.contains_key(&listener.name)),
        })
    };
    listeners.iter().filter_map(endpoint).collect()
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

/// What others are told of a listener that is bound: `advertised.listeners`, else `listeners`.
pub(crate) fn advertised(settings: &BrokerSettings, name: &str, bound: SocketAddr) -> Advertised {
    let of_brokers = settings.advertised_listeners.iter();
    let told = of_brokers
        .chain(&settings.quorum.listener)
        .find(|told| told.name == name);
    let address = |told: &Listener| {
        let host = match told.host.as_str() {
            "" | "0.0.0.0" | "::" => sockets::host_name(),
            host => host.to_string(),
        };
        let port = match told.port {
            0 => bound.port(),
            port => port,
        };
        format!("{host}:{port}")
    };
    Advertised {
        name: name.to_owned(),
        bound,
        advertised: told.map(address),
    }
}
