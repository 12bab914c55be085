//! Huffman codes as Go's `compress/flate` chooses them: optimal under a limit on their length, and among those the ones
//! that package-merge finds when equal packages go before leaves.

/// Codes for an alphabet: each symbol's code, lowest bit first, and its length in bits; 0 for what does not occur.
#[derive(Clone)]
pub struct Codes(pub Vec<(u16, u8)>);

fn reversed(code: u16, length: u8) -> u16 {
    if length == 0 { 0 } else { code.reverse_bits() >> (16 - length) }
}

impl Codes {
    /// The literal codes of RFC 1951, 3.2.6.
    pub fn fixed_literals() -> Self {
        let code = |symbol: u16| match symbol {
            0..144 => (symbol + 0x30, 8),
            144..256 => (symbol - 144 + 0x190, 9),
            256..280 => (symbol - 256, 7),
            _ => (symbol - 280 + 0xc0, 8),
        };
        Self((0..286).map(code).map(|(code, length)| (reversed(code, length), length)).collect())
    }

    /// The distance codes of RFC 1951, 3.2.6.
    pub fn fixed_distances() -> Self {
        Self((0..30).map(|code| (reversed(code, 5), 5)).collect())
    }

    /// Codes of at most `limit` bits for symbols that occur so often.
    pub fn new(frequencies: &[u32], limit: usize) -> Self {
        let mut codes = vec![(0, 0); frequencies.len()];
        let mut leaves: Vec<(u32, u16)> =
            (0..).zip(frequencies).filter(|(_, n)| **n > 0).map(|(symbol, n)| (*n, symbol)).collect();
        if leaves.len() <= 2 {
            // No tree to speak of: one bit each.
            for (code, (_, symbol)) in (0..).zip(&leaves) {
                codes[usize::from(*symbol)] = (code, 1);
            }
            return Self(codes);
        }
        leaves.sort_unstable();
        let lengths = lengths(&leaves, limit.min(leaves.len() - 1));
        // The most frequent symbols are at the end and get the shortest codes; among equals the order is the alphabet's.
        let mut rest = leaves;
        let mut code = 0_u16;
        for (length, count) in (1_u8..).zip(lengths) {
            code <<= 1;
            let mut symbols: Vec<u16> =
                rest.split_off(rest.len() - count).into_iter().map(|(_, symbol)| symbol).collect();
            symbols.sort_unstable();
            for symbol in symbols {
                codes[usize::from(symbol)] = (reversed(code, length), length);
                code += 1;
            }
        }
        Self(codes)
    }

    /// The codes of RFC 1951, 3.2.2, for lengths that make a code.
    pub fn of_lengths(lengths: &[u8]) -> Self {
        let mut counts = [0_u16; 16];
        lengths.iter().filter(|length| **length > 0).for_each(|length| counts[usize::from(*length)] += 1);
        let mut next = [0_u16; 16];
        for length in 1..16 {
            next[length] = next[length - 1].wrapping_add(counts[length - 1]) << 1;
        }
        let mut code = |length: u8| {
            let next = &mut next[usize::from(length)];
            let code = *next;
            *next = next.wrapping_add(u16::from(length > 0));
            (reversed(code, length), length)
        };
        Self(lengths.iter().map(|length| code(*length)).collect())
    }

    /// How many bits the symbols take in all.
    pub fn bits(&self, frequencies: &[u32]) -> u64 {
        self.0.iter().zip(frequencies).map(|((_, length), n)| u64::from(*length) * u64::from(*n)).sum()
    }
}

/// How many codes there are of one bit, of two, ... up to `limit`, for at least three leaves in ascending order.
fn lengths(leaves: &[(u32, u16)], limit: usize) -> Vec<usize> {
    // For each row whether its items are leaves, and their weights: a row is the leaves merged with the pairs of the
    // row before.
    let mut rows: Vec<Vec<bool>> = Vec::with_capacity(limit);
    let mut weights: Vec<u64> = Vec::new();
    for _ in 0..limit {
        let mut pairs = weights.chunks_exact(2).map(|pair| pair[0] + pair[1]).peekable();
        let mut next = leaves.iter().map(|(n, _)| u64::from(*n)).peekable();
        let (mut row, mut merged) = (Vec::new(), Vec::new());
        while merged.len() < 2 * leaves.len() {
            let leaf = match (next.peek(), pairs.peek()) {
                (Some(leaf), Some(pair)) => leaf < pair,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            let weight = if leaf { next.next() } else { pairs.next() };
            merged.extend(weight);
            row.push(leaf);
        }
        rows.push(row);
        weights = merged;
    }
    let mut needed = 2 * leaves.len() - 2;
    let mut used: Vec<usize> = Vec::with_capacity(limit + 1);
    for row in rows.iter().rev() {
        let of_leaves = row[..needed].iter().filter(|leaf| **leaf).count();
        used.push(of_leaves);
        needed = 2 * (needed - of_leaves);
    }
    used.push(0);
    used.windows(2).map(|pair| pair[0] - pair[1]).collect()
}
