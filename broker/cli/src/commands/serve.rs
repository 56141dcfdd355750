//! What `dev` and `broker` share: start, say where, serve until a signal, stop cleanly.

use std::sync::Arc;

use tidemark_config::ConfigMap;
use tidemark_env::disk::FileDisk;
use tidemark_server::{RunningServer, ServerConfig, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::Config(_) => Self::usage(error.to_string()),
            _ => Self::finding(error.to_string()),
        }
    }
}

/// Starts a broker with these settings.
pub async fn start(settings: ConfigMap, cut_corrupt_logs: bool) -> Result<RunningServer, Failure> {
    let config = ServerConfig {
        settings,
        disk: Arc::new(FileDisk::new()),
        net_threads: 0,
        cut_corrupt_logs,
    };
    Ok(tidemark_server::start(config).await?)
}

/// What stops a broker cleanly.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes the signals from now on: before anybody is told that the broker is ready, who may
    /// stop it at once.
    pub fn take() -> Result<Self, Failure> {
        let failed = |error| Failure::finding(format!("cannot wait for signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }
}

/// Serves until SIGTERM or Ctrl-C, then closes logs so that the next start reads none.
pub async fn until_signal(
    server: RunningServer,
    mut signals: StopSignals,
) -> Result<Exit, Failure> {
    let name = tokio::select! {
        _ = signals.terminate.recv() => "SIGTERM",
        _ = signals.interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    server.shutdown().await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
