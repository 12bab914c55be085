//! What can be wrong with keys, signatures and policies.

use std::io;
use std::path::PathBuf;

use crate::base::{Class, Fault, PathError};

/// Why something cannot be signed, trusted, encrypted or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A key file that is none, or of a kind that is not used here.
    #[error("{what}: {reason}")]
    Key {
        /// Which key: a path, or what was given.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A passphrase is needed and nobody gave it.
    #[error("{0} needs a passphrase")]
    Passphrase(String),
    /// The agent does not answer as an agent does, or refuses.
    #[error("ssh agent {}: {reason}", .socket.display())]
    Agent {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The agent cannot be reached.
    #[error("cannot talk to the ssh agent {}: {source}", .socket.display())]
    AgentIo {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of an allowed-signers, revocation or policy file.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The place and what is wrong there.
        reason: String,
    },
    /// No signature where one is required.
    #[error("{0} is not signed, and only signed bundles are accepted here")]
    NotSigned(String),
    /// Signatures, but none by an accepted key.
    #[error("{what} is not signed by an accepted key: {}", .reasons.join("; "))]
    NotTrusted {
        /// The bundle.
        what: String,
        /// What is wrong with each signature.
        reasons: Vec<String>,
    },
    /// A signer for images that are not his.
    #[error("{signer} may not sign {image}")]
    NotHis {
        /// The principals of the key.
        signer: String,
        /// The image's name.
        image: String,
    },
    /// A way in that the policy does not permit.
    #[error("the policy {} does not permit {way}", .policy.display())]
    NotPermitted {
        /// The policy's file.
        policy: PathBuf,
        /// What was tried.
        way: &'static str,
    },
    /// An encrypted bundle and no key.
    #[error("{0} is encrypted: name the key with --identity")]
    Encrypted(String),
    /// An encrypted base and no key.
    #[error("{0}, the base, is encrypted: name its key with --base-identity")]
    EncryptedBase(String),
    /// An encrypted bundle and the wrong key, or a broken one.
    #[error("cannot decrypt {what}: {reason}")]
    Decrypt {
        /// The bundle.
        what: String,
        /// Why.
        reason: String,
    },
    /// Encrypting failed.
    #[error("cannot encrypt: {0}")]
    Encrypt(String),
}

impl Fault for SealError {
    fn class(&self) -> Class {
        match self {
            Self::Path(error) => error.class(),
            Self::Key { .. } | Self::File { .. } => Class::Malformed,
            Self::Passphrase(_) | Self::Encrypted(_) | Self::EncryptedBase(_) | Self::Encrypt(_) => Class::Usage,
            Self::Agent { .. } => Class::Peer,
            Self::AgentIo { source, .. } => crate::base::error::class_of_io(source),
            Self::NotSigned(_) | Self::NotTrusted { .. } | Self::NotHis { .. } | Self::NotPermitted { .. } => {
                Class::Refused
            }
            Self::Decrypt { .. } => Class::Integrity,
        }
    }
}
