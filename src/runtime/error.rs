//! What can go wrong with containers.

use crate::base::{BoxFault, Class, Fault, PathError};

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No container of that name or ID.
    #[error("no such container: {0}")]
    NoSuchContainer(String),
    /// An ID prefix that several containers share.
    #[error("{0:?} is the beginning of several container IDs")]
    Ambiguous(String),
    /// The name is taken.
    #[error("the container name {name:?} is in use by container {id}: remove or rename that one")]
    NameInUse {
        /// The name.
        name: String,
        /// By whom.
        id: String,
    },
    /// The container's state does not allow it.
    #[error("cannot {verb} container {name}: it is {state}")]
    State {
        /// What was asked.
        verb: &'static str,
        /// Of which container.
        name: String,
        /// Its state.
        state: String,
    },
    /// Something asked for makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Something in use or in the way.
    #[error("{0}")]
    Conflict(String),
    /// Something this host or this ferry cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// The container's own files, or what its monitor says, make no sense.
    #[error("{0}")]
    Malformed(String),
    /// The container's program could not be started; `code` is what shells and docker give: 127 not found, 126 not
    /// executable, 125 for ferry's own failures.
    #[error("{message}")]
    Start {
        /// The exit code.
        code: u8,
        /// What happened.
        message: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A system operation without a path failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another module failed.
    #[error("{0}")]
    Other(BoxFault),
}

impl RuntimeError {
    /// Something asked for makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }
}

impl Fault for RuntimeError {
    fn class(&self) -> Class {
        match self {
            Self::NoSuchContainer(_) | Self::NotFound(_) => Class::NotFound,
            Self::Ambiguous(_) | Self::Usage(_) => Class::Usage,
            Self::NameInUse { .. } | Self::State { .. } | Self::Conflict(_) => Class::Conflict,
            Self::Unsupported(_) => Class::Unsupported,
            Self::Malformed(_) => Class::Malformed,
            Self::Start { .. } => Class::System,
            Self::Path(error) => error.class(),
            Self::System { source, .. } => crate::base::error::class_of_io(source),
            Self::Other(fault) => fault.class(),
        }
    }
}

/// Adds what was tried to an I/O error that has no path.
pub trait While<T> {
    /// `action` completes "cannot …".
    fn trying(self, action: impl Into<String>) -> Result<T, RuntimeError>;
}

impl<T, E: Into<std::io::Error>> While<T> for Result<T, E> {
    fn trying(self, action: impl Into<String>) -> Result<T, RuntimeError> {
        self.map_err(|error| RuntimeError::System { action: action.into(), source: error.into() })
    }
}
