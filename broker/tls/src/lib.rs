//! TLS for listeners and for connections to them, by Kafka's settings (`ssl.*`, KIP-651 for
//! PEM): certificates in, streams out.
//!
//! What was loaded can be loaded again while connections are open ([`Server::reload`],
//! [`Client::reload`]): those go on as they are, the next ones use what the files say now. Files
//! that cannot be used change nothing.

mod client;
mod explain;
mod material;
mod principal;
mod server;
#[cfg(test)]
mod tests;

pub use client::{Client, connect};
pub use material::InUse;
pub use principal::Principal;
pub use server::Server;

use std::path::PathBuf;

/// Why there is no TLS, in words for whoever set it up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that a setting names cannot be read.
    #[error("{setting}: {} cannot be read: {reason}", path.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// What it names.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// What a setting gives is not what it should be.
    #[error("{setting}: {reason}")]
    Material {
        /// The setting.
        setting: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The two ends did not agree.
    #[error("{0}")]
    Handshake(String),
    /// The other end did not finish in time.
    #[error("the other end did not finish the TLS handshake within {0} ms")]
    TimedOut(u128),
}
