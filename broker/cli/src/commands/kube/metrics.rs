//! Prometheus' text format, as far as brokers write it; pure.

use std::collections::BTreeMap;

/// A value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// A page of metrics by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, Vec<Sample>>);

impl Metrics {
    /// Reads a page; lines that are not samples are passed over.
    pub fn read(text: &str) -> Self {
        let mut all: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = sample(line) {
                all.entry(name.to_owned()).or_default().push(sample);
            }
        }
        Self(all)
    }

    /// All samples of a name.
    pub fn all(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Their sum; 0 where there are none.
    pub fn sum(&self, name: &str) -> f64 {
        self.all(name).iter().map(|sample| sample.value).sum()
    }
}

fn sample(line: &str) -> Option<(&str, Sample)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some((
            series,
            Sample {
                labels: BTreeMap::new(),
                value,
            },
        ));
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while let Some((label, quoted)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (_, '\\') => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (at, '"') => break at,
                (_, other) => text.push(other),
            }
        };
        labels.insert(label.trim_start_matches(',').to_owned(), text);
        rest = quoted.get(end + 1..)?;
    }
    Some((name, Sample { labels, value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_its_labels() {
        let page = "# HELP a b\na{x=\"1\",y=\"say \\\"hi\\\", \\\\ ok\"} 2.5\na{x=\"2\"} 1e3\nb 7\nrubbish\nc{x=\"} 1\n";
        let metrics = Metrics::read(page);
        assert_eq!(metrics.sum("a"), 1002.5);
        assert_eq!(metrics.sum("b"), 7.0);
        assert_eq!(metrics.all("a")[0].labels["y"], "say \"hi\", \\ ok");
        assert_eq!(metrics.all("c"), []);
        assert_eq!(metrics.sum("nothing"), 0.0);
    }
}
