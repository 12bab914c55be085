//! What a bundle promises: everything comes back bit for bit, the same input gives the same bytes, and no input that
//! is not a bundle does harm.

use std::collections::HashMap;
use std::io::{Cursor, Read, Write};
use std::process::Command;
use std::sync::{Arc, Mutex};

use ferry::base::{BoxFault, Class, Ctx, Digest, ReadAt};
use ferry::bundle::index::{LayerKind, Replay, ShortId};
use ferry::bundle::outline::outline;
use ferry::bundle::{BaseContents, Bundle, BundleOptions, BundleSink, BundleSource, KnownBase, Level};
use ferry::image::{DiffId, Extent, Form, Image, ImageConfig, ImageSink, ImageSource, Layer, Manifest, SplitContent};
use ferry::layer::replay::{Recipe, rebuild};

/// Images in memory.
struct Memory {
    images: Vec<Image>,
    tars: HashMap<DiffId, Vec<u8>>,
    /// Of those layers that came compressed.
    blobs: HashMap<DiffId, Vec<u8>>,
    /// Whether contents can be read in any order.
    random: bool,
}

impl ImageSource for Memory {
    fn origin(&self) -> String {
        "memory".into()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        let blob = self.blobs.get(&layer.diff_id).filter(|_| form == Form::Original);
        Ok(Box::new(Cursor::new(blob.unwrap_or_else(|| &self.tars[&layer.diff_id]))))
    }

    fn has_contents(&self, _: &Layer) -> bool {
        self.random
    }

    fn content(&self, layer: &Layer, content: &SplitContent<'_>) -> Result<Option<Extent>, BoxFault> {
        let bytes: Arc<dyn ReadAt> = Arc::new(self.tars[&layer.diff_id].clone());
        Ok(self.random.then_some(Extent { bytes, offset: content.offset }))
    }
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut next = random(seed);
    (0..length).map(|_| next() as u8).collect()
}

fn entry(tar: &mut Vec<u8>, path: &str, kind: u8, mtime: u64, data: &[u8]) {
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\x000000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Layers as images have them, and as they should not.
fn tars() -> Vec<Vec<u8>> {
    let mut plain = Vec::new();
    entry(&mut plain, "etc/", b'5', 100, b"");
    entry(&mut plain, "etc/hostname", b'0', 100, b"ferry\n");
    entry(&mut plain, "etc/empty", b'0', 101, b"");
    entry(&mut plain, "etc/link", b'2', 101, b"");
    entry(&mut plain, "usr/big", b'0', 102, &noise(1, 3 << 20));
    plain.resize(plain.len() + 1024, 0);
    // Rebuilt: other times, one changed byte in the big file, one duplicate path.
    let mut big = noise(1, 3 << 20);
    big[1_500_000] ^= 0xff;
    let mut rebuilt = Vec::new();
    entry(&mut rebuilt, "etc/", b'5', 200, b"");
    entry(&mut rebuilt, "etc/hostname", b'0', 200, b"ferry\n");
    entry(&mut rebuilt, "usr/big", b'0', 202, &big);
    entry(&mut rebuilt, "usr/big", b'0', 203, b"again");
    rebuilt.resize(rebuilt.len() + 10240, 0);
    let mut odd = Vec::new();
    entry(&mut odd, "pax", b'x', 0, b"22 path=a/longer/name\n");
    entry(&mut odd, "short", b'0', 1, &[0; 700]);
    entry(&mut odd, "global", b'g', 0, b"12 comment=x\n");
    entry(&mut odd, "late", b'0', 0o77777777777, b"\xff\xfe");
    odd.extend_from_slice(b"garbage behind the last entry, of no block's length");
    vec![plain, rebuilt, odd, Vec::new(), vec![0; 1024]]
}

fn memory(tars: Vec<Vec<u8>>, random: bool) -> Memory {
    let tars: Vec<(DiffId, Vec<u8>)> = tars.into_iter().map(|tar| (DiffId(Digest::of(&tar)), tar)).collect();
    let image = |name: &str, layers: &[usize], manifest: bool| {
        let ids: Vec<String> = layers.iter().map(|at| format!("\"{}\"", tars[*at].0)).collect();
        let text = format!(
            "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"extra\":\"{name}\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
            ids.join(",")
        );
        let config = ImageConfig::parse(text.into_bytes()).unwrap();
        let descriptor = ferry::image::Descriptor::of("application/vnd.oci.image.config.v1+json", config.raw());
        let blob = |at: &usize| ferry::image::Descriptor::of("application/vnd.oci.image.layer.v1.tar", &tars[*at].1);
        let blobs = layers.iter().map(blob).collect();
        let layers = layers
            .iter()
            .map(|at| Layer { diff_id: tars[*at].0, size: Some(tars[*at].1.len() as u64), original: None })
            .collect();
        let manifest = manifest.then(|| Manifest::build(descriptor, blobs));
        let names =
            if name.is_empty() { Vec::new() } else { vec![name.parse().unwrap(), "b.example/x:1".parse().unwrap()] };
        Image { names, config, manifest, layers }
    };
    let all: Vec<usize> = (0..tars.len()).collect();
    let images = vec![image("app:v1", &all, true), image("app:v2", &[1, 0], false), image("", &[], false)];
    Memory { images, tars: tars.into_iter().collect(), blobs: HashMap::new(), random }
}

fn options(level: Level, threads: usize) -> BundleOptions {
    BundleOptions {
        level,
        threads,
        memory: BundleOptions::MEMORY,
        keep_originals: true,
        spool_dir: std::env::temp_dir(),
    }
}

fn write(source: &Memory, options: BundleOptions) -> Vec<u8> {
    let mut sink = BundleSink::new(Vec::new(), options);
    sink.take(source, source.images(), &Ctx::silent()).unwrap_or_else(|fault| panic!("{fault}"));
    sink.into_inner()
}

fn open(bytes: Vec<u8>) -> Result<BundleSource, BoxFault> {
    let bundle = Bundle::open(Arc::new(bytes), "test.ferry")?;
    Ok(BundleSource::new(bundle, std::env::temp_dir(), BundleOptions::MEMORY)?)
}

/// All layers of a source, as they come.
fn read_all(source: &dyn ImageSource) -> Result<HashMap<DiffId, Vec<u8>>, BoxFault> {
    read_as(source, Form::Tar)
}

fn read_as(source: &dyn ImageSource, form: Form) -> Result<HashMap<DiffId, Vec<u8>>, BoxFault> {
    let wanted: Vec<(Layer, Form)> =
        source.images().iter().flat_map(|image| &image.layers).map(|layer| (layer.clone(), form)).collect();
    let out = Mutex::new(HashMap::new());
    source.visit_layers(&wanted, 2, &Ctx::silent(), &|layer, tar| {
        let mut bytes = Vec::new();
        tar.read_to_end(&mut bytes)
            .map_err(|source| ferry::bundle::BundleError::Io { action: "read".into(), source })?;
        out.lock().unwrap().insert(layer.diff_id, bytes);
        Ok(())
    })?;
    Ok(out.into_inner().unwrap())
}

#[test]
fn images_come_out_of_a_bundle_bit_for_bit() {
    for random in [true, false] {
        let source = memory(tars(), random);
        let bundle = open(write(&source, options(Level::FAST, 2))).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(bundle.images().len(), source.images().len());
        for (got, expected) in bundle.images().iter().zip(source.images()) {
            assert_eq!(got.config.raw(), expected.config.raw());
            assert_eq!(got.names, expected.names);
            assert_eq!(got.manifest, expected.manifest);
            assert_eq!(got.layers, expected.layers);
        }
        assert!(read_all(&bundle).unwrap_or_else(|fault| panic!("{fault}")) == source.tars);
        // And one alone, without a plan.
        let layer = &source.images[0].layers[1];
        let fresh = open(write(&source, options(Level::FAST, 1))).unwrap_or_else(|fault| panic!("{fault}"));
        let mut tar = Vec::new();
        fresh.open_layer(layer, Form::Tar).unwrap_or_else(|_| panic!()).read_to_end(&mut tar).unwrap();
        assert!(tar == source.tars[&layer.diff_id]);
    }
}

#[test]
fn the_same_images_give_the_same_bytes_on_any_number_of_threads_and_from_any_kind_of_source() {
    let one = write(&memory(tars(), true), options(Level::DEFAULT, 1));
    for (threads, random, memory_budget) in [(2, true, 0), (3, true, 1 << 40), (8, false, 300 << 20)] {
        let mut options = options(Level::DEFAULT, threads);
        options.memory = memory_budget;
        assert!(write(&memory(tars(), random), options) == one, "{threads} threads");
    }
}

#[test]
fn a_changed_byte_in_a_large_file_costs_a_chunk_and_a_rebuilt_layer_its_headers() {
    let tars = tars();
    let one = write(&memory(vec![tars[0].clone(), tars[0].clone()], true), options(Level::FAST, 1)).len();
    let both = write(&memory(tars, true), options(Level::FAST, 1)).len();
    assert!(both < one + 20_000, "{one} and {both} bytes");
}

/// The same images, as a registry has them: the first layer as docker compresses it, the second as another program does,
/// in so many gzip members.
fn compressed(mut source: Memory, members: usize) -> Memory {
    let layers: Vec<DiffId> = source.images[0].layers.iter().map(|layer| layer.diff_id).collect();
    let mut docker = Vec::new();
    let how = Recipe::from_bytes([1, 6]).unwrap();
    rebuild(how, &mut &source.tars[&layers[0]][..], &mut docker, &Ctx::silent()).unwrap();
    let tar = &source.tars[&layers[1]];
    let mut other = Vec::new();
    for part in tar.chunks(tar.len().div_ceil(members)) {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        member.write_all(part).unwrap();
        other.append(&mut member.finish().unwrap());
    }
    source.blobs = HashMap::from([(layers[0], docker), (layers[1], other)]);
    for layer in source.images.iter_mut().flat_map(|image| &mut image.layers) {
        if let Some(blob) = source.blobs.get(&layer.diff_id) {
            layer.original =
                Some(ferry::image::Descriptor::of("application/vnd.docker.image.rootfs.diff.tar.gzip", blob));
        }
    }
    source
}

#[test]
fn compressed_layers_come_back_by_their_registry_digests_and_what_docker_compressed_is_deduplicated() {
    let source = compressed(memory(tars(), true), 2);
    let bytes = write(&source, options(Level::FAST, 1));
    for (threads, random) in [(2, true), (3, false)] {
        let again = write(&compressed(memory(tars(), random), 2), options(Level::FAST, threads));
        assert!(again == bytes, "{threads} threads");
    }
    assert_eq!(bytes[8..12], [2, 0, 2, 0], "readers of the first format cannot read it");
    let bundle = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}"));
    let layers = &bundle.bundle().index().layers;
    assert!(
        matches!(layers[0].kind, LayerKind::Split { .. })
            && layers[0].replay == Recipe::from_bytes([1, 6]).map(Replay::Exact)
    );
    assert!(matches!(layers[1].kind, LayerKind::Blob { .. }) && layers[1].replay.is_none());
    assert!(layers[2..].iter().all(|layer| layer.original.is_none() && layer.replay.is_none()));
    for (got, expected) in bundle.images().iter().zip(&source.images) {
        assert_eq!(got.layers, expected.layers);
    }
    assert!(read_as(&bundle, Form::Tar).unwrap_or_else(|fault| panic!("{fault}")) == source.tars);
    let mut originals = source.tars.clone();
    originals.extend(source.blobs.clone());
    assert!(read_as(&bundle, Form::Original).unwrap_or_else(|fault| panic!("{fault}")) == originals);
    // What does not come from docker costs its blob once more.
    let blob = source.blobs[&layers[1].diff_id].len();
    let plain = write(&memory(tars(), true), options(Level::FAST, 1)).len();
    assert!(bytes.len() < plain + blob + 20_000, "{} bytes", bytes.len());
    // A bundle of bundles: the blob is found to be docker's again.
    let mut sink = BundleSink::new(Vec::new(), options(Level::FAST, 2));
    sink.take(&bundle, bundle.images(), &Ctx::silent()).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(sink.into_inner() == bytes);
    // Nor may it pass for one of the first format.
    let mut old = bytes;
    old[10] = 1;
    let fault = open(old).map(drop).unwrap_err();
    assert!(fault.to_string().contains("first format"), "{fault}");
    // Without originals all of it is split, and any reader reads it.
    let mut without = options(Level::FAST, 1);
    without.keep_originals = false;
    assert!(write(&source, without) == write(&memory(tars(), true), options(Level::FAST, 1)));
}

#[test]
fn what_podman_compressed_is_deduplicated_too_and_needs_a_reader_of_the_third_format() {
    let mut source = compressed(memory(tars(), true), 2);
    let first = source.images[0].layers[0].diff_id;
    let mut podman = Vec::new();
    let how = Recipe::from_bytes([2, 5]).unwrap();
    rebuild(how, &mut &source.tars[&first][..], &mut podman, &Ctx::silent()).unwrap();
    for layer in source.images.iter_mut().flat_map(|image| &mut image.layers) {
        if layer.diff_id == first {
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            layer.original = Some(ferry::image::Descriptor::of(media_type, &podman));
        }
    }
    source.blobs.insert(first, podman);
    let bytes = write(&source, options(Level::FAST, 2));
    assert_eq!(bytes[8..12], [3, 0, 3, 0]);
    let bundle = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(bundle.bundle().index().layers[0].replay, Some(Replay::Exact(how)));
    let mut originals = source.tars.clone();
    originals.extend(source.blobs.clone());
    assert!(read_as(&bundle, Form::Original).unwrap_or_else(|fault| panic!("{fault}")) == originals);
    for (format, said) in [(1, "first format"), (2, "newer than its format")] {
        let mut old = bytes.clone();
        old[10] = format;
        let fault = open(old).map(drop).unwrap_err();
        assert!(fault.to_string().contains(said), "{format}: {fault}");
    }
}

/// A command that compresses its standard input, what is found to have made it, and the most it may take to correct.
const PEERS: [(&str, &str, u32); 17] = [
    ("python3 -c {} 1", "zlib, level 1", 32),
    ("python3 -c {} 2", "zlib, level 2", 32),
    ("python3 -c {} 3", "zlib, level 3", 32),
    ("python3 -c {} 4", "zlib, level 4", 32),
    ("python3 -c {} 5", "zlib, level 5", 32),
    ("python3 -c {} 6", "zlib, level 6", 32),
    ("python3 -c {} 7", "zlib, level 7", 32),
    ("python3 -c {} 8", "zlib, level 8", 32),
    ("python3 -c {} 9", "zlib, level 9", 32),
    ("python3 -c {} 6 9", "zlib with memory level 9, level 6", 32),
    ("python3 -c {} 6 8 flush", "zlib, level 6", 500),
    ("gzip -1", "GNU gzip, level 1", 32),
    ("gzip -6", "GNU gzip, level 6", 32),
    ("gzip -9", "GNU gzip, level 9", 32),
    ("pigz -1", "zlib, level 1", 200),
    ("pigz -6", "zlib, level 6", 200),
    ("pigz -nTR", "zlib, level 6", 3000),
];

const PYTHON: &str = r#"'
import struct, sys, zlib
level, memory, flush = int(sys.argv[1]), int((sys.argv + ["8"])[2]) if len(sys.argv) > 2 else 8, len(sys.argv) > 3
data = sys.stdin.buffer.read()
z = zlib.compressobj(level, zlib.DEFLATED, -15, memory)
out = bytes.fromhex("1f8b08080000000000ff") + b"layer.tar\0"
for at in range(0, len(data), 50000):
    out += z.compress(data[at:at + 50000])
    if flush:
        out += z.flush(zlib.Z_SYNC_FLUSH)
sys.stdout.buffer.write(out + z.flush() + struct.pack("<II", zlib.crc32(data), len(data)))
'"#;

#[test]
fn what_zlib_gzip_and_pigz_compressed_is_deduplicated_with_few_corrections() {
    let dir = tempfile::tempdir().unwrap();
    let sources = Command::new("tar")
        .args(["-c", "-C"])
        .arg(crate::support::checkout())
        .arg("src/bundle/volume")
        .output()
        .unwrap();
    let program = &std::fs::read("/bin/busybox").unwrap()[..200_000];
    // One layer for each, with a file of its own before the ones that all have.
    let tars: Vec<Vec<u8>> = (0..PEERS.len())
        .map(|at| {
            let mut tar = Vec::new();
            entry(&mut tar, "name", b'0', 100, PEERS[at].0.as_bytes());
            entry(&mut tar, "bin/busybox", b'0', 100, program);
            [&tar[..], &sources.stdout].concat()
        })
        .collect();
    let mut source = memory(tars.clone(), true);
    for (at, (tar, (command, ..))) in tars.iter().zip(PEERS).enumerate() {
        let path = dir.path().join(at.to_string());
        std::fs::write(&path, tar).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", &command.replace("{}", PYTHON)]).stdin(std::fs::File::open(&path).unwrap());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        source.blobs.insert(DiffId(Digest::of(tar)), output.stdout);
    }
    for layer in source.images.iter_mut().flat_map(|image| &mut image.layers) {
        let blob = &source.blobs[&layer.diff_id];
        layer.original = Some(ferry::image::Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", blob));
    }
    let bytes = write(&source, options(Level::FAST, 2));
    assert_eq!(bytes[8..12], [4, 0, 4, 0]);
    let bundle = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}"));
    for (layer, (command, model, most)) in bundle.bundle().index().layers.iter().zip(PEERS) {
        let Some(replay @ Replay::Corrected { length, .. }) = layer.replay else { panic!("{command}: {layer:?}") };
        println!("{command}: {replay}, {length} bytes of {}", source.blobs[&layer.diff_id].len());
        assert_eq!(replay.to_string(), model, "{command}");
        assert!(length <= most, "{command}: {length} bytes of corrections");
    }
    let mut originals = source.tars.clone();
    originals.extend(source.blobs.clone());
    assert!(read_as(&bundle, Form::Original).unwrap_or_else(|fault| panic!("{fault}")) == originals);
    // Seventeen layers in the room of one, and from a source that is read once the same.
    let plain = write(&memory(tars.clone(), true), options(Level::FAST, 1)).len();
    assert!(bytes.len() < plain + 10_000, "{} bytes, without originals {plain}", bytes.len());
    source.random = false;
    assert!(write(&source, options(Level::FAST, 1)) == bytes);
}

/// Bundles that were written once and are read for ever after; `FERRY_WRITE_VECTORS` writes the missing ones.
fn vector(name: &str, make: impl Fn() -> Vec<u8>) -> Vec<u8> {
    let path = crate::support::checkout().join("testdata/bundle").join(name);
    if !path.exists() && std::env::var_os("FERRY_WRITE_VECTORS").is_some() {
        std::fs::write(&path, make()).unwrap();
    }
    std::fs::read(&path).unwrap()
}

/// Small layers, so that the vectors are.
fn small() -> Memory {
    let words = |seed: u64, count: usize| -> Vec<u8> {
        let mut next = random(seed);
        (0..count).flat_map(|_| format!("{} ", next() % 1000).into_bytes()).collect()
    };
    let mut first = Vec::new();
    entry(&mut first, "etc/hostname", b'0', 100, b"ferry\n");
    entry(&mut first, "usr/text", b'0', 100, &words(3, 2_000));
    first.resize(first.len() + 1024, 0);
    let mut second = Vec::new();
    let mut text = words(3, 2_000);
    text[77] = b'x';
    entry(&mut second, "usr/text", b'0', 200, &text);
    second.resize(second.len() + 1024, 0);
    memory(vec![first, second], true)
}

#[test]
fn the_vectors_of_every_format_are_read_for_ever() {
    let plain = small();
    let docker = compressed(small(), 1);
    let ctx = Ctx::silent();
    let read = |bundle: &BundleSource, source: &Memory| {
        for (got, expected) in bundle.images().iter().zip(&source.images) {
            assert_eq!((&got.names, got.config.raw()), (&expected.names, expected.config.raw()));
        }
        let mut originals = source.tars.clone();
        originals.extend(source.blobs.clone());
        assert!(read_as(bundle, Form::Tar).unwrap_or_else(|fault| panic!("{fault}")) == source.tars);
        assert!(read_as(bundle, Form::Original).unwrap_or_else(|fault| panic!("{fault}")) == originals);
    };
    let open = |bytes| open(bytes).unwrap_or_else(|fault| panic!("{fault}"));
    let first = open(vector("plain.ferry", || write(&plain, options(Level::DEFAULT, 1))));
    read(&first, &plain);
    read(&open(vector("replay.ferry", || write(&docker, options(Level::DEFAULT, 1)))), &docker);
    // The second layer against a bundle that has the first.
    let base = || {
        let mut only = small();
        only.images.truncate(1);
        only.images[0] = small_image(&only.images[0], 1);
        only
    };
    let old = Arc::new(open(vector("base.ferry", || write(&base(), options(Level::DEFAULT, 1)))));
    let thin = vector("thin.ferry", || {
        let known = KnownBase::of_bundle(old.clone(), &ctx).unwrap_or_else(|fault| panic!("{fault}"));
        let mut sink = BundleSink::new(Vec::new(), options(Level::DEFAULT, 1)).against(vec![known]);
        sink.take(&plain, &plain.images, &ctx).unwrap_or_else(|fault| panic!("{fault}"));
        sink.into_inner()
    });
    let thin = open(thin);
    assert_eq!(thin.bundle().index().frames[0].prefix.len(), 1, "the changed file is the difference to its version");
    let thin = thin.with_base(old).unwrap_or_else(|fault| panic!("{fault}"));
    let changed = plain.images[0].layers[1].clone();
    let mut tar = Vec::new();
    thin.open_layer(&changed, Form::Tar).unwrap_or_else(|fault| panic!("{fault}")).read_to_end(&mut tar).unwrap();
    assert!(tar == plain.tars[&changed.diff_id]);
}

/// An image of the first `count` layers of another.
fn small_image(image: &Image, count: usize) -> Image {
    let layers: Vec<Layer> = image.layers[..count].to_vec();
    let ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", layer.diff_id)).collect();
    let text = format!(
        "{{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{}]}}}}",
        ids.join(",")
    );
    Image {
        names: vec!["app:v0".parse().unwrap()],
        config: ImageConfig::parse(text.into_bytes()).unwrap(),
        manifest: None,
        layers,
    }
}

#[test]
fn the_bad_vectors_are_refused_each_for_its_reason() {
    let folder = crate::support::checkout().join("testdata/bundle");
    let text = std::fs::read_to_string(folder.join("bad.txt")).unwrap();
    let mut refused = 0;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [file, offset, bytes, reason] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let mut bad = std::fs::read(folder.join(file)).unwrap();
        // From the end when negative.
        let offset: i64 = offset.parse().unwrap();
        let at = usize::try_from(if offset < 0 { bad.len() as i64 + offset } else { offset }).unwrap();
        match bytes {
            "cut" => bad.truncate(at),
            bytes => {
                let bytes = hex::decode(bytes).unwrap();
                bad[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        let fault = open(bad).and_then(|bundle| read_all(&bundle).map(drop)).unwrap_err();
        assert!(fault.to_string().contains(reason), "{line}: {fault}");
        refused += 1;
    }
    assert!(refused >= 10);
}

/// Opening and reading everything ends in an error of a class that says the input is bad, or gives the right bytes.
fn survives(bytes: Vec<u8>, right: &HashMap<DiffId, Vec<u8>>, what: &str) {
    let fault = match open(bytes) {
        Err(fault) => fault,
        Ok(bundle) => match read_all(&bundle) {
            Err(fault) => fault,
            Ok(layers) => {
                for (diff_id, tar) in layers {
                    assert!(right.get(&diff_id) == Some(&tar) || Digest::of(&tar) != diff_id.0, "{what}");
                }
                return;
            }
        },
    };
    let class = fault.class();
    let expected = [Class::Malformed, Class::Integrity, Class::Unsupported, Class::NotFound];
    assert!(expected.contains(&class), "{what}: {class:?}: {fault}");
}

#[test]
fn a_damaged_bundle_is_refused_wherever_the_damage_is() {
    let source = memory(tars(), true);
    let good = write(&source, options(Level::FAST, 1));
    let mut next = random(7);
    for round in 0..600 {
        let mut bad = good.clone();
        // The ends hold the structure; the middle is frames.
        let at = match round % 3 {
            0 => next() as usize % 16,
            1 => bad.len() - 1 - next() as usize % 900,
            _ => next() as usize % bad.len(),
        };
        bad[at] ^= 1 << (next() % 8);
        let fault = match open(bad) {
            Err(fault) => fault,
            Ok(bundle) => match read_all(&bundle) {
                Err(fault) => fault,
                // The format number alone may be higher.
                Ok(layers) => {
                    assert!((8..10).contains(&at) && layers == source.tars, "byte {at}");
                    continue;
                }
            },
        };
        assert!(!matches!(fault.class(), Class::System), "byte {at}: {fault}");
    }
    for length in [0, 1, 15, 16, 79, 80, good.len() / 2, good.len() - 1] {
        survives(good[..length].to_vec(), &source.tars, "cut short");
        assert!(open(good[..length].to_vec()).is_err());
    }
}

/// A bundle against another: what it needs, and what it costs.
fn thin(base: &Arc<BundleSource>, source: &Memory, threads: usize) -> Vec<u8> {
    let known = KnownBase::of_bundle(base.clone(), &Ctx::silent()).unwrap_or_else(|fault| panic!("{fault}"));
    let mut sink = BundleSink::new(Vec::new(), options(Level::FAST, threads)).against(vec![known]);
    sink.take(source, source.images(), &Ctx::silent()).unwrap_or_else(|fault| panic!("{fault}"));
    sink.into_inner()
}

#[test]
fn a_thin_bundle_costs_what_changed_and_reads_only_where_its_base_is() {
    let mut changed = Vec::new();
    let mut big = noise(1, 3 << 20);
    big.splice(1_000_000..1_000_000, *b"some bytes more");
    let mut small = noise(5, 300_000);
    entry(&mut changed, "usr/big", b'0', 300, &big);
    entry(&mut changed, "usr/same", b'0', 300, &small);
    small[1000] ^= 1;
    entry(&mut changed, "usr/lib", b'0', 300, &small);
    let mut older = tars();
    let mut lib = Vec::new();
    entry(&mut lib, "usr/lib", b'0', 100, &noise(5, 300_000));
    older.push(lib);
    let old = memory(older.clone(), true);
    let base = open(write(&old, options(Level::FAST, 2))).unwrap_or_else(|fault| panic!("{fault}"));
    let base = Arc::new(base);
    let new = memory(vec![changed, older[0].clone()], true);
    let bytes = thin(&base, &new, 1);
    assert!(bytes.len() < 8_000, "{} bytes", bytes.len());
    assert!(thin(&base, &new, 2) == bytes, "the same on two threads");
    let alone = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(alone.bundle().index().is_thin());
    // Without its base nothing comes out.
    let layer = new.images[0].layers[0].clone();
    let ctx = Ctx::silent();
    assert!(
        alone
            .visit_layers(&[(layer.clone(), Form::Tar)], 1, &ctx, &|_, tar| {
                std::io::copy(tar, &mut std::io::sink())
                    .map_err(|source| ferry::bundle::BundleError::Io { action: "read".into(), source })?;
                Ok(())
            })
            .is_err()
    );
    let whole = alone.with_base(base.clone()).unwrap_or_else(|fault| panic!("{fault}"));
    let mut tar = Vec::new();
    whole.open_layer(&layer, Form::Tar).unwrap_or_else(|fault| panic!("{fault}")).read_to_end(&mut tar).unwrap();
    assert!(tar == new.tars[&layer.diff_id]);
    // A base that lacks something is named before anything is read.
    let poor = Arc::new(
        open(write(&memory(vec![older[2].clone(), older[3].clone()], true), options(Level::FAST, 1)))
            .unwrap_or_else(|fault| panic!("{fault}")),
    );
    let fault =
        open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}")).with_base(poor.clone()).map(drop).unwrap_err();
    assert!(fault.to_string().contains("test.ferry"), "{fault}");
    // What is read of one is what it has; the rest is named when it is asked for.
    let left_out = &new.images[0].layers[1];
    let part = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}")).with_part_of_base(poor.clone());
    let fault = part.open_layer(left_out, Form::Tar).err().unwrap();
    assert!(fault.class() == Class::NotFound && fault.to_string().contains("test.ferry"), "{fault}");
    // A layer that was left out is the base's, and what the base says of it is not believed.
    assert!(read_all(&whole).unwrap_or_else(|fault| panic!("{fault}")) == new.tars);
    let lied = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}"));
    let lied = lied.with_base(Arc::new(Lying(base.clone()))).unwrap_or_else(|fault| panic!("{fault}"));
    let fault = outline(&lied, &left_out.diff_id, &mut |_| Ok(())).unwrap_err();
    assert_eq!(fault.class(), Class::Integrity, "{fault}");
    // One that has the right name and other bytes is found out.
    let fault_of = |base: Lying| {
        let source = open(bytes.clone()).unwrap_or_else(|fault| panic!("{fault}")).with_base(Arc::new(base)).unwrap();
        let mut tar = Vec::new();
        source
            .open_layer(&layer, Form::Tar)
            .unwrap_or_else(|fault| panic!("{fault}"))
            .read_to_end(&mut tar)
            .unwrap_err()
    };
    assert_eq!(fault_of(Lying(base)).kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn a_changed_file_is_stored_as_the_difference_to_its_base_only_where_that_is_smaller() {
    let old = noise(7, 3 << 20);
    let words: Vec<u8> = (0..50_000_u32).flat_map(|n| format!("line {}\n", n * n % 9973).into_bytes()).collect();
    let mut edited = words.clone();
    edited[70_000..70_005].copy_from_slice(b"other");
    let mut middle = old[1_300_000..1_700_000].to_vec();
    middle.splice(200_000..200_010, *b"a few bytes more");
    let grown = [&old[..300_000], &noise(8, 900_000)[..], &old[300_000..1_200_000]].concat();
    // What the base has, what comes, what it may cost at most, and whether it is a difference.
    for (name, base, new, most, is_difference) in [
        ("a small edit", &words, &edited, 1_500, true),
        ("other bytes altogether", &old[..400_000].to_vec(), &noise(9, 400_000), 401_000, false),
        ("other bytes in chunks", &old, &noise(10, 2 << 20), (2 << 20) + 2_000, false),
        ("too small to pay", &b"one word".to_vec(), &[b"one more word", &[b'.'; 600][..]].concat(), 1_500, false),
        ("a part of a large file", &old, &middle, 2_500, true),
        ("a file that grew in its middle", &old[..1_200_000].to_vec(), &grown, 903_000, true),
    ] {
        let image = |release: u64, data: &[u8]| {
            let (mut layer, mut other) = (Vec::new(), Vec::new());
            entry(&mut layer, "opt/file", b'0', release, data);
            entry(&mut other, "opt/", b'5', release, b"");
            memory(vec![layer, other], true)
        };
        let base = open(write(&image(1, base), options(Level::FAST, 2))).unwrap_or_else(|fault| panic!("{fault}"));
        let (base, new) = (Arc::new(base), image(2, new));
        let bytes = thin(&base, &new, 2);
        assert!(bytes.len() < most, "{name}: {} bytes", bytes.len());
        let source = open(bytes).unwrap_or_else(|fault| panic!("{fault}"));
        let index = source.bundle().index();
        let differs = index.frames.iter().any(|frame| !frame.prefix.is_empty());
        assert_eq!(differs, is_difference, "{name}");
        // Without a difference nothing was left out, and nobody is asked for a base.
        assert_eq!(source.bundle().index().is_thin(), is_difference, "{name}");
        let whole =
            if is_difference { source.with_base(base).unwrap_or_else(|fault| panic!("{fault}")) } else { source };
        let layer = &new.images[0].layers[0];
        let mut tar = Vec::new();
        whole.open_layer(layer, Form::Tar).unwrap_or_else(|fault| panic!("{fault}")).read_to_end(&mut tar).unwrap();
        assert!(tar == new.tars[&layer.diff_id], "{name}");
    }
}

#[test]
fn of_a_name_that_stands_for_several_platforms_the_right_image_is_taken_or_the_choice_is_shown() {
    let mut source = memory(tars(), true);
    let known = source.images[1].clone();
    let of = |architecture: &str, name: &str| {
        let config = String::from_utf8(known.config.raw().to_vec()).unwrap().replace("amd64", architecture);
        let config = ImageConfig::parse(config.into_bytes()).unwrap();
        Image { names: vec![name.parse().unwrap()], config, ..known.clone() }
    };
    let mut taken = |images: Vec<Image>, wanted: Option<&str>| -> Result<Vec<String>, String> {
        source.images = images;
        let bundle = open(write(&source, options(Level::FAST, 1))).unwrap_or_else(|fault| panic!("{fault}"));
        let wanted = wanted.map(|text| text.parse().unwrap());
        let bundle = bundle.for_platform(wanted.as_ref(), &Ctx::silent()).map_err(|error| error.to_string())?;
        let show = |image: &Image| format!("{} {}", image.names[0], image.config.platform());
        Ok(bundle.images().iter().map(show).collect())
    };
    let foreign = || vec![of("s390x", "app:1"), of("riscv64", "app:1"), of("riscv64", "tool:1")];
    let expected = ["app:1 linux/riscv64", "tool:1 linux/riscv64"].map(str::to_owned);
    assert_eq!(taken(foreign(), Some("linux/riscv64")), Ok(expected.to_vec()));
    let lacking = "test.ferry has no image for linux/s390x of tool:1; it has linux/riscv64";
    assert_eq!(taken(foreign(), Some("linux/s390x")), Err(lacking.into()));
    let several = "test.ferry has several platforms of app:1 and none is this host's: linux/s390x, linux/riscv64";
    assert_eq!(taken(foreign(), None), Err(several.into()));
    let host = ferry::image::Platform::host().architecture;
    let own = vec![of("s390x", "app:1"), of(&host, "app:1")];
    assert_eq!(taken(own, None), Ok(vec![format!("app:1 linux/{host}")]));
    // What has one platform is taken whatever it is, and so are two images of one.
    let other = vec![of("s390x", "app:1"), of("s390x", "app:1"), of("riscv64", "tool:1")];
    assert_eq!(taken(other, None).map(|all| all.len()), Ok(3));
}

/// A base whose contents and layers have a flipped bit each.
struct Lying(Arc<BundleSource>);

impl BaseContents for Lying {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.0.has_layer(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.0.size_of(id)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        self.0.read_at(id, offset, buf)?;
        if let Some(byte) = buf.first_mut() {
            *byte ^= 1;
        }
        Ok(())
    }

    fn whole_layer(&self, diff_id: &DiffId, blob: Option<&Digest>) -> Option<Layer> {
        self.0.whole_layer(diff_id, blob)
    }

    fn open_whole(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        let mut tar = Vec::new();
        self.0.open_whole(layer, form)?.read_to_end(&mut tar).unwrap();
        // Behind the headers of a directory and of a file.
        tar[1024] ^= 1;
        Ok(Box::new(Cursor::new(tar)))
    }
}
