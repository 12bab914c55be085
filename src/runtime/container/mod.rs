//! What a container is: its settings and its state on disk.

pub mod config;
pub mod directory;
pub mod name;
pub mod state;

pub use config::{Config, Container, HostConfig, MountPoint};
pub use directory::{ContainerDir, Containers, is_id};
pub use state::{State, Status};
