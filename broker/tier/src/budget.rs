//! How much goes to and from a bucket, however many want something of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_env::clock::{self, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What was not used may be used later, but not more than of so long.
const BURST: Duration = Duration::from_secs(1);
/// However small a budget is, nobody waits longer than this for one who came before.
const LONGEST_SECONDS: f64 = 3600.0;

/// Bytes a second. Who takes more than there are waits, in the order of asking.
#[derive(Debug, Clone)]
pub struct BytesPerSecond(Arc<Rate>);

#[derive(Debug)]
struct Rate {
    /// [`u64::MAX`] for no limit.
    bytes: AtomicU64,
    /// All up to here is given away.
    taken_until: Mutex<Option<Instant>>,
}

impl Default for BytesPerSecond {
    /// Without a limit.
    fn default() -> BytesPerSecond {
        BytesPerSecond(Arc::new(Rate {
            bytes: AtomicU64::new(u64::MAX),
            taken_until: Mutex::default(),
        }))
    }
}

impl BytesPerSecond {
    /// From now on it is so many bytes a second; `None` for no limit.
    pub fn set(&self, bytes: Option<u64>) {
        let bytes = bytes.map_or(u64::MAX, |bytes| bytes.max(1));
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Waits until `bytes` may be moved.
    pub async fn take(&self, bytes: u64) {
        let rate = self.0.bytes.load(Ordering::Relaxed);
        if rate == u64::MAX {
            return;
        }
        let seconds = (bytes as f64 / rate as f64).min(LONGEST_SECONDS);
        let from = {
            let taken_until = self.0.taken_until.lock();
            let mut taken_until = taken_until.unwrap_or_else(PoisonError::into_inner);
            let now = clock::monotonic();
            let unused = now.checked_sub(BURST).unwrap_or(now);
            let from = taken_until.map_or(now, |until| until.max(unused));
            *taken_until = Some(from + Duration::from_secs_f64(seconds));
            from
        };
        clock::sleep_until(from).await;
    }
}

/// Requests at a time.
#[derive(Debug, Clone)]
pub struct Requests(Arc<Semaphore>);

impl Requests {
    /// At most so many, and at least one.
    pub fn new(most: usize) -> Requests {
        Requests(Arc::new(Semaphore::new(
            most.clamp(1, Semaphore::MAX_PERMITS),
        )))
    }

    /// Waits until there may be one more.
    pub(crate) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.0.acquire().await.ok()
    }
}
