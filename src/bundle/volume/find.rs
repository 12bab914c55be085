//! Looks for the files that may be volumes: what was named, what lies beside it, and which set is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::VolumeError;
use super::head::{FRAME, HEAD, Head, HeadParse, SetId, flag, frame_len_at_end, frame_len_at_start, parse_frame};
use super::record::{Record, RecordError};
use super::size::{ENDING, Names, has_ending};
use super::slice::{Slice, carried_in};
use crate::base::{AtPath, PathError};

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

/// How a file came to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// By its own path: what is opened has it as a volume, or is an error.
    Itself,
    /// By the name of its set.
    BySet,
    /// Not at all: it lies in a directory that was named, or beside a file that was.
    Not,
}

/// What a frame says: the number of the volume, and the record, as bytes and read.
pub type Frame = (u32, Vec<u8>, Record);

/// A file that may be a volume.
pub struct Candidate {
    /// The file.
    pub volume: Volume,
    /// Its head, when it is right.
    pub head: Option<Head>,
    /// A frame of it.
    pub frame: Option<Frame>,
    /// How it came to be looked at.
    pub named: Named,
}

/// All files that may be volumes.
#[derive(Default)]
pub struct Candidates {
    /// Those that can be opened.
    pub files: Vec<Candidate>,
    /// Those that are called like volumes, that nobody named, and that cannot be opened.
    pub closed: Vec<PathError>,
}

impl Candidate {
    /// The set it says it is of.
    pub fn set(&self) -> Option<SetId> {
        self.head.map(|head| head.set).or_else(|| self.frame.as_ref().map(|(_, _, record)| record.core.set))
    }

    /// Whether it was named at all.
    pub fn is_named(&self) -> bool {
        self.named != Named::Not
    }

    /// The volume it says it is.
    pub fn number(&self) -> Option<u32> {
        self.frame.as_ref().map(|(number, ..)| *number).or_else(|| self.head.map(|head| head.number))
    }

    /// Whether the file fits the record that was found in `first`.
    pub fn agrees(&self, bytes: &[u8], record: &Record, first: &Path) -> Result<(), VolumeError> {
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

/// The one set that is meant: named files say which it is, otherwise all that were found must be of one.
pub fn which_set(files: &mut [Candidate], near: &Path) -> Result<SetId, VolumeError> {
    // A named file without head and end may still have a frame in it.
    files.iter_mut().filter(|c| c.is_named() && c.set().is_none()).for_each(|c| {
        scan_for_frames(std::slice::from_mut(c));
    });
    let of = |files: &[Candidate], chosen: &dyn Fn(&Candidate) -> bool| {
        let mut sets: BTreeMap<SetId, String> = BTreeMap::new();
        for candidate in files.iter().filter(|c| chosen(c)) {
            if let Some(set) = candidate.set() {
                sets.entry(set).or_insert_with(|| candidate.volume.path.display().to_string());
            }
        }
        sets
    };
    let mut sets = of(files, &Candidate::is_named);
    if sets.is_empty() {
        sets = of(files, &|_| true);
        let lost = files.iter().find(|c| c.named == Named::Itself).or_else(|| files.iter().find(|c| c.is_named()));
        if let Some(lost) = lost {
            // It says nothing, but one of the sets beside it misses a file of its name. No other one was asked for.
            let path = &lost.volume.path;
            sets.retain(|set, _| misses(files, *set, path));
            if sets.is_empty() {
                return Err(VolumeError::NotAVolume { path: path.clone() });
            }
        }
    }
    if sets.len() > 1 {
        let by_itself = |c: &Candidate| c.named == Named::Itself && c.set().is_some_and(|set| sets.contains_key(&set));
        let named = files.iter().filter(|c| by_itself(c)).count();
        let sets = sets.into_values().collect();
        return Err(match named {
            0 => VolumeError::MixedSets { path: near.to_owned(), sets },
            _ => VolumeError::NamedSets { sets },
        });
    }
    let not_one = || unfinished_near(near).unwrap_or_else(|| VolumeError::NotAVolume { path: near.to_owned() });
    sets.into_keys().next().or_else(|| scan_for_frames(files)).ok_or_else(not_one)
}

/// How the file of a volume is called beside another one of its set.
pub fn path_beside(near: PathBuf, record: &Record, number: u32) -> PathBuf {
    let data = record.core.layout.volumes;
    match Names::of_volume(&near).or_else(|| Names::new(&near)) {
        Some(names) if number > data => names.parity(number - data),
        Some(names) if record.core.layout.full == 0 => names.single(),
        Some(names) => names.data(number),
        None => near,
    }
}

/// Whether a set, as far as these files have it, has no volume where one with the file name of `path` belongs.
fn misses(files: &[Candidate], set: SetId, path: &Path) -> bool {
    let ours: Vec<&Candidate> = files.iter().filter(|c| c.set() == Some(set)).collect();
    let present: BTreeMap<u32, &Path> = ours.iter().filter_map(|c| Some((c.number()?, &*c.volume.path))).collect();
    let (Some(record), Some((_, near))) = (ours.iter().find_map(|c| c.frame.as_ref()), present.first_key_value())
    else {
        return false;
    };
    let called = |number: u32| path_beside(near.to_path_buf(), &record.2, number);
    (1..=record.2.all_volumes())
        .any(|number| !present.contains_key(&number) && called(number).file_name() == path.file_name())
}

/// The files that were looked at, each once.
#[derive(Default)]
struct Found {
    candidates: Candidates,
    seen: BTreeSet<(u64, u64)>,
}

impl Found {
    fn add(&mut self, path: &Path, named: Named) -> Result<(), VolumeError> {
        let volume = match open_volume(path, named) {
            Err(VolumeError::Path(error)) if named == Named::Not => {
                self.candidates.closed.push(error);
                return Ok(());
            }
            volume => volume?,
        };
        let Some(volume) = volume else { return Ok(()) };
        let meta = volume.file.metadata().at("read", path)?;
        if self.seen.insert((meta.dev(), meta.ino())) {
            self.candidates.files.extend(identify(volume, named)?);
        }
        Ok(())
    }
}

/// Whether a file is an executable that its bundle did not fit into.
pub fn is_stand_in(file: &File) -> bool {
    matches!(carried_in(file), Ok(Some((_, 0))))
}

/// What a path means: of an executable that stands beside its volumes the name they were written with. Says whether that
/// is the name of a set and never of a volume.
fn meant(path: &Path) -> (PathBuf, bool) {
    if !path.is_file() || !File::open(path).is_ok_and(|file| is_stand_in(&file)) {
        return (path.to_owned(), false);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(ENDING);
    let name = PathBuf::from(name);
    // It may bear the set's name itself.
    if has_ending(path) && !name.exists() { (path.to_owned(), true) } else { (name, false) }
}

/// All files that `paths` may mean.
pub fn gather(paths: &[PathBuf]) -> Result<Candidates, VolumeError> {
    let mut found = Found::default();
    let mut directories: Vec<PathBuf> = Vec::new();
    let paths: Vec<(PathBuf, bool)> = paths.iter().map(|path| meant(path)).collect();
    for (path, of_set) in &paths {
        let meta = fs::metadata(path);
        if meta.as_ref().is_ok_and(fs::Metadata::is_dir) {
            directories.push(path.clone());
            continue;
        }
        let names = Names::new(path).map(|names| names.directory().to_owned());
        match meta {
            Ok(_) if !of_set => {
                found.add(path, Named::Itself)?;
                directories.extend(names);
            }
            // The name a set was written with stands for its numbered files.
            meta => {
                let base = Names::new(path);
                let numbered = |file: &Path| base.as_ref().is_some_and(|base| base.is_numbered(file));
                let files = names.as_deref().map(files_in).transpose().ok().flatten().unwrap_or_default();
                let files: Vec<_> = files.into_iter().filter(|file| numbered(file)).collect();
                if files.is_empty() {
                    let absent = || match meta.at("open", path) {
                        Ok(_) => VolumeError::NotAVolume { path: path.clone() },
                        Err(error) => error.into(),
                    };
                    return Err(unfinished_near(path).unwrap_or_else(absent));
                }
                files.iter().try_for_each(|file| found.add(file, Named::BySet))?;
            }
        }
    }
    let whole = |c: &Candidate| c.frame.as_ref().is_some_and(|(_, _, record)| record.all_volumes() == 1);
    let files = &found.candidates.files;
    if !files.is_empty() && files.iter().all(whole) && !paths.iter().any(|(path, _)| path.is_dir()) {
        return Ok(found.candidates);
    }
    directories.sort();
    directories.dedup();
    for directory in directories {
        for file in files_in(&directory)? {
            found.add(&file, Named::Not)?;
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

/// Opens a regular file; of files nobody named, those that are gone or no files are none of ours, nor are those that
/// cannot be opened and are not called like a volume.
fn open_volume(path: &Path, named: Named) -> Result<Option<Volume>, VolumeError> {
    // Not blocking: a fifo in the directory must not hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match file {
        Ok(file) => file,
        Err(source) => {
            let error = PathError { action: "open", path: path.to_owned(), source };
            let ignored = named == Named::Not && (error.is_gone() || !has_ending(path));
            return if ignored { Ok(None) } else { Err(error.into()) };
        }
    };
    let meta = file.metadata().at("read", path)?;
    if !meta.is_file() {
        let ignored = named == Named::Not;
        return if ignored { Ok(None) } else { Err(VolumeError::NoFile { path: path.to_owned() }) };
    }
    let (file, len) = Slice::of(file).at("read", path)?;
    Ok(Some(Volume { path: path.to_owned(), file, len }))
}

/// Looks at both ends of a file. Nothing for a file that nobody named and that is no volume.
pub fn identify(volume: Volume, named: Named) -> Result<Option<Candidate>, VolumeError> {
    let is_named = named != Named::Not;
    let mut start = [0; HEAD as usize];
    let head = match volume.file.read_exact_at(&mut start, 0).map(|()| Head::parse(&start)) {
        Ok(HeadParse::Head(head)) => Some(head),
        // An unreadable start is damage like any other; the end may tell.
        Ok(HeadParse::None) | Err(_) => None,
        Ok(_) if !is_named => return Ok(None),
        Ok(HeadParse::Version(version)) => return Err(VolumeError::Version { path: volume.path, version }),
        Ok(HeadParse::Malformed(what)) => {
            return Err(VolumeError::Malformed { path: volume.path, what: what.into() });
        }
    };
    let frame = match last_frame(&volume) {
        Ok(frame) => frame,
        Err(_) if !is_named && head.is_none() => return Ok(None),
        Err(error) => return Err(error),
    };
    let ours = is_named || has_ending(&volume.path) || head.is_some() || frame.is_some();
    Ok(ours.then_some(Candidate { volume, head, frame, named }))
}

/// What the file at `path` says of itself at both ends; nothing when it cannot be read, or says nothing.
fn look(path: &Path) -> Option<Candidate> {
    identify(open_volume(path, Named::Not).ok()??, Named::Not).ok()?
}

/// The set that the file at `path` says it is a volume of.
pub fn set_of(path: &Path) -> Option<SetId> {
    look(path)?.set()
}

/// Whether the file at `path` is one volume of several.
pub fn is_one_of_several(path: &Path) -> bool {
    look(path).is_some_and(|found| match (&found.frame, &found.head) {
        (Some((_, _, record)), _) => record.all_volumes() > 1,
        // How many there are is not known; they were to be of limited size.
        (None, head) => head.is_some_and(|head| head.full != 0),
    })
}

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
pub fn scan_for_frames(candidates: &mut [Candidate]) -> Option<SetId> {
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
                    // Nor does one count of another bundle, which the stream of this one may hold.
                    if candidate.head.is_some_and(|head| head.set != set) {
                        continue;
                    }
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
