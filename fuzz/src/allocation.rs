//! A global allocator that counts, per thread, live bytes and their peak.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // The thread may be ending, and its counters gone.
    if LIVE.try_with(|live| live.set(live.get() + change)).is_ok() {
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(LIVE.get())));
    }
}

// SAFETY: every call goes to the system's allocator unchanged. Growing goes
// through alloc and dealloc, so both copies count for a moment, as they do in
// allocators that cannot remap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allowed whatever the input: 1 MiB.
pub const FLOOR_BYTES: usize = 1 << 20;
/// Allowed for each byte of the input.
pub const PER_INPUT_BYTE: usize = 16;

/// Runs `decode` and asserts that its peak of live bytes stays below
/// `16 * input_bytes + 1 MiB + extra_bytes`.
pub fn bounded<T>(
    what: &str,
    input_bytes: usize,
    extra_bytes: usize,
    decode: impl FnOnce() -> T,
) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let result = decode();
    let peak = (PEAK.get() - before) as usize;
    let allowed = PER_INPUT_BYTE * input_bytes + FLOOR_BYTES + extra_bytes;
    assert!(
        peak < allowed,
        "{what}: {peak} bytes live for {input_bytes} bytes of input, {allowed} allowed"
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_seen() {
        assert_eq!(bounded("small", 0, 0, || vec![0u8; 1 << 19].len()), 1 << 19);
        let large = std::panic::catch_unwind(|| bounded("large", 0, 0, || vec![0u8; 1 << 20]));
        assert!(large.is_err());
        let extra = std::panic::catch_unwind(|| bounded("large", 1, 0, || vec![0u8; 1 << 20]));
        assert!(extra.is_ok());
    }
}
