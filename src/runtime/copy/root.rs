//! A container's file system, to be read and written from the outside.

use std::fs::File;
use std::path::Path;

use oci_spec::runtime::MountBuilder;

use super::super::container::{Container, ContainerDir, Status};
use super::super::error::{RuntimeError, While};
use super::super::init::{mounts, rootfs};
use super::super::{overlay, start_time};
use crate::base::AtPath;
use crate::sys::dir::Dir;
use crate::sys::mount::set_attributes;
use crate::sys::process::unshare;

/// An open root. Of a container that does not run it is mounted in this process's own mount namespace, with its volumes,
/// and nobody starts the container meanwhile.
#[derive(Debug)]
pub struct Root {
    /// The root directory.
    pub dir: Dir,
    _lock: Option<File>,
}

impl Root {
    /// Opens it. For a container that does not run, this process leaves its mount namespace and working directory.
    pub fn open(store_root: &Path, dir: &ContainerDir, container: &Container) -> Result<Self, RuntimeError> {
        let state = dir.state()?;
        if state.status.has_process() {
            let path = format!("/proc/{}/root", state.pid);
            let root = Dir::open(&path)?;
            // With the descriptor in hand: a number may be another process's by now.
            if start_time(state.pid) != Some(state.pid_start) || !dir.monitor_lives() {
                return Err(RuntimeError::Conflict(format!("container {} is ending", container.name)));
            }
            return Ok(Self { dir: root, _lock: None });
        }
        let lock = dir.lock()?;
        dir.state()?.require(Status::can_start, "copy files of", &container.name)?;
        unshare(libc::CLONE_NEWNS).trying("make a mount namespace")?;
        rootfs::leave_propagation()?;
        let path = overlay::mount(store_root, dir)?;
        let opened = crate::sys::mount::open_dir(&path).at("open", &path)?;
        let mut own: Vec<_> = container.mounts.iter().collect();
        own.sort_by_key(|mount| Path::new(&mount.destination).components().count());
        for mount in own {
            let options = ["rbind", if mount.rw { "rw" } else { "ro" }, "rprivate"].map(str::to_owned).to_vec();
            let bind = MountBuilder::default()
                .destination(&mount.destination)
                .typ("bind")
                .source(&mount.source)
                .options(options)
                .build()
                .map_err(|error| RuntimeError::Malformed(error.to_string()))?;
            mounts::mount(&opened, &bind)?;
        }
        if container.host_config.readonly_rootfs {
            // Its volumes stay what they are.
            set_attributes(&opened, false, libc::MOUNT_ATTR_RDONLY, 0, 0).at("make read-only", &path)?;
        }
        Ok(Self { dir: Dir::open(&path)?, _lock: Some(lock) })
    }
}
