//! `ferry logs`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::super::{Global, output};
use super::containers;
use crate::base::{AtPath, BoxFault};
use crate::runtime::RuntimeError;
use crate::runtime::container::ContainerDir;
use crate::runtime::monitor::log::{Entry, numbered};

/// Show what a container has written
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on with what it writes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "NUMBER|all", default_value = "all")]
    tail: String,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
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
    let tail = match args.tail.as_str() {
        "all" | "-1" => None,
        number => Some(number.parse::<usize>().map_err(|_| RuntimeError::usage("--tail takes a number or all"))?),
    };
    let path = dir.log();
    // Rotated files first, the oldest at the top.
    let mut rotated = Vec::new();
    while let Ok(file) = File::open(numbered(&path, rotated.len() as u32 + 1)) {
        rotated.push(file);
    }
    let mut last: VecDeque<String> = VecDeque::new();
    let mut show = |line: String| -> Result<(), BoxFault> {
        match tail {
            None => print(&line, args.timestamps),
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
        print(line, args.timestamps)?;
    }
    if args.follow {
        follow(&dir, current, partial, args.timestamps, global)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn next(reader: &mut impl BufRead, partial: &mut String, path: &std::path::Path) -> Result<Option<String>, BoxFault> {
    reader.by_ref().take(LINE_BYTES).read_line(partial).at("read", path)?;
    if partial.ends_with('\n') { Ok(Some(std::mem::take(partial))) } else { Ok(None) }
}

fn print(line: &str, timestamps: bool) -> Result<(), BoxFault> {
    let Ok(entry) = serde_json::from_str::<Entry<'_>>(line) else { return Ok(()) };
    let text = if timestamps { format!("{} {}", entry.time, entry.log) } else { entry.log.into_owned() };
    if entry.stream == "stderr" {
        use std::io::Write;
        // As docker: each stream to its own.
        let _ = std::io::stderr().write_all(text.as_bytes());
        return Ok(());
    }
    output::print(text)
}

fn follow(
    dir: &ContainerDir,
    mut reader: BufReader<File>,
    mut partial: String,
    timestamps: bool,
    global: &Global,
) -> Result<(), BoxFault> {
    use std::os::unix::fs::MetadataExt;
    let path = dir.log();
    loop {
        // Asked before the file is read: what the monitor wrote last is there once it is gone.
        let lives = dir.monitor_lives();
        while let Some(line) = next(&mut reader, &mut partial, &path)? {
            print(&line, timestamps)?;
        }
        let own = reader.get_ref().metadata().at("read", &path)?.ino();
        match std::fs::metadata(&path) {
            // Rotated: the rest is in a new file.
            Ok(meta) if meta.ino() != own => {
                reader = BufReader::new(File::open(&path).at("open", &path)?);
                continue;
            }
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        if !lives {
            return Ok(());
        }
        global.ctx.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
}
