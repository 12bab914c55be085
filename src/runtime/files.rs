//! The files that every container gets from its engine: /etc/hosts, /etc/hostname, /etc/resolv.conf.

use std::fs;
use std::path::PathBuf;

use super::NetworkMode;
use super::container::{Container, ContainerDir};
use super::error::RuntimeError;
use crate::base::AtPath;

/// Writes the files and says where they belong: on the host, in the container.
pub fn prepare(dir: &ContainerDir, container: &Container) -> Result<Vec<(PathBuf, &'static str)>, RuntimeError> {
    let mut shown = Vec::new();
    let config = &container.config;
    let host = &container.host_config;
    let mut show = |name: &str, inside: &'static str, text: String| -> Result<(), RuntimeError> {
        // What the user mounts there is left alone.
        if container.mounts.iter().any(|mount| mount.destination == inside) {
            return Ok(());
        }
        let path = dir.file(name);
        fs::write(&path, text).at("write", &path)?;
        shown.push((path, inside));
        Ok(())
    };
    show("hostname", "/etc/hostname", format!("{}\n", config.hostname))?;
    if matches!(host.network_mode, NetworkMode::Container(_)) {
        return Ok(shown);
    }
    show("hosts", "/etc/hosts", hosts(container, None))?;
    show("resolv.conf", "/etc/resolv.conf", resolv_conf(container))?;
    Ok(shown)
}

/// The text of /etc/hosts; `address` is the container's own, once it has one.
pub fn hosts(container: &Container, address: Option<std::net::IpAddr>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for extra in container.host_config.extra_hosts.iter().flatten() {
        if let Some((name, address)) = extra.split_once(':') {
            text.push_str(&format!("{address}\t{name}\n"));
        }
    }
    if let Some(address) = address {
        text.push_str(&format!("{address}\t{}\n", container.config.hostname));
    }
    text
}

/// The text of /etc/resolv.conf: the host's without servers that only the host reaches, or what the user asks for.
fn resolv_conf(container: &Container) -> String {
    let config = &container.host_config;
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let own_network = config.network_mode != NetworkMode::Host;
    let of = |key: &str| -> Vec<String> {
        let lines = host.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.map(|rest| rest.trim().to_owned()).filter(|rest| !rest.is_empty()).collect()
    };
    let mut text = String::new();
    let servers = if config.dns.is_empty() {
        of("nameserver ")
            .into_iter()
            .filter(|server| !own_network || !(server.starts_with("127.") || server == "::1"))
            .collect()
    } else {
        config.dns.clone()
    };
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    let search = if config.dns_search.is_empty() { of("search ").join(" ") } else { config.dns_search.join(" ") };
    if !search.is_empty() && search != "." {
        text.push_str(&format!("search {search}\n"));
    }
    let options = if config.dns_options.is_empty() { of("options ").join(" ") } else { config.dns_options.join(" ") };
    if !options.is_empty() {
        text.push_str(&format!("options {options}\n"));
    }
    text
}
