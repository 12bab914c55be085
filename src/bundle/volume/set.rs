//! Finds the volumes of a set, whatever they are called, and says what is wrong with what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::VolumeError;
use super::head::{FRAME, HEAD, Head, HeadParse, SetId, flag, frame_len_at_end, frame_len_at_start, parse_frame};
use super::record::{Record, RecordError, Root};
use super::size::{ENDING, Names};
use super::slice::{Slice, carried_in};
use super::writer::frame_places;
use crate::base::{AtPath, ReadAt};

/// The most files of a directory that are looked at.
const ENTRIES_MAX: usize = 1 << 17;
/// Where a frame is looked for when nothing else has one: every multiple of the smallest block.
const SCAN_STEP: u64 = 1 << 12;

/// A file of a set.
#[derive(Debug)]
pub struct Volume {
    /// Its path.
    pub path: PathBuf,
    /// Itself, or the part of an executable file that it is.
    pub file: Slice,
    /// Its length in bytes.
    pub len: u64,
}

/// The volumes of one set, as far as they are there.
#[derive(Debug)]
pub struct VolumeSet {
    /// What every volume ends with.
    pub record: Record,
    /// By number, from 1 at index 0; parity volumes follow data volumes.
    pub files: Vec<Option<Volume>>,
}

/// What makes a file look like a volume of a set, by number.
type Sign<'a> = dyn Fn(&VolumeSet, &Volume, u32) -> bool + 'a;

/// A file that may be a volume.
struct Candidate {
    volume: Volume,
    head: Option<Head>,
    frame: Option<(u32, Vec<u8>, Record)>,
    named: bool,
}

impl Candidate {
    fn set(&self) -> Option<SetId> {
        self.head.map(|head| head.set).or_else(|| self.frame.as_ref().map(|(_, _, record)| record.core.set))
    }

    fn number(&self) -> Option<u32> {
        self.frame.as_ref().map(|(number, ..)| *number).or_else(|| self.head.map(|head| head.number))
    }
}

impl VolumeSet {
    /// Finds the one set that `paths` name: a directory, any volumes of it, or the name it was written with. Volumes
    /// beside a named one are found too. What is missing or damaged is not an error here: see [`VolumeSet::complete`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, VolumeError> {
        let candidates = gather(paths)?;
        let near = paths.first().cloned().unwrap_or_default();
        Self::choose(candidates, near)
    }

    /// The one volume in an open file, without a look at what lies beside it; `origin` is for messages.
    pub fn of_file(file: File, origin: PathBuf) -> Result<Self, VolumeError> {
        let (file, len) = Slice::of(file).at("read", &origin)?;
        let candidate = identify(Volume { path: origin.clone(), file, len }, true)?;
        Self::choose(candidate.into_iter().collect(), origin)
    }

    /// The same, of a volume that lies elsewhere.
    pub fn of_bytes(bytes: Arc<dyn ReadAt>, origin: PathBuf) -> Result<Self, VolumeError> {
        let len = bytes.size();
        let volume = Volume { path: origin.clone(), file: Slice::elsewhere(bytes), len };
        Self::choose(identify(volume, true)?.into_iter().collect(), origin)
    }

    /// Whether a file begins as a volume does, or is an executable one, or stands for the volumes beside it.
    pub fn recognises_file(file: File) -> bool {
        if is_stand_in(&file) {
            return true;
        }
        let mut start = [0; HEAD as usize];
        Slice::of(file).is_ok_and(|(file, _)| file.read_exact_at(&mut start, 0).is_ok() && Self::recognises(&start))
    }

    /// Whether the beginning of a file is that of a volume.
    pub fn recognises(start: &[u8]) -> bool {
        !matches!(Head::parse(start), HeadParse::None)
    }

    fn choose(mut candidates: Vec<Candidate>, near: PathBuf) -> Result<Self, VolumeError> {
        // Named files say which set is meant, otherwise all that were found must be of one.
        let named: Vec<SetId> = candidates.iter().filter(|c| c.named).filter_map(Candidate::set).collect();
        let mut sets: BTreeMap<SetId, String> = BTreeMap::new();
        for candidate in &candidates {
            if let Some(set) = candidate.set().filter(|set| named.is_empty() || named.contains(set)) {
                sets.entry(set).or_insert_with(|| candidate.volume.path.display().to_string());
            }
        }
        if sets.len() > 1 {
            return Err(VolumeError::MixedSets { path: near, sets: sets.into_values().collect() });
        }
        let Some(set) = sets.into_keys().next().or_else(|| scan_for_frames(&mut candidates)) else {
            return Err(match candidates.iter().find(|c| c.named) {
                Some(candidate) => VolumeError::NotAVolume { path: candidate.volume.path.clone() },
                None => unfinished_near(&near).unwrap_or(VolumeError::NotAVolume { path: near }),
            });
        };
        let (mut ours, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.set() == Some(set));
        if ours.iter().all(|c| c.frame.is_none()) {
            scan_for_frames(&mut ours);
        }
        // What a named file says goes before what merely lies beside it.
        ours.sort_by_key(|c| !c.named);
        let Some((_, bytes, record)) = ours.iter().find_map(|c| c.frame.as_ref()) else {
            let path = ours.first().map_or(near, |c| c.volume.path.clone());
            return Err(VolumeError::NoRecord { path });
        };
        let (bytes, record) = (bytes.clone(), record.clone());
        let mut files: Vec<Option<Volume>> = (0..record.all_volumes()).map(|_| None).collect();
        let first = ours.iter().find(|c| c.frame.is_some());
        let (first, by_name) = first.map(|c| (c.volume.path.clone(), c.named)).unwrap_or_default();
        let mut contradicted = None;
        for candidate in ours {
            if let Err(error) = candidate.agrees(&bytes, &record, &first) {
                if !by_name || candidate.named {
                    return Err(error);
                }
                // Another version of the set beside the one that was named.
                contradicted.get_or_insert(error);
                continue;
            }
            let Some(number) = candidate.number() else { continue };
            let expected = record.file_len(number);
            let place = &mut files[number as usize - 1];
            // The same volume twice: the one that looks whole.
            if place.as_ref().is_none_or(|there| there.len != expected && candidate.volume.len == expected) {
                *place = Some(candidate.volume);
            }
        }
        let mut found = Self { record, files };
        if let Some(error) = contradicted.filter(|_| found.complete().is_err()) {
            return Err(error);
        }
        let nameless: Vec<Volume> = others.into_iter().filter(|c| c.set().is_none()).map(|c| c.volume).collect();
        found.adopt(nameless, &bytes);
        Ok(found)
    }

    /// Takes files that have lost head and end for missing volumes: by a frame elsewhere in them, by their name, by
    /// their length. A wrong guess harms nothing, because every block is checked before it is used.
    fn adopt(&mut self, mut nameless: Vec<Volume>, record: &[u8]) {
        let frame = self.record.frame_len();
        let has_frame = |set: &Self, volume: &Volume, number: u32| {
            frame_places(&set.record, number).into_iter().any(|offset| {
                let mut bytes = vec![0; frame];
                let read = volume.file.read_exact_at(&mut bytes, offset);
                read.is_ok() && parse_frame(&bytes).is_some_and(|found| found == (number, record))
            })
        };
        let has_name =
            |set: &Self, volume: &Volume, number: u32| set.path_of(number).file_name() == volume.path.file_name();
        let has_length = |set: &Self, volume: &Volume, number: u32| set.record.file_len(number) == volume.len;
        let signs: [&Sign<'_>; 3] = [&has_frame, &has_name, &has_length];
        for sign in signs {
            for number in 1..=self.record.all_volumes() {
                let missing = self.files[number as usize - 1].is_none();
                let Some(i) = nameless.iter().position(|volume| missing && sign(self, volume, number)) else {
                    continue;
                };
                self.files[number as usize - 1] = Some(nameless.swap_remove(i));
            }
        }
    }

    /// The hash over everything that is read.
    pub fn root(&self) -> Root {
        self.record.core.root()
    }

    /// The set's ID.
    pub fn id(&self) -> SetId {
        self.record.core.set
    }

    /// The text that its signatures are over.
    pub fn statement(&self) -> String {
        self.record.core.statement()
    }

    /// OpenSSH signature blobs over [`VolumeSet::statement`]; not verified here.
    pub fn signatures(&self) -> &[Vec<u8>] {
        &self.record.signatures
    }

    /// Whether the stream is an age file.
    pub fn encrypted(&self) -> bool {
        self.record.core.layout.flags & flag::ENCRYPTED != 0
    }

    /// Data volumes of the whole set, and parity volumes.
    pub fn volumes(&self) -> (u32, u32) {
        let data = self.record.core.layout.volumes;
        (data, self.record.all_volumes() - data)
    }

    /// The volumes that are there: number, file and length in bytes.
    pub fn present(&self) -> Vec<(u32, PathBuf, u64)> {
        let number = |(volume, number): (&Option<Volume>, u32)| {
            volume.as_ref().map(|volume| (number, volume.path.clone(), volume.len))
        };
        self.files.iter().zip(1..).filter_map(number).collect()
    }

    /// A file of the set that is there.
    pub fn near(&self) -> PathBuf {
        self.files.iter().flatten().next().map(|volume| volume.path.clone()).unwrap_or_default()
    }

    /// The name the set was written with, as far as its files tell.
    pub fn name(&self) -> PathBuf {
        let near = self.near();
        Names::of_volume(&near).map_or(near, |names| names.single())
    }

    /// How the file of a volume is called, there or not.
    pub fn path_of(&self, number: u32) -> PathBuf {
        if let Some(volume) = &self.files[number as usize - 1] {
            return volume.path.clone();
        }
        let data = self.record.core.layout.volumes;
        let near = self.near();
        let names = Names::of_volume(&near).or_else(|| Names::new(&near));
        match names {
            Some(names) if number > data => names.parity(number - data),
            Some(names) if self.record.core.layout.full == 0 => names.single(),
            Some(names) => names.data(number),
            None => near,
        }
    }

    /// Fails unless every data volume is there and of its length. Volumes that are missing are all named.
    pub fn complete(&self) -> Result<(), VolumeError> {
        let data = self.record.core.layout.volumes;
        let missing: Vec<String> = (1..=data)
            .filter(|number| self.files[*number as usize - 1].is_none())
            .map(|number| {
                let path = self.path_of(number);
                format!("volume {number} ({})", path.file_name().unwrap_or(path.as_os_str()).display())
            })
            .collect();
        if !missing.is_empty() {
            return Err(VolumeError::Missing { near: self.near(), total: data, missing });
        }
        for (volume, number) in self.files.iter().flatten().zip(1..=data) {
            let expected = self.record.file_len(number);
            if volume.len != expected {
                return Err(VolumeError::Length { path: volume.path.clone(), expected, got: volume.len });
            }
        }
        Ok(())
    }
}

impl Candidate {
    /// Whether the file fits the record that was found in `first`.
    fn agrees(&self, bytes: &[u8], record: &Record, first: &Path) -> Result<(), VolumeError> {
        let path = &self.volume.path;
        let layout = &record.core.layout;
        if self.frame.as_ref().is_some_and(|(_, other, _)| other != bytes) {
            return Err(VolumeError::TwoVersions { one: first.to_owned(), other: path.clone() });
        }
        if let Some(head) = self.head {
            let same = (head.block_log, head.flags & !flag::PARITY, head.full);
            if same != (layout.block_log, layout.flags, layout.full) {
                return Err(VolumeError::TwoVersions { one: first.to_owned(), other: path.clone() });
            }
            if let Some((number, ..)) = self.frame.as_ref().filter(|(number, ..)| *number != head.number) {
                let what = format!("its head says volume {}, its end volume {number}", head.number);
                return Err(VolumeError::Malformed { path: path.clone(), what });
            }
            if (head.flags & flag::PARITY != 0) != (head.number > layout.volumes) {
                let what =
                    format!("volume {} is a parity volume by its head or by its place, not by both", head.number);
                return Err(VolumeError::Malformed { path: path.clone(), what });
            }
        }
        match self.number() {
            Some(number) if number == 0 || number > record.all_volumes() => {
                let what = format!("it is volume {number} of a set of {}", record.all_volumes());
                Err(VolumeError::Malformed { path: path.clone(), what })
            }
            _ => Ok(()),
        }
    }
}

/// The files that were looked at, each once.
#[derive(Default)]
struct Found {
    candidates: Vec<Candidate>,
    seen: BTreeSet<(u64, u64)>,
}

impl Found {
    fn add(&mut self, path: &Path, named: bool) -> Result<(), VolumeError> {
        let Some(volume) = open_volume(path, named)? else { return Ok(()) };
        let meta = volume.file.metadata().at("read", path)?;
        if self.seen.insert((meta.dev(), meta.ino())) {
            self.candidates.extend(identify(volume, named)?);
        }
        Ok(())
    }
}

/// All files that `paths` may mean.
/// Whether a file is an executable that its bundle did not fit into.
fn is_stand_in(file: &File) -> bool {
    matches!(carried_in(file), Ok(Some((_, 0))))
}

/// What a path means: of an executable that stands beside its volumes the name they were written with.
fn meant(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if path.is_file() && File::open(path).is_ok_and(|file| is_stand_in(&file)) {
        name.push(ENDING);
    }
    name.into()
}

fn gather(paths: &[PathBuf]) -> Result<Vec<Candidate>, VolumeError> {
    let mut found = Found::default();
    let mut directories: Vec<PathBuf> = Vec::new();
    let paths: Vec<PathBuf> = paths.iter().map(|path| meant(path)).collect();
    for path in &paths {
        let meta = fs::metadata(path);
        if meta.as_ref().is_ok_and(fs::Metadata::is_dir) {
            directories.push(path.clone());
            continue;
        }
        let names = Names::new(path).map(|names| names.directory().to_owned());
        match meta {
            Ok(_) => {
                found.add(path, true)?;
                directories.extend(names);
            }
            // The name a set was written with stands for its numbered files.
            Err(error) => {
                let base = Names::new(path);
                let numbered = |file: &Path| base.is_some() && Names::of_volume(file) == base;
                let files = names.as_deref().map(files_in).transpose().ok().flatten().unwrap_or_default();
                let files: Vec<_> = files.into_iter().filter(|file| numbered(file)).collect();
                if files.is_empty() {
                    return Err(
                        unfinished_near(path).unwrap_or(Err::<(), _>(error).at("open", path).unwrap_err().into())
                    );
                }
                files.iter().try_for_each(|file| found.add(file, true))?;
            }
        }
    }
    let whole = |c: &Candidate| c.frame.as_ref().is_some_and(|(_, _, record)| record.all_volumes() == 1);
    if !found.candidates.is_empty() && found.candidates.iter().all(whole) && !paths.iter().any(|path| path.is_dir()) {
        return Ok(found.candidates);
    }
    directories.sort();
    directories.dedup();
    for directory in directories {
        for file in files_in(&directory)? {
            found.add(&file, false)?;
        }
    }
    Ok(found.candidates)
}

fn files_in(directory: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).at("read", directory)?.take(ENTRIES_MAX) {
        let path = entry.at("read", directory)?.path();
        if !path.as_os_str().as_encoded_bytes().ends_with(b".part") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A set that was not written to its end, when that is all there is.
fn unfinished_near(path: &Path) -> Option<VolumeError> {
    let names = Names::new(path);
    let parts = |directory: &Path| -> Option<PathBuf> {
        let mut found: Vec<PathBuf> =
            fs::read_dir(directory).ok()?.take(ENTRIES_MAX).flatten().map(|e| e.path()).collect();
        found.sort();
        let ending = format!("{ENDING}.part");
        found.into_iter().find(|file| file.as_os_str().as_encoded_bytes().ends_with(ending.as_bytes()))
    };
    if path.is_dir() {
        return parts(path).map(|path| VolumeError::Unfinished { path });
    }
    let part = parts(names.as_ref()?.directory())?;
    (Names::of_volume(&part.with_extension("")) == names).then_some(VolumeError::Unfinished { path: part })
}

/// Opens a regular file; of files nobody named, those that cannot be opened are none of ours.
fn open_volume(path: &Path, named: bool) -> Result<Option<Volume>, VolumeError> {
    // Not blocking: a fifo in the directory must not hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match file {
        Ok(file) => file,
        Err(_) if !named => return Ok(None),
        Err(error) => return Err(Err::<File, _>(error).at("open", path).unwrap_err().into()),
    };
    let meta = file.metadata().at("read", path)?;
    if !meta.is_file() {
        return if named { Err(VolumeError::NotAVolume { path: path.to_owned() }) } else { Ok(None) };
    }
    let (file, len) = Slice::of(file).at("read", path)?;
    Ok(Some(Volume { path: path.to_owned(), file, len }))
}

/// Looks at both ends of a file. Nothing for a file that nobody named and that is no volume.
fn identify(volume: Volume, named: bool) -> Result<Option<Candidate>, VolumeError> {
    let mut start = [0; HEAD as usize];
    let head = match volume.file.read_exact_at(&mut start, 0).map(|()| Head::parse(&start)) {
        Ok(HeadParse::Head(head)) => Some(head),
        // An unreadable start is damage like any other; the end may tell.
        Ok(HeadParse::None) | Err(_) => None,
        Ok(_) if !named => return Ok(None),
        Ok(HeadParse::Version(version)) => return Err(VolumeError::Version { path: volume.path, version }),
        Ok(HeadParse::Malformed(what)) => {
            return Err(VolumeError::Malformed { path: volume.path, what: what.into() });
        }
    };
    let frame = match last_frame(&volume) {
        Ok(frame) => frame,
        Err(_) if !named && head.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let ending = volume.path.as_os_str().as_encoded_bytes().ends_with(ENDING.as_bytes());
    let ours = named || ending || head.is_some() || frame.is_some();
    Ok(ours.then_some(Candidate { volume, head, frame, named }))
}

type Frame = (u32, Vec<u8>, Record);

fn last_frame(volume: &Volume) -> Result<Option<Frame>, VolumeError> {
    let mut end = [0; 16];
    let Some(at) = volume.len.checked_sub(16) else { return Ok(None) };
    if volume.file.read_exact_at(&mut end, at).is_err() {
        return Ok(None);
    }
    let Some(len) = frame_len_at_end(&end) else { return Ok(None) };
    let Some(start) = volume.len.checked_sub(len as u64) else { return Ok(None) };
    read_frame(volume, start, len)
}

/// A frame whose checksum is right holds a good record, or is an error.
fn read_frame(volume: &Volume, at: u64, len: usize) -> Result<Option<Frame>, VolumeError> {
    let mut bytes = vec![0; len];
    if volume.file.read_exact_at(&mut bytes, at).is_err() {
        return Ok(None);
    }
    let Some((number, bytes)) = parse_frame(&bytes) else { return Ok(None) };
    match Record::parse(bytes) {
        Ok(record) if record.frame_len() == len => Ok(Some((number, bytes.to_vec(), record))),
        Ok(_) => Err(malformed(volume, at, "the frame has another length than its record needs")),
        Err(RecordError::Malformed(what)) => Err(malformed(volume, at, what)),
        Err(RecordError::Version(version)) => Err(VolumeError::Version { path: volume.path.clone(), version }),
    }
}

fn malformed(volume: &Volume, at: u64, what: &str) -> VolumeError {
    VolumeError::Malformed { path: volume.path.clone(), what: format!("{what} (frame at byte {at})") }
}

/// Searches the files for a frame until one is found; gives its set.
fn scan_for_frames(candidates: &mut [Candidate]) -> Option<SetId> {
    for candidate in candidates {
        let volume = &candidate.volume;
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < volume.len {
            let n = (volume.len - at).min(buffer.len() as u64) as usize;
            let readable = volume.file.read_exact_at(&mut buffer[..n], at).is_ok();
            for step in (0..n).step_by(SCAN_STEP as usize).filter(|_| readable) {
                let Some(start) = buffer[step..n].first_chunk() else { continue };
                let offset = at + step as u64;
                let Some(len) = frame_len_at_start(start).filter(|len| offset + *len as u64 <= volume.len) else {
                    continue;
                };
                // One that does not parse is passed over: its like may be intact elsewhere.
                if let Ok(Some(frame)) = read_frame(volume, offset, len) {
                    let set = frame.2.core.set;
                    candidate.frame = Some(frame);
                    return Some(set);
                }
            }
            at += n as u64;
        }
    }
    None
}

const _: () = assert!(FRAME > 16);
