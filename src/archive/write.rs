//! Writes the archive that every reader takes: a plain tar of regular files, an OCI layout and a docker-archive at
//! once. The documents come first, so that a reader who goes forwards knows what follows; every blob is there once;
//! nothing in it depends on when, where or by how many threads it was written.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::error::ArchiveError;
use super::plan::{Blob, Plan, plan};
use super::tar;
use crate::base::digest::Hasher;
use crate::base::read::fill;
use crate::base::verify::Mismatch;
use crate::base::{BoxFault, Ctx, Digest};
use crate::image::{DiffId, Image, ImageSink, ImageSource};

/// Bytes travel from the reading to the writing thread in pieces of this size.
const PIECE: usize = 1 << 20;
/// So many pieces may wait.
const AHEAD: usize = 4;

/// Which documents an archive gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// docker-archive and OCI layout in one.
    #[default]
    Hybrid,
    /// docker-archive alone, with uncompressed layers: what the oldest readers know.
    Docker,
    /// OCI layout alone.
    Oci,
}

/// How an archive is written.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Which documents it gets.
    pub format: Format,
    /// Uncompress the layers that some engine cannot read; their manifests' digests change.
    pub compat: bool,
    /// Leave out the compressed blobs that registries know, and write every layer as its tar.
    pub no_originals: bool,
    /// Prove the digest of every layer, not of the blobs alone that nothing else has checked.
    pub prove: bool,
    /// Layers that the reader has already: the documents name them, their bytes do not follow.
    pub omit: BTreeSet<DiffId>,
    /// Where layers are kept whose size the source does not know beforehand.
    pub spool: PathBuf,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteReport {
    /// The size of the uncompressed archive in bytes.
    pub bytes: u64,
    /// How many layer blobs it has.
    pub layers: usize,
    /// Manifests that could not go out as they came: the old digest and the new.
    pub changed: Vec<(Digest, Digest)>,
}

/// Writes images as an archive. What was written before an error is no archive: the caller throws it away, and flushes
/// what is whole.
pub struct ArchiveSink<W> {
    out: W,
    options: WriteOptions,
}

impl<W: Write> ArchiveSink<W> {
    /// Writes to `out`.
    pub fn new(out: W, options: WriteOptions) -> Self {
        Self { out, options }
    }

    /// The writer.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> ImageSink for ArchiveSink<W> {
    type Report = WriteReport;

    fn take(&mut self, source: &dyn ImageSource, images: &[Image], ctx: &Ctx) -> Result<WriteReport, BoxFault> {
        let plan = plan(source, images, &self.options, ctx)?;
        for warning in &plan.warnings {
            ctx.warn(warning.clone());
        }
        let mut out = Counting { out: &mut self.out, count: 0 };
        for (path, bytes) in &plan.documents {
            tar::write_header(&mut out, path, bytes.len() as u64).map_err(write_error)?;
            out.write_all(bytes).map_err(write_error)?;
            tar::write_padding(&mut out, bytes.len() as u64).map_err(write_error)?;
        }
        write_blobs(&mut out, source, &plan, &self.options, ctx)?;
        out.write_all(&[0; 2 * tar::BLOCK as usize]).map_err(write_error)?;
        Ok(WriteReport { bytes: out.count, layers: plan.blobs.len(), changed: plan.changed })
    }
}

fn write_error(source: io::Error) -> ArchiveError {
    ArchiveError::Write { source }
}

struct Counting<W> {
    out: W,
    count: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A piece of the current blob; an empty one ends it.
type Piece = Result<Vec<u8>, BoxFault>;

/// Writes the layers, which another thread reads ahead.
fn write_blobs(
    out: &mut dyn Write,
    source: &dyn ImageSource,
    plan: &Plan,
    options: &WriteOptions,
    ctx: &Ctx,
) -> Result<(), BoxFault> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Piece>(AHEAD);
        let (used, free) = channel();
        scope.spawn(move || read_ahead(source, &plan.blobs, &sender, &free));
        let mut pieces = Pieces { receiver, used, fault: None };
        for blob in &plan.blobs {
            write_blob(out, &mut pieces, blob, options, ctx)
                .map_err(|error| pieces.fault.take().unwrap_or_else(|| describe(source, blob, error)))?;
        }
        Ok(())
    })
}

fn describe(source: &dyn ImageSource, blob: &Blob, error: CopyError) -> BoxFault {
    match error {
        CopyError::Read(error) => {
            ArchiveError::Source { origin: source.origin(), object: blob.describe(), source: error }.into()
        }
        CopyError::Write(error) => write_error(error).into(),
    }
}

enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

fn write_blob(
    out: &mut dyn Write,
    pieces: &mut Pieces,
    blob: &Blob,
    options: &WriteOptions,
    ctx: &Ctx,
) -> Result<(), CopyError> {
    let task = ctx.begin("Saving layer", blob.digest.short(), Some(blob.size));
    tar::write_header(out, &blob.path, blob.size).map_err(CopyError::Write)?;
    // A tar that the store puts together has had every content checked.
    let mut hasher = (options.prove || blob.is_original()).then(Hasher::new);
    let invalid = |error: Box<dyn std::error::Error + Send + Sync>| {
        CopyError::Read(io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let mut written = 0;
    loop {
        let piece = pieces.next().map_err(CopyError::Read)?;
        written += piece.len() as u64;
        if written > blob.size || (piece.is_empty() && written < blob.size) {
            return Err(invalid(format!("it has other than the {} bytes it should have", blob.size).into()));
        }
        if piece.is_empty() {
            break;
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&piece);
        }
        out.write_all(&piece).map_err(CopyError::Write)?;
        task.advance(piece.len() as u64).map_err(|stop| CopyError::Write(stop.into()))?;
        pieces.give_back(piece);
    }
    if let Some(got) = hasher.map(Hasher::finish).filter(|got| *got != blob.digest) {
        return Err(invalid(Mismatch::Wrong { expected: blob.digest, got }.into()));
    }
    tar::write_padding(out, blob.size).map_err(CopyError::Write)?;
    task.complete();
    Ok(())
}

/// Sends every blob's bytes in order, each ended by an empty piece, until all are sent, one fails, or nobody listens.
/// Buffers come back by `free`: new ones would have to be cleared first.
fn read_ahead(source: &dyn ImageSource, blobs: &[Blob], sender: &SyncSender<Piece>, free: &Receiver<Vec<u8>>) {
    for blob in blobs {
        if let Err(fault) = send_blob(source, blob, sender, free) {
            // Nobody listens when the writer has failed before.
            let _ = sender.send(Err(fault));
            return;
        }
    }
}

fn send_blob(
    source: &dyn ImageSource,
    blob: &Blob,
    sender: &SyncSender<Piece>,
    free: &Receiver<Vec<u8>>,
) -> Result<(), BoxFault> {
    let mut reader = blob.open(source)?;
    loop {
        let mut piece = free.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let n = fill(&mut *reader, &mut piece).map_err(|error| ArchiveError::Source {
            origin: source.origin(),
            object: blob.describe(),
            source: error,
        })?;
        piece.truncate(n);
        if sender.send(Ok(piece)).is_err() || n == 0 {
            return Ok(());
        }
    }
}

/// The blobs' pieces, one blob after the other.
struct Pieces {
    receiver: Receiver<Piece>,
    used: Sender<Vec<u8>>,
    fault: Option<BoxFault>,
}

impl Pieces {
    /// The next piece of the current blob; an empty one ends it.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        match self.receiver.recv() {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(fault)) => {
                self.fault = Some(fault);
                Err(io::Error::other("the source failed"))
            }
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn give_back(&self, piece: Vec<u8>) {
        // The last ones find the reader gone.
        let _ = self.used.send(piece);
    }
}
