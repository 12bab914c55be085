//! Deflate blocks (RFC 1951), and how Go's `compress/flate` writes them: which of the three kinds, and how its tables
//! are packed, is its choice.

use super::huffman::Codes;

pub(super) const END: usize = 256;
pub(super) const LITERALS: usize = 286;
pub(super) const DISTANCES: usize = 30;
/// A stored block's limit, in bytes.
const STORED: usize = 65_535;
/// The order in which the lengths of the lengths' codes are written.
pub(super) const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// A literal byte, or a match: its length less 3 and its distance less 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Literal(u8),
    Match(u8, u16),
}

/// The code of a length less 3: number, extra bits, their value.
pub(super) fn length_code(length: u8) -> (usize, u32, u32) {
    match u32::from(length) {
        255 => (28, 0, 0),
        n @ 0..8 => (n as usize, 0, 0),
        n => {
            let extra = n.ilog2() - 2;
            ((4 * extra + (n >> extra)) as usize, extra, n & ((1 << extra) - 1))
        }
    }
}

/// The code of a distance less 1: number, extra bits, their value.
pub(super) fn distance_code(distance: u16) -> (usize, u32, u32) {
    match u32::from(distance) {
        n @ 0..4 => (n as usize, 0, 0),
        n => {
            let extra = n.ilog2() - 1;
            ((2 * extra + (n >> extra)) as usize, extra, n & ((1 << extra) - 1))
        }
    }
}

/// The bits of both codes' numbers, in the form in which a dynamic block's header has them: each with the extra bits
/// that follow it.
pub(super) type Packed = Vec<(usize, u32, u32)>;

/// Runs of equal lengths, packed.
fn pack(lengths: &[u8]) -> Packed {
    let mut packed = Vec::new();
    for run in lengths.chunk_by(|a, b| a == b) {
        let length = usize::from(run[0]);
        let mut count = run.len();
        if length == 0 {
            while count >= 11 {
                let n = count.min(138);
                packed.push((18, 7, n as u32 - 11));
                count -= n;
            }
            if count >= 3 {
                packed.push((17, 3, count as u32 - 3));
                count = 0;
            }
        } else {
            packed.push((length, 0, 0));
            count -= 1;
            while count >= 3 {
                let n = count.min(6);
                packed.push((16, 2, n as u32 - 3));
                count -= n;
            }
        }
        packed.extend(std::iter::repeat_n((length, 0, 0), count));
    }
    packed
}

/// What bytes take in a block of themselves, in bits.
pub(super) fn stored_bits(plain: &[u8]) -> u64 {
    (plain.len() as u64 + 5) * 8
}

/// How often each symbol occurs.
pub(super) struct Counts {
    pub literals: [u32; LITERALS],
    pub distances: [u32; DISTANCES],
    /// Bits behind the codes.
    pub extra: u64,
}

impl Counts {
    /// In tokens.
    pub fn of(tokens: &[Token]) -> Self {
        let mut counts = Self { literals: [0; LITERALS], distances: [0; DISTANCES], extra: 0 };
        for token in tokens {
            match *token {
                Token::Literal(byte) => counts.literals[usize::from(byte)] += 1,
                Token::Match(length, distance) => {
                    let (length, distance) = (length_code(length), distance_code(distance));
                    counts.literals[END + 1 + length.0] += 1;
                    counts.distances[distance.0] += 1;
                    counts.extra += u64::from(length.1 + distance.1);
                }
            }
        }
        counts
    }

    /// In the block that they are: with its end, and with the one distance that it must describe at least.
    pub fn of_block(mut self) -> Self {
        self.literals[END] = 1;
        if self.distances.iter().all(|n| *n == 0) {
            self.distances[0] = 1;
        }
        self
    }

    /// What they take with `codes`, in bits, without those behind the codes.
    pub fn bits(&self, codes: &(Codes, Codes)) -> u64 {
        codes.0.bits(&self.literals) + codes.1.bits(&self.distances)
    }
}

/// How a dynamic block describes its codes.
pub(super) struct Description {
    /// How many of each are described.
    literals: usize,
    distances: usize,
    lengths: usize,
    packed: Packed,
    of_lengths: Codes,
    /// What it takes with the block's first bits, in bits.
    pub size: u64,
}

impl Description {
    /// Of these codes.
    pub fn of(literals: &[(u16, u8)], distances: &[(u16, u8)]) -> Self {
        let packed = pack(&literals.iter().chain(distances).map(|(_, length)| *length).collect::<Vec<u8>>());
        Self::with(literals.len(), distances.len(), packed, |uses| Codes::new(uses, 7))
    }

    /// Of as many codes as are said, in the packed form; `codes` makes the codes of the lengths of how often each occurs.
    pub fn with(literals: usize, distances: usize, packed: Packed, codes: impl Fn(&[u32]) -> Codes) -> Self {
        let mut uses = [0_u32; 19];
        let mut extra = 0;
        for (symbol, bits, _) in &packed {
            uses[*symbol] += 1;
            extra += u64::from(*bits);
        }
        let of_lengths = codes(&uses);
        let lengths = ORDER.iter().rposition(|symbol| of_lengths.0[*symbol].1 > 0).map_or(4, |last| (last + 1).max(4));
        let size = 3 + 5 + 5 + 4 + 3 * lengths as u64 + of_lengths.bits(&uses) + extra;
        Self { literals, distances, lengths, packed, of_lengths, size }
    }
}

/// The tables of a dynamic block.
struct Dynamic {
    codes: (Codes, Codes),
    description: Description,
    /// Of the block in bits, without those behind the codes.
    size: u64,
}

impl Dynamic {
    fn of(tally: &Counts) -> Self {
        let count = |frequencies: &[u32]| frequencies.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        let codes = (Codes::new(&tally.literals, 15), Codes::new(&tally.distances, 15));
        let (literals, distances) = (&codes.0.0[..count(&tally.literals)], &codes.1.0[..count(&tally.distances)]);
        let description = Description::of(literals, distances);
        let size = description.size + tally.bits(&codes);
        Self { codes, description, size }
    }
}

/// Writes bits, lowest first.
pub(super) struct Bits {
    bits: u64,
    count: u32,
    buffer: Vec<u8>,
}

impl Bits {
    pub fn new() -> Self {
        Self { bits: 0, count: 0, buffer: Vec::with_capacity(80 << 10) }
    }

    pub fn put(&mut self, value: u32, count: u32) {
        self.bits |= u64::from(value) << self.count;
        self.count += count;
        while self.count >= 32 {
            self.buffer.extend_from_slice(&(self.bits as u32).to_le_bytes());
            self.bits >>= 32;
            self.count -= 32;
        }
    }

    pub fn put_code(&mut self, code: (u16, u8)) {
        self.put(code.0.into(), code.1.into());
    }

    /// Tokens, without the end of their block.
    pub fn put_tokens(&mut self, tokens: &[Token], codes: &(Codes, Codes)) {
        for token in tokens {
            match *token {
                Token::Literal(byte) => self.put_code(codes.0.0[usize::from(byte)]),
                Token::Match(length, distance) => {
                    let (code, bits, value) = length_code(length);
                    self.put_code(codes.0.0[END + 1 + code]);
                    self.put(value, bits);
                    let (code, bits, value) = distance_code(distance);
                    self.put_code(codes.1.0[code]);
                    self.put(value, bits);
                }
            }
        }
    }

    /// Goes on at the next whole byte.
    pub fn align(&mut self) {
        while self.count > 0 {
            self.buffer.push(self.bits as u8);
            self.bits >>= 8;
            self.count = self.count.saturating_sub(8);
        }
        self.bits = 0;
    }

    /// Whole bytes, after [`Bits::align`].
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// A block of the bytes themselves; at most 65,535.
    pub fn put_stored(&mut self, bytes: &[u8], last: bool) {
        self.put(u32::from(last), 3);
        self.align();
        let length = bytes.len() as u16;
        self.put_bytes(&length.to_le_bytes());
        self.put_bytes(&(!length).to_le_bytes());
        self.put_bytes(bytes);
    }

    /// The beginning of a dynamic block that is not the last.
    pub fn put_description(&mut self, codes: &Description) {
        self.put(4, 3);
        self.put_tables(codes);
    }

    /// The description of a dynamic block's codes.
    pub fn put_tables(&mut self, codes: &Description) {
        self.put(codes.literals as u32 - 257, 5);
        self.put(codes.distances as u32 - 1, 5);
        self.put(codes.lengths as u32 - 4, 4);
        for symbol in &ORDER[..codes.lengths] {
            self.put(codes.of_lengths.0[*symbol].1.into(), 3);
        }
        for (symbol, bits, value) in &codes.packed {
            self.put_code(codes.of_lengths.0[*symbol]);
            self.put(*value, *bits);
        }
    }

    /// The whole bytes that were written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }
}

/// Writes blocks.
pub struct BlockWriter {
    bits: Bits,
    fixed: (Codes, Codes),
}

impl BlockWriter {
    pub fn new() -> Self {
        Self { bits: Bits::new(), fixed: (Codes::fixed_literals(), Codes::fixed_distances()) }
    }

    /// The whole bytes that were written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.bits.take()
    }

    /// A block of the bytes themselves; at most 65,535.
    pub fn stored(&mut self, bytes: &[u8], last: bool) {
        self.bits.put_stored(bytes, last);
    }

    /// A block of `tokens`, in the form that takes the fewest bits. `plain` are the bytes they stand for, where those
    /// are still at hand.
    pub fn block(&mut self, tokens: &[Token], plain: Option<&[u8]>) {
        let tally = Counts::of(tokens).of_block();
        let dynamic = Dynamic::of(&tally);
        let plain = plain.filter(|plain| plain.len() <= STORED);
        let fixed_size = 3 + tally.bits(&self.fixed) + tally.extra;
        let dynamic_size = dynamic.size + tally.extra;
        match plain {
            Some(plain) if stored_bits(plain) < fixed_size.min(dynamic_size) => self.stored(plain, false),
            _ if dynamic_size < fixed_size => self.dynamic(tokens, dynamic),
            _ => {
                self.bits.put(2, 3);
                let fixed = self.fixed.clone();
                self.tokens(tokens, &fixed);
            }
        }
    }

    /// A block of `tokens` as Go's best speed writes it: with tables of its own, unless that saves next to nothing of
    /// `plain`, the bytes they stand for.
    pub fn quick_block(&mut self, tokens: &[Token], plain: &[u8]) {
        let dynamic = Dynamic::of(&Counts::of(tokens).of_block());
        // The bits behind the codes are left out of this account.
        if plain.len() <= STORED && stored_bits(plain) < dynamic.size + (dynamic.size >> 4) {
            self.stored(plain, false);
        } else {
            self.dynamic(tokens, dynamic);
        }
    }

    fn dynamic(&mut self, tokens: &[Token], tables: Dynamic) {
        self.bits.put_description(&tables.description);
        self.tokens(tokens, &tables.codes);
    }

    fn tokens(&mut self, tokens: &[Token], codes: &(Codes, Codes)) {
        self.bits.put_tokens(tokens, codes);
        self.bits.put_code(codes.0.0[END]);
    }

    /// Ends the stream as Go does: with an empty stored block.
    pub fn finish(&mut self) {
        self.stored(&[], true);
    }
}
