//! How the monitor starts the program: its streams, the process that prepares it, its network.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::health::Checks;
use super::hub::Streams;
use super::protocol::{Kind, Started, frame_of};
use super::{Monitor, Running, host_pid};
use crate::base::AtPath;
use crate::runtime::cgroup::OomWatch;
use crate::runtime::container::Status;
use crate::runtime::error::{RuntimeError, While};
use crate::runtime::init::{self, Stdio};
use crate::runtime::start::{self, Start};
use crate::runtime::{events, network, now, start_time, terminal, volumes};
use crate::sys::process::{self as sys, Fork};

impl Monitor {
    /// Starts the program in a process of its own, and waits until it runs.
    pub(super) fn start(&mut self) -> Result<(), RuntimeError> {
        let mut streams = Streams::default();
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).trying("make a pipe");
        let mut socket = None;
        let stdio = if self.container.config.tty {
            let (ours, theirs) = UnixStream::pair().trying("make a socket")?;
            socket = Some(ours);
            Stdio::Terminal(theirs.into(), self.hub.size())
        } else {
            let (stdin, to) = if self.container.config.open_stdin {
                let (read, write) = pipe()?;
                (read, Some(write))
            } else {
                (File::open("/dev/null").at("open", "/dev/null")?.into(), None)
            };
            let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
            streams.stdin = to.map(File::from);
            streams.stdout = Some(out.into());
            streams.stderr = Some(err.into());
            Stdio::Plain([stdin, stdout, stderr])
        };
        let (report, tell) = pipe()?;
        let (wait, go) = pipe()?;
        let starter = match sys::fork().trying("start the container")? {
            Fork::Parent(pid) => pid,
            Fork::Child => {
                drop((report, streams, socket, go));
                let start = Start { store_root: &self.store_root, dir: &self.dir, container: &self.container, stdio };
                let mut told = |pid: Pid| {
                    rustix::io::write(&tell, format!("{}\n", pid.as_raw_nonzero()).as_bytes())
                        .trying("tell the monitor")?;
                    // Nothing comes when the monitor has failed to connect the network: it tells that itself.
                    match rustix::io::read(&wait, &mut [0]).trying("wait for the network")? {
                        0 => sys::exit(0),
                        _ => Ok(()),
                    }
                };
                if let Err(error) = start::run(start, &mut told) {
                    init::tell_error(tell, &error);
                }
                sys::exit(0);
            }
        };
        drop((tell, wait));
        let mut report = io::BufReader::new(File::from(report));
        let mut text = String::new();
        let heard = io::BufRead::read_line(&mut report, &mut text).trying("hear from the starter");
        let pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        let result = heard.and_then(|_| self.finish_start(report, text, pid, go, &mut streams, socket));
        if let (Err(_), Some(pid)) = (&result, pid) {
            kill_and_collect(pid);
        }
        let _ = sys::wait(starter, true);
        result
    }

    /// From the moment that the starter has told the program's `pid`, or in `text` why there is none. What fails here
    /// leaves the program to the caller.
    fn finish_start(
        &mut self,
        mut report: io::BufReader<File>,
        mut text: String,
        pid: Option<Pid>,
        go: OwnedFd,
        streams: &mut Streams,
        socket: Option<UnixStream>,
    ) -> Result<(), RuntimeError> {
        let mut failed = None;
        let mut oom = None;
        if let Some(pid) = pid {
            text.clear();
            match network::connect(&self.store_root, &self.dir, &self.container, pid) {
                Ok(state) => {
                    self.state.network = state;
                    // Its group is there, and it has not begun.
                    oom = OomWatch::of(&start::cgroup(&self.container));
                    let _ = rustix::io::write(&go, b"g");
                }
                Err(error) => failed = Some(error),
            }
        }
        drop(go);
        io::Read::read_to_string(&mut report, &mut text).trying("hear from the starter")?;
        if let Some(error) = failed {
            return Err(RuntimeError::Start { code: 125, message: error.to_string() });
        }
        if let Some((code, message)) = text.split_once(' ') {
            let code = code.parse().unwrap_or(125);
            return Err(RuntimeError::Start { code, message: message.to_owned() });
        }
        let lost = || RuntimeError::Malformed("the starter ended without a word".into());
        let pid = pid.ok_or_else(lost)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).trying("watch the container's program")?;
        if let Some(socket) = socket {
            streams.terminal = terminal::receive(&socket).trying("receive the terminal")?.map(File::from);
        }
        let host_pid = host_pid(&pidfd).unwrap_or(pid.as_raw_nonzero().get());
        self.hub.connect(std::mem::take(streams)).trying("connect the container's output")?;
        self.state.status = Status::Running;
        self.state.pid = host_pid;
        self.state.pid_start = start_time(host_pid).unwrap_or(0);
        self.state.started_at = now();
        self.state.exit_code = 0;
        self.state.error.clear();
        self.state.oom_killed = false;
        (self.signalled, self.last) = (false, false);
        let checks = Checks::of(&self.container);
        self.state.health = checks.as_ref().map(|_| Checks::initial());
        self.write_state();
        volumes::note(&self.store_root, &self.container, true);
        events::record(&self.store_root, &self.container, "start", &[]);
        let notices = self.state.network.as_ref().map(|network| network.notices.clone()).unwrap_or_default();
        self.hub.announce(&frame_of(Kind::Started, &Started { notices }));
        self.running = Some(Running { pid, pidfd, since: Instant::now(), checks, oom });
        Ok(())
    }
}

/// Ends a program that could not be started completely. It is this process's child: nobody else has its number.
fn kill_and_collect(pid: Pid) {
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    let _ = sys::wait(pid, true);
}
