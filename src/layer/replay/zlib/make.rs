//! The blob, made of the tar and the corrections.

use std::io::{self, Read};

use super::corrections::{Exception, Reader, Wrong};
use super::inflate::{BitReader, read_tables};
use super::trees::{Choice, Form};
use super::{BLOCK_TOKENS, Filling, Model, chains};
use crate::base::codec::Broken;
use crate::base::read::fill;
use crate::layer::replay::bits::{Bits, END, Token, distance_code, length_code};
use crate::layer::replay::give;
use crate::layer::replay::huffman::Codes;

/// What is read of the tar at once, in bytes.
const PIECE: usize = 64 << 10;
/// How much of it is kept before it is moved down, in bytes.
const KEPT: usize = 1 << 20;

/// Corrections that do not fit their tar, or are none.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the corrections of a replayed layer are malformed: {0}")]
pub struct Malformed(Broken);

fn broken(what: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Malformed(what))
}

/// A compressed layer, made again of its tar and its corrections as it is read. Of another tar the result is other
/// bytes or an error: whoever takes them checks their digest.
pub struct Corrected<R> {
    tar: R,
    /// All of the tar is in the window.
    is_whole: bool,
    crc: flate2::Crc,
    model: Model,
    corrections: Reader,
    predictor: chains::Predictor,
    /// How many bytes left the window.
    gone: u64,
    /// Where the compressor began anew the last time.
    anew: u64,
    bits: Bits,
    fixed: (Codes, Codes),
    tokens: Vec<Token>,
    is_done: bool,
    /// Why there is no more, for who asks again.
    failed: Option<Malformed>,
    /// Bytes to give, from `used` on.
    ready: Vec<u8>,
    used: usize,
}

impl<R: Read> Corrected<R> {
    /// The layer that `model` makes of `tar`, corrected.
    pub fn new(model: Model, corrections: Vec<u8>, tar: R) -> io::Result<Self> {
        let (corrections, header) = Reader::new(corrections).map_err(broken)?;
        Ok(Self {
            tar,
            is_whole: false,
            crc: flate2::Crc::new(),
            model,
            corrections,
            predictor: model.predictor(),
            gone: 0,
            anew: 0,
            bits: Bits::new(),
            fixed: (Codes::fixed_literals(), Codes::fixed_distances()),
            tokens: Vec::with_capacity(BLOCK_TOKENS),
            is_done: false,
            failed: None,
            ready: header,
            used: 0,
        })
    }

    /// Has enough of the tar in the window for the next token, or all of it.
    fn look_ahead(&mut self) -> io::Result<()> {
        let window = &mut self.predictor.window;
        while !self.is_whole && window.len() < self.predictor.at + chains::AHEAD {
            let from = window.len();
            window.resize(from + PIECE, 0);
            let n = fill(&mut self.tar, &mut window[from..])?;
            window.truncate(from + n);
            self.crc.update(&window[from..]);
            self.is_whole = n < PIECE;
        }
        Ok(())
    }

    /// Makes the next block.
    fn block(&mut self) -> io::Result<()> {
        let exception = self.corrections.block().map_err(broken)?;
        let begin = self.predictor.at;
        if exception.anew {
            let here = self.gone + begin as u64;
            if here - self.anew < 1 << 15 {
                return Err(broken("a compressor that begins anew too often"));
            }
            self.anew = here;
            self.look_ahead()?;
            self.predictor.prime();
        }
        let by_tar = self.tokens_of(&exception)?;
        let is_last = by_tar != exception.other_last;
        self.put(&exception, begin, is_last)?;
        if is_last {
            self.look_ahead()?;
            if self.predictor.at < self.predictor.window.len() {
                return Err(broken("an end before that of the tar"));
            }
            self.corrections.end().map_err(broken)?;
            self.bits.align();
            self.is_done = true;
        }
        if self.predictor.at > KEPT {
            self.gone += self.predictor.slide() as u64;
        }
        Ok(())
    }

    /// Finds the tokens of a block; whether it ends because the tar does.
    fn tokens_of(&mut self, exception: &Exception) -> io::Result<bool> {
        self.tokens.clear();
        let begin = self.predictor.at;
        let known = exception.plain.map(|plain| begin.saturating_add(plain));
        let mut filling = Filling::new(self.model);
        let mut is_full = false;
        loop {
            self.look_ahead()?;
            let (at, whole) = (self.predictor.at, self.predictor.window.len());
            if let Some(end) = known {
                if at >= end {
                    if at > end {
                        if exception.form != Some(Form::Stored) {
                            return Err(broken("a block that ends inside a match"));
                        }
                        self.predictor.jump(end);
                    }
                    return Ok(false);
                }
                if at == whole {
                    return Err(broken("a block that goes on behind the tar"));
                }
            } else if is_full && !(at == whole && self.is_forgotten()) {
                return Ok(false);
            } else if at == whole {
                return Ok(true);
            }
            if self.tokens.len() == BLOCK_TOKENS {
                return Err(broken("a block of too many symbols"));
            }
            let end = known.filter(|_| exception.flushed).map_or(whole, |end| end.min(whole));
            let predicted = self.predictor.predict(end);
            let token = match self.corrections.token().map_err(broken)? {
                None => predicted,
                Some(Wrong::Literal) => Token::Literal(self.predictor.window[at]),
                Some(Wrong::Match(length, distance)) => {
                    if usize::from(distance) >= at || usize::from(length) + 3 > whole - at {
                        return Err(broken("a match outside the tar"));
                    }
                    Token::Match(length, distance)
                }
            };
            self.predictor.accept(token, token == predicted, end);
            is_full = filling.is_full_with(token, at - begin);
            self.tokens.push(token);
        }
    }

    /// Whether zlib has no eye for a block that is full with the last token: it is the last byte, which waited.
    fn is_forgotten(&self) -> bool {
        !self.predictor.is_fast && matches!(self.tokens.last(), Some(Token::Literal(_)))
    }

    fn put(&mut self, exception: &Exception, begin: usize, is_last: bool) -> io::Result<()> {
        let plain = &self.predictor.window[begin..self.predictor.at];
        let choice = Choice::of(&self.tokens, plain.len(), &self.fixed);
        let last = u32::from(is_last);
        match exception.form.unwrap_or(choice.form) {
            Form::Stored => {
                if plain.len() > usize::from(u16::MAX) {
                    return Err(broken("a stored block of over 65,535 bytes"));
                }
                self.bits.put_stored(plain, is_last);
                return Ok(());
            }
            Form::Fixed => {
                self.bits.put(2 | last, 3);
                self.bits.put_tokens(&self.tokens, &self.fixed);
                self.bits.put_code(self.fixed.0.0[END]);
            }
            Form::Dynamic => {
                self.bits.put(4 | last, 3);
                let codes = match &exception.tables {
                    None => {
                        choice.tables.put(&mut self.bits);
                        choice.tables.codes
                    }
                    Some((bytes, count)) => described(bytes, *count, &self.tokens, &mut self.bits)?,
                };
                self.bits.put_tokens(&self.tokens, &codes);
                self.bits.put_code(codes.0.0[END]);
            }
        }
        Ok(())
    }

    /// Gets more bytes ready unless some are; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        while self.used == self.ready.len() {
            if self.is_done {
                return Ok(false);
            }
            if let Some(Malformed(what)) = self.failed {
                return Err(broken(what));
            }
            if let Err(error) = self.block() {
                self.failed = error.get_ref().and_then(|error| error.downcast_ref()).copied();
                return Err(error);
            }
            self.used = 0;
            self.ready = self.bits.take();
            if self.is_done {
                self.ready.extend_from_slice(&self.crc.sum().to_le_bytes());
                self.ready.extend_from_slice(&self.crc.amount().to_le_bytes());
            }
        }
        Ok(true)
    }
}

/// Puts a description of codes; gives them, when they have one for each token.
fn described(bytes: &[u8], count: u32, tokens: &[Token], out: &mut Bits) -> io::Result<(Codes, Codes)> {
    let read = read_tables(&mut BitReader::new(bytes)).map_err(|_| broken("a description of no codes"))?;
    let codes = read.codes;
    if read.count != count || read.bytes != bytes {
        return Err(broken("a description of codes with bits left over"));
    }
    let has = |codes: &Codes, symbol: usize| codes.0.get(symbol).is_some_and(|(_, length)| *length > 0);
    let all = tokens.iter().all(|token| match *token {
        Token::Literal(byte) => has(&codes.0, byte.into()),
        Token::Match(length, distance) => {
            has(&codes.0, END + 1 + length_code(length).0) && has(&codes.1, distance_code(distance).0)
        }
    });
    if !all || !has(&codes.0, END) {
        return Err(broken("a symbol without a code"));
    }
    for (place, byte) in bytes.iter().enumerate() {
        out.put((*byte).into(), (count - 8 * place as u32).min(8));
    }
    Ok(codes)
}

impl<R: Read> Read for Corrected<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || !self.advance()? {
            return Ok(0);
        }
        Ok(give(&self.ready, &mut self.used, buf))
    }
}
