//! Copies a set to another medium, volume by volume, checking what is read and what is there already.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Damaged, VolumeError};
use super::find::Volume;
use super::layout::Extent;
use super::part::{Part, PartOptions};
use super::record::Record;
use super::set::VolumeSet;
use super::units::{Tables, Unit, fixed, piece_hash, units};
use crate::base::{AtPath, Ctx, durable};

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    /// The files at the destination.
    pub files: Vec<PathBuf>,
    /// Bytes of them that were there already, and right.
    pub there: u64,
    /// Bytes that were written.
    pub written: u64,
}

/// What is copied, and where it may go.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Only the volumes with these numbers, so that a set can be spread; without it the set must be complete.
    pub only: Option<BTreeSet<u32>>,
    /// The device number of the file system that the copies must lie on.
    pub device: Option<u64>,
    /// What makes an executable file of the copy of a set of one volume; without it what the volume has in front stays.
    pub lead: Option<Arc<Vec<u8>>>,
}

/// Copies every volume into the directory `to`, or a set of one volume to the file `to`. Every byte is checked as it is read. Bytes that an
/// interrupted copy left are compared, not written again; a volume has its name only when it is whole and durable.
/// What is left of an interrupted copy stays for the next one.
pub fn copy(set: &VolumeSet, to: &Path, options: &CopyOptions, ctx: &Ctx) -> Result<Copied, VolumeError> {
    let wanted = |number: u32| options.only.as_ref().is_none_or(|only| only.contains(&number));
    if options.only.is_none() {
        set.complete()?;
    }
    let directory = to.is_dir();
    if !directory && set.record.all_volumes() > 1 {
        let text = format!("{} is no directory, and the bundle has several volumes", to.display());
        return Err(VolumeError::Unsuitable(text));
    }
    let tables = load_tables(set)?;
    let mut copied = Copied::default();
    let there = |(volume, number): (&Option<Volume>, u32)| volume.as_ref().filter(|_| wanted(number)).map(|v| v.len);
    let total = set.files.iter().zip(1..).filter_map(there).sum();
    let task = ctx.begin("Copying", set.near().display().to_string(), Some(total));
    for (volume, number) in set.files.iter().zip(1..).filter(|(_, number)| wanted(*number)) {
        let Some(volume) = volume else {
            let path = set.path_of(number);
            ctx.warn(format!("parity volume {} is missing and not copied", path.display()));
            continue;
        };
        let name = volume.path.file_name().unwrap_or_default();
        let target = if directory { to.join(name) } else { to.to_owned() };
        let lead = match volume.file.start() {
            _ if options.lead.is_some() => options.lead.clone(),
            0 => None,
            _ => Some(Arc::new(volume.file.lead().at("read", &volume.path)?)),
        };
        let mut part = Part::create(
            &target,
            PartOptions { resume: true, device: options.device, lead, ..PartOptions::default() },
        )?;
        let mut bytes = Vec::new();
        for (unit, extent) in units(&set.record, number) {
            task.advance(extent.len)?;
            let damaged =
                || VolumeError::Damaged(Damaged { path: volume.path.clone(), offset: extent.offset, len: extent.len });
            bytes.resize(extent.len as usize, 0);
            if volume.len < extent.offset + extent.len {
                return Err(damaged());
            }
            volume.file.read_exact_at(&mut bytes, extent.offset).at("read", &volume.path)?;
            if !is_good(&set.record, &tables, (number, unit), &bytes) {
                return Err(damaged());
            }
            let new = part.write_at(&bytes, extent.offset)?;
            *(if new { &mut copied.written } else { &mut copied.there }) += extent.len;
        }
        part.complete(set.record.file_len(number))?;
        part.name()?;
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
        durable::sync_dir(parent.unwrap_or(Path::new(".")))?;
        copied.files.push(target);
    }
    task.complete();
    Ok(copied)
}

/// Whether a unit of volume `number` is what record and tables say.
fn is_good(record: &Record, tables: &Tables, (number, unit): (u32, Unit), bytes: &[u8]) -> bool {
    match unit {
        Unit::Head | Unit::Frame => fixed(record, number, unit).as_deref() == Some(bytes),
        _ => tables.hash_of(record, unit) == Some(*blake3::hash(bytes).as_bytes()),
    }
}

/// Whether the volume at `path` is not what it says itself that it is at its byte `offset`, or has lost what would tell:
/// it is damaged, and not another one.
pub fn is_damaged_at(path: &Path, offset: u64) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let set = match VolumeSet::of_file(file, path.to_owned()) {
        Ok(set) => set,
        Err(error) => return matches!(error, VolumeError::NoRecord { .. }),
    };
    let Ok(tables) = load_tables(&set) else { return true };
    let mut present = set.files.iter().zip(1..).filter_map(|(volume, number)| Some((volume.as_ref()?, number)));
    let Some((volume, number)) = present.next() else { return false };
    let at_offset = |(_, extent): &(Unit, Extent)| (extent.offset..extent.offset + extent.len).contains(&offset);
    let Some((unit, extent)) = units(&set.record, number).into_iter().find(at_offset) else {
        return volume.len != set.record.file_len(number);
    };
    let mut bytes = vec![0; extent.len as usize];
    let read = volume.file.read_exact_at(&mut bytes, extent.offset);
    read.is_err() || !is_good(&set.record, &tables, (number, unit), &bytes)
}

/// The tables of the volumes that are there.
pub fn load_tables(set: &VolumeSet) -> Result<Tables, VolumeError> {
    let parity = set.record.parity.as_ref().map_or(0, |parity| parity.pieces.len());
    let mut tables = Tables(vec![None; set.record.core.pieces.len() + parity]);
    for (volume, number) in set.files.iter().zip(1..) {
        let Some(volume) = volume else { continue };
        for (unit, extent) in units(&set.record, number) {
            let Unit::Piece(k) = unit else { continue };
            let mut bytes = vec![0; extent.len as usize];
            volume.file.read_exact_at(&mut bytes, extent.offset).at("read", &volume.path)?;
            if Some(blake3::hash(&bytes).as_bytes()) != piece_hash(&set.record, k) {
                let damaged = Damaged { path: volume.path.clone(), offset: extent.offset, len: extent.len };
                return Err(VolumeError::Damaged(damaged));
            }
            tables.0[k as usize] = Some(bytes);
        }
    }
    Ok(tables)
}
