//! Chance: the operating system's entropy, and chance from a seed.

/// Fills `buffer` with unpredictable bytes.
pub fn fill(buffer: &mut [u8]) {
    let simulated = crate::sim::with_random(|random| {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&random.number().to_le_bytes()[..chunk.len()]);
        }
    });
    if simulated.is_none() {
        getrandom::fill(buffer).expect("the kernel hands out entropy once it has booted");
    }
}

/// An unpredictable number, uniform over the whole range.
pub fn u64() -> u64 {
    let mut bytes = [0u8; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// An unpredictable number in `0..bound`; 0 when `bound` is 0.
pub fn below(bound: u64) -> u64 {
    // The bias of a 128-bit product is below 2^-64: nobody can see it.
    let wide = u128::from(u64()) * u128::from(bound);
    u64::try_from(wide >> 64).unwrap_or(0)
}

/// A small generator (SplitMix64): equal seeds give equal numbers. For simulations and tests.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A stream for `seed`; `domain` tells streams of one seed apart.
    pub fn new(seed: u64, domain: u64) -> Self {
        let mut random = Self(seed ^ domain.wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.number();
        random
    }

    /// A stream that begins at `state`.
    pub fn at(state: u64) -> Self {
        Self(state)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// An index into something of `len` items; 0 when it is empty.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// A number in `from..=to`.
    pub fn between(&mut self, from: i64, to: i64) -> i64 {
        let span = to.saturating_sub(from).max(0).unsigned_abs() + 1;
        from + i64::try_from(self.below(span)).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
