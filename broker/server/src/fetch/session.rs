//! Incremental fetch sessions (KIP-227): the partitions that a consumer reads are remembered, so
//! that a request carries only what changed and an answer only what is new.

use super::signal::{Signal, Slot};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tidemark_replication::DurableReport;
use tidemark_wire::{ErrorCode, Uuid};

/// How a request names a topic: by id from version 13 on, by name before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TopicRef {
    Id(Uuid),
    Name(String),
}

/// What a request asks of one partition.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicRef,
    pub(crate) index: i32,
    pub(crate) fetch_offset: i64,
    pub(crate) max_bytes: i32,
    /// The leader epoch that the client knows; -1 when it does not say.
    pub(crate) current_leader_epoch: i32,
    /// The epoch of the last record that the client has; -1 when it does not say (KIP-595).
    pub(crate) last_fetched_epoch: i32,
    /// Of a follower: the start of its log, and what it has on its disk.
    pub(crate) follower: Option<(i64, DurableReport)>,
}

/// A partition of a session, with what its client was told last.
#[derive(Debug)]
pub(crate) struct Entry<P> {
    pub(crate) wanted: Wanted,
    /// The partition that it is subscribed to, once it was found.
    pub(crate) partition: Option<P>,
    pub(crate) told_high_watermark: i64,
    pub(crate) told_log_start: i64,
    /// The fetch that gave records of it last, counted over the session.
    served_in: u64,
}

/// The partitions of one fetch session. `P` is a subscription to the partition, released on drop.
#[derive(Debug)]
pub(crate) struct Interest<P> {
    entries: Vec<Option<Entry<P>>>,
    free: Vec<Slot>,
    slots: HashMap<(TopicRef, i32), Slot>,
    serves: u64,
    pub(crate) signal: Arc<Signal>,
}

impl<P> Default for Interest<P> {
    fn default() -> Self {
        Interest {
            entries: Vec::new(),
            free: Vec::new(),
            slots: HashMap::new(),
            serves: 0,
            signal: Signal::new(),
        }
    }
}

impl<P> Interest<P> {
    /// Adds a partition, or changes what is wanted of it; gives its slot.
    pub(crate) fn want(&mut self, wanted: Wanted) -> Slot {
        let key = (wanted.topic.clone(), wanted.index);
        if let Some(slot) = self.slots.get(&key) {
            if let Some(entry) = &mut self.entries[*slot as usize] {
                entry.wanted = wanted;
            }
            return *slot;
        }
        let entry = Some(Entry {
            wanted,
            partition: None,
            told_high_watermark: -1,
            told_log_start: -1,
            served_in: 0,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as Slot
            }
        };
        self.slots.insert(key, slot);
        slot
    }

    /// Removes a partition.
    pub(crate) fn forget(&mut self, topic: &TopicRef, index: i32) {
        if let Some(slot) = self.slots.remove(&(topic.clone(), index)) {
            self.entries[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// The partition at a slot, if it is still there.
    pub(crate) fn entry(&mut self, slot: Slot) -> Option<&mut Entry<P>> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// Puts candidates into the order in which they have their turn, each once: who got records
    /// longest ago comes first, so that no partition starves behind others that are always full.
    pub(crate) fn take_turns(&mut self, candidates: &mut Vec<Slot>) {
        let mut seen = HashSet::with_capacity(candidates.len());
        candidates.retain(|slot| seen.insert(*slot));
        candidates.sort_by_key(|slot| {
            let entry = self.entries.get(*slot as usize).and_then(Option::as_ref);
            entry.map_or(0, |entry| entry.served_in)
        });
    }

    /// Notes that the partition at `slot` gave records.
    pub(crate) fn served(&mut self, slot: Slot) {
        self.serves += 1;
        let serves = self.serves;
        if let Some(entry) = self.entry(slot) {
            entry.served_in = serves;
        }
    }

    /// How many partitions there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

struct Session<P> {
    /// The epoch that the next request must carry.
    next_epoch: i32,
    created_ms: i64,
    used_ms: i64,
    partitions: usize,
    by_id: bool,
    /// Of a follower: it makes room for nobody.
    follower: bool,
    /// Away while a request of the session is being served.
    interest: Option<Interest<P>>,
}

/// What a request's session id and epoch amount to.
pub(crate) enum Opened<P> {
    /// All partitions are in the request and in the answer; no session is wanted.
    Sessionless,
    /// All partitions are in the request; a session is wanted.
    New,
    /// A session goes on.
    Incremental(Interest<P>),
    /// The request does not fit its session.
    Refused(ErrorCode),
}

/// A session that was not used for this long may be replaced by a new one.
const EVICT_AFTER_MS: i64 = 120_000;
const FINAL_EPOCH: i32 = -1;
const INITIAL_EPOCH: i32 = 0;

/// The sessions of a broker, at most `max.incremental.fetch.session.cache.slots`.
pub(crate) struct Sessions<P> {
    sessions: HashMap<i32, Session<P>>,
}

impl<P> Default for Sessions<P> {
    fn default() -> Self {
        Sessions {
            sessions: HashMap::new(),
        }
    }
}

impl<P> Sessions<P> {
    /// Takes what a request names by `id` and `epoch`. `by_id`: whether it names topics by id.
    pub(crate) fn open(&mut self, id: i32, epoch: i32, by_id: bool, now_ms: i64) -> Opened<P> {
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            self.sessions.remove(&id);
            return if epoch == INITIAL_EPOCH {
                Opened::New
            } else {
                Opened::Sessionless
            };
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return Opened::Refused(ErrorCode::FetchSessionIdNotFound);
        };
        if session.by_id != by_id {
            return Opened::Refused(ErrorCode::FetchSessionTopicIdError);
        }
        if session.next_epoch != epoch {
            return Opened::Refused(ErrorCode::InvalidFetchSessionEpoch);
        }
        let Some(interest) = session.interest.take() else {
            return Opened::Refused(ErrorCode::InvalidFetchSessionEpoch);
        };
        session.next_epoch = next_epoch(epoch);
        session.used_ms = now_ms;
        Opened::Incremental(interest)
    }

    /// Keeps a new session under `id` (not 0, not in use); gives whether there was room.
    pub(crate) fn keep_new(
        &mut self,
        id: i32,
        interest: Interest<P>,
        by_id: bool,
        most: i32,
        now_ms: i64,
    ) -> bool {
        if id == 0 || self.sessions.contains_key(&id) {
            return false;
        }
        if self.sessions.len() >= usize::try_from(most).unwrap_or(0)
            && !self.evict(interest.len(), now_ms)
        {
            return false;
        }
        self.insert(id, interest, by_id, now_ms, false);
        true
    }

    /// Keeps a new session of a follower, whatever there is: the cluster waits for it.
    pub(crate) fn keep_for_follower(
        &mut self,
        id: i32,
        interest: Interest<P>,
        now_ms: i64,
    ) -> bool {
        if id == 0 || self.sessions.contains_key(&id) {
            return false;
        }
        self.insert(id, interest, true, now_ms, true);
        true
    }

    fn insert(&mut self, id: i32, interest: Interest<P>, by_id: bool, now_ms: i64, follower: bool) {
        let partitions = interest.len();
        let session = Session {
            next_epoch: next_epoch(INITIAL_EPOCH),
            created_ms: now_ms,
            used_ms: now_ms,
            partitions,
            by_id,
            follower,
            interest: Some(interest),
        };
        self.sessions.insert(id, session);
    }

    /// Gives a session's partitions back after a request was served.
    pub(crate) fn put_back(&mut self, id: i32, interest: Interest<P>) {
        // It is gone when it was evicted or closed meanwhile.
        if let Some(session) = self.sessions.get_mut(&id) {
            session.partitions = interest.len();
            session.interest = Some(interest);
        }
    }

    /// Makes room for a session of `partitions`: by the one that was idle longest, or by one that
    /// is smaller and has had its time.
    fn evict(&mut self, partitions: usize, now_ms: i64) -> bool {
        let stale = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.follower)
            .min_by_key(|(id, session)| (session.used_ms, **id));
        let victim = match stale {
            Some((id, session)) if now_ms - session.used_ms > EVICT_AFTER_MS => Some(*id),
            _ => self
                .sessions
                .iter()
                .filter(|(_, s)| {
                    !s.follower
                        && s.partitions < partitions
                        && now_ms - s.created_ms > EVICT_AFTER_MS
                })
                .min_by_key(|(id, session)| (session.partitions, **id))
                .map(|(id, _)| *id),
        };
        victim.is_some_and(|id| self.sessions.remove(&id).is_some())
    }

    /// Sessions open now, and the partitions in them.
    pub(crate) fn count(&self) -> (usize, usize) {
        (
            self.sessions.len(),
            self.sessions
                .values()
                .map(|session| session.partitions)
                .sum(),
        )
    }
}

/// Epochs run from 1 to the highest integer, and from 1 again.
fn next_epoch(epoch: i32) -> i32 {
    epoch.checked_add(1).unwrap_or(1)
}
