//! See `tidemark_fuzz::responses`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tidemark_fuzz::seed_and_exit_if_asked("responses"),
    |data: &[u8]| tidemark_fuzz::responses(data)
);
