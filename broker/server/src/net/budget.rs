//! Memory that clients may hold at once. What does not fit waits: it never grows.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Budgets count in these units, so that a semaphore's permits are enough for any size.
const UNIT_BYTES: usize = 1024;

/// A number of bytes shared by all connections.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    units: Arc<Semaphore>,
    total_units: u32,
}

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    _units: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of `bytes`.
    pub(crate) fn new(bytes: i64) -> Budget {
        let units = usize::try_from(bytes)
            .unwrap_or(0)
            .div_ceil(UNIT_BYTES)
            .clamp(1, 1 << 28);
        Budget {
            units: Arc::new(Semaphore::new(units)),
            total_units: units as u32,
        }
    }

    fn units(&self, bytes: usize) -> u32 {
        // A single item above the whole budget takes all of it, and so goes alone.
        u32::try_from(bytes.div_ceil(UNIT_BYTES))
            .unwrap_or(u32::MAX)
            .min(self.total_units)
    }

    /// Waits until `bytes` are free. Waiters are served in order.
    pub(crate) async fn take(&self, bytes: usize) -> Permit {
        let taken = Arc::clone(&self.units)
            .acquire_many_owned(self.units(bytes))
            .await;
        // The semaphore is never closed, so this is always a permit.
        Permit { _units: taken.ok() }
    }

    /// Takes `bytes` if they are free now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Permit> {
        let taken = Arc::clone(&self.units)
            .try_acquire_many_owned(self.units(bytes))
            .ok()?;
        Some(Permit {
            _units: Some(taken),
        })
    }

    /// Bytes in use now.
    pub(crate) fn used_bytes(&self) -> usize {
        (self.total_units as usize).saturating_sub(self.units.available_permits()) * UNIT_BYTES
    }

    /// Bytes in all.
    pub(crate) fn total_bytes(&self) -> usize {
        self.total_units as usize * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_budget_waits_and_what_is_given_back_is_free() {
        let budget = Budget::new(10 * 1024);
        let first = budget.try_take(8 * 1024).expect("8 of 10 KiB are free");
        assert!(budget.try_take(4 * 1024).is_none());
        assert_eq!(budget.used_bytes(), 8 * 1024);
        drop(first);
        let second = budget.try_take(4 * 1024);
        assert!(second.is_some());
        drop(second);
        assert_eq!(budget.used_bytes(), 0);
        assert!(
            budget.try_take(1 << 30).is_some(),
            "one item above the budget goes alone"
        );
    }
}
