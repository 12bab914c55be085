//! What can go wrong with networks.

use std::io;
use std::net::IpAddr;

use super::ports::{BadPort, Protocol};
use super::subnet::{BadSubnet, Subnet};
use crate::base::{Class, Fault, PathError};

/// A failure with a network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A system operation failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A file operation failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A network that does not exist.
    #[error("network {0} not found: `ferry network create {0}` makes it")]
    NoSuchNetwork(String),
    /// A network of that name is there.
    #[error("network with name {0} already exists")]
    Exists(String),
    /// A name that no network can have.
    #[error(
        "{0:?} cannot be a network's name: letters, digits, '_', '.' and '-', at most 128, beginning with a letter or digit"
    )]
    BadName(String),
    /// The network has containers.
    #[error("network {network} has active endpoints: {containers}")]
    InUse {
        /// Which.
        network: String,
        /// By whom.
        containers: String,
    },
    /// One of the networks that are always there.
    #[error("{0} is a pre-defined network and cannot be {1}")]
    Predefined(String, &'static str),
    /// The subnet is used by another network, or a route of the host.
    #[error("the subnet {subnet} overlaps with {with}: choose another with --subnet")]
    Overlap {
        /// Which.
        subnet: Subnet,
        /// With what.
        with: String,
    },
    /// Another's link has the name of the network's bridge.
    #[error(
        "network {network} cannot be used: this host's link {link}, which is another's, has the name of its bridge: remove \
         that link, or end all containers of the network and start them again"
    )]
    LinkTaken {
        /// Which network.
        network: String,
        /// The link.
        link: String,
    },
    /// No subnet of the pool is free.
    #[error("all subnets of the pool are in use by networks or routes of this host: choose one with --subnet")]
    NoSubnet,
    /// No address of a subnet is free.
    #[error("network {network} has no free address in {subnet}")]
    NoAddress {
        /// Which network.
        network: String,
        /// Its subnet.
        subnet: Subnet,
    },
    /// The address asked for is another container's.
    #[error("address {address} of network {network} is in use by container {holder}")]
    AddressInUse {
        /// Which.
        address: IpAddr,
        /// In which network.
        network: String,
        /// By whom.
        holder: String,
    },
    /// The address cannot be a container's.
    #[error("address {address} is not one that a container of network {network} ({subnet}) can have")]
    AddressOutside {
        /// Which.
        address: IpAddr,
        /// Which network.
        network: String,
        /// Its subnet.
        subnet: Subnet,
    },
    /// A port of the host is taken.
    #[error("cannot publish port {port}/{protocol} on {address}: {source}")]
    Port {
        /// The host's address.
        address: IpAddr,
        /// The host's port, or range.
        port: String,
        /// The protocol.
        protocol: Protocol,
        /// Why.
        source: io::Error,
    },
    /// The container is connected already, or not at all.
    #[error("container {container} is {what} network {network}")]
    Connection {
        /// Which container.
        container: String,
        /// "already connected to" or "not connected to".
        what: &'static str,
        /// Which network.
        network: String,
    },
    /// A port specification makes no sense.
    #[error(transparent)]
    BadPort(#[from] BadPort),
    /// A subnet makes no sense.
    #[error(transparent)]
    BadSubnet(#[from] BadSubnet),
    /// Something asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A network's own file makes no sense.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Fault for NetError {
    fn class(&self) -> Class {
        match self {
            Self::System { source, .. } => crate::base::error::class_of_io(source),
            Self::Path(error) => error.class(),
            Self::NoSuchNetwork(_) => Class::NotFound,
            Self::Exists(_) | Self::InUse { .. } | Self::AddressInUse { .. } | Self::Connection { .. } => {
                Class::Conflict
            }
            Self::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Class::Conflict,
            Self::Port { .. } => Class::System,
            Self::LinkTaken { .. } | Self::Overlap { .. } | Self::NoSubnet | Self::NoAddress { .. } => Class::Conflict,
            Self::Predefined(..) => Class::Refused,
            Self::BadName(_) | Self::AddressOutside { .. } => Class::Usage,
            Self::BadPort(_) | Self::BadSubnet(_) | Self::Usage(_) => Class::Usage,
            Self::Damaged { .. } => Class::Malformed,
        }
    }
}

/// Adds what was tried to an I/O error that has no path.
pub(super) trait Trying<T> {
    /// `action` completes "cannot …".
    fn trying(self, action: impl Into<String>) -> Result<T, NetError>;
}

impl<T, E: Into<io::Error>> Trying<T> for Result<T, E> {
    fn trying(self, action: impl Into<String>) -> Result<T, NetError> {
        self.map_err(|error| NetError::System { action: action.into(), source: error.into() })
    }
}
