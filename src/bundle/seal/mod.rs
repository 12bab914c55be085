//! Trust and secrecy of bundles: OpenSSH signatures over a set's root, age around its stream, and the policy that says
//! which bundles, and which other ways in, a host accepts.

mod agent;
mod allowed;
mod crypt;
mod error;
mod policy;
mod sign;
mod verify;

pub use allowed::{AllowedSigners, RevokedKeys};
pub use crypt::{Decrypted, Encrypting, Identities, Passphrase, Recipients};
pub use error::SealError;
pub use policy::{Policy, WayIn};
pub use sign::{NAMESPACE, Signer, armor, dearmor};
pub use verify::{SignedBy, Trust};
