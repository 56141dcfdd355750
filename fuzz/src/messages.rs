//! Requests and responses: two bytes of API key, two of version, the body.

use bytes::Bytes;
use tidemark_wire::messages as m;
use tidemark_wire::{Message, decode, encode};

use crate::allocation::bounded;

include!(concat!(env!("OUT_DIR"), "/messages.rs"));

/// Decodes as `M`; what decodes must encode, and its encoding is stable.
fn round_trip<M: Message>(body: Bytes, version: i16) {
    let decoded = bounded(M::NAME, body.len(), 0, || {
        decode::<M>(body.clone(), version)
    });
    let Ok(message) = decoded else {
        return;
    };
    let bytes = encode(&message, version)
        .unwrap_or_else(|error| panic!("{} {version} decodes, but: {error}", M::NAME));
    let again = decode::<M>(bytes.clone(), version)
        .unwrap_or_else(|error| panic!("{} {version} encodes, but: {error}", M::NAME));
    // Bytes are compared, since a NaN does not equal itself.
    let bytes_again = encode(&again, version);
    assert_eq!(bytes_again, Ok(bytes), "{} {version}", M::NAME);
}

fn split(data: &[u8]) -> Option<(i16, i16, Bytes)> {
    let (key, rest) = data.split_first_chunk::<2>()?;
    let (version, body) = rest.split_first_chunk::<2>()?;
    let body = Bytes::copy_from_slice(body);
    Some((i16::from_be_bytes(*key), i16::from_be_bytes(*version), body))
}

/// Fuzzes request bodies.
pub fn requests(data: &[u8]) {
    if let Some((key, version, body)) = split(data) {
        request(key, version, body);
    }
}

/// Fuzzes response bodies.
pub fn responses(data: &[u8]) {
    if let Some((key, version, body)) = split(data) {
        response(key, version, body);
    }
}
