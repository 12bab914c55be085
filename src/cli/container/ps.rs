//! `ferry ps`.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use regex::Regex;
use serde_json::{Value, json};

use super::super::render::human;
use super::super::render::list::{Column, LABEL, Layout};
use super::super::{Global, filter, output};
use super::{containers, prune};
use crate::base::BoxFault;
use crate::runtime::RuntimeError;
use crate::runtime::container::{Container, Containers, State, Status};

/// List containers
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Show all, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: ancestor=IMAGE, before=NAME, exited=CODE, expose=PORT, health=STATUS, id=ID, label=KEY[=VALUE],
    /// name=NAME, network=NAME, publish=PORT, since=NAME, status=STATUS, volume=NAME
    #[arg(short, long, value_name = "FILTER", value_parser = filter::pair)]
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
    /// Show what their own files take
    #[arg(short, long)]
    size: bool,
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
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Size", "SIZE"),
];
const DEFAULT: &str = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

/// Lists.
pub fn run(args: PsArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let sized = format!("{DEFAULT}\t{{{{.Size}}}}");
    let default = if args.size { &sized } else { DEFAULT };
    let layout = Layout::parse_or_quiet(args.format.as_deref(), args.quiet, "ID", default)?;
    let sizes = args.size || args.format.as_deref().is_some_and(|format| format.contains(".Size"));
    let last = if args.latest { Some(1) } else { args.last };
    let by_state = args.filter.iter().any(|filter| filter.starts_with("status=") || filter.starts_with("exited="));
    let mut rows = Vec::new();
    let all = containers(global);
    let edges = edges(&args.filter, &all)?;
    for (dir, container, state) in all.all()? {
        let shown = args.all || last.is_some() || by_state || state.status.is_live();
        if shown && edges.hold(&container) && fits(&args.filter, &container, &state)? {
            let mut row = row(&container, &state, args.no_trunc);
            if sizes {
                let own = prune::size(global, &dir);
                let image = global.store()?.image(&container.image).map_or(0, |image| image.size);
                let virtual_size = human::size(own.saturating_add(image), 3);
                row["Size"] = json!(format!("{} (virtual {virtual_size})", human::size(own, 3)));
            }
            rows.push(row);
        }
    }
    rows.truncate(last.unwrap_or(usize::MAX));
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `before=` and `since=`: made before or after another container.
struct Edges {
    before: Option<String>,
    since: Option<String>,
}

impl Edges {
    fn hold(&self, container: &Container) -> bool {
        self.before.as_ref().is_none_or(|before| container.created < *before)
            && self.since.as_ref().is_none_or(|since| container.created > *since)
    }
}

fn edges(filters: &[String], all: &Containers) -> Result<Edges, RuntimeError> {
    let one = |kind: &str| -> Result<Option<String>, RuntimeError> {
        let name = filters.iter().find_map(|filter| filter.strip_prefix(kind)?.strip_prefix('='));
        name.map(|name| Ok(all.find(name)?.container()?.created)).transpose()
    };
    Ok(Edges { before: one("before")?, since: one("since")? })
}

/// `80`, `80/tcp` or `80-90/udp` as a filter of ports.
fn has_port(mut ports: impl Iterator<Item = String>, wanted: &str) -> bool {
    let (numbers, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (Ok(from), Ok(to)) = (from.parse::<u16>(), to.parse::<u16>()) else { return false };
    ports.any(|port| {
        port.split_once('/').is_some_and(|(number, own)| {
            own == protocol && number.parse::<u16>().is_ok_and(|number| (from..=to).contains(&number))
        })
    })
}

const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

fn fits(filters: &[String], container: &Container, state: &State) -> Result<bool, RuntimeError> {
    let image = container.image.to_string();
    filter::fits(filters, |kind, value| {
        let fits = match kind {
            "status" if !STATES.contains(&value) => return None,
            "status" => state.status.as_str() == value,
            // As docker: a pattern, for the name with or without its slash.
            "name" => {
                let pattern = Regex::new(value).ok()?;
                pattern.is_match(&container.name) || pattern.is_match(&format!("/{}", container.name))
            }
            "before" | "since" => true,
            "health" if !HEALTH.contains(&value) => return None,
            "health" => state.health.as_ref().map_or("none", |health| health.status.as_str()) == value,
            "network" => {
                let mode = &container.host_config.network_mode;
                let own = state.network.iter().flat_map(|network| &network.endpoints);
                mode.bridge().map_or_else(|| mode.to_string(), str::to_owned) == value
                    || container.endpoints.contains_key(value)
                    || own.into_iter().any(|endpoint| endpoint.network_id.starts_with(value))
            }
            "volume" => container.mounts.iter().any(|mount| {
                mount.name == value || mount.destination == value || mount.name.is_empty() && mount.source == value
            }),
            // As docker: of what does not run no port is known.
            "expose" | "publish" if !state.status.has_process() => false,
            "expose" => has_port(container.config.exposed_ports.keys().cloned(), value),
            "publish" => has_port(container.host_config.port_bindings.keys().cloned(), value),
            "id" => container.id.starts_with(value),
            "exited" => {
                let code: i32 = value.parse().ok()?;
                state.status == Status::Exited && state.exit_code == code
            }
            "is-task" => !filter::truth(value)?,
            "ancestor" => container.config.image == value || image == value || image[7..].starts_with(value),
            "label" => filter::has_label(&container.config.labels, value),
            _ => return None,
        };
        Some(fits)
    })
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

/// Docker's list of ports: those that are only exposed and those published under their own number, neighbours as a range, and then
/// the others that are published.
fn ports(container: &Container, state: &State) -> String {
    let published = state.network.as_ref().map(|network| network.ports.as_slice()).unwrap_or_default();
    // Number, address of the host or none, its port, protocol.
    let mut all: Vec<(u16, String, u16, String)> = published
        .iter()
        .map(|port| {
            (port.container.port, port.host_ip.to_string(), port.host_port, port.container.protocol.to_string())
        })
        .collect();
    if state.status.has_process() {
        for name in container.config.exposed_ports.keys() {
            let Some((number, protocol)) = name.split_once('/') else { continue };
            let Ok(number) = number.parse() else { continue };
            if !all.iter().any(|(known, _, _, of)| (*known, of.as_str()) == (number, protocol)) {
                all.push((number, String::new(), 0, protocol.to_owned()));
            }
        }
    }
    all.sort();
    let (mut ranges, mut others) = (Vec::<(String, String, u16, u16)>::new(), Vec::new());
    for (number, ip, host, protocol) in all {
        if !ip.is_empty() && host != number {
            others.push(format!("{ip}:{host}->{number}/{protocol}"));
            continue;
        }
        match ranges.iter_mut().rev().find(|(of, kind, _, _)| (of, kind) == (&ip, &protocol)) {
            Some((_, _, _, last)) if number == last.saturating_add(1) => *last = number,
            _ => ranges.push((ip, protocol, number, number)),
        }
    }
    let range = |(ip, protocol, first, last): &(String, String, u16, u16)| {
        let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match ip.as_str() {
            "" => format!("{numbers}/{protocol}"),
            ip => format!("{ip}:{numbers}->{numbers}/{protocol}"),
        }
    };
    ranges.iter().map(range).chain(others).collect::<Vec<_>>().join(", ")
}

fn row(container: &Container, state: &State, whole: bool) -> Value {
    let quoted = |word: &String| if word.contains(' ') { format!("'{word}'") } else { word.clone() };
    let words: Vec<String> = std::iter::once(container.path.clone()).chain(container.args.iter().map(quoted)).collect();
    let command = words.join(" ");
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
        "Command": format!("{:?}", short(command, 20)),
        "CreatedAt": human::time(time(&container.created)),
        "RunningFor": human::ago(time(&container.created)),
        "Status": status(state),
        "State": state.status.as_str(),
        "Ports": ports(container, state),
        "Names": container.name,
        // One line, whatever an image puts into them.
        "Labels": labels.join(",").replace(char::is_control, "\u{fffd}"),
        "Mounts": mounts.join(","),
        LABEL: container.config.labels,
        "LocalVolumes": container.mounts.iter().filter(|mount| mount.kind == "volume").count().to_string(),
        "Size": "",
        "Networks": network.unwrap_or_else(|| container.host_config.network_mode.to_string()),
    })
}
