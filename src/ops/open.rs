//! Opening whatever holds images.

use crate::archive::{self, Input, OpenOptions};
use crate::base::{BoxFault, Class, Ctx, Fault};
use crate::image::{ImageSource, Reference};

/// An input that does not fit what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// One name for several images.
    #[error("{name} cannot be the name of all {images} images in {origin}")]
    OneName {
        /// The name.
        name: Reference,
        /// The input.
        origin: String,
        /// How many there are.
        images: usize,
    },
}

impl Fault for OpenError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// Opens an input, recognising what it is by its content.
pub fn open(input: Input, options: &OpenOptions, ctx: &Ctx) -> Result<Box<dyn ImageSource>, BoxFault> {
    Ok(archive::open(input, options, ctx)?)
}
