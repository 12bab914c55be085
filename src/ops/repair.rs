//! `ferry repair` and `ferry copy`: volume sets as they are, without a look into their stream.

use std::path::{Path, PathBuf};

use super::carried::{Form, Luggage};
use super::media::folder_of;
use crate::base::{AtPath, BoxFault, Ctx};
use crate::bundle::volume::{self, Budget, Copied, CopyOptions, Report, VolumeSet};

/// Mends every damaged or missing volume of a bundle, in its place or into the directory `to`, which is made. Gives what
/// was wrong, and the files written.
pub fn repair(paths: &[PathBuf], to: Option<&Path>, ctx: &Ctx) -> Result<(Report, Vec<PathBuf>), BoxFault> {
    let set = VolumeSet::open(paths)?;
    let damage = volume::check(&set, Budget::default(), ctx)?;
    let report = damage.report.clone();
    if let Some(to) = to.filter(|_| !report.intact() && report.repairable()) {
        std::fs::create_dir_all(to).at("create", to)?;
    }
    let written = volume::repair(&set, damage, to, Budget::default(), ctx)?;
    Ok((report, written))
}

/// Copies the volumes of a bundle and what they bring along, checked, going on where an interrupted copy ended. `to` is a
/// directory, or of a bundle of one file the new file.
pub fn copy(set: &VolumeSet, to: &Path, mut luggage: Luggage, ctx: &Ctx) -> Result<Copied, BoxFault> {
    let folder = if to.is_dir() { to } else { folder_of(to) };
    let Form { name, lead } = luggage.form_of_copy(set, to, None);
    let to = name.map_or_else(|| to.to_owned(), |name| folder.join(name));
    let copied = volume::copy(set, &to, &CopyOptions { lead, ..CopyOptions::default() }, ctx)?;
    luggage.beside.iter().try_for_each(|file| file.write(folder).map(drop))?;
    Ok(copied)
}
