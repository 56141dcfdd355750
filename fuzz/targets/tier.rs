//! See `tidemark_fuzz::tier`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tidemark_fuzz::seed_and_exit_if_asked("tier"),
    |data: &[u8]| tidemark_fuzz::tier(data)
);
