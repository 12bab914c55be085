//! What commands that read bundles and archives can be told about their input.

use std::path::PathBuf;

use clap::Args;

use super::parse;
use crate::base::{BoxFault, Ctx};
use crate::bundle::carry::Access;
use crate::layer::compression::DecodeLimits;
use crate::ops::base::Bases;
use crate::store::Store;

/// How much memory an input may ask for.
#[derive(Debug, Clone, Copy, Args)]
pub struct WindowArgs {
    /// The largest zstd window to accept, in memory of this size [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse::window)]
    pub max_window: Option<u32>,
}

impl WindowArgs {
    /// What decoders may use.
    pub fn limits(self) -> DecodeLimits {
        let usual = DecodeLimits::default();
        DecodeLimits { window_log: self.max_window.unwrap_or(usual.window_log), ..usual }
    }
}

/// What thin bundles are read with.
#[derive(Debug, Args)]
pub struct InputBaseArgs {
    /// Take what a thin bundle leaves out from this bundle; may be given several times, one that is thin itself behind its
    /// own base
    #[arg(long, value_name = "FILE")]
    input_base: Vec<PathBuf>,
}

impl InputBaseArgs {
    /// Whether there are any.
    pub fn given(&self) -> bool {
        !self.input_base.is_empty()
    }

    /// Opens them with what opens the bundle itself, beside a store where there is one.
    pub fn open(&self, store: Option<Store>, access: &Access, ctx: &Ctx) -> Result<Bases, BoxFault> {
        Bases::open(store, &self.input_base, access, ctx)
    }
}
