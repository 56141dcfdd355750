//! What `dev` and `broker` share: start, say where, serve until a signal, stop cleanly.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use tidemark_config::ConfigMap;
use tidemark_env::disk::FileDisk;
use tidemark_server::{RunningServer, ServerConfig, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match &error {
            StartError::Config(_) => Self::usage(error.to_string()),
            StartError::Failed(fatal) => Self::finding(error.to_string()).next(fatal.next()),
            _ => Self::finding(error.to_string()),
        }
    }
}

/// Starts a broker with these settings, in formatted directories. `net_threads` is 0 for one per core.
pub async fn start(
    settings: ConfigMap,
    cut_corrupt_logs: bool,
    net_threads: usize,
) -> Result<RunningServer, Failure> {
    let delay_us = settings.get("disk.flush.delay.us");
    let delay_us = delay_us.and_then(|delay| delay.parse().ok()).unwrap_or(0);
    let disk = FileDisk::new().with_flush_delay(Duration::from_micros(delay_us));
    let config = ServerConfig {
        settings,
        disk: Arc::new(disk),
        net_threads,
        cut_corrupt_logs,
        format_if_empty: false,
        bucket: None,
    };
    Ok(tidemark_server::start(config).await?)
}

/// What to print when brokers are up: that they are ready, or why one is not.
pub fn greeting(servers: &[RunningServer]) -> String {
    match servers.iter().find_map(RunningServer::marked_failed) {
        None => format!("ready  {}", bootstrap(servers)),
        Some(reason) => format!("not ready: {reason}"),
    }
}

/// The addresses to bootstrap from.
pub fn bootstrap(servers: &[RunningServer]) -> String {
    let each: Vec<String> = servers.iter().map(RunningServer::bootstrap).collect();
    each.join(",")
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
    servers: Vec<RunningServer>,
    signals: StopSignals,
) -> Result<Exit, Failure> {
    stopped_by(&servers, signals).await?;
    shutdown(servers).await;
    Ok(Exit::Ok)
}

/// Waits for SIGTERM or Ctrl-C.
///
/// # Errors
/// A broker that failed.
pub async fn stopped_by(
    servers: &[RunningServer],
    mut signals: StopSignals,
) -> Result<(), Failure> {
    let failed = select_all(servers.iter().map(|server| Box::pin(server.failed())));
    let name = tokio::select! {
        _ = signals.terminate.recv() => "SIGTERM",
        _ = signals.interrupt.recv() => "SIGINT",
        (fatal, _, _) = failed => {
            return Err(Failure::finding(fatal.to_string()).next(fatal.next()));
        }
    };
    tracing::info!(signal = name, "stopping");
    Ok(())
}

/// Closes logs, so that the next start reads none.
pub async fn shutdown(servers: Vec<RunningServer>) {
    // All at once: each hands over what it leads to those that are left.
    join_all(servers.into_iter().map(RunningServer::shutdown)).await;
    tracing::info!("stopped");
}
