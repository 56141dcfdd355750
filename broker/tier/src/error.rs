//! What can go wrong with a bucket.

/// Why the bucket does not give or take something.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// The address cannot be used.
    #[error("{url:?} is no address of a bucket: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// There is no such object.
    #[error("{key} is not in the bucket")]
    NotFound {
        /// The object's key.
        key: String,
    },
    /// The bucket refuses the credentials, or what they may do.
    #[error("the bucket refuses access to {key}: {reason}")]
    Denied {
        /// The object's key.
        key: String,
        /// What the bucket says.
        reason: String,
    },
    /// The bucket does not answer, or says that it cannot now. It may be tried again.
    #[error("the bucket does not answer for {key}: {reason}")]
    Away {
        /// The object's key.
        key: String,
        /// What happened.
        reason: String,
    },
    /// What is in the bucket is not what was put there.
    #[error("{key} is damaged: {reason}")]
    Damaged {
        /// The object's key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A newer version of Tidemark wrote it.
    #[error("{key} has format version {version}, newer than {known}: run a newer Tidemark")]
    Newer {
        /// The object's key.
        key: String,
        /// The version that it has.
        version: u32,
        /// The newest one that is known here.
        known: u32,
    },
    /// Somebody who counts for more has written.
    #[error("another writer is ahead in {key}: {reason}")]
    Superseded {
        /// The object's key.
        key: String,
        /// Who.
        reason: String,
    },
    /// The bucket does not keep create-only writes apart, so that two writers could both believe
    /// that they came first.
    #[error(
        "the bucket overwrites objects that may only be created once: it cannot hold logs. Use a store with conditional writes (If-None-Match)"
    )]
    NoCreateOnly,
}

impl TierError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, TierError::Away { .. })
    }

    /// The outcome in a word, for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            TierError::Url { .. } => "address",
            TierError::NotFound { .. } => "not_found",
            TierError::Denied { .. } => "denied",
            TierError::Away { .. } => "away",
            TierError::Damaged { .. } => "damaged",
            TierError::Newer { .. } => "newer",
            TierError::Superseded { .. } => "superseded",
            TierError::NoCreateOnly => "no_create_only",
        }
    }

    pub(crate) fn damaged(key: &str, reason: impl Into<String>) -> TierError {
        TierError::Damaged {
            key: key.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn of(key: &str, error: &object_store::Error) -> TierError {
        use object_store::Error;
        let key = key.to_owned();
        // The chain says what happened; its first line only that something did.
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            let text = inner.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = inner.source();
        }
        match error {
            Error::NotFound { .. } => TierError::NotFound { key },
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                TierError::Denied { key, reason }
            }
            _ => TierError::Away { key, reason },
        }
    }
}
