//! A bundle that is read with a base, each content and layer of which is checked, and a bundle as the base of another.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::{BundleSource, layer, prefix_bytes};
use crate::base::{BoxFault, Digest, lock};
use crate::bundle::base::{BaseContents, shortened};
use crate::bundle::error::BundleError;
use crate::bundle::index::{ID_LENGTH, LayerKind, LayerRecord, ShortId};
use crate::image::{DiffId, Form, Image, Layer};

impl BundleSource {
    /// Reads a thin bundle with what is here. Fails when a layer or content that the bundle needs is not, naming its
    /// bases; contents are checked against their IDs when they are used.
    pub fn with_base(self, base: Arc<dyn BaseContents>) -> Result<Self, BundleError> {
        let index = self.bundle.index();
        let contents = index.base_contents.ids.len();
        let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base);
        let absent: Vec<_> = (contents..).zip(layers).filter(|(_, layer)| !base.has_layer(&layer.diff_id)).collect();
        if let Some((_, first)) = absent.first() {
            let more = if absent.len() == 1 { String::new() } else { format!(" and {} more layers", absent.len() - 1) };
            let numbers: Vec<usize> = absent.iter().map(|(number, _)| *number).collect();
            return Err(self.missing(format!("layer {}{more}", first.diff_id), &numbers));
        }
        let absent = self.absent(&*base);
        if !absent.is_empty() {
            return Err(self.missing(format!("{} of {contents} contents", absent.len()), &absent));
        }
        Ok(self.based(base, &absent))
    }

    /// Reads a thin bundle with as much as is here of what it leaves out. What needs more fails when it is read, naming the
    /// bases.
    pub fn with_part_of_base(self, base: Arc<dyn BaseContents>) -> Self {
        let absent = self.absent(&*base);
        self.based(base, &absent)
    }

    /// The base contents that are not in `base`, by their numbers.
    fn absent(&self, base: &dyn BaseContents) -> Vec<usize> {
        let contents = &self.bundle.index().base_contents;
        let has = |(id, size): (&ShortId, &u64)| base.size_of(&shortened(*id)) == Some(*size);
        let there = contents.ids.iter().zip(&contents.sizes).map(has);
        there.enumerate().filter(|(_, has)| !has).map(|(number, _)| number).collect()
    }

    /// Takes `base`, which has all base contents but those that are `absent`, and describes layers that are left out as it
    /// does.
    fn based(mut self, base: Arc<dyn BaseContents>, absent: &[usize]) -> Self {
        let index = self.bundle.index();
        let sizes = &index.base_contents.sizes;
        let all = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
        let lacking = absent.iter().fold(0_u64, |sum, at| sum.saturating_add(sizes[*at]));
        self.base_bytes = all.saturating_sub(lacking);
        for Image { manifest, layers, .. } in &mut self.images {
            for (at, layer) in layers.iter_mut().enumerate() {
                let record = self.numbers.get(&layer.diff_id).map(|number| &index.layers[*number as usize]);
                let left_out = record.is_some_and(|record| record.kind == LayerKind::Base);
                let blob = manifest.as_ref().and_then(|manifest| manifest.layers().get(at)).map(|blob| &blob.digest);
                if let Some(known) = base.whole_layer(&layer.diff_id, blob).filter(|_| left_out) {
                    // A manifest that names the tar comes with no other blob.
                    let original = known.original.filter(|_| blob != Some(&layer.diff_id.0));
                    *layer = Layer { diff_id: layer.diff_id, size: known.size.or(layer.size), original };
                }
            }
        }
        self.base = Some(base);
        self
    }

    /// Says that something of the base is missing; `absent` are numbers of base contents and layers, as the index has them
    /// in its holders.
    fn missing(&self, missing: String, absent: &[usize]) -> BundleError {
        let bases = self.bundle.index().labels_of(absent).join(", ");
        BundleError::BaseMissing { missing, count: absent.len(), bases }
    }

    /// Reads no content from the bundle that `near` has, checked against its ID.
    pub fn sparing(self, near: Arc<dyn BaseContents>) -> Self {
        Self { near: Some(near), ..self }
    }

    /// Whether a content of the bundle is at hand.
    fn is_near(&self, content: u32) -> bool {
        let Some(near) = &self.near else { return false };
        if let Some(known) = lock(&self.at_hand).get(&content) {
            return *known;
        }
        let index = self.bundle.index();
        let there = near.size_of(&shortened(index.content_id(content))) == Some(index.content_size(content));
        // What is damaged there is taken from the bundle.
        let is = there && self.matches_id(&**near, content).unwrap_or(false);
        lock(&self.at_hand).insert(content, is);
        is
    }

    /// Whether what `base` has of a content is what its ID says.
    fn matches_id(&self, base: &dyn BaseContents, content: u32) -> Result<bool, BoxFault> {
        let index = self.bundle.index();
        let (id, size) = (index.content_id(content), index.content_size(content));
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; size.min(1 << 20) as usize];
        let mut at = 0;
        while at < size {
            let n = (size - at).min(buffer.len() as u64) as usize;
            base.read_at(&shortened(id), at, &mut buffer[..n])?;
            hasher.update(&buffer[..n]);
            at += n as u64;
        }
        let kept = index.contents.id_length;
        Ok(hasher.finalize().as_bytes()[..kept] == id.0[..kept])
    }

    /// Whether a content is read from the bundle itself.
    pub(crate) fn is_own(&self, content: u32) -> bool {
        (content as usize) < self.bundle.index().contents.ids.len() && !self.is_near(content)
    }

    /// Whether every content can be read: the bundle is not thin, or has its base.
    pub(crate) fn is_whole(&self) -> bool {
        self.bundle.index().base_contents.ids.is_empty() || self.base.is_some()
    }

    /// The base, which a thin bundle must have been given.
    fn base(&self) -> Result<&dyn BaseContents, BundleError> {
        self.base.as_deref().ok_or_else(|| {
            let index = self.bundle.index();
            let bases: Vec<&str> = index.bases.iter().map(|base| base.label.as_str()).collect();
            BundleError::BaseMissing { missing: "what".into(), count: 1, bases: bases.join(", ") }
        })
    }

    /// Reads a part of a base content, which is checked as a whole when it is used first.
    pub(crate) fn read_base(&self, content: u32, offset: u64, buf: &mut [u8]) -> Result<(), BundleError> {
        let index = self.bundle.index();
        let id = index.content_id(content);
        let own = (content as usize) < index.contents.ids.len();
        let base = match &self.near {
            Some(near) if own => &**near,
            _ => self.base()?,
        };
        let failed = |fault: BoxFault| BundleError::Io {
            action: format!("read base content {}", hex::encode(&id.0[..8])),
            source: io::Error::other(fault),
        };
        // One that is at hand was checked when that was found out.
        if !own && !lock(&self.proven).contains(&content) {
            if base.size_of(&shortened(id)) != Some(index.content_size(content)) {
                let absent = content as usize - index.contents.ids.len();
                return Err(self.missing(format!("content {}", hex::encode(&id.0[..8])), &[absent]));
            }
            if !self.matches_id(base, content).map_err(failed)? {
                let kept = index.contents.id_length;
                return Err(BundleError::Damaged { place: format!("base content {}", hex::encode(&id.0[..kept])) });
            }
            lock(&self.proven).insert(content);
        }
        base.read_at(&shortened(id), offset, buf).map_err(failed)
    }

    /// The base, which must have a layer as a whole.
    pub(super) fn whole_base(&self, layer: &LayerRecord) -> Result<&dyn BaseContents, BundleError> {
        let base = self.base.as_deref().filter(|base| base.whole_layer(&layer.diff_id, None).is_some());
        base.ok_or_else(|| self.left_out(layer))
    }

    /// Whether a thin bundle leaves this layer out, as one that its base has.
    pub fn leaves_out(&self, layer: &DiffId) -> bool {
        self.record(layer).is_ok_and(|record| record.kind == LayerKind::Base)
    }

    /// Why a layer that the bundle leaves out cannot be read.
    pub(super) fn left_out(&self, layer: &LayerRecord) -> BundleError {
        let index = self.bundle.index();
        let layers = index.layers.iter().filter(|layer| layer.kind == LayerKind::Base);
        let number = layers.zip(index.base_contents.ids.len()..).find(|(other, _)| other.diff_id == layer.diff_id);
        let bases = index.labels_of(&number.map(|(_, number)| number).into_iter().collect::<Vec<_>>()).join(", ");
        let what = format!(
            "layer {} itself, which is in its base {bases}: load it where that is and save the image from there, or extract \
             it with --input-base",
            layer.diff_id
        );
        BundleError::Absent { what }
    }

    /// The contents that the bundle holds, as far as they are `size` bytes or more.
    pub fn content_ids(&self, size: u64) -> Vec<ShortId> {
        let index = self.bundle.index();
        let large = |(id, number): (&ShortId, u32)| (index.content_size(number) >= size).then(|| shortened(*id));
        index.contents.ids.iter().zip(0..).filter_map(large).collect()
    }

    fn by_id(&self) -> &HashMap<ShortId, u32> {
        let ids = || self.bundle.index().contents.ids.iter().map(|id| shortened(*id));
        self.by_id.get_or_init(|| ids().zip(0..).collect())
    }
}

/// A bundle as the base of a thin one.
impl BaseContents for BundleSource {
    fn has_layer(&self, diff_id: &DiffId) -> bool {
        self.numbers.contains_key(diff_id)
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        let content = *self.by_id().get(id)?;
        let index = self.bundle.index();
        // What is a difference to a base that is not here cannot be given.
        let whole = |object: &u32| index.frames[self.bundle.place(*object).0 as usize].prefix.is_empty();
        let can = self.base.is_some() || index.contents.objects_of(content).iter().all(whole);
        can.then(|| index.content_size(content))
    }

    fn whole_layer(&self, diff_id: &DiffId, blob: Option<&Digest>) -> Option<Layer> {
        let record = self.record_of(diff_id, blob).ok()?;
        match record.kind {
            LayerKind::Base => self.base.as_ref()?.whole_layer(diff_id, blob),
            _ => Some(layer(record)),
        }
    }

    fn open_whole(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        self.open(layer, form)
    }

    fn memory(&self) -> u64 {
        // One frame at a time: as it is stored, as it is, and with what it is the difference to.
        let frames = &self.bundle.index().frames;
        let stored = frames.iter().map(|frame| frame.stored).max().unwrap_or(0);
        let raw = (0..frames.len() as u32).map(|frame| self.bundle.frame_length(frame) as u64).max().unwrap_or(0);
        stored + raw + frames.iter().map(prefix_bytes).max().unwrap_or(0)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        let absent = || BundleError::Absent { what: format!("content {}", hex::encode(&id.0[..ID_LENGTH])) };
        let content = *self.by_id().get(id).ok_or_else(absent)?;
        let (mut at, mut got) = (0, 0);
        for object in self.bundle.index().contents.objects_of(content) {
            let size = u64::from(self.bundle.place(*object).2);
            let wanted = offset + got as u64;
            if wanted < at + size && got < buf.len() {
                let n = (at + size - wanted).min((buf.len() - got) as u64) as usize;
                self.read_object(*object, wanted - at, &mut buf[got..got + n])?;
                got += n;
            }
            at += size;
        }
        if got == buf.len() { Ok(()) } else { Err(absent().into()) }
    }
}
