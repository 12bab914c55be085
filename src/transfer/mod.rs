//! To and from other hosts and media: ssh, the agent's protocol, engines on the far side, sticks.

pub mod bootstrap;
pub mod command;
pub mod connect;
pub mod engine;
pub mod ground;
pub mod home;
pub mod known_hosts;
pub mod media;
pub mod outgoing;
pub mod patience;
pub mod receive;
pub mod remote;
pub mod remote_file;
pub mod send;
pub mod session;
pub mod ssh;
pub mod ssh_config;
pub mod wire;

pub use remote::{Process, Remote, RemoteError};
