//! Looking for damage, and repairing what can be repaired without a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::error::StoreError;
use super::journal::Abandoned;
use super::layout::{CacheId, LinkName};
use super::leftovers::{self, Leftovers};
use super::packed::Packed;
use super::{
    LayerRecord, References, Store, containers, files, imagedb, journal, layerdb, manifests, originals, overlay,
};
use crate::base::digest::HashingReader;
use crate::base::{AtPath, Ctx, Digest, durable};
use crate::image::{ChainId, DiffId, Reference};

macro_rules! findings {
    ($($(#[doc = $doc:literal])* $name:ident = $slug:literal),* $(,)?) => {
        /// What can be wrong with a store. The slugs are stable: scripts may look for them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind { $($(#[doc = $doc])* $name),* }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The kind's stable name.
            pub const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug),* }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*)),* }
            }
        }
    };
}

findings! {
    /// `repositories.json` cannot be read.
    NamesUnreadable = "names-unreadable",
    /// An entry of `repositories.json` is not a name, or its value not an image ID. Repair drops it.
    NameMalformed = "name-malformed",
    /// A name of an image that is not there. Repair takes the name away.
    NameDangling = "name-dangling",
    /// `names.json`, which notes the manifests that names came with, cannot be read. Repair removes it; an image that
    /// came with several manifests is saved with the first.
    NameNotesDamaged = "name-notes-damaged",
    /// The manifest that a name came with, as it was noted, is not there or damaged. Repair drops the note.
    NameManifestMissing = "name-manifest-missing",
    /// A config whose digest is not its name, or that is not a config.
    ConfigDamaged = "config-damaged",
    /// An image whose layer is not there.
    ImageLayerMissing = "image-layer-missing",
    /// A file of a layer's metadata is missing or unreadable.
    LayerMetadataDamaged = "layer-metadata-damaged",
    /// A layer whose chain ID does not follow from its parent and its diff ID.
    LayerChainWrong = "layer-chain-wrong",
    /// A layer whose parent is not there.
    LayerParentMissing = "layer-parent-missing",
    /// A layer whose directory below `overlay2/`, or the tree in it, is not there.
    LayerTreeMissing = "layer-tree-missing",
    /// A layer without `tar-split.json.gz`: its tar cannot be made again.
    LayerTarSplitMissing = "layer-tar-split-missing",
    /// A layer whose `link` file is missing or malformed. Repair writes it where a short link tells what it was.
    LayerLinkDamaged = "layer-link-damaged",
    /// A layer without its short link below `overlay2/l/`, or with one that leads elsewhere. Repair makes it anew.
    LinkMissing = "link-missing",
    /// A short link that leads nowhere. Repair removes it.
    LinkDangling = "link-dangling",
    /// A `lower` file that does not say what the layer lies on. Repair writes it anew.
    LowerWrong = "lower-wrong",
    /// A layer that no image and no container needs. Repair removes it.
    LayerUnused = "layer-unused",
    /// A layer whose removal was begun. Repair finishes it.
    LayerHalfRemoved = "layer-half-removed",
    /// A directory below `overlay2/` that no layer and no container has. Repair removes it, unless Docker's builder,
    /// which has such directories, has been at work here.
    TreeUnused = "tree-unused",
    /// What a dead dockerd was preparing in `layerdb/tmp`. Repair removes it.
    LayerTemporary = "layer-temporary",
    /// What a dead load left in `ferry/staging`. Repair finishes or removes it, as the next load would.
    StagingAbandoned = "staging-abandoned",
    /// The list of what a dead load had begun cannot be read, and nothing is written to the store while it is there.
    /// Repair removes it with what was not in place yet; the images have to be loaded again.
    StagingDamaged = "staging-damaged",
    /// A container's writable layer of which a part is not there.
    ContainerLayerDamaged = "container-layer-damaged",
    /// A kept compressed layer with another digest (deep check) or size. Repair removes it; the layer itself is whole.
    BlobDamaged = "blob-damaged",
    /// A kept compressed layer that no layer has. Repair removes it.
    BlobUnused = "blob-unused",
    /// A list of compressed layers that cannot be read. Repair removes it.
    OriginalsDamaged = "originals-damaged",
    /// A list of compressed layers of a layer that is gone. Repair removes it.
    OriginalsUnused = "originals-unused",
    /// A kept manifest or index whose digest is not its name, or that belongs to another image. Repair removes it.
    ManifestDamaged = "manifest-damaged",
    /// Kept manifests of an image that is gone. Repair removes them.
    ManifestUnused = "manifest-unused",
    /// A content list that does not fit its layer. Repair removes it; the layer is proven anew when it is next read.
    ContentsDamaged = "contents-damaged",
    /// A content list of a layer that is gone. Repair removes it.
    ContentsUnused = "contents-unused",
    /// Deep check: a layer's files or metadata do not give its diff ID any more.
    LayerAltered = "layer-altered",
}

impl Kind {
    /// Whether it is no damage, but what a killed process left and the next load removes.
    pub const fn is_leftover(self) -> bool {
        matches!(self, Self::StagingAbandoned)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// With what: a name, an ID, a file.
    pub object: String,
    /// The file or directory.
    pub path: PathBuf,
    /// More about it; may be empty.
    pub detail: String,
    /// How it can be repaired without a loss; `None` when it cannot.
    pub repair: Option<Repair>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.slug(), self.object)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

/// A step that repairs a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Writes `repositories.json` without entries that cannot be read.
    RewriteNames,
    /// Takes a name away.
    RemoveName(Reference),
    /// Drops the note of the manifest that a name came with.
    ForgetManifest(Reference),
    /// Removes a file.
    RemoveFile(PathBuf),
    /// Removes a directory and all in it.
    RemoveTree(PathBuf),
    /// Writes a metadata file.
    WriteFile(PathBuf, String),
    /// Makes the short link of a directory anew.
    MakeLink(CacheId, LinkName),
    /// Removes a directory below `overlay2/` with its short link.
    RemoveCacheDir(CacheId),
    /// Removes a layer that nothing needs.
    RemoveLayer(ChainId),
    /// Finishes or removes what dead processes left.
    Recover,
    /// Removes a transaction of a dead process that can never be finished.
    Discard(PathBuf),
}

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All metadata.
    Metadata,
    /// Every byte: diff IDs, kept blobs.
    Contents,
}

impl Store {
    /// Looks for damage. Changes nothing. The metadata is looked at while nobody changes it, where the store can be
    /// locked.
    pub fn fsck(&self, depth: Depth, ctx: &Ctx) -> Result<Vec<Finding>, StoreError> {
        let _using = self.using(ctx)?;
        let mut check = Check { store: self, findings: Vec::new(), layers: BTreeMap::new() };
        let quiet = match self.quiet(ctx) {
            Ok(quiet) => Some(quiet),
            Err(error) if super::locks::cannot_write(&error) => None,
            Err(error) => return Err(error),
        };
        check.metadata()?;
        drop(quiet);
        if depth == Depth::Contents {
            check.contents(ctx)?;
        }
        Ok(check.findings)
    }

    /// Repairs what [`Store::fsck`] found and can be repaired. Goes on past failures; each comes back with its finding.
    pub fn repair(&self, findings: &[Finding], ctx: &Ctx) -> Result<Vec<(Finding, StoreError)>, StoreError> {
        let _removing = self.remover_quiet(ctx)?;
        let mut failed = Vec::new();
        for finding in findings {
            ctx.check()?;
            let Some(repair) = &finding.repair else { continue };
            if let Err(error) = self.apply(repair, ctx) {
                failed.push((finding.clone(), error));
            }
        }
        Ok(failed)
    }

    fn apply(&self, repair: &Repair, ctx: &Ctx) -> Result<(), StoreError> {
        let layout = &self.layout;
        match repair {
            Repair::RewriteNames => {
                let (references, unreadable) = References::read(layout)?;
                super::names::warn_unreadable(&unreadable, ctx);
                references.write(layout)
            }
            Repair::RemoveName(name) => {
                let (mut references, _) = References::read(layout)?;
                references.remove(name);
                references.write(layout)
            }
            Repair::ForgetManifest(name) => {
                let (mut references, _) = References::read(layout)?;
                references.forget_manifest(name);
                references.write(layout)
            }
            Repair::RemoveFile(path) => Ok(files::remove(path)?),
            Repair::RemoveTree(path) => Ok(files::remove_tree(path)?),
            Repair::WriteFile(path, text) => Ok(durable::write(path, text.as_bytes(), 0o644)?),
            Repair::MakeLink(id, link) => {
                files::remove(&layout.links().join(link.as_str()))?;
                Ok(overlay::make_link(layout, id, link)?)
            }
            Repair::RemoveCacheDir(id) => overlay::remove(layout, id),
            Repair::RemoveLayer(chain_id) => match layerdb::read(layout, *chain_id)? {
                Some(record) => layerdb::remove(layout, &record),
                None => Ok(()),
            },
            Repair::Recover => journal::recover(layout),
            Repair::Discard(dir) => journal::discard(&journal::Stage::new(dir.clone())),
        }
    }
}

struct Check<'s> {
    store: &'s Store,
    findings: Vec<Finding>,
    /// Layers whose metadata can be read.
    layers: BTreeMap<ChainId, LayerRecord>,
}

impl Check<'_> {
    fn metadata(&mut self) -> Result<(), StoreError> {
        self.layers()?;
        self.trees()?;
        self.links()?;
        self.images()?;
        self.names()?;
        self.containers()?;
        self.blobs()?;
        self.content_lists()?;
        self.remains()
    }

    fn found(&mut self, kind: Kind, object: impl ToString, path: PathBuf, detail: impl ToString) -> &mut Finding {
        let (object, detail) = (object.to_string(), detail.to_string());
        self.findings.push(Finding { kind, object, path, detail, repair: None });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// A file that is damaged, or that nothing needs, and may go.
    fn found_to_remove(&mut self, kind: Kind, object: impl ToString, path: PathBuf, detail: impl ToString) {
        let repair = if path.is_dir() && !path.is_symlink() {
            Repair::RemoveTree(path.clone())
        } else {
            Repair::RemoveFile(path.clone())
        };
        self.found(kind, object, path, detail).repair = Some(repair);
    }

    fn layers(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for chain_id in layerdb::list(layout)? {
            match layerdb::read(layout, chain_id) {
                Ok(Some(record)) => {
                    self.layers.insert(chain_id, record);
                }
                Ok(None) => {}
                Err(error) => {
                    self.found(Kind::LayerMetadataDamaged, chain_id, layout.layer(&chain_id), error);
                }
            }
        }
        for record in self.layers.clone().into_values() {
            let dir = layout.layer(&record.chain_id);
            let follows = match record.parent {
                Some(parent) => parent.child(record.diff_id),
                None => ChainId::base(record.diff_id),
            };
            if follows != record.chain_id {
                self.found(Kind::LayerChainWrong, record.chain_id, dir.clone(), "");
            }
            if let Some(parent) = record.parent.filter(|parent| !layerdb::exists(layout, parent)) {
                self.found(Kind::LayerParentMissing, record.chain_id, dir.clone(), parent);
            }
            if !dir.join(layerdb::TAR_SPLIT).is_file() {
                self.found(Kind::LayerTarSplitMissing, record.chain_id, dir, "");
            }
        }
        Ok(())
    }

    fn trees(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for record in self.layers.clone().into_values() {
            let dir = layout.cache_dir(&record.cache_id);
            if !dir.join("diff").is_dir() {
                self.found(Kind::LayerTreeMissing, record.chain_id, dir, "");
                continue;
            }
            let link = match overlay::link(layout, &record.cache_id) {
                Ok(link) => link,
                Err(error) => {
                    let known = self.link_to(&record.cache_id)?;
                    let path = dir.join("link");
                    let finding = self.found(Kind::LayerLinkDamaged, record.chain_id, path.clone(), error);
                    finding.repair = known.map(|link| Repair::WriteFile(path, link.to_string()));
                    continue;
                }
            };
            let short = layout.links().join(link.as_str());
            if std::fs::read_link(&short).ok() != Some(overlay::link_target(&record.cache_id)) {
                let finding = self.found(Kind::LinkMissing, record.chain_id, short, "");
                finding.repair = Some(Repair::MakeLink(record.cache_id.clone(), link));
            }
            let expected = match record.parent.and_then(|parent| self.layers.get(&parent)) {
                Some(parent) => match overlay::lower_above(layout, &parent.cache_id) {
                    Ok(lower) => Some(lower),
                    Err(_) => continue,
                },
                None if record.parent.is_some() => continue,
                None => None,
            };
            let path = dir.join("lower");
            if files::line(&path).ok() != Some(expected.clone()) {
                let finding = self.found(Kind::LowerWrong, record.chain_id, path.clone(), "");
                finding.repair = Some(match expected {
                    Some(lower) => Repair::WriteFile(path, lower),
                    None => Repair::RemoveFile(path),
                });
            }
        }
        Ok(())
    }

    /// The short link that leads to a directory.
    fn link_to(&self, id: &CacheId) -> Result<Option<LinkName>, StoreError> {
        let links = self.store.layout.links();
        let target = overlay::link_target(id);
        let mut names = files::listed(&links, |name| name.parse::<LinkName>().ok())?;
        names.retain(|name| std::fs::read_link(links.join(name.as_str())).ok().as_ref() == Some(&target));
        Ok(names.pop())
    }

    fn links(&mut self) -> Result<(), StoreError> {
        let links = self.store.layout.links();
        for name in files::names(&links)? {
            let path = links.join(&name);
            if path.symlink_metadata().is_ok_and(|m| m.is_symlink()) && !path.exists() {
                self.found_to_remove(Kind::LinkDangling, name, path, "");
            }
        }
        Ok(())
    }

    fn images(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for id in imagedb::list(layout)? {
            match imagedb::read(layout, &id) {
                Err(error) => {
                    self.found(Kind::ConfigDamaged, id, layout.config(&id), error);
                }
                Ok(None) => {}
                Ok(Some(config)) => {
                    for chain_id in config.chain_ids() {
                        if !layerdb::exists(layout, &chain_id) {
                            self.found(Kind::ImageLayerMissing, id, layout.layer(&chain_id), chain_id);
                        }
                    }
                }
            }
            for digest in manifests::list(layout, &id)? {
                if let Err(error) = manifests::read(layout, &id, &digest) {
                    let path = layout.image_manifests(&id).join(digest.hex());
                    self.found_to_remove(Kind::ManifestDamaged, digest, path, error);
                }
            }
            for digest in manifests::indexes(layout, &id)? {
                if let Err(error) = manifests::index(layout, &id, &digest) {
                    self.found_to_remove(Kind::ManifestDamaged, digest, layout.image_index(&id, &digest), error);
                }
            }
        }
        Ok(())
    }

    fn names(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        let path = layout.repositories();
        let (references, unreadable) = match References::read(layout) {
            Ok(read) => read,
            Err(error) => {
                self.found(Kind::NamesUnreadable, "repositories.json", path, error);
                return Ok(());
            }
        };
        for name in unreadable {
            self.found(Kind::NameMalformed, name, path.clone(), "").repair = Some(Repair::RewriteNames);
        }
        for (name, id) in references.iter() {
            if !imagedb::exists(layout, &id) {
                let finding = self.found(Kind::NameDangling, name, path.clone(), id);
                finding.repair = Some(Repair::RemoveName(name.clone()));
            }
        }
        if let Err(error) = super::references::check_notes(layout) {
            self.found_to_remove(Kind::NameNotesDamaged, "names.json", layout.name_notes(), error);
        }
        for (name, id, digest) in references.manifests() {
            if !matches!(manifests::read(layout, &id, &digest), Ok(Some(_))) {
                let path = layout.image_manifests(&id).join(digest.hex());
                let finding = self.found(Kind::NameManifestMissing, name, path, "");
                finding.repair = Some(Repair::ForgetManifest(name.clone()));
            }
        }
        Ok(())
    }

    fn containers(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for container in files::names(&layout.mounts())? {
            let path = layout.mounts().join(&container);
            let mount = match containers::mount(layout, container.clone()) {
                Ok(mount) => mount,
                Err(error) => {
                    self.found(Kind::ContainerLayerDamaged, container, path, error);
                    continue;
                }
            };
            if mount.mount_id.is_none() {
                self.found(Kind::ContainerLayerDamaged, &container, path.clone(), "mount-id is missing");
            }
            for id in [&mount.mount_id, &mount.init_id].into_iter().flatten() {
                if !layout.diff_dir(id).is_dir() {
                    let detail = format!("overlay2/{id} is missing");
                    self.found(Kind::ContainerLayerDamaged, &container, path.clone(), detail);
                }
            }
            if let Some(parent) = mount.parent.filter(|parent| !layerdb::exists(layout, parent)) {
                let detail = format!("layer {parent} is missing");
                self.found(Kind::ContainerLayerDamaged, &container, path, detail);
            }
        }
        Ok(())
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for diff_id in files::listed(&layout.originals(), |name| Digest::from_hex(name).ok().map(DiffId))? {
            let path = layout.original_list(&diff_id);
            let list = match originals::read(layout, &diff_id) {
                Ok(list) => list,
                Err(error) => {
                    self.found_to_remove(Kind::OriginalsDamaged, diff_id, path, error);
                    continue;
                }
            };
            for original in list {
                let path = layout.blob(&original.digest);
                let Ok(metadata) = path.symlink_metadata() else { continue };
                if metadata.len() != original.size {
                    let detail = format!("{} bytes instead of {}", metadata.len(), original.size);
                    self.found_to_remove(Kind::BlobDamaged, original.digest, path, detail);
                }
            }
        }
        Ok(())
    }

    fn content_lists(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for chain_id in files::listed(&layout.contents(), |name| Digest::from_hex(name).ok().map(ChainId))? {
            let path = layout.content_list(&chain_id);
            if super::contents::ContentList::read(&path)?.is_none() {
                self.found_to_remove(Kind::ContentsDamaged, chain_id, path, "");
            }
        }
        Ok(())
    }

    fn remains(&mut self) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        for name in layerdb::half_removed(layout)? {
            let path = layout.layerdb().join(&name);
            self.found(Kind::LayerHalfRemoved, name, path, "").repair = Some(Repair::Recover);
        }
        for name in files::names(&layout.layerdb_tmp())? {
            let path = layout.layerdb_tmp().join(&name);
            self.found_to_remove(Kind::LayerTemporary, name, path, "");
        }
        for (path, state) in journal::abandoned(layout)? {
            let object = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let (kind, detail, repair) = match state {
                Abandoned::Staged => (Kind::StagingAbandoned, String::new(), Repair::Recover),
                Abandoned::Begun => {
                    let detail = "its images are verified and will be put in place".to_owned();
                    (Kind::StagingAbandoned, detail, Repair::Recover)
                }
                Abandoned::Damaged(error) => (Kind::StagingDamaged, error.to_string(), Repair::Discard(path.clone())),
            };
            self.found(kind, object, path, detail).repair = Some(repair);
        }
        let left = match Leftovers::find(layout) {
            Ok(left) => left,
            // What it cannot read has been told above.
            Err(StoreError::Damaged { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        for chain_id in left.layers {
            let finding = self.found(Kind::LayerUnused, chain_id, layout.layer(&chain_id), "");
            finding.repair = Some(Repair::RemoveLayer(chain_id));
        }
        let builder = leftovers::has_build_cache(layout);
        // Where Docker's builder has been at work nobody but its database knows which are its own.
        for id in left.cache_dirs.into_iter().filter(|_| !builder) {
            let finding = self.found(Kind::TreeUnused, &id, layout.cache_dir(&id), "");
            finding.repair = Some(Repair::RemoveCacheDir(id));
        }
        for digest in left.blobs {
            let path = layout.blob(&digest);
            self.found_to_remove(Kind::BlobUnused, digest, path, "");
        }
        for diff_id in left.originals {
            let path = layout.original_list(&diff_id);
            self.found_to_remove(Kind::OriginalsUnused, diff_id, path, "");
        }
        for id in left.manifests {
            let path = layout.image_manifests(&id);
            self.found_to_remove(Kind::ManifestUnused, id, path, "");
        }
        for chain_id in left.contents {
            let path = layout.content_list(&chain_id);
            self.found_to_remove(Kind::ContentsUnused, chain_id, path, "");
        }
        Ok(())
    }

    /// Every byte: kept blobs against their digests, layers against their diff IDs.
    fn contents(&mut self, ctx: &Ctx) -> Result<(), StoreError> {
        let layout = &self.store.layout;
        let damaged: BTreeSet<PathBuf> = self.findings.iter().map(|finding| finding.path.clone()).collect();
        for digest in files::listed(&layout.blobs(), |name| Digest::from_hex(name).ok())? {
            let path = layout.blob(&digest);
            if damaged.contains(&path) {
                continue;
            }
            let task = ctx.begin("Checking blob", digest.short(), path.metadata().ok().map(|m| m.len()));
            let mut reader = HashingReader::new(std::fs::File::open(&path).at("open", &path)?);
            io::copy(&mut reader, &mut Progress(&task)).at("read", &path)?;
            let (found, _, _) = reader.finish();
            task.complete();
            if found != digest {
                self.found_to_remove(Kind::BlobDamaged, digest, path, format!("its digest is {found}"));
            }
        }
        for record in self.layers.clone().into_values() {
            let task = ctx.begin("Checking layer", record.diff_id.0.short(), None);
            let result = Packed::of_store(layout, record.chain_id).and_then(|packed| packed.check(&task));
            match result {
                Err(StoreError::Interrupted(interrupted)) => return Err(interrupted.into()),
                Err(error) => {
                    ctx.check()?;
                    self.found(Kind::LayerAltered, record.chain_id, layout.diff_dir(&record.cache_id), error);
                }
                Ok(()) => task.complete(),
            }
        }
        Ok(())
    }
}

/// Counts what is written to it.
struct Progress<'a>(&'a crate::base::progress::Task);

impl io::Write for Progress<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.advance(buf.len() as u64)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_finding_has_a_name_of_its_own_and_a_meaning() {
        let slugs: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kind.meaning().trim().ends_with('.')));
    }
}
