//! `ferry volume`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::container::failed;
use super::inspect::show;
use super::render::human;
use super::render::list::{Column, Layout};
use super::{Global, filter, output};
use crate::base::{BoxFault, Fault};
use crate::runtime::RuntimeError;
use crate::runtime::create::random_id;
use crate::runtime::events;
use crate::runtime::volumes::{self, Volume};
use crate::store::usage::file_bytes;

/// Manage volumes
#[derive(Debug, Args)]
pub struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    Create(CreateArgs),
    Inspect(InspectArgs),
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Prune(PruneArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

/// Create a volume
#[derive(Debug, Args)]
struct CreateArgs {
    /// The driver: local is the one there is
    #[arg(short, long, value_name = "DRIVER", default_value = "local", value_parser = ["local"])]
    driver: String,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Its name, as before the argument
    #[arg(long = "name", value_name = "NAME", hide = true)]
    old_name: Option<String>,
    /// What is mounted there: type=none,o=bind,device=DIR; type=tmpfs,device=tmpfs; type=nfs,o=addr=SERVER,device=:PATH;
    /// each in an --opt of its own
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Its name; made up if there is none
    name: Option<String>,
}

/// Show all there is to know about volumes
#[derive(Debug, Args)]
struct InspectArgs {
    /// Format the output with a Go template, or as `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// List volumes
#[derive(Debug, Args)]
struct LsArgs {
    /// Only those that fit: dangling=BOOL, driver=local, label=KEY[=VALUE], name=PART
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
}

/// Remove volumes that no container uses and nobody named
#[derive(Debug, Args)]
struct PruneArgs {
    /// Those with names too
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: label=KEY[=VALUE]
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Remove volumes
#[derive(Debug, Args)]
struct RmArgs {
    /// What is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// Runs one of the subcommands.
pub fn run(args: VolumeArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let root = std::path::absolute(&global.root).unwrap_or_else(|_| global.root.clone());
    match args.command {
        VolumeCommand::Create(args) => create(args, &root, global),
        VolumeCommand::Inspect(args) => inspect(&args, &root),
        VolumeCommand::Ls(args) => ls(&args, &root),
        VolumeCommand::Prune(args) => prune(&args, &root),
        VolumeCommand::Rm(args) => rm(&args, &root),
    }
}

fn create(args: CreateArgs, root: &Path, global: &Global) -> Result<ExitCode, BoxFault> {
    let named = args.name.or(args.old_name).filter(|name| !name.is_empty());
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    let pairs = |texts: &[String]| texts.iter().map(pair).collect::<BTreeMap<_, _>>();
    global.store_to_write()?;
    let mut labels = pairs(&args.label);
    let name = match named {
        Some(name) => name,
        None => {
            labels.insert(volumes::ANONYMOUS.to_owned(), String::new());
            random_id()?
        }
    };
    volumes::create(root, &name, labels, pairs(&args.opt))?;
    output::line(name)?;
    Ok(ExitCode::SUCCESS)
}

/// Docker's document.
pub fn document(volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": Some(&volume.options).filter(|options| !options.is_empty()),
        "Scope": "local",
    })
}

fn inspect(args: &InspectArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    let find = |name: &str| Ok(document(&volumes::find(root, name)?));
    show(&args.volumes, args.format.as_deref(), find, failed)
}

const COLUMNS: &[Column] = &[
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
];

fn ls(args: &LsArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    let layout = Layout::parse_or_quiet(args.format.as_deref(), args.quiet, "Name", "{{.Driver}}\t{{.Name}}")?;
    let mut rows = Vec::new();
    for volume in volumes::list(root)? {
        if !fits(&args.filter, &volume, root)? {
            continue;
        }
        let labels: Vec<String> = volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push(json!({
            "Driver": "local",
            "Name": volume.name,
            "Scope": "local",
            "Mountpoint": volume.mountpoint,
            "Labels": labels.join(","),
        }));
    }
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn fits(filters: &[String], volume: &Volume, root: &Path) -> Result<bool, RuntimeError> {
    // Containers are looked into only where a filter asks for them.
    let users = || volumes::users(root, &volume.name);
    let dangling =
        if filters.iter().any(|filter| filter.starts_with("dangling=")) { users()?.is_empty() } else { true };
    filter::fits(filters, |kind, value| match kind {
        "dangling" => filter::truth(value).map(|wanted| wanted == dangling),
        "driver" => Some(value == "local"),
        "name" => Some(volume.name.contains(value)),
        "label" => Some(filter::has_label(&volume.labels, value)),
        "label!" => Some(!filter::has_label(&volume.labels, value)),
        _ => None,
    })
}

fn prune(args: &PruneArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    let mut filters = args.filter.clone();
    // Docker has it as a filter as well.
    let all = args.all || filters.iter().any(|filter| matches!(filter.as_str(), "all=true" | "all=1"));
    filters.retain(|filter| !filter.starts_with("all="));
    let what = if all { "all local volumes" } else { "anonymous local volumes" };
    if !args.force && !super::prune::sure(&format!("{what} not used by at least one container"))? {
        return Ok(ExitCode::SUCCESS);
    }
    let (mut removed, mut freed, mut code) = (Vec::new(), 0, ExitCode::SUCCESS);
    for volume in volumes::list(root)? {
        let named = !volume.labels.contains_key(volumes::ANONYMOUS);
        if named && !all || !fits(&filters, &volume, root)? || !volumes::users(root, &volume.name)?.is_empty() {
            continue;
        }
        let size = file_bytes(&volume.mountpoint).unwrap_or(0);
        match volumes::remove(root, &volume.name) {
            Ok(()) => {
                freed += size;
                removed.push(volume.name);
            }
            Err(error) => code = failed(&error),
        }
    }
    events::record_prune(root, "volume", freed);
    if !removed.is_empty() {
        output::print(format!("Deleted Volumes:\n{}\n\n", removed.join("\n")))?;
    }
    output::line(format!("Total reclaimed space: {}", human::size(freed, 4)))?;
    Ok(code)
}

/// Removes all that no container uses and nobody named.
pub fn prune_unasked(filter: Vec<String>, global: &Global) -> Result<ExitCode, BoxFault> {
    prune(&PruneArgs { all: false, filter, force: true }, &global.root)
}

fn rm(args: &RmArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    let mut code = ExitCode::SUCCESS;
    for name in &args.volumes {
        match volumes::remove(root, name) {
            Ok(()) => output::line(name)?,
            Err(error) if args.force && error.class() == crate::base::Class::NotFound => output::line(name)?,
            Err(error) => code = failed(&error),
        }
    }
    Ok(code)
}
