//! Proves that the files of a set give the bytes they should, read once from the first to the last.

use std::io::Read;
use std::path::Path;

use super::copy::load_tables;
use super::error::{Damaged, VolumeError};
use super::set::VolumeSet;
use super::slice::trailer;
use super::units::{Unit, fixed, units};

use crate::base::{AtPath, Ctx, PathError};

/// Opens a file to be read from its first byte; the caller decides how (past the cache, say).
pub type Reopen<'a> = dyn Fn(&Path) -> Result<Box<dyn Read>, PathError> + 'a;

/// Reads every file of the set that is there through `reopen` and compares each byte with the set's record, which the
/// caller knows to be right ([`VolumeSet::root`]). The first place that differs is an error.
pub fn read_back(set: &VolumeSet, reopen: &Reopen<'_>, ctx: &Ctx) -> Result<(), VolumeError> {
    let tables = load_tables(set)?;
    let total = set.files.iter().flatten().map(|volume| volume.len).sum();
    let task = ctx.begin("Reading back", set.near().display().to_string(), Some(total));
    for (volume, number) in set.files.iter().zip(1..) {
        let Some(volume) = volume else { continue };
        let mut reader = reopen(&volume.path)?;
        let (mut bytes, mut lead) = (Vec::new(), Vec::new());
        let start = volume.file.start();
        (&mut reader).take(start).read_to_end(&mut lead).at("read back", &volume.path)?;
        for (unit, extent) in units(&set.record, number) {
            bytes.clear();
            (&mut reader).take(extent.len).read_to_end(&mut bytes).at("read back", &volume.path)?;
            let good = match unit {
                Unit::Head | Unit::Frame => fixed(&set.record, number, unit).as_ref() == Some(&bytes),
                _ => tables.hash_of(&set.record, unit) == Some(*blake3::hash(&bytes).as_bytes()),
            };
            if !good {
                let damaged = Damaged { path: volume.path.clone(), offset: extent.offset, len: extent.len };
                return Err(damaged.into());
            }
            task.advance(extent.len)?;
        }
        bytes.clear();
        reader.read_to_end(&mut bytes).at("read back", &volume.path)?;
        if bytes != if start > 0 { trailer(&lead, volume.len) } else { Vec::new() } {
            return Err(Damaged { path: volume.path.clone(), offset: 0, len: start }.into());
        }
    }
    task.complete();
    Ok(())
}
