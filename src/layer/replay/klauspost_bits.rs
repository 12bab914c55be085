//! Deflate blocks as `github.com/klauspost/compress/flate` writes them: a block goes on with the codes of the one before
//! where new ones would not pay.

use super::bits::{Bits, Counts, Description, END, Token, stored_bits};
use super::huffman::Codes;

/// Below this many tokens the fixed codes are considered.
const FEW: usize = 250;
/// New codes are charged with this share of a block, as a power of two.
const PENALTY: u32 = 7;
/// What the description of new codes is thought to take when there is none to compare with, in bits.
const GUESS: u64 = 70 * 8;

/// Writes the blocks.
pub(super) struct Writer {
    bits: Bits,
    fixed: (Codes, Codes),
    codes: (Codes, Codes),
    /// The size of the description of the codes in use, in bits; 0 when no block is open.
    open: u64,
    /// Whether the codes in use have no distances.
    only_literals: bool,
}

impl Writer {
    pub fn new() -> Self {
        let fixed = (Codes::fixed_literals(), Codes::fixed_distances());
        Self { bits: Bits::new(), codes: fixed.clone(), fixed, open: 0, only_literals: false }
    }

    pub fn take(&mut self) -> Vec<u8> {
        self.bits.take()
    }

    /// Ends the open block.
    fn end(&mut self) {
        self.bits.put_code(self.codes.0.0[END]);
        self.open = 0;
    }

    fn end_open(&mut self) {
        if self.open > 0 {
            self.end();
        }
    }

    /// A block of the bytes themselves; at most 65,535.
    pub fn stored(&mut self, bytes: &[u8]) {
        self.end_open();
        self.bits.put_stored(bytes, false);
    }

    /// Ends on a whole byte.
    pub fn flush(&mut self) {
        self.stored(&[]);
    }

    /// Ends the stream.
    pub fn finish(&mut self) {
        self.end_open();
        self.bits.put(3, 3);
        self.bits.put(0, 7);
        self.bits.align();
    }

    /// Literals alone, for bytes that have hardly any matches.
    pub fn literals(&mut self, plain: &[u8], sync: bool) {
        let mut uses = [0_u32; END + 1];
        plain.iter().for_each(|byte| uses[usize::from(*byte)] += 1);
        let stored = stored_bits(plain);
        if plain.len() > 1024 {
            // Evenly spread bytes do not compress.
            let even = plain.len() as f64 / 256.0;
            let spread: f64 = uses[..END].iter().map(|n| (f64::from(*n) - even) * (f64::from(*n) - even)).sum();
            if spread < (plain.len() * 2) as f64 {
                return self.stored(plain);
            }
        }
        uses[END] = 1;
        let codes = Codes::new(&uses, 15);
        let mut estimate = codes.bits(&uses) + if self.open == 0 { GUESS } else { self.open };
        estimate += estimate >> PENALTY;
        if stored <= estimate {
            return self.stored(plain);
        }
        if self.open > 0 && !self.reaches(&uses[..END], &[], &mut |bits| bits <= estimate) {
            self.end();
        }
        if self.open == 0 {
            let header = Description::of(&codes.0, &[(0, 1)]);
            self.codes.0 = codes;
            self.bits.put_description(&header);
            self.only_literals = true;
            self.open = header.size;
        }
        plain.iter().for_each(|byte| self.bits.put_code(self.codes.0.0[usize::from(*byte)]));
        if sync {
            self.end();
            self.only_literals = false;
        }
    }

    /// Whether the codes in use have one for all that occurs, and `fits` says yes to what it takes in bits.
    fn reaches(&self, literals: &[u32], distances: &[u32], fits: &mut dyn FnMut(u64) -> bool) -> bool {
        let has = |codes: &Codes, uses: &[u32]| codes.0.iter().zip(uses).all(|((_, length), n)| *n == 0 || *length > 0);
        has(&self.codes.0, literals)
            && has(&self.codes.1, distances)
            && fits(self.codes.0.bits(literals) + self.codes.1.bits(distances))
    }

    /// A block of `tokens`, which stand for `plain`.
    pub fn block(&mut self, tokens: &[Token], plain: &[u8], sync: bool) {
        let mut counts = Counts::of(tokens);
        if self.only_literals && self.open > 0 {
            self.end();
            self.only_literals = false;
        }
        if self.open > 0 && !self.covers(&counts, sync) {
            self.end();
        }
        let estimated = estimate(&counts, tokens.len() + usize::from(sync));
        // A block that may go on describes all codes, and its end is not counted yet.
        let (literals, distances) = if sync {
            counts = counts.of_block();
            let last = |uses: &[u32]| uses.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
            (last(&counts.literals), last(&counts.distances))
        } else {
            (counts.literals.len(), counts.distances.len())
        };
        let stored = stored_bits(plain);
        let few = tokens.len() + usize::from(sync) < FEW;
        let bits = |codes: &(Codes, Codes), counts: &Counts| counts.bits(codes) + counts.extra;
        if self.open > 0 {
            let fixed = 3 + bits(&self.fixed, &counts);
            let mut new = self.open + estimated;
            new += u64::from(self.codes.0.0[END].1) + (new >> PENALTY);
            let again = bits(&self.codes, &counts);
            let size = new.min(again);
            if new < again {
                self.end();
            }
            if few && fixed + 7 < size {
                return if stored <= size { self.stored(plain) } else { self.put_fixed(tokens) };
            }
            if stored <= size {
                return self.stored(plain);
            }
        }
        if self.open == 0 {
            counts.literals[END] = 1;
            self.codes = (Codes::new(&counts.literals, 15), Codes::new(&counts.distances, 15));
            let header = Description::of(&self.codes.0.0[..literals], &self.codes.1.0[..distances]);
            let size = header.size + bits(&self.codes, &counts);
            let fixed = 3 + bits(&self.fixed, &counts);
            if few && fixed <= size {
                return if stored <= fixed { self.stored(plain) } else { self.put_fixed(tokens) };
            }
            if stored <= size {
                return self.stored(plain);
            }
            self.bits.put_description(&header);
            self.open = header.size;
            self.only_literals = false;
        }
        self.bits.put_tokens(tokens, &self.codes);
        if sync {
            self.end();
        }
    }

    /// Whether the codes in use have one for everything in a block.
    fn covers(&self, counts: &Counts, sync: bool) -> bool {
        let mut literals = counts.literals;
        literals[END] = u32::from(sync);
        self.reaches(&literals, &counts.distances, &mut |_| true)
    }

    fn put_fixed(&mut self, tokens: &[Token]) {
        self.end_open();
        self.bits.put(2, 3);
        self.bits.put_tokens(tokens, &self.fixed);
        self.bits.put_code(self.fixed.0.0[END]);
    }
}

/// About how many bits a block takes with codes of its own; in the arithmetic of the original, since it decides.
fn estimate(counts: &Counts, tokens: usize) -> u64 {
    let mut sum = 0_f32;
    let share = 1.0 / tokens as f32;
    let cost = |n: u32, share: f32| (-fast_log2(n as f32 * share)).clamp(1.0, 15.0) * n as f32;
    for n in counts.literals[..END].iter().filter(|n| **n > 0) {
        sum += cost(*n, share);
    }
    sum += 15.0;
    let mut matches = 0;
    for n in counts.literals[END + 1..].iter().filter(|n| **n > 0) {
        sum += cost(*n, share);
        matches += n;
    }
    if matches > 0 {
        let share = 1.0 / matches as f32;
        for n in counts.distances.iter().filter(|n| **n > 0) {
            sum += cost(*n, share);
        }
    }
    sum as u64 + counts.extra
}

fn fast_log2(value: f32) -> f32 {
    let bits = value.to_bits() as i32;
    let exponent = (((bits >> 23) & 255) - 128) as f32;
    let mantissa = f32::from_bits(((bits & -0x7f80_0001) + (127 << 23)) as u32);
    exponent + (((-0.344_848_43 * mantissa) + 2.024_665_8) * mantissa - 0.674_877_6)
}
