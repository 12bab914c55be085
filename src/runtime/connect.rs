//! Connecting containers to networks, and disconnecting them, whether they run or not.

use std::path::Path;

use super::NetworkMode;
use super::client;
use super::container::{Container, ContainerDir, State};
use super::error::RuntimeError;
use super::monitor::protocol::{Connect, Kind};
use super::net::{EndpointRequest, NetError, Network};
use super::network::{networks, note_network};

fn other(error: NetError) -> RuntimeError {
    RuntimeError::Other(error.into())
}

fn bridged(container: &Container) -> Result<(), RuntimeError> {
    match &container.host_config.network_mode {
        NetworkMode::Host | NetworkMode::Container(_) => Err(RuntimeError::usage(format!(
            "container {} shares the network of {}: it cannot be connected to others",
            container.name, container.host_config.network_mode
        ))),
        _ => Ok(()),
    }
}

/// Whether it is connected now if it runs, or will be when it is started.
fn is_connected(container: &Container, state: &State, network: &Network) -> bool {
    if let Some(connected) = state.network.as_ref().filter(|_| state.status.has_process()) {
        return connected.endpoints.iter().any(|endpoint| endpoint.network_id == network.id);
    }
    let by_mode = container.host_config.network_mode.bridge() == Some(network.name.as_str());
    by_mode && !container.unplugged || container.endpoints.contains_key(&network.name)
}

/// Connects a container to a network: at once if it runs, and whenever it is started from now on.
pub fn connect(
    store_root: &Path,
    dir: &ContainerDir,
    name: &str,
    endpoint: EndpointRequest,
) -> Result<(), RuntimeError> {
    let network = networks(store_root).get(name).map_err(other)?;
    let _lock = dir.lock()?;
    let mut container = dir.container()?;
    bridged(&container)?;
    let state = dir.state()?;
    if is_connected(&container, &state, &network) {
        if !state.status.has_process() {
            // As docker: it will be, as was asked for first.
            return Ok(());
        }
        let (container, network) = (container.name, network.name);
        return Err(other(NetError::Connection { container, what: "already connected to", network }));
    }
    if container.host_config.network_mode == NetworkMode::None {
        // As docker: a container of the network none that gets another is in none no longer.
        if state.status.is_live() {
            return Err(RuntimeError::usage("a running container of the network none cannot be connected to others"));
        }
        container.host_config.network_mode = NetworkMode::Bridge(network.name.clone());
    } else if std::mem::take(&mut container.unplugged) {
        container.host_config.network_mode = NetworkMode::Bridge(network.name.clone());
    }
    if state.status.has_process() {
        let wanted = Connect { network: network.name.clone(), endpoint: endpoint.clone() };
        let text = serde_json::to_vec(&wanted).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
        client::ask(dir, Kind::Connect, &text)?;
    }
    container.endpoints.insert(network.name.clone(), endpoint);
    keep(dir, &container)?;
    note_network(store_root, "connect", &network.id, &network.name, Some(&container.id));
    Ok(())
}

fn keep(dir: &ContainerDir, container: &Container) -> Result<(), RuntimeError> {
    dir.write_container(container)?;
    if dir.monitor_lives() { client::ask(dir, Kind::Reload, &[]) } else { Ok(()) }
}

/// Disconnects a container from a network, at once if it runs, and for good.
pub fn disconnect(store_root: &Path, dir: &ContainerDir, name: &str) -> Result<(), RuntimeError> {
    let network = networks(store_root).get(name).map_err(other)?;
    let _lock = dir.lock()?;
    let mut container = dir.container()?;
    bridged(&container)?;
    let state = dir.state()?;
    if !is_connected(&container, &state, &network) {
        let (container, network) = (container.name, network.name);
        return Err(other(NetError::Connection { container, what: "not connected to", network }));
    }
    if state.status.has_process() {
        client::ask(dir, Kind::Disconnect, network.name.as_bytes())?;
    }
    container.endpoints.remove(&network.name);
    if container.host_config.network_mode.bridge() == Some(network.name.as_str()) {
        match container.endpoints.keys().next().cloned() {
            Some(next) => container.host_config.network_mode = NetworkMode::Bridge(next),
            // As docker: in none, also when it is started again, until it is connected to one.
            None => container.unplugged = true,
        }
    }
    keep(dir, &container)?;
    note_network(store_root, "disconnect", &network.id, &network.name, Some(&container.id));
    Ok(())
}
