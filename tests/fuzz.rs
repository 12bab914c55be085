//! Every parser of images, archives, layers and stores, fed with what was once well formed: none panics, none hangs,
//! and what is taken is what it says it is.
//!
//! `FERRY_FUZZ` is the number of inputs for each target, `FERRY_FUZZ_SEED` where the random numbers begin. An input
//! that fails is kept, and named.

use std::fs::{self, File};
use std::io::{Cursor, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferry::archive::{self, Input, OpenOptions};
use ferry::base::{BoxFault, Ctx, Digest};
use ferry::image::config::RunConfig;
use ferry::image::{Form, ImageConfig, ImageSource, Manifest, Platform, Reference, SplitContent, SplitSink, change};
use ferry::layer::assemble::{Assembler, Unpacked, prove};
use ferry::layer::compression::{Compression, DecodeLimits};
use ferry::layer::{ApplyOptions, Target, apply, split, tar_split};
use ferry::store::{Depth, Options, Store};
use ferry::sys::dir::Dir;

use crate::layer::python_tar;
use crate::store::Memory;
use crate::support::images::{SHAPES, bzip2, gzip, pair, xz, zstd};

/// How many inputs a target gets.
pub fn runs() -> usize {
    std::env::var("FERRY_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// xorshift64*: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn new(target: &str) -> Self {
        let seed: u64 = std::env::var("FERRY_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let name = target
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self((name ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const BYTES: &[u8] = b"\x00\x01\x7f\x80\xff09/.\"'{}[]:@-\n ";
const NUMBERS: &[&str] =
    &["0", "-1", "1e999", "4294967296", "9223372036854775807", "18446744073709551616", "77777777777"];
const WORDS: &[&str] =
    &["../", "/", "\0", "[[[[[[[[", "{\"a\":", "sha256:", "\u{ffff}", "null", ".wh.", ".wh..wh..opq", "%s"];

/// One of the seeds, changed in a few places.
fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(64)).min(bytes.len());
        match random.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = *random.pick(BYTES),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                let piece = &other[from..(from + random.below(600)).min(other.len())];
                let end = (at + piece.len()).min(bytes.len());
                bytes.splice(at..end, piece.iter().copied());
            }
            6 => {
                // The next number becomes another.
                let digits = |byte: &u8| byte.is_ascii_digit();
                if let Some(start) = bytes[at..].iter().position(digits).map(|n| at + n) {
                    let end = bytes[start..].iter().position(|byte| !digits(byte)).map_or(bytes.len(), |n| start + n);
                    bytes.splice(start..end, random.pick(NUMBERS).bytes());
                }
            }
            7 => drop(bytes.splice(at..at, random.pick(WORDS).bytes())),
            _ => {
                let kinds = b"0123456789xgLKSVD\0";
                // A tar entry of another kind.
                let block = at / 512 * 512;
                if let Some(kind) = bytes.get_mut(block + 156) {
                    *kind = *random.pick(kinds);
                }
            }
        }
    }
    bytes
}

/// Makes the checksums of tar headers right, so that parsers go on behind them.
fn mend_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

/// Runs a target over `count` inputs, mutated seeds. Long enough for a slow machine, an input that takes this long hangs.
pub fn fuzz(target: &str, count: usize, seeds: &[Vec<u8>], is_tar: bool, run: impl Fn(&[u8])) {
    const LONG: Duration = Duration::from_secs(60);
    let mut random = Random::new(target);
    for round in 0..count.max(seeds.len()) {
        // The seeds themselves first.
        let mut bytes = seeds.get(round).cloned().unwrap_or_else(|| mutate(seeds, &mut random));
        if is_tar && random.below(4) > 0 {
            mend_checksums(&mut bytes);
        }
        let began = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| run(&bytes)));
        if result.is_err() || began.elapsed() > LONG {
            let kept = keep(target, round, &bytes);
            panic!("{target}: {} {}", if result.is_err() { "fails on" } else { "hangs on" }, kept.display());
        }
    }
}

fn keep(target: &str, round: usize, bytes: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("{}-{round}", target.replace(' ', "-")));
    fs::write(&path, bytes).unwrap();
    path
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn names_documents_and_instructions_are_refused_or_mean_what_they_say() {
    let digest = Digest::of(b"x").to_string();
    let names = texts(&["nginx", "a/b:1", "host:5000/team/app:v1.2", &format!("ghcr.io/a/b@{digest}"), &digest]);
    fuzz("reference", runs(), &names, false, |bytes| {
        let Ok(name) = String::from_utf8_lossy(bytes).parse::<Reference>() else { return };
        assert_eq!(name.to_string().parse::<Reference>().unwrap(), name);
        assert_eq!(name.full().parse::<Reference>().unwrap(), name);
    });
    fuzz("platform", runs(), &texts(&["linux/arm64/v8", "amd64", "linux/arm/v7"]), false, |bytes| {
        let Ok(platform) = String::from_utf8_lossy(bytes).parse::<Platform>() else { return };
        assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
    });
    let configs: Vec<Vec<u8>> = pair().iter().map(|image| image.config.clone()).collect();
    fuzz("config", runs(), &configs, false, |bytes| {
        let Ok(config) = ImageConfig::parse(bytes.to_vec()) else { return };
        assert_eq!(config.id().0, Digest::of(bytes));
        assert_eq!(config.chain_ids().len(), config.diff_ids().len());
    });
    let mut memory = Memory::default();
    memory.image(&["one"], &[crate::store::layer(&[("etc/a", "a")])], true);
    let manifests = vec![memory.images[0].manifest.as_ref().unwrap().raw().to_vec()];
    fuzz("manifest", runs(), &manifests, false, |bytes| {
        let Ok(manifest) = Manifest::parse(bytes.to_vec(), None) else { return };
        assert_eq!((manifest.digest(), manifest.descriptor().size), (Digest::of(bytes), bytes.len() as u64));
    });
    let changes = texts(&[
        "CMD [\"/bin/sh\", \"-c\", \"x\"]",
        "ENTRYPOINT echo $A",
        "ENV A=1 B=\"two words\" C='x'",
        "EXPOSE 80/tcp 90-95",
        "LABEL a=b \"c d\"=e",
        "VOLUME [\"/data\"]",
        "HEALTHCHECK --interval=5s CMD true",
        "WORKDIR a/../b",
        "USER 1:2",
        "ONBUILD RUN x",
        "STOPSIGNAL SIGTERM",
    ]);
    fuzz("change", runs(), &changes, false, |bytes| {
        let _ = change::apply(&mut RunConfig::default(), &[String::from_utf8_lossy(bytes).into_owned()]);
    });
}

/// Layers with all that a tar can hold.
fn layers() -> Vec<Vec<u8>> {
    let kinds = "add('d', type=D, mode=0o755)\nadd('d/f', b'x' * 700, mode=0o4755, uid=3000000)\nadd('h', type=H, link='d/f')\n\
                 add('s', type=S, link='/d')\nadd('s/through', b'1')\nadd('d/f', b'again')\nadd('.wh.gone')\n\
                 add('d/.wh..wh..opq')\nadd('n' * 150, b'2')\nadd('p', type=tarfile.FIFOTYPE)\nadd('c', type=tarfile.CHRTYPE, devmajor=1)";
    let pax = "add('a', b'1', pax={'mtime': '-1.5', 'SCHILY.xattr.user.x': 'v', 'path': 'other', 'uid': '5', 'size': '1'})\n\
               add('b', b'y' * 3000, pax={'GNU.sparse.major': '0', 'GNU.sparse.minor': '1', 'GNU.sparse.size': '9000', 'GNU.sparse.map': '0,1500,6000,1500', 'GNU.sparse.name': 'sparse'})\n\
               add('c', b'2\\n0\\n5\\n10\\n5\\n' + b'\\0' * 501 + b'1234567890', pax={'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '20', 'GNU.sparse.name': 's1'})";
    vec![python_tar("GNU_FORMAT", kinds), python_tar("PAX_FORMAT", kinds), python_tar("PAX_FORMAT", pax)]
}

#[test]
fn layers_are_refused_or_come_back_bit_for_bit() {
    fuzz("layer", runs(), &layers(), true, |bytes| {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(dir.path().join("diff")).unwrap();
        let tree = || Dir::open(dir.path().join("diff")).unwrap();
        let tar_split = dir.path().join("split");
        let target = Target { tree: tree(), spare: dir.path().join("spare"), tar_split: tar_split.clone() };
        let options = ApplyOptions { writers: 0, ..ApplyOptions::default() };
        let Ok(applied) = apply(&mut &*bytes, &target, &options, &Ctx::silent()) else { return };
        assert_eq!((applied.diff_id.0, applied.tar_size), (Digest::of(bytes), bytes.len() as u64));
        let tar_split = File::open(tar_split).unwrap();
        let mut back = Vec::new();
        let unpacked = Unpacked { tree: tree(), tar_split, contents: Some(applied.contents) };
        Assembler::new(unpacked).read_to_end(&mut back).unwrap();
        assert!(back == bytes, "other bytes come back");
    });
}

#[test]
fn a_layer_taken_apart_is_all_of_it() {
    #[derive(Default)]
    struct Count(u64);
    impl SplitSink for Count {
        fn segment(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
            self.0 += bytes.len() as u64;
            Ok(())
        }

        fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault> {
            assert_eq!(content.offset, self.0);
            self.0 += content.size;
            Ok(())
        }
    }
    fuzz("split", runs(), &layers(), true, |bytes| {
        let mut count = Count::default();
        let Ok(whole) = split(&mut &*bytes, &mut count) else { return };
        assert_eq!((whole.digest, whole.size, count.0), (Digest::of(bytes), bytes.len() as u64, bytes.len() as u64));
    });
}

#[test]
fn tar_splits_lead_nowhere_but_into_their_tree() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::create_dir(dir.path().join("diff")).unwrap();
    fs::write(dir.path().join("diff/f"), b"content").unwrap();
    fs::write(dir.path().join("outside"), b"outside").unwrap();
    let mut crc = tar_split::crc64();
    crc.update(b"outside");
    let mut writer = tar_split::Writer::new(Vec::new());
    writer.segment(&[7; 600]).unwrap();
    writer.file(b"f", 7, None).unwrap();
    writer.file(b"../outside", 7, Some(crc.finalize().to_be_bytes())).unwrap();
    writer.file(b"raw-\xff", 0, None).unwrap();
    let mut seed = Vec::new();
    flate2::read::GzDecoder::new(writer.finish().unwrap().as_slice()).read_to_end(&mut seed).unwrap();
    let path = dir.path().join("split");
    fuzz("tar-split", runs(), &[seed], false, |bytes| {
        fs::write(&path, gzip(bytes)).unwrap();
        let mut reader = tar_split::Reader::new(File::open(&path).unwrap());
        while let Ok(Some(_)) = reader.next_piece() {}
        let tree = Dir::open(dir.path().join("diff")).unwrap();
        if let Ok((_, _, contents)) = prove(Unpacked { tree, tar_split: File::open(&path).unwrap(), contents: None }) {
            let outside = ferry::base::ContentId::of(b"outside");
            assert!(contents.iter().all(|content| content.id != outside), "it was read from outside the tree");
        }
    });
}

#[test]
fn compressed_streams_end() {
    let text: Vec<u8> = (0..20_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    for (compression, seed) in [
        (Compression::Gzip, gzip(&text)),
        (Compression::Bzip2, bzip2(&text)),
        (Compression::Xz, xz(&text)),
        (Compression::Zstd, zstd(&text)),
    ] {
        fuzz(&format!("{compression:?}"), runs() / 2, &[seed], false, |bytes| {
            let Ok(decoder) = compression.decoder(Box::new(bytes), &DecodeLimits::default()) else { return };
            let _ = std::io::copy(&mut decoder.take(64 << 20), &mut std::io::sink());
        });
    }
}

#[test]
fn corrections_of_a_replayed_layer_are_refused_or_make_something_of_bounded_size() {
    let tar: Vec<u8> = (0..60_000_u32).flat_map(|n| (n * n / 977 % 2000).to_le_bytes()).collect();
    let column = |bytes: &[u8]| [&[bytes.len() as u8], bytes].concat();
    let head = column(b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
    let seed = |blocks: &[u8], gaps: &[u8], tokens: &[u8]| {
        [&head[..], &column(blocks), &column(gaps), &column(tokens)].concat()
    };
    // Flushes, other kinds of block, a beginning anew, codes of their own, other tokens.
    let tables = [
        &[0, 7, 0x9a, 0x01][..],
        &[0x1d, 0xc6, 0x49, 1, 0, 0, 0x10, 0x40, 0x2e, 0xa3, 0x7e, 0xb7, 0x66, 7, 0xfc, 9],
        &[0; 12],
    ];
    let seeds = [
        seed(&[], &[], &[]),
        seed(&[0, 24, 0xe8, 7, 0, 9, 0], &[3, 200, 1], &[0, 5, 9]),
        seed(&[0, 9, 0xff, 0x7f, 1, 2, 0, 72, 0xb0, 0xea, 1, 0, 35], &[100, 1, 50], &[0, 0x81, 1, 0x80, 2, 0]),
        seed(&tables.concat(), &[], &[]),
    ];
    for how in [[3, 1], [3, 6], [4, 9], [5, 6]] {
        let model = ferry::layer::replay::Model::from_bytes(how).unwrap();
        fuzz(&format!("corrections {how:?}"), runs() / 8, &seeds, false, |bytes| {
            let Ok(mut made) = ferry::layer::replay::Corrected::new(model, bytes.to_vec(), &tar[..]) else { return };
            let most = 3 * tar.len() as u64 + 64 * bytes.len() as u64;
            let mut out = Vec::new();
            let _ = (&mut made).take(most + 1).read_to_end(&mut out);
            assert!(out.len() as u64 <= most, "{} bytes", out.len());
        });
    }
}

#[test]
fn archives_are_refused_or_hold_what_their_digests_say() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { spool: dir.path().into(), ..OpenOptions::default() };
    let read = |bytes: &[u8]| -> Result<(), BoxFault> {
        let input = Input::Stream(Box::new(Cursor::new(bytes.to_vec())), "fuzz".into());
        let source = archive::open(input, &options, &Ctx::silent())?;
        crate::archive::read_all(&*source)?;
        for image in source.images() {
            assert_eq!(image.config.id().0, Digest::of(image.config.raw()));
            if let Some(manifest) = &image.manifest {
                assert_eq!(manifest.config().digest, image.config.id().0);
            }
        }
        Ok(())
    };
    let plain: Vec<Vec<u8>> = SHAPES.iter().map(|(_, make)| make(&pair())).collect();
    fuzz("archive", runs(), &plain, true, |bytes| drop(read(bytes)));
    let packed: Vec<Vec<u8>> =
        plain.iter().flat_map(|bytes| [gzip(bytes), bzip2(bytes), xz(bytes), zstd(bytes)]).collect();
    fuzz("packed archive", runs() / 4, &packed, false, |bytes| drop(read(bytes)));
}

/// All regular files of a store that are not a layer's own.
fn metadata_of(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() && !path.ends_with("diff") {
            metadata_of(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn a_store_that_fsck_finds_whole_is_whole_whatever_happened_to_its_files() {
    let ctx = Ctx::silent();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = dir.path().join("store");
    let store = Store::open_or_create(&root, Options::default()).unwrap();
    let mut memory = Memory::default();
    let base = crate::store::layer(&[("etc/a", "a"), ("etc/b", "some more")]);
    memory.image(&["one:1"], std::slice::from_ref(&base), true);
    memory.image(&["two:2"], &[base.clone(), crate::store::layer(&[("etc/c", "c")]), base], false);
    memory.load(&store, |_| {}).unwrap();
    let mut files = Vec::new();
    metadata_of(&root, &mut files);
    let mut random = Random::new("store");
    let everything = |root: &Path| -> Result<(), BoxFault> {
        let store = Store::open(root, Options::default())?;
        let images = store.images(&ctx);
        let findings = store.fsck(Depth::Contents, &ctx)?;
        if !findings.is_empty() {
            return Ok(());
        }
        let source = store.source(&images?, &ctx)?;
        for layer in source.images().iter().flat_map(|image| &image.layers) {
            let mut bytes = Vec::new();
            source.open_layer(layer, Form::Tar)?.read_to_end(&mut bytes).unwrap();
            assert_eq!(Digest::of(&bytes), layer.diff_id.0);
        }
        Ok(())
    };
    everything(&root).unwrap();
    for round in 0..runs() / 2 {
        let path = random.pick(&files).clone();
        let Ok(before) = fs::read(&path) else { continue };
        let bytes = mutate(std::slice::from_ref(&before), &mut random);
        fs::write(&path, &bytes).unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| drop(everything(&root))));
        assert!(result.is_ok(), "{} kept as {}", path.display(), keep("store", round, &bytes).display());
        fs::write(&path, &before).unwrap();
    }
    everything(&root).unwrap();
}

#[test]
fn a_list_of_work_to_be_finished_is_refused_or_harms_nothing() {
    let ctx = Ctx::silent();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = dir.path().join("store");
    let store = Store::open_or_create(&root, Options::default()).unwrap();
    let mut memory = Memory::default();
    let id = memory.image(&["one:1"], &[crate::store::layer(&[("etc/a", "a")])], true);
    memory.load(&store, |_| {}).unwrap();
    let (chain, other) = (memory.images[0].config.chain_ids()[0], Digest::of(b"other"));
    let journal = serde_json::json!({
        "layers": [{"chain_id": chain, "parent": null, "cache_id": "a".repeat(64), "link": "A".repeat(26)},
                   {"chain_id": other, "parent": chain, "cache_id": "b".repeat(64), "link": "B".repeat(26)}],
        "contents": [other], "blobs": [other], "originals": [other], "v2_metadata": [other], "blob_diff_ids": [other],
        "manifests": [], "images": [other],
        "names": [{"name": "two:2", "before": null, "after": id}],
    });
    fuzz("journal", runs() / 2, &[journal.to_string().into_bytes()], false, |bytes| {
        let stage = root.join("ferry/staging/dead");
        fs::create_dir_all(&stage).unwrap();
        File::create(stage.join("journal.json")).unwrap().write_all(bytes).unwrap();
        let _ = Store::open(&root, Options::default());
        fs::remove_dir_all(&stage).or_else(|error| if stage.exists() { Err(error) } else { Ok(()) }).unwrap();
        let store = Store::open(&root, Options::default()).unwrap();
        assert_eq!(store.fsck(Depth::Contents, &ctx).unwrap(), []);
        assert_eq!(store.resolve("one:1").unwrap().id(), id);
    });
}
