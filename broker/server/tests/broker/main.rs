//! A broker in this process, asked over real sockets.

mod admin;
#[path = "../common/mod.rs"]
mod common;
mod fetch;
mod fetch_sessions;
mod groups;
mod kit;
mod limits;
mod produce;
mod restart;
mod slow_disk;
