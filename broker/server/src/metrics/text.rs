//! Prometheus' text format, for values that are collected at a scrape.

use super::families::Family;
use std::fmt::{Display, Write};

/// A page of metrics being written.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Continues a page.
    pub(super) fn after(page: String) -> Text {
        Text(page)
    }

    /// The page.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// Begins a family; its samples follow.
    pub(super) fn begin(&mut self, family: &Family) {
        let (name, kind) = (family.name, family.kind.name());
        self.line(format_args!("# HELP {name} {}", family.help));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// One sample; `values` are those of the family's labels, in their order.
    pub(super) fn sample(&mut self, family: &Family, values: &[&dyn Display], value: &dyn Display) {
        debug_assert_eq!(family.labels.len(), values.len());
        self.0.push_str(family.name);
        for (place, (label, text)) in family.labels.iter().zip(values).enumerate() {
            self.0.push(if place == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            put(&mut Escaped(&mut self.0), format_args!("{text}"));
            self.0.push('"');
        }
        if !values.is_empty() {
            self.0.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, family: &Family, value: &dyn Display) {
        self.begin(family);
        self.sample(family, &[], value);
    }

    /// A line for people; scrapers skip it.
    pub(super) fn comment(&mut self, comment: std::fmt::Arguments<'_>) {
        self.line(format_args!("# {comment}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        put(&mut self.0, line);
        self.0.push('\n');
    }
}

fn put(out: &mut dyn Write, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    out.write_fmt(what).unwrap_or_default();
}

/// Escapes what is written as a label's value.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
