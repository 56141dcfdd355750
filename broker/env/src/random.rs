//! Chance: the operating system's entropy.

/// Fills `buffer` with unpredictable bytes.
pub fn fill(buffer: &mut [u8]) {
    getrandom::fill(buffer).expect("the kernel hands out entropy once it has booted");
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
