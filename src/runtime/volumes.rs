//! Named volumes: `ferry/volumes/<name>/_data`, as docker lays them out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstat};
use serde::{Deserialize, Serialize};

use super::container::{Container, Containers, MountPoint};
use super::error::{RuntimeError, While};
use super::events;
use super::init::mounts::copy_tree;
use crate::base::{AtPath, durable};
use crate::sys::mount::open_in_root;

fn root(store_root: &Path) -> PathBuf {
    store_root.join("ferry/volumes")
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub mountpoint: PathBuf,
    /// RFC 3339.
    pub created: String,
    /// Labels; an anonymous volume has docker's.
    pub labels: BTreeMap<String, String>,
}

/// What is kept of a volume beside its files, in `volume.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct About {
    created: String,
    labels: BTreeMap<String, String>,
}

/// The label by which docker knows the volumes that nobody named.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Checks a volume's name against docker's pattern.
pub fn check_name(name: &str) -> Result<(), RuntimeError> {
    let good = name.len() >= 2
        && name.len() <= 255
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if good { Ok(()) } else { Err(RuntimeError::usage(format!("invalid volume name {name:?}"))) }
}

/// Makes the directories of the host that `-v` names and that are not there, as docker does whenever a container is
/// started; of what `--mount` names nothing is made.
pub fn make_sources(container: &Container) -> Result<(), RuntimeError> {
    for text in container.host_config.binds.iter().flatten() {
        let source = text.split(':').next().map(Path::new).filter(|source| source.is_absolute());
        if let Some(source) = source.filter(|source| !source.exists()) {
            fs::create_dir_all(source).at("create", source)?;
        }
    }
    Ok(())
}

/// A volume's directory; made if it is not there. A volume that nobody named is marked as such.
pub fn ensure(store_root: &Path, name: &str, anonymous: bool) -> Result<PathBuf, RuntimeError> {
    let labels = anonymous.then(|| (ANONYMOUS.to_owned(), String::new()));
    create(store_root, name, labels.into_iter().collect())
}

/// A volume's directory; made, with these labels, if it is not there.
pub fn create(store_root: &Path, name: &str, labels: BTreeMap<String, String>) -> Result<PathBuf, RuntimeError> {
    check_name(name)?;
    let dir = root(store_root).join(name);
    let data = dir.join("_data");
    if !data.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir).at("create", &dir)?;
        match fs::DirBuilder::new().mode(0o755).create(&data) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.at("create", &data)?,
        }
        let about = About { created: super::now(), labels };
        let text = serde_json::to_vec(&about).map_err(|error| RuntimeError::Malformed(error.to_string()))?;
        durable::write(&dir.join("volume.json"), &text, 0o644)?;
        events::record_of(store_root, "volume", "create", name, &[("driver", "local")]);
    }
    Ok(data)
}

/// All volumes by name.
pub fn list(store_root: &Path) -> Result<Vec<Volume>, RuntimeError> {
    let root = root(store_root);
    let entries = match fs::read_dir(&root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", &root)?,
    };
    let mut volumes = Vec::new();
    for entry in entries {
        let entry = entry.at("read", &root)?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if check_name(&name).is_ok() && entry.path().join("_data").is_dir() {
            // Written last: one that is being made has none yet.
            let about = fs::read(entry.path().join("volume.json")).unwrap_or_default();
            let About { created, labels } = serde_json::from_slice(&about).unwrap_or_default();
            volumes.push(Volume { name, mountpoint: entry.path().join("_data"), created, labels });
        }
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(volumes)
}

/// One volume.
pub fn find(store_root: &Path, name: &str) -> Result<Volume, RuntimeError> {
    let found = list(store_root)?.into_iter().find(|volume| volume.name == name);
    found.ok_or_else(|| {
        RuntimeError::NotFound(format!("no such volume: {}", name.chars().take(255).collect::<String>()))
    })
}

/// The containers that mount a volume.
pub fn users(store_root: &Path, name: &str) -> Result<Vec<String>, RuntimeError> {
    let uses = |mounts: &[MountPoint]| mounts.iter().any(|mount| mount.kind == "volume" && mount.name == name);
    let all = Containers::new(store_root).all()?;
    Ok(all.into_iter().filter(|(_, container, _)| uses(&container.mounts)).map(|(_, c, _)| c.id).collect())
}

/// Removes a volume that no container mounts.
pub fn remove(store_root: &Path, name: &str) -> Result<(), RuntimeError> {
    check_name(name)?;
    let dir = root(store_root).join(name);
    if !dir.is_dir() {
        return Err(RuntimeError::NotFound(format!("no such volume: {name}")));
    }
    if let Some(user) = users(store_root, name)?.first() {
        return Err(RuntimeError::Conflict(format!("volume {name} is in use by container {user}: remove that first")));
    }
    fs::remove_dir_all(&dir).at("remove", &dir)?;
    events::record_of(store_root, "volume", "destroy", name, &[("driver", "local")]);
    Ok(())
}

/// Removes a volume unless another container than `going` mounts it.
pub fn remove_unused(store_root: &Path, name: &str, going: &str) -> Result<(), RuntimeError> {
    if users(store_root, name)?.iter().any(|user| user != going) {
        return Ok(());
    }
    let dir = root(store_root).join(name);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => {
            removed.at("remove", &dir)?;
            events::record_of(store_root, "volume", "destroy", name, &[("driver", "local")]);
            Ok(())
        }
    }
}

/// Notes that a container has its volumes, or has them no longer.
pub fn note(store_root: &Path, container: &Container, mounted: bool) {
    for mount in container.mounts.iter().filter(|mount| mount.kind == "volume") {
        let mut attributes = vec![("container", container.id.as_str()), ("driver", "local")];
        if mounted {
            let write = if mount.rw { "true" } else { "false" };
            attributes.push(("destination", &mount.destination));
            attributes.extend([("propagation", mount.propagation.as_str()), ("read/write", write)]);
        }
        let action = if mounted { "mount" } else { "unmount" };
        events::record_of(store_root, "volume", action, &mount.name, &attributes);
    }
}

/// Fills empty volumes with what the image has at their places, and gives them its owner and mode, as docker does.
pub fn fill(root: &OwnedFd, container: &Container) -> Result<(), RuntimeError> {
    let requests = container.host_config.mounts.iter().flatten();
    let no_copy: Vec<&str> =
        requests.filter(|request| request.no_copy).map(|request| request.target.as_str()).collect();
    for mount in container.mounts.iter().filter(|mount| mount.kind == "volume") {
        let nocopy =
            mount.mode.split(',').any(|word| word == "nocopy") || no_copy.contains(&mount.destination.as_str());
        let empty = fs::read_dir(&mount.source).at("read", &mount.source)?.next().is_none();
        if nocopy || !empty {
            continue;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let Ok(from) = open_in_root(root, &mount.destination, flags) else { continue };
        let to: OwnedFd = fs::File::open(&mount.source).at("open", &mount.source)?.into();
        let copy = || -> io::Result<()> {
            let stat = fstat(&from)?;
            copy_tree(from.as_fd(), to.as_fd())?;
            fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            Ok(fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
        };
        copy().trying(format!("fill volume {} from {}", mount.name, mount.destination))?;
    }
    Ok(())
}
