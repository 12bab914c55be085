//! A transaction: layers, blobs and images are prepared in a private directory, and then all get their places or none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::error::StoreError;
use super::guard::DaemonsOut;
use super::journal::{Journal, LOCK, LayerStep, NameStep, Stage};
use super::layout::{CacheId, LinkName};
use super::locks::Using;
use super::names::{self, Conflict, NameChange};
use super::packed::Packed;
use super::{LayerRecord, References, Store, files, imagedb, journal, layerdb, manifests, originals, overlay, unpack};
use crate::base::{AtPath, Ctx, Digest, PathError};
use crate::image::{ChainId, Descriptor, DiffId, ImageConfig, ImageId, Manifest, Reference};
use crate::layer::Target;
use crate::sys::dir::Dir;
use crate::sys::lock::{FileLock, LockKind};

/// What a transaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// The layers that are new, base before child.
    pub layers: Vec<LayerRecord>,
    /// The images that are new.
    pub images: Vec<ImageId>,
    /// The names that were asked for, those that changed nothing included.
    pub names: Vec<NameChange>,
}

/// Work under way. Dropped without [`Transaction::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Transaction<'s> {
    store: &'s Store,
    stage: Stage,
    staged: Mutex<Staged>,
    committed: bool,
    _lock: FileLock,
    _using: Using,
    _out: DaemonsOut,
}

#[derive(Debug, Default)]
struct Staged {
    layers: BTreeMap<ChainId, StagedLayer>,
    originals: Vec<(DiffId, Descriptor)>,
    images: Vec<StagedImage>,
    indexes: BTreeSet<(ImageId, Digest)>,
}

#[derive(Debug, Clone)]
struct StagedLayer {
    record: LayerRecord,
    link: LinkName,
}

#[derive(Debug)]
struct StagedImage {
    config: ImageConfig,
    names: Vec<Reference>,
    manifest: Option<Manifest>,
}

impl Store {
    /// Begins a transaction. Layers that are in the store stay there while it lives.
    pub fn begin(&self, ctx: &Ctx) -> Result<Transaction<'_>, StoreError> {
        let out = self.prepare()?;
        self.check_undivided()?;
        let using = self.using(ctx)?;
        let _writing = self.writer(ctx)?;
        let id = CacheId::random().at("read", "/dev/urandom")?;
        let stage = Stage::new(self.layout.staging().join(&id.as_str()[..16]));
        stage.create()?;
        let path = stage.dir().join(LOCK);
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).at("create", &path)?;
        let lock = FileLock::wait(file, LockKind::Exclusive).at("lock", &path)?;
        let staged = Mutex::default();
        Ok(Transaction { store: self, stage, staged, committed: false, _lock: lock, _using: using, _out: out })
    }
}

impl Transaction<'_> {
    /// Unpacks a layer's tar onto `parent`, which need not be there yet. When `expected` is given and the tar has
    /// another digest, nothing of it stays. Layers may be unpacked on several threads.
    pub fn add_layer(
        &self,
        parent: Option<ChainId>,
        expected: Option<DiffId>,
        tar: &mut (dyn Read + Send),
        ctx: &Ctx,
    ) -> Result<LayerRecord, StoreError> {
        let cache_id = CacheId::random().at("read", "/dev/urandom")?;
        let dir = self.stage.cache_dir(&cache_id);
        let result = self.unpack(parent, expected, &cache_id, tar, ctx);
        if result.is_err() {
            // The error at hand is the one to tell; what stays here goes with the transaction.
            let _ = files::remove_tree(&dir);
        }
        result
    }

    fn unpack(
        &self,
        parent: Option<ChainId>,
        expected: Option<DiffId>,
        cache_id: &CacheId,
        tar: &mut (dyn Read + Send),
        ctx: &Ctx,
    ) -> Result<LayerRecord, StoreError> {
        let dir = self.stage.cache_dir(cache_id);
        files::mkdir(&dir, 0o710)?;
        files::mkdir(&dir.join("diff"), 0o755)?;
        let metadata = dir.join("layerdb");
        files::mkdir(&metadata, 0o755)?;
        let tar_split = metadata.join(layerdb::TAR_SPLIT);
        let spare = self.stage.spare(cache_id);
        let target = Target { tree: Dir::open(dir.join("diff"))?, spare, tar_split };
        let unpacked = unpack::unpack(tar, &target, self.store.options, expected, ctx)?;
        let diff_id = unpacked.diff_id;
        if let Some(expected) = expected.filter(|expected| *expected != diff_id) {
            return Err(StoreError::WrongDiffId { expected, got: diff_id });
        }
        let chain_id = parent.map_or(ChainId::base(diff_id), |parent| parent.child(diff_id));
        let record = LayerRecord { chain_id, diff_id, cache_id: cache_id.clone(), size: unpacked.size, parent };
        let mut staged = self.staged();
        if let Some(twin) = staged.layers.get(&chain_id) {
            let record = twin.record.clone();
            drop(staged);
            files::remove_tree(&dir)?;
            return Ok(record);
        }
        layerdb::write(&metadata, &record)?;
        let link = LinkName::random().at("read", "/dev/urandom")?;
        put(&dir.join("link"), link.as_str())?;
        if parent.is_some() {
            files::mkdir(&dir.join("work"), 0o700)?;
        }
        let place = self.stage.layer(&chain_id);
        fs::rename(&metadata, &place).at("rename to", &place)?;
        put(&self.stage.contents(&chain_id), unpacked.contents.to_bytes())?;
        staged.layers.insert(chain_id, StagedLayer { record: record.clone(), link });
        Ok(record)
    }

    /// The file that a compressed layer is to be written to, and its path; [`Transaction::add_original`] takes it in.
    pub(super) fn blob_file(&self, digest: &Digest) -> Result<File, PathError> {
        let path = self.stage.blob(digest);
        File::create(&path).at("create", &path)
    }

    /// Ties a layer to a compressed blob, which has been written and verified or is in the store already.
    pub(super) fn add_original(&self, diff_id: DiffId, original: Descriptor) {
        self.staged().originals.push((diff_id, original));
    }

    /// A layer that this transaction holds: its tree and its tar-split.
    pub(super) fn staged_layer(&self, chain_id: &ChainId) -> Option<Packed> {
        let staged = self.staged();
        let layer = staged.layers.get(chain_id)?;
        Some(Packed {
            diff_id: layer.record.diff_id,
            tree: self.stage.cache_dir(&layer.record.cache_id).join("diff"),
            tar_split: self.stage.layer(chain_id).join(layerdb::TAR_SPLIT),
            contents: self.stage.contents(chain_id),
        })
    }

    /// Adds an image, whose layers are in the store or in this transaction when it is committed.
    pub fn add_image(
        &self,
        config: ImageConfig,
        names: &[Reference],
        manifest: Option<&Manifest>,
    ) -> Result<(), StoreError> {
        names.iter().try_for_each(names::check)?;
        let names = names.iter().map(super::references::canonical).collect();
        self.staged().images.push(StagedImage { config, names, manifest: manifest.cloned() });
        Ok(())
    }

    /// Adds a document, which has been verified, that leads to the manifest of an image of this transaction.
    pub(super) fn add_index(&self, id: ImageId, digest: Digest, raw: &[u8]) -> Result<(), PathError> {
        put(&self.stage.index(&id, &digest), raw)?;
        self.staged().indexes.insert((id, digest));
        Ok(())
    }

    /// Gives everything its place, durably. After an error the store is as it was before.
    pub fn commit(mut self, conflict: Conflict, ctx: &Ctx) -> Result<Committed, StoreError> {
        // The trees are written back before others have to wait; under the lock little is left to write.
        self.sync()?;
        let writing = self.store.writer(ctx)?;
        let staged = std::mem::take(&mut *self.staged());
        let mut journal = Journal::default();
        let layers = self.place_layers(&staged, &mut journal)?;
        self.place_originals(&staged, &mut journal)?;
        let images = self.place_images(&staged, &layers, &mut journal)?;
        let names = self.place_names(&staged, conflict, &mut journal, ctx)?;
        self.sync()?;
        ctx.check()?;
        journal.write(&self.stage)?;
        self.committed = true;
        journal.execute(&self.store.layout, &self.stage)?;
        drop(writing);
        let layers = journal.layers.iter().filter_map(|step| layers.get(&step.chain_id).cloned()).collect();
        Ok(Committed { layers, images, names })
    }

    /// Base before child; those that are there by now are left out. What a layer lies on is known only here.
    fn place_layers(
        &self,
        staged: &Staged,
        journal: &mut Journal,
    ) -> Result<BTreeMap<ChainId, LayerRecord>, StoreError> {
        let layout = &self.store.layout;
        let mut lowers: BTreeMap<ChainId, Option<String>> = BTreeMap::new();
        let mut new = BTreeMap::new();
        let mut waiting: Vec<&StagedLayer> = staged.layers.values().collect();
        loop {
            let before = waiting.len();
            let mut next = Vec::new();
            for layer in waiting {
                let record = &layer.record;
                if layerdb::exists(layout, &record.chain_id) {
                    continue;
                }
                let dir = self.stage.cache_dir(&record.cache_id);
                let lower = match &record.parent {
                    None => None,
                    Some(parent) => match (lowers.get(parent), staged.layers.get(parent)) {
                        (Some(lower), Some(parent)) => {
                            put(&self.stage.cache_dir(&parent.record.cache_id).join("committed"), "")?;
                            Some(overlay::stack(&parent.link, lower.as_deref()))
                        }
                        _ => match layerdb::read(layout, *parent)? {
                            Some(parent) => Some(overlay::lower_above(layout, &parent.cache_id)?),
                            None if staged.layers.contains_key(parent) => {
                                next.push(layer);
                                continue;
                            }
                            None => return Err(StoreError::NoLayer(*parent)),
                        },
                    },
                };
                if let Some(lower) = &lower {
                    put(&dir.join("lower"), lower)?;
                }
                journal.layers.push(LayerStep {
                    chain_id: record.chain_id,
                    parent: record.parent,
                    cache_id: record.cache_id.clone(),
                    link: layer.link.clone(),
                });
                journal.contents.push(record.chain_id);
                lowers.insert(record.chain_id, lower);
                new.insert(record.chain_id, record.clone());
            }
            match next.first() {
                None => return Ok(new),
                Some(stuck) if next.len() == before => return Err(StoreError::NoLayer(stuck.record.chain_id)),
                Some(_) => waiting = next,
            }
        }
    }

    fn place_originals(&self, staged: &Staged, journal: &mut Journal) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        let mut blobs = BTreeSet::new();
        let mut lists: BTreeMap<DiffId, Vec<Descriptor>> = BTreeMap::new();
        for (diff_id, original) in &staged.originals {
            if self.stage.blob(&original.digest).symlink_metadata().is_ok() && blobs.insert(original.digest) {
                journal.blobs.push(original.digest);
            }
            let list = match lists.get(diff_id) {
                Some(list) => list.clone(),
                None => originals::read(layout, diff_id).unwrap_or_default(),
            };
            if let Some(bytes) = originals::with(&list, original) {
                put(&self.stage.originals(diff_id), bytes)?;
                journal.originals.push(*diff_id);
                lists.insert(*diff_id, [list, vec![original.clone()]].concat());
            }
        }
        // Docker's notes: of images that came from a registry, with a name to find it by.
        let mut noted = BTreeSet::new();
        for image in &staged.images {
            let (Some(manifest), Some(name)) = (&image.manifest, image.names.first()) else { continue };
            let layers = image.config.diff_ids().iter().zip(manifest.layers());
            for (diff_id, original) in layers.filter(|(diff_id, original)| original.digest != diff_id.0) {
                if !noted.insert(*diff_id) {
                    continue;
                }
                if let Some(bytes) = originals::v2_metadata_with(layout, diff_id, original.digest, &name.full_name()) {
                    put(&self.stage.v2_metadata(diff_id), bytes)?;
                    put(&self.stage.blob_diff_id(&original.digest), diff_id.to_string())?;
                    journal.v2_metadata.push(*diff_id);
                    journal.blob_diff_ids.push(original.digest);
                }
            }
        }
        Ok(())
    }

    fn place_images(
        &self,
        staged: &Staged,
        new: &BTreeMap<ChainId, LayerRecord>,
        journal: &mut Journal,
    ) -> Result<Vec<ImageId>, StoreError> {
        let layout = &self.store.layout;
        let mut images = BTreeSet::new();
        for image in &staged.images {
            let id = image.config.id();
            for chain_id in image.config.chain_ids() {
                if !new.contains_key(&chain_id) && !layerdb::exists(layout, &chain_id) {
                    return Err(StoreError::NoLayer(chain_id));
                }
            }
            if let Some(manifest) = &image.manifest {
                let known = manifests::list(layout, &id)?.contains(&manifest.digest());
                if !known && !journal.manifests.contains(&(id, manifest.digest())) {
                    put(&self.stage.manifest(&manifest.digest()), manifest.raw())?;
                    journal.manifests.push((id, manifest.digest()));
                }
            }
            if !imagedb::exists(layout, &id) && images.insert(id) {
                put_with_mode(&self.stage.config(&id), image.config.raw(), 0o600)?;
                journal.images.push(id);
            }
        }
        let missing = |(id, digest): &&(ImageId, Digest)| layout.image_index(id, digest).symlink_metadata().is_err();
        journal.indexes.extend(staged.indexes.iter().filter(missing));
        Ok(journal.images.clone())
    }

    fn place_names(
        &self,
        staged: &Staged,
        conflict: Conflict,
        journal: &mut Journal,
        ctx: &Ctx,
    ) -> Result<Vec<NameChange>, StoreError> {
        let (references, unreadable) = References::read(&self.store.layout)?;
        let wanted = staged.images.iter().flat_map(|image| {
            let id = image.config.id();
            image.names.iter().map(move |name| (name, id))
        });
        let changes = names::decide(&references, wanted, conflict)?;
        let mut manifests: BTreeMap<&Reference, Digest> = BTreeMap::new();
        for image in &staged.images {
            let Some(manifest) = image.manifest.as_ref().map(Manifest::digest) else { continue };
            let noted = image.names.iter().filter(|name| name.digest() != Some(manifest));
            manifests.extend(noted.map(|name| (name, manifest)));
        }
        for change in changes.iter().filter(|change| change.applied) {
            let manifest = manifests.get(&change.name).copied();
            let is_noted = manifest.is_none() || references.manifest(&change.name) == manifest;
            if change.before == Some(change.wanted) && is_noted {
                continue;
            }
            let (name, before, after) = (change.name.clone(), change.before, change.wanted);
            journal.names.push(NameStep { name, before, after, manifest });
        }
        if !journal.names.is_empty() {
            names::warn_unreadable(&unreadable, ctx);
        }
        Ok(changes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let dir = File::open(self.stage.dir()).at("open", self.stage.dir())?;
        Ok(crate::sys::fs::sync_filesystem(&dir).at("sync", self.stage.dir())?)
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        // Every change under this lock is a single insertion: nothing is half done after a panic.
        self.staged.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // After the journal is written the next process finishes it; before that, it would remove this directory too.
        if !self.committed
            && let Err(error) = journal::discard(&self.stage)
        {
            tracing::warn!(%error, "a staging directory stays until the next load");
        }
    }
}

/// Writes a staged file; the transaction's sync makes it durable.
fn put(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), PathError> {
    put_with_mode(path, bytes.as_ref(), 0o644)
}

fn put_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PathError> {
    use std::io::Write;
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
    open.and_then(|mut file| file.write_all(bytes)).at("write", path)
}
