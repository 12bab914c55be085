//! Between a container and the networks: what it asks for, and the files that tell it what it got.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::container::{Container, ContainerDir, Containers, State};
use super::error::{RuntimeError, While};
use super::monitor::protocol::Connect;
use super::net::{
    DnsRequest, NetworkRequest, NetworkState, Networks, PublishRequest, host_resolvers, hosts, ports, resolv_conf,
};
use super::{NetworkMode, events, monitor};
use crate::base::{AtPath, Digest};

/// The networks of a store.
pub fn networks(store_root: &Path) -> Networks {
    Networks::new(&store_root.join("ferry/networks"))
}

/// The ID of a network that is no bridge, as constant as the network; `None` for one that may be.
pub fn fixed_id(name: &str) -> Option<String> {
    ["host", "none"].contains(&name).then(|| Digest::of(name.as_bytes()).hex())
}

/// What a container asks of the networks.
pub fn request(container: &Container) -> Result<NetworkRequest, RuntimeError> {
    let host = &container.host_config;
    let bad = |error: &dyn std::fmt::Display| RuntimeError::usage(error.to_string());
    let mut publish: Vec<PublishRequest> = Vec::new();
    for (port, bindings) in &host.port_bindings {
        for binding in bindings {
            publish
                .push(ports::parse_binding(port, &binding.host_ip, &binding.host_port).map_err(|error| bad(&error))?);
        }
    }
    if host.publish_all_ports {
        for port in container.config.exposed_ports.keys().filter(|port| !host.port_bindings.contains_key(*port)) {
            publish.push(ports::parse_binding(port, "", "").map_err(|error| bad(&error))?);
        }
    }
    let first = host.network_mode.bridge();
    let own = |name: Option<&str>| name.and_then(|name| container.endpoints.get(name)).cloned().unwrap_or_default();
    let also = container.endpoints.iter().filter(|(name, _)| Some(name.as_str()) != first);
    let servers: Result<Vec<IpAddr>, _> = host.dns.iter().map(|server| server.parse::<IpAddr>()).collect();
    let extra = host.extra_hosts.iter().flatten().filter_map(|extra| extra.split_once(':'));
    Ok(NetworkRequest {
        container: container.id.clone(),
        name: container.name.clone(),
        hostname: container.config.hostname.clone(),
        domainname: container.config.domainname.clone(),
        mode: host.network_mode.clone(),
        endpoint: own(first),
        also: also.map(|(name, endpoint)| (name.clone(), endpoint.clone())).collect(),
        publish,
        dns: DnsRequest {
            servers: servers.map_err(|error| bad(&error))?,
            search: host.dns_search.clone(),
            options: host.dns_options.clone(),
        },
        extra_hosts: extra.map(|(name, address)| (name.to_owned(), address.to_owned())).collect(),
        isolated: super::cgroup::in_user_namespace(),
        uplink: None,
    })
}

/// Connects a container whose first process waits, and writes its hosts and resolv.conf. `None` for the networks that
/// are not its own.
pub fn connect(
    store_root: &Path,
    dir: &ContainerDir,
    container: &Container,
    pid: Pid,
) -> Result<Option<NetworkState>, RuntimeError> {
    let mut request = request(container)?;
    if matches!(request.mode, NetworkMode::Container(_)) {
        return Ok(None);
    }
    if container.unplugged {
        request.mode = NetworkMode::None;
    }
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).trying("find the container's network")?;
    let seen = monitor::host_pid(&pidfd).unwrap_or(pid.as_raw_nonzero().get());
    request.extra_hosts.extend(linked(store_root, container)?);
    request.uplink = request.isolated.then(|| (seen, dir.path().to_owned()));
    let path = format!("/proc/{seen}/ns/net");
    let netns = File::open(&path).at("open", &path)?;
    let state = networks(store_root).attach(netns.as_fd(), &request).map_err(|e| RuntimeError::Other(e.into()))?;
    if let Err(error) = write_files(dir, &request, &state) {
        let _ = networks(store_root).detach(&state);
        return Err(error);
    }
    note(store_root, "connect", container, &state);
    Ok(Some(state))
}

/// Notes that a container is in its networks, or no longer.
fn note(store_root: &Path, action: &str, container: &Container, state: &NetworkState) {
    for endpoint in &state.endpoints {
        note_network(store_root, action, &endpoint.network_id, &endpoint.network, Some(&container.id));
    }
}

/// Notes an event of a network's, of one of its containers where one is given.
pub fn note_network(store_root: &Path, action: &str, id: &str, name: &str, container: Option<&str>) {
    let mut attributes = vec![("name", name), ("type", "bridge")];
    attributes.extend(container.map(|id| ("container", id)));
    events::record_of(store_root, "network", action, id, &attributes);
}

/// The names and addresses of the containers that this one is linked to.
fn linked(store_root: &Path, container: &Container) -> Result<Vec<(String, String)>, RuntimeError> {
    let all = Containers::new(store_root);
    let mut names = Vec::new();
    for link in container.host_config.links.iter().flatten() {
        let (name, alias) = link.split_once(':').unwrap_or((link, link));
        let dir = all.find(name)?;
        let state = dir.state()?;
        let endpoints = state.network.as_ref().map(|network| network.endpoints.as_slice()).unwrap_or_default();
        let endpoint = endpoints.first().filter(|_| state.status.has_process());
        let endpoint = endpoint
            .ok_or_else(|| RuntimeError::Conflict(format!("cannot link to container {name}: it has no network")))?;
        let address = endpoint.address.to_string();
        let other = dir.container()?;
        for known in [alias, other.name.as_str(), other.short_id()] {
            if !names.iter().any(|(name, _)| name == known) {
                names.push((known.to_owned(), address.clone()));
            }
        }
    }
    Ok(names)
}

fn write_files(dir: &ContainerDir, request: &NetworkRequest, state: &NetworkState) -> Result<(), RuntimeError> {
    let host = fs::read_to_string("/etc/hosts").unwrap_or_default();
    for (name, text) in
        [("hosts", hosts(request, state, &host)), ("resolv.conf", resolv_conf(request, state, &host_resolvers()))]
    {
        let path = dir.file(name);
        // In place: the container mounts this very file.
        fs::write(&path, text).at("write", &path)?;
    }
    Ok(())
}

/// The state and the network namespace of a running container that has networks of its own.
fn running<'a>(state: &'a mut State, name: &str) -> Result<(&'a mut NetworkState, File), RuntimeError> {
    let path = format!("/proc/{}/ns/net", state.pid);
    let none = || RuntimeError::Conflict(format!("container {name} has no network of its own to be connected"));
    let network = state.network.as_mut().ok_or_else(none)?;
    Ok((network, File::open(&path).at("open", &path)?))
}

/// Connects a running container to one more network. Called in its monitor.
pub fn connect_to(
    store_root: &Path,
    dir: &ContainerDir,
    container: &Container,
    state: &mut State,
    wanted: &Connect,
) -> Result<(), RuntimeError> {
    let request = request(container)?;
    let (network, netns) = running(state, &container.name)?;
    networks(store_root)
        .connect(netns.as_fd(), &request, &wanted.network, &wanted.endpoint, network)
        .map_err(|error| RuntimeError::Other(error.into()))?;
    write_files(dir, &request, network)
}

/// Disconnects a running container from one of its networks. Called in its monitor.
pub fn disconnect_from(
    store_root: &Path,
    dir: &ContainerDir,
    container: &Container,
    state: &mut State,
    name: &str,
) -> Result<(), RuntimeError> {
    let request = request(container)?;
    let (network, netns) = running(state, &container.name)?;
    networks(store_root)
        .disconnect(netns.as_fd(), &request, name, network)
        .map_err(|error| RuntimeError::Other(error.into()))?;
    write_files(dir, &request, network)
}

/// Has a running container known by the name it has now in its networks. Called in its monitor.
pub fn rename(store_root: &Path, container: &Container, state: &mut State) -> Result<(), RuntimeError> {
    let Some(network) = state.network.as_mut() else { return Ok(()) };
    let renamed = networks(store_root).rename(&request(container)?, network);
    renamed.map_err(|error| RuntimeError::Other(error.into()))
}

/// Takes a container's connections down. What cannot be is taken by the next command.
pub fn disconnect(store_root: &Path, container: &Container, state: &mut State) {
    if let Some(network) = state.network.take() {
        let _ = networks(store_root).detach(&network);
        note(store_root, "disconnect", container, &network);
    }
}

/// Takes down what containers left that are no more.
pub fn clean(store_root: &Path, is_live: impl Fn(&str) -> bool) -> Result<(), RuntimeError> {
    networks(store_root).cleanup(is_live).map(drop).map_err(|error| RuntimeError::Other(error.into()))
}
