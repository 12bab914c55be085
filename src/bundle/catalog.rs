//! The first pass of writing: every layer is taken apart; what remains is its recipe and where each distinct content
//! can be read again.

use std::collections::HashMap;

use super::recipe::{Recipe, RecipeEncoder};
use crate::base::{BoxFault, ContentId};
use crate::image::{SplitContent, SplitSink};

/// Contents, each where it was found first. Their paths lie one after another: pieces of memory of their own would take
/// more, and keep what is freed between them from being given back.
#[derive(Debug, Default)]
pub(crate) struct FoundContents {
    list: Vec<Found>,
    paths: Vec<u8>,
}

/// What a [`SplitContent`] says of a content.
#[derive(Debug)]
struct Found {
    id: ContentId,
    size: u64,
    offset: u64,
    /// Where its path ends, and that of the next content begins.
    path_end: usize,
}

impl FoundContents {
    pub fn push(&mut self, content: &SplitContent<'_>) {
        let SplitContent { id, size, offset, path } = *content;
        self.paths.extend_from_slice(path);
        self.list.push(Found { id, size, offset, path_end: self.paths.len() });
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// A content by its place, in the form a source is asked by.
    pub fn get(&self, at: usize) -> SplitContent<'_> {
        let Found { id, size, offset, path_end } = self.list[at];
        let begin = at.checked_sub(1).map_or(0, |before| self.list[before].path_end);
        SplitContent { id, size, offset, path: &self.paths[begin..path_end] }
    }
}

/// One layer, taken apart. Its recipe names contents by their place in `found`.
#[derive(Debug)]
pub(crate) struct SplitLayer {
    pub recipe: Recipe,
    pub found: FoundContents,
}

/// Collects a [`SplitLayer`].
#[derive(Default)]
pub(crate) struct Collector {
    encoder: RecipeEncoder,
    found: FoundContents,
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
            found.push(content);
            // A layer's entries are capped far below 2^32.
            (found.len() - 1) as u32
        });
        self.encoder.content(number, content.size);
        Ok(())
    }
}

/// All distinct contents; the number of each is its place in the order of images and layers.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    found: FoundContents,
    /// The layer each was found in, by its number.
    layers: Vec<u32>,
    numbers: HashMap<ContentId, u32>,
}

impl Catalog {
    /// Adds what was found in one layer; gives the number of each. Layers must be added in their order.
    pub fn add(&mut self, layer: u32, found: &FoundContents) -> Vec<u32> {
        let Self { found: all, layers, numbers } = self;
        let mut add = |content: SplitContent<'_>| {
            *numbers.entry(content.id).or_insert_with(|| {
                all.push(&content);
                layers.push(layer);
                (layers.len() - 1) as u32
            })
        };
        (0..found.len()).map(|at| add(found.get(at))).collect()
    }

    /// All layers were added: what finds contents again by their IDs takes memory and is not needed any more.
    pub fn complete(&mut self) {
        self.numbers = HashMap::new();
    }

    /// How many contents there are.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    pub fn content(&self, number: u32) -> SplitContent<'_> {
        self.found.get(number as usize)
    }

    /// The number of the layer that a content was found in.
    pub fn layer(&self, number: u32) -> u32 {
        self.layers[number as usize]
    }

    /// How much memory it takes, in bytes.
    pub fn memory(&self) -> u64 {
        (size_of_val(&self.found.list[..]) + self.found.paths.len() + size_of_val(&self.layers[..])) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_keep_their_number_their_path_and_their_layer() {
        let content = |path: &'static [u8]| SplitContent { id: ContentId::of(path), size: 7, offset: 512, path };
        let of_layer = |paths: &[&'static [u8]]| {
            let mut found = FoundContents::default();
            paths.iter().for_each(|path| found.push(&content(path)));
            found
        };
        let mut catalog = Catalog::default();
        assert_eq!(catalog.add(0, &of_layer(&[b"a/b", b"", b"c"])), [0, 1, 2]);
        assert_eq!(catalog.add(1, &of_layer(&[b"c", b"long/er", b"a/b"])), [2, 3, 0]);
        catalog.complete();
        let expected: [(&[u8], u32); 4] = [(b"a/b", 0), (b"", 0), (b"c", 0), (b"long/er", 1)];
        assert_eq!(catalog.len(), expected.len());
        for ((path, layer), number) in expected.into_iter().zip(0..) {
            assert_eq!((catalog.content(number), catalog.layer(number)), (content(path), layer));
        }
    }
}
