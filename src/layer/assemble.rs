//! A layer's tar from its tar-split and its tree, bit for bit, every content checked while it is read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::apply::{Content, clean_name};
use super::error::LayerError;
use super::tar_split::{Crc64, Piece, Reader, crc64};
use crate::base::{AtPath, BoxFault, ContentId};
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

/// How much is handed from thread to thread at once, in bytes.
const PIECE: usize = 128 << 10;
/// How many of those wait at most.
const WAITING: usize = 24;

/// The tar, read by a thread of its own ahead of whoever wants it.
pub struct Assembler {
    pieces: Option<Receiver<Result<Vec<u8>, BoxFault>>>,
    current: Vec<u8>,
    at: usize,
    reader: Option<JoinHandle<()>>,
}

impl Assembler {
    /// Begins to put the tar together.
    pub fn new(layer: Unpacked) -> Self {
        let (send, pieces) = sync_channel(WAITING);
        let reader = std::thread::spawn(move || {
            let mut out = Out { pieces: send, gathered: Vec::with_capacity(PIECE), gone: false };
            let result = walk(layer, &mut out);
            out.finish(result.map(|_| ()));
        });
        Self { pieces: Some(pieces), current: Vec::new(), at: 0, reader: Some(reader) }
    }
}

impl Read for Assembler {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            let Some(pieces) = &self.pieces else { return Ok(0) };
            match pieces.recv() {
                Ok(Ok(piece)) => (self.current, self.at) = (piece, 0),
                Ok(Err(fault)) => {
                    self.pieces = None;
                    let kind = match fault.class() {
                        crate::base::Class::NoSpace => io::ErrorKind::StorageFull,
                        crate::base::Class::Integrity | crate::base::Class::Malformed => io::ErrorKind::InvalidData,
                        _ => io::ErrorKind::Other,
                    };
                    return Err(io::Error::new(kind, fault.to_string()));
                }
                Err(_) => {
                    self.pieces = None;
                    return Ok(0);
                }
            }
        }
        let n = buf.len().min(self.current.len() - self.at);
        buf[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Drop for Assembler {
    fn drop(&mut self) {
        // A reader that waits for room finds nobody there and ends.
        self.pieces = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Where a walk's parts go.
trait Parts {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), BoxFault>;
    /// Whether contents are read at all.
    fn wants_data(&self) -> bool;
    fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault>;
}

struct Out {
    pieces: SyncSender<Result<Vec<u8>, BoxFault>>,
    gathered: Vec<u8>,
    gone: bool,
}

impl Out {
    fn send(&mut self) -> Result<(), BoxFault> {
        let full = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        if self.pieces.send(Ok(full)).is_err() {
            self.gone = true;
            return Err(LayerError::Interrupted(crate::base::Interrupted).into());
        }
        Ok(())
    }

    fn finish(mut self, result: Result<(), BoxFault>) {
        if self.gone {
            return;
        }
        let result = result.and_then(|()| if self.gathered.is_empty() { Ok(()) } else { self.send() });
        if let Err(fault) = result {
            // Nobody is there to hear it when the reader was dropped.
            let _ = self.pieces.send(Err(fault));
        }
    }
}

impl Parts for Out {
    fn raw(&mut self, mut bytes: &[u8]) -> Result<(), BoxFault> {
        while !bytes.is_empty() {
            let n = bytes.len().min(PIECE - self.gathered.len());
            self.gathered.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.gathered.len() == PIECE {
                self.send()?;
            }
        }
        Ok(())
    }

    fn wants_data(&self) -> bool {
        true
    }

    fn content(&mut self, _: &SplitContent<'_>) -> Result<(), BoxFault> {
        Ok(())
    }
}

/// Goes through a layer; gives the contents as found.
fn walk(layer: Unpacked, out: &mut dyn Parts) -> Result<Vec<Content>, BoxFault> {
    let Unpacked { tree, tar_split, contents } = layer;
    let shown = tree.path().to_owned();
    let mut reader = Reader::new(tar_split);
    let mut listed = contents.as_ref().map(|list| list.iter());
    let mut found = Vec::new();
    let mut files = Files::new(tree);
    let mut offset = 0;
    while let Some(piece) = reader.next_piece().at("read the tar-split of", &shown)? {
        match piece {
            Piece::Segment(bytes) => {
                offset += bytes.len() as u64;
                out.raw(&bytes)?;
            }
            Piece::File { size: 0, .. } => {}
            Piece::File { name, size, crc } => {
                let expected = match &mut listed {
                    Some(list) => {
                        Some(*list.next().filter(|content| content.size == size).ok_or(LayerError::Contents)?)
                    }
                    None => None,
                };
                let id = match expected {
                    Some(content) if !out.wants_data() => content.id,
                    expected => {
                        // The list says more than the CRC does.
                        let id = files.pass(&name, size, crc.filter(|_| expected.is_none()), out)?;
                        if expected.is_some_and(|content| content.id != id) {
                            return Err(LayerError::Changed(files.full(&name)).into());
                        }
                        id
                    }
                };
                out.content(&SplitContent { id, size, offset, path: &name })?;
                offset += size;
                found.push(Content { id, size });
            }
        }
    }
    if listed.is_some_and(|mut list| list.next().is_some()) {
        return Err(LayerError::Contents.into());
    }
    Ok(found)
}

/// Gives an unpacked layer in split form. With a list of contents no file is opened; without one all are read.
pub fn split_unpacked(layer: Unpacked, sink: &mut dyn SplitSink) -> Result<(), BoxFault> {
    struct ToSink<'s>(&'s mut dyn SplitSink);
    impl Parts for ToSink<'_> {
        fn raw(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
            self.0.segment(bytes)
        }

        fn wants_data(&self) -> bool {
            false
        }

        fn content(&mut self, content: &SplitContent<'_>) -> Result<(), BoxFault> {
            self.0.content(content)
        }
    }
    walk(layer, &mut ToSink(sink)).map(|_| ())
}

/// Reads a whole layer, for its diff ID and its list of contents.
pub fn prove(layer: Unpacked) -> Result<(crate::base::Digest, u64, Vec<Content>), BoxFault> {
    struct Hash(crate::base::digest::Hasher, u64);
    impl Parts for Hash {
        fn raw(&mut self, bytes: &[u8]) -> Result<(), BoxFault> {
            self.0.update(bytes);
            self.1 += bytes.len() as u64;
            Ok(())
        }

        fn wants_data(&self) -> bool {
            true
        }

        fn content(&mut self, _: &SplitContent<'_>) -> Result<(), BoxFault> {
            Ok(())
        }
    }
    let mut hash = Hash(crate::base::digest::Hasher::new(), 0);
    let contents = walk(layer, &mut hash)?;
    Ok((hash.0.finish(), hash.1, contents))
}

/// The files of a tree, opened by their names in the tar-split.
struct Files {
    tree: Dir,
    parent: Option<(Vec<u8>, Dir)>,
    buf: Vec<u8>,
    hasher: blake3::Hasher,
    crc: Crc64,
}

impl Files {
    fn new(tree: Dir) -> Self {
        Self { tree, parent: None, buf: vec![0; PIECE], hasher: blake3::Hasher::new(), crc: crc64() }
    }

    fn full(&self, name: &[u8]) -> std::path::PathBuf {
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
        let dir = self.parent.as_ref().map_or(&self.tree, |(_, dir)| dir);
        Ok(dir.open_file(Path::new(std::ffi::OsStr::from_bytes(file)))?)
    }

    /// Hands on exactly `size` bytes of a file and gives their hash.
    fn pass(
        &mut self,
        name: &[u8],
        size: u64,
        crc: Option<[u8; 8]>,
        out: &mut dyn Parts,
    ) -> Result<ContentId, BoxFault> {
        let file = self.open(name)?;
        let changed = |files: &Self| LayerError::Changed(files.full(name));
        if file.metadata().at("read", self.full(name))?.len() != size {
            return Err(changed(self).into());
        }
        self.hasher.reset();
        self.crc.reset();
        let mut done = 0;
        while done < size {
            let want = usize::try_from(size - done).unwrap_or(usize::MAX).min(self.buf.len());
            let n = file.read_at(&mut self.buf[..want], done).at("read", self.full(name))?;
            if n == 0 {
                return Err(changed(self).into());
            }
            let bytes = &self.buf[..n];
            self.hasher.update(bytes);
            if crc.is_some() {
                self.crc.update(bytes);
            }
            if out.wants_data() {
                out.raw(bytes)?;
            }
            done += n as u64;
        }
        if crc.is_some_and(|crc| crc != self.crc.finalize().to_be_bytes()) {
            return Err(changed(self).into());
        }
        Ok(ContentId::from_bytes(*self.hasher.finalize().as_bytes()))
    }
}
