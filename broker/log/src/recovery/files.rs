//! The small files beside the segments, at opening.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tidemark_env::disk::{self, Disk};
use tidemark_wire::Uuid;

use super::{Opening, Scanned};
use crate::error::OpenError;
use crate::names;
use crate::producers::Producers;
use crate::scan::{BatchScanner, Step};
use crate::segment::{LogShared, Segment};
use crate::snapshot;
use crate::sync::sync_if_there;

/// A producer snapshot longer than this is not one (over a million producers).
pub(crate) const MAX_SNAPSHOT_BYTES: usize = 256 << 20;

/// The topic id in a directory's `partition.metadata`; `None` when it is torn.
pub(crate) fn read_topic_id(disk: &dyn Disk, dir: &Path) -> Result<Option<Uuid>, OpenError> {
    let path = dir.join(names::METADATA);
    let bytes = disk::read_file(disk, &path, 4096)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut version = None;
    let mut id = None;
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("version", value)) => version = Some(value.trim().to_owned()),
            Some(("topic_id", value)) => id = value.trim().parse::<Uuid>().ok(),
            _ => {}
        }
    }
    match version.as_deref() {
        None | Some("0") => Ok(id),
        Some(version) if version.parse::<u32>().is_err() => Ok(None),
        Some(version) => Err(OpenError::BadFile {
            file: path,
            reason: format!(
                "it has version {version}, only 0 is known: run the newer release that wrote it"
            ),
        }),
    }
}

/// The topic id of a partition directory, for matching directories with topics before
/// they are opened; `None` without a readable `partition.metadata`.
///
/// # Errors
/// The file is from a newer release, or the disk failed.
pub fn topic_id_of(disk: &dyn Disk, dir: &Path) -> Result<Option<Uuid>, OpenError> {
    match read_topic_id(disk, dir) {
        Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found,
    }
}

impl Opening {
    /// The producers at the end of the log.
    pub(super) fn producers(
        &self,
        shared: &Arc<LogShared>,
        scanned: &Scanned,
    ) -> io::Result<(Producers, Option<i64>)> {
        let offsets = self
            .files
            .keys()
            .filter_map(|name| names::parse(name))
            .filter(|(_, extension)| *extension == names::SNAPSHOT)
            .map(|(offset, _)| offset)
            .collect();
        // Those at or below the trusted end were synced before it was noted.
        let unsure_above = match scanned.known {
            false => i64::MIN,
            true => scanned.trusted.end,
        };
        load_producers(
            shared,
            offsets,
            unsure_above,
            &scanned.segments,
            scanned.end,
            self.args.now_ms,
        )
    }
}

/// The producers at offset `end`: the newest usable snapshot of those at `offsets`,
/// whose offset is given as well, and the batches behind it. Snapshots above the end
/// and torn ones are removed; those above `unsure_above` may not have been synced, so
/// each of them is looked at, and synced.
pub(crate) fn load_producers(
    shared: &LogShared,
    mut offsets: Vec<i64>,
    unsure_above: i64,
    segments: &[Segment],
    end: i64,
    now_ms: i64,
) -> io::Result<(Producers, Option<i64>)> {
    offsets.sort_unstable();
    let mut found: Option<(Producers, i64)> = None;
    while let Some(offset) = offsets.pop() {
        let path = shared.path(offset, names::SNAPSHOT);
        if offset > end {
            shared.disk().remove(&path)?;
            continue;
        }
        let unsure = offset > unsure_above;
        if found.is_some() && !unsure {
            break;
        }
        let bytes = disk::read_file(shared.disk(), &path, MAX_SNAPSHOT_BYTES)?;
        match snapshot::decode(&bytes, now_ms) {
            Ok(producers) => {
                if unsure {
                    sync_if_there(shared.disk(), &path)?;
                }
                found.get_or_insert((producers, offset));
            }
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "a producer snapshot is not used");
                shared.disk().remove(&path)?;
            }
        }
    }
    let (producers, snapshot_offset) =
        found.map_or_else(Default::default, |(producers, at)| (producers, Some(at)));
    let producers = replay(shared, producers, snapshot_offset, segments, end, now_ms)?;
    Ok((producers, snapshot_offset))
}

/// Adds the batches of `segments` from the snapshot's offset up to `end`.
pub(crate) fn replay(
    shared: &LogShared,
    mut producers: Producers,
    snapshot_offset: Option<i64>,
    segments: &[Segment],
    end: i64,
    now_ms: i64,
) -> io::Result<Producers> {
    let from = snapshot_offset.unwrap_or(i64::MIN);
    if from >= end {
        return Ok(producers);
    }
    for (index, segment) in segments.iter().enumerate() {
        let next_base = segments
            .get(index + 1)
            .map_or(end, |next| next.base_offset());
        if segment.size_bytes == 0 || next_base <= from || segment.base_offset() >= end {
            continue;
        }
        let file = segment.files().log(shared)?;
        let mut scanner = BatchScanner::headers(file, 0, u64::from(segment.size_bytes));
        while let Step::Batch { header, .. } = scanner.step()? {
            if header.base_offset >= from && header.base_offset < end {
                producers.record(&header, now_ms);
            }
        }
        if index + 1 < segments.len() {
            segment.files().release_unused();
        }
    }
    Ok(producers)
}

/// Sees to it that there is a durable snapshot at the base of segment `index`: when
/// the segments before it go, it is all that is known of their producers.
pub(crate) fn ensure_snapshot(
    shared: &LogShared,
    segments: &[Segment],
    index: usize,
    now_ms: i64,
) -> io::Result<()> {
    let base = segments[index].base_offset();
    let path = shared.path(base, names::SNAPSHOT);
    if !shared.disk().exists(&path)? {
        let offsets = snapshot_offsets(shared)?
            .into_iter()
            .filter(|offset| *offset < base)
            .collect();
        let (producers, _) =
            load_producers(shared, offsets, i64::MAX, &segments[..index], base, now_ms)?;
        disk::write_file_atomic(shared.disk(), &path, &snapshot::encode(&producers))?;
    }
    sync_if_there(shared.disk(), &path)?;
    shared.disk().sync_dir(&shared.dir())
}

/// Offsets of the snapshots in a log's directory.
pub(crate) fn snapshot_offsets(shared: &LogShared) -> io::Result<Vec<i64>> {
    let entries = shared.disk().list(&shared.dir())?;
    Ok(entries
        .iter()
        .filter_map(|entry| names::parse(&entry.name))
        .filter(|(_, extension)| *extension == names::SNAPSHOT)
        .map(|(offset, _)| offset)
        .collect())
}
