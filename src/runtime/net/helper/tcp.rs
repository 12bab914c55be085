//! TCP connections passed on: two streams, each written what the other has sent.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::poll::{Interest, Poll, Token};

/// Bytes read at once, into a buffer that all connections share.
const SCRATCH: usize = 64 << 10;
/// Reads in a row from one connection before others have their turn.
const TURNS: usize = 16;

struct Side {
    stream: TcpStream,
    token: Token,
    /// What the poll waits for now; it is not in the poll when that is nothing, for else a closed stream would be
    /// reported again and again.
    interest: Interest,
    /// Not yet written to this side.
    pending: Vec<u8>,
    /// Nothing more will come from this side.
    ended: bool,
    /// This side was told that nothing more will come.
    told: bool,
}

struct Relay {
    client: Side,
    server: Side,
    connected: bool,
}

/// All connections that are passed on.
#[derive(Default)]
pub(super) struct Relays {
    relays: HashMap<u64, Relay>,
    tokens: HashMap<Token, u64>,
    next: u64,
    scratch: Vec<u8>,
}

/// Begins to connect.
fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let family = if target.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &target) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

impl Side {
    fn new(stream: TcpStream, token: Token, pending: Vec<u8>) -> Self {
        let interest = Interest { read: false, write: false };
        Self { stream, token, interest, pending, ended: false, told: false }
    }

    fn wait_for(&mut self, interest: Interest, poll: &Poll) -> io::Result<()> {
        if interest != self.interest {
            match (self.interest.is_none(), interest.is_none()) {
                (true, _) => poll.add_as(&self.stream, self.token, interest)?,
                (false, true) => poll.remove(&self.stream)?,
                (false, false) => poll.modify(&self.stream, self.token, interest)?,
            }
            self.interest = interest;
        }
        Ok(())
    }
}

/// `None` when it would have to wait.
fn attempt(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Moves what can be moved from one side to the other.
fn pump(from: &mut Side, to: &mut Side, scratch: &mut [u8]) -> io::Result<()> {
    for _ in 0..TURNS {
        if !to.pending.is_empty() {
            let Some(count) = attempt(to.stream.write(&to.pending))? else { return Ok(()) };
            to.pending.drain(..count);
            if to.pending.is_empty() {
                // Idle connections keep no buffer.
                to.pending = Vec::new();
            }
            continue;
        }
        if from.ended {
            if !to.told {
                to.told = true;
                to.stream.shutdown(Shutdown::Write)?;
            }
            return Ok(());
        }
        let Some(count) = attempt(from.stream.read(scratch))? else { return Ok(()) };
        from.ended = count == 0;
        let bytes = scratch.get(..count).unwrap_or_default();
        let written = if bytes.is_empty() { 0 } else { attempt(to.stream.write(bytes))?.unwrap_or(0) };
        to.pending.extend_from_slice(bytes.get(written..).unwrap_or_default());
    }
    Ok(())
}

impl Relay {
    /// Whether it goes on.
    fn drive(&mut self, scratch: &mut [u8], poll: &Poll) -> io::Result<bool> {
        if !self.connected {
            if let Some(error) = self.server.stream.take_error()? {
                return Err(error);
            }
            match self.server.stream.peer_addr() {
                Ok(_) => self.connected = true,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            }
        }
        if self.connected {
            pump(&mut self.client, &mut self.server, scratch)?;
            pump(&mut self.server, &mut self.client, scratch)?;
        }
        let (client, server) = (&self.client, &self.server);
        let of = |side: &Side, other: &Side, connecting: bool| Interest {
            read: self.connected && !side.ended && other.pending.is_empty(),
            write: connecting || (self.connected && !side.pending.is_empty()),
        };
        let (for_client, for_server) = (of(client, server, false), of(server, client, !self.connected));
        self.client.wait_for(for_client, poll)?;
        self.server.wait_for(for_server, poll)?;
        Ok(!(self.client.told && self.server.told))
    }
}

impl Relays {
    /// Passes `client` on to `target`, which is first sent what was read from it already. When that fails, the
    /// connection is closed, as the client would see it without a relay.
    pub fn open(&mut self, client: TcpStream, target: SocketAddr, first: Vec<u8>, poll: &mut Poll) {
        if client.set_nonblocking(true).is_err() {
            return;
        }
        let Ok(server) = connect(target) else { return };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let relay = Relay {
            client: Side::new(client, poll.token(), Vec::new()),
            server: Side::new(server, poll.token(), first),
            connected: false,
        };
        self.next += 1;
        let id = self.next;
        self.tokens.insert(relay.client.token, id);
        self.tokens.insert(relay.server.token, id);
        self.relays.insert(id, relay);
        self.drive(id, poll);
    }

    /// Does what an event allows.
    pub fn handle(&mut self, token: Token, poll: &mut Poll) {
        if let Some(id) = self.tokens.get(&token).copied() {
            self.drive(id, poll);
        }
    }

    fn drive(&mut self, id: u64, poll: &Poll) {
        let Some(relay) = self.relays.get_mut(&id) else { return };
        self.scratch.resize(SCRATCH, 0);
        if let Ok(true) = relay.drive(&mut self.scratch, poll) {
            return;
        }
        let tokens = [relay.client.token, relay.server.token];
        self.relays.remove(&id);
        for token in tokens {
            self.tokens.remove(&token);
        }
    }
}
