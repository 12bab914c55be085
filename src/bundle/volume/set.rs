//! The volumes of a set, whatever they are called, each in its place, and what is wrong with them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::VolumeError;
use super::find::{
    Candidate, Candidates, Named, Volume, gather, identify, is_stand_in, path_beside, scan_for_frames, set_of,
    which_set,
};
use super::head::{HEAD, Head, HeadParse, SetId, flag, parse_frame};
use super::record::{Record, Root};
use super::size::Names;
use super::slice::Slice;
use super::writer::frame_places;
use crate::base::{AtPath, ReadAt};

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
        Self::of_volume(Volume { path: origin, file, len })
    }

    /// The same, of a volume that lies elsewhere.
    pub fn of_bytes(bytes: Arc<dyn ReadAt>, origin: PathBuf) -> Result<Self, VolumeError> {
        let len = bytes.size();
        Self::of_volume(Volume { path: origin, file: Slice::elsewhere(bytes), len })
    }

    fn of_volume(volume: Volume) -> Result<Self, VolumeError> {
        let path = volume.path.clone();
        let files = identify(volume, Named::Itself)?.into_iter().collect();
        Self::choose(Candidates { files, closed: Vec::new() }, path)
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

    /// Makes the one set of the candidates that is meant.
    fn choose(candidates: Candidates, near: PathBuf) -> Result<Self, VolumeError> {
        let Candidates { mut files, closed } = candidates;
        let set = match which_set(&mut files, &near) {
            Ok(set) => set,
            // What cannot be opened may have been just what is sought.
            Err(VolumeError::NotAVolume { .. }) if !closed.is_empty() && !files.iter().any(Candidate::is_named) => {
                return Err(closed.into_iter().next().map_or(VolumeError::NotAVolume { path: near }, Into::into));
            }
            Err(error) => return Err(error),
        };
        let found = match Self::assemble(set, files, near) {
            Err(error @ VolumeError::NoRecord { .. }) => {
                return Err(closed.into_iter().next().map_or(error, Into::into));
            }
            found => found?,
        };
        // A volume that cannot be opened is not missing, and not to be replaced.
        match closed.into_iter().find(|error| found.misses(&error.path)) {
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }

    /// Puts the volumes of a set in their places.
    fn assemble(set: SetId, candidates: Vec<Candidate>, near: PathBuf) -> Result<Self, VolumeError> {
        let (mut ours, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.set() == Some(set));
        // What a named file says goes before what merely lies beside it.
        ours.sort_by_key(|c| c.named);
        let named = ours.iter().take_while(|c| c.is_named()).count();
        if ours[..named].iter().all(|c| c.frame.is_none()) {
            scan_for_frames(&mut ours[..named]);
        }
        if ours.iter().all(|c| c.frame.is_none()) {
            scan_for_frames(&mut ours[named..]);
        }
        let Some((_, bytes, record)) = ours.iter().find_map(|c| c.frame.as_ref()) else {
            let path = ours.first().map_or(near, |c| c.volume.path.clone());
            return Err(VolumeError::NoRecord { path });
        };
        let (bytes, record) = (bytes.clone(), record.clone());
        let mut files: Vec<Option<Volume>> = (0..record.all_volumes()).map(|_| None).collect();
        let mut held = vec![Named::Not; files.len()];
        let first = ours.iter().find(|c| c.frame.is_some());
        let (first, by_name) = first.map(|c| (c.volume.path.clone(), c.is_named())).unwrap_or_default();
        let mut contradicted = None;
        for candidate in ours {
            if let Err(error) = candidate.agrees(&bytes, &record, &first) {
                if !by_name || candidate.is_named() {
                    return Err(error);
                }
                // Another version of the set beside the one that was named.
                contradicted.get_or_insert(error);
                continue;
            }
            let Some(number) = candidate.number() else { continue };
            let expected = record.file_len(number);
            let i = number as usize - 1;
            let there = match &files[i] {
                None => None,
                // A named file is what is asked about, however whole another one looks.
                Some(_) if held[i] < candidate.named => continue,
                Some(there) => Some((there.len, &there.path)),
            };
            // The same volume twice: the one that looks whole, unless that passes over one that was named.
            if let Some((len, path)) = there {
                if candidate.named == Named::Itself && len != candidate.volume.len {
                    let (path, got) =
                        if len == expected { (&candidate.volume.path, candidate.volume.len) } else { (path, len) };
                    return Err(VolumeError::Length { path: path.clone(), expected, got });
                }
                if len == expected || candidate.volume.len != expected {
                    continue;
                }
            }
            held[i] = candidate.named;
            files[i] = Some(candidate.volume);
        }
        let mut found = Self { record, files };
        if let Some(error) = contradicted.filter(|_| found.complete().is_err()) {
            return Err(error);
        }
        let nameless = others.into_iter().filter(|c| c.set().is_none());
        let (named, beside): (Vec<_>, Vec<_>) = nameless.partition(|c| c.named == Named::Itself);
        let volumes = |candidates: Vec<Candidate>| candidates.into_iter().map(|c| c.volume).collect();
        if let Some(left) = found.adopt(volumes(named), &bytes).into_iter().next() {
            return Err(VolumeError::NotAVolume { path: left.path });
        }
        found.adopt(volumes(beside), &bytes);
        Ok(found)
    }

    /// Whether a missing volume has this file name.
    fn misses(&self, path: &Path) -> bool {
        let mut missing = (1..).zip(&self.files).filter(|(_, volume)| volume.is_none());
        missing.any(|(number, _)| self.path_of(number).file_name() == path.file_name())
    }

    /// Takes files that have lost head and end for missing volumes: by a frame elsewhere in them, or by their name. A wrong
    /// guess gives no wrong byte, because every block is checked before it is used; but repair writes in the place of what
    /// is taken for a volume, so that neither length nor anything else that is another bundle's too may count. Gives what
    /// is left.
    fn adopt(&mut self, mut nameless: Vec<Volume>, record: &[u8]) -> Vec<Volume> {
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
        let signs: [&Sign<'_>; 2] = [&has_frame, &has_name];
        for sign in signs {
            for number in 1..=self.record.all_volumes() {
                let missing = self.files[number as usize - 1].is_none();
                let Some(i) = nameless.iter().position(|volume| missing && sign(self, volume, number)) else {
                    continue;
                };
                self.files[number as usize - 1] = Some(nameless.swap_remove(i));
            }
        }
        nameless
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
        path_beside(self.near(), &self.record, number)
    }

    /// Fails unless every data volume is there and of its length. Volumes that are missing are all named.
    pub fn complete(&self) -> Result<(), VolumeError> {
        let data = self.record.core.layout.volumes;
        let missing: Vec<String> = (1..=data)
            .filter(|number| self.files[*number as usize - 1].is_none())
            .map(|number| {
                let path = self.path_of(number);
                let name = path.file_name().unwrap_or(path.as_os_str()).display();
                match set_of(&path) {
                    Some(set) if set != self.id() => format!("volume {number} ({name} is of another bundle)"),
                    _ => format!("volume {number} ({name})"),
                }
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
