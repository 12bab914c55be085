//! `ferry network`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::container::{containers, failed};
use super::filter::PruneFilter;
use super::inspect::show;
use super::render::human;
use super::render::list::{Column, Layout};
use super::{Global, filter, output};
use crate::base::BoxFault;
use crate::runtime::cgroup::in_user_namespace;
use crate::runtime::container::Containers;
use crate::runtime::inspect::NEVER;
use crate::runtime::net::{DEFAULT, EndpointRequest, NetError, Network, NetworkSettings, Networks, Subnet};
use crate::runtime::network::{fixed_id, networks, note_network};
use crate::runtime::{self, RuntimeError, events};

/// Manage networks
#[derive(Debug, Args)]
pub struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    Connect(ConnectArgs),
    Create(CreateArgs),
    Disconnect(DisconnectArgs),
    Inspect(InspectArgs),
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Prune(PruneArgs),
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

/// Create a network in which containers find each other by name
#[derive(Debug, Args)]
struct CreateArgs {
    /// Its name
    name: String,
    /// The driver: bridge is the one there is
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge", value_parser = ["bridge"])]
    driver: String,
    /// Its addresses, as 172.20.0.0/16 [default: a free subnet of the pool]
    #[arg(long, value_name = "SUBNET")]
    subnet: Option<Subnet>,
    /// The host's address in it [default: the first]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Option<Ipv4Addr>,
    /// The part of the subnet from which containers get their addresses
    #[arg(long, value_name = "SUBNET")]
    ip_range: Option<Subnet>,
    /// Keep its containers from everything but each other
    #[arg(long)]
    internal: bool,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Set a driver option: com.docker.network.driver.mtu=BYTES
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
}

/// Connect a container to a network, also while it runs
#[derive(Debug, Args)]
struct ConnectArgs {
    /// More names it is known by there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// The address it gets
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// A name or an ID
    network: String,
    /// A name or an ID
    container: String,
}

/// Disconnect a container from a network, also while it runs
#[derive(Debug, Args)]
struct DisconnectArgs {
    /// Also when the container is not there any more
    #[arg(short, long)]
    force: bool,
    /// A name or an ID
    network: String,
    /// A name or an ID
    container: String,
}

/// Show all there is to know about networks
#[derive(Debug, Args)]
struct InspectArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Nothing more: that is for swarms
    #[arg(short, long, hide = true)]
    verbose: bool,
    /// Format the output with a Go template, or as `json`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// List networks
#[derive(Debug, Args)]
struct LsArgs {
    /// Only those that fit: dangling=BOOL, driver=NAME, id=ID, label=KEY[=VALUE], name=PART, scope=local, type=custom|builtin
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format the output: `table`, `table TEMPLATE`, `json` or a Go template
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
}

/// Remove networks without containers
#[derive(Debug, Args)]
struct PruneArgs {
    /// Only those that fit: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Remove networks
#[derive(Debug, Args)]
struct RmArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Do not fail when there is no such network
    #[arg(short, long)]
    force: bool,
}

/// Runs one of the subcommands.
pub fn run(args: NetworkArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let networks = networks(&global.root);
    match args.command {
        NetworkCommand::Connect(args) => connect(args, global),
        NetworkCommand::Create(args) => create(args, &global.root),
        NetworkCommand::Disconnect(args) => disconnect(&args, global),
        NetworkCommand::Inspect(args) => inspect(&args, &networks, &Containers::new(&global.root)),
        NetworkCommand::Ls(args) => ls(&args, &networks),
        NetworkCommand::Prune(args) => prune(&args, &global.root),
        NetworkCommand::Rm(args) => rm(&args, &global.root),
    }
}

fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}

fn create(args: CreateArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    if in_user_namespace() || !rustix::process::geteuid().is_root() {
        let why = "a network needs a bridge, which only root can make: without root there is the default network";
        return Err(RuntimeError::Unsupported(why.into()).into());
    }
    let settings = NetworkSettings {
        subnet: args.subnet,
        gateway: args.gateway,
        ip_range: args.ip_range,
        internal: args.internal,
        labels: pairs(&args.label),
        options: pairs(&args.opt),
    };
    let network = networks(root).create(&args.name, &settings)?;
    note_network(root, "create", &network.id, &network.name, None);
    output::line(network.id)?;
    Ok(ExitCode::SUCCESS)
}

fn connect(args: ConnectArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let dir = containers(global).find(&args.container)?;
    let endpoint = EndpointRequest { ip: args.ip, aliases: args.alias, ..EndpointRequest::default() };
    runtime::connect::connect(&global.root, &dir, &args.network, endpoint)?;
    Ok(ExitCode::SUCCESS)
}

fn disconnect(args: &DisconnectArgs, global: &Global) -> Result<ExitCode, BoxFault> {
    let all = containers(global);
    match all.find(&args.container) {
        // What a container that is gone left in its networks is taken down by whatever command comes next: by this one.
        Err(RuntimeError::NoSuchContainer(_)) if args.force => Ok(ExitCode::SUCCESS),
        found => {
            runtime::connect::disconnect(&global.root, &found?, &args.network)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

const COLUMNS: &[Column] =
    &[("ID", "NETWORK ID"), ("Name", "NAME"), ("Driver", "DRIVER"), ("Scope", "SCOPE"), ("CreatedAt", "CREATED AT")];

fn ls(args: &LsArgs, networks: &Networks) -> Result<ExitCode, BoxFault> {
    let default = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";
    let layout = Layout::parse_or_quiet(args.format.as_deref(), args.quiet, "ID", default)?;
    let id = |id: &str| if args.no_trunc { id.to_owned() } else { id.chars().take(12).collect() };
    let row = |network: &Network| {
        json!({
            "ID": id(&network.id),
            "Name": network.name,
            "Driver": "bridge",
            "Scope": "local",
            "Internal": network.internal.to_string(),
            "IPv6": "false",
            "CreatedAt": human::time(network.created.parse().ok()),
            "Labels": network.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","),
        })
    };
    let mut rows: Vec<Value> = Vec::new();
    // Docker has it from the first day. A store that cannot be written shows what it has.
    let _ = networks.get(DEFAULT);
    for network in networks.list()? {
        let dangling = networks.leases(&network)?.is_empty();
        if fits(&args.filter, (&network.name, &network.id, "bridge"), &network.labels, dangling)? {
            rows.push(row(&network));
        }
    }
    for name in ["host", "none"] {
        let driver = if name == "none" { "null" } else { name };
        let own = fixed_id(name).unwrap_or_default();
        if fits(&args.filter, (name, &own, driver), &BTreeMap::new(), true)? {
            rows.push(json!({
                "ID": id(&own), "Name": name, "Driver": driver, "Scope": "local", "Internal": "false", "IPv6": "false",
                "CreatedAt": "", "Labels": "",
            }));
        }
    }
    rows.sort_by(|a, b| a["Name"].as_str().cmp(&b["Name"].as_str()));
    output::print(layout.render(COLUMNS, &rows)?)?;
    Ok(ExitCode::SUCCESS)
}

fn fits(
    filters: &[String],
    (name, id, driver): (&str, &str, &str),
    labels: &BTreeMap<String, String>,
    dangling: bool,
) -> Result<bool, RuntimeError> {
    let custom = ![DEFAULT, "host", "none"].contains(&name);
    filter::fits(filters, |kind, value| match kind {
        "dangling" => filter::truth(value).map(|wanted| wanted == (dangling && custom)),
        "driver" => Some(driver == value),
        "id" => Some(id.contains(value)),
        "label" => Some(filter::has_label(labels, value)),
        "name" => Some(name.contains(value)),
        "scope" => Some(value == "local"),
        "type" => match value {
            "custom" => Some(custom),
            "builtin" => Some(!custom),
            _ => None,
        },
        _ => None,
    })
}

fn inspect(args: &InspectArgs, networks: &Networks, containers: &Containers) -> Result<ExitCode, BoxFault> {
    show(&args.networks, args.format.as_deref(), |name| Ok(one(name, networks, containers)?), failed)
}

fn one(name: &str, networks: &Networks, containers: &Containers) -> Result<Value, NetError> {
    match fixed_id(name) {
        Some(id) => Ok(fixed(name, &id, networks, containers)),
        None => networks.get(name).and_then(|network| document(&network, networks, containers)),
    }
}

/// What docker says of a network that is no bridge.
fn fixed(name: &str, id: &str, networks: &Networks, containers: &Containers) -> Value {
    let ids = containers.ids().unwrap_or_default();
    let connected = ids.into_iter().filter_map(|id| {
        let dir = containers.dir(&id);
        // It may end while this is read.
        let (container, state) = (dir.container().ok()?, dir.state().ok()?);
        let is_in = state.status.has_process() && container.host_config.network_mode.to_string() == name;
        let about = json!({
            "Name": container.name, "EndpointID": "", "MacAddress": "", "IPv4Address": "", "IPv6Address": "",
        });
        is_in.then_some((id, about))
    });
    json!({
        "Name": name,
        "Id": id,
        // As docker's it is as old as the default one.
        "Created": networks.get(DEFAULT).map_or_else(|_| NEVER.to_owned(), |network| network.created),
        "Scope": "local",
        "Driver": if name == "none" { "null" } else { name },
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": null },
        "Internal": false,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": connected.collect::<serde_json::Map<_, _>>(),
        "Options": {},
        "Labels": {},
    })
}

/// The network of a name, for `ferry inspect`.
pub fn named(name: &str, global: &Global) -> Result<Value, NetError> {
    one(name, &networks(&global.root), &Containers::new(&global.root))
}

/// Docker's description of a network.
fn document(network: &Network, networks: &Networks, containers: &Containers) -> Result<Value, NetError> {
    let mut connected = serde_json::Map::new();
    for lease in networks.leases(network)? {
        let dir = containers.dir(&lease.container);
        // It may end while this is read.
        let (Ok(container), Ok(state)) = (dir.container(), dir.state()) else { continue };
        let endpoints = state.network.map(|network| network.endpoints).unwrap_or_default();
        let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.network_id == network.id) else { continue };
        let about = json!({
            "Name": container.name,
            "EndpointID": endpoint.id,
            "MacAddress": endpoint.mac,
            "IPv4Address": format!("{}/{}", endpoint.address, network.subnet.prefix()),
            "IPv6Address": "",
        });
        connected.insert(lease.container, about);
    }
    let mut pool = json!({ "Subnet": network.subnet, "Gateway": network.gateway });
    if let (Some(range), Some(pool)) = (network.ip_range, pool.as_object_mut()) {
        pool.insert("IPRange".to_owned(), json!(range));
    }
    // Docker's default network has none, one that a user made an empty map.
    let ipam_options = if network.name == DEFAULT { Value::Null } else { json!({}) };
    Ok(json!({
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": ipam_options, "Config": [pool] },
        "Internal": network.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": connected,
        "Options": network.options,
        "Labels": network.labels,
    }))
}

fn prune(args: &PruneArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    let filters: Vec<PruneFilter> =
        args.filter.iter().map(|text| PruneFilter::parse(text)).collect::<Result<_, _>>()?;
    if !args.force && !super::prune::sure("all custom networks not used by at least one container")? {
        return Ok(ExitCode::SUCCESS);
    }
    let before = networks(root).list()?;
    let removed =
        networks(root).prune(|network| filters.iter().all(|filter| filter.fits(&network.created, &network.labels)))?;
    for network in before.iter().filter(|network| removed.contains(&network.name)) {
        note_network(root, "destroy", &network.id, &network.name, None);
    }
    events::record_prune(root, "network", 0);
    if !removed.is_empty() {
        output::line(format!("Deleted Networks:\n{}\n", removed.join("\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes all that no container uses.
pub fn prune_unasked(filter: &[String], global: &Global) -> Result<ExitCode, BoxFault> {
    prune(&PruneArgs { filter: filter.to_owned(), force: true }, &global.root)
}

fn rm(args: &RmArgs, root: &Path) -> Result<ExitCode, BoxFault> {
    let mut code = ExitCode::SUCCESS;
    for name in &args.networks {
        if fixed_id(name).is_some() {
            let why = format!("{name} is a pre-defined network and cannot be removed");
            code = failed(&RuntimeError::Conflict(why));
            continue;
        }
        let networks = networks(root);
        match networks.get(name).and_then(|network| networks.remove(name).map(|()| network)) {
            Ok(network) => {
                note_network(root, "destroy", &network.id, &network.name, None);
                output::line(name)?;
            }
            Err(NetError::NoSuchNetwork(_)) if args.force => {}
            Err(error) => code = failed(&error),
        }
    }
    Ok(code)
}
