//! Records as text: lines and JSON coming in, values, templates and JSON going out. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidemark_client::consumer::ConsumerRecord;
use tidemark_client::producer::ProducerRecord;

use crate::when::format_moment;

/// Text with `\n`, `\t`, `\r`, `\0`, `\\` and `\x1f` as the bytes they stand for.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match rest.next() {
            Some('n') => bytes.push(b'\n'),
            Some('t') => bytes.push(b'\t'),
            Some('r') => bytes.push(b'\r'),
            Some('0') => bytes.push(0),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let byte = u8::from_str_radix(&digits, 16)
                    .ok()
                    .filter(|_| digits.len() == 2);
                bytes.push(byte.ok_or_else(|| format!("'\\x{digits}' is not a byte in '{text}'"))?);
            }
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!(
                    "'\\{other}' means nothing in '{text}': \\n \\t \\r \\0 \\\\ \\x1f do"
                ));
            }
        }
    }
    Ok(bytes)
}

/// How a record is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordFormat {
    /// The value alone.
    Value,
    /// Key, separator, value.
    KeyValue(Vec<u8>),
    /// A JSON object with everything.
    Json,
    /// As a template says.
    Template(Vec<Piece>),
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Text(Vec<u8>),
    /// Something of the record.
    Field(Field),
}

/// What a template can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The topic's name.
    Topic,
    /// The partition.
    Partition,
    /// The offset.
    Offset,
    /// The time for people.
    Timestamp,
    /// The time in milliseconds since the epoch.
    TimestampMs,
    /// The key.
    Key,
    /// The value.
    Value,
    /// Headers as name=value, with commas between.
    Headers,
}

const FIELDS: [(&str, Field); 8] = [
    ("topic", Field::Topic),
    ("partition", Field::Partition),
    ("offset", Field::Offset),
    ("timestamp", Field::Timestamp),
    ("timestamp_ms", Field::TimestampMs),
    ("key", Field::Key),
    ("value", Field::Value),
    ("headers", Field::Headers),
];

/// Reads `{offset}: {key}\t{value}`; a brace itself is written twice.
pub fn parse_template(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.peek() == Some(&c) => {
                rest.next();
                literal.push(c);
            }
            '{' => {
                let mut name = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some(c) => name.push(c),
                        None => {
                            return Err(format!(
                                "a '{{' without its '}}' in '{text}'; write '{{{{' for the brace itself"
                            ));
                        }
                    }
                }
                let field = FIELDS
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, field)| *field);
                let field = field.ok_or_else(|| {
                    let known: Vec<String> = FIELDS
                        .iter()
                        .map(|(name, _)| format!("{{{name}}}"))
                        .collect();
                    format!("a template has no '{{{name}}}': use {}", known.join(" "))
                })?;
                if !literal.is_empty() {
                    pieces.push(Piece::Text(unescape(&std::mem::take(&mut literal))?));
                }
                pieces.push(Piece::Field(field));
            }
            '}' => {
                return Err(format!(
                    "a '}}' without its '{{' in '{text}'; write '}}}}' for the brace itself"
                ));
            }
            _ => literal.push(c),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(unescape(&literal)?));
    }
    Ok(pieces)
}

/// Appends a record to `out`; `null` stands for keys and values that are null.
pub fn write_record(
    out: &mut Vec<u8>,
    record: &ConsumerRecord,
    format: &RecordFormat,
    null: &[u8],
) {
    let key = record.key.as_deref().unwrap_or(null);
    let value = record.value.as_deref().unwrap_or(null);
    match format {
        RecordFormat::Value => out.extend_from_slice(value),
        RecordFormat::KeyValue(separator) => {
            out.extend_from_slice(key);
            out.extend_from_slice(separator);
            out.extend_from_slice(value);
        }
        RecordFormat::Json => out.extend_from_slice(record_json(record).to_string().as_bytes()),
        RecordFormat::Template(pieces) => {
            for piece in pieces {
                let field = match piece {
                    Piece::Text(text) => {
                        out.extend_from_slice(text);
                        continue;
                    }
                    Piece::Field(field) => field,
                };
                match field {
                    Field::Topic => out.extend_from_slice(record.topic.as_bytes()),
                    Field::Partition => {
                        out.extend_from_slice(record.partition.to_string().as_bytes());
                    }
                    Field::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                    Field::Timestamp => {
                        out.extend_from_slice(format_moment(record.timestamp_ms).as_bytes());
                    }
                    Field::TimestampMs => {
                        out.extend_from_slice(record.timestamp_ms.to_string().as_bytes());
                    }
                    Field::Key => out.extend_from_slice(key),
                    Field::Value => out.extend_from_slice(value),
                    Field::Headers => {
                        for (index, header) in record.headers.iter().enumerate() {
                            if index > 0 {
                                out.push(b',');
                            }
                            out.extend_from_slice(&header.key);
                            out.push(b'=');
                            out.extend_from_slice(header.value.as_deref().unwrap_or(null));
                        }
                    }
                }
            }
        }
    }
}

/// A record as the JSON that [`parse_json`] reads back.
pub fn record_json(record: &ConsumerRecord) -> Value {
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|header| {
            json!({
                "key": String::from_utf8_lossy(&header.key),
                "value": bytes_json(header.value.as_deref()),
            })
        })
        .collect();
    json!({
        "topic": &*record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "timestamp": format_moment(record.timestamp_ms),
        "key": bytes_json(record.key.as_deref()),
        "value": bytes_json(record.value.as_deref()),
        "headers": headers,
    })
}

/// Text where it is text, else `{"base64": …}`.
fn bytes_json(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::String(text.to_owned()),
        Some((bytes, Err(_))) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

fn bytes_from_json(value: Option<&Value>, what: &str) -> Result<Option<Bytes>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Bytes::from(text.clone()))),
        Some(Value::Object(object)) if object.len() == 1 && object.contains_key("base64") => {
            let decoded = object["base64"].as_str().map(|text| STANDARD.decode(text));
            match decoded {
                Some(Ok(bytes)) => Ok(Some(Bytes::from(bytes))),
                _ => Err(format!("the {what} is not base64")),
            }
        }
        // An object that is not bytes is kept as the JSON it is.
        Some(other) => Ok(Some(Bytes::from(other.to_string()))),
    }
}

/// A record from a JSON object with `value` and, if wanted, `key`, `headers`, `partition`, `timestamp_ms`.
pub fn parse_json(line: &[u8], topic: &str) -> Result<ProducerRecord, String> {
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    if !object.contains_key("value") {
        return Err("the JSON object has no \"value\"".to_owned());
    }
    let integer = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_i64()
            .map(Some)
            .ok_or_else(|| format!("the {name} is not a whole number")),
    };
    let mut headers = Vec::new();
    match object.get("headers") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for header in list {
                let key = header.get("key").and_then(Value::as_str);
                let key = key.ok_or("a header has no \"key\"")?;
                let value = bytes_from_json(header.get("value"), "header's value")?;
                headers.push((Bytes::from(key.to_owned()), value));
            }
        }
        Some(Value::Object(map)) => {
            for (key, value) in map {
                headers.push((
                    Bytes::from(key.clone()),
                    bytes_from_json(Some(value), "header's value")?,
                ));
            }
        }
        Some(_) => return Err("\"headers\" is neither a list nor an object".to_owned()),
    }
    let partition = integer("partition")?;
    Ok(ProducerRecord {
        topic: topic.to_owned(),
        partition: partition
            .map(|p| i32::try_from(p).map_err(|_| format!("there is no partition {p}")))
            .transpose()?,
        timestamp_ms: integer("timestamp_ms")?,
        key: bytes_from_json(object.get("key"), "key")?,
        value: bytes_from_json(object.get("value"), "value")?,
        headers,
    })
}

/// A record from a line: all of it the value, or key and value with a separator between.
pub fn parse_line(
    line: &Bytes,
    topic: &str,
    key_separator: Option<&[u8]>,
    null: Option<&[u8]>,
) -> Result<ProducerRecord, String> {
    let or_null = |bytes: Bytes| (null != Some(bytes.as_ref())).then_some(bytes);
    let (key, value) = match key_separator {
        None => (None, line.clone()),
        Some(separator) => {
            let at = find(line, separator).ok_or_else(|| {
                format!(
                    "no key separator '{}' in the line",
                    String::from_utf8_lossy(separator)
                )
            })?;
            (
                or_null(line.slice(..at)),
                line.slice(at + separator.len()..),
            )
        }
    };
    Ok(ProducerRecord {
        topic: topic.to_owned(),
        key,
        value: or_null(value),
        ..ProducerRecord::default()
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests;
