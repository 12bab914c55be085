//! `ferry ps`.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
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
use crate::image::ImageId;
use crate::runtime::RuntimeError;
use crate::runtime::container::{Container, Containers, State, Status};
use crate::store::Store;

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
    last: Option<i64>,
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
    // As docker: -1 is not given, and none is no limit.
    let last = args.last.filter(|last| *last != -1).or(args.latest.then_some(1));
    let last = last.and_then(|last| usize::try_from(last).ok()).filter(|last| *last > 0);
    let by_state = args.filter.iter().any(|filter| filter.starts_with("status=") || filter.starts_with("exited="));
    let mut rows = Vec::new();
    let all = containers(global);
    let store = global.store()?;
    let chosen = Chosen::of(&args.filter, &all, &store, global)?;
    let mut names = HashMap::new();
    for (dir, container, state) in all.all()? {
        let shown = args.all || last.is_some() || by_state || state.status.is_live();
        if shown && chosen.has(&container, &state) && fits(&args.filter, &container, &state)? {
            let mut row = row(&container, &state, args.no_trunc);
            row["Image"] = json!(image(&container, &store, &mut names, args.no_trunc));
            if sizes {
                let own = prune::size(global, &dir);
                let image = store.image(&container.image).map_or(0, |image| image.size);
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

/// What filters choose by more than a container's own settings.
struct Chosen {
    before: Option<String>,
    since: Option<String>,
    /// One of these, when there are any.
    ports: Vec<Ports>,
    ancestors: Option<BTreeSet<ImageId>>,
}

impl Chosen {
    fn of(filters: &[String], all: &Containers, store: &Store, global: &Global) -> Result<Self, BoxFault> {
        let values = |kind: &str| -> Vec<&str> {
            filters.iter().filter_map(|filter| filter.strip_prefix(kind)?.strip_prefix('=')).collect()
        };
        let made = |kind: &str| -> Result<Option<String>, RuntimeError> {
            values(kind).first().map(|name| Ok(all.find(name)?.container()?.created)).transpose()
        };
        let ports = |kind| values(kind).into_iter().map(move |value| Ports::parse(kind, value));
        let names = values("ancestor");
        Ok(Self {
            before: made("before")?,
            since: made("since")?,
            ports: ports("publish").chain(ports("expose")).collect::<Result<_, _>>()?,
            ancestors: if names.is_empty() { None } else { Some(descendants(&names, store, global)?) },
        })
    }

    fn has(&self, container: &Container, state: &State) -> bool {
        let listed = || ports_of(container, state);
        self.before.as_ref().is_none_or(|before| container.created < *before)
            && self.since.as_ref().is_none_or(|since| container.created > *since)
            && (self.ports.is_empty() || listed().iter().any(|port| self.ports.iter().any(|wanted| wanted.have(port))))
            && self.ancestors.as_ref().is_none_or(|images| images.contains(&container.image))
    }
}

/// These images, and those that were built on them. What is no image is none, as with docker.
///
/// Docker knows whose child an image is when it has built or committed it, and not when it was loaded; the layers tell of all.
fn descendants(names: &[&str], store: &Store, global: &Global) -> Result<BTreeSet<ImageId>, BoxFault> {
    let find = |name: &&str| {
        let by_id = || name.strip_prefix("sha256:").and_then(|id| store.resolve(id).ok());
        store.resolve(name).ok().or_else(by_id)
    };
    let named: Vec<_> = names.iter().filter_map(find).collect();
    let tops: BTreeSet<_> = named.iter().filter_map(|image| image.config.chain_ids().last().copied()).collect();
    let mut found: BTreeSet<ImageId> = named.iter().map(|image| image.id()).collect();
    let all = store.images(&global.quiet())?;
    let above = all.iter().filter(|image| image.config.chain_ids().iter().rev().skip(1).any(|id| tops.contains(id)));
    found.extend(above.map(|image| image.id()));
    loop {
        let child = |image: &&crate::store::StoredImage| {
            !found.contains(&image.id()) && image.parent.as_ref().is_some_and(|parent| found.contains(parent))
        };
        let children: Vec<ImageId> = all.iter().filter(child).map(|image| image.id()).collect();
        if children.is_empty() {
            return Ok(found);
        }
        found.extend(children);
    }
}

/// The name that the container was made of, while that still means its image; its image's ID otherwise. `names` is what the
/// names of other containers were found to mean.
fn image(container: &Container, store: &Store, names: &mut HashMap<String, Option<ImageId>>, whole: bool) -> String {
    let name = &container.config.image;
    let find = || store.resolve(name).ok().map(|image| image.id());
    let meant = names.entry(name.clone()).or_insert_with(find);
    let shown = if meant.as_ref() == Some(&container.image) { name.clone() } else { container.image.to_string() };
    let short = container.image.0.short();
    if whole {
        shown
    } else if shown.strip_prefix("sha256:").unwrap_or(&shown).starts_with(short.as_str()) {
        short
    } else {
        // As docker: a name without its digest.
        shown.split('@').next().unwrap_or_default().to_owned()
    }
}

/// Ports as docker's `publish=` and `expose=` name them: of the host, or of the container (moby `daemon/list.go`).
struct Ports {
    published: bool,
    numbers: RangeInclusive<u16>,
    protocol: String,
}

impl Ports {
    /// `80`, `80/tcp` or `80-90/udp`.
    fn parse(kind: &str, text: &str) -> Result<Self, RuntimeError> {
        if text.contains(':') {
            return Err(RuntimeError::usage(format!("filter for {kind:?} should not contain ':': {text}")));
        }
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
        match (from.parse::<u16>(), to.parse::<u16>()) {
            (Ok(from), Ok(to)) if from <= to => {
                let protocol = if protocol.is_empty() { "tcp" } else { protocol };
                Ok(Self { published: kind == "publish", numbers: from..=to, protocol: protocol.to_owned() })
            }
            _ => Err(RuntimeError::usage(format!(
                "invalid filter \"{kind}={text}\": give PORT[-PORT][/PROTOCOL], the lower port first"
            ))),
        }
    }

    fn have(&self, port: &Port) -> bool {
        let (number, _, host, protocol) = port;
        *protocol == self.protocol && self.numbers.contains(if self.published { host } else { number })
    }
}

const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];
const HEALTH: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

fn fits(filters: &[String], container: &Container, state: &State) -> Result<bool, RuntimeError> {
    filter::fits(filters, |kind, value| {
        let fits = match kind {
            "status" if !STATES.contains(&value) => return None,
            "status" => state.status.as_str() == value,
            // As docker: a pattern, for the name with or without its slash.
            "name" => {
                let pattern = Regex::new(value).ok()?;
                pattern.is_match(&container.name) || pattern.is_match(&format!("/{}", container.name))
            }
            // Known by `Chosen`.
            "before" | "since" | "expose" | "publish" | "ancestor" => true,
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
            "id" => container.id.starts_with(value),
            "exited" => {
                let code: i32 = value.parse().ok()?;
                state.status == Status::Exited && state.exit_code == code
            }
            "is-task" => !filter::truth(value)?,
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

/// A container's port, the host's address or none, its port, the protocol.
type Port = (u16, String, u16, String);

/// The ports that are published and those that are only exposed. As docker: of what does not run none is known.
fn ports_of(container: &Container, state: &State) -> Vec<Port> {
    let published = state.network.as_ref().map(|network| network.ports.as_slice()).unwrap_or_default();
    let mut all: Vec<Port> = published
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
    all
}

/// Docker's list of ports: those that are only exposed and those published under their own number, neighbours as a range, and then
/// the others that are published.
fn ports(container: &Container, state: &State) -> String {
    let mut all = ports_of(container, state);
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
        "Size": "0B",
        "Networks": network.unwrap_or_else(|| container.host_config.network_mode.to_string()),
    })
}
