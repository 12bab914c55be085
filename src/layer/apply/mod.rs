//! A layer's tar, unpacked into a directory while it is read and hashed: the files go to the directory, everything
//! else to the tar-split, and both together are the tar again ([`super::assemble`]).
//!
//! A content is left to its file only where dockerd, too, would find it there: by the entry's name, cleaned, without
//! following links. The bytes of all others (a sparse file's packed data, a file behind a symbolic link, one that a
//! later entry replaces or hides) go into the tar-split as raw bytes.

mod attributes;
mod displace;
pub(crate) mod names;
mod tree;
mod writers;

use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::tar::{self, Entry, Handler, Kind};
use super::tar_split::{Crc64, Writer, crc64};
use crate::base::{AtPath, BoxFault, ContentId, Ctx};
use crate::image::DiffId;
use crate::sys::dir::Dir;
use attributes::Attributes;
use tree::{Place, Tree};
use writers::{Job, Open, Writers, make};

pub(crate) use names::clean as clean_name;

/// How a layer is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Overlay attributes are `user.overlay.*`, as in a user namespace.
    pub userxattr: bool,
    /// Only one user ID is there: nothing is chowned, devices are not made. The tar-split keeps what they were.
    pub single_id: bool,
    /// Threads that make files beside the one that reads; with 0, and where other layers keep all processors busy, the
    /// reader makes them itself.
    pub writers: usize,
}

impl Default for ApplyOptions {
    fn default() -> Self {
        Self { userxattr: false, single_id: false, writers: 1 }
    }
}

/// Where a layer goes. All three are on one file system, and nobody else's.
#[derive(Debug)]
pub struct Target {
    /// The layer's tree: an empty directory.
    pub tree: Dir,
    /// A directory, made when it is needed, for files that later entries replace.
    pub spare: PathBuf,
    /// The `tar-split.json.gz` to write.
    pub tar_split: PathBuf,
}

/// A content that the tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Its hash.
    pub id: ContentId,
    /// In bytes, never 0.
    pub size: u64,
}

/// What a layer turned out to be. The caller compares the diff ID before it uses any of it.
#[derive(Debug)]
pub struct Applied {
    /// The digest of the tar.
    pub diff_id: DiffId,
    /// The size of the tar, in bytes.
    pub tar_size: u64,
    /// The size of its files as docker counts it, in bytes: hard links once, symbolic links by their length.
    pub size: u64,
    /// The contents that the tree holds, in the order of the tar-split's files of a size above 0.
    pub contents: Vec<Content>,
}

/// Files up to this size are handed to a writer whole, in bytes.
const WHOLE: u64 = 256 << 10;

/// Unpacks a layer. After an error the target holds part of it and is the caller's to remove. Nothing is synced.
pub fn apply(tar: &mut dyn Read, target: &Target, options: &ApplyOptions, ctx: &Ctx) -> Result<Applied, BoxFault> {
    let file = File::create_new(&target.tar_split).at("create", &target.tar_split)?;
    let writers = Writers::new(options.writers);
    let result = std::thread::scope(|scope| {
        for _ in 0..options.writers {
            scope.spawn(|| writers.work());
        }
        let applied = Applier::new(target, file, options, ctx, &writers).and_then(|mut applier| {
            let whole = tar::read(tar, &mut applier)?;
            Ok((whole, applier.finish()?))
        });
        writers.close();
        applied
    });
    let (whole, done) = result?;
    let Done { size, displaced, mut contents } = done;
    if !displaced.is_empty() {
        displace::rewrite(target, &displaced)?;
        contents.retain(|(ordinal, _)| !displaced.contains_key(ordinal));
    }
    let contents = contents.into_iter().map(|(_, content)| content).collect();
    Ok(Applied { diff_id: DiffId(whole.digest), tar_size: whole.size, size, contents })
}

/// What is left when the tar is over.
struct Done {
    size: u64,
    displaced: displace::Displaced,
    contents: Vec<(u32, Content)>,
}

/// What becomes of the current entry's data.
enum Sink {
    /// It has none, or nothing to keep it for but the tar.
    Raw,
    /// A small file, gathered.
    Whole { place: Place, attributes: Attributes, data: Vec<u8> },
    /// A small file that is made already.
    Made,
    /// A large file, written in pieces.
    Pieces { file: Arc<Open>, at: u64 },
    /// A sparse file, or one that only the tar-split can give back: written here and kept as raw bytes too.
    Inline { file: tree::Inline },
}

struct Applier<'a> {
    tree: Tree<'a>,
    tar_split: Writer<BufWriter<File>>,
    target: &'a Target,
    writers: &'a Writers,
    ctx: &'a Ctx,
    sink: Sink,
    name: Vec<u8>,
    stored: u64,
    hasher: blake3::Hasher,
    crc: Crc64,
    /// The number of the next file entry of the tar-split.
    ordinal: u32,
    contents: Vec<(u32, Content)>,
}

impl<'a> Applier<'a> {
    fn new(
        target: &'a Target,
        file: File,
        options: &'a ApplyOptions,
        ctx: &'a Ctx,
        writers: &'a Writers,
    ) -> Result<Self, BoxFault> {
        Ok(Self {
            tree: Tree::new(target, options, writers)?,
            tar_split: Writer::new(BufWriter::with_capacity(64 << 10, file)),
            target,
            writers,
            ctx,
            sink: Sink::Raw,
            name: Vec::new(),
            stored: 0,
            hasher: blake3::Hasher::new(),
            crc: crc64(),
            ordinal: 0,
            contents: Vec::new(),
        })
    }

    fn finish(self) -> Result<Done, BoxFault> {
        self.writers.settle()?;
        let (size, displaced) = self.tree.finish()?;
        let path = &self.target.tar_split;
        let out = self.tar_split.finish().at("write", path)?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", path)?;
        Ok(Done { size, displaced, contents: self.contents })
    }

    /// The entry is a file of the tar-split: by its name, with what it holds.
    fn file(&mut self, size: u64, crc: Option<[u8; 8]>) -> Result<(), BoxFault> {
        self.tar_split.file(&self.name, size, crc).at("write", &self.target.tar_split)?;
        self.tree.numbered(self.ordinal, size > 0);
        self.ordinal += 1;
        Ok(())
    }
}

impl Handler for Applier<'_> {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        Ok(self.tar_split.segment(bytes).at("write", &self.target.tar_split)?)
    }

    fn entry(&mut self, mut entry: Entry, _: u64) -> Result<(), BoxFault> {
        self.ctx.check()?;
        self.sink = Sink::Raw;
        self.stored = entry.stored;
        self.name = std::mem::take(&mut entry.path);
        if matches!(entry.kind, Kind::Global | Kind::Other(_)) {
            return Ok(());
        }
        let Some(place) = self.tree.place(&self.name, &mut entry)? else {
            // No file on disk, but one of the tar-split's, as docker has it.
            return if self.stored == 0 { self.file(0, None) } else { Ok(()) };
        };
        if entry.sparse.is_some() || (place.indirect && self.stored > 0) {
            self.sink = Sink::Inline { file: tree::Inline::create(&place, &mut entry, &mut self.tree)? };
            return Ok(());
        }
        let attributes = self.tree.attributes(&mut entry);
        if self.stored <= WHOLE {
            self.sink = Sink::Whole { place, attributes, data: Vec::new() };
        } else {
            let file = Open::create(place.dir, place.name, attributes, self.stored)?;
            self.sink = Sink::Pieces { file: Arc::new(file), at: 0 };
        }
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
        match &mut self.sink {
            Sink::Raw => return self.raw(bytes),
            Sink::Inline { file } => {
                file.write(bytes)?;
                return self.raw(bytes);
            }
            Sink::Whole { place, attributes, data } => {
                if bytes.len() as u64 == self.stored && !self.writers.want_more()? {
                    make(place, attributes, bytes)?;
                    self.sink = Sink::Made;
                } else {
                    // Not above what was announced and is capped.
                    data.reserve_exact(self.stored as usize - data.len());
                    data.extend_from_slice(bytes);
                }
            }
            Sink::Made => {}
            Sink::Pieces { file, at } => {
                if self.writers.want_more()? {
                    self.writers.submit(Job::Piece { file: Arc::clone(file), offset: *at, data: bytes.to_vec() });
                } else {
                    file.write(*at, bytes)?;
                }
                *at += bytes.len() as u64;
            }
        }
        self.hasher.update(bytes);
        self.crc.update(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), BoxFault> {
        match std::mem::replace(&mut self.sink, Sink::Raw) {
            Sink::Raw => return Ok(()),
            Sink::Inline { file } => return Ok(file.finish()?),
            Sink::Whole { place, attributes, data } => {
                if self.writers.want_more()? {
                    self.writers.submit(Job::Whole { place, attributes, data });
                } else {
                    make(&place, &attributes, &data)?;
                }
            }
            Sink::Made | Sink::Pieces { .. } => {}
        }
        if self.stored == 0 {
            return self.file(0, None);
        }
        let id = ContentId::from_bytes(*self.hasher.finalize().as_bytes());
        let crc = self.crc.finalize().to_be_bytes();
        self.hasher.reset();
        self.crc.reset();
        self.contents.push((self.ordinal, Content { id, size: self.stored }));
        self.file(self.stored, Some(crc))
    }
}
