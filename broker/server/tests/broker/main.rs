//! A broker in this process, asked over real sockets.

#[path = "../common/mod.rs"]
mod common;
mod fetch;
mod fetch_sessions;
mod groups;
mod kit;
mod limits;
mod produce;
mod slow_disk;
