//! Containers: what one is, its state, and how it is run, changed and ended, without a daemon.
//!
//! A container is a directory `ferry/containers/<id>/` in the store. Its settings (`config.json`) belong to the
//! commands, under the container's lock; its state (`state.json`) belongs to its monitor while that lives. Network
//! state lies in `network.json` beside them.

pub mod capability;
pub mod cgroup;
pub mod changes;
pub mod client;
pub mod connect;
pub mod container;
pub mod copy;
pub mod create;
pub mod error;
pub mod events;
pub mod exec;
pub mod files;
pub mod init;
pub mod inspect;
pub mod leftovers;
pub mod lifecycle;
pub mod monitor;
pub mod net;
pub mod network;
pub mod network_mode;
pub mod overlay;
pub mod remove;
pub mod rootless;
pub mod sealed;
pub mod seccomp;
pub mod signals;
pub mod skeleton;
pub mod spec;
pub mod start;
pub mod terminal;
pub mod usage;
pub mod user;
pub mod volumes;

pub use error::RuntimeError;
pub use network_mode::NetworkMode;

/// The time as docker writes it: RFC 3339 with nanoseconds, UTC.
pub fn now() -> String {
    time_text(jiff::Timestamp::now())
}

/// A time as docker writes it.
pub fn time_text(time: jiff::Timestamp) -> String {
    format!("{time:.9}")
}

/// When a process of the host started, in the kernel's ticks since boot; `None` when there is none of that PID.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, blanks and parentheses too.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
