//! Networks as they are kept: a directory `ferry/networks/<name>/` with `network.json` and the addresses in use,
//! `leases/<address>`. A lease is a symbolic link, made in one step with its contents: the container's ID and, after
//! spaces, the names it is known by in the network.
//!
//! Every change happens under the lock of `ferry/networks/.lock`. A directory without `network.json` is what an
//! interrupted creation left and counts as absent.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::NetError;
use super::subnet::Subnet;
use crate::base::caps;
use crate::base::error::AtPath;
use crate::base::{PathError, durable};
use crate::sys::lock::{FileLock, LockKind};

/// The network containers are in when nothing else is asked for.
pub const DEFAULT: &str = "bridge";

/// A bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// RFC 3339, UTC.
    pub created: String,
    /// Its addresses.
    pub subnet: Subnet,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// Where containers' addresses are taken from, when not from all of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<Subnet>,
    /// Whether its containers reach nothing but each other.
    #[serde(default)]
    pub internal: bool,
    /// The user's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Driver options as given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// The bridge's device.
    pub device: String,
    /// The largest packet, when it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl Network {
    /// Whether names of containers are resolved in it: docker does so in user-made networks only.
    pub fn has_names(&self) -> bool {
        self.name != DEFAULT
    }

    /// What marks links and rules as this network's.
    pub fn mark(&self) -> String {
        format!("ferry {}", short(&self.id))
    }

    /// What marks links and rules as a container's in this network.
    pub fn container_mark(&self, container: &str) -> String {
        format!("{} {}", self.mark(), short(container))
    }
}

/// The first 12 characters of an ID, as it is shown.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// An address in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The container's ID.
    pub container: String,
    /// The names it has in the network, lower case.
    pub names: Vec<String>,
}

impl Lease {
    /// What its symbolic link holds.
    fn text(&self) -> String {
        [std::slice::from_ref(&self.container), &self.names].concat().join(" ")
    }
}

/// The networks' directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    path: PathBuf,
}

/// The right to change networks, held until dropped.
#[derive(Debug)]
pub(super) struct Held {
    _lock: FileLock,
}

/// Whether a text can be a network's name (docker's rule, `daemon/names`).
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.len() <= 128 && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && text.bytes().all(plain)
}

impl Directory {
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the lock on all networks; makes the directory when there is none.
    pub fn lock(&self) -> Result<Held, NetError> {
        open_directory(&self.path)?;
        let path = self.path.join(".lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
        Ok(Held { _lock: FileLock::wait(file, LockKind::Exclusive).at("lock", &path)? })
    }

    /// The network of a name.
    pub fn get(&self, name: &str) -> Result<Option<Network>, NetError> {
        if !is_name(name) {
            return Err(NetError::BadName(name.chars().take(140).collect()));
        }
        let path = self.path.join(name).join("network.json");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PathError { action: "open", path, source }.into()),
        };
        let bytes = caps::read_all(&mut file, caps::MANIFEST_BYTES, "a network's file").at("read", &path)?;
        let damaged = |source| NetError::Damaged { path: path.display().to_string(), source };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// All networks, by name.
    pub fn list(&self) -> Result<Vec<Network>, NetError> {
        let mut networks = Vec::new();
        for name in entries(&self.path)? {
            if is_name(&name) {
                networks.extend(self.get(&name)?);
            }
        }
        networks.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(networks)
    }

    /// Keeps a new network. Durable when it returns.
    pub fn add(&self, network: &Network, _: &Held) -> Result<(), NetError> {
        let dir = self.path.join(&network.name);
        let leases = dir.join("leases");
        for path in [&dir, &leases] {
            open_directory(path)?;
        }
        let mut text = serde_json::to_vec_pretty(network).map_err(io::Error::from).at("write", &dir)?;
        text.push(b'\n');
        Ok(durable::write(&dir.join("network.json"), &text, 0o644)?)
    }

    /// Forgets a network. Its file goes first: what is left after a crash counts as absent.
    pub fn remove(&self, name: &str, _: &Held) -> Result<(), NetError> {
        let dir = self.path.join(name);
        let file = dir.join("network.json");
        fs::remove_file(&file).at("remove", &file)?;
        Ok(fs::remove_dir_all(&dir).at("remove", &dir)?)
    }

    /// For how long no address was taken or given back.
    pub fn idle_for(&self, network: &str) -> Result<Duration, NetError> {
        let leases = self.path.join(network).join("leases");
        let changed = leases.metadata().and_then(|metadata| metadata.modified()).at("look at", &leases)?;
        // A clock that was set back must not keep a bridge for ever.
        Ok(changed.elapsed().unwrap_or(Duration::MAX))
    }

    fn lease_path(&self, network: &str, address: Ipv4Addr) -> PathBuf {
        self.path.join(network).join("leases").join(address.to_string())
    }

    /// The addresses in use in a network, in order.
    pub fn leases(&self, network: &str) -> Result<Vec<Lease>, NetError> {
        let dir = self.path.join(network).join("leases");
        let mut leases = Vec::new();
        for name in entries(&dir)? {
            let Ok(address) = name.parse() else { continue };
            // Another process may have given it back meanwhile.
            if let Ok(text) = fs::read_link(dir.join(&name)) {
                leases.extend(text.to_str().and_then(|text| lease(address, text)));
            }
        }
        leases.sort_by_key(|lease| lease.address);
        Ok(leases)
    }

    /// The leases of all networks that a container is in, each with its network's name. Reads nothing but names in
    /// directories and symbolic links, so that a process without privileges can do it too.
    pub fn neighbours(&self, container: &str) -> Result<Vec<(String, Lease)>, NetError> {
        let mut neighbours = Vec::new();
        for network in entries(&self.path)?.into_iter().filter(|name| is_name(name)) {
            let leases = self.leases(&network)?;
            if leases.iter().any(|lease| lease.container == container) {
                neighbours.extend(leases.into_iter().map(|lease| (network.clone(), lease)));
            }
        }
        Ok(neighbours)
    }

    /// Takes an address; `false` when somebody has it.
    pub fn take(&self, network: &str, lease: &Lease, _: &Held) -> Result<bool, NetError> {
        let path = self.lease_path(network, lease.address);
        match std::os::unix::fs::symlink(lease.text(), &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => Ok(other.at("create", &path).map(|()| true)?),
        }
    }

    /// Changes the names of a lease, in one step: who looks finds the old ones or the new ones.
    pub fn rename(&self, network: &str, lease: &Lease, _: &Held) -> Result<(), NetError> {
        let path = self.lease_path(network, lease.address);
        // Nothing that is read as an address.
        let new = self.path.join(network).join("leases").join(format!(".{}", lease.address));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Ok(Err(error).at("remove", &new)?),
            _ => {}
        }
        std::os::unix::fs::symlink(lease.text(), &new).at("create", &new)?;
        Ok(fs::rename(&new, &path).at("replace", &path)?)
    }

    /// Gives an address back; that it is free already is fine.
    pub fn release(&self, network: &str, address: Ipv4Addr, _: &Held) -> Result<(), NetError> {
        let path = self.lease_path(network, address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Ok(Err(error).at("remove", &path)?),
            _ => Ok(()),
        }
    }
}

/// A lease from its file's name and contents.
pub(super) fn lease(address: Ipv4Addr, text: &str) -> Option<Lease> {
    let mut words = text.split(' ').map(str::to_owned);
    Some(Lease { address, container: words.next().filter(|id| !id.is_empty())?, names: words.collect() })
}

/// Makes a directory that all may pass and list, whatever the umask says: the resolver reads it without privileges.
/// The store above is closed to others.
fn open_directory(path: &Path) -> Result<(), PathError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).at("create", path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755)).at("set the mode of", path)
}

/// The names in a directory; none when there is no such directory.
fn entries(dir: &Path) -> Result<Vec<String>, PathError> {
    let list = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", dir)?,
    };
    let mut names = Vec::new();
    for entry in list {
        names.extend(entry.at("list", dir)?.file_name().into_string().ok());
    }
    Ok(names)
}
