//! Who reads on, how far ahead of it is worth reading, and by how large requests: pure.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tidemark_env::clock::Instant;
use tidemark_wire::Uuid;

/// Who reads on gets so many blocks ahead of it at most, when it has shown that it does.
const MOST_AHEAD: u64 = 16;
/// What all of them together get ahead is this part of the cache: the rest is for what they read,
/// and for those who jump.
const SHARE_AHEAD: u64 = 2;
/// So many readers are remembered.
const STREAMS: usize = 256;
/// Who has not read for so long has no share of the cache.
const AT_REST: Duration = Duration::from_secs(10);

/// Who reads where, as far as that can be told from what is asked for: by object, the block that
/// was read last, and how many ahead of it are fetched. Those who read one object together count
/// as one.
#[derive(Debug)]
pub(crate) struct Streams {
    cache_blocks: u64,
    /// The one that was read last is at the end.
    known: VecDeque<Stream>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    object: Uuid,
    block: u64,
    ahead: u64,
    /// The first block that nobody was told to fetch.
    unasked: u64,
    read_at: Instant,
    /// Who reads this object now will come here.
    comes_from: Option<Uuid>,
}

/// What is to be fetched now, by requests for `run` blocks each: those begin at multiples of it,
/// since stores keep objects in pieces, and give a whole one for hardly more than a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) blocks: Range<u64>,
    pub(crate) run: u64,
}

impl Streams {
    /// For a cache of so many blocks.
    pub(crate) fn new(cache_blocks: u64) -> Streams {
        Streams {
            cache_blocks,
            known: VecDeque::new(),
        }
    }

    /// A block is read: what is to be fetched now. Each that follows the one before doubles how far
    /// ahead that is; half of it comes with one request, so the other half is there meanwhile.
    pub(crate) fn read(&mut self, object: Uuid, block: u64, now: Instant) -> Ahead {
        let before = self.take(object);
        if let Some(done) = before.and_then(|before| before.comes_from) {
            self.take(done);
        }
        let active = self.active(now) + 1;
        let most = (self.cache_blocks / SHARE_AHEAD / active).clamp(1, MOST_AHEAD);
        let mut stream = match before {
            Some(before) if before.block == block => before,
            Some(before) if before.block + 1 == block => Stream {
                ahead: before.ahead * 2,
                ..before
            },
            _ => Stream {
                object,
                block,
                ahead: 1,
                unasked: block + 1,
                read_at: now,
                comes_from: None,
            },
        };
        stream.comes_from = None;
        stream.block = block;
        stream.read_at = now;
        stream.ahead = stream.ahead.min(most);
        let from = stream.unasked.max(block + 1);
        let run = ((1 << stream.ahead.ilog2()) / 2).max(1);
        let until = block + 1 + stream.ahead;
        stream.unasked = (until - until % run).max(from);
        self.keep(stream);
        Ahead {
            blocks: from..stream.unasked,
            run,
        }
    }

    /// Who reads `object` will read `next`, and wants its blocks before `until`: what of them is to
    /// be fetched now.
    pub(crate) fn goes_on(&mut self, object: Uuid, next: Uuid, until: u64) -> Range<u64> {
        let Some(of) = self.known.iter().find(|known| known.object == object) else {
            return 0..0;
        };
        let begun = Stream {
            object: next,
            block: 0,
            unasked: 0,
            comes_from: Some(object),
            ..*of
        };
        let mut stream = self.take(next).unwrap_or(begun);
        let from = stream.unasked;
        stream.unasked = from.max(until);
        self.keep(stream);
        from..stream.unasked
    }

    /// A block is not there when it is read. If it was to be, it came and went for want of room:
    /// less is read ahead, from there.
    pub(crate) fn missed(&mut self, object: Uuid, block: u64) {
        let stream = self.known.iter_mut().find(|known| known.object == object);
        if let Some(stream) = stream
            && (stream.block + 1..stream.unasked).contains(&block)
        {
            stream.ahead = (stream.ahead / 4).max(1);
            stream.unasked = block;
        }
    }

    /// How many read on.
    fn active(&self, now: Instant) -> u64 {
        let reads = |known: &&Stream| {
            let was_there = now.saturating_duration_since(known.read_at) < AT_REST;
            known.ahead > 1 && known.comes_from.is_none() && was_there
        };
        self.known.iter().filter(reads).count() as u64
    }

    fn take(&mut self, object: Uuid) -> Option<Stream> {
        let at = self.known.iter().position(|known| known.object == object);
        at.and_then(|at| self.known.remove(at))
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
    use tidemark_env::clock;

    const ONE: Uuid = Uuid([1; 16]);
    const OTHER: Uuid = Uuid([2; 16]);

    fn of(blocks: Range<u64>, run: u64) -> Ahead {
        Ahead { blocks, run }
    }

    #[test]
    fn who_reads_on_is_read_ahead_of_further_each_time() {
        let (mut streams, now) = (Streams::new(100), clock::monotonic());
        let asked: Vec<Ahead> = (0..17).map(|block| streams.read(ONE, block, now)).collect();
        let begun = [of(1..2, 1), of(2..4, 1), of(4..6, 2), of(6..12, 4)];
        assert_eq!(asked[..4], begun);
        assert_eq!(asked[4], of(12..16, 8), "to the end of a run");
        assert!(asked[5..7].iter().all(|ahead| ahead.blocks.is_empty()));
        assert_eq!(asked[7], of(16..24, 8), "half of what is ahead");
        assert_eq!(asked[15], of(24..32, 8));
        assert_eq!(streams.read(ONE, 16, now), of(32..32, 8), "it was told");
        assert_eq!(streams.read(ONE, 2, now), of(3..4, 1), "it jumped");
        assert_eq!(streams.read(OTHER, 3, now), of(4..5, 1));
        assert_eq!(
            streams.read(ONE, 3, now),
            of(4..6, 1),
            "others do not matter"
        );
    }

    #[test]
    fn those_who_read_on_share_the_cache() {
        let (mut streams, mut now) = (Streams::new(32), clock::monotonic());
        let all: Vec<Uuid> = (0..4).map(|reader| Uuid([reader; 16])).collect();
        for block in 0..40 {
            for reader in &all {
                streams.read(*reader, block, now);
            }
        }
        for stream in &streams.known {
            assert_eq!(stream.ahead, 4, "of 16 for all");
        }
        now += AT_REST;
        for block in 40..50 {
            streams.read(ONE, block, now);
        }
        let one = streams.known.back().map(|stream| stream.ahead);
        assert_eq!(one, Some(16), "the others are at rest");
    }

    #[test]
    fn who_comes_to_the_next_object_goes_on_as_before() {
        let (mut streams, now) = (Streams::new(16), clock::monotonic());
        for block in 0..10 {
            streams.read(ONE, block, now);
        }
        assert_eq!(streams.goes_on(ONE, OTHER, 4), 0..4);
        assert_eq!(streams.goes_on(ONE, OTHER, 8), 4..8);
        assert_eq!(streams.goes_on(ONE, OTHER, 8), 8..8, "it was told");
        assert_eq!(streams.read(OTHER, 0, now), of(8..8, 4));
        assert_eq!(streams.read(OTHER, 4, now), of(5..6, 1), "it jumped");
        assert_eq!(streams.goes_on(Uuid([3; 16]), ONE, 8), 0..0, "not known");
    }

    #[test]
    fn where_a_block_went_before_it_was_read_less_is_read_ahead() {
        let (mut streams, now) = (Streams::new(100), clock::monotonic());
        for block in 0..9 {
            streams.read(ONE, block, now);
        }
        streams.missed(ONE, 24);
        assert_eq!(
            streams.read(ONE, 9, now),
            of(24..24, 8),
            "nobody asked for it"
        );
        streams.missed(ONE, 10);
        assert_eq!(streams.read(ONE, 10, now), of(11..16, 4));
    }

    #[test]
    fn readers_that_are_gone_are_forgotten() {
        let (mut streams, now) = (Streams::new(8), clock::monotonic());
        streams.read(ONE, 0, now);
        for other in 0..=u8::MAX {
            let other = Uuid([other, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
            streams.read(other, 0, now);
        }
        assert_eq!(streams.known.len(), STREAMS);
        assert_eq!(streams.read(ONE, 1, now), of(2..3, 1));
    }
}
