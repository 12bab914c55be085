//! `ferry man`, and the command reference of the documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};

use super::{Cli, Global, UsageError, output};
use crate::base::{AtPath, BoxFault, durable};

/// Print a manual page, or write all of them
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command; ferry itself without
    command: Option<String>,
    /// Write all pages to this directory
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
    /// Print the reference of all commands as Markdown
    #[arg(long, conflicts_with_all = ["command", "output"])]
    markdown: bool,
}

/// Prints or writes.
pub fn run(args: ManArgs, _: &Global) -> Result<ExitCode, BoxFault> {
    let all = commands();
    if args.markdown {
        output::print(markdown(all))?;
    } else if let Some(directory) = args.output {
        std::fs::create_dir_all(&directory).at("create", &directory)?;
        for command in all {
            let path = directory.join(format!("{}.1", command.get_name()));
            durable::write(&path, &page(command, &path)?, 0o644)?;
        }
    } else {
        let name = args.command.map_or_else(|| "ferry".into(), |name| format!("ferry-{name}"));
        let command = all.into_iter().find(|command| command.get_name() == name);
        let command = command.ok_or_else(|| UsageError(format!("there is no command {:?}", name)))?;
        output::print(page(command, "standard output".as_ref())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn page(command: Command, path: &std::path::Path) -> Result<Vec<u8>, BoxFault> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).at("write", path)?;
    Ok(page)
}

/// ferry and its commands, called as their pages are.
fn commands() -> Vec<Command> {
    let mut ferry = Cli::command().term_width(100).disable_help_subcommand(true);
    ferry.build();
    let mut all = vec![ferry.clone()];
    for command in ferry.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("ferry-{}", command.get_name());
        let mut page = command.clone().name(name).bin_name(format!("ferry {}", command.get_name()));
        // They are on ferry's own page.
        for global in ["root", "log_level", "progress"] {
            page = page.mut_arg(global, |arg| arg.hide(true));
        }
        all.push(page);
    }
    all
}

/// The reference: what `--help` says, command after command.
fn markdown(all: Vec<Command>) -> String {
    let mut text = String::from(
        "# Commands\n\nWhat `ferry COMMAND --help` says. This page is made by `ferry man --markdown`; a test holds it to \
         the program.\n",
    );
    for mut command in all {
        let title = command.get_name().replacen('-', " ", 1);
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        text += &format!("\n## {title}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    }
    text
}
