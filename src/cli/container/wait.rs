//! `ferry wait`.

use std::process::ExitCode;

use clap::Args;

use super::super::{Global, output};
use super::{containers, failed};
use crate::base::BoxFault;
use crate::runtime::lifecycle;

/// Wait until containers end, and print their exit codes
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Waits.
pub fn run(args: WaitArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let all = containers(global);
    let mut code = ExitCode::SUCCESS;
    for name in &args.containers {
        match all.find(name).and_then(|dir| lifecycle::wait(&dir)) {
            Ok(ended) => output::line(ended.to_string())?,
            Err(error) => code = failed(&error),
        }
    }
    Ok(code)
}
