//! Archives in a directory, for whoever picks them up there: k3s at its start, a registry mirror, a person. Earlier ones
//! are what the next is the difference to on the line; each file is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Engine, EngineError, WriteArchive, archive_name};
use crate::archive::write::Format;
use crate::archive::{self, Input, OpenOptions};
use crate::base::durable::AtomicFile;
use crate::base::{AtPath, BoxFault, Ctx};
use crate::image::{DiffId, Form, Image, ImageSource, Layer};

pub(super) struct Folder {
    path: PathBuf,
    spool: PathBuf,
    layers: BTreeMap<DiffId, (PathBuf, Layer)>,
    readable: BTreeSet<DiffId>,
}

/// The most archives that are looked into.
const ARCHIVES: usize = 1000;

impl Folder {
    pub fn open(path: &Path, spool: &Path) -> Result<Self, BoxFault> {
        std::fs::create_dir_all(path).at("create", path)?;
        let mut folder =
            Self { path: path.into(), spool: spool.into(), layers: BTreeMap::new(), readable: BTreeSet::new() };
        let mut entries: Vec<PathBuf> = Vec::new();
        for entry in path.read_dir().at("read", path)? {
            let file = entry.at("read", path)?.path();
            if file.is_file() && file.extension().is_some_and(|end| end == "tar") {
                entries.push(file);
            }
        }
        entries.sort();
        for file in entries.into_iter().take(ARCHIVES) {
            // What is no archive is nothing to build upon.
            let Ok(source) = source(&file, spool) else { continue };
            for layer in source.images().iter().flat_map(|image| &image.layers) {
                folder.layers.entry(layer.diff_id).or_insert_with(|| (file.clone(), layer.clone()));
            }
        }
        folder.readable = folder.layers.keys().copied().collect();
        Ok(folder)
    }
}

fn source(file: &Path, spool: &Path) -> Result<Box<dyn ImageSource>, BoxFault> {
    let options = OpenOptions { platform: None, max_window: None, spool: spool.into() };
    Ok(archive::open(Input::Path(file.into()), &options, &Ctx::silent())?)
}

impl Engine for Folder {
    fn readable(&self) -> &BTreeSet<DiffId> {
        &self.readable
    }

    fn open(&self, layer: &DiffId) -> Result<Box<dyn Read + Send>, BoxFault> {
        let (file, layer) = self.layers.get(layer).ok_or(EngineError::Gone(*layer))?;
        let (file, spool, layer) = (file.clone(), self.spool.clone(), layer.clone());
        // The archive lives as long as what reads it: in a thread of its own.
        let (reader, mut writer) = std::io::pipe().at("make", "a pipe")?;
        std::thread::spawn(move || {
            if let Ok(source) = source(&file, &spool)
                && let Ok(mut tar) = source.open_layer(&layer, Form::Tar)
            {
                // A reader that went away, and a tar cut short, are both seen at the other end.
                let _ = std::io::copy(&mut tar, &mut writer);
            }
        });
        Ok(Box::new(reader))
    }

    fn has_of(&self, _: &[DiffId]) -> usize {
        0
    }

    fn format(&self) -> Format {
        Format::Hybrid
    }

    fn load(&self, images: &[Image], write: &mut WriteArchive<'_>) -> Result<(), BoxFault> {
        let mut file = AtomicFile::create(&self.path.join(archive_name(images)), 0o644)?;
        write(&mut file)?;
        file.commit()?;
        Ok(())
    }
}
