//! A container's state, and what is allowed in each: the one place that knows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::error::RuntimeError;
use super::super::net::NetworkState;

/// Docker's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its program runs.
    Running,
    /// Its program is frozen.
    Paused,
    /// Its program ended and is about to be started again.
    Restarting,
    /// Being taken away.
    Removing,
    /// Its program ended.
    Exited,
    /// It could not be taken away completely.
    Dead,
}

impl Status {
    /// Whether there is, or is about to be, a program: a monitor lives.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// Whether there is a process now.
    pub fn has_process(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// Whether it takes a signal; one that is about to be started again is kept from that by the signal that ends it.
    pub fn can_kill(self) -> bool {
        self.is_live()
    }

    /// Whether it can be started.
    pub fn can_start(self) -> bool {
        matches!(self, Self::Created | Self::Exited)
    }

    /// Whether its files can be mounted while somebody has its lock: no program is at work, and none is started.
    pub fn can_be_entered_at_rest(self) -> bool {
        matches!(self, Self::Created | Self::Exited | Self::Restarting)
    }

    /// Whether a process can be added.
    pub fn can_exec(self) -> bool {
        self == Self::Running
    }

    /// Whether it can be frozen.
    pub fn can_pause(self) -> bool {
        self == Self::Running
    }

    /// Whether it can be thawed.
    pub fn can_unpause(self) -> bool {
        self == Self::Paused
    }

    /// Whether its files are all there, to be read.
    pub fn can_read(self) -> bool {
        !matches!(self, Self::Removing | Self::Dead)
    }

    /// Whether it can be taken away without force.
    pub fn can_remove(self) -> bool {
        !self.is_live()
    }

    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A container's state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// Which.
    pub status: Status,
    /// The program's PID in the host's namespace, 0 for none.
    pub pid: i32,
    /// When that process started, in the kernel's ticks: tells it from a later one of the same PID.
    pub pid_start: u64,
    /// How the program ended last.
    pub exit_code: i32,
    /// Why it could not be started.
    pub error: String,
    /// Whether the kernel killed a process of it for want of memory.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// RFC 3339, empty for never.
    pub started_at: String,
    /// RFC 3339, empty for never.
    pub finished_at: String,
    /// How often its policy has started it again.
    pub restart_count: u32,
    /// Whether stop or kill ended it: no policy starts it again then.
    pub stopped_by_user: bool,
    /// Whether it ran when its monitor was lost.
    pub was_running: bool,
    /// How it is connected, as long as it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkState>,
    /// The health check's result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// A health check's result, as docker has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    /// `starting`, `healthy`, `unhealthy`.
    pub status: String,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five probes.
    pub log: Vec<Probe>,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs)]
pub struct Probe {
    pub start: String,
    pub end: String,
    pub exit_code: i32,
    pub output: String,
}

impl State {
    /// Fails unless `allowed` holds for the state.
    pub fn require(&self, allowed: fn(Status) -> bool, verb: &'static str, name: &str) -> Result<(), RuntimeError> {
        if allowed(self.status) {
            return Ok(());
        }
        Err(RuntimeError::State { verb, name: name.to_owned(), state: self.status.to_string() })
    }

    /// Nobody looks after the program's health any more: docker calls that unhealthy.
    pub fn unwatched(&mut self) {
        if let Some(health) = &mut self.health {
            "unhealthy".clone_into(&mut health.status);
        }
    }

    /// The state after the monitor was lost: the kernel has ended the container with it.
    pub fn lost(&mut self, now: &str) {
        if self.status.is_live() {
            self.was_running = true;
            self.status = Status::Exited;
            self.exit_code = 255;
            now.clone_into(&mut self.finished_at);
            self.unwatched();
        }
        self.pid = 0;
        self.pid_start = 0;
        self.network = None;
    }
}
