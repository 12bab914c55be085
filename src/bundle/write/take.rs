//! The first pass: every layer is read once and taken apart, or kept as the blob it came as.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::BundleOptions;
use crate::base::digest::HashingReader;
use crate::base::progress::Task;
use crate::base::read_at::{FileAt, Section};
use crate::base::{BoxFault, ContentId, Ctx, Digest, ReadAt, lock};
use crate::bundle::catalog::{Collector, SplitLayer};
use crate::bundle::cut;
use crate::bundle::error::{BundleError, Doing};
use crate::bundle::index::blob_of;
use crate::bundle::parallel::in_parallel;
use crate::image::{Descriptor, DiffId, Form, ImageSource, Layer};
use crate::layer::compression::{self, Compression, DecodeLimits, MAGIC_BYTES, WindowTooLarge};
use crate::layer::replay;

/// What the first pass leaves of a layer.
pub(super) enum Taken {
    /// Where its contents are read again when the source cannot give them, and how its blob is made again.
    Split(Box<SplitLayer>, Option<Arc<dyn ReadAt>>, Option<replay::Way>),
    /// The blob, kept in the spool: its content ID, its size, that of its tar.
    Blob(ContentId, u64, u64, Arc<dyn ReadAt>),
    /// A base has it.
    Base,
}

/// The first pass: every layer once, as parallel as the source allows.
pub(super) fn take_apart(
    source: &dyn ImageSource,
    layers: &[Layer],
    left_out: &HashSet<DiffId>,
    options: &BundleOptions,
    ctx: &Ctx,
) -> Result<Vec<Taken>, BoxFault> {
    let taken: Mutex<Vec<Option<Taken>>> = Mutex::new(layers.iter().map(|_| None).collect());
    let key = |layer: &Layer| (layer.diff_id, blob_of(layer));
    let place: HashMap<(DiffId, Digest), usize> =
        layers.iter().enumerate().map(|(at, layer)| (key(layer), at)).collect();
    let visit = Mutex::new(Vec::new());
    in_parallel(options.threads, layers.len(), &|at| {
        let layer = &layers[at];
        let mut collector = Collector::default();
        if left_out.contains(&layer.diff_id) {
            lock(&taken)[at] = Some(Taken::Base);
        } else if options.keep_originals && is_compressed(layer) {
            lock(&visit).push((at, Form::Original));
        } else if source.has_contents(layer) && source.split_layer(layer, &mut collector)? {
            lock(&taken)[at] = Some(Taken::Split(Box::new(collector.finish()), None, None));
        } else {
            lock(&visit).push((at, Form::Tar));
        }
        Ok(())
    })?;
    let mut visit = visit.into_inner().unwrap_or_else(PoisonError::into_inner);
    visit.sort_unstable_by_key(|(at, _)| *at);
    let visit: Vec<_> = visit.into_iter().map(|(at, form)| (layers[at].clone(), form)).collect();
    source.visit_layers(&visit, options.threads, ctx, &|layer, bytes| {
        let task = ctx.begin("Reading layer", layer.diff_id.0.short(), layer.size);
        let original = layer.original.as_ref().filter(|_| options.keep_originals && is_compressed(layer));
        let done = match original {
            Some(original) => take_blob(source, layer, original, bytes, options, &task, ctx)?,
            None => take_tar(source, layer, bytes, options, &task)?,
        };
        if let Some(at) = place.get(&key(layer)) {
            lock(&taken)[*at] = Some(done);
        }
        task.complete();
        Ok(())
    })?;
    let taken = taken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let complete = taken.into_iter().zip(layers).map(|(taken, layer)| {
        taken.ok_or_else(|| BundleError::Absent { what: format!("layer {}", layer.diff_id) }.into())
    });
    complete.collect()
}

/// Whether a layer's original is something else than its tar.
pub(super) fn is_compressed(layer: &Layer) -> bool {
    layer.original.as_ref().is_some_and(|original| original.digest != layer.diff_id.0)
}

/// Takes a tar apart, and keeps a copy when the source cannot give contents again.
fn take_tar(
    source: &dyn ImageSource,
    layer: &Layer,
    tar: &mut (dyn Read + Send),
    options: &BundleOptions,
    task: &Task,
) -> Result<Taken, BoxFault> {
    let spool = if source.has_contents(layer) { None } else { Some(spool_file(options)?) };
    let mut collector = Collector::default();
    let mut tee = Tee { inner: HashingReader::new(tar), copy: spool.as_ref(), task: Some(task) };
    cut::split(&mut tee, &mut collector)?;
    let (digest, _, _) = tee.inner.finish();
    if digest != layer.diff_id.0 {
        return Err(not_what_it_is_called(&layer.diff_id.0, &digest).into());
    }
    Ok(Taken::Split(Box::new(collector.finish()), spool.map(kept).transpose()?, None))
}

/// Takes a blob; it must be what its descriptor says, and decompress to what the diff ID says. Where its bytes can be
/// made again of the tar the tar is taken apart, and where not the blob is kept as it is.
fn take_blob(
    source: &dyn ImageSource,
    layer: &Layer,
    original: &Descriptor,
    blob: &mut (dyn Read + Send),
    options: &BundleOptions,
    task: &Task,
    ctx: &Ctx,
) -> Result<Taken, BoxFault> {
    let spool = spool_file(options)?;
    let mut tee = Tee { inner: HashingReader::new(blob), copy: Some(&spool), task: Some(task) };
    let doing = || format!("read layer {}", layer.diff_id);
    io::copy(&mut tee, &mut io::sink()).doing(doing)?;
    let (digest, size, _) = tee.inner.finish();
    if digest != original.digest || size != original.size {
        return Err(not_what_it_is_called(&original.digest, &digest).into());
    }
    let spool = kept(spool)?;
    let whole = || Section::new(spool.clone(), 0, size);
    let mut head = Vec::new();
    whole().take(MAGIC_BYTES as u64).read_to_end(&mut head).doing(doing)?;
    let form = compression::detect(&head);
    // The blob is decompressed once, for its diff ID and for the attempt to make it again.
    let tar_spool = if source.has_contents(layer) { None } else { Some(spool_file(options)?) };
    let tar = form.decoder(Box::new(whole()), &DecodeLimits::default()).doing(doing)?;
    let mut tar = Tee { inner: HashingReader::new(tar), copy: tar_spool.as_ref(), task: None };
    let mut replay = match form {
        Compression::Gzip => replay::find(&|| io::BufReader::new(whole()), size, &mut tar, ctx).doing(doing)?,
        _ => None,
    };
    if replay.is_none() {
        tar.copy = None;
    }
    let (digest, tar_size, _) = match io::copy(&mut tar, &mut io::sink()) {
        Ok(_) => tar.inner.finish(),
        // The source knows what larger windows it was allowed; or it has the tar and needs none.
        Err(error) if error.get_ref().is_some_and(|inner| inner.is::<WindowTooLarge>()) => {
            let mut tar = HashingReader::new(source.open_layer(layer, Form::Tar)?);
            io::copy(&mut tar, &mut io::sink()).doing(doing)?;
            tar.finish()
        }
        Err(error) => return Err(error).doing(doing)?,
    };
    if digest != layer.diff_id.0 {
        return Err(not_what_it_is_called(&layer.diff_id.0, &digest).into());
    }
    let tar_spool = match replay {
        Some(_) => tar_spool.map(kept).transpose()?,
        None => None,
    };
    if let Some(way) = &mut replay {
        let again: Box<dyn Read + Send> = match &tar_spool {
            Some(file) => Box::new(Section::new(file.clone(), 0, tar_size)),
            None => form.decoder(Box::new(whole()), &DecodeLimits::default()).doing(doing)?,
        };
        if !way.is_proven(&mut io::BufReader::new(whole()), again, ctx).doing(doing)? {
            replay = None;
        }
    }
    if replay.is_some() {
        let mut collector = Collector::default();
        let whole = match &tar_spool {
            Some(file) => {
                cut::split(&mut Section::new(file.clone(), 0, tar_size), &mut collector)?;
                true
            }
            None => source.split_layer(layer, &mut collector)?,
        };
        if !whole {
            cut::split(&mut *source.open_layer(layer, Form::Tar)?, &mut collector)?;
        }
        return Ok(Taken::Split(Box::new(collector.finish()), tar_spool, replay));
    }
    let mut id = blake3::Hasher::new();
    io::copy(&mut whole(), &mut id).doing(doing)?;
    let id = ContentId::from_bytes(*id.finalize().as_bytes());
    Ok(Taken::Blob(id, size, tar_size, spool))
}

fn kept(file: std::fs::File) -> Result<Arc<dyn ReadAt>, BundleError> {
    Ok(Arc::new(FileAt::new(file).doing(|| "read a spool file".into())?))
}

fn not_what_it_is_called(expected: &Digest, got: &Digest) -> BundleError {
    BundleError::Digest { expected: *expected, got: *got }
}

/// A nameless file for what must be read again.
fn spool_file(options: &BundleOptions) -> Result<std::fs::File, BundleError> {
    tempfile::tempfile_in(&options.spool_dir).doing(|| format!("make a spool file in {}", options.spool_dir.display()))
}

/// Passes bytes through, reports them, and keeps a copy if asked to.
struct Tee<'a, R> {
    inner: HashingReader<R>,
    copy: Option<&'a std::fs::File>,
    task: Option<&'a Task>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(task) = self.task {
            task.advance(n as u64)?;
        }
        if let Some(mut copy) = self.copy {
            copy.write_all(&buf[..n])?;
        }
        Ok(n)
    }
}
