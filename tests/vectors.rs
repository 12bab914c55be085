//! Bundles and inventories built by hand from `docs/format/bundle.md`, without ferry's own writer: what is right is
//! read, what is wrong is refused with its place, and nothing of it is loaded. The vectors in `testdata/bundle` are these,
//! as files that every later reader must still judge the same way; with FERRY_WRITE_VECTORS set missing ones are written.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use ferry::base::{BoxFault, Class, Ctx, Digest, Fault};
use ferry::bundle::index::ShortId;
use ferry::bundle::volume::{SetId, SetWriter, WriteOptions};
use ferry::bundle::{BaseContents, Bundle, BundleOptions, BundleSource, Inventory};
use ferry::image::{DiffId, Form, ImageSource};

use crate::fuzz::{fuzz, runs};

fn vu(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn vs(out: &mut Vec<u8>, number: i64) {
    vu(out, ((number << 1) ^ (number >> 63)) as u64);
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    vu(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn zstd(raw: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(raw, 3).unwrap()
}

const HELLO: &[u8] = b"hello, world\n";

/// The one layer of the sample: a file, padding, and two blocks of zeros.
fn tar() -> Vec<u8> {
    let mut block = [0_u8; 512];
    block[..6].copy_from_slice(b"hi.txt");
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..124].copy_from_slice(b"0000000\x000000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", HELLO.len()).as_bytes());
    block[136..148].copy_from_slice(format!("{:011o}\0", 100).as_bytes());
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = [&block[..], HELLO].concat();
    tar.resize(1024 + 1024, 0);
    tar
}

/// The columns of a recipe.
#[derive(Clone)]
struct Recipe {
    ops: Vec<u8>,
    masks: Vec<u8>,
    names: Vec<u8>,
    mtimes: Vec<u8>,
    fields: Vec<u8>,
    counts: Vec<u8>,
    contents: Vec<u8>,
    raw: Vec<u8>,
}

impl Recipe {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let Self { ops, masks, names, mtimes, fields, counts, contents, raw } = self;
        [ops, masks, names, mtimes, fields, counts, contents, raw].iter().for_each(|column| bytes(&mut out, column));
        out
    }
}

/// A bundle in parts, each of which can be spoilt; what follows from the parts is computed last.
#[derive(Clone)]
struct Parts {
    header: Vec<u8>,
    recipe: Recipe,
    /// Instead of the recipe.
    recipe_bytes: Option<Vec<u8>>,
    /// Instead of the index.
    index_bytes: Option<Vec<u8>>,
    /// The content frame as it is stored.
    frame: Vec<u8>,
    objects: Vec<u64>,
    /// Of the content: its objects.
    content: Vec<i64>,
    diff_id: Digest,
    size: u64,
    /// Offset and length of the recipe, where they are not what they should be.
    place: Option<(u64, u64)>,
    names: Vec<String>,
    config: Option<Vec<u8>>,
    /// Sections in the place of those that were computed; an empty one is left out.
    sections: Vec<(u8, Vec<u8>)>,
    /// Instead of how the layer is kept and by what its registry knows it, as section 2 has it.
    kept: Option<Vec<u8>>,
    /// The name of the content.
    id: [u8; 32],
    /// What the frame is compressed against: base content, offset, length.
    prefix: Vec<[u64; 3]>,
    /// The file that the base has, and what is said of its size.
    base: Option<(Vec<u8>, u64)>,
    /// Behind the last section.
    more: Vec<u8>,
    /// What is done to the finished stream.
    last: fn(&mut Vec<u8>),
}

impl Parts {
    fn new() -> Self {
        let mut header = b"FERRYOB\n".to_vec();
        header.extend_from_slice(&[1, 0, 1, 0, 0, 0, 0, 0]);
        let mut recipe = Recipe {
            ops: vec![1, 4],
            masks: Vec::new(),
            names: vec![0, 6],
            mtimes: Vec::new(),
            fields: Vec::new(),
            counts: Vec::new(),
            contents: vec![0],
            raw: Vec::new(),
        };
        // Name, mode, owners, mtime, type, magic.
        vu(&mut recipe.masks, 1 | 2 | 4 | 16 | 128 | 512);
        recipe.names.extend_from_slice(b"hi.txt");
        vs(&mut recipe.mtimes, 100);
        let tar = tar();
        for range in [100..108, 108..124, 156..157, 257..345] {
            recipe.fields.extend_from_slice(&tar[range]);
        }
        vu(&mut recipe.counts, 1024);
        Self {
            header,
            recipe,
            recipe_bytes: None,
            index_bytes: None,
            frame: zstd(HELLO),
            objects: vec![HELLO.len() as u64],
            content: vec![0],
            diff_id: Digest::of(&tar),
            size: tar.len() as u64,
            place: None,
            names: vec!["docker.io/library/hi:1".into()],
            config: None,
            sections: Vec::new(),
            kept: None,
            id: *blake3::hash(HELLO).as_bytes(),
            prefix: Vec::new(),
            base: None,
            more: Vec::new(),
            last: |_| {},
        }
    }

    fn index(&self, recipe_stored: &[u8], recipe_length: usize) -> Vec<u8> {
        let mut sections: Vec<(u8, Vec<u8>)> = Vec::new();
        let mut section = |tag: u8, build: &dyn Fn(&mut Vec<u8>)| {
            let mut body = Vec::new();
            build(&mut body);
            sections.push((tag, body));
        };
        let config = self.config.clone().unwrap_or_else(|| {
            let diff_id = self.diff_id;
            format!(r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#)
                .into_bytes()
        });
        section(1, &|b| {
            vu(b, 1);
            bytes(b, &config);
        });
        section(2, &|b| {
            vu(b, 1);
            b.extend_from_slice(self.diff_id.as_bytes());
            vu(b, self.size);
            if let Some(kept) = &self.kept {
                return b.extend_from_slice(kept);
            }
            let (offset, length) = self.place.unwrap_or((0, recipe_length as u64));
            b.push(0);
            [0, offset, length].iter().for_each(|n| vu(b, *n));
            b.push(0);
        });
        section(3, &|b| {
            vu(b, 1);
            vu(b, 0);
            vu(b, 0);
            vu(b, self.names.len() as u64);
            self.names.iter().for_each(|name| bytes(b, name.as_bytes()));
            vu(b, 1);
            vu(b, 0);
        });
        section(4, &|b| {
            vu(b, 1);
            vu(b, 1);
            vu(b, self.frame.len() as u64);
            b.extend_from_slice(blake3::hash(&self.frame).as_bytes());
            vu(b, self.objects.len() as u64);
            vu(b, self.prefix.len() as u64);
            self.prefix.iter().flatten().for_each(|n| vu(b, *n));
            vu(b, recipe_stored.len() as u64);
            b.extend_from_slice(blake3::hash(recipe_stored).as_bytes());
            vu(b, recipe_length as u64);
        });
        section(5, &|b| self.objects.iter().for_each(|size| vu(b, *size)));
        section(6, &|b| {
            vu(b, 1);
            b.push(16);
            b.extend_from_slice(&self.id[..16]);
            vu(b, self.content.len() as u64);
            self.content.iter().for_each(|step| vs(b, *step));
        });
        section(7, &|b| bytes(b, b"by hand"));
        if let Some((base, size)) = &self.base {
            section(8, &|b| {
                vu(b, 1);
                b.push(0);
                b.extend_from_slice(&[7; 32]);
                bytes(b, b"old.ferry");
            });
            section(9, &|b| {
                vu(b, 1);
                b.extend_from_slice(&blake3::hash(base).as_bytes()[..16]);
                vu(b, *size);
            });
        }
        for (tag, body) in &self.sections {
            match sections.iter_mut().find(|(there, _)| there == tag) {
                Some(place) => place.1.clone_from(body),
                None => sections.push((*tag, body.clone())),
            }
        }
        let mut index = Vec::new();
        for (tag, body) in sections.iter().filter(|(_, body)| !body.is_empty()) {
            index.push(*tag);
            bytes(&mut index, body);
        }
        index.extend_from_slice(&self.more);
        index
    }

    fn stream(&self) -> Vec<u8> {
        let recipe = self.recipe_bytes.clone().unwrap_or_else(|| self.recipe.encode());
        let stored = zstd(&recipe);
        let index = self.index_bytes.clone().unwrap_or_else(|| self.index(&stored, recipe.len()));
        let packed = zstd(&index);
        let mut stream = [&self.header[..], &self.frame, &stored].concat();
        let offset = stream.len() as u64;
        stream.extend_from_slice(&packed);
        for number in [offset, packed.len() as u64, index.len() as u64] {
            stream.extend_from_slice(&number.to_le_bytes());
        }
        stream.extend_from_slice(blake3::hash(&packed).as_bytes());
        stream.extend_from_slice(b"FERRYEN\n");
        (self.last)(&mut stream);
        stream
    }
}

/// The blob that a layer's registry knows, as section 2 has it.
fn original(b: &mut Vec<u8>, blob: &[u8]) {
    bytes(b, b"application/vnd.oci.image.layer.v1.tar+gzip");
    b.extend_from_slice(Digest::of(blob).as_bytes());
    vu(b, blob.len() as u64);
}

/// The layer is kept as `blob`.
fn keep_blob(p: &mut Parts, blob: &[u8]) {
    p.frame = zstd(blob);
    p.objects = vec![blob.len() as u64];
    p.id = *blake3::hash(blob).as_bytes();
    let mut kept = vec![1, 0, 1];
    original(&mut kept, blob);
    p.kept = Some(kept);
}

/// The sample's tar as a gzip member of one stored block.
fn gzip() -> Vec<u8> {
    let tar = tar();
    let mut blob = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    blob.extend_from_slice(&(tar.len() as u16).to_le_bytes());
    blob.extend_from_slice(&(!(tar.len() as u16)).to_le_bytes());
    blob.extend_from_slice(&tar);
    let mut crc = flate2::Crc::new();
    crc.update(&tar);
    blob.extend_from_slice(&crc.sum().to_le_bytes());
    blob.extend_from_slice(&crc.amount().to_le_bytes());
    blob
}

/// The layer's blob is made again by a method at a level, in a bundle of a format.
fn replay(p: &mut Parts, format: u8, how: [u8; 2], blob: &str) {
    p.header[8] = format;
    p.header[10] = format;
    let mut kept = vec![0, 0, 0];
    vu(&mut kept, p.recipe.encode().len() as u64);
    kept.push(2);
    original(&mut kept, &hex::decode(blob).unwrap());
    kept.extend_from_slice(&how);
    p.kept = Some(kept);
}

/// The same, with corrections: header and columns, which lie behind the recipe.
fn corrected(p: &mut Parts, format: u8, how: [u8; 2], blob: &str, columns: [&[u8]; 4]) {
    replay(p, format, how, blob);
    let mut recipe = p.recipe.encode();
    let begin = recipe.len();
    columns.iter().for_each(|column| bytes(&mut recipe, column));
    let kept = p.kept.as_mut().unwrap();
    [0, begin, recipe.len() - begin].iter().for_each(|n| vu(kept, *n as u64));
    p.recipe_bytes = Some(recipe);
}

/// How the layer is kept when the tar is all that is known of it; the recipe begins so many bytes into its frame.
fn plain(p: &Parts, offset: u64) -> Vec<u8> {
    let mut kept = vec![0];
    [0, offset, p.recipe.encode().len() as u64 - offset].iter().for_each(|n| vu(&mut kept, *n));
    kept.push(0);
    kept
}

/// How the layer is kept when its blob is made again.
fn replayed(p: &Parts, how: [u8; 2], blob: &str) -> Vec<u8> {
    let mut other = p.clone();
    replay(&mut other, 5, how, blob);
    other.kept.unwrap()
}

/// Two images of the one layer: the first knows it by what Go's gzip makes of it, for the second it is so much longer, and
/// kept like this.
fn two_blobs(p: &mut Parts, format: u8, longer: u64, second: &[u8]) {
    replay(p, format, [1, 6], GO);
    let mut layers = vec![2];
    for (size, kept) in [(p.size, &p.kept.take().unwrap()[..]), (p.size + longer, second)] {
        layers.extend_from_slice(p.diff_id.as_bytes());
        vu(&mut layers, size);
        layers.extend_from_slice(kept);
    }
    // Each: the config, no manifest, the names, one layer.
    let mut images = vec![2, 0, 0, 1];
    bytes(&mut images, p.names[0].as_bytes());
    images.extend_from_slice(&[1, 0, 0, 0, 0, 1, 1]);
    p.sections.extend([(2, layers), (3, images)]);
}

/// What the base of the thin samples has: another version of the file.
const OLD: &[u8] = b"hello, old world; more of it\n";

/// A version that the base says it has, and has not.
const MAD: &[u8] = b"hello, mad world; more of it\n";

/// The file is the difference to the version that the base has.
fn thin(p: &mut Parts) {
    p.base = Some((OLD.to_vec(), OLD.len() as u64));
    p.prefix = vec![[1, 0, OLD.len() as u64]];
    let mut context = zstd::zstd_safe::CCtx::create();
    context.ref_prefix(OLD).unwrap();
    let mut stored = Vec::with_capacity(100);
    context.compress2(&mut stored, HELLO).unwrap();
    p.frame = stored;
}

/// A host that has one content, or says so.
struct Has {
    id: [u8; 16],
    bytes: Vec<u8>,
}

impl BaseContents for Has {
    fn has_layer(&self, _: &DiffId) -> bool {
        false
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        (id.0[..16] == self.id).then_some(self.bytes.len() as u64)
    }

    fn read_at(&self, _: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        buf.copy_from_slice(&self.bytes[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// What becomes of a vector: the class of the error and a part of its text, or none for a good one.
type Expected = Option<(Class, &'static str)>;

struct Case {
    name: &'static str,
    comment: &'static str,
    expected: Expected,
    bytes: Vec<u8>,
}

/// Every case of a bundle's stream: first the good ones.
fn bundles() -> Vec<Case> {
    use Class::{Integrity, Malformed, Unsupported};
    let mut cases = Vec::new();
    let mut add = |name, comment, expected: Expected, spoil: &dyn Fn(&mut Parts)| {
        let mut parts = Parts::new();
        spoil(&mut parts);
        cases.push(Case { name, comment, expected, bytes: parts.stream() });
    };
    add("good", "one image of one layer of one file", None, &|_| {});
    add("good-ancillary", "an ancillary section that nobody knows is passed over", None, &|p| {
        p.more = vec![200, 3, 1, 2, 3];
    });
    add("good-newer", "a newer format that this reader is old enough for", None, &|p| p.header[8] = 9);
    add("good-two-objects", "a content in two objects", None, &|p| {
        p.objects = vec![5, 8];
        p.content = vec![0, 0];
    });

    add("header-magic", "another magic", Some((Malformed, "does not begin like one")), &|p| p.header[0] = b'f');
    add("header-oldest", "needs a newer reader", Some((Unsupported, "format 9")), &|p| {
        p.header[8] = 9;
        p.header[10] = 9;
    });
    add("header-oldest-above", "the oldest reader is newer than the format", Some((Malformed, "header")), &|p| {
        p.header[8] = 0;
    });
    add("header-reserved", "a reserved byte", Some((Malformed, "header")), &|p| p.header[13] = 1);
    add("trailer-cut", "the last byte is missing", Some((Malformed, "trailer")), &|p| {
        p.last = |stream| stream.truncate(stream.len() - 1);
    });
    add("trailer-outside", "an index that points outside", Some((Malformed, "trailer")), &|p| {
        p.last = |stream| {
            let at = stream.len() - 64;
            stream[at + 6] = 1;
        };
    });
    add("trailer-huge", "an index of more than 1 GiB", Some((Malformed, "trailer")), &|p| {
        p.last = |stream| {
            let at = stream.len() - 64;
            stream[at + 20] = 1;
        };
    });
    add("index-hash", "a byte of the index changed", Some((Integrity, "index")), &|p| {
        p.last = |stream| {
            let at = stream.len() - 70;
            stream[at] ^= 1;
        };
    });
    add("index-length", "an index that gives more than declared", Some((Malformed, "index")), &|p| {
        p.last = |stream| {
            let at = stream.len() - 64;
            stream[at + 16] -= 1;
        };
    });
    add("section-missing", "no objects", Some((Malformed, "section 5")), &|p| p.sections.push((5, Vec::new())));
    add("section-twice", "writer twice", Some((Malformed, "index: its sections are out of order")), &|p| {
        p.more = vec![7, 1, b'x']
    });
    add("section-unknown", "a section that matters and that nobody knows", Some((Unsupported, "section 100")), &|p| {
        p.more = vec![100, 0];
    });
    add("section-left-over", "an object too many", Some((Malformed, "index, frames")), &|p| {
        p.sections.push((5, vec![HELLO.len() as u8, 1]));
    });
    add("number-long", "a number not in its shortest form", Some((Malformed, "section 5")), &|p| {
        p.sections.push((5, vec![HELLO.len() as u8 | 0x80, 0]));
    });
    add("count-huge", "more documents than bytes", Some((Malformed, "section 1")), &|p| {
        p.sections.push((1, vec![0xff, 0xff, 0xff, 0xff, 0x0f]));
    });
    add("frame-more", "a frame that gives more than declared", Some((Malformed, "frame 0")), &|p| p.objects = vec![12]);
    add("frame-less", "a frame that gives less than declared", Some((Malformed, "frame 0")), &|p| p.objects = vec![14]);
    add("frame-two", "two frames in the place of one", Some((Malformed, "frame 0")), &|p| {
        p.frame = [zstd(&HELLO[..5]), zstd(&HELLO[5..])].concat();
    });
    add("frame-noise", "no frame at all", Some((Malformed, "frame 0")), &|p| p.frame = vec![0x55; 30]);
    add("frame-too-long", "a frame over 64 MiB", Some((Malformed, "section")), &|p| p.objects = vec![65 << 20]);
    add("object-empty", "an object of no bytes", Some((Malformed, "section 5")), &|p| p.objects = vec![0]);
    add("content-outside", "a content of an object that is not there", Some((Malformed, "section 6")), &|p| {
        p.content = vec![1];
    });
    add("content-nothing", "a content of no object", Some((Malformed, "section 6")), &|p| p.content = vec![]);
    add("content-twice", "one object twice in a content: the layer is another", Some((Integrity, "sha256:")), &|p| {
        p.content = vec![0, -1];
    });
    add("recipe-outside", "a recipe past its frame", Some((Malformed, "index, layers")), &|p| {
        p.place = Some((1, 1 << 20))
    });
    add("recipe-overlap", "two layers with one recipe", Some((Malformed, "recipes that overlap")), &|p| {
        let mut layers = Vec::new();
        vu(&mut layers, 2);
        for diff_id in [p.diff_id, Digest::of(b"another layer")] {
            layers.extend_from_slice(diff_id.as_bytes());
            vu(&mut layers, p.size);
            layers.push(0);
            [0, 0, p.recipe.encode().len() as u64].iter().for_each(|n| vu(&mut layers, *n));
            layers.push(0);
        }
        p.sections.push((2, layers));
    });
    add("recipe-op", "an unknown op", Some((Malformed, "recipe")), &|p| p.recipe.ops[1] = 8);
    add("recipe-mask", "an unknown field", Some((Malformed, "recipe")), &|p| {
        p.recipe.masks.clear();
        vu(&mut p.recipe.masks, 1 << 11);
    });
    add("recipe-both-times", "two ways of one time", Some((Malformed, "recipe")), &|p| {
        p.recipe.masks.clear();
        vu(&mut p.recipe.masks, 1 | 2 | 4 | 16 | 32 | 128 | 512);
    });
    add("recipe-short-column", "a column that ends early", Some((Malformed, "recipe")), &|p| {
        p.recipe.fields.pop();
    });
    add("recipe-left-over", "a column that is not used up", Some((Malformed, "recipe")), &|p| p.recipe.raw.push(0));
    add("recipe-long-name", "a name of over 100 bytes", Some((Malformed, "recipe")), &|p| {
        p.recipe.names = vec![0, 101];
        p.recipe.names.extend_from_slice(&[b'a'; 101]);
    });
    add("recipe-name-before", "more kept of a name than there was", Some((Malformed, "recipe")), &|p| {
        p.recipe.names[0] = 1;
    });
    add("recipe-content", "a content that is not there", Some((Malformed, "recipe")), &|p| p.recipe.contents = vec![2]);
    add("recipe-longer", "more bytes than the layer has", Some((Malformed, "recipe")), &|p| {
        p.recipe.counts.clear();
        vu(&mut p.recipe.counts, 1025);
    });
    add("recipe-shorter", "fewer bytes than the layer has", Some((Malformed, "recipe")), &|p| {
        p.recipe.counts.clear();
        vu(&mut p.recipe.counts, 1023);
    });
    add("layer-digest", "a layer of another digest", Some((Integrity, "sha256:")), &|p| {
        p.diff_id = Digest::of(b"other")
    });
    add("blob", "a layer kept as the gzip member that its registry knows", None, &|p| keep_blob(p, &gzip()));
    add("blob-plain", "a blob that is not compressed is the tar", None, &|p| keep_blob(p, &tar()));
    add("blob-other", "a blob that decompresses to another tar", Some((Integrity, "sha256:")), &|p| {
        let mut blob = gzip();
        let at = blob.len() - 10;
        blob[at] = 1;
        let mut crc = flate2::Crc::new();
        crc.update(&blob[15..blob.len() - 8]);
        let end = blob.len() - 8;
        blob[end..end + 4].copy_from_slice(&crc.sum().to_le_bytes());
        keep_blob(p, &blob);
    });
    add("blob-broken", "a blob that does not decompress", Some((Malformed, "sha256:")), &|p| {
        let mut blob = gzip();
        blob.truncate(1000);
        keep_blob(p, &blob);
    });
    add("blob-outside", "a blob that is not there", Some((Malformed, "index, layers")), &|p| {
        keep_blob(p, &gzip());
        p.kept.as_mut().unwrap()[1] = 5;
    });
    add("blob-size", "a blob of another size than its content", Some((Malformed, "index, layers")), &|p| {
        keep_blob(p, &gzip());
        *p.kept.as_mut().unwrap().last_mut().unwrap() ^= 1;
    });
    add("replay", "a blob that Go's gzip makes of the tar", None, &|p| replay(p, 2, [1, 6], GO));
    add("replay-pgzip", "a blob that pgzip makes of the tar", None, &|p| replay(p, 3, [2, 5], PGZIP));
    add("replay-other", "a replay that makes another blob", Some((Integrity, "sha256:")), &|p| {
        replay(p, 2, [1, 9], GO);
    });
    add("replay-method", "an unknown method", Some((Malformed, "section 2")), &|p| replay(p, 3, [9, 6], GO));
    add("replay-level", "a level that its method has not", Some((Malformed, "section 2")), &|p| {
        replay(p, 3, [2, 6], PGZIP);
    });
    add("replay-format", "a replay in a bundle that says it has none", Some((Malformed, "section 2")), &|p| {
        replay(p, 1, [1, 6], GO);
    });
    add("replay-pgzip-format", "a method newer than the format", Some((Malformed, "section 2")), &|p| {
        replay(p, 2, [2, 5], PGZIP);
    });
    add("replay-zlib", "a blob that zlib makes of the tar", None, &|p| {
        corrected(p, 4, [3, 6], ZLIB, [&ZLIB_HEAD, &[], &[], &[]]);
    });
    // Flushed after 1000 bytes: a block that ends there, and an empty stored one.
    let flush = [0, 8 | 16, 0xe8, 7, 0, 1 | 8, 0];
    add("replay-zlib-flushed", "a blob that zlib makes of the tar when it is flushed", None, &|p| {
        corrected(p, 4, [3, 6], ZLIB_FLUSHED, [&ZLIB_HEAD, &flush, &[], &[]]);
    });
    add("replay-zlib-other", "corrections that make another blob", Some((Integrity, "sha256:")), &|p| {
        corrected(p, 4, [3, 6], ZLIB, [&ZLIB_HEAD, &flush, &[], &[]]);
    });
    add("replay-zlib-format", "a method newer than the format", Some((Malformed, "section 2")), &|p| {
        corrected(p, 3, [3, 6], ZLIB, [&ZLIB_HEAD, &[], &[], &[]]);
    });
    add("replay-zlib-level", "a level that zlib has not", Some((Malformed, "section 2")), &|p| {
        corrected(p, 4, [3, 0], ZLIB, [&ZLIB_HEAD, &[], &[], &[]]);
    });
    add("replay-zlib-outside", "corrections outside their frame", Some((Malformed, "index, layers")), &|p| {
        corrected(p, 4, [3, 6], ZLIB, [&ZLIB_HEAD, &[], &[], &[]]);
        *p.kept.as_mut().unwrap().last_mut().unwrap() += 1;
    });
    add("replay-zlib-large", "corrections of over 32 MiB", Some((Malformed, "section 2")), &|p| {
        corrected(p, 4, [3, 6], ZLIB, [&ZLIB_HEAD, &[], &[], &[]]);
        p.kept.as_mut().unwrap().pop();
        vu(p.kept.as_mut().unwrap(), (32 << 20) + 1);
    });
    let malformed: [(&str, &str, [&[u8]; 4]); 14] = [
        ("flags", "unknown flags of a block", [&ZLIB_HEAD, &[0, 128], &[], &[]]),
        ("no-flags", "a block that differs in nothing", [&ZLIB_HEAD, &[0, 0], &[], &[]]),
        ("flushed-where", "a flush without its place", [&ZLIB_HEAD, &[0, 16], &[], &[]]),
        ("behind", "a block that goes on behind the tar", [&ZLIB_HEAD, &[0, 8, 0x81, 0x10], &[], &[]]),
        ("early", "a last block before the end of the tar", [&ZLIB_HEAD, &[0, 8 | 32, 10], &[], &[]]),
        ("inside", "a block that ends inside a match", [&ZLIB_HEAD, &[0, 8, 40], &[], &[]]),
        ("anew", "a compressor that begins anew at once", [&ZLIB_HEAD, &[0, 64], &[], &[]]),
        ("tables", "codes that make no code", [&ZLIB_HEAD, &[0, 3 | 4, 17, 0xff, 0xff, 1], &[], &[]]),
        ("tables-long", "a description of codes that is too long", [&ZLIB_HEAD, &[0, 7, 0x90, 0x23, 0], &[], &[]]),
        ("blocks-left", "more blocks than there are", [&ZLIB_HEAD, &[9, 8, 0], &[], &[]]),
        ("tokens-left", "more tokens than there are", [&ZLIB_HEAD, &[], &[0xff, 0x7f], &[0]]),
        ("match-far", "a match from before the tar", [&ZLIB_HEAD, &[], &[3], &[5, 9]]),
        ("match-long", "a match of 259 bytes", [&ZLIB_HEAD, &[], &[3], &[0x81, 2, 0]]),
        ("tokens-cut", "a token that differs and is not there", [&ZLIB_HEAD, &[], &[3], &[]]),
    ];
    let names = malformed.map(|(name, ..)| &*Box::leak(format!("replay-zlib-{name}").into_boxed_str()));
    for (name, (_, comment, columns)) in names.into_iter().zip(malformed) {
        add(name, comment, Some((Malformed, "corrections")), &|p| corrected(p, 4, [3, 6], ZLIB, columns));
    }
    add("blobs-two", "two images that know one layer by two blobs, made of one recipe", None, &|p| {
        let second = replayed(p, [2, 5], PGZIP);
        two_blobs(p, 5, 0, &second);
    });
    add("blobs-tar", "two images, one of which knows the layer by its tar", None, &|p| {
        let second = plain(p, 0);
        two_blobs(p, 5, 0, &second);
    });
    add("blobs-format", "two blobs of a layer in a bundle of an older format", Some((Malformed, "section 2")), &|p| {
        let second = replayed(p, [2, 5], PGZIP);
        two_blobs(p, 4, 0, &second);
    });
    add("blobs-same", "one blob of a layer twice", Some((Malformed, "one diff ID and one blob")), &|p| {
        let second = replayed(p, [1, 6], GO);
        two_blobs(p, 5, 0, &second);
    });
    add("blobs-sizes", "two blobs of a layer of two sizes", Some((Malformed, "two sizes of one layer")), &|p| {
        let second = replayed(p, [2, 5], PGZIP);
        two_blobs(p, 5, 1, &second);
    });
    add("blobs-overlap", "two recipes of one layer that overlap", Some((Malformed, "recipes that overlap")), &|p| {
        let second = plain(p, 1);
        two_blobs(p, 5, 0, &second);
    });
    add("blobs-base", "a layer that is left out and is not", Some((Malformed, "that is not left out")), &|p| {
        thin(p);
        two_blobs(p, 5, 0, &[2, 0]);
    });
    add("thin", "a file that is the difference to the base's", None, &thin);
    add("thin-lying", "a base whose bytes are others", Some((Integrity, "base content")), &|p| {
        thin(p);
        p.base = Some((MAD.to_vec(), OLD.len() as u64));
    });
    add("thin-missing", "a base that is not there", Some((Class::NotFound, "old.ferry")), &|p| {
        thin(p);
        p.base = Some((b"another file".to_vec(), 12));
        p.prefix = vec![[1, 0, 12]];
    });
    add("thin-size", "a base content of another size", Some((Class::NotFound, "old.ferry")), &|p| {
        thin(p);
        p.base = Some((OLD.to_vec(), 40));
    });
    add("thin-prefix-outside", "a prefix past its base content", Some((Malformed, "index, frames")), &|p| {
        thin(p);
        p.prefix[0][2] += 1;
    });
    add("thin-prefix-own", "a prefix of a content of the bundle itself", Some((Malformed, "index, frames")), &|p| {
        thin(p);
        p.prefix[0] = [0, 0, 5];
    });
    add("thin-prefix-long", "a prefix of over 64 MiB", Some((Malformed, "section 4")), &|p| {
        thin(p);
        p.base = Some((OLD.to_vec(), 1 << 30));
        p.prefix[0][2] = 65 << 20;
    });
    add("thin-holders", "the base that has the base content is named", None, &|p| {
        thin(p);
        p.more = vec![128, 1, 0];
    });
    add(
        "thin-holders-outside",
        "a base content of a base that is not there",
        Some((Malformed, "index, holders")),
        &|p| {
            thin(p);
            p.more = vec![128, 1, 1];
        },
    );
    add("thin-holders-count", "more base contents than there are", Some((Malformed, "index, holders")), &|p| {
        thin(p);
        p.more = vec![128, 2, 0, 0];
    });
    add("thin-unnamed", "base contents without a base", Some((Malformed, "index")), &|p| {
        thin(p);
        p.sections.push((8, Vec::new()));
    });
    add("image-config", "a config of other layers", Some((Malformed, "image 0")), &|p| {
        let other = Digest::of(b"other");
        p.config = Some(format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{other}"]}}}}"#).into_bytes());
    });
    add("image-name", "a name that is none", Some((Malformed, "image 0")), &|p| p.names = vec!["../x".into()]);
    cases
}

/// The sample's tar, compressed by Go 1.19's `compress/gzip` at its default level, and by pgzip 1.2.5.
const GO: &str = "1f8b08000000000000ffcac8d42ba92861a0293030303030333101d3060606e8b48181a1299c6d0856676e6868cca060405b674140697149621183015dec1a8420233527275f47a13cbf2827856ba01d330a46c1281805a3806e00100000ffffa724c01800080000";
const PGZIP: &str = "1f8b080000096e8800ffcac8d42ba92861a0293030303030333101d3060606e8b48181a1299c6d0856676e6868cca06080308276a0b4b824b188c1802e760d4290919a9393afa3509e5f9493c285101e05a360148c825130cc01000000ffff0300a724c01800080000";

/// By zlib 1.2.13 at level 6, in one go and with a sync flush after 1000 bytes.
const ZLIB: &str = "1f8b08000000000000ffcbc8d42ba92861a029300002331313300d04e8b48181a1299c6d0856676e6868cca060405b6741406971496211d04a7ad8350841466a4e4ebe8e42797e514e0ad7403b66148c8251300a4601dd0000a724c01800080000";
const ZLIB_FLUSHED: &str = "1f8b08000000000000ffcac8d42ba92861a029300002331313300d04e8b48181a1299c6d0856676e6868cca060405b6741406971496211d04a7ad8350841466a4e4ebe8e42797e514e0ad7403b6614d00c00000000ffff1b05a360148c02740000a724c01800080000";
const ZLIB_HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The same of inventories.
fn inventories() -> Vec<Case> {
    use Class::{Integrity, Malformed, Unsupported};
    let mut cases = Vec::new();
    let layers = [Digest::of(b"a"), Digest::of(b"b")];
    let mut sorted = layers;
    sorted.sort();
    let body = |layers: &[Digest], length: u8, ids: &[[u8; 16]]| {
        let mut raw = Vec::new();
        bytes(&mut raw, b"site");
        vu(&mut raw, layers.len() as u64);
        layers.iter().for_each(|layer| raw.extend_from_slice(layer.as_bytes()));
        raw.push(length);
        vu(&mut raw, ids.len() as u64);
        ids.iter().for_each(|id| raw.extend_from_slice(id));
        raw
    };
    let file = |header: &[u8; 8], raw: &[u8], length: usize, spoil: &dyn Fn(&mut Vec<u8>)| {
        let mut out = b"FERRYIV\n".to_vec();
        out.extend_from_slice(header);
        out.extend_from_slice(&zstd(raw));
        out.extend_from_slice(&(length as u64).to_le_bytes());
        let check = blake3::hash(&out);
        out.extend_from_slice(check.as_bytes());
        out.extend_from_slice(b"FERRYEN\n");
        spoil(&mut out);
        out
    };
    let now = [1, 0, 1, 0, 0, 0, 0, 0];
    let good = body(&sorted, 16, &[[1; 16], [2; 16]]);
    let mut add = |name, comment, expected, bytes| cases.push(Case { name, comment, expected, bytes });
    let plain = |raw: &[u8]| file(&now, raw, raw.len(), &|_| {});
    add("inventory-good", "two layers, two contents", None, plain(&good));
    add("inventory-empty", "of an empty host", None, plain(&body(&[], 16, &[])));
    let malformed = Some((Malformed, "inventory"));
    let unsorted = [sorted[1], sorted[0]];
    add("inventory-layers", "layers out of order", malformed, plain(&body(&unsorted, 16, &[])));
    add("inventory-layer-twice", "one layer twice", malformed, plain(&body(&[sorted[0]; 2], 16, &[])));
    add("inventory-ids", "IDs out of order", malformed, plain(&body(&sorted, 16, &[[2; 16], [1; 16]])));
    add("inventory-short-id", "IDs of eight bytes", malformed, plain(&body(&sorted, 8, &[])));
    add("inventory-long-id", "IDs of forty bytes", malformed, plain(&body(&sorted, 40, &[])));
    add("inventory-left-over", "a byte too many", malformed, plain(&[&good[..], &[0]].concat()));
    add("inventory-cut", "cut short", malformed, file(&now, &good, good.len(), &|out| out.truncate(out.len() - 1)));
    add("inventory-length", "another length than declared", malformed, file(&now, &good, good.len() - 1, &|_| {}));
    add("inventory-huge", "over 1 GiB", malformed, file(&now, &good, 1 << 31, &|_| {}));
    let newer = Some((Unsupported, "format 9"));
    add("inventory-newer", "needs a newer reader", newer, file(&[9, 0, 9, 0, 0, 0, 0, 0], &good, good.len(), &|_| {}));
    let damaged = Some((Integrity, "inventory"));
    add("inventory-damaged", "a byte changed", damaged, file(&now, &good, good.len(), &|out| out[20] ^= 1));
    cases
}

/// Reads all of a bundle, and every layer against its digest.
fn judge_bundle(stream: &[u8]) -> Result<(), BoxFault> {
    let bundle = Bundle::open(Arc::new(stream.to_vec()), "vector.ferry")?;
    let mut source = BundleSource::new(bundle, std::env::temp_dir(), BundleOptions::MEMORY)?;
    if source.bundle().index().is_thin() {
        // Whoever reads a thin vector has the old version of the file; in the place of another he has the same bytes.
        let named = source.bundle().index().base_contents.ids[0].0;
        let mut id = [0; 16];
        id.copy_from_slice(
            &blake3::hash(if named[..16] == blake3::hash(MAD).as_bytes()[..16] { MAD } else { OLD }).as_bytes()[..16],
        );
        source = source.with_base(Arc::new(Has { id, bytes: OLD.to_vec() }))?;
    }
    for layer in source.images().iter().flat_map(|image| &image.layers) {
        let original = layer.original.as_ref().map(|blob| (Form::Original, blob.digest, Some(blob.size)));
        for (form, digest, size) in [(Form::Tar, layer.diff_id.0, layer.size)].into_iter().chain(original) {
            let mut bytes = ferry::base::verify::VerifyingReader::new(source.open_layer(layer, form)?, digest, size);
            let read = bytes.read_to_end(&mut Vec::new());
            let path = PathBuf::from(layer.diff_id.to_string());
            read.map_err(|source| ferry::base::PathError { action: "read", path, source })?;
        }
    }
    Ok(())
}

fn judge(bytes: &[u8]) -> Result<(), BoxFault> {
    match Inventory::recognises(bytes) {
        true => Ok(Inventory::parse(bytes).map(drop)?),
        false => judge_bundle(bytes),
    }
}

/// What is wrong with a judgement; nothing when it is as expected.
fn check(name: &str, expected: Option<(&str, &str)>, result: Result<(), BoxFault>) -> Option<String> {
    match (expected, result) {
        (None, Ok(())) => None,
        (Some((class, text)), Err(fault)) => {
            let (got, whole) = (format!("{:?}", fault.class()), chain(&*fault));
            let right = got == class && whole.contains(text);
            (!right).then(|| format!("{name}: expected {class} with {text:?}, got {got}: {whole}"))
        }
        (expected, result) => {
            let got = result.map_err(|fault| chain(&*fault));
            Some(format!("{name}: expected {expected:?}, got {got:?}"))
        }
    }
}

/// An error with what caused it.
fn chain(fault: &dyn Fault) -> String {
    let mut text = fault.to_string();
    let mut next = fault.source();
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}

fn directory() -> PathBuf {
    crate::support::checkout().join("testdata/bundle")
}

#[test]
fn streams_made_from_the_specification_are_read_or_refused_with_their_place() {
    let mut wrong = Vec::new();
    for case in bundles().into_iter().chain(inventories()) {
        let class = case.expected.map(|(class, text)| (format!("{class:?}"), text));
        wrong.extend(check(case.name, class.as_ref().map(|(class, text)| (&**class, *text)), judge(&case.bytes)));
        let path = directory().join(format!("{}.vector", case.name));
        if std::env::var_os("FERRY_WRITE_VECTORS").is_some() && !path.exists() {
            let expected = class.map_or_else(|| "ok".into(), |(class, text)| format!("{class} {text}"));
            let head = format!("ferry test vector\nexpect: {expected}\ncomment: {}\n\n", case.comment);
            fs::create_dir_all(directory()).unwrap();
            fs::write(path, [head.as_bytes(), &case.bytes].concat()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_stored_vectors_are_judged_as_they_say() {
    let (mut judged, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".vector") {
            continue;
        }
        let content = fs::read(&path).unwrap();
        let end = content.windows(2).position(|two| two == b"\n\n").unwrap();
        let head = std::str::from_utf8(&content[..end]).unwrap();
        let expected = head.lines().find_map(|line| line.strip_prefix("expect: ")).unwrap();
        let expected = (expected != "ok").then(|| expected.split_once(' ').unwrap());
        wrong.extend(check(&name, expected, judge(&content[end + 2..])));
        judged += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(judged >= 50, "{judged} vectors");
}

#[test]
fn nothing_of_a_bad_bundle_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let ferry = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::support::ferry());
        command.current_dir(dir.path()).arg("--root").arg(&root).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let path = dir.path().join("vector.ferry");
    let mut wrong = Vec::new();
    // No thin one is loaded where its base is not.
    for mut case in bundles() {
        if matches!(case.name, "thin" | "thin-lying" | "thin-holders") {
            case.expected = Some((Class::NotFound, "old.ferry"));
        }
        let _ = fs::remove_file(&path);
        let mut writer = SetWriter::to_path(&path, WriteOptions::new(SetId::derive(b"vector"))).unwrap();
        std::io::Write::write_all(&mut writer, &case.bytes).unwrap();
        writer.finish(None, &Ctx::silent()).unwrap();
        let (code, _, error) = ferry(&["load", "-q", "-i", "vector.ferry"]);
        let Some((_, place)) = case.expected else {
            assert_eq!(code, 0, "{}: {error}", case.name);
            assert_eq!(ferry(&["rmi", "hi:1"]).0, 0, "{}", case.name);
            continue;
        };
        let lines = error.lines().filter(|line| !line.starts_with("hint: ")).count();
        if !(3..=10).contains(&code) || lines != 1 || !error.contains(place) {
            wrong.push(format!("{}: {code}: {error}", case.name));
        }
        let left: usize = ["image/overlay2/layerdb/sha256", "image/overlay2/imagedb/content/sha256", "ferry/staging"]
            .iter()
            .map(|place| fs::read_dir(root.join(place)).map_or(0, Iterator::count))
            .sum();
        assert_eq!(left, 0, "{}", case.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn indexes_recipes_and_frames_of_any_bytes_under_right_checksums_are_refused_or_found_out_by_the_digest() {
    let good = Parts::new();
    let recipe = good.recipe.encode();
    let index = good.index(&zstd(&recipe), recipe.len());
    type Spoil = fn(&mut Parts, Vec<u8>);
    let targets: [(&str, Vec<u8>, Spoil); 3] = [
        ("bundle index", index, |parts, bytes| parts.index_bytes = Some(bytes)),
        ("bundle recipe", recipe, |parts, bytes| parts.recipe_bytes = Some(bytes)),
        ("bundle frame", good.frame.clone(), |parts, bytes| parts.frame = bytes),
    ];
    for (target, seed, spoil) in targets {
        fuzz(target, 5 * runs(), std::slice::from_ref(&seed), false, |bytes| {
            let mut parts = good.clone();
            spoil(&mut parts, bytes.to_vec());
            // What is accepted has the layer's digest: nothing else passes the verifying reader.
            if let Err(fault) = judge_bundle(&parts.stream()) {
                let class = fault.class();
                let blamed =
                    matches!(class, Class::Malformed | Class::Integrity | Class::NotFound | Class::Unsupported);
                assert!(blamed && bytes != seed, "{class:?}: {fault}");
            }
        });
    }
}

#[test]
fn inventories_of_any_bytes_are_refused_without_a_panic() {
    let good = inventories().remove(0).bytes;
    fuzz("inventory", 10 * runs(), &[good], false, |bytes| {
        let mut bytes = bytes.to_vec();
        // The checksum is made right, so that what is behind it is reached.
        if bytes.len() > 48 {
            let end = bytes.len() - 40;
            let check = *blake3::hash(&bytes[..end]).as_bytes();
            bytes[end..end + 32].copy_from_slice(&check);
        }
        if let Ok(inventory) = Inventory::parse(&bytes) {
            assert_eq!(Inventory::parse(&inventory.encode().unwrap()).unwrap(), inventory);
        }
    });
}
