//! Other engines as the place where images arrive: what they have already is found out, full layers are rebuilt from it
//! where it can be read, and what they are given is an archive that their own `load` takes.

mod containerd;
mod docker;
mod folder;
mod podman;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use super::ground::Gathered;
use super::home::{self, Home};
use super::wire::Offer;
use crate::archive::write::{ArchiveSink, Format, WriteOptions};
use crate::base::{BoxFault, Class, Ctx, Fault};
use crate::bundle::index::ShortId;
use crate::bundle::{BaseContents, BundleSource};
use crate::image::source::LayerVisitor;
use crate::image::{DiffId, Form, Image, ImageSink, ImageSource, Layer};

/// Who gets the images on the far side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Target {
    /// Ferry's store.
    #[default]
    Ferry,
    /// Whoever is there: [`Target::settled`] says who that is.
    Auto,
    /// dockerd.
    Docker,
    /// podman, of the user who logs in.
    Podman,
    /// containerd.
    Containerd,
    /// k3s.
    K3s,
    /// Archives in a directory.
    Dir(PathBuf),
}

impl Target {
    /// Who is meant by `Auto`: ferry where its store has images, else the first engine that answers this user (docker,
    /// k3s, podman, containerd), else ferry. Asked as the user who logged in, outside ferry's user namespace: podman
    /// and docker would see another in it.
    pub fn settled(self, has_images: bool) -> Self {
        let engines: [(Self, fn() -> bool); 4] = [
            (Self::Docker, docker::answers),
            (Self::K3s, containerd::of_k3s_answers),
            (Self::Podman, podman::answers),
            (Self::Containerd, containerd::answers),
        ];
        match self {
            Self::Auto if has_images => Self::Ferry,
            Self::Auto => engines.into_iter().find(|(_, answers)| answers()).map_or(Self::Ferry, |(engine, _)| engine),
            named => named,
        }
    }
}

/// A text that names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of auto, ferry, docker, podman, containerd, k3s and dir:PATH")]
pub struct TargetError(String);

impl Fault for TargetError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        Ok(match text {
            "auto" => Self::Auto,
            "ferry" => Self::Ferry,
            "docker" => Self::Docker,
            "podman" => Self::Podman,
            "containerd" => Self::Containerd,
            "k3s" => Self::K3s,
            _ => match text.strip_prefix("dir:") {
                Some(path) if !path.is_empty() => Self::Dir(path.into()),
                _ => return Err(TargetError(text.chars().take(100).collect())),
            },
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Ferry => f.write_str("ferry"),
            Self::Docker => f.write_str("docker"),
            Self::Podman => f.write_str("podman"),
            Self::Containerd => f.write_str("containerd"),
            Self::K3s => f.write_str("k3s"),
            Self::Dir(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

/// What an engine could not do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Its program cannot be started.
    #[error("cannot run {program}: {source}")]
    Absent {
        /// The program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("{command} failed: {said}")]
    Failed {
        /// Its first words.
        command: String,
        /// The end of what it said.
        said: String,
    },
    /// It answers other than expected.
    #[error("{command} answers something unexpected")]
    Answer {
        /// Its first words.
        command: String,
    },
    /// No engine and no ferry store.
    #[error("{0}: the layer is not there any more")]
    Gone(DiffId),
}

impl Fault for EngineError {
    fn class(&self) -> Class {
        match self {
            Self::Absent { .. } | Self::Gone(_) => Class::NotFound,
            Self::Failed { said, .. } if said.contains("no space left") => Class::NoSpace,
            Self::Failed { .. } | Self::Answer { .. } => Class::System,
        }
    }
}

/// What an engine has and takes.
trait Engine: Sync {
    /// Layers whose tar it can give.
    fn readable(&self) -> &BTreeSet<DiffId>;

    /// Opens one of those. The bytes are unverified; whoever loads them hashes them.
    fn open(&self, layer: &DiffId) -> Result<Box<dyn Read + Send>, BoxFault>;

    /// Of an image's layers, base first, how many of the lowest it does not need again.
    fn has_of(&self, layers: &[DiffId]) -> usize;

    /// The documents that its `load` wants.
    fn format(&self) -> Format;

    /// Gives it an archive, which `write` writes.
    fn load(&self, images: &[Image], write: &mut WriteArchive<'_>) -> Result<(), BoxFault>;
}

/// Writes an archive to where it is told.
type WriteArchive<'a> = dyn FnMut(&mut (dyn Write + Send)) -> Result<(), BoxFault> + 'a;

/// An engine as the place where images arrive.
pub struct EngineHome {
    engine: Box<dyn Engine>,
    who: String,
    folder: PathBuf,
}

impl EngineHome {
    /// The engine that `target`, which is settled, means; nothing for ferry's own store. `folder` keeps what has arrived.
    pub fn open(target: &Target, folder: PathBuf) -> Result<Option<Self>, BoxFault> {
        let engine: Box<dyn Engine> = match target {
            Target::Ferry | Target::Auto => return Ok(None),
            Target::Docker => Box::new(docker::Docker::open()?),
            Target::Podman => Box::new(podman::Podman::open()?),
            Target::Containerd => Box::new(containerd::Containerd::open(&["ctr"])?),
            Target::K3s => Box::new(containerd::Containerd::of_k3s()?),
            Target::Dir(path) => Box::new(folder::Folder::open(path, &folder)?),
        };
        Ok(Some(Self { engine, who: target.to_string(), folder }))
    }

    /// Layers that the engine needs in none of the images: all their places are on what it has.
    fn unneeded<'i>(&self, images: impl Iterator<Item = &'i [DiffId]>) -> BTreeSet<DiffId> {
        let (mut has, mut needs) = (BTreeSet::new(), BTreeSet::new());
        for layers in images {
            let (low, high) = layers.split_at(self.engine.has_of(layers).min(layers.len()));
            has.extend(low.iter().copied());
            needs.extend(high.iter().copied());
        }
        has.retain(|layer| !needs.contains(layer));
        has
    }
}

impl Home for EngineHome {
    fn who(&self) -> String {
        self.who.clone()
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    fn layers(&self, offer: &Offer) -> Result<BTreeSet<DiffId>, BoxFault> {
        let mut layers = self.unneeded(offer.images.iter().map(|image| &image.layers[..]));
        layers.extend(self.engine.readable().iter().copied());
        Ok(layers)
    }

    fn base(
        &self,
        told: &BTreeSet<DiffId>,
        wanted: &BTreeSet<ShortId>,
        ctx: &Ctx,
    ) -> Result<Arc<dyn BaseContents>, BoxFault> {
        let open = |layer: &DiffId| self.engine.open(layer);
        let readable: BTreeSet<DiffId> = told.intersection(self.engine.readable()).copied().collect();
        let gathered = Gathered::from_layers(&readable, wanted, &open, &self.folder, ctx)?;
        // Layers that are there but cannot be read are left out of the archive as well.
        Ok(Arc::new(Everything(gathered)))
    }

    fn take(&self, source: &BundleSource, ctx: &Ctx) -> Result<(), BoxFault> {
        let rebuilt = home::left_out(source);
        let images: Vec<Image> = source.images().iter().map(|image| as_tars(image, &rebuilt)).collect();
        let diff_ids: Vec<Vec<DiffId>> =
            images.iter().map(|image| image.layers.iter().map(|layer| layer.diff_id).collect()).collect();
        let mut omit = self.unneeded(diff_ids.iter().map(|layers| &layers[..]));
        if self.engine.format() != Format::Docker {
            // A descriptor states the size, so that has to be known.
            let layers = images.iter().flat_map(|image| &image.layers);
            layers.filter(|layer| layer.size.is_none()).for_each(|layer| {
                omit.remove(&layer.diff_id);
            });
        }
        let there = |layer: &&DiffId| omit.contains(layer) || self.engine.readable().contains(layer);
        if let Some(gone) = rebuilt.iter().find(|layer| !there(layer)) {
            return Err(EngineError::Gone(*gone).into());
        }
        let whole = Whole { bundle: source, engine: &*self.engine, rebuilt, images };
        let options = WriteOptions {
            format: self.engine.format(),
            prove: true,
            omit,
            spool: self.folder.clone(),
            ..WriteOptions::default()
        };
        self.engine.load(&whole.images, &mut |out| {
            ArchiveSink::new(out, options.clone()).take(&whole, &whole.images, ctx)?;
            Ok(())
        })
    }
}

/// Whatever a sender was told is there, is there: [`Home::layers`] said so.
struct Everything(Gathered);

impl BaseContents for Everything {
    fn has_layer(&self, _: &DiffId) -> bool {
        true
    }

    fn size_of(&self, id: &ShortId) -> Option<u64> {
        self.0.size_of(id)
    }

    fn read_at(&self, id: &ShortId, offset: u64, buf: &mut [u8]) -> Result<(), BoxFault> {
        self.0.read_at(id, offset, buf)
    }
}

/// An image whose rebuilt layers have no other form than their tar.
fn as_tars(image: &Image, rebuilt: &BTreeSet<DiffId>) -> Image {
    let mut image = image.clone();
    for layer in image.layers.iter_mut().filter(|layer| rebuilt.contains(&layer.diff_id)) {
        layer.original = None;
        layer.size = layer.size.filter(|size| *size > 0);
    }
    image
}

/// What a bundle and an engine have together.
struct Whole<'a> {
    bundle: &'a BundleSource,
    engine: &'a dyn Engine,
    /// Layers that the bundle leaves out.
    rebuilt: BTreeSet<DiffId>,
    images: Vec<Image>,
}

impl ImageSource for Whole<'_> {
    fn origin(&self) -> String {
        self.bundle.origin()
    }

    fn images(&self) -> &[Image] {
        &self.images
    }

    fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
        match self.rebuilt.contains(&layer.diff_id) {
            true => Ok(self.engine.open(&layer.diff_id)?),
            false => self.bundle.open_layer(layer, form),
        }
    }

    fn visit_layers(
        &self,
        wanted: &[(Layer, Form)],
        threads: usize,
        ctx: &Ctx,
        visit: &LayerVisitor<'_>,
    ) -> Result<(), BoxFault> {
        crate::image::source::visit_in_parallel(self, wanted, threads, ctx, visit)
    }
}

/// The most that an engine's answer may be, in bytes.
const ANSWER_BYTES: u64 = 256 << 20;

/// The first words of a command, for messages.
fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let first: Vec<_> = words.take(3).map(|word| word.to_string_lossy().into_owned()).collect();
    first.join(" ")
}

/// What a command prints.
fn ask(program: &'static str, command: &mut Command) -> Result<Vec<u8>, EngineError> {
    let absent = |source| EngineError::Absent { program, source };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(absent)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = std::thread::spawn(move || last_words(stderr));
    let mut answer = Vec::new();
    let read = stdout.map_or(Ok(0), |stdout| stdout.take(ANSWER_BYTES).read_to_end(&mut answer));
    let status = child.wait().map_err(absent)?;
    let said = said.join().unwrap_or_default();
    if !status.success() {
        return Err(EngineError::Failed { command: words(command), said });
    }
    read.map_err(absent)?;
    Ok(answer)
}

/// The end of what a command says, in one line.
fn last_words(from: Option<impl Read>) -> String {
    let mut tail = super::remote::Tail::default();
    let mut buf = [0; 4096];
    if let Some(mut from) = from {
        while let Ok(n @ 1..) = from.read(&mut buf) {
            tail.push(&buf[..n]);
        }
    }
    tail.text()
}

/// Runs a command that takes an archive on its standard input.
fn feed(program: &'static str, command: &mut Command, write: &mut WriteArchive<'_>) -> Result<(), BoxFault> {
    let absent = |source| EngineError::Absent { program, source };
    let mut child = command
        .stdin(Stdio::piped())
        // Standard output is the protocol's.
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(absent)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let told = std::thread::spawn(move || last_words(stdout));
    let said = std::thread::spawn(move || last_words(stderr));
    let written = match stdin {
        Some(stdin) => {
            let mut out = io::BufWriter::with_capacity(1 << 20, stdin);
            let written = write(&mut out);
            if written.is_err() {
                // Half an archive must not look like a whole one that ends.
                let _ = child.kill();
            }
            written.and_then(|()| out.flush().map_err(|source| absent(source).into()))
        }
        None => Ok(()),
    };
    let status = child.wait().map_err(absent)?;
    let (told, said) = (told.join().unwrap_or_default(), said.join().unwrap_or_default());
    match (written, status.success()) {
        (Ok(()), true) => Ok(()),
        // An engine that gave up says more than the pipe that broke.
        (_, false) if !said.is_empty() => Err(EngineError::Failed { command: words(command), said }.into()),
        (Err(fault), _) => Err(fault),
        (Ok(()), false) => Err(EngineError::Failed { command: words(command), said: told }.into()),
    }
}

/// A file name for an archive of these images.
fn archive_name(images: &[Image]) -> String {
    let name = images.iter().flat_map(|image| &image.names).next().map(ToString::to_string);
    let name = name.or_else(|| images.first().map(|image| image.config.id().0.hex())).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("{}.tar", name.chars().map(plain).take(200).collect::<String>())
}

/// Whether this process may read what belongs to root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a directory can be listed.
fn listable(path: &Path) -> bool {
    path.read_dir().is_ok()
}
