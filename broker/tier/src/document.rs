//! The small objects: a line of JSON, and a line with its checksum.
//!
//! ```text
//! {"format":"tidemark-manifest","version":1,…}
//! crc32:0f3a9c11
//! ```
//!
//! The checksum is CRC-32 (IEEE) of the first line, without its end.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::TierError;

/// A document above this size is not read.
pub const MAX_BYTES: u64 = 64 << 20;

const CRC_PREFIX: &str = "crc32:";

/// What every document begins with.
#[derive(serde::Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Serialize)]
struct Headed<'a, T> {
    format: &'a str,
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// A kind of document.
pub trait Document: Serialize + DeserializeOwned {
    /// Its name in `format`.
    const FORMAT: &'static str;
    /// The version that is written, and the newest that is read.
    const VERSION: u32 = 1;
}

/// The CRC-32 of a document's first line: how another document names it.
pub fn checksum(bytes: &[u8]) -> u32 {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    crc32fast::hash(line)
}

/// The bytes of a document; `key` is for what is said when it cannot be written as JSON.
///
/// # Errors
/// That.
pub fn encode<T: Document>(key: &str, body: &T) -> Result<Bytes, TierError> {
    let headed = Headed {
        format: T::FORMAT,
        version: T::VERSION,
        body,
    };
    let mut bytes =
        serde_json::to_vec(&headed).map_err(|error| TierError::damaged(key, error.to_string()))?;
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(format!("\n{CRC_PREFIX}{crc:08x}\n").as_bytes());
    Ok(bytes.into())
}

/// Reads a document; `key` is for what is said when it cannot be.
///
/// # Errors
/// It is damaged, of another kind, or of a newer version.
pub fn decode<T: Document>(key: &str, bytes: &[u8]) -> Result<T, TierError> {
    let damaged = |reason: &str| TierError::damaged(key, reason);
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| damaged("it has no second line with a checksum"))?;
    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
    let said = std::str::from_utf8(rest)
        .ok()
        .and_then(|rest| rest.strip_prefix(CRC_PREFIX))
        .map(|rest| rest.strip_suffix('\n').unwrap_or(rest))
        .filter(|digits| digits.len() == 8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| damaged("its second line is no checksum"))?;
    let crc = crc32fast::hash(line);
    if crc != said {
        return Err(damaged(&format!(
            "its checksum is {crc:08x}, and should be {said:08x}"
        )));
    }
    let head: Head = serde_json::from_slice(line)
        .map_err(|error| damaged(&format!("it does not say what it is: {error}")))?;
    if head.format != T::FORMAT {
        return Err(damaged(&format!(
            "it is a {}, not a {}",
            head.format,
            T::FORMAT
        )));
    }
    if head.version > T::VERSION {
        return Err(TierError::Newer {
            key: key.to_owned(),
            version: head.version,
            known: T::VERSION,
        });
    }
    serde_json::from_slice(line).map_err(|error| damaged(&error.to_string()))
}
