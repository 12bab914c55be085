//! The process beside a container's monitor that serves its published ports to the host itself, and its names.
//!
//! It is this binary once more, under the name [`ARG0`], with its sockets inherited and its settings on standard input.
//! It waits in one epoll loop, gives up every privilege it can before it reads the first foreign byte, and ends when its
//! monitor does, however that ends.

mod dns;
mod poll;
mod resolve;
mod tcp;
mod udp;

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use self::poll::{Interest, Poll, Token};
use self::resolve::Resolve;
use self::tcp::Relays;
use self::udp::UdpPort;
use super::error::{NetError, Trying};
use super::firewall::redirect_resolver;
use super::listen::Listener;
use super::ports::{ContainerPort, Protocol};
use super::{Helper, RESOLVER};
use crate::base::caps;
use crate::sys::netlink::within;
use crate::sys::nftables::Nftables;
use crate::sys::process;

/// The name under which the binary is the helper.
pub const ARG0: &str = "ferry-net";
/// The user and group of nobody and nogroup.
const NOBODY: u32 = 65_534;
const DNS_PORT: u16 = 53;

/// Whom a container's resolver serves, and whom it asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Resolver {
    /// The networks' directory.
    pub networks: PathBuf,
    /// The container's full ID.
    pub container: String,
    /// Servers for all other names.
    pub servers: Vec<IpAddr>,
}

/// What a helper is to serve.
#[derive(Debug)]
pub(super) struct Service<'a> {
    /// The binary that is the helper.
    pub program: &'a Path,
    pub listeners: Vec<Listener>,
    /// Where published ports lead.
    pub target: Ipv4Addr,
    pub resolver: Option<Resolver>,
    /// The container's network namespace, where its resolver listens.
    pub netns: BorrowedFd<'a>,
    /// Whether published ports are reached from inside it only.
    pub enter: bool,
}

/// What the helper reads from its standard input. Descriptors are given by number.
#[derive(Debug, Serialize, Deserialize)]
struct Settings {
    parent: RawFd,
    /// The namespace in which the target is reached, when it is not the host's.
    netns: Option<RawFd>,
    target: Ipv4Addr,
    listeners: Vec<(RawFd, ContainerPort)>,
    resolver: Option<(RawFd, RawFd, Resolver)>,
}

impl Service<'_> {
    /// Starts the helper; it ends with this process.
    pub fn start(self) -> Result<Helper, NetError> {
        let action = "start the helper for ports and names";
        let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).trying(action)?;
        let mut settings = Settings {
            parent: parent.as_raw_fd(),
            netns: None,
            target: self.target,
            listeners: Vec::new(),
            resolver: None,
        };
        settings.netns = self.enter.then_some(self.netns.as_raw_fd());
        for listener in &self.listeners {
            settings.listeners.push((listener.socket.as_raw_fd(), listener.port.container));
        }
        let mut sockets = None;
        if let Some(resolver) = self.resolver {
            let made = within(self.netns, resolver_sockets).trying("listen for the container's resolver")?;
            let (udp, tcp) = sockets.insert(made);
            settings.resolver = Some((udp.as_raw_fd(), tcp.as_raw_fd(), resolver));
        }
        let mut fds = vec![settings.parent];
        fds.extend(settings.netns);
        fds.extend(settings.listeners.iter().map(|(fd, _)| *fd));
        fds.extend(settings.resolver.iter().flat_map(|(udp, tcp, _)| [*udp, *tcp]));
        let pid = start(self.program, &settings, fds).trying(action)?;
        drop(sockets);
        Helper::of(pid).trying(action)
    }
}

/// Starts the process with its settings and descriptors; gives its PID.
fn start(program: &Path, settings: &Settings, fds: Vec<RawFd>) -> io::Result<u32> {
    let text = serde_json::to_vec(settings)?;
    let mut command = Command::new(program);
    process::hand_down(&mut command, fds);
    let mut child = command
        .arg0(ARG0)
        .env_clear()
        .current_dir("/")
        // What a terminal sends to the monitor is not for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&text)?;
    }
    Ok(child.id())
}

/// The resolver's sockets, made in the container's namespace. Port 53 of all addresses stays free for the container, as
/// docker has it: packets are led to another port, or where nftables is missing, come to port 53 of the one address.
fn resolver_sockets() -> io::Result<(UdpSocket, TcpListener)> {
    let any = SocketAddr::new(RESOLVER.into(), 0);
    let (udp, tcp) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
    let (udp_port, tcp_port) = (udp.local_addr()?.port(), tcp.local_addr()?.port());
    match Nftables::open().and_then(|mut nft| redirect_resolver(&mut nft, RESOLVER, tcp_port, udp_port)) {
        Ok(()) => Ok((udp, tcp)),
        Err(_) => {
            let fixed = SocketAddr::new(RESOLVER.into(), DNS_PORT);
            Ok((UdpSocket::bind(fixed)?, TcpListener::bind(fixed)?))
        }
    }
}

/// When a process was started, in clock ticks since boot (proc_pid_stat(5), field 22). Found by its descriptor: `/proc` may
/// count processes in another PID namespace than this process does.
fn started(pidfd: &OwnedFd) -> io::Result<u64> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let info = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or_else(bad)?.trim();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the name, may hold anything but ends with the last parenthesis.
    let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
    after.split_whitespace().nth(19).and_then(|field| field.parse().ok()).ok_or_else(bad)
}

impl Helper {
    /// The process of a PID that is known to live.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())?;
        Ok(Self { pid, started: started(&pidfd)? })
    }

    /// Ends the helper and waits for its end; that it has ended already is fine.
    pub fn end(&self) -> Result<(), NetError> {
        let action = "end the helper for ports and names";
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        // Looked at after the descriptor is there: the number may be another process's by now.
        if started(&pidfd).ok() != Some(self.started) {
            return Ok(());
        }
        match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).trying(action),
        }
        let mut wait = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        while let Err(rustix::io::Errno::INTR) = rustix::event::poll(&mut wait, None) {}
        // It is a child of its monitor's; for anyone else this does nothing.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        Ok(())
    }
}

/// The helper's life: the exit code.
pub fn main() -> u8 {
    match run() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// A descriptor this process was started with.
fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    process::inherited(number).ok_or(io::ErrorKind::NotFound.into())
}

fn run() -> io::Result<()> {
    let text = caps::read_all(&mut io::stdin().lock(), 64 << 20, "the helper's settings")?;
    let settings: Settings = serde_json::from_slice(&text)?;
    drop(text);
    let netns = settings.netns.map(inherited).transpose()?;
    let mut server = Server::new(settings)?;
    if let Some(netns) = netns {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let _ = process::Code::find().and_then(|code| code.forget());
    give_up_privileges()?;
    server.serve()
}

/// The helper reads what containers and the network send it: it keeps its open sockets, and nothing else.
fn give_up_privileges() -> io::Result<()> {
    // Each connection takes two descriptors.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    rustix::thread::set_no_new_privs(true)?;
    if rustix::process::geteuid().is_root() {
        match process::set_ids(NOBODY, NOBODY, Some(&[])) {
            // In a user namespace without these IDs there is nothing to give up that the user does not have.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {}
            other => other?,
        }
    }
    Ok(())
}

/// How often what has waited too long is looked for.
const SWEEP: Duration = Duration::from_millis(500);

struct Server {
    poll: Poll,
    parent: Token,
    _parent: File,
    listeners: Vec<(Token, TcpListener, SocketAddr)>,
    udp: Vec<UdpPort>,
    relays: Relays,
    resolve: Option<Resolve>,
}

impl Server {
    fn new(settings: Settings) -> io::Result<Self> {
        let mut poll = Poll::new()?;
        let watched = File::from(inherited(settings.parent)?);
        let parent = poll.add(&watched, Interest::READ)?;
        let (mut listeners, mut udp) = (Vec::new(), Vec::new());
        for (number, port) in settings.listeners {
            let target = SocketAddr::new(settings.target.into(), port.port);
            let socket = inherited(number)?;
            match port.protocol {
                Protocol::Tcp => {
                    let listener = TcpListener::from(socket);
                    listener.set_nonblocking(true)?;
                    listeners.push((poll.add(&listener, Interest::READ)?, listener, target));
                }
                Protocol::Udp => udp.push(UdpPort::new(UdpSocket::from(socket), target, &mut poll)?),
            }
        }
        let resolve = match settings.resolver {
            None => None,
            Some((udp, tcp, resolver)) => {
                // Reached by a relative path after this, whoever may pass the directories above.
                rustix::process::chdir(&resolver.networks)?;
                let sockets = (UdpSocket::from(inherited(udp)?), TcpListener::from(inherited(tcp)?));
                Some(Resolve::new(sockets, resolver, &mut poll)?)
            }
        };
        Ok(Self { poll, parent, _parent: watched, listeners, udp, relays: Relays::default(), resolve })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let busy = self.udp.iter().any(UdpPort::is_busy) || self.resolve.as_ref().is_some_and(Resolve::is_busy);
            for token in self.poll.wait(busy.then_some(SWEEP))? {
                if token == self.parent {
                    return Ok(());
                }
                self.handle(token)?;
            }
            for port in &mut self.udp {
                port.sweep();
            }
            if let Some(resolve) = &mut self.resolve {
                resolve.sweep(&mut self.poll);
            }
        }
    }

    /// What fails for one connection ends that one; only the loop's own failures are errors.
    fn handle(&mut self, token: Token) -> io::Result<()> {
        if let Some((_, listener, target)) = self.listeners.iter().find(|(own, ..)| *own == token) {
            if let Some(client) = accept(listener) {
                self.relays.open(client, *target, Vec::new(), &mut self.poll);
            }
            return Ok(());
        }
        for port in &mut self.udp {
            if port.handle(token, &mut self.poll) {
                return Ok(());
            }
        }
        if let Some(resolve) = &mut self.resolve
            && resolve.handle(token, &mut self.relays, &mut self.poll)
        {
            return Ok(());
        }
        self.relays.handle(token, &mut self.poll);
        Ok(())
    }
}

/// The next connection. When descriptors have run out it stays in the queue, and the loop must not spin on it.
fn accept(listener: &TcpListener) -> Option<std::net::TcpStream> {
    match listener.accept() {
        Ok((stream, _)) => Some(stream),
        Err(error) => {
            if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            None
        }
    }
}
