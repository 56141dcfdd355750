//! Chunks of memory, aligned for direct writes, that are used again and again.
//!
//! A chunk is a `BytesMut` of which closed groups are split off and handed out as
//! `Bytes`. What remains of it stays here as a handle: when nobody holds a slice any
//! more, the whole allocation is taken back through that handle.

use bytes::{BufMut, BytesMut};

use crate::format::BLOCK;

/// An empty buffer for `len` bytes and the padding behind them, at an address that is a
/// multiple of 4 KiB.
pub(crate) fn aligned(len: usize) -> BytesMut {
    let mut buffer = BytesMut::with_capacity(len.next_multiple_of(BLOCK) + BLOCK);
    align(&mut buffer);
    buffer
}

/// Moves the beginning of an empty buffer up to a multiple of 4 KiB.
fn align(buffer: &mut BytesMut) {
    let filler = buffer.as_ptr().align_offset(BLOCK);
    buffer.put_bytes(0, filler);
    bytes::Buf::advance(buffer, filler);
}

/// What remains of a chunk whose groups are closed.
#[derive(Debug)]
struct Retired {
    handle: BytesMut,
    /// Size of the whole allocation.
    bytes: usize,
    /// Made for one large record: it is not kept.
    dedicated: bool,
}

#[derive(Debug)]
pub(crate) struct Pool {
    chunk_bytes: usize,
    /// Chunks that may be in use.
    allowed: usize,
    /// The one being filled; what is in it is the open group's payload so far.
    tail: Option<BytesMut>,
    /// Bytes of it that closed groups have not taken.
    left: usize,
    /// Slices of these may be held.
    retired: Vec<Retired>,
    /// Nobody holds anything of these. The last one was in use last.
    free: Vec<BytesMut>,
    #[cfg(test)]
    pub(crate) allocations: usize,
}

/// Size of the allocation behind a chunk.
fn allocation(chunk_bytes: usize) -> usize {
    chunk_bytes + BLOCK
}

impl Pool {
    pub(crate) fn new(chunk_bytes: usize, memory_bytes: usize) -> Self {
        let chunk_bytes = chunk_bytes.max(BLOCK).next_multiple_of(BLOCK);
        Self {
            chunk_bytes,
            allowed: (memory_bytes / chunk_bytes).max(2),
            tail: None,
            left: 0,
            retired: Vec::new(),
            free: Vec::new(),
            #[cfg(test)]
            allocations: 0,
        }
    }

    pub(crate) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Takes back what nobody holds any more.
    pub(crate) fn collect(&mut self) {
        let mut at = 0;
        while at < self.retired.len() {
            let retired = &mut self.retired[at];
            // Groups were split off, so that less than the whole is left of the handle:
            // it is had again only when this handle is the only one.
            if !retired.handle.try_reclaim(retired.bytes) {
                at += 1;
                continue;
            }
            let Retired {
                mut handle,
                dedicated,
                ..
            } = self.retired.swap_remove(at);
            let kept = self.retired.len() + self.free.len() + usize::from(self.tail.is_some());
            if !dedicated && kept < self.allowed {
                align(&mut handle);
                self.free.push(handle);
            }
        }
    }

    /// Bytes of memory in use, for all that is known: [`Pool::collect`] first.
    pub(crate) fn used_bytes(&self) -> usize {
        let retired: usize = self
            .retired
            .iter()
            .map(|retired| {
                if retired.dedicated {
                    retired.bytes
                } else {
                    self.chunk_bytes
                }
            })
            .sum();
        retired
            + if self.tail.is_some() {
                self.chunk_bytes
            } else {
                0
            }
    }

    pub(crate) fn allowed_bytes(&self) -> usize {
        self.allowed * self.chunk_bytes
    }

    /// The open group's payload so far.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.tail.as_ref().map_or(0, BytesMut::len)
    }

    /// Whether the open group's payload can take `len` bytes more. If not, the group has
    /// to be closed, and there is a new chunk for the next one.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let Some(tail) = &self.tail else {
            return false;
        };
        // Not what the allocation has: that depends on where it lies.
        len <= self.left.saturating_sub(tail.len())
    }

    /// Begins a new chunk. The open group has no payload.
    pub(crate) fn next_chunk(&mut self) {
        debug_assert_eq!(self.payload_bytes(), 0, "the group was closed before");
        let bytes = allocation(self.chunk_bytes);
        if let Some(handle) = self.tail.take() {
            self.retired.push(Retired {
                handle,
                bytes,
                dedicated: false,
            });
        }
        self.collect();
        let next = self.free.pop().unwrap_or_else(|| {
            #[cfg(test)]
            {
                self.allocations += 1;
            }
            aligned(self.chunk_bytes)
        });
        debug_assert!(
            next.capacity() <= bytes,
            "a chunk is never larger than its allocation"
        );
        self.tail = Some(next);
        self.left = self.chunk_bytes;
    }

    /// Copies `parts` behind the open group's payload, for which there is room, and says
    /// where they begin.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> usize {
        let Some(tail) = &mut self.tail else {
            return 0;
        };
        let position = tail.len();
        for part in parts {
            tail.extend_from_slice(part);
        }
        position
    }

    /// Takes the open group's payload, padded to 4 KiB.
    pub(crate) fn split_padded(&mut self) -> BytesMut {
        let Some(tail) = &mut self.tail else {
            return BytesMut::new();
        };
        if tail.is_empty() {
            return BytesMut::new();
        }
        pad(tail);
        self.left = self.left.saturating_sub(tail.len());
        tail.split()
    }

    /// A payload of its own for `parts`, padded, which are `len` bytes.
    pub(crate) fn dedicated(&mut self, parts: &[&[u8]], len: usize) -> BytesMut {
        let mut handle = aligned(len);
        let bytes = len.next_multiple_of(BLOCK) + BLOCK;
        for part in parts {
            handle.extend_from_slice(part);
        }
        pad(&mut handle);
        let payload = handle.split();
        self.retired.push(Retired {
            handle,
            bytes,
            dedicated: true,
        });
        payload
    }

    /// Chunks that nobody holds.
    #[cfg(test)]
    pub(crate) fn free_chunks(&self) -> usize {
        self.free.len()
    }
}

/// Zeros up to a multiple of 4 KiB.
fn pad(buffer: &mut BytesMut) {
    let len = buffer.len();
    buffer.put_bytes(0, len.next_multiple_of(BLOCK) - len);
}
