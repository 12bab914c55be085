//! A bundle as a source of images. Frames are decompressed once, in the order of the stream, into a nameless file;
//! layers are then put together from it in parallel.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, fallocate};

use super::base::{BaseContents, shortened};
use super::error::{BundleError, Doing};
use super::index::{FRAME_BYTES, ID_LENGTH, LayerKind, LayerRecord, Replay, ShortId};
use super::parallel::in_parallel;
use super::pieces::Pieces;
use super::read::Bundle;
use super::recipe::Piece;
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
    /// The bundle's contents by ID, for those that are read with this bundle as their base.
    by_id: OnceLock<HashMap<ShortId, u32>>,
}

/// The objects of the frames that were decompressed, at the offsets they have one after another.
struct Spool {
    dir: PathBuf,
    file: OnceLock<File>,
    /// Where each frame begins in the file.
    begins: Vec<u64>,
    /// One a frame: whether it is in the file. Locked for reading while that part of the file is read.
    filled: Vec<RwLock<bool>>,
}

/// How much is written to the spool at once, in bytes.
const SPOOL_PIECE: usize = 256 << 10;

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
        let mut begins = vec![0];
        let mut at = 0;
        for frame in 0..index.frames.len() as u32 {
            at += bundle.frame_length(frame) as u64;
            begins.push(at);
        }
        let filled = index.frames.iter().map(|_| RwLock::new(false)).collect();
        let spool = Spool { dir: spool_dir, file: OnceLock::new(), begins, filled };
        // A frame at work is in memory as it is stored and as it is.
        let frames_at_once = (memory / (2 * FRAME_BYTES)).max(1) as usize;
        Ok(Self {
            bundle,
            images,
            numbers,
            spool,
            recipes: Mutex::default(),
            frames_at_once,
            base: None,
            proven: Mutex::default(),
            near: None,
            at_hand: Mutex::default(),
            by_id: OnceLock::new(),
        })
    }

    /// Reads a thin bundle with what is here. Fails when a layer or content that the bundle needs is not, naming its
    /// bases; contents are checked against their IDs when they are used.
    pub fn with_base(mut self, base: Arc<dyn BaseContents>) -> Result<Self, BundleError> {
        let index = self.bundle.index();
        let missing = |missing: String, count| {
            let bases: Vec<&str> = index.bases.iter().map(|base| base.label.as_str()).collect();
            BundleError::BaseMissing { missing, count, bases: bases.join(", ") }
        };
        let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base);
        let absent: Vec<_> = layers.filter(|layer| !base.has_layer(&layer.diff_id)).collect();
        if let Some(first) = absent.first() {
            let more = if absent.len() == 1 { String::new() } else { format!(" and {} more layers", absent.len() - 1) };
            return Err(missing(format!("layer {}{more}", first.diff_id), absent.len()));
        }
        let contents = index.base_contents.ids.iter().zip(&index.base_contents.sizes);
        let absent = contents.filter(|(id, size)| base.size_of(&shortened(**id)) != Some(**size)).count();
        if absent > 0 {
            let all = index.base_contents.ids.len();
            return Err(missing(format!("{absent} of {all} contents"), absent));
        }
        self.base = Some(base);
        Ok(self)
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
    fn is_own(&self, content: u32) -> bool {
        (content as usize) < self.bundle.index().contents.ids.len() && !self.is_near(content)
    }

    /// The layers that the bundle itself holds, base layers and layers made of base contents left out unless there is
    /// a base to read them with.
    pub(crate) fn own_layers(&self) -> Vec<Layer> {
        let index = self.bundle.index();
        let whole = index.base_contents.ids.is_empty() || self.base.is_some();
        index.layers.iter().filter(|record| whole && record.kind != LayerKind::Base).map(layer).collect()
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
    fn read_base(&self, content: u32, offset: u64, buf: &mut [u8]) -> Result<(), BundleError> {
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
            LayerKind::Base => {
                Err(BundleError::Absent { what: format!("layer {} itself, only its base", layer.diff_id) })
            }
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

    fn spool_file(&self) -> Result<&File, BundleError> {
        if self.spool.file.get().is_none() {
            let dir = &self.spool.dir;
            let file = tempfile::tempfile_in(dir).doing(|| format!("make a spool file in {}", dir.display()))?;
            // Whoever comes second drops its file.
            let _ = self.spool.file.set(file);
        }
        self.spool.file.get().ok_or_else(|| BundleError::Absent { what: "spool file".into() })
    }

    /// Decompresses a frame into the spool unless it is there.
    fn fill(&self, frame: u32, buffers: &Buffers) -> Result<(), BundleError> {
        let mut filled = self.spool.filled[frame as usize].write().unwrap_or_else(PoisonError::into_inner);
        if !*filled {
            let mut prefix = Vec::new();
            for part in &self.bundle.index().frames[frame as usize].prefix {
                let from = prefix.len();
                prefix.resize(from + part.length as usize, 0);
                self.read_base(part.content, part.offset, &mut prefix[from..])?;
            }
            let (mut raw, mut stored) = (buffers.raw.take(0), buffers.stored.take(0));
            self.bundle.frame_to(&mut raw, &mut stored, frame, &prefix)?;
            let (file, mut at) = (self.spool_file()?, self.spool.begins[frame as usize]);
            // In one go the kernel would take folios of a frame's size for it, which costs it several times as much.
            for piece in raw.chunks(SPOOL_PIECE) {
                file.write_all_at(piece, at).doing(|| "write the spool file".into())?;
                at += piece.len() as u64;
            }
            *filled = true;
            buffers.raw.give_back(raw);
            buffers.stored.give_back(stored);
        }
        Ok(())
    }

    /// Forgets what is in the spool: whoever syncs its file system would wait for bytes to be written out that nobody
    /// needs.
    fn empty_spool(&self) {
        let Some(file) = self.spool.file.get() else { return };
        for (filled, range) in self.spool.filled.iter().zip(self.spool.begins.windows(2)) {
            let mut filled = filled.write().unwrap_or_else(PoisonError::into_inner);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // What a file system without holes keeps may be read again.
            if *filled && fallocate(file, flags, range[0], range[1] - range[0]).is_ok() {
                *filled = false;
            }
        }
    }

    /// All bytes of a content.
    pub(crate) fn open_content(&self, content: u32) -> impl Read + Send + '_ {
        let mut reader = ContentReader::new(self);
        reader.give(content);
        reader
    }

    fn open(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BundleError> {
        let record = self.record(&layer.diff_id)?;
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
                let tar = compression.decoder(Box::new(whole), &DecodeLimits::default()).doing(doing)?;
                // More than declared is an error of the caller's digest; it need not fill a disk first.
                Ok(Box::new(tar.take(record.size.saturating_add(1))))
            }
            _ => Err(BundleError::Absent { what: format!("layer {}", layer.diff_id) }),
        }
    }
}

/// One image of a bundle, its documents parsed and checked against each other.
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
        self.empty_spool();
        visited
    }
}

/// A layer's tar, put together as it is read.
struct LayerReader<'a> {
    pieces: Pieces<'a>,
    /// Raw bytes to give, from `used` on.
    ready: Vec<u8>,
    used: usize,
    /// Zeros to give after them.
    zeros: u64,
    /// The content to give after those.
    content: ContentReader<'a>,
}

impl<'a> LayerReader<'a> {
    fn new(source: &'a BundleSource, pieces: Pieces<'a>) -> Self {
        Self { pieces, ready: Vec::new(), used: 0, zeros: 0, content: ContentReader::new(source) }
    }

    /// Gets the next piece ready; false at the end.
    fn advance(&mut self) -> Result<bool, BundleError> {
        self.ready.clear();
        self.used = 0;
        // Headers and padding are small: several go into one read.
        while self.ready.len() < 4096 {
            match self.pieces.next()? {
                None => return Ok(!self.ready.is_empty()),
                Some(Piece::Bytes(bytes)) => self.ready.extend_from_slice(bytes),
                Some(Piece::Zeros(count)) if count <= 512 => self.ready.resize(self.ready.len() + count as usize, 0),
                Some(Piece::Zeros(count)) => {
                    self.zeros = count;
                    break;
                }
                Some(Piece::Content { number }) => {
                    self.content.give(number);
                    break;
                }
            }
        }
        Ok(true)
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buf.len() {
            let room = &mut buf[got..];
            if self.used < self.ready.len() {
                let n = room.len().min(self.ready.len() - self.used);
                room[..n].copy_from_slice(&self.ready[self.used..][..n]);
                self.used += n;
                got += n;
            } else if self.zeros > 0 {
                let n = (room.len() as u64).min(self.zeros) as usize;
                room[..n].fill(0);
                self.zeros -= n as u64;
                got += n;
            } else if !self.content.is_done() {
                got += self.content.read(room)?;
            } else if !self.advance().map_err(BundleError::into_io)? {
                break;
            }
        }
        Ok(got)
    }
}

/// One content, object by object.
struct ContentReader<'a> {
    source: &'a BundleSource,
    /// Objects that are left, in reverse.
    objects: Vec<u32>,
    /// Or a base content, and its size.
    base: Option<(u32, u64)>,
    /// How much of the next object, or of the base content, is given, in bytes.
    given: u64,
}

impl<'a> ContentReader<'a> {
    fn new(source: &'a BundleSource) -> Self {
        Self { source, objects: Vec::new(), base: None, given: 0 }
    }

    /// This content is next.
    fn give(&mut self, content: u32) {
        let index = self.source.bundle.index();
        self.given = 0;
        if self.source.is_own(content) {
            self.objects.extend(index.contents.objects_of(content).iter().rev());
        } else {
            self.base = Some((content, index.content_size(content))).filter(|(_, size)| *size > 0);
        }
    }

    fn is_done(&self) -> bool {
        self.objects.is_empty() && self.base.is_none()
    }

    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize, BundleError> {
        if let Some((content, size)) = self.base {
            let n = (size - self.given).min(buf.len() as u64) as usize;
            self.source.read_base(content, self.given, &mut buf[..n])?;
            self.given += n as u64;
            if self.given == size {
                self.base = None;
            }
            return Ok(n);
        }
        let Some(object) = self.objects.last().copied() else { return Ok(0) };
        let size = u64::from(self.source.bundle.place(object).2);
        let n = (size - self.given).min(buf.len() as u64) as usize;
        self.source.read_object(object, self.given, &mut buf[..n])?;
        self.given += n as u64;
        if self.given == size {
            self.objects.pop();
            self.given = 0;
        }
        Ok(n)
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_some(buf).map_err(BundleError::into_io)
    }
}

/// A bundle as the base of a thin one.
impl BaseContents for BundleSource {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.numbers.contains_key(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.by_id().get(id).map(|content| self.bundle.index().content_size(*content))
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
    fn read_object(&self, object: u32, from: u64, buf: &mut [u8]) -> Result<(), BundleError> {
        let (frame, offset, _) = self.bundle.place(object);
        let at = self.spool.begins[frame as usize] + u64::from(offset) + from;
        loop {
            let filled = self.spool.filled[frame as usize].read().unwrap_or_else(PoisonError::into_inner);
            if *filled {
                return self.spool_file()?.read_exact_at(buf, at).doing(|| "read the spool file".into());
            }
            drop(filled);
            self.fill(frame, &Buffers::default())?;
        }
    }
}
