//! Containers: what one is, its state, and how it is run, changed and ended, without a daemon.
//!
//! A container is a directory `ferry/containers/<id>/` in the store. Its settings (`config.json`) belong to the
//! commands, under the container's lock; its state (`state.json`) belongs to its monitor while that lives. Network
//! state lies in `network.json` beside them.

pub mod capability;
pub mod cgroup;
pub mod error;
pub mod init;
pub mod net;
pub mod network_mode;
pub mod seccomp;
pub mod terminal;

pub use error::RuntimeError;
pub use network_mode::NetworkMode;
