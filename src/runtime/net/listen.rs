//! The host's side of published ports: sockets that hold the port, and from which the proxy serves it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::Published;
use super::error::NetError;
use super::ports::{Protocol, PublishRequest};

/// A socket that holds a port of the host.
#[derive(Debug)]
pub(super) struct Listener {
    pub port: Published,
    pub socket: OwnedFd,
}

/// Takes the ports asked for. All addresses are 0.0.0.0 and, where the host has IPv6, `[::]`, as docker has it.
pub(super) fn listen(requests: &[PublishRequest]) -> Result<Vec<Listener>, NetError> {
    let mut listeners = Vec::new();
    for request in requests {
        listeners.extend(listen_one(request)?);
    }
    Ok(listeners)
}

fn listen_one(request: &PublishRequest) -> Result<Vec<Listener>, NetError> {
    let protocol = request.container.protocol;
    let address = request.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let (first, last) = request.host_ports.unwrap_or((0, 0));
    let mut failure = None;
    for port in first..=last {
        match bind_all(protocol, address, request.host_ip.is_none(), port) {
            Ok(sockets) => {
                let published = |(at, socket): (SocketAddr, OwnedFd)| {
                    let port = Published { container: request.container, host_ip: at.ip(), host_port: at.port() };
                    Listener { port, socket }
                };
                return Ok(sockets.into_iter().map(published).collect());
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => failure = Some(error),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let port = if first == last { first.to_string() } else { format!("{first}-{last}") };
    let source = failure.unwrap_or_else(|| io::ErrorKind::InvalidInput.into());
    Err(NetError::Port { address, port, protocol, source })
}

/// One address, or `0.0.0.0` and `[::]` with the same port.
fn bind_all(protocol: Protocol, address: IpAddr, both: bool, port: u16) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
    let first = bind(protocol, SocketAddr::new(address, port))?;
    let mut sockets = vec![first];
    if both && let Some((at, _)) = sockets.first() {
        match bind(protocol, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), at.port())) {
            Ok(second) => sockets.push(second),
            // No IPv6 here, or none of the user's: port 0 was any port, and one of the two is enough.
            Err(error) if port == 0 || no_ipv6(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<(SocketAddr, OwnedFd)> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of a container that is gone may linger; two listeners still exclude each other.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    match protocol {
        Protocol::Tcp => {
            rustix::net::listen(&socket, 1024)?;
            let listener = TcpListener::from(socket);
            Ok((listener.local_addr()?, listener.into()))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(socket);
            Ok((socket.local_addr()?, socket.into()))
        }
    }
}
