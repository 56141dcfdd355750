//! `tidemark doctor`
use crate::context::Context;
use crate::failure::{Exit, Failure};
/// Look for what is wrong, say why, and what to type next
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Runs the command.
pub async fn run(_args: Args, _context: &mut Context) -> Result<Exit, Failure> {
    Ok(Exit::Ok)
}
