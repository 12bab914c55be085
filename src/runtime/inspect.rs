//! A container as docker's Engine API shows it (`GET /containers/{id}/json`).

use std::path::Path;

use serde_json::{Value, json};

use super::NetworkMode;
use super::container::config::MountPoint;
use super::container::{Container, ContainerDir, Containers, State, Status};
use super::error::RuntimeError;
use super::net::{Endpoint, NetworkState};
use super::overlay;

const NEVER: &str = "0001-01-01T00:00:00Z";

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
        "HostConfig": with_rest(own(serde_json::to_value(&container.host_config))?),
        "GraphDriver": driver,
        "Mounts": own(serde_json::to_value(mounts(&container)))?,
        "Config": own(serde_json::to_value(&container.config))?,
        "NetworkSettings": networks(&container, &state),
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

fn networks(container: &Container, state: &State) -> Value {
    let none = NetworkState::default();
    let network = state.network.as_ref().unwrap_or(&none);
    let mut all = serde_json::Map::new();
    for endpoint in &network.endpoints {
        all.insert(endpoint.network.clone(), endpoint_json(Some(endpoint)));
    }
    if all.is_empty() && !container.unplugged {
        let name = match container.host_config.network_mode.bridge() {
            Some(name) => name.to_owned(),
            None => container.host_config.network_mode.to_string(),
        };
        if !name.starts_with("container:") {
            all.insert(name, endpoint_json(None));
        }
    }
    let first = network.endpoints.iter().find(|endpoint| endpoint.network == "bridge");
    json!({
        "Bridge": "",
        "SandboxID": "",
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

/// What a container has in one network; nothing while it does not run.
fn endpoint_json(endpoint: Option<&Endpoint>) -> Value {
    let names = endpoint.map(|endpoint| &endpoint.names);
    json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": names,
        "NetworkID": endpoint.map_or("", |endpoint| &endpoint.network_id),
        "EndpointID": endpoint.map_or("", |endpoint| &endpoint.id),
        "Gateway": endpoint.and_then(|endpoint| endpoint.gateway).map(|gateway| gateway.to_string()).unwrap_or_default(),
        "IPAddress": endpoint.map(|endpoint| endpoint.address.to_string()).unwrap_or_default(),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.subnet.prefix()),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": endpoint.map(|endpoint| endpoint.mac.to_string()).unwrap_or_default(),
        "DriverOpts": null,
        // Docker's default bridge resolves no names.
        "DNSNames": names.filter(|names| !names.is_empty()),
    })
}
