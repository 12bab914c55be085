//! The file system that an image's layers make, by name alone: nothing is unpacked.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;

use super::outline::{Outlined, outline};
use super::source::BundleSource;
use crate::base::BoxFault;
use crate::image::DiffId;
use crate::layer::apply::names::{Meaning, clean, meaning, split};
use crate::layer::tar::Kind;

/// Files by their paths, which are without leading and trailing slashes: the topmost layer that speaks of one, and what
/// it says.
#[derive(Debug, Default)]
pub struct Tree {
    /// Every file and directory.
    pub files: BTreeMap<Vec<u8>, (DiffId, Outlined)>,
}

impl Tree {
    /// What `layers`, base first, make together.
    pub fn of(source: &BundleSource, layers: impl IntoIterator<Item = DiffId>) -> Result<Self, BoxFault> {
        let mut tree = Self::default();
        for layer in layers {
            tree.add(source, layer)?;
        }
        Ok(tree)
    }

    fn add(&mut self, source: &BundleSource, layer: DiffId) -> Result<(), BoxFault> {
        let mut own: BTreeMap<Vec<u8>, (DiffId, Outlined)> = BTreeMap::new();
        outline(source, &layer, &mut |file| {
            let path = clean(&file.entry.path)?;
            let (parent, name) = split(&path);
            match meaning(name) {
                Meaning::Nothing => {}
                // Whiteouts are about the layers below alone.
                Meaning::Opaque => self.remove_below(parent),
                Meaning::Whiteout(hidden) => {
                    let hidden = match parent {
                        [] => hidden.as_bytes().to_vec(),
                        parent => [parent, b"/", hidden.as_bytes()].concat(),
                    };
                    self.files.remove(&hidden);
                    self.remove_below(&hidden);
                }
                Meaning::File => {
                    if file.entry.kind != Kind::Directory {
                        self.remove_below(&path);
                    }
                    own.insert(path, (layer, file));
                }
            }
            Ok(())
        })?;
        self.files.append(&mut own);
        Ok(())
    }

    fn remove_below(&mut self, directory: &[u8]) {
        if directory.is_empty() {
            self.files.clear();
            return;
        }
        let below = [directory, b"/"].concat();
        let range = self.files.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
        let gone: Vec<Vec<u8>> = range.map(|(path, _)| path.clone()).collect();
        gone.iter().for_each(|path| drop(self.files.remove(path)));
    }
}
