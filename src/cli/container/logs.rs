//! `ferry logs`.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::super::render::functions::urlquery;
use super::super::{Global, moment, output};
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::runtime::RuntimeError;
use crate::runtime::container::ContainerDir;
use crate::runtime::monitor::log::Entry;
use crate::runtime::monitor::log_files::{self, LogFile};

/// Show what a container has written
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Show what --log-opt labels, env and tag add to each line
    #[arg(long)]
    details: bool,
    /// Go on with what it writes
    #[arg(short, long)]
    follow: bool,
    /// Only what was written since then
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "NUMBER|all", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was written until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// How lines are shown, and which.
struct Show {
    timestamps: bool,
    details: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// Shows.
pub fn run(args: LogsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    let container = dir.container()?;
    if container.host_config.log_config.kind == "none" {
        return Err(RuntimeError::Unsupported("the container keeps no log (its log driver is none)".into()).into());
    }
    // As docker: what is no number is all.
    let tail = args.tail.parse::<usize>().ok();
    let time = |text: &Option<String>| text.as_deref().map(moment::parse).transpose().map_err(RuntimeError::Usage);
    let (since, until) = (time(&args.since)?, time(&args.until)?);
    let shown = Show { timestamps: args.timestamps, details: args.details, since, until };
    let path = dir.log();
    // Rotated files first, the oldest at the top.
    let rotated: Vec<LogFile> = (1..).map_while(|number| log_files::open(&path, number).ok()).collect();
    let mut last: VecDeque<String> = VecDeque::new();
    let mut show = |line: String| -> Result<(), BoxFault> {
        match tail {
            None => shown.print(&line),
            Some(_) if !shown.fits(&line) => Ok(()),
            Some(most) => {
                last.push_back(line);
                if last.len() > most {
                    last.pop_front();
                }
                Ok(())
            }
        }
    };
    for mut file in rotated.into_iter().rev() {
        while let Some(line) = file.next_line().at("read", &path)? {
            show(line)?;
        }
    }
    let Ok(mut current) = log_files::open(&path, 0) else { return Ok(ExitCode::SUCCESS) };
    while let Some(line) = current.next_line().at("read", &path)? {
        show(line)?;
    }
    for line in &last {
        shown.print(line)?;
    }
    if args.follow {
        follow(&dir, current, &shown, global)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Show {
    fn fits(&self, line: &str) -> bool {
        let Ok(entry) = serde_json::from_str::<Entry<'_>>(line) else { return false };
        let time = || entry.time.parse::<Timestamp>().ok();
        self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
            && self.until.is_none_or(|until| time().is_some_and(|time| time <= until))
    }

    fn print(&self, line: &str) -> Result<(), BoxFault> {
        let Ok(entry) = serde_json::from_str::<Entry<'_>>(line) else { return Ok(()) };
        if !self.fits(line) {
            return Ok(());
        }
        // As docker: between the time and a blank.
        let details = if self.details { attributes(&entry.attrs) + " " } else { String::new() };
        let text = match self.timestamps {
            true => format!("{} {details}{}", entry.time, entry.log),
            false => format!("{details}{}", entry.log),
        };
        if entry.stream != "stderr" {
            return output::print(text);
        }
        // As docker: each stream to its own.
        match io::stderr().write_all(text.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(128 + libc::SIGPIPE),
            _ => Ok(()),
        }
    }

    /// Whether nothing that comes from now on is to be shown.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until < Timestamp::now())
    }
}

/// `KEY=VALUE,KEY=VALUE` as docker has it, each word such that it could stand in a URL.
fn attributes(all: &BTreeMap<String, String>) -> String {
    let pairs = all.iter().map(|(key, value)| format!("{}={}", urlquery(key), urlquery(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn follow(dir: &ContainerDir, mut current: LogFile, shown: &Show, global: &Global) -> Result<(), BoxFault> {
    let path = dir.log();
    let show = |file: &mut LogFile| -> Result<(), BoxFault> {
        while let Some(line) = file.next_line().at("read", &path)? {
            shown.print(&line)?;
        }
        Ok(())
    };
    loop {
        // Asked before the file is read: what the monitor wrote last is there once it is gone.
        let lives = dir.monitor_lives();
        show(&mut current)?;
        // Rotated: the rest is in newer files, after what was still written to this one.
        let newer = log_files::newer(&path, &current).at("read", &path)?;
        if !newer.is_empty() {
            for file in newer {
                show(&mut current)?;
                current = file;
            }
            continue;
        }
        if !lives || shown.is_over() {
            return Ok(());
        }
        global.ctx.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
