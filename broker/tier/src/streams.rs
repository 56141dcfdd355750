//! Who reads on, and how far ahead of it is worth reading: pure.

use std::collections::VecDeque;

use tidemark_wire::Uuid;

/// Who reads on gets so many blocks ahead of it at most, when it has shown that it does.
const MOST_AHEAD: usize = 8;
/// So many readers are remembered.
const STREAMS: usize = 256;

/// Who reads where, as far as that can be told from what is asked for: by object, the block that
/// was read last, and how many ahead of it are fetched. Those who read one object together count
/// as one.
#[derive(Debug)]
pub(crate) struct Streams {
    most: usize,
    /// The one that was read last is at the end.
    known: VecDeque<Stream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    object: Uuid,
    block: u64,
    ahead: usize,
}

impl Streams {
    /// Nobody is given more than `most` blocks ahead.
    pub(crate) fn new(most: u64) -> Streams {
        Streams {
            most: usize::try_from(most).map_or(MOST_AHEAD, |most| most.clamp(1, MOST_AHEAD)),
            known: VecDeque::new(),
        }
    }

    /// A block is read: how many after it are to be fetched now. Each that follows the one before
    /// doubles them.
    pub(crate) fn read(&mut self, object: Uuid, block: u64) -> usize {
        let at = self.known.iter().position(|known| known.object == object);
        let before = at.and_then(|at| self.known.remove(at));
        let ahead = match before {
            Some(before) if before.block == block => before.ahead,
            Some(before) if before.block + 1 == block => (before.ahead * 2).min(self.most),
            _ => 1,
        };
        self.keep(Stream {
            object,
            block,
            ahead,
        });
        ahead
    }

    /// Who reads `object` will read `next`, from its beginning.
    pub(crate) fn goes_on(&mut self, object: Uuid, next: Uuid, ahead: usize) {
        if object != next && !self.known.iter().any(|known| known.object == next) {
            self.keep(Stream {
                object: next,
                block: 0,
                ahead,
            });
        }
    }

    fn keep(&mut self, stream: Stream) {
        if self.known.len() >= STREAMS {
            self.known.pop_front();
        }
        self.known.push_back(stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Uuid = Uuid([1; 16]);
    const OTHER: Uuid = Uuid([2; 16]);

    #[test]
    fn who_reads_on_is_read_ahead_of_further_each_time() {
        let mut streams = Streams::new(100);
        let ahead: Vec<usize> = (0..6).map(|block| streams.read(ONE, block)).collect();
        assert_eq!(ahead, [1, 2, 4, 8, 8, 8]);
        assert_eq!(streams.read(ONE, 5), 8, "still there");
        assert_eq!(streams.read(ONE, 2), 1, "it jumped");
        assert_eq!(streams.read(OTHER, 3), 1);
        assert_eq!(streams.read(ONE, 3), 2, "others do not matter");
    }

    #[test]
    fn who_comes_to_the_next_object_goes_on_as_before() {
        let mut streams = Streams::new(3);
        let ahead: Vec<usize> = (0..3).map(|block| streams.read(ONE, block)).collect();
        assert_eq!(ahead, [1, 2, 3], "no more than there is room for");
        streams.goes_on(ONE, OTHER, 3);
        assert_eq!(streams.read(OTHER, 0), 3);
        assert_eq!(streams.read(OTHER, 1), 3);
    }

    #[test]
    fn readers_that_are_gone_are_forgotten() {
        let mut streams = Streams::new(8);
        streams.read(ONE, 0);
        for other in 0..=u8::MAX {
            streams.read(
                Uuid([other, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
                0,
            );
        }
        assert_eq!(streams.known.len(), STREAMS);
        assert_eq!(streams.read(ONE, 1), 1);
    }
}
