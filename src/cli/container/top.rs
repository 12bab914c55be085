//! `ferry top`.

use std::process::ExitCode;

use clap::Args;

use super::super::render::list::align;
use super::super::{Global, output};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::container::Status;
use crate::runtime::start;

/// List a container's processes
#[derive(Debug, Args)]
pub struct TopArgs {
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Lists PID, parent, user and command as the host sees them.
pub fn run(args: TopArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    let container = dir.container()?;
    dir.state()?.require(Status::has_process, "list the processes of", &container.name)?;
    let mut lines = vec!["UID\tPID\tPPID\tCMD".to_owned()];
    for pid in start::cgroup(&container).pids() {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()).unwrap_or("?").to_owned()
        };
        let command = read("cmdline").replace('\0', " ");
        let command = if command.trim().is_empty() { format!("[{}]", field("Name:")) } else { command };
        lines.push(output::clean(&format!("{}\t{pid}\t{}\t{}", field("Uid:"), field("PPid:"), command.trim())));
    }
    output::print(align(&lines))?;
    Ok(ExitCode::SUCCESS)
}
