//! A command's end of a container's input and output: starting a monitor, attaching, asking it for things.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use rustix::event::{PollFd, PollFlags};

use super::container::ContainerDir;
use super::error::{RuntimeError, While};
use super::monitor::protocol::{self, Attach, Exit, FRAME_BYTES, Failure, Kind, Started, frame, frame_of};
use super::{sealed, terminal};
use crate::sys::process::{self as sys, SignalFd};

/// The hidden command that makes a process of this binary a monitor.
pub const MONITOR: &str = "__monitor";

/// Starts the monitor of a container, which waits for [`Kind::Begin`].
pub fn start_monitor(store_root: &Path, dir: &ContainerDir) -> Result<UnixStream, RuntimeError> {
    let store_root = std::path::absolute(store_root).trying("find the store")?;
    spawn(dir.path(), &[MONITOR.as_ref(), store_root.as_os_str(), dir.id().as_ref()])
}

/// Runs the sealed binary with a socket as its standard input; gives the other end.
pub fn spawn(other: &Path, args: &[&std::ffi::OsStr]) -> Result<UnixStream, RuntimeError> {
    let (command, sealed) = sealed::command(other)?;
    let ours = start(command, args)?;
    drop(sealed);
    Ok(ours)
}

/// The same from a process that runs the sealed binary itself.
pub fn spawn_sealed(args: &[&std::ffi::OsStr]) -> Result<UnixStream, RuntimeError> {
    start(std::process::Command::new("/proc/self/exe"), args)
}

fn start(mut command: std::process::Command, args: &[&std::ffi::OsStr]) -> Result<UnixStream, RuntimeError> {
    let (ours, theirs) = UnixStream::pair().trying("make a socket")?;
    command.args(args).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::null());
    // What is started stays as long as the container and is to be small; the container's program gets huge pages back.
    let before = sys::allow_huge_pages(false);
    let status = command.status();
    if let Ok(before) = before {
        let _ = sys::allow_huge_pages(before);
    }
    let status = status.trying("start ferry beside the container")?;
    // The process that was started only made the one that stays; what went wrong is said through the socket.
    let _ = status;
    Ok(ours)
}

/// How a command attaches.
#[derive(Debug)]
pub struct Terminal<'a> {
    /// Where input comes from, if it is wanted.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Where output goes: if that is a terminal, the container's takes its size.
    pub screen: BorrowedFd<'a>,
    /// Whether the container has a terminal: the command's own becomes raw.
    pub tty: bool,
    /// Whether signals are passed on.
    pub pass_signals: bool,
    /// The keys that detach, as bytes; empty for none.
    pub detach_keys: Vec<u8>,
}

/// How attaching ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program ended.
    Exited(i32),
    /// The user detached, or the connection was closed with the program still running.
    Detached,
    /// This signal made the command leave; the program runs on.
    Left(i32),
    /// The program could not be started.
    Failed(Failure),
}

/// Parses docker's `--detach-keys`: `ctrl-p,ctrl-q`, single letters.
pub fn parse_detach_keys(text: &str) -> Result<Vec<u8>, RuntimeError> {
    let bad = || RuntimeError::usage(format!("invalid detach keys {text:?}: give letters or ctrl-LETTER, with commas"));
    let key = |key: &str| -> Option<u8> {
        match (key.strip_prefix("ctrl-"), key.as_bytes()) {
            (None, [byte]) => Some(*byte),
            (Some(rest), _) => match rest.as_bytes() {
                [b @ b'a'..=b'z'] => Some(b - b'a' + 1),
                [b'@'] => Some(0),
                [b @ b'['..=b'_'] => Some(b - b'[' + 27),
                _ => None,
            },
            _ => None,
        }
    };
    text.split(',').map(|word| key(word).ok_or_else(bad)).collect()
}

/// A connection that is passing input and output.
struct Session<'a> {
    stream: UnixStream,
    unsent: VecDeque<u8>,
    received: Vec<u8>,
    options: &'a Terminal<'a>,
    input_open: bool,
    matched: usize,
    detached: bool,
    /// What to do with what the user should know of the start; done once.
    notice: Option<&'a mut dyn FnMut(&str)>,
}

/// Signals at which a command leaves when they are not passed on.
const LEAVING: [i32; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

/// Signals that are passed on to the container.
const PASSED: [i32; 9] = [1, 2, 3, 10, 12, 13, 14, 15, 18];

/// Passes input, output, sizes and signals until the program ends. With `begin`, first tells a new monitor to start.
/// Output goes to `out` and `err`; what the user should know of the start to `notice`.
pub fn attach<'a>(
    stream: UnixStream,
    options: &'a Terminal<'a>,
    streams: Attach,
    begin: bool,
    (out, err): (&mut dyn Write, &mut dyn Write),
    notice: &'a mut dyn FnMut(&str),
) -> Result<Outcome, RuntimeError> {
    let talk = "talk to the container's monitor";
    let mut watched = vec![libc::SIGWINCH];
    watched.extend(LEAVING);
    if options.pass_signals {
        watched.extend(PASSED);
    }
    let signals = sys::signal_fd(&watched).trying("wait for signals")?;
    let raw = match options.stdin.filter(|stdin| options.tty && rustix::termios::isatty(stdin)) {
        Some(stdin) => Some(terminal::Raw::enter(stdin).trying("set the terminal")?),
        None => None,
    };
    stream.set_nonblocking(true).trying(talk)?;
    let mut session = Session {
        stream,
        unsent: VecDeque::new(),
        received: Vec::new(),
        options,
        input_open: options.stdin.is_some(),
        matched: 0,
        detached: false,
        notice: Some(notice),
    };
    session.unsent.extend(frame_of(Kind::Attach, &streams));
    session.unsent.extend(frame(Kind::Wait, &[]));
    session.size();
    if begin {
        session.unsent.extend(frame(Kind::Begin, &[]));
    }
    let outcome = session.run(&signals, out, err);
    drop(raw);
    outcome
}

impl Session<'_> {
    fn run(&mut self, signals: &SignalFd, out: &mut dyn Write, err: &mut dyn Write) -> Result<Outcome, RuntimeError> {
        loop {
            self.flush()?;
            if self.detached && self.unsent.is_empty() {
                return Ok(Outcome::Detached);
            }
            let ready = self.wait(signals)?;
            if ready[0] {
                while let Some(signal) = signals.next() {
                    // A terminal that hangs up is lost to this command, not to the program: that has its own.
                    let hung_up = self.options.tty && signal == libc::SIGHUP;
                    if signal == libc::SIGWINCH {
                        self.size();
                    } else if self.options.pass_signals && !hung_up {
                        let kill = protocol::Kill { signal, end: false, keep: false };
                        self.unsent.extend(frame_of(Kind::Kill, &kill));
                    } else {
                        self.unsent.extend(frame(Kind::Detach, &[]));
                        self.flush()?;
                        return Ok(Outcome::Left(signal));
                    }
                }
            }
            if ready[2] {
                self.input();
            }
            if ready[1]
                && let Some(outcome) = self.output(out, err)?
            {
                return Ok(outcome);
            }
        }
    }

    /// Which of signals, connection and input have something.
    fn wait(&self, signals: &SignalFd) -> Result<[bool; 3], RuntimeError> {
        let mut flags = PollFlags::IN;
        if !self.unsent.is_empty() {
            flags |= PollFlags::OUT;
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(&self.stream, flags)];
        if let Some(stdin) = self.options.stdin.filter(|_| self.input_open && self.unsent.len() < FRAME_BYTES) {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => Ok([false; 3]),
            Err(error) => Err(error).trying("wait for the container"),
            Ok(_) => {
                let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
                Ok([ready(0), ready(1), ready(2)])
            }
        }
    }

    fn size(&mut self) {
        let Some((rows, columns)) = terminal::size(self.options.screen).filter(|_| self.options.tty) else { return };
        let [a, b] = rows.to_le_bytes();
        let [c, d] = columns.to_le_bytes();
        self.unsent.extend(frame(Kind::Resize, &[a, b, c, d]));
    }

    fn input(&mut self) {
        let Some(stdin) = self.options.stdin else { return };
        let mut chunk = vec![0; FRAME_BYTES / 2];
        match rustix::io::read(stdin, &mut chunk[..]) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(0) | Err(_) => {
                self.input_open = false;
                self.unsent.extend(frame(Kind::InputEnd, &[]));
            }
            Ok(n) => {
                let bytes = self.without_keys(chunk.get(..n).unwrap_or_default());
                if !bytes.is_empty() {
                    self.unsent.extend(frame(Kind::Input, &bytes));
                }
            }
        }
    }

    /// Takes the detach keys out of the input. A beginning of them that leads nowhere is input after all.
    fn without_keys(&mut self, bytes: &[u8]) -> Vec<u8> {
        let keys = &self.options.detach_keys;
        if !self.options.tty || keys.is_empty() {
            return bytes.to_vec();
        }
        let mut passed = Vec::new();
        for byte in bytes {
            if keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == keys.len() {
                    self.detached = true;
                    self.input_open = false;
                    self.unsent.extend(frame(Kind::Detach, &[]));
                    break;
                }
                continue;
            }
            passed.extend(keys.iter().take(self.matched));
            self.matched = usize::from(keys.first() == Some(byte));
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        passed
    }

    fn flush(&mut self) -> Result<(), RuntimeError> {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match self.stream.write(front) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The other end has said its last word, which is read next.
                Err(_) => self.unsent.clear(),
            }
        }
        Ok(())
    }

    fn output(&mut self, out: &mut dyn Write, err: &mut dyn Write) -> Result<Option<Outcome>, RuntimeError> {
        let mut chunk = vec![0; FRAME_BYTES];
        let ended = match self.stream.read(&mut chunk) {
            Ok(0) => true,
            Ok(n) => {
                self.received.extend_from_slice(chunk.get(..n).unwrap_or_default());
                false
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => false,
            Err(_) => true,
        };
        let malformed = |error: io::Error| RuntimeError::Malformed(format!("the monitor speaks nonsense: {error}"));
        while let Some((kind, payload)) = protocol::take(&mut self.received).map_err(malformed)? {
            let json = |error: serde_json::Error| malformed(error.into());
            match kind {
                Kind::Output | Kind::ErrorOutput => {
                    let to: &mut dyn Write = if kind == Kind::Output { &mut *out } else { &mut *err };
                    match to.write_all(&payload).and_then(|()| to.flush()) {
                        // Its reader went away: what SIGPIPE, which Rust has ignored, says to other programs.
                        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                            return Ok(Some(Outcome::Left(libc::SIGPIPE)));
                        }
                        written => written.trying("write the output")?,
                    }
                }
                Kind::Started => {
                    if let Some(notice) = self.notice.take() {
                        Started::parse(&payload).notices.iter().for_each(|text| notice(text));
                    }
                }
                Kind::Exit => {
                    let exit: Exit = serde_json::from_slice(&payload).map_err(json)?;
                    return Ok(Some(Outcome::Exited(exit.code)));
                }
                // A signal that could not be passed on is no end.
                Kind::Failed => {
                    let failure: Failure = serde_json::from_slice(&payload).map_err(json)?;
                    if failure.code != 1 {
                        return Ok(Some(Outcome::Failed(failure)));
                    }
                }
                _ => {}
            }
        }
        Ok(ended.then_some(Outcome::Detached))
    }
}

/// Tells a new monitor to start, and waits until the program runs. Gives what the user should know of that.
pub fn begin(mut stream: UnixStream) -> Result<Vec<String>, RuntimeError> {
    let talk = "talk to the container's monitor";
    protocol::send(&mut stream, Kind::Wait, &[]).trying(talk)?;
    protocol::send(&mut stream, Kind::Begin, &[]).trying(talk)?;
    loop {
        match protocol::receive(&mut stream).trying(talk)? {
            Some((Kind::Started, payload)) => return Ok(Started::parse(&payload).notices),
            Some((Kind::Exit, _)) => return Ok(Vec::new()),
            Some((Kind::Failed, payload)) => return Err(failure(&payload)),
            Some(_) => {}
            None => return Err(RuntimeError::Malformed("the container's monitor ended without a word".into())),
        }
    }
}

fn failure(payload: &[u8]) -> RuntimeError {
    match serde_json::from_slice::<Failure>(payload) {
        Ok(Failure { code, message }) => RuntimeError::Start { code, message },
        Err(error) => RuntimeError::Malformed(format!("the monitor speaks nonsense: {error}")),
    }
}

/// Asks a living monitor for something and waits for the answer.
pub fn ask(dir: &ContainerDir, kind: Kind, payload: &[u8]) -> Result<(), RuntimeError> {
    let talk = "talk to the container's monitor";
    let mut stream = dir.connect()?;
    protocol::send(&mut stream, kind, payload).trying(talk)?;
    loop {
        match protocol::receive(&mut stream).trying(talk)? {
            Some((Kind::Done, _)) => return Ok(()),
            Some((Kind::Failed, payload)) => return Err(failure(&payload)),
            Some(_) => {}
            None => return Err(RuntimeError::Conflict("the container ended meanwhile".into())),
        }
    }
}

/// Waits for the program's end, for `timeout` at most; gives its exit code, `None` for one that still runs.
pub fn wait_for_end(dir: &ContainerDir, timeout: Option<std::time::Duration>) -> Result<Option<i32>, RuntimeError> {
    let talk = "talk to the container's monitor";
    let Ok(mut stream) = dir.connect() else { return Ok(Some(settled(dir)?)) };
    if protocol::send(&mut stream, Kind::Wait, &[]).is_err() {
        return Ok(Some(settled(dir)?));
    }
    // Further off than times go is never.
    let deadline = timeout.and_then(|timeout| std::time::Instant::now().checked_add(timeout));
    loop {
        if let Some(deadline) = deadline {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)];
            let wait = rustix::event::Timespec::try_from(left).ok();
            match rustix::event::poll(&mut fds, wait.as_ref()) {
                Ok(0) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                polled => polled.map(drop).trying(talk)?,
            }
        }
        match protocol::receive(&mut stream) {
            Ok(Some((Kind::Exit, payload))) => {
                let exit: Option<Exit> = serde_json::from_slice(&payload).ok();
                return Ok(Some(exit.map_or(255, |exit| exit.code)));
            }
            Ok(Some((Kind::Failed, payload))) => return Err(failure(&payload)),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Ok(Some(settled(dir)?)),
        }
    }
}

/// The exit code of a container whose monitor is gone, or is just going.
fn settled(dir: &ContainerDir) -> Result<i32, RuntimeError> {
    match dir.settled() {
        Ok(state) => Ok(state.exit_code),
        Err(_) if !dir.exists() => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_letters_and_control_letters() {
        let cases: [(&str, Option<&[u8]>); 12] = [
            ("ctrl-p,ctrl-q", Some(&[16, 17])),
            ("a", Some(b"a")),
            ("ctrl-a,b,ctrl-z", Some(&[1, b'b', 26])),
            ("ctrl-@", Some(&[0])),
            ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", Some(&[27, 28, 29, 30, 31])),
            ("", None),
            ("ab", None),
            ("a,,b", None),
            ("ctrl-", None),
            ("ctrl-P", None),
            ("ctrl-pp", None),
            ("\u{e4}", None),
        ];
        for (text, keys) in cases {
            assert_eq!(parse_detach_keys(text).ok().as_deref(), keys, "{text:?}");
        }
    }

    #[test]
    fn only_the_whole_sequence_detaches_and_everything_else_is_input() {
        /// Keys; the pieces that are read; what is passed on; whether it detached.
        type Case = (&'static [u8], &'static [&'static [u8]], &'static [u8], bool);
        let cases: [Case; 8] = [
            (&[16, 17], &[b"ab", &[16, 17]], b"ab", true),
            (&[16, 17], &[&[b'a', 16], &[17, b'b']], b"a", true),
            (&[16, 17], &[&[16, b'a', 17]], &[16, b'a', 17], false),
            (&[16, 17], &[&[16, 16, 17]], &[16], true),
            (&[16, 17], &[&[17, 16]], &[17], false),
            (b"x", &[b"abx", b"c"], b"ab", true),
            (b"xyz", &[b"xyxyz"], b"xy", true),
            (&[], &[&[16, 17]], &[16, 17], false),
        ];
        for (keys, pieces, passed, detached) in cases {
            let screen = std::io::stdout();
            let options = Terminal {
                stdin: None,
                screen: screen.as_fd(),
                tty: true,
                pass_signals: false,
                detach_keys: keys.to_vec(),
            };
            let mut session = Session {
                stream: UnixStream::pair().unwrap().0,
                unsent: VecDeque::new(),
                received: Vec::new(),
                options: &options,
                input_open: true,
                matched: 0,
                detached: false,
                notice: None,
            };
            let mut out = Vec::new();
            for piece in pieces {
                if !session.detached {
                    out.extend(session.without_keys(piece));
                }
            }
            assert_eq!((out.as_slice(), session.detached), (passed, detached), "{keys:?} {pieces:?}");
        }
    }
}
