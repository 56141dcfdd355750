//! All that goes to standard output: tables for people, JSON for scripts, raw bytes for pipes.

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences for people.
    #[default]
    Table,
    /// One JSON document (a line per record for `consume`).
    Json,
}

/// Where answers go. A reader that goes away (`| head`) ends the command quietly.
pub struct Out {
    format: Format,
    sink: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Out").field("format", &self.format).finish()
    }
}

impl Out {
    /// To standard output, buffered.
    pub fn stdout(format: Format) -> Self {
        Self::to(
            format,
            Box::new(io::BufWriter::with_capacity(64 << 10, io::stdout())),
        )
    }

    /// To any writer.
    pub fn to(format: Format, sink: Box<dyn Write + Send>) -> Self {
        Self { format, sink }
    }

    /// Whether scripts read us.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// `value` as JSON, or what `people` writes.
    pub fn show<T: Serialize>(
        &mut self,
        value: &T,
        people: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.is_json() {
            self.json(value)
        } else {
            people(self)
        }
    }

    /// One JSON document.
    pub fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(Failure::bug)?;
        self.line(&text)
    }

    /// A line of text.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.raw(text.as_bytes())?;
        self.raw(b"\n")
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.sink
            .write_all(bytes)
            .map_err(|error| Failure::output(&error))
    }

    /// A table; nothing for one without rows.
    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        for line in table.lines() {
            self.line(&line)?;
        }
        Ok(())
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.sink.flush().map_err(|error| Failure::output(&error))
    }
}

/// Rows under headings, columns as wide as their widest cell; numbers to the right.
#[derive(Debug, Clone, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row of as many cells as there are headings.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headings.len());
        self.rows.push(cells);
    }

    fn lines(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let columns = self.headings.len();
        let width = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = self.headings.iter().map(|h| width(h)).collect();
        let mut numeric = vec![true; columns];
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate().take(columns) {
                widths[column] = widths[column].max(width(cell));
                numeric[column] &= is_number(cell);
            }
        }
        let line = |cells: Vec<&str>| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate().take(columns) {
                let gap = " ".repeat(widths[column] - width(cell));
                if column > 0 {
                    line.push_str("  ");
                }
                if numeric[column] {
                    line.push_str(&gap);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&gap);
                }
            }
            line.trim_end().to_owned()
        };
        let mut lines = vec![line(self.headings.clone())];
        lines.extend(
            self.rows
                .iter()
                .map(|row| line(row.iter().map(String::as_str).collect())),
        );
        lines
    }
}

fn is_number(cell: &str) -> bool {
    let cell = cell.trim_start_matches(['+', '-']);
    cell.is_empty()
        || cell
            .chars()
            .all(|c| c.is_ascii_digit() || c == ',' || c == '.')
}

/// A count for people: `1,234,567`.
pub fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0 {
        grouped.insert(0, '-');
    }
    grouped
}

/// A size for people: `1.5 MiB`.
pub fn bytes(size: i64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{size} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Ids with commas between.
pub fn ids(ids: &[i32]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(",")
}

/// `1 partition`, `2 partitions`.
pub fn plural(number: i64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_numbers_go_right() {
        let mut table = Table::new(&["TOPIC", "PARTITIONS", "NOTE"]);
        table.row(vec!["orders".into(), "12".into(), "ok".into()]);
        table.row(vec!["a".into(), "1,024".into(), String::new()]);
        assert_eq!(
            table.lines(),
            [
                "TOPIC   PARTITIONS  NOTE",
                "orders          12  ok",
                "a            1,024",
            ]
        );
    }

    #[test]
    fn a_table_without_rows_is_nothing() {
        assert!(Table::new(&["A"]).lines().is_empty());
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(-1_234_567), "-1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(i64::MAX), "8192.0 PiB");
        assert_eq!(plural(1, "record"), "1 record");
        assert_eq!(plural(2000, "record"), "2,000 records");
    }
}
