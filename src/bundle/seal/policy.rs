//! What a host accepts: the policy file.
//!
//! A JSON object; every member is optional, an unknown one is refused, since a restriction that is misspelt must not be
//! dropped, and so is one that restricts nothing because its signers are not named:
//!
//! ```json
//! {
//!   "require-signature": true,
//!   "allowed-signers": "/etc/ferry/allowed_signers",
//!   "revoked-keys": "/etc/ferry/revoked_keys",
//!   "images": { "release@example.com": ["registry.example.com/app/*"] },
//!   "permit": ["archive", "import", "receive", "pull"]
//! }
//! ```
//!
//! With `require-signature` bundles must be signed by an allowed key, and every other way in is closed unless `permit`
//! names it. Without it what is not signed comes in, and what is must be signed as the policy has it. `images` binds
//! principals to names: with it a signer can bring only images whose every full name (`docker.io/library/nginx:1.22`)
//! matches a pattern of one of its principals; an image without a name needs the pattern `*`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::allowed::glob;
use super::error::SealError;
use super::verify::SignedBy;
use crate::image::Reference;

/// A way for images into a store, beside bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayIn {
    /// `load` of docker and OCI archives and layouts.
    Archive,
    /// `import` of a file system.
    Import,
    /// Another host's `send`.
    Receive,
    /// `pull` from another host.
    Pull,
}

impl WayIn {
    fn text(self) -> &'static str {
        match self {
            Self::Archive => "loading archives other than signed bundles (\"archive\")",
            Self::Import => "importing file systems (\"import\")",
            Self::Receive => "receiving images (\"receive\")",
            Self::Pull => "pulling images (\"pull\")",
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Members {
    #[serde(default)]
    require_signature: bool,
    allowed_signers: Option<PathBuf>,
    revoked_keys: Option<PathBuf>,
    images: Option<BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    permit: Vec<WayIn>,
}

/// What a host accepts. The default accepts everything.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    path: PathBuf,
    members: Members,
}

impl Policy {
    /// Reads the content of a policy file; relative paths in it are taken from its directory.
    pub fn parse(path: &Path, content: &[u8]) -> Result<Self, SealError> {
        let wrong = |reason: String| SealError::File { path: path.to_owned(), reason };
        let mut members: Members = serde_json::from_slice(content).map_err(|error| wrong(error.to_string()))?;
        if members.require_signature && members.allowed_signers.is_none() {
            return Err(wrong("\"require-signature\" needs \"allowed-signers\"".into()));
        }
        // Whose names, whose keys: without signers neither would restrict anything.
        for (name, there) in [("images", members.images.is_some()), ("revoked-keys", members.revoked_keys.is_some())] {
            if there && members.allowed_signers.is_none() {
                return Err(wrong(format!("\"{name}\" needs \"allowed-signers\"")));
            }
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        for file in [&mut members.allowed_signers, &mut members.revoked_keys].into_iter().flatten() {
            *file = directory.join(&file);
        }
        Ok(Self { path: path.to_owned(), members })
    }

    /// Whether bundles must be signed.
    pub fn requires_signature(&self) -> bool {
        self.members.require_signature
    }

    /// The allowed-signers file.
    pub fn allowed_signers(&self) -> Option<&Path> {
        self.members.allowed_signers.as_deref()
    }

    /// The file of revoked keys.
    pub fn revoked_keys(&self) -> Option<&Path> {
        self.members.revoked_keys.as_deref()
    }

    /// Fails when the policy closes this way in.
    pub fn permits(&self, way: WayIn) -> Result<(), SealError> {
        if !self.members.require_signature || self.members.permit.contains(&way) {
            return Ok(());
        }
        Err(SealError::NotPermitted { policy: self.path.clone(), way: way.text() })
    }

    /// Fails unless one of the signers may bring an image with these names.
    pub fn may_sign(&self, signers: &[SignedBy], names: &[Reference]) -> Result<(), SealError> {
        let Some(images) = &self.members.images else { return Ok(()) };
        let patterns = |signer: &SignedBy| -> Vec<&String> {
            signer.principals.iter().filter_map(|principal| images.get(principal)).flatten().collect()
        };
        let mut texts: Vec<String> = names.iter().map(Reference::full).collect();
        if texts.is_empty() {
            // Nothing but the pattern * matches it: a pattern with a letter in it does not.
            texts.push(String::new());
        }
        for name in texts {
            let his = |signer: &SignedBy| patterns(signer).into_iter().any(|pattern| glob(pattern, &name));
            if !signers.iter().any(his) {
                let signer = signers.iter().flat_map(|signer| signer.principals.clone()).collect::<Vec<_>>().join(", ");
                let image = if name.is_empty() { "an image without a name".to_owned() } else { name };
                return Err(SealError::NotHis { signer, image });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(principal: &str) -> SignedBy {
        SignedBy { principals: vec![principal.to_owned()], fingerprint: "SHA256:x".into() }
    }

    #[test]
    fn a_policy_closes_every_way_it_does_not_name() {
        let strict = br#"{"require-signature": true, "allowed-signers": "s", "permit": ["import"]}"#;
        let policy = Policy::parse(Path::new("/etc/ferry/policy.json"), strict).unwrap();
        assert!(policy.requires_signature());
        assert_eq!(policy.allowed_signers(), Some(Path::new("/etc/ferry/s")));
        assert!(policy.permits(WayIn::Import).is_ok());
        for way in [WayIn::Archive, WayIn::Receive, WayIn::Pull] {
            let error = policy.permits(way).unwrap_err();
            assert!(error.to_string().contains("/etc/ferry/policy.json"), "{error}");
            assert!(Policy::default().permits(way).is_ok());
        }
        for bad in [
            "",
            "[]",
            r#"{"require-signatures": true}"#,
            r#"{"require-signature": true}"#,
            r#"{"permit": ["all"]}"#,
            r#"{"images": {"a": ["*"]}}"#,
            r#"{"revoked-keys": "r"}"#,
        ] {
            assert!(Policy::parse(Path::new("p"), bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn signers_bring_only_images_of_their_names() {
        let text = br#"{"allowed-signers": "s", "images": {"a": ["registry.example.com/app/*"], "b": ["*"]}}"#;
        let policy = Policy::parse(Path::new("p"), text).unwrap();
        let name = |text: &str| text.parse::<Reference>().unwrap();
        let ours = name("registry.example.com/app/web:1");
        assert!(policy.may_sign(&[signer("a")], std::slice::from_ref(&ours)).is_ok());
        assert!(policy.may_sign(&[signer("a")], &[ours.clone(), name("nginx:1")]).is_err());
        assert!(policy.may_sign(&[signer("a"), signer("b")], &[ours.clone(), name("nginx:1")]).is_ok());
        assert!(policy.may_sign(&[signer("a")], &[]).is_err());
        assert!(policy.may_sign(&[signer("b")], &[]).is_ok());
        assert!(policy.may_sign(&[signer("c")], &[ours]).is_err());
    }
}
