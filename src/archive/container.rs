//! What holds the entries of an image archive: a plain tar, a compressed one, a directory. The readers of docker's and
//! OCI's documents ([`super::docker`], [`super::oci`]) see no difference.

use std::io::Read;

use super::entries::Entry;
use super::error::ArchiveError;
use crate::base::{BoxFault, Ctx, Digest};
use crate::image::Extent;

/// Called with the number of a wanted entry and its bytes.
pub type EntryVisitor<'a> = dyn Fn(usize, &mut (dyn Read + Send)) -> Result<(), BoxFault> + Sync + 'a;

/// Entries by path.
pub trait Container: Send + Sync {
    /// What it is, for messages.
    fn origin(&self) -> &str;

    /// The file that `path` means, links resolved inside the container; `None` when there is none.
    fn find(&self, path: &str) -> Result<Option<Entry>, ArchiveError>;

    /// The whole of a document, which must not have more than `limit` bytes.
    fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ArchiveError>;

    /// The first bytes of a file, [`super::entries::HEAD`] of them or all; empty when they are not known yet.
    fn head(&self, entry: &Entry) -> Result<Vec<u8>, ArchiveError>;

    /// Opens a file. May be slow in a container that is read forwards: see [`Container::visit`].
    fn open(&self, entry: &Entry) -> Result<Box<dyn Read + Send + '_>, ArchiveError>;

    /// Where a file can be read in place.
    fn extent(&self, _entry: &Entry) -> Option<Extent> {
        None
    }

    /// Gives the wanted files in the container's own order, in as few passes as can be. `None` for containers in which
    /// [`Container::open`] is as good.
    fn visit(&self, _wanted: &[Entry], _ctx: &Ctx, _visit: &EntryVisitor<'_>) -> Option<Result<(), BoxFault>> {
        None
    }

    /// The names at the top, for messages.
    fn top(&self) -> Vec<String>;
}

/// The path of a blob in an OCI layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An error of reading `entry`.
pub fn read_error(origin: &str, entry: &str, source: std::io::Error) -> ArchiveError {
    ArchiveError::Read { origin: origin.to_owned(), entry: super::entries::shorten(entry), source }
}
