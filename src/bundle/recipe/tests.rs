use super::*;

/// One step of a made-up layer.
enum Step {
    Segment(Vec<u8>),
    Content(u32, u64),
}
use Step::{Content, Segment};

fn header(name: &str, size: u64, mtime: &str, mode: &str) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, mode);
    put(124, &format!("{size:011o}"));
    put(136, mtime);
    put(156, "0");
    put(257, "ustar\x0000");
    put(148, "        ");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn layers() -> Vec<(&'static str, Vec<Step>)> {
    let mut broken_sum = header("c", 5, "00000000010\0", "0644");
    broken_sum[149] ^= 1;
    vec![
        ("an empty tar", vec![]),
        ("a trailer alone", vec![Segment(vec![0; 1024])]),
        (
            "the common case",
            vec![
                Segment(header("a/b", 700, "00000000100\0", "0644")),
                Content(0, 700),
                Segment([vec![0; 324], header("a/c", 512, "00000000077\0", "0755")].concat()),
                Content(1, 512),
                Segment([header("a/d", 0, "00000000077\0", "0755"), vec![0; 10240]].concat()),
            ],
        ),
        (
            "what is not canonical",
            vec![
                Segment(broken_sum),
                Content(2, 5),
                Segment([vec![7; 507], header("x", 12, "not a number", "0644")].concat()),
                Content(2, 5),
                Segment(b"short".to_vec()),
                Content(0, 700),
                Segment([vec![0; 100], b"tail that ends anywhere".to_vec()].concat()),
            ],
        ),
        (
            "long metadata before a header",
            vec![
                Segment(
                    [header("pax", 27, "00000000100\0", "0644"), b"27 path=".to_vec(), vec![b'p'; 19], vec![0; 485]]
                        .concat(),
                ),
                Segment(header("p", 1, "00000000100\0", "0644")),
                Content(3, 1),
                Segment([vec![0; 511], vec![9; 700], vec![0; 2000]].concat()),
            ],
        ),
        ("content without header or padding", vec![Content(0, 700), Content(1, 512), Content(1, 512)]),
    ]
}

const SIZES: [u64; 4] = [700, 512, 5, 1];

fn sizes(number: u32) -> Option<u64> {
    SIZES.get(number as usize).copied()
}

fn encode(steps: &[Step]) -> (Vec<u8>, Vec<u8>, u64) {
    let mut encoder = RecipeEncoder::default();
    let mut expected = Vec::new();
    for step in steps {
        match step {
            Segment(bytes) => {
                expected.extend_from_slice(bytes);
                // In pieces, as a parser gives it.
                bytes.chunks(300).for_each(|piece| encoder.segment(piece));
            }
            Content(number, size) => {
                expected.extend(vec![b'0' + *number as u8; *size as usize]);
                encoder.content(*number, *size);
            }
        }
    }
    let recipe = encoder.finish();
    let mut out = Vec::new();
    recipe.put(&mut out, &|number| number);
    (out, expected, recipe.size)
}

fn decode(recipe: &[u8], size: u64) -> Result<Vec<u8>, &'static str> {
    let mut reader = RecipeReader::new(recipe, size)?;
    let mut out = Vec::new();
    while let Some(piece) = reader.next(recipe, &sizes)? {
        match piece {
            Piece::Bytes(bytes) => out.extend_from_slice(bytes),
            Piece::Zeros(n) => out.resize(out.len() + n as usize, 0),
            Piece::Content { number } => out.resize(out.len() + SIZES[number as usize] as usize, b'0' + number as u8),
        }
    }
    Ok(out)
}

#[test]
fn a_recipe_gives_back_the_exact_tar() {
    for (name, steps) in layers() {
        let (recipe, expected, size) = encode(&steps);
        assert_eq!(size, expected.len() as u64, "{name}");
        assert!(decode(&recipe, size).is_ok_and(|tar| tar == expected), "{name}");
        assert!(decode(&recipe, size + 1).is_err(), "{name}: too few bytes");
        if size > 0 {
            assert!(decode(&recipe, size - 1).is_err(), "{name}: too many bytes");
        }
    }
}

#[test]
fn a_damaged_recipe_is_an_error_or_other_bytes_of_the_same_length_and_never_a_panic() {
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for (name, steps) in layers() {
        let (recipe, _, size) = encode(&steps);
        for _ in 0..2000 {
            let mut bad = recipe.clone();
            for _ in 0..1 + next() % 3 {
                let at = next() % bad.len();
                match next() % 3 {
                    0 => bad[at] = next() as u8,
                    1 => bad[at] ^= 1 << (next() % 8),
                    _ => bad.truncate(at.max(1)),
                }
            }
            if let Ok(tar) = decode(&bad, size) {
                assert_eq!(tar.len() as u64, size, "{name}");
            }
        }
    }
}
