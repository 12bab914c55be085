//! What an image is, and the two traits that everything which holds images plugs into.

pub mod change;
pub mod config;
pub mod id;
pub mod index;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod signal;
pub mod source;
pub mod split;

pub use config::ImageConfig;
pub use id::{ChainId, DiffId, ImageId};
pub use manifest::{Descriptor, Manifest};
pub use platform::Platform;
pub use reference::Reference;
pub use source::{Form, Image, ImageSink, ImageSource, Layer};
pub use split::{Extent, SplitContent, SplitSink};
