//! `ferry stats`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::super::render::human;
use super::super::render::list::{Column, Layout};
use super::super::{Global, output};
use super::{containers, processes};
use crate::base::BoxFault;
use crate::runtime::container::{Container, ContainerDir};
use crate::runtime::usage::{self, Usage};

/// Show what containers use, over and over
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Show all, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show once, and end
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Names or IDs; all that run otherwise
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];
const DEFAULT: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
/// Processor time is measured between two looks.
const FIRST: Duration = Duration::from_millis(250);
const INTERVAL: Duration = Duration::from_secs(1);

struct Row {
    /// As it was asked for.
    name: String,
    container: Container,
    cpu: Option<f64>,
    usage: Option<Usage>,
}

/// Shows until interrupted, or once.
pub fn run(args: StatsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let layout = Layout::parse(args.format.as_deref(), DEFAULT)?;
    let mut before: HashMap<String, (Instant, u64)> = HashMap::new();
    // The first look is only there for the second to compare with.
    look(&args, global, &mut before)?;
    let mut pause = FIRST;
    loop {
        std::thread::sleep(pause);
        pause = INTERVAL;
        global.ctx.check()?;
        let rows: Vec<Value> = look(&args, global, &mut before)?.iter().map(|row| show(row, args.no_trunc)).collect();
        let text = layout.render(COLUMNS, &rows)?;
        if args.no_stream {
            output::print(text)?;
            return Ok(ExitCode::SUCCESS);
        }
        // As docker: each look takes the place of the last.
        output::print(format!("\u{1b}[2J\u{1b}[H{text}"))?;
    }
}

fn look(args: &StatsArgs, global: &Global, before: &mut HashMap<String, (Instant, u64)>) -> Result<Vec<Row>, BoxFault> {
    let all = containers(global);
    let mut rows = Vec::new();
    let mut take = |dir: ContainerDir, container: Container, name: Option<&String>| {
        let mut usage = usage::of(&dir, &container);
        if let (Some(usage), Ok(state)) = (&mut usage, dir.state()) {
            processes::count(&container, state.pid, usage);
        }
        let now = Instant::now();
        let last = usage.and_then(|usage| before.insert(dir.id().to_owned(), (now, usage.group.cpu_ns)));
        let cpu = last.zip(usage).map(|((then, ns), usage)| {
            let wall = now.duration_since(then).as_nanos().max(1) as f64;
            usage.group.cpu_ns.saturating_sub(ns) as f64 / wall * 100.0
        });
        let name = name.cloned().unwrap_or_else(|| container.short_id().to_owned());
        rows.push(Row { name, container, cpu, usage });
    };
    if args.containers.is_empty() {
        for (dir, container, state) in all.all()? {
            if args.all || state.status.has_process() {
                take(dir, container, None);
            }
        }
        return Ok(rows);
    }
    for name in &args.containers {
        let dir = all.find(name)?;
        let container = dir.container()?;
        take(dir, container, Some(name));
    }
    Ok(rows)
}

fn show(row: &Row, whole: bool) -> Value {
    let percent = |value: f64| format!("{value:.2}%");
    let pair = |a: String, b: String| format!("{a} / {b}");
    let id = if whole { row.container.id.as_str() } else { row.container.short_id() };
    // As docker: what does not run uses nothing.
    let u = row.usage.unwrap_or_default();
    let decimal = |bytes: u64| human::size(bytes, 3);
    json!({
        "Container": row.name,
        "ID": id,
        "Name": row.container.name,
        "CPUPerc": percent(row.cpu.unwrap_or_default()),
        "MemUsage": pair(human::binary(u.group.memory), human::binary(u.limit)),
        "MemPerc": percent(u.group.memory as f64 / u.limit.max(1) as f64 * 100.0),
        "NetIO": pair(decimal(u.received), decimal(u.sent)),
        "BlockIO": pair(decimal(u.group.read), decimal(u.group.written)),
        "PIDs": u.group.pids.to_string(),
    })
}
