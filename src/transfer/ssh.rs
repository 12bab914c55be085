//! The built-in ssh client, on libssh2: known host keys only, agent, key files, passwords.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use ssh2::{BlockDirections, ErrorCode, MethodType, Session};

use super::known_hosts::{self, KnownHosts, Verdict};
use super::patience::Patient;
use super::remote::{Process, Remote, RemoteError, Tail};
use super::ssh_config::{HostConfig, UnknownKeys};

/// Asks the user; the command line has a terminal, a library does not.
pub trait Prompter: Send + Sync {
    /// A secret, not shown while it is typed. `None`: there is nobody to ask, or they would not say.
    fn secret(&self, question: &str) -> Option<String>;
    /// A word, shown while it is typed.
    fn word(&self, question: &str) -> Option<String>;
    /// Yes or no; no without anybody to ask.
    fn confirm(&self, question: &str) -> bool;
}

/// How to connect.
#[derive(Clone)]
pub struct Options {
    /// Take an unknown host key without asking (never a changed one).
    pub accept_new: bool,
    /// For connecting, and for the far side to answer when something is due.
    pub timeout: Duration,
    /// Whom to ask.
    pub prompter: Arc<dyn Prompter>,
}

/// A connected, logged-in session.
pub struct SshRemote {
    host: String,
    session: Session,
    /// The session's socket, for waiting.
    socket: TcpStream,
    timeout: Duration,
}

/// A quiet line is probed this often at least, and at most (libssh2 knows nothing more frequent), in seconds.
const KEEPALIVE: (u64, u64) = (15, 2);
/// libssh2's `LIBSSH2_ERROR_EAGAIN`.
const EAGAIN: i32 = -37;
/// What is in memory between ssh and its user, each way.
const BUFFER: usize = 256 << 10;

impl SshRemote {
    /// Connects and logs in.
    pub fn connect(host: &str, config: &HostConfig, options: &Options) -> Result<Self, RemoteError> {
        let ssh = |action| move |source| RemoteError::Ssh { host: host.to_owned(), action, source };
        let tcp = dial(&config.hostname, config.port, options.timeout).map_err(|source| RemoteError::Io {
            host: host.to_owned(),
            action: "connect",
            source,
        })?;
        let mut session = Session::new().map_err(ssh("start ssh"))?;
        session.set_timeout(u32::try_from(options.timeout.as_millis()).unwrap_or(u32::MAX));
        session.set_compress(false);
        let known = KnownHosts::read(&config.known_hosts);
        let name = config.host_key_alias.as_deref().unwrap_or(&config.hostname);
        prefer_known(&session, &known, name, config.port).map_err(ssh("start ssh"))?;
        let socket =
            tcp.try_clone().map_err(|source| RemoteError::Io { host: host.to_owned(), action: "connect", source })?;
        session.set_tcp_stream(tcp);
        session.handshake().map_err(ssh("ssh handshake"))?;
        check_host_key(host, &session, &known, name, config, options)?;
        login(host, &session, config, options)?;
        session.set_keepalive(true, probes(options.timeout) as u32);
        Ok(Self { host: host.to_owned(), session, socket, timeout: options.timeout })
    }
}

/// How often a quiet line is probed, in seconds: more than once before it counts as dead.
fn probes(timeout: Duration) -> u64 {
    (timeout.as_secs() / 3).clamp(KEEPALIVE.1, KEEPALIVE.0)
}

/// Tries every address of a host in turn.
fn dial(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks the server for a key of a type that is known already: another type would look like an unknown host.
fn prefer_known(session: &Session, known: &KnownHosts, host: &str, port: u16) -> Result<(), ssh2::Error> {
    let mut types = known.key_types(session, host, port)?;
    // An RSA key signs in three ways under one name.
    if let Some(at) = types.iter().position(|kind| kind == "ssh-rsa") {
        types.splice(at..=at, ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"].map(String::from));
    }
    let supported = session.supported_algs(MethodType::HostKey)?;
    types.retain(|kind| supported.contains(&kind.as_str()));
    if types.is_empty() {
        return Ok(());
    }
    types.extend(supported.iter().map(|s| s.to_string()).filter(|s| !types.contains(s)).collect::<Vec<_>>());
    session.method_pref(MethodType::HostKey, &types.join(","))
}

fn check_host_key(
    host: &str,
    session: &Session,
    known: &KnownHosts,
    name: &str,
    config: &HostConfig,
    options: &Options,
) -> Result<(), RemoteError> {
    let (key, _) = session.host_key().ok_or_else(|| RemoteError::Io {
        host: host.to_owned(),
        action: "read the host key",
        source: io::ErrorKind::InvalidData.into(),
    })?;
    let (host, fingerprint) = (host.to_owned(), known_hosts::fingerprint(key));
    let kind = known_hosts::key_type(key).unwrap_or_else(|| "unknown type".into());
    let verdict = known.check(session, name, config.port, key).map_err(|source| RemoteError::Ssh {
        host: host.clone(),
        action: "check the host key",
        source,
    })?;
    match verdict {
        Verdict::Known => Ok(()),
        Verdict::Changed(file) => Err(RemoteError::HostKeyChanged { host, fingerprint, kind, file }),
        Verdict::Revoked(file) => Err(RemoteError::HostKeyRevoked { host, fingerprint, file }),
        Verdict::Unknown => {
            let question = format!("The {kind} key of {host} is not known: {fingerprint}. Trust it from now on?");
            let trusted = match config.unknown_keys {
                _ if options.accept_new => true,
                UnknownKeys::Take => true,
                UnknownKeys::Refuse => false,
                UnknownKeys::Ask => !config.batch && options.prompter.confirm(&question),
            };
            if !trusted {
                return Err(RemoteError::UnknownHostKey { host, fingerprint, kind });
            }
            match config.known_hosts.first() {
                Some(file) => known_hosts::remember(file, name, config.port, key).map_err(|source| RemoteError::Io {
                    host,
                    action: "write its key to known_hosts",
                    source,
                }),
                None => Ok(()),
            }
        }
    }
}

fn login(host: &str, session: &Session, config: &HostConfig, options: &Options) -> Result<(), RemoteError> {
    let user = &config.user;
    let silent = Options { prompter: Arc::new(Nobody), ..options.clone() };
    let options = if config.batch { &silent } else { options };
    let mut tried = Vec::new();
    // Also asks with the method "none", which a server may accept.
    let offered = session.auth_methods(user).unwrap_or_default().to_owned();
    let offers = |method: &str| offered.split(',').any(|m| m == method);
    if !session.authenticated() && offers("publickey") {
        if let Some(socket) = &config.identity_agent {
            tried.push("the agent's keys");
            // An agent that does not answer leaves the other ways.
            let _ = login_by_agent(session, user, socket);
        }
        for file in config.identity_files.iter().filter(|file| !session.authenticated() && file.exists()) {
            tried.push("key files");
            login_by_file(session, user, file, options);
        }
    }
    let asked = format!("{user}@{host}");
    if !session.authenticated() && offers("keyboard-interactive") {
        tried.push("keyboard-interactive");
        let mut asker = Interactive { prompter: &*options.prompter, host: &asked, refused: false };
        for _ in 0..3 {
            if session.userauth_keyboard_interactive(user, &mut asker).is_ok() || asker.refused {
                break;
            }
        }
    }
    if !session.authenticated() && offers("password") {
        tried.push("password");
        for _ in 0..3 {
            let Some(password) = options.prompter.secret(&format!("{asked}'s password: ")) else { break };
            if session.userauth_password(user, &password).is_ok() {
                break;
            }
        }
    }
    if session.authenticated() {
        return Ok(());
    }
    tried.dedup();
    let tried = if tried.is_empty() { "nothing".to_owned() } else { tried.join(", ") };
    Err(RemoteError::Login { host: host.to_owned(), user: user.clone(), tried, offered })
}

/// Answers nothing.
struct Nobody;

impl Prompter for Nobody {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }

    fn word(&self, _: &str) -> Option<String> {
        None
    }

    fn confirm(&self, _: &str) -> bool {
        false
    }
}

fn login_by_agent(session: &Session, user: &str, socket: &Path) -> Result<(), ssh2::Error> {
    let mut agent = session.agent()?;
    agent.set_identity_path(socket)?;
    agent.connect()?;
    agent.list_identities()?;
    for identity in agent.identities()? {
        if agent.userauth(user, &identity).is_ok() {
            break;
        }
    }
    Ok(())
}

fn login_by_file(session: &Session, user: &str, file: &Path, options: &Options) {
    if session.userauth_pubkey_file(user, None, file, None).is_ok() || !is_encrypted(file) {
        return;
    }
    for _ in 0..3 {
        let question = format!("Passphrase of {}: ", file.display());
        let Some(passphrase) = options.prompter.secret(&question) else { return };
        if session.userauth_pubkey_file(user, None, file, Some(&passphrase)).is_ok() {
            return;
        }
    }
}

/// Whether a private key wants a passphrase. What cannot be told is not asked for.
fn is_encrypted(file: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(file) else { return false };
    match ssh_key::PrivateKey::from_openssh(&text) {
        Ok(key) => key.is_encrypted(),
        Err(_) => text.contains("ENCRYPTED"),
    }
}

/// Passes a server's questions on.
struct Interactive<'a> {
    prompter: &'a dyn Prompter,
    host: &'a str,
    refused: bool,
}

impl ssh2::KeyboardInteractivePrompt for Interactive<'_> {
    fn prompt<'b>(&mut self, _: &str, instructions: &str, prompts: &[ssh2::Prompt<'b>]) -> Vec<String> {
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        let instructions = clean(instructions);
        let mut answers = Vec::new();
        for prompt in prompts {
            let question = format!("({}) {instructions}{}", self.host, clean(&prompt.text));
            let answer = if prompt.echo { self.prompter.word(&question) } else { self.prompter.secret(&question) };
            self.refused |= answer.is_none();
            answers.push(answer.unwrap_or_default());
        }
        answers
    }
}

impl Remote for SshRemote {
    fn host(&self) -> &str {
        &self.host
    }

    fn start(&mut self, command: &str) -> Result<Process, RemoteError> {
        let ssh = |action| {
            let host = self.host.clone();
            move |source| RemoteError::Ssh { host, action, source }
        };
        self.session.set_blocking(true);
        let mut channel = self.session.channel_session().map_err(ssh("open a channel"))?;
        channel.exec(command).map_err(ssh("start a command"))?;
        let io = |source| RemoteError::Io { host: self.host.clone(), action: "start a command", source };
        let (ours, theirs) = UnixStream::pair().map_err(&io)?;
        let socket = self.socket.try_clone().map_err(&io)?;
        let pump = Pump { session: self.session.clone(), channel, socket, local: theirs, timeout: self.timeout };
        let worker: JoinHandle<io::Result<(i32, String)>> = std::thread::spawn(move || pump.run());
        let patient = |end| Patient::new(end, self.timeout).map_err(&io);
        let stdin = HalfClose(patient(ours.try_clone().map_err(&io)?)?);
        let host = self.host.clone();
        let end = move || {
            let ended = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ended.map_err(|source| RemoteError::Io { host, action: "the connection", source })
        };
        Ok(Process { stdin: Some(Box::new(stdin)), stdout: Box::new(patient(ours)?), end: Box::new(end) })
    }
}

/// Dropping it tells the far side that the input is over, while its output can still be read.
struct HalfClose(Patient<UnixStream>);

impl Write for HalfClose {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for HalfClose {
    fn drop(&mut self) {
        // The other end may have gone first.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write);
    }
}

/// Moves bytes between a channel and a local socket. libssh2 has one lock for both directions of a session, so a
/// blocking read would keep writes out: this is the one thread that touches the session while a command runs.
struct Pump {
    session: Session,
    channel: ssh2::Channel,
    socket: TcpStream,
    local: UnixStream,
    timeout: Duration,
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl Pump {
    fn run(mut self) -> io::Result<(i32, String)> {
        let ended = self.pump();
        if ended.is_err() {
            // Closing the channel would wait for an answer as long again.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        self.session.set_blocking(true);
        let (tail, over) = ended?;
        if !over {
            return Ok((255, tail.text()));
        }
        // The far side has closed; what fails now changes nothing about what was exchanged.
        let _ = self.channel.close();
        let _ = self.channel.wait_close();
        Ok((self.channel.exit_status().unwrap_or(255), tail.text()))
    }

    /// Gives what the command said, and whether it has ended: nobody waits long for one that goes on by itself.
    fn pump(&mut self) -> io::Result<(Tail, bool)> {
        self.session.set_blocking(false);
        self.local.set_nonblocking(true)?;
        let (mut up, mut down) = (Queue::new(), Queue::new());
        let (mut tail, mut scratch) = (Tail::default(), vec![0; 32 << 10]);
        let (mut input_open, mut eof_sent, mut reader_gone) = (true, false, false);
        let (mut last_heard, mut alone) = (Instant::now(), None);
        loop {
            let mut moved = false;
            // From the user to the far side.
            if input_open && up.room() {
                match self.local.read(&mut scratch) {
                    Ok(0) => input_open = false,
                    Ok(n) => up.push(&scratch[..n]),
                    Err(error) if would_block(&error) => {}
                    Err(_) => input_open = false,
                }
            }
            while !up.is_empty() {
                match self.channel.write(up.front()) {
                    Ok(n) => {
                        up.pop(n);
                        moved |= n > 0;
                        if n == 0 {
                            break;
                        }
                    }
                    Err(error) if would_block(&error) => break,
                    Err(error) => return Err(error),
                }
            }
            if !input_open && up.is_empty() && !eof_sent {
                match self.channel.send_eof() {
                    Ok(()) => eof_sent = true,
                    Err(error) if error.code() == ErrorCode::Session(EAGAIN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // From the far side to the user; what nobody reads any more is thrown away so that the command can end.
            if down.room() {
                match self.channel.read(&mut scratch) {
                    Ok(0) => {}
                    Ok(n) => {
                        moved = true;
                        if !reader_gone {
                            down.push(&scratch[..n]);
                        }
                    }
                    Err(error) if would_block(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            match self.channel.stderr().read(&mut scratch) {
                Ok(n) => {
                    moved |= n > 0;
                    tail.push(&scratch[..n]);
                }
                Err(error) if would_block(&error) => {}
                Err(error) => return Err(error),
            }
            while !down.is_empty() {
                match self.local.write(down.front()) {
                    Ok(n) => {
                        down.pop(n);
                        moved |= n > 0;
                    }
                    Err(error) if would_block(&error) => break,
                    Err(_) => {
                        reader_gone = true;
                        down.clear();
                    }
                }
            }
            if self.channel.eof() && down.is_empty() {
                return Ok((tail, true));
            }
            if self.is_left()? && alone.get_or_insert_with(Instant::now).elapsed() > self.timeout {
                return Ok((tail, false));
            }
            if moved {
                last_heard = Instant::now();
                continue;
            }
            self.wait(&up, &down, input_open, &mut last_heard)?;
        }
    }

    /// Whether nobody is at the local end any more.
    fn is_left(&self) -> io::Result<bool> {
        let mut local = [PollFd::from_borrowed_fd(self.local.as_fd(), PollFlags::empty())];
        match poll(&mut local, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => Ok(local[0].revents().contains(PollFlags::HUP)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sleeps until either side can go on. Keeps a quiet line alive, and gives up a dead one.
    fn wait(&self, up: &Queue, down: &Queue, input_open: bool, last_heard: &mut Instant) -> io::Result<()> {
        let mut remote = PollFlags::IN;
        if matches!(self.session.block_directions(), BlockDirections::Outbound | BlockDirections::Both) {
            remote |= PollFlags::OUT;
        }
        let mut local = PollFlags::empty();
        if input_open && up.room() {
            local |= PollFlags::IN;
        }
        if !down.is_empty() {
            local |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(&self.socket, remote)];
        // A closed local end would report HUP without end.
        if !local.is_empty() {
            fds.push(PollFd::from_borrowed_fd(self.local.as_fd(), local));
        }
        // Where nothing is read from it, that the local end is left shows in no event.
        let probes = probes(self.timeout);
        let pause = if local.contains(PollFlags::IN) { probes } else { 1 };
        let pause = rustix::time::Timespec { tv_sec: pause as i64, tv_nsec: 0 };
        match poll(&mut fds, Some(&pause)) {
            Ok(0) => {
                // A living server answers each of these, which counts as heard.
                if last_heard.elapsed() > self.timeout.max(Duration::from_secs(2 * probes)) {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                match self.session.keepalive_send() {
                    Err(error) if error.code() != ErrorCode::Session(EAGAIN) => Err(error.into()),
                    _ => Ok(()),
                }
            }
            Ok(_) => {
                if fds[0].revents().contains(PollFlags::IN) {
                    *last_heard = Instant::now();
                }
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes on their way.
struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

impl Queue {
    fn new() -> Self {
        Self { bytes: Vec::new(), start: 0 }
    }

    fn room(&self) -> bool {
        self.bytes.len() - self.start < BUFFER
    }

    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn front(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.start > BUFFER {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn pop(&mut self, n: usize) {
        self.start += n;
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }
}
