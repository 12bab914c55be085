//! What the far side has: the bases that a thin bundle is written against and read with.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use super::error::BundleError;
use super::index::{Base, BaseKind, ID_LENGTH, LayerKind, ShortId, blob_of};
use super::outline::paths;
use super::plan::sort_path;
use super::source::BundleSource;
use crate::base::{BoxFault, ContentId, Ctx, Digest};
use crate::image::{DiffId, Form, Layer};

/// Contents that can be read by their IDs, of which [`ID_LENGTH`] bytes count.
pub trait BaseContents: Send + Sync {
    /// Whether the layer as a whole is there.
    fn has_layer(&self, diff_id: &DiffId) -> bool;

    /// The size of a content in bytes; `None` when it is not there.
    fn size_of(&self, id: &ShortId) -> Option<u64>;

    /// Fills `buf` from `offset` on. The bytes are *unverified*: whoever needs them hashes the whole content.
    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault>;

    /// How much memory reading takes, by as many threads as like, in bytes.
    fn memory(&self) -> u64 {
        0
    }

    /// A layer that can be read as a whole, with a blob it came as where one can be read too: the one of the digest `blob`
    /// if that is there. `None` for any other layer.
    fn whole_layer(&self, _: &DiffId, _blob: Option<&Digest>) -> Option<Layer> {
        None
    }

    /// Opens a layer that [`BaseContents::whole_layer`] has. The bytes are *unverified*.
    fn open_whole(&self, layer: &Layer, _: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        Err(BundleError::Absent { what: format!("layer {}", layer.diff_id) }.into())
    }
}

/// A version of a file that the far side has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub id: ShortId,
    /// In bytes.
    pub size: u64,
}

/// The versions of each path, oldest first.
type Versions = HashMap<Box<[u8]>, Vec<Version>>;

/// A base to write against.
pub struct KnownBase {
    /// What the bundle calls it.
    pub base: Base,
    pub(crate) layers: HashSet<DiffId>,
    /// The blobs of those layers of which it is known which there are.
    blobs: HashMap<DiffId, HashSet<Digest>>,
    pub(crate) ids: HashSet<ShortId>,
    /// By path; what changed files are stored as the difference to.
    pub(crate) versions: Versions,
    pub(crate) contents: Option<Arc<dyn BaseContents>>,
}

impl KnownBase {
    /// A base of which only IDs are known: what it has is left out, what changed is stored whole.
    pub fn of_ids(base: Base, layers: HashSet<DiffId>, ids: impl IntoIterator<Item = ShortId>) -> Self {
        let ids = ids.into_iter().map(shortened).collect();
        Self { base, layers, blobs: HashMap::new(), ids, versions: Versions::new(), contents: None }
    }

    /// Layers that the far side has, with the files in them, oldest first; `contents` gives their bytes. Without it what
    /// changed is stored whole.
    pub fn of_layers(
        layers: &[DiffId],
        files: impl IntoIterator<Item = (Box<[u8]>, ContentId, u64)>,
        contents: Option<Arc<dyn BaseContents>>,
    ) -> Self {
        let mut identity = blake3::Hasher::new();
        for layer in layers {
            identity.update(layer.0.as_bytes());
        }
        let label = "what the receiver has".to_owned();
        let base = Base { kind: BaseKind::Inventory, identity: *identity.finalize().as_bytes(), label };
        let mut known = Self::of_ids(base, layers.iter().copied().collect(), []);
        for (path, id, size) in files {
            let version = Version { id: ShortId::of(&id, ID_LENGTH), size };
            known.ids.insert(version.id);
            // What cannot be read here is nothing to compare with.
            if contents.as_ref().is_none_or(|contents| contents.size_of(&version.id) != Some(size)) {
                continue;
            }
            let of_path = known.versions.entry(Box::from(sort_path(&path))).or_default();
            if !of_path.contains(&version) {
                of_path.push(version);
            }
        }
        known.contents = contents;
        known
    }

    /// Contents that the far side has, in layers of which nothing is known here.
    pub fn of_found(ids: &[ShortId]) -> Self {
        let mut identity = blake3::Hasher::new();
        for id in ids {
            identity.update(&id.0);
        }
        let label = "what else the receiver has".to_owned();
        let base = Base { kind: BaseKind::Inventory, identity: *identity.finalize().as_bytes(), label };
        Self::of_ids(base, HashSet::new(), ids.iter().copied())
    }

    /// An older bundle.
    pub fn of_bundle(source: Arc<BundleSource>, ctx: &Ctx) -> Result<Self, BoxFault> {
        let index = source.bundle().index();
        let label = source.bundle().origin().rsplit('/').next().unwrap_or_default().to_owned();
        let base = Base { kind: BaseKind::Bundle, identity: *source.bundle().identity(), label };
        let layers = index.layers.iter().map(|layer| layer.diff_id).collect();
        let ids = index.contents.ids.iter().chain(&index.base_contents.ids).copied();
        let mut known = Self::of_ids(base, layers, ids);
        for layer in index.layers.iter().filter(|layer| layer.kind != LayerKind::Base) {
            known.blobs.entry(layer.diff_id).or_default().insert(layer.blob());
        }
        known.versions = versions(&source, ctx)?;
        known.contents = Some(source);
        Ok(known)
    }
}

impl KnownBase {
    /// Whether nothing of the base can be read here, so that what changed is stored whole: it is an inventory, or a
    /// bundle that is thin itself.
    pub fn is_out_of_reach(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether the far side has a layer, and its blob as far as that is known; the tar it can make of any.
    pub(crate) fn has_blob(&self, layer: &Layer) -> bool {
        let blob = blob_of(layer);
        let known = self.blobs.get(&layer.diff_id).is_none_or(|blobs| blobs.contains(&blob));
        self.layers.contains(&layer.diff_id) && (known || blob == layer.diff_id.0)
    }

    /// Whether the far side has a content.
    pub fn has(&self, id: &ContentId) -> bool {
        self.ids.contains(&ShortId::of(id, ID_LENGTH))
    }

    /// What is known of the far side is at hand here too: `files` are those contents of it, by their paths, that
    /// `contents` can give.
    pub fn reach(
        &mut self,
        contents: Arc<dyn BaseContents>,
        files: impl IntoIterator<Item = (Vec<u8>, ContentId, u64)>,
    ) {
        for (path, id, size) in files {
            let version = Version { id: ShortId::of(&id, ID_LENGTH), size };
            let of_path = self.versions.entry(Box::from(sort_path(&path))).or_default();
            if self.ids.contains(&version.id) && !of_path.contains(&version) {
                of_path.push(version);
            }
        }
        self.contents = Some(contents);
    }

    /// The version of a path that a content of `size` bytes is most likely a change of: the one of the nearest size,
    /// the newest of those.
    pub(crate) fn version(&self, path: &[u8], size: u64) -> Option<Version> {
        self.versions.get(path)?.iter().rev().min_by_key(|version| version.size.abs_diff(size)).copied()
    }
}

/// IDs of bundles that keep more bytes of them are cut to what is compared.
pub(crate) fn shortened(mut id: ShortId) -> ShortId {
    id.0[ID_LENGTH..].fill(0);
    id
}

/// The versions of each path of a bundle's layers, as far as they are in the bundle itself. Their recipes tell: nothing is
/// decompressed for it.
fn versions(source: &BundleSource, ctx: &Ctx) -> Result<Versions, BoxFault> {
    let index = source.bundle().index();
    let mut versions = Versions::new();
    // Of one that is thin itself the store may have all, and it only a part.
    let layers = if source.is_whole() { &index.layers[..] } else { &[] };
    for layer in layers {
        ctx.check()?;
        paths(source, layer, &mut |path, content| {
            let id = shortened(index.content_id(content));
            if source.size_of(&id).is_some() {
                let version = Version { id, size: index.content_size(content) };
                let of_path = versions.entry(Box::from(sort_path(path))).or_default();
                if !of_path.contains(&version) {
                    of_path.push(version);
                }
            }
        })?;
    }
    Ok(versions)
}

/// Reads a base content from begin to end.
pub(crate) struct BaseReader<'a> {
    pub contents: &'a dyn BaseContents,
    pub version: Version,
    pub at: u64,
}

impl Read for BaseReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.version.size - self.at).min(buf.len() as u64) as usize;
        let read = self.contents.read_at(&self.version.id, self.at, &mut buf[..n]);
        read.map_err(std::io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}
