//! `ferry logs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::super::{Global, moment, output};
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::runtime::RuntimeError;
use crate::runtime::container::ContainerDir;
use crate::runtime::monitor::log::{Entry, numbered};

/// Show what a container has written
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Show the container's extra attributes as well: ferry's logs have none
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

/// A line of the log is at most a cut line of output, escaped.
const LINE_BYTES: u64 = 256 << 10;

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
    let mut rotated = Vec::new();
    while let Ok(file) = File::open(numbered(&path, rotated.len() as u32 + 1)) {
        rotated.push(file);
    }
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
    for file in rotated.into_iter().rev() {
        let mut reader = BufReader::new(file);
        while let Some(line) = next(&mut reader, &mut String::new(), &path)? {
            show(line)?;
        }
    }
    let mut current = match File::open(&path) {
        Ok(file) => BufReader::new(file),
        Err(_) => return Ok(ExitCode::SUCCESS),
    };
    let mut partial = String::new();
    while let Some(line) = next(&mut current, &mut partial, &path)? {
        show(line)?;
    }
    for line in &last {
        shown.print(line)?;
    }
    if args.follow {
        follow(&dir, current, partial, &shown, global)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn next(reader: &mut impl BufRead, partial: &mut String, path: &Path) -> Result<Option<String>, BoxFault> {
    reader.by_ref().take(LINE_BYTES).read_line(partial).at("read", path)?;
    if partial.ends_with('\n') { Ok(Some(std::mem::take(partial))) } else { Ok(None) }
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
        // Docker has its attributes, of which there are none, between the time and a blank.
        let details = if self.details { " " } else { "" };
        let text = match self.timestamps {
            true => format!("{} {details}{}", entry.time, entry.log),
            false => format!("{details}{}", entry.log),
        };
        if entry.stream == "stderr" {
            use std::io::Write;
            // As docker: each stream to its own.
            let _ = std::io::stderr().write_all(text.as_bytes());
            return Ok(());
        }
        output::print(text)
    }

    /// Whether nothing that comes from now on is to be shown.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| until < Timestamp::now())
    }
}

/// The log file that was begun after the one that is being read: the current one, or one that was rotated already.
fn newer(path: &Path, current: &File) -> Result<Option<File>, BoxFault> {
    use std::os::unix::fs::MetadataExt;
    let inode = |file: &File| file.metadata().map(|meta| meta.ino()).at("read", path);
    let own = inode(current)?;
    let mut newer = None;
    let names = std::iter::once(path.to_owned()).chain((1..).map(|number| numbered(path, number)));
    for (at, name) in names.enumerate() {
        match File::open(&name) {
            Ok(file) if inode(&file)? == own => break,
            Ok(file) => newer = Some(file),
            // Between its rename and the new one's making the current file is not there.
            Err(_) if at == 0 => {}
            Err(_) => break,
        }
    }
    Ok(newer)
}

fn follow(
    dir: &ContainerDir,
    mut reader: BufReader<File>,
    mut partial: String,
    shown: &Show,
    global: &Global,
) -> Result<(), BoxFault> {
    let path = dir.log();
    loop {
        // Asked before the file is read: what the monitor wrote last is there once it is gone.
        let lives = dir.monitor_lives();
        while let Some(line) = next(&mut reader, &mut partial, &path)? {
            shown.print(&line)?;
        }
        // Rotated: the rest is in a newer file, after what was still written to this one.
        if let Some(newer) = newer(&path, reader.get_ref())? {
            while let Some(line) = next(&mut reader, &mut partial, &path)? {
                shown.print(&line)?;
            }
            reader = BufReader::new(newer);
            continue;
        }
        if !lives || shown.is_over() {
            return Ok(());
        }
        global.ctx.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
