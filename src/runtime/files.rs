//! The files that every container gets from its engine: /etc/hosts, /etc/hostname, /etc/resolv.conf.

use std::fs;
use std::path::PathBuf;

use super::container::{Container, ContainerDir};
use super::error::RuntimeError;
use crate::base::AtPath;

/// Makes the files and says where they belong: on the host, in the container. Those about the network are filled when
/// it is there. Where the network is another container's, the files are: one name for one network.
pub fn prepare(
    dir: &ContainerDir,
    container: &Container,
    donor: Option<&ContainerDir>,
) -> Result<Vec<(PathBuf, &'static str)>, RuntimeError> {
    let mut shown = Vec::new();
    for (name, inside) in [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")]
    {
        // What the user mounts there is left alone.
        if container.mounts.iter().any(|mount| mount.destination == inside) {
            continue;
        }
        if let Some(donor) = donor {
            shown.extend(Some((donor.file(name), inside)).filter(|(path, _)| path.exists()));
            continue;
        }
        let path = dir.file(name);
        let text = if name == "hostname" { format!("{}\n", container.config.hostname) } else { String::new() };
        fs::write(&path, text).at("write", &path)?;
        shown.push((path, inside));
    }
    Ok(shown)
}
