//! Finds what corrections a blob needs. Which model it is predicted with is found on its first bytes, by trying all.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use super::corrections::{Exception, Writer};
use super::inflate::{Block, Inflater, Refused};
use super::trees::{Choice, Form};
use super::{CORRECTIONS, Family, Filling, HEADER, Model, chains};
use crate::base::Ctx;
use crate::layer::replay::bits::{Bits, Token};
use crate::layer::replay::huffman::Codes;

/// How much is looked at to find the model, in bytes.
const SAMPLE: usize = 2 << 20;
/// How many corrections a model may need at first, in bytes.
const TRIAL: usize = 2048;
/// How many bytes are kept before they are moved down.
const KEPT: usize = 1 << 20;
/// pigz begins anew after so many bytes.
const PIGZ: u64 = 128 << 10;
/// A writer keeps corrections when they take no more than this part of the blob.
const PART: u64 = 20;

/// The corrections with which `blob` of `size` bytes is made of its tar, and the model to correct; `None` when it is no
/// single gzip member, or they are more than a twentieth of it. They are not proven: that is done with [`super::Corrected`].
pub fn analyse(blob: impl BufRead, size: u64, ctx: &Ctx) -> io::Result<Option<(Model, Vec<u8>)>> {
    match try_to(blob, size, ctx) {
        Ok(found) => Ok(found),
        Err(Refused::Stream) => Ok(None),
        Err(Refused::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(Refused::Io(error)) => Err(error),
    }
}

fn try_to(mut blob: impl BufRead, size: u64, ctx: &Ctx) -> Result<Option<(Model, Vec<u8>)>, Refused> {
    let header = read_header(&mut blob)?;
    // What lies around the columns counts too.
    let most = usize::try_from(size / PART).unwrap_or(usize::MAX).min(CORRECTIONS);
    let Some(most) = most.checked_sub(header.len() + 32) else { return Ok(None) };
    let mut inflater = Inflater::new(blob);
    let mut sample = Vec::new();
    let mut blocks: VecDeque<Block> = VecDeque::new();
    let mut is_whole = false;
    while !is_whole && (sample.len() < SAMPLE || blocks.len() < 2) {
        ctx.check().map_err(io::Error::from)?;
        let block = inflater.block(&mut sample)?;
        is_whole = block.last;
        blocks.push_back(block);
    }
    let Some(model) = best_model(&header, &sample, &blocks, is_whole, most) else { return Ok(None) };
    let mut analysis = Analysis::new(model, sample);
    loop {
        ctx.check().map_err(io::Error::from)?;
        while let Some(block) = blocks.front() {
            if !is_whole && known_behind(&analysis, block) < chains::AHEAD {
                break;
            }
            analysis.block(block, is_whole);
            blocks.pop_front();
        }
        if analysis.writer.len() > most {
            return Ok(None);
        }
        if is_whole {
            break;
        }
        if analysis.predictor.at > KEPT {
            analysis.gone += analysis.predictor.slide() as u64;
        }
        let block = inflater.block(&mut analysis.predictor.window)?;
        is_whole = block.last;
        blocks.push_back(block);
    }
    let mut rest = inflater.into_bits();
    rest.align()?;
    for _ in 0..8 {
        rest.byte()?.ok_or(Refused::Stream)?;
    }
    if rest.byte()?.is_some() {
        return Ok(None);
    }
    Ok(Some((model, analysis.writer.finish(&header))))
}

/// How many bytes behind a block are in the window.
fn known_behind(analysis: &Analysis, block: &Block) -> usize {
    analysis.predictor.window.len() - analysis.predictor.at - block.plain
}

/// The model with the fewest corrections of a sample, unless they are too many.
fn best_model(header: &[u8], sample: &[u8], blocks: &VecDeque<Block>, is_whole: bool, most: usize) -> Option<Model> {
    // The level may be in the header; whoever is right at once spares the others most of the work.
    let first = match header[8] {
        2 => 9,
        4 => 1,
        _ => 6,
    };
    let mut models: Vec<Model> = Model::all().collect();
    models.sort_by_key(|model| (model.level != first, model.level.abs_diff(6)));
    let mut best = None;
    let mut fewest = most.saturating_add(1);
    for model in models {
        let mut analysis = Analysis::new(model, sample.to_vec());
        let mut fits = true;
        for block in blocks {
            if !is_whole && known_behind(&analysis, block) < chains::AHEAD {
                break;
            }
            // Who is wrong from the first block on is given up there.
            analysis.most = (TRIAL + analysis.predictor.at / PART as usize).min(fewest - 1);
            analysis.block(block, is_whole);
            fits = analysis.writer.len() <= analysis.most;
            if !fits {
                break;
            }
        }
        if fits {
            fewest = analysis.writer.len();
            best = Some(model);
        }
        if fewest == 0 {
            break;
        }
    }
    best
}

/// The header of a gzip member, as it is.
fn read_header(blob: &mut impl BufRead) -> Result<Vec<u8>, Refused> {
    let mut header = vec![0; 10];
    blob.read_exact(&mut header)?;
    if header[..3] != [0x1f, 0x8b, 8] || header[3] & 0xe0 != 0 {
        return Err(Refused::Stream);
    }
    let flags = header[3];
    let mut more = |header: &mut Vec<u8>, count: usize| -> io::Result<()> {
        let from = header.len();
        header.resize(from + count, 0);
        blob.read_exact(&mut header[from..])
    };
    if flags & 4 != 0 {
        more(&mut header, 2)?;
        let length = u16::from_le_bytes([header[10], header[11]]);
        more(&mut header, length.into())?;
    }
    // Name and comment end with a zero.
    for _ in 0..(flags >> 3 & 1) + (flags >> 4 & 1) {
        loop {
            more(&mut header, 1)?;
            if header.last() == Some(&0) {
                break;
            }
            if header.len() > HEADER {
                return Err(Refused::Stream);
            }
        }
    }
    if flags & 2 != 0 {
        more(&mut header, 2)?;
    }
    if header.len() > HEADER { Err(Refused::Stream) } else { Ok(header) }
}

/// A blob's blocks beside those that are predicted.
struct Analysis {
    model: Model,
    predictor: chains::Predictor,
    writer: Writer,
    fixed: (Codes, Codes),
    /// How many bytes left the window.
    gone: u64,
    /// Where pigz began anew the last time.
    anew: u64,
    /// More corrections than this are of no use.
    most: usize,
}

impl Analysis {
    fn new(model: Model, window: Vec<u8>) -> Self {
        let mut predictor = model.predictor();
        predictor.window = window;
        Self {
            model,
            predictor,
            writer: Writer::default(),
            fixed: (Codes::fixed_literals(), Codes::fixed_distances()),
            gone: 0,
            anew: 0,
            most: usize::MAX,
        }
    }

    /// Takes down how a block differs. Its bytes and some more are in the window, or, when that is `whole`, all there are.
    fn block(&mut self, block: &Block, whole: bool) {
        let here = self.gone + self.predictor.at as u64;
        let anew = self.predictor.is_fast && here > self.anew && here.is_multiple_of(PIGZ);
        if anew {
            self.anew = here;
            self.predictor.prime();
        }
        let mut exception = Exception { anew, ..Exception::default() };
        let by_tar = match block.form {
            Form::Stored => self.stored(block, whole, &mut exception),
            _ => self.compressed(block, whole, &mut exception),
        };
        exception.other_last = by_tar != block.last;
        self.writer.block(&exception);
    }

    /// Whether a block that is full with its last token is not seen to be, since that waited to the end.
    fn is_forgotten(&self, token: Token, at_end: bool) -> bool {
        at_end && !self.predictor.is_fast && matches!(token, Token::Literal(_))
    }

    /// A stored block, whose tokens are not known; whether it would have been ended by the tar's end.
    fn stored(&mut self, block: &Block, whole: bool, exception: &mut Exception) -> bool {
        let begin = self.predictor.at;
        let end = begin + block.plain;
        let all = self.predictor.window.len();
        let mut filling = Filling::new(self.model);
        let mut tokens = Vec::new();
        let mut is_full = false;
        // As far as it goes by itself, and then on to the end.
        let mut natural = None;
        loop {
            let at = self.predictor.at;
            let at_end = whole && at == all;
            if natural.is_none() && is_full && !tokens.last().is_some_and(|token| self.is_forgotten(*token, at_end)) {
                natural = Some((at, false));
            } else if natural.is_none() && at_end {
                natural = Some((at, true));
            }
            if at >= end {
                break;
            }
            let token = self.predictor.predict(all);
            self.predictor.accept(token, true, all);
            self.writer.token(token, true);
            is_full = filling.is_full_with(token, at - begin);
            tokens.push(token);
        }
        if let Some((_, by_tar)) = natural.filter(|(at, _)| *at == end) {
            if Choice::of(&tokens, block.plain, &self.fixed).form != Form::Stored {
                exception.form = Some(Form::Stored);
            }
            return by_tar;
        }
        exception.form = Some(Form::Stored);
        exception.plain = Some(block.plain);
        self.predictor.jump(end);
        false
    }

    /// A block of tokens; whether it would have been ended by the tar's end.
    fn compressed(&mut self, block: &Block, whole: bool, exception: &mut Exception) -> bool {
        let begin = self.predictor.at;
        let end = begin + block.plain;
        let all = self.predictor.window.len();
        let at_end = whole && end == all;
        let by_tar = match self.natural_end(block, at_end) {
            Some(by_tar) => by_tar,
            None => {
                exception.plain = Some(block.plain);
                // GNU gzip never flushes.
                exception.flushed = self.model.family != Family::Gnu;
                false
            }
        };
        let choice = Choice::of(&block.tokens, block.plain, &self.fixed);
        if choice.form != block.form {
            exception.form = Some(block.form);
        }
        if block.form == Form::Dynamic {
            let mut bits = Bits::new();
            choice.tables.put(&mut bits);
            bits.align();
            if bits.take() != block.tables.0 {
                exception.form = Some(Form::Dynamic);
                exception.tables = Some(block.tables.clone());
            }
        }
        let known = if exception.flushed { end } else { all };
        for token in &block.tokens {
            let right = self.predictor.predict(known) == *token;
            self.predictor.accept(*token, right, known);
            self.writer.token(*token, right);
            if !right && self.writer.len() > self.most {
                self.predictor.jump(end);
                break;
            }
        }
        by_tar
    }

    /// Whether a block ends where it would by itself: `Some(true)` when because the tar does.
    fn natural_end(&self, block: &Block, at_end: bool) -> Option<bool> {
        let mut filling = Filling::new(self.model);
        let mut place = 0;
        for (number, token) in block.tokens.iter().enumerate() {
            let is_last = number + 1 == block.tokens.len();
            if filling.is_full_with(*token, place) && !self.is_forgotten(*token, is_last && at_end) {
                return is_last.then_some(false);
            }
            place += match token {
                Token::Literal(_) => 1,
                Token::Match(length, _) => usize::from(*length) + 3,
            };
        }
        at_end.then_some(true)
    }
}
