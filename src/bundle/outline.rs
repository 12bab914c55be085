//! What the layers of a bundle hold, told from their recipes: no content is read, and so no frame of contents.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read};
use std::rc::Rc;

use super::base::shortened;
use super::cut::{self, Parts};
use super::error::BundleError;
use super::index::{ID_LENGTH, Index, LayerKind, LayerRecord, Replay, ShortId};
use super::pieces::Pieces;
use super::recipe::Piece;
use super::source::BundleSource;
use crate::base::read::Ready;
use crate::base::{BoxFault, ContentId};
use crate::image::DiffId;
use crate::layer::tar::{self, Entry, Handler, Kind};

/// A file of a layer, without its bytes.
#[derive(Debug, Clone)]
pub struct Outlined {
    /// What its header says.
    pub entry: Entry,
    /// The ID of its bytes; none for what has no bytes.
    pub id: Option<ShortId>,
    /// The bundle's number of that content, where the layer is kept by contents.
    pub content: Option<u32>,
    /// Which entry of the layer it is, from 0.
    pub ordinal: u64,
}

/// Hands the entries of a layer to `take`, in the order of its tar. Of a layer that is kept by contents only the recipe
/// is read; one that is kept as its blob, or that the base has, is decompressed and hashed.
pub fn outline(
    source: &BundleSource,
    diff_id: &DiffId,
    take: &mut dyn FnMut(Outlined) -> Result<(), BoxFault>,
) -> Result<(), BoxFault> {
    let record = source.record(diff_id)?;
    if let Some(pieces) = Pieces::of(source, record)? {
        let starts = Starts::default();
        let mut hollow = Hollow::new(source, pieces, starts.clone());
        let names = Names::ByRecipe { index: source.bundle().index(), starts };
        return tar::scan(&mut hollow, &mut Outliner { take, names, entry: None, ordinal: 0 });
    }
    let mut tar = source.open_tar(diff_id)?;
    tar::scan(&mut *tar, &mut Outliner { take, names: Names::ByHash(Box::default()), entry: None, ordinal: 0 })
}

/// Hands the path of each content of a layer that is kept split to `take`, and its number. No content is read.
pub(crate) fn paths(
    source: &BundleSource,
    record: &LayerRecord,
    take: &mut dyn FnMut(&[u8], u32),
) -> Result<(), BoxFault> {
    struct Paths<'t> {
        starts: Starts,
        take: &'t mut dyn FnMut(&[u8], u32),
    }
    impl Parts for Paths<'_> {
        fn segment(&mut self, _: &[u8]) -> Result<(), BoxFault> {
            Ok(())
        }

        fn data(&mut self, _: &[u8]) {}

        fn content(&mut self, path: &[u8], offset: u64, _: u64) -> Result<(), BoxFault> {
            let mut starts = self.starts.borrow_mut();
            while let Some((start, number)) = starts.front().copied().filter(|(start, _)| *start <= offset) {
                starts.pop_front();
                if start == offset {
                    (self.take)(path, number);
                }
            }
            Ok(())
        }
    }
    let Some(pieces) = Pieces::of(source, record)? else { return Ok(()) };
    let starts = Starts::default();
    let mut hollow = Hollow { maps: false, ..Hollow::new(source, pieces, starts.clone()) };
    cut::cut(&mut hollow, &mut Paths { starts, take })
}

/// How many bytes of the bundle a layer takes. Frames are compressed as a whole, so each object is charged with its
/// share of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// The recipe.
    pub recipe: u64,
    /// The corrections of its replay.
    pub corrections: u64,
    /// Contents that no other layer has.
    pub own: u64,
    /// Contents that other layers have too.
    pub shared: u64,
    /// Contents, decompressed, that are in the base alone.
    pub base: u64,
}

/// What each layer of the index costs.
pub fn costs(source: &BundleSource) -> Result<Vec<Cost>, BundleError> {
    let bundle = source.bundle();
    let index = bundle.index();
    let share = |of: u64, part: u64, whole: u64| (u128::from(of) * u128::from(part) / u128::from(whole.max(1))) as u64;
    let lengths: Vec<u64> = (0..index.frames.len() as u32).map(|frame| bundle.frame_length(frame) as u64).collect();
    let of_object = |object: u32| {
        let (frame, _, size) = bundle.place(object);
        share(index.frames[frame as usize].stored, u64::from(size), lengths[frame as usize])
    };
    let mut uses = vec![0_u32; index.objects.len()];
    let mut contents = Vec::with_capacity(index.layers.len());
    for record in &index.layers {
        let of_layer = contents_of(source, record)?;
        let objects: BTreeSet<u32> =
            own(index, &of_layer).flat_map(|n| index.contents.objects_of(n)).copied().collect();
        objects.iter().for_each(|object| uses[*object as usize] += 1);
        contents.push((of_layer, objects));
    }
    let cost = |(record, (contents, objects)): (&LayerRecord, &(BTreeSet<u32>, BTreeSet<u32>))| {
        let mut cost = Cost::default();
        let in_frame = |frame: u32, length: u32| {
            let frame = &index.recipe_frames[frame as usize];
            share(frame.stored, u64::from(length), u64::from(frame.length))
        };
        if let LayerKind::Split { frame, length, .. } = record.kind {
            cost.recipe = in_frame(frame, length);
        }
        if let Some(Replay::Corrected { frame, length, .. }) = record.replay {
            cost.corrections = in_frame(frame, length);
        }
        for object in objects {
            *(if uses[*object as usize] == 1 { &mut cost.own } else { &mut cost.shared }) += of_object(*object);
        }
        let ours = index.contents.ids.len();
        cost.base = contents.iter().filter(|n| **n as usize >= ours).map(|n| index.content_size(*n)).sum();
        cost
    };
    Ok(index.layers.iter().zip(&contents).map(cost).collect())
}

fn own<'a>(index: &'a Index, contents: &'a BTreeSet<u32>) -> impl Iterator<Item = u32> + 'a {
    contents.iter().copied().filter(|number| (*number as usize) < index.contents.ids.len())
}

/// The contents that a layer is made of.
fn contents_of(source: &BundleSource, record: &LayerRecord) -> Result<BTreeSet<u32>, BundleError> {
    match record.kind {
        LayerKind::Blob { content } => Ok(BTreeSet::from([content])),
        LayerKind::Base => Ok(BTreeSet::new()),
        LayerKind::Split { .. } => {
            let mut contents = BTreeSet::new();
            let Some(mut pieces) = Pieces::of(source, record)? else { return Ok(contents) };
            while let Some(piece) = pieces.next()? {
                if let Piece::Content { number } = piece {
                    contents.insert(number);
                }
            }
            Ok(contents)
        }
    }
}

/// Where contents begin in the tar, and their numbers; those that the parser is done with are dropped.
type Starts = Rc<RefCell<VecDeque<(u64, u32)>>>;

/// What says that a sparse file's map stands in its data (GNU tar manual, "PAX Format, Version 1.0").
const MAP_IN_DATA: &[u8] = b"GNU.sparse.major=1";

/// A layer's tar with zeros in the place of its contents, but for those that begin with a sparse map.
struct Hollow<'a> {
    source: &'a BundleSource,
    pieces: Pieces<'a>,
    ready: Ready,
    /// Whether maps are wanted.
    maps: bool,
    /// Whether the next content begins with a map.
    map: bool,
    /// A content that is given as it is.
    real: Option<Box<dyn Read + 'a>>,
    /// How much was given or is ready to be.
    at: u64,
    starts: Starts,
}

impl<'a> Hollow<'a> {
    fn new(source: &'a BundleSource, pieces: Pieces<'a>, starts: Starts) -> Self {
        Self { source, pieces, ready: Ready::default(), maps: true, map: false, real: None, at: 0, starts }
    }

    /// Gets the next piece ready; false at the end.
    fn advance(&mut self) -> Result<bool, BundleError> {
        let (source, ready) = (self.source, &mut self.ready);
        ready.clear();
        match self.pieces.next()? {
            None => return Ok(false),
            Some(Piece::Bytes(bytes)) => {
                ready.bytes.extend_from_slice(bytes);
                self.map |= self.maps && bytes.windows(MAP_IN_DATA.len()).any(|part| part == MAP_IN_DATA);
                self.at += bytes.len() as u64;
            }
            Some(Piece::Zeros(count)) => {
                ready.zeros = count;
                self.at += count;
            }
            Some(Piece::Content { number }) => {
                self.starts.borrow_mut().push_back((self.at, number));
                let size = source.bundle().index().content_size(number);
                if std::mem::take(&mut self.map) {
                    self.real = Some(Box::new(source.open_content(number)));
                } else {
                    ready.zeros = size;
                }
                self.at += size;
            }
        }
        Ok(true)
    }
}

impl Read for Hollow<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.ready.read(buf);
            if n > 0 {
                return Ok(n);
            }
            if let Some(real) = &mut self.real {
                match real.read(buf)? {
                    0 if !buf.is_empty() => self.real = None,
                    n => return Ok(n),
                }
            }
            if buf.is_empty() || !self.advance().map_err(BundleError::into_io)? {
                return Ok(0);
            }
        }
    }
}

/// How a file's bytes get their name.
enum Names<'a> {
    ByRecipe { index: &'a Index, starts: Starts },
    ByHash(Box<blake3::Hasher>),
}

struct Outliner<'t, 'a> {
    take: &'t mut dyn FnMut(Outlined) -> Result<(), BoxFault>,
    names: Names<'a>,
    entry: Option<(Entry, u64)>,
    ordinal: u64,
}

impl Handler for Outliner<'_, '_> {
    fn raw(&mut self, _: &[u8]) -> Result<(), BoxFault> {
        Ok(())
    }

    fn entry(&mut self, entry: Entry, offset: u64) -> Result<(), BoxFault> {
        self.entry = Some((entry, offset));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        if let Names::ByHash(hasher) = &mut self.names {
            hasher.update(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        let Some((entry, offset)) = self.entry.take() else { return Ok(()) };
        let ordinal = self.ordinal;
        self.ordinal += 1;
        let has_bytes = entry.kind == Kind::Regular && entry.stored > 0;
        let (id, content) = match &mut self.names {
            Names::ByHash(hasher) => {
                let hash = ContentId::from_bytes(*hasher.finalize().as_bytes());
                hasher.reset();
                (has_bytes.then(|| ShortId::of(&hash, ID_LENGTH)), None)
            }
            Names::ByRecipe { index, starts } => {
                // A sparse file's map stands at the beginning of its content, before what the parser calls its data.
                let mut starts = starts.borrow_mut();
                let mut content = None;
                while starts.front().is_some_and(|(start, _)| *start <= offset) && has_bytes {
                    content = starts.pop_front().map(|(_, number)| number);
                }
                (content.map(|number| shortened(index.content_id(number))), content)
            }
        };
        if matches!(entry.kind, Kind::Global | Kind::Other(_)) {
            return Ok(());
        }
        (self.take)(Outlined { entry, id, content, ordinal })
    }
}
