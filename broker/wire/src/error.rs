//! What can be wrong with bytes that should be a message, and with a message that should be bytes.

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ended inside a field.
    #[error("input ends at byte {at}, {wanted} more bytes were announced")]
    Truncated {
        /// Position in the input.
        at: usize,
        /// Bytes that the field still wanted.
        wanted: usize,
    },
    /// A length or count is negative where null is not allowed, or larger than what is left.
    #[error("length {length} at byte {at} is not possible with {left} bytes left")]
    Length {
        /// Position in the input.
        at: usize,
        /// The length as it was read.
        length: i64,
        /// Bytes left in the input.
        left: usize,
    },
    /// A null where this version has none.
    #[error("null at byte {at} in a field that cannot be null at this version")]
    Null {
        /// Position in the input.
        at: usize,
    },
    /// A variable-length integer of more than its longest form.
    #[error("variable-length integer at byte {at} is too long")]
    Varint {
        /// Position in the input.
        at: usize,
    },
    /// A string that is not UTF-8.
    #[error("string at byte {at} is not UTF-8")]
    Utf8 {
        /// Position in the input.
        at: usize,
    },
    /// Bytes after the end of the message or of a tagged field.
    #[error("{left} bytes follow the end of the message")]
    Trailing {
        /// Bytes that were left.
        left: usize,
    },
    /// The message would take far more memory than its bytes: it announces many tiny elements.
    #[error("message expands to more than {budget} bytes of memory; send it in smaller parts")]
    Expansion {
        /// Bytes of memory that an input of this length may take.
        budget: usize,
    },
    /// A version outside the schema's.
    #[error("{message} has versions {first} to {last}, not {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The schema's first version.
        first: i16,
        /// The schema's last version.
        last: i16,
    },
}

impl DecodeError {
    pub(crate) fn version(message: &'static str, version: i16, first: i16, last: i16) -> Self {
        DecodeError::Version {
            message,
            version,
            first,
            last,
        }
    }
}

/// Why a message cannot be written at a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A field holds something that this version cannot carry.
    #[error("{message}.{field} is set, but version {version} cannot carry it")]
    Unsupported {
        /// The struct.
        message: &'static str,
        /// The field's schema name.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A null where this version has none.
    #[error("a field is null that cannot be null at this version")]
    Null,
    /// A string, byte array or array of more than its length field can say.
    #[error("a field of length {length} does not fit its length prefix")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Records that are elsewhere, in a message that is to be written whole.
    #[error("records that are not in memory cannot be written into one buffer")]
    Elsewhere,
    /// A version outside the schema's.
    #[error("{message} has versions {first} to {last}, not {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
        /// The schema's first version.
        first: i16,
        /// The schema's last version.
        last: i16,
    },
}

impl EncodeError {
    pub(crate) fn unsupported(message: &'static str, field: &'static str, version: i16) -> Self {
        EncodeError::Unsupported {
            message,
            field,
            version,
        }
    }

    pub(crate) fn version(message: &'static str, version: i16, first: i16, last: i16) -> Self {
        EncodeError::Version {
            message,
            version,
            first,
            last,
        }
    }
}
