//! A compressed archive that is a file. Decoders only go forward, so it is read twice: once for its documents and the
//! places of everything else, once for the layers, in the archive's order, while another thread decodes ahead.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::container::{Container, EntryVisitor, read_error};
use super::entries::{Entries, Entry, HEAD};
use super::error::ArchiveError;
use super::plain::{check_limit, walk_error};
use super::tar::{Kind, StreamWalk, Walk};
use crate::base::caps::{self, OverLimit};
use crate::base::read_at::{ReadAt, Section};
use crate::base::{BoxFault, Ctx, Spare};
use crate::layer::compression::{self, Compression, DecodeLimits};

/// Decoded bytes travel between the threads in pieces of this size.
const PIECE: usize = 1 << 20;
/// So many pieces may wait.
const AHEAD: usize = 4;
/// All documents of one archive together, in bytes; they are kept from the first pass.
const DOCUMENTS: u64 = 256 << 20;

/// A compressed tar.
pub struct PackedTar {
    origin: String,
    file: Arc<dyn ReadAt>,
    compression: Compression,
    limits: DecodeLimits,
    entries: Entries,
    /// By offset.
    peeked: HashMap<u64, Peeked>,
}

struct Peeked {
    head: Vec<u8>,
    document: Option<Vec<u8>>,
}

impl PackedTar {
    /// Makes the first pass over `file`.
    pub fn open(
        origin: String,
        file: Arc<dyn ReadAt>,
        compression: Compression,
        limits: DecodeLimits,
        ctx: &Ctx,
    ) -> Result<Self, ArchiveError> {
        let mut this = Self { origin, file, compression, limits, entries: Entries::default(), peeked: HashMap::new() };
        let (entries, peeked) = this.with_decoded(|decoded| this.index(decoded, ctx))??;
        (this.entries, this.peeked) = (entries, peeked);
        Ok(this)
    }

    fn index(
        &self,
        decoded: &mut (dyn Read + Send),
        ctx: &Ctx,
    ) -> Result<(Entries, HashMap<u64, Peeked>), ArchiveError> {
        let fail = |name: &str| {
            let name = name.to_owned();
            move |error| read_error(&self.origin, &name, error)
        };
        let task = ctx.begin("Reading", self.origin.clone(), None);
        let (mut entries, mut peeked, mut kept) = (Entries::default(), HashMap::new(), 0);
        let mut walk = Walk::new(StreamWalk(decoded));
        let mut at = 0;
        while let Some(member) = walk.next().map_err(|error| walk_error(&self.origin, error))? {
            task.advance(member.offset - at).map_err(|stop| fail("the archive")(stop.into()))?;
            at = member.offset;
            entries.add(&member, &self.origin)?;
            if member.kind != Kind::File {
                continue;
            }
            let name = String::from_utf8_lossy(&member.name).into_owned();
            let mut head = Vec::new();
            walk.body_reader().take(HEAD as u64).read_to_end(&mut head).map_err(fail(&name))?;
            let mut document = None;
            // Every document of an archive is JSON; no layer begins so, and one that did would only be kept in vain.
            if matches!(head.first(), Some(b'{' | b'[')) && member.size <= caps::ARCHIVE_INDEX_BYTES {
                kept += member.size;
                if kept > DOCUMENTS {
                    let source = OverLimit { what: "the documents together".into(), limit: DOCUMENTS, unit: "bytes" };
                    return Err(ArchiveError::OverLimit { origin: self.origin.clone(), source });
                }
                let mut bytes = head.clone();
                walk.body_reader().read_to_end(&mut bytes).map_err(fail(&name))?;
                document = Some(bytes);
            }
            peeked.insert(member.offset, Peeked { head, document });
        }
        // What follows the end of the tar is the compressor's business: a damaged end is found here, not at load.
        let rest = io::copy(&mut walk.into_inner(), &mut io::sink()).map_err(fail("the archive"))?;
        tracing::debug!(rest, "indexed {}", self.origin);
        task.complete();
        Ok((entries, peeked))
    }

    fn decoder(&self) -> Result<Box<dyn Read + Send + '_>, ArchiveError> {
        let raw = BufReader::with_capacity(PIECE, Section::new(self.file.clone(), 0, u64::MAX));
        let decoder = self.compression.decoder(Box::new(raw), &self.limits);
        let decoder = decoder.map_err(|error| read_error(&self.origin, "the archive", error))?;
        Ok(Box::new(compression::bounded(decoder, self.file.size(), "the uncompressed archive")))
    }

    /// Calls `with` with the decoded archive, which another thread decodes.
    fn with_decoded<T>(&self, with: impl FnOnce(&mut (dyn Read + Send)) -> T) -> Result<T, ArchiveError> {
        let decoder = self.decoder()?;
        let spare = Spare::default();
        Ok(std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(AHEAD);
            let spare = &spare;
            scope.spawn(move || decode_ahead(decoder, &sender, spare));
            with(&mut Pieces { receiver, spare, piece: Vec::new(), at: 0, ended: false })
        }))
    }
}

/// Sends the decoded bytes in pieces until they end, fail, or nobody wants them.
fn decode_ahead(mut decoder: Box<dyn Read + Send + '_>, sender: &SyncSender<io::Result<Vec<u8>>>, spare: &Spare) {
    loop {
        let mut piece = spare.take(PIECE);
        let read = decoder.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let last = read.is_err() || piece.is_empty();
        if !piece.is_empty() && sender.send(Ok(piece)).is_err() {
            return;
        }
        if let Err(error) = read {
            // Nobody listens when the reader has failed before.
            let _ = sender.send(Err(error));
        }
        if last {
            return;
        }
    }
}

/// The receiving end of [`decode_ahead`].
struct Pieces<'a> {
    receiver: Receiver<io::Result<Vec<u8>>>,
    spare: &'a Spare,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            if self.ended {
                return Ok(0);
            }
            match self.receiver.recv() {
                Ok(piece) => {
                    self.spare.give_back(std::mem::replace(&mut self.piece, piece?));
                    self.at = 0;
                }
                Err(_) => self.ended = true,
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Container for PackedTar {
    fn origin(&self) -> &str {
        &self.origin
    }

    fn find(&self, path: &str) -> Result<Option<Entry>, ArchiveError> {
        self.entries.find(path, &self.origin)
    }

    fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        check_limit(&self.origin, entry, limit)?;
        if let Some(document) = self.peeked.get(&entry.offset).and_then(|peeked| peeked.document.clone()) {
            return Ok(document);
        }
        let mut bytes = Vec::new();
        let read = self.open(entry)?.read_to_end(&mut bytes);
        read.map_err(|error| read_error(&self.origin, &entry.path, error))?;
        Ok(bytes)
    }

    fn head(&self, entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
        Ok(self.peeked.get(&entry.offset).map(|peeked| peeked.head.clone()).unwrap_or_default())
    }

    fn open(&self, entry: &Entry) -> Result<Box<dyn Read + Send + '_>, ArchiveError> {
        let mut decoder = self.decoder()?;
        skip(&mut decoder, entry.offset).map_err(|error| read_error(&self.origin, &entry.path, error))?;
        Ok(Box::new(decoder.take(entry.size)))
    }

    fn visit(&self, wanted: &[Entry], ctx: &Ctx, visit: &EntryVisitor<'_>) -> Option<Result<(), BoxFault>> {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_by_key(|number| wanted[*number].offset);
        Some(self.visit_all(wanted, order, ctx, visit))
    }

    fn top(&self) -> Vec<String> {
        self.entries.top().into_iter().map(Into::into).collect()
    }
}

impl PackedTar {
    /// A pass over the archive for every time that the most wanted entry is wanted: as a rule one.
    fn visit_all(
        &self,
        wanted: &[Entry],
        mut order: Vec<usize>,
        ctx: &Ctx,
        visit: &EntryVisitor<'_>,
    ) -> Result<(), BoxFault> {
        while !order.is_empty() {
            let mut again = Vec::new();
            self.with_decoded(|decoded| -> Result<(), BoxFault> {
                let mut at = 0;
                for number in order {
                    let entry = &wanted[number];
                    if entry.offset < at {
                        again.push(number);
                        continue;
                    }
                    ctx.check()?;
                    let fail = |error| read_error(&self.origin, &entry.path, error);
                    skip(decoded, entry.offset - at).map_err(fail)?;
                    let mut body = decoded.take(entry.size);
                    visit(number, &mut body)?;
                    io::copy(&mut body, &mut io::sink()).map_err(fail)?;
                    at = entry.offset + entry.size;
                }
                Ok(())
            })??;
            order = again;
        }
        Ok(())
    }
}

fn skip(reader: &mut (dyn Read + Send), count: u64) -> io::Result<()> {
    if io::copy(&mut reader.take(count), &mut io::sink())? < count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
