//! Signing in the OpenSSH format (PROTOCOL.sshsig), with a key file or through an agent.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

use super::crypt::Passphrase;
use super::error::SealError;

/// What ferry's signatures are for: one made for anything else does not pass for one of these.
pub const NAMESPACE: &str = "ferry-bundle";

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
const BLOB_MAGIC: &[u8] = b"SSHSIG";

/// Something that can sign.
pub enum Signer {
    /// A private key in memory.
    Key(Box<PrivateKey>),
    /// A key that an agent holds.
    Agent {
        /// The public part.
        key: Box<PublicKey>,
        /// The agent's socket.
        socket: PathBuf,
    },
}

impl Signer {
    /// Takes the content of a key file: a private key, decrypted with `passphrase` where needed, or a public key whose
    /// private part the agent at `socket` holds. `path` is for messages.
    pub fn new(
        path: &Path,
        content: &[u8],
        passphrase: Option<&Passphrase>,
        socket: Option<PathBuf>,
    ) -> Result<Self, SealError> {
        let what = path.display().to_string();
        let wrong = |reason: String| SealError::Key { what: what.clone(), reason };
        let text = std::str::from_utf8(content).map_err(|_| wrong("it is no OpenSSH key".into()))?;
        if !text.contains("PRIVATE KEY-----") {
            let key = PublicKey::from_openssh(text.trim()).map_err(|error| wrong(error.to_string()))?;
            ed25519(&key, &what)?;
            let Some(socket) = socket else {
                let reason = "it is a public key, and no ssh agent is known that holds the private one (SSH_AUTH_SOCK)";
                return Err(wrong(reason.into()));
            };
            return Ok(Self::Agent { key: key.into(), socket });
        }
        let mut key = PrivateKey::from_openssh(text).map_err(|error| wrong(error.to_string()))?;
        ed25519(key.public_key(), &what)?;
        if key.is_encrypted() {
            let secret = passphrase.and_then(|ask| ask(&what)).ok_or_else(|| SealError::Passphrase(what.clone()))?;
            key = key.decrypt(&secret).map_err(|_| wrong("the passphrase is wrong, or the key is damaged".into()))?;
        }
        Ok(Self::Key(key.into()))
    }

    /// Signs `message` in [`NAMESPACE`]; gives the binary signature blob.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SealError> {
        self.sign_for(NAMESPACE, message)
    }

    /// Signs `message` in `namespace`; gives the binary signature blob.
    pub fn sign_for(&self, namespace: &str, message: &[u8]) -> Result<Vec<u8>, SealError> {
        match self {
            Self::Key(key) => {
                let what = || format!("key {:?}", key.comment());
                let wrong = |error: ssh_key::Error| SealError::Key { what: what(), reason: error.to_string() };
                let signature = key.sign(namespace, HashAlg::Sha512, message).map_err(wrong)?;
                let pem = signature.to_pem(LineEnding::LF).map_err(wrong)?;
                dearmor(&pem).ok_or_else(|| SealError::Key { what: what(), reason: "it made no signature".into() })
            }
            Self::Agent { key, socket } => {
                let broken = |reason: String| SealError::Agent { socket: socket.clone(), reason };
                let data = SshSig::signed_data(namespace, HashAlg::Sha512, message);
                let data = data.map_err(|error| broken(error.to_string()))?;
                let public = key.to_bytes().map_err(|error| broken(error.to_string()))?;
                let signature = super::agent::sign(socket, &public, &data)?;
                let mut blob = BLOB_MAGIC.to_vec();
                blob.extend_from_slice(&1_u32.to_be_bytes());
                put_string(&mut blob, &public);
                put_string(&mut blob, namespace.as_bytes());
                put_string(&mut blob, b"");
                put_string(&mut blob, b"sha512");
                put_string(&mut blob, &signature);
                // An agent is another program: what it gives is checked like anybody's.
                let parsed = parse(&blob).map_err(|error| broken(error.to_string()))?;
                key.verify(namespace, message, &parsed).map_err(|_| broken("its signature is wrong".into()))?;
                Ok(blob)
            }
        }
    }
}

fn ed25519(key: &PublicKey, what: &str) -> Result<(), SealError> {
    match key.algorithm() {
        Algorithm::Ed25519 => Ok(()),
        other => {
            let reason = format!("it is a key of kind {other}: bundles are signed with ssh-ed25519 keys");
            Err(SealError::Key { what: what.to_owned(), reason })
        }
    }
}

/// The armored form of a signature blob, as `ssh-keygen -Y verify -s` reads it.
pub fn armor(blob: &[u8]) -> String {
    const WIDTH: usize = 70;
    let base64 = STANDARD.encode(blob);
    let mut text = format!("{BEGIN}\n");
    for line in base64.as_bytes().chunks(WIDTH) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// The blob in an armored signature.
pub fn dearmor(text: &str) -> Option<Vec<u8>> {
    let inner = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    STANDARD.decode(inner.split_whitespace().collect::<String>()).ok()
}

/// A signature blob as a signature.
pub fn parse(blob: &[u8]) -> Result<SshSig, ssh_key::Error> {
    SshSig::from_pem(armor(blob))
}

/// Appends a string as ssh has it: a length of 32 bits, big endian, and the bytes.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes such a string off the front.
pub fn take_string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_be_bytes(*from.split_off(..4)?.first_chunk()?) as usize;
    from.split_off(..len)
}
