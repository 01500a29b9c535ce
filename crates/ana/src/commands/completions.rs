use clap::CommandFactory;

use super::Arguments;
use crate::failure::Failure;
use crate::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "ana", &mut script);
    output::data(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
