//! Health and metrics over HTTP, on one small port: for probes, scrapers and people with curl.
//!
//! It runs apart from the net threads, so that it answers when they are stuck, and asks the
//! broker through [`Health`] only.

mod listener;

#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use listener::Bounded;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tidemark_env::{clock, net, task};
use tokio::sync::{Semaphore, watch};

/// Answers under way get this long when the broker stops.
const STOP_WITHIN: Duration = Duration::from_secs(1);

const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What there is, as the index and as the hint on an unknown path.
const INDEX: &str = "\
/livez               200 while the broker's threads make progress; restart it when it is not
/readyz              200 when clients are served and all replicas are in sync, or 503 and why not
/state               identity, version, lifecycle and progress as JSON
/metrics             metrics in Prometheus' text format
/metrics/partitions  the same for each partition
";

/// What the broker says of itself.
pub(crate) trait Health: Send + Sync + 'static {
    /// Whether its threads make progress. Must not wait for anything.
    fn live(&self) -> bool;
    /// Whether clients are served.
    ///
    /// # Errors
    /// Why not, for people. Must not wait for anything.
    fn ready(&self) -> Result<(), String>;
    /// Identity, version, lifecycle state with progress, listeners, counts. May block.
    fn state(&self) -> serde_json::Value;
    /// The page `/metrics`. May block.
    fn scrape(&self) -> String;
    /// The page `/metrics/partitions`. May block.
    fn scrape_partitions(&self) -> String;
}

/// A bound socket that answers nothing yet.
#[derive(Debug)]
pub(crate) struct HttpServer {
    listener: net::Listener,
    /// The address that was bound, with the real port.
    pub(crate) address: SocketAddr,
}

/// Binds `address` (`host:port`, port 0 picks a free one).
///
/// # Errors
/// The name does not resolve, or the address is taken or not ours.
pub(crate) async fn bind(address: &str) -> io::Result<HttpServer> {
    let listener = net::listen(address).await?;
    let address = listener.local_addr()?;
    Ok(HttpServer { listener, address })
}

impl HttpServer {
    /// Answers until `stop` turns true (or its sender is gone), and for a moment after that.
    pub(crate) async fn run(self, health: Arc<dyn Health>, stop: watch::Receiver<bool>) {
        let listener = Bounded::new(self.listener, self.address);
        let drain = stopped(stop.clone());
        let serve = axum::serve(listener, router(health)).with_graceful_shutdown(drain);
        tokio::select! {
            served = serve => if let Err(error) = served {
                tracing::error!(%error, "health and metrics are no longer served");
            },
            () = async {
                stopped(stop).await;
                clock::sleep(STOP_WITHIN).await;
            } => {}
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender means that the broker is gone, which is the same thing.
    drop(stop.wait_for(|stop| *stop).await);
}

#[derive(Clone)]
struct Shared {
    health: Arc<dyn Health>,
    /// One page at a time is collected: they take memory and locks.
    scrapes: Arc<Semaphore>,
}

fn router(health: Arc<dyn Health>) -> Router {
    let shared = Shared {
        health,
        scrapes: Arc::new(Semaphore::new(1)),
    };
    Router::new()
        .route(
            "/",
            get(|| async { plain(StatusCode::OK, INDEX.to_owned()) }),
        )
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/state", get(state))
        .route(
            "/metrics",
            get(|State(s): State<Shared>| page(s, |h| h.scrape())),
        )
        .route(
            "/metrics/partitions",
            get(|State(s): State<Shared>| page(s, |h| h.scrape_partitions())),
        )
        .fallback(missing)
        .with_state(shared)
}

async fn livez(State(shared): State<Shared>) -> Response {
    match shared.health.live() {
        true => plain(StatusCode::OK, "live\n".to_owned()),
        false => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "not live: a net thread makes no progress; tidemark_net_thread_tick_age_seconds on /metrics says which\n"
                .to_owned(),
        ),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    match shared.health.ready() {
        Ok(()) => plain(StatusCode::OK, "ready\n".to_owned()),
        Err(why) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        ),
    }
}

async fn state(State(shared): State<Shared>) -> Response {
    let state = task::blocking(move || format!("{:#}\n", shared.health.state())).await;
    answer(state, JSON)
}

async fn page(shared: Shared, collect: fn(&dyn Health) -> String) -> Response {
    // The semaphore is never closed, so this is always a permit.
    let turn = shared.scrapes.acquire_owned().await.ok();
    let health = shared.health;
    let page = task::blocking(move || {
        let page = collect(&*health);
        // Held by the work itself: it goes on when the scraper hangs up.
        drop(turn);
        page
    });
    answer(page.await, PROMETHEUS)
}

async fn missing(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    plain(
        StatusCode::NOT_FOUND,
        format!("There is no {path} here. There is:\n\n{INDEX}"),
    )
}

fn answer(made: Result<String, task::TaskError>, content_type: &'static str) -> Response {
    match made {
        Ok(body) => respond(StatusCode::OK, content_type, body),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, body: String) -> Response {
    respond(status, PLAIN, body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}
