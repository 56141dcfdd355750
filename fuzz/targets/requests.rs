//! See `tidemark_fuzz::requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tidemark_fuzz::seed_and_exit_if_asked("requests"),
    |data: &[u8]| tidemark_fuzz::requests(data)
);
