//! The search for matches of Go's `compress/flate` at its best speed, level 1 (Go 1.8 to 1.25): one candidate a hash,
//! steps that grow while nothing is found, blocks of 65,535 bytes that look back into the one before.

use super::bits::{BlockWriter, Token};

/// Bytes of a block.
const BLOCK: usize = 65_535;
const TABLE_BITS: u32 = 14;
const MAX_MATCH: usize = 258;
const MAX_DISTANCE: i64 = 1 << 15;
/// So near the end of a block nothing is looked for.
const MARGIN: usize = 15;
/// Positions are counted anew from here on, as in Go, where they have 31 bits.
const RESET: i64 = i32::MAX as i64 - 2 * BLOCK as i64;

/// The last place of a hash: the four bytes there, and the position.
#[derive(Clone, Copy, Default)]
struct Entry {
    value: u32,
    position: i64,
}

/// A compressor with Go's choices.
pub struct Fast {
    out: BlockWriter,
    table: Vec<Entry>,
    /// The block before; empty when nothing may be found there.
    before: Vec<u8>,
    /// The block under way.
    block: Vec<u8>,
    /// The position of its first byte.
    base: i64,
}

impl Fast {
    pub fn new() -> Self {
        let (before, block) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
        Self {
            out: BlockWriter::new(),
            table: vec![Entry::default(); 1 << TABLE_BITS],
            before,
            block,
            base: BLOCK as i64,
        }
    }

    /// Takes the next bytes.
    pub fn write(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.block.len() == BLOCK {
                self.compress();
            }
            let n = piece.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&piece[..n]);
            piece = &piece[n..];
        }
    }

    /// The compressed bytes that are ready since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.out.take()
    }

    /// Ends the stream; the last bytes of it.
    pub fn finish(mut self) -> Vec<u8> {
        match self.block.len() {
            0 => {}
            1..=16 => self.out.stored(&self.block, false),
            17..128 => self.out.quick_block(&literals(&self.block), &self.block),
            _ => self.compress(),
        }
        self.out.finish();
        self.out.take()
    }

    fn compress(&mut self) {
        let mut tokens = self.search();
        // Where matches save too little they are not used.
        if tokens.len() > self.block.len() - (self.block.len() >> 4) {
            tokens = literals(&self.block);
        }
        self.out.quick_block(&tokens, &self.block);
        self.base += self.block.len() as i64;
        std::mem::swap(&mut self.before, &mut self.block);
        self.block.clear();
    }

    /// The tokens of the block.
    fn search(&mut self) -> Vec<Token> {
        if self.base >= RESET {
            self.count_anew();
        }
        let block = &self.block;
        let limit = block.len() - MARGIN;
        let mut tokens = Vec::with_capacity(block.len() / 2);
        let (mut at, mut emitted) = (0, 0);
        let mut value = word(block, 0);
        'block: loop {
            let mut skip = 32;
            let mut next = at;
            let mut found;
            loop {
                at = next;
                next = at + (skip >> 5);
                skip += skip >> 5;
                if next > limit {
                    break 'block;
                }
                found =
                    std::mem::replace(&mut self.table[hash(value)], Entry { value, position: self.base + at as i64 });
                if self.base + at as i64 - found.position <= MAX_DISTANCE && found.value == value {
                    break;
                }
                value = word(block, next);
            }
            tokens.extend(block[emitted..at].iter().map(|byte| Token::Literal(*byte)));
            loop {
                let distance = self.base + at as i64 - found.position;
                let length = 4 + same(&self.before, block, at + 4, distance as usize);
                tokens.push(Token::Match((length - 3) as u8, (distance - 1) as u16));
                at += length;
                emitted = at;
                if at >= limit {
                    break 'block;
                }
                let before = word(block, at - 1);
                self.table[hash(before)] = Entry { value: before, position: self.base + at as i64 - 1 };
                value = word(block, at);
                found =
                    std::mem::replace(&mut self.table[hash(value)], Entry { value, position: self.base + at as i64 });
                if self.base + at as i64 - found.position > MAX_DISTANCE || found.value != value {
                    at += 1;
                    value = word(block, at);
                    break;
                }
            }
        }
        tokens.extend(block[emitted..].iter().map(|byte| Token::Literal(*byte)));
        tokens
    }

    fn count_anew(&mut self) {
        let less = self.base - (MAX_DISTANCE + 1);
        self.base -= less;
        for entry in &mut self.table {
            entry.position = (entry.position - less).max(0);
        }
    }
}

fn literals(bytes: &[u8]) -> Vec<Token> {
    bytes.iter().map(|byte| Token::Literal(*byte)).collect()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn hash(value: u32) -> usize {
    (value.wrapping_mul(0x1e35_a7bd) >> (32 - TABLE_BITS)) as usize
}

/// How many bytes from `at` of a block on are those `distance` before, up to the longest match; four are found already.
/// What is before the block before is not looked at.
fn same(before: &[u8], block: &[u8], at: usize, distance: usize) -> usize {
    let end = (at + MAX_MATCH - 4).min(block.len());
    let byte = |place: usize| match place.checked_sub(distance) {
        Some(place) => block[place],
        None => before[before.len() + place - distance],
    };
    if at + before.len() < distance {
        return 0;
    }
    (at..end).take_while(|place| byte(*place) == block[*place]).count()
}
