//! Generates a JSON printer for every message, from the table that `wire` generates its structs from.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a build script fails by panicking and speaks to cargo by printing"
)]

#[path = "../wire/build/emit.rs"]
#[allow(dead_code)]
mod emit;
#[path = "../wire/build/schema.rs"]
#[allow(dead_code)]
mod schema;

use emit::snake;
use schema::{Message, Struct, Type, Versions};
use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=../wire/schema");
    println!("cargo:rerun-if-changed=../wire/build");
    println!("cargo:rerun-if-changed=build.rs");
    let messages = schema::load(Path::new("../wire/schema"));
    let mut out = String::new();
    for message in &messages {
        out.push_str(&format!(
            "mod {module} {{ use super::*; use tidemark_wire::messages::{module}::*;\n",
            module = snake(&message.name)
        ));
        for item in &message.structs {
            printer(&mut out, item);
        }
        out.push_str("}\n");
    }
    dispatch(&mut out, &messages);
    let path = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("json.rs");
    fs::write(path, out).expect("OUT_DIR is writable");
}

fn range(versions: Versions) -> String {
    if versions.is_empty() {
        "false".into()
    } else {
        format!(
            "({}..={}).contains(&version)",
            versions.first, versions.last
        )
    }
}

fn printer(out: &mut String, item: &Struct) {
    let name = &item.name;
    out.push_str(&format!(
        "pub fn {}(m: &{name}, version: i16) -> Value {{ let mut o = Map::new();\n",
        function(name)
    ));
    for field in &item.fields {
        let ident = snake(&field.name);
        let mut key = field.name.clone();
        key[..1].make_ascii_lowercase();
        let value = if field.nullable.is_empty() {
            format!("{{ let v = &m.{ident}; {} }}", value(&field.kind))
        } else {
            format!(
                "match &m.{ident} {{ None => Value::Null, Some(v) => {} }}",
                value(&field.kind)
            )
        };
        let plain = range(field.versions.minus(field.tagged));
        let tagged = range(field.tagged);
        out.push_str(&format!(
            "if {plain} || ({tagged} && m.{ident} != {name}::default().{ident}) {{ o.insert(\"{key}\".into(), {value}); }}\n"
        ));
    }
    out.push_str("Value::Object(o) }\n");
}

fn function(name: &str) -> String {
    format!("print_{}", snake(name).trim_start_matches("r#"))
}

fn value(kind: &Type) -> String {
    match kind {
        Type::String => "Value::from(v.as_str())".into(),
        Type::Uuid => "Value::from(v.to_string())".into(),
        Type::Bytes => "Value::from(STANDARD.encode(v))".into(),
        // What was decoded is always here.
        Type::Records => {
            "Value::from(STANDARD.encode(v.clone().into_bytes().unwrap_or_default()))".into()
        }
        Type::Struct(name) => format!("{}(v, version)", function(name)),
        Type::Array(element) => format!(
            "Value::from(v.iter().map(|v| {}).collect::<Vec<_>>())",
            value(element)
        ),
        _ => "Value::from(*v)".into(),
    }
}

fn dispatch(out: &mut String, messages: &[Message]) {
    let arm = |message: &Message, pattern: String| {
        let name = &message.name;
        format!(
            "{pattern} => print::<{name}>(bytes, version, {}::{}),\n",
            snake(name),
            function(name)
        )
    };
    let by_name: String = messages
        .iter()
        .map(|m| arm(m, format!("\"{}\"", m.name)))
        .collect();
    let of_kind = |kind: &str| -> String {
        messages
            .iter()
            .filter(|m| m.kind == kind)
            .map(|m| arm(m, m.api_key.unwrap_or(-1).to_string()))
            .collect()
    };
    out.push_str(&format!(
        "/// Decodes the message of this schema name.\npub fn by_name(name: &str, bytes: Bytes, version: i16) -> Option<Printed> {{ Some(match name {{\n{by_name} _ => return None }}) }}\n\
         /// Decodes the request of this API key.\npub fn request(api_key: i16, bytes: Bytes, version: i16) -> Option<Printed> {{ Some(match api_key {{\n{} _ => return None }}) }}\n\
         /// Decodes the response of this API key.\npub fn response(api_key: i16, bytes: Bytes, version: i16) -> Option<Printed> {{ Some(match api_key {{\n{} _ => return None }}) }}\n",
        of_kind("request"),
        of_kind("response"),
    ));
}
