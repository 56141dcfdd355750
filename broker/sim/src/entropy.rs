//! The system's entropy, from a seed: what the standard library and other crates take of it by
//! themselves, as the keys of a `HashMap`.
//!
//! The program's `getrandom` goes before that of the C library. A thread that has no seed gets
//! what it would have got.

#![allow(
    unsafe_code,
    reason = "taking the place of a C function needs its name and its pointers"
)]

use std::cell::RefCell;

use tidemark_env::random::Random;

thread_local! {
    static SEEDED: RefCell<Option<Random>> = const { RefCell::new(None) };
}

/// From here on this thread's entropy follows from `seed`. To be called on a new thread, before
/// anything else on it.
pub fn install(seed: u64) {
    SEEDED.set(Some(Random::new(seed, 7)));
}

/// Fills `buffer` where the thread is seeded.
fn seeded(buffer: &mut [u8]) -> bool {
    SEEDED.with_borrow_mut(|random| {
        let Some(random) = random else {
            return false;
        };
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&random.number().to_le_bytes()[..chunk.len()]);
        }
        true
    })
}

/// `getrandom(2)`, as the C library declares it.
///
/// # Safety
/// `buffer` points to `len` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, flags: u32) -> isize {
    if buffer.is_null() || len == 0 {
        return 0;
    }
    // SAFETY: that is what the caller promises; whatever the bytes were before, they are bytes.
    let buffer = unsafe {
        std::ptr::write_bytes(buffer, 0, len);
        std::slice::from_raw_parts_mut(buffer, len)
    };
    if seeded(buffer) {
        return isize::try_from(len).unwrap_or(isize::MAX);
    }
    let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
    match rustix::rand::getrandom(&mut *buffer, flags) {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(_) => -1,
    }
}
