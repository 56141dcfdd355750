//! The topics in a consumer's subscription metadata.
//!
//! Every version of `ConsumerProtocolSubscription` begins with its version and
//! the topic names, so only that much is read and newer versions are no matter.

use bytes::{Buf, Bytes};

/// The topics subscribed to, or `None` if the bytes are not such metadata.
pub(crate) fn topics(metadata: &Bytes) -> Option<Vec<String>> {
    let mut input = metadata.clone();
    let version = input.try_get_i16().ok()?;
    if version < 0 {
        return None;
    }
    let count = usize::try_from(input.try_get_i32().ok()?).ok()?;
    // A name takes two bytes at least: a count beyond that is not believed.
    if count > input.remaining() / 2 {
        return None;
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let length = usize::try_from(input.try_get_i16().ok()?).ok()?;
        if length > input.remaining() {
            return None;
        }
        let name = input.split_to(length);
        topics.push(std::str::from_utf8(&name).ok()?.to_owned());
    }
    Some(topics)
}
