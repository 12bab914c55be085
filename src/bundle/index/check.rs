//! What of an index can only be checked when all its tables are there.

use std::collections::{HashMap, HashSet};

use super::code::TABLE;
use super::*;

impl Index {
    /// Whether the tables agree; else the table, and what is wrong.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let mut ids = HashSet::with_capacity(self.contents.ids.len() + self.base_contents.ids.len());
        if !self.contents.ids.iter().chain(&self.base_contents.ids).all(|id| ids.insert(*id)) {
            return Err(("contents", "two contents with one ID"));
        }
        let contents = self.contents.ids.len() + self.base_contents.ids.len();
        if contents >= TABLE {
            return Err(("contents", "too many contents"));
        }
        let mut objects = self.objects.iter();
        for frame in &self.frames {
            if frame.objects == 0 || objects.len() < frame.objects as usize {
                return Err(("frames", "they do not hold as many objects as there are"));
            }
            let length: u64 = objects.by_ref().take(frame.objects as usize).map(|size| u64::from(*size)).sum();
            if length > FRAME_BYTES {
                return Err(("frames", "a frame over 64 MiB"));
            }
            let mut prefix = 0u64;
            for part in &frame.prefix {
                let base = (part.content as usize).checked_sub(self.contents.ids.len());
                let size = base.and_then(|base| self.base_contents.sizes.get(base));
                let end = part.offset.checked_add(part.length.into());
                match (size, end) {
                    (Some(size), Some(end)) if end <= *size => {}
                    _ => return Err(("frames", "a prefix that is not inside a base content")),
                }
                prefix += u64::from(part.length);
            }
            if prefix > FRAME_BYTES {
                return Err(("frames", "a prefix over 64 MiB"));
            }
        }
        if objects.next().is_some() {
            return Err(("frames", "they do not hold as many objects as there are"));
        }
        let mut firsts: HashMap<DiffId, &LayerRecord> = HashMap::new();
        let (mut blobs, mut split) = (HashSet::new(), HashSet::new());
        let mut recipes = Vec::new();
        for layer in &self.layers {
            if !blobs.insert((layer.diff_id, layer.blob())) {
                return Err(("layers", "two layers with one diff ID and one blob"));
            }
            let first = *firsts.entry(layer.diff_id).or_insert(layer);
            if first.size != layer.size {
                return Err(("layers", "two sizes of one layer"));
            }
            // A base layer's only blob is its tar: two of them were refused above.
            if first.kind != layer.kind && [first.kind, layer.kind].contains(&LayerKind::Base) {
                return Err(("layers", "a layer of a base that is not left out"));
            }
            let mut in_frame = |number: u32, offset: u32, length: u32| -> Result<(), (&'static str, &'static str)> {
                let frame = self.recipe_frames.get(number as usize).ok_or(("layers", "no such recipe frame"))?;
                let end = offset.checked_add(length).filter(|end| *end <= frame.length);
                recipes.push((number, offset, end.ok_or(("layers", "a recipe that ends outside its frame"))?));
                Ok(())
            };
            if let Some(Replay::Corrected { frame, offset, length, .. }) = layer.replay {
                in_frame(frame, offset, length)?;
            }
            match layer.kind {
                // Several blobs of one layer share its recipe.
                LayerKind::Split { frame, offset, length } => {
                    if split.insert((layer.diff_id, frame, offset, length)) {
                        in_frame(frame, offset, length)?;
                    }
                }
                LayerKind::Blob { content } => {
                    if content as usize >= contents {
                        return Err(("layers", "no such content"));
                    }
                    if layer.original.as_ref().is_some_and(|(_, _, size)| *size != self.content_size(content)) {
                        return Err(("layers", "a blob of another size than its original"));
                    }
                }
                LayerKind::Base if !self.is_thin() => return Err(("layers", "a layer of a base without a base")),
                LayerKind::Base => {}
            }
            let kept = |(_, digest, size): &(String, Digest, u64)| match layer.kind {
                LayerKind::Split { .. } if layer.replay.is_some() => true,
                // The tar is the original.
                LayerKind::Split { .. } => *digest == layer.diff_id.0 && *size == layer.size,
                LayerKind::Blob { .. } => layer.replay.is_none(),
                LayerKind::Base => false,
            };
            if !layer.original.as_ref().is_none_or(kept) {
                return Err(("layers", "an original that is not kept"));
            }
        }
        recipes.sort_unstable();
        if recipes.windows(2).any(|two| two[0].0 == two[1].0 && two[0].2 > two[1].1) {
            return Err(("layers", "recipes that overlap"));
        }
        let layers = self.layers.iter().filter(|layer| layer.kind == LayerKind::Base).count();
        let held = self.base_contents.ids.len() + layers;
        if !self.holders.is_empty()
            && (self.holders.len() != held || self.holders.iter().any(|base| *base as usize >= self.bases.len()))
        {
            return Err(("holders", "they are not one base for each content and layer of the bases"));
        }
        for image in &self.images {
            let documents = [Some(image.config), image.manifest.as_ref().map(|m| m.0)];
            if documents.into_iter().flatten().any(|number| number as usize >= self.documents.len()) {
                return Err(("images", "no such document"));
            }
            if image.layers.iter().any(|number| *number as usize >= self.layers.len()) {
                return Err(("images", "no such layer"));
            }
        }
        Ok(())
    }
}
