//! What a transaction is about to do, written down durably before the first of it is done: a process that dies in
//! between leaves a list that the next one finishes. Without a list nothing outside the staging directory has changed.
//!
//! Every step can be done again. They are done in four phases, each durable before the next begins, in the order that
//! leaves dockerd, which knows of no list, a whole store at every instant: trees, layer metadata, configs, names.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::layout::{CacheId, Layout, LinkName};
use super::references::References;
use super::{files, imagedb, layerdb, overlay};
use crate::base::{AtPath, Digest, PathError, caps, durable};
use crate::image::{ChainId, DiffId, ImageId, Reference};
use crate::sys::lock::{FileLock, LockKind};

/// The name of the list in a transaction's directory.
const JOURNAL: &str = "journal.json";
/// The name of the lock in a transaction's directory.
pub(super) const LOCK: &str = "lock";

/// All that a transaction does to the store.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    /// Base before child.
    pub layers: Vec<LayerStep>,
    /// Layers that get a content list.
    pub contents: Vec<ChainId>,
    /// Compressed layers.
    pub blobs: Vec<Digest>,
    /// Layers whose list of compressed blobs changes.
    pub originals: Vec<DiffId>,
    /// Layers whose list of registry blobs (docker's) changes.
    pub v2_metadata: Vec<DiffId>,
    /// Registry blobs (docker's) that are tied to a layer.
    pub blob_diff_ids: Vec<Digest>,
    /// Manifests.
    pub manifests: Vec<(ImageId, Digest)>,
    /// Indexes that lead to an image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<(ImageId, Digest)>,
    /// Images.
    pub images: Vec<ImageId>,
    /// Names.
    pub names: Vec<NameStep>,
}

/// A layer gets its place.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LayerStep {
    pub chain_id: ChainId,
    pub parent: Option<ChainId>,
    #[serde(with = "as_text")]
    pub cache_id: CacheId,
    #[serde(with = "as_text")]
    pub link: LinkName,
}

/// A name changes its meaning, if it still means what it meant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NameStep {
    pub name: Reference,
    pub before: Option<ImageId>,
    pub after: ImageId,
    /// The manifest that comes with the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
}

mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T: FromStr<Err = &'static str>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// Where a transaction keeps what will be moved: names are those of the final places.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    dir: PathBuf,
}

impl Stage {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn cache_dir(&self, id: &CacheId) -> PathBuf {
        self.dir.join("overlay2").join(id.as_str())
    }

    /// A place for what unpacking a layer may leave over.
    pub fn spare(&self, id: &CacheId) -> PathBuf {
        self.dir.join("spare").join(id.as_str())
    }

    pub fn layer(&self, id: &ChainId) -> PathBuf {
        self.dir.join("layerdb").join(id.0.hex())
    }

    pub fn contents(&self, id: &ChainId) -> PathBuf {
        self.dir.join("contents").join(id.0.hex())
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    pub fn originals(&self, id: &DiffId) -> PathBuf {
        self.dir.join("originals").join(id.0.hex())
    }

    pub fn v2_metadata(&self, id: &DiffId) -> PathBuf {
        self.dir.join("v2metadata").join(id.0.hex())
    }

    pub fn blob_diff_id(&self, digest: &Digest) -> PathBuf {
        self.dir.join("diffids").join(digest.hex())
    }

    pub fn manifest(&self, digest: &Digest) -> PathBuf {
        self.dir.join("manifests").join(digest.hex())
    }

    pub fn index(&self, id: &ImageId, digest: &Digest) -> PathBuf {
        self.dir.join("indexes").join(format!("{}-{}", id.0.hex(), digest.hex()))
    }

    pub fn config(&self, id: &ImageId) -> PathBuf {
        self.dir.join("configs").join(id.0.hex())
    }

    /// Makes the transaction's directory and those in it.
    pub fn create(&self) -> Result<(), PathError> {
        files::mkdir(&self.dir, 0o700)?;
        for name in [
            "overlay2",
            "spare",
            "layerdb",
            "contents",
            "blobs",
            "originals",
            "v2metadata",
            "diffids",
            "manifests",
            "indexes",
            "configs",
        ] {
            files::mkdir(&self.dir.join(name), 0o700)?;
        }
        Ok(())
    }
}

impl Journal {
    /// Writes the list: from here on the transaction happens. All that it moves must be durable already.
    pub fn write(&self, stage: &Stage) -> Result<(), StoreError> {
        let path = stage.dir().join(JOURNAL);
        let bytes = serde_json::to_vec(self)
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        Ok(durable::write(&path, &bytes, 0o600)?)
    }

    /// Does all that has not been done yet, and removes the transaction's directory. Under the commit lock.
    pub fn execute(&self, layout: &Layout, stage: &Stage) -> Result<(), StoreError> {
        let mut moved = Moves::default();
        let mut present: Vec<&LayerStep> = Vec::new();
        for step in &self.layers {
            if layerdb::exists(layout, &step.chain_id) {
                continue;
            }
            moved.rename(&stage.cache_dir(&step.cache_id), &layout.cache_dir(&step.cache_id))?;
            if layout.cache_dir(&step.cache_id).symlink_metadata().is_ok() {
                overlay::make_link(layout, &step.cache_id, &step.link)?;
                present.push(step);
            }
        }
        moved.changed(&layout.links());
        for blob in &self.blobs {
            moved.rename(&stage.blob(blob), &layout.blob(blob))?;
        }
        moved.sync()?;

        for step in present {
            // A dockerd that ran since may have removed the parent.
            if let Some(parent) = &step.parent {
                let Some(record) = layerdb::read(layout, *parent)? else {
                    overlay::remove(layout, &step.cache_id)?;
                    continue;
                };
                overlay::mark_committed(layout, &record.cache_id)?;
            }
            moved.rename(&stage.layer(&step.chain_id), &layout.layer(&step.chain_id))?;
        }
        for chain_id in &self.contents {
            moved.rename(&stage.contents(chain_id), &layout.content_list(chain_id))?;
        }
        for diff_id in &self.originals {
            moved.rename(&stage.originals(diff_id), &layout.original_list(diff_id))?;
        }
        for diff_id in &self.v2_metadata {
            moved.rename(&stage.v2_metadata(diff_id), &layout.v2_metadata(diff_id))?;
        }
        for digest in &self.blob_diff_ids {
            moved.rename(&stage.blob_diff_id(digest), &layout.diff_id_by_digest(digest))?;
        }
        for (image, digest) in &self.manifests {
            let dir = layout.image_manifests(image);
            files::mkdir(&dir, 0o700)?;
            moved.changed(&layout.manifests());
            moved.rename(&stage.manifest(digest), &dir.join(digest.hex()))?;
        }
        for (image, digest) in &self.indexes {
            moved.rename(&stage.index(image, digest), &layout.image_index(image, digest))?;
        }
        moved.sync()?;

        for image in &self.images {
            moved.rename(&stage.config(image), &layout.config(image))?;
        }
        moved.sync()?;

        if !self.names.is_empty() {
            let (mut references, _) = References::read(layout)?;
            for step in &self.names {
                // A process that died may have written the name and not yet the note of its manifest.
                let current = references.get(&step.name);
                let expected = current == step.before || current == Some(step.after);
                if expected && imagedb::exists(layout, &step.after) {
                    references.set(&step.name, step.after, step.manifest);
                }
            }
            references.write(layout)?;
        }
        discard(stage)
    }
}

/// Renames whose directories are made durable together.
#[derive(Default)]
struct Moves {
    dirs: BTreeSet<PathBuf>,
}

impl Moves {
    /// Renames; what has been renamed already is as good. An existing file is replaced, an existing directory stays.
    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), PathError> {
        match fs::rename(from, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && from.symlink_metadata().is_err() => {}
            result => result.at("rename to", to)?,
        }
        if let Some(dir) = to.parent() {
            self.changed(dir);
        }
        Ok(())
    }

    fn changed(&mut self, dir: &Path) {
        self.dirs.insert(dir.to_owned());
    }

    fn sync(&mut self) -> Result<(), PathError> {
        std::mem::take(&mut self.dirs).iter().try_for_each(|dir| durable::sync_dir(dir))
    }
}

/// Removes a transaction's directory: its list first, so that what remains is not mistaken for work to be done, and its
/// lock last, so that nobody else does the same meanwhile.
pub(super) fn discard(stage: &Stage) -> Result<(), StoreError> {
    files::remove(&stage.dir().join(JOURNAL))?;
    for name in files::names(stage.dir())?.iter().filter(|name| *name != LOCK) {
        let path = stage.dir().join(name);
        if path.is_dir() && !path.is_symlink() { files::remove_tree(&path)? } else { files::remove(&path)? }
    }
    Ok(files::remove_tree(stage.dir())?)
}

/// Whether a transaction has begun to happen, of the living or the dead.
pub(super) fn any_begun(layout: &Layout) -> Result<bool, PathError> {
    let begun = |name: &String| layout.staging().join(name).join(JOURNAL).symlink_metadata().is_ok();
    Ok(files::names(&layout.staging())?.iter().any(begun))
}

/// What a dead process left of a transaction.
#[derive(Debug)]
pub(super) enum Abandoned {
    /// Nothing of it has happened.
    Staged,
    /// It had begun to happen, and can be finished.
    Begun,
    /// It had begun to happen, and its list cannot be read.
    Damaged(StoreError),
}

/// The directories of transactions whose process is dead.
pub(super) fn abandoned(layout: &Layout) -> Result<Vec<(PathBuf, Abandoned)>, StoreError> {
    let mut found = Vec::new();
    for name in files::names(&layout.staging())? {
        let dir = layout.staging().join(name);
        if owner_is_dead(&dir)?.is_some() {
            let state = match read(&Stage::new(dir.clone())) {
                Ok(None) => Abandoned::Staged,
                Ok(Some(_)) => Abandoned::Begun,
                Err(error) => Abandoned::Damaged(error),
            };
            found.push((dir, state));
        }
    }
    Ok(found)
}

/// Takes a dead process's lock; `None` while it lives.
fn owner_is_dead(dir: &Path) -> Result<Option<Option<FileLock>>, StoreError> {
    let path = dir.join(LOCK);
    match File::open(&path) {
        Ok(file) => Ok(FileLock::attempt(file, LockKind::Exclusive).at("lock", &path)?.ok().map(Some)),
        // Transactions get their directory and lock under the commit lock: one without is half made or half removed.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Some(None)),
        Err(error) => Err(error).at("open", &path)?,
    }
}

/// Finishes the transactions of dead processes that had begun to happen. Under the commit lock.
pub(super) fn finish_begun(layout: &Layout) -> Result<(), StoreError> {
    for name in files::names(&layout.staging())? {
        let dir = layout.staging().join(name);
        let Some(_lock) = owner_is_dead(&dir)? else { continue };
        let stage = Stage::new(dir);
        if let Some(journal) = read(&stage)? {
            tracing::info!(dir = %stage.dir().display(), "finishing what a dead process had begun");
            journal.execute(layout, &stage)?;
        }
    }
    Ok(())
}

/// Finishes or removes the transactions of dead processes, and the layers whose removal was begun. Under the commit
/// lock.
pub(super) fn recover(layout: &Layout) -> Result<(), StoreError> {
    finish_begun(layout)?;
    for name in files::names(&layout.staging())? {
        let dir = layout.staging().join(name);
        let Some(_lock) = owner_is_dead(&dir)? else { continue };
        discard(&Stage::new(dir))?;
    }
    for name in layerdb::half_removed(layout)? {
        layerdb::finish_removal(layout, &name)?;
    }
    Ok(())
}

fn read(stage: &Stage) -> Result<Option<Journal>, StoreError> {
    let path = stage.dir().join(JOURNAL);
    let Some(bytes) = files::read(&path, caps::ARCHIVE_INDEX_BYTES)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| StoreError::Damaged { path, reason: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}
