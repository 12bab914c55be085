//! Writes a bundle: takes the layers apart, plans, compresses frames in parallel, writes them in order.

mod compare;
mod frames;
mod recipes;
mod take;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use self::compare::Cut;
use self::take::{Taken, take_apart};
use super::base::{KnownBase, shortened};
use super::catalog::{Catalog, FoundContents, SplitLayer};
use super::error::BundleError;
use super::index::*;
use super::layout;
use super::level::Level;
use super::plan::{self, Plan};
use super::recipe::Recipe;
use crate::base::{BoxFault, Ctx, Digest, ReadAt, lock};
use crate::image::{DiffId, Extent, Image, ImageSink, ImageSource, Layer, SplitContent};
use crate::layer::replay;

/// How a bundle is written.
#[derive(Debug, Clone)]
pub struct BundleOptions {
    /// How hard it is compressed; decides its bytes.
    pub level: Level,
    /// The most threads to use.
    pub threads: usize,
    /// How much memory may be taken while frames are compressed, in bytes. One frame at a time is always compressed.
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
    /// Layers, each once for every blob that images know it by.
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
        let bases = &self.bases[..];
        let left_out = left_out(images, bases, self.options.keep_originals);
        // Of a layer that is left out the base has the blobs.
        let layers = Layers::of(images, &|diff_id| self.options.keep_originals && !left_out.contains(diff_id));
        let taken = take_apart(source, &layers.list, &left_out, &self.options, ctx)?;
        let catalog = Catalog::default();
        let mut job =
            Job { source, layers: &layers.list, bases, options: &self.options, ctx, catalog, spools: Vec::new() };
        let parts: Vec<Part> = taken.into_iter().enumerate().map(|(number, taken)| job.add(number, taken)).collect();
        job.catalog.complete();
        let Cut { chunks, aligned } = job.cut()?;
        let mut plan = Plan::new(&job.catalog, chunks, &|content| job.in_base(content));
        let against = job.differences(&plan, &aligned)?;
        plan.cut(&against, if bases.is_empty() { self.options.level.frame_bytes() } else { plan::PREFIX as usize });
        drop((aligned, against));
        let replays = parts.iter().filter_map(|part| match part {
            Part::Split { replay, .. } => replay.as_ref(),
            _ => None,
        });
        let replays = replays.map(|replay| layout::format_of(replay.to_bytes()));
        let further = layers.has_further_blobs().then_some(layout::FURTHER_BLOBS);
        let format = replays.chain(further).max().unwrap_or(1);
        let mut stream = layout::StreamWriter::begin(&mut self.out, format)?;
        let mut index = Index { writer: writer_line(self.options.level), ..Index::default() };
        index.bases = bases.iter().map(|known| known.base.clone()).collect();
        let numbers = job.number_contents(&mut plan, &mut index);
        if index.base_contents.ids.is_empty() && !parts.iter().any(|part| matches!(part, Part::Base)) {
            // Nothing was left out: nobody needs them.
            index.bases.clear();
        }
        index.objects = plan.objects.iter().map(|object| object.size).collect();
        let parts = Mutex::new(parts);
        let recipes = || job.make_recipes(std::mem::take(&mut *lock(&parts)), &numbers, &index);
        let held = job.catalog.memory() + plan.memory() + index.memory();
        let (frames, recipes) = job.put_frames(&plan, &numbers, held, &recipes, &mut stream)?;
        index.frames = frames;
        // Only now, since memory is short while frames are compressed.
        index.contents.ids = job.own_ids(&numbers, &index);
        let recipes_from = stream.position();
        recipes.put(&mut stream, &mut index)?;
        let recipe_bytes = stream.position() - recipes_from;
        put_images(images, &layers, &mut index);
        index.holders = holders(bases, &index);
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

/// The layers that bases have; with `originals` those of which they have every blob that an image knows.
fn left_out(images: &[Image], bases: &[KnownBase], originals: bool) -> HashSet<DiffId> {
    let has = |known: &KnownBase, layer: &Layer| match originals {
        true => known.has_blob(layer),
        false => known.layers.contains(&layer.diff_id),
    };
    let all = || images.iter().flat_map(|image| &image.layers);
    let lacking = all().filter(|layer| !bases.iter().any(|known| has(known, layer)));
    let lacking: HashSet<DiffId> = lacking.map(|layer| layer.diff_id).collect();
    all().map(|layer| layer.diff_id).filter(|diff_id| !lacking.contains(diff_id)).collect()
}

/// The layers of all images, in order of their first occurrence: each once, and once more for each further blob that an
/// image knows it by, since its manifest names that one.
struct Layers {
    list: Vec<Layer>,
    /// By diff ID and blob; the blob is the tar where it does not count.
    numbers: HashMap<(DiffId, Digest), u32>,
}

impl Layers {
    /// `counts` says of which layers the blobs do.
    fn of(images: &[Image], counts: &dyn Fn(&DiffId) -> bool) -> Self {
        let mut layers = Self { list: Vec::new(), numbers: HashMap::new() };
        for layer in images.iter().flat_map(|image| &image.layers) {
            let blob = if counts(&layer.diff_id) { blob_of(layer) } else { layer.diff_id.0 };
            layers.numbers.entry((layer.diff_id, blob)).or_insert_with(|| {
                layers.list.push(layer.clone());
                // The images' layers are capped far below 2^32.
                (layers.list.len() - 1) as u32
            });
        }
        layers
    }

    /// The number of an image's layer.
    fn number(&self, layer: &Layer) -> Option<u32> {
        let by = |blob: Digest| self.numbers.get(&(layer.diff_id, blob)).copied();
        by(blob_of(layer)).or_else(|| by(layer.diff_id.0))
    }

    fn has_further_blobs(&self) -> bool {
        let mut seen = HashSet::new();
        !self.list.iter().all(|layer| seen.insert(layer.diff_id))
    }
}

/// A layer once its contents have numbers.
enum Part {
    Split { recipe: Box<Recipe>, numbers: Vec<u32>, replay: Option<replay::Way> },
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

/// The second pass.
struct Job<'a> {
    source: &'a dyn ImageSource,
    layers: &'a [Layer],
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
            Taken::Split(split, spool, replay) => {
                let SplitLayer { recipe, found } = *split;
                self.spools.push(spool);
                Part::Split { recipe: Box::new(recipe), numbers: self.catalog.add(number, &found), replay }
            }
            Taken::Blob(id, size, tar_size, spool) => {
                self.spools.push(Some(spool));
                let mut found = FoundContents::default();
                found.push(&SplitContent { id, size, offset: 0, path: b"" });
                Part::Blob { content: self.catalog.add(number, &found)[0], size: tar_size }
            }
            Taken::Base => {
                self.spools.push(None);
                Part::Base
            }
        }
    }

    fn extent(&self, content: u32) -> Result<Extent, BoxFault> {
        let (found, layer) = (self.catalog.content(content), self.catalog.layer(content) as usize);
        if let Some(file) = &self.spools[layer] {
            return Ok(Extent { bytes: file.clone(), offset: found.offset });
        }
        let extent = self.source.content(&self.layers[layer], &found)?;
        extent.ok_or_else(|| BundleError::Absent { what: self.describe(content) }.into())
    }

    fn short_id(&self, content: u32) -> ShortId {
        ShortId::of(&self.catalog.content(content).id, ID_LENGTH)
    }

    /// Whether a base has a content.
    fn in_base(&self, content: u32) -> bool {
        !self.bases.is_empty() && {
            let id = self.short_id(content);
            self.bases.iter().any(|known| known.ids.contains(&id))
        }
    }

    fn describe(&self, content: u32) -> String {
        let (path, layer) = (self.catalog.content(content).path, &self.layers[self.catalog.layer(content) as usize]);
        format!("{} of layer {}", String::from_utf8_lossy(path), layer.diff_id)
    }

    /// Numbers the contents of the bundle in the order of the catalog, and behind them those of the bases that recipes
    /// or frames refer to. What the plan has of contents goes over to the index, which still lacks the IDs of the bundle's
    /// own.
    fn number_contents(&self, plan: &mut Plan, index: &mut Index) -> Numbers {
        let mut starts = std::mem::take(&mut plan.starts);
        let mut catalog = vec![0; self.catalog.len()];
        let (mut own, mut left_out) = (0, Vec::new());
        for (content, range) in (0..).zip(starts.windows(2)) {
            if range[0] == range[1] {
                left_out.push(content);
            } else {
                catalog[content as usize] = own;
                own += 1;
            }
        }
        // One that is left out begins where the next one does.
        starts.dedup();
        index.contents.starts = starts;
        index.contents.objects = std::mem::take(&mut plan.pieces);
        let mut base = HashMap::new();
        let list = &mut index.base_contents;
        let mut add = |id: ShortId, size: u64| {
            *base.entry(id).or_insert_with(|| {
                list.ids.push(id);
                list.sizes.push(size);
                own + list.ids.len() as u32 - 1
            })
        };
        for content in left_out {
            catalog[content as usize] = add(self.short_id(content), self.catalog.content(content).size);
        }
        for part in plan.prefixes.iter().flatten() {
            add(part.version.id, part.version.size);
        }
        Numbers { catalog, base }
    }

    /// The IDs of the bundle's own contents, in the order of their numbers.
    fn own_ids(&self, numbers: &Numbers, index: &Index) -> Vec<ShortId> {
        let own = |content: &u32| (numbers.catalog[*content as usize] as usize) < index.contents.count();
        (0..self.catalog.len() as u32).filter(own).map(|content| self.short_id(content)).collect()
    }
}

/// Which of several bases has each base content and each base layer.
fn holders(bases: &[KnownBase], index: &Index) -> Vec<u32> {
    if index.bases.len() < 2 {
        return Vec::new();
    }
    // What is left out is known to some base.
    let first = |has: &dyn Fn(&KnownBase) -> bool| bases.iter().position(has).unwrap_or(0) as u32;
    let contents = index.base_contents.ids.iter().map(|id| first(&|known| known.ids.contains(&shortened(*id))));
    let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base);
    contents.chain(layers.map(|layer| first(&|known| known.layers.contains(&layer.diff_id)))).collect()
}

/// Adds images and their documents to an index that has all layers.
fn put_images(images: &[Image], layers: &Layers, index: &mut Index) {
    let mut documents: HashMap<Digest, u32> = HashMap::new();
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
        let layers = image.layers.iter().filter_map(|layer| layers.number(layer)).collect();
        index.images.push(ImageRecord { config, manifest, names, layers });
    }
}
