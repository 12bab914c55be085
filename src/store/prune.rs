//! Removing images that nothing uses, and what nothing needs any more.

use super::error::StoreError;
use super::leftovers::Leftovers;
use super::remove::{ContainerUse, Removal, Removed};
use super::{Store, StoredImage};
use crate::base::Ctx;

/// Which images go.
pub struct PruneOptions<'a> {
    /// Images with names too, if no container uses them; else those without any name.
    pub all: bool,
    /// The user's filter: only images for which this says yes.
    pub filter: &'a dyn Fn(&StoredImage) -> bool,
    /// The containers that the caller knows of.
    pub containers: &'a [ContainerUse],
    /// Only say which images would go.
    pub dry_run: bool,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Default)]
pub struct PruneReport {
    /// The images that were looked at and may go.
    pub candidates: Vec<StoredImage>,
    /// What went, in docker's order.
    pub removed: Vec<Removed>,
    /// How many bytes of layers and blobs went; layers as docker counts them.
    pub reclaimed: u64,
}

impl Store {
    /// Removes the images that `options` choose, and then layers, blobs and lists that nothing needs. An image that a
    /// container uses, or another image was built on, stays.
    pub fn prune(&self, options: &PruneOptions<'_>, ctx: &Ctx) -> Result<PruneReport, StoreError> {
        let choose = || -> Result<Vec<StoredImage>, StoreError> {
            let mut images = self.images(ctx)?;
            images.retain(|image| (options.all || image.names.is_empty()) && (options.filter)(image));
            Ok(images)
        };
        if options.dry_run {
            let work = Removal::new(&self.layout, options.containers)?;
            let mut candidates = choose()?;
            candidates.retain(|image| work.may_prune(&image.id()));
            return Ok(PruneReport { candidates, ..PruneReport::default() });
        }
        let _removing = self.remover(ctx)?;
        let candidates = choose()?;
        let mut work = Removal::new(&self.layout, options.containers)?;
        for image in &candidates {
            ctx.check()?;
            work.prune(&image.id());
        }
        work.finish()?;
        let leftovers = Leftovers::find(&self.layout)?.remove(&self.layout)?;
        let reclaimed = work.reclaimed.saturating_add(leftovers);
        Ok(PruneReport { candidates, removed: work.removed, reclaimed })
    }
}
