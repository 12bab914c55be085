//! A bundle as a source of images. Frames are decompressed once, in the order of the stream, into the spool; layers are
//! then put together from it in parallel.

mod based;
mod platform;

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use super::base::BaseContents;
use super::error::{BundleError, Doing};
use super::index::{FRAME_BYTES, FrameRecord, LayerKind, LayerRecord, Replay, ShortId, blob_of};
use super::parallel::in_parallel;
use super::pieces::Pieces;
use super::read::Bundle;
use super::reader::{ContentReader, LayerReader};
use super::recipe::Piece;
use super::spool::Spool;
use crate::archive::ArchiveError;
use crate::base::verify::VerifyingReader;
use crate::base::{BoxFault, Ctx, Digest, Spare, lock};
use crate::image::source::LayerVisitor;
use crate::image::{Descriptor, DiffId, Form, Image, ImageConfig, ImageSource, Layer, Manifest, Reference};
use crate::layer::compression::{self, DecodeLimits, MAGIC_BYTES};
use crate::layer::replay::{Corrected, Rebuilt};

/// The images of a bundle.
pub struct BundleSource {
    bundle: Bundle,
    images: Vec<Image>,
    /// Of several records of a layer one that tells what is in it without being decompressed, where there is one.
    numbers: HashMap<DiffId, u32>,
    /// Each record, by what images know it by.
    blobs: HashMap<(DiffId, Digest), u32>,
    spool: Spool,
    spool_dir: PathBuf,
    /// Held while a frame is decompressed for the one who wants it: that has frames of its own in memory.
    filling: Mutex<Buffers>,
    recipes: Mutex<HashMap<u32, Arc<Vec<u8>>>>,
    /// How many frames may be in memory at once.
    frames_at_once: usize,
    /// What a thin bundle is read with.
    base: Option<Arc<dyn BaseContents>>,
    /// How much of what the bundle leaves out that has, in bytes.
    base_bytes: u64,
    /// Base contents that were checked against their IDs.
    proven: Mutex<HashSet<u32>>,
    /// Where contents of the bundle are at hand, when it is itself too far away to read more of it than it takes; and
    /// which of them are, as far as that was looked into.
    near: Option<Arc<dyn BaseContents>>,
    at_hand: Mutex<HashMap<u32, bool>>,
    /// What compressed layers may demand.
    limits: DecodeLimits,
    /// The bundle's contents by ID, for those that are read with this bundle as their base.
    by_id: OnceLock<HashMap<ShortId, u32>>,
}

/// What frames are decompressed in, used again for the next ones.
#[derive(Default)]
struct Buffers {
    raw: Spare,
    stored: Spare,
}

impl BundleSource {
    /// The images of `bundle`; frames go to a nameless file in `spool_dir`, at most `memory` bytes are in memory.
    pub fn new(bundle: Bundle, spool_dir: PathBuf, memory: u64) -> Result<Self, BundleError> {
        let index = bundle.index();
        let (mut numbers, mut blobs) = (HashMap::new(), HashMap::new());
        for (layer, number) in index.layers.iter().zip(0..) {
            blobs.insert((layer.diff_id, layer.blob()), number);
            let known = numbers.entry(layer.diff_id).or_insert(number);
            if matches!(index.layers[*known as usize].kind, LayerKind::Blob { .. }) {
                *known = number;
            }
        }
        let images = (0..index.images.len()).map(|at| image(&bundle, at)).collect::<Result<_, _>>()?;
        let lengths = (0..index.frames.len() as u32).map(|frame| bundle.frame_length(frame) as u64);
        let spool = Spool::new(spool_dir.clone(), lengths);
        // A frame at work is in memory as it is stored, as it is, and with what it is the difference to.
        let cost = 2 * FRAME_BYTES + index.frames.iter().map(prefix_bytes).max().unwrap_or(0);
        let frames_at_once = (memory / cost).max(1) as usize;
        Ok(Self {
            bundle,
            images,
            numbers,
            blobs,
            spool,
            spool_dir,
            filling: Mutex::default(),
            recipes: Mutex::default(),
            frames_at_once,
            base: None,
            base_bytes: 0,
            proven: Mutex::default(),
            near: None,
            at_hand: Mutex::default(),
            limits: DecodeLimits::default(),
            by_id: OnceLock::new(),
        })
    }

    /// Decompresses layers that are kept as their blob within these limits.
    pub fn within(self, limits: DecodeLimits) -> Self {
        Self { limits, ..self }
    }

    /// The bundle itself.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(super) fn record(&self, layer: &DiffId) -> Result<&LayerRecord, BundleError> {
        self.record_of(layer, None)
    }

    /// How the blob of a layer is kept, or where it is not known how the layer itself is.
    fn record_of(&self, layer: &DiffId, blob: Option<&Digest>) -> Result<&LayerRecord, BundleError> {
        let known = blob.and_then(|blob| self.blobs.get(&(*layer, *blob))).or_else(|| self.numbers.get(layer));
        let number = known.ok_or_else(|| BundleError::Absent { what: format!("layer {layer}") })?;
        Ok(&self.bundle.index().layers[*number as usize])
    }

    /// How a layer of an image is kept.
    pub fn kept(&self, layer: &Layer) -> Result<&LayerRecord, BundleError> {
        self.record_of(&layer.diff_id, Some(&blob_of(layer)))
    }

    /// The frames that hold the contents of a layer.
    fn frames_of(&self, layer: &LayerRecord, frames: &mut BTreeSet<u32>) -> Result<(), BundleError> {
        let index = self.bundle.index();
        match layer.kind {
            LayerKind::Split { .. } => {
                let Some(mut pieces) = Pieces::of(self, layer)? else { return Ok(()) };
                while let Some(piece) = pieces.next()? {
                    let Piece::Content { number } = piece else { continue };
                    if self.is_own(number) {
                        index.contents.objects_of(number).iter().for_each(|object| {
                            frames.insert(self.bundle.place(*object).0);
                        });
                    }
                }
                Ok(())
            }
            LayerKind::Blob { content } => {
                if self.is_own(content) {
                    frames.extend(index.contents.objects_of(content).iter().map(|object| self.bundle.place(*object).0));
                }
                Ok(())
            }
            LayerKind::Base => self.whole_base(layer).map(|_| ()),
        }
    }

    pub(super) fn recipe(&self, frame: u32) -> Result<Arc<Vec<u8>>, BundleError> {
        let mut recipes = lock(&self.recipes);
        if let Some(recipe) = recipes.get(&frame) {
            return Ok(recipe.clone());
        }
        let recipe = Arc::new(self.bundle.recipe_frame(frame)?);
        // Layers come in order, so that one frame is enough to keep.
        recipes.clear();
        recipes.insert(frame, recipe.clone());
        Ok(recipe)
    }

    /// Decompresses a frame into the spool unless it is there.
    fn fill(&self, frame: u32, buffers: &Buffers) -> Result<(), BundleError> {
        let decompress = || {
            let record = &self.bundle.index().frames[frame as usize];
            let mut prefix = Vec::with_capacity(prefix_bytes(record) as usize);
            for part in &record.prefix {
                let from = prefix.len();
                prefix.resize(from + part.length as usize, 0);
                self.read_base(part.content, part.offset, &mut prefix[from..])?;
            }
            let (mut raw, mut stored) = (buffers.raw.take(0), buffers.stored.take(0));
            self.bundle.frame_to(&mut raw, &mut stored, frame, &prefix)?;
            buffers.stored.give_back(stored);
            Ok(raw)
        };
        // Readers of layers pass on the reason alone: that it is the spool whose disk is full has to be in it.
        let unpacked = Cell::new(false);
        let spooled = self.spool.fill(frame, || decompress().inspect(|_| unpacked.set(true)));
        buffers.raw.give_back(spooled.map_err(|error| match error {
            BundleError::Io { action, source } if unpacked.get() => {
                let (origin, directory) = (self.bundle.origin().to_owned(), self.spool_dir.display().to_string());
                let (kind, named) = (source.kind(), ArchiveError::Spool { origin, directory, source });
                BundleError::Io { action, source: io::Error::new(kind, named) }
            }
            error => error,
        })?);
        Ok(())
    }

    /// All bytes of a content.
    pub(crate) fn open_content(&self, content: u32) -> impl Read + Send + '_ {
        let mut reader = ContentReader::new(self);
        reader.give(content);
        reader
    }

    /// Reads a part of an object, whose frame is decompressed if it is not yet.
    pub(super) fn read_object(&self, object: u32, from: u64, buf: &mut [u8]) -> Result<(), BundleError> {
        let (frame, offset, _) = self.bundle.place(object);
        while !self.spool.read(frame, u64::from(offset) + from, buf)? {
            self.fill(frame, &lock(&self.filling))?;
        }
        Ok(())
    }

    /// The tar of a layer. What a base gives of one that is left out is compared with its diff ID: the last read fails when
    /// it has another. All else has checksums of its own.
    pub(crate) fn open_tar(&self, diff_id: &DiffId) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        let tar = self.open(&Layer { diff_id: *diff_id, size: None, original: None }, Form::Tar)?;
        let left_out = self.leaves_out(diff_id);
        Ok(if left_out { Box::new(VerifyingReader::new(tar, diff_id.0, None)) } else { tar })
    }

    fn open(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        let record = self.kept(layer)?;
        if record.kind == LayerKind::Base {
            return self.whole_base(record)?.open_whole(layer, form);
        }
        // Of a layer that has no original that is the tar.
        let form = if layer.original.is_none() { Form::Tar } else { form };
        self.is_believable(record)?;
        if let Some(pieces) = Pieces::of(self, record)? {
            let tar = LayerReader::new(self, pieces);
            return Ok(match record.replay {
                Some(Replay::Exact(how)) if form == Form::Original => Box::new(Rebuilt::new(how, tar)),
                Some(Replay::Corrected { model, frame, offset, length }) if form == Form::Original => {
                    let corrections = self.recipe(frame)?[offset as usize..][..length as usize].to_vec();
                    let doing = || format!("compress layer {}", layer.diff_id);
                    Box::new(Corrected::new(model, corrections, tar).doing(doing)?)
                }
                _ => Box::new(tar),
            });
        }
        match record.kind {
            LayerKind::Blob { content } => {
                let mut blob = self.open_content(content);
                if form == Form::Original && record.original.is_some() {
                    return Ok(Box::new(blob));
                }
                let doing = || format!("decompress layer {}", layer.diff_id);
                let mut head = Vec::new();
                (&mut blob).take(MAGIC_BYTES as u64).read_to_end(&mut head).doing(doing)?;
                let compression = compression::detect(&head);
                let whole = io::Cursor::new(head).chain(blob);
                let tar = compression.decoder(Box::new(whole), &self.limits).doing(doing)?;
                // More than declared is an error of the caller's digest; it need not fill a disk first.
                Ok(Box::new(tar.take(record.size.saturating_add(1))))
            }
            _ => Err(self.left_out(record).into()),
        }
    }

    /// Compares the manifests with the configs that they name, as whoever takes the images in does.
    pub fn check_manifests(&self) -> Result<(), BundleError> {
        for (at, image) in self.images.iter().enumerate() {
            let broken = |what: &str| {
                Err(BundleError::malformed(format!("{}, image {at}", self.bundle.origin()), what.to_owned()))
            };
            match &image.manifest {
                Some(manifest) if manifest.config().digest != image.config.id().0 => {
                    return broken("its manifest is that of another image");
                }
                Some(manifest) if manifest.layers().len() != image.layers.len() => {
                    return broken("its manifest has another number of layers than its config");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Fails when a layer says of itself that it expands beyond belief: a few bytes of recipe can stand for any number.
    fn is_believable(&self, layer: &LayerRecord) -> Result<(), BundleError> {
        // What the bundle says of a base counts where the base has it.
        let packed = self.bundle.size().saturating_add(self.base_bytes);
        let limit = compression::most_of(packed);
        if layer.size <= limit {
            return Ok(());
        }
        let what = format!("its {} bytes are over the limit of {limit} bytes for what {packed} hold", layer.size);
        Err(BundleError::malformed(format!("{}, layer {}", self.bundle.origin(), layer.diff_id), what))
    }
}

/// How many bytes a frame is the difference to.
fn prefix_bytes(frame: &FrameRecord) -> u64 {
    frame.prefix.iter().map(|part| u64::from(part.length)).sum()
}

/// One image of a bundle, its documents parsed, and its layers those of its config.
fn image(bundle: &Bundle, at: usize) -> Result<Image, BundleError> {
    let index = bundle.index();
    let record = &index.images[at];
    let broken = |what: String| BundleError::malformed(format!("{}, image {at}", bundle.origin()), what);
    let document = |number: u32| index.documents[number as usize].clone();
    let config = ImageConfig::parse(document(record.config)).map_err(|error| broken(error.to_string()))?;
    let manifest = match &record.manifest {
        Some((number, media_type)) => {
            Some(Manifest::parse(document(*number), Some(media_type)).map_err(|error| broken(error.to_string()))?)
        }
        None => None,
    };
    let layers: Vec<Layer> = record.layers.iter().map(|number| layer(&index.layers[*number as usize])).collect();
    if !layers.iter().map(|layer| &layer.diff_id).eq(config.diff_ids()) {
        return Err(broken("its layers are not those its config names".into()));
    }
    let name = |text: &String| text.parse::<Reference>().map_err(|error| broken(error.to_string()));
    Ok(Image { names: record.names.iter().map(name).collect::<Result<_, _>>()?, config, manifest, layers })
}

fn layer(record: &LayerRecord) -> Layer {
    let original =
        record.original.as_ref().map(|(media_type, digest, size)| Descriptor::new(media_type, *digest, *size));
    // The size of one that was left out need not have been known.
    let size = Some(record.size).filter(|size| *size > 0 || record.kind != LayerKind::Base);
    Layer { diff_id: record.diff_id, size, original }
}

impl ImageSource for BundleSource {
    fn origin(&self) -> String {
        self.bundle.origin().to_owned()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        self.open(layer, form)
    }

    fn visit_layers(
        &self,
        wanted: &[(Layer, Form)],
        threads: usize,
        ctx: &Ctx,
        visit: &LayerVisitor<'_>,
    ) -> Result<(), BoxFault> {
        let mut frames = BTreeSet::new();
        for (layer, _) in wanted {
            self.frames_of(self.kept(layer)?, &mut frames)?;
        }
        let frames: Vec<u32> = frames.into_iter().collect();
        // Others may visit layers meanwhile.
        let _spooled = self.spool.need();
        let total = frames.iter().map(|frame| self.bundle.frame_length(*frame) as u64).sum();
        let task = ctx.begin("Decompressing", "contents", Some(total));
        let buffers = Buffers::default();
        in_parallel(threads.min(self.frames_at_once), frames.len(), &|at| {
            self.fill(frames[at], &buffers)?;
            task.advance(self.bundle.frame_length(frames[at]) as u64)?;
            Ok(())
        })?;
        drop(buffers);
        task.complete();
        in_parallel(threads, wanted.len(), &|at| {
            ctx.check()?;
            let (layer, form) = &wanted[at];
            visit(layer, &mut *self.open(layer, *form)?)
        })
    }
}
