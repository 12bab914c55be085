//! The store as the place that images are brought to.

use std::fs::File;
use std::io::{self, Read, Write};

use super::error::StoreError;
use super::names::Conflict;
use super::packed::Packed;
use super::plan::{LoadPlan, Origin, PlannedLayer};
use super::transaction::{Committed, Transaction};
use super::{Store, unpack};
use crate::base::digest::Hasher;
use crate::base::progress::Task;
use crate::base::{BoxFault, Ctx};
use crate::image::{Descriptor, DiffId, Image, ImageSink, ImageSource, Layer, Manifest, Reference, index};
use crate::layer::compression::{self, DecodeLimits};

/// How images are taken in.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// What to do with a name that another image has.
    pub on_conflict: Conflict,
    /// Whether compressed layers are kept as they came, so that registry digests live.
    pub keep_originals: bool,
    /// How many layers are unpacked at once.
    pub threads: usize,
    /// Plan alone: nothing is written, the report has no [`LoadReport::committed`].
    pub dry_run: bool,
    /// What compressed layers may demand.
    pub limits: DecodeLimits,
}

impl Default for LoadOptions {
    /// Docker's way with names, originals kept, one layer at a time.
    fn default() -> Self {
        let (on_conflict, limits) = (Conflict::default(), DecodeLimits::default());
        Self { on_conflict, keep_originals: true, threads: 1, dry_run: false, limits }
    }
}

/// What a load planned and did.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// What was to be done.
    pub plan: LoadPlan,
    /// What was done; `None` of a dry run.
    pub committed: Option<Committed>,
}

/// Takes images into a store, all or none.
#[derive(Debug)]
pub struct StoreSink<'s> {
    store: &'s Store,
    options: LoadOptions,
}

impl Store {
    /// The store as a sink.
    pub fn sink(&self, options: LoadOptions) -> StoreSink<'_> {
        StoreSink { store: self, options }
    }
}

impl ImageSink for StoreSink<'_> {
    type Report = LoadReport;

    fn take(&mut self, source: &dyn ImageSource, images: &[Image], ctx: &Ctx) -> Result<LoadReport, BoxFault> {
        Ok(self.load(source, images, ctx)?)
    }
}

impl StoreSink<'_> {
    fn load(&self, source: &dyn ImageSource, images: &[Image], ctx: &Ctx) -> Result<LoadReport, StoreError> {
        let plan = || LoadPlan::new(&self.store.layout, images, self.options.on_conflict, self.options.keep_originals);
        if self.options.dry_run {
            return Ok(LoadReport { plan: plan()?, committed: None });
        }
        // Layers that the plan counts on stay from here on.
        let transaction = self.store.begin(ctx)?;
        let plan = plan()?;
        self.store.check_room(plan.bytes())?;
        let visit = |layer: &Layer, bytes: &mut (dyn Read + Send)| -> Result<(), BoxFault> {
            Ok(self.take_layer(&transaction, &plan, layer, bytes, ctx)?)
        };
        let wanted = plan.wanted();
        source.visit_layers(&wanted, self.options.threads, ctx, &visit).map_err(StoreError::Source)?;
        for planned in &plan.layers {
            self.take_twin(&transaction, planned, ctx)?;
        }
        for (image, planned) in images.iter().zip(&plan.images) {
            transaction.add_image(image.config.clone(), &planned.names, image.manifest.as_ref())?;
            let Some(manifest) = image.manifest.as_ref().map(Manifest::digest) else { continue };
            let pinned = planned.names.iter().filter_map(Reference::digest);
            for digest in pinned.filter(|digest| *digest != manifest) {
                let documents = index::chain(source, &digest, &manifest).map_err(StoreError::Source)?;
                for (descriptor, raw) in documents.unwrap_or_default() {
                    transaction.add_index(planned.id, descriptor.digest, &raw)?;
                }
            }
        }
        let committed = transaction.commit(self.options.on_conflict, ctx)?;
        Ok(LoadReport { plan, committed: Some(committed) })
    }

    /// Takes one layer from the source: unpacks it where the plan wants it, keeps its compressed bytes.
    fn take_layer(
        &self,
        transaction: &Transaction<'_>,
        plan: &LoadPlan,
        layer: &Layer,
        bytes: &mut (dyn Read + Send),
        ctx: &Ctx,
    ) -> Result<(), StoreError> {
        let kept = plan.originals.iter().find(|(diff_id, original)| {
            *diff_id == layer.diff_id && layer.original.as_ref().is_some_and(|own| own.digest == original.digest)
        });
        let target = plan.layers.iter().find(|planned| {
            planned.from == Origin::Source
                && planned.layer.diff_id == layer.diff_id
                && transaction.staged_layer(&planned.chain_id).is_none()
        });
        let total = match kept {
            Some((_, original)) => Some(original.size),
            None => layer.size,
        };
        let task = ctx.begin("Loading layer", layer.diff_id.0.short(), total);
        let mut counted = Counted { inner: bytes, task: &task };
        let result = match kept {
            Some((_, original)) => self.take_original(transaction, target, layer, original, &mut counted, ctx),
            None => unpack_to(transaction, target, layer.diff_id, &mut counted, ctx),
        };
        result?;
        task.complete();
        Ok(())
    }

    /// Reads a compressed layer once: the bytes go to a file and through a hash, their decompressed form is unpacked.
    fn take_original(
        &self,
        transaction: &Transaction<'_>,
        target: Option<&PlannedLayer>,
        layer: &Layer,
        original: &Descriptor,
        bytes: &mut (dyn Read + Send),
        ctx: &Ctx,
    ) -> Result<(), StoreError> {
        let file = transaction.blob_file(&original.digest)?;
        let mut tee = Tee { inner: bytes, file, hasher: Hasher::new(), count: 0, limit: original.size };
        let fault = |error: io::Error| unpack::fault(layer.diff_id, error);
        let unpacked = {
            let mut head = Vec::with_capacity(compression::MAGIC_BYTES);
            (&mut tee).take(compression::MAGIC_BYTES as u64).read_to_end(&mut head).map_err(fault)?;
            let form = compression::detect(&head);
            let whole = Box::new(io::Cursor::new(head).chain(&mut tee));
            let decoder = form.decoder(whole, &self.options.limits).map_err(fault)?;
            let mut tar = compression::bounded(decoder, original.size, "the uncompressed layer");
            unpack_to(transaction, target, layer.diff_id, &mut tar, ctx)
        };
        // A decoder stops at the end of its format; the blob goes on to its own end. When the blob is not what was
        // promised, that is the error to tell, not what the decoder made of it.
        let rest = io::copy(&mut tee, &mut io::sink());
        let (got, got_size) = (tee.hasher.finish(), tee.count);
        if rest.is_ok() && (got != original.digest || got_size != original.size) {
            let (expected, size) = (original.digest, original.size);
            return Err(StoreError::WrongBlob { expected, size, got, got_size });
        }
        unpacked?;
        rest.map_err(fault)?;
        transaction.add_original(layer.diff_id, original.clone());
        Ok(())
    }

    /// Unpacks a layer once more, from where it lies on another base.
    fn take_twin(&self, transaction: &Transaction<'_>, planned: &PlannedLayer, ctx: &Ctx) -> Result<(), StoreError> {
        let packed = match planned.from {
            Origin::Source => return Ok(()),
            Origin::Store(chain_id) => Packed::of_store(&self.store.layout, chain_id)?,
            Origin::Load(chain_id) => transaction.staged_layer(&chain_id).ok_or(StoreError::NoLayer(chain_id))?,
        };
        let diff_id = planned.layer.diff_id;
        let task = ctx.begin("Copying layer", diff_id.0.short(), planned.layer.size);
        let mut tar = packed.tar()?;
        let mut counted = Counted { inner: &mut *tar, task: &task };
        transaction.add_layer(planned.parent, Some(diff_id), &mut counted, ctx)?;
        task.complete();
        Ok(())
    }
}

/// Unpacks a tar where the plan wants it; one that is wanted for its compressed form alone is proven and dropped.
fn unpack_to(
    transaction: &Transaction<'_>,
    target: Option<&PlannedLayer>,
    diff_id: DiffId,
    tar: &mut (dyn Read + Send),
    ctx: &Ctx,
) -> Result<(), StoreError> {
    match target {
        Some(planned) => transaction.add_layer(planned.parent, Some(diff_id), tar, ctx).map(|_| ()),
        None => unpack::prove(tar, diff_id),
    }
}

/// Reports what passes.
struct Counted<'a> {
    inner: &'a mut (dyn Read + Send),
    task: &'a Task,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.task.advance(n as u64)?;
        Ok(n)
    }
}

/// Writes what passes to a file as well, and hashes it. More bytes than promised are an error before they are written.
struct Tee<'a> {
    inner: &'a mut (dyn Read + Send),
    file: File,
    hasher: Hasher,
    count: u64,
    limit: u64,
}

impl Read for Tee<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        self.hasher.update(&buf[..n]);
        if self.count <= self.limit {
            self.file.write_all(&buf[..n])?;
        }
        Ok(n)
    }
}
