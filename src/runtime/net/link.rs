//! Links, addresses and routes, by rtnetlink(7).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{NetError, Trying};
use super::mac::Mac;
use super::subnet::Subnet;
use crate::sys::netlink::{
    Attributes, Message, Reply, Socket, WithAttributes, as_number, as_text, attribute, flags, within,
};

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BRPORT_MODE: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const UP: u32 = 1;

/// A link as the kernel lists it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: String,
    pub mtu: u32,
}

/// A route as far as ferry looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    /// The destination and its prefix length; length 0 is the default route.
    pub to: (Ipv4Addr, u8),
    pub link: Option<u32>,
}

/// The links, addresses and routes of one network namespace.
#[derive(Debug)]
pub(super) struct Links(Socket);

/// `struct ifinfomsg`
fn link_header(family: u8, index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        header[8..12].copy_from_slice(&UP.to_ne_bytes());
        header[12..16].copy_from_slice(&UP.to_ne_bytes());
    }
    header
}

/// `struct rtmsg` of a unicast route in the main table.
fn route_header(prefix: u8) -> [u8; 12] {
    const TABLE_MAIN: u8 = 254;
    const PROTOCOL_BOOT: u8 = 3;
    const TYPE_UNICAST: u8 = 1;
    [AF_INET, prefix, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, 0, TYPE_UNICAST, 0, 0, 0, 0]
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    as_number(bytes.get(at..at + 4)?)
}

fn address_of(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn link_of(reply: &Reply) -> Option<Link> {
    let attrs = reply.body.get(16..)?;
    Some(Link {
        index: number_at(&reply.body, 4)?,
        name: as_text(attribute(attrs, IFLA_IFNAME)?),
        alias: attribute(attrs, IFLA_IFALIAS).map(as_text).unwrap_or_default(),
        mtu: attribute(attrs, IFLA_MTU).and_then(as_number).unwrap_or(1500),
    })
}

impl Links {
    /// Of this thread's namespace.
    pub fn here() -> Result<Self, NetError> {
        Socket::route().trying("open a netlink socket").map(Self)
    }

    /// Of another namespace.
    pub fn of(netns: BorrowedFd<'_>) -> Result<Self, NetError> {
        within(netns, Socket::route).trying("enter the container's network namespace").map(Self)
    }

    /// Brings up the loopback of another namespace. On a thread that ends inside: without privileges over the host's
    /// network there is no way back.
    pub fn raise_loopback(netns: BorrowedFd<'_>) -> Result<(), NetError> {
        let what = "enter the container's network namespace";
        let inside = || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).trying(what)?;
            Self::here()?.loopback()
        };
        let ended = std::thread::scope(|scope| scope.spawn(inside).join());
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread inside has failed")).trying(what))
    }

    /// All links.
    pub fn list(&mut self) -> Result<Vec<Link>, NetError> {
        let replies = self.0.dump(&Message::new(RTM_GETLINK, 0, &link_header(0, 0, false))).trying("list links")?;
        Ok(replies.iter().filter_map(link_of).collect())
    }

    /// The link of a name.
    pub fn find(&mut self, name: &str) -> Result<Option<Link>, NetError> {
        Ok(self.list()?.into_iter().find(|link| link.name == name))
    }

    /// All IPv4 routes.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetError> {
        let message = Message::new(RTM_GETROUTE, 0, &route_header(0));
        let replies = self.0.dump(&message).trying("list routes")?;
        let route = |reply: &Reply| {
            let attrs = reply.body.get(12..)?;
            let destination = attribute(attrs, RTA_DST).and_then(address_of).unwrap_or(Ipv4Addr::UNSPECIFIED);
            let to = (destination, *reply.body.get(1)?);
            Some(Route { to, link: attribute(attrs, RTA_OIF).and_then(as_number) })
        };
        Ok(replies.iter().filter_map(route).collect())
    }

    /// Makes a bridge that is up.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32, alias: &str) -> Result<u32, NetError> {
        let message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &link_header(0, 0, false))
            .text(IFLA_IFNAME, name)
            .number(IFLA_MTU, mtu)
            // Without one of its own a bridge changes its address with its ports.
            .bytes(IFLA_ADDRESS, &mac.0)
            .nested(IFLA_LINKINFO, Attributes::new().text(IFLA_INFO_KIND, "bridge"));
        self.0.request(&message).trying(format!("make the bridge {name}"))?;
        let action = || format!("set up the bridge {name}");
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let index = self.find(name)?.ok_or_else(missing).trying(action())?.index;
        without_ipv6(name).trying(format!("turn IPv6 off for {name}"))?;
        self.set(index, alias).trying(action())?;
        Ok(index)
    }

    /// Makes a pair of links: `name` here, up, a port of the bridge `bridge`; and `peer` in the namespace `netns`.
    pub fn add_pair(&mut self, pair: &Pair<'_>, netns: BorrowedFd<'_>) -> Result<(), NetError> {
        let peer = Attributes::after(&link_header(0, 0, false))
            .text(IFLA_IFNAME, pair.peer)
            .number(IFLA_MTU, pair.mtu)
            .bytes(IFLA_ADDRESS, &pair.mac.0)
            .number(IFLA_NET_NS_FD, netns.as_raw_fd() as u32);
        let data = Attributes::new().nested(VETH_INFO_PEER, peer);
        let message = Message::new(RTM_NEWLINK, flags::CREATE | flags::EXCL, &link_header(0, 0, false))
            .text(IFLA_IFNAME, pair.name)
            .number(IFLA_MTU, pair.mtu)
            .number(IFLA_MASTER, pair.bridge)
            .nested(IFLA_LINKINFO, Attributes::new().text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, data));
        self.0.request(&message).trying(format!("make the pair of links {} and {}", pair.name, pair.peer))
    }

    /// Gives a new port of a bridge its alias, lets it send packets back where they came from (a container that reaches
    /// itself by its published port, where bridged packets pass netfilter), and brings it up.
    pub fn raise_port(&mut self, name: &str, alias: &str) -> Result<(), NetError> {
        let action = || format!("bring up {name}");
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let index = self.find(name)?.ok_or_else(missing).trying(action())?.index;
        let hairpin = Message::new(RTM_SETLINK, 0, &link_header(AF_BRIDGE, index, false))
            .nested(IFLA_PROTINFO, Attributes::new().bytes(IFLA_BRPORT_MODE, &[1]));
        self.0.request(&hairpin).trying(action())?;
        self.set(index, alias).trying(action())
    }

    fn set(&mut self, index: u32, alias: &str) -> io::Result<()> {
        self.0.request(&Message::new(RTM_SETLINK, 0, &link_header(0, index, true)).text(IFLA_IFALIAS, alias))
    }

    /// Brings a link up.
    pub fn up(&mut self, index: u32) -> Result<(), NetError> {
        self.0.request(&Message::new(RTM_SETLINK, 0, &link_header(0, index, true))).trying("bring a link up")
    }

    /// Brings the loopback up. It is the first link of every namespace.
    pub fn loopback(&mut self) -> Result<(), NetError> {
        self.up(1)
    }

    /// Removes a link; that it is gone already is fine.
    pub fn remove(&mut self, name: &str) -> Result<(), NetError> {
        let message = Message::new(RTM_DELLINK, 0, &link_header(0, 0, false)).text(IFLA_IFNAME, name);
        match self.0.request(&message) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
        .trying(format!("remove the link {name}"))
    }

    /// Removes a link by its index; that it is gone already is fine.
    pub fn remove_index(&mut self, index: u32) -> io::Result<()> {
        match self.0.request(&Message::new(RTM_DELLINK, 0, &link_header(0, index, false))) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes a link down: nothing passes it any more. That it is gone already is fine.
    pub fn down(&mut self, name: &str) -> Result<(), NetError> {
        let mut header = link_header(0, 0, false);
        // Which flags change: this one, to nothing.
        header[12..16].copy_from_slice(&UP.to_ne_bytes());
        match self.0.request(&Message::new(RTM_SETLINK, 0, &header).text(IFLA_IFNAME, name)) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(()),
        }
        .trying(format!("take down the link {name}"))
    }

    /// Gives a link an address; that it has it already is fine.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, subnet: Subnet) -> Result<(), NetError> {
        let mut header = [AF_INET, subnet.prefix(), 0, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let message = Message::new(RTM_NEWADDR, flags::CREATE | flags::EXCL, &header)
            .bytes(IFA_LOCAL, &address.octets())
            .bytes(IFA_ADDRESS, &address.octets())
            .bytes(IFA_BROADCAST, &subnet.broadcast().octets());
        match self.0.request(&message) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
        .trying(format!("set the address {address}/{}", subnet.prefix()))
    }

    /// Makes `gateway` the default route.
    pub fn add_default_route(&mut self, gateway: Ipv4Addr) -> Result<(), NetError> {
        let message = Message::new(RTM_NEWROUTE, flags::CREATE | flags::EXCL, &route_header(0))
            .bytes(RTA_GATEWAY, &gateway.octets());
        self.0.request(&message).trying(format!("set the default route by {gateway}"))
    }
}

/// Keeps a link of this thread's namespace from having IPv6 addresses: their traffic would pass none of ferry's rules. To
/// be called before it is up. Fine on a kernel without IPv6.
pub(super) fn without_ipv6(name: &str) -> io::Result<()> {
    match std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// A pair of links to be made.
#[derive(Debug)]
pub(super) struct Pair<'a> {
    /// The end in the host.
    pub name: &'a str,
    /// The index of the bridge that it is a port of.
    pub bridge: u32,
    /// The end in the container.
    pub peer: &'a str,
    /// The address of the end in the container.
    pub mac: Mac,
    /// Of both.
    pub mtu: u32,
}
