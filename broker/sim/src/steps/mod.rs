//! The steps of a history.

mod changes;
mod records;

use tidemark_wal::{LogId, Lsn};

use crate::check;
use crate::directory::Directory;
use crate::history::{Options, World};
use crate::shadow::{Change, Shadow};

type Done = Result<(), String>;

impl World {
    pub(crate) fn live(&mut self, options: &Options) -> Done {
        for index in 0..self.random.below(options.max_logs) + 1 {
            let wanted = self.new_topic(format!("t{index}-0"));
            self.image.push(wanted);
        }
        self.reopen()?;
        for _ in 0..20 + self.random.below(options.max_steps) {
            // Often the power goes in the middle of a step.
            let doomed = self.random.one_in(25);
            if doomed {
                let most = if self.random.one_in(2) { 4 } else { 40 };
                let left = self.random.below(most);
                self.say(|| format!("power for {left} changes"));
                self.disk.cut_power_after(left);
            }
            self.step()?;
            self.note_state();
            let down = self.disk.power_is_off();
            if down {
                self.saw("end in a step");
            }
            if self.failed && !down {
                self.fail_directory()?;
            } else if down || (doomed && self.random.one_in(2)) || self.is_broken() {
                self.disk.keep_power();
                self.crash(doomed && !down);
                self.reopen()?;
            } else {
                self.disk.keep_power();
            }
            if self.random.one_in(6) {
                self.check()?;
            }
        }
        self.check()?;
        let cut = self.random.one_in(2);
        self.crash(cut);
        self.reopen()?;
        self.check()
    }

    /// Something was used up that only a restart mends.
    pub(crate) fn is_broken(&self) -> bool {
        self.up.as_ref().is_none_or(|up| {
            up.wal.failure().is_some() || up.logs.values().any(|open| open.log.failure().is_some())
        })
    }

    pub(crate) fn note_state(&mut self) {
        let numbers = (
            self.disk.writes(),
            self.disk.file_syncs(),
            self.disk.dir_syncs(),
            self.up.as_ref().map_or(0, |up| up.wal.durable_lsn()),
        );
        self.report.trace.add(format!("{numbers:?}").as_bytes());
    }

    pub(crate) fn step(&mut self) -> Done {
        self.saw("step");
        match self.random.below(100) {
            0..36 => self.append(),
            36..42 => self.append_as_follower(),
            42..54 => self.write_next(),
            54..60 => self.deliver(),
            60..65 => self.write_behind(),
            65..68 => self.finish_job(),
            68..73 => self.checkpoint(),
            73..76 => self.retention(),
            76..77 => self.delete_records(),
            77..79 => self.truncate(),
            79 if self.random.one_in(3) => self.truncate_fully(),
            80..82 => self.start_epoch(),
            82..84 => self.create(),
            84 => self.delete(),
            85 if self.random.one_in(2) => self.close(),
            86 => {
                self.crash(false);
                self.reopen()
            }
            87..89 => {
                self.crash(true);
                self.reopen()
            }
            89 => self.room(),
            90 if self.random.one_in(2) => self.break_disk(),
            91..95 => self.plan_read(),
            95..99 => self.read(),
            _ => self.release_idle(),
        }?;
        self.finish_opening()
    }

    pub(crate) fn pick(&mut self) -> Option<LogId> {
        let up = self.up.as_ref()?;
        let index = self.random.index(up.logs.len());
        up.logs.keys().nth(index).copied()
    }

    pub(crate) fn parts(&mut self, id: LogId) -> Option<(&mut Directory, &mut Shadow)> {
        let up = self.up.as_mut()?;
        let topic = up.logs.get(&id)?.topic;
        let shadow = self.shadows.get_mut(&topic.0)?;
        Some((up, shadow))
    }

    pub(crate) fn note(&mut self, id: LogId, lsn: Lsn, change: Change) {
        self.needed = self.needed.max(lsn);
        self.report.trace.add(&lsn.to_le_bytes());
        if let Some((_, shadow)) = self.parts(id) {
            shadow.note(lsn, change);
        }
    }

    /// One group.
    pub(crate) fn write_next(&mut self) -> Done {
        let Some(up) = &self.up else { return Ok(()) };
        let wrote = up.wal.write_next();
        let (durable, failure) = (up.wal.durable_lsn(), up.wal.failure());
        self.say(|| format!("write: {wrote}, durable {durable}"));
        match failure {
            Some(failure) => self.trouble("write", &failure),
            None if !wrote && durable < self.needed => {
                self.saw("ring full");
                self.checkpoint()
            }
            None => Ok(()),
        }
    }

    pub(crate) fn deliver(&mut self) -> Done {
        match self.pick() {
            Some(id) => self.deliver_to(id),
            None => Ok(()),
        }
    }

    pub(crate) fn deliver_to(&mut self, id: LogId) -> Done {
        let Some((up, shadow)) = self.parts(id) else {
            return Ok(());
        };
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        let durable = open.deliver();
        shadow.promise(durable);
        let known = shadow.at(up.wal.durable_lsn()).end;
        if durable > known {
            return Err(format!("I4: {durable} is reported durable, {known} is"));
        }
        self.say(|| format!("deliver to {}: {durable}", id.0));
        Ok(())
    }

    /// Everything that was appended is durable, and everyone knows; or the disk does
    /// not let it.
    pub(crate) fn flush(&mut self) -> Result<bool, String> {
        for _ in 0..1000 {
            let Some(up) = &self.up else { return Ok(false) };
            if up.wal.durable_lsn() >= self.needed {
                let ids: Vec<LogId> = up.logs.keys().copied().collect();
                for id in ids {
                    self.deliver_to(id)?;
                }
                return Ok(true);
            }
            let before = up.wal.durable_lsn();
            self.write_next()?;
            if self
                .up
                .as_ref()
                .is_none_or(|up| up.wal.durable_lsn() > before)
            {
                continue;
            }
            // A full ring: all that is durable goes into the segments, and is let go.
            self.settle_all()?;
            self.note_checkpoint()?;
            let Some(up) = &self.up else { return Ok(false) };
            if !up.wal.write_next() {
                return match up.wal.failure() {
                    Some(failure) => self.trouble("write", &failure).map(|()| false),
                    None if self.tight || self.failed || self.disk.power_is_off() => Ok(false),
                    // What is said to exist and is not open yet keeps the ring.
                    None if self.opening.is_some() => Ok(false),
                    None => Err("the ring is full and no checkpoint frees it".to_owned()),
                };
            }
        }
        Err("the write-ahead log has no end".to_owned())
    }

    /// As [`World::flush`], with room in the ring for what is said next.
    pub(crate) fn flush_with_room(&mut self) -> Result<bool, String> {
        if !self.flush()? {
            return Ok(false);
        }
        let Some(up) = &self.up else { return Ok(false) };
        if up.wal.pressure().ring > 0.3 {
            self.checkpoint()?;
        }
        let Some(up) = &self.up else { return Ok(false) };
        // With no thread that makes room, one who waits would wait for ever.
        match up.wal.prepare() {
            Ok(made) if made || !self.tight => {}
            Ok(_) => return Ok(false),
            Err(error) => return self.trouble("prepare", &error).map(|()| false),
        }
        let room = up.wal.pressure().ring <= 0.7;
        Ok(room && !self.failed && !self.disk.power_is_off() && self.flush()?)
    }

    pub(crate) fn settle_all(&mut self) -> Done {
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        for open in up.logs.values_mut() {
            open.deliver();
            if let Err(error) = open.settle() {
                return self.trouble("settle", &error);
            }
        }
        Ok(())
    }

    /// Runs a job; the log is told later.
    pub(crate) fn write_behind(&mut self) -> Done {
        let Some(id) = self.pick() else { return Ok(()) };
        let Some((up, _)) = self.parts(id) else {
            return Ok(());
        };
        let Some(open) = up.logs.get_mut(&id) else {
            return Ok(());
        };
        // Not all of it: a large one is cut, too.
        let Some(job) = open.log.write_job(open.log.unwritten_bytes() / 2) else {
            return Ok(());
        };
        let run = job.run();
        let bytes = job.bytes();
        match run {
            Ok(()) => {
                open.job = Some(job);
                self.say(|| format!("write {bytes} behind in {}", id.0));
                Ok(())
            }
            Err(error) => {
                open.log.write_failed(job);
                self.trouble("write behind", &error)
            }
        }
    }

    pub(crate) fn finish_job(&mut self) -> Done {
        if let Some(id) = self.pick()
            && let Some((up, _)) = self.parts(id)
            && let Some(open) = up.logs.get_mut(&id)
        {
            open.finish_job();
        }
        Ok(())
    }

    pub(crate) fn checkpoint(&mut self) -> Done {
        if self.random.below(4) > 0 {
            self.settle_all()?;
        }
        self.note_checkpoint()
    }

    pub(crate) fn note_checkpoint(&mut self) -> Done {
        if self.failed {
            return Ok(());
        }
        let prepare = self.random.one_in(2);
        let Some(up) = &mut self.up else {
            return Ok(());
        };
        let done = up.checkpoint().and_then(|()| match prepare {
            true => up.wal.prepare().map(drop),
            false => Ok(()),
        });
        self.say(|| format!("checkpoint: {done:?}"));
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.trouble("checkpoint", &error),
        }
    }

    pub(crate) fn release_idle(&mut self) -> Done {
        if let Some(up) = &mut self.up {
            for open in up.logs.values_mut() {
                open.log.release_idle();
            }
        }
        Ok(())
    }

    pub(crate) fn after_open_epochs(&mut self) -> Done {
        let ids: Vec<LogId> = match &self.up {
            Some(up) => up.logs.keys().copied().collect(),
            None => return Ok(()),
        };
        for id in ids {
            self.start_epoch_of(id)?;
        }
        if self.random.one_in(2) {
            self.flush()?;
        }
        Ok(())
    }

    /// A leader begins its epoch, as a broker does when it starts.
    pub(crate) fn after_open(&mut self) -> Done {
        if self.random.below(4) > 0 {
            self.after_open_epochs()?;
        }
        Ok(())
    }

    /// Holds every log against its shadow.
    pub(crate) fn check(&mut self) -> Done {
        let Some(up) = &self.up else { return Ok(()) };
        let problem = up.logs.iter().find_map(|(id, open)| {
            let shadow = self.shadows.get(&open.topic.0)?;
            if open.log.failure().is_some() {
                return None;
            }
            let log = &open.log;
            let (found, wanted) = (
                (log.log_start_offset(), log.end_offset()),
                (shadow.now.log_start, shadow.now.end),
            );
            let ends = match found == wanted {
                true => Ok(()),
                false => Err(format!("it holds {found:?}, and should hold {wanted:?}")),
            };
            ends.and_then(|()| check::contents(log, &shadow.now))
                .and_then(|()| check::producers(log, &shadow.now))
                .err()
                .map(|what| format!("{} (log {}): {what}", shadow.name, id.0))
        });
        match problem {
            // Reading needs power as well, and whoever fails is asked no more.
            Some(what) if !self.failed && !self.disk.power_is_off() => Err(what),
            _ => Ok(()),
        }
    }
}
