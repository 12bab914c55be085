//! A tar header as the difference to the one before.

use super::BLOCK;
use crate::base::codec::{Broken, Take, put_vs, put_vu};

/// A field of a header.
type Field = std::ops::Range<usize>;

const NAME: Field = 0..100;
const MODE: Field = 100..108;
const OWNER: Field = 108..124;
const SIZE: Field = 124..136;
const MTIME: Field = 136..148;
const CHECKSUM: Field = 148..156;
const TYPE: Field = 156..157;
const LINK: Field = 157..257;
const MAGIC: Field = 257..345;
const REST: Field = 345..512;

const BIT_NAME: u16 = 1 << 0;
const BIT_SIZE: u16 = 1 << 3;
const BIT_MTIME: u16 = 1 << 4;
const BIT_RAW_MTIME: u16 = 1 << 5;
const BIT_CHECKSUM: u16 = 1 << 6;
const BIT_LINK: u16 = 1 << 8;
/// Fields that are spelled out as they are, in the order of their bits around the others.
const PLAIN: [(u16, Field); 5] = [(1 << 1, MODE), (1 << 2, OWNER), (1 << 7, TYPE), (1 << 9, MAGIC), (1 << 10, REST)];
const ALL: u16 = (1 << 11) - 1;

/// The columns that headers fill.
#[derive(Debug, Clone, Default)]
pub(super) struct Columns<T> {
    pub masks: T,
    pub names: T,
    pub mtimes: T,
    pub fields: T,
}

/// What the next header is a difference to.
#[derive(Debug, Clone)]
pub(super) struct Before {
    header: [u8; BLOCK],
    name: Vec<u8>,
    link: Vec<u8>,
    mtime: i64,
}

impl Default for Before {
    fn default() -> Self {
        Self { header: [0; BLOCK], name: Vec::new(), link: Vec::new(), mtime: 0 }
    }
}

/// The sum that tar defines: of all bytes, those of the checksum field taken as spaces.
fn checksum(header: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    sum(&header[..CHECKSUM.start]) + sum(&header[CHECKSUM.end..]) + 8 * u64::from(b' ')
}

/// Writes eleven octal digits and NUL; false when the number needs more.
fn put_octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    for (at, byte) in field[..digits].iter_mut().enumerate() {
        *byte = b'0' + ((value >> (3 * (digits - 1 - at))) & 7) as u8;
    }
    field[digits] = 0;
    value >> (3 * digits) == 0
}

fn octal(value: u64) -> Option<[u8; 12]> {
    let mut field = [0; 12];
    put_octal(&mut field, value).then_some(field)
}

fn checksum_field(header: &[u8; BLOCK]) -> [u8; 8] {
    let mut field = [b' '; 8];
    // 512 bytes of 255 sum up to less than six octal digits hold.
    put_octal(&mut field[..7], checksum(header));
    field
}

/// The number of a field of eleven octal digits and NUL.
fn parse_octal(field: &[u8]) -> Option<i64> {
    let digits = field.strip_suffix(&[0])?;
    digits.iter().try_fold(0i64, |n, b| matches!(b, b'0'..=b'7').then(|| n * 8 + i64::from(b - b'0')))
}

/// Whether a block is a tar header: worth coding as one. Any block could be.
pub(super) fn looks_like_header(block: &[u8; BLOCK]) -> bool {
    block[CHECKSUM] == checksum_field(block) || block[257..262] == *b"ustar"
}

fn trimmed(field: &[u8]) -> &[u8] {
    &field[..field.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1)]
}

fn put_name(out: &mut Vec<u8>, before: &mut Vec<u8>, name: &[u8]) {
    let kept = name.iter().zip(before.iter()).take_while(|(a, b)| a == b).count();
    put_vu(out, kept as u64);
    put_vu(out, (name.len() - kept) as u64);
    out.extend_from_slice(&name[kept..]);
    before.truncate(kept);
    before.extend_from_slice(&name[kept..]);
}

fn take_name(names: &mut Take<'_>, before: &mut Vec<u8>, field: &mut [u8]) -> Result<(), Broken> {
    let (kept, more) = (names.length()?, names.length()?);
    if kept > before.len() || more > field.len() || kept + more > field.len() {
        return Err("a name longer than its field or than the name before");
    }
    before.truncate(kept);
    before.extend_from_slice(names.raw(more)?);
    field.fill(0);
    field[..before.len()].copy_from_slice(before);
    Ok(())
}

/// Codes `block`; `size` is that of the content that follows, 0 without one.
pub(super) fn encode(out: &mut Columns<Vec<u8>>, before: &mut Before, block: &[u8; BLOCK], size: u64) {
    let mut mask = 0;
    let differs = |field: Field| block[field.clone()] != before.header[field];
    if differs(NAME) {
        mask |= BIT_NAME;
        put_name(&mut out.names, &mut before.name, trimmed(&block[NAME]));
    }
    for (bit, field) in &PLAIN[..2] {
        if differs(field.clone()) {
            mask |= bit;
            out.fields.extend_from_slice(&block[field.clone()]);
        }
    }
    if octal(size).is_none_or(|field| block[SIZE] != field) {
        mask |= BIT_SIZE;
        out.fields.extend_from_slice(&block[SIZE]);
    }
    if differs(MTIME) {
        match parse_octal(&block[MTIME]) {
            Some(mtime) => {
                mask |= BIT_MTIME;
                put_vs(&mut out.mtimes, mtime - before.mtime);
                before.mtime = mtime;
            }
            None => {
                mask |= BIT_RAW_MTIME;
                out.fields.extend_from_slice(&block[MTIME]);
            }
        }
    }
    if block[CHECKSUM] != checksum_field(block) {
        mask |= BIT_CHECKSUM;
        out.fields.extend_from_slice(&block[CHECKSUM]);
    }
    if differs(TYPE) {
        mask |= PLAIN[2].0;
        out.fields.extend_from_slice(&block[TYPE]);
    }
    if differs(LINK) {
        mask |= BIT_LINK;
        put_name(&mut out.names, &mut before.link, trimmed(&block[LINK]));
    }
    for (bit, field) in &PLAIN[3..] {
        if differs(field.clone()) {
            mask |= bit;
            out.fields.extend_from_slice(&block[field.clone()]);
        }
    }
    put_vu(&mut out.masks, mask.into());
    before.header = *block;
}

/// The next header; `size` as for [`encode`].
pub(super) fn decode(columns: &mut Columns<Take<'_>>, before: &mut Before, size: u64) -> Result<[u8; BLOCK], Broken> {
    let mask = columns.masks.vu()?;
    let mask = u16::try_from(mask).ok().filter(|mask| mask & !ALL == 0).ok_or("an unknown bit in a mask")?;
    if mask & BIT_MTIME != 0 && mask & BIT_RAW_MTIME != 0 {
        return Err("an mtime given twice");
    }
    let header = &mut before.header;
    if mask & BIT_NAME != 0 {
        take_name(&mut columns.names, &mut before.name, &mut header[NAME])?;
    }
    let mut plain = |header: &mut [u8; BLOCK], field: Field| -> Result<(), Broken> {
        let length = field.len();
        header[field].copy_from_slice(columns.fields.raw(length)?);
        Ok(())
    };
    for (bit, field) in &PLAIN[..2] {
        if mask & bit != 0 {
            plain(header, field.clone())?;
        }
    }
    if mask & BIT_SIZE != 0 {
        plain(header, SIZE)?;
    } else {
        header[SIZE].copy_from_slice(&octal(size).ok_or("a size of over eleven octal digits")?);
    }
    if mask & BIT_MTIME != 0 {
        before.mtime = before.mtime.checked_add(columns.mtimes.vs()?).ok_or("an mtime out of range")?;
        let field = u64::try_from(before.mtime).ok().and_then(octal).ok_or("an mtime out of range")?;
        header[MTIME].copy_from_slice(&field);
    } else if mask & BIT_RAW_MTIME != 0 {
        plain(header, MTIME)?;
    }
    let spelled = if mask & BIT_CHECKSUM != 0 { Some(CHECKSUM) } else { None };
    if let Some(field) = spelled.clone() {
        plain(header, field)?;
    }
    if mask & PLAIN[2].0 != 0 {
        plain(header, TYPE)?;
    }
    if mask & BIT_LINK != 0 {
        take_name(&mut columns.names, &mut before.link, &mut header[LINK])?;
    }
    for (bit, field) in &PLAIN[3..] {
        if mask & bit != 0 {
            plain(header, field.clone())?;
        }
    }
    if spelled.is_none() {
        let field = checksum_field(header);
        header[CHECKSUM].copy_from_slice(&field);
    }
    Ok(*header)
}
