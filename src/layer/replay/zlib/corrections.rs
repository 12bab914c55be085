//! Corrections as bytes: the gzip header, and three columns (docs/format/bundle.md, "Corrections").

use super::HEADER;
use super::trees::Form;
use crate::base::codec::{Broken, Take, put_bytes, put_vu};
use crate::layer::replay::bits::Token;

/// How a block differs from the one that is predicted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exception {
    pub form: Option<Form>,
    /// Bits of the description of its codes, and how many; of a dynamic one alone.
    pub tables: Option<(Vec<u8>, u32)>,
    /// How many bytes it stands for.
    pub plain: Option<usize>,
    /// Nothing behind its end was known to the compressor.
    pub flushed: bool,
    /// It is the last and should not be, or the other way.
    pub other_last: bool,
    /// The compressor began anew with the 32 KiB before.
    pub anew: bool,
}

const TABLES: u8 = 4;
const PLAIN: u8 = 8;
const FLUSHED: u8 = 16;
const LAST: u8 = 32;
const ANEW: u8 = 64;
/// The most bits that describe codes.
const TABLE_BITS: u32 = 14 + 19 * 3 + 316 * 14;

/// Takes down corrections.
#[derive(Default)]
pub struct Writer {
    blocks: Vec<u8>,
    gaps: Vec<u8>,
    tokens: Vec<u8>,
    right_blocks: u64,
    right_tokens: u64,
}

impl Writer {
    /// How many bytes there are, without the header.
    pub fn len(&self) -> usize {
        self.blocks.len() + self.gaps.len() + self.tokens.len()
    }

    /// The next block.
    pub fn block(&mut self, exception: &Exception) {
        if *exception == Exception::default() {
            self.right_blocks += 1;
            return;
        }
        let Exception { form, tables, plain, flushed, other_last, anew } = exception;
        let out = &mut self.blocks;
        put_vu(out, std::mem::take(&mut self.right_blocks));
        let mut flags = match form {
            None => 0,
            Some(Form::Stored) => 1,
            Some(Form::Fixed) => 2,
            Some(Form::Dynamic) => 3,
        };
        let bits = [
            (tables.is_some(), TABLES),
            (plain.is_some(), PLAIN),
            (*flushed, FLUSHED),
            (*other_last, LAST),
            (*anew, ANEW),
        ];
        bits.iter().filter(|(set, _)| *set).for_each(|(_, bit)| flags |= bit);
        out.push(flags);
        if let Some(plain) = plain {
            put_vu(out, *plain as u64);
        }
        if let Some((bytes, count)) = tables {
            put_vu(out, (*count).into());
            out.extend_from_slice(bytes);
        }
    }

    /// The next token, as it was, and whether it was predicted.
    pub fn token(&mut self, token: Token, right: bool) {
        if right {
            self.right_tokens += 1;
            return;
        }
        put_vu(&mut self.gaps, std::mem::take(&mut self.right_tokens));
        match token {
            Token::Literal(_) => put_vu(&mut self.tokens, 0),
            Token::Match(length, distance) => {
                put_vu(&mut self.tokens, u64::from(length) + 1);
                put_vu(&mut self.tokens, distance.into());
            }
        }
    }

    /// All of it, behind a gzip header.
    pub fn finish(self, header: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() + header.len() + 32);
        [header, &self.blocks, &self.gaps, &self.tokens].iter().for_each(|column| put_bytes(&mut out, column));
        out
    }
}

/// A token that was not predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    Literal,
    Match(u8, u16),
}

/// Gives corrections one after another.
pub struct Reader {
    bytes: Vec<u8>,
    blocks: Column,
    gaps: Column,
    tokens: Column,
    /// How many are right until the next that is not; none when all are.
    right_blocks: Option<u64>,
    right_tokens: Option<u64>,
}

/// Where the rest of a column is.
struct Column {
    at: usize,
    end: usize,
}

impl Column {
    fn read<T>(&mut self, bytes: &[u8], read: impl FnOnce(&mut Take<'_>) -> Result<T, Broken>) -> Result<T, Broken> {
        let mut take = Take(&bytes[self.at..self.end]);
        let value = read(&mut take)?;
        self.at = self.end - take.left();
        Ok(value)
    }

    /// The number at its begin; none at its end.
    fn gap(&mut self, bytes: &[u8]) -> Result<Option<u64>, Broken> {
        if self.at == self.end { Ok(None) } else { self.read(bytes, |take| take.vu()).map(Some) }
    }
}

impl Reader {
    /// Reads what [`Writer::finish`] made; the header too.
    pub fn new(bytes: Vec<u8>) -> Result<(Self, Vec<u8>), Broken> {
        let mut take = Take(&bytes);
        let header = take.bytes()?.to_vec();
        if header.len() > HEADER {
            return Err("a header over 64 KiB");
        }
        let mut column = || -> Result<Column, Broken> {
            let length = take.bytes()?.len();
            let end = bytes.len() - take.left();
            Ok(Column { at: end - length, end })
        };
        let (mut blocks, mut gaps, tokens) = (column()?, column()?, column()?);
        take.end()?;
        let (right_blocks, right_tokens) = (blocks.gap(&bytes)?, gaps.gap(&bytes)?);
        Ok((Self { bytes, blocks, gaps, tokens, right_blocks, right_tokens }, header))
    }

    /// How the next block differs.
    pub fn block(&mut self) -> Result<Exception, Broken> {
        match &mut self.right_blocks {
            None => return Ok(Exception::default()),
            Some(0) => {}
            Some(right) => {
                *right -= 1;
                return Ok(Exception::default());
            }
        }
        let exception = self.blocks.read(&self.bytes, exception)?;
        self.right_blocks = self.blocks.gap(&self.bytes)?;
        Ok(exception)
    }

    /// What the next token is when it is not the predicted one.
    pub fn token(&mut self) -> Result<Option<Wrong>, Broken> {
        match &mut self.right_tokens {
            None => return Ok(None),
            Some(0) => {}
            Some(right) => {
                *right -= 1;
                return Ok(None);
            }
        }
        let token = self.tokens.read(&self.bytes, |take| {
            Ok(match take.vu()? {
                0 => Wrong::Literal,
                length => {
                    let length = u8::try_from(length - 1).map_err(|_| "a match over 258 bytes")?;
                    let distance = u16::try_from(take.vu()?).ok().filter(|distance| *distance < 1 << 15);
                    Wrong::Match(length, distance.ok_or("a match over 32 KiB away")?)
                }
            })
        })?;
        self.right_tokens = self.gaps.gap(&self.bytes)?;
        Ok(Some(token))
    }

    /// Everything must have been used.
    pub fn end(&self) -> Result<(), Broken> {
        let used = self.right_blocks.is_none() && self.right_tokens.is_none() && self.tokens.at == self.tokens.end;
        if used { Ok(()) } else { Err("corrections of what is not there") }
    }
}

fn exception(take: &mut Take<'_>) -> Result<Exception, Broken> {
    let flags = take.u8()?;
    let is = |bit: u8| flags & bit != 0;
    let form = match flags & 3 {
        0 => None,
        1 => Some(Form::Stored),
        2 => Some(Form::Fixed),
        _ => Some(Form::Dynamic),
    };
    if flags & 128 != 0 || flags == 0 || (is(TABLES) && form != Some(Form::Dynamic)) || (is(FLUSHED) && !is(PLAIN)) {
        return Err("an unknown difference of a block");
    }
    let plain = if is(PLAIN) { Some(take.length()?) } else { None };
    let tables = if is(TABLES) {
        let count = u32::try_from(take.vu()?).ok().filter(|count| *count <= TABLE_BITS);
        let count = count.ok_or("a description of codes that is too long")?;
        Some((take.raw(count.div_ceil(8) as usize)?.to_vec(), count))
    } else {
        None
    };
    Ok(Exception { form, tables, plain, flushed: is(FLUSHED), other_last: is(LAST), anew: is(ANEW) })
}
