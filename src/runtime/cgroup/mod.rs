//! Control groups: v1, the hybrid of both, and v2 alone, told apart by what is mounted.

mod devices;
mod oom;
mod stats;
mod v1;
mod v2;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::process::Pid;

use super::error::{RuntimeError, While};
use crate::base::AtPath;
use crate::sys::mountinfo::{self, Mount};

pub use oom::OomWatch;
pub use stats::Stats;

/// The control groups of this host, as this process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// One tree for all controllers, mounted here.
    V2(PathBuf),
    /// A tree for each set of controllers: their names and where it is mounted. And, on a hybrid host, v2's tree without
    /// any: ferry makes no groups there, runc does.
    V1(Vec<(Vec<String>, PathBuf)>, Option<PathBuf>),
    /// None mounted, or none writable.
    Absent,
}

impl Hierarchy {
    /// Looks at what is mounted.
    pub fn detect() -> Self {
        Self::of(mountinfo::mounts().unwrap_or_default())
    }

    fn of(mounts: Vec<Mount>) -> Self {
        let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
        let mut v2 = None;
        for Mount { file_system, mount_point, super_options, .. } in mounts {
            match file_system.as_str() {
                "cgroup2" => v2 = v2.or(Some(mount_point)),
                "cgroup" => {
                    const OTHER: [&str; 9] = [
                        "rw",
                        "ro",
                        "xattr",
                        "clone_children",
                        "noprefix",
                        "none",
                        "relatime",
                        "nosuid",
                        "favordynmods",
                    ];
                    let mut names = super_options;
                    names.retain(|name| !OTHER.contains(&name.as_str()));
                    if !v1.iter().any(|(known, _)| *known == names) {
                        v1.push((names, mount_point));
                    }
                }
                _ => {}
            }
        }
        match v2 {
            _ if v1.iter().any(|(names, _)| names.iter().any(|name| name == "memory" || name == "pids")) => {
                Self::V1(v1, v2)
            }
            Some(root) => Self::V2(root),
            None if v1.is_empty() => Self::Absent,
            None => Self::V1(v1, None),
        }
    }

    /// Where its trees are mounted.
    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::V2(root) => vec![root],
            Self::V1(all, unified) => all.iter().map(|(_, root)| root).chain(unified).map(PathBuf::as_path).collect(),
            Self::Absent => Vec::new(),
        }
    }

    /// The names of the groups right below the group `parent` (`/ferry`), in whichever tree.
    pub fn children(&self, parent: &Path) -> BTreeSet<String> {
        let parent = parent.strip_prefix("/").unwrap_or(parent);
        let entries =
            self.roots().into_iter().filter_map(|root| fs::read_dir(root.join(parent)).ok()).flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Whether there is one tree for all.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }
}

/// A container's control group.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    /// Relative to the mounts' roots.
    path: PathBuf,
}

impl Cgroup {
    /// The group at `path` (`/ferry/<id>`), which need not exist.
    pub fn at(hierarchy: Hierarchy, path: &Path) -> Self {
        let path = path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
        Self { hierarchy, path }
    }

    /// Its directories, one a hierarchy.
    fn dirs(&self) -> Vec<PathBuf> {
        self.hierarchy.roots().into_iter().map(|root| root.join(&self.path)).collect()
    }

    /// The first of its directories that is there.
    pub fn place(&self) -> Option<PathBuf> {
        self.dirs().into_iter().find(|dir| dir.is_dir())
    }

    /// The directory that has `controller`.
    fn dir(&self, controller: &str) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V2(root) => Some(root.join(&self.path)),
            Hierarchy::V1(all, _) => {
                let (_, root) = all.iter().find(|(names, _)| names.iter().any(|name| name == controller))?;
                Some(root.join(&self.path))
            }
            Hierarchy::Absent => None,
        }
    }

    /// The v2 directory, for a process that is to be born in it.
    pub fn v2_dir(&self) -> Option<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V2(root) => Some(root.join(&self.path)),
            _ => None,
        }
    }

    /// Makes the group. Where this process may not, as rootless without delegation, there is none, and `false` comes
    /// back.
    pub fn create(&self) -> Result<bool, RuntimeError> {
        let made = match &self.hierarchy {
            Hierarchy::V2(root) => v2::create(root, &self.path),
            Hierarchy::V1(all, _) => v1::create(all, &self.path),
            Hierarchy::Absent => return Ok(false),
        };
        match made {
            Ok(()) => Ok(true),
            Err(error) if denied(&error.source) && !rustix::process::geteuid().is_root() => Ok(false),
            Err(error) if denied(&error.source) && in_user_namespace() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sets limits; those that are not given stay as they are.
    pub fn set(&self, resources: &LinuxResources) -> Result<(), RuntimeError> {
        match &self.hierarchy {
            Hierarchy::V2(_) => v2::set(self, resources),
            Hierarchy::V1(..) => v1::set(self, resources),
            Hierarchy::Absent => Err(RuntimeError::Unsupported("no control groups are mounted on this host".into())),
        }
    }

    /// Moves a process in.
    pub fn join(&self, pid: Pid) -> Result<(), RuntimeError> {
        for dir in self.dirs() {
            let of_others = matches!(&self.hierarchy, Hierarchy::V1(_, Some(root)) if dir.starts_with(root));
            if of_others && !dir.is_dir() {
                continue;
            }
            let file = dir.join("cgroup.procs");
            fs::write(&file, pid.as_raw_nonzero().to_string()).at("write", &file)?;
        }
        Ok(())
    }

    /// Opens the files by which processes are moved in, for one that is about to leave for another mount namespace.
    pub fn open_members(&self) -> Result<Vec<fs::File>, RuntimeError> {
        let mut files = Vec::new();
        for dir in self.dirs().iter().filter(|dir| dir.is_dir()) {
            let path = dir.join("cgroup.procs");
            files.push(fs::File::options().write(true).open(&path).at("open", &path)?);
        }
        Ok(files)
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| dir.is_dir())
    }

    /// The processes inside, as this process's PID namespace counts them.
    pub fn pids(&self) -> Vec<i32> {
        let dirs = self.dirs();
        let file = dirs.iter().map(|dir| dir.join("cgroup.procs")).find(|file| file.exists());
        let text = file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Stops all processes inside from running, or lets them run again; done when it returns.
    pub fn freeze(&self, frozen: bool) -> Result<(), RuntimeError> {
        let (file, value, state) = match &self.hierarchy {
            Hierarchy::V2(root) => {
                let dir = root.join(&self.path);
                (dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }, dir.join("cgroup.events"))
            }
            Hierarchy::V1(..) => {
                let none = || RuntimeError::Unsupported("the freezer control group is not mounted".into());
                let file = self.dir("freezer").ok_or_else(none)?.join("freezer.state");
                (file.clone(), if frozen { "FROZEN" } else { "THAWED" }, file)
            }
            Hierarchy::Absent => {
                return Err(RuntimeError::Unsupported("pausing needs control groups, which this host lacks".into()));
            }
        };
        fs::write(&file, value).at("write", &file)?;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut tried = 0_u32;
        loop {
            tried += 1;
            // v1: a program that is about to execute another waits for its other threads to end, which those that are
            // frozen already cannot (runc, `libcontainer/cgroups/fs/freezer.go`, lets go and tries again as well).
            if frozen && tried.is_multiple_of(25) && !self.hierarchy.is_v2() {
                fs::write(&file, "THAWED").at("write", &file)?;
                std::thread::sleep(std::time::Duration::from_millis(2));
                fs::write(&file, value).at("write", &file)?;
            }
            let now = fs::read_to_string(&state).at("read", &state)?;
            let wanted = if self.hierarchy.is_v2() { format!("frozen {value}") } else { value.to_owned() };
            if now.lines().any(|line| line.trim() == wanted) {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                let _ = fs::write(&file, if self.hierarchy.is_v2() { "0" } else { "THAWED" });
                return Err(RuntimeError::Conflict("the container's processes do not freeze".into()));
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// How often the kernel has killed a process inside for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match &self.hierarchy {
            Hierarchy::V2(root) => root.join(&self.path).join("memory.events"),
            Hierarchy::V1(..) => match self.dir("memory") {
                Some(dir) => dir.join("memory.oom_control"),
                None => return 0,
            },
            Hierarchy::Absent => return 0,
        };
        keyed(&file, "oom_kill").unwrap_or(0)
    }

    /// What the group uses.
    pub fn stats(&self) -> Stats {
        stats::read(self)
    }

    /// Kills everything inside and removes the group. Goes on past failures and gives the first.
    pub fn destroy(&self) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        for dir in self.dirs() {
            result = result.and(remove(&dir));
        }
        result
    }
}

fn remove(dir: &Path) -> Result<(), RuntimeError> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        let busy = error.kind() == io::ErrorKind::ResourceBusy;
        if !busy || std::time::Instant::now() > deadline {
            return Err(error).at("remove", dir).map_err(RuntimeError::from);
        }
        // Groups that the container made inside its own go first.
        if let Ok(entries) = fs::read_dir(dir) {
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir())) {
                remove(&entry.path())?;
            }
        }
        if fs::write(dir.join("cgroup.kill"), "1").is_err() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let _ = fs::write(dir.join("freezer.state"), "THAWED");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Whether this process is in a user namespace other than the host's.
pub fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// A value of a file of `key value` lines.
fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Writes one setting of the group.
fn write(dir: &Path, file: &str, value: impl ToString) -> Result<(), RuntimeError> {
    let path = dir.join(file);
    let value = value.to_string();
    fs::write(&path, &value).trying(format!("set {} to {value:?}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_decides_the_version() {
        let v1 = "30 20 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let unified = "32 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let v2 = "32 20 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let of = |text: &str| Hierarchy::of(mountinfo::parse(text));
        assert!(matches!(of(&format!("{v1}{unified}")), Hierarchy::V1(all, Some(_)) if all.len() == 2));
        assert_eq!(of(v2), Hierarchy::V2("/sys/fs/cgroup".into()));
        assert_eq!(of("1 1 0:1 / / rw - ext4 /dev/sda rw"), Hierarchy::Absent);
    }
}
