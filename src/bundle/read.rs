//! An opened bundle: its index, and its frames and recipes on demand, each checked.

use std::path::Path;
use std::sync::Arc;

use super::error::{BundleError, Doing};
use super::frame;
use super::index::*;
use super::layout::{self, HEADER};
use crate::base::ReadAt;

/// A bundle whose index was read and checked.
pub struct Bundle {
    stream: Arc<dyn ReadAt>,
    index: Index,
    identity: [u8; 32],
    origin: String,
    /// Where each content frame begins in the stream.
    frames_at: Vec<u64>,
    /// Where each recipe frame begins.
    recipes_at: Vec<u64>,
    /// Where each object lies: its frame, and its offset there.
    places: Vec<(u32, u32)>,
}

impl Bundle {
    /// Reads the index of a stream; `origin` is for messages.
    pub fn open(stream: Arc<dyn ReadAt>, origin: impl Into<String>) -> Result<Self, BundleError> {
        let (index, identity) = layout::read_index(&stream)?;
        let mut at = HEADER as u64;
        let mut begin = |stored: u64| {
            let here = at;
            // The sum was checked against the length of the stream.
            at += stored;
            here
        };
        let frames_at = index.frames.iter().map(|frame| begin(frame.stored)).collect();
        let recipes_at = index.recipe_frames.iter().map(|frame| begin(frame.stored)).collect();
        let mut places = Vec::with_capacity(index.objects.len());
        let mut sizes = index.objects.iter();
        for (number, frame) in index.frames.iter().enumerate() {
            let mut offset = 0;
            for size in sizes.by_ref().take(frame.objects as usize) {
                places.push((number as u32, offset));
                offset += size;
            }
        }
        Ok(Self { stream, index, identity, origin: origin.into(), frames_at, recipes_at, places })
    }

    /// What it holds.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The hash of its index, which stands for all of it.
    pub fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// What it is, for messages.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The length of the stream in bytes.
    pub fn size(&self) -> u64 {
        self.stream.size()
    }

    /// The frame an object is in, its offset there, and its size, in bytes.
    pub(crate) fn place(&self, object: u32) -> (u32, u32, u32) {
        let (frame, offset) = self.places[object as usize];
        (frame, offset, self.index.objects[object as usize])
    }

    /// How many bytes a content frame decompresses to.
    pub(crate) fn frame_length(&self, frame: u32) -> usize {
        let record = &self.index.frames[frame as usize];
        let first = self.places.partition_point(|(number, _)| *number < frame);
        self.index.objects[first..][..record.objects as usize].iter().map(|size| *size as usize).sum()
    }

    /// Puts a content frame, decompressed, in place of what `raw` has; `prefix` is what its record asks for, and `stored`
    /// is room for the frame as it is stored.
    pub(crate) fn frame_to(
        &self,
        raw: &mut Vec<u8>,
        stored: &mut Vec<u8>,
        frame: u32,
        prefix: &[u8],
    ) -> Result<(), BundleError> {
        let place = || format!("{}, frame {frame}", self.origin);
        let record = &self.index.frames[frame as usize];
        self.stored(stored, self.frames_at[frame as usize], record.stored, &record.check, &place)?;
        frame::decompress_to(raw, stored, self.frame_length(frame), prefix)
            .map_err(|what| BundleError::malformed(place(), what))
    }

    /// A recipe frame, decompressed.
    pub(crate) fn recipe_frame(&self, frame: u32) -> Result<Vec<u8>, BundleError> {
        let place = || format!("{}, recipe frame {frame}", self.origin);
        let record = &self.index.recipe_frames[frame as usize];
        let mut stored = Vec::new();
        self.stored(&mut stored, self.recipes_at[frame as usize], record.stored, &record.check, &place)?;
        frame::decompress(&stored, record.length as usize, &[]).map_err(|what| BundleError::malformed(place(), what))
    }

    /// Reads and checks the stored bytes of a frame.
    fn stored(
        &self,
        bytes: &mut Vec<u8>,
        at: u64,
        length: u64,
        check: &[u8; 32],
        place: &dyn Fn() -> String,
    ) -> Result<(), BundleError> {
        // Frames lie inside the stream; one that would not compress is hardly longer than what it holds.
        if length > FRAME_BYTES + (1 << 20) {
            return Err(BundleError::malformed(place(), "it is longer than any frame"));
        }
        bytes.resize(length as usize, 0);
        self.stream.read_exact_at(bytes, at).doing(|| format!("read {}", place()))?;
        if blake3::hash(bytes).as_bytes() != check {
            return Err(BundleError::Damaged { place: place() });
        }
        Ok(())
    }
}

/// Opens the bundle in a file.
pub fn open_file(path: &Path) -> Result<Bundle, BundleError> {
    let file = std::fs::File::open(path).and_then(crate::base::read_at::FileAt::new);
    let file = file.doing(|| format!("open {}", path.display()))?;
    Bundle::open(Arc::new(file), path.display().to_string())
}
