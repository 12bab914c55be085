//! Repair: lost blocks come back through the parity into a scratch file; volumes are then written anew beside the
//! damaged ones and renamed over them. What is there is never written to, and nothing but the volume itself is replaced.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::check::Damage;
use super::code::{self, Budget, Erased};
use super::error::VolumeError;
use super::parity::{Places, block_shape, table_shape};
use super::set::VolumeSet;
use super::slice::{Slice, trailer};
use super::units::{Tables, Unit, blocks_of_piece, fixed, piece_of_hashes, units};
use crate::base::durable::AtomicFile;
use crate::base::{AtPath, Ctx};

/// The blocks that were lost, in a file without a name.
#[derive(Debug)]
pub struct Restored {
    file: File,
    block: u64,
    blocks: Vec<u64>,
    parity: Vec<u64>,
    shards: Vec<u64>,
    tables: Tables,
}

impl Restored {
    /// Fills `buf` with data block `d` when it is one of the lost ones; says whether it was.
    pub fn block(&self, d: u64, buf: &mut [u8]) -> io::Result<bool> {
        match self.blocks.binary_search(&d) {
            Ok(i) => self.file.read_exact_at(buf, i as u64 * self.block).map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// Piece `k` of the tables.
    pub fn piece(&self, k: u64) -> Option<&[u8]> {
        self.tables.piece(k)
    }

    fn parity_at(&self, q: u64) -> Option<u64> {
        self.parity.binary_search(&q).ok().map(|i| (self.blocks.len() + i) as u64 * self.block)
    }

    fn shard_at(&self, s: u64) -> Option<u64> {
        let before = self.blocks.len() + self.parity.len();
        self.shards.binary_search(&s).ok().map(|i| (before + i) as u64 * self.block)
    }
}

impl VolumeSet {
    /// Reads from a file of the set, by its number from 0.
    pub(super) fn read_at(&self, file: u32, buf: &mut [u8], offset: u64) -> Result<(), VolumeError> {
        let volume = self.files.get(file as usize).and_then(Option::as_ref);
        let Some(volume) = volume else {
            return Err(VolumeError::Lost(format!("volume {} is missing", file + 1)));
        };
        Ok(volume.file.read_exact_at(buf, offset).at("read", &volume.path)?)
    }
}

/// Brings the lost data blocks back, checked against their tables, into a scratch file in `scratch`; with `all` the
/// lost parity too. Fails when there is more damage than parity, before anything is written.
pub fn restore(
    set: &VolumeSet,
    damage: Damage,
    all: bool,
    scratch: &Path,
    budget: Budget,
    ctx: &Ctx,
) -> Result<Restored, VolumeError> {
    if !damage.report.repairable() {
        return Err(VolumeError::Lost(damage.report.losses()));
    }
    let file = tempfile::tempfile_in(scratch).at(CREATE_SCRATCH, scratch)?;
    let block = set.record.core.layout.block();
    let Damage { blocks, parity, shards, pieces, .. } = damage;
    let mut restored = Restored { file, block, blocks, parity, shards, tables: Tables(pieces) };
    if set.record.parity.is_some() {
        let data = set.record.core.layout.all_pieces();
        restored.decode_blocks(set, scratch, budget, ctx)?;
        restored.rebuild_pieces(set, 0..data, ctx)?;
        restored.check_blocks(set, ctx)?;
        if all {
            restored.encode_parity(set, scratch, budget, ctx)?;
            restored.rebuild_pieces(set, data..restored.tables.0.len() as u64, ctx)?;
            restored.encode_shards(set, scratch, budget, ctx)?;
        }
    }
    Ok(restored)
}

const CREATE_SCRATCH: &str = "create a scratch file in";

impl Restored {
    fn read_block(&self, set: &VolumeSet, d: u64, at: u64, bytes: &mut [u8]) -> Result<(), VolumeError> {
        if let Ok(i) = self.blocks.binary_search(&d) {
            return Ok(self.file.read_exact_at(bytes, i as u64 * self.block + at).at("read", "the scratch file")?);
        }
        let (v, b) = set.record.core.layout.volume_of_block(d);
        set.read_at(v, bytes, b * self.block + at)
    }

    fn decode_blocks(&self, set: &VolumeSet, scratch: &Path, budget: Budget, ctx: &Ctx) -> Result<(), VolumeError> {
        let Some(parity) = &set.record.parity else { return Ok(()) };
        if self.blocks.is_empty() {
            return Ok(());
        }
        let shape = block_shape(&parity.layout);
        let task = ctx.begin("Repairing", set.near().display().to_string(), Some(shape.originals * self.block));
        let places = Places { layout: &parity.layout, frame: set.record.frame_len() as u64 };
        let places = places.table(shape.recovery, Places::parity);
        let read = |d: u64, at: u64, bytes: &mut [u8]| {
            task.advance(bytes.len() as u64)?;
            self.read_block(set, d, at, bytes)
        };
        let read_parity = |q: u64, at: u64, bytes: &mut [u8]| {
            let (file, offset) = places[q as usize];
            set.read_at(file, bytes, offset + at)
        };
        let write = |d: u64, at: u64, bytes: &[u8]| {
            let Ok(i) = self.blocks.binary_search(&d) else { return Ok(()) };
            Ok(self.file.write_all_at(bytes, i as u64 * self.block + at).at("write a scratch file in", scratch)?)
        };
        let erased = Erased { originals: &self.blocks, recovery: &self.parity };
        code::decode(shape, erased, &read, &read_parity, &write, budget, ctx)?;
        task.complete();
        Ok(())
    }

    /// Compares what was brought back with the tables.
    fn check_blocks(&self, set: &VolumeSet, ctx: &Ctx) -> Result<(), VolumeError> {
        let mut bytes = vec![0; self.block as usize];
        for d in &self.blocks {
            ctx.check()?;
            self.read_block(set, *d, 0, &mut bytes)?;
            if Some(*blake3::hash(&bytes).as_bytes()) != self.tables.hash_of(&set.record, Unit::Block(*d)) {
                return Err(VolumeError::ParityDisagrees(place_of_block(set, *d)));
            }
        }
        Ok(())
    }

    /// Makes the lost ones of these pieces from their blocks, which are there or were brought back: what nothing else is
    /// left of, the record still has the hash of.
    fn rebuild_pieces(&mut self, set: &VolumeSet, pieces: Range<u64>, ctx: &Ctx) -> Result<(), VolumeError> {
        let Some(parity) = &set.record.parity else { return Ok(()) };
        let places = Places { layout: &parity.layout, frame: set.record.frame_len() as u64 };
        let mut bytes = vec![0; self.block as usize];
        for k in pieces {
            if self.piece(k).is_some() {
                continue;
            }
            let mut hashes = Vec::new();
            for unit in blocks_of_piece(&set.record, k) {
                ctx.check()?;
                match unit {
                    Unit::Block(d) => self.read_block(set, d, 0, &mut bytes)?,
                    Unit::Parity(q) => match self.parity_at(q) {
                        Some(at) => self.file.read_exact_at(&mut bytes, at).at("read", "the scratch file")?,
                        None => {
                            let (file, offset) = places.parity(q);
                            set.read_at(file, &mut bytes, offset)?;
                        }
                    },
                    _ => continue,
                }
                hashes.push(*blake3::hash(&bytes).as_bytes());
            }
            let piece = piece_of_hashes(&set.record, k, &hashes);
            self.tables.0[k as usize] = Some(piece.ok_or_else(|| VolumeError::ParityDisagrees(format!("table {k}")))?);
        }
        Ok(())
    }

    fn encode_parity(&self, set: &VolumeSet, scratch: &Path, budget: Budget, ctx: &Ctx) -> Result<(), VolumeError> {
        let Some(parity) = &set.record.parity else { return Ok(()) };
        if self.parity.is_empty() {
            return Ok(());
        }
        let shape = block_shape(&parity.layout);
        let task = ctx.begin("Computing parity", "", Some(shape.originals * self.block));
        let read = |d: u64, at: u64, bytes: &mut [u8]| {
            task.advance(bytes.len() as u64)?;
            self.read_block(set, d, at, bytes)
        };
        let write = |q: u64, at: u64, bytes: &[u8]| {
            let Some(offset) = self.parity_at(q) else { return Ok(()) };
            Ok(self.file.write_all_at(bytes, offset + at).at("write a scratch file in", scratch)?)
        };
        let stripes: std::collections::BTreeSet<u64> = self.parity.iter().map(|q| q % shape.stripes).collect();
        code::encode(shape, &|stripe| stripes.contains(&stripe), &read, &write, budget, ctx)?;
        task.complete();
        Ok(())
    }

    fn encode_shards(&self, set: &VolumeSet, scratch: &Path, budget: Budget, ctx: &Ctx) -> Result<(), VolumeError> {
        let Some(parity) = &set.record.parity else { return Ok(()) };
        if self.shards.is_empty() {
            return Ok(());
        }
        let read = |k: u64, at: u64, bytes: &mut [u8]| {
            let at = at as usize;
            let piece = self.piece(k).and_then(|piece| piece.get(at..at + bytes.len()));
            bytes.copy_from_slice(piece.ok_or_else(|| VolumeError::Lost(format!("table {k}")))?);
            Ok(())
        };
        let write = |s: u64, at: u64, bytes: &[u8]| {
            let Some(offset) = self.shard_at(s) else { return Ok(()) };
            Ok(self.file.write_all_at(bytes, offset + at).at("write a scratch file in", scratch)?)
        };
        code::encode(table_shape(&parity.layout), &|_| true, &read, &write, budget, ctx)
    }

    /// Writes volume `number` as it was to its place: complete and checked, or not at all. Gives the place.
    fn write_volume(&self, set: &VolumeSet, number: u32, to: Option<&Path>, ctx: &Ctx) -> Result<PathBuf, VolumeError> {
        let path = &place_of(set, number, to)?;
        let damaged = set.files[number as usize - 1].as_ref().map(|volume| &volume.file);
        // An executable file stays one.
        let lead = damaged.filter(|file| file.start() > 0).map(Slice::lead).transpose().at("read", path)?;
        let mut out = AtomicFile::create(path, 0o600)?;
        if let Some(meta) = damaged.and_then(|file| file.metadata().ok()) {
            // Who could read the damaged one can read this one. A file system without modes has its own.
            let _: io::Result<()> = out.file().set_permissions(Permissions::from_mode(meta.mode() & 0o777));
        }
        out.write_all(lead.as_deref().unwrap_or_default()).at("write", path)?;
        let mut bytes = Vec::new();
        for (unit, extent) in units(&set.record, number) {
            ctx.check()?;
            bytes.resize(extent.len as usize, 0);
            let scratch = match unit {
                Unit::Parity(q) => self.parity_at(q),
                Unit::Shard(s) => self.shard_at(s),
                _ => None,
            };
            match (unit, scratch) {
                (Unit::Head | Unit::Frame, _) => bytes = fixed(&set.record, number, unit).unwrap_or_default(),
                (Unit::Piece(k), _) => bytes = self.piece(k).map(<[u8]>::to_vec).unwrap_or_default(),
                (Unit::Block(d), _) if self.block(d, &mut bytes).at("read a scratch file for", path)? => {}
                (_, Some(offset)) => self.file.read_exact_at(&mut bytes, offset).at("read a scratch file for", path)?,
                _ => set.read_at(number - 1, &mut bytes, extent.offset)?,
            }
            let expected = self.tables.hash_of(&set.record, unit);
            let fixed = matches!(unit, Unit::Head | Unit::Frame);
            if bytes.len() as u64 != extent.len || !fixed && Some(*blake3::hash(&bytes).as_bytes()) != expected {
                let place = format!("byte {} of {}", extent.offset, path.display());
                return Err(VolumeError::ParityDisagrees(place));
            }
            out.write_all(&bytes).at("write", path)?;
        }
        if let Some(lead) = &lead {
            out.write_all(&trailer(lead, set.record.file_len(number))).at("write", path)?;
        }
        // What came there meanwhile stays as well.
        let path = place_of(set, number, to)?;
        out.commit()?;
        Ok(path)
    }
}

fn place_of_block(set: &VolumeSet, d: u64) -> String {
    let layout = &set.record.core.layout;
    let (v, b) = layout.volume_of_block(d);
    format!("byte {} of {}", layout.block_extent(v, b).offset, set.path_of(v + 1).display())
}

/// Where volume `number` is written: in the place of the damaged one, where a link leads, or into the directory `to`.
/// Fails when anything else is there, be it a volume of another bundle.
fn place_of(set: &VolumeSet, number: u32, to: Option<&Path>) -> Result<PathBuf, VolumeError> {
    let path = set.path_of(number);
    if let (Some(directory), Some(name)) = (to, path.file_name()) {
        let path = directory.join(name);
        return if path.symlink_metadata().is_ok() { Err(VolumeError::Exists { path }) } else { Ok(path) };
    }
    if path.symlink_metadata().is_err() {
        return Ok(path);
    }
    let inode = |meta: Metadata| (meta.dev(), meta.ino());
    let own = set.files[number as usize - 1].as_ref().and_then(|volume| volume.file.metadata().ok()).map(inode);
    if own.is_none() || fs::metadata(&path).ok().map(inode) != own {
        return Err(VolumeError::InTheWay { path, number });
    }
    let place = if path.is_symlink() { path.canonicalize().at("open", &path)? } else { path };
    Ok(place)
}

/// Writes every volume of `damage` as it was: in the place of the damaged one, or with `to` into that directory. All is
/// restored and checked in a scratch file before the first volume is written; each appears complete or not at all. Where
/// something else has the name of one, none is written. Gives the files written.
pub fn repair(
    set: &VolumeSet,
    damage: Damage,
    to: Option<&Path>,
    budget: Budget,
    ctx: &Ctx,
) -> Result<Vec<PathBuf>, VolumeError> {
    let volumes = damage.volumes.clone();
    if volumes.is_empty() {
        return Ok(Vec::new());
    }
    let places = volumes.iter().map(|number| place_of(set, *number, to)).collect::<Result<Vec<_>, _>>()?;
    let scratch = places[0].parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let restored = restore(set, damage, true, scratch, budget, ctx).map_err(|error| match error {
        VolumeError::Path(source) if to.is_none() && source.action == CREATE_SCRATCH && is_closed(&source.source) => {
            VolumeError::Closed { source }
        }
        error => error,
    })?;
    volumes.into_iter().map(|number| restored.write_volume(set, number, to, ctx)).collect()
}

/// Whether nothing can be written there, whoever asks or for this user.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
