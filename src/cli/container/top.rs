//! `ferry top`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::super::render::list::align;
use super::super::{Global, output};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::container::Status;
use crate::runtime::{RuntimeError, events, start};

/// List a container's processes
#[derive(Debug, Args)]
pub struct TopArgs {
    /// A name or an ID
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Columns as ps takes them: -o pid,comm
    #[arg(value_name = "PS OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// A column: ps's name for it and its heading.
const COLUMNS: [(&str, &str); 18] = [
    ("uid", "UID"),
    ("user", "USER"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("pcpu", "%CPU"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("etime", "ELAPSED"),
    ("stat", "STAT"),
    ("nlwp", "NLWP"),
    ("rss", "RSS"),
    ("vsz", "VSZ"),
    ("comm", "COMMAND"),
    ("args", "COMMAND"),
    ("cmd", "CMD"),
    ("command", "COMMAND"),
];
/// What `ps -ef` shows, as docker does.
const FULL: [&str; 8] = ["uid", "pid", "ppid", "c", "stime", "tty", "time", "cmd"];

/// Lists processes as the host sees them.
pub fn run(args: TopArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let columns = columns(&args.options)?;
    let dir = containers(global).find(&args.container)?;
    let container = dir.container()?;
    dir.state()?.require(Status::has_process, "list the processes of", &container.name)?;
    events::record(&global.root, &container, "top", &[]);
    let names = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = vec![columns.iter().map(|(_, heading)| *heading).collect::<Vec<_>>().join("\t")];
    for pid in start::cgroup(&container).pids() {
        // It may have ended since.
        if let Some(process) = Process::read(pid) {
            let cells: Vec<String> = columns.iter().map(|(name, _)| process.show(name, &names)).collect();
            lines.push(output::clean(&cells.join("\t")).replace('\n', " "));
        }
    }
    output::print(align(&lines))?;
    Ok(ExitCode::SUCCESS)
}

fn columns(options: &[String]) -> Result<Vec<(&'static str, &'static str)>, RuntimeError> {
    let known = |name: &str| COLUMNS.iter().find(|(known, _)| *known == name).copied();
    let mut wanted: Vec<String> = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word.strip_prefix("-o").or_else(|| word.strip_prefix('o')) {
            Some("") => wanted.extend(words.next().cloned()),
            Some(list) => wanted.push(list.to_owned()),
            None if matches!(word.as_str(), "-e" | "-f" | "-ef" | "-A" | "ax" | "-eo") => {
                if word == "-eo" {
                    wanted.extend(words.next().cloned());
                }
            }
            None => {
                return Err(RuntimeError::usage(format!("ps option {word:?} is not supported: there are -ef and -o")));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(FULL.iter().filter_map(|name| known(name)).collect());
    }
    let list = wanted.join(",");
    let one = |name: &str| known(name).ok_or_else(|| RuntimeError::usage(format!("unknown column {name:?}")));
    let columns = list.split([',', ' ']).filter(|name| !name.is_empty()).map(one).collect::<Result<Vec<_>, _>>()?;
    if columns.iter().any(|(name, _)| *name == "pid") {
        Ok(columns)
    } else {
        // Docker has to find the processes by it.
        Err(RuntimeError::usage("the column pid must be among them"))
    }
}

/// What `/proc` says of one process.
struct Process {
    pid: i32,
    status: String,
    command: String,
    /// The fields of `stat` after the name.
    stat: Vec<String>,
    /// Since its start, in seconds.
    age: f64,
}

/// The kernel's clock ticks a second, as it shows them to programs.
const TICKS: f64 = 100.0;

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let stat = read("stat")?;
        let stat: Vec<String> = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect();
        let uptime = std::fs::read_to_string("/proc/uptime").ok()?;
        let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
        let started: f64 = stat.get(19)?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
        Some(Self { pid, status: read("status")?, command, stat, age: (uptime - started / TICKS).max(0.0) })
    }

    fn field(&self, name: &str) -> String {
        let line = self.status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").to_owned()
    }

    fn number(&self, at: usize) -> f64 {
        self.stat.get(at).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }

    fn show(&self, column: &str, names: &str) -> String {
        let busy = (self.number(11) + self.number(12)) / TICKS;
        let percent = busy / self.age.max(0.01) * 100.0;
        match column {
            "uid" | "user" => {
                let uid = self.field("Uid");
                let name = names.lines().find_map(|line| {
                    let mut fields = line.split(':');
                    let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
                    (number == uid).then(|| name.to_owned())
                });
                name.unwrap_or(uid)
            }
            "pid" => self.pid.to_string(),
            "ppid" => self.field("PPid"),
            "c" => (percent as u64).min(99).to_string(),
            "pcpu" => format!("{percent:.1}"),
            "stime" => {
                let started = Timestamp::now() - jiff::SignedDuration::from_secs(self.age as i64);
                started.strftime("%H:%M").to_string()
            }
            "tty" => match self.number(4) as u32 {
                0 => "?".to_owned(),
                device => format!("pts/{}", (device & 0xff) | ((device >> 12) & 0xfff00)),
            },
            "time" => clock(busy as u64),
            "etime" => clock(self.age as u64).trim_start_matches("00:").to_owned(),
            "stat" => self.stat.first().cloned().unwrap_or_default(),
            "nlwp" => self.field("Threads"),
            "rss" => self.field("VmRSS"),
            "vsz" => self.field("VmSize"),
            "comm" => self.field("Name"),
            _ if self.command.is_empty() => format!("[{}]", self.field("Name")),
            _ => self.command.clone(),
        }
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_ps() {
        let of = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            columns(&words).ok().map(|all| all.into_iter().map(|(name, _)| name).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]).unwrap(), FULL);
        assert_eq!(of(&["-ef"]).unwrap(), FULL);
        assert_eq!(of(&["-o", "pid,comm"]).unwrap(), ["pid", "comm"]);
        assert_eq!(of(&["-opid"]).unwrap(), ["pid"]);
        assert_eq!((of(&["-o", "comm"]), of(&["-o", "pid,x"]), of(&["-Z"])), (None, None, None));
    }
}
