//! The index: what a bundle holds and where (docs/format/bundle.md, "The index"). Parsing checks every number against
//! the table it points into, so that what comes after can follow them blindly.

mod check;
mod code;
mod record;

use std::collections::HashSet;

use crate::base::{ContentId, Digest, caps};
use crate::image::{DiffId, Layer};
use crate::layer::replay;

/// Images, layers, frames and contents of one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Configs and manifests, exact bytes.
    pub documents: Vec<Vec<u8>>,
    /// Every layer once, and once more for each further blob that images know it by.
    pub layers: Vec<LayerRecord>,
    /// In the order they were asked for.
    pub images: Vec<ImageRecord>,
    /// Content frames, in the order of the stream.
    pub frames: Vec<FrameRecord>,
    /// Recipe frames, behind the content frames.
    pub recipe_frames: Vec<RecipeFrameRecord>,
    /// The size of each object in bytes, frame by frame.
    pub objects: Vec<u32>,
    /// What the objects make up.
    pub contents: Contents,
    /// The program that wrote the bundle, for people.
    pub writer: String,
    /// What a thin bundle was written against.
    pub bases: Vec<Base>,
    /// The contents it left out; numbered on after [`Index::contents`].
    pub base_contents: BaseContents,
    /// Where there are several bases: the number of the one that has each base content, then of the one that has each base
    /// layer. Empty where the writer did not say.
    pub holders: Vec<u32>,
}

/// An image: numbers of documents and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The document that is the config.
    pub config: u32,
    /// The document that is the manifest, and its media type.
    pub manifest: Option<(u32, String)>,
    /// Full references.
    pub names: Vec<String>,
    /// Base first.
    pub layers: Vec<u32>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRecord {
    /// Of its tar.
    pub diff_id: DiffId,
    /// Of its tar, in bytes.
    pub size: u64,
    /// How it is kept.
    pub kind: LayerKind,
    /// The blob a registry knows it by: media type, digest, size in bytes. Of a blob layer it is the content, of a split
    /// layer the tar itself, or what `replay` makes of it.
    pub original: Option<(String, Digest, u64)>,
    /// How the original is made of the tar again.
    pub replay: Option<Replay>,
}

impl LayerRecord {
    /// What images know the layer by: the digest of its original, or of the tar itself.
    pub fn blob(&self) -> Digest {
        self.original.as_ref().map_or(self.diff_id.0, |(_, digest, _)| *digest)
    }
}

/// The same of a layer as an image has it.
pub fn blob_of(layer: &Layer) -> Digest {
    layer.original.as_ref().map_or(layer.diff_id.0, |original| original.digest)
}

/// How a blob is made of its tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// By compressing the tar.
    Exact(replay::Recipe),
    /// By compressing the tar, with corrections.
    Corrected {
        /// Whose choices are corrected.
        model: replay::Model,
        /// The recipe frame that has the corrections.
        frame: u32,
        /// In the decompressed frame, in bytes.
        offset: u32,
        /// In bytes.
        length: u32,
    },
}

impl Replay {
    /// Method and parameter.
    pub const fn to_bytes(self) -> [u8; 2] {
        match self {
            Self::Exact(recipe) => recipe.to_bytes(),
            Self::Corrected { model, .. } => model.to_bytes(),
        }
    }
}

impl std::fmt::Display for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(recipe) => recipe.fmt(f),
            Self::Corrected { model, .. } => model.fmt(f),
        }
    }
}

/// How a layer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// As a recipe: frame, and offset and length in the decompressed frame.
    Split {
        /// The recipe frame.
        frame: u32,
        /// In bytes.
        offset: u32,
        /// In bytes.
        length: u32,
    },
    /// As a content that decompresses to the tar.
    Blob {
        /// Its number.
        content: u32,
    },
    /// Not at all: the far side has it.
    Base,
}

/// A content frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameRecord {
    /// In the stream, in bytes.
    pub stored: u64,
    /// BLAKE3 of the stored bytes.
    pub check: [u8; 32],
    /// How many objects it holds.
    pub objects: u32,
    /// What lies before its window.
    pub prefix: Vec<PrefixPart>,
}

/// Bytes of a base content that a frame refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixPart {
    /// The number of a base content.
    pub content: u32,
    /// In it, in bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
}

/// A recipe frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeFrameRecord {
    /// In the stream, in bytes.
    pub stored: u64,
    /// BLAKE3 of the stored bytes.
    pub check: [u8; 32],
    /// Decompressed, in bytes.
    pub length: u32,
}

/// The beginning of a content's ID, as long as the bundle keeps them; zeros behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShortId(pub [u8; 32]);

impl ShortId {
    /// The first `length` bytes (at most 32) of an ID.
    pub fn of(id: &ContentId, length: usize) -> Self {
        let mut short = [0; 32];
        short[..length].copy_from_slice(&id.as_bytes()[..length]);
        Self(short)
    }
}

/// The table of contents that the bundle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// How many bytes of each ID are kept.
    pub id_length: usize,
    /// One a content.
    pub ids: Vec<ShortId>,
    /// Where each content's objects begin in `objects`; one more than contents.
    pub starts: Vec<u32>,
    /// Numbers of objects.
    pub objects: Vec<u32>,
}

impl Default for Contents {
    fn default() -> Self {
        Self { id_length: ID_LENGTH, ids: Vec::new(), starts: vec![0], objects: Vec::new() }
    }
}

impl Contents {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The objects of a content.
    pub fn objects_of(&self, content: u32) -> &[u32] {
        let at = content as usize;
        &self.objects[self.starts[at] as usize..self.starts[at + 1] as usize]
    }
}

/// What a thin bundle was written against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What kind of file.
    pub kind: BaseKind,
    /// Its identity.
    pub identity: [u8; 32],
    /// A name to show.
    pub label: String,
}

/// The kinds of base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseKind {
    /// An older bundle.
    Bundle,
    /// An inventory.
    Inventory,
}

/// The contents that a thin bundle leaves out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseContents {
    /// One a content.
    pub ids: Vec<ShortId>,
    /// In bytes.
    pub sizes: Vec<u64>,
}

/// How many bytes of an ID a writer keeps.
pub const ID_LENGTH: usize = 16;
/// The most a frame, or a prefix, holds, in bytes.
pub const FRAME_BYTES: u64 = 64 << 20;
/// The largest index, decompressed, in bytes.
pub const INDEX_BYTES: u64 = 1 << 30;

/// Documents of a config's largest size are the largest.
pub(crate) const DOCUMENT_BYTES: u64 = caps::CONFIG_BYTES;

impl Index {
    /// The size of a content of this bundle or of its base, in bytes; the number must be one of theirs.
    pub fn content_size(&self, content: u32) -> u64 {
        let own = self.contents.count();
        match (content as usize).checked_sub(own) {
            None => self.contents.objects_of(content).iter().map(|o| u64::from(self.objects[*o as usize])).sum(),
            Some(base) => self.base_contents.sizes[base],
        }
    }

    /// The ID of a content of this bundle or of its base.
    pub fn content_id(&self, content: u32) -> ShortId {
        let own = self.contents.ids.len();
        match (content as usize).checked_sub(own) {
            None => self.contents.ids[content as usize],
            Some(base) => self.base_contents.ids[base],
        }
    }

    /// How many contents there are, those of the base included.
    pub fn content_count(&self) -> u32 {
        // Both tables are capped at parsing so that the sum fits.
        (self.contents.count() + self.base_contents.ids.len()) as u32
    }

    /// How much memory the tables of objects and of what contents are made of take, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let Contents { starts, objects, .. } = &self.contents;
        [starts, objects, &self.objects].iter().map(|table| size_of_val(&table[..]) as u64).sum()
    }

    /// The labels of the bases that have some of these base contents and base layers, each numbered as [`Index::holders`]
    /// has them; of all bases where that is not known.
    pub fn labels_of(&self, missing: &[usize]) -> Vec<&str> {
        let is_held = |number: usize| missing.iter().any(|at| self.holders.get(*at) == Some(&(number as u32)));
        let bases = self.bases.iter().enumerate().filter(|(number, _)| self.holders.is_empty() || is_held(*number));
        bases.map(|(_, base)| base.label.as_str()).collect()
    }

    /// Whether a layer is there by several blobs.
    pub(super) fn has_further_blobs(&self) -> bool {
        let mut seen = HashSet::new();
        !self.layers.iter().all(|layer| seen.insert(layer.diff_id))
    }

    /// Whether the bundle needs a base.
    pub fn is_thin(&self) -> bool {
        !self.bases.is_empty()
    }
}
