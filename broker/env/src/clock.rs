//! Time: the wall clock for what is written down, the monotonic one for durations.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

pub use tokio::time::Instant;
pub use tokio::time::error::Elapsed;

/// Wall-clock time in milliseconds since the Unix epoch.
///
/// It may jump in either direction; never measure a duration with it.
/// A clock set before 1970 reads as 0.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that asks the system for the wall clock"
)]
pub fn now_ms() -> i64 {
    if let Some(now_ms) = crate::sim::now_ms() {
        return now_ms;
    }
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// Milliseconds since the Unix epoch that never jump: the wall clock as it was when this was first
/// asked, and the time that has passed since. For what is due at a time and may be stored as well;
/// another process' may be far from it.
#[allow(
    clippy::disallowed_methods,
    reason = "time that has passed, whatever a test does with tokio's"
)]
pub fn steady_ms() -> i64 {
    static BEGAN: OnceLock<(std::time::Instant, i64)> = OnceLock::new();
    if let Some(steady_ms) = crate::sim::steady_ms() {
        return steady_ms;
    }
    let (began, began_ms) = BEGAN.get_or_init(|| (std::time::Instant::now(), now_ms()));
    let passed = i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX);
    began_ms.saturating_add(passed)
}

/// A point on the monotonic clock; it follows tokio's paused time in tests.
pub fn monotonic() -> Instant {
    Instant::now()
}

/// Waits for `duration` on the monotonic clock.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// [`sleep_until`] as something to be kept and polled.
pub(crate) fn sleeping_until(deadline: Instant) -> tokio::time::Sleep {
    tokio::time::sleep_until(deadline)
}

/// Waits until `deadline` on the monotonic clock.
pub async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline).await;
}

/// Runs `future` for at most `duration`; afterwards it is dropped.
///
/// # Errors
/// [`Elapsed`] when the time was up first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(duration, future).await
}
