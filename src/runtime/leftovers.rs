//! What containers leave behind when they, or what watches over them, are killed. Every command takes away what it meets
//! of it ([`lifecycle::recover_all`]); here all of it is found, told, and cleared away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

use super::cgroup::{Cgroup, Hierarchy};
use super::container::{ContainerDir, Containers, State, Status, is_id};
use super::error::RuntimeError;
use super::{events, lifecycle, network, overlay, spec, start};
use crate::base::{AtPath, Ctx};
use crate::sys::mountinfo;

/// What can be left. The slugs are stable: scripts may look for them; `docs/format/store.md` has their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The state says that the container runs, or is being removed, and its monitor is gone.
    ContainerLost,
    /// A directory of a container that was being made or removed.
    ContainerHalfMade,
    /// A container whose settings or state cannot be read.
    ContainerUnreadable,
    /// A writable layer of a container that is gone, which keeps its image from being removed.
    LayerUnused,
    /// A mount in the directory of a container that does not run.
    MountLeft,
    /// A control group of a container that does not run.
    CgroupLeft,
    /// An address, a link, a bridge or rules of the packet filter that no container uses.
    NetworkLeft,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: &'static [Self] = &[
        Self::ContainerLost,
        Self::ContainerHalfMade,
        Self::ContainerUnreadable,
        Self::LayerUnused,
        Self::MountLeft,
        Self::CgroupLeft,
        Self::NetworkLeft,
    ];

    /// The kind's stable name.
    pub fn slug(self) -> &'static str {
        match self {
            Self::ContainerLost => "container-lost",
            Self::ContainerHalfMade => "container-half-made",
            Self::ContainerUnreadable => "container-unreadable",
            Self::LayerUnused => "container-layer-unused",
            Self::MountLeft => "mount-left",
            Self::CgroupLeft => "cgroup-left",
            Self::NetworkLeft => "network-left",
        }
    }

    /// Whether the next command that has to do with containers clears it away.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::ContainerLost | Self::ContainerHalfMade | Self::NetworkLeft)
    }
}

/// One thing that is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leftover {
    /// What.
    pub kind: Kind,
    /// Of what: a container's ID, a network's name.
    pub object: String,
    /// The file or directory.
    pub path: PathBuf,
    /// More about it; may be empty.
    pub detail: String,
    /// Whether it can be cleared away without a loss.
    pub clears: bool,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.slug(), self.object)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

fn left(kind: Kind, object: &str, path: &Path, detail: impl Into<String>) -> Leftover {
    Leftover { kind, object: object.to_owned(), path: path.to_owned(), detail: detail.into(), clears: true }
}

/// Looks for what is left of the containers of the store at `store_root`. Changes nothing.
pub fn find(store_root: &Path) -> Result<Vec<Leftover>, RuntimeError> {
    let containers = Containers::new(store_root);
    // Groups are listed before anybody is asked whether they run: a container's monitor is there before its group is.
    let hierarchy = Hierarchy::detect();
    let groups = hierarchy.children(Path::new(spec::CGROUPS));
    let mut found = Vec::new();
    for path in containers.forsaken() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.push(left(Kind::ContainerHalfMade, &name, &path, ""));
    }
    for id in containers.ids()? {
        found.extend(of_container(&containers.dir(&id)));
    }
    found.extend(layers(store_root, &containers)?);
    found.extend(mounts(&containers)?);
    found.extend(cgroups(store_root, &containers, &hierarchy, groups)?);
    let networks = network::networks(store_root);
    let of_networks = networks.left(|id| containers.dir(id).monitor_lives());
    for one in of_networks.map_err(|error| RuntimeError::Other(error.into()))? {
        found.push(left(Kind::NetworkLeft, &one.network, &store_root.join("ferry/networks"), one.what));
    }
    Ok(found)
}

/// Clears away what [`find`] found, as the next command does with what it meets: a container whose restart policy says so
/// runs again then. Goes on past failures; each comes back with what it was about.
pub fn clear(store_root: &Path, found: &[Leftover]) -> Vec<(Leftover, RuntimeError)> {
    let containers = Containers::new(store_root);
    let mut failed = Vec::new();
    // Mounts first, for a directory with one cannot go; containers last, for those that start again want all else gone.
    let order = [
        Kind::MountLeft,
        Kind::NetworkLeft,
        Kind::CgroupLeft,
        Kind::LayerUnused,
        Kind::ContainerUnreadable,
        Kind::ContainerHalfMade,
        Kind::ContainerLost,
    ];
    for kind in order {
        for leftover in found.iter().filter(|leftover| leftover.kind == kind && leftover.clears).rev() {
            if let Err(error) = clear_one(store_root, &containers, leftover) {
                failed.push((leftover.clone(), error));
            }
        }
    }
    failed
}

fn clear_one(store_root: &Path, containers: &Containers, leftover: &Leftover) -> Result<(), RuntimeError> {
    let dir = containers.dir(&leftover.object);
    match leftover.kind {
        Kind::MountLeft if !dir.monitor_lives() => {
            rustix::mount::unmount(&leftover.path, UnmountFlags::DETACH).at("unmount", &leftover.path)?;
            Ok(())
        }
        Kind::CgroupLeft => clear_cgroup(&dir),
        Kind::LayerUnused => {
            let removed = overlay::store(store_root)?.remove_rw_layer(dir.id(), &Ctx::silent());
            removed.map_err(|error| RuntimeError::Other(error.into()))
        }
        Kind::ContainerUnreadable => rewrite_state(&dir),
        Kind::ContainerHalfMade if is_id(&leftover.object) => lifecycle::recover(store_root, &dir).map(drop),
        Kind::ContainerHalfMade => {
            containers.sweep();
            Ok(())
        }
        Kind::ContainerLost => lifecycle::bring_back(store_root, &dir, false),
        Kind::NetworkLeft => {
            let cleared = network::networks(store_root).clear_left(|id| containers.dir(id).monitor_lives());
            cleared.map_err(|error| RuntimeError::Other(error.into()))
        }
        Kind::MountLeft => Ok(()),
    }
}

fn of_container(dir: &ContainerDir) -> Option<Leftover> {
    let (id, path) = (dir.id(), dir.path());
    if !dir.exists() {
        let forsaken = dir.is_free() && !dir.monitor_lives();
        return forsaken.then(|| left(Kind::ContainerHalfMade, id, path, ""));
    }
    if let Err(error) = dir.container() {
        // Taken away meanwhile.
        if !dir.exists() {
            return None;
        }
        let detail = format!("{error}; ferry rm -f {id} takes it away, with what it changed");
        return Some(Leftover { clears: false, ..left(Kind::ContainerUnreadable, id, path, detail) });
    }
    match dir.recorded_state() {
        Err(error) if dir.exists() => {
            let clears = !dir.monitor_lives();
            Some(Leftover { clears, ..left(Kind::ContainerUnreadable, id, path, error.to_string()) })
        }
        Ok(state) if lifecycle::is_lost(dir, &state) => {
            let detail = format!("it is {} and nobody watches over it", state.status);
            Some(left(Kind::ContainerLost, id, path, detail))
        }
        _ => None,
    }
}

/// Writes a state that can be read: that of a container that ended.
fn rewrite_state(dir: &ContainerDir) -> Result<(), RuntimeError> {
    let _lock = dir.lock()?;
    if dir.monitor_lives() || dir.recorded_state().is_ok() {
        return Ok(());
    }
    let error = "its state could not be read".to_owned();
    dir.write_state(&State { status: Status::Exited, exit_code: 255, error, ..State::default() })
}

/// Layers of no container, ferry's or docker's. A container's directory is there before its layer and goes after it.
fn layers(store_root: &Path, containers: &Containers) -> Result<Vec<Leftover>, RuntimeError> {
    let store = overlay::store(store_root)?;
    let listed = || store.rw_layers().map_err(|error| RuntimeError::Other(error.into()));
    let of_none =
        |id: &String| !containers.dir(id).path().exists() && !store.layout().at("containers").join(id).exists();
    let mut found: Vec<String> = listed()?.into_iter().filter(|id| is_id(id)).filter(of_none).collect();
    if !found.is_empty() {
        let still = listed()?;
        found.retain(|id| still.contains(id));
    }
    Ok(found.iter().map(|id| left(Kind::LayerUnused, id, &store.layout().mounts().join(id), "")).collect())
}

/// Mounts that are seen here: those of a container that runs are in a mount namespace of its own.
fn mounts(containers: &Containers) -> Result<Vec<Leftover>, RuntimeError> {
    let Ok(root) = fs::canonicalize(containers.path()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for mount in mountinfo::mounts().at("read", "/proc/self/mountinfo")? {
        let Ok(below) = mount.mount_point.strip_prefix(&root) else { continue };
        let Some(id) = below.components().next().and_then(|first| first.as_os_str().to_str()) else { continue };
        if is_id(id) && !containers.dir(id).monitor_lives() {
            found.push(left(Kind::MountLeft, id, &mount.mount_point, mount.mount_point.display().to_string()));
        }
    }
    Ok(found)
}

/// Groups of this store's containers that do not run, those that are gone included: of a group whose container the store
/// has never had nobody here can say whether another store's needs it.
fn cgroups(
    store_root: &Path,
    containers: &Containers,
    hierarchy: &Hierarchy,
    groups: BTreeSet<String>,
) -> Result<Vec<Leftover>, RuntimeError> {
    let mut candidates: BTreeMap<String, Cgroup> = BTreeMap::new();
    for id in containers.ids()? {
        candidates.insert(id.clone(), cgroup_of(&containers.dir(&id)));
    }
    let mut unknown: Vec<String> = groups.into_iter().filter(|id| is_id(id) && !candidates.contains_key(id)).collect();
    if !unknown.is_empty() {
        let log = events::text(store_root)?;
        unknown.retain(|id| log.contains(id));
    }
    for id in unknown {
        let group = Cgroup::at(hierarchy.clone(), &Path::new(spec::CGROUPS).join(&id));
        candidates.insert(id, group);
    }
    let mut found = Vec::new();
    for (id, cgroup) in candidates {
        if let Some(path) = is_left(&containers.dir(&id), &cgroup) {
            found.push(left(Kind::CgroupLeft, &id, &path, path.display().to_string()));
        }
    }
    Ok(found)
}

fn cgroup_of(dir: &ContainerDir) -> Cgroup {
    match dir.container() {
        Ok(container) => start::cgroup(&container),
        Err(_) => Cgroup::at(Hierarchy::detect(), &Path::new(spec::CGROUPS).join(dir.id())),
    }
}

/// Where the group of a container is left. That of one which is lost goes with what is done about that.
fn is_left(dir: &ContainerDir, cgroup: &Cgroup) -> Option<PathBuf> {
    let lost = || dir.exists() && dir.recorded_state().is_ok_and(|state| lifecycle::is_lost(dir, &state));
    cgroup.place().filter(|_| !dir.monitor_lives() && !lost())
}

fn clear_cgroup(dir: &ContainerDir) -> Result<(), RuntimeError> {
    // Nobody starts the container meanwhile.
    let _lock = match dir.lock() {
        Ok(lock) => Some(lock),
        Err(RuntimeError::NoSuchContainer(_)) => None,
        Err(error) => return Err(error),
    };
    let cgroup = cgroup_of(dir);
    if is_left(dir, &cgroup).is_some() { cgroup.destroy() } else { Ok(()) }
}
