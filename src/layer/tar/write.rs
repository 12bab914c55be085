//! Tar entries as Go writes them, and so docker: ustar, with PAX records for what does not fit.

use std::io::{self, Write};

use super::BLOCK;
use super::entry::{Entry, Kind};

/// What twelve octal digits and less can say.
const OCTAL: [u64; 2] = [0o777_7777, 0o777_7777_7777];

/// Writes a number as octal digits with a NUL behind them.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    for (i, byte) in field[..digits].iter_mut().enumerate() {
        let shift = 3 * (digits - 1 - i);
        *byte = b'0' + if shift < 64 { (value >> shift & 7) as u8 } else { 0 };
    }
}

/// A PAX record, whose length counts its own digits.
fn record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn put(field: &mut [u8], text: &[u8]) {
    let n = text.len().min(field.len());
    field[..n].copy_from_slice(&text[..n]);
}

/// Closes a header with its checksum.
fn seal(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block[155] = b' ';
}

fn flag(kind: Kind) -> io::Result<u8> {
    Ok(match kind {
        Kind::Regular => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::Global | Kind::Other(_) => return Err(io::ErrorKind::InvalidInput.into()),
    })
}

/// Ustar's own limits on a text.
fn fits(text: &[u8]) -> bool {
    text.len() <= 100 && text.is_ascii()
}

/// Writes an entry's headers. [`Entry::stored`] bytes of data and [`pad`] have to follow. Sparse maps are not written.
pub fn header(out: &mut dyn Write, entry: &Entry) -> io::Result<()> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut number = |keyword: &str, value: u64, limit: u64| {
        if value <= limit {
            return value;
        }
        records.push((keyword.into(), value.to_string().into_bytes()));
        0
    };
    let uid = number("uid", entry.uid.into(), OCTAL[0]);
    let gid = number("gid", entry.gid.into(), OCTAL[0]);
    let size = number("size", entry.stored, OCTAL[1]);
    let seconds = u64::try_from(entry.mtime.seconds).ok().filter(|seconds| *seconds <= OCTAL[1]);
    if seconds.is_none() || entry.mtime.nanoseconds > 0 {
        records.push((b"mtime".to_vec(), time(entry.mtime).into_bytes()));
    }
    for (keyword, text) in [("path", &entry.path), ("linkpath", &entry.link)] {
        if !fits(text) {
            records.push((keyword.into(), text.clone()));
        }
    }
    for (name, value) in &entry.xattrs {
        records.push(([b"SCHILY.xattr.", &name[..]].concat(), value.clone()));
    }
    if !records.is_empty() {
        records.sort();
        let mut bytes = Vec::new();
        for (keyword, value) in &records {
            record(&mut bytes, keyword, value);
        }
        let mut block = [0; BLOCK];
        let base = entry.path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty()).unwrap_or_default();
        put(&mut block[..100], &[b"PaxHeaders.0/", base].concat());
        for at in [100, 108, 116] {
            octal(&mut block[at..at + 8], 0);
        }
        octal(&mut block[124..136], bytes.len() as u64);
        octal(&mut block[136..148], 0);
        block[156] = b'x';
        put(&mut block[257..265], b"ustar\x0000");
        seal(&mut block);
        out.write_all(&block)?;
        out.write_all(&bytes)?;
        pad(out, bytes.len() as u64)?;
    }
    let mut block = [0; BLOCK];
    put(&mut block[..100], &entry.path);
    octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
    octal(&mut block[108..116], uid);
    octal(&mut block[116..124], gid);
    octal(&mut block[124..136], size);
    octal(&mut block[136..148], seconds.unwrap_or(0));
    block[156] = flag(entry.kind)?;
    put(&mut block[157..257], &entry.link);
    put(&mut block[257..265], b"ustar\x0000");
    octal(&mut block[329..337], entry.device.0.into());
    octal(&mut block[337..345], entry.device.1.into());
    seal(&mut block);
    out.write_all(&block)
}

/// Seconds and, when there is one, their fraction, as PAX has them: the fraction of a negative time counts away from 0.
fn time(time: super::Time) -> String {
    let total = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let (sign, total) = (if total < 0 { "-" } else { "" }, total.unsigned_abs());
    let text = format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Fills up after `size` bytes of data.
pub fn pad(out: &mut dyn Write, size: u64) -> io::Result<()> {
    let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    out.write_all(&[0; BLOCK][..padding])
}

/// Ends an archive.
pub fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}
