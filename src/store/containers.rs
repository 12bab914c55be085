//! Writable layers of containers, as dockerd keeps them: `layerdb/mounts/<container>/{mount-id,init-id,parent}`, and
//! below `overlay2/` one directory for the container and one, `<mount ID>-init`, below it for what an engine puts into
//! every container (mount points, `/etc/hosts`) and a commit leaves out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::error::StoreError;
use super::layout::{CacheId, Layout, LinkName};
use super::remove::ContainerUse;
use super::{Store, files, imagedb, layerdb, overlay};
use crate::base::{AtPath, Ctx, PathError};
use crate::image::{ChainId, ImageId};

/// The most that Docker's file of a container may hold, in bytes.
const CONTAINER_BYTES: u64 = 16 << 20;

/// A container's writable layer. It protects the layers below it from removal as long as it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RwLayer {
    /// `overlay2/`: the directory that the mount options are relative to.
    pub base: PathBuf,
    /// The name of the writable directory below it.
    pub id: CacheId,
    /// The layer it stands on; `None` for an image without layers.
    pub parent: Option<ChainId>,
    /// Where changes go.
    pub upper: PathBuf,
    /// The overlay's scratch directory.
    pub work: PathBuf,
    /// The mount point.
    pub merged: PathBuf,
    /// The `lowerdir` option of the container's mount, relative to `base`; top first, the init layer included.
    pub lower_option: String,
    /// The init layer; `None` for containers that were made without.
    pub init: Option<InitLayer>,
}

/// A container's init layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitLayer {
    /// The name of its directory.
    pub id: CacheId,
    /// What is to be in every container.
    pub upper: PathBuf,
    /// The overlay's scratch directory while the layer is filled.
    pub work: PathBuf,
    /// The mount point while the layer is filled.
    pub merged: PathBuf,
    /// The `lowerdir` option while it is filled: the image's layers; `None` for an image without layers.
    pub lower_option: Option<String>,
}

/// What `layerdb/mounts/<container>` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub container: String,
    pub mount_id: Option<CacheId>,
    pub init_id: Option<CacheId>,
    pub parent: Option<ChainId>,
}

/// All writable layers.
pub(super) fn mounts(layout: &Layout) -> Result<Vec<Mount>, StoreError> {
    files::names(&layout.mounts())?.into_iter().map(|container| mount(layout, container)).collect()
}

pub(super) fn mount(layout: &Layout, container: String) -> Result<Mount, StoreError> {
    let dir = layout.mounts().join(&container);
    Ok(Mount {
        container,
        mount_id: files::parsed(&dir.join("mount-id"))?,
        init_id: files::parsed(&dir.join("init-id"))?,
        parent: files::parsed(&dir.join("parent"))?,
    })
}

/// The containers that dockerd made. None of them runs: ferry does not write where a dockerd runs.
fn of_docker(layout: &Layout) -> Result<Vec<ContainerUse>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        image: ImageId,
    }
    let mut found = Vec::new();
    let dir = layout.at("containers");
    for container in files::names(&dir)? {
        let path = dir.join(&container).join("config.v2.json");
        let Some(bytes) = files::read(&path, CONTAINER_BYTES)? else { continue };
        if let Ok(config) = serde_json::from_slice::<Config>(&bytes) {
            found.push(ContainerUse { container, image: config.image, running: false });
        }
    }
    Ok(found)
}

/// All that is known of who uses which image: what the caller knows, Docker's containers, and for every other writable
/// layer the images whose top layer it stands on.
pub(super) fn uses(layout: &Layout, known: &[ContainerUse]) -> Result<Vec<ContainerUse>, StoreError> {
    let mut uses = [known, &of_docker(layout)?].concat();
    let told: BTreeSet<String> = uses.iter().map(|user| user.container.clone()).collect();
    let mut by_top: BTreeMap<ChainId, Vec<String>> = BTreeMap::new();
    for mount in mounts(layout)? {
        if let Some(parent) = mount.parent.filter(|_| !told.contains(&mount.container)) {
            by_top.entry(parent).or_default().push(mount.container);
        }
    }
    if by_top.is_empty() {
        return Ok(uses);
    }
    for image in imagedb::list(layout)? {
        let Ok(Some(config)) = imagedb::read(layout, &image) else { continue };
        let top = config.chain_ids().last().copied();
        for container in top.and_then(|top| by_top.get(&top)).into_iter().flatten() {
            uses.push(ContainerUse { container: container.clone(), image, running: false });
        }
    }
    Ok(uses)
}

impl Store {
    /// The trees of an image's layers, top first.
    pub fn lower_dirs(&self, id: &ImageId) -> Result<Vec<PathBuf>, StoreError> {
        let config = imagedb::read(&self.layout, id)?.ok_or_else(|| StoreError::NoImage(id.to_string()))?;
        let mut dirs = Vec::new();
        for chain_id in config.chain_ids().into_iter().rev() {
            let record = layerdb::read(&self.layout, chain_id)?.ok_or(StoreError::NoLayer(chain_id))?;
            dirs.push(self.layout.diff_dir(&record.cache_id));
        }
        Ok(dirs)
    }

    /// Makes the writable layer of a container, with an empty init layer below it. It is registered before its
    /// directories are made, so a crash leaves nothing that [`Store::remove_rw_layer`] would not find; like Docker's,
    /// it is not durable until the system next writes back.
    pub fn create_rw_layer(&self, container: &str, image: &ImageId, ctx: &Ctx) -> Result<RwLayer, StoreError> {
        let _writing = self.writer(ctx)?;
        let layout = &self.layout;
        check_container(container)?;
        let config = imagedb::read(layout, image)?.ok_or_else(|| StoreError::NoImage(image.to_string()))?;
        let parent = config.chain_ids().last().copied();
        let below = match parent {
            Some(chain_id) => Some(layerdb::read(layout, chain_id)?.ok_or(StoreError::NoLayer(chain_id))?.cache_id),
            None => None,
        };
        let id = CacheId::random().at("read", "/dev/urandom")?;
        self.register(container, &id, parent)?;
        if let Some(below) = &below {
            overlay::mark_committed(layout, below)?;
        }
        let init_lower = below.map(|below| overlay::lower_above(layout, &below)).transpose()?;
        let init_link = self.create_dir(&id.init(), init_lower.as_deref(), true)?;
        write(&layout.cache_dir(&id.init()).join("committed"), "")?;
        let lower = overlay::stack(&init_link, init_lower.as_deref());
        self.create_dir(&id, Some(&lower), true)?;
        self.rw_layer(container)
    }

    /// The writable layer of a container.
    pub fn rw_layer(&self, container: &str) -> Result<RwLayer, StoreError> {
        let layout = &self.layout;
        check_container(container)?;
        let missing = || StoreError::NoContainer(container.to_owned());
        let mount = mount(layout, container.to_owned())?;
        let id = mount.mount_id.ok_or_else(missing)?;
        let dir = layout.cache_dir(&id);
        // A layer on nothing has no `lower`: it is the whole file system by itself and cannot be stacked.
        let lower_option = files::required(&dir.join("lower"))?;
        let init = match mount.init_id {
            Some(id) => {
                let dir = layout.cache_dir(&id);
                let lower_option = files::line(&dir.join("lower"))?;
                let (upper, work, merged) = (dir.join("diff"), dir.join("work"), dir.join("merged"));
                Some(InitLayer { id, upper, work, merged, lower_option })
            }
            None => None,
        };
        Ok(RwLayer {
            base: layout.overlay(),
            id,
            parent: mount.parent,
            upper: dir.join("diff"),
            work: dir.join("work"),
            merged: dir.join("merged"),
            lower_option,
            init,
        })
    }

    /// The containers that have a writable layer, Docker's included.
    pub fn rw_layers(&self) -> Result<Vec<String>, StoreError> {
        Ok(files::names(&self.layout.mounts())?)
    }

    /// Removes the writable layer of a container, which must not be mounted. One that is not there is as good.
    pub fn remove_rw_layer(&self, container: &str, ctx: &Ctx) -> Result<(), StoreError> {
        let _writing = self.writer(ctx)?;
        check_container(container)?;
        let mount = mount(&self.layout, container.to_owned())?;
        for id in [mount.mount_id, mount.init_id].iter().flatten() {
            overlay::remove(&self.layout, id)?;
        }
        // What a command left that was killed while it made the layer.
        files::remove_tree(&self.write_set(container))?;
        Ok(files::remove_tree(&self.layout.mounts().join(container))?)
    }

    /// Where a container's entry is written before it is in its place.
    fn write_set(&self, container: &str) -> PathBuf {
        self.layout.layerdb_tmp().join(format!("write-set-{container}"))
    }

    fn register(&self, container: &str, id: &CacheId, parent: Option<ChainId>) -> Result<(), StoreError> {
        files::mkdir(&self.layout.layerdb_tmp(), 0o755)?;
        let dir = self.write_set(container);
        files::mkdir(&dir, 0o755)?;
        write(&dir.join("mount-id"), id.as_str())?;
        write(&dir.join("init-id"), id.init().as_str())?;
        if let Some(parent) = parent {
            write(&dir.join("parent"), &parent.to_string())?;
        }
        let place = self.layout.mounts().join(container);
        match fs::rename(&dir, &place) {
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                files::remove_tree(&dir)?;
                Err(StoreError::ContainerExists(container.to_owned()))
            }
            result => Ok(result.at("rename to", &place)?),
        }
    }

    fn create_dir(&self, id: &CacheId, lower: Option<&str>, work: bool) -> Result<LinkName, StoreError> {
        let dir = self.layout.cache_dir(id);
        files::mkdir(&dir, 0o710)?;
        files::mkdir(&dir.join("diff"), 0o755)?;
        let link = LinkName::random().at("read", "/dev/urandom")?;
        write(&dir.join("link"), link.as_str())?;
        if let Some(lower) = lower {
            write(&dir.join("lower"), lower)?;
        }
        if work {
            files::mkdir(&dir.join("work"), 0o700)?;
        }
        overlay::make_link(&self.layout, id, &link)?;
        Ok(link)
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<(), PathError> {
    fs::write(path, text).at("write", path)
}

/// A container's ID becomes a file name.
fn check_container(container: &str) -> Result<(), StoreError> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if !container.is_empty() && container.len() <= 128 && container.bytes().all(fine) && !container.starts_with('.') {
        Ok(())
    } else {
        Err(StoreError::NoContainer(container.to_owned()))
    }
}
