//! `ferry history`: how an image was made, step by step, with the sizes of its layers.

use jiff::Timestamp;

use crate::base::BoxFault;
use crate::image::ImageId;
use crate::store::{Store, StoredImage};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The image that this step ended in, where it is known: the last step's.
    pub image: Option<ImageId>,
    /// When.
    pub created: Option<Timestamp>,
    /// The command.
    pub created_by: String,
    /// The size of its layer in bytes, as docker counts; zero when it made none.
    pub size: u64,
    /// A message.
    pub comment: String,
}

/// The steps of an image, the last first.
pub fn history(store: &Store, image: &StoredImage) -> Result<Vec<Step>, BoxFault> {
    let mut sizes = store.layers(&image.config)?.into_iter().map(|layer| layer.size);
    let mut steps = Vec::new();
    for entry in &image.config.fields().history {
        let size = if entry.empty_layer == Some(true) { 0 } else { sizes.next().unwrap_or_default() };
        steps.push(Step {
            image: None,
            created: entry.created.as_deref().and_then(|time| time.parse().ok()),
            created_by: entry.created_by.clone().unwrap_or_default(),
            size,
            comment: entry.comment.clone().unwrap_or_default(),
        });
    }
    // Layers that the config's history does not tell of.
    for size in sizes {
        let created = image.created();
        steps.push(Step { image: None, created, created_by: String::new(), size, comment: String::new() });
    }
    steps.reverse();
    if let Some(first) = steps.first_mut() {
        first.image = Some(image.id());
    }
    Ok(steps)
}
