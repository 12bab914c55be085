//! Recipes: each proven before it is written, and the table of layers with them.

use std::collections::HashMap;
use std::io::Write;

use super::take::is_compressed;
use super::{Job, Numbers, Part};
use crate::base::BoxFault;
use crate::bundle::error::{BundleError, Doing};
use crate::bundle::index::*;
use crate::bundle::recipe::{Piece, Recipe, RecipeReader, SegmentHasher};
use crate::bundle::{frame, layout};
use crate::image::{DiffId, Layer};
use crate::layer::replay;

/// Recipes that together are larger than this, in bytes, go into the next frame.
const RECIPE_FRAME: usize = 32 << 20;

/// Recipes, ready to be written.
#[derive(Default)]
pub(super) struct Recipes {
    /// The layers, in their order.
    layers: Vec<LayerRecord>,
    /// Each as stored, and its length before.
    frames: Vec<(Vec<u8>, u32)>,
}

impl Recipes {
    /// Writes them, and enters them into the index.
    pub fn put<W: Write>(self, stream: &mut layout::StreamWriter<W>, index: &mut Index) -> Result<(), BoxFault> {
        for (stored, length) in self.frames {
            let check = stream.put(&stored)?;
            index.recipe_frames.push(RecipeFrameRecord { stored: stored.len() as u64, check, length });
        }
        index.layers = self.layers;
        Ok(())
    }
}

impl Job<'_> {
    /// Makes the recipes, each proven, and the table of layers. Takes the parts, so that none of them is in memory any more
    /// when the recipes are compressed.
    pub(super) fn make_recipes(&self, parts: Vec<Part>, numbers: &Numbers, index: &Index) -> Result<Recipes, BoxFault> {
        let mut made = Recipes::default();
        let mut raw = Vec::new();
        let mut split: HashMap<DiffId, LayerKind> = HashMap::new();
        let flush = |raw: &mut Vec<u8>, made: &mut Recipes| -> Result<(), BoxFault> {
            let level = self.options.level.for_metadata();
            let stored = frame::compress(level, raw, &[]).doing(|| "compress the recipes".into())?;
            made.frames.push((stored, raw.len() as u32));
            raw.clear();
            Ok(())
        };
        for (layer, part) in self.layers.iter().zip(parts) {
            self.ctx.check()?;
            let original = layer.original.as_ref().map(|o| (o.media_type.clone(), o.digest, o.size));
            let (recipe, local, replay) = match part {
                Part::Split { recipe, numbers, replay } => (recipe, numbers, replay),
                Part::Base => {
                    let (size, kind) = (layer.size.unwrap_or(0), LayerKind::Base);
                    let record = LayerRecord { diff_id: layer.diff_id, size, kind, original: None, replay: None };
                    made.layers.push(record);
                    continue;
                }
                Part::Blob { content, size } => {
                    let kind = LayerKind::Blob { content: numbers.catalog[content as usize] };
                    let record = LayerRecord { diff_id: layer.diff_id, size, kind, original, replay: None };
                    made.layers.push(record);
                    continue;
                }
            };
            // Another blob of a layer has the recipe of the first: it is made of the same tar.
            let kind = match split.get(&layer.diff_id) {
                Some(kind) => *kind,
                None => {
                    let mut one = Vec::new();
                    recipe.put(&mut one, &|content| numbers.catalog[local[content as usize] as usize]);
                    self.prove(&one, &recipe, index, layer)?;
                    if !raw.is_empty() && raw.len() + one.len() > RECIPE_FRAME {
                        flush(&mut raw, &mut made)?;
                    }
                    let too_large =
                        || BundleError::malformed(format!("layer {}", layer.diff_id), "its metadata exceeds 64 MiB");
                    let length = u32::try_from(one.len()).ok().filter(|length| u64::from(*length) <= FRAME_BYTES);
                    let kind = LayerKind::Split {
                        frame: made.frames.len() as u32,
                        offset: raw.len() as u32,
                        length: length.ok_or_else(too_large)?,
                    };
                    raw.append(&mut one);
                    split.insert(layer.diff_id, kind);
                    kind
                }
            };
            let replay = match replay {
                None => None,
                Some(replay::Way::Exact(recipe)) => Some(Replay::Exact(recipe)),
                Some(replay::Way::Corrected(model, corrections)) => {
                    if raw.len() + corrections.len() > RECIPE_FRAME {
                        flush(&mut raw, &mut made)?;
                    }
                    // Both are far below 2^32.
                    let (offset, length) = (raw.len() as u32, corrections.len() as u32);
                    raw.extend_from_slice(&corrections);
                    Some(Replay::Corrected { model, frame: made.frames.len() as u32, offset, length })
                }
            };
            let original = original.filter(|_| replay.is_some() || !is_compressed(layer));
            made.layers.push(LayerRecord { diff_id: layer.diff_id, size: recipe.size, kind, original, replay });
        }
        if !raw.is_empty() {
            flush(&mut raw, &mut made)?;
        }
        Ok(made)
    }

    /// Reads a recipe back: it must give the same segments again.
    fn prove(&self, bytes: &[u8], recipe: &Recipe, index: &Index, layer: &Layer) -> Result<(), BoxFault> {
        let sizes = |content| (content < index.content_count()).then(|| index.content_size(content));
        let wrong = |what| BundleError::malformed(format!("recipe of layer {}", layer.diff_id), what);
        let mut reader = RecipeReader::new(bytes, recipe.size).map_err(wrong)?;
        let mut hasher = SegmentHasher::default();
        while let Some(piece) = reader.next(bytes, &sizes).map_err(wrong)? {
            match piece {
                Piece::Bytes(bytes) => hasher.update(bytes),
                Piece::Zeros(count) => hasher.zeros(count),
                Piece::Content { .. } => {}
            }
        }
        if hasher.finish() != recipe.segments {
            return Err(wrong("it does not give the layer's metadata back").into());
        }
        Ok(())
    }
}
