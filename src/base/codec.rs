//! Numbers and texts as ferry's formats have them (docs/format/bundle.md, "Numbers").

/// A rule of the coding that bytes break; the caller adds the place.
pub(crate) type Broken = &'static str;

/// Appends `vu`.
pub(crate) fn put_vu(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `vs`.
pub(crate) fn put_vs(out: &mut Vec<u8>, value: i64) {
    put_vu(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends `bytes` or `text`.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_vu(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes coded values from the front of bytes that nobody vouches for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub fn left(&self) -> usize {
        self.0.len()
    }

    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Broken> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("cut short")?;
        self.0 = rest;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, Broken> {
        Ok(self.raw(1)?[0])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    pub fn vu(&mut self) -> Result<u64, Broken> {
        let mut value = 0u64;
        for at in 0..10 {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if at == 9 && bits > 1 {
                return Err("a number over 64 bits");
            }
            value |= bits << (7 * at);
            if byte < 0x80 {
                return if byte == 0 && at > 0 { Err("a number not in its shortest form") } else { Ok(value) };
            }
        }
        Err("a number over 64 bits")
    }

    pub fn vs(&mut self) -> Result<i64, Broken> {
        let value = self.vu()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn length(&mut self) -> Result<usize, Broken> {
        usize::try_from(self.vu()?).map_err(|_| "a length over the address space")
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.length()?;
        self.raw(length)
    }

    pub fn text(&mut self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a text that is not UTF-8")
    }

    /// A count of things of at least `least` bytes each, which must fit into what is left.
    pub fn count(&mut self, least: usize) -> Result<usize, Broken> {
        let count = self.length()?;
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.left() => Ok(count),
            _ => Err("a count larger than its table"),
        }
    }

    pub fn end(&self) -> Result<(), Broken> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes left over at the end") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_only_their_shortest_form_is_taken() {
        for value in [0u64, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_vu(&mut out, value);
            put_vs(&mut out, value as i64);
            let mut take = Take(&out);
            assert_eq!((take.vu(), take.vs()), (Ok(value), Ok(value as i64)));
            assert_eq!(take.end(), Ok(()));
        }
        for bad in [&[0x80, 0][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert!(Take(bad).vu().is_err(), "{bad:x?}");
        }
        assert!(Take(&[5, 1, 2]).count(1).is_err());
    }
}
