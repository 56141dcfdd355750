//! Messages as the JSON that Kafka's own converters print: camelCase names, fields of the given
//! version only, tagged fields only when set, bytes as base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};
use tidemark_wire::messages::*;
use tidemark_wire::{DecodeError, EncodeError, Message};

/// A decoded message as JSON, and the bytes it encodes back to.
pub type Printed = Result<(Value, Result<Bytes, EncodeError>), DecodeError>;

fn print<M: Message>(bytes: Bytes, version: i16, json: fn(&M, i16) -> Value) -> Printed {
    let message: M = tidemark_wire::decode(bytes, version)?;
    Ok((
        json(&message, version),
        tidemark_wire::encode(&message, version),
    ))
}

#[allow(
    missing_docs,
    unused_imports,
    unused_variables,
    unused_mut,
    clippy::all,
    clippy::unwrap_used
)]
mod generated {
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/json.rs"));
}

pub use generated::{by_name, request, response};
