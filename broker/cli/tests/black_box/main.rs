//! The built binary as people and scripts use it: a broker of its own for each test, standard
//! output, standard error and exit codes looked at from outside.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that panics has failed, which is what it is for"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "these tests stand outside the product, where files, threads and processes are real"
)]

mod applying;
mod cluster;
mod damage;
mod docs;
mod doctor;
mod files;
mod formatting;
mod groups;
mod harness;
mod import;
mod kube;
mod proxy;
mod records;
mod serving;
mod topics;
