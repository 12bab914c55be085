//! A container's root file system: the overlay of its image's layers and its own.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount as mount_call};

use super::container::ContainerDir;
use super::error::{RuntimeError, While};
use crate::base::AtPath;
use crate::store::Store;
use crate::sys::dir::Dir;

/// Opens the store at `root`.
pub fn store(root: &Path) -> Result<Store, RuntimeError> {
    Store::open(root, crate::store::Options::default()).map_err(|error| RuntimeError::Other(error.into()))
}

/// What the store's readers rely on: renames are copies, metadata comes with data, hard links need no index. The kernel
/// takes `userxattr` with no other word than `nofollow` for the first.
fn flags() -> &'static str {
    if super::cgroup::in_user_namespace() {
        "redirect_dir=nofollow,metacopy=off,index=off,userxattr"
    } else {
        "redirect_dir=off,metacopy=off,index=off"
    }
}

/// Mounts a container's root file system in this process's mount namespace, which must not be the host's, and gives
/// its path.
pub fn mount(store_root: &Path, dir: &ContainerDir) -> Result<PathBuf, RuntimeError> {
    let layer = store(store_root)?.rw_layer(dir.id()).map_err(|error| RuntimeError::Other(error.into()))?;
    let target = dir.file("rootfs");
    fs::create_dir_all(&target).at("create", &target)?;
    let id = layer.id.as_str();
    let options = format!("{},lowerdir={},upperdir={id}/diff,workdir={id}/work", flags(), layer.lower_option);
    // Relative to `overlay2/`: 128 layers fit into one page only by their short links.
    let target = std::path::absolute(&target).at("resolve", &target)?;
    let before = rustix::process::getcwd(Vec::new()).trying("find the working directory")?;
    rustix::process::chdir(&layer.base).at("enter", &layer.base)?;
    let data = crate::sys::process::c_string(&options).trying("mount the container's root file system")?;
    let mounted = mount_call("overlay", &target, "overlay", MountFlags::empty(), Some(data.as_c_str()));
    let _ = rustix::process::chdir(before.as_c_str());
    // Overlayfs takes no other overlayfs for what is written to.
    let nested = || rustix::fs::statfs(&layer.base).is_ok_and(|found| found.f_type == libc::OVERLAYFS_SUPER_MAGIC);
    if mounted == Err(rustix::io::Errno::INVAL) && nested() {
        return Err(RuntimeError::Unsupported(format!(
            "the store at {} lies on an overlayfs, as a container's files do, where no container can run: --root names one \
             on ext4, xfs or btrfs",
            store_root.display()
        )));
    }
    mounted.at("mount the root file system at", &target)?;
    Ok(target)
}

/// The layers of a container's root file system, its own first.
pub fn layers(store: &Store, dir: &ContainerDir) -> Result<Vec<Dir>, RuntimeError> {
    let layer = store.rw_layer(dir.id()).map_err(|error| RuntimeError::Other(error.into()))?;
    let lower = layer.lower_option.split(':').filter(|name| !name.is_empty()).map(|name| layer.base.join(name));
    Ok(std::iter::once(layer.upper.clone()).chain(lower).map(Dir::open).collect::<Result<_, _>>()?)
}

/// Mounts what the layers below a container's own hold together, read-only, in this process's mount namespace, which
/// must not be the host's. Gives its path.
pub fn mount_lower(store_root: &Path, dir: &ContainerDir) -> Result<PathBuf, RuntimeError> {
    let layer = store(store_root)?.rw_layer(dir.id()).map_err(|error| RuntimeError::Other(error.into()))?;
    let made = |name: &str| -> Result<PathBuf, RuntimeError> {
        let path = dir.file(name);
        fs::create_dir_all(&path).at("create", &path)?;
        Ok(std::path::absolute(&path).at("resolve", &path)?)
    };
    // The kernel wants two layers for a mount without an upper one: the empty one changes nothing.
    let (target, empty) = (made("rootfs")?, made("empty")?);
    let escaped = empty.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:");
    let options = format!("{},lowerdir={escaped}:{}", flags(), layer.lower_option);
    rustix::process::chdir(&layer.base).at("enter", &layer.base)?;
    let data = crate::sys::process::c_string(&options).trying("mount the container's layers")?;
    let mounted = mount_call("overlay", &target, "overlay", MountFlags::RDONLY, Some(data.as_c_str()));
    mounted.at("mount the layers at", &target)?;
    Ok(target)
}
