//! Why a run could not be finished, and the exit code that it means.

use thiserror::Error;

/// A run that ended early.
#[derive(Debug, Error)]
pub enum Failure {
    /// Something that the run needs is not there or does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// A broker broke a promise: the figures would be worthless.
    #[error("{0}")]
    Finding(String),
    /// The options contradict each other.
    #[error("{0}; see bench/run --help")]
    Usage(String),
}

/// The result of anything that can end a run.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// 1 finding, 2 usage, 3 unreachable: as the product's own commands.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Finding(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
        }
    }
}

/// Says what was being tried when something outside failed.
pub fn while_doing<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Failure + '_ {
    move |e| Failure::Unreachable(format!("{what}: {e}"))
}
