//! Writes a stream as volumes: forward once, then the parity over what was written, then the frames.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::code::Budget;
use super::error::VolumeError;
use super::head::{FRAME_MAX, HEAD, Head, SetId, flag, frame};
use super::layout::{HASH, Layout};
use super::parity;
use super::part::{Part, PartOptions};
use super::record::{Core, Hash, Record, Root, SIGNATURE_MAX, SIGNATURES_MAX};
use super::size::{Names, ParityShare, VolumeSize};
use crate::base::{BoxFault, Ctx, Syncer, durable};

/// The most files of a set that is written. All stay open until the end, and 1024 is a common limit for that.
pub const FILES_MAX: u32 = 900;
/// Room in a frame for what is not hashes.
const FRAME_FIXED: u64 = 4_096;

/// How a set is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// What the volumes have in common; derive it from what goes in, so that equal input gives equal bytes.
    pub set: SetId,
    /// The stream is an age file.
    pub encrypted: bool,
    /// The most bytes of a file; without it there is one file.
    pub volume_size: Option<VolumeSize>,
    /// The share of parity.
    pub parity: Option<ParityShare>,
    /// Compare with what an earlier run wrote, write only what is missing, and keep what there is on failure.
    pub resume: bool,
    /// The device number of the file system that all files must lie on.
    pub device: Option<u64>,
    /// What stands in front of the one volume of a set without a volume size, so that the file can be started.
    pub lead: Option<Arc<Vec<u8>>>,
    /// What the parity may take.
    pub budget: Budget,
}

impl WriteOptions {
    /// One volume without parity.
    pub fn new(set: SetId) -> Self {
        let budget = Budget::default();
        let (volume_size, parity, device, lead) = (None, None, None, None);
        Self { set, encrypted: false, volume_size, parity, resume: false, device, lead, budget }
    }

    fn part(&self, syncer: &Arc<Mutex<Syncer>>) -> PartOptions {
        let numbered = self.volume_size.is_some();
        let lead = self.lead.clone().filter(|_| !numbered);
        let only_new = numbered && !self.resume;
        PartOptions { resume: self.resume, only_new, device: self.device, lead, syncer: Arc::clone(syncer) }
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The root hash of the set.
    pub root: Root,
    /// Its files, data volumes first; none for a pipe.
    pub files: Vec<PathBuf>,
    /// The length of the stream in bytes.
    pub stream: u64,
    /// The length of all files in bytes.
    pub bytes: u64,
}

/// Signs a text: gives OpenSSH signature blobs.
pub type SignWith<'a> = dyn Fn(&str) -> Result<Vec<Vec<u8>>, BoxFault> + 'a;

enum Out<'a> {
    Pipe(Box<dyn Write + Send + 'a>),
    Files { names: Names, parts: Vec<Part>, syncer: Arc<Mutex<Syncer>> },
}

/// Takes a stream through [`Write`]; nothing has its name before [`SetWriter::finish`] returns. Dropped before that, it
/// leaves nothing behind, or with [`WriteOptions::resume`] what the next run can go on from.
pub struct SetWriter<'a> {
    options: WriteOptions,
    block_log: u8,
    full: u64,
    reserve: u64,
    out: Out<'a>,
    /// The block that is being filled.
    block: Vec<u8>,
    /// Whole blocks of the current volume, their hashes in `table`.
    blocks: u64,
    table: Vec<u8>,
    pieces: Vec<Hash>,
    volume: u32,
    stream: u64,
}

impl<'a> SetWriter<'a> {
    /// Writes one volume to something that only goes forward.
    pub fn to_pipe(out: Box<dyn Write + Send + 'a>, options: WriteOptions) -> Result<Self, VolumeError> {
        fits_a_pipe(options.volume_size, options.parity)?;
        Self::new(Out::Pipe(out), options)
    }

    /// Writes to `path`, or with a volume size to the numbered names made of it. A file at `path` is replaced when all
    /// is written; numbered files that are there already are refused unless the options say `resume`.
    pub fn to_path(path: &Path, options: WriteOptions) -> Result<Self, VolumeError> {
        let Some(names) = Names::new(path) else {
            return Err(VolumeError::Unsuitable(format!("{} is no name for a file", path.display())));
        };
        if options.resume && options.encrypted {
            let text = "an encrypted bundle has fresh keys each time and cannot be resumed".into();
            return Err(VolumeError::Unsuitable(text));
        }
        if options.volume_size.is_some() && !options.resume {
            refuse_numbered(&names)?;
        }
        Self::new(Out::Files { names, parts: Vec::new(), syncer: Arc::default() }, options)
    }

    fn new(out: Out<'a>, options: WriteOptions) -> Result<Self, VolumeError> {
        let small = options.volume_size.is_some_and(|size| size.bytes() < 16 << 20);
        let block_log = if small { 12 } else { 16 };
        let reserve = options.volume_size.map_or(FRAME_MAX as u64, |size| (size.bytes() / 16).min(1 << 20));
        let full = options.volume_size.map_or(0, |size| {
            let shape = |full| Layout { block_log, flags: flags(&options), full, stream: 0, volumes: 1 };
            full_blocks(size.bytes(), reserve, &shape(0))
        });
        let mut writer = Self {
            options,
            block_log,
            full,
            reserve,
            out,
            block: Vec::with_capacity(1 << block_log),
            blocks: 0,
            table: Vec::new(),
            pieces: Vec::new(),
            volume: 0,
            stream: 0,
        };
        writer.begin_volume()?;
        Ok(writer)
    }

    fn head(&self, number: u32, more: u8) -> [u8; HEAD as usize] {
        let flags = flags(&self.options) | more;
        Head { block_log: self.block_log, flags, number, set: self.options.set, full: self.full }.encode()
    }

    fn begin_volume(&mut self) -> Result<(), VolumeError> {
        let head = self.head(self.volume + 1, 0);
        if let Out::Files { names, parts, syncer } = &mut self.out {
            if self.volume >= FILES_MAX {
                return Err(too_many());
            }
            let path = if self.full == 0 { names.single() } else { names.data(self.volume + 1) };
            parts.push(Part::create(&path, self.options.part(syncer))?);
        }
        self.blocks = 0;
        self.table.clear();
        self.block.clear();
        self.block.extend_from_slice(&head);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        match &mut self.out {
            Out::Pipe(pipe) => pipe.write_all(bytes).map_err(VolumeError::Pipe),
            Out::Files { parts, .. } => match parts.last() {
                Some(part) => part.write_at(bytes, offset).map(drop),
                None => Ok(()),
            },
        }
    }

    /// The block in the buffer is complete.
    fn end_block(&mut self) -> Result<(), VolumeError> {
        let block = std::mem::take(&mut self.block);
        let result = self.whole_block(&block);
        self.block = block;
        self.block.clear();
        result
    }

    fn whole_block(&mut self, block: &[u8]) -> Result<(), VolumeError> {
        self.table.extend_from_slice(blake3::hash(block).as_bytes());
        self.put(block, self.blocks << self.block_log)?;
        self.blocks += 1;
        Ok(())
    }

    /// Ends the volume: the last block and the table.
    fn end_volume(&mut self) -> Result<(), VolumeError> {
        let size = 1_usize << self.block_log;
        let aligned = self.options.parity.is_some();
        let mut offset = (self.blocks << self.block_log) + self.block.len() as u64;
        if !self.block.is_empty() {
            if aligned {
                self.block.resize(size, 0);
                offset = (self.blocks + 1) << self.block_log;
            }
            self.end_block()?;
        }
        let mut table = std::mem::take(&mut self.table);
        if aligned {
            table.resize(table.len().next_multiple_of(size), 0);
        }
        for piece in table.chunks(size) {
            self.pieces.push(*blake3::hash(piece).as_bytes());
            self.put(piece, offset)?;
            offset += piece.len() as u64;
        }
        let frame = 64 + HASH * self.pieces.len() as u64 * if aligned { 4 } else { 1 } + FRAME_FIXED;
        if frame > self.reserve {
            return Err(too_many());
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), VolumeError> {
        let size = 1_usize << self.block_log;
        while !bytes.is_empty() {
            // A full volume is ended only when more comes: the last one is never empty.
            if self.full != 0 && self.blocks == self.full {
                self.end_volume()?;
                self.volume += 1;
                self.begin_volume()?;
            }
            let taken = (size - self.block.len()).min(bytes.len());
            let (now, later) = bytes.split_at(taken);
            if taken == size {
                self.whole_block(now)?;
            } else {
                self.block.extend_from_slice(now);
                if self.block.len() == size {
                    self.end_block()?;
                }
            }
            self.stream += taken as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Ends the stream: computes the parity, has the root signed, names the files. All is durable when it returns.
    pub fn finish(mut self, sign: Option<&SignWith<'_>>, ctx: &Ctx) -> Result<Written, VolumeError> {
        self.end_volume()?;
        let layout = Layout::new(self.block_log, flags(&self.options), self.full, self.stream);
        let Some(layout) = layout.filter(|layout| layout.all_pieces() == self.pieces.len() as u64) else {
            return Err(VolumeError::Unsuitable("the stream is too long for a bundle".into()));
        };
        let core = Core { set: self.options.set, layout, pieces: std::mem::take(&mut self.pieces) };
        let signatures = match sign {
            Some(sign) => sign(&core.statement()).map_err(VolumeError::sign)?,
            None => Vec::new(),
        };
        if signatures.len() > SIGNATURES_MAX || signatures.iter().any(|blob| blob.len() > SIGNATURE_MAX) {
            return Err(VolumeError::Unsuitable("there are too many signatures, or too long ones".into()));
        }
        let mut record = Record { core, parity: None, signatures };
        let root = record.core.root();
        let done = |record: &Record, files: Vec<PathBuf>| Written {
            root,
            files,
            stream: layout.stream,
            bytes: (1..=record.all_volumes()).map(|number| record.file_len(number)).sum(),
        };
        let (names, mut parts, syncer) = match std::mem::replace(&mut self.out, Out::Pipe(Box::new(io::sink()))) {
            Out::Pipe(mut pipe) => {
                let bytes = record.encode();
                let frame = frame(&bytes, 1, layout.frame_len(bytes.len()));
                pipe.write_all(&frame).and_then(|()| pipe.flush()).map_err(VolumeError::Pipe)?;
                return Ok(done(&record, Vec::new()));
            }
            Out::Files { names, parts, syncer } => (names, parts, syncer),
        };
        if let Some(share) = self.options.parity {
            let shape = parity::plan(layout, share, self.options.volume_size, self.reserve).ok_or_else(too_many)?;
            if layout.volumes + shape.volumes > FILES_MAX {
                return Err(too_many());
            }
            for i in 0..shape.volumes {
                let part = Part::create(&names.parity(i + 1), self.options.part(&syncer))?;
                let mut head = self.head(layout.volumes + i + 1, flag::PARITY).to_vec();
                head.resize(1 << self.block_log, 0);
                part.write_at(&head, 0)?;
                parts.push(part);
            }
            parity::write(&mut record, shape, &parts, self.options.budget, ctx)?;
        }
        if record.frame_len() as u64 > self.reserve.next_multiple_of(layout.block()) {
            return Err(too_many());
        }
        write_frames(&record, &parts)?;
        for (part, number) in parts.iter().zip(1..) {
            part.complete(record.file_len(number))?;
        }
        for part in &mut parts {
            part.name()?;
        }
        durable::sync_dir(names.directory())?;
        Ok(done(&record, parts.iter().map(|part| part.path().to_owned()).collect()))
    }
}

/// The frames of all volumes, each at its places.
fn write_frames(record: &Record, parts: &[Part]) -> Result<(), VolumeError> {
    let bytes = record.encode();
    let len = record.core.layout.frame_len(bytes.len());
    for (part, number) in parts.iter().zip(1..) {
        let frame = frame(&bytes, number, len);
        for offset in frame_places(record, number) {
            part.write_at(&frame, offset)?;
        }
    }
    Ok(())
}

/// Where the frames of volume `number` lie in its file.
pub fn frame_places(record: &Record, number: u32) -> Vec<u64> {
    let len = record.frame_len() as u64;
    let end = record.file_len(number);
    let layout = &record.core.layout;
    let Some(parity) = &record.parity else { return vec![end - len] };
    let mut places = Vec::new();
    if number > layout.volumes || parity.layout.volumes == 0 {
        let start = parity.layout.area(number.saturating_sub(layout.volumes + 1), len).start;
        places.extend([start, start + len]);
    }
    places.extend([end - 2 * len, end - len]);
    places
}

fn flags(options: &WriteOptions) -> u8 {
    let aligned = if options.parity.is_some() { flag::ALIGNED } else { 0 };
    let encrypted = if options.encrypted { flag::ENCRYPTED } else { 0 };
    aligned | encrypted
}

/// Fails when any numbered file of this name is there: volumes of two sets are not mixed, nor one in the other's place.
pub fn refuse_numbered(names: &Names) -> Result<(), VolumeError> {
    // What cannot be listed may still say whether it has the first ones; nothing can be written where nothing is.
    let listed = fs::read_dir(names.directory()).into_iter().flatten().flatten().map(|entry| entry.path());
    let there = listed.filter(|path| names.is_numbered(path));
    let first = [names.data(1), names.parity(1)].into_iter().filter(|path| path.exists());
    there.chain(first).min().map_or(Ok(()), |path| Err(VolumeError::Exists { path }))
}

/// Fails when what is asked for needs files: to be called before a pipe is opened, which waits for its reader.
pub fn fits_a_pipe(size: Option<VolumeSize>, parity: Option<ParityShare>) -> Result<(), VolumeError> {
    let refused = |what: &str| Err(VolumeError::Unsuitable(format!("{what} cannot be written to a pipe")));
    match (parity, size) {
        (Some(_), _) => refused("parity is computed over finished volumes and"),
        (None, Some(_)) => refused("volumes"),
        (None, None) => Ok(()),
    }
}

fn too_many() -> VolumeError {
    VolumeError::Unsuitable("the bundle needs too many volumes: give a larger --volume-size".into())
}

/// How many data blocks go into a file of `size` bytes beside their table and the frames.
fn full_blocks(size: u64, reserve: u64, shape: &Layout) -> u64 {
    let block = shape.block();
    let needs = |blocks: u64| {
        if shape.aligned() {
            (blocks + blocks.div_ceil(shape.per_piece())) * block + 2 * reserve.next_multiple_of(block)
        } else {
            blocks * (block + HASH) + reserve
        }
    };
    let mut blocks = (size - reserve) / (block + HASH);
    while blocks > 1 && needs(blocks) > size {
        blocks -= 1;
    }
    blocks
}

impl Write for SetWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes).map_err(|error| {
            let kind = match &error {
                VolumeError::Path(error) => error.source.kind(),
                VolumeError::Pipe(error) => error.kind(),
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, BoxFault::from(error))
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
