//! podman, in the store of whoever runs the agent. Its `load` wants every layer; with root's rights they are rebuilt from
//! the store's own trees (containers/storage, `overlay-layers/layers.json` and the tar-split beside it).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use super::{Engine, EngineError, WriteArchive, ask, feed, is_root};
use crate::archive::write::Format;
use crate::base::{AtPath, BoxFault, caps};
use crate::image::{DiffId, Image};
use crate::layer::{Assembler, Unpacked};
use crate::sys::dir::Dir;

pub(super) struct Podman {
    root: PathBuf,
    /// The store's own names of layers.
    layers: BTreeMap<DiffId, String>,
    readable: BTreeSet<DiffId>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(rename = "diff-digest", default)]
    diff_digest: Option<String>,
    #[serde(default)]
    incomplete: bool,
}

/// The largest list of layers, in bytes.
const LIST_BYTES: u64 = 256 << 20;

impl Podman {
    pub fn open() -> Result<Self, BoxFault> {
        let answer = info()?;
        let (driver, root) = answer.trim().split_once('\n').unwrap_or((answer.trim(), ""));
        let mut podman = Self { root: root.into(), layers: BTreeMap::new(), readable: BTreeSet::new() };
        if driver == "overlay" && is_root() {
            // What cannot be read is sent.
            podman.layers = podman.list().unwrap_or_default();
            podman.readable = podman.layers.keys().copied().collect();
        }
        Ok(podman)
    }

    fn list(&self) -> Result<BTreeMap<DiffId, String>, BoxFault> {
        let folder = self.root.join("overlay-layers");
        let mut layers = BTreeMap::new();
        for name in ["layers.json", "volatile-layers.json"] {
            let path = folder.join(name);
            let Ok(mut file) = File::open(&path) else { continue };
            let bytes = caps::read_all(&mut file, LIST_BYTES, "a list of layers").at("read", &path)?;
            let entries: Vec<Entry> = serde_json::from_slice(&bytes)
                .map_err(|_| EngineError::Answer { command: path.display().to_string() })?;
            for entry in entries.into_iter().filter(|entry| !entry.incomplete) {
                let plain = !entry.id.is_empty() && entry.id.bytes().all(|b| b.is_ascii_hexdigit());
                let digest = entry.diff_digest.and_then(|text| text.parse::<DiffId>().ok());
                if let Some(diff_id) = digest.filter(|_| plain)
                    && folder.join(format!("{}.tar-split.gz", entry.id)).is_file()
                {
                    layers.insert(diff_id, entry.id);
                }
            }
        }
        Ok(layers)
    }
}

/// The driver and the store's root, a line each.
fn info() -> Result<String, EngineError> {
    let mut info = Command::new("podman");
    info.args(["info", "--format", "{{.Store.GraphDriverName}}\n{{.Store.GraphRoot}}"]);
    Ok(String::from_utf8_lossy(&ask("podman", &mut info)?).into_owned())
}

/// Whether this user has podman.
pub(super) fn answers() -> bool {
    info().is_ok()
}

impl Engine for Podman {
    fn readable(&self) -> &BTreeSet<DiffId> {
        &self.readable
    }

    fn open(&self, layer: &DiffId) -> Result<Box<dyn Read + Send>, BoxFault> {
        let id = self.layers.get(layer).ok_or(EngineError::Gone(*layer))?;
        let path = self.root.join("overlay-layers").join(format!("{id}.tar-split.gz"));
        let tar_split = File::open(&path).at("open", &path)?;
        let tree = Dir::open(self.root.join("overlay").join(id).join("diff"))?;
        Ok(Box::new(Assembler::new(Unpacked { tree, tar_split, contents: None })))
    }

    fn has_of(&self, _: &[DiffId]) -> usize {
        0
    }

    fn format(&self) -> Format {
        Format::Docker
    }

    fn load(&self, _: &[Image], write: &mut WriteArchive<'_>) -> Result<(), BoxFault> {
        feed("podman", Command::new("podman").args(["load", "-q"]), write)
    }
}
