//! What clients saw, held against what was promised. Pure.
//!
//! The rules are those of Jepsen's tests of Kafka, without transactions: with one record in each
//! write, a cycle of writes is an order within a partition that contradicts the order in which
//! they were acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A partition of a topic whose name is used once.
pub type Place = (String, i32);

/// What a client did or saw. The order of events is that of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A producer begins to write `value`, which nobody else writes.
    Send {
        /// The producer.
        by: u32,
        /// Where to.
        to: Place,
        /// What tells it from all others.
        value: u64,
    },
    /// A write was acknowledged; the offset, if the broker knew it.
    Acked {
        /// What was written.
        value: u64,
        /// Where.
        offset: Option<i64>,
    },
    /// A write certainly did not happen.
    Refused {
        /// What was to be written.
        value: u64,
    },
    /// Nobody knows whether a write happened.
    Unknown {
        /// What was to be written.
        value: u64,
    },
    /// A reader begins to read from where it likes.
    Seek {
        /// The reader.
        by: u32,
    },
    /// A reader got records: offsets and values.
    Read {
        /// The reader.
        by: u32,
        /// Where from.
        from: Place,
        /// What, in its order.
        records: Vec<(i64, u64)>,
    },
    /// A member of a group got records. What it reads next is the group's business.
    GroupRead {
        /// The group.
        group: String,
        /// Where from.
        from: Place,
        /// What, in its order.
        records: Vec<(i64, u64)>,
    },
    /// A group was told that it will go on from an offset.
    Committed {
        /// Who had asked ([`Event::Asks`]) before the commit was sent.
        by: u32,
        /// The coordinator that said so.
        coordinator: i32,
        /// The group.
        group: String,
        /// Where.
        at: Place,
        /// The next offset to be read.
        next: i64,
    },
    /// Nobody knows whether a group will go on from an offset, nor when: a request that was given
    /// up may overtake those that came after it, on a connection of theirs.
    CommitUnknown {
        /// The group.
        group: String,
        /// Where.
        at: Place,
        /// The next offset to be read.
        next: i64,
    },
    /// Somebody begins to ask where a group goes on from, or to have it told.
    Asks {
        /// Who, one question at a time.
        by: u32,
    },
    /// Where a group goes on from, as the answer says.
    GoesOn {
        /// Who had asked.
        by: u32,
        /// The coordinator that answered; `None` at the end, when there is no other than the right
        /// one.
        coordinator: Option<i32>,
        /// The group.
        group: String,
        /// Where.
        at: Place,
        /// The next offset to be read; `None` where nothing is committed.
        next: Option<i64>,
    },
    /// Somebody is about to delete the oldest records: they may be gone from now on.
    Deletes {
        /// Where.
        at: Place,
        /// What lies below this offset.
        below: i64,
    },
    /// Everything is well, and stays so until the cluster is lost: what was acknowledged and
    /// committed until now comes back with it.
    Settled,
    /// The cluster was lost a moment ago, with everybody who used it, and came back from its
    /// bucket. What it had from these offsets on is given up, and others stand there one day.
    Restored {
        /// Where each partition ends.
        ends: BTreeMap<Place, i64>,
    },
    /// All that is there at the end, after everything was mended.
    Found {
        /// Where.
        at: Place,
        /// What, in its order.
        records: Vec<(i64, u64)>,
    },
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    /// Which rule.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

#[derive(Debug)]
struct Write {
    by: u32,
    to: Place,
    acked: bool,
    refused: bool,
    offset: Option<i64>,
    /// Everything below this offset was acknowledged there before this was sent.
    after: Option<i64>,
}

/// The highest offset that each group was told to go on from.
type Highest = BTreeMap<(String, Place), i64>;

/// A coordinator that was deposed and was not told yet, as nobody reaches it who would, answers
/// from what it had: only what it knows for sure is held against it. Nobody becomes a member
/// there, so no member goes on from less.
#[derive(Debug, Clone, Default)]
struct Commits {
    all: Highest,
    /// What each coordinator knows: whoever has taken a commit was the right one then, and knows
    /// what was committed anywhere before that was sent.
    known: BTreeMap<i32, Highest>,
}

fn raise(highest: &mut Highest, group: &str, at: &Place, next: i64) {
    let key = (group.to_owned(), at.clone());
    let highest = highest.entry(key).or_insert(next);
    *highest = next.max(*highest);
}

#[derive(Default)]
struct Checker {
    writes: BTreeMap<u64, Write>,
    /// Values by place and offset.
    logs: BTreeMap<Place, BTreeMap<i64, u64>>,
    /// Where values were seen.
    offsets: BTreeMap<u64, BTreeSet<(Place, i64)>>,
    /// The highest offset that was acknowledged so far.
    acked: BTreeMap<Place, i64>,
    /// The last offset that a reader got.
    positions: BTreeMap<(u32, Place), i64>,
    /// Pairs of offsets that readers got one after the other.
    steps: BTreeSet<(Place, i64, i64)>,
    groups: BTreeMap<String, BTreeSet<(Place, i64)>>,
    commits: Commits,
    /// Offsets that a group may be told to go on from at any time.
    late: BTreeSet<(String, Place, i64)>,
    /// The commits at the moment when somebody asked.
    asked: BTreeMap<u32, Commits>,
    found: BTreeMap<Place, BTreeMap<i64, u64>>,
    /// Below which offsets records may be gone.
    deleted: BTreeMap<Place, i64>,
    /// What comes back with the cluster: the highest offsets that were acknowledged, and committed.
    settled: Option<(BTreeMap<Place, i64>, Highest)>,
    /// Where partitions began anew, if they did.
    restored: Option<BTreeMap<Place, i64>>,
    /// Values that went with the cluster.
    given_up: BTreeSet<u64>,
    anomalies: Vec<Anomaly>,
}

/// All anomalies of a history.
pub fn check(history: &[Event]) -> Vec<Anomaly> {
    let mut checker = Checker::default();
    for event in history {
        checker.event(event);
    }
    checker.end();
    checker.anomalies
}

impl Checker {
    fn broken(&mut self, rule: &'static str, what: String) {
        self.anomalies.push(Anomaly { rule, what });
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Send { by, to, value } => {
                let write = Write {
                    by: *by,
                    to: to.clone(),
                    acked: false,
                    refused: false,
                    offset: None,
                    after: self.acked.get(to).copied(),
                };
                self.writes.insert(*value, write);
            }
            Event::Acked { value, offset } => self.acked(*value, *offset),
            Event::Refused { value } => {
                if let Some(write) = self.writes.get_mut(value) {
                    write.refused = true;
                }
            }
            Event::Unknown { .. } => {}
            Event::Seek { by } => self.positions.retain(|(of, _), _| of != by),
            Event::Read { by, from, records } => {
                for (offset, value) in records {
                    self.seen(from, *offset, *value);
                    let before = self.positions.insert((*by, from.clone()), *offset);
                    let Some(before) = before else { continue };
                    if before >= *offset {
                        self.broken(
                            "non-monotonic poll",
                            format!("reader {by} got offset {offset} of {from:?} after {before}"),
                        );
                    } else if before + 1 < *offset {
                        self.steps.insert((from.clone(), before, *offset));
                    }
                }
            }
            Event::GroupRead {
                group,
                from,
                records,
            } => {
                for (offset, value) in records {
                    self.seen(from, *offset, *value);
                    let read = self.groups.entry(group.clone()).or_default();
                    read.insert((from.clone(), *offset));
                }
            }
            Event::Committed {
                by,
                coordinator,
                group,
                at,
                next,
            } => {
                raise(&mut self.commits.all, group, at, *next);
                let known = self.commits.known.entry(*coordinator).or_default();
                raise(known, group, at, *next);
                let before = self.asked.get(by).map(|asked| &asked.all);
                for ((group, at), next) in before.into_iter().flatten() {
                    raise(known, group, at, *next);
                }
            }
            Event::CommitUnknown { group, at, next } => {
                self.late.insert((group.clone(), at.clone(), *next));
            }
            Event::Asks { by } => {
                self.asked.insert(*by, self.commits.clone());
            }
            Event::GoesOn {
                by,
                coordinator,
                group,
                at,
                next,
            } => {
                self.beyond(group, at, *next);
                let asked = self.asked.get(by);
                let known = asked.and_then(|asked| match coordinator {
                    Some(coordinator) => asked.known.get(coordinator),
                    None => Some(&asked.all),
                });
                let committed = known.and_then(|known| known.get(&(group.clone(), at.clone())));
                let committed = committed.copied();
                let is_late = |next: i64| self.late.contains(&(group.clone(), at.clone(), next));
                if committed > *next && !next.is_some_and(is_late) {
                    self.broken(
                        "lost commit",
                        format!(
                            "group {group} committed {committed:?} of {at:?} and goes on from {next:?}"
                        ),
                    );
                }
            }
            Event::Deletes { at, below } => {
                let deleted = self.deleted.entry(at.clone()).or_insert(*below);
                *deleted = (*below).max(*deleted);
            }
            Event::Settled => {
                self.settled = Some((self.acked.clone(), self.commits.all.clone()));
            }
            Event::Restored { ends } => self.restored(ends),
            Event::Found { at, records } => {
                let mut found = BTreeMap::new();
                for (offset, value) in records {
                    self.seen(at, *offset, *value);
                    found.insert(*offset, *value);
                }
                self.found.insert(at.clone(), found);
            }
        }
    }

    /// From here on it is another cluster, which knows what lies below `ends`.
    fn restored(&mut self, ends: &BTreeMap<Place, i64>) {
        let end_of = |at: &Place| ends.get(at).copied().unwrap_or(0);
        let (acked, mut committed) = self.settled.take().unwrap_or_default();
        for (at, offset) in &acked {
            let end = end_of(at);
            if *offset >= end && !self.may_be_gone(at, *offset) {
                self.broken(
                    "not in the bucket in time",
                    format!(
                        "{offset} of {at:?} was acknowledged long before, and {end} is the end"
                    ),
                );
            }
        }
        for ((_, at), next) in &mut committed {
            *next = end_of(at).min(*next);
        }
        for (at, log) in &mut self.logs {
            for (offset, value) in log.split_off(&end_of(at)) {
                if let Some(offsets) = self.offsets.get_mut(&value) {
                    offsets.remove(&(at.clone(), offset));
                }
                self.given_up.insert(value);
            }
        }
        self.offsets.retain(|_, offsets| !offsets.is_empty());
        for (value, write) in &mut self.writes {
            // Where what was acknowledged without an offset stood, nobody can tell.
            write.acked &= self.offsets.contains_key(value);
        }
        for (at, highest) in &mut self.acked {
            *highest = (end_of(at) - 1).min(*highest);
        }
        self.positions.clear();
        self.steps.retain(|(at, _, after)| *after < end_of(at));
        for read in self.groups.values_mut() {
            read.retain(|(at, offset)| *offset < end_of(at));
        }
        for (at, below) in &mut self.deleted {
            *below = end_of(at).min(*below);
        }
        self.commits = Commits {
            all: committed,
            known: BTreeMap::new(),
        };
        self.asked.clear();
        self.late.clear();
        self.restored = Some(ends.clone());
    }

    /// No group of a cluster that came back goes on from where nothing is.
    fn beyond(&mut self, group: &str, at: &Place, next: Option<i64>) {
        let Some(ends) = &self.restored else { return };
        let log = self.logs.get(at).and_then(|log| log.last_key_value());
        let end = log.map_or(0, |(last, _)| last + 1);
        let end = ends.get(at).copied().unwrap_or(0).max(end);
        if let Some(next) = next.filter(|next| *next > end) {
            self.broken(
                "group beyond the end",
                format!("group {group} goes on from {next} of {at:?}, which ends at {end}"),
            );
        }
    }

    fn acked(&mut self, value: u64, offset: Option<i64>) {
        let Some(write) = self.writes.get_mut(&value) else {
            return self.broken("acknowledged out of nowhere", format!("value {value}"));
        };
        write.acked = true;
        write.offset = offset;
        let (to, after) = (write.to.clone(), write.after);
        let Some(offset) = offset else { return };
        if let Some(after) = after.filter(|after| *after >= offset) {
            self.broken(
                "write in the past",
                format!(
                    "value {value} was put at offset {offset} of {to:?}, and {after} had been \
                     acknowledged before it was sent"
                ),
            );
        }
        let highest = self.acked.entry(to.clone()).or_insert(offset);
        *highest = offset.max(*highest);
        self.place(&to, offset, value);
    }

    fn seen(&mut self, at: &Place, offset: i64, value: u64) {
        if self.given_up.contains(&value) {
            self.broken(
                "back from the lost cluster",
                format!("value {value}, which the bucket did not have, is at {offset} of {at:?}"),
            );
        }
        match self.writes.get(&value) {
            None => self.broken(
                "read out of nowhere",
                format!("value {value} at offset {offset} of {at:?} was never sent"),
            ),
            Some(write) if write.refused => self.broken(
                "aborted read",
                format!("value {value} at offset {offset} of {at:?} had been refused"),
            ),
            Some(write) if write.to != *at => {
                let to = write.to.clone();
                self.broken(
                    "wrong partition",
                    format!("value {value} was sent to {to:?} and is in {at:?}"),
                );
            }
            Some(_) => {}
        }
        self.place(at, offset, value);
    }

    fn place(&mut self, at: &Place, offset: i64, value: u64) {
        let log = self.logs.entry(at.clone()).or_default();
        let there = *log.entry(offset).or_insert(value);
        if there != value {
            self.broken(
                "inconsistent offsets",
                format!("offset {offset} of {at:?} is both {there} and {value}"),
            );
        }
        let offsets = self.offsets.entry(value).or_default();
        if offsets.insert((at.clone(), offset)) && offsets.len() == 2 {
            let offsets = format!("{offsets:?}");
            self.broken("duplicate", format!("value {value} is at {offsets}"));
        }
    }

    fn end(&mut self) {
        self.refused_and_seen_before();
        self.lost();
        self.skipped();
        self.order_of_sends();
        self.unseen_by_groups();
    }

    /// What was refused after somebody had read it.
    fn refused_and_seen_before(&mut self) {
        let mut broken = Vec::new();
        for (value, write) in &self.writes {
            let said = |anomaly: &Anomaly| {
                anomaly.rule == "aborted read"
                    && anomaly.what.starts_with(&format!("value {value} at"))
            };
            if write.refused && self.offsets.contains_key(value) && !self.anomalies.iter().any(said)
            {
                broken.push(format!("value {value} was read and is refused"));
            }
        }
        for what in broken {
            self.broken("aborted read", what);
        }
    }

    fn lost(&mut self) {
        let mut broken = Vec::new();
        for (value, write) in self.writes.iter().filter(|(_, write)| write.acked) {
            let Some(found) = self.found.get(&write.to) else {
                continue;
            };
            // Who does not know where it is, may have lost it to a deletion.
            let offset = write.offset.unwrap_or(-1);
            if !found.values().any(|there| there == value) && !self.may_be_gone(&write.to, offset) {
                let at = write
                    .offset
                    .map_or_else(String::new, |at| format!(" at {at}"));
                let text = format!("value {value} was acknowledged{at} in {:?}", write.to);
                broken.push(("lost write", text));
            }
        }
        for (at, log) in &self.logs {
            let Some(found) = self.found.get(at) else {
                continue;
            };
            for (offset, value) in log {
                let acked = self.writes.get(value).is_some_and(|write| write.acked);
                let gone = !found.contains_key(offset) && self.may_be_gone(at, *offset);
                if !acked && found.get(offset) != Some(value) && !gone {
                    let text = format!("value {value} was read at offset {offset} of {at:?}");
                    broken.push(("lost read", text));
                }
            }
        }
        for (rule, text) in broken {
            self.broken(rule, format!("{text}, and is not there at the end"));
        }
    }

    fn may_be_gone(&self, at: &Place, offset: i64) -> bool {
        self.deleted.get(at).is_some_and(|below| offset < *below)
    }

    fn skipped(&mut self) {
        let mut broken = Vec::new();
        for (at, before, after) in &self.steps {
            let log = self.found.get(at).or_else(|| self.logs.get(at));
            let between = log.and_then(|log| log.range(before + 1..*after).next());
            if let Some((offset, value)) = between {
                broken.push(format!(
                    "a reader of {at:?} went from {before} to {after}, and {offset} is {value}"
                ));
            }
        }
        for what in broken {
            self.broken("poll skip", what);
        }
    }

    /// What one producer sent to one partition stands there in its order.
    fn order_of_sends(&mut self) {
        let mut last: BTreeMap<(u32, &Place), (i64, u64)> = BTreeMap::new();
        let mut broken = Vec::new();
        for (value, write) in &self.writes {
            let placed = self.offsets.get(value).and_then(|places| places.first());
            let Some((_, offset)) = placed else { continue };
            let before = last.insert((write.by, &write.to), (*offset, *value));
            if let Some((before, first)) = before.filter(|(before, _)| before > offset) {
                broken.push(format!(
                    "producer {} sent {first} before {value} to {:?}, and they are at {before} and {offset}",
                    write.by, write.to
                ));
            }
        }
        for what in broken {
            self.broken("non-monotonic send", what);
        }
    }

    fn unseen_by_groups(&mut self) {
        let mut broken = Vec::new();
        for (group, read) in &self.groups {
            for (at, found) in &self.found {
                for (offset, value) in found {
                    if !read.contains(&(at.clone(), *offset)) {
                        broken.push(format!(
                            "group {group} never read value {value} at offset {offset} of {at:?}"
                        ));
                    }
                }
            }
        }
        for what in broken {
            self.broken("unseen", what);
        }
    }
}

#[cfg(test)]
mod tests;
