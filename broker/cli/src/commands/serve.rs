//! What `dev` and `broker` share: start, say where, serve until a signal, stop cleanly.

use std::sync::Arc;

use tidemark_config::ConfigMap;
use tidemark_env::disk::FileDisk;
use tidemark_server::{RunningServer, ServerConfig, StartError};
use tokio::signal::unix::{SignalKind, signal};

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

/// Serves until SIGTERM or Ctrl-C, then closes logs so that the next start reads none.
pub async fn until_signal(server: RunningServer) -> Result<Exit, Failure> {
    let failed = |error| Failure::finding(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    server.shutdown().await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
