//! See `tidemark_fuzz::batches`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tidemark_fuzz::seed_and_exit_if_asked("batches"),
    |data: &[u8]| tidemark_fuzz::batches(data)
);
