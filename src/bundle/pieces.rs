//! A split layer's recipe, read piece by piece.

use std::ops::Range;
use std::sync::Arc;

use super::error::BundleError;
use super::index::{LayerKind, LayerRecord};
use super::recipe::{Piece, RecipeReader};
use super::source::BundleSource;
use crate::image::DiffId;

/// The pieces of a layer in the order of its tar.
pub(super) struct Pieces<'a> {
    source: &'a BundleSource,
    diff_id: DiffId,
    recipe: Arc<Vec<u8>>,
    /// The recipe's place in its frame.
    range: Range<usize>,
    reader: RecipeReader,
}

impl<'a> Pieces<'a> {
    /// Those of a layer that is kept split; `None` for one that is not.
    pub fn of(source: &'a BundleSource, record: &LayerRecord) -> Result<Option<Self>, BundleError> {
        let LayerKind::Split { frame, offset, length } = record.kind else { return Ok(None) };
        let recipe = source.recipe(frame)?;
        let range = offset as usize..(offset + length) as usize;
        let diff_id = record.diff_id;
        let reader = RecipeReader::new(&recipe[range.clone()], record.size).map_err(|what| broken(&diff_id, what))?;
        Ok(Some(Self { source, diff_id, recipe, range, reader }))
    }

    /// The next one; none at the end.
    pub fn next(&mut self) -> Result<Option<Piece<'_>>, BundleError> {
        let index = self.source.bundle().index();
        let sizes = |content| (content < index.content_count()).then(|| index.content_size(content));
        let piece = self.reader.next(&self.recipe[self.range.clone()], &sizes);
        piece.map_err(|what| broken(&self.diff_id, what))
    }
}

fn broken(diff_id: &DiffId, what: &str) -> BundleError {
    BundleError::malformed(format!("recipe of layer {diff_id}"), what)
}
