//! What the fuzz targets check, apart from the fuzzer: hostile bytes give a
//! message or an error, never a panic, and never more memory than the input
//! is worth. What decodes must encode again.

pub mod allocation;
mod batches;
mod messages;
mod seed;
mod tier;

pub use batches::batches;
pub use messages::{REQUESTS, RESPONSES, requests, responses};
pub use seed::seed_and_exit_if_asked;
pub use tier::tier;
