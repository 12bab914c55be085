//! The search for matches of zlib's deflate, levels 1 to 9, and of GNU gzip, which has the same: hash chains over the
//! last 32 KiB, and at levels from 4 on a look one byte further. It tells the next token; the one that was really there
//! may be another, and then it goes on from that.

use crate::layer::replay::bits::Token;
use crate::layer::replay::effort::Effort;

const WINDOW: usize = 1 << 15;
const MIN_MATCH: usize = 3;
const MAX_MATCH: usize = 258;
/// How far back a match may begin: zlib keeps some room.
const MAX_DISTANCE: usize = WINDOW - (MAX_MATCH + MIN_MATCH + 1);
/// The shortest matches are used no further than this when looking one byte further.
const TOO_FAR: usize = 4096;
/// So much must follow the next token, where anything does.
pub const AHEAD: usize = 1024;

#[derive(Clone, Copy)]
struct Found {
    length: usize,
    distance: usize,
}

const NOTHING: Found = Found { length: MIN_MATCH - 1, distance: 0 };

/// The state of the search.
pub struct Predictor {
    effort: Effort,
    /// Whether the next byte is never looked at: levels 1 to 3.
    pub is_fast: bool,
    shift: u32,
    /// What was compressed, from at least 32 KiB before `at` on, and what follows.
    pub window: Vec<u8>,
    /// Where the next token begins.
    pub at: usize,
    /// Places before this one were noted, or passed by.
    noted: usize,
    /// What was found at `at` when the token before was predicted.
    found: Option<Found>,
    /// The last place of each hash; 0 is none, as in zlib, where nothing is found at the very first byte.
    head: Vec<u32>,
    /// The place with the same hash before each place.
    previous: Box<[u32; WINDOW]>,
}

impl Predictor {
    /// Of a level, with hashes of so many bits.
    pub fn new(level: u8, hash_bits: u32) -> Self {
        Self {
            effort: Effort::of_zlib(level),
            is_fast: level <= 3,
            shift: hash_bits.div_ceil(3),
            window: Vec::new(),
            at: 0,
            noted: 0,
            found: None,
            head: vec![0; 1 << hash_bits],
            previous: Box::new([0; WINDOW]),
        }
    }

    /// Forgets what is not needed any more; gives how many bytes that is.
    pub fn slide(&mut self) -> usize {
        let less = self.at.saturating_sub(WINDOW) / WINDOW * WINDOW;
        self.window.drain(..less);
        self.at -= less;
        self.noted = self.noted.saturating_sub(less);
        for place in self.head.iter_mut().chain(self.previous.iter_mut()) {
            *place = place.saturating_sub(less as u32);
        }
        less
    }

    /// Begins anew with the 32 KiB before, all of whose places are noted.
    pub fn prime(&mut self) {
        self.head.fill(0);
        self.noted = self.at.saturating_sub(WINDOW);
        self.found = None;
        self.note(self.at);
    }

    /// Notes places up to `end`.
    fn note(&mut self, end: usize) {
        let end = end.min((self.window.len() + 1).saturating_sub(MIN_MATCH));
        while self.noted < end {
            let at = self.noted;
            let bytes = &self.window[at..at + MIN_MATCH];
            let [first, second, third] = [bytes[0], bytes[1], bytes[2]].map(usize::from);
            let hash = (first << (2 * self.shift) ^ second << self.shift ^ third) & (self.head.len() - 1);
            self.previous[at % WINDOW] = std::mem::replace(&mut self.head[hash], at as u32);
            self.noted += 1;
        }
    }

    /// The token that zlib would make next, when it knew the bytes up to `end`, of which there are some.
    pub fn predict(&mut self, end: usize) -> Token {
        let here = match self.found.take() {
            Some(found) => found,
            None => self.search(self.at, end, NOTHING.length),
        };
        if here.length < MIN_MATCH {
            return Token::Literal(self.window[self.at]);
        }
        if !self.is_fast && here.length < self.effort.lazy {
            let next = self.search(self.at + 1, end, here.length);
            if next.length > here.length {
                self.found = Some(next);
                return Token::Literal(self.window[self.at]);
            }
        }
        Token::Match((here.length - 3) as u8, (here.distance - 1) as u16)
    }

    /// The token that was there: whether it is the predicted one is told by `right`. A match must lie in the window.
    pub fn accept(&mut self, token: Token, right: bool, end: usize) {
        if !right {
            self.found = None;
        }
        match token {
            Token::Literal(_) => self.at += 1,
            Token::Match(length, _) => {
                let length = usize::from(length) + 3;
                self.at += length;
                if self.is_fast && (length > self.effort.lazy || end < self.at + MIN_MATCH) {
                    self.noted = self.noted.max(self.at);
                }
            }
        }
    }

    /// Goes on elsewhere.
    pub fn jump(&mut self, at: usize) {
        self.at = at;
        self.found = None;
    }

    /// The best match at a place that is longer than `before`; nothing when there is none.
    fn search(&mut self, at: usize, end: usize, before: usize) -> Found {
        self.note(at + 1);
        let most = MAX_MATCH.min(end.saturating_sub(at));
        if most < MIN_MATCH || before >= most {
            return NOTHING;
        }
        let here = &self.window[at..at + most];
        let nice = self.effort.nice.min(most);
        let mut tries = if before >= self.effort.good { self.effort.chain >> 2 } else { self.effort.chain };
        let mut found = NOTHING;
        let mut best = before;
        let mut candidate = self.previous[at % WINDOW] as usize;
        // The first may be as far as this, the others must be nearer.
        if candidate + MAX_DISTANCE < at {
            return NOTHING;
        }
        let limit = at.saturating_sub(MAX_DISTANCE);
        let mut tail = (here[best - 1], here[best]);
        // What was passed by has no place in a chain, and chains go back only.
        while candidate != 0 && candidate < at {
            let there = &self.window[candidate..candidate + most];
            if there[best] == tail.1 && there[best - 1] == tail.0 {
                let length = same(here, there);
                if length > best {
                    found = Found { length, distance: at - candidate };
                    best = length;
                    if length >= nice {
                        break;
                    }
                    tail = (here[best - 1], here[best]);
                }
            }
            let next = self.previous[candidate % WINDOW] as usize;
            tries -= 1;
            if tries == 0 || next <= limit || next >= candidate {
                break;
            }
            candidate = next;
        }
        if !self.is_fast && found.length == MIN_MATCH && found.distance > TOO_FAR { NOTHING } else { found }
    }
}

/// How many bytes are the same at the begin of two stretches of one length.
fn same(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let different = word(a) ^ word(b);
        if different != 0 {
            return at + different.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}
