//! `ferry ps`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::render::human;
use super::super::render::list::{Column, Layout};
use super::super::{Global, output};
use super::containers;
use crate::base::BoxFault;
use crate::runtime::RuntimeError;
use crate::runtime::container::{Container, State, Status};

/// List containers
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Show all, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: status=, name=, id=, label=KEY[=VALUE], ancestor=IMAGE, exited=CODE
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show the last ones made, in any state
    #[arg(short = 'n', long, value_name = "NUMBER")]
    last: Option<usize>,
    /// Show the last one made
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
];
const DEFAULT: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// Lists.
pub fn run(args: PsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let default = if args.quiet { "{{.ID}}" } else { DEFAULT };
    let layout = Layout::parse(args.format.as_deref(), default)?;
    let last = if args.latest { Some(1) } else { args.last };
    let by_state = args.filter.iter().any(|filter| filter.starts_with("status=") || filter.starts_with("exited="));
    let mut rows = Vec::new();
    for (_, container, state) in containers(global).all()? {
        let shown = args.all || last.is_some() || by_state || state.status.is_live();
        if shown && fits(&args.filter, &container, &state)? {
            rows.push(row(&container, &state, args.no_trunc));
        }
    }
    rows.truncate(last.unwrap_or(usize::MAX));
    if args.quiet && args.format.is_none() {
        for row in &rows {
            output::line(row.get("ID").and_then(Value::as_str).unwrap_or_default())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn fits(filters: &[String], container: &Container, state: &State) -> Result<bool, RuntimeError> {
    // Filters of one kind are alternatives, kinds go together, as docker has it.
    let mut kinds: Vec<(&str, bool)> = Vec::new();
    for filter in filters {
        let bad = || RuntimeError::usage(format!("invalid filter {filter:?}"));
        let (kind, value) = filter.split_once('=').ok_or_else(bad)?;
        let image = container.image.to_string();
        let fits = match kind {
            "status" => state.status.as_str() == value,
            "name" => container.name.contains(value.trim_start_matches(['/', '^']).trim_end_matches('$')),
            "id" => container.id.starts_with(value),
            "exited" => state.status == Status::Exited && value.parse() == Ok(state.exit_code),
            "ancestor" => container.config.image == value || image == value || image[7..].starts_with(value),
            "label" => match value.split_once('=') {
                Some((key, value)) => container.config.labels.get(key).is_some_and(|found| found == value),
                None => container.config.labels.contains_key(value),
            },
            _ => return Err(bad()),
        };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, any)) => *any |= fits,
            None => kinds.push((kind, fits)),
        }
    }
    Ok(kinds.into_iter().all(|(_, fits)| fits))
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Docker's words for a state.
pub fn status(state: &State) -> String {
    let up = time(&state.started_at).map(|at| human::duration(Timestamp::now().duration_since(at).as_secs()));
    let up = up.unwrap_or_default();
    let health = match state.health.as_ref().map(|health| health.status.as_str()) {
        Some("starting") => " (health: starting)".to_owned(),
        Some(status @ ("healthy" | "unhealthy")) => format!(" ({status})"),
        _ => String::new(),
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {up}{health}"),
        Status::Paused => format!("Up {up} (Paused)"),
        Status::Restarting => {
            format!("Restarting ({}) {}", state.exit_code, human::ago(time(&state.finished_at)))
        }
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!("Exited ({}) {}", state.exit_code, human::ago(time(&state.finished_at))),
        Status::Dead => "Dead".to_owned(),
    }
}

/// Docker's list of ports, the published ones with where they are.
fn ports(container: &Container, state: &State) -> String {
    let published = state.network.as_ref().map(|network| network.ports.as_slice()).unwrap_or_default();
    let mut all: Vec<String> = Vec::new();
    for port in published {
        let ip = if port.host_ip.is_ipv6() { format!("[{}]", port.host_ip) } else { port.host_ip.to_string() };
        all.push(format!("{ip}:{}->{}", port.host_port, port.container));
    }
    if state.status.has_process() {
        let known = |name: &String| published.iter().any(|port| port.container.to_string() == *name);
        all.extend(container.config.exposed_ports.keys().filter(|name| !known(name)).cloned());
    }
    all.join(", ")
}

fn row(container: &Container, state: &State, whole: bool) -> Value {
    let command = container.command().join(" ");
    let short = |text: String, most: usize| {
        if whole || text.chars().count() <= most {
            return text;
        }
        text.chars().take(most - 1).chain(['…']).collect()
    };
    let labels: Vec<String> = container.config.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mounts: Vec<&str> = container
        .mounts
        .iter()
        .map(|mount| if mount.name.is_empty() { mount.source.as_str() } else { mount.name.as_str() })
        .collect();
    let network = container.host_config.network_mode.bridge().map(str::to_owned);
    json!({
        "ID": if whole { container.id.as_str() } else { container.short_id() },
        "Image": container.config.image,
        "Command": format!("\"{}\"", short(command, 20)),
        "CreatedAt": human::time(time(&container.created)),
        "RunningFor": human::ago(time(&container.created)),
        "Status": status(state),
        "State": state.status.as_str(),
        "Ports": ports(container, state),
        "Names": container.name,
        "Labels": labels.join(","),
        "Mounts": mounts.join(","),
        "Networks": network.unwrap_or_else(|| container.host_config.network_mode.to_string()),
    })
}
