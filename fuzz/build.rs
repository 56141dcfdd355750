//! Generates the lists of request and response messages from the schema, so
//! that no message can be forgotten.

use std::{env, fmt::Write, fs, path::Path};

fn main() {
    let schema = "../broker/wire/schema/clients.json";
    println!("cargo:rerun-if-changed={schema}");
    let text = fs::read_to_string(schema).expect("the schema is in the repository");
    let messages: serde_json::Value = serde_json::from_str(&text).expect("the schema is JSON");
    let mut out = String::new();
    for kind in ["request", "response"] {
        let mut arms = String::new();
        let mut names = String::new();
        for message in messages.as_array().expect("a list of messages") {
            let name = message["name"].as_str().expect("a message has a name");
            if message["type"] == kind {
                let key = &message["apiKey"];
                writeln!(
                    arms,
                    "        {key} => round_trip::<m::{name}>(body, version),"
                )
                .expect("writing to a string");
                writeln!(names, "    ({name:?}, {key}),").expect("writing to a string");
            }
        }
        writeln!(
            out,
            "/// Decodes the {kind} of an API.\n\
             fn {kind}(key: i16, version: i16, body: Bytes) {{\n    match key {{\n{arms}        _ => {{}}\n    }}\n}}\n\n\
             /// Names and API keys of all {kind}s.\n\
             pub const {}S: &[(&str, i16)] = &[\n{names}];",
            kind.to_uppercase()
        )
        .expect("writing to a string");
    }
    let path = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("messages.rs");
    fs::write(path, out).expect("OUT_DIR is writable");
}
