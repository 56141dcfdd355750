use super::*;
use tidemark_records_for_tests::record;

/// Records as a broker would give them.
mod tidemark_records_for_tests {
    use super::*;
    use tidemark_records::{Batch, BatchBuilder, BatchOptions, Limits, RecordRef};

    pub fn record(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> ConsumerRecord {
        let mut builder = BatchBuilder::new(BatchOptions {
            base_offset: 42,
            ..BatchOptions::default()
        });
        builder
            .append(&RecordRef {
                timestamp_ms: 1_795_354_585_123,
                key,
                value,
                headers,
            })
            .unwrap();
        let mut bytes = builder.build().unwrap();
        let batch = Batch::split_first(&mut bytes).unwrap().unwrap();
        let record = batch
            .records(Limits::default())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        ConsumerRecord {
            topic: "orders".into(),
            partition: 3,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            leader_epoch: 0,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }
    }
}

fn written(record: &ConsumerRecord, format: &RecordFormat) -> String {
    let mut out = Vec::new();
    write_record(&mut out, record, format, b"NULL");
    String::from_utf8(out).unwrap()
}

#[test]
fn records_are_written_in_each_format() {
    let record = record(Some(b"k"), Some(b"v"), &[(b"h", Some(b"1")), (b"h", None)]);
    assert_eq!(written(&record, &RecordFormat::Value), "v");
    assert_eq!(
        written(&record, &RecordFormat::KeyValue(b": ".to_vec())),
        "k: v"
    );
    let template = parse_template(
        r"{topic}-{partition}@{offset}\t{key}={value} [{headers}] {{{timestamp_ms}}} {timestamp}",
    )
    .unwrap();
    assert_eq!(
        written(&record, &RecordFormat::Template(template)),
        "orders-3@42\tk=v [h=1,h=NULL] {1795354585123} 2026-11-22T13:36:25.123Z"
    );
    let tombstone = super::tests::record(None, None, &[]);
    assert_eq!(
        written(&tombstone, &RecordFormat::KeyValue(b"=".to_vec())),
        "NULL=NULL"
    );
}

#[test]
fn json_goes_out_and_comes_back() {
    let headers: &[(&[u8], Option<&[u8]>)] =
        &[(b"a", Some(b"x")), (b"a", None), (b"b", Some(b"\xff"))];
    let record = record(Some(b"\xfe\xff"), Some("gr\u{fc}n".as_bytes()), headers);
    let text = written(&record, &RecordFormat::Json);
    let back = parse_json(text.as_bytes(), "other").unwrap();
    assert_eq!(back.topic, "other");
    assert_eq!(back.partition, Some(3));
    assert_eq!(back.timestamp_ms, Some(1_795_354_585_123));
    assert_eq!(back.key.as_deref(), Some(&b"\xfe\xff"[..]));
    assert_eq!(back.value.as_deref(), Some("gr\u{fc}n".as_bytes()));
    let back: Vec<(&[u8], Option<&[u8]>)> = back
        .headers
        .iter()
        .map(|(k, v)| (&k[..], v.as_deref()))
        .collect();
    assert_eq!(back, headers);
}

#[test]
fn json_that_is_no_record_is_refused_with_a_reason() {
    for (line, reason) in [
        ("", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("{}", "no \"value\""),
        (r#"{"value": {"base64": "%%"}}"#, "not base64"),
        (
            r#"{"value": "x", "partition": "one"}"#,
            "not a whole number",
        ),
        (
            r#"{"value": "x", "partition": 99999999999}"#,
            "no partition",
        ),
        (r#"{"value": "x", "headers": 1}"#, "neither"),
        (r#"{"value": "x", "headers": [{}]}"#, "no \"key\""),
    ] {
        let error = parse_json(line.as_bytes(), "t").unwrap_err();
        assert!(error.contains(reason), "{line}: {error}");
    }
    let kept = parse_json(br#"{"value": {"a": 1}}"#, "t").unwrap();
    assert_eq!(kept.value.as_deref(), Some(&br#"{"a":1}"#[..]));
    assert_eq!(parse_json(br#"{"value": null}"#, "t").unwrap().value, None);
}

#[test]
fn lines_are_split_at_the_first_separator() {
    let line = Bytes::from_static(b"k::v::w");
    let record = parse_line(&line, "t", Some(b"::"), None).unwrap();
    assert_eq!(record.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"v::w"[..]));
    assert!(parse_line(&line, "t", Some(b"|"), None).is_err());
    let whole = parse_line(&line, "t", None, None).unwrap();
    assert_eq!(
        (whole.key, whole.value.as_deref()),
        (None, Some(&b"k::v::w"[..]))
    );
    let tombstone = parse_line(
        &Bytes::from_static(b"k:NULL"),
        "t",
        Some(b":"),
        Some(b"NULL"),
    )
    .unwrap();
    assert_eq!(
        (tombstone.key.as_deref(), tombstone.value),
        (Some(&b"k"[..]), None)
    );
}

#[test]
fn escapes() {
    assert_eq!(unescape(r"a\n\t\0\\\x1f"), Ok(b"a\n\t\0\\\x1f".to_vec()));
    for bad in [r"\", r"\q", r"\x1", r"\xzz"] {
        assert!(unescape(bad).is_err(), "{bad}");
    }
}

#[test]
fn templates_that_make_no_sense_are_refused() {
    for bad in ["{valu}", "{", "}", "{key", r"\q"] {
        assert!(parse_template(bad).is_err(), "{bad}");
    }
    assert!(parse_template("{valu}").unwrap_err().contains("{value}"));
}
