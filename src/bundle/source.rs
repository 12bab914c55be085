//! A bundle as a source of images. Frames are decompressed once, in the order of the stream, into the spool; layers are
//! then put together from it in parallel.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use super::base::{BaseContents, shortened};
use super::error::{BundleError, Doing};
use super::index::{FRAME_BYTES, FrameRecord, ID_LENGTH, LayerKind, LayerRecord, Replay, ShortId};
use super::parallel::in_parallel;
use super::pieces::Pieces;
use super::read::Bundle;
use super::reader::{ContentReader, LayerReader};
use super::recipe::Piece;
use super::spool::Spool;
use crate::archive::ArchiveError;
use crate::base::{BoxFault, Ctx, Spare, lock};
use crate::image::source::LayerVisitor;
use crate::image::{Descriptor, DiffId, Form, Image, ImageConfig, ImageSource, Layer, Manifest, Reference};
use crate::layer::compression::{self, DecodeLimits, MAGIC_BYTES};
use crate::layer::replay::{Corrected, Rebuilt};

/// The images of a bundle.
pub struct BundleSource {
    bundle: Bundle,
    images: Vec<Image>,
    numbers: HashMap<DiffId, u32>,
    spool: Spool,
    spool_dir: PathBuf,
    /// Held while a frame is decompressed for the one who wants it: that has frames of its own in memory.
    filling: Mutex<Buffers>,
    recipes: Mutex<HashMap<u32, Arc<Vec<u8>>>>,
    /// How many frames may be in memory at once.
    frames_at_once: usize,
    /// What a thin bundle is read with.
    base: Option<Arc<dyn BaseContents>>,
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
        let numbers = index.layers.iter().enumerate().map(|(n, layer)| (layer.diff_id, n as u32)).collect();
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
            spool,
            spool_dir,
            filling: Mutex::default(),
            recipes: Mutex::default(),
            frames_at_once,
            base: None,
            proven: Mutex::default(),
            near: None,
            at_hand: Mutex::default(),
            limits: DecodeLimits::default(),
            by_id: OnceLock::new(),
        })
    }

    /// Reads a thin bundle with what is here. Fails when a layer or content that the bundle needs is not, naming its
    /// bases; contents are checked against their IDs when they are used.
    pub fn with_base(mut self, base: Arc<dyn BaseContents>) -> Result<Self, BundleError> {
        let index = self.bundle.index();
        let missing = |missing: String, absent: &[usize]| {
            let bases = index.labels_of(absent).join(", ");
            BundleError::BaseMissing { missing, count: absent.len(), bases }
        };
        let contents = index.base_contents.ids.len();
        let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base);
        let absent: Vec<_> = (contents..).zip(layers).filter(|(_, layer)| !base.has_layer(&layer.diff_id)).collect();
        if let Some((_, first)) = absent.first() {
            let more = if absent.len() == 1 { String::new() } else { format!(" and {} more layers", absent.len() - 1) };
            let numbers: Vec<usize> = absent.iter().map(|(number, _)| *number).collect();
            return Err(missing(format!("layer {}{more}", first.diff_id), &numbers));
        }
        let has = |(id, size): (&ShortId, &u64)| base.size_of(&shortened(*id)) == Some(*size);
        let there = index.base_contents.ids.iter().zip(&index.base_contents.sizes).map(has);
        let absent: Vec<usize> = there.enumerate().filter(|(_, has)| !has).map(|(number, _)| number).collect();
        if !absent.is_empty() {
            return Err(missing(format!("{} of {contents} contents", absent.len()), &absent));
        }
        self.base = Some(base);
        Ok(self)
    }

    /// Decompresses layers that are kept as their blob within these limits.
    pub fn within(self, limits: DecodeLimits) -> Self {
        Self { limits, ..self }
    }

    /// Reads no content from the bundle that `near` has, checked against its ID.
    pub fn sparing(self, near: Arc<dyn BaseContents>) -> Self {
        Self { near: Some(near), ..self }
    }

    /// Whether a content of the bundle is at hand.
    fn is_near(&self, content: u32) -> bool {
        let Some(near) = &self.near else { return false };
        if let Some(known) = lock(&self.at_hand).get(&content) {
            return *known;
        }
        let index = self.bundle.index();
        let there = near.size_of(&shortened(index.content_id(content))) == Some(index.content_size(content));
        // What is damaged there is taken from the bundle.
        let is = there && self.matches_id(&**near, content).unwrap_or(false);
        lock(&self.at_hand).insert(content, is);
        is
    }

    /// Whether what `base` has of a content is what its ID says.
    fn matches_id(&self, base: &dyn BaseContents, content: u32) -> Result<bool, BoxFault> {
        let index = self.bundle.index();
        let (id, size) = (index.content_id(content), index.content_size(content));
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; size.min(1 << 20) as usize];
        let mut at = 0;
        while at < size {
            let n = (size - at).min(buffer.len() as u64) as usize;
            base.read_at(&shortened(id), at, &mut buffer[..n])?;
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
        let kept = index.contents.id_length;
        Ok(hasher.finalize().as_bytes()[..kept] == id.0[..kept])
    }

    /// Whether a content is read from the bundle itself.
    pub(super) fn is_own(&self, content: u32) -> bool {
        (content as usize) < self.bundle.index().contents.ids.len() && !self.is_near(content)
    }

    /// Whether every content can be read: the bundle is not thin, or has its base.
    pub(super) fn is_whole(&self) -> bool {
        self.bundle.index().base_contents.ids.is_empty() || self.base.is_some()
    }

    /// The base, which a thin bundle must have been given.
    fn base(&self) -> Result<&dyn BaseContents, BundleError> {
        self.base.as_deref().ok_or_else(|| {
            let index = self.bundle.index();
            let bases: Vec<&str> = index.bases.iter().map(|base| base.label.as_str()).collect();
            BundleError::BaseMissing { missing: "what".into(), count: 1, bases: bases.join(", ") }
        })
    }

    /// Reads a part of a base content, which is checked as a whole when it is used first.
    pub(super) fn read_base(&self, content: u32, offset: u64, buf: &mut [u8]) -> Result<(), BundleError> {
        let index = self.bundle.index();
        let id = index.content_id(content);
        let own = (content as usize) < index.contents.ids.len();
        let base = match &self.near {
            Some(near) if own => &**near,
            _ => self.base()?,
        };
        let failed = |fault: BoxFault| BundleError::Io {
            action: format!("read base content {}", hex::encode(&id.0[..8])),
            source: io::Error::other(fault),
        };
        // One that is at hand was checked when that was found out.
        if !own && !lock(&self.proven).contains(&content) {
            if !self.matches_id(base, content).map_err(failed)? {
                let kept = index.contents.id_length;
                return Err(BundleError::Damaged { place: format!("base content {}", hex::encode(&id.0[..kept])) });
            }
            lock(&self.proven).insert(content);
        }
        base.read_at(&shortened(id), offset, buf).map_err(failed)
    }

    /// The bundle itself.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    pub(super) fn record(&self, layer: &DiffId) -> Result<&LayerRecord, BundleError> {
        let number = self.numbers.get(layer).ok_or_else(|| BundleError::Absent { what: format!("layer {layer}") })?;
        Ok(&self.bundle.index().layers[*number as usize])
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
            LayerKind::Base => Err(self.left_out(layer)),
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

    fn open(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BundleError> {
        let record = self.record(&layer.diff_id)?;
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
            _ => Err(self.left_out(record)),
        }
    }

    /// Whether a thin bundle leaves this layer out, as one that its base has.
    pub fn leaves_out(&self, layer: &DiffId) -> bool {
        self.record(layer).is_ok_and(|record| record.kind == LayerKind::Base)
    }

    /// Why a layer that the bundle leaves out cannot be read, whatever is here: it is in a store, and not in the bundle.
    fn left_out(&self, layer: &LayerRecord) -> BundleError {
        let index = self.bundle.index();
        let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base);
        let number = layers.zip(index.base_contents.ids.len()..).find(|(other, _)| other.diff_id == layer.diff_id);
        let bases = index.labels_of(&number.map(|(_, number)| number).into_iter().collect::<Vec<_>>()).join(", ");
        let what = format!(
            "layer {} itself, which is in its base {bases}: load it where that is, and save the image from there",
            layer.diff_id
        );
        BundleError::Absent { what }
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
        let base: &[u64] = if self.base.is_some() { &self.bundle.index().base_contents.sizes } else { &[] };
        let packed = base.iter().fold(self.bundle.size(), |sum, size| sum.saturating_add(*size));
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
    Layer { diff_id: record.diff_id, size: Some(record.size), original }
}

impl ImageSource for BundleSource {
    fn origin(&self) -> String {
        self.bundle.origin().to_owned()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        Ok(self.open(layer, form)?)
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
            self.frames_of(self.record(&layer.diff_id)?, &mut frames)?;
        }
        let frames: Vec<u32> = frames.into_iter().collect();
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
        let visited = in_parallel(threads, wanted.len(), &|at| {
            ctx.check()?;
            let (layer, form) = &wanted[at];
            visit(layer, &mut *self.open(layer, *form)?)
        });
        self.spool.empty();
        visited
    }
}

/// A bundle as the base of a thin one.
impl BaseContents for BundleSource {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.numbers.contains_key(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        let content = *self.by_id().get(id)?;
        let index = self.bundle.index();
        // What is a difference to a base that is not here cannot be given.
        let whole = |object: &u32| index.frames[self.bundle.place(*object).0 as usize].prefix.is_empty();
        let can = self.base.is_some() || index.contents.objects_of(content).iter().all(whole);
        can.then(|| index.content_size(content))
    }

    fn memory(&self) -> u64 {
        // One frame at a time: as it is stored, as it is, and with what it is the difference to.
        let frames = &self.bundle.index().frames;
        let stored = frames.iter().map(|frame| frame.stored).max().unwrap_or(0);
        let raw = (0..frames.len() as u32).map(|frame| self.bundle.frame_length(frame) as u64).max().unwrap_or(0);
        stored + raw + frames.iter().map(prefix_bytes).max().unwrap_or(0)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || BundleError::Absent { what: format!("content {}", hex::encode(&id.0[..ID_LENGTH])) };
        let content = *self.by_id().get(id).ok_or_else(absent)?;
        let (mut at, mut got) = (0, 0);
        for object in self.bundle.index().contents.objects_of(content) {
            let size = u64::from(self.bundle.place(*object).2);
            let wanted = offset + got as u64;
            if wanted < at + size && got < buf.len() {
                let n = (at + size - wanted).min((buf.len() - got) as u64) as usize;
                self.read_object(*object, wanted - at, &mut buf[got..got + n])?;
                got += n;
            }
            at += size;
        }
        if got == buf.len() { Ok(()) } else { Err(absent().into()) }
    }
}

impl BundleSource {
    /// The contents that the bundle holds, as far as they are `size` bytes or more.
    pub fn content_ids(&self, size: u64) -> Vec<ShortId> {
        let index = self.bundle.index();
        let large = |(id, number): (&ShortId, u32)| (index.content_size(number) >= size).then(|| shortened(*id));
        index.contents.ids.iter().zip(0..).filter_map(large).collect()
    }

    fn by_id(&self) -> &HashMap<ShortId, u32> {
        let ids = || self.bundle.index().contents.ids.iter().map(|id| shortened(*id));
        self.by_id.get_or_init(|| ids().zip(0..).collect())
    }

    /// Reads a part of an object, whose frame is decompressed if it is not yet.
    pub(super) fn read_object(&self, object: u32, from: u64, buf: &mut [u8]) -> Result<(), BundleError> {
        let (frame, offset, _) = self.bundle.place(object);
        while !self.spool.read(frame, u64::from(offset) + from, buf)? {
            self.fill(frame, &lock(&self.filling))?;
        }
        Ok(())
    }
}
