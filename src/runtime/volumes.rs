//! Named volumes: `ferry/volumes/<name>/_data`, as docker lays them out, with what is kept of each in `volume.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::MountBuilder;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstat};
use serde::{Deserialize, Serialize};

use super::container::{Container, Containers, MountPoint};
use super::error::{RuntimeError, While};
use super::events;
use super::init::mounts;
use crate::base::{AtPath, durable};
use crate::sys::mount::{open_dir, open_in_root};

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
    /// Docker's `type`, `device` and `o`: what is mounted there.
    pub options: BTreeMap<String, String>,
}

/// What is kept of a volume beside its files, in `volume.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct About {
    created: String,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
}

impl About {
    /// Written last: a volume that is being made has none yet.
    fn read(volume: &Path) -> Self {
        let text = fs::read(volume.join("volume.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
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

/// Checks a volume's options as docker's local driver does (moby `volume/local/local_unix.go`), and that it is a mount of a
/// kind that ferry makes.
pub fn check_options(options: &BTreeMap<String, String>) -> Result<(), RuntimeError> {
    let refused = |why: String| Err(RuntimeError::usage(why));
    if let Some(other) = options.keys().find(|key| !matches!(key.as_str(), "type" | "device" | "o" | "size")) {
        return refused(format!("invalid option: {other:?}"));
    }
    if options.contains_key("size") {
        return refused("quota size requested but no quota support".to_owned());
    }
    if options.is_empty() {
        return Ok(());
    }
    for needed in ["device", "type"] {
        if !options.contains_key(needed) {
            return refused(format!("missing required option: {needed:?}"));
        }
    }
    let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    match (is_bind(option("o")), option("type")) {
        (true, _) if option("device").starts_with('/') => Ok(()),
        (true, _) => refused(format!("invalid device {:?}: a bind mount needs an absolute path", option("device"))),
        (false, "tmpfs" | "nfs" | "nfs4") => Ok(()),
        (false, kind) => refused(format!(
            "a volume of type {kind:?} is not supported: there are bind mounts (type=none, o=bind), tmpfs and nfs"
        )),
    }
}

fn is_bind(options: &str) -> bool {
    options.split(',').any(|word| matches!(word, "bind" | "rbind"))
}

/// Readies what a container's mounts are of, in a mount namespace of this process's own: the mounts of its volumes, which are
/// nobody's but its and so need nobody to take them down, and the directories of the host that `-v` names and that are not
/// there, which docker makes whenever a container is started; of what `--mount` names nothing is made.
pub fn prepare(store_root: &Path, container: &Container) -> Result<(), RuntimeError> {
    let mut mounted = BTreeSet::new();
    for mount in container.mounts.iter().filter(|mount| mount.kind == "volume") {
        if mounted.insert(&mount.name) {
            mount_on(store_root, mount, &container.id)?;
        }
    }
    for text in container.host_config.binds.iter().flatten() {
        let source = text.split(':').next().map(Path::new).filter(|source| source.is_absolute());
        if let Some(source) = source.filter(|source| !source.exists()) {
            fs::create_dir_all(source).at("create", source)?;
        }
    }
    Ok(())
}

/// Mounts what a volume's options say on its directory.
fn mount_on(store_root: &Path, volume: &MountPoint, container: &str) -> Result<(), RuntimeError> {
    let About { options, .. } = About::read(&root(store_root).join(&volume.name));
    let option = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (kind, device, mut words) = (option("type"), option("device"), option("o").to_owned());
    if options.is_empty() {
        return Ok(());
    }
    let what = || format!("mount {device} for volume {}", volume.name);
    let kind = match kind {
        _ if is_bind(&words) => "bind",
        "tmpfs" => {
            if let Some(other) = other_user(store_root, &volume.name, container)? {
                return Err(RuntimeError::Conflict(format!(
                    "volume {} is memory of container {other}: one running container at a time can have it",
                    volume.name
                )));
            }
            // As the kernel has it for a mount of no container's.
            if !words.split(',').any(|word| word.starts_with("mode=")) {
                words.push_str(",mode=1777");
            }
            kind
        }
        _ => {
            words = with_address(&words).trying(what())?;
            kind
        }
    };
    let mount = MountBuilder::default()
        .destination(&volume.source)
        .typ(kind)
        .source(device)
        .options(words.split(',').map(str::to_owned).collect::<Vec<_>>())
        .build()
        .map_err(|error| RuntimeError::Malformed(error.to_string()))?;
    let host = open_dir(Path::new("/")).at("open", "/")?;
    let failed = |error: RuntimeError| RuntimeError::Conflict(format!("cannot mount volume {}: {error}", volume.name));
    mounts::mount(&host, &mount).map_err(failed)
}

/// The name of another container that runs and has a volume.
fn other_user(store_root: &Path, volume: &str, own: &str) -> Result<Option<String>, RuntimeError> {
    let mut all = Containers::new(store_root).all()?.into_iter();
    let has = |container: &Container| has_volume(&container.mounts, volume);
    let other = all.find(|(_, container, state)| container.id != own && state.status.has_process() && has(container));
    Ok(other.map(|(_, container, _)| container.name))
}

fn has_volume(mounts: &[MountPoint], volume: &str) -> bool {
    mounts.iter().any(|mount| mount.kind == "volume" && mount.name == volume)
}

/// Options of a network file system with the server's address for its name: the kernel looks no names up.
fn with_address(options: &str) -> io::Result<String> {
    let mut words: Vec<String> = options.split(',').map(str::to_owned).collect();
    for word in &mut words {
        let Some(name) = word.strip_prefix("addr=").filter(|name| name.parse::<IpAddr>().is_err()) else { continue };
        let found: Vec<IpAddr> = (name, 0).to_socket_addrs()?.map(|address| address.ip()).collect();
        let address = found.iter().find(|address| address.is_ipv4()).or(found.first());
        *word = format!("addr={}", address.ok_or(io::ErrorKind::NotFound)?);
    }
    Ok(words.join(","))
}

/// A volume's directory; made if it is not there. A volume that nobody named is marked as such.
pub fn ensure(store_root: &Path, name: &str, anonymous: bool) -> Result<PathBuf, RuntimeError> {
    let labels = anonymous.then(|| (ANONYMOUS.to_owned(), String::new()));
    create(store_root, name, labels.into_iter().collect(), BTreeMap::new())
}

/// A volume's directory; made, with these labels and options, if it is not there.
pub fn create(
    store_root: &Path,
    name: &str,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<PathBuf, RuntimeError> {
    check_name(name)?;
    check_options(&options)?;
    let dir = root(store_root).join(name);
    let data = dir.join("_data");
    if !data.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&dir).at("create", &dir)?;
        match fs::DirBuilder::new().mode(0o755).create(&data) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.at("create", &data)?,
        }
        let about = About { created: super::now(), labels, options };
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
            let About { created, labels, options } = About::read(&entry.path());
            volumes.push(Volume { name, mountpoint: entry.path().join("_data"), created, labels, options });
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
    let all = Containers::new(store_root).all()?;
    Ok(all.into_iter().filter(|(_, container, _)| has_volume(&container.mounts, name)).map(|(_, c, _)| c.id).collect())
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
            mounts::copy_tree(from.as_fd(), to.as_fd())?;
            fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
            Ok(fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
        };
        copy().trying(format!("fill volume {} from {}", mount.name, mount.destination))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_those_of_a_mount() {
        for pairs in [
            &[][..],
            &[("type", "none"), ("o", "bind"), ("device", "/a")],
            &[("type", ""), ("o", "ro,rbind"), ("device", "/a")],
            &[("type", "tmpfs"), ("device", "tmpfs")],
            &[("type", "nfs"), ("o", "addr=10.0.0.1,ro"), ("device", ":/a")],
        ] {
            assert!(check_options(&options(pairs)).is_ok(), "{pairs:?}");
        }
        for (pairs, word) in [
            (&[("nonsense", "")][..], "invalid option: \"nonsense\""),
            (&[("type", "none")], "missing required option: \"device\""),
            (&[("device", "/x")], "missing required option: \"type\""),
            (&[("o", "bind")], "missing required option: \"device\""),
            (&[("size", "1m")], "no quota support"),
            (&[("type", "none"), ("device", "/a")], "is not supported"),
            (&[("type", "ext4"), ("device", "/dev/a")], "\"ext4\" is not supported"),
            (&[("type", "none"), ("o", "bind"), ("device", "a")], "absolute"),
        ] {
            let failed = check_options(&options(pairs)).unwrap_err().to_string();
            assert!(failed.contains(word), "{pairs:?}: {failed}");
        }
    }

    #[test]
    fn servers_are_named_by_their_addresses() {
        for text in ["addr=10.0.0.1,ro", "ro", "", "addr=::1"] {
            assert_eq!(with_address(text).unwrap(), text);
        }
        assert!(with_address("ro,addr=localhost").unwrap().starts_with("ro,addr=127."));
    }
}
