//! What every error of ferry has: a class, which decides the exit code, and where files are concerned, the path.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The class of a failure: one exit code each, given by `cli`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// An operation failed for a reason of the system's: input or output, permissions.
    System,
    /// What was asked for makes no sense, or not in this combination.
    Usage,
    /// A named thing does not exist.
    NotFound,
    /// A named thing exists already, is in use, or is in a state that does not allow what was asked.
    Conflict,
    /// Input that is malformed, or over a limit.
    Malformed,
    /// Bytes are not the bytes that a digest, checksum or signature promises.
    Integrity,
    /// A policy, a lock or a safety rule forbids it.
    Refused,
    /// The disk, or a limit of the medium, is too small.
    NoSpace,
    /// The far side, or the line to it, failed.
    Peer,
    /// A format, feature or kernel that ferry or this host does not support.
    Unsupported,
    /// The user ended it.
    Interrupted,
}

/// An error of one of ferry's modules: typed there, classed here, explained in `cli`.
pub trait Fault: std::error::Error + Send + Sync + 'static {
    /// The class that decides the exit code.
    fn class(&self) -> Class;
}

/// Any module's error, where traits of several modules meet.
pub type BoxFault = Box<dyn Fault>;

impl<F: Fault> From<F> for BoxFault {
    fn from(fault: F) -> Self {
        Box::new(fault)
    }
}

impl std::error::Error for BoxFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        (**self).source()
    }
}

/// The class of an I/O error: a full disk and a broken promise are told apart from the rest, and a [`BoxFault`] that
/// went through a reader keeps its own.
pub fn class_of_io(error: &io::Error) -> Class {
    if let Some(inner) = error.get_ref() {
        if let Some(fault) = inner.downcast_ref::<BoxFault>() {
            return fault.class();
        }
        if inner.is::<super::verify::Mismatch>() {
            return Class::Integrity;
        }
        if inner.is::<super::cancel::Interrupted>() {
            return Class::Interrupted;
        }
    }
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Class::NoSpace,
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Class::Malformed,
        io::ErrorKind::NotFound => Class::NotFound,
        _ => Class::System,
    }
}

/// A failed operation on a path: "cannot create /x/y: No space left on device".
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", .path.display())]
pub struct PathError {
    /// What was tried, as a verb: "create", "read".
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl PathError {
    /// Whether what was found a moment ago is there no more, or is a file of another kind.
    pub fn is_gone(&self) -> bool {
        match self.source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::NXIO | Errno::NODEV) => true,
            Some(_) => false,
            // What is to be a regular file is none.
            None => self.source.kind() == io::ErrorKind::InvalidInput,
        }
    }
}

impl Fault for PathError {
    fn class(&self) -> Class {
        class_of_io(&self.source)
    }
}

/// Adds the action and the path to an I/O error.
pub trait AtPath<T> {
    /// `action` is a verb: "create", "read".
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, PathError>;
}

impl<T, E: Into<io::Error>> AtPath<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, PathError> {
        self.map_err(|error| PathError { action, path: path.as_ref().to_owned(), source: error.into() })
    }
}
