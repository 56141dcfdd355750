//! Lines from standard input or files, read on a thread of their own and cut without waiting for more.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tidemark_env::task;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// Cuts bytes into lines as they come. Pure.
#[derive(Debug)]
pub struct Lines {
    delimiter: u8,
    most_bytes: usize,
    partial: BytesMut,
    scanned: usize,
}

impl Lines {
    /// Lines that end in `delimiter` and are no longer than `most_bytes`.
    pub fn new(delimiter: u8, most_bytes: usize) -> Self {
        Self {
            delimiter,
            most_bytes,
            partial: BytesMut::new(),
            scanned: 0,
        }
    }

    /// The lines that these bytes complete; an error if one grows too long.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, String> {
        self.partial.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(at) = self.partial[self.scanned..]
            .iter()
            .position(|b| *b == self.delimiter)
        {
            let mut line = self.partial.split_to(self.scanned + at + 1);
            line.truncate(line.len() - 1);
            self.scanned = 0;
            lines.push(line.freeze());
        }
        self.scanned = self.partial.len();
        let longest = lines
            .iter()
            .map(Bytes::len)
            .max()
            .unwrap_or(0)
            .max(self.partial.len());
        if longest > self.most_bytes {
            return Err(format!("a line is longer than {} bytes", self.most_bytes));
        }
        Ok(lines)
    }

    /// What stands behind the last delimiter.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.scanned = 0;
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }
}

/// Some lines, or why there are no more.
pub type Chunk = Result<Vec<Bytes>, Failure>;

/// Reads `files` one after the other (`-` is standard input; none at all, too).
pub fn read_lines(
    files: Vec<PathBuf>,
    delimiter: u8,
    most_bytes: usize,
) -> Result<mpsc::Receiver<Chunk>, Failure> {
    let (sender, receiver) = mpsc::channel(16);
    task::thread("input", move || {
        let files = if files.is_empty() {
            vec![PathBuf::from("-")]
        } else {
            files
        };
        for file in files {
            if let Err(failure) = read_file(&file, delimiter, most_bytes, &sender) {
                // Whoever reads has gone away, or hears of it.
                drop(sender.blocking_send(Err(failure)));
                return;
            }
        }
    })
    .map_err(|error| Failure::finding(format!("no thread to be had: {error}")))?;
    Ok(receiver)
}

#[allow(
    clippy::disallowed_methods,
    reason = "input files are the person's, not the product's: no simulation stands in for them"
)]
fn open(path: &Path) -> std::io::Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    Ok(Box::new(std::fs::File::open(path)?))
}

/// A small file as text, such as a configuration.
///
/// # Errors
/// Those of the system; `InvalidData` for what is not UTF-8.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Ends early, without an error, when nobody takes the lines any more.
fn read_file(
    path: &Path,
    delimiter: u8,
    most_bytes: usize,
    sender: &mpsc::Sender<Chunk>,
) -> Result<(), Failure> {
    let name = path.display().to_string();
    let mut source = open(path).map_err(|error| Failure::file(&name, &error))?;
    let mut lines = Lines::new(delimiter, most_bytes);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::file(&name, &error)),
        };
        let complete = lines
            .push(&buffer[..read])
            .map_err(|problem| Failure::finding(format!("{name}: {problem}")))?;
        if !complete.is_empty() && sender.blocking_send(Ok(complete)).is_err() {
            return Ok(());
        }
    }
    if let Some(last) = lines.finish() {
        // As above: nobody to take it is no error.
        drop(sender.blocking_send(Ok(vec![last])));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_however_the_bytes_come_in() {
        let text = b"one\ntwo\n\nfour";
        for size in 1..=text.len() {
            let mut lines = Lines::new(b'\n', 100);
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                seen.extend(lines.push(piece).unwrap());
            }
            seen.extend(lines.finish());
            assert_eq!(seen, ["one", "two", "", "four"], "pieces of {size}");
        }
    }

    #[test]
    fn a_delimiter_at_the_end_begins_no_line() {
        let mut lines = Lines::new(0, 100);
        assert_eq!(lines.push(b"a\0b\0").unwrap(), ["a", "b"]);
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn endless_lines_are_refused() {
        let mut lines = Lines::new(b'\n', 10);
        assert!(lines.push(b"0123456789").unwrap().is_empty());
        assert!(lines.push(b"x").is_err());
    }
}
