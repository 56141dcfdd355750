//! Memory that a virtual machine's host has given to it already.
//!
//! Where the host takes free memory back, the first touch of a page afterwards is an exit to
//! the host: on such a machine a copy into fresh page cache costs nine times what it costs
//! into memory that was in use a moment ago. Which broker pays is chance. So before every
//! window nearly all free memory is filled with pages of a file without blocks: the kernel
//! takes those back first, and they cost nobody a visit to the host.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::experiment::say;
use crate::failure::{Result, while_doing};
use crate::procfs::parse_kib_line;

/// This much stays free: room for allocations between two looks.
const FREE_BYTES: u64 = 200 << 20;
/// Read between two looks at what is free.
const STRIDE_BYTES: usize = 32 << 20;

/// A file that is all hole, as long as memory, and how far it was read.
#[derive(Debug)]
pub struct WarmMemory {
    path: PathBuf,
    file: File,
    bytes: u64,
    at: u64,
}

impl WarmMemory {
    /// Makes the file in `dir`; it takes no room on the disk.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(dir: &Path) -> Result<WarmMemory> {
        let path = dir.join("warm-memory");
        let bytes = memory("MemTotal");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(while_doing("making a file for the page cache"))?;
        file.set_len(bytes)
            .map_err(while_doing("making a file for the page cache"))?;
        Ok(WarmMemory {
            path,
            file,
            bytes,
            at: 0,
        })
    }

    /// Reads until little memory is free, or all of the file is in the page cache.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn fill(&mut self) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut read = 0;
        while read < self.bytes && memory("MemFree") > FREE_BYTES {
            if self.at >= self.bytes {
                self.at = 0;
            }
            self.file
                .seek(SeekFrom::Start(self.at))
                .map_err(while_doing("filling the page cache"))?;
            for _ in 0..STRIDE_BYTES / buffer.len() {
                let n = self
                    .file
                    .read(&mut buffer)
                    .map_err(while_doing("filling the page cache"))? as u64;
                self.at += n;
                read += n;
            }
        }
        Ok(())
    }
}

impl Drop for WarmMemory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            say(&format!("{} stays: {error}", self.path.display()));
        }
    }
}

fn memory(name: &str) -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_kib_line(&meminfo, name).unwrap_or_default()
}
