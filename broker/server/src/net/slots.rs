//! How many connections there may be, and which net thread one is given to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts open connections: in all, by address and by net thread.
pub(super) struct Open(Mutex<Counts>);

struct Counts {
    all: i32,
    of_ip: HashMap<IpAddr, i32>,
    of_thread: Vec<Load>,
}

/// Of two net threads the one with the lesser load gets the next connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Connections that carry records.
    busy: usize,
    /// The others. A client asks one connection where records are, and carries them over more.
    idle: usize,
}

/// An open connection, and the net thread that it belongs to.
pub(super) struct Slot {
    open: Arc<Open>,
    ip: IpAddr,
    thread: usize,
    is_busy: bool,
}

impl Open {
    pub(super) fn new(threads: usize) -> Arc<Open> {
        Arc::new(Open(Mutex::new(Counts {
            all: 0,
            of_ip: HashMap::new(),
            of_thread: vec![Load::default(); threads],
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection from `ip`, unless there are `most` of all or `most_per_ip` of those already.
    pub(super) fn enter(self: &Arc<Self>, ip: IpAddr, most: i32, most_per_ip: i32) -> Option<Slot> {
        let mut open = self.lock();
        let of_ip = open.of_ip.get(&ip).copied().unwrap_or(0);
        if open.all >= most || of_ip >= most_per_ip {
            return None;
        }
        let loads = open.of_thread.iter().enumerate();
        let thread = loads.min_by_key(|(_, load)| **load)?.0;
        open.all += 1;
        open.of_ip.insert(ip, of_ip + 1);
        open.of_thread[thread].idle += 1;
        Some(Slot {
            open: Arc::clone(self),
            ip,
            thread,
            is_busy: false,
        })
    }
}

impl Slot {
    /// That of a connection which no listener accepted.
    #[cfg(test)]
    pub(super) fn alone() -> Slot {
        let open = Open::new(1);
        let slot = open.enter(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1, 1);
        slot.expect("it is the first")
    }

    /// Which net thread it belongs to.
    pub(super) fn thread(&self) -> usize {
        self.thread
    }

    /// The connection carries records.
    pub(super) fn carries_records(&mut self) {
        if !self.is_busy {
            self.is_busy = true;
            let load = &mut self.open.lock().of_thread[self.thread];
            load.idle -= 1;
            load.busy += 1;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.all -= 1;
        if let Some(count) = open.of_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.of_ip.remove(&self.ip);
            }
        }
        let load = &mut open.of_thread[self.thread];
        match self.is_busy {
            true => load.busy -= 1,
            false => load.idle -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn enter(open: &Arc<Open>) -> Slot {
        open.enter(CLIENT, i32::MAX, i32::MAX).unwrap()
    }

    /// Each client asks over one connection where the records are, and carries them over the next:
    /// in turn, every second net thread would carry none.
    #[test]
    fn connections_that_carry_records_are_spread_over_the_net_threads() {
        for threads in [1, 2, 3, 4] {
            let open = Open::new(threads);
            let mut clients = Vec::new();
            for _ in 0..6 * threads {
                let asks = enter(&open);
                let mut carries = enter(&open);
                carries.carries_records();
                carries.carries_records();
                clients.push((asks, carries));
            }
            let busy = |open: &Open| -> Vec<usize> {
                let loads = &open.lock().of_thread;
                loads.iter().map(|load| load.busy).collect()
            };
            assert_eq!(busy(&open), vec![6; threads]);
            clients.truncate(1);
            assert_eq!(busy(&open).iter().sum::<usize>(), 1);
            drop(clients);
            assert_eq!(open.lock().of_thread, vec![Load::default(); threads]);
            assert!(open.lock().of_ip.is_empty());
        }
    }

    #[test]
    fn no_more_connections_than_allowed() {
        let open = Open::new(2);
        let other = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
        let _first = open.enter(CLIENT, 2, 1).unwrap();
        assert!(open.enter(CLIENT, 2, 1).is_none(), "of one address");
        let second = open.enter(other, 2, 1).unwrap();
        assert!(open.enter(other, 2, 5).is_none(), "in all");
        drop(second);
        assert!(open.enter(other, 2, 1).is_some());
    }
}
