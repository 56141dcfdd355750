//! Going through the segments: which are trusted, which are scanned, what is cut.

use std::path::PathBuf;
use std::sync::Arc;

use tidemark_env::disk::{DiskFile, OpenMode};
use tidemark_records::BatchHeader;

use super::{OnCorruption, Opening, Scanned};
use crate::epochs::LeaderEpochs;
use crate::error::OpenError;
use crate::index::{self, OFFSET_ENTRY_BYTES, TIME_ENTRY_BYTES};
use crate::names;
use crate::scan::{BatchScanner, Step, find_batch_after};
use crate::segment::{LogShared, Segment};
use crate::tail::Tail;

/// Bytes that do not continue the log.
struct Damage {
    file: PathBuf,
    position: u64,
    offset: i64,
    reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.display();
        write!(f, "{file} at position {}: {}", self.position, self.reason)
    }
}

impl Scanned {
    /// Takes in a batch that was found valid.
    fn note_epoch(&mut self, header: &BatchHeader) {
        if self
            .epochs
            .latest()
            .is_none_or(|latest| latest < header.partition_leader_epoch)
        {
            self.epochs
                .assign(header.partition_leader_epoch, header.base_offset);
        }
    }
}

impl Opening {
    fn log_path(&self, base: i64) -> PathBuf {
        names::path(&self.dir, base, names::LOG)
    }

    fn file_len(&self, base: i64, extension: &str) -> Option<u64> {
        self.files.get(&format!("{base:020}.{extension}")).copied()
    }

    /// Damage below what was known durable is refused, unless a person said
    /// otherwise; above, it is a torn tail and nobody was promised anything.
    fn judge(&mut self, scanned: &Scanned, damage: &Damage) -> Result<(), OpenError> {
        let promised = scanned.known && scanned.end < scanned.trusted.end;
        if promised && self.args.on_corruption == OnCorruption::Refuse {
            return Err(OpenError::Corrupt {
                file: damage.file.clone(),
                position: damage.position,
                offset: damage.offset,
                reason: damage.reason.clone(),
            });
        }
        self.recovery.lost_durable |= promised;
        if promised && self.recovery.cut_reason.is_none() {
            self.recovery.cut_reason = Some(damage.to_string());
        }
        Ok(())
    }

    /// Sizes of the trusted segments, contents of the others.
    pub(super) fn scan(
        &mut self,
        shared: &Arc<LogShared>,
        scanned: &mut Scanned,
    ) -> Result<(), OpenError> {
        let bases = self.bases.clone();
        let trusted = scanned.trusted;
        let has_trusted = bases.contains(&trusted.segment_base);
        // Nothing is lost with a file that held nothing below the trusted end, or only
        // what retention has taken since.
        let whole = has_trusted || trusted.position == 0 || trusted.log_start >= trusted.end;
        if scanned.known && !whole {
            scanned.end = bases.first().copied().unwrap_or(trusted.log_start);
            let missing = Damage {
                file: self.log_path(trusted.segment_base),
                position: 0,
                offset: trusted.segment_base,
                reason: "the file is missing".to_owned(),
            };
            self.judge(scanned, &missing)?;
        }
        for (index, base) in bases.iter().copied().enumerate() {
            let len = self.file_len(base, names::LOG).unwrap_or(0);
            let size = u32::try_from(len).map_err(|_| OpenError::BadFile {
                file: self.log_path(base),
                reason: format!("{len} bytes are more than a segment can have"),
            })?;
            let last = index + 1 == bases.len();
            if scanned.known && whole {
                if base < trusted.segment_base {
                    let segment = Segment::new(base, size);
                    if !self.indexes_sane(base, size) {
                        self.rebuild_indexes(shared, &segment)?;
                    }
                    scanned.segments.push(segment);
                    continue;
                }
                if base > trusted.segment_base || !has_trusted {
                    // All of it is in the write-ahead log.
                    self.remove_segment(base)?;
                    continue;
                }
                if len >= trusted.position {
                    self.cut_untrusted(shared, scanned, base, size)?;
                    continue;
                }
            }
            let holds_end = scanned.known && has_trusted && base == trusted.segment_base;
            if holds_end {
                scanned.end = base;
            } else if base < scanned.end || (scanned.known && base != scanned.end) {
                let damage = Damage {
                    file: self.log_path(base),
                    position: 0,
                    offset: scanned.end,
                    reason: format!("the segment before it ends at offset {}", scanned.end),
                };
                self.judge(scanned, &damage)?;
                self.recovery.cut_reason = Some(damage.to_string());
                self.set_aside(&bases[index..])?;
                break;
            } else {
                scanned.end = base;
            }
            let from = if holds_end { trusted.position } else { 0 };
            if self.scan_segment(shared, scanned, base, size, from, last)? {
                self.set_aside(&bases[index + 1..])?;
                break;
            }
        }
        if let Some(active) = scanned.segments.last() {
            let lost = Damage {
                file: self.log_path(active.base_offset()),
                position: u64::from(active.size_bytes),
                offset: scanned.end,
                reason: format!(
                    "the log ends at offset {} and had been synced up to {}",
                    scanned.end, trusted.end
                ),
            };
            self.judge(scanned, &lost)?;
        }
        Ok(())
    }

    /// Cuts off what lies behind the trusted end in its segment, in the indexes too.
    fn cut_untrusted(
        &mut self,
        shared: &Arc<LogShared>,
        scanned: &mut Scanned,
        base: i64,
        size: u32,
    ) -> Result<(), OpenError> {
        let trusted = scanned.trusted;
        let position = u32::try_from(trusted.position).unwrap_or(u32::MAX);
        let segment = Segment::new(base, position);
        if size > position {
            segment.files().log(shared)?.set_len(trusted.position)?;
            self.recovery.untrusted_bytes += u64::from(size - position);
        }
        let sane = self.indexes_sane(base, size);
        if sane && (self.args.trust_indexes || position == 0) && size == position {
            // Closed cleanly, or empty: nothing can lie behind.
        } else if sane {
            let (offsets, times) = crate::tail::open_indexes(shared, segment.files())?;
            index::trim_offsets(&*offsets, base, position, trusted.end)?;
            index::trim_times(&*times, base, trusted.end)?;
        } else {
            self.rebuild_indexes(shared, &segment)?;
        }
        scanned.end = trusted.end;
        scanned.segments.push(segment);
        scanned.tail = None;
        Ok(())
    }

    /// Where `end` lies: the base of its segment, and the position in it. Where the segment is not
    /// there, as retention may have taken it since, none is of that base, and something was in it.
    pub(super) fn locate(
        &self,
        shared: &Arc<LogShared>,
        end: i64,
    ) -> Result<(i64, u64), OpenError> {
        let holding = self.bases.iter().rev().find(|base| **base < end);
        let Some(base) = holding.copied() else {
            let is_begun = self.bases.contains(&end);
            return Ok((end, u64::from(!is_begun)));
        };
        let len = self.file_len(base, names::LOG).unwrap_or(0);
        let file = Segment::new(base, 0).files().log(shared)?;
        let mut scanner = BatchScanner::headers(file, 0, len);
        let mut position = 0;
        while let Step::Batch { header, .. } = scanner.step()? {
            if header.base_offset >= end {
                break;
            }
            position = scanner.position();
        }
        Ok((base, position))
    }

    /// Removes a segment that the write-ahead log holds all of.
    pub(super) fn remove_segment(&mut self, base: i64) -> Result<(), OpenError> {
        for extension in [
            names::LOG,
            names::INDEX,
            names::TIME_INDEX,
            names::TXN_INDEX,
        ] {
            if let Some(len) = self.file_len(base, extension) {
                self.recovery.untrusted_bytes += len;
                self.disk()
                    .remove(&names::path(&self.dir, base, extension))?;
            }
        }
        Ok(())
    }

    /// Scans one segment, its indexes made anew: headers up to `from`, everything
    /// from there on. Says whether it was cut.
    fn scan_segment(
        &mut self,
        shared: &Arc<LogShared>,
        scanned: &mut Scanned,
        base: i64,
        size: u32,
        from: u64,
        last: bool,
    ) -> Result<bool, OpenError> {
        let mut segment = Segment::new(base, size);
        let len = u64::from(size);
        let file = segment.files().log(shared)?;
        let mut tail = Tail::with_fresh_indexes(shared, segment.files(), self.args.now_ms)?;
        self.recovery.rebuilt_indexes += 1;
        let interval = self.args.config.index_interval_bytes;
        let mut position = 0;
        let mut bad = None;
        let trusted_end = from.min(len);
        for (trusted, start, end) in [(true, 0, trusted_end), (false, trusted_end, len)] {
            if bad.is_some() {
                break;
            }
            let mut scanner = if trusted {
                BatchScanner::headers(file.clone(), start, end)
            } else {
                BatchScanner::verified(file.clone(), start, end)
            };
            loop {
                match scanner.step()? {
                    Step::End => break,
                    Step::Bad { position, reason } => {
                        bad = Some((position, reason));
                        break;
                    }
                    Step::Batch {
                        position: at,
                        header,
                    } => {
                        // Our own logs have no gaps; trusted ones may have been
                        // compacted by whoever wrote them.
                        let may_skip = trusted || !scanned.known;
                        let continues = header.base_offset == scanned.end
                            || (may_skip && header.base_offset > scanned.end);
                        if !continues {
                            let reason = format!(
                                "the batch has offset {} where {} was expected",
                                header.base_offset, scanned.end
                            );
                            bad = Some((at, reason));
                            break;
                        }
                        let at = u32::try_from(at).unwrap_or(u32::MAX);
                        tail.note_batch(&header, at, interval);
                        if tail.wants_write() {
                            tail.write_entries(shared, segment.files())?;
                        }
                        scanned.note_epoch(&header);
                        scanned.end = header.next_offset();
                        position = scanner.position();
                        if !trusted {
                            self.recovery.scanned_bytes += header.size_bytes() as u64;
                        }
                    }
                }
            }
            if trusted && from > 0 && bad.is_none() {
                if from > len {
                    bad = Some((len, format!("it has {len} bytes where {from} were synced")));
                } else {
                    // Records that compaction took from the end still count.
                    scanned.end = scanned.end.max(scanned.trusted.end);
                }
            }
        }
        let cut = match bad {
            None => false,
            Some((bad_position, reason)) => {
                let damage = Damage {
                    file: segment.files().log_path(shared),
                    position: bad_position,
                    offset: scanned.end,
                    reason,
                };
                self.judge(scanned, &damage)?;
                self.keep_cut(&file, &damage.file, position, len, scanned.end)?;
                file.set_len(position)?;
                file.sync_data()?;
                self.recovery.cut_bytes += len - position.min(len);
                self.recovery.cut_reason = Some(damage.to_string());
                segment.size_bytes = u32::try_from(position).unwrap_or(u32::MAX);
                true
            }
        };
        if !last && !cut {
            tail.add_time_entry();
            segment.set_max_timestamp(Some(tail.max_timestamp));
        }
        tail.write_entries(shared, segment.files())?;
        scanned.segments.push(segment);
        scanned.tail = Some(Box::new(tail));
        Ok(cut)
    }

    /// Whether a segment's index files are there and as long as they can be.
    fn indexes_sane(&self, base: i64, size: u32) -> bool {
        let sane = |extension, entry: usize| {
            self.file_len(base, extension).map_or(size == 0, |len| {
                len % entry as u64 == 0 && len / (entry as u64) <= u64::from(size)
            })
        };
        sane(names::INDEX, OFFSET_ENTRY_BYTES) && sane(names::TIME_INDEX, TIME_ENTRY_BYTES)
    }

    /// Makes the indexes of a trusted segment anew.
    fn rebuild_indexes(&mut self, shared: &LogShared, segment: &Segment) -> Result<(), OpenError> {
        let (mut tail, bad) = Tail::rebuild(
            shared,
            segment.files(),
            segment.size_bytes,
            self.args.config.index_interval_bytes,
            self.args.now_ms,
        )?;
        self.recovery.rebuilt_indexes += 1;
        if let Some((position, reason)) = bad {
            // Reading will say so when it gets there; the rest is of use.
            tracing::error!(
                file = %segment.files().log_path(shared).display(),
                position,
                reason,
                "a sealed segment is damaged"
            );
        }
        tail.add_time_entry();
        tail.write_entries(shared, segment.files())?;
        segment.release();
        Ok(())
    }

    /// Keeps what is about to be cut when there are valid batches in it.
    fn keep_cut(
        &mut self,
        file: &Arc<dyn DiskFile>,
        path: &std::path::Path,
        from: u64,
        len: u64,
        end_offset: i64,
    ) -> Result<(), OpenError> {
        if find_batch_after(file, from, len, end_offset)?.is_none() {
            return Ok(());
        }
        let kept = names::with_suffix(path, &format!(".{from}{}", names::CUT_SUFFIX));
        let copy = self.disk().open(&kept, OpenMode::Create)?;
        copy.set_len(0)?;
        let mut at = from;
        while at < len {
            let part = file.read_bytes_at(at, 256 * 1024)?;
            if part.is_empty() {
                break;
            }
            copy.write_at(&part, at - from)?;
            at += part.len() as u64;
        }
        copy.sync_data()?;
        tracing::warn!(kept = %kept.display(), "valid batches behind a torn one were cut off and kept aside");
        self.recovery.cut_kept_in.push(kept);
        Ok(())
    }

    /// Takes segments that do not continue the log out of it: empty ones are removed,
    /// others renamed. The last goes first, so that a crash leaves no hole.
    fn set_aside(&mut self, bases: &[i64]) -> Result<(), OpenError> {
        for base in bases.iter().rev().copied() {
            let path = self.log_path(base);
            let len = self.file_len(base, names::LOG).unwrap_or(0);
            if len == 0 {
                self.disk().remove(&path)?;
            } else {
                let kept = names::with_suffix(&path, names::CUT_SUFFIX);
                self.disk().rename(&path, &kept)?;
                self.recovery.cut_bytes += len;
                self.recovery.cut_kept_in.push(kept);
            }
            for extension in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX] {
                if self.file_len(base, extension).is_some() {
                    self.disk()
                        .remove(&names::path(&self.dir, base, extension))?;
                }
            }
            self.recovery.segments_set_aside += 1;
        }
        Ok(())
    }
}

/// Reads the epochs of the batches between the log start and the first epoch that is known: a
/// checkpoint that did not come to its end may have written epochs that begin at a log start which
/// never became durable.
pub(super) fn extend_epochs(
    shared: &LogShared,
    segments: &[Segment],
    epochs: &mut LeaderEpochs,
    log_start: i64,
) -> Result<(), OpenError> {
    let known = std::mem::take(epochs);
    let first = known.entries().first().map(|entry| entry.start_offset);
    let Some(first) = first.filter(|first| *first > log_start) else {
        *epochs = known;
        return Ok(());
    };
    let below = segments.iter().take_while(|s| s.base_offset() < first);
    for segment in below {
        let file = segment.files().log(shared)?;
        let mut scanner = BatchScanner::headers(file, 0, segment.size_bytes.into());
        while let Step::Batch { header, .. } = scanner.step()?
            && header.base_offset < first
        {
            if header.last_offset() >= log_start {
                let start = header.base_offset.max(log_start);
                epochs.assign(header.partition_leader_epoch, start);
            }
        }
    }
    for entry in known.entries() {
        epochs.assign(entry.epoch, entry.start_offset);
    }
    Ok(())
}
