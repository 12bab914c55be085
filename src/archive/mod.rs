//! Image archives: docker-archive, OCI layouts and oci-archive, read in every shape there is and written in the one
//! that all readers take.

pub mod catalog;
mod container;
mod docker;
mod docs;
mod entries;
pub mod error;
mod layout;
mod oci;
mod packed;
mod plain;
mod plan;
mod source;
mod spool;
mod tar;
pub mod write;

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::PathBuf;
use std::sync::Arc;

pub use catalog::OpenOptions;
pub use error::ArchiveError;
pub(crate) use spool::spool;

use crate::base::read_at::{FileAt, ReadAt};
use crate::base::{AtPath, Ctx};
use crate::image::ImageSource;
use crate::layer::compression::{self, Compression, DecodeLimits};

/// Where an archive comes from.
pub enum Input {
    /// A file, a fifo, a device, or the directory of an OCI layout.
    Path(PathBuf),
    /// Something open: standard input. Read in place when it is a file that nothing has been read from.
    File(File, String),
    /// Bytes that can be read anywhere, wherever they are.
    At(Arc<dyn ReadAt>, String),
    /// Bytes that come once.
    Stream(Box<dyn Read + Send>, String),
}

impl Input {
    /// What it is, for messages.
    pub fn origin(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::File(_, origin) | Self::At(_, origin) | Self::Stream(_, origin) => origin.clone(),
        }
    }
}

/// Opens an archive, recognising what it is by its content.
pub fn open(input: Input, options: &OpenOptions, ctx: &Ctx) -> Result<Box<dyn ImageSource>, ArchiveError> {
    let mut limits = DecodeLimits::default();
    if let Some(log) = options.max_window {
        limits.window_log = log;
    }
    let (file, origin) = match input {
        Input::At(bytes, origin) => return read_in_place(bytes, origin, options, limits, ctx),
        Input::Path(path) => {
            let file = File::open(&path).at("open", &path)?;
            if file.metadata().at("look at", &path)?.is_dir() {
                let container = layout::LayoutDir::open(&path)?;
                return Ok(Box::new(source::ArchiveSource::new(Box::new(container), options, limits, ctx)?));
            }
            (file, path.display().to_string())
        }
        Input::File(file, origin) => (file, origin),
        Input::Stream(mut stream, origin) => {
            let file = spool(&mut *stream, &origin, &options.spool, ctx)?;
            (file, origin)
        }
    };
    let file = seekable(file, &origin, options, ctx)?;
    read_in_place(file, origin, options, limits, ctx)
}

fn read_in_place(
    file: Arc<dyn ReadAt>,
    origin: String,
    options: &OpenOptions,
    limits: DecodeLimits,
    ctx: &Ctx,
) -> Result<Box<dyn ImageSource>, ArchiveError> {
    let container: Box<dyn container::Container> = match recognise(&*file, &origin)? {
        Compression::None => Box::new(plain::PlainTar::open(origin, file)?),
        compression => Box::new(packed::PackedTar::open(origin, file, compression, limits, ctx)?),
    };
    Ok(Box::new(source::ArchiveSource::new(container, options, limits, ctx)?))
}

fn seekable(mut file: File, origin: &str, options: &OpenOptions, ctx: &Ctx) -> Result<Arc<dyn ReadAt>, ArchiveError> {
    let fail = |error| container::read_error(origin, "the archive", error);
    let in_place = file.metadata().map_err(fail)?.is_file() && spooled_or_untouched(&mut file).map_err(fail)?;
    if !in_place {
        file = spool(&mut file, origin, &options.spool, ctx)?;
    }
    Ok(Arc::new(FileAt::new(file).map_err(fail)?))
}

/// Whether reading by position gives what reading on would.
fn spooled_or_untouched(file: &mut File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink() == 0 || file.stream_position()? == 0)
}

/// How an archive is compressed.
fn recognise(file: &dyn ReadAt, origin: &str) -> Result<Compression, ArchiveError> {
    let not = |reason: &str| ArchiveError::NotAnArchive { origin: origin.to_owned(), reason: reason.to_owned() };
    if file.size() == 0 {
        return Err(not("it is empty"));
    }
    let mut head = vec![0; usize::try_from(file.size()).unwrap_or(tar::BLOCK as usize).min(tar::BLOCK as usize)];
    file.read_exact_at(&mut head, 0).map_err(|error| container::read_error(origin, "the archive", error))?;
    let compression = compression::detect(&head);
    if compression == Compression::None && !tar::looks_like(&head) {
        return Err(not("it is no tar archive, plain or compressed with gzip, bzip2, xz or zstd"));
    }
    Ok(compression)
}
