//! Onto removable media and back: room and limits are checked before the first byte, everything is flushed and read
//! back from the medium, and a set may be spread over several that are put in one after the other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::carried::{self, Form, Luggage};
use super::save::{self as archive, Output, Packing};
use crate::archive::write::{WriteOptions, WriteReport};
use crate::base::durable::AtomicFile;
use crate::base::{AtPath, BoxFault, Ctx, Digest};
use crate::bundle::BundleOptions;
use crate::bundle::carry::{self, Carriage, Target};
use crate::bundle::volume::{
    self, CopyOptions, Names, Root, VolumeError, VolumeSet, VolumeSize, read_back, refuse_numbered,
};
use crate::image::{DiffId, Image, ImageSource};
use crate::transfer::media::{self, DirectReader, Medium, MediumError};

/// Who changes media, and hears when one may be taken out.
pub trait Attendant {
    /// Everything in `files` is on the medium at `folder` and reads back as it was written.
    fn settled(&self, folder: &Path, files: &[PathBuf], bytes: u64);

    /// Whether there is anybody who can put another medium in.
    fn can_change(&self) -> bool;

    /// Asks for the medium with this number, counted from 1; `why` says what is still to be done. Gives the folder it
    /// is at, which is `folder` again when nothing else is said.
    fn next(&self, number: usize, folder: &Path, why: &str) -> Result<PathBuf, BoxFault>;
}

/// A folder on a medium that something is written to.
pub struct Destination {
    folder: PathBuf,
    device: u64,
    medium: Medium,
}

/// The bytes that one file more costs on a file system: a cluster begun and its entry.
const FILE_COST: u64 = 64 << 10;

impl Destination {
    /// Looks at the medium that `folder` lies on; one that is write-protected is refused.
    pub fn at(folder: &Path) -> Result<Self, BoxFault> {
        let meta = fs::metadata(folder).at("look at", folder)?;
        let medium = media::medium_of(folder)?;
        if medium.read_only {
            return Err(MediumError::ReadOnly(folder.to_owned()).into());
        }
        Ok(Self { folder: folder.to_owned(), device: meta.dev(), medium })
    }

    /// The same medium's successor: where one was mounted one must be mounted again.
    fn after(folder: &Path, first: &Medium) -> Result<Self, BoxFault> {
        let next = Self::at(folder)?;
        let real = fs::canonicalize(folder).at("look at", folder)?;
        let below = first.mount_point.as_ref().is_some_and(|point| real.starts_with(point));
        if below && next.medium.mount_point != first.mount_point {
            return Err(MediumError::NotMounted(folder.to_owned()).into());
        }
        Ok(next)
    }

    /// What is known of it.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    /// The number of its file system.
    pub fn device(&self) -> u64 {
        self.device
    }

    fn free(&self) -> u64 {
        self.medium.free.unwrap_or(u64::MAX)
    }

    /// Fails when there is less room than `needed` bytes.
    pub fn room(&self, needed: u64) -> Result<(), MediumError> {
        let free = self.free();
        if needed > free {
            return Err(MediumError::Room { path: self.folder.clone(), needed, free });
        }
        Ok(())
    }

    /// Makes files durable on the medium; they must still lie on it.
    fn flush(&self, files: &[PathBuf]) -> Result<(), BoxFault> {
        for path in files {
            let file = match File::open(path) {
                Err(_) if fs::metadata(&self.folder).map_or(0, |meta| meta.dev()) != self.device => {
                    return Err(MediumError::Gone(self.folder.clone()).into());
                }
                file => file.at("open", path)?,
            };
            if file.metadata().at("look at", path)?.dev() != self.device {
                return Err(MediumError::Gone(self.folder.clone()).into());
            }
            file.sync_all().at("flush", path)?;
        }
        if let Some(path) = files.last() {
            rustix::fs::syncfs(File::open(path).at("open", path)?).at("flush", path)?;
        }
        Ok(())
    }

    /// Flushes volumes of the set with this root, and reads them back. A file that differs is removed.
    pub fn settle(&self, root: &Root, files: &[PathBuf], ctx: &Ctx) -> Result<(), BoxFault> {
        self.flush(files)?;
        let other = |path: PathBuf, offset| {
            // It must not pass for what it is not; when it cannot be removed the error says enough.
            let _ = fs::remove_file(&path);
            MediumError::ReadsBackOther { path, offset }
        };
        let set = match VolumeSet::open(files) {
            Err(VolumeError::NotAVolume { path }) => return Err(other(path, None).into()),
            set => set?,
        };
        if set.root() != *root {
            return Err(other(set.near(), None).into());
        }
        let ours = set.present().into_iter().filter(|(_, path, _)| files.contains(path)).count();
        if ours != files.len() {
            let lost = files.iter().find(|file| !set.present().iter().any(|(_, path, _)| path == *file));
            return Err(other(lost.cloned().unwrap_or_default(), None).into());
        }
        let reopen = |path: &Path| Ok(Box::new(DirectReader::open(path)?) as Box<dyn Read>);
        match read_back(&set, &reopen, ctx) {
            Err(VolumeError::Damaged(damaged)) => Err(other(damaged.path, Some(damaged.offset)).into()),
            result => Ok(result?),
        }
    }

    /// Writes what goes beside a bundle; gives the files.
    fn bring(&self, luggage: &Luggage, ctx: &Ctx) -> Result<Vec<PathBuf>, BoxFault> {
        let mut files = Vec::new();
        for beside in &luggage.beside {
            let (path, hash) = beside.write(&self.folder)?;
            self.settle_file(&path, &hash, ctx)?;
            files.push(path);
        }
        Ok(files)
    }

    /// Flushes any other file and reads it back, `hash` being the BLAKE3 of what was written. One that differs is
    /// removed.
    pub fn settle_file(&self, path: &Path, hash: &blake3::Hash, ctx: &Ctx) -> Result<(), BoxFault> {
        self.flush(&[path.to_owned()])?;
        let size = fs::metadata(path).at("look at", path)?.len();
        let task = ctx.begin("Reading back", path.display().to_string(), Some(size));
        let mut reader = DirectReader::open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut buf = vec![0; 1 << 20];
        loop {
            let n = reader.read(&mut buf).at("read back", path)?;
            if n == 0 {
                break;
            }
            hasher.update(&buf[..n]);
            task.advance(n as u64)?;
        }
        if hasher.finalize() != *hash {
            let _ = fs::remove_file(path);
            return Err(MediumError::ReadsBackOther { path: path.to_owned(), offset: None }.into());
        }
        task.complete();
        Ok(())
    }
}

/// The folder a file will lie in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What a bundle of these images has at most, in bytes: every layer as it is, and as it came. Nothing when a layer's
/// size is not known.
fn at_most(images: &[Image], carriage: &Carriage) -> Option<u64> {
    let mut seen: BTreeSet<(DiffId, Option<Digest>)> = BTreeSet::new();
    let mut sum = 1_u64 << 20;
    for layer in images.iter().flat_map(|image| &image.layers) {
        let original = layer.original.as_ref().filter(|original| original.digest != layer.diff_id.0);
        if seen.insert((layer.diff_id, None)) {
            sum = sum.checked_add(layer.size?)?;
        }
        if let Some(original) = original.filter(|original| seen.insert((layer.diff_id, Some(original.digest)))) {
            sum = sum.checked_add(original.size)?;
        }
    }
    sum = sum.checked_add(sum / 50)?;
    sum.checked_add(carriage.parity.map_or(0, |share| share.blocks(sum)))
}

/// Writes images as a bundle onto a medium, or several. When it fits for certain it is written right there; otherwise
/// to `scratch` first, so that its size is known before the medium is touched.
pub fn save(
    source: &dyn ImageSource,
    images: &[Image],
    path: &Path,
    (mut carriage, options): (Carriage, BundleOptions),
    mut luggage: Luggage,
    (scratch, attendant): (&Path, &dyn Attendant),
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    let folder = folder_of(path);
    let destination = Destination::at(folder)?;
    let bound = at_most(images, &carriage).map(|bound| bound + luggage.len());
    let fits = bound.is_some_and(|bound| bound <= destination.free());
    let chosen = carriage.volume_size.is_some();
    carriage.volume_size = volume_size(&destination, path, &carriage, bound, !fits && attendant.can_change())?;
    if fits {
        carriage.lead = luggage.take_lead(path, carriage.volume_size.is_some());
        carriage.device = Some(destination.device());
        let (_, written) = carry::write(source, images, Target::Path(path), carriage, options, ctx)?;
        let mut files = destination.bring(&luggage, ctx)?;
        destination.settle(&written.root, &written.files, ctx)?;
        files.extend(written.files);
        attendant.settled(folder, &files, written.bytes + luggage.len());
        return Ok(());
    }
    let staging = tempfile::Builder::new().prefix(".ferry-media").tempdir_in(scratch);
    let staging = staging.at("create a directory in", scratch)?;
    let name = path.file_name().unwrap_or_default();
    let staged = staging.path().join(name);
    if !carriage.resume {
        // Numbered files that are there already are not mixed with new ones.
        Names::new(path).iter().try_for_each(refuse_numbered)?;
    }
    let carriage = Carriage { resume: false, ..carriage };
    let (_, written) = carry::write(source, images, Target::Path(&staged), carriage, options, ctx)?;
    let set = VolumeSet::open(&written.files)?;
    // How large it became is known now: an executable of one file may do after all.
    let form = match luggage.lead {
        Some(_) if !chosen && set.volumes() == (1, 0) => luggage.form_of_copy(&set, path, destination.medium.max_file),
        _ => Form { lead: luggage.take_lead(path, true), ..Form::default() },
    };
    spread(&set, destination, form, luggage, attendant, ctx)?;
    Ok(())
}

/// Hashes what passes.
struct Hashing {
    file: AtomicFile,
    hasher: blake3::Hasher,
}

impl Write for Hashing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes images as one archive onto a medium.
pub fn save_archive(
    source: &dyn ImageSource,
    images: &[Image],
    path: &Path,
    (packing, options): (Packing, WriteOptions),
    attendant: &dyn Attendant,
    ctx: &Ctx,
) -> Result<WriteReport, BoxFault> {
    let destination = Destination::at(folder_of(path))?;
    let mut out = Hashing { file: AtomicFile::create(path, 0o600)?, hasher: blake3::Hasher::new() };
    let report = archive::save(source, images, Output::Stream(&mut out), packing, options, ctx)?;
    let hash = out.hasher.finalize();
    out.file.commit()?;
    destination.settle_file(path, &hash, ctx)?;
    let bytes = fs::metadata(path).at("look at", path)?.len();
    attendant.settled(folder_of(path), &[path.to_owned()], bytes);
    Ok(report)
}

/// The volume size that the file system asks for, or several media do: some of their size, so that a smaller one after
/// the first takes its share.
fn volume_size(
    destination: &Destination,
    path: &Path,
    carriage: &Carriage,
    bound: Option<u64>,
    several: bool,
) -> Result<Option<VolumeSize>, BoxFault> {
    const SHARES: u64 = 8;
    let bound = bound.unwrap_or(u64::MAX);
    if let Some(size) = carriage.volume_size {
        destination.medium.takes_file(path, size.bytes().min(bound))?;
        return Ok(Some(size));
    }
    let limit = destination.medium.max_file.filter(|limit| *limit < bound);
    if !several {
        return Ok(limit.and_then(VolumeSize::new));
    }
    let share = (destination.free() / SHARES).saturating_sub(FILE_COST).max(VolumeSize::MIN);
    Ok(VolumeSize::new(limit.map_or(share, |limit| limit.min(share))))
}

/// What was copied onto media.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread {
    /// The volumes that were copied.
    pub volumes: usize,
    /// Over how many media.
    pub media: usize,
    /// Bytes that were written.
    pub written: u64,
    /// Bytes that were there already, and right.
    pub there: u64,
}

/// Copies a bundle onto a medium, going on where an interrupted copy ended, or spreads its volumes over several. `to` is
/// a directory there, or of a bundle of one file the new file.
pub fn copy(
    set: &VolumeSet,
    to: &Path,
    mut luggage: Luggage,
    attendant: &dyn Attendant,
    ctx: &Ctx,
) -> Result<Spread, BoxFault> {
    set.complete()?;
    let destination = Destination::at(if to.is_dir() { to } else { folder_of(to) })?;
    let form = luggage.form_of_copy(set, to, destination.medium.max_file);
    spread(set, destination, form, luggage, attendant, ctx)
}

fn spread(
    set: &VolumeSet,
    mut destination: Destination,
    form: Form,
    mut luggage: Luggage,
    attendant: &dyn Attendant,
    ctx: &Ctx,
) -> Result<Spread, BoxFault> {
    let first = destination.medium.clone();
    let mut left = set.present();
    // A bundle of one file may get another name, and have a program in front.
    if let [(_, path, len)] = &mut left[..] {
        *path = form.name.as_ref().map_or_else(|| path.clone(), PathBuf::from);
        *len += carried::around(set, form.lead.as_deref());
    }
    for (_, path, len) in &left {
        destination.medium.takes_file(path, *len)?;
    }
    let mut spread = Spread::default();
    let mut in_vain = 0;
    loop {
        let taken = fitting(&destination, luggage.len(), &left);
        let missing: u64 = left.iter().map(|(_, path, len)| to_write(&destination.folder, path, *len)).sum();
        if taken.len() < left.len() && !attendant.can_change() {
            destination.room(missing + luggage.len())?;
        }
        if !taken.is_empty() {
            let (device, lead) = (Some(destination.device()), form.lead.clone());
            let options = CopyOptions { only: Some(taken.clone()), device, lead };
            let to =
                form.name.as_ref().map_or_else(|| destination.folder.clone(), |name| destination.folder.join(name));
            let mut copied = volume::copy(set, &to, &options, ctx)?;
            destination.settle(&set.root(), &copied.files, ctx)?;
            // What starts the bundle goes onto the first.
            let luggage = std::mem::take(&mut luggage);
            copied.files.extend(destination.bring(&luggage, ctx)?);
            attendant.settled(&destination.folder, &copied.files, copied.written + copied.there + luggage.len());
            spread.media += 1;
            spread.volumes += taken.len();
            spread.written += copied.written;
            spread.there += copied.there;
            left.retain(|(number, ..)| !taken.contains(number));
        }
        if left.is_empty() {
            return Ok(spread);
        }
        let bytes: u64 = left.iter().map(|(.., len)| len).sum();
        let mut why = format!("{} volumes of {bytes} bytes are still to be written", left.len());
        if taken.is_empty() {
            in_vain += 1;
            if in_vain >= ASKED {
                return Err(nothing_fits(&destination, luggage.len(), &left).into());
            }
            why = format!("no volume fits on this one: {why}");
        } else {
            in_vain = 0;
        }
        destination = change(&first, &destination.folder, spread.media + 1, why, attendant, ctx)?;
    }
}

/// Why not even one of these volumes can be put there.
fn nothing_fits(destination: &Destination, luggage: u64, left: &[(u32, PathBuf, u64)]) -> MediumError {
    let needs = |(_, path, len): &(u32, PathBuf, u64)| to_write(&destination.folder, path, *len);
    let small = |(_, path, len): &&(u32, PathBuf, u64)| destination.medium.takes_file(path, *len).is_ok();
    let needed = left.iter().filter(small).map(needs).min().unwrap_or_default() + luggage;
    let large = left.iter().find_map(|(_, path, len)| destination.medium.takes_file(path, *len).err());
    let room = MediumError::Room { path: destination.folder.clone(), needed, free: destination.free() };
    large.filter(|_| needed <= destination.free()).unwrap_or(room)
}

/// How often a medium that will not do is asked for again.
const ASKED: usize = 5;

/// Has the next medium put in.
fn change(
    first: &Medium,
    folder: &Path,
    number: usize,
    mut why: String,
    attendant: &dyn Attendant,
    ctx: &Ctx,
) -> Result<Destination, BoxFault> {
    for again in 1.. {
        ctx.check()?;
        let folder = attendant.next(number, folder, &why)?;
        match Destination::after(&folder, first) {
            Err(fault) if again < ASKED => why = fault.to_string(),
            result => return result,
        }
    }
    Err(MediumError::NotMounted(folder.to_owned()).into())
}

/// The bytes of a volume that are not in `folder` yet.
fn to_write(folder: &Path, volume: &Path, len: u64) -> u64 {
    let name = volume.file_name().unwrap_or_default();
    let mut part = name.to_owned();
    part.push(".part");
    let there = |name| fs::metadata(folder.join(name)).map_or(0, |meta| meta.len());
    (len + FILE_COST).saturating_sub(there(name).max(there(part.as_os_str())))
}

/// The numbers of the volumes that there is room for, in their order.
fn fitting(destination: &Destination, luggage: u64, left: &[(u32, PathBuf, u64)]) -> BTreeSet<u32> {
    let mut free = destination.free().saturating_sub(luggage);
    let mut taken = BTreeSet::new();
    for (number, path, len) in left {
        let needed = to_write(&destination.folder, path, *len);
        let small = destination.medium.takes_file(path, *len).is_ok();
        if needed <= free && small {
            free -= needed;
            taken.insert(*number);
        }
    }
    taken
}

/// Finds the whole of a bundle whose volumes are on several media: what is on one is copied to a directory in `scratch`
/// before the next is asked for, in whatever order they come. Gives the directory, or nothing when `paths` have it all or
/// are no bundle.
pub fn gather(
    paths: &[PathBuf],
    scratch: &Path,
    attendant: &dyn Attendant,
    ctx: &Ctx,
) -> Result<Option<tempfile::TempDir>, BoxFault> {
    let Ok(set) = VolumeSet::open(paths) else { return Ok(None) };
    let incomplete = |set: &VolumeSet| matches!(set.complete(), Err(VolumeError::Missing { .. }));
    if !incomplete(&set) || !attendant.can_change() {
        return Ok(None);
    }
    let staging = tempfile::Builder::new().prefix(".ferry-media").tempdir_in(scratch);
    let staging = staging.at("create a directory in", scratch)?;
    let path = paths.first().cloned().unwrap_or_default();
    let mut folder = if path.is_dir() { path } else { folder_of(&path).to_owned() };
    let name = Names::of_volume(&set.near());
    let root = set.root();
    let mut set = Some(set);
    for number in 1.. {
        if let Some(set) = set.take() {
            let only = Some(set.present().into_iter().map(|(number, ..)| number).collect());
            volume::copy(&set, staging.path(), &CopyOptions { only, ..CopyOptions::default() }, ctx)?;
        }
        let whole = VolumeSet::open(&[staging.path().to_owned()])?;
        let why = match whole.complete() {
            Ok(()) => return Ok(Some(staging)),
            Err(error @ VolumeError::Missing { .. }) if number <= MEDIA_MAX => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        ctx.check()?;
        folder = attendant.next(number + 1, &folder, &why)?;
        // Volumes by their name, since other bundles may lie beside them; then any.
        let named = name.as_ref().and_then(|name| Some(folder.join(name.single().file_name()?)));
        let found =
            [named.unwrap_or_default(), folder.clone()].into_iter().find_map(|path| VolumeSet::open(&[path]).ok());
        set = found.filter(|set| set.root() == root);
    }
    Ok(None)
}

/// The most media that a bundle is gathered from.
const MEDIA_MAX: usize = 1_000;

/// Whether what is written to `path` goes onto a medium: one that the kernel calls removable, or a file system as only
/// removable media have it.
pub fn is_medium(path: &Path) -> bool {
    let folder = if path.is_dir() { path } else { folder_of(path) };
    media::medium_of(folder).is_ok_and(|medium| medium.removable || medium.max_file.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_larger_than_the_file_system_takes_goes_in_volumes() {
        // As a FAT32 says of itself.
        const FAT32: u64 = u32::MAX as u64;
        let medium = |max_file| Medium { free: Some(64 << 30), max_file, ..Medium::default() };
        for (max_file, bound, expected) in [
            (None, None, None),
            (None, Some(1 << 40), None),
            (Some(FAT32), Some(FAT32), None),
            (Some(FAT32), Some(FAT32 + 1), Some(FAT32)),
            (Some(FAT32), None, Some(FAT32)),
        ] {
            let destination = Destination { folder: PathBuf::from("/m"), device: 1, medium: medium(max_file) };
            let size = |carriage| volume_size(&destination, Path::new("/m/a"), &carriage, bound, false);
            let own = size(Carriage::default()).unwrap().map(VolumeSize::bytes);
            assert_eq!(own, expected, "{max_file:?} {bound:?}");
            // What is asked for must be something that it takes.
            let larger = Carriage { volume_size: VolumeSize::new(FAT32 + 1), ..Carriage::default() };
            assert_eq!(size(larger).is_err(), max_file.is_some() && bound != Some(FAT32), "{max_file:?} {bound:?}");
        }
    }
}
