//! Which objects there are, in which order, in which frame (docs/format/bundle.md, "Order").

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;

use fastcdc::v2020::StreamCDC;

use super::catalog::Catalog;
use super::delta::Against;
use crate::base::ContentId;
use crate::image::Extent;

/// Contents from this size on, in bytes, are cut into chunks.
pub(crate) const WHOLE: u64 = 1 << 20;

/// How finely contents are cut, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grain {
    pub least: usize,
    pub average: usize,
    pub most: usize,
}

impl Grain {
    /// For what is stored.
    pub const STORED: Self = Self { least: 16 << 10, average: 64 << 10, most: 256 << 10 };

    /// The pieces that `reader` falls into.
    pub fn cut(&self, reader: impl Read) -> std::io::Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        for chunk in StreamCDC::new(reader, self.least, self.average, self.most) {
            let chunk = chunk.map_err(std::io::Error::from)?;
            chunks.push(Chunk { size: chunk.length as u32, id: ContentId::of(&chunk.data) });
        }
        Ok(chunks)
    }
}

/// A piece of a content that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    /// The content it is read from.
    pub content: u32,
    /// Which of its chunks it is, from 0; the only one is the content itself.
    pub chunk: u32,
    /// In that content, in bytes.
    pub offset: u64,
    /// In bytes.
    pub size: u32,
}

/// A chunk of a large content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub size: u32,
    pub id: ContentId,
}

/// What goes into the frames.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In their order in the bundle.
    pub objects: Vec<Object>,
    /// The chunks of contents that have some.
    chunks: HashMap<u32, Vec<Chunk>>,
    /// The objects of each content of the catalog, by their place in `objects`, one content after another.
    pub pieces: Vec<u32>,
    /// Where those of each content begin, and where the last ones end; a content that is left out has none.
    pub starts: Vec<u32>,
    /// The objects of each frame.
    pub frames: Vec<Range<usize>>,
    /// What each frame is compressed against, one after another.
    pub prefixes: Vec<Vec<Against>>,
}

/// Cuts a content of `size` bytes into chunks; also gives the ID of the whole.
pub(crate) fn chunk(extent: &Extent, size: u64, grain: &Grain) -> std::io::Result<(ContentId, Vec<Chunk>)> {
    struct Whole<'a> {
        extent: &'a Extent,
        at: u64,
        size: u64,
        hasher: blake3::Hasher,
    }
    impl Read for Whole<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = (self.size - self.at).min(buf.len() as u64) as usize;
            self.extent.read_exact_at(&mut buf[..n], self.at)?;
            self.hasher.update(&buf[..n]);
            self.at += n as u64;
            Ok(n)
        }
    }
    let mut whole = Whole { extent, at: 0, size, hasher: blake3::Hasher::new() };
    let chunks = grain.cut(&mut whole)?;
    Ok((ContentId::from_bytes(*whole.hasher.finalize().as_bytes()), chunks))
}

/// The part of a path that versions of a file have in common however the tar spells it.
pub(crate) fn sort_path(path: &[u8]) -> &[u8] {
    let mut path = path;
    while let Some(rest) = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b"/")) {
        path = rest;
    }
    path
}

impl Plan {
    /// Orders everything in `catalog` but what `skip` says is left out. `chunks` has the chunks of each content that
    /// is large. There are no frames yet.
    pub fn new(catalog: &Catalog, chunks: HashMap<u32, Vec<Chunk>>, skip: &dyn Fn(u32) -> bool) -> Self {
        let mut found: HashMap<ContentId, u32> = HashMap::new();
        let mut objects: Vec<Object> = Vec::new();
        let (mut pieces, mut starts) = (Vec::new(), vec![0]);
        for content in 0..catalog.len() as u32 {
            let mut add = |id: ContentId, object: Object| {
                pieces.push(*found.entry(id).or_insert_with(|| {
                    objects.push(object);
                    (objects.len() - 1) as u32
                }));
            };
            let whole = catalog.content(content);
            match chunks.get(&content) {
                _ if skip(content) => {}
                None => add(whole.id, Object { content, chunk: 0, offset: 0, size: whole.size as u32 }),
                Some(chunks) => {
                    let mut offset = 0;
                    for (Chunk { size, id }, chunk) in chunks.iter().zip(0..) {
                        add(*id, Object { content, chunk, offset, size: *size });
                        offset += u64::from(*size);
                    }
                }
            }
            starts.push(pieces.len() as u32);
        }
        let key = |object: &Object| {
            let path = sort_path(catalog.content(object.content).path);
            (path, object.offset, catalog.layer(object.content), object.content)
        };
        let mut order: Vec<u32> = (0..objects.len() as u32).collect();
        order.sort_unstable_by(|a, b| key(&objects[*a as usize]).cmp(&key(&objects[*b as usize])));
        let mut place = vec![0; objects.len()];
        for (new, old) in order.iter().enumerate() {
            place[*old as usize] = new as u32;
        }
        pieces.iter_mut().for_each(|object| *object = place[*object as usize]);
        let objects: Vec<Object> = order.iter().map(|old| objects[*old as usize]).collect();
        Self { objects, chunks, pieces, starts, ..Self::default() }
    }

    /// The ID of an object's bytes; `catalog` is what the plan was made of.
    pub fn id(&self, object: &Object, catalog: &Catalog) -> ContentId {
        match self.chunks.get(&object.content) {
            Some(chunks) => chunks[object.chunk as usize].id,
            None => catalog.content(object.content).id,
        }
    }

    /// How much memory objects and chunks take, in bytes.
    pub fn memory(&self) -> u64 {
        let chunks: usize = self.chunks.values().map(|chunks| size_of_val(&chunks[..])).sum();
        (size_of_val(&self.objects[..]) + chunks) as u64
    }

    /// Cuts the objects into frames; `against` has what each is compressed against. A frame ends before the object that
    /// would make it, or its prefix, too long.
    pub fn cut(&mut self, against: &[Vec<Against>], frame_bytes: usize) {
        let (mut start, mut length) = (0, 0);
        let mut prefix: Vec<Against> = Vec::new();
        for (at, object) in self.objects.iter().enumerate() {
            let size = object.size as usize;
            let parts = against.get(at).map_or(&[][..], |parts| parts);
            if at > start && (length + size > frame_bytes || bytes(&prefix) + bytes(parts) > PREFIX) {
                self.frames.push(start..at);
                self.prefixes.push(std::mem::take(&mut prefix));
                (start, length) = (at, 0);
            }
            length += size;
            for part in parts {
                match prefix.last_mut() {
                    // Neighbouring chunks have overlapping ranges.
                    Some(last) if last.version == part.version && part.from <= last.to && part.to >= last.from => {
                        last.from = last.from.min(part.from);
                        last.to = last.to.max(part.to);
                    }
                    _ => prefix.push(*part),
                }
            }
        }
        if start < self.objects.len() {
            self.frames.push(start..self.objects.len());
            self.prefixes.push(prefix);
        }
    }
}

/// How many bytes ranges have together.
pub(crate) fn bytes(parts: &[Against]) -> u64 {
    parts.iter().map(|part| part.to - part.from).sum()
}

/// The most bytes a frame is compressed against.
pub(crate) const PREFIX: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::catalog::FoundContents;
    use crate::bundle::index::FRAME_BYTES;
    use crate::bundle::{BundleOptions, Level};
    use crate::image::SplitContent;

    #[test]
    fn two_frames_are_compressed_at_once_beside_what_is_known_of_a_quarter_of_a_million_contents() {
        const COUNT: u64 = 250_000;
        let mut found = FoundContents::default();
        for number in 0..COUNT {
            let path = format!("usr/lib/python3/dist-packages/some_package/module_{number:010}.py");
            let (id, offset) = (ContentId::of(&number.to_le_bytes()), 1024 * number);
            found.push(&SplitContent { id, size: 8, offset, path: path.as_bytes() });
        }
        let mut catalog = Catalog::default();
        catalog.add(0, &found);
        let plan = Plan::new(&catalog, HashMap::new(), &|_| false);
        assert_eq!(plan.objects.len() as u64, COUNT);
        // In the index: the size of each object, and for each content its objects and where they begin.
        let held = catalog.memory() + plan.memory() + 12 * COUNT;
        assert!(held + 2 * Level::DEFAULT.frame_cost(FRAME_BYTES, 0) <= BundleOptions::MEMORY, "{held} bytes");
    }
}
