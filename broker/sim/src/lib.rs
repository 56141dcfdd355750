//! Whole histories in one deterministic process: faults, and a checker.
//!
//! [`cluster::run`] runs whole brokers and their clients on simulated hosts, and holds what the
//! clients saw against what was promised ([`checker`]). [`seeds`] runs many.
//!
//! [`history::run`] is closer to the disk: one data directory with several logs, on a disk that
//! loses, tears and reorders what was not synced. What happened is held against a model
//! ([`shadow`]) that keeps every record with the number of its group, so that after a crash the
//! logs must be, byte for byte, those of one and the same group, which is not before the last
//! that was reported durable.
//!
//! A history is a function of its seed and options: equal ones give the same hash of all that
//! happened.

pub mod check;
pub mod checker;
pub mod cluster;
pub mod directory;
pub mod entropy;
pub mod history;
pub mod random;
pub mod seeds;
pub mod shadow;
mod steps;
pub mod told;
