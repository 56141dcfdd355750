//! A hash of what happened, and the lines to see where two runs part.

/// Equal histories have equal hashes.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

/// Mixes `value` into `hash`.
fn mix(hash: u64, value: u64) -> u64 {
    let mixed = (hash.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A hash of `bytes` that follows from `hash`.
pub(crate) fn mix_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    hash = mix(hash, bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        hash = mix(hash, u64::from_le_bytes(eight));
    }
    for byte in words.remainder() {
        hash = mix(hash, u64::from(*byte));
    }
    hash
}

impl Trace {
    /// Adds something: what, when in nanoseconds, two numbers of its own, and bytes.
    pub fn add(&mut self, what: &'static str, at_ns: u64, one: u64, other: u64, bytes: &[u8]) {
        let mut hash = mix_bytes(self.hash, what.as_bytes());
        for number in [at_ns, one, other] {
            hash = mix(hash, number);
        }
        self.hash = mix_bytes(hash, bytes);
        if let Some(lines) = &mut self.lines {
            lines.push(format!(
                "{at_ns} {what} {one} {other} {} {:016x}",
                bytes.len(),
                mix_bytes(0, bytes)
            ));
        }
    }

    /// The hash of all so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn keep_lines(&mut self) {
        self.lines.get_or_insert_default();
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
