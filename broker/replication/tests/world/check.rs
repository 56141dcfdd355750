//! What must hold, whatever happens.

use std::collections::BTreeMap;

use tidemark_replication::{AckState, Action, DurableReport, RoleName};

use super::World;
use super::disk::Record;

/// What was seen by somebody outside, and what was ever appended.
#[derive(Default)]
pub struct History {
    /// Everything below the highest high watermark of any leader.
    pub exposed: Vec<Record>,
    /// What each (leader epoch, offset) held.
    appended: BTreeMap<(i32, i64), u64>,
    /// Which process leads in an epoch, and the end of its log.
    leaders: BTreeMap<i32, (usize, u64, i64)>,
    pub acknowledged: u64,
}

impl World {
    /// Nothing is served in an epoch before its start is durable.
    pub fn check_serves(&self, at: usize, epoch: i32) {
        if !self.nodes[at].disk.has_begun(epoch) {
            self.fail(&format!("{at} serves before the start of epoch {epoch}"));
        }
    }

    /// In an epoch one process appends, and its end does not go down.
    pub fn check_leads(&mut self, at: usize, epoch: i32, end: i64) {
        self.check_serves(at, epoch);
        let process = self.nodes[at].process;
        let entry = self
            .history
            .leaders
            .entry(epoch)
            .or_insert((at, process, end));
        if (entry.0, entry.1) != (at, process) || end < entry.2 {
            let told =
                format!("{at} (process {process}, end {end}) leads in epoch {epoch} of {entry:?}");
            self.fail(&told);
        }
        entry.2 = end;
    }

    /// An epoch and an offset mean one record, on all disks and ever.
    pub fn check_appended(&mut self, at: usize, base_offset: i64) {
        for offset in base_offset..self.nodes[at].disk.end() {
            let record = *self.nodes[at].disk.get(offset).expect("it was appended");
            let key = (record.epoch, offset);
            let value = *self.history.appended.entry(key).or_insert(record.value);
            if value != record.value {
                self.fail(&format!("{at} has another record at {key:?}"));
            }
        }
    }

    /// What the high watermark covers is on the disks of the ISR, of one version of the
    /// metadata, and of whoever may join it; and it stays what it is.
    pub fn check_high_watermark(&mut self, at: usize, offset: i64) {
        let replica = self.nodes[at].replica.as_ref().expect("it acts");
        let leads = replica.role() == RoleName::Leader;
        for seen in self.nodes[at].disk.log_start.max(offset - 10)..offset {
            let record = *self.nodes[at]
                .disk
                .get(seen)
                .unwrap_or_else(|| self.fail("no record"));
            match self.history.exposed.get(seen as usize) {
                Some(known) if *known != record => {
                    self.fail(&format!("{at} shows another record at {seen}"));
                }
                None if !leads => self.fail(&format!("follower {at} shows {seen} first")),
                _ => {}
            }
        }
        if !leads {
            return;
        }
        let view = replica.view().expect("a leader has metadata").clone();
        if !view.has_min_isr() {
            self.fail(&format!("{at} commits {offset} with ISR {:?}", view.isr));
        }
        let joining = self.proposals.iter().filter(|p| {
            p.leader_epoch == view.leader_epoch
                && p.partition_epoch == self.controller.now().partition_epoch
        });
        let joining = joining.flat_map(|p| p.isr.iter().map(|(id, epoch)| (*id, *epoch)));
        let joining = joining.filter(|(id, epoch)| {
            self.controller
                .brokers
                .get(id)
                .is_some_and(|b| b.epoch == *epoch)
        });
        let members: Vec<i32> = view
            .isr
            .iter()
            .copied()
            .chain(joining.map(|(id, _)| id))
            .collect();
        for id in members {
            let (disk, lost) = (&self.nodes[id as usize].disk, self.is_lost(id));
            if disk.durable_end < offset && !lost {
                let told = format!(
                    "{at} commits {offset}, {id} has {} on disk",
                    disk.durable_end
                );
                self.fail(&told);
            }
        }
        while (self.history.exposed.len() as i64) < offset {
            let next = self.history.exposed.len() as i64;
            let Some(record) = self.nodes[at].disk.get(next).copied() else {
                self.fail(&format!(
                    "{at} does not hold {next} below its high watermark"
                ));
            };
            self.history.exposed.push(record);
        }
        self.answer_producers(at);
        self.check_members();
    }

    fn answer_producers(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let replica = node.replica.as_ref().expect("it acts");
        let mut committed = Vec::new();
        node.waiting.retain(|(epoch, offset, record)| {
            let state = replica.ack_state(*epoch, *offset);
            if state == AckState::Committed {
                committed.push((*offset, *record));
            }
            matches!(state, AckState::Waiting { .. })
        });
        for (offset, record) in committed {
            self.history.acknowledged += 1;
            if self.history.exposed.get(offset as usize) != Some(&record) {
                self.fail(&format!(
                    "acknowledged at {offset}: {record:?} is not there"
                ));
            }
        }
    }

    /// Whether its disk was replaced, and the controller does not know or has taken it out.
    fn is_lost(&self, id: i32) -> bool {
        let known = self.controller.brokers.get(&id);
        self.nodes[id as usize].wiped
            || known.is_some_and(|b| b.directory != self.nodes[id as usize].disk.directory)
            || !self.controller.now().isr.contains(&id) && !self.controller.now().elr.contains(&id)
    }

    /// Every member of ISR and ELR that is not lost holds all that was ever exposed.
    pub fn check_members(&mut self) {
        let view = self.controller.now();
        let exposed = self.history.exposed.len() as i64;
        for id in view.isr.iter().chain(&view.elr) {
            let disk = &self.nodes[*id as usize].disk;
            if self.nodes[*id as usize].wiped {
                continue;
            }
            let last = exposed.max(disk.log_start) - 1;
            let same = last < disk.log_start.max(0)
                || disk.get(last) == self.history.exposed.get(last as usize);
            if disk.durable_end < exposed || !same {
                let told = format!(
                    "{id} of ISR {:?} and ELR {:?} has {} of {exposed}, the last is {same}",
                    view.isr, view.elr, disk.durable_end
                );
                self.fail(&told);
            }
        }
    }

    /// Nothing below a replica's own high watermark is cut off.
    pub fn check_cut(&mut self, at: usize, action: &Action, to: i64) {
        let log = self.nodes[at].replica.as_ref().expect("it acts").log();
        let down = matches!(action, Action::Truncate { .. }) || to < log.end;
        if down && to < log.high_watermark {
            self.fail(&format!("{at} cuts at {to}, below {}", log.high_watermark));
        }
    }

    /// What is reported as durable is.
    pub fn check_report(&mut self, at: usize, report: &DurableReport) {
        let disk = &self.nodes[at].disk;
        if report.generation == disk.generation && report.durable_end > disk.durable_end {
            let told = format!("{at} reports {report:?}, has {}", disk.durable_end);
            self.fail(&told);
        }
    }

    /// A reader gets what was exposed, and what it gets does not change.
    pub fn check_read(&mut self, at: usize, offset: i64, to: i64) {
        for offset in offset..to.min(offset + 6) {
            let record = self.nodes[at].disk.get(offset);
            if record.is_none() || record != self.history.exposed.get(offset as usize) {
                self.fail(&format!("{at} gives {record:?} at {offset} to a reader"));
            }
        }
    }

    /// Whether a leader serves, everybody is in sync, and nothing is left to commit.
    pub fn is_well(&mut self) -> bool {
        let view = self.controller.now().clone();
        let Some(leader) = usize::try_from(view.leader).ok() else {
            return false;
        };
        let fits = |id: &i32| {
            let node = &self.nodes[*id as usize];
            let replica = node.replica.as_ref();
            let end = self.nodes[leader].disk.end();
            node.disk.end() == end
                && node.disk.durable_end == end
                && replica.is_some_and(|r| r.log().high_watermark == end)
                && replica.is_some_and(|r| r.log().durable_end == end)
        };
        let leads = self.nodes[leader].replica.as_ref().is_some_and(|replica| {
            replica.role() == RoleName::Leader && replica.latest_offset(None).is_ok()
        });
        leads
            && view.isr.len() == view.replicas.len()
            && view.replicas.iter().all(fits)
            && self.nodes[leader].waiting.is_empty()
    }

    /// At the end all replicas hold the same, and all that was exposed.
    pub fn check_end(&mut self) {
        let view = self.controller.now().clone();
        for id in &view.replicas {
            let disk = &self.nodes[*id as usize].disk;
            for (offset, known) in (0..).zip(&self.history.exposed) {
                if offset >= disk.log_start && disk.get(offset) != Some(known) {
                    self.fail(&format!("{id} lacks {known:?} at {offset} in the end"));
                }
            }
            if disk.end() != self.history.exposed.len() as i64 {
                self.fail(&format!("{id} ends elsewhere"));
            }
        }
        let controller = &self.controller;
        let counts = [
            ("election", controller.clean_elections.saturating_sub(1)),
            ("election from the ELR", controller.elr_elections),
            ("ISR shrinks", controller.shrinks),
            ("ISR expands", controller.expansions),
            ("proposal rejected by epoch", controller.rejected_by_epoch),
            ("proposal rejected by broker", controller.rejected_by_broker),
            ("directory lost", controller.lost_directories),
            ("acknowledged", self.history.acknowledged),
        ];
        for (what, times) in counts {
            *self.seen.entry(what).or_default() += times;
        }
    }
}
