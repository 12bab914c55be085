//! `ferry man`, and the command reference of the documentation.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};

use super::{Cli, Global, UsageError, output};
use crate::base::{AtPath, BoxFault, durable};

/// Print a manual page, or write all of them
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The command, as `load` or `network create`; ferry itself without
    command: Vec<String>,
    /// Write all pages to this directory
    #[arg(short, long, value_name = "DIR", conflicts_with = "command")]
    output: Option<PathBuf>,
    /// Print the reference of all commands as Markdown
    #[arg(long, conflicts_with_all = ["command", "output"])]
    markdown: bool,
}

/// Prints or writes.
pub fn run(args: ManArgs, _: &Global) -> Result<ExitCode, BoxFault> {
    let mut all = commands();
    if args.markdown {
        output::print(markdown(all))?;
    } else if let Some(directory) = args.output {
        std::fs::create_dir_all(&directory).at("create", &directory)?;
        for command in all {
            let path = directory.join(format!("{}.1", command.get_name()));
            durable::write(&path, &page(command, &path)?, 0o644)?;
        }
    } else {
        let at = find(&all, &args.command);
        let at = at.ok_or_else(|| UsageError(format!("there is no command {:?}", args.command.join(" "))))?;
        output::print(page(all.swap_remove(at), "standard output".as_ref())?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Which page is of the command that these words begin, by a name of it that is shown.
fn find(all: &[Command], words: &[String]) -> Option<usize> {
    let mut command = all.first()?;
    let mut page = command.get_name().to_owned();
    for word in words {
        command = command.find_subcommand(word)?;
        page += "-";
        page += command.get_name();
    }
    all.iter().position(|command| command.get_name() == page)
}

fn page(command: Command, path: &std::path::Path) -> Result<Vec<u8>, BoxFault> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).at("write", path)?;
    Ok(page)
}

/// ferry and its commands, called as their pages are; those of a group behind it.
fn commands() -> Vec<Command> {
    let mut ferry = Cli::command().term_width(100).disable_help_subcommand(true);
    ferry.build();
    let mut all = vec![ferry.clone()];
    add_below(&ferry, "ferry", &mut all);
    all
}

fn add_below(group: &Command, name: &str, all: &mut Vec<Command>) {
    for command in group.get_subcommands() {
        let words = format!("{name} {}", command.get_name());
        let mut page = command.clone().name(words.replace(' ', "-")).bin_name(&words);
        // They are on ferry's own page.
        for global in ["root", "log_level", "progress"] {
            page = page.mut_arg(global, |arg| arg.hide(true));
        }
        all.push(page);
        add_below(command, &words, all);
    }
}

/// The reference: what `--help` says, command after command; what one says that a shorter one has said is not repeated.
fn markdown(all: Vec<Command>) -> String {
    let mut text = String::from(
        "# Commands\n\nWhat `ferry COMMAND --help` says. This page is made by `ferry man --markdown`; a test holds it to \
         the program.\n",
    );
    let mut pages: Vec<(String, String)> = Vec::new();
    for mut command in all {
        let title = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        pages.push((title, help.join("\n").trim_end().to_owned()));
    }
    for (title, help) in &pages {
        let same = |other: &&(String, String)| {
            other.0.split(' ').count() < title.split(' ').count() && help.replace(title, &other.0) == other.1
        };
        text += &match pages.iter().find(same) {
            Some((other, _)) => format!("\n## {title}\n\nTakes what `{other}` takes.\n"),
            None => format!("\n## {title}\n\n```text\n{help}\n```\n"),
        };
    }
    text
}
