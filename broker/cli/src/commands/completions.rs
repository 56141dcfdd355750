//! `tidemark completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// Print a completion script for a shell
///
/// For bash: tidemark completions bash > ~/.local/share/bash-completion/completions/tidemark
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args, context: &mut Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut Arguments::command(),
        "tidemark",
        &mut script,
    );
    context.out.raw(&script)?;
    Ok(Exit::Ok)
}
