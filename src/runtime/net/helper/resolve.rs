//! The resolver of one container: answers for the names of its networks, and passes other questions to the host's
//! servers.
//!
//! Leases are looked up for each question, so a container that comes later is found at once.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::dns::{self, Outcome, Question};
use super::poll::{Interest, Poll, Token};
use super::tcp::Relays;
use super::udp::connected;
use super::{DNS_PORT, Resolver, accept};
use crate::runtime::net::definition::Directory;

/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions passed on at a time; those beyond fail at once.
const OPEN: usize = 256;
/// Connections whose first question has not come; the oldest gives way.
const CONNECTIONS: usize = 32;
/// Questions handled before others have their turn.
const TURNS: usize = 32;
/// The largest message over UDP that is passed on either way.
const MESSAGE: usize = 65_535;
/// The largest first question over TCP.
const QUESTION: usize = 4_096;

/// A question that a server was asked.
struct Open {
    client: SocketAddr,
    query: Vec<u8>,
    server: usize,
    socket: UdpSocket,
    since: Instant,
}

/// A connection whose first question is being read.
struct Reading {
    stream: TcpStream,
    token: Token,
    bytes: Vec<u8>,
}

pub(super) struct Resolve {
    udp: UdpSocket,
    udp_token: Token,
    tcp: TcpListener,
    tcp_token: Token,
    directory: Directory,
    resolver: Resolver,
    open: HashMap<Token, Open>,
    reading: VecDeque<Reading>,
    buffer: Vec<u8>,
}

impl Resolve {
    /// The working directory is the networks' directory.
    pub fn new((udp, tcp): (UdpSocket, TcpListener), resolver: Resolver, poll: &mut Poll) -> std::io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let (udp_token, tcp_token) = (poll.add(&udp, Interest::READ)?, poll.add(&tcp, Interest::READ)?);
        let directory = Directory::new(Path::new("."));
        let (open, reading, buffer) = (HashMap::new(), VecDeque::new(), Vec::new());
        Ok(Self { udp, udp_token, tcp, tcp_token, directory, resolver, open, reading, buffer })
    }

    /// Whether a server is being waited for.
    pub fn is_busy(&self) -> bool {
        !self.open.is_empty()
    }

    /// Does what an event allows; `false` when it is not the resolver's.
    pub fn handle(&mut self, token: Token, relays: &mut Relays, poll: &mut Poll) -> bool {
        self.buffer.resize(MESSAGE, 0);
        if token == self.udp_token {
            for _ in 0..TURNS {
                let Ok((count, client)) = self.udp.recv_from(&mut self.buffer) else { break };
                let query = self.buffer.get(..count).unwrap_or_default().to_vec();
                self.asked(query, client, poll);
            }
        } else if token == self.tcp_token {
            self.accepted(poll);
        } else if let Some(open) = self.open.get(&token) {
            // A refusal of the server's host comes as an error.
            match open.socket.recv(&mut self.buffer) {
                Ok(count) => self.answered(token, count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => self.ask_next(token, poll),
            }
        } else if let Some(at) = self.reading.iter().position(|reading| reading.token == token) {
            self.read(at, relays, poll);
        } else {
            return false;
        }
        true
    }

    /// The answer, if it can be given here.
    fn answer(&self, query: &[u8], question: &Question) -> Option<Vec<u8>> {
        let neighbours = self.directory.neighbours(&self.resolver.container).unwrap_or_default();
        if let Some(address) = question.reverse() {
            let (network, lease) = neighbours.iter().find(|(_, lease)| lease.address == address)?;
            return Some(dns::pointer(query, question, &format!("{}.{network}", lease.names.first()?)));
        }
        // A name is known alone and with its network's.
        let known = |network: &str, name: &String| {
            question.name == *name
                || question.name.strip_suffix(network).and_then(|rest| rest.strip_suffix('.')) == Some(name)
        };
        let named = neighbours.iter().filter(|(network, lease)| {
            let network = network.to_ascii_lowercase();
            lease.names.iter().any(|name| known(&network, name))
        });
        let addresses: Vec<_> = named.map(|(_, lease)| lease.address).collect();
        match (addresses.is_empty(), question.is_for_addresses()) {
            (true, _) => None,
            (false, true) => Some(dns::addresses(query, question, &addresses)),
            // The name is there but has nothing of that kind.
            (false, false) => Some(dns::empty(query, question, Outcome::Fine)),
        }
    }

    fn asked(&mut self, query: Vec<u8>, client: SocketAddr, poll: &mut Poll) {
        let Some(question) = dns::question(&query) else { return };
        let answer = self.answer(&query, &question).or_else(|| {
            // Nobody to ask knows better.
            let nobody = self.resolver.servers.is_empty();
            let full = self.open.len() >= OPEN;
            nobody
                .then(|| dns::empty(&query, &question, Outcome::NoSuchName))
                .or_else(|| full.then(|| dns::empty(&query, &question, Outcome::ServerFailure)))
        });
        match answer {
            Some(answer) => drop(self.udp.send_to(&answer, client)),
            None => self.ask(query, client, 0, poll),
        }
    }

    /// Asks a server, or the next that can be asked; when there is none, the question fails.
    fn ask(&mut self, query: Vec<u8>, client: SocketAddr, first: usize, poll: &mut Poll) {
        for (server, address) in self.resolver.servers.iter().enumerate().skip(first) {
            let Ok(socket) = connected(SocketAddr::new(*address, DNS_PORT)) else { continue };
            if socket.send(&query).is_err() {
                continue;
            }
            if let Ok(token) = poll.add(&socket, Interest::READ) {
                self.open.insert(token, Open { client, query, server, socket, since: Instant::now() });
                return;
            }
        }
        if let Some(question) = dns::question(&query) {
            let _ = self.udp.send_to(&dns::empty(&query, &question, Outcome::ServerFailure), client);
        }
    }

    fn ask_next(&mut self, token: Token, poll: &mut Poll) {
        if let Some(open) = self.open.remove(&token) {
            self.ask(open.query, open.client, open.server + 1, poll);
        }
    }

    fn answered(&mut self, token: Token, count: usize) {
        let answer = self.buffer.get(..count).unwrap_or_default();
        let Some(open) = self.open.get(&token) else { return };
        // Its socket takes messages from the server's address only; what does not answer the question is dropped.
        if dns::is_answer(answer) && dns::id(answer) == dns::id(&open.query) {
            let _ = self.udp.send_to(answer, open.client);
            self.open.remove(&token);
        }
    }

    /// Asks the next server where one has not answered in time.
    pub fn sweep(&mut self, poll: &mut Poll) {
        let late = self.open.iter().filter(|(_, open)| open.since.elapsed() >= PATIENCE);
        for token in late.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.ask_next(token, poll);
        }
    }

    fn accepted(&mut self, poll: &mut Poll) {
        let Some(stream) = accept(&self.tcp) else { return };
        if self.reading.len() >= CONNECTIONS {
            self.reading.pop_front();
        }
        if stream.set_nonblocking(true).is_ok()
            && let Ok(token) = poll.add(&stream, Interest::READ)
        {
            self.reading.push_back(Reading { stream, token, bytes: Vec::new() });
        }
    }

    /// Reads a question over TCP. One for another server makes the connection a relay to that server.
    fn read(&mut self, at: usize, relays: &mut Relays, poll: &mut Poll) {
        let Some(mut reading) = self.reading.remove(at) else { return };
        let mut buffer = [0; QUESTION];
        match reading.stream.read(&mut buffer) {
            Ok(count) if count > 0 => reading.bytes.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
        loop {
            let Some((length, query)) = framed(&reading.bytes) else {
                // Not all of it yet.
                if reading.bytes.len() < QUESTION {
                    self.reading.push_back(reading);
                }
                return;
            };
            let Some(question) = dns::question(query) else { return };
            let nobody = || self.resolver.servers.is_empty().then(|| dns::empty(query, &question, Outcome::NoSuchName));
            let Some(answer) = self.answer(query, &question).or_else(nobody) else { break };
            let frame = [&(answer.len() as u16).to_be_bytes(), answer.as_slice()].concat();
            // A few hundred bytes always fit the socket of one who reads.
            if !matches!(std::io::Write::write(&mut reading.stream, &frame), Ok(count) if count == frame.len()) {
                return;
            }
            reading.bytes.drain(..2 + length);
        }
        if let Some(server) = self.resolver.servers.first()
            && poll.remove(&reading.stream).is_ok()
        {
            relays.open(reading.stream, SocketAddr::new(*server, DNS_PORT), reading.bytes, poll);
        }
    }
}

/// The first message of a TCP stream, after its length.
fn framed(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let length = usize::from(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    Some((length, bytes.get(2..2 + length)?))
}
