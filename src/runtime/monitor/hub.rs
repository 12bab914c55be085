//! Input and output of a container's process: between its pipes or terminal, the log and any number of clients, on
//! one thread. A client that does not read holds the container's output back rather than memory growing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::super::terminal;
use super::log::Logger;
use super::protocol::{self, Attach, Kind};
use crate::sys::process::Code;

/// How much waits for a client, or for the container's standard input, before the other side has to.
const BUFFER: usize = 256 << 10;
const CHUNK: usize = 32 << 10;
/// After how long without anything to do this process lets go of what it needs only for doing something: it mostly
/// waits, maybe for months.
const REST: Duration = Duration::from_millis(250);

/// Where a process's input and output are.
#[derive(Debug, Default)]
pub struct Streams {
    /// To its standard input.
    pub stdin: Option<File>,
    /// From its standard output.
    pub stdout: Option<File>,
    /// From its standard error.
    pub stderr: Option<File>,
    /// Its terminal, instead of all three.
    pub terminal: Option<File>,
}

/// A connected command.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    unsent: VecDeque<u8>,
    attach: Attach,
    /// Whether it wants to hear of the end.
    pub waits: bool,
    detached: bool,
    gone: bool,
}

/// Something a client asks for that is not about its own input and output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which client, an index of this round.
    pub client: usize,
    /// What.
    pub kind: Kind,
    /// With which bytes.
    pub payload: Vec<u8>,
}

/// All of it.
#[derive(Debug)]
pub struct Hub {
    streams: Streams,
    clients: Vec<Client>,
    input: VecDeque<u8>,
    input_ended: bool,
    /// Whether there is a process.
    connected: bool,
    close_once: bool,
    log: Option<Logger>,
    /// The last size a client gave, for a terminal that is still to come.
    size: Option<(u16, u16)>,
    /// What this process lets go of while it waits; found when it first does.
    code: Option<Code>,
}

/// What a poll is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Extra(usize),
    Input,
    Output,
    ErrorOutput,
    Terminal,
    Client(usize),
}

impl Hub {
    /// `close_once`: standard input ends with the first client that sends it.
    pub fn new(close_once: bool) -> Self {
        let streams = Streams::default();
        Self {
            streams,
            clients: Vec::new(),
            input: VecDeque::new(),
            input_ended: false,
            connected: false,
            close_once,
            log: None,
            size: None,
            code: None,
        }
    }

    /// Writes output to this log, too.
    pub fn log_to(&mut self, log: Option<Logger>) {
        self.log = log;
    }

    /// The last size that a client gave, in rows and columns.
    pub fn size(&self) -> Option<(u16, u16)> {
        self.size
    }

    /// Connects a new process.
    pub fn connect(&mut self, streams: Streams) -> io::Result<()> {
        for file in [&streams.stdin, &streams.stdout, &streams.stderr, &streams.terminal].into_iter().flatten() {
            rustix::io::ioctl_fionbio(file, true)?;
        }
        self.streams = streams;
        self.connected = true;
        // It may have changed since the terminal was made.
        if let Some(terminal) = &self.streams.terminal {
            terminal::resize_to(terminal, self.size);
        }
        // What a client sent before there was anybody to read it.
        self.feed();
        Ok(())
    }

    /// Takes a new client.
    pub fn accept(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let (received, unsent) = (Vec::new(), VecDeque::new());
        let attach = Attach::default();
        self.clients.push(Client { stream, received, unsent, attach, waits: false, detached: false, gone: false });
        Ok(())
    }

    /// Whether anybody is connected.
    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Queues a frame for one client.
    pub fn send(&mut self, client: usize, frame: &[u8]) {
        if let Some(client) = self.clients.get_mut(client) {
            client.unsent.extend(frame);
            client.flush();
        }
    }

    /// Queues a frame for all who attached or wait.
    pub fn announce(&mut self, frame: &[u8]) {
        for client in self.clients.iter_mut().filter(|c| c.waits || c.attach != Attach::default()) {
            client.unsent.extend(frame);
            client.flush();
        }
    }

    /// Waits for something to happen, for `timeout` at most. `extra` are descriptors of the caller's to read from; the
    /// answer is which of them have something, and the rest has been dealt with but for the requests.
    pub fn turn(
        &mut self,
        extra: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> io::Result<(Vec<usize>, Vec<Request>)> {
        let ready = self.poll(extra, timeout)?;
        let mut extras = Vec::new();
        let mut requests = Vec::new();
        for source in ready {
            match source {
                Source::Extra(index) => extras.push(index),
                Source::Output => self.pump(1),
                Source::ErrorOutput => self.pump(2),
                Source::Input => self.feed(),
                Source::Terminal => {
                    self.pump(0);
                    self.feed();
                }
                Source::Client(index) => self.serve(index, &mut requests),
            }
        }
        Ok((extras, requests))
    }

    fn poll(&mut self, extra: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<Source>> {
        let held = self.clients.iter().any(|client| client.unsent.len() > BUFFER);
        let full = self.input.len() > BUFFER;
        let read = if held { PollFlags::empty() } else { PollFlags::IN };
        let write = if self.input.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let streams = &self.streams;
        let own = [
            (Source::Output, &streams.stdout, read),
            (Source::ErrorOutput, &streams.stderr, read),
            (Source::Input, &streams.stdin, write),
            (Source::Terminal, &streams.terminal, read | write),
        ];
        let mut watched: Vec<(Source, PollFd<'_>)> = Vec::new();
        for (index, fd) in extra.iter().enumerate() {
            watched.push((Source::Extra(index), PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        }
        for (source, file, flags) in own {
            // A stream nothing is wanted of is not watched at all: a hang-up would be reported without end.
            if let Some(file) = file.as_ref().filter(|_| !flags.is_empty()) {
                watched.push((source, PollFd::new(file, flags)));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = if full { PollFlags::empty() } else { PollFlags::IN };
            if !client.unsent.is_empty() {
                flags |= PollFlags::OUT;
            }
            watched.push((Source::Client(index), PollFd::new(&client.stream, flags)));
        }
        let (sources, mut fds): (Vec<Source>, Vec<PollFd<'_>>) = watched.into_iter().unzip();
        let first = timeout.map_or(REST, |timeout| timeout.min(REST));
        let rest = timeout.map(|timeout| timeout.saturating_sub(REST));
        let spec = |time: Duration| rustix::event::Timespec::try_from(time).ok();
        let mut polled = rustix::event::poll(&mut fds, spec(first).as_ref());
        if polled == Ok(0) && rest != Some(Duration::ZERO) {
            if self.code.is_none() {
                self.code = Some(Code::find().unwrap_or_default());
            }
            if let Some(code) = &self.code {
                polled = code.forget_and_poll(&mut fds, rest.and_then(spec).as_ref());
            }
        }
        match polled {
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
            Ok(_) => {
                Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(s, _)| s).collect())
            }
        }
    }

    fn stream(&mut self, number: usize) -> &mut Option<File> {
        match number {
            0 => &mut self.streams.terminal,
            1 => &mut self.streams.stdout,
            _ => &mut self.streams.stderr,
        }
    }

    /// Passes on what one stream has (0 is the terminal), at most a chunk; a stream that has ended is closed.
    fn pump(&mut self, number: usize) {
        let mut chunk = [0; CHUNK];
        let Some(file) = self.stream(number) else { return };
        let n = match file.read(&mut chunk) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            // A terminal whose last user is gone fails with EIO.
            Err(_) | Ok(0) => {
                *self.stream(number) = None;
                return;
            }
            Ok(n) => n,
        };
        let bytes = chunk.get(..n).unwrap_or_default();
        if let Some(log) = &mut self.log {
            // A full disk must not end the container; docker drops what it cannot log as well.
            let _ = log.write(if number == 2 { 2 } else { 1 }, bytes);
        }
        let (kind, wanted): (_, fn(&Attach) -> bool) =
            if number == 2 { (Kind::ErrorOutput, |a| a.stderr) } else { (Kind::Output, |a| a.stdout) };
        let frame = protocol::frame(kind, bytes);
        for client in self.clients.iter_mut().filter(|client| wanted(&client.attach)) {
            client.unsent.extend(&frame);
            client.flush();
        }
    }

    /// Gives standard input what waits for it.
    fn feed(&mut self) {
        if !self.connected {
            return;
        }
        let is_terminal = self.streams.terminal.is_some();
        let to = if is_terminal { &mut self.streams.terminal } else { &mut self.streams.stdin };
        let Some(file) = to else {
            self.input.clear();
            return;
        };
        while !self.input.is_empty() {
            let (front, _) = self.input.as_slices();
            match file.write(front) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.input.clear();
                    if !is_terminal {
                        self.streams.stdin = None;
                    }
                    return;
                }
            }
        }
        if self.input_ended && !is_terminal {
            self.streams.stdin = None;
        }
    }

    fn serve(&mut self, index: usize, requests: &mut Vec<Request>) {
        let Some(client) = self.clients.get_mut(index) else { return };
        client.flush();
        client.fill();
        loop {
            let Some(client) = self.clients.get_mut(index) else { return };
            let (kind, payload) = match protocol::take(&mut client.received) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => {
                    client.gone = true;
                    break;
                }
            };
            match kind {
                Kind::Attach => client.attach = serde_json::from_slice(&payload).unwrap_or_default(),
                Kind::Wait => client.waits = true,
                Kind::Detach => client.detached = true,
                Kind::Input => {
                    self.input.extend(payload);
                    self.feed();
                }
                Kind::InputEnd => self.end_input(),
                Kind::Resize => {
                    if let [r0, r1, c0, c1] = payload[..] {
                        let (rows, columns) = (u16::from_le_bytes([r0, r1]), u16::from_le_bytes([c0, c1]));
                        self.size = Some((rows, columns));
                        if let Some(terminal) = &self.streams.terminal {
                            terminal::resize_to(terminal, self.size);
                        }
                    }
                }
                _ => requests.push(Request { client: index, kind, payload }),
            }
        }
    }

    fn end_input(&mut self) {
        if self.close_once {
            self.input_ended = true;
            self.feed();
        }
    }

    /// Forgets clients that are gone. Indices of [`Request`]s are void after it.
    pub fn forget_gone(&mut self) {
        let before = self.clients.len();
        let lost_input = self.clients.iter().any(|c| c.gone && c.attach.stdin && !c.detached);
        self.clients.retain(|client| !client.gone);
        if self.clients.len() != before && lost_input {
            self.end_input();
        }
    }

    /// Passes on all output that is there, without waiting: the process has ended.
    pub fn drain(&mut self) {
        for number in 0..3 {
            // What another process still writes into the pipe is not waited for without end.
            for _ in 0..1024 {
                let Some(file) = self.stream(number) else { break };
                let mut fds = [PollFd::new(file, PollFlags::IN)];
                let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
                if !matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(1)) {
                    break;
                }
                self.pump(number);
                self.flush(Duration::from_millis(100));
            }
        }
        if let Some(log) = &mut self.log {
            let _ = log.finish();
        }
        self.streams = Streams::default();
        self.connected = false;
        self.input.clear();
    }

    /// Sends what waits for clients, for `patience` at most.
    pub fn flush(&mut self, patience: Duration) {
        let deadline = std::time::Instant::now() + patience;
        loop {
            let mut fds: Vec<PollFd<'_>> = Vec::new();
            for client in self.clients.iter().filter(|client| !client.unsent.is_empty() && !client.gone) {
                fds.push(PollFd::new(&client.stream, PollFlags::OUT));
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if fds.is_empty() || left.is_zero() {
                return;
            }
            let Ok(timeout) = rustix::event::Timespec::try_from(left) else { return };
            let _ = rustix::event::poll(&mut fds, Some(&timeout));
            self.clients.iter_mut().for_each(Client::flush);
        }
    }
}

impl Client {
    fn flush(&mut self) {
        while !self.unsent.is_empty() && !self.gone {
            let (front, _) = self.unsent.as_slices();
            match self.stream.write(front) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.gone = true,
            }
        }
        if self.unsent.is_empty() && self.unsent.capacity() > CHUNK {
            self.unsent = VecDeque::new();
        }
    }

    fn fill(&mut self) {
        let mut chunk = [0; CHUNK];
        while self.received.len() < BUFFER {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.gone = true;
                    break;
                }
                Ok(n) => self.received.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
    }
}
