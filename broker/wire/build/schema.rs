//! The schema table as Rust values. Shared with the golden-vector crate, which generates
//! JSON printers from the same table.

use serde_json::Value;
use std::{fs, path::Path};

/// A closed range of versions; empty when `first > last`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Versions {
    pub first: i16,
    pub last: i16,
}

impl Versions {
    const NONE: Versions = Versions { first: 1, last: 0 };

    fn parse(text: &str) -> Versions {
        let number = |s: &str| s.trim().parse::<i16>().expect("a version is a number");
        if text == "none" {
            Versions::NONE
        } else if let Some(first) = text.strip_suffix('+') {
            Versions {
                first: number(first),
                last: i16::MAX,
            }
        } else if let Some((first, last)) = text.split_once('-') {
            Versions {
                first: number(first),
                last: number(last),
            }
        } else {
            Versions {
                first: number(text),
                last: number(text),
            }
        }
    }

    fn within(self, outer: Versions) -> Versions {
        Versions {
            first: self.first.max(outer.first),
            last: self.last.min(outer.last),
        }
    }

    pub fn is_empty(self) -> bool {
        self.first > self.last
    }

    pub fn minus(self, other: Versions) -> Versions {
        // Tagged versions are always a suffix of a field's versions.
        if other.is_empty() {
            self
        } else {
            Versions {
                first: self.first,
                last: self.last.min(other.first - 1),
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Uint32,
    Int64,
    Float64,
    String,
    Uuid,
    Bytes,
    /// Records of a response, which its sender need not have in memory. Those of a request are
    /// plain bytes: whoever makes one has them.
    Records,
    Struct(String),
    Array(Box<Type>),
}

impl Type {
    fn parse(text: &str) -> Type {
        if let Some(element) = text.strip_prefix("[]") {
            return Type::Array(Box::new(Type::parse(element)));
        }
        match text {
            "bool" => Type::Bool,
            "int8" => Type::Int8,
            "int16" => Type::Int16,
            "uint16" => Type::Uint16,
            "int32" => Type::Int32,
            "uint32" => Type::Uint32,
            "int64" => Type::Int64,
            "float64" => Type::Float64,
            "string" => Type::String,
            "uuid" => Type::Uuid,
            "bytes" => Type::Bytes,
            "records" => Type::Records,
            name => Type::Struct(name.to_string()),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Field {
    /// The schema's name, in CamelCase.
    pub name: String,
    pub kind: Type,
    /// Versions in which the field travels at all, within the message's.
    pub versions: Versions,
    pub nullable: Versions,
    pub tagged: Versions,
    pub tag: Option<u32>,
    /// The schema's default, `None` when it states none. A null default is `Some("null")`.
    pub default: Option<String>,
    /// Dropped silently, rather than refused, at versions that lack it.
    pub ignorable: bool,
    /// False only for the request header's client id, which is never compact.
    pub compact_allowed: bool,
}

#[derive(Clone, Debug)]
pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub name: String,
    pub kind: String,
    pub api_key: Option<i16>,
    pub versions: Versions,
    pub flexible: Versions,
    pub latest_unstable: bool,
    /// The message's own struct first, then nested and common ones.
    pub structs: Vec<Struct>,
}

const FILES: [&str; 6] = [
    "clients.json",
    "group-coordinator.json",
    "share-coordinator.json",
    "transaction-coordinator.json",
    "storage.json",
    "tidemark.json",
];

/// Reads every schema file in `dir`.
pub fn load(dir: &Path) -> Vec<Message> {
    let mut messages = Vec::new();
    for file in FILES {
        let text = fs::read_to_string(dir.join(file)).expect("a schema file is readable");
        let value: Value = serde_json::from_str(&text).expect("a schema file is JSON");
        messages.extend(
            value
                .as_array()
                .expect("a schema file is an array")
                .iter()
                .map(message),
        );
    }
    messages
}

fn text(value: &Value, key: &str) -> String {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} is missing in {value}"))
        .to_string()
}

fn message(value: &Value) -> Message {
    let name = text(value, "name");
    let versions = Versions::parse(&text(value, "validVersions"));
    let mut structs = Vec::new();
    collect(&name, &value["fields"], versions, &mut structs);
    for common in value["commonStructs"].as_array().into_iter().flatten() {
        collect(
            &text(common, "name"),
            &common["fields"],
            versions,
            &mut structs,
        );
    }
    let kind = text(value, "type");
    if kind != "response" {
        let fields = structs.iter_mut().flat_map(|item| &mut item.fields);
        for field in fields.filter(|field| field.kind == Type::Records) {
            field.kind = Type::Bytes;
        }
    }
    Message {
        kind,
        api_key: value["apiKey"].as_i64().map(|key| key as i16),
        flexible: Versions::parse(&text(value, "flexibleVersions")).within(versions),
        latest_unstable: value["latestVersionUnstable"].as_bool().unwrap_or(false),
        name,
        versions,
        structs,
    }
}

fn collect(name: &str, fields: &Value, outer: Versions, structs: &mut Vec<Struct>) {
    let at = structs.len();
    structs.push(Struct {
        name: name.to_string(),
        fields: Vec::new(),
    });
    let fields = fields.as_array().expect("fields is an array");
    let parsed = fields.iter().map(|value| {
        let kind = Type::parse(&text(value, "type"));
        if value["fields"].is_array() {
            let element = if let Type::Array(element) = &kind {
                element
            } else {
                &kind
            };
            let Type::Struct(nested) = element else {
                panic!("{name}: only structs have fields");
            };
            collect(nested, &value["fields"], outer, structs);
        }
        field(value, kind, outer)
    });
    let parsed: Vec<Field> = parsed.collect();
    structs[at].fields = parsed;
}

fn field(value: &Value, kind: Type, outer: Versions) -> Field {
    let range = |key: &str, missing: Versions| {
        value[key]
            .as_str()
            .map_or(missing, Versions::parse)
            .within(outer)
    };
    let versions = range("versions", outer);
    Field {
        name: text(value, "name"),
        kind,
        versions,
        nullable: range("nullableVersions", Versions::NONE).within(versions),
        tagged: range("taggedVersions", Versions::NONE).within(versions),
        tag: value["tag"].as_u64().map(|tag| tag as u32),
        default: match value.get("default") {
            // Kafka's generator takes a bare null for "no default given", which differs from "null".
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        },
        ignorable: value["ignorable"].as_bool().unwrap_or(false),
        compact_allowed: value["flexibleVersions"].as_str() != Some("none"),
    }
}
