//! The search for matches of Go's `compress/flate`, levels 4 to 9 (Go 1.7 to 1.25): hash chains over a window of
//! 64 KiB that is moved by half when there is new data and the end is near. When it is moved depends on how the data
//! came in pieces, and what is found depends on that: the pieces have to be the original's.

use super::bits::{BlockWriter, Token};
use super::effort::Effort;

const WINDOW: usize = 1 << 15;
const MIN_MATCH: usize = 4;
const MAX_MATCH: usize = 258;
const HASH_BITS: u32 = 17;
/// Tokens of one block.
const TOKENS: usize = 1 << 14;
/// Positions count from where the window once began; beyond this they are counted anew.
const MAX_OFFSET: usize = 1 << 24;

/// A compressor with Go's choices.
pub struct Deflater {
    effort: Effort,
    out: BlockWriter,
    window: Vec<u8>,
    end: usize,
    index: usize,
    /// Where the block under way begins; `None` once that has left the window.
    block: Option<usize>,
    /// Positions are kept plus `base`, so that 0 means none.
    head: Vec<u32>,
    previous: Vec<u32>,
    base: usize,
    /// The last position with the current hash, plus `base`.
    chain: usize,
    /// The byte before `index` is not yet in a token.
    pending: bool,
    length: usize,
    distance: usize,
    tokens: Vec<Token>,
}

impl Deflater {
    /// A compressor of `level`.
    pub fn new(level: u8) -> Self {
        Self {
            effort: Effort::of_go(level),
            out: BlockWriter::new(),
            window: vec![0; 2 * WINDOW],
            end: 0,
            index: 0,
            block: Some(0),
            head: vec![0; 1 << HASH_BITS],
            previous: vec![0; WINDOW],
            base: 1,
            chain: 0,
            pending: false,
            length: MIN_MATCH - 1,
            distance: 0,
            tokens: Vec::with_capacity(TOKENS),
        }
    }

    /// Takes the next piece, which is one call of Go's `Write`.
    pub fn write(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            self.step(false);
            if self.index >= 2 * WINDOW - (MIN_MATCH + MAX_MATCH) {
                self.slide();
            }
            let n = piece.len().min(self.window.len() - self.end);
            self.window[self.end..self.end + n].copy_from_slice(&piece[..n]);
            self.end += n;
            piece = &piece[n..];
        }
    }

    /// The compressed bytes that are ready since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.out.take()
    }

    /// Ends the stream; the last bytes of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.step(true);
        self.out.finish();
        self.out.take()
    }

    fn slide(&mut self) {
        self.window.copy_within(WINDOW.., 0);
        self.index -= WINDOW;
        self.end -= WINDOW;
        self.block = self.block.and_then(|block| block.checked_sub(WINDOW));
        self.base += WINDOW;
        if self.base > MAX_OFFSET {
            let less = self.base - 1;
            self.base = 1;
            self.chain = self.chain.saturating_sub(less);
            for position in self.head.iter_mut().chain(&mut self.previous) {
                *position = position.saturating_sub(less as u32);
            }
        }
    }

    fn hash(&self, at: usize) -> usize {
        let bytes = &self.window[at..at + MIN_MATCH];
        let value = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        (value.wrapping_mul(0x1e35_a7bd) >> (32 - HASH_BITS)) as usize
    }

    /// Puts a position at the head of its chain; gives the one that was there.
    fn insert(&mut self, at: usize) -> usize {
        let hash = self.hash(at);
        let before = std::mem::replace(&mut self.head[hash], (at + self.base) as u32);
        self.previous[at % WINDOW] = before;
        before as usize
    }

    fn step(&mut self, last: bool) {
        if self.end - self.index < MIN_MATCH + MAX_MATCH && !last {
            return;
        }
        // Positions with too little behind them are not in the chains.
        let insertable = (self.end + 1).saturating_sub(MIN_MATCH);
        loop {
            let ahead = self.end - self.index;
            if ahead < MIN_MATCH + MAX_MATCH {
                if !last {
                    return;
                }
                if ahead == 0 {
                    if std::mem::take(&mut self.pending) {
                        self.tokens.push(Token::Literal(self.window[self.index - 1]));
                    }
                    if !self.tokens.is_empty() {
                        self.emit(self.index);
                    }
                    return;
                }
            }
            if self.index < insertable {
                self.chain = self.insert(self.index);
            }
            let (before, before_distance) = (self.length, self.distance);
            (self.length, self.distance) = (MIN_MATCH - 1, 0);
            let nearest = self.index.saturating_sub(WINDOW);
            if let Some(candidate) = self.chain.checked_sub(self.base)
                && candidate >= nearest
                && ahead > before
                && before < self.effort.lazy
                && let Some((length, distance)) = self.find(candidate, ahead)
            {
                (self.length, self.distance) = (length, distance);
            }
            if before >= MIN_MATCH && self.length <= before {
                // The match one byte back was no worse: it is the one.
                self.tokens.push(Token::Match((before - 3) as u8, (before_distance - 1) as u16));
                let next = self.index + before - 1;
                self.index += 1;
                while self.index < next {
                    if self.index < insertable {
                        self.insert(self.index);
                    }
                    self.index += 1;
                }
                self.pending = false;
                self.length = MIN_MATCH - 1;
                if self.tokens.len() == TOKENS {
                    self.emit(self.index);
                }
            } else {
                if self.pending {
                    self.tokens.push(Token::Literal(self.window[self.index - 1]));
                    if self.tokens.len() == TOKENS {
                        self.emit(self.index);
                    }
                }
                self.index += 1;
                self.pending = true;
            }
        }
    }

    /// The best match for `index` in the chain that begins at `candidate`: length and distance.
    fn find(&self, mut candidate: usize, ahead: usize) -> Option<(usize, usize)> {
        let most = MAX_MATCH.min(ahead);
        let nice = self.effort.nice.min(most);
        let at = self.index;
        let here = &self.window[at..at + most];
        let mut best = MIN_MATCH - 1;
        let mut found = None;
        // Go searches less from a good length on; it always begins with the shortest here.
        let tries = if best >= self.effort.good { self.effort.chain >> 2 } else { self.effort.chain };
        for _ in 0..tries {
            if best < most && here[best] == self.window[candidate + best] {
                let length = same(&self.window[candidate..candidate + most], here);
                if length > best && (length > MIN_MATCH || at - candidate <= 4096) {
                    best = length;
                    found = Some((length, at - candidate));
                    if length >= nice {
                        break;
                    }
                }
            }
            if candidate + WINDOW == at {
                break;
            }
            match (self.previous[candidate % WINDOW] as usize).checked_sub(self.base) {
                Some(next) if next + WINDOW >= at => candidate = next,
                _ => break,
            }
        }
        found
    }

    fn emit(&mut self, end: usize) {
        let plain = self.block.filter(|begin| *begin <= end).map(|begin| &self.window[begin..end]);
        self.block = Some(end);
        self.out.block(&self.tokens, plain);
        self.tokens.clear();
    }
}

/// How many bytes are the same at the begin of two stretches of one length.
fn same(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let [a, b] = [a, b].map(|word| word.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)));
        if a != b {
            return at + (a ^ b).trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}
