//! Taking images from a peer: what is there already is said, what arrives is kept until all of it has arrived, and
//! then loaded as any bundle is.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::session::{Session, turn};
use super::wire::{Done, Have, Message, Offer, Resume, Stream, WireError};
use crate::base::{AtPath, BoxFault, Ctx, PathError};
use crate::bundle::{self, BundleOptions, BundleSource};
use crate::image::{DiffId, ImageId, ImageSink, ImageSource};
use crate::store::{LoadOptions, Store};
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

/// How images are taken.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// As at a load.
    pub load: LoadOptions,
    /// Whether the peer may learn which layers are here. Without it everything is sent each time.
    pub reveal: bool,
}

/// What was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// Names of the images, IDs of those without.
    pub loaded: Vec<String>,
    /// Bytes of the stream, those of earlier tries included.
    pub stream: u64,
    /// Bytes that earlier tries had brought.
    pub resumed: u64,
}

/// How many streams that broke off are kept for a next try.
const PARTIAL_STREAMS: usize = 8;

/// Takes what a peer offers.
pub fn receive(
    session: &mut Session<'_>,
    offer: &Offer,
    store: &Store,
    options: &ReceiveOptions,
    ctx: &Ctx,
) -> Result<Received, BoxFault> {
    let layers = |wanted: &mut dyn Iterator<Item = DiffId>| -> Result<Vec<DiffId>, BoxFault> {
        if !options.reveal {
            return Ok(Vec::new());
        }
        let here = store.diff_ids()?;
        Ok(wanted.collect::<BTreeSet<_>>().into_iter().filter(|diff_id| here.contains(diff_id)).collect())
    };
    let offered = layers(&mut offer.images.iter().flat_map(|image| image.layers.iter().copied()))?;
    let free = crate::sys::fs::room(store.root()).at("look at", store.root())?.free;
    session.send(&Message::Have(Have { layers: offered, free }))?;
    loop {
        match session.receive()? {
            Message::Hint(hint) => {
                let layers = layers(&mut hint.layers.into_iter())?;
                session.send(&Message::Have(Have { layers, free }))?;
            }
            Message::Stream(stream) => return take(session, offer, &stream, store, options, ctx),
            other => return Err(turn(&other, "Stream").into()),
        }
    }
}

fn take(
    session: &mut Session<'_>,
    offer: &Offer,
    stream: &Stream,
    store: &Store,
    options: &ReceiveOptions,
    ctx: &Ctx,
) -> Result<Received, BoxFault> {
    let mut partial = Partial::open(store, stream)?;
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
    let loaded = load(offer, &partial, store, options, ctx)?;
    let received = Received { loaded, stream: partial.length, resumed };
    partial.remove();
    session.send(&Message::Done(Done { loaded: received.loaded.clone() }))?;
    Ok(received)
}

fn load(
    offer: &Offer,
    partial: &Partial,
    store: &Store,
    options: &ReceiveOptions,
    ctx: &Ctx,
) -> Result<Vec<String>, BoxFault> {
    let bundle = bundle::open_file(&partial.path)?;
    let source = BundleSource::new(bundle, partial.folder.clone(), BundleOptions::MEMORY)?;
    let offered: BTreeSet<ImageId> = offer.images.iter().map(|image| image.id).collect();
    if let Some(other) = source.images().iter().find(|image| !offered.contains(&image.config.id())) {
        return Err(ReceiveError::NotOffered(other.config.id()).into());
    }
    store.sink(options.load.clone()).take(&source, source.images(), ctx)?;
    let name = |image: &crate::image::Image| match image.names.is_empty() {
        true => vec![image.config.id().to_string()],
        false => image.names.iter().map(ToString::to_string).collect(),
    };
    Ok(source.images().iter().flat_map(name).collect())
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
    fn open(store: &Store, stream: &Stream) -> Result<Self, BoxFault> {
        let folder = store.layout().transfers();
        fs::create_dir_all(&folder).at("create", &folder)?;
        let path = folder.join(format!("{}.part", stream.plan.hex()));
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
