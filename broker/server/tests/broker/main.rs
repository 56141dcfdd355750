//! A broker in this process, asked over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "these are helpers of tests"
)]

mod admin;
mod cluster;
#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod coordinators;
mod fetch;
mod fetch_sessions;
mod full_disk;
mod groups;
mod kit;
mod limits;
mod produce;
mod replicated;
mod restart;
mod restored;
mod slow_disk;
mod throttles;
mod tiered;
