//! `ferry repair` and `ferry copy`: volume sets as they are, without a look into their stream.

use std::path::{Path, PathBuf};

use crate::base::{BoxFault, Ctx};
use crate::bundle::volume::{self, Budget, Copied, CopyOptions, Report, VolumeSet};

/// Mends every damaged or missing volume of a bundle, in its place or into the directory `to`. Gives what was wrong,
/// and the files written.
pub fn repair(paths: &[PathBuf], to: Option<&Path>, ctx: &Ctx) -> Result<(Report, Vec<PathBuf>), BoxFault> {
    let set = VolumeSet::open(paths)?;
    let damage = volume::check(&set, Budget::default(), ctx)?;
    let report = damage.report.clone();
    let written = volume::repair(&set, damage, to, Budget::default(), ctx)?;
    Ok((report, written))
}

/// Copies the volumes of a bundle, checked, going on where an interrupted copy ended.
pub fn copy(paths: &[PathBuf], to: &Path, ctx: &Ctx) -> Result<Copied, BoxFault> {
    Ok(volume::copy(&VolumeSet::open(paths)?, to, &CopyOptions::default(), ctx)?)
}
