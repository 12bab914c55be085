//! UDP ports passed on: a socket for each client, so that answers find their way back.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::poll::{Interest, Poll, Token};

/// How long a client may be silent before its socket is closed; docker-proxy's.
const IDLE: Duration = Duration::from_secs(90);
/// Clients of one port at a time; the one silent for longest gives way.
const CLIENTS: usize = 1024;
/// Datagrams handled before others have their turn.
const TURNS: usize = 64;
/// The largest datagram.
const DATAGRAM: usize = 65_535;

struct Flow {
    client: SocketAddr,
    socket: UdpSocket,
    last: Instant,
}

/// A published UDP port.
pub(super) struct UdpPort {
    socket: UdpSocket,
    token: Token,
    target: SocketAddr,
    flows: HashMap<Token, Flow>,
    clients: HashMap<SocketAddr, Token>,
    buffer: Vec<u8>,
}

/// A socket on any port, connected to `target`.
pub(super) fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let any = if target.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}

impl UdpPort {
    pub fn new(socket: UdpSocket, target: SocketAddr, poll: &mut Poll) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let token = poll.add(&socket, Interest::READ)?;
        Ok(Self { socket, token, target, flows: HashMap::new(), clients: HashMap::new(), buffer: Vec::new() })
    }

    /// Whether a client is there whose time may end.
    pub fn is_busy(&self) -> bool {
        !self.flows.is_empty()
    }

    /// Does what an event allows; `false` when it is not this port's.
    pub fn handle(&mut self, token: Token, poll: &mut Poll) -> bool {
        self.buffer.resize(DATAGRAM, 0);
        if token == self.token {
            for _ in 0..TURNS {
                let Ok((count, client)) = self.socket.recv_from(&mut self.buffer) else { break };
                let flow = self.flow(client, poll).and_then(|token| self.flows.get(&token));
                // UDP may lose datagrams: what cannot be sent is lost.
                let _ = flow.map(|flow| flow.socket.send(sent(&self.buffer, count)));
            }
            return true;
        }
        let Some(flow) = self.flows.get_mut(&token) else { return false };
        flow.last = Instant::now();
        for _ in 0..TURNS {
            match flow.socket.recv(&mut self.buffer) {
                Ok(count) => {
                    let _ = self.socket.send_to(sent(&self.buffer, count), flow.client);
                }
                // Nobody listens in the container (yet): the client will ask again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => break,
            }
        }
        true
    }

    /// The socket of a client, made when it is new.
    fn flow(&mut self, client: SocketAddr, poll: &mut Poll) -> Option<Token> {
        let now = Instant::now();
        if let Some(token) = self.clients.get(&client) {
            if let Some(flow) = self.flows.get_mut(token) {
                flow.last = now;
            }
            return Some(*token);
        }
        if self.flows.len() >= CLIENTS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.last).map(|(token, _)| *token);
            oldest.and_then(|token| self.flows.remove(&token)).map(|flow| self.clients.remove(&flow.client));
        }
        let socket = connected(self.target).ok()?;
        let token = poll.add(&socket, Interest::READ).ok()?;
        self.flows.insert(token, Flow { client, socket, last: now });
        self.clients.insert(client, token);
        Some(token)
    }

    /// Forgets clients that have been silent for long.
    pub fn sweep(&mut self) {
        let clients = &mut self.clients;
        self.flows.retain(|_, flow| {
            let stays = flow.last.elapsed() < IDLE;
            if !stays {
                clients.remove(&flow.client);
            }
            stays
        });
    }
}

fn sent(buffer: &[u8], count: usize) -> &[u8] {
    buffer.get(..count).unwrap_or_default()
}
