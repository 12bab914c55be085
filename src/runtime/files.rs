//! The files that every container gets from its engine: /etc/hosts, /etc/hostname, /etc/resolv.conf.

use std::fs;
use std::path::PathBuf;

use super::NetworkMode;
use super::container::{Container, ContainerDir};
use super::error::RuntimeError;
use crate::base::AtPath;

/// Makes the files and says where they belong: on the host, in the container. Those about the network are filled when
/// it is there.
pub fn prepare(dir: &ContainerDir, container: &Container) -> Result<Vec<(PathBuf, &'static str)>, RuntimeError> {
    let shared = matches!(container.host_config.network_mode, NetworkMode::Container(_));
    let mut shown = Vec::new();
    for (name, inside) in [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")]
    {
        // What the user mounts there is left alone.
        if container.mounts.iter().any(|mount| mount.destination == inside) || shared && name != "hostname" {
            continue;
        }
        let path = dir.file(name);
        let text = if name == "hostname" { format!("{}\n", container.config.hostname) } else { String::new() };
        fs::write(&path, text).at("write", &path)?;
        shown.push((path, inside));
    }
    Ok(shown)
}
