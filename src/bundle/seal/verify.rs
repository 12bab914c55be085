//! Whether a bundle is signed by somebody who is trusted, and for what.

use jiff::Timestamp;
use ssh_key::{Algorithm, HashAlg, PublicKey};

use super::allowed::{AllowedSigners, RevokedKeys};
use super::error::SealError;
use super::sign::{NAMESPACE, parse};

/// Who is trusted, when.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The keys.
    pub allowed: AllowedSigners,
    /// Keys that are not, whatever the list says.
    pub revoked: RevokedKeys,
    /// The time that validity is judged at.
    pub now: Timestamp,
}

/// A good signature by a trusted key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// The principals of its key.
    pub principals: Vec<String>,
    /// The key's fingerprint, `SHA256:…`.
    pub fingerprint: String,
}

impl Trust {
    /// The good signatures among `blobs` over `statement`. Fails when there is none, saying what is wrong with each;
    /// `what` is the bundle, for messages. A signature that is wrong does not spoil one that is right.
    pub fn verify(&self, what: &str, statement: &str, blobs: &[Vec<u8>]) -> Result<Vec<SignedBy>, SealError> {
        self.verify_for(NAMESPACE, what, statement, blobs)
    }

    /// The same for signatures of another namespace.
    pub fn verify_for(
        &self,
        namespace: &str,
        what: &str,
        statement: &str,
        blobs: &[Vec<u8>],
    ) -> Result<Vec<SignedBy>, SealError> {
        if blobs.is_empty() {
            return Err(SealError::NotSigned(what.to_owned()));
        }
        let mut good = Vec::new();
        let mut reasons = Vec::new();
        for blob in blobs {
            match self.judge(namespace, statement, blob) {
                Ok(signed) => good.push(signed),
                Err(reason) => reasons.push(reason),
            }
        }
        if good.is_empty() { Err(SealError::NotTrusted { what: what.to_owned(), reasons }) } else { Ok(good) }
    }

    fn judge(&self, namespace: &str, statement: &str, blob: &[u8]) -> Result<SignedBy, String> {
        let signature = parse(blob).map_err(|error| format!("a signature is malformed: {error}"))?;
        let key = PublicKey::from(signature.public_key().clone());
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let because = |reason: &str| format!("{fingerprint}: {reason}");
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(because("not an ssh-ed25519 key"));
        }
        if self.revoked.contains(&key) {
            return Err(because("the key is revoked"));
        }
        let principals = self.allowed.principals(&key, namespace, self.now).map_err(|reason| because(&reason))?;
        key.verify(namespace, statement.as_bytes(), &signature)
            .map_err(|_| because("the signature is not over this text"))?;
        Ok(SignedBy { principals, fingerprint })
    }
}
