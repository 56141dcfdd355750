//! Walks the batches of a segment file with a bounded window.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use tidemark_env::disk::DiskFile;
use tidemark_records::{BATCH_OVERHEAD_BYTES, BatchHeader, crc32c};

/// Where the bytes begin that the CRC covers.
const CRC_FROM: usize = 21;
/// Read-ahead when whole batches are looked at.
const FULL_WINDOW_BYTES: usize = 256 * 1024;
/// Read-ahead when only headers are: batches are skipped over.
const HEADER_WINDOW_BYTES: usize = 4 * 1024;

/// What lies at a position.
#[derive(Debug)]
pub(crate) enum Step {
    /// A batch: where it begins, and its header.
    Batch { position: u64, header: BatchHeader },
    /// The end of the range, at a batch boundary.
    End,
    /// Something that is not a whole valid batch.
    Bad { position: u64, reason: String },
}

/// A walk over `position..end` of a file.
#[derive(Debug)]
pub(crate) struct BatchScanner {
    file: Arc<dyn DiskFile>,
    position: u64,
    end: u64,
    verify_crc: bool,
    window: Bytes,
    window_at: u64,
}

impl BatchScanner {
    /// Looks at headers only, skipping over the records.
    pub(crate) fn headers(file: Arc<dyn DiskFile>, position: u64, end: u64) -> Self {
        Self {
            file,
            position,
            end,
            verify_crc: false,
            window: Bytes::new(),
            window_at: position,
        }
    }

    /// Reads everything and checks the CRCs.
    pub(crate) fn verified(file: Arc<dyn DiskFile>, position: u64, end: u64) -> Self {
        Self {
            verify_crc: true,
            ..Self::headers(file, position, end)
        }
    }

    /// Where the next step looks.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Up to `len` bytes at `at`, from the window if they are in it.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<Bytes> {
        let inside = at
            .checked_sub(self.window_at)
            .and_then(|start| usize::try_from(start).ok())
            .filter(|start| start + len <= self.window.len());
        if let Some(start) = inside {
            return Ok(self.window.slice(start..start + len));
        }
        let window_bytes = if self.verify_crc {
            FULL_WINDOW_BYTES
        } else {
            HEADER_WINDOW_BYTES
        };
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        self.window = Bytes::new();
        self.window = self
            .file
            .read_bytes_at(at, window_bytes.max(len).min(left))?;
        self.window_at = at;
        Ok(self.window.slice(..len.min(self.window.len())))
    }

    fn bad(&self, reason: impl Into<String>) -> Step {
        Step::Bad {
            position: self.position,
            reason: reason.into(),
        }
    }

    /// Looks at the next batch and moves past it, unless it is bad.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        let left = self.end.saturating_sub(self.position);
        if left == 0 {
            return Ok(Step::End);
        }
        let position = self.position;
        let head = self.bytes(position, BATCH_OVERHEAD_BYTES)?;
        let header = match BatchHeader::parse(&head) {
            Ok(header) => header,
            Err(error) => return Ok(self.bad(error.to_string())),
        };
        let size = header.size_bytes() as u64;
        if size > left {
            return Ok(self.bad(format!(
                "the batch should have {size} bytes and only {left} are there"
            )));
        }
        if header.base_offset < 0 || header.last_offset() == i64::MAX {
            return Ok(self.bad(format!("its offset {} is impossible", header.base_offset)));
        }
        if self.verify_crc
            && let Some(computed) = self.crc_mismatch(position, &header)?
        {
            return Ok(self.bad(format!(
                "stored CRC-32C {:#010x}, computed {computed:#010x}",
                header.crc
            )));
        }
        self.position += size;
        Ok(Step::Batch { position, header })
    }

    /// The computed CRC of the batch at `position` when it is not the stored one.
    /// Large batches are streamed.
    pub(crate) fn crc_mismatch(
        &mut self,
        position: u64,
        header: &BatchHeader,
    ) -> io::Result<Option<u32>> {
        let size = header.size_bytes();
        let computed = if size <= FULL_WINDOW_BYTES {
            let batch = self.bytes(position, size)?;
            crc32c(batch.get(CRC_FROM..).unwrap_or_default())
        } else {
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            let mut at = CRC_FROM;
            while at < size {
                let len = (size - at).min(FULL_WINDOW_BYTES);
                let part = self.bytes(position + at as u64, len)?;
                if part.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                at += part.len();
                digest.update(&part);
            }
            // 32 bits wide: the upper half is zero.
            digest.finalize() as u32
        };
        Ok((computed != header.crc).then_some(computed))
    }
}

/// Whether anything like a valid batch, with offsets above `after_offset`, begins in
/// `from..end`: then what lies before it is damage and not just a torn tail.
pub(crate) fn find_batch_after(
    file: &Arc<dyn DiskFile>,
    from: u64,
    end: u64,
    after_offset: i64,
) -> io::Result<Option<u64>> {
    const STRIDE: usize = 64 * 1024;
    let mut at = from;
    while at + (BATCH_OVERHEAD_BYTES as u64) <= end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let chunk = file.read_bytes_at(at, (STRIDE + BATCH_OVERHEAD_BYTES - 1).min(left))?;
        if chunk.len() < BATCH_OVERHEAD_BYTES {
            return Ok(None);
        }
        for start in 0..=chunk.len() - BATCH_OVERHEAD_BYTES {
            let candidate = &chunk[start..start + BATCH_OVERHEAD_BYTES];
            if candidate[16] != 2 {
                continue;
            }
            let Ok(header) = BatchHeader::parse(candidate) else {
                continue;
            };
            let plausible = header.base_offset > after_offset
                && header.base_offset - after_offset < i64::from(i32::MAX)
                && header.size_bytes() as u64 <= end - at - start as u64;
            if plausible {
                let position = at + start as u64;
                let mut scanner = BatchScanner::verified(
                    file.clone(),
                    position,
                    position + header.size_bytes() as u64,
                );
                if matches!(scanner.step()?, Step::Batch { .. }) {
                    return Ok(Some(position));
                }
            }
        }
        at += (chunk.len() - BATCH_OVERHEAD_BYTES + 1) as u64;
    }
    Ok(None)
}
