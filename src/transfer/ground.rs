//! What a transfer builds upon: contents of layers that both sides have.

use std::collections::{BTreeSet, HashMap};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::base::{AtPath, BoxFault, ContentId, Ctx};
use crate::bundle::index::{ID_LENGTH, ShortId};
use crate::bundle::{BaseContents, BundleError, BundleSource, KnownBase};
use crate::image::{ChainId, DiffId, Extent, Form, ImageSource, Layer, SplitContent, SplitSink};
use crate::layer;
use crate::store::Store;

/// Where a content lies: a layer, the path there, its size.
type Place = (ChainId, Box<[u8]>, u64);

/// The contents of a store, by their IDs. The lists are read when the first is asked for.
pub struct StoreBase {
    store: Store,
    /// The layers that count; all of them without this.
    only: Option<BTreeSet<DiffId>>,
    places: OnceLock<(BTreeSet<DiffId>, HashMap<ShortId, Place>)>,
}

impl StoreBase {
    /// The contents of `store`.
    pub fn new(store: Store) -> Self {
        Self { store, only: None, places: OnceLock::new() }
    }

    /// The contents of some layers of `store`; the others are as good as absent.
    pub fn of_layers(store: Store, layers: BTreeSet<DiffId>) -> Self {
        Self { store, only: Some(layers), places: OnceLock::new() }
    }

    fn places(&self) -> &(BTreeSet<DiffId>, HashMap<ShortId, Place>) {
        self.places.get_or_init(|| {
            let mut layers = self.store.layer_places().unwrap_or_default();
            if let Some(only) = &self.only {
                layers.retain(|(_, diff_id)| only.contains(diff_id));
            }
            let mut places = HashMap::new();
            for (layer, _) in &layers {
                // What cannot be read is not there: the bundle that needs it says so.
                for (id, size, path) in self.store.contents_at(*layer).unwrap_or_default() {
                    let place = (*layer, Box::from(path), size);
                    places.entry(ShortId::of(&id, ID_LENGTH)).or_insert(place);
                }
            }
            (layers.into_iter().map(|(_, diff_id)| diff_id).collect(), places)
        })
    }
}

impl BaseContents for StoreBase {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.places().0.contains(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.places().1.get(id).map(|(.., size)| *size)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || BundleError::Absent { what: "base content that was here".into() };
        let (layer, path, _) = self.places().1.get(id).ok_or_else(absent)?;
        let file = self.store.open_content_at(*layer, path)?;
        file.read_exact_at(buf, offset).at("read", String::from_utf8_lossy(path).as_ref())?;
        Ok(())
    }
}

/// Contents that lie somewhere in files that can be read anywhere.
#[derive(Default)]
struct Extents(HashMap<ShortId, (Extent, u64)>);

impl BaseContents for Extents {
    fn has_layer(&self, _: &DiffId) -> bool {
        false
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.0.get(id).map(|(_, size)| *size)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || BundleError::Absent { what: "base content that was here".into() };
        let (extent, _) = self.0.get(id).ok_or_else(absent)?;
        extent.read_exact_at(buf, offset).at("read", "a layer to build upon")?;
        Ok(())
    }
}

/// The files of a layer.
#[derive(Default)]
struct Files(Vec<FileOfLayer>);

/// A file: its path, its content, its size and where that lies in the tar, in bytes.
type FileOfLayer = (Box<[u8]>, ContentId, u64, u64);

impl SplitSink for Files {
    fn segment(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault> {
        self.0.push((content.path.into(), content.id, content.size, content.offset));
        Ok(())
    }
}

/// What the sender can look into: its store, and what the images come from.
#[derive(Clone)]
pub struct Ground<'s> {
    /// The store on this side, where there is one.
    pub store: Option<&'s Store>,
    /// What the images come from.
    pub source: &'s dyn ImageSource,
    /// The same, when it is a bundle.
    pub bundle: Option<Arc<BundleSource>>,
    /// At most so many threads.
    pub threads: usize,
}

/// Contents smaller than this are not asked for: their IDs would cost what they cost.
const WORTH_ASKING: u64 = 512;

impl Ground<'_> {
    /// The bases that `layers` make, oldest first.
    pub fn of(&self, layers: &[DiffId], ctx: &Ctx) -> Result<Vec<KnownBase>, BoxFault> {
        let in_store = self.store.map(Store::diff_ids).transpose()?.unwrap_or_default();
        let (stored, others): (Vec<DiffId>, Vec<DiffId>) = layers.iter().partition(|layer| in_store.contains(layer));
        let mut bases = Vec::new();
        if let Some(store) = self.store.filter(|_| !stored.is_empty()) {
            let mut files = Vec::new();
            for layer in &stored {
                ctx.check()?;
                let contents = store.contents(layer)?;
                files.extend(contents.into_iter().map(|(id, size, path)| (Box::from(path), id, size)));
            }
            let base = StoreBase::of_layers(store.clone(), stored.iter().copied().collect());
            bases.push(KnownBase::of_layers(&stored, files, Some(Arc::new(base))));
        }
        if !others.is_empty() {
            bases.push(self.of_source(&others, ctx)?);
        }
        Ok(bases)
    }

    /// Layers that only the source has are read for what is in them.
    fn of_source(&self, layers: &[DiffId], ctx: &Ctx) -> Result<KnownBase, BoxFault> {
        let (mut files, mut extents) = (Vec::new(), Extents::default());
        for (layer, found) in self.read_through(layers, ctx)? {
            for (path, id, size, offset) in found {
                if self.bundle.is_none()
                    && self.source.has_contents(&layer)
                    && let Some(extent) =
                        self.source.content(&layer, &SplitContent { id, size, offset, path: &path })?
                {
                    extents.0.insert(ShortId::of(&id, ID_LENGTH), (extent, size));
                }
                files.push((path, id, size));
            }
        }
        let contents: Option<Arc<dyn BaseContents>> = match &self.bundle {
            Some(bundle) => Some(bundle.clone()),
            None if extents.0.is_empty() => None,
            None => Some(Arc::new(extents)),
        };
        Ok(KnownBase::of_layers(layers, files, contents))
    }

    /// The files of layers of the source, which are read for it.
    fn read_through(&self, layers: &[DiffId], ctx: &Ctx) -> Result<Vec<(Layer, Vec<FileOfLayer>)>, BoxFault> {
        let find = |diff_id: &DiffId| {
            let mut all = self.source.images().iter().flat_map(|image| &image.layers);
            all.find(|layer| layer.diff_id == *diff_id).cloned()
        };
        let wanted: Vec<(Layer, Form)> = layers.iter().filter_map(find).map(|layer| (layer, Form::Tar)).collect();
        let found = Mutex::new(HashMap::new());
        self.source.visit_layers(&wanted, self.threads, ctx, &|layer, tar| {
            let mut files = Files::default();
            layer::split::split(tar, &mut files)?;
            found.lock().unwrap_or_else(PoisonError::into_inner).insert(layer.diff_id, files.0);
            Ok(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let files = |(layer, _): (Layer, Form)| {
            let files = found.remove(&layer.diff_id).unwrap_or_default();
            (layer, files)
        };
        Ok(wanted.into_iter().map(files).collect())
    }

    /// The contents of layers that the receiver may have elsewhere. The lists of a store and a bundle's index know them;
    /// layers of another archive are read through.
    pub fn contents(&self, layers: &[DiffId], ctx: &Ctx) -> Result<Vec<ShortId>, BoxFault> {
        let in_store = self.store.map(Store::diff_ids).transpose()?.unwrap_or_default();
        let mut ids = BTreeSet::new();
        for layer in layers.iter().filter(|layer| in_store.contains(layer)) {
            ctx.check()?;
            let contents = self.store.map(|store| store.contents(layer)).transpose()?.unwrap_or_default();
            let large = contents.iter().filter(|(_, size, _)| *size >= WORTH_ASKING);
            ids.extend(large.map(|(id, ..)| ShortId::of(id, ID_LENGTH)));
        }
        if let Some(bundle) = self.bundle.as_ref().filter(|_| layers.iter().any(|layer| !in_store.contains(layer))) {
            ids.extend(bundle.content_ids(WORTH_ASKING));
        } else {
            let others: Vec<DiffId> = layers.iter().filter(|layer| !in_store.contains(layer)).copied().collect();
            let files = self.read_through(&others, ctx)?.into_iter().flat_map(|(_, files)| files);
            ids.extend(files.filter(|file| file.2 >= WORTH_ASKING).map(|file| ShortId::of(&file.1, ID_LENGTH)));
        }
        Ok(ids.into_iter().collect())
    }
}

/// Opens the tar of a layer.
pub type OpenLayer<'a> = &'a dyn Fn(&DiffId) -> Result<Box<dyn Read + Send>, BoxFault>;

/// The contents that are wanted of some layers' tars, in a nameless file.
pub struct Gathered {
    layers: BTreeSet<DiffId>,
    file: std::fs::File,
    places: HashMap<ShortId, (u64, u64)>,
}

impl Gathered {
    /// Reads the layers one after the other until all that is `wanted` is found.
    pub fn from_layers(
        layers: &BTreeSet<DiffId>,
        wanted: &BTreeSet<ShortId>,
        open: OpenLayer<'_>,
        folder: &std::path::Path,
        ctx: &Ctx,
    ) -> Result<Self, BoxFault> {
        let file = tempfile::tempfile_in(folder).at("create a file in", folder)?;
        let mut gathered = Self { layers: layers.clone(), file, places: HashMap::new() };
        let mut end = 0;
        for layer in layers {
            if gathered.places.len() == wanted.len() {
                break;
            }
            ctx.check()?;
            let spool = tempfile::tempfile_in(folder).at("create a file in", folder)?;
            let mut files = Files::default();
            let mut tar = Copying { from: open(layer)?, to: &spool };
            layer::split::split(&mut tar, &mut files)?;
            for (_, id, size, offset) in files.0 {
                let id = ShortId::of(&id, ID_LENGTH);
                if wanted.contains(&id) && !gathered.places.contains_key(&id) {
                    copy_range(&spool, offset, &gathered.file, end, size).at("write a file in", folder)?;
                    gathered.places.insert(id, (end, size));
                    end += size;
                }
            }
        }
        Ok(gathered)
    }
}

struct Copying<'a> {
    from: Box<dyn Read + Send>,
    to: &'a std::fs::File,
}

impl Read for Copying<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buf)?;
        std::io::Write::write_all(&mut self.to, &buf[..n])?;
        Ok(n)
    }
}

fn copy_range(from: &std::fs::File, at: u64, to: &std::fs::File, end: u64, size: u64) -> std::io::Result<()> {
    let mut buf = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(1 << 20)];
    let mut done = 0;
    while done < size {
        let n = usize::try_from(size - done).unwrap_or(usize::MAX).min(buf.len());
        from.read_exact_at(&mut buf[..n], at + done)?;
        to.write_all_at(&buf[..n], end + done)?;
        done += n as u64;
    }
    Ok(())
}

impl BaseContents for Gathered {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.layers.contains(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.places.get(id).map(|(_, size)| *size)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || BundleError::Absent { what: "base content that was here".into() };
        let (at, size) = self.places.get(id).ok_or_else(absent)?;
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > *size) {
            return Err(absent().into());
        }
        self.file.read_exact_at(buf, at + offset).at("read", "a base content")?;
        Ok(())
    }
}
