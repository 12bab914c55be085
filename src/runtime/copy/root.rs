//! A container's file system, to be read and written from the outside.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::MountBuilder;

use super::super::container::{Container, ContainerDir, State, Status};
use super::super::error::{RuntimeError, While};
use super::super::init::{mounts, rootfs};
use super::super::{overlay, start_time, volumes};
use crate::base::AtPath;
use crate::sys::dir::Dir;
use crate::sys::mount::set_attributes;
use crate::sys::process::unshare;

/// How often a container that changes its state meanwhile is looked at again, and how long after.
const ATTEMPTS: usize = 500;
const PAUSE: Duration = Duration::from_millis(10);

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
        for _ in 0..ATTEMPTS {
            let state = dir.state()?;
            if state.status.has_process() {
                if let Some(root) = Self::of_process(&state).filter(|_| dir.monitor_lives()) {
                    return Ok(Self { dir: root, _lock: None });
                }
                // It has ended, and its monitor is about to note it.
                std::thread::sleep(PAUSE);
                continue;
            }
            let lock = dir.lock()?;
            // One that was being started when the lock was free runs now, or has failed to.
            let state = dir.settled()?;
            if !state.status.has_process() {
                state.require(Status::can_be_entered_at_rest, "copy files of", &container.name)?;
                return Self::at_rest(store_root, dir, container, lock);
            }
        }
        Err(RuntimeError::Conflict(format!("container {} starts and ends all the time", container.name)))
    }

    /// That of the program that runs, unless it has ended.
    fn of_process(state: &State) -> Option<Dir> {
        let root = Dir::open(format!("/proc/{}/root", state.pid)).ok()?;
        // With the descriptor in hand: a number may be another process's by now.
        (start_time(state.pid) == Some(state.pid_start)).then_some(root)
    }

    fn at_rest(store_root: &Path, dir: &ContainerDir, container: &Container, lock: File) -> Result<Self, RuntimeError> {
        unshare(libc::CLONE_NEWNS).trying("make a mount namespace")?;
        rootfs::leave_propagation()?;
        volumes::prepare(store_root, container)?;
        let path = overlay::mount(store_root, dir)?;
        let opened = crate::sys::mount::open_dir(&path).at("open", &path)?;
        let mut own: Vec<_> = container.mounts.iter().collect();
        own.sort_by_key(|mount| Path::new(&mount.destination).components().count());
        for mount in own {
            let access = if mount.rw { None } else { Some("ro") };
            let options: Vec<String> = ["rbind", "rprivate"].into_iter().chain(access).map(str::to_owned).collect();
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
