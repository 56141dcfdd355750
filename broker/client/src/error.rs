//! What can go wrong between us and a cluster.

use tidemark_wire::{ApiKey, DecodeError, EncodeError, ErrorCode};

/// An error of the client; its text says what to do where that is known.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection could be made.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// `host:port`, or several with commas between.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The connection ended with requests on it, or before one could be sent.
    #[error("the connection to {address} ended: {reason}")]
    Closed {
        /// `host:port`.
        address: String,
        /// Why, as far as we know.
        reason: String,
    },
    /// No answer in time.
    #[error("{api} to {address} got no answer within {after_ms} ms")]
    Timeout {
        /// `host:port`.
        address: String,
        /// The API that was asked.
        api: ApiKey,
        /// How long we waited.
        after_ms: u64,
    },
    /// The answer says it is larger than we accept.
    #[error(
        "{address} announces a response of {bytes} bytes, the limit is {limit}: \
         is it a Kafka listener without TLS?"
    )]
    ResponseTooLarge {
        /// `host:port`.
        address: String,
        /// Its announced size.
        bytes: i64,
        /// What we accept.
        limit: usize,
    },
    /// The broker and we have no version of this API in common.
    #[error(
        "{address} does not serve {api} at a version between {ours_min} and {ours_max}: {theirs}"
    )]
    Unsupported {
        /// `host:port`.
        address: String,
        /// The API that was to be asked.
        api: ApiKey,
        /// The oldest version that would do.
        ours_min: i16,
        /// The newest version that would do.
        ours_max: i16,
        /// What the broker serves.
        theirs: String,
    },
    /// The answer is not what the schema says.
    #[error("the answer of {address} to {api} version {version} cannot be read: {source}")]
    Decode {
        /// `host:port`.
        address: String,
        /// The API that was asked.
        api: ApiKey,
        /// The version it was asked at.
        version: i16,
        /// Where the bytes are wrong.
        source: DecodeError,
    },
    /// The request cannot be written at the version chosen.
    #[error("{api} cannot be written at version {version}: {source}")]
    Encode {
        /// The API.
        api: ApiKey,
        /// The version chosen.
        version: i16,
        /// Which field it is about.
        source: EncodeError,
    },
    /// The broker answered with an error.
    #[error("{what}: {code}{}", .message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Server {
        /// What was asked for.
        what: String,
        /// The error's name and number.
        code: ErrorCode,
        /// What the broker adds to it.
        message: Option<String>,
    },
    /// The topic is not there.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// The partition is not there.
    #[error("topic {topic} has {count} partitions, there is no partition {partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The partition asked for.
        partition: i32,
        /// How many it has.
        count: usize,
    },
    /// A partition has no leader at the moment.
    #[error("{topic}-{partition} has no leader at the moment")]
    NoLeader {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: i32,
    },
    /// A record batch cannot be read or built.
    #[error("{what}: {source}")]
    Records {
        /// Which batch.
        what: String,
        /// What is wrong with it.
        source: tidemark_records::BatchError,
    },
    /// A position lies outside the log and no rule says where to go instead.
    #[error("offset {offset} of {topic}-{partition} is out of range")]
    OffsetOutOfRange {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: i64,
    },
    /// What was read is not in the log any more (KIP-320): its leader was lost, and one that did not
    /// have it took over.
    #[error(
        "what was read of {topic}-{partition} up to offset {offset} is gone: {}",
        match .diverges_at {
            Some(at) => format!("the log has another history from offset {at} on"),
            None => "the log has nothing of its epoch".to_owned(),
        }
    )]
    LogTruncated {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where the reader was.
        offset: i64,
        /// The first offset that is not what was read, if known.
        diverges_at: Option<i64>,
    },
    /// What was read, or committed, is of a later leader epoch than any that brokers know of.
    #[error(
        "{topic}-{partition} was read up to offset {offset} in leader epoch {read_in}, and all that \
         brokers know is leader epoch {leader_epoch}: either who is asked is cut off from its \
         cluster, or the topic was deleted and made again; then begin at another offset"
    )]
    OnlyEarlierLeaders {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: i32,
        /// Where the reader was.
        offset: i64,
        /// The leader epoch of what is before that.
        read_in: i32,
        /// The latest that brokers told.
        leader_epoch: i32,
    },
    /// A record was not acknowledged in time; whether it was written is unknown.
    #[error("a record for {topic}-{partition} was not acknowledged within {after_ms} ms{}", .last.as_deref().map(|l| format!(", last: {l}")).unwrap_or_default())]
    DeliveryTimeout {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: i32,
        /// How long it was tried.
        after_ms: i64,
        /// The last error seen.
        last: Option<String>,
    },
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The producer or consumer was closed.
    #[error("the client was closed")]
    Shutdown,
}

impl ClientError {
    /// `Ok` for NONE, else a [`ClientError::Server`].
    ///
    /// # Errors
    /// The code, if it is one.
    pub fn check(
        code: i16,
        message: Option<&str>,
        what: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        match error_code(code) {
            ErrorCode::None => Ok(()),
            code => Err(Self::Server {
                what: what(),
                code,
                message: message.filter(|m| !m.is_empty()).map(str::to_owned),
            }),
        }
    }

    /// The broker's error code, if the broker sent one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Server { code, .. } => Some(*code),
            Self::UnknownTopic { .. } => Some(ErrorCode::UnknownTopicOrPartition),
            _ => None,
        }
    }

    /// Whether nobody could be spoken to.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Closed { .. } | Self::Timeout { .. }
        )
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Server { code, .. } => code.is_retriable(),
            Self::NoLeader { .. } => true,
            other => other.is_unreachable(),
        }
    }
}

/// The error of that number; unknown numbers become UNKNOWN_SERVER_ERROR.
#[must_use]
pub fn error_code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code)
}
