//! Whole histories in one deterministic process: faults, and a checker.
//!
//! For now one data directory with several logs, on a disk that loses, tears and
//! reorders what was not synced ([`history::run`]). A history is a function of its seed
//! and options: equal ones give the same [`random::Trace`]. What happened is held against
//! a model ([`shadow`]) that keeps every record with the number of its group, so that
//! after a crash the logs must be, byte for byte, those of one and the same group, which
//! is not before the last that was reported durable.

pub mod check;
pub mod directory;
pub mod history;
pub mod random;
pub mod shadow;
mod steps;
