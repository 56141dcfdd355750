//! Which net thread a connection is given to: it stays there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one net thread has. The one with the least gets the next connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Connections that carry records.
    busy: usize,
    /// The others. A client asks one connection where records are, and carries them over more.
    idle: usize,
}

/// The loads of all net threads.
#[derive(Clone)]
pub(crate) struct Seats(Arc<Mutex<Vec<Load>>>);

impl Seats {
    /// Those of `threads` net threads, at least one.
    pub(crate) fn new(threads: usize) -> Seats {
        Seats(Arc::new(Mutex::new(vec![Load::default(); threads])))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Load>> {
        // A count cannot be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Seat {
        let mut loads = self.lock();
        let least = loads.iter().enumerate().min_by_key(|(_, load)| **load);
        let index = least.map_or(0, |(index, _)| index);
        loads[index].idle += 1;
        Seat {
            seats: self.clone(),
            index,
            is_busy: false,
        }
    }
}

/// A connection's place on a net thread, until it is dropped.
pub struct Seat {
    seats: Seats,
    index: usize,
    is_busy: bool,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("index", &self.index)
            .field("is_busy", &self.is_busy)
            .finish_non_exhaustive()
    }
}

impl Seat {
    /// Which net thread, for [`NetThreads::spawn_on`](crate::runtime::NetThreads::spawn_on).
    pub fn index(&self) -> usize {
        self.index
    }

    /// Says that the connection carries records: it weighs more from now on.
    pub fn carries_records(&mut self) {
        if !self.is_busy {
            self.is_busy = true;
            let load = &mut self.seats.lock()[self.index];
            load.idle -= 1;
            load.busy += 1;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let load = &mut self.seats.lock()[self.index];
        match self.is_busy {
            true => load.busy -= 1,
            false => load.idle -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each client asks over one connection where the records are, and carries them over the next:
    /// in turn, every second net thread would carry none.
    #[test]
    fn connections_that_carry_records_are_spread_over_the_net_threads() {
        for threads in [1, 2, 3, 4] {
            let seats = Seats::new(threads);
            let mut clients = Vec::new();
            for _ in 0..6 * threads {
                let asks = seats.take();
                let mut carries = seats.take();
                carries.carries_records();
                carries.carries_records();
                clients.push((asks, carries));
            }
            let busy = || -> Vec<usize> { seats.lock().iter().map(|load| load.busy).collect() };
            assert_eq!(busy(), vec![6; threads]);
            clients.truncate(1);
            assert_eq!(busy().iter().sum::<usize>(), 1);
            drop(clients);
            assert_eq!(*seats.lock(), vec![Load::default(); threads]);
        }
    }
}
