//! TLS of this node: what each of its listeners shows, and how it reaches other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemark_config::BrokerSettings;
use tidemark_env::{clock, task};
use tidemark_quorum::raft::{Dial, Dialled};
use tidemark_tls::{Client, InUse, Server, TlsError};
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Files that have changed are in use after this time. A mounted secret takes longer to arrive.
const RELOAD: Duration = Duration::from_secs(5);

/// TLS of this node. Without any it is empty.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    listeners: BTreeMap<String, Arc<Server>>,
    /// To the listener that brokers reach each other on.
    brokers: Option<Arc<Client>>,
    /// To the listener of controllers.
    controllers: Option<Arc<Client>>,
}

impl Tls {
    /// Loads what the settings name. Blocks for a moment.
    pub(crate) fn load(settings: &BrokerSettings) -> Result<Tls, TlsError> {
        let client = |name: &str| {
            let of_name = settings.tls.get(name).cloned();
            of_name.map(|of| Client::load(of).map(Arc::new)).transpose()
        };
        let own = settings.listeners.iter().chain(&settings.quorum.listener);
        let mut listeners = BTreeMap::new();
        for listener in own {
            if let Some(of) = settings.tls.get(&listener.name) {
                let server = Server::load(of.clone())?;
                listeners.insert(listener.name.clone(), Arc::new(server));
            }
        }
        Ok(Tls {
            listeners,
            brokers: client(&settings.inter_broker_listener)?,
            controllers: client(&settings.quorum.listener_name)?,
        })
    }

    /// What the listener of this name shows, if it speaks TLS.
    pub(crate) fn of(&self, listener: &str) -> Option<Arc<Server>> {
        self.listeners.get(listener).cloned()
    }

    /// How to reach other brokers.
    pub(crate) fn to_brokers(&self) -> Option<Arc<Client>> {
        self.brokers.clone()
    }

    /// How to reach controllers.
    pub(crate) fn to_controllers(&self) -> Arc<dyn Dial> {
        Arc::new(Dialler(self.controllers.clone()))
    }

    /// What each end uses now: listeners by their names, and this node towards others.
    pub(crate) fn state(&self) -> Value {
        let of = |in_use: InUse| {
            json!({
                "serial": in_use.shown,
                "expiresAtS": in_use.expires_at_s,
                "trusted": in_use.trusted,
            })
        };
        let listeners = self.listeners.iter();
        let listeners = listeners.map(|(name, server)| (name.clone(), of(server.in_use())));
        let client = |client: &Option<Arc<Client>>| client.as_ref().map(|one| of(one.in_use()));
        json!({
            "listeners": listeners.collect::<BTreeMap<_, _>>(),
            "toBrokers": client(&self.brokers),
            "toControllers": client(&self.controllers),
        })
    }

    /// Takes certificates that were renewed, until `stop` turns true. No connection ends by it.
    pub(crate) fn start_reloading(
        self: &Arc<Self>,
        metrics: Arc<Metrics>,
        mut stop: watch::Receiver<bool>,
    ) {
        for (name, server) in &self.listeners {
            metrics.certificate_expires(name, server.expires_at_s());
        }
        if self.listeners.is_empty() && self.brokers.is_none() && self.controllers.is_none() {
            return;
        }
        let tls = Arc::clone(self);
        drop(task::spawn("tls-reload", async move {
            loop {
                tokio::select! {
                    () = clock::sleep(RELOAD) => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                let (reloading, of_metrics) = (Arc::clone(&tls), Arc::clone(&metrics));
                let reloaded = task::blocking(move || reloading.reload(&of_metrics)).await;
                if reloaded.is_err() {
                    return;
                }
            }
        }));
    }

    fn reload(&self, metrics: &Metrics) {
        for (name, server) in &self.listeners {
            match server.reload() {
                Ok(false) => {}
                Ok(true) => {
                    let expires_at_s = server.expires_at_s();
                    metrics.certificate_expires(name, expires_at_s);
                    tracing::info!(listener = name, expires_at_s, "new certificates are in use");
                }
                Err(error) => {
                    tracing::warn!(listener = name, %error, "the certificates before stay in use");
                }
            }
        }
        for client in self.brokers.iter().chain(&self.controllers) {
            if let Err(error) = client.reload() {
                tracing::warn!(%error, "for other nodes the certificates before stay in use");
            }
        }
    }
}

/// TCP, and TLS over it where the listener of controllers speaks it.
struct Dialler(Option<Arc<Client>>);

impl Dial for Dialler {
    fn dial<'a>(&'a self, address: &'a str, timeout: Duration) -> Dialled<'a> {
        Box::pin(tidemark_tls::connect(address, self.0.as_deref(), timeout))
    }
}
