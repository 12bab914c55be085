//! The first pass of writing: every layer is taken apart; what remains is its recipe and where each distinct content
//! can be read again.

use std::collections::HashMap;

use super::recipe::{Recipe, RecipeEncoder};
use crate::base::{BoxFault, ContentId};
use crate::image::{SplitContent, SplitSink};

/// A content of one layer, at its first occurrence there.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub id: ContentId,
    pub size: u64,
    /// In the layer's tar, in bytes.
    pub offset: u64,
    /// As the tar has it.
    pub path: Box<[u8]>,
}

impl Found {
    /// In the form a source is asked by.
    pub fn as_split(&self) -> SplitContent<'_> {
        SplitContent { id: self.id, size: self.size, offset: self.offset, path: &self.path }
    }
}

/// One layer, taken apart. Its recipe names contents by their place in `found`.
#[derive(Debug)]
pub(crate) struct SplitLayer {
    pub recipe: Recipe,
    pub found: Vec<Found>,
}

/// Collects a [`SplitLayer`].
#[derive(Default)]
pub(crate) struct Collector {
    encoder: RecipeEncoder,
    found: Vec<Found>,
    seen: HashMap<ContentId, u32>,
}

impl Collector {
    pub fn finish(self) -> SplitLayer {
        SplitLayer { recipe: self.encoder.finish(), found: self.found }
    }
}

impl SplitSink for Collector {
    fn segment(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        self.encoder.segment(bytes);
        Ok(())
    }

    fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault> {
        let found = &mut self.found;
        let number = *self.seen.entry(content.id).or_insert_with(|| {
            let SplitContent { id, size, offset, path } = *content;
            found.push(Found { id, size, offset, path: path.into() });
            // A layer's entries are capped far below 2^32.
            (found.len() - 1) as u32
        });
        self.encoder.content(number, content.size);
        Ok(())
    }
}

/// A distinct content of all layers; its number is its place in the order of images and layers.
#[derive(Debug)]
pub(crate) struct Entry {
    pub found: Found,
    /// The layer it was found in, by its number.
    pub layer: u32,
}

/// All distinct contents.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub entries: Vec<Entry>,
    numbers: HashMap<ContentId, u32>,
}

impl Catalog {
    /// Adds what was found in one layer; gives the number of each. Layers must be added in their order.
    pub fn add(&mut self, layer: u32, found: Vec<Found>) -> Vec<u32> {
        let entries = &mut self.entries;
        let mut add = |found: Found| {
            *self.numbers.entry(found.id).or_insert_with(|| {
                entries.push(Entry { found, layer });
                (entries.len() - 1) as u32
            })
        };
        found.into_iter().map(&mut add).collect()
    }

    /// All layers were added: what finds contents again by their IDs takes memory and is not needed any more.
    pub fn complete(&mut self) {
        self.numbers = HashMap::new();
    }
}
