//! Container networks: bridges, addresses, published ports, names; by netlink alone.
//!
//! [`Networks::attach`] connects a container's network namespace and gives a [`NetworkState`], which is all that
//! [`Networks::detach`] needs to take everything back. [`Networks::cleanup`] takes back what containers left that are no
//! more. All of it happens in the network namespace of the calling thread, which is "the host".

mod attach;
mod bridge;
mod definition;
mod error;
mod files;
mod firewall;
pub mod helper;
mod left;
mod link;
mod listen;
mod mac;
pub mod ports;
mod subnet;
mod sweep;
mod uplink;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use attach::host_resolvers;
pub use bridge::NetworkSettings;
pub use definition::{DEFAULT, Lease, Network, is_name};
pub use error::NetError;
pub use files::{hosts, resolv_conf};
pub use left::Left;
pub use mac::{BadMac, Mac};
pub use ports::{BadPort, ContainerPort, Protocol, PublishRequest};
pub use subnet::{BadSubnet, Subnet};

use super::NetworkMode;

/// Where a container's embedded resolver answers; docker's address.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// How a container is to be connected to one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointRequest {
    /// The address it asks for.
    pub ip: Option<Ipv4Addr>,
    /// The Ethernet address it asks for.
    pub mac: Option<Mac>,
    /// More names it is known by, in user-made networks.
    pub aliases: Vec<String>,
}

/// How names are resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsRequest {
    /// `--dns`; empty for the host's.
    pub servers: Vec<IpAddr>,
    /// `--dns-search`; empty for the host's.
    pub search: Vec<String>,
    /// `--dns-option`; empty for the host's.
    pub options: Vec<String>,
}

/// How a container is to be connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The container's full ID.
    pub container: String,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// The domain that belongs to it, or nothing.
    pub domainname: String,
    /// Its network.
    pub mode: NetworkMode,
    /// How in this network.
    pub endpoint: EndpointRequest,
    /// In which networks beside it, and how.
    pub also: Vec<(String, EndpointRequest)>,
    /// Ports to publish, exposed ones too when all shall be.
    pub publish: Vec<PublishRequest>,
    /// How names are resolved.
    pub dns: DnsRequest,
    /// Whether the host's network is not ferry's to change: without root there are only loopbacks and proxies.
    pub isolated: bool,
    /// A process of the container and a directory for files, from which such a network gets a way out if the host has a
    /// program for it.
    pub uplink: Option<(i32, PathBuf)>,
    /// `--add-host`: names and addresses. The address `host-gateway` is the gateway's.
    pub extra_hosts: Vec<(String, String)>,
}

/// How a container is connected to one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network's name.
    pub network: String,
    /// The network's ID.
    pub network_id: String,
    /// This connection's ID: 64 hexadecimal digits.
    pub id: String,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The network's subnet.
    pub subnet: Subnet,
    /// The gateway; none in internal networks.
    pub gateway: Option<Ipv4Addr>,
    /// The Ethernet address.
    pub mac: Mac,
    /// The link's name in the container.
    pub link: String,
    /// The link's name in the host.
    pub host_link: String,
    /// The names it has in the network.
    pub names: Vec<String>,
}

/// A port that is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The container's port.
    pub container: ContainerPort,
    /// The host's address; unspecified for all.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
}

/// How a container is connected: kept in its state, and shown by `inspect` and `port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// The container's full ID.
    pub container: String,
    /// Its connections; the first has the default route.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports, in order.
    pub ports: Vec<Published>,
    /// Whether a resolver of ferry's answers at [`RESOLVER`].
    pub resolver: bool,
    /// The processes that serve ports and names.
    pub helpers: Vec<Helper>,
    /// What the user should be told once.
    pub notices: Vec<String>,
}

/// A process that serves published ports and names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Helper {
    /// Its PID.
    pub pid: u32,
    /// When it was started, in clock ticks since boot: PIDs are used again.
    pub started: u64,
}

/// The networks of a store.
#[derive(Debug, Clone)]
pub struct Networks {
    directory: definition::Directory,
    program: PathBuf,
}

impl Networks {
    /// The networks kept in `directory`, `ferry/networks` in the store. It is made when something is first kept.
    pub fn new(directory: &Path) -> Self {
        Self { directory: definition::Directory::new(directory), program: "/proc/self/exe".into() }
    }

    /// Starts helpers from this binary, not from the one that runs.
    pub fn with_program(self, program: &Path) -> Self {
        Self { program: program.to_owned(), ..self }
    }
}
