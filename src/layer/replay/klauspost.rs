//! gzip as `github.com/klauspost/pgzip` writes it at its default level, which is level 5 of `github.com/klauspost/compress`
//! (1.15.10 of September 2022 and later): what podman, buildah and skopeo compress layers with. Blocks of 1 MiB are
//! compressed by themselves behind the end of the block before, and joined by sync flushes.

use super::bits::Token;
use super::klauspost_bits::Writer;

/// Bytes that are compressed by themselves.
const BLOCK: usize = 1 << 20;
/// How much of the block before stands in front of one.
const TAIL: usize = 16 << 10;
/// The most bytes whose matches are sought at once, and of a stored block.
const PART: usize = 65_535;
/// The space of the history, which is moved down when it is full.
const HISTORY: usize = PART * 5;
const MAX_DISTANCE: i64 = 1 << 15;
const MAX_MATCH: i64 = 258;
const TABLE_BITS: u32 = 15;
/// So near the end of a part nothing is looked for.
const MARGIN: i64 = 11;
/// A part below this size, in bytes, is not searched.
const TINY: usize = 128;

/// A compressor with pgzip's choices.
pub struct Blocks {
    block: Vec<u8>,
    tail: Vec<u8>,
    ready: Vec<u8>,
}

impl Blocks {
    pub fn new() -> Self {
        Self { block: Vec::with_capacity(BLOCK), tail: Vec::new(), ready: Vec::new() }
    }

    /// Takes the next bytes.
    pub fn write(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let n = piece.len().min(BLOCK - self.block.len());
            self.block.extend_from_slice(&piece[..n]);
            piece = &piece[n..];
            if self.block.len() == BLOCK {
                self.compress(false);
            }
        }
    }

    /// The compressed bytes that are ready since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ready)
    }

    /// Ends the stream; the last bytes of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.compress(true);
        self.ready
    }

    fn compress(&mut self, last: bool) {
        let mut search = Search::new();
        let mut out = Writer::new();
        // What is found in the block before is not written.
        search.tokens(&self.tail);
        let mut from = 0;
        while from < self.block.len() {
            let to = self.block.len().min(from + PART);
            put(&mut search, &mut out, &self.block[from..to], to == self.block.len());
            from = to;
        }
        out.flush();
        if last {
            out.finish();
        }
        self.ready.append(&mut out.take());
        if self.block.len() > TAIL {
            self.tail = self.block[self.block.len() - TAIL..].to_vec();
        } else {
            self.tail.clear();
        }
        self.block.clear();
    }
}

/// Compresses a part of a block; the last one is flushed with it.
fn put(search: &mut Search, out: &mut Writer, part: &[u8], last: bool) {
    match part.len() {
        0..=32 => return out.stored(part),
        33..TINY => return out.literals(part, true),
        _ => {}
    }
    let tokens = search.tokens(part);
    if tokens.is_empty() {
        out.stored(part);
    } else if tokens.len() > part.len() - (part.len() >> 4) {
        out.literals(part, last);
    } else {
        out.block(&tokens, part, last);
    }
}

/// The search for matches of level 5: the last place of four bytes, the last two of seven.
struct Search {
    history: Vec<u8>,
    /// The position of the history's first byte.
    base: i64,
    short: Vec<i64>,
    long: Vec<[i64; 2]>,
}

impl Search {
    fn new() -> Self {
        // Places of 0 are too far away to be found.
        Self {
            history: Vec::with_capacity(HISTORY),
            base: PART as i64,
            short: vec![0; 1 << TABLE_BITS],
            long: vec![[0; 2]; 1 << TABLE_BITS],
        }
    }

    fn put_long(&mut self, hash: usize, place: i64) {
        self.long[hash] = [place, self.long[hash][0]];
    }

    /// The tokens of the next part; none when there is no match.
    fn tokens(&mut self, part: &[u8]) -> Vec<Token> {
        if self.history.len() + part.len() > HISTORY {
            let down = self.history.len() - MAX_DISTANCE as usize;
            self.history.drain(..down);
            self.base += down as i64;
        }
        let start = self.history.len();
        self.history.extend_from_slice(part);
        let mut tokens = Vec::new();
        if part.len() < 13 {
            return tokens;
        }
        tokens.reserve(part.len() / 2);
        let history = std::mem::take(&mut self.history);
        let emitted = self.search(&history, start as i64, &mut tokens);
        if !tokens.is_empty() {
            tokens.extend(history[emitted as usize..].iter().map(|byte| Token::Literal(*byte)));
        }
        self.history = history;
        tokens
    }

    /// Adds tokens as long as there are matches; gives the place of the first byte without a token.
    fn search(&mut self, src: &[u8], start: i64, tokens: &mut Vec<Token>) -> i64 {
        let limit = src.len() as i64 - MARGIN;
        let (mut at, mut emitted) = (start, start);
        let mut value = word(src, at);
        loop {
            let mut next = at;
            let (mut from, mut length);
            loop {
                let (short, long) = (hash4(value), hash7(value));
                at = next;
                next = at + 1 + ((at - emitted) >> 6);
                if next > limit {
                    return emitted;
                }
                let (found_short, found_long) = (self.short[short], self.long[long]);
                let ahead = word(src, next);
                self.short[short] = at + self.base;
                self.put_long(long, at + self.base);
                let (short, long) = (hash4(ahead), hash7(ahead));
                let base = self.base;
                let near = |place: i64, at: i64, value: u64| {
                    let from = place - base;
                    (at - from < MAX_DISTANCE && half(src, from) == value as u32).then_some(from)
                };
                let recent = found_long[0] - self.base;
                let hit = if at - recent < MAX_DISTANCE {
                    match near(found_long[0], at, value) {
                        Some(first) => {
                            let mut hit = (first, 0);
                            if let Some(second) = near(found_long[1], at, value) {
                                let one = 4 + same(src, at + 4, first + 4, MAX_MATCH - 4);
                                let other = 4 + same(src, at + 4, second + 4, MAX_MATCH - 4);
                                hit = if other > one { (second, other) } else { (first, one) };
                            }
                            Some(hit)
                        }
                        None => near(found_long[1], at, value).map(|second| (second, 0)),
                    }
                } else {
                    None
                };
                if let Some(hit) = hit {
                    (from, length) = hit;
                    self.short[short] = next + self.base;
                    self.put_long(long, next + self.base);
                    break;
                }
                if let Some(first) = near(found_short, at, value) {
                    from = first;
                    length = 4 + same(src, at + 4, first + 4, MAX_MATCH - 4);
                    let behind = self.long[long];
                    let better = if next - (behind[0] - self.base) < MAX_DISTANCE {
                        let longer = |place: i64| {
                            let from = near(place, next, ahead)?;
                            let found = 4 + same(src, next + 4, from + 4, MAX_MATCH - 4);
                            (found > length).then_some((from, found))
                        };
                        longer(behind[0]).or_else(|| longer(behind[1]))
                    } else {
                        None
                    };
                    self.short[short] = next + self.base;
                    self.put_long(long, next + self.base);
                    if let Some(better) = better {
                        (from, length) = better;
                        at = next;
                    }
                    break;
                }
                value = ahead;
            }
            if length == 0 {
                length = 4 + same(src, at + 4, from + 4, i64::MAX);
            } else if length == MAX_MATCH {
                length += same(src, at + length, from + length, i64::MAX);
            }
            // A match of what follows may begin earlier.
            let end = at + length;
            if length < 30 && end < limit {
                const SKIP: i64 = 2;
                let place = self.long[hash7(word(src, end))][0] - self.base - length + SKIP;
                let distance = at + SKIP - place;
                if place >= 0 && distance < MAX_DISTANCE && distance > 0 {
                    let found = same(src, at + SKIP, place, i64::MAX);
                    if found > length {
                        (from, length, at) = (place, found, at + SKIP);
                    }
                }
            }
            while from > 0 && at > emitted && src[from as usize - 1] == src[at as usize - 1] {
                (at, from, length) = (at - 1, from - 1, length + 1);
            }
            tokens.extend(src[emitted as usize..at as usize].iter().map(|byte| Token::Literal(*byte)));
            put_match(tokens, length, (at - from - 1) as u16);
            at += length;
            emitted = at;
            if next >= at {
                at = next + 1;
            }
            if at >= limit {
                return emitted;
            }
            self.note(src, at - length + 1, at);
            let before = word(src, at - 1);
            self.short[hash4(before)] = self.base + at - 1;
            self.put_long(hash7(before), self.base + at - 1);
            value = before >> 8;
        }
    }

    /// Notes some of the places in a match.
    fn note(&mut self, src: &[u8], mut at: i64, end: i64) {
        if at >= end - 1 {
            return;
        }
        let value = word(src, at);
        self.short[hash4(value)] = at + self.base;
        self.put_long(hash7(value), at + self.base);
        self.put_long(hash7(value >> 8), at + self.base + 1);
        self.short[hash4(value >> 16)] = at + self.base + 2;
        at += 4;
        while at < end - 1 {
            let value = word(src, at);
            self.put_long(hash7(value), at + self.base);
            self.short[hash4(value >> 8)] = at + self.base + 1;
            at += 3;
        }
    }
}

/// A match of any length, in tokens of at most 258.
fn put_match(tokens: &mut Vec<Token>, mut length: i64, distance: u16) {
    while length > 0 {
        // No rest may be shorter than a match can be.
        let n = match length {
            ..=258 => length,
            259..=261 => 255,
            _ => 258,
        };
        length -= n;
        tokens.push(Token::Match((n - 3) as u8, distance));
    }
}

fn word(src: &[u8], at: i64) -> u64 {
    let at = at as usize;
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&src[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn half(src: &[u8], at: i64) -> u32 {
    word(src, at) as u32
}

fn hash4(value: u64) -> usize {
    ((value as u32).wrapping_mul(2_654_435_761) >> (32 - TABLE_BITS)) as usize
}

fn hash7(value: u64) -> usize {
    ((value << 8).wrapping_mul(58_295_818_150_454_627) >> (64 - TABLE_BITS)) as usize
}

/// How many bytes at two places are the same, `most` at most.
fn same(src: &[u8], at: i64, from: i64, most: i64) -> i64 {
    let (at, from) = (at as usize, from as usize);
    let count = (src.len() - at).min(most as usize);
    let (one, other) = (&src[at..at + count], &src[from..from + count]);
    let mut n = 0;
    for (one, other) in one.chunks_exact(8).zip(other.chunks_exact(8)) {
        if one != other {
            break;
        }
        n += 8;
    }
    n += one[n..].iter().zip(&other[n..]).take_while(|(one, other)| one == other).count();
    n as i64
}
