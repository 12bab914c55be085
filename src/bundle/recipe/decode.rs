//! Reads a recipe piece by piece. Recipes are untrusted: nothing larger than a block is allocated by what they say.

use std::ops::Range;

use super::header::{self, Before};
use super::{BLOCK, op, padding};
use crate::base::codec::{Broken, Take};

/// The next bytes of a tar.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// These.
    Bytes(&'a [u8]),
    /// So many zeros.
    Zeros(u64),
    /// All of a content.
    Content {
        /// Its number.
        number: u32,
    },
}

/// What an op still owes after its header.
#[derive(Debug, Clone, Copy)]
enum Owed {
    Nothing,
    Content { number: u32, size: u64, pad: bool },
    Pad,
}

/// Where the columns of a recipe are read next.
#[derive(Debug, Clone)]
struct Columns {
    ops: Range<usize>,
    headers: header::Columns<Range<usize>>,
    counts: Range<usize>,
    contents: Range<usize>,
    raw: Range<usize>,
}

/// The pieces of one recipe, in order. Does not hold the recipe itself: every call is given the same bytes.
#[derive(Debug, Clone)]
pub(crate) struct RecipeReader {
    columns: Columns,
    before: Before,
    block: [u8; BLOCK],
    next: i64,
    at: u64,
    size: u64,
    owed: Owed,
}

/// The size of a content by its number; `None` for one that is not in the tables.
pub(crate) type Sizes<'a> = dyn Fn(u32) -> Option<u64> + 'a;

/// Reads from a column and moves its begin.
fn take<'a, T>(
    recipe: &'a [u8],
    column: &mut Range<usize>,
    read: impl FnOnce(&mut Take<'a>) -> Result<T, Broken>,
) -> Result<T, Broken> {
    let mut take = Take(recipe.get(column.clone()).ok_or("cut short")?);
    let value = read(&mut take)?;
    column.start = column.end - take.left();
    Ok(value)
}

impl RecipeReader {
    /// Reads `recipe`, which must give `size` bytes.
    pub fn new(recipe: &[u8], size: u64) -> Result<Self, Broken> {
        let mut take = Take(recipe);
        let mut column = || -> Result<Range<usize>, Broken> {
            let length = take.bytes()?.len();
            let end = recipe.len() - take.left();
            Ok(end - length..end)
        };
        let ops = column()?;
        let headers = header::Columns { masks: column()?, names: column()?, mtimes: column()?, fields: column()? };
        let columns = Columns { ops, headers, counts: column()?, contents: column()?, raw: column()? };
        take.end()?;
        Ok(Self { columns, before: Before::default(), block: [0; BLOCK], next: 0, at: 0, size, owed: Owed::Nothing })
    }

    /// The next piece; `None` once the tar is complete.
    pub fn next<'a>(&'a mut self, recipe: &'a [u8], sizes: &Sizes<'_>) -> Result<Option<Piece<'a>>, Broken> {
        match std::mem::replace(&mut self.owed, Owed::Nothing) {
            Owed::Nothing => {}
            Owed::Content { number, size, pad } => return self.give_content(number, size, pad).map(Some),
            Owed::Pad => {
                let zeros = padding(self.at);
                if zeros > 0 {
                    self.advance(zeros)?;
                    return Ok(Some(Piece::Zeros(zeros)));
                }
            }
        }
        if self.columns.ops.is_empty() {
            return self.end().map(|()| None);
        }
        let op = take(recipe, &mut self.columns.ops, Take::u8)?;
        match op {
            op::HEADER => self.give_header(recipe, 0),
            op::HEADER_CONTENT | op::HEADER_CONTENT_PAD => {
                let (number, size) = self.take_content(recipe, sizes)?;
                self.owed = Owed::Content { number, size, pad: op == op::HEADER_CONTENT_PAD };
                self.give_header(recipe, size)
            }
            op::CONTENT | op::CONTENT_PAD => {
                let (number, size) = self.take_content(recipe, sizes)?;
                self.give_content(number, size, op == op::CONTENT_PAD)
            }
            op::ZEROS => {
                let zeros = take(recipe, &mut self.columns.counts, Take::vu)?;
                self.advance(zeros)?;
                Ok(Piece::Zeros(zeros))
            }
            op::RAW | op::RAW_PAD => {
                let count = take(recipe, &mut self.columns.counts, Take::length)?;
                let bytes = take(recipe, &mut self.columns.raw, |raw| raw.raw(count))?;
                self.advance(count as u64)?;
                if op == op::RAW_PAD {
                    self.owed = Owed::Pad;
                }
                Ok(Piece::Bytes(bytes))
            }
            _ => Err("an unknown op"),
        }
        .map(Some)
    }

    fn end(&self) -> Result<(), Broken> {
        let Columns { ops: _, headers, counts, contents, raw } = &self.columns;
        let header::Columns { masks, names, mtimes, fields } = headers;
        if [masks, names, mtimes, fields, counts, contents, raw].iter().any(|column| !column.is_empty()) {
            return Err("bytes left over in a column");
        }
        if self.at == self.size { Ok(()) } else { Err("it gives fewer bytes than the layer has") }
    }

    fn advance(&mut self, bytes: u64) -> Result<(), Broken> {
        let at = self.at.checked_add(bytes).filter(|at| *at <= self.size);
        self.at = at.ok_or("it gives more bytes than the layer has")?;
        Ok(())
    }

    fn take_content(&mut self, recipe: &[u8], sizes: &Sizes<'_>) -> Result<(u32, u64), Broken> {
        let step = take(recipe, &mut self.columns.contents, Take::vs)?;
        let number = self.next.checked_add(step).ok_or("no such content")?;
        let content = u32::try_from(number).map_err(|_| "no such content")?;
        let size = sizes(content).ok_or("no such content")?;
        self.next = number + 1;
        Ok((content, size))
    }

    fn give_header<'a>(&'a mut self, recipe: &'a [u8], size: u64) -> Result<Piece<'a>, Broken> {
        let header::Columns { masks, names, mtimes, fields } = &mut self.columns.headers;
        let column = |range: &Range<usize>| recipe.get(range.clone()).map(Take).ok_or("cut short");
        let mut takes = header::Columns {
            masks: column(masks)?,
            names: column(names)?,
            mtimes: column(mtimes)?,
            fields: column(fields)?,
        };
        self.block = header::decode(&mut takes, &mut self.before, size)?;
        masks.start = masks.end - takes.masks.left();
        names.start = names.end - takes.names.left();
        mtimes.start = mtimes.end - takes.mtimes.left();
        fields.start = fields.end - takes.fields.left();
        self.advance(BLOCK as u64)?;
        Ok(Piece::Bytes(&self.block))
    }

    fn give_content<'a>(&mut self, number: u32, size: u64, pad: bool) -> Result<Piece<'a>, Broken> {
        self.advance(size)?;
        if pad {
            self.owed = Owed::Pad;
        }
        Ok(Piece::Content { number })
    }
}
