//! Opening whatever holds images.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::{self, Input, OpenOptions};
use crate::base::{AtPath, BoxFault, Class, Ctx, Fault};
use crate::bundle::BundleSource;
use crate::bundle::carry::{self, Access};
use crate::bundle::seal::{SignedBy, WayIn};
use crate::bundle::volume::{Root, SetId, VolumeSet, has_ending};
use crate::image::{ImageSource, Reference};

/// An input that does not fit what was asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// One name for several images.
    #[error("{name} cannot be the name of all {images} images in {origin}")]
    OneName {
        /// The name.
        name: Reference,
        /// The input.
        origin: String,
        /// How many there are.
        images: usize,
    },
}

impl Fault for OpenError {
    fn class(&self) -> Class {
        Class::Usage
    }
}

/// Opens an input, recognising what it is by its content. What comes in through `access` is as its gates have it: a
/// bundle signed as they ask, anything else only where they admit it.
pub fn open(input: Input, options: &OpenOptions, access: &Access, ctx: &Ctx) -> Result<Box<dyn ImageSource>, BoxFault> {
    Ok(open_known(input, options, access, ctx)?.source)
}

/// What was opened.
pub struct Opened {
    /// Its images.
    pub source: Box<dyn ImageSource>,
    /// The bundle it is, if it is one.
    pub bundle: Option<KnownBundle>,
}

/// A bundle, by what its signatures are over.
#[derive(Debug, Clone)]
pub struct KnownBundle {
    /// The set's ID.
    pub set: SetId,
    /// Its root hash.
    pub root: Root,
    /// The signatures that counted.
    pub signed_by: Vec<SignedBy>,
}

/// The same as [`open`], and says which bundle it was.
pub fn open_known(input: Input, options: &OpenOptions, access: &Access, ctx: &Ctx) -> Result<Opened, BoxFault> {
    let origin = input.origin();
    match recognise(input, &options.spool, ctx)? {
        Recognised::Bundle(set) => open_set(*set, options, access, ctx),
        Recognised::Other(input) => {
            access.gates.iter().try_for_each(|gate| gate.admits(WayIn::Archive, &origin))?;
            Ok(Opened { source: archive::open(input, options, ctx)?, bundle: None })
        }
    }
}

/// Opens a bundle by several of its volumes, in any order.
pub fn open_volumes(paths: &[PathBuf], options: &OpenOptions, access: &Access, ctx: &Ctx) -> Result<Opened, BoxFault> {
    open_set(VolumeSet::open(paths)?, options, access, ctx)
}

fn open_set(set: VolumeSet, options: &OpenOptions, access: &Access, ctx: &Ctx) -> Result<Opened, BoxFault> {
    let (id, root) = (set.id(), set.root());
    let carry::Opened { source, signed_by } = carry::open(set, access, ctx)?;
    let source = source.for_platform(options.platform.as_ref(), ctx)?;
    Ok(Opened { source: Box::new(source), bundle: Some(KnownBundle { set: id, root, signed_by }) })
}

/// Whether a path is that of a bundle: a volume, the name of a set of volumes, or a directory that holds some.
pub fn is_bundle(path: &Path) -> bool {
    match path.metadata() {
        Ok(meta) if meta.is_dir() => holds_volumes(path),
        Ok(meta) if meta.is_file() => has_ending(path) || begins_as_volume(path),
        Ok(_) => false,
        // The name of a set of numbered volumes need not be a file's.
        Err(_) => has_ending(path),
    }
}

/// What an input turned out to be, for those who build upon it.
pub enum Held {
    /// A bundle, which can also be built upon.
    Bundle(Arc<BundleSource>),
    /// Anything else.
    Other(Box<dyn ImageSource>),
}

impl Held {
    /// Its images.
    pub fn source(&self) -> &dyn ImageSource {
        match self {
            Self::Bundle(bundle) => &**bundle,
            Self::Other(other) => &**other,
        }
    }

    /// The bundle it is, if it is one.
    pub fn bundle(&self) -> Option<Arc<BundleSource>> {
        match self {
            Self::Bundle(bundle) => Some(bundle.clone()),
            Self::Other(_) => None,
        }
    }
}

/// The same as [`open`], for those to whom a bundle is more than its images.
pub fn open_any(input: Input, options: &OpenOptions, access: &Access, ctx: &Ctx) -> Result<Held, BoxFault> {
    let origin = input.origin();
    match recognise(input, &options.spool, ctx)? {
        Recognised::Bundle(set) => {
            let source = carry::open(*set, access, ctx)?.source.for_platform(options.platform.as_ref(), ctx)?;
            Ok(Held::Bundle(Arc::new(source)))
        }
        Recognised::Other(input) => {
            access.gates.iter().try_for_each(|gate| gate.admits(WayIn::Archive, &origin))?;
            Ok(Held::Other(archive::open(input, options, ctx)?))
        }
    }
}

enum Recognised {
    Bundle(Box<VolumeSet>),
    Other(Input),
}

/// Tells bundles from everything else.
fn recognise(input: Input, spool: &Path, ctx: &Ctx) -> Result<Recognised, BoxFault> {
    let bundle = |set: VolumeSet| Recognised::Bundle(Box::new(set));
    match input {
        Input::Path(path) => {
            let meta = path.metadata();
            if is_bundle(&path) {
                return Ok(bundle(VolumeSet::open(&[path])?));
            }
            if meta.is_ok_and(|meta| meta.is_file() || meta.is_dir()) {
                return Ok(Recognised::Other(Input::Path(path)));
            }
            let file = File::open(&path).at("open", &path)?;
            recognise(Input::File(file, path.display().to_string()), spool, ctx)
        }
        Input::File(mut file, origin) => {
            let place = Path::new(&origin);
            let in_place = file.metadata().at("look at", place)?.is_file();
            if !in_place || file.stream_position().at("look at", place)? != 0 {
                return recognise(Input::Stream(Box::new(file), origin), spool, ctx);
            }
            if VolumeSet::recognises_file(file.try_clone().at("open", place)?) {
                return Ok(bundle(VolumeSet::of_file(file, PathBuf::from(origin))?));
            }
            Ok(Recognised::Other(Input::File(file, origin)))
        }
        Input::At(bytes, origin) => {
            let mut start = [0; START];
            if bytes.read_exact_at(&mut start, 0).is_ok() && VolumeSet::recognises(&start) {
                return Ok(bundle(VolumeSet::of_bytes(bytes, PathBuf::from(origin))?));
            }
            Ok(Recognised::Other(Input::At(bytes, origin)))
        }
        Input::Stream(mut stream, origin) => {
            let mut start = Vec::new();
            (&mut *stream).take(START as u64).read_to_end(&mut start).at("read", &origin)?;
            if !VolumeSet::recognises(&start) {
                return Ok(Recognised::Other(Input::Stream(Box::new(Cursor::new(start).chain(stream)), origin)));
            }
            // What cannot be read anywhere cannot be checked first: it is kept whole before a byte of it counts.
            let file = archive::spool(&mut Cursor::new(start).chain(stream), &origin, spool, ctx)?;
            Ok(bundle(VolumeSet::of_file(file, PathBuf::from(origin))?))
        }
    }
}

/// Bytes that tell a volume.
const START: usize = 64;

fn begins_as_volume(path: &Path) -> bool {
    File::open(path).is_ok_and(VolumeSet::recognises_file)
}

/// Whether a directory holds volumes rather than an OCI layout.
fn holds_volumes(directory: &Path) -> bool {
    if ["oci-layout", "index.json", "manifest.json"].iter().any(|name| directory.join(name).exists()) {
        return false;
    }
    let Ok(entries) = directory.read_dir() else { return false };
    entries.flatten().map(|entry| entry.path()).any(|path| {
        path.is_file()
            && (begins_as_volume(&path) || has_ending(path.with_extension("").as_path()) || has_ending(&path))
    })
}
