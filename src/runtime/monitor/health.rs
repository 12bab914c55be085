//! The health check: a command run in the container over and over, whose result is docker's health status.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::container::state::{Health, Probe};
use super::super::container::{Container, ContainerDir};
use super::super::error::{RuntimeError, While};
use super::super::{duration_text, exec};
use super::protocol::{self, Attach, Exit, Failure, Kill, Kind};
use crate::image::config::Healthcheck;

/// Docker's values where the image and the user give none.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// How many probes are remembered, and how much each may have said, in bytes.
const PROBES: usize = 5;
const OUTPUT: usize = 4096;

/// The checks of one container, from one start of its program to its end.
#[derive(Debug)]
pub struct Checks {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    started: Instant,
    next: Instant,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    stream: UnixStream,
    since: Instant,
    start: String,
    received: Vec<u8>,
    output: Vec<u8>,
}

fn positive(nanoseconds: Option<i64>, otherwise: Duration) -> Duration {
    let given = nanoseconds.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
    given.map_or(otherwise, Duration::from_nanos)
}

/// The command of a check; `None` for no check.
fn command(check: &Healthcheck) -> Option<Vec<String>> {
    let (kind, rest) = check.test.split_first()?;
    match kind.as_str() {
        "NONE" | "" => None,
        "CMD-SHELL" => Some(["/bin/sh", "-c"].into_iter().map(str::to_owned).chain(rest.iter().cloned()).collect()),
        "CMD" => Some(rest.to_vec()).filter(|words| !words.is_empty()),
        // Older images leave the word out.
        _ => Some(check.test.clone()),
    }
}

impl Checks {
    /// The checks that the container's settings ask for, beginning now.
    pub fn of(container: &Container) -> Option<Self> {
        let check = container.config.healthcheck.as_ref()?;
        let now = Instant::now();
        let mut checks = Self {
            command: command(check)?,
            interval: positive(check.interval, INTERVAL),
            timeout: positive(check.timeout, TIMEOUT),
            start_period: positive(check.start_period, Duration::ZERO),
            start_interval: positive(check.start_interval, START_INTERVAL),
            retries: check.retries.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(RETRIES),
            started: now,
            next: now,
            running: None,
        };
        checks.next = now + checks.pause(true);
        Some(checks)
    }

    /// What is known before the first probe.
    pub fn initial() -> Health {
        Health { status: "starting".to_owned(), ..Health::default() }
    }

    fn pause(&self, starting: bool) -> Duration {
        let early = starting && self.started.elapsed() < self.start_period;
        if early { self.start_interval.min(self.interval) } else { self.interval }
    }

    /// When [`Checks::turn`] has something to do, whatever comes in meanwhile.
    pub fn due(&self) -> Instant {
        self.running.as_ref().map_or(self.next, |running| running.since + self.timeout)
    }

    /// What there is to wait for.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|running| running.stream.as_fd())
    }

    /// Starts a probe when it is time, reads what one says, and ends one that takes too long. Gives the new health when
    /// a probe has ended. `pid` is the container's program in this PID namespace.
    pub fn turn(&mut self, root: &Path, dir: &ContainerDir, pid: i32, known: &Health) -> Option<Health> {
        let now = Instant::now();
        let Some(running) = &mut self.running else {
            if now >= self.next {
                match start(root, dir, pid, &self.command) {
                    Ok(running) => self.running = Some(running),
                    Err(error) => return Some(self.ended(super::super::now(), -1, error.to_string(), known)),
                }
            }
            return None;
        };
        let (code, output) = match running.read() {
            Some((code, message)) => {
                let said = message.unwrap_or_else(|| String::from_utf8_lossy(&running.output).into_owned());
                (code, said)
            }
            None if now >= running.since + self.timeout => {
                running.kill();
                let timeout = i64::try_from(self.timeout.as_nanos()).unwrap_or(i64::MAX);
                (-1, format!("Health check exceeded timeout ({})", duration_text(timeout)))
            }
            None => return None,
        };
        let start = running.start.clone();
        Some(self.ended(start, code, output, known))
    }

    /// Docker's rules: failures while the container starts do not count, the first success ends the start.
    fn ended(&mut self, start: String, code: i32, output: String, known: &Health) -> Health {
        let mut health = known.clone();
        let early = self.running.take().map_or_else(|| self.started.elapsed(), |r| r.since - self.started);
        if code == 0 {
            health.failing_streak = 0;
            "healthy".clone_into(&mut health.status);
        } else if health.status != "starting" || early >= self.start_period {
            health.failing_streak += 1;
            if health.failing_streak >= self.retries {
                "unhealthy".clone_into(&mut health.status);
            }
        }
        health.log.push(Probe { start, end: super::super::now(), exit_code: code, output });
        let surplus = health.log.len().saturating_sub(PROBES);
        health.log.drain(..surplus);
        self.next = Instant::now() + self.pause(health.status == "starting");
        health
    }

    /// The container's program has ended, or is frozen: no probe any more.
    pub fn stop(&mut self) {
        if let Some(running) = &mut self.running {
            running.kill();
        }
        self.running = None;
        self.next = Instant::now() + self.interval;
    }
}

fn start(root: &Path, dir: &ContainerDir, pid: i32, command: &[String]) -> Result<Running, RuntimeError> {
    let request = exec::Request { command: command.to_vec(), pid: Some(pid), ..exec::Request::default() };
    let start = super::super::now();
    let mut stream = exec::spawn_beside(root, dir, &request)?;
    let attach = serde_json::to_vec(&Attach { stdin: false, stdout: true, stderr: true }).unwrap_or_default();
    for (kind, payload) in [(Kind::Attach, attach.as_slice()), (Kind::Wait, &[]), (Kind::Begin, &[])] {
        protocol::send(&mut stream, kind, payload).trying("start the health check")?;
    }
    stream.set_nonblocking(true).trying("start the health check")?;
    Ok(Running { stream, since: Instant::now(), start, received: Vec::new(), output: Vec::new() })
}

impl Running {
    /// Reads what is there; gives the exit code, and what went wrong, at the end.
    fn read(&mut self) -> Option<(i32, Option<String>)> {
        let mut chunk = [0; 4096];
        let ended = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(n) => self.received.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
            if let Some(end) = self.frames() {
                return Some(end);
            }
        };
        self.frames().or_else(|| ended.then(|| (-1, Some("the health check ended without a word".to_owned()))))
    }

    fn frames(&mut self) -> Option<(i32, Option<String>)> {
        loop {
            let (kind, payload) = match protocol::take(&mut self.received) {
                Ok(Some(frame)) => frame,
                Ok(None) => return None,
                Err(error) => return Some((-1, Some(error.to_string()))),
            };
            match kind {
                Kind::Output | Kind::ErrorOutput => {
                    let room = OUTPUT.saturating_sub(self.output.len());
                    self.output.extend(payload.into_iter().take(room));
                }
                Kind::Exit => {
                    return Some((serde_json::from_slice::<Exit>(&payload).map_or(-1, |exit| exit.code), None));
                }
                Kind::Failed => {
                    let failure = serde_json::from_slice::<Failure>(&payload).ok();
                    let message = failure.as_ref().map(|failure| failure.message.clone());
                    // As docker: a command that cannot be run is one that failed.
                    return Some((failure.map_or(-1, |failure| i32::from(failure.code)), message));
                }
                _ => {}
            }
        }
    }

    fn kill(&mut self) {
        let kill = protocol::frame_of(Kind::Kill, &Kill { signal: libc::SIGKILL, end: false, keep: false });
        // It may have ended by itself.
        let _ = std::io::Write::write_all(&mut self.stream, &kill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(start_period: u64, retries: u32) -> Checks {
        Checks {
            command: vec!["true".into()],
            interval: INTERVAL,
            timeout: TIMEOUT,
            start_period: Duration::from_secs(start_period),
            start_interval: START_INTERVAL,
            retries,
            started: Instant::now(),
            next: Instant::now(),
            running: None,
        }
    }

    #[test]
    fn health_changes_as_docker_changes_it() {
        for (start_period, codes, status, streak) in [
            (0, &[1, 1][..], "starting", 2),
            (0, &[1, 1, 1], "unhealthy", 3),
            (0, &[1, 1, 1, 0], "healthy", 0),
            (0, &[0, 1, 1], "healthy", 2),
            (60, &[1, 1, 1, 1], "starting", 0),
            (60, &[0, 1, 1, 1], "unhealthy", 3),
        ] {
            let mut checks = checks(start_period, 3);
            let mut health = Checks::initial();
            for code in codes {
                health = checks.ended(String::new(), *code, String::new(), &health);
            }
            assert_eq!((health.status.as_str(), health.failing_streak), (status, streak), "{codes:?}");
            assert!(health.log.len() <= PROBES);
        }
    }

    #[test]
    fn a_check_is_a_shell_line_or_words_or_none() {
        let of = |words: &[&str]| {
            command(&Healthcheck { test: words.iter().map(|w| (*w).to_owned()).collect(), ..Healthcheck::default() })
        };
        assert_eq!(of(&["CMD-SHELL", "a b"]).unwrap(), ["/bin/sh", "-c", "a b"]);
        assert_eq!(of(&["CMD", "a", "b"]).unwrap(), ["a", "b"]);
        assert_eq!((of(&["NONE"]), of(&[]), of(&["CMD"])), (None, None, None));
    }
}
