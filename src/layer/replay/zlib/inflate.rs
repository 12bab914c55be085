//! A deflate stream taken apart into its blocks and tokens (RFC 1951).

use std::io::{self, BufRead};

use super::BLOCK_TOKENS;
use super::trees::Form;
use crate::layer::replay::bits::{Bits, DISTANCES, END, LITERALS, ORDER, Token};
use crate::layer::replay::huffman::Codes;

/// A block.
#[derive(Debug, Clone)]
pub struct Block {
    pub form: Form,
    pub last: bool,
    /// None of a stored one.
    pub tokens: Vec<Token>,
    /// How many bytes it stands for.
    pub plain: usize,
    /// The description of a dynamic block's codes: its bits, lowest first, and how many.
    pub tables: (Vec<u8>, u32),
}

/// Why a stream is not taken apart.
#[derive(Debug)]
pub enum Refused {
    Io(io::Error),
    /// It is no deflate stream, or one that the predictors do not make.
    Stream,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads bits.
pub struct BitReader<R> {
    inner: R,
    ready: u64,
    count: u32,
}

impl<R: BufRead> BitReader<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, ready: 0, count: 0 }
    }

    /// Makes more bits ready; false when there are none.
    fn more(&mut self) -> io::Result<bool> {
        let bytes = self.inner.fill_buf()?;
        let n = bytes.len().min((64 - self.count as usize) / 8);
        for byte in &bytes[..n] {
            self.ready |= u64::from(*byte) << self.count;
            self.count += 8;
        }
        self.inner.consume(n);
        Ok(n > 0)
    }

    /// Has at least `count` bits ready, 32 at most.
    fn need(&mut self, count: u32) -> Result<(), Refused> {
        while self.count < count {
            if !self.more()? {
                return Err(Refused::Stream);
            }
        }
        Ok(())
    }

    fn take(&mut self, count: u32) -> Result<u32, Refused> {
        self.need(count)?;
        let bits = self.ready & ((1 << count) - 1);
        self.drop(count);
        Ok(bits as u32)
    }

    fn drop(&mut self, count: u32) {
        self.ready >>= count;
        self.count -= count;
    }

    /// Goes on at the next byte; what is left out must be zeros.
    pub fn align(&mut self) -> Result<(), Refused> {
        let left = self.count % 8;
        if self.take(left)? != 0 {
            return Err(Refused::Stream);
        }
        Ok(())
    }

    /// The next byte, after [`BitReader::align`]; none at the end.
    pub fn byte(&mut self) -> io::Result<Option<u8>> {
        if self.count == 0 && !self.more()? {
            return Ok(None);
        }
        let byte = self.ready as u8;
        self.drop(8);
        Ok(Some(byte))
    }

    /// The next code of `codes`.
    fn symbol(&mut self, codes: &Lookup) -> Result<u16, Refused> {
        if self.count < 15 {
            // Near the end of the stream there may be fewer.
            self.more()?;
        }
        let (symbol, length) = codes.find(self.ready).ok_or(Refused::Stream)?;
        if length > self.count {
            self.need(length)?;
            return self.symbol(codes);
        }
        self.drop(length);
        Ok(symbol)
    }
}

const QUICK: u32 = 10;

/// Codes by their bits.
struct Lookup {
    /// By the next ten bits: symbol and length; length 0 where it is longer.
    quick: Vec<(u16, u8)>,
    /// Longer codes: reversed bits, length, symbol.
    long: Vec<(u16, u8, u16)>,
}

impl Lookup {
    fn new(codes: &Codes) -> Self {
        let mut quick = vec![(0, 0); 1 << QUICK];
        let mut long = Vec::new();
        for (symbol, (code, length)) in (0..).zip(&codes.0) {
            match u32::from(*length) {
                0 => {}
                length @ 1..=QUICK => {
                    let step = 1 << length;
                    quick.iter_mut().skip((*code).into()).step_by(step).for_each(|slot| *slot = (symbol, length as u8));
                }
                _ => long.push((*code, *length, symbol)),
            }
        }
        Self { quick, long }
    }

    fn find(&self, bits: u64) -> Option<(u16, u32)> {
        let (symbol, length) = self.quick[bits as usize & ((1 << QUICK) - 1)];
        if length > 0 {
            return Some((symbol, length.into()));
        }
        let fits = |(code, length, _): &&(u16, u8, u16)| bits as u16 & ((1_u32 << length) - 1) as u16 == *code;
        self.long.iter().find(fits).map(|(_, length, symbol)| (*symbol, (*length).into()))
    }
}

/// Codes whose lengths make no code are refused; one that leaves some bits without a meaning is taken.
fn codes_of(lengths: &[u8]) -> Result<Codes, Refused> {
    let used: u32 = lengths.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum();
    if used > 1 << 15 { Err(Refused::Stream) } else { Ok(Codes::of_lengths(lengths)) }
}

/// A description of codes.
pub struct Described {
    pub codes: (Codes, Codes),
    /// Its own bits, and how many.
    pub bytes: Vec<u8>,
    pub count: u32,
}

/// Reads a description of codes.
pub fn read_tables<R: BufRead>(bits: &mut BitReader<R>) -> Result<Described, Refused> {
    let (mut copy, mut count) = (Bits::new(), 0);
    let mut take = |bits: &mut BitReader<R>, n: u32| -> Result<usize, Refused> {
        let value = bits.take(n)?;
        copy.put(value, n);
        count += n;
        Ok(value as usize)
    };
    let literals = 257 + take(bits, 5)?;
    let distances = 1 + take(bits, 5)?;
    let lengths = 4 + take(bits, 4)?;
    if literals > LITERALS || distances > DISTANCES {
        return Err(Refused::Stream);
    }
    let mut of_lengths = [0; 19];
    for symbol in &ORDER[..lengths] {
        of_lengths[*symbol] = take(bits, 3)? as u8;
    }
    let of_lengths = codes_of(&of_lengths)?;
    let lookup = Lookup::new(&of_lengths);
    let mut all: Vec<u8> = Vec::with_capacity(literals + distances);
    while all.len() < literals + distances {
        let symbol = bits.symbol(&lookup)?;
        let (code, length) = of_lengths.0[usize::from(symbol)];
        copy.put(code.into(), length.into());
        count += u32::from(length);
        let (value, extra, least) = match symbol {
            0..16 => (symbol as u8, 0, 1),
            16 => (*all.last().ok_or(Refused::Stream)?, 2, 3),
            17 => (0, 3, 3),
            _ => (0, 7, 11),
        };
        let more = bits.take(extra)?;
        copy.put(more, extra);
        count += extra;
        all.extend(std::iter::repeat_n(value, least + more as usize));
    }
    if all.len() > literals + distances {
        return Err(Refused::Stream);
    }
    let codes = (codes_of(&all[..literals])?, codes_of(&all[literals..])?);
    copy.align();
    Ok(Described { codes, bytes: copy.take(), count })
}

/// Takes a stream apart.
pub struct Inflater<R> {
    bits: BitReader<R>,
    fixed: (Codes, Codes),
}

impl<R: BufRead> Inflater<R> {
    pub fn new(inner: R) -> Self {
        Self { bits: BitReader::new(inner), fixed: (Codes::fixed_literals(), Codes::fixed_distances()) }
    }

    /// What follows the stream, from the next byte on.
    pub fn into_bits(self) -> BitReader<R> {
        self.bits
    }

    /// The next block, whose bytes go behind those in `window`, of which at least the last 32 KiB must still be there.
    pub fn block(&mut self, window: &mut Vec<u8>) -> Result<Block, Refused> {
        let last = self.bits.take(1)? == 1;
        let begin = window.len();
        let (mut tokens, mut tables) = (Vec::new(), (Vec::new(), 0));
        let form = match self.bits.take(2)? {
            0 => {
                self.stored(window)?;
                Form::Stored
            }
            1 => {
                let codes = (Lookup::new(&self.fixed.0), Lookup::new(&self.fixed.1));
                tokens = self.tokens(&codes, window)?;
                Form::Fixed
            }
            2 => {
                let Described { codes, bytes, count } = read_tables(&mut self.bits)?;
                tables = (bytes, count);
                tokens = self.tokens(&(Lookup::new(&codes.0), Lookup::new(&codes.1)), window)?;
                Form::Dynamic
            }
            _ => return Err(Refused::Stream),
        };
        Ok(Block { form, last, tokens, plain: window.len() - begin, tables })
    }

    fn stored(&mut self, window: &mut Vec<u8>) -> Result<(), Refused> {
        self.bits.align()?;
        let (length, not) = (self.bits.take(16)?, self.bits.take(16)?);
        if length != not ^ 0xffff {
            return Err(Refused::Stream);
        }
        for _ in 0..length {
            window.push(self.bits.byte()?.ok_or(Refused::Stream)?);
        }
        Ok(())
    }

    fn tokens(&mut self, codes: &(Lookup, Lookup), window: &mut Vec<u8>) -> Result<Vec<Token>, Refused> {
        let mut tokens = Vec::with_capacity(BLOCK_TOKENS / 2);
        loop {
            let symbol = usize::from(self.bits.symbol(&codes.0)?);
            if symbol == END {
                return Ok(tokens);
            }
            if tokens.len() == BLOCK_TOKENS {
                return Err(Refused::Stream);
            }
            if let Ok(byte) = u8::try_from(symbol) {
                window.push(byte);
                tokens.push(Token::Literal(byte));
                continue;
            }
            let (base, extra) = LENGTH[symbol - END - 1];
            let length = usize::from(base) + self.bits.take(extra.into())? as usize;
            let (base, extra) = DISTANCE[usize::from(self.bits.symbol(&codes.1)?)];
            let distance = usize::from(base) + self.bits.take(extra.into())? as usize;
            let from = window.len().checked_sub(distance).ok_or(Refused::Stream)?;
            // The longest length has a code of its own; the other way of writing it is none of zlib's.
            if length == 258 && symbol != LITERALS - 1 {
                return Err(Refused::Stream);
            }
            if distance >= length {
                window.extend_from_within(from..from + length);
            } else {
                for at in from..from + length {
                    window.push(window[at]);
                }
            }
            tokens.push(Token::Match((length - 3) as u8, (distance - 1) as u16));
        }
    }
}

/// The least length of each code, and its extra bits.
const LENGTH: [(u16, u8); 29] = {
    let mut table = [(258, 0); 29];
    let (mut code, mut base) = (0, 3);
    while code < 28 {
        let extra = if code < 8 { 0 } else { code / 4 - 1 };
        table[code] = (base, extra as u8);
        base += 1 << extra;
        code += 1;
    }
    table
};

/// The least distance of each code, and its extra bits.
const DISTANCE: [(u16, u8); DISTANCES] = {
    let mut table = [(0, 0); DISTANCES];
    let (mut code, mut base) = (0, 1_u32);
    while code < DISTANCES {
        let extra = if code < 4 { 0 } else { code / 2 - 1 };
        table[code] = (base as u16, extra as u8);
        base += 1 << extra;
        code += 1;
    }
    table
};
