//! Taking images from a peer: what is there already is said, what arrives is kept until all of it has arrived, and
//! then loaded as any bundle is.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::home::{self, Home};
use super::session::{Session, turn};
use super::wire::{Done, Have, Message, Offer, PROBE_PIECE, PROBE_PIECES, Probe, Resume, Stream, WireError};
use crate::base::{AtPath, BoxFault, Class, Ctx, Digest, PathError};
use crate::bundle::index::{ID_LENGTH, ShortId};
use crate::bundle::{self, BundleOptions, BundleSource};
use crate::image::{DiffId, ImageId, ImageSource};
use crate::sys::lock::{FileLock, LockKind};

/// What arrived broken.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// More or other bytes than announced.
    #[error("the peer's stream is not what it announced: {0}")]
    Stream(&'static str),
    /// Images that nobody offered.
    #[error("the peer sent image {0}, which it had not offered")]
    NotOffered(ImageId),
    /// Another process takes the same stream.
    #[error("{}: another transfer of the same images is under way", .0.display())]
    UnderWay(PathBuf),
}

impl crate::base::Fault for ReceiveError {
    fn class(&self) -> crate::base::Class {
        match self {
            Self::Stream(_) => crate::base::Class::Peer,
            Self::NotOffered(_) => crate::base::Class::Integrity,
            Self::UnderWay(_) => crate::base::Class::Conflict,
        }
    }
}

/// What was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Names of the images, IDs of those without.
    pub loaded: Vec<String>,
    /// The IDs of the images.
    pub images: Vec<ImageId>,
    /// Bytes of the stream, those of earlier tries included.
    pub stream: u64,
    /// Bytes that earlier tries had brought.
    pub resumed: u64,
}

/// How many streams that broke off are kept for a next try.
const PARTIAL_STREAMS: usize = 8;

/// Takes what a peer offers; nothing when the peer only asks what there would be to send.
pub fn receive(
    session: &mut Session<'_>,
    offer: &Offer,
    home: &dyn Home,
    ctx: &Ctx,
) -> Result<Option<Received>, BoxFault> {
    let here = home.layers(offer)?;
    let known = |wanted: &mut dyn Iterator<Item = DiffId>| -> Vec<DiffId> {
        wanted.collect::<BTreeSet<_>>().into_iter().filter(|layer| here.contains(layer)).collect()
    };
    let offered = known(&mut offer.images.iter().flat_map(|image| image.layers.iter().copied()));
    let mut told: BTreeSet<DiffId> = offered.iter().copied().collect();
    let free = home::free(&home.folder())?;
    let mut others = if home.finds() { (here.len() - offered.len()) as u64 } else { 0 };
    let to = Some(home.who());
    session.send(&Message::Have(Have { layers: offered, free, others, to }))?;
    loop {
        match session.receive()? {
            Message::Hint(hint) => {
                let layers = known(&mut hint.layers.into_iter());
                others = others.saturating_sub(layers.len() as u64);
                told.extend(layers.iter().copied());
                session.send(&Message::Have(Have { layers, free, others, to: None }))?;
            }
            Message::Contents(ids) => session.send(&Message::Found(home.find(&ids)))?,
            Message::Probe(probe) => measure(session, &probe, &home.folder())?,
            Message::Stream(stream) if stream.ask => {
                let (offset, hash) = there(&home.folder(), &stream.plan)?;
                session.send(&Message::Resume(Resume { offset, hash: hash.to_hex().to_string() }))?;
                return Ok(None);
            }
            Message::Stream(stream) => return take(session, (offer, &told), &stream, home, ctx).map(Some),
            other => return Err(turn(&other, "Stream").into()),
        }
    }
}

/// Answers a measuring of the line.
fn measure(session: &mut Session<'_>, probe: &Probe, folder: &Path) -> Result<(), BoxFault> {
    let there = |plan: &&Digest| part_of(folder, plan).metadata().is_ok_and(|meta| meta.len() > 0);
    let plans: Vec<Digest> = probe.plans.iter().filter(there).copied().collect();
    let known = !plans.is_empty();
    session.send(&Message::Probe(Probe { plans }))?;
    if known {
        return Ok(());
    }
    for _ in 0..PROBE_PIECES {
        match session.receive()? {
            Message::Data(bytes) if bytes.len() <= PROBE_PIECE => session.send(&Message::Probe(Probe::default()))?,
            // There is too little to send for the line to matter.
            Message::Probe(_) => return Ok(()),
            other => return Err(turn(&other, "Data").into()),
        }
    }
    Ok(())
}

fn take(
    session: &mut Session<'_>,
    (offer, told): (&Offer, &BTreeSet<DiffId>),
    stream: &Stream,
    home: &dyn Home,
    ctx: &Ctx,
) -> Result<Received, BoxFault> {
    let mut partial = Partial::open(&home.folder(), stream)?;
    let (there, hash) = partial.hash()?;
    session.send(&Message::Resume(Resume { offset: there, hash: hash.to_hex().to_string() }))?;
    let resumed = match session.receive()? {
        // The sender agrees, or begins anew.
        Message::Resume(from) if from.offset == there || from.offset == 0 => from.offset,
        Message::Resume(_) => return Err(ReceiveError::Stream("it goes on elsewhere").into()),
        other => return Err(turn(&other, "Resume").into()),
    };
    partial.cut(resumed)?;
    let task = ctx.begin("Receiving", short(stream), stream.length);
    task.advance(resumed)?;
    let end = loop {
        match session.receive()? {
            Message::Data(bytes) => {
                partial.append(&bytes)?;
                if stream.length.is_some_and(|length| partial.length > length) {
                    return Err(ReceiveError::Stream("it is longer").into());
                }
                task.advance(bytes.len() as u64)?;
            }
            Message::End(end) => break end,
            other => return Err(turn(&other, "Data").into()),
        }
    };
    if end.length != partial.length || end.hash != partial.hasher.finalize().to_hex().as_str() {
        // Not worth keeping: it could never be completed.
        partial.remove();
        return Err(ReceiveError::Stream("its hash differs").into());
    }
    task.complete();
    let received = Received { stream: partial.length, resumed, ..load((offer, told), &partial, home, ctx)? };
    partial.remove();
    session.send(&Message::Done(Done { loaded: received.loaded.clone() }))?;
    Ok(received)
}

fn load(
    (offer, told): (&Offer, &BTreeSet<DiffId>),
    partial: &Partial,
    home: &dyn Home,
    ctx: &Ctx,
) -> Result<Received, BoxFault> {
    let opened = || -> Result<BundleSource, BoxFault> {
        let bundle = bundle::open_file(&partial.path)?;
        let mut source = BundleSource::new(bundle, partial.folder.clone(), BundleOptions::MEMORY)?;
        let offered: BTreeSet<ImageId> = offer.images.iter().map(|image| image.id).collect();
        if let Some(other) = source.images().iter().find(|image| !offered.contains(&image.config.id())) {
            return Err(ReceiveError::NotOffered(other.config.id()).into());
        }
        let index = source.bundle().index();
        if index.is_thin() {
            let wanted: BTreeSet<ShortId> = index.base_contents.ids.iter().map(shortened).collect();
            let base = home.base(told, &wanted, ctx)?;
            source = source.with_base(base)?;
        }
        Ok(source)
    };
    // What is no bundle, or none that can be read here, will not be better next time.
    let source = opened().inspect_err(|fault| {
        if matches!(fault.class(), Class::Malformed | Class::Integrity) {
            partial.remove();
        }
    })?;
    home.take(&source, ctx).inspect_err(|fault| {
        if matches!(fault.class(), Class::Malformed | Class::Integrity) {
            partial.remove();
        }
    })?;
    let name = |image: &crate::image::Image| match image.names.is_empty() {
        true => vec![image.config.id().to_string()],
        false => image.names.iter().map(ToString::to_string).collect(),
    };
    Ok(Received {
        loaded: source.images().iter().flat_map(name).collect(),
        images: source.images().iter().map(|image| image.config.id()).collect(),
        ..Received::default()
    })
}

fn shortened(id: &ShortId) -> ShortId {
    let mut id = *id;
    id.0[ID_LENGTH..].fill(0);
    id
}

/// How much of a plan's stream is there, and its hash.
fn there(folder: &Path, plan: &Digest) -> Result<(u64, blake3::Hash), PathError> {
    let path = part_of(folder, plan);
    let mut hasher = blake3::Hasher::new();
    match File::open(&path) {
        Ok(mut file) => Ok((io::copy(&mut file, &mut hasher).at("read", &path)?, hasher.finalize())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, hasher.finalize())),
        Err(error) => Err(error).at("open", &path),
    }
}

/// The file of a plan's stream.
fn part_of(folder: &Path, plan: &Digest) -> PathBuf {
    folder.join(format!("{}.part", plan.hex()))
}

fn short(stream: &Stream) -> String {
    stream.plan.short()
}

/// What has arrived of a stream, under the name of its plan.
struct Partial {
    folder: PathBuf,
    path: PathBuf,
    file: FileLock,
    length: u64,
    hasher: blake3::Hasher,
}

impl Partial {
    fn open(folder: &Path, stream: &Stream) -> Result<Self, BoxFault> {
        let folder = folder.to_owned();
        fs::create_dir_all(&folder).at("create", &folder)?;
        let path = part_of(&folder, &stream.plan);
        tidy(&folder, &path)?;
        let mut open = OpenOptions::new();
        let file =
            open.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).at("open", &path)?;
        let lock = FileLock::attempt(file, LockKind::Exclusive).at("lock", &path)?;
        let file = lock.map_err(|_| ReceiveError::UnderWay(path.clone()))?;
        let length = file.file().metadata().at("read", &path)?.len();
        Ok(Self { folder, path, file, length, hasher: blake3::Hasher::new() })
    }

    fn hash(&mut self) -> Result<(u64, blake3::Hash), PathError> {
        let mut file: &File = self.file.file();
        io::copy(&mut Read::by_ref(&mut file), &mut self.hasher).at("read", &self.path)?;
        Ok((self.length, self.hasher.finalize()))
    }

    fn cut(&mut self, length: u64) -> Result<(), PathError> {
        if length < self.length {
            self.file.file().set_len(length).at("write", &self.path)?;
            self.length = length;
            self.hasher.reset();
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), PathError> {
        self.file.file().write_all_at(bytes, self.length).at("write", &self.path)?;
        self.length += bytes.len() as u64;
        self.hasher.update(bytes);
        Ok(())
    }

    fn remove(&self) {
        // What stays is found by its plan, or tidied away.
        let _ = fs::remove_file(&self.path);
    }
}

/// Keeps the newest few streams that broke off; those that somebody is taking are left alone.
fn tidy(folder: &std::path::Path, keep: &std::path::Path) -> Result<(), PathError> {
    let mut old = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        let path = entry.path();
        if path != keep
            && path.extension().is_some_and(|end| end == "part")
            && let Ok(changed) = entry.metadata().and_then(|meta| meta.modified())
        {
            old.push((changed, path));
        }
    }
    old.sort();
    let over = (old.len() + 1).saturating_sub(PARTIAL_STREAMS);
    for (_, path) in old.into_iter().take(over) {
        if let Ok(file) = File::open(&path)
            && let Ok(Ok(_lock)) = FileLock::attempt(file, LockKind::Exclusive)
        {
            fs::remove_file(&path).at("remove", &path)?;
        }
    }
    Ok(())
}

impl From<ReceiveError> for WireError {
    fn from(error: ReceiveError) -> Self {
        Self::Io(io::Error::other(error))
    }
}
