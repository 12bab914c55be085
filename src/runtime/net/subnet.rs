//! IPv4 subnets.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 subnet: a base address whose host bits are zero, and a prefix length of at most 30, so that there is room
/// for a gateway and a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

/// A text or number that is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IPv4 subnet in the form 172.20.0.0/16, of at most 30 bits and without host bits")]
pub struct BadSubnet(String);

impl Subnet {
    /// The subnet of `prefix` bits that begins at `base`.
    pub fn new(base: Ipv4Addr, prefix: u8) -> Result<Self, BadSubnet> {
        let subnet = Self { base: base.to_bits(), prefix };
        if (1..=30).contains(&prefix) && subnet.base & !subnet.mask() == 0 {
            Ok(subnet)
        } else {
            Err(BadSubnet(format!("{base}/{prefix}")))
        }
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// How many bits of an address are the network's.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address whose host bits are zero.
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    /// The mask as an address.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask())
    }

    /// The address whose host bits are all one.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base | !self.mask())
    }

    /// Whether the address lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.base
    }

    /// Whether a host may have the address: inside, and neither the first nor the last.
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.base() && address != self.broadcast()
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Subnet) -> bool {
        self.contains(other.base()) || other.contains(self.base())
    }

    /// The addresses hosts may have, in order.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.base + 1..self.base | !self.mask()).map(Ipv4Addr::from_bits)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let bad = || BadSubnet(text.chars().take(64).collect());
        let (base, prefix) = text.split_once('/').ok_or_else(bad)?;
        Self::new(base.parse().map_err(|_| bad())?, prefix.parse().map_err(|_| bad())?).map_err(|_| bad())
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The pool networks are taken from, as docker's: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to
/// 192.168.240.0/20 (moby, `libnetwork/ipamutils`).
pub fn pool() -> impl Iterator<Item = Subnet> {
    let large = (17..=31).map(|n| Subnet { base: Ipv4Addr::new(172, n, 0, 0).to_bits(), prefix: 16 });
    let small = (0..16).map(|n| Subnet { base: Ipv4Addr::new(192, 168, n * 16, 0).to_bits(), prefix: 20 });
    large.chain(small)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read_only_in_their_one_right_form() {
        let subnet: Subnet = "172.17.0.0/16".parse().unwrap();
        assert_eq!(subnet.to_string(), "172.17.0.0/16");
        assert_eq!(subnet.netmask(), Ipv4Addr::new(255, 255, 0, 0));
        assert_eq!(subnet.broadcast(), Ipv4Addr::new(172, 17, 255, 255));
        for bad in ["172.17.0.0", "172.17.0.1/16", "172.17.0.0/31", "172.17.0.0/0", "x/8", "172.17.0.0/33", ""] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_all_but_the_first_and_last_address() {
        let subnet: Subnet = "10.0.0.4/30".parse().unwrap();
        let hosts: Vec<_> = subnet.hosts().map(|host| host.to_string()).collect();
        assert_eq!(hosts, ["10.0.0.5", "10.0.0.6"]);
        assert!(!subnet.is_host(subnet.base()) && !subnet.is_host(subnet.broadcast()));
        assert!(subnet.overlaps("10.0.0.0/8".parse().unwrap()));
        assert!(!subnet.overlaps("10.0.0.0/30".parse().unwrap()));
    }

    #[test]
    fn no_two_subnets_of_the_pool_overlap() {
        let all: Vec<_> = pool().collect();
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| !a.overlaps(*b)), "{a}");
        }
    }
}
