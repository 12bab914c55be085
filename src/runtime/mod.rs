//! Containers: what one is, its state, and how it is run, changed and ended, without a daemon.
//!
//! A container is a directory `ferry/containers/<id>/` in the store. Its settings (`config.json`) belong to the
//! commands, under the container's lock; its state (`state.json`) belongs to its monitor while that lives. Network
//! state lies in `network.json` beside them.

pub mod capability;
pub mod cgroup;
pub mod container;
pub mod error;
pub mod init;
pub mod network_mode;
pub mod seccomp;
pub mod spec;
pub mod terminal;
pub mod user;

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
