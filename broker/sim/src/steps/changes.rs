//! Steps that change, make and remove logs, and what the disk is like.

use std::sync::Arc;

use tidemark_env::disk::{Disk, Fault, FaultError, FaultOp};
use tidemark_wal::{LogId, Record};

use super::Done;
use crate::directory::{NOW_MS, Open};
use crate::history::World;
use crate::shadow::Change;

impl World {
    pub(crate) fn retention(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let (bytes, later) = (self.random.below(4000), self.random.between(0, 3000));
        let usual = Arc::new(self.sizes.log.clone());
        let mut tight = self.sizes.log.clone();
        tight.retention_bytes = i64::try_from(bytes).unwrap_or(0);
        let Some((up, _)) = self.parts(id) else {
            return Ok(());
        };
        let wal = Arc::clone(&up.wal);
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        open.log.set_config(Arc::new(tight));
        let before = open.log.log_start_offset();
        let durable = open.log.durable_offset();
        let done = open.log.apply_retention(NOW_MS, durable);
        open.log.set_config(usual);
        let start = open.log.log_start_offset();
        if let Some(deletions) = open.log.take_due_deletions(NOW_MS + later) {
            deletions.run();
        }
        if start > before {
            // Said once more, to learn the number of the group.
            let again = Record::LogStart { offset: start };
            match wal.append(id, &again, |_| None) {
                Ok(placed) => {
                    self.saw("retention");
                    self.say(|| format!("retention in {}: from {start}", id.0));
                    self.note(id, placed.lsn, Change::LogStart(start));
                }
                Err(failure) => self.trouble("retention", &failure)?,
            }
        }
        match done {
            Ok(_) => Ok(()),
            Err(error) => self.trouble("retention", &error),
        }
    }

    pub(crate) fn delete_records(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let mut random = self.random.clone();
        self.random.number();
        let Some((up, _)) = self.parts(id) else {
            return Ok(());
        };
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        let offset = random.between(open.log.log_start_offset(), open.log.durable_offset());
        match open.log.delete_records(offset) {
            Ok(Some(lsn)) => {
                self.say(|| format!("delete records of {} below {offset}: group {lsn}", id.0));
                self.note(id, lsn, Change::LogStart(offset));
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => self.trouble("delete records", &error),
        }
    }

    pub(crate) fn truncate(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let Some((_, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let (start, end) = (shadow.now.log_start, shadow.now.end);
        let low = (start - 2).max(0);
        let offset = if self.random.one_in(2) {
            self.random.between(low, end)
        } else {
            self.random.between((end - 8).max(low), end)
        };
        self.cut(id, offset, false)
    }

    pub(crate) fn truncate_fully(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let offset = self.random.between(0, 300);
        self.cut(id, offset, true)
    }

    pub(crate) fn cut(&mut self, id: LogId, offset: i64, fully: bool) -> Done {
        if !self.flush_with_room()? {
            return Ok(());
        }
        let Some((up, shadow)) = self.parts(id) else {
            return Ok(());
        };
        // Only an epoch without records can go there.
        let at_end = !fully && offset >= shadow.now.end;
        if at_end && !shadow.now.epochs.iter().any(|(_, start)| *start >= offset) {
            return Ok(());
        }
        let change = match fully {
            true => Change::Reset(offset),
            false => shadow.now.cut(offset),
        };
        let lsn = up.wal.durable_lsn() + 1;
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        open.finish_job();
        // What fails here fails before anything is said.
        if !at_end && let Err(error) = open.log.settle() {
            return self.trouble("cut", &error);
        }
        let generation = open.log.generation();
        let done = match fully {
            true => open.log.truncate_fully(offset, NOW_MS),
            false => open.log.truncate_to(offset, NOW_MS),
        };
        let changed = open.log.generation() > generation;
        // Said, or being said when the power went.
        let said = up.wal.durable_lsn() >= lsn;
        if said || self.disk.power_is_off() || done.is_err() {
            self.say(|| format!("cut {} at {offset}: {change:?} in group {lsn}", id.0));
            let expected = match change {
                Change::Truncate(end) | Change::Reset(end) => end,
                _ => 0,
            };
            let no_room = matches!(&done, Err(error) if error.to_string().contains("os error 28"));
            if said || !no_room {
                self.note(id, lsn, change);
            }
            match done {
                Ok(end) if end == expected && changed => {
                    self.saw("truncation");
                    Ok(())
                }
                Ok(end) => Err(format!("cut at {expected}, and the log ends at {end}")),
                Err(error) => self.trouble("cut", &error),
            }
        } else {
            Err(format!("a cut at {offset} was not said"))
        }
    }

    pub(crate) fn start_epoch(&mut self) -> Done {
        match self.pick() {
            Some(id) => self.start_epoch_of(id),
            None => Ok(()),
        }
    }

    pub(crate) fn start_epoch_of(&mut self, id: LogId) -> Done {
        let Some((up, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let epoch = shadow.now.latest_epoch() + 1;
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        match open.log.start_epoch(epoch) {
            Ok(Some(lsn)) => {
                self.say(|| format!("epoch {epoch} of {} in group {lsn}", id.0));
                self.note(id, lsn, Change::Epoch(epoch));
                Ok(())
            }
            Ok(None) => Err(format!("epoch {epoch} does not begin")),
            Err(error) => self.trouble("start epoch", &error),
        }
    }

    pub(crate) fn create(&mut self) -> Done {
        let name = format!("t{}-0", self.random.below(8));
        let taken = self.image.iter().any(|wanted| wanted.name == name);
        if taken || self.opening.is_some() {
            return Ok(());
        }
        let wanted = self.new_topic(name);
        self.image.push(wanted.clone());
        self.open_new(&wanted)
    }

    pub(crate) fn open_new(&mut self, wanted: &crate::directory::Wanted) -> Done {
        let config = self.sizes.log.clone();
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        match up.open(wanted, None, &config) {
            Ok((id, open)) => {
                self.needed = self.needed.max(open.created.unwrap_or(0));
                self.say(|| format!("create {}: log {} in {:?}", wanted.name, id.0, open.created));
                self.saw("create");
                self.opening = Some((id, open));
                Ok(())
            }
            Err(error) => {
                self.trouble("create", &error)?;
                // It is not served, and tried again by the next start.
                self.crash(false);
                self.reopen()
            }
        }
    }

    /// A log that was opened is made known to checkpoints, and is led.
    pub(crate) fn finish_opening(&mut self) -> Done {
        if self.opening.is_none() || self.random.one_in(2) {
            return Ok(());
        }
        let Some((id, open)) = self.opening.take() else {
            return Ok(());
        };
        let found = open.found;
        if let Some(up) = &mut self.up {
            up.add(id, open);
        }
        self.start_epoch_of(id)?;
        if found {
            self.checkpoint()?;
        }
        self.flush().map(drop)
    }

    /// A topic goes; now and then one of the same name is there in the metadata before
    /// this one's files are gone.
    pub(crate) fn delete(&mut self) -> Done {
        if self.opening.is_some() || !self.flush_with_room()? {
            return Ok(());
        }
        let Some(id) = self.pick() else { return Ok(()) };
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        let Some(Open {
            log, topic, job, ..
        }) = up.logs.remove(&id)
        else {
            return Ok(());
        };
        let Some(at) = self.image.iter().position(|wanted| wanted.topic == topic) else {
            return Ok(());
        };
        let old = self.image.remove(at);
        drop((log, job));
        let again = self
            .random
            .one_in(3)
            .then(|| self.new_topic(old.name.clone()));
        self.image.extend(again.clone());
        self.say(|| format!("delete {} (log {})", old.name, id.0));
        self.saw("delete");
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        match up.wal.append(id, &Record::Delete, |_| None) {
            Ok(placed) => {
                self.needed = self.needed.max(placed.lsn);
                if let Some(shadow) = self.shadows.get_mut(&topic.0) {
                    shadow.note(placed.lsn, Change::Delete);
                }
            }
            Err(failure) => return self.trouble("delete", &failure),
        }
        if !self.flush()? {
            return Ok(());
        }
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        if let Err(error) = up.remove_files(&old.name, topic) {
            return self.trouble("remove files", &error);
        }
        match again {
            Some(again) => self.open_new(&again),
            None => Ok(()),
        }
    }

    /// A clean stop, and a start.
    pub(crate) fn close(&mut self) -> Done {
        if self.opening.is_some() || !self.flush_with_room()? {
            return Ok(());
        }
        let Some(mut up) = self.up.take() else {
            return Ok(());
        };
        up.wal.stop();
        let cut = up.wal.durable_lsn();
        self.reported = cut;
        let mut parts = Vec::new();
        for (_, mut open) in std::mem::take(&mut up.logs) {
            open.finish_job();
            match open.log.close(cut, (open.topic, 0), NOW_MS) {
                Ok(part) => parts.push(part),
                Err(error) => {
                    self.trouble("close", &error)?;
                    self.crash(false);
                    return self.reopen();
                }
            }
        }
        let noted = up.note(&parts, cut, true);
        drop(up);
        self.say(|| format!("closed: {noted:?}"));
        match noted {
            Ok(()) => self.saw("clean close"),
            Err(error) => self.trouble("close", &error)?,
        }
        let cut = self.random.one_in(2);
        self.crash(cut);
        self.reopen()
    }

    /// Room gets tight, or there is plenty again.
    pub(crate) fn room(&mut self) -> Done {
        self.tight = !self.tight;
        let capacity = self.tight.then(|| {
            let used = self
                .disk
                .space(&self.path)
                .map_or(0, |space| space.total_bytes - space.free_bytes);
            used + self.random.below(40_000)
        });
        self.disk.set_capacity(capacity);
        self.say(|| format!("room: {capacity:?}"));
        Ok(())
    }

    /// One write or sync of those that come will fail.
    pub(crate) fn break_disk(&mut self) -> Done {
        let fault = Fault {
            op: [FaultOp::Write, FaultOp::Sync][self.random.index(2)],
            path_contains: ["", ".wal", ".log", "checkpoint"][self.random.index(4)].to_owned(),
            after: u32::try_from(self.random.below(6)).unwrap_or(0),
            times: 1,
            error: FaultError::Eio,
        };
        self.say(|| format!("fault: {fault:?}"));
        self.disk.inject(fault);
        Ok(())
    }

    /// After EIO nothing more is taken in; a start from what is durable goes on.
    pub(crate) fn fail_directory(&mut self) -> Done {
        let mut refused = 0;
        if let Some(up) = &mut self.up {
            up.wal.fail("the disk failed".to_owned());
            let durable = up.wal.durable_lsn();
            for (id, open) in &mut up.logs {
                open.log.fail("the disk failed");
                let again = Record::LogStart { offset: 0 };
                refused += u64::from(up.wal.append(*id, &again, |_| None).is_err());
                refused += u64::from(open.log.start_epoch(i32::MAX).is_err());
            }
            if up.wal.write_next() && up.wal.durable_lsn() > durable {
                return Err("a failed disk made something durable".to_owned());
            }
            if refused != 2 * up.logs.len() as u64 {
                return Err("a failed disk takes something in".to_owned());
            }
        }
        self.saw("directory failed");
        let cut = self.random.one_in(2);
        self.crash(cut);
        self.reopen()
    }
}
