//! Turns the schema table into Rust source.

use crate::schema::{Field, Message, Struct, Type, Versions};
use std::collections::HashSet;
use std::fmt::Write;

/// `TopicId` to `topic_id`; a keyword becomes a raw identifier.
pub fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && !chars[i - 1].is_uppercase();
        let before_lower = chars.get(i + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && i > 0 && (after_lower || before_lower) {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    if matches!(out.as_str(), "type" | "match" | "where" | "ref" | "use") {
        out.insert_str(0, "r#");
    }
    out
}

/// The condition `version` is in `range`, or `None` when it always or never holds.
enum When {
    Always,
    Never,
    If(String),
}

fn when(range: Versions, valid: Versions) -> When {
    let low = range.first > valid.first;
    let high = range.last < valid.last;
    if range.is_empty() || range.first > valid.last || range.last < valid.first {
        return When::Never;
    }
    match (low, high) {
        (false, false) => When::Always,
        (true, false) => When::If(format!("version >= {}", range.first)),
        (false, true) => When::If(format!("version <= {}", range.last)),
        (true, true) => When::If(format!(
            "({}..={}).contains(&version)",
            range.first, range.last
        )),
    }
}

impl When {
    fn expression(&self) -> String {
        match self {
            When::Always => "true".into(),
            When::Never => "false".into(),
            When::If(condition) => condition.clone(),
        }
    }
}

fn rust_type(kind: &Type) -> String {
    match kind {
        Type::Bool => "bool".into(),
        Type::Int8 => "i8".into(),
        Type::Int16 => "i16".into(),
        Type::Uint16 => "u16".into(),
        Type::Int32 => "i32".into(),
        Type::Uint32 => "u32".into(),
        Type::Int64 => "i64".into(),
        Type::Float64 => "f64".into(),
        Type::String => "String".into(),
        Type::Uuid => "Uuid".into(),
        Type::Bytes => "Bytes".into(),
        Type::Records => "Records".into(),
        Type::Struct(name) => name.clone(),
        Type::Array(element) => format!("Vec<{}>", rust_type(element)),
    }
}

fn field_type(field: &Field) -> String {
    let plain = rust_type(&field.kind);
    match (field.nullable.is_empty(), &field.kind) {
        (true, _) => plain,
        (false, Type::Struct(_)) => format!("Option<Box<{plain}>>"),
        (false, _) => format!("Option<{plain}>"),
    }
}

fn default_value(field: &Field) -> String {
    let plain = match (&field.kind, field.default.as_deref()) {
        (_, Some("null")) => return "None".into(),
        (Type::Bool, text) => text.unwrap_or("false").to_string(),
        (Type::Float64, text) => format!("{}f64", text.unwrap_or("0")),
        (
            Type::Int8 | Type::Int16 | Type::Uint16 | Type::Int32 | Type::Uint32 | Type::Int64,
            text,
        ) => text
            .filter(|text| !text.is_empty())
            .unwrap_or("0")
            .to_string(),
        (Type::Struct(_), _) if !field.nullable.is_empty() => "Box::default()".into(),
        _ => "Default::default()".into(),
    };
    if field.nullable.is_empty() {
        plain
    } else {
        format!("Some({plain})")
    }
}

/// A condition that holds when the field differs from its default.
fn differs(field: &Field, value: &str) -> String {
    if !field.nullable.is_empty() {
        return match (field.default.as_deref(), &field.kind) {
            (Some("null"), _) => format!("{value}.is_some()"),
            (_, Type::Struct(_)) => format!("{value} != {}", default_value(field)),
            _ => format!("!{value}.as_ref().is_some_and(|v| v.is_empty())"),
        };
    }
    match &field.kind {
        Type::String | Type::Bytes | Type::Records | Type::Array(_) => {
            format!("!{value}.is_empty()")
        }
        Type::Struct(name) => format!("{value} != {name}::default()"),
        Type::Uuid => format!("{value} != Uuid::ZERO"),
        Type::Bool if default_value(field) == "false" => value.to_string(),
        Type::Bool => format!("!{value}"),
        _ => format!("{value} != {}", default_value(field)),
    }
}

struct Context<'a> {
    message: &'a Message,
}

impl Context<'_> {
    fn flexible(&self) -> When {
        when(self.message.flexible, self.message.versions)
    }

    /// An expression that says whether lengths are compact.
    fn compact(&self, field: &Field) -> String {
        if field.compact_allowed {
            self.flexible().expression()
        } else {
            "false".into()
        }
    }

    fn read(&self, field: &Field, tagged: bool) -> String {
        let compact = self.compact(field);
        let nullable = !field.nullable.is_empty();
        let may_null = when(field.nullable, self.message.versions).expression();
        let element = |kind: &Type| match kind {
            Type::Struct(name) => format!("|r| {name}::decode(r, version)"),
            Type::String => format!("|r| r.string({compact})"),
            other => format!("|r| r.{}()", primitive(other)),
        };
        match &field.kind {
            Type::String | Type::Bytes | Type::Records => {
                let method = counted(&field.kind);
                if nullable {
                    format!("r.nullable_{method}({compact}, {may_null})?")
                } else {
                    format!("r.{method}({compact})?")
                }
            }
            Type::Array(kind) if nullable => {
                format!(
                    "r.nullable_array({compact}, {may_null}, {})?",
                    element(kind)
                )
            }
            Type::Array(kind) => format!("r.array({compact}, {})?", element(kind)),
            Type::Struct(name) if nullable && tagged => {
                format!("r.tagged_nullable_struct(|r| {name}::decode(r, version))?")
            }
            Type::Struct(name) if nullable => {
                format!("r.nullable_struct({may_null}, |r| {name}::decode(r, version))?")
            }
            Type::Struct(name) => format!("{name}::decode(r, version)?"),
            other => format!("r.{}()?", primitive(other)),
        }
    }

    fn write(&self, field: &Field, value: &str, tagged: bool) -> String {
        let compact = self.compact(field);
        let nullable = !field.nullable.is_empty();
        let may_null = when(field.nullable, self.message.versions).expression();
        let element = |kind: &Type| match kind {
            Type::Struct(_) => "|w, v| v.encode(w, version)".to_string(),
            Type::String => format!("|w, v| w.string(v, {compact})"),
            other => format!("|w, v| {{ w.{}(*v); Ok(()) }}", primitive(other)),
        };
        match &field.kind {
            Type::String | Type::Bytes | Type::Records => {
                let method = counted(&field.kind);
                if nullable {
                    let view = if method == "string" {
                        "as_deref"
                    } else {
                        "as_ref"
                    };
                    format!("w.nullable_{method}({value}.{view}(), {compact}, {may_null})?")
                } else {
                    format!("w.{method}(&{value}, {compact})?")
                }
            }
            Type::Array(kind) if nullable => format!(
                "w.nullable_array({value}.as_deref(), {compact}, {may_null}, {})?",
                element(kind)
            ),
            Type::Array(kind) => {
                format!("w.array(&{value}, {compact}, {})?", element(kind))
            }
            Type::Struct(_) if nullable && tagged => {
                format!(
                    "w.tagged_nullable_struct({value}.as_deref(), |w, v| v.encode(w, version))?"
                )
            }
            Type::Struct(_) if nullable => format!(
                "w.nullable_struct({value}.as_deref(), {may_null}, |w, v| v.encode(w, version))?"
            ),
            Type::Struct(_) => format!("{value}.encode(w, version)?"),
            other => format!("w.{}({value})", primitive(other)),
        }
    }
}

/// The method of `Reader` and `Writer` for a kind that is bytes behind a length.
fn counted(kind: &Type) -> &'static str {
    match kind {
        Type::String => "string",
        Type::Records => "records",
        _ => "bytes",
    }
}

fn primitive(kind: &Type) -> &'static str {
    match kind {
        Type::Bool => "bool",
        Type::Int8 => "i8",
        Type::Int16 => "i16",
        Type::Uint16 => "u16",
        Type::Int32 => "i32",
        Type::Uint32 => "u32",
        Type::Int64 => "i64",
        Type::Float64 => "f64",
        Type::Uuid => "uuid",
        other => panic!("{other:?} is not a primitive"),
    }
}

/// Every message as a module, and the top-level structs re-exported.
pub fn messages(messages: &[Message]) -> String {
    let mut out = String::new();
    let mut seen = HashSet::new();
    for message in messages {
        assert!(
            seen.insert(message.name.clone()),
            "{} appears twice",
            message.name
        );
        let module = snake(&message.name);
        writeln!(out, "pub use {module}::{};", message.name).expect("writing to a string");
        writeln!(out, "/// `{}` and its nested structs.", message.name)
            .expect("writing to a string");
        writeln!(out, "pub mod {module} {{\nuse crate::generated::*;")
            .expect("writing to a string");
        for item in &message.structs {
            structure(&mut out, message, item);
        }
        message_impl(&mut out, message);
        out.push_str("}\n");
    }
    out
}

fn structure(out: &mut String, message: &Message, item: &Struct) {
    let context = Context { message };
    let valid = message.versions;
    let flexible = context.flexible();
    let name = &item.name;
    let mut declare = String::new();
    let mut default = String::new();
    let mut decode = String::new();
    let mut encode = String::new();
    let mut tagged_decode = String::new();
    let mut tagged_encode = String::new();
    for field in &item.fields {
        let ident = snake(&field.name);
        let value = format!("self.{ident}");
        declare.push_str(&format!("pub {ident}: {},\n", field_type(field)));
        default.push_str(&format!("{ident}: {},\n", default_value(field)));
        let read = context.read(field, false);
        let plain = field.versions.minus(field.tagged);
        let condition = when(plain, valid);
        match &condition {
            When::Always => decode.push_str(&format!("m.{ident} = {read};\n")),
            When::If(c) => decode.push_str(&format!("if {c} {{ m.{ident} = {read}; }}\n")),
            When::Never => {}
        }
        let write = context.write(field, &value, false);
        match &condition {
            When::Always => encode.push_str(&format!("{write};\n")),
            When::If(c) => encode.push_str(&format!("if {c} {{ {write}; }}\n")),
            When::Never => {}
        }
        let presence = when(field.versions, valid);
        if !field.ignorable
            && let When::If(c) = &presence
        {
            encode.push_str(&format!(
                "if !({c}) && {} {{ return Err(EncodeError::unsupported(\"{}\", \"{}\", version)); }}\n",
                differs(field, &value),
                name,
                field.name
            ));
        }
        if let Some(tag) = field.tag {
            let guard = match when(field.tagged, valid) {
                When::If(c) => format!(" if {c}"),
                _ => String::new(),
            };
            let read = context.read(field, true);
            let write = context.write(field, &value, true);
            tagged_decode.push_str(&format!(
                "{tag}{guard} => {{ m.{ident} = {read}; Ok(true) }}\n"
            ));
            let tagged = when(field.tagged, valid).expression();
            tagged_encode.push_str(&format!(
                "if {tagged} && {} {{ tags.add({tag}, |w| {{ {write}; Ok(()) }})?; }}\n",
                differs(field, &value)
            ));
        }
    }
    if !matches!(flexible, When::Never) {
        let c = flexible.expression();
        let body = if tagged_decode.is_empty() {
            "|_, _| Ok(false)".to_string()
        } else {
            format!("|tag, r| match tag {{ {tagged_decode} _ => Ok(false) }}")
        };
        decode.push_str(&format!(
            "if {c} {{ let mut unknown = TaggedFields::default();\nr.tagged_fields(&mut unknown, {body})?;\nm.unknown_tagged_fields = unknown; }}\n"
        ));
        if tagged_encode.is_empty() {
            encode.push_str(&format!(
                "if {c} {{ w.tagged_fields(&self.unknown_tagged_fields); }}\n"
            ));
        } else {
            encode.push_str(&format!(
                "if {c} {{ let mut tags = TagWriter::new(&self.unknown_tagged_fields);\n{tagged_encode} tags.finish(w); }}\n"
            ));
        }
    }
    out.push_str(&format!(
        "#[derive(Clone, Debug, PartialEq)]\npub struct {name} {{\n{declare}pub unknown_tagged_fields: TaggedFields,\n}}\n\
         impl Default for {name} {{ fn default() -> Self {{ {name} {{\n{default}unknown_tagged_fields: TaggedFields::default(),\n}} }} }}\n\
         impl {name} {{\n\
         pub fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {{\nlet mut m = Self::default();\n{decode}Ok(m)\n}}\n\
         pub fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {{\n{encode}Ok(())\n}}\n}}\n"
    ));
}

fn message_impl(out: &mut String, message: &Message) {
    let Message { name, versions, .. } = message;
    let (first, last) = (versions.first, versions.last);
    let flexible = Context { message }.flexible().expression();
    out.push_str(&format!(
        "impl Message for {name} {{\nconst NAME: &'static str = \"{name}\";\n\
         const MIN_VERSION: i16 = {first};\nconst MAX_VERSION: i16 = {last};\n\
         fn is_flexible(version: i16) -> bool {{ {flexible} }}\n\
         fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {{\n\
         if !({first}..={last}).contains(&version) {{ return Err(DecodeError::version(\"{name}\", version, {first}, {last})); }}\n\
         {name}::decode(r, version)\n}}\n\
         fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {{\n\
         if !({first}..={last}).contains(&version) {{ return Err(EncodeError::version(\"{name}\", version, {first}, {last})); }}\n\
         {name}::encode(self, w, version)\n}}\n}}\n"
    ));
    if message.kind == "request" {
        let base = name
            .strip_suffix("Request")
            .expect("a request's name ends in Request");
        out.push_str(&format!(
            "impl Request for {name} {{\nconst API_KEY: ApiKey = ApiKey::{base};\ntype Response = super::{base}Response;\n}}\n"
        ));
    }
}

/// The `ApiKey` enum with the versions and header shapes of each API.
pub fn api_keys(messages: &[Message]) -> String {
    let mut requests: Vec<&Message> = messages.iter().filter(|m| m.kind == "request").collect();
    requests.sort_by_key(|m| m.api_key);
    let mut variants = String::new();
    let mut from = String::new();
    let mut names = String::new();
    let mut versions = String::new();
    let mut flexible = String::new();
    let mut all = String::new();
    for message in requests {
        let base = message
            .name
            .strip_suffix("Request")
            .expect("a request's name ends in Request");
        let key = message.api_key.expect("a request has a key");
        variants.push_str(&format!("/// `{base}`.\n{base} = {key},\n"));
        from.push_str(&format!("{key} => Some(ApiKey::{base}),\n"));
        names.push_str(&format!("ApiKey::{base} => \"{base}\",\n"));
        let last = message.versions.last - i16::from(message.latest_unstable);
        versions.push_str(&format!(
            "ApiKey::{base} => ({}, {last}),\n",
            message.versions.first
        ));
        let from_version = if message.flexible.is_empty() {
            i16::MAX
        } else {
            message.flexible.first
        };
        flexible.push_str(&format!("ApiKey::{base} => {from_version},\n"));
        all.push_str(&format!("ApiKey::{base},\n"));
    }
    format!(
        "/// The APIs of Kafka 4.3, by their key.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(i16)]\npub enum ApiKey {{\n{variants}}}\n\
         impl ApiKey {{\n/// Every API, by ascending key.\npub const ALL: &'static [ApiKey] = &[\n{all}];\n\
         /// The API with this key, if Kafka 4.3 has one.\npub fn from_i16(key: i16) -> Option<ApiKey> {{ match key {{\n{from} _ => None }} }}\n\
         /// Kafka's name of the API, such as `Produce`.\npub fn name(self) -> &'static str {{ match self {{\n{names} }} }}\n\
         /// Lowest and highest stable version of Kafka 4.3.\npub fn stable_versions(self) -> (i16, i16) {{ match self {{\n{versions} }} }}\n\
         /// The first version with compact lengths and tagged fields; `i16::MAX` when there is none.\npub fn flexible_from(self) -> i16 {{ match self {{\n{flexible} }} }}\n}}\n"
    )
}

fn camel(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let lower = word.to_lowercase();
            let mut chars = lower.chars();
            chars.next().map_or(String::new(), |c| {
                c.to_uppercase().collect::<String>() + chars.as_str()
            })
        })
        .collect()
}

/// The `ErrorCode` enum.
pub fn error_codes(table: &str) -> String {
    let mut variants = String::new();
    let mut from = String::new();
    let mut names = String::new();
    let mut retriable = Vec::new();
    for line in table.lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [code, name, retry] = columns[..] else {
            panic!("errors.tsv: {line}")
        };
        let variant = camel(name);
        variants.push_str(&format!("/// `{name}` ({code}).\n{variant} = {code},\n"));
        from.push_str(&format!("{code} => ErrorCode::{variant},\n"));
        names.push_str(&format!("ErrorCode::{variant} => \"{name}\",\n"));
        if retry == "true" {
            retriable.push(format!("ErrorCode::{variant}"));
        }
    }
    let retriable = retriable.join(" | ");
    format!(
        "/// Kafka's error codes.\n#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]\n#[repr(i16)]\npub enum ErrorCode {{\n{}}}\n\
         impl ErrorCode {{\n/// The error with this code; a code of a later Kafka is an unknown server error.\npub fn from_code(code: i16) -> ErrorCode {{ match code {{\n{from} _ => ErrorCode::UnknownServerError }} }}\n\
         /// Kafka's name, such as `NOT_COORDINATOR`.\npub fn name(self) -> &'static str {{ match self {{\n{names} }} }}\n\
         /// Whether a client should try again.\npub fn is_retriable(self) -> bool {{ matches!(self, {retriable}) }}\n}}\n",
        variants.replace("None = 0,", "#[default]\nNone = 0,")
    )
}
