//! Writes a bundle: takes the layers apart, plans, compresses frames in parallel, writes them in order.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::base::{BaseContents, KnownBase, Version};
use super::catalog::{Catalog, Collector, Entry, Found, SplitLayer};
use super::error::{BundleError, Doing};
use super::index::*;
use super::layout;
use super::level::Level;
use super::plan::{self, Against, Alignment, Chunk, Object, Plan};
use super::recipe::{Piece, Recipe, RecipeReader};
use super::{cut, frame};
use crate::base::digest::HashingReader;
use crate::base::progress::Task;
use crate::base::read_at::{FileAt, Section};
use crate::base::{BoxFault, ContentId, Ctx, Digest, ReadAt};
use crate::image::{Descriptor, DiffId, Extent, Form, Image, ImageSink, ImageSource, Layer};
use crate::layer::compression::{self, Compression, DecodeLimits, MAGIC_BYTES};
use crate::layer::replay;

/// How a bundle is written.
#[derive(Debug, Clone)]
pub struct BundleOptions {
    /// How hard it is compressed; decides its bytes.
    pub level: Level,
    /// The most threads to use.
    pub threads: usize,
    /// How much memory the compression of frames may take, in bytes. One frame at a time is always compressed.
    pub memory: u64,
    /// Whether layers that came compressed are kept as the blob they came as, so that their registry digests live on.
    pub keep_originals: bool,
    /// Where copies of layers are kept meanwhile when the source can only go forward; the files have no names.
    pub spool_dir: PathBuf,
}

impl BundleOptions {
    /// The memory budget unless the user says otherwise, in bytes.
    pub const MEMORY: u64 = 300 << 20;
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BundleReport {
    /// Layers, each once.
    pub layers: usize,
    /// Their tars, in bytes.
    pub layer_bytes: u64,
    /// Distinct contents.
    pub contents: usize,
    /// Objects, in bytes before compression.
    pub object_bytes: u64,
    /// The recipes as stored, in bytes.
    pub recipe_bytes: u64,
    /// The index as stored, in bytes.
    pub index_bytes: u64,
    /// The whole stream, in bytes.
    pub bytes: u64,
    /// Its identity.
    pub identity: [u8; 32],
}

/// Takes images and writes them to `out` as one bundle. After an error `out` holds a part of a stream that no reader
/// takes for a bundle: the caller discards it.
pub struct BundleSink<W> {
    out: W,
    options: BundleOptions,
    bases: Vec<KnownBase>,
}

impl<W: Write> BundleSink<W> {
    /// Writes to `out`, forward only.
    pub fn new(out: W, options: BundleOptions) -> Self {
        Self { out, options, bases: Vec::new() }
    }

    /// Leaves out what `bases` have: the bundle is thin, and can be read only where they are.
    pub fn against(mut self, bases: Vec<KnownBase>) -> Self {
        self.bases = bases;
        self
    }

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> ImageSink for BundleSink<W> {
    type Report = BundleReport;

    fn take(&mut self, source: &dyn ImageSource, images: &[Image], ctx: &Ctx) -> Result<BundleReport, BoxFault> {
        let layers = distinct_layers(images);
        let bases = &self.bases[..];
        let taken = take_apart(source, &layers, bases, &self.options, ctx)?;
        let catalog = Catalog::default();
        let mut job = Job { source, layers, bases, options: &self.options, ctx, catalog, spools: Vec::new() };
        let parts: Vec<Part> = taken.into_iter().enumerate().map(|(number, taken)| job.add(number, taken)).collect();
        let chunks = job.chunk_large()?;
        let aligned = job.align(&chunks)?;
        let plan = Plan::new(
            &job.catalog,
            &chunks,
            &|content| job.in_base(content),
            &|object| job.against(object, &aligned),
            if bases.is_empty() { self.options.level.frame_bytes() } else { plan::PREFIX as usize },
        );
        drop((chunks, aligned));
        let replays = parts.iter().any(|part| matches!(part, Part::Split { replay: Some(_), .. }));
        let mut stream = layout::StreamWriter::begin(&mut self.out, replays)?;
        let mut index = Index { writer: writer_line(self.options.level), ..Index::default() };
        index.bases = bases.iter().map(|known| known.base.clone()).collect();
        let numbers = job.number_contents(&plan, &mut index);
        if index.base_contents.ids.is_empty() && !parts.iter().any(|part| matches!(part, Part::Base)) {
            // Nothing was left out: nobody needs them.
            index.bases.clear();
        }
        job.put_frames(&plan, &numbers, &mut stream, &mut index)?;
        let recipes_from = stream.position();
        job.put_recipes(&parts, &numbers, &mut stream, &mut index)?;
        let recipe_bytes = stream.position() - recipes_from;
        put_images(images, &mut index);
        let index_from = stream.position();
        let (bytes, identity) = stream.finish(&index, self.options.level)?;
        Ok(BundleReport {
            layers: index.layers.len(),
            layer_bytes: index.layers.iter().map(|layer| layer.size).sum(),
            contents: index.contents.ids.len(),
            object_bytes: index.objects.iter().map(|size| u64::from(*size)).sum(),
            recipe_bytes,
            index_bytes: bytes - index_from,
            bytes,
            identity,
        })
    }
}

fn writer_line(level: Level) -> String {
    format!("{} {} level {level}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}

/// The layers of all images, each once, in order of their first occurrence.
fn distinct_layers(images: &[Image]) -> Vec<Layer> {
    let mut seen = std::collections::HashSet::new();
    images.iter().flat_map(|image| &image.layers).filter(|layer| seen.insert(layer.diff_id)).cloned().collect()
}

/// What the first pass leaves of a layer.
enum Taken {
    /// Where its contents are read again when the source cannot give them, and how its blob is made again.
    Split(SplitLayer, Option<Arc<dyn ReadAt>>, Option<replay::Recipe>),
    /// The blob, kept in the spool, and the size of its tar.
    Blob(Found, u64, Arc<dyn ReadAt>),
    /// A base has it.
    Base,
}

/// A layer once its contents have numbers.
enum Part {
    Split { recipe: Box<Recipe>, numbers: Vec<u32>, replay: Option<replay::Recipe> },
    Blob { content: u32, size: u64 },
    Base,
}

/// The final numbers of contents.
struct Numbers {
    /// Of the catalog's.
    catalog: Vec<u32>,
    /// Of the bases'.
    base: HashMap<ShortId, u32>,
}

/// The first pass: every layer once, as parallel as the source allows.
fn take_apart(
    source: &dyn ImageSource,
    layers: &[Layer],
    bases: &[KnownBase],
    options: &BundleOptions,
    ctx: &Ctx,
) -> Result<Vec<Taken>, BoxFault> {
    let taken: Mutex<Vec<Option<Taken>>> = Mutex::new(layers.iter().map(|_| None).collect());
    let place: HashMap<DiffId, usize> = layers.iter().enumerate().map(|(at, layer)| (layer.diff_id, at)).collect();
    let mut visit = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let mut collector = Collector::default();
        if bases.iter().any(|known| known.layers.contains(&layer.diff_id)) {
            lock(&taken)[at] = Some(Taken::Base);
        } else if options.keep_originals && is_compressed(layer) {
            visit.push((layer.clone(), Form::Original));
        } else if source.has_contents(layer) && source.split_layer(layer, &mut collector)? {
            lock(&taken)[at] = Some(Taken::Split(collector.finish(), None, None));
        } else {
            visit.push((layer.clone(), Form::Tar));
        }
    }
    source.visit_layers(&visit, options.threads, ctx, &|layer, bytes| {
        let task = ctx.begin("Reading layer", layer.diff_id.0.short(), layer.size);
        let original = layer.original.as_ref().filter(|_| options.keep_originals && is_compressed(layer));
        let done = match original {
            Some(original) => take_blob(source, layer, original, bytes, options, &task, ctx)?,
            None => take_tar(source, layer, bytes, options, &task)?,
        };
        if let Some(at) = place.get(&layer.diff_id) {
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
fn is_compressed(layer: &Layer) -> bool {
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
    Ok(Taken::Split(collector.finish(), spool.map(kept).transpose()?, None))
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
    let replay = match form {
        Compression::Gzip => replay::detect(&mut io::BufReader::new(whole()), &mut tar, ctx).doing(doing)?,
        _ => None,
    };
    if replay.is_none() {
        tar.copy = None;
    }
    io::copy(&mut tar, &mut io::sink()).doing(doing)?;
    let (digest, tar_size, _) = tar.inner.finish();
    if digest != layer.diff_id.0 {
        return Err(not_what_it_is_called(&layer.diff_id.0, &digest).into());
    }
    if replay.is_some() {
        let mut collector = Collector::default();
        let tar_spool = tar_spool.map(kept).transpose()?;
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
        return Ok(Taken::Split(collector.finish(), tar_spool, replay));
    }
    let mut id = blake3::Hasher::new();
    io::copy(&mut whole(), &mut id).doing(doing)?;
    let id = ContentId::from_bytes(*id.finalize().as_bytes());
    Ok(Taken::Blob(Found { id, size, offset: 0, path: Box::default() }, tar_size, spool))
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

/// The second pass.
struct Job<'a> {
    source: &'a dyn ImageSource,
    layers: Vec<Layer>,
    bases: &'a [KnownBase],
    options: &'a BundleOptions,
    ctx: &'a Ctx,
    catalog: Catalog,
    /// One a layer; `None` where the source gives contents itself.
    spools: Vec<Option<Arc<dyn ReadAt>>>,
}

impl Job<'_> {
    fn add(&mut self, number: usize, taken: Taken) -> Part {
        // The images' layers are capped far below 2^32.
        let number = number as u32;
        match taken {
            Taken::Split(SplitLayer { recipe, found }, spool, replay) => {
                self.spools.push(spool);
                Part::Split { recipe: Box::new(recipe), numbers: self.catalog.add(number, found), replay }
            }
            Taken::Blob(found, size, spool) => {
                self.spools.push(Some(spool));
                Part::Blob { content: self.catalog.add(number, vec![found])[0], size }
            }
            Taken::Base => {
                self.spools.push(None);
                Part::Base
            }
        }
    }

    fn extent(&self, content: u32) -> Result<Extent, BoxFault> {
        let Entry { found, layer } = &self.catalog.entries[content as usize];
        if let Some(file) = &self.spools[*layer as usize] {
            return Ok(Extent { bytes: file.clone(), offset: found.offset });
        }
        let layer = &self.layers[*layer as usize];
        let extent = self.source.content(layer, &found.as_split())?;
        extent.ok_or_else(|| BundleError::Absent { what: describe(found, layer) }.into())
    }

    fn short_id(&self, content: u32) -> ShortId {
        ShortId::of(&self.catalog.entries[content as usize].found.id, ID_LENGTH)
    }

    /// Whether a base has a content.
    fn in_base(&self, content: u32) -> bool {
        !self.bases.is_empty() && {
            let id = self.short_id(content);
            self.bases.iter().any(|known| known.ids.contains(&id))
        }
    }

    /// The version of a content's path in a base whose contents are at hand.
    fn version(&self, content: u32) -> Option<(Version, &dyn BaseContents)> {
        let found = &self.catalog.entries[content as usize].found;
        let path = plan::sort_path(&found.path);
        let version = |known: &'_ KnownBase| known.version(path, found.size);
        self.bases.iter().rev().find_map(|known| Some((version(known)?, &**known.contents.as_ref()?)))
    }

    /// What an object is compressed against: the version of its path that a base has.
    fn against(&self, object: &Object, aligned: &HashMap<u32, Alignment>) -> Option<Against> {
        if let Some(alignment) = aligned.get(&object.content) {
            return alignment.range(object.offset, object.size);
        }
        let (version, _) = self.version(object.content)?;
        (version.size < 2 * plan::WHOLE).then_some(Against { version, from: 0, to: version.size })
    }

    /// Finds where the chunks of large contents lie in their base versions.
    fn align(&self, chunks: &HashMap<u32, Vec<Chunk>>) -> Result<HashMap<u32, Alignment>, BoxFault> {
        let mut large: Vec<u32> = chunks.keys().copied().collect();
        large.retain(|content| self.version(*content).is_some());
        let done = Mutex::new(HashMap::new());
        in_parallel(self.options.threads, large.len(), &|at| {
            let content = large[at];
            if let Some((version, base)) = self.version(content) {
                let alignment = Alignment::new(&chunks[&content], base, version)
                    .doing(|| format!("read the base version of {}", self.describe(content)))?;
                lock(&done).insert(content, alignment);
            }
            Ok(())
        })?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes a frame is compressed against.
    fn read_prefix(&self, prefix: &[Against]) -> Result<Vec<u8>, BoxFault> {
        let mut bytes = Vec::new();
        for part in prefix {
            let from = bytes.len();
            bytes.resize(from + (part.to - part.from) as usize, 0);
            let holder = self.bases.iter().filter_map(|known| known.contents.as_ref());
            let holder = holder.into_iter().find(|contents| contents.size_of(&part.version.id).is_some());
            let absent = || BundleError::Absent { what: "base version of a content".into() };
            holder.ok_or_else(absent)?.read_at(&part.version.id, part.from, &mut bytes[from..])?;
        }
        Ok(bytes)
    }

    fn describe(&self, content: u32) -> String {
        let Entry { found, layer } = &self.catalog.entries[content as usize];
        describe(found, &self.layers[*layer as usize])
    }

    /// Cuts every large content into chunks, in parallel; each is also checked against its ID.
    fn chunk_large(&self) -> Result<HashMap<u32, Vec<Chunk>>, BoxFault> {
        let is_large = |content: &u32| self.catalog.entries[*content as usize].found.size >= plan::WHOLE;
        let all = 0..self.catalog.entries.len() as u32;
        let large: Vec<u32> = all.filter(|content| is_large(content) && !self.in_base(*content)).collect();
        let done = Mutex::new(HashMap::new());
        in_parallel(self.options.threads, large.len(), &|at| {
            self.ctx.check()?;
            let content = large[at];
            let found = &self.catalog.entries[content as usize].found;
            let extent = self.extent(content)?;
            let (id, chunks) = plan::chunk(&extent, found.size).doing(|| format!("read {}", self.describe(content)))?;
            if id != found.id {
                return Err(BundleError::Changed { what: self.describe(content) }.into());
            }
            lock(&done).insert(content, chunks);
            Ok(())
        })?;
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the objects of one frame, each checked against its ID.
    fn read_frame(&self, plan: &Plan, frame: &Range<usize>, raw: &mut Vec<u8>) -> Result<(), BoxFault> {
        raw.clear();
        let mut last: Option<(u32, Extent)> = None;
        for object in &plan.objects[frame.clone()] {
            let extent = match &last {
                Some((content, extent)) if *content == object.content => extent.clone(),
                _ => self.extent(object.content)?,
            };
            let from = raw.len();
            raw.resize(from + object.size as usize, 0);
            extent
                .read_exact_at(&mut raw[from..], object.offset)
                .doing(|| format!("read {}", self.describe(object.content)))?;
            if ContentId::of(&raw[from..]) != object.id {
                return Err(BundleError::Changed { what: self.describe(object.content) }.into());
            }
            last = Some((object.content, extent));
        }
        Ok(())
    }

    /// Compresses the frames in parallel and writes them in order.
    fn put_frames<W: Write>(
        &self,
        plan: &Plan,
        numbers: &Numbers,
        stream: &mut layout::StreamWriter<W>,
        index: &mut Index,
    ) -> Result<(), BoxFault> {
        let level = self.options.level;
        let workers = (self.options.memory / level.frame_cost(0)).max(1).min(self.options.threads.max(1) as u64);
        let total = plan.objects.iter().map(|object| u64::from(object.size)).sum();
        let task = self.ctx.begin("Compressing", "contents", Some(total));
        index.objects = plan.objects.iter().map(|object| object.size).collect();
        let compress = |at: usize| -> Result<Vec<u8>, BoxFault> {
            let mut raw = Vec::with_capacity(level.frame_bytes());
            self.read_frame(plan, &plan.frames[at], &mut raw)?;
            let prefix = self.read_prefix(&plan.prefixes[at])?;
            let stored = frame::compress(level, &raw, &prefix).doing(|| format!("compress frame {at}"))?;
            task.advance(raw.len() as u64)?;
            Ok(stored)
        };
        in_order(workers as usize, plan.frames.len(), &compress, &mut |at, stored| {
            let check = stream.put(&stored)?;
            let objects = plan.frames[at].len() as u32;
            let part = |part: &Against| PrefixPart {
                content: numbers.base[&part.version.id],
                offset: part.from,
                length: (part.to - part.from) as u32,
            };
            let prefix = plan.prefixes[at].iter().map(part).collect();
            index.frames.push(FrameRecord { stored: stored.len() as u64, check, objects, prefix });
            Ok(())
        })?;
        task.complete();
        Ok(())
    }

    /// Numbers the contents of the bundle in the order of the catalog, and behind them those of the bases that recipes
    /// or frames refer to.
    fn number_contents(&self, plan: &Plan, index: &mut Index) -> Numbers {
        let mut catalog = vec![0; self.catalog.entries.len()];
        let contents = &mut index.contents;
        for (content, objects) in plan.contents.iter().enumerate().filter(|(_, objects)| !objects.is_empty()) {
            catalog[content] = contents.ids.len() as u32;
            contents.ids.push(ShortId::of(&self.catalog.entries[content].found.id, contents.id_length));
            contents.objects.extend_from_slice(objects);
            contents.starts.push(contents.objects.len() as u32);
        }
        let own = contents.ids.len() as u32;
        let mut base = HashMap::new();
        let list = &mut index.base_contents;
        let mut add = |id: ShortId, size: u64| {
            *base.entry(id).or_insert_with(|| {
                list.ids.push(id);
                list.sizes.push(size);
                own + list.ids.len() as u32 - 1
            })
        };
        for (content, _) in plan.contents.iter().enumerate().filter(|(_, objects)| objects.is_empty()) {
            catalog[content] = add(self.short_id(content as u32), self.catalog.entries[content].found.size);
        }
        for part in plan.prefixes.iter().flatten() {
            add(part.version.id, part.version.size);
        }
        Numbers { catalog, base }
    }

    /// Writes the recipes, each proven first, and the table of layers.
    fn put_recipes<W: Write>(
        &self,
        parts: &[Part],
        numbers: &Numbers,
        stream: &mut layout::StreamWriter<W>,
        index: &mut Index,
    ) -> Result<(), BoxFault> {
        let mut raw = Vec::new();
        let mut flush = |raw: &mut Vec<u8>, index: &mut Index| -> Result<(), BoxFault> {
            let stored =
                frame::compress(self.options.level.for_metadata(), raw, &[]).doing(|| "compress the recipes".into())?;
            let check = stream.put(&stored)?;
            let length = raw.len() as u32;
            index.recipe_frames.push(RecipeFrameRecord { stored: stored.len() as u64, check, length });
            raw.clear();
            Ok(())
        };
        for (layer, part) in self.layers.iter().zip(parts) {
            let original = layer.original.as_ref().map(|o| (o.media_type.clone(), o.digest, o.size));
            let (recipe, local, replay) = match part {
                Part::Split { recipe, numbers, replay } => (recipe, numbers, *replay),
                Part::Base => {
                    let (size, kind) = (layer.size.unwrap_or(0), LayerKind::Base);
                    let record = LayerRecord { diff_id: layer.diff_id, size, kind, original: None, replay: None };
                    index.layers.push(record);
                    continue;
                }
                Part::Blob { content, size } => {
                    let kind = LayerKind::Blob { content: numbers.catalog[*content as usize] };
                    let record = LayerRecord { diff_id: layer.diff_id, size: *size, kind, original, replay: None };
                    index.layers.push(record);
                    continue;
                }
            };
            let mut one = Vec::new();
            recipe.put(&mut one, &|content| numbers.catalog[local[content as usize] as usize]);
            self.prove(&one, recipe, index, layer)?;
            if !raw.is_empty() && raw.len() + one.len() > RECIPE_FRAME {
                flush(&mut raw, index)?;
            }
            let too_large =
                || BundleError::malformed(format!("layer {}", layer.diff_id), "its metadata exceeds 64 MiB");
            let length = u32::try_from(one.len()).ok().filter(|length| u64::from(*length) <= FRAME_BYTES);
            let kind = LayerKind::Split {
                frame: index.recipe_frames.len() as u32,
                offset: raw.len() as u32,
                length: length.ok_or_else(too_large)?,
            };
            let original = original.filter(|_| replay.is_some() || !is_compressed(layer));
            index.layers.push(LayerRecord { diff_id: layer.diff_id, size: recipe.size, kind, original, replay });
            raw.append(&mut one);
        }
        if !raw.is_empty() {
            flush(&mut raw, index)?;
        }
        Ok(())
    }

    /// Reads a recipe back: it must give the same segments again.
    fn prove(&self, bytes: &[u8], recipe: &Recipe, index: &Index, layer: &Layer) -> Result<(), BoxFault> {
        let sizes = |content| (content < index.content_count()).then(|| index.content_size(content));
        let wrong = |what| BundleError::malformed(format!("recipe of layer {}", layer.diff_id), what);
        let mut reader = RecipeReader::new(bytes, recipe.size).map_err(wrong)?;
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = reader.next(bytes, &sizes).map_err(wrong)? {
            match piece {
                Piece::Bytes(bytes) => {
                    hasher.update(bytes);
                }
                Piece::Zeros(count) => hash_zeros(&mut hasher, count),
                Piece::Content { .. } => {}
            }
        }
        if hasher.finalize() != recipe.segments {
            return Err(wrong("it does not give the layer's metadata back").into());
        }
        Ok(())
    }
}

/// Recipes that together are larger than this, in bytes, go into the next frame.
const RECIPE_FRAME: usize = 32 << 20;

fn hash_zeros(hasher: &mut blake3::Hasher, mut count: u64) {
    let zeros = [0; 4096];
    while count > 0 {
        let n = count.min(zeros.len() as u64);
        hasher.update(&zeros[..n as usize]);
        count -= n;
    }
}

fn describe(found: &Found, layer: &Layer) -> String {
    format!("{} of layer {}", String::from_utf8_lossy(&found.path), layer.diff_id)
}

/// Adds images and their documents to an index that has all layers.
fn put_images(images: &[Image], index: &mut Index) {
    let mut documents: HashMap<Digest, u32> = HashMap::new();
    let layers: HashMap<DiffId, u32> =
        index.layers.iter().enumerate().map(|(number, layer)| (layer.diff_id, number as u32)).collect();
    let list = &mut index.documents;
    let mut document = |raw: &[u8], digest: Digest| {
        *documents.entry(digest).or_insert_with(|| {
            list.push(raw.to_vec());
            (list.len() - 1) as u32
        })
    };
    for image in images {
        let config = document(image.config.raw(), image.config.id().0);
        let manifest = image
            .manifest
            .as_ref()
            .map(|manifest| (document(manifest.raw(), manifest.digest()), manifest.media_type().to_owned()));
        let names = image.names.iter().map(|name| name.full()).collect();
        let layers = image.layers.iter().filter_map(|layer| layers.get(&layer.diff_id).copied()).collect();
        index.images.push(ImageRecord { config, manifest, names, layers });
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does `count` pieces of work on at most `threads` threads; stops at the first error, which it returns.
pub(crate) fn in_parallel(
    threads: usize,
    count: usize,
    work: &(dyn Fn(usize) -> Result<(), BoxFault> + Sync),
) -> Result<(), BoxFault> {
    let next = AtomicUsize::new(0);
    let run = || -> Result<(), BoxFault> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return Ok(());
            }
            work(at).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(run)).collect();
        let mut result = run();
        for other in others {
            let ended = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

/// Makes `count` things on `workers` threads and hands them to `put` on this one, in order. At most one finished thing
/// a worker waits to be put.
pub(crate) fn in_order<T: Send>(
    workers: usize,
    count: usize,
    make: &(dyn Fn(usize) -> Result<T, BoxFault> + Sync),
    put: &mut dyn FnMut(usize, T) -> Result<(), BoxFault>,
) -> Result<(), BoxFault> {
    struct State<T> {
        next: usize,
        put: usize,
        stopped: bool,
        made: BTreeMap<usize, Result<T, BoxFault>>,
    }
    let state = Mutex::new(State { next: 0, put: 0, stopped: false, made: BTreeMap::new() });
    let changed = Condvar::new();
    let wait = |guard| changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let at = {
                let mut guard = lock(&state);
                while !guard.stopped && guard.next < count && guard.next >= guard.put + workers {
                    guard = wait(guard);
                }
                if guard.stopped || guard.next >= count {
                    return;
                }
                guard.next += 1;
                guard.next - 1
            };
            let made = make(at);
            let mut guard = lock(&state);
            guard.stopped |= made.is_err();
            guard.made.insert(at, made);
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers.min(count) {
            scope.spawn(work);
        }
        let mut result = Ok(());
        for at in 0..count {
            let made = {
                let mut guard = lock(&state);
                loop {
                    if let Some(made) = guard.made.remove(&at) {
                        break Some(made);
                    }
                    // Whatever comes after an error may never be made; the error itself is.
                    if guard.stopped && at >= guard.next {
                        break None;
                    }
                    guard = wait(guard);
                }
            };
            result = match made {
                Some(Ok(thing)) => put(at, thing),
                Some(Err(fault)) => Err(fault),
                None => break,
            };
            let mut guard = lock(&state);
            guard.put = at + 1;
            guard.stopped |= result.is_err();
            changed.notify_all();
            drop(guard);
            if result.is_err() {
                break;
            }
        }
        result
    })
}
