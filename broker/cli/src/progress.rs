//! Progress of long work, on standard error and only where a person watches it.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tidemark_env::clock;

const EVERY: Duration = Duration::from_millis(200);

/// One line that is written over again and again.
#[derive(Debug)]
pub struct Progress {
    watched: bool,
    last: Option<clock::Instant>,
}

impl Progress {
    /// Silent unless standard error is a terminal.
    pub fn new() -> Self {
        Self {
            watched: io::stderr().is_terminal(),
            last: None,
        }
    }

    /// Shows `text`, at most five times a second.
    pub fn update(&mut self, text: impl FnOnce() -> String) {
        if !self.watched || self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(clock::monotonic());
        self.write(&format!("\r\x1b[K{}", text()));
    }

    /// Clears the line.
    pub fn clear(&mut self) {
        if self.last.take().is_some() {
            self.write("\r\x1b[K");
        }
    }

    fn write(&mut self, text: &str) {
        let mut stderr = io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        if stderr
            .write_all(text.as_bytes())
            .and_then(|()| stderr.flush())
            .is_err()
        {
            self.watched = false;
        }
    }
}
