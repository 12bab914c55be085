//! A layer as a tar stream and as a split layer.

mod ahead;
pub mod apply;
pub mod assemble;
mod churn;
pub mod compression;
pub mod diff;
pub mod error;
mod owners;
pub mod replay;
pub mod split;
pub mod tar;
pub mod tar_split;
mod union;
mod pgzip;

pub use apply::{Applied, ApplyOptions, Content, Target, apply};
pub use assemble::{Assembler, Unpacked};
pub use churn::Churn;
pub use compression::Compression;
pub use error::LayerError;
pub use owners::Owners;
pub use split::split;
pub use union::Marks;
