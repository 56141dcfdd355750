//! Which header version goes with which request version (KIP-482, KIP-511).

use crate::ApiKey;

/// The version of the request header: 2 from the first flexible version on, 1 before.
pub fn request_header_version(api: ApiKey, version: i16) -> i16 {
    if version >= api.flexible_from() { 2 } else { 1 }
}

/// The version of the response header. `ApiVersions` always answers with 0, so that a client that
/// does not know the broker's versions can read it.
pub fn response_header_version(api: ApiKey, version: i16) -> i16 {
    i16::from(api != ApiKey::ApiVersions && version >= api.flexible_from())
}
