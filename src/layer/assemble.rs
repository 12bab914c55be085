//! A layer's tar from its tar-split and its tree, bit for bit, every content checked while it is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::ahead::{self, Cut, FILES, PIECE, Pieces, Taker};
use super::apply::{Content, clean_name};
use super::error::LayerError;
use super::tar_split::{Crc64, Piece, Reader, crc64};
use crate::base::digest::Hasher;
use crate::base::{AtPath, BoxFault, ContentId, Digest};
use crate::image::split::{SplitContent, SplitSink};
use crate::sys::dir::Dir;

/// A layer on disk.
#[derive(Debug)]
pub struct Unpacked {
    /// Its tree.
    pub tree: Dir,
    /// Its `tar-split.json.gz`.
    pub tar_split: File,
    /// The contents its files must have, in the tar-split's order; `None` when nobody has listed them yet. Without a
    /// list the CRCs of the tar-split are all there is, and the tar must be compared with its diff ID.
    pub contents: Option<Vec<Content>>,
}

/// The tar, read by threads of its own ahead of whoever wants it.
pub struct Assembler {
    taker: Taker,
    piece: Vec<u8>,
    at: usize,
    contents: Vec<Content>,
    readers: Vec<JoinHandle<()>>,
}

impl Assembler {
    /// Begins to put the tar together.
    pub fn new(layer: Unpacked) -> Self {
        let Unpacked { tree, tar_split, contents } = layer;
        let (cutter, taker) = ahead::begin(Script::new(tar_split, contents, tree.path().to_owned()));
        let shared = Arc::new((tree, cutter));
        let read = || {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let (tree, cutter) = &*shared;
                let mut files = Files::new(tree);
                cutter.work(|items, pieces| files.fill(items, pieces));
            })
        };
        let readers = (0..ahead::threads()).map(|_| read()).collect();
        Self { taker, piece: Vec::new(), at: 0, contents: Vec::new(), readers }
    }

    /// The next piece that has bytes; `None` at the end of the tar.
    fn next_piece(&mut self) -> Result<Option<Vec<u8>>, BoxFault> {
        while let Some(filled) = self.taker.next()? {
            self.contents.extend(filled.contents);
            if !filled.bytes.is_empty() {
                return Ok(Some(filled.bytes));
            }
        }
        Ok(None)
    }
}

impl Read for Assembler {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let next = self.next_piece().map_err(|fault| {
                let kind = match fault.class() {
                    crate::base::Class::NoSpace => io::ErrorKind::StorageFull,
                    crate::base::Class::Integrity | crate::base::Class::Malformed => io::ErrorKind::InvalidData,
                    _ => io::ErrorKind::Other,
                };
                io::Error::new(kind, fault.to_string())
            })?;
            let Some(piece) = next else { return Ok(0) };
            self.taker.give_back(std::mem::replace(&mut self.piece, piece));
            self.at = 0;
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Drop for Assembler {
    fn drop(&mut self) {
        // Readers that wait for room find nobody there and end.
        self.taker.stop();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// The tar-split, item by item, beside the list of contents.
struct Script {
    reader: Reader<File>,
    listed: Option<std::vec::IntoIter<Content>>,
    /// The tree's path, for messages.
    shown: PathBuf,
    /// What came after the last batch.
    next: Option<Item>,
}

/// A part of a tar.
enum Item {
    Raw(Vec<u8>),
    /// A file that is not empty.
    File(Wanted),
}

struct Wanted {
    name: Vec<u8>,
    size: u64,
    /// What it must hash to.
    id: Option<ContentId>,
    /// Its CRC, where there is no hash: a hash says more.
    crc: Option<[u8; 8]>,
}

impl Script {
    fn new(tar_split: File, contents: Option<Vec<Content>>, shown: PathBuf) -> Self {
        Self { reader: Reader::new(tar_split), listed: contents.map(Vec::into_iter), shown, next: None }
    }

    fn item(&mut self) -> Result<Option<Item>, BoxFault> {
        loop {
            match self.reader.next_piece().at("read the tar-split of", &self.shown)? {
                None if self.listed.as_ref().is_some_and(|list| list.len() > 0) => {
                    return Err(LayerError::Contents.into());
                }
                None => return Ok(None),
                Some(Piece::Segment(bytes)) => return Ok(Some(Item::Raw(bytes))),
                Some(Piece::File { size: 0, .. }) => {}
                Some(Piece::File { name, size, crc }) => {
                    let id = match &mut self.listed {
                        None => None,
                        Some(list) => {
                            let listed = list.next().filter(|content| content.size == size);
                            Some(listed.ok_or(LayerError::Contents)?.id)
                        }
                    };
                    return Ok(Some(Item::File(Wanted { name, size, id, crc: crc.filter(|_| id.is_none()) })));
                }
            }
        }
    }
}

impl Cut for Script {
    type Items = Vec<Item>;

    fn next(&mut self) -> Result<Option<Vec<Item>>, BoxFault> {
        let (mut items, mut bytes, mut files) = (Vec::new(), 0, 0);
        while let Some(item) = self.next.take().map_or_else(|| self.item(), |item| Ok(Some(item)))? {
            let (size, is_file) = match &item {
                Item::Raw(raw) => (raw.len() as u64, 0),
                Item::File(file) => (file.size, 1),
            };
            bytes += size;
            files += is_file;
            if !items.is_empty() && (bytes > PIECE as u64 || files > FILES) {
                self.next = Some(item);
                break;
            }
            items.push(item);
        }
        Ok(Some(items).filter(|items| !items.is_empty()))
    }
}

/// Gives an unpacked layer in split form. No file is opened: without a list of contents it is [`LayerError::Contents`].
pub fn split_unpacked(layer: Unpacked, sink: &mut dyn SplitSink) -> Result<(), BoxFault> {
    let mut script = Script::new(layer.tar_split, layer.contents, layer.tree.path().to_owned());
    let mut offset = 0;
    while let Some(item) = script.item()? {
        match item {
            Item::Raw(bytes) => {
                offset += bytes.len() as u64;
                sink.segment(&bytes)?;
            }
            Item::File(Wanted { name, size, id, .. }) => {
                let id = id.ok_or(LayerError::Contents)?;
                sink.content(&SplitContent { id, size, offset, path: &name })?;
                offset += size;
            }
        }
    }
    Ok(())
}

/// Reads a whole layer, for its diff ID, its size in bytes and its list of contents.
pub fn prove(layer: Unpacked) -> Result<(Digest, u64, Vec<Content>), BoxFault> {
    let mut tar = Assembler::new(layer);
    let (mut hasher, mut size) = (Hasher::new(), 0);
    while let Some(piece) = tar.next_piece()? {
        hasher.update(&piece);
        size += piece.len() as u64;
        tar.taker.give_back(piece);
    }
    Ok((hasher.finish(), size, std::mem::take(&mut tar.contents)))
}

/// The files of a tree, opened by their names in the tar-split.
struct Files<'a> {
    tree: &'a Dir,
    parent: Option<(Vec<u8>, Dir)>,
    hasher: blake3::Hasher,
    crc: Crc64,
}

impl<'a> Files<'a> {
    fn new(tree: &'a Dir) -> Self {
        Self { tree, parent: None, hasher: blake3::Hasher::new(), crc: crc64() }
    }

    fn fill(&mut self, items: Vec<Item>, out: &mut Pieces<'_>) -> Result<(), BoxFault> {
        for item in items {
            match item {
                Item::Raw(bytes) => out.raw(&bytes)?,
                Item::File(file) => self.read(&file, out)?,
            }
        }
        Ok(())
    }

    fn full(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.tree.full(Path::new(std::ffi::OsStr::from_bytes(name)))
    }

    /// Opens a file by its cleaned name. Consecutive files mostly share their directory.
    fn open(&mut self, name: &[u8]) -> Result<File, BoxFault> {
        use std::os::unix::ffi::OsStrExt;
        let clean = clean_name(name)?;
        let at = clean.iter().rposition(|b| *b == b'/');
        let (parent, file) = at.map_or(([].as_slice(), &clean[..]), |at| (&clean[..at], &clean[at + 1..]));
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let path = if parent.is_empty() { Path::new(".") } else { Path::new(std::ffi::OsStr::from_bytes(parent)) };
            self.parent = Some((parent.to_vec(), self.tree.open_dir(path)?));
        }
        let dir = self.parent.as_ref().map_or(self.tree, |(_, dir)| dir);
        Ok(dir.open_file(Path::new(std::ffi::OsStr::from_bytes(file)))?)
    }

    /// Reads a file, which must have exactly the size and the content that are wanted.
    fn read(&mut self, wanted: &Wanted, out: &mut Pieces<'_>) -> Result<(), BoxFault> {
        let Wanted { name, size, id, crc } = wanted;
        let file = self.open(name)?;
        self.hasher.reset();
        self.crc.reset();
        let mut left = *size;
        while left > 0 {
            out.room()?;
            let bytes = &mut out.filled.bytes;
            let from = bytes.len();
            // Not a byte is wanted beyond the size: one that is there is found by its hash, or here.
            let n = match rustix::io::read(&file, spare_capacity(bytes)) {
                Err(Errno::INTR) => continue,
                other => other.map_err(io::Error::from).at("read", self.full(name))?,
            };
            let read = &bytes[from..];
            left = left.checked_sub(n as u64).filter(|_| n > 0).ok_or_else(|| LayerError::Changed(self.full(name)))?;
            self.hasher.update(read);
            if crc.is_some() {
                self.crc.update(read);
            }
        }
        let got = ContentId::from_bytes(*self.hasher.finalize().as_bytes());
        if id.is_some_and(|id| id != got) || crc.is_some_and(|crc| crc != self.crc.finalize().to_be_bytes()) {
            return Err(LayerError::Changed(self.full(name)).into());
        }
        out.filled.contents.push(Content { id: got, size: *size });
        Ok(())
    }
}
