//! Which objects no manifest can name any more: pure.
//!
//! An upload that fails, or whose manifest was written by somebody else first, leaves its object
//! behind. Only the partition's leader may clear it away, and only when it knows that nobody can
//! still name it: once a manifest of its own epoch is the newest, whoever led before cannot write
//! the next one, and what it uploaded is the leader's own or an earlier leader's.

use std::collections::BTreeSet;

use crate::layout;
use crate::manifest::{Manifest, SegmentRef};

/// The keys among `keys`, all of the manifest's partition, that can go. The manifest is the
/// newest, by the leader that asks, and none that it tried to write may still arrive. `in_chunks`
/// are the entries of all chunks that it names, those that are garbage included.
pub fn orphans<'a>(
    manifest: &Manifest,
    in_chunks: &[SegmentRef],
    keys: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let id = manifest.id();
    let entries = manifest.head.iter().chain(&manifest.segments);
    let mut named: BTreeSet<String> = entries
        .chain(in_chunks)
        .map(|entry| entry.key(id))
        .collect();
    named.extend(manifest.chunks.iter().map(|chunk| id.chunk(chunk.id)));
    named.extend(manifest.garbage.iter().map(|garbage| garbage.key.clone()));
    let nobodys = |key: &&str| {
        // What is not written by rule is not ours.
        let written = match layout::segment_epoch(key) {
            Some(epoch) => epoch <= manifest.writer.leader_epoch,
            None => layout::is_chunk(key),
        };
        written && layout::partition_of(key) == Some(id) && !named.contains(*key)
    };
    keys.filter(nobodys).map(str::to_owned).collect()
}
