//! Deadlines in one ordered map.
//!
//! A heartbeat only moves the deadline that its member holds; the entry in the
//! map moves when it comes due (or when the new deadline is earlier). So the
//! cost of a heartbeat does not grow with the number of groups or members.

use std::collections::BTreeMap;

/// What a due entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimerKey {
    /// The session of a member, or of a member id handed out and not yet used.
    Session { group_id: String, member_id: String },
    /// The join phase of a group.
    Join { group_id: String },
    /// The sync phase of a group.
    Sync { group_id: String },
    /// The search for expired offsets.
    Retention,
}

/// Where an entry sits in the map: its time and a sequence number.
pub(crate) type Entry = (i64, u64);

/// One deadline, held by the member or group that it belongs to.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    deadline_ms: i64,
    entry: Option<Entry>,
}

/// All armed deadlines of a coordinator.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    entries: BTreeMap<Entry, TimerKey>,
    next_sequence: u64,
}

impl Timers {
    /// Arms `timer` or moves it.
    pub(crate) fn set(
        &mut self,
        timer: &mut Timer,
        deadline_ms: i64,
        key: impl FnOnce() -> TimerKey,
    ) {
        timer.deadline_ms = deadline_ms;
        match timer.entry {
            // Late entries are moved when they come due: see `fired`.
            Some((at_ms, _)) if at_ms <= deadline_ms => {}
            Some(entry) => {
                let key = self.entries.remove(&entry).unwrap_or_else(key);
                timer.entry = Some(self.insert(deadline_ms, key));
            }
            None => timer.entry = Some(self.insert(deadline_ms, key())),
        }
    }

    /// Disarms `timer`.
    pub(crate) fn cancel(&mut self, timer: &mut Timer) {
        if let Some(entry) = timer.entry.take() {
            self.entries.remove(&entry);
        }
    }

    /// The time of the first entry; its timer may have moved to later since.
    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        self.entries.keys().next().map(|(at_ms, _)| *at_ms)
    }

    /// The sequence number of the next entry: what is armed from now on has this or more.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Takes the first entry at or before `now_ms`, if it was armed before
    /// sequence number `before`. The caller finds the timer it belongs to and
    /// asks [`Timers::fired`].
    pub(crate) fn pop_due(&mut self, now_ms: i64, before: u64) -> Option<(Entry, TimerKey)> {
        let first = self.entries.first_entry()?;
        let (at_ms, sequence) = *first.key();
        (at_ms <= now_ms && sequence < before).then(|| first.remove_entry())
    }

    /// Whether `timer` is really due, given an entry just taken. If its deadline
    /// has moved to later the entry goes back there.
    pub(crate) fn fired(
        &mut self,
        timer: &mut Timer,
        entry: Entry,
        now_ms: i64,
        key: TimerKey,
    ) -> bool {
        if timer.entry != Some(entry) {
            return false;
        }
        if timer.deadline_ms > now_ms {
            timer.entry = Some(self.insert(timer.deadline_ms, key));
            return false;
        }
        timer.entry = None;
        true
    }

    /// How many entries are armed.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn insert(&mut self, at_ms: i64, key: TimerKey) -> Entry {
        let entry = (at_ms, self.next_sequence);
        self.next_sequence += 1;
        self.entries.insert(entry, key);
        entry
    }
}
