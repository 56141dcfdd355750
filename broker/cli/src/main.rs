//! The `tidemark` binary: the broker, and the tools that work against any Kafka cluster.
//!
//! Each subcommand is one file in `commands`; what they share is here: arguments, output, places in
//! a partition, moments in time, and how a command fails.

mod args;
mod commands;
mod context;
mod failure;
mod input;
mod output;
mod picture;
mod position;
mod progress;
mod record_format;
mod suggest;
mod when;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::Arguments;
use context::Context;
use failure::{Exit, Failure};
use output::{Format, Out};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse_from(words(std::env::args_os()));
    commands::logging(&arguments);
    let format = arguments.output;
    let bootstrap = arguments.bootstrap_if_typed();
    let result = run(arguments);
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            report(&failure, format, bootstrap.as_deref());
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

/// What was typed: `kubectl tidemark status` is `tidemark kube status`.
fn words(typed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = typed.collect();
    if commands::kube::is_plugin(words.first().map(OsString::as_os_str)) {
        words.insert(1, "kube".into());
    }
    words
}

fn run(arguments: Arguments) -> Result<Exit, Failure> {
    // Two threads, so that heartbeats go on while a slow reader holds up standard output.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::finding(format!("no threads to be had: {error}")))?;
    let tls = match &arguments.command_config {
        Some(file) => context::read_client_tls(file)?,
        None => None,
    };
    let mut context = Context {
        bootstrap: arguments.bootstrap,
        tls,
        timeout: arguments.timeout,
        out: Out::stdout(arguments.output),
    };
    let result = runtime.block_on(commands::run(arguments.command, &mut context));
    let flushed = context.out.flush();
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    let exit = result?;
    flushed?;
    Ok(exit)
}

/// Commands that do not look for a broker.
const ALONE: &[&str] = &["tidemark broker", "tidemark dev", "tidemark format"];

/// Says on standard error what went wrong and what to type next.
fn report(failure: &Failure, format: Format, bootstrap: Option<&str>) {
    if failure.quiet {
        return;
    }
    let next = failure.next.as_ref().map(|next| match bootstrap {
        Some(_) if ALONE.iter().any(|command| next.starts_with(command)) => next.clone(),
        Some(address) => next.replacen("tidemark ", &format!("tidemark --bootstrap {address} "), 1),
        None => next.clone(),
    });
    let text = match format {
        Format::Json => {
            let error = serde_json::json!({
                "error": failure.message,
                "exit": failure.exit as i32,
                "next": next,
            });
            format!("{error}\n")
        }
        Format::Table => {
            let next = next
                .map(|next| format!("next: {next}\n"))
                .unwrap_or_default();
            format!("tidemark: {}\n{next}", failure.message)
        }
    };
    // There is nowhere left to say that standard error is gone.
    drop(std::io::stderr().write_all(text.as_bytes()));
}
