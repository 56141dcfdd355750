//! What `dev` and `broker` share: start, say where, serve until a signal, stop cleanly.

use std::sync::Arc;
use std::time::Duration;

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
    let delay_us = settings.get("disk.flush.delay.us");
    let delay_us = delay_us.and_then(|delay| delay.parse().ok()).unwrap_or(0);
    let disk = FileDisk::new().with_flush_delay(Duration::from_micros(delay_us));
    let config = ServerConfig {
        settings,
        disk: Arc::new(disk),
        net_threads: 0,
        cut_corrupt_logs,
        format_if_empty: true,
    };
    Ok(tidemark_server::start(config).await?)
}

/// What to print when a broker is up: that it is ready, or why it is not.
pub fn greeting(server: &RunningServer) -> String {
    match server.marked_failed() {
        None => format!("ready  {}", server.bootstrap()),
        Some(reason) => format!("not ready: {reason}"),
    }
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
        reason = server.failed() => {
            return Err(Failure::finding(format!("a disk failed: {reason}"))
                .next("replace the disk, then start again with an empty directory in its place"));
        }
    };
    tracing::info!(signal = name, "stopping");
    server.shutdown().await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}
