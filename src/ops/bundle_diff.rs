//! `ferry diff` of two bundles: what the second has that the first has not, and the other way round.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BoxFault, Ctx};
use crate::bundle::BundleSource;
use crate::bundle::index::{LayerKind, LayerRecord, ShortId};
use crate::bundle::outline::{Outlined, outline};
use crate::image::{DiffId, ImageId, ImageSource};
use crate::layer::tar::Kind;

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The second bundle alone has it.
    Added,
    /// Both have it, not the same.
    Changed,
    /// The first bundle alone has it.
    Gone,
}

/// An image that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChange {
    /// How.
    pub change: Change,
    /// Its name; none for an image without names.
    pub name: Option<String>,
    /// In the first bundle.
    pub before: Option<ImageId>,
    /// In the second.
    pub after: Option<ImageId>,
}

/// A layer of one of the bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerChange {
    /// Added or gone.
    pub change: Change,
    /// Which.
    pub diff_id: DiffId,
    /// Of its tar, in bytes.
    pub size: u64,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// How.
    pub change: Change,
    /// Without a leading slash.
    pub path: Vec<u8>,
    /// Bytes of its versions that only the first bundle has.
    pub gone: u64,
    /// Bytes of its versions that only the second has.
    pub added: u64,
}

/// What differs.
#[derive(Debug, Default)]
pub struct Difference {
    /// By name.
    pub images: Vec<ImageChange>,
    /// In the bundles' order.
    pub layers: Vec<LayerChange>,
    /// How many layers both have.
    pub same_layers: usize,
    /// By path.
    pub files: Vec<FileChange>,
    /// Layers that a thin bundle has in its base alone: of their files nothing is known.
    pub unseen: Vec<DiffId>,
    /// Bytes of contents, each once, that only the second bundle has.
    pub bytes_added: u64,
    /// Bytes of contents, each once, that only the first bundle has.
    pub bytes_gone: u64,
}

/// Compares two bundles. Only their indexes and recipes are read, except for layers that are kept as blobs.
pub fn diff(before: &BundleSource, after: &BundleSource, ctx: &Ctx) -> Result<Difference, BoxFault> {
    let mut difference = Difference::default();
    images(before, after, &mut difference);
    layers(before, after, &mut difference);
    let mut sides = [Files::default(), Files::default()];
    // A layer is read once, by whatever blobs it is there; one that both have from the one that holds it.
    let mut seen: BTreeSet<DiffId> = BTreeSet::new();
    for (at, (source, other)) in [(before, after), (after, before)].into_iter().enumerate() {
        for layer in &source.bundle().index().layers {
            ctx.check()?;
            if !seen.insert(layer.diff_id) {
                continue;
            }
            let shared = has(other, &layer.diff_id);
            let holder = [source, other].into_iter().find(|source| holds(source, &layer.diff_id));
            let Some(holder) = holder else {
                difference.unseen.push(layer.diff_id);
                continue;
            };
            outline(holder, &layer.diff_id, &mut |file| {
                if shared {
                    sides[1 - at].add(&file);
                }
                sides[at].add(&file);
                Ok(())
            })?;
        }
    }
    let [old, new] = sides;
    difference.bytes_gone = old.contents.iter().filter(|(id, _)| !new.contents.contains_key(id)).map(|(_, n)| n).sum();
    difference.bytes_added = new.contents.iter().filter(|(id, _)| !old.contents.contains_key(id)).map(|(_, n)| n).sum();
    difference.files = files(old, new);
    Ok(difference)
}

fn has(source: &BundleSource, diff_id: &DiffId) -> bool {
    source.bundle().index().layers.iter().any(|layer| layer.diff_id == *diff_id)
}

fn holds(source: &BundleSource, diff_id: &DiffId) -> bool {
    let layers = &source.bundle().index().layers;
    layers.iter().any(|layer| layer.diff_id == *diff_id && layer.kind != LayerKind::Base)
}

fn images(before: &BundleSource, after: &BundleSource, difference: &mut Difference) {
    let by_name = |source: &BundleSource| -> BTreeMap<(Option<String>, Option<ImageId>), ImageId> {
        let mut names = BTreeMap::new();
        for image in source.images() {
            let id = image.config.id();
            for name in &image.names {
                names.insert((Some(name.to_string()), None), id);
            }
            if image.names.is_empty() {
                names.insert((None, Some(id)), id);
            }
        }
        names
    };
    let (old, new) = (by_name(before), by_name(after));
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (before, after) = (old.get(key).copied(), new.get(key).copied());
        let change = match (before, after) {
            (None, _) => Change::Added,
            (_, None) => Change::Gone,
            (before, after) if before != after => Change::Changed,
            _ => continue,
        };
        difference.images.push(ImageChange { change, name: key.0.clone(), before, after });
    }
}

fn layers(before: &BundleSource, after: &BundleSource, difference: &mut Difference) {
    let set = |source: &BundleSource| -> BTreeSet<DiffId> {
        source.bundle().index().layers.iter().map(|layer| layer.diff_id).collect()
    };
    let (old, new) = (set(before), set(after));
    difference.same_layers = old.intersection(&new).count();
    for (source, others, change) in [(before, &new, Change::Gone), (after, &old, Change::Added)] {
        let mut seen = BTreeSet::new();
        let is_other = |layer: &&LayerRecord| !others.contains(&layer.diff_id) && seen.insert(layer.diff_id);
        let layers = source.bundle().index().layers.iter().filter(is_other);
        let change = |layer: &LayerRecord| LayerChange { change, diff_id: layer.diff_id, size: layer.size };
        difference.layers.extend(layers.map(change));
    }
}

/// What there is of a path: everything but times, which differ in every build.
type Version = ([u8; 16], u64);

/// The files of all layers of a bundle.
#[derive(Default)]
struct Files {
    by_path: BTreeMap<Box<[u8]>, BTreeSet<Version>>,
    contents: BTreeMap<ShortId, u64>,
}

impl Files {
    fn add(&mut self, file: &Outlined) {
        let entry = &file.entry;
        if entry.kind == Kind::Directory {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(
            format!("{:?} {} {} {} {:?} ", entry.kind, entry.mode, entry.uid, entry.gid, entry.device).as_bytes(),
        );
        let texts =
            [&entry.link[..]].into_iter().chain(entry.xattrs.iter().flat_map(|(name, value)| [&name[..], value]));
        for text in texts {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        if let Some(id) = &file.id {
            hasher.update(&id.0);
            self.contents.insert(*id, entry.stored);
        }
        let mut short = [0; 16];
        short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        let start = entry.path.iter().position(|b| !matches!(b, b'/' | b'.')).unwrap_or(0);
        // `./a` and `/a` are `a`; `.a` is not.
        let start = entry.path[..start].iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        self.by_path.entry(entry.path[start..].into()).or_default().insert((short, entry.size()));
    }
}

fn files(old: Files, mut new: Files) -> Vec<FileChange> {
    let mut changes = Vec::new();
    let bytes = |versions: &BTreeSet<Version>, others: &BTreeSet<Version>| -> u64 {
        versions.difference(others).map(|(_, size)| size).sum()
    };
    let none = BTreeSet::new();
    for (path, before) in old.by_path {
        let after = new.by_path.remove(&path);
        let (change, after) = match &after {
            None => (Change::Gone, &none),
            Some(after) if *after == before => continue,
            Some(after) => (Change::Changed, after),
        };
        let (gone, added) = (bytes(&before, after), bytes(after, &before));
        changes.push(FileChange { change, path: path.into(), gone, added });
    }
    for (path, after) in new.by_path {
        let added = bytes(&after, &none);
        changes.push(FileChange { change: Change::Added, path: path.into(), gone: 0, added });
    }
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}
