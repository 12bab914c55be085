//! `ferry completion`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Global, output};
use crate::base::BoxFault;

/// Print the completion script of a shell
///
/// For bash: `ferry completion bash > /etc/bash_completion.d/ferry`
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints.
pub fn run(args: CompletionArgs, _: &Global) -> Result<ExitCode, BoxFault> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ferry", &mut script);
    output::print(script)?;
    Ok(ExitCode::SUCCESS)
}
