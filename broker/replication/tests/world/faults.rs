//! Faults: crashes, new disks, pauses, cuts of the network, and changes by people.

use super::{Happening, To, World};

impl World {
    /// Maybe does something bad.
    pub(super) fn fault(&mut self) {
        if !self.random.one_in(6) || self.nodes.iter().any(|node| node.wiped) {
            return;
        }
        let at = self.random.index(self.nodes.len());
        match self.random.below(12) {
            0..=2 => self.crash(at),
            3 => self.wipe(at),
            4 | 5 => {
                let long = self.random.between(30, 900);
                self.nodes[at].paused_until = self.now_ms + long;
                self.note(|| format!("{at} stands still for {long} ms"));
            }
            6..=8 => {
                let other = self.random.index(self.nodes.len() + 1);
                let until = self.now_ms + self.random.between(50, 1_200);
                self.cuts[at][other] = until;
                if self.random.one_in(2) {
                    self.cuts[other][at] = until;
                }
                self.note(|| format!("{at} is cut from {other} until {until}"));
            }
            9 => self.nodes[at].slow_disk_until = self.now_ms + self.random.between(100, 900),
            10 => {
                let most = self.controller.now().replicas.len().min(3);
                let min_isr = 1 + self.random.index(most);
                self.controller.set_min_isr(min_isr);
                self.note(|| format!("min ISR {min_isr}"));
                self.saw("min ISR changes");
                self.publish();
            }
            _ => self.reassign(at as i32),
        }
    }

    fn reassign(&mut self, id: i32) {
        if !self.controller.now().replicas.contains(&id) {
            self.controller.add_replica(id);
            self.saw("replica added");
        } else if self.controller.now().replicas.len() > 1 && self.controller.remove_replica(id) {
            self.saw("replica removed");
        }
        self.note(|| format!("reassigned {id}"));
        self.publish();
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.up {
            return;
        }
        node.up = false;
        node.process += 1;
        node.replica = None;
        let before = node.disk.end();
        node.disk.crash(&mut self.random);
        let lost = before - node.disk.end();
        if lost > 0 {
            self.saw("crash loses records");
        }
        self.note(|| format!("{at} crashes, {lost} records lost"));
        let quick = self.random.one_in(2);
        let back = self.random.between(1, if quick { 40 } else { 900 });
        self.at(back, To::Broker(at), Happening::Start);
    }

    /// A crash, and the broker comes back with another disk: never the last one that holds
    /// what was acknowledged.
    fn wipe(&mut self, at: usize) {
        let view = self.controller.now();
        let controller = self.nodes.len();
        let holds = |id: &&i32| {
            let other = **id as usize;
            let node = &self.nodes[other];
            let heard = self.cuts[other][controller] <= self.now_ms;
            other != at && node.up && node.paused_until <= self.now_ms && heard
        };
        if !self.nodes[at].up || view.isr.iter().chain(&view.elr).filter(holds).count() == 0 {
            return;
        }
        self.crash(at);
        self.next_directory += 1;
        let node = &mut self.nodes[at];
        node.disk = super::Disk::blank(self.next_directory);
        node.wiped = true;
        self.note(|| format!("{at} gets a new disk"));
    }

    /// Nothing bad happens any more, and what happened is mended.
    pub(super) fn heal(&mut self) {
        for row in &mut self.cuts {
            row.fill(0);
        }
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            node.paused_until = node.paused_until.min(self.now_ms);
            node.slow_disk_until = 0;
            if !node.up {
                self.start(at);
            }
        }
    }
}
