//! Takes a layer's segments and contents and makes its recipe.

use super::header::{self, Before, Columns};
use super::{BLOCK, SegmentHasher, op, padding};
use crate::base::codec::{put_bytes, put_vs, put_vu};

/// A finished recipe that still names contents by the numbers it was given; they get their final ones at the end.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    ops: Vec<u8>,
    headers: Columns<Vec<u8>>,
    counts: Vec<u8>,
    raw: Vec<u8>,
    contents: Vec<u32>,
    /// Of the tar, in bytes.
    pub size: u64,
    /// BLAKE3 of all segments, to prove the recipe by.
    pub segments: blake3::Hash,
}

impl Recipe {
    /// Appends the recipe as the format has it; `number` gives the final number of a content.
    pub fn put(&self, out: &mut Vec<u8>, number: &dyn Fn(u32) -> u32) {
        let mut contents = Vec::with_capacity(self.contents.len());
        let mut next = 0;
        for content in &self.contents {
            let content = i64::from(number(*content));
            put_vs(&mut contents, content - next);
            next = content + 1;
        }
        let Columns { masks, names, mtimes, fields } = &self.headers;
        for column in [&self.ops, masks, names, mtimes, fields, &self.counts, &contents, &self.raw] {
            put_bytes(out, column);
        }
    }
}

/// Makes a recipe of what it is given in the order of the tar.
#[derive(Debug, Default)]
pub(crate) struct RecipeEncoder {
    ops: Vec<u8>,
    headers: Columns<Vec<u8>>,
    before: Before,
    counts: Vec<u8>,
    raw: Vec<u8>,
    contents: Vec<u32>,
    /// Segment bytes since the last content.
    pending: Vec<u8>,
    /// Where they begin in the tar.
    at: u64,
    hasher: SegmentHasher,
}

impl RecipeEncoder {
    /// The next raw bytes.
    pub fn segment(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.pending.extend_from_slice(bytes);
    }

    /// A content of `size` bytes stands here; `content` is the caller's number for it.
    pub fn content(&mut self, content: u32, size: u64) {
        if !self.flush(size) {
            self.ops.push(op::CONTENT);
        }
        self.contents.push(content);
        self.at += size;
    }

    /// The tar ends here.
    pub fn finish(mut self) -> Recipe {
        self.flush(0);
        let Self { ops, headers, counts, raw, contents, at, hasher, .. } = self;
        Recipe { ops, headers, counts, raw, contents, size: at, segments: hasher.finish() }
    }

    /// Codes what is pending before a content of `content` bytes (0: the end). True when its last header and the
    /// content were coded as one.
    fn flush(&mut self, content: u64) -> bool {
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        let mut joined = false;
        if let Some(last) = self.ops.last_mut().filter(|op| matches!(**op, op::CONTENT | op::HEADER_CONTENT)) {
            let zeros = padding(self.at) as usize;
            if let Some((pad, after)) = rest.split_at_checked(zeros).filter(|(pad, _)| is_zero(pad)) {
                *last = if *last == op::CONTENT { op::CONTENT_PAD } else { op::HEADER_CONTENT_PAD };
                self.at += pad.len() as u64;
                rest = after;
            }
        }
        while !rest.is_empty() {
            let aligned = self.at.is_multiple_of(BLOCK as u64);
            let length = match rest.first_chunk::<BLOCK>().filter(|_| aligned) {
                Some(block) if header::looks_like_header(block) => {
                    joined = content > 0 && rest.len() == BLOCK;
                    self.ops.push(if joined { op::HEADER_CONTENT } else { op::HEADER });
                    let size = if joined { content } else { 0 };
                    header::encode(&mut self.headers, &mut self.before, block, size);
                    BLOCK
                }
                _ => self.plain(rest),
            };
            self.at += length as u64;
            rest = &rest[length..];
        }
        self.pending = pending;
        self.pending.clear();
        joined
    }

    /// Codes bytes that are no header, and returns how many.
    fn plain(&mut self, rest: &[u8]) -> usize {
        let zeros = rest.iter().position(|b| *b != 0).unwrap_or(rest.len());
        if zeros >= 32 || zeros == rest.len() {
            // Zeros up to a block's begin: what comes behind may be a header.
            let whole = if zeros == rest.len() { zeros } else { self.down_to_block(zeros) };
            if whole > 0 {
                self.ops.push(op::ZEROS);
                put_vu(&mut self.counts, whole as u64);
                return whole;
            }
        }
        let mut end = (padding(self.at) as usize).min(rest.len());
        if end == 0 {
            end = BLOCK.min(rest.len());
        }
        while let Some(block) = rest[end..].first_chunk::<BLOCK>() {
            if header::looks_like_header(block) || is_zero(block) {
                break;
            }
            end += BLOCK;
        }
        if rest.len() - end < BLOCK && !is_zero(&rest[end..]) {
            end = rest.len();
        }
        let used = rest[..end].iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let padded = used > 0 && used as u64 + padding(self.at + used as u64) == end as u64;
        let count = if padded { used } else { end };
        self.ops.push(if padded { op::RAW_PAD } else { op::RAW });
        put_vu(&mut self.counts, count as u64);
        self.raw.extend_from_slice(&rest[..count]);
        end
    }

    /// The largest length up to `length` that ends at a block.
    fn down_to_block(&self, length: usize) -> usize {
        let end = self.at + length as u64;
        let aligned = end - end % BLOCK as u64;
        aligned.saturating_sub(self.at) as usize
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}
