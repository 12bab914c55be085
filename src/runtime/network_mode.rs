//! How a container is connected, as `--network` names it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A container's network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkMode {
    /// Loopback only.
    None,
    /// The host's own namespace.
    Host,
    /// The namespace of another container, by its full ID once the container is made.
    Container(String),
    /// The network `bridge`, which docker calls `default` as well.
    #[default]
    Default,
    /// A user-made bridge network by name.
    Bridge(String),
}

impl NetworkMode {
    /// The name of the bridge network, if it is one.
    pub fn bridge(&self) -> Option<&str> {
        match self {
            Self::Default => Some("bridge"),
            Self::Bridge(name) => Some(name),
            Self::None | Self::Host | Self::Container(_) => None,
        }
    }
}

/// A text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network mode: none, host, bridge, container:NAME or the name of a network")]
pub struct BadNetworkMode(String);

impl FromStr for NetworkMode {
    type Err = BadNetworkMode;

    fn from_str(text: &str) -> Result<Self, BadNetworkMode> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "" | "default" | "bridge" => Ok(Self::Default),
            _ => match text.strip_prefix("container:") {
                Some(id) if !id.is_empty() && id.chars().all(plain) => Ok(Self::Container(id.to_owned())),
                None if text.len() <= 128 && text.chars().all(plain) => Ok(Self::Bridge(text.to_owned())),
                _ => Err(BadNetworkMode(text.chars().take(100).collect())),
            },
        }
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(id) => write!(f, "container:{id}"),
            Self::Default => f.write_str("bridge"),
            Self::Bridge(name) => f.write_str(name),
        }
    }
}

impl Serialize for NetworkMode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NetworkMode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
