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

/// A producer snapshot longer than this is not one (over a million producers).
const MAX_SNAPSHOT_BYTES: usize = 256 << 20;

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
        Some(version) => Err(OpenError::BadFile {
            file: path,
            reason: format!(
                "it has version {version}, only 0 is known: run the newer release that wrote it"
            ),
        }),
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
        load_producers(
            shared,
            offsets,
            &scanned.segments,
            scanned.end,
            self.args.now_ms,
        )
    }
}

/// The producers at offset `end`: the newest usable snapshot of those at `offsets`,
/// whose offset is given as well, and the batches behind it. Snapshots above the end
/// and torn ones are removed.
pub(crate) fn load_producers(
    shared: &LogShared,
    mut offsets: Vec<i64>,
    segments: &[Segment],
    end: i64,
    now_ms: i64,
) -> io::Result<(Producers, Option<i64>)> {
    offsets.sort_unstable();
    let mut found = (Producers::default(), None);
    while let Some(offset) = offsets.pop() {
        let path = shared.path(offset, names::SNAPSHOT);
        if offset > end {
            shared.disk.remove(&path)?;
            continue;
        }
        let bytes = disk::read_file(&*shared.disk, &path, MAX_SNAPSHOT_BYTES)?;
        match snapshot::decode(&bytes, now_ms) {
            Ok(producers) => {
                found = (producers, Some(offset));
                break;
            }
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "a producer snapshot is not used");
                shared.disk.remove(&path)?;
            }
        }
    }
    let (mut producers, snapshot_offset) = found;
    let from = snapshot_offset.unwrap_or(i64::MIN);
    if from >= end {
        return Ok((producers, snapshot_offset));
    }
    for (index, segment) in segments.iter().enumerate() {
        let next_base = segments
            .get(index + 1)
            .map_or(end, |next| next.base_offset());
        if segment.size_bytes == 0 || next_base <= from {
            continue;
        }
        let file = segment.files.log(shared)?;
        let mut scanner = BatchScanner::headers(file, 0, u64::from(segment.size_bytes));
        while let Step::Batch { header, .. } = scanner.step()? {
            if header.base_offset >= from {
                producers.record(&header, now_ms);
            }
        }
        if index + 1 < segments.len() {
            segment.files.release();
        }
    }
    Ok((producers, snapshot_offset))
}
