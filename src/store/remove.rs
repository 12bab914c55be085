//! Taking names and images away, with docker's rules (moby `daemon/images/image_delete.go`).

use std::collections::{BTreeMap, BTreeSet};

use super::containers;
use super::error::StoreError;
use super::layout::Layout;
use super::{References, Store, files, imagedb, images, layerdb, originals, pins};
use crate::base::{Ctx, Digest};
use crate::image::{ChainId, DiffId, ImageConfig, ImageId, Reference};

/// What was taken away, in docker's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// `Untagged: …`
    Untagged(Reference),
    /// `Deleted: <image ID>`
    Image(ImageId),
    /// `Deleted: <chain ID>`
    Layer(ChainId),
}

/// A container that was made from an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUse {
    /// The container's ID.
    pub container: String,
    /// Its image.
    pub image: ImageId,
    /// Whether it runs, or is paused.
    pub running: bool,
}

impl Store {
    /// Removes what `text` means: a name, and with its last name the image; or an image by ID. `containers` are those
    /// the caller knows of; Docker's own are found here, and others by the layer they stand on. Forced, several names and stopped containers are no obstacle.
    /// Layers go when nothing needs them any more. Unless `keep_parents`, untagged images that the removed one was
    /// built on go with it.
    ///
    /// Not one step: a crash in between leaves names without their image never, layers without an image at worst,
    /// which the next [`Store::prune`] takes.
    pub fn remove(
        &self,
        text: &str,
        force: bool,
        keep_parents: bool,
        containers: &[ContainerUse],
        ctx: &Ctx,
    ) -> Result<Vec<Removed>, StoreError> {
        let _removing = self.remover(ctx)?;
        let mut work = Removal::new(&self.layout, containers)?;
        let result = work.remove(text, force, keep_parents);
        // What was decided before an error is done all the same: names and images agree at every step.
        work.finish()?;
        result.map(|()| work.removed)
    }
}

/// A removal under way, with the whole state that its rules look at.
pub(super) struct Removal<'s> {
    layout: &'s Layout,
    references: References,
    parents: BTreeMap<ImageId, Option<ImageId>>,
    containers: Vec<ContainerUse>,
    doomed: Vec<ImageId>,
    names_changed: bool,
    pub removed: Vec<Removed>,
    /// Bytes of layers and blobs that went.
    pub reclaimed: u64,
}

impl<'s> Removal<'s> {
    pub fn new(layout: &'s Layout, containers: &[ContainerUse]) -> Result<Self, StoreError> {
        let ids = imagedb::list(layout)?;
        Ok(Self {
            layout,
            references: References::read(layout)?.0,
            parents: ids.into_iter().map(|id| (id, imagedb::parent(layout, &id))).collect(),
            containers: containers::uses(layout, containers)?,
            doomed: Vec::new(),
            names_changed: false,
            removed: Vec::new(),
            reclaimed: 0,
        })
    }

    fn remove(&mut self, text: &str, force: bool, keep_parents: bool) -> Result<(), StoreError> {
        let id = images::find(self.layout, &self.references, text)?;
        let names = self.references.of(&id);
        let by_id = id.to_string().starts_with(text) || id.0.hex().starts_with(text);
        let name = if by_id { None } else { text.parse::<Reference>().ok() };
        let mut quiet = false;
        if let Some(name) = name {
            if !force
                && single(&names)
                && let Some(user) = self.containers.iter().find(|user| user.image == id)
            {
                return Err(StoreError::ReferenceInUse {
                    reference: text.to_owned(),
                    container: user.container.chars().take(12).collect(),
                    image: id.0.short(),
                });
            }
            self.untag(name);
            if !self.references.of(&id).is_empty() {
                return Ok(());
            }
            quiet = true;
        } else if single(&names) {
            self.check(&id, force, false)?;
            self.untag_all(&id);
        }
        self.delete(id, force, keep_parents, quiet)
    }

    /// Takes a name away; with the last tag of a repository its digest references go.
    fn untag(&mut self, name: Reference) {
        let name = super::references::canonical(&name);
        let Some(id) = self.references.get(&name) else { return };
        self.take_name(&name);
        if name.digest().is_some() {
            return;
        }
        let same: Vec<Reference> =
            self.references.of(&id).into_iter().filter(|other| other.full_name() == name.full_name()).collect();
        if same.iter().all(|other| other.digest().is_some()) {
            same.iter().for_each(|other| self.take_name(other));
        }
    }

    fn untag_all(&mut self, id: &ImageId) {
        for name in self.references.of(id) {
            self.take_name(&name);
        }
    }

    fn take_name(&mut self, name: &Reference) {
        if self.references.remove(name) {
            self.names_changed = true;
            self.removed.push(Removed::Untagged(name.clone()));
        }
    }

    /// Deletes an image, and then the untagged images it was built on. `quiet`: its last name is gone already, and
    /// only who uses it matters.
    pub fn delete(&mut self, id: ImageId, force: bool, keep_parents: bool, quiet: bool) -> Result<(), StoreError> {
        let mut next = Some((id, force, quiet));
        while let Some((id, force, quiet)) = next.take() {
            if let Err(conflict) = self.check(&id, force, true) {
                let used = matches!(&conflict, StoreError::InUse { reason, .. } if reason.contains("container"));
                let dangling = self.references.of(&id).is_empty() && !self.has_children(&id);
                if quiet && (!dangling || used) {
                    return Ok(());
                }
                return Err(conflict);
            }
            self.untag_all(&id);
            self.removed.push(Removed::Image(id));
            self.doomed.push(id);
            let parent = self.parents.remove(&id).flatten();
            next = parent.filter(|p| !keep_parents && self.parents.contains_key(p)).map(|p| (p, false, true));
        }
        Ok(())
    }

    /// Whether neither a container nor another image needs an image.
    pub fn may_prune(&self, id: &ImageId) -> bool {
        let used = self.has_children(id) || self.containers.iter().any(|user| user.image == *id);
        !used && self.parents.contains_key(id)
    }

    /// Decides to remove an image with all its names, unless something uses it.
    pub fn prune(&mut self, id: &ImageId) {
        if !self.may_prune(id) {
            return;
        }
        self.untag_all(id);
        self.removed.push(Removed::Image(*id));
        self.doomed.push(*id);
        self.parents.remove(id);
    }

    fn has_children(&self, id: &ImageId) -> bool {
        self.parents.values().any(|parent| parent.as_ref() == Some(id))
    }

    /// Whether something stands against deleting an image.
    fn check(&self, id: &ImageId, force: bool, names_count: bool) -> Result<(), StoreError> {
        let conflict = |reason: String, forcible| Err(StoreError::InUse { image: id.0.short(), reason, forcible });
        if self.has_children(id) {
            return conflict("image has dependent child images".into(), false);
        }
        let user = |running| self.containers.iter().find(|user| user.image == *id && user.running == running);
        let short = |user: &ContainerUse| user.container.chars().take(12).collect::<String>();
        if let Some(user) = user(true) {
            return conflict(format!("image is being used by running container {}", short(user)), false);
        }
        if force {
            return Ok(());
        }
        if names_count && !self.references.of(id).is_empty() {
            return conflict("image is referenced in multiple repositories".into(), true);
        }
        if let Some(user) = user(false) {
            return conflict(format!("image is being used by stopped container {}", short(user)), true);
        }
        Ok(())
    }

    /// Does what was decided: names, then images, then the layers and files that nothing needs any more.
    pub fn finish(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.names_changed) {
            self.references.write(self.layout)?;
        }
        let mut candidates = Vec::new();
        for id in std::mem::take(&mut self.doomed) {
            // A damaged config names no layers; prune finds those.
            if let Ok(Some(config)) = imagedb::read(self.layout, &id) {
                candidates.push(config);
            }
            for (child, parent) in &self.parents {
                if *parent == Some(id) {
                    imagedb::orphan(self.layout, child)?;
                }
            }
            imagedb::remove(self.layout, &id)?;
            files::remove_tree(&self.layout.image_manifests(&id))?;
        }
        self.release(&candidates)
    }

    /// Removes the layers of these images, which are gone, that no image, child layer or container needs.
    fn release(&mut self, gone: &[ImageConfig]) -> Result<(), StoreError> {
        if gone.is_empty() {
            return Ok(());
        }
        let needed = needed_layers(self.layout)?;
        let mut done = BTreeSet::new();
        for config in gone {
            // Top first: a layer goes only when all above it are gone.
            for chain_id in config.chain_ids().into_iter().rev() {
                if needed.contains(&chain_id) || !done.insert(chain_id) {
                    continue;
                }
                let Ok(Some(record)) = layerdb::read(self.layout, chain_id) else { continue };
                if has_child(self.layout, &chain_id)? {
                    continue;
                }
                layerdb::remove(self.layout, &record)?;
                self.reclaimed = self.reclaimed.saturating_add(record.size);
                self.removed.push(Removed::Layer(chain_id));
            }
        }
        let diff_ids = gone.iter().flat_map(|config| config.diff_ids().iter().copied());
        let originals = remove_originals(self.layout, diff_ids.collect())?;
        self.reclaimed = self.reclaimed.saturating_add(originals);
        Ok(())
    }
}

/// At most one tag, and all names in one repository; what docker calls a single reference.
fn single(names: &[Reference]) -> bool {
    if names.len() <= 1 {
        return names.len() == 1;
    }
    let tags = names.iter().filter(|name| name.digest().is_none()).count();
    let repositories: BTreeSet<String> = names.iter().map(Reference::full_name).collect();
    tags <= 1 && repositories.len() == 1
}

/// The layers that images, containers and pins need, with all below them.
pub(super) fn needed_layers(layout: &Layout) -> Result<BTreeSet<ChainId>, StoreError> {
    let mut needed = BTreeSet::new();
    for id in imagedb::list(layout)? {
        // An image that cannot be read keeps nothing: its layers are not known. It is not removed here either.
        if let Ok(Some(config)) = imagedb::read(layout, &id) {
            needed.extend(config.chain_ids());
        }
    }
    let mounted = containers::mounts(layout)?.into_iter().filter_map(|mount| mount.parent);
    for top in mounted.chain(pins::pinned(layout)?) {
        let mut next = Some(top);
        while let Some(chain_id) = next {
            if !needed.insert(chain_id) {
                break;
            }
            next = layerdb::read(layout, chain_id)?.and_then(|record| record.parent);
        }
    }
    Ok(needed)
}

fn has_child(layout: &Layout, chain_id: &ChainId) -> Result<bool, StoreError> {
    for other in layerdb::list(layout)? {
        if files::parsed::<ChainId>(&layout.layer(&other).join("parent"))? == Some(*chain_id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the compressed blobs of these layers where no layer of that diff ID is left, and no other layer has them.
/// How many bytes went.
pub(super) fn remove_originals(layout: &Layout, diff_ids: BTreeSet<DiffId>) -> Result<u64, StoreError> {
    let mut left = BTreeSet::new();
    for chain_id in layerdb::list(layout)? {
        if let Ok(Some(record)) = layerdb::read(layout, chain_id) {
            left.insert(record.diff_id);
        }
    }
    let mut blobs: BTreeSet<Digest> = BTreeSet::new();
    for diff_id in diff_ids.difference(&left) {
        blobs.extend(originals::read(layout, diff_id)?.into_iter().map(|original| original.digest));
        files::remove(&layout.original_list(diff_id))?;
    }
    if blobs.is_empty() {
        return Ok(0);
    }
    for diff_id in files::listed(&layout.originals(), |name| Digest::from_hex(name).ok().map(DiffId))? {
        for original in originals::read(layout, &diff_id)? {
            blobs.remove(&original.digest);
        }
    }
    let mut bytes = 0u64;
    for digest in &blobs {
        let path = layout.blob(digest);
        bytes = bytes.saturating_add(path.metadata().map_or(0, |metadata| metadata.len()));
        files::remove(&path)?;
    }
    Ok(bytes)
}
