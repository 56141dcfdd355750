//! The world behind seams: clock, entropy, tasks, sockets and disks.
//!
//! Everything that makes two runs of the same program differ lives here, so that
//! a whole cluster can run in one deterministic process ([`sim`]). No other crate
//! asks the operating system for time, chance, threads, sockets or files
//! (`clippy.toml` refuses it). Nothing here knows of Kafka.

pub mod clock;
pub mod disk;
pub mod net;
pub mod random;
pub mod runtime;
pub mod seats;
pub mod sim;
pub mod task;
pub mod wake;

#[cfg(test)]
mod tests;
