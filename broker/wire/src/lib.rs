//! Bytes to Kafka messages and back, at every version; no I/O.
//!
//! One module per message of Kafka 4.3 is generated at build time from the table in `schema/`:
//! a struct with the fields of the newest version, `decode` and `encode` at every valid version.
//!
//! **Invariant:** any input decodes to a message or to an error: never a panic, and never more
//! memory than a small multiple of the input (see [`Reader`]).

mod error;
mod headers;
mod reader;
mod records;
mod uuid;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{DecodeError, EncodeError};
pub use headers::{request_header_version, response_header_version};
pub use reader::Reader;
pub use records::Records;
pub use uuid::{InvalidUuid, Uuid};
pub use writer::{Segment, TagWriter, Writer};

use bytes::Bytes;
use std::fmt::{self, Debug};

include!(concat!(env!("OUT_DIR"), "/api_key.rs"));
include!(concat!(env!("OUT_DIR"), "/error_code.rs"));

/// What the generated modules import.
mod generated {
    pub(crate) use crate::reader::Reader;
    pub(crate) use crate::writer::{TagWriter, Writer};
    pub(crate) use crate::{
        ApiKey, DecodeError, EncodeError, Message, Records, Request, TaggedFields, Uuid,
    };
    pub(crate) use bytes::Bytes;
}

/// The messages of the protocol and the records of the coordinators, generated from the schema.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    clippy::semicolon_if_nothing_returned
)]
#[allow(
    unused_mut,
    unused_variables,
    unused_imports,
    clippy::needless_pass_by_value
)]
pub mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

/// A message with a schema.
pub trait Message: Default + Debug + Clone + PartialEq {
    /// The schema's name, such as `FetchRequest`.
    const NAME: &'static str;
    /// The oldest version that can be read and written.
    const MIN_VERSION: i16;
    /// The newest version that can be read and written, unstable ones included.
    const MAX_VERSION: i16;

    /// Whether lengths are compact and tagged fields are present at this version (KIP-482).
    fn is_flexible(version: i16) -> bool;

    /// Reads the message and leaves what follows it in the reader.
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Appends the message. A field that this version lacks is dropped when the schema calls it
    /// ignorable or when it has its default, and is an error otherwise.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A request, with the response that answers it.
pub trait Request: Message {
    /// The API's key in the request header.
    const API_KEY: ApiKey;
    /// The message that answers this one at the same version.
    type Response: Message;
}

/// Decodes a whole input; bytes left over are an error.
pub fn decode<M: Message>(input: Bytes, version: i16) -> Result<M, DecodeError> {
    let mut reader = Reader::new(input);
    let message = M::decode(&mut reader, version)?;
    reader.finish()?;
    Ok(message)
}

/// Encodes a message into one buffer. Records that are [`Records::Elsewhere`] are an error.
pub fn encode<M: Message>(message: &M, version: i16) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    message.encode(&mut writer, version)?;
    Ok(writer.into_bytes())
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Whether this is `NONE`.
    pub fn is_none(self) -> bool {
        self == ErrorCode::None
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tagged fields that this version of the schema does not know, kept as they came (KIP-482).
/// Nearly always empty, so one pointer.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(
    clippy::box_collection,
    reason = "8 bytes in each of thousands of structs, against 24"
)]
pub struct TaggedFields(Option<Box<Vec<(u32, Bytes)>>>);

impl TaggedFields {
    /// The fields as (tag, bytes) in the order they came.
    pub fn as_slice(&self) -> &[(u32, Bytes)] {
        self.0.as_ref().map_or(&[], |fields| fields)
    }

    /// Adds a field.
    pub fn push(&mut self, tag: u32, value: Bytes) {
        self.0.get_or_insert_default().push((tag, value));
    }
}
