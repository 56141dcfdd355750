//! What is appended and not written yet: the open group and those that are closed.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::format::{MAX_ENTRIES, RawEntry};
use crate::pool::Pool;
use crate::types::{Failure, LogId, Lsn, Member, Placed, Record};

/// The vectors of a group, used again by later ones.
#[derive(Default)]
pub(crate) struct Lists {
    pub(crate) entries: Vec<RawEntry>,
    pub(crate) members: Vec<Arc<dyn Member>>,
}

/// More lists than this are not kept.
const SPARE_LISTS: usize = 4;

/// A group that is complete.
pub(crate) struct Closed {
    pub(crate) lsn: Lsn,
    pub(crate) lists: Lists,
    /// Padded with zeros to 4 KiB.
    pub(crate) payload: Bytes,
    /// The length without padding.
    pub(crate) payload_bytes: usize,
}

pub(crate) struct Queue {
    /// Number of the open group.
    pub(crate) open_lsn: Lsn,
    open: Lists,
    closed: VecDeque<Closed>,
    spare: Vec<Lists>,
    pub(crate) pool: Pool,
    /// Bytes of records that are not durable yet.
    pub(crate) queued_bytes: usize,
    /// Why nothing is taken in any more.
    pub(crate) ended: Option<Failure>,
    /// The writer waits to be woken.
    pub(crate) writer_sleeps: bool,
}

/// What an append did, and who has to be woken for it.
pub(crate) struct Appended {
    pub(crate) placed: Placed,
    pub(crate) wake_writer: bool,
    /// More memory is in use than before.
    pub(crate) more_memory: bool,
}

impl Queue {
    pub(crate) fn new(first_lsn: Lsn, pool: Pool) -> Self {
        Self {
            open_lsn: first_lsn,
            open: Lists::default(),
            closed: VecDeque::new(),
            spare: Vec::new(),
            pool,
            queued_bytes: 0,
            ended: None,
            writer_sleeps: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.entries.is_empty() && self.closed.is_empty()
    }

    pub(crate) fn append(
        &mut self,
        log: LogId,
        record: &Record<'_>,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) -> Result<Appended, Failure> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let parts = match record {
            Record::Batches { parts, .. } => *parts,
            _ => &[],
        };
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let entry_len = u32::try_from(len).expect("record batches are smaller than 2 GiB");
        let mut more_memory = false;
        let position;
        let lsn;
        if len > self.pool.chunk_bytes() {
            // A group of its own, in memory of its own.
            self.close();
            lsn = self.open_lsn;
            position = 0;
            more_memory = true;
            self.register(log, record, position, entry_len, touched);
            let payload = self.pool.dedicated(parts, len).freeze();
            self.close_with(payload, len);
        } else {
            if len > 0 && !self.pool.has_room(len) {
                if self.pool.payload_bytes() > 0 {
                    self.close();
                }
                self.pool.next_chunk();
                more_memory = true;
            } else if self.open.entries.len() >= MAX_ENTRIES {
                self.close();
                if len > 0 && !self.pool.has_room(len) {
                    // The padding took the room.
                    self.pool.next_chunk();
                    more_memory = true;
                }
            }
            lsn = self.open_lsn;
            position = if len > 0 {
                u32::try_from(self.pool.push(parts)).expect("chunks are smaller than 4 GiB")
            } else {
                0
            };
            self.register(log, record, position, entry_len, touched);
        }
        self.queued_bytes += len;
        Ok(Appended {
            placed: Placed { lsn, position },
            wake_writer: std::mem::take(&mut self.writer_sleeps),
            more_memory,
        })
    }

    fn register(
        &mut self,
        log: LogId,
        record: &Record<'_>,
        position: u32,
        len: u32,
        touched: impl FnOnce(Lsn) -> Option<Arc<dyn Member>>,
    ) {
        self.open
            .entries
            .push(RawEntry::of(log, record, position, len));
        if let Some(member) = touched(self.open_lsn) {
            self.open.members.push(member);
        }
    }

    /// Closes the open group, if there is anything in it.
    fn close(&mut self) {
        if self.open.entries.is_empty() {
            return;
        }
        let payload_bytes = self.pool.payload_bytes();
        let payload = self.pool.split_padded().freeze();
        self.close_with(payload, payload_bytes);
    }

    fn close_with(&mut self, payload: Bytes, payload_bytes: usize) {
        let lists = std::mem::replace(&mut self.open, self.spare.pop().unwrap_or_default());
        self.closed.push_back(Closed {
            lsn: self.open_lsn,
            lists,
            payload,
            payload_bytes,
        });
        self.open_lsn += 1;
    }

    /// The next group to be written; the open one is closed for that.
    pub(crate) fn take(&mut self) -> Option<Closed> {
        if self.closed.is_empty() {
            self.close();
        }
        self.closed.pop_front()
    }

    /// A group that was taken and could not be written yet.
    pub(crate) fn put_back(&mut self, group: Closed) {
        self.closed.push_front(group);
    }

    /// A group is durable; its lists are empty.
    pub(crate) fn done(&mut self, payload_bytes: usize, lists: Lists) {
        self.queued_bytes = self.queued_bytes.saturating_sub(payload_bytes);
        if self.spare.len() < SPARE_LISTS {
            self.spare.push(lists);
        }
    }

    /// Takes nothing more in, and gives up what is queued: those who are to be told.
    pub(crate) fn give_up(&mut self, failure: Failure) -> Vec<Arc<dyn Member>> {
        self.ended = Some(failure);
        self.close();
        self.queued_bytes = 0;
        self.closed
            .drain(..)
            .flat_map(|group| group.lists.members)
            .collect()
    }
}
