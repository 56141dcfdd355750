//! Generates Rust for every message of `schema/*.json` and every error of `schema/errors.tsv`.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a build script fails by panicking and speaks to cargo by printing"
)]

mod emit;
mod schema;

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=schema");
    println!("cargo:rerun-if-changed=build");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    let messages = schema::load(Path::new("schema"));
    fs::write(out.join("messages.rs"), emit::messages(&messages)).expect("OUT_DIR is writable");
    fs::write(out.join("api_key.rs"), emit::api_keys(&messages)).expect("OUT_DIR is writable");
    let errors = fs::read_to_string("schema/errors.tsv").expect("schema/errors.tsv is readable");
    fs::write(out.join("error_code.rs"), emit::error_codes(&errors)).expect("OUT_DIR is writable");
}
