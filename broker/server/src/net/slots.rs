//! How many connections a listener may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts open connections, in all and by address.
#[derive(Default)]
pub(super) struct Open(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    all: i32,
    of_ip: HashMap<IpAddr, i32>,
}

/// An open connection, until it is dropped.
pub(super) struct Slot(Arc<Open>, IpAddr);

impl Open {
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
        open.all += 1;
        open.of_ip.insert(ip, of_ip + 1);
        Some(Slot(Arc::clone(self), ip))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.0.lock();
        open.all -= 1;
        if let Some(count) = open.of_ip.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.of_ip.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn no_more_connections_than_allowed() {
        let open = Arc::new(Open::default());
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let first = open.enter(client, 2, 1).unwrap();
        assert!(open.enter(client, 2, 1).is_none(), "of one address");
        let second = open.enter(other, 2, 1).unwrap();
        assert!(open.enter(other, 2, 5).is_none(), "in all");
        drop(second);
        assert!(open.enter(other, 2, 1).is_some());
        drop(first);
        assert!(open.lock().of_ip.is_empty());
    }
}
