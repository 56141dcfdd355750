//! How fast replicas that are not in sync may be filled (KIP-73): a bucket of bytes that fills at a
//! rate.

/// Bytes that may be moved now. What is moved goes whole, so it may be more than there was: the
/// next one waits until that is made up for.
#[derive(Debug, Default, Clone)]
pub struct Throttle {
    /// Thousandths of bytes, and when that was; `None` before the first use, when it is full.
    left: Option<(i64, i64)>,
}

/// What was not used within so long is gone.
const BURST_MS: i64 = 1000;
/// Nobody waits longer before the rate is looked at again: it may have been raised.
const LONGEST_WAIT_MS: i64 = 1000;

impl Throttle {
    /// How long nothing may be moved at this rate, in ms; 0 where something may be now.
    pub fn wait_ms(&mut self, now_ms: i64, bytes_per_s: i64) -> i64 {
        let left = self.fill(now_ms, bytes_per_s);
        match (left > 0, bytes_per_s) {
            (true, _) => 0,
            (false, ..=0) => LONGEST_WAIT_MS,
            // The first millisecond after which there is something.
            (false, rate) => (left.saturating_neg() / rate)
                .saturating_add(1)
                .min(LONGEST_WAIT_MS),
        }
    }

    /// So much was moved.
    pub fn moved(&mut self, now_ms: i64, bytes_per_s: i64, bytes: u64) {
        let left = self.fill(now_ms, bytes_per_s);
        let taken = i64::try_from(bytes)
            .unwrap_or(i64::MAX)
            .saturating_mul(1000);
        self.left = Some((left.saturating_sub(taken), now_ms));
    }

    fn fill(&mut self, now_ms: i64, bytes_per_s: i64) -> i64 {
        // A rate in bytes a second is one in thousandths of bytes a millisecond.
        let most = bytes_per_s.saturating_mul(BURST_MS);
        let left = match self.left {
            None => most,
            Some((left, at_ms)) => {
                let earned = bytes_per_s.saturating_mul(now_ms.saturating_sub(at_ms).max(0));
                left.saturating_add(earned).min(most)
            }
        };
        self.left = Some((left, now_ms));
        left
    }
}
