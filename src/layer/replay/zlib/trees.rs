//! Huffman codes and kinds of block as zlib and GNU gzip choose them: a heap whose ties go to the shallower tree, codes
//! that are too long shortened by its rule, literals' and distances' lengths packed apart.

use crate::layer::replay::bits::{Bits, Counts, Description, END, Packed, Token};
use crate::layer::replay::huffman::Codes;

/// The longest code of a symbol, and of a length, in bits.
const LONGEST: usize = 15;
const LONGEST_LENGTH: usize = 7;

/// The forms of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Stored,
    Fixed,
    Dynamic,
}

/// The codes of a dynamic block.
pub struct Tables {
    pub codes: (Codes, Codes),
    description: Description,
}

/// What zlib makes of the tokens of a block.
pub struct Choice {
    pub form: Form,
    pub tables: Tables,
}

impl Choice {
    /// For `tokens` that stand for `plain` bytes.
    pub fn of(tokens: &[Token], plain: usize, fixed: &(Codes, Codes)) -> Self {
        let mut counts = Counts::of(tokens);
        counts.literals[END] = 1;
        let lengths = (lengths(&counts.literals, LONGEST), lengths(&counts.distances, LONGEST));
        let mut packed = pack(&lengths.0);
        packed.append(&mut pack(&lengths.1));
        let of_lengths = |uses: &[u32]| {
            let mut all = self::lengths(uses, LONGEST_LENGTH);
            all.resize(uses.len(), 0);
            Codes::of_lengths(&all)
        };
        let description = Description::with(lengths.0.len(), lengths.1.len(), packed, of_lengths);
        let codes = (Codes::of_lengths(&lengths.0), Codes::of_lengths(&lengths.1));
        // All in whole bytes, as zlib compares them.
        let dynamic = (description.size + counts.bits(&codes) + counts.extra).div_ceil(8);
        let fixed = (3 + counts.bits(fixed) + counts.extra).div_ceil(8);
        let form = if plain as u64 + 4 <= dynamic.min(fixed) && plain <= usize::from(u16::MAX) {
            Form::Stored
        } else if fixed <= dynamic {
            Form::Fixed
        } else {
            Form::Dynamic
        };
        Self { form, tables: Tables { codes, description } }
    }
}

impl Tables {
    /// Puts the description of the codes.
    pub fn put(&self, bits: &mut Bits) {
        bits.put_tables(&self.description);
    }
}

/// The lengths of the codes of symbols that occur so often, up to the last that has one. There are always two codes.
fn lengths(counts: &[u32], limit: usize) -> Vec<u8> {
    let count = counts.len();
    let mut tree = Tree { weights: counts.to_vec(), depths: vec![0; 2 * count], heap: Vec::with_capacity(count + 1) };
    tree.weights.resize(2 * count, 0);
    // Places are counted from 1.
    tree.heap.push(0);
    tree.heap.extend((0..count).filter(|symbol| counts[*symbol] > 0));
    let mut last = tree.heap.last().copied().filter(|_| tree.heap.len() > 1);
    while tree.heap.len() < 3 {
        let symbol = match last {
            None => 0,
            Some(symbol @ 0..2) => symbol + 1,
            Some(_) => 0,
        };
        last = last.max(Some(symbol));
        tree.heap.push(symbol);
        tree.weights[symbol] = 1;
    }
    let last = last.unwrap_or(0);
    for place in (1..=(tree.heap.len() - 1) / 2).rev() {
        tree.sink(place);
    }
    // The two lightest become one, until one is left; those that went, in this order.
    let mut gone = Vec::with_capacity(2 * count);
    let mut parents = vec![0; 2 * count];
    let mut node = count;
    loop {
        let least = tree.take();
        let next = tree.heap[1];
        gone.extend([least, next]);
        tree.weights[node] = tree.weights[least] + tree.weights[next];
        tree.depths[node] = tree.depths[least].max(tree.depths[next]) + 1;
        (parents[least], parents[next]) = (node, node);
        tree.heap[1] = node;
        node += 1;
        tree.sink(1);
        if tree.heap.len() == 2 {
            break;
        }
    }
    let root = tree.heap[1];
    let mut lengths = vec![0_u8; 2 * count];
    let mut of_length = [0_u32; LONGEST + 1];
    let mut over = 0_i32;
    for node in gone.iter().rev().copied().filter(|node| *node != root) {
        let length = usize::from(lengths[parents[node]]) + 1;
        over += i32::from(length > limit);
        let length = length.min(limit);
        lengths[node] = length as u8;
        if node < count {
            of_length[length] += 1;
        }
    }
    if over > 0 {
        while over > 0 {
            // The tree of all codes is longer than the limit, so that some code is shorter than it.
            let Some(shorter) = (1..limit).rev().find(|length| of_length[*length] > 0) else { break };
            of_length[shorter] -= 1;
            of_length[shorter + 1] += 2;
            of_length[limit] -= 1;
            over -= 2;
        }
        let mut leaves = gone.iter().filter(|node| **node < count);
        for length in (1..=limit).rev() {
            for leaf in leaves.by_ref().take(of_length[length] as usize) {
                lengths[*leaf] = length as u8;
            }
        }
    }
    lengths.truncate(last + 1);
    lengths
}

/// Nodes, the symbols first, and a heap of those that have no parent yet.
struct Tree {
    weights: Vec<u32>,
    depths: Vec<u8>,
    heap: Vec<usize>,
}

impl Tree {
    fn is_lighter(&self, one: usize, other: usize) -> bool {
        let of = |node: usize| (self.weights[node], self.depths[node]);
        of(one) <= of(other)
    }

    /// Moves a node down to where it belongs.
    fn sink(&mut self, mut place: usize) {
        let node = self.heap[place];
        loop {
            let mut child = 2 * place;
            if child >= self.heap.len() {
                break;
            }
            if child + 1 < self.heap.len() && self.is_lighter(self.heap[child + 1], self.heap[child]) {
                child += 1;
            }
            if self.is_lighter(node, self.heap[child]) {
                break;
            }
            self.heap[place] = self.heap[child];
            place = child;
        }
        self.heap[place] = node;
    }

    /// Takes the lightest.
    fn take(&mut self) -> usize {
        let least = self.heap.swap_remove(1);
        self.sink(1);
        least
    }
}

/// Runs of equal lengths, packed as zlib does.
fn pack(lengths: &[u8]) -> Packed {
    let mut packed = Vec::with_capacity(lengths.len());
    for run in lengths.chunk_by(|a, b| a == b) {
        let length = usize::from(run[0]);
        let mut left = run.len();
        // The first of a run stands for itself where it is not zero.
        let most = if length == 0 { 138 } else { 6 };
        if length != 0 {
            packed.push((length, 0, 0));
            left -= 1;
        }
        while left >= 3 {
            let n = left.min(most);
            packed.push(match length {
                0 if n <= 10 => (17, 3, n as u32 - 3),
                0 => (18, 7, n as u32 - 11),
                _ => (16, 2, n as u32 - 3),
            });
            left -= n;
        }
        packed.extend(std::iter::repeat_n((length, 0, 0), left));
    }
    packed
}
