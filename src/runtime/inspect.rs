//! A container as docker's Engine API shows it (`GET /containers/{id}/json`).

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::NetworkMode;
use super::container::config::MountPoint;
use super::container::{Container, ContainerDir, Containers, State, Status};
use super::error::RuntimeError;
use super::net::{DEFAULT, Endpoint, NetworkState};
use super::network::{fixed_id, networks};
use super::overlay;
use crate::base::Digest;

/// Docker's word for a time that never was.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// The document.
pub fn document(store_root: &Path, dir: &ContainerDir) -> Result<Value, RuntimeError> {
    let (container, state) = (dir.container()?, dir.state()?);
    let layer = overlay::store(store_root)?.rw_layer(dir.id()).ok();
    let driver = layer.map(|layer| {
        let lower: Vec<String> =
            layer.lower_option.split(':').map(|l| layer.base.join(l).display().to_string()).collect();
        json!({
            "Data": {
                "LowerDir": lower.join(":"),
                "MergedDir": layer.merged,
                "UpperDir": layer.upper,
                "WorkDir": layer.work,
            },
            "Name": "overlay2",
        })
    });
    let own = |value: Result<Value, serde_json::Error>| value.map_err(|e| RuntimeError::Malformed(e.to_string()));
    // One that shares a network shares its files.
    let donor = match &container.host_config.network_mode {
        NetworkMode::Container(other) => Containers::new(store_root).find(other).ok(),
        _ => None,
    };
    let path = |name: &str| {
        let path = donor.as_ref().unwrap_or(dir).file(name);
        if path.exists() { path.display().to_string() } else { String::new() }
    };
    let mut host = with_rest(own(serde_json::to_value(&container.host_config))?);
    host["Links"] = links(store_root, &container);
    Ok(json!({
        "Id": container.id,
        "Created": container.created,
        "Path": container.path,
        "Args": container.args,
        "State": state_json(&state),
        "Image": container.image.to_string(),
        "ResolvConfPath": path("resolv.conf"),
        "HostnamePath": path("hostname"),
        "HostsPath": path("hosts"),
        "LogPath": dir.log(),
        "Name": format!("/{}", container.name),
        "RestartCount": state.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": null,
        "HostConfig": host,
        "GraphDriver": driver,
        "Mounts": own(serde_json::to_value(mounts(&container)))?,
        "Config": own(serde_json::to_value(&container.config))?,
        "NetworkSettings": network_settings(store_root, &container, &state),
    }))
}

/// What docker has besides, at the values that mean nothing was asked for: scripts read it.
fn with_rest(mut host: Value) -> Value {
    let rest = json!({
        "BlkioDeviceReadBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceWriteIOps": [],
        "BlkioWeightDevice": [],
        "Cgroup": "",
        "ConsoleSize": [0, 0],
        "CpuCount": 0,
        "CpuPercent": 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "DeviceRequests": null,
        "IOMaximumBandwidth": 0,
        "IOMaximumIOps": 0,
        "Isolation": "",
        "KernelMemory": 0,
        "KernelMemoryTCP": 0,
    });
    if let (Some(host), Value::Object(rest)) = (host.as_object_mut(), rest) {
        for (key, value) in rest {
            host.entry(key).or_insert(value);
        }
        if host.get("Ulimits").is_none_or(Value::is_null) {
            host.insert("Ulimits".to_owned(), json!([]));
        }
    }
    host
}

/// What is mounted: what the container keeps, and each tmpfs that `--mount` asks for.
fn mounts(container: &Container) -> Vec<MountPoint> {
    let asked = container.host_config.mounts.iter().flatten().filter(|mount| mount.kind == "tmpfs");
    let tmpfs = asked.map(|mount| MountPoint {
        kind: mount.kind.clone(),
        destination: mount.target.clone(),
        rw: !mount.read_only,
        ..MountPoint::default()
    });
    container.mounts.iter().cloned().chain(tmpfs).collect()
}

/// The same with what docker's document leaves out when there is none of it: its templates know these fields all the same.
pub fn for_template(mut document: Value) -> Value {
    const LEFT_OUT: [(&str, &[&str]); 4] = [
        ("", &["SizeRw", "SizeRootFs"]),
        ("/State", &["Health"]),
        ("/Config", &["ExposedPorts", "Healthcheck", "StopSignal", "StopTimeout", "Shell"]),
        ("/HostConfig", &["Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"]),
    ];
    for (of, names) in LEFT_OUT {
        let Some(fields) = document.pointer_mut(of).and_then(Value::as_object_mut) else { continue };
        for name in names {
            fields.entry(*name).or_insert(Value::Null);
        }
    }
    document
}

fn state_json(state: &State) -> Value {
    let time = |text: &str| if text.is_empty() { NEVER.to_owned() } else { text.to_owned() };
    let mut json = json!({
        "Status": state.status.as_str(),
        // As docker: a paused container runs, and so does one that is about to be started again.
        "Running": state.status.is_live(),
        "Paused": state.status == Status::Paused,
        "Restarting": state.status == Status::Restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.status == Status::Dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": time(&state.started_at),
        "FinishedAt": time(&state.finished_at),
    });
    if let Some(health) = &state.health {
        json["Health"] = json!(health);
    }
    json
}

/// Docker's map of ports, of what is published and what is only exposed.
pub fn ports(container: &Container, state: &State) -> Value {
    let mut all = serde_json::Map::new();
    if !state.status.has_process() {
        return Value::Object(all);
    }
    for port in container.config.exposed_ports.keys() {
        all.insert(port.clone(), Value::Null);
    }
    for published in state.network.iter().flat_map(|network| &network.ports) {
        let binding = json!({"HostIp": published.host_ip.to_string(), "HostPort": published.host_port.to_string()});
        let entry = all.entry(published.container.to_string()).or_insert(Value::Null);
        match entry {
            Value::Array(list) => list.push(binding),
            other => *other = json!([binding]),
        }
    }
    Value::Object(all)
}

/// Links in the network that all containers are in, as docker keeps them: `/OTHER:/CONTAINER/NAME`. Those in a network that a
/// user made are shown with it.
fn links(store_root: &Path, container: &Container) -> Value {
    if container.host_config.network_mode.bridge() != Some(DEFAULT) {
        return Value::Null;
    }
    let all = Containers::new(store_root);
    let link = |link: &String| {
        let (other, name) = link.split_once(':').unwrap_or((link, link));
        let found = all.find(other).and_then(|dir| dir.container());
        let other = found.map_or_else(|_| other.to_owned(), |found| found.name);
        format!("/{other}:/{}/{name}", container.name)
    };
    json!(container.host_config.links.as_ref().map(|links| links.iter().map(link).collect::<Vec<_>>()))
}

fn network_settings(store_root: &Path, container: &Container, state: &State) -> Value {
    let none = NetworkState::default();
    let network = state.network.as_ref().unwrap_or(&none);
    let mut all = serde_json::Map::new();
    for endpoint in &network.endpoints {
        all.insert(
            endpoint.network.clone(),
            endpoint_json(store_root, container, state, &endpoint.network, Some(endpoint)),
        );
    }
    if all.is_empty() {
        for name in wanted(container) {
            let shown = endpoint_json(store_root, container, state, &name, None);
            all.insert(name, shown);
        }
    }
    let first = network.endpoints.iter().find(|endpoint| endpoint.network == DEFAULT);
    // Docker names the network namespace by a random ID; of one that is shared it tells none.
    let own = state.pid > 0 && !matches!(container.host_config.network_mode, NetworkMode::Container(_));
    let sandbox = own.then(|| Digest::of(format!("{} {}", container.id, state.started_at).as_bytes()).hex());
    json!({
        "Bridge": "",
        "SandboxID": sandbox.unwrap_or_default(),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "Ports": ports(container, state),
        "SandboxKey": if state.pid > 0 { format!("/proc/{}/ns/net", state.pid) } else { String::new() },
        "EndpointID": first.map(|endpoint| endpoint.id.clone()).unwrap_or_default(),
        "Gateway": first.and_then(|endpoint| endpoint.gateway).map(|gateway| gateway.to_string()).unwrap_or_default(),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": first.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": first.map_or(0, |endpoint| endpoint.subnet.prefix()),
        "IPv6Gateway": "",
        "MacAddress": first.map(|endpoint| endpoint.mac.to_string()).unwrap_or_default(),
        "Networks": all,
    })
}

/// The networks that a container is to be in when it runs.
fn wanted(container: &Container) -> BTreeSet<String> {
    let mode = &container.host_config.network_mode;
    let first = match mode {
        _ if container.unplugged => None,
        NetworkMode::Container(_) => None,
        mode => Some(mode.bridge().map_or_else(|| mode.to_string(), str::to_owned)),
    };
    first.into_iter().chain(container.endpoints.keys().cloned()).collect()
}

/// What a container has in one network, and of one that is not connected what it asks for there. As in docker it knows the
/// network, and its own names in it, from its first start on.
fn endpoint_json(
    store_root: &Path,
    container: &Container,
    state: &State,
    name: &str,
    endpoint: Option<&Endpoint>,
) -> Value {
    let is_it = |(key, _): &(&String, _)| *key == name || endpoint.is_some_and(|e| e.network_id.starts_with(*key));
    let asked = container.endpoints.iter().find(is_it).map(|(_, asked)| asked.clone()).unwrap_or_default();
    let has_run = endpoint.is_some() || !state.started_at.is_empty();
    let known = || {
        let all = networks(store_root).list().unwrap_or_default();
        all.into_iter().find(|network| network.name == name || network.id.starts_with(name)).map(|network| network.id)
    };
    let id = match endpoint {
        Some(endpoint) => Some(endpoint.network_id.clone()),
        None if has_run => fixed_id(name).or_else(known),
        None => None,
    };
    let mode = container.host_config.network_mode.bridge();
    let (is_first, has_names) = (mode == Some(name), name != DEFAULT && fixed_id(name).is_none());
    let mac = endpoint.map(|endpoint| endpoint.mac).or(asked.mac.filter(|_| !has_run));
    json!({
        "IPAMConfig": asked.ip.map(|ip| json!({"IPv4Address": ip.to_string()})),
        "Links": container.host_config.links.as_ref().filter(|_| is_first && has_names),
        "Aliases": Some(&asked.aliases).filter(|aliases| !aliases.is_empty()),
        "NetworkID": id.unwrap_or_default(),
        "EndpointID": endpoint.map_or("", |endpoint| &endpoint.id),
        "Gateway": endpoint.and_then(|endpoint| endpoint.gateway).map(|gateway| gateway.to_string()).unwrap_or_default(),
        "IPAddress": endpoint.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.subnet.prefix()),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": mac.map(|mac| mac.to_string()).unwrap_or_default(),
        "DriverOpts": null,
        "DNSNames": (has_run && has_names).then(|| dns_names(container, &asked.aliases)),
    })
}

/// The names that others of a network find a container by, in docker's order.
fn dns_names(container: &Container, aliases: &[String]) -> Vec<String> {
    let own = [container.short_id(), container.config.hostname.as_str()];
    let mut names: Vec<String> = Vec::new();
    for name in std::iter::once(container.name.as_str()).chain(aliases.iter().map(String::as_str)).chain(own) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}
