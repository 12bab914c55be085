//! A layer on its way out of a tree: its tar-split, its files and the list of their contents.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::contents::{self, ContentList};
use super::error::StoreError;
use super::layerdb;
use super::layout::Layout;
use crate::base::progress::Task;
use crate::base::{AtPath, BoxFault, ContentId, durable};
use crate::image::{ChainId, DiffId, SplitContent, SplitSink};
use crate::layer::apply::clean_name;
use crate::layer::tar_split::{Piece, Reader};
use crate::layer::{Assembler, Content, Unpacked, assemble};
use crate::sys::dir::Dir;

/// Where a layer lies.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub diff_id: DiffId,
    pub tree: PathBuf,
    pub tar_split: PathBuf,
    pub contents: PathBuf,
}

impl Packed {
    /// A layer of the store.
    pub fn of_store(layout: &Layout, chain_id: ChainId) -> Result<Self, StoreError> {
        let record = layerdb::read(layout, chain_id)?.ok_or(StoreError::NoLayer(chain_id))?;
        Ok(Self {
            diff_id: record.diff_id,
            tree: layout.diff_dir(&record.cache_id),
            tar_split: layout.layer(&chain_id).join(layerdb::TAR_SPLIT),
            contents: layout.content_list(&chain_id),
        })
    }

    /// The size of the tar in bytes.
    pub fn tar_size(&self) -> Result<u64, StoreError> {
        if let Some(size) = ContentList::tar_size(&self.contents, &self.tar_split)? {
            return Ok(size);
        }
        let path = &self.tar_split;
        let mut reader = Reader::new(File::open(path).at("open", path)?);
        let mut bytes = 0u64;
        while let Some(piece) = reader.next_piece().at("read", path)? {
            bytes = bytes.saturating_add(match piece {
                Piece::Segment(segment) => segment.len() as u64,
                Piece::File { size, .. } => size,
            });
        }
        Ok(bytes)
    }

    /// The tar, every content compared with the list while it is read.
    pub fn tar(&self) -> Result<Box<dyn Read + Send>, StoreError> {
        Ok(Box::new(Assembler::new(self.unpacked(Some(self.list()?))?)))
    }

    /// Opens the file that the tar calls `name`.
    pub fn open(&self, name: &[u8]) -> Result<File, StoreError> {
        self.open_in(&Dir::open(&self.tree)?, name)
    }

    /// [`Packed::open`] in its tree, open already.
    pub fn open_in(&self, tree: &Dir, name: &[u8]) -> Result<File, StoreError> {
        use std::os::unix::ffi::OsStrExt;
        let clean = clean_name(name).map_err(|error| self.fault(error))?;
        Ok(tree.open_file(std::ffi::OsStr::from_bytes(&clean))?)
    }

    /// The files that are not empty, in tar-split order.
    pub fn contents(&self) -> Result<Vec<(ContentId, u64, Vec<u8>)>, StoreError> {
        struct Contents(Vec<(ContentId, u64, Vec<u8>)>);
        impl SplitSink for Contents {
            fn segment(&mut self, _: &[u8]) -> Result<(), BoxFault> {
                Ok(())
            }

            fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault> {
                self.0.push((content.id, content.size, content.path.to_vec()));
                Ok(())
            }
        }
        let mut contents = Contents(Vec::new());
        self.split(&mut contents)?;
        Ok(contents.0)
    }

    /// Gives the layer in split form.
    pub fn split(&self, sink: &mut dyn SplitSink) -> Result<(), StoreError> {
        let unpacked = self.unpacked(Some(self.list()?))?;
        assemble::split_unpacked(unpacked, sink).map_err(|fault| self.fault(fault))
    }

    /// Proves the layer: all its bytes give its diff ID. Compares each file with the list where there is one.
    pub fn check(&self, task: &Task) -> Result<(), StoreError> {
        let list = self.prove(self.recorded()?)?;
        Ok(task.advance(list.tar_size)?)
    }

    /// The content list. Where there is none, dockerd made the layer: it is proven, and the list recorded if the store
    /// can be written.
    fn list(&self) -> Result<ContentList, StoreError> {
        if let Some(list) = self.recorded()? {
            return Ok(list);
        }
        let list = self.prove(None)?;
        if let Err(error) = durable::write(&self.contents, &list.to_bytes(), 0o644) {
            tracing::info!(%error, "a layer stays without a content list");
        }
        Ok(list)
    }

    /// The recorded list, if it belongs to this tar-split.
    fn recorded(&self) -> Result<Option<ContentList>, StoreError> {
        let fingerprint = contents::fingerprint(&self.tar_split)?;
        Ok(ContentList::read(&self.contents)?.filter(|list| list.fingerprint == fingerprint))
    }

    /// Reads everything once.
    fn prove(&self, known: Option<ContentList>) -> Result<ContentList, StoreError> {
        let fingerprint = contents::fingerprint(&self.tar_split)?;
        let (digest, tar_size, entries) = assemble::prove(self.unpacked(known)?).map_err(|fault| self.fault(fault))?;
        let got = DiffId(digest);
        if got != self.diff_id {
            return Err(StoreError::WrongDiffId { expected: self.diff_id, got });
        }
        Ok(ContentList { tar_size, fingerprint, entries })
    }

    fn unpacked(&self, list: Option<ContentList>) -> Result<Unpacked, StoreError> {
        let tar_split = File::open(&self.tar_split).at("open", &self.tar_split)?;
        let contents: Option<Vec<Content>> = list.map(|list| list.entries);
        Ok(Unpacked { tree: Dir::open(&self.tree)?, tar_split, contents })
    }

    /// Says which layer something is wrong with.
    pub fn fault(&self, source: impl Into<BoxFault>) -> StoreError {
        StoreError::Layer { diff_id: Some(self.diff_id), source: source.into() }
    }
}
