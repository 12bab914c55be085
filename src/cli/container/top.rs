//! `ferry top`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::super::render::list::align;
use super::super::{Global, output};
use super::{containers, processes};
use crate::base::BoxFault;
use crate::runtime::container::Status;
use crate::runtime::{RuntimeError, events};

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
type Column = (&'static str, &'static str);
const COLUMNS: [Column; 30] = [
    ("uid", "UID"),
    ("user", "USER"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("pgid", "PGID"),
    ("sid", "SID"),
    ("c", "C"),
    ("pcpu", "%CPU"),
    ("%cpu", "%CPU"),
    ("pmem", "%MEM"),
    ("%mem", "%MEM"),
    ("f", "F"),
    ("s", "S"),
    ("pri", "PRI"),
    ("ni", "NI"),
    ("sz", "SZ"),
    ("wchan", "WCHAN"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("tt", "TT"),
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
/// What `ps -e` shows, and by a letter for what more.
const PLAIN: &[Column] = &[("pid", "PID"), ("tty", "TTY"), ("time", "TIME"), ("comm", "CMD")];
/// What `ps -ef` shows, as docker does without options.
const FULL: &[Column] = &[
    ("user", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("cmd", "CMD"),
];
/// `ps -elf`.
const LONG_FULL: &[Column] = &[
    ("f", "F"),
    ("s", "S"),
    ("user", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("c", "C"),
    ("old pri", "PRI"),
    ("ni", "NI"),
    ("addr", "ADDR"),
    ("sz", "SZ"),
    ("wchan", "WCHAN"),
    ("stime", "STIME"),
    ("tty", "TTY"),
    ("time", "TIME"),
    ("cmd", "CMD"),
];
/// `ps ax`.
const BSD: &[Column] = &[("pid", "PID"), ("tty", "TTY"), ("stat", "STAT"), ("short time", "TIME"), ("args", "COMMAND")];
/// `ps aux`.
const BSD_USER: &[Column] = &[
    ("user", "USER"),
    ("pid", "PID"),
    ("pcpu", "%CPU"),
    ("pmem", "%MEM"),
    ("vsz", "VSZ"),
    ("rss", "RSS"),
    ("tty", "TTY"),
    ("stat", "STAT"),
    ("stime", "START"),
    ("short time", "TIME"),
    ("args", "COMMAND"),
];
/// `ps axl`.
const BSD_LONG: &[Column] = &[
    ("f", "F"),
    ("uid", "UID"),
    ("pid", "PID"),
    ("ppid", "PPID"),
    ("kernel pri", "PRI"),
    ("ni", "NI"),
    ("vsz", "VSZ"),
    ("rss", "RSS"),
    ("wchan", "WCHAN"),
    ("stat", "STAT"),
    ("tty", "TTY"),
    ("short time", "TIME"),
    ("args", "COMMAND"),
];

/// Lists processes as the host sees them.
pub fn run(args: TopArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let columns = columns(&args.options)?;
    let dir = containers(global).find(&args.container)?;
    let container = dir.container()?;
    let state = dir.state()?;
    state.require(Status::has_process, "list the processes of", &container.name)?;
    events::record(&global.root, &container, "top", &[]);
    let names = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut lines = vec![columns.iter().map(|(_, heading)| *heading).collect::<Vec<_>>().join("\t")];
    for pid in processes::of(&container, state.pid) {
        // It may have ended since.
        if let Some(process) = Process::read(pid) {
            let cells: Vec<String> = columns.iter().map(|(name, _)| process.show(name, &names)).collect();
            lines.push(output::clean(&cells.join("\t")).replace('\n', " "));
        }
    }
    output::print(align(&lines))?;
    Ok(ExitCode::SUCCESS)
}

/// `ps -el`: of `ps -elf` all but the start, with users as numbers and without arguments.
fn long_columns() -> Vec<Column> {
    let short = |column: &Column| match *column {
        ("user", heading) => ("uid", heading),
        ("cmd", heading) => ("comm", heading),
        column => column,
    };
    LONG_FULL.iter().filter(|(name, _)| *name != "stime").map(short).collect()
}

/// The columns that ps's options ask for. Which processes they choose is none of theirs: it is the container's.
fn columns(options: &[String]) -> Result<Vec<Column>, RuntimeError> {
    let mut lists: Vec<String> = Vec::new();
    // Letters without a dash, and those that mean the same with one, are BSD's.
    let (mut bsd, mut user, mut long, mut full) = (false, false, false, false);
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let refused = || {
            RuntimeError::usage(format!(
                "ps option {word:?} is not supported: there are a, e, f, l, u, x and o, with - or without"
            ))
        };
        let dash = word.starts_with('-');
        let mut letters = word.strip_prefix('-').unwrap_or(word).chars();
        if letters.as_str().is_empty() {
            return Err(refused());
        }
        while let Some(letter) = letters.next() {
            match letter {
                'o' => {
                    let rest = letters.as_str();
                    letters = "".chars();
                    let list = if rest.is_empty() { words.next().map(String::as_str) } else { Some(rest) };
                    lists.push(list.ok_or_else(refused)?.to_owned());
                }
                'u' => user = true,
                'x' => bsd = true,
                'l' => (long, bsd) = (true, bsd || !dash),
                'f' if dash => full = true,
                'a' | 'e' | 'f' => bsd |= !dash,
                'A' if dash => {}
                'w' => {}
                _ => return Err(refused()),
            }
        }
    }
    if lists.is_empty() {
        let set = match (options.is_empty(), user, bsd, long, full) {
            (true, ..) => FULL,
            (_, true, ..) => BSD_USER,
            (_, _, true, true, _) => BSD_LONG,
            (_, _, true, ..) => BSD,
            (_, _, _, true, true) => LONG_FULL,
            (_, _, _, true, _) => return Ok(long_columns()),
            (.., true) => FULL,
            _ => PLAIN,
        };
        return Ok(set.to_vec());
    }
    let one = |name: &str| {
        let known = COLUMNS.iter().find(|(known, _)| *known == name).copied();
        known.ok_or_else(|| RuntimeError::usage(format!("unknown column {name:?}")))
    };
    let list = lists.join(",");
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

const TICKS: f64 = processes::TICKS as f64;

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let stat = crate::runtime::stat(pid)?;
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

    /// Its state and ps's marks: `<` and `N` of its priority, `L` with locked memory, `s` a session's first, `l` with threads, `+` in
    /// its terminal's foreground.
    fn state(&self) -> String {
        let marks = [
            ('<', self.number(16) < 0.0),
            ('N', self.number(16) > 0.0),
            ('L', self.field("VmLck") != "0"),
            ('s', self.number(3) == f64::from(self.pid)),
            ('l', self.number(17) > 1.0),
            ('+', self.number(5) == self.number(2)),
        ];
        let marks = marks.iter().filter(|(_, is)| *is).map(|(mark, _)| *mark);
        self.stat.first().into_iter().flat_map(|state| state.chars()).chain(marks).collect()
    }

    fn show(&self, column: &str, names: &str) -> String {
        let busy = (self.number(11) + self.number(12)) / TICKS;
        let percent = busy / self.age.max(0.01) * 100.0;
        match column {
            "uid" => self.field("Uid"),
            "user" => {
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
            "pgid" => self.number(2).to_string(),
            "sid" => self.number(3).to_string(),
            "c" => (percent as u64).min(99).to_string(),
            "pcpu" | "%cpu" => format!("{percent:.1}"),
            "pmem" | "%mem" => {
                let resident = self.field("VmRSS").parse().unwrap_or(0.0);
                format!("{:.1}", (resident * 100.0 / memory().max(1.0)).min(99.9))
            }
            "f" => format!("{:o}", (self.number(6) as u64 >> 6) & 7),
            "s" => self.stat.first().cloned().unwrap_or_default(),
            "old pri" => (60.0 + self.number(15)).to_string(),
            "kernel pri" => self.number(15).to_string(),
            "pri" => (39.0 - self.number(15)).to_string(),
            "ni" => self.number(16).to_string(),
            "addr" => "-".to_owned(),
            "sz" => (self.number(20) as u64 / 4096).to_string(),
            "wchan" => {
                let place = std::fs::read_to_string(format!("/proc/{}/wchan", self.pid)).unwrap_or_default();
                if matches!(place.trim(), "" | "0") { "-".to_owned() } else { place.trim().to_owned() }
            }
            "stime" => started(Timestamp::now(), self.age as i64),
            "tty" | "tt" => match self.number(4) as u32 {
                0 => "?".to_owned(),
                device => format!("pts/{}", (device & 0xff) | ((device >> 12) & 0xfff00)),
            },
            "time" => clock(busy as u64),
            "etime" => clock(self.age as u64).trim_start_matches("00:").to_owned(),
            "short time" => format!("{}:{:02}", busy as u64 / 60, busy as u64 % 60),
            "stat" => self.state(),
            "nlwp" => self.field("Threads"),
            "rss" => self.field("VmRSS"),
            "vsz" => self.field("VmSize"),
            "comm" => self.field("Name"),
            _ if self.command.is_empty() => format!("[{}]", self.field("Name")),
            _ => self.command.clone(),
        }
    }
}

/// The machine's memory in KiB.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    total.unwrap_or(0.0)
}

/// The time of the day, the day for what is older than one, the year for what is older than that.
fn started(now: Timestamp, seconds_ago: i64) -> String {
    let then = now.checked_sub(jiff::SignedDuration::from_secs(seconds_ago)).unwrap_or(now);
    let year = |time: Timestamp| time.strftime("%Y").to_string();
    match seconds_ago {
        ..86_400 => then.strftime("%H:%M").to_string(),
        _ if year(then) == year(now) => then.strftime("%b%d").to_string(),
        _ => year(then),
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
            columns(&words).ok()
        };
        for (words, expected) in [
            (&["-ef"][..], FULL),
            (&[], FULL),
            (&["-e", "-f"], FULL),
            (&["-A"], PLAIN),
            (&["-e"], PLAIN),
            (&["ax"], BSD),
            (&["-ax"], BSD),
            (&["axf"], BSD),
            (&["aux"], BSD_USER),
            (&["-aux"], BSD_USER),
            (&["auxww"], BSD_USER),
            (&["axl"], BSD_LONG),
            (&["-elf"], LONG_FULL),
        ] {
            assert_eq!(of(words).as_deref(), Some(expected), "{words:?}");
        }
        let names = |words: &[&str]| of(words).map(|all| all.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        for words in [
            &["-o", "pid,comm"][..],
            &["-axo", "pid,comm"],
            &["axo", "pid comm"],
            &["-eo", "pid", "-ocomm"],
            &["aux", "o", "pid,comm"],
        ] {
            assert_eq!(names(words).unwrap(), ["pid", "comm"], "{words:?}");
        }
        let headings: Vec<_> = of(&["-el"]).unwrap().into_iter().map(|(_, heading)| heading).collect();
        assert_eq!(headings.join(" "), "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD");
        assert_eq!(names(&["-el"]).unwrap()[2], "uid");
        assert_eq!(names(&["-el"]).unwrap().last(), Some(&"comm"));
        for words in
            [&["-o", "comm"][..], &["-o", "pid,x"], &["-o", "old pri,pid"], &["-Z"], &["-"], &[""], &["F"], &["-o"]]
        {
            assert_eq!(names(words), None, "{words:?}");
        }
    }

    #[test]
    fn a_start_is_told_as_ps_tells_it() {
        let now: Timestamp = "2026-03-02T10:20:30Z".parse().unwrap();
        for (ago, expected) in [(0, "10:20"), (86_399, "10:20"), (90_000, "Mar01"), (100 * 86_400, "2025")] {
            assert_eq!(started(now, ago), expected, "{ago}");
        }
    }

    #[test]
    fn a_process_is_read_from_proc() {
        let own = Process::read(std::process::id() as i32).unwrap();
        for (column, _) in COLUMNS.iter().chain(LONG_FULL).chain(BSD_LONG).chain(BSD_USER) {
            assert!(!own.show(column, "root:x:0:").is_empty(), "{column}");
        }
        assert!(own.show("pmem", "").parse::<f64>().unwrap() <= 99.9);
        assert!(own.show("stat", "").starts_with(['R', 'S']));
    }
}
