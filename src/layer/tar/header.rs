//! One header block: fixed fields, numbers in octal or base 256 (POSIX.1-1988, GNU tar's tar.h).

use super::BLOCK;

/// The fields of a header block, numbers read.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub name: &'a [u8],
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: u64,
    pub mtime: i64,
    pub type_flag: u8,
    pub link: &'a [u8],
    /// Of ustar and PAX; GNU has other things there.
    pub prefix: &'a [u8],
    pub dev_major: i64,
    pub dev_minor: i64,
}

impl<'a> Header<'a> {
    /// Reads a block whose checksum must be right.
    pub fn parse(block: &'a [u8; BLOCK]) -> Result<Self, &'static str> {
        let stated = number(&block[148..156]).ok_or("its checksum is not a number")?;
        // Old programs summed signed bytes.
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stated != unsigned && stated != signed {
            return Err("the header's checksum is wrong");
        }
        let ustar = &block[257..262] == b"ustar";
        let gnu = &block[257..265] == b"ustar  \0";
        let device = |range: std::ops::Range<usize>| if ustar { number(&block[range]) } else { Some(0) };
        let size = number(&block[124..136]).ok_or("a size is not a number")?;
        Ok(Self {
            name: text(&block[..100]),
            mode: number(&block[100..108]).ok_or("a mode is not a number")?,
            uid: number(&block[108..116]).ok_or("a user ID is not a number")?,
            gid: number(&block[116..124]).ok_or("a group ID is not a number")?,
            size: u64::try_from(size).map_err(|_| "a size is negative")?,
            mtime: number(&block[136..148]).ok_or("a time is not a number")?,
            type_flag: block[156],
            link: text(&block[157..257]),
            prefix: if ustar && !gnu { text(&block[345..500]) } else { &[] },
            dev_major: device(329..337).ok_or("a device number is not a number")?,
            dev_minor: device(337..345).ok_or("a device number is not a number")?,
        })
    }

    /// Whether the block announces metadata for the entry after it.
    pub fn is_extension(&self) -> bool {
        matches!(self.type_flag, b'x' | b'g' | b'L' | b'K' | b'X')
    }
}

/// A field up to its NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// A number: base 256 when the first bit is set, octal otherwise; an empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement; the first bit only says that it is binary.
        let negative = first & 0x40 != 0;
        let mut value = if negative { -1_i64 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            let shifted = value.checked_mul(256)?;
            value = shifted | i64::from(byte);
        }
        return Some(value);
    }
    let digits = field.trim_ascii_start();
    let digits = &digits[..digits.iter().position(|b| *b == 0 || *b == b' ').unwrap_or(digits.len())];
    digits.iter().try_fold(0_i64, |value, digit| {
        let digit = (*digit as char).to_digit(8)?;
        value.checked_mul(8)?.checked_add(i64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_octal_or_binary_and_may_be_negative() {
        for (field, value) in [
            (b"0000644\0".as_slice(), Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77777777)),
            (b"12x\0", None),
            (b"\x80\0\0\0\0\0\x01\x00", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
