//! How a command fails: what happened, the exit code, and what to type next.

use std::fmt;
use std::io;

use tidemark_client::ClientError;
use tidemark_wire::ErrorCode;

/// The exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// The command ran and found, or could not do, something.
    Finding = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Nobody answered.
    Unreachable = 3,
}

/// Why a command ends without having done what it was asked for.
#[derive(Debug)]
pub struct Failure {
    /// For scripts.
    pub exit: Exit,
    /// What happened, a sentence.
    pub message: String,
    /// The next command to type, if one helps.
    pub next: Option<String>,
    /// Nothing is said: the reader of our output has gone away.
    pub quiet: bool,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            next: None,
            quiet: false,
        }
    }

    /// Something was found, or could not be done.
    pub fn finding(message: impl Into<String>) -> Self {
        Self::new(Exit::Finding, message)
    }

    /// Nobody answered: exit code 3.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unreachable, message)
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// What our own code should have made impossible.
    pub fn bug(error: impl fmt::Display) -> Self {
        Self::finding(format!("internal error: {error}"))
    }

    /// A file could not be read or written.
    pub fn file(path: &str, error: &io::Error) -> Self {
        Self::usage(format!("{path}: {error}"))
    }

    /// Standard output could not be written.
    pub fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self {
                quiet: true,
                ..Self::new(Exit::Ok, "")
            };
        }
        Self::finding(format!("standard output cannot be written: {error}"))
    }

    /// Adds what to type next.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// Adds what to type next, unless something was already said.
    #[must_use]
    pub fn or_next(self, command: impl FnOnce() -> String) -> Self {
        if self.next.is_some() {
            return self;
        }
        self.next(command())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

/// Where nobody listens on this machine, a broker can be started; else the doctor looks closer.
fn after_unreachable(address: &str, reason: &str) -> String {
    let loopback = ["127.", "localhost:", "[::1]:"];
    let here = loopback.iter().any(|host| address.starts_with(host)) && !address.contains(',');
    if here && reason.contains("refused") {
        return format!("tidemark dev --listen {address}");
    }
    "tidemark doctor".to_owned()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match &error {
            ClientError::Unreachable { address, reason } => {
                Self::new(Exit::Unreachable, message).next(after_unreachable(address, reason))
            }
            ClientError::Closed { .. } | ClientError::Timeout { .. } => {
                Self::new(Exit::Unreachable, message).next("tidemark doctor")
            }
            ClientError::Invalid(_) => Self::usage(message),
            ClientError::UnknownTopic { .. } => Self::finding(message).next("tidemark topic list"),
            ClientError::UnknownPartition { topic, .. } | ClientError::NoLeader { topic, .. } => {
                Self::finding(message).next(format!("tidemark topic describe {topic}"))
            }
            ClientError::OffsetOutOfRange { topic, .. }
            | ClientError::LogTruncated { topic, .. }
            | ClientError::OnlyEarlierLeaders { topic, .. } => {
                Self::finding(message).next(format!("tidemark topic describe {topic}"))
            }
            ClientError::Server { code, .. } => {
                let failure = Self::finding(message);
                match code {
                    ErrorCode::NotEnoughReplicas
                    | ErrorCode::NotEnoughReplicasAfterAppend
                    | ErrorCode::KafkaStorageError => failure.next("tidemark doctor"),
                    _ => failure,
                }
            }
            _ => Self::finding(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_exit_codes_that_scripts_rely_on() {
        let unreachable = ClientError::Unreachable {
            address: "h:1".to_owned(),
            reason: "refused".to_owned(),
        };
        let failure = Failure::from(unreachable);
        assert_eq!(failure.exit as i32, 3);
        assert_eq!(failure.next.as_deref(), Some("tidemark doctor"));
        let unknown = ClientError::UnknownTopic {
            topic: "t".to_owned(),
        };
        let failure = Failure::from(unknown);
        assert_eq!(failure.exit as i32, 1);
        assert_eq!(failure.next.as_deref(), Some("tidemark topic list"));
        assert_eq!(
            Failure::from(ClientError::Invalid("x".to_owned())).exit as i32,
            2
        );
        assert!(Failure::output(&io::ErrorKind::BrokenPipe.into()).quiet);
    }

    #[test]
    fn a_broker_is_started_only_where_one_can_be() {
        let refused = "Connection refused (os error 111)";
        for here in ["127.0.0.1:9092", "localhost:9", "[::1]:9092"] {
            let next = after_unreachable(here, refused);
            assert_eq!(next, format!("tidemark dev --listen {here}"));
        }
        for (elsewhere, reason) in [
            ("kafka.example.org:9092", refused),
            ("127.0.0.1:1,127.0.0.1:2", refused),
            ("127.0.0.1:9092", "timed out"),
        ] {
            assert_eq!(after_unreachable(elsewhere, reason), "tidemark doctor");
        }
    }
}
