//! The monitor: one small process a container. It starts the program, passes its input and output on, writes the log
//! and the state, and starts the program again where the policy says so. It lives in a PID namespace of its own, as
//! its first process: when it ends, however it ends, the kernel ends the container with it.

pub mod health;
pub mod hub;
pub mod log;
mod log_attributes;
pub mod log_files;
pub mod protocol;
mod requests;
mod starting;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::health::Checks;
use self::hub::{Hub, Request};
use self::log::Logger;
use self::protocol::{Exit, Failure, Kind, frame_of};
use super::cgroup::OomWatch;
use super::container::{Container, ContainerDir, Containers, State, Status};
use super::error::{RuntimeError, While};
use super::start;
use super::{events, network, remove, signals, volumes};
use crate::base::AtPath;
use crate::sys::process::{self as sys, CloneOptions, Fork, SignalFd};

/// How long after a container is looked at again that a command is at work on.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Docker's first pause before a restart; it doubles up to a minute and is forgotten after ten seconds of life.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const SETTLED: Duration = Duration::from_secs(10);

/// What a process is called that was a monitor and now takes down what its network needs no more.
const SWEEPER: &std::ffi::CStr = c"ferry-sweeper";

/// Becomes the monitor of a container: the body of a process that was started for it alone, with the command that
/// started it at the other end of `control`. Comes back in the intermediate process and, with the exit code, when the
/// container has ended for good.
pub fn main(store_root: &Path, id: &str, control: UnixStream) -> i32 {
    let dir = Containers::new(store_root).dir(id);
    match daemonise(store_root, dir, control) {
        Ok(code) => code,
        Err((mut control, error)) => {
            fail(&mut control, &error);
            1
        }
    }
}

fn fail(control: &mut UnixStream, error: &RuntimeError) {
    let code = match error {
        RuntimeError::Start { code, .. } => *code,
        _ => 125,
    };
    let failure = Failure { code, message: error.to_string() };
    // Whoever started this may be gone.
    let _ = io::Write::write_all(control, &frame_of(Kind::Failed, &failure));
}

fn daemonise(store_root: &Path, dir: ContainerDir, control: UnixStream) -> Result<i32, (UnixStream, RuntimeError)> {
    let prepare = || -> Result<(Container, Fork, OwnedFd, OwnedFd), RuntimeError> {
        let container = dir.container()?;
        rustix::process::setsid().trying("start a session")?;
        let own = start::own_pid_namespace(&container);
        let namespaces = if own { libc::CLONE_NEWPID } else { 0 };
        let (wait, ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).trying("make a pipe")?;
        let fork = sys::clone(&CloneOptions { namespaces, ..CloneOptions::default() }).trying("start the monitor")?;
        if !own {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).trying("become a reaper")?;
        }
        Ok((container, fork, wait, ready))
    };
    let (container, ready) = match prepare() {
        Ok((_, Fork::Parent(_), wait, ready)) => {
            drop(ready);
            // The command holds the container's lock until this process ends, and the monitor's has to be taken by then:
            // without either the container could be taken away.
            let _ = rustix::io::read(&wait, &mut [0]);
            return Ok(0);
        }
        Ok((container, Fork::Child, _, ready)) => (container, ready),
        Err(error) => return Err((control, error)),
    };
    let _ = rustix::process::chdir("/");
    let _ = rustix::thread::set_name(c"ferry-monitor");
    let mut early = match control.try_clone() {
        Ok(early) => early,
        Err(source) => return Err((control, RuntimeError::System { action: "talk to the command".into(), source })),
    };
    let made = Monitor::new(store_root, dir, container, control);
    drop(ready);
    match made {
        Ok(mut monitor) => {
            let bridged = monitor.container.host_config.network_mode.bridge().is_some();
            let code = monitor.live();
            if bridged {
                // Its lock is free and everybody has been told: the container can be started again meanwhile.
                drop(monitor);
                let _ = rustix::thread::set_name(SWEEPER);
                let _ = network::networks(store_root).sweep();
            } else {
                // Its lock ends with the process: who finds it free finds no monitor any more.
                std::mem::forget(monitor);
            }
            Ok(code)
        }
        Err(error) => {
            fail(&mut early, &error);
            Ok(1)
        }
    }
}

/// A running program.
#[derive(Debug)]
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    since: Instant,
    checks: Option<Checks>,
    oom: Option<OomWatch>,
}

struct Monitor {
    store_root: PathBuf,
    dir: ContainerDir,
    container: Container,
    state: State,
    hub: Hub,
    listener: UnixListener,
    signals: SignalFd,
    /// Held for life.
    _lock: File,
    running: Option<Running>,
    pause: Duration,
    /// Set while the program is to be started again.
    restarting: bool,
    /// The container's lock, while its program is started again.
    held: Option<File>,
    /// A signal that ends the monitor has come: the program is stopped, and not started again.
    ending: bool,
    /// Any signal has been sent to the program, and one after whose end it is not started again.
    signalled: bool,
    last: bool,
    /// It is ended to be started again at once by whoever asked: it stays although it is `--rm`.
    keep: bool,
    /// When the program is killed, should it not have stopped by then.
    kill_at: Option<Instant>,
}

impl Monitor {
    fn new(
        store_root: &Path,
        dir: ContainerDir,
        container: Container,
        control: UnixStream,
    ) -> Result<Self, RuntimeError> {
        let lock = dir.lock_monitor()?.ok_or_else(|| RuntimeError::State {
            verb: "start",
            name: container.name.clone(),
            state: "running".into(),
        })?;
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).trying("find this process")?;
        if let Some(pid) = host_pid(&own) {
            // For those who look for the namespaces that the monitor is in.
            lock.set_len(0)
                .and_then(|()| io::Write::write_all(&mut &lock, format!("{pid}\n").as_bytes()))
                .at("write", dir.file("monitor"))?;
        }
        let signals =
            sys::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).trying("wait for signals")?;
        let (_open, path) = dir.socket()?;
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).at("create", dir.file("ctl"))?;
        listener.set_nonblocking(true).at("create", dir.file("ctl"))?;
        let mut hub = Hub::new(container.config.stdin_once);
        hub.accept(control).trying("talk to the command")?;
        let mut state = dir.recorded_state()?;
        state.restart_count = 0;
        state.stopped_by_user = false;
        state.was_running = false;
        Ok(Self {
            store_root: store_root.to_owned(),
            dir,
            container,
            state,
            hub,
            listener,
            signals,
            _lock: lock,
            running: None,
            pause: FIRST_PAUSE,
            restarting: false,
            held: None,
            ending: false,
            signalled: false,
            last: false,
            keep: false,
            kill_at: None,
        })
    }

    /// The container's life. Gives the monitor's exit code.
    fn live(&mut self) -> i32 {
        // The command says first how it wants to be attached, so that no output is missed.
        self.hear_first();
        if let Err(error) = self.open_log() {
            self.not_started(&error);
            return 1;
        }
        loop {
            let started = self.start();
            self.held = None;
            if let Err(error) = started {
                self.not_started(&error);
                return 1;
            }
            let code = self.watch();
            if let Some(checks) = self.running.as_mut().and_then(|running| running.checks.as_mut()) {
                checks.stop();
            }
            let lived = self.running.take().map_or(Duration::ZERO, |running| running.since.elapsed());
            let again = self.ended(code, lived);
            if !again || !self.wait_for_restart() {
                break;
            }
            self.state.restart_count += 1;
        }
        self.farewell();
        0
    }

    fn open_log(&mut self) -> Result<(), RuntimeError> {
        let attributes = log_attributes::of(&self.container)?;
        self.hub.log_to(Logger::open(&self.dir.log(), &self.container.host_config.log_config, attributes)?);
        Ok(())
    }

    fn hear_first(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.hub.has_clients() && Instant::now() < deadline {
            match self.hub.turn(&[], Some(Duration::from_secs(1))) {
                Ok((_, requests)) if requests.iter().any(|request| request.kind == Kind::Begin) => break,
                Ok(_) => self.hub.forget_gone(),
                Err(_) => break,
            }
        }
    }

    fn write_state(&self) {
        // A state that cannot be written (full disk) must not end the container; the lock tells the truth meanwhile.
        let _ = if self.container.host_config.auto_remove {
            self.dir.write_passing_state(&self.state)
        } else {
            self.dir.write_state(&self.state)
        };
    }

    /// Serves until the program has ended.
    fn watch(&mut self) -> i32 {
        loop {
            let Some(pid) = self.running.as_ref().map(|running| running.pid) else { return 255 };
            self.check_health(pid);
            let timeout = self.kill_at.map(|at| at.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|left| left.is_zero()) {
                self.kill_at = None;
                let _ = self.signal(libc::SIGKILL);
                let _ = self.thaw();
            }
            let due = self.checks().map(|checks| checks.due().saturating_duration_since(Instant::now()));
            let timeout = timeout.into_iter().chain(due).min();
            for request in self.turn(timeout) {
                self.answer(&request);
            }
            self.hub.forget_gone();
            // Asked after every turn: a SIGCHLD that came before it was blocked is no reason to wait.
            match sys::wait(pid, false) {
                Ok(None) => {}
                Ok(Some(code)) => return code,
                Err(_) => return 255,
            }
        }
    }

    /// The health checks of a program that is not frozen.
    fn checks(&self) -> Option<&Checks> {
        let running = self.running.as_ref().filter(|_| self.state.status == Status::Running);
        running.and_then(|running| running.checks.as_ref())
    }

    fn check_health(&mut self, pid: Pid) {
        if self.state.status != Status::Running {
            return;
        }
        let Some(checks) = self.running.as_mut().and_then(|running| running.checks.as_mut()) else { return };
        let known = self.state.health.take().unwrap_or_else(Checks::initial);
        let new = checks.turn(&self.store_root, &self.dir, pid.as_raw_nonzero().get(), &known);
        let changed = new.as_ref().is_some_and(|new| new.status != known.status);
        let ended = new.is_some();
        let health = self.state.health.insert(new.unwrap_or(known));
        if changed {
            let action = format!("health_status: {}", health.status);
            events::record(&self.store_root, &self.container, &action, &[]);
        }
        if ended {
            self.write_state();
        }
    }

    fn turn(&mut self, timeout: Option<Duration>) -> Vec<Request> {
        let mut extra = vec![self.signals.as_fd(), self.listener.as_fd()];
        let oom = self.running.as_ref().and_then(|running| running.oom.as_ref()).map(|watch| {
            extra.push(watch.fd());
            extra.len() - 1
        });
        let running = self.running.as_ref().filter(|_| self.state.status == Status::Running);
        extra.extend(running.and_then(|running| running.checks.as_ref()).and_then(Checks::fd));
        let turned = self.hub.turn(&extra, timeout);
        let (extras, requests) = turned.unwrap_or_default();
        if oom.is_some_and(|oom| extras.contains(&oom)) {
            self.hear_of_oom();
        }
        if extras.contains(&0) {
            while let Some(signal) = self.signals.next() {
                if signal != libc::SIGCHLD && !self.ending {
                    self.ending = true;
                    let patience = signals::stop_timeout(&self.container);
                    self.kill_at = patience.and_then(|patience| Instant::now().checked_add(patience));
                    self.state.was_running = true;
                    let _ = self.signal(signals::stop_signal(&self.container));
                    let _ = self.thaw();
                }
            }
            self.reap();
        }
        if extras.contains(&1) {
            while let Ok((stream, _)) = self.listener.accept() {
                let _ = self.hub.accept(stream);
            }
        }
        requests
    }

    /// As docker: that the program, or another process inside, was killed for want of memory is known at once.
    fn hear_of_oom(&mut self) {
        let cgroup = start::cgroup(&self.container);
        let watch = self.running.as_mut().and_then(|running| running.oom.as_mut());
        if !watch.is_some_and(|watch| watch.news(&cgroup)) {
            return;
        }
        if !std::mem::replace(&mut self.state.oom_killed, true) {
            self.write_state();
        }
        events::record(&self.store_root, &self.container, "oom", &[]);
    }

    /// Collects children that are not the program: what external runtimes leave behind.
    fn reap(&self) {
        let program = self.running.as_ref().map(|running| running.pid);
        while let Some(pid) = sys::ended_child() {
            // The program itself is collected where its exit code is wanted.
            if Some(pid) == program || sys::wait(pid, false).is_err() {
                return;
            }
        }
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        self.running.as_ref().map_or(Ok(()), |running| sys::signal(&running.pidfd, signal))
    }

    /// Notes the program's end. Gives whether it is to be started again.
    fn ended(&mut self, code: i32, lived: Duration) -> bool {
        let cgroup = start::cgroup(&self.container);
        let unheard = !self.state.oom_killed && cgroup.oom_kills() > 0;
        self.state.oom_killed |= unheard;
        self.hub.drain();
        network::disconnect(&self.store_root, &self.container, &mut self.state);
        let _ = cgroup.destroy();
        self.state.exit_code = code;
        self.state.pid = 0;
        self.state.pid_start = 0;
        self.state.finished_at = super::now();
        self.pause = if lived > SETTLED { FIRST_PAUSE } else { self.pause };
        // As docker: after any signal `unless-stopped` takes the end for a stop.
        let unless_stopped = self.container.host_config.restart_policy.name == "unless-stopped";
        self.state.stopped_by_user |= self.last || self.signalled && unless_stopped;
        let again =
            !self.ending && self.container.restarts_after(code, self.state.restart_count, self.state.stopped_by_user);
        self.state.unwatched();
        self.state.status = match again {
            true => Status::Restarting,
            // Should this monitor not live to do it, the next command does.
            false if self.container.host_config.auto_remove && !self.keep => Status::Removing,
            false => Status::Exited,
        };
        self.write_state();
        volumes::note(&self.store_root, &self.container, false);
        if unheard {
            events::record(&self.store_root, &self.container, "oom", &[]);
        }
        let (lived, code_text) = (lived.as_secs().to_string(), code.to_string());
        let more = [("execDuration", lived.as_str()), ("exitCode", &code_text)];
        events::record(&self.store_root, &self.container, "die", &more);
        if again {
            self.hub.announce(&frame_of(Kind::Exit, &Exit { code }));
        }
        again
    }

    /// Waits out the pause. Gives whether the program is still to be started.
    fn wait_for_restart(&mut self) -> bool {
        let at = Instant::now() + self.pause;
        self.restarting = true;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        loop {
            let mut left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Somebody may be at the container's files, which are not to be mounted twice; or ask something, and wait.
                match self.dir.try_lock() {
                    Ok(None) => left = BUSY_PAUSE,
                    held => {
                        self.held = held.ok().flatten();
                        return true;
                    }
                }
            }
            for request in self.turn(Some(left)) {
                self.answer(&request);
            }
            self.hub.forget_gone();
            if !self.restarting || self.ending {
                self.state.status = Status::Exited;
                self.write_state();
                return false;
            }
        }
    }

    fn not_started(&mut self, error: &RuntimeError) {
        let code = match error {
            RuntimeError::Start { code, .. } => *code,
            _ => 125,
        };
        self.hub.drain();
        network::disconnect(&self.store_root, &self.container, &mut self.state);
        let _ = start::cgroup(&self.container).destroy();
        // As docker: a container that never ran is still "created", with the code and the reason.
        self.state.status = if self.state.started_at.is_empty() { Status::Created } else { Status::Exited };
        self.state.exit_code = i32::from(code);
        self.state.error = error.to_string();
        self.state.pid = 0;
        self.write_state();
        if self.container.host_config.auto_remove {
            let _ = remove::ended(&self.store_root, &self.dir, &self.container);
        }
        self.hub.announce(&frame_of(Kind::Failed, &Failure { code, message: error.to_string() }));
        self.hub.flush(Duration::from_secs(5));
    }

    fn farewell(&mut self) {
        let code = self.state.exit_code;
        if self.container.host_config.auto_remove && !self.keep {
            let _ = remove::ended(&self.store_root, &self.dir, &self.container);
        }
        // Those who asked before the lock is gone are answered; later ones see the state.
        for request in self.turn(Some(Duration::ZERO)) {
            self.answer(&request);
        }
        self.hub.announce(&frame_of(Kind::Exit, &Exit { code }));
        self.hub.flush(Duration::from_secs(5));
    }
}

/// A process's PID as the host's `/proc` counts it.
pub fn host_pid(pidfd: impl AsFd) -> Option<i32> {
    use std::os::fd::AsRawFd;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse().ok())
}
