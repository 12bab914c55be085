//! Receipts: what was loaded, from which bundle, where and when, signed by the host. docs/format/receipt.md has the
//! layout.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::open::KnownBundle;
use crate::base::{BoxFault, Class, Ctx, Fault};
use crate::bundle::carry::{self, Access};
use crate::bundle::seal::{SealError, SignedBy, Signer, Trust, armor, dearmor};
use crate::bundle::volume::VolumeSet;
use crate::image::{Image, ImageSource};

/// What signatures of receipts are for.
pub const NAMESPACE: &str = "ferry-receipt";
const FORMAT: &str = "ferry-receipt";
const VERSION: u32 = 1;
const SIGNATURE: &str = "-----BEGIN SSH SIGNATURE-----";

/// What was loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    format: String,
    version: u32,
    /// When it was loaded, RFC 3339.
    pub loaded: String,
    /// The name of the host.
    pub host: String,
    /// The directory of the store.
    pub store: String,
    /// The version of the ferry that loaded it.
    pub ferry: String,
    /// What the input was called there.
    pub input: String,
    /// The bundle it was, if it was one.
    pub bundle: Option<ReceiptBundle>,
    /// Every image, in the input's order.
    pub images: Vec<ReceiptImage>,
}

/// The bundle that images came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptBundle {
    /// The set's ID, in hex.
    pub set: String,
    /// Its root, `blake3:` and hex.
    pub root: String,
    /// The signers that counted when it was loaded.
    pub signed_by: Vec<ReceiptSigner>,
}

/// One of its signers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptSigner {
    /// The key, `SHA256:…`.
    pub fingerprint: String,
    /// Whose it is, by the loading host's list.
    pub principals: Vec<String>,
}

/// A loaded image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptImage {
    /// Its ID.
    pub id: String,
    /// The names it came with, in full.
    pub names: Vec<String>,
    /// The digest of its manifest, if it came with one.
    pub manifest: Option<String>,
    /// The diff IDs of its layers, base first.
    pub layers: Vec<String>,
}

/// Why something is no receipt, or not the one that is wanted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// No receipt, or a malformed one.
    #[error("{} is no receipt: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A later version.
    #[error("{} is a receipt of version {version}: a later ferry wrote it, this one reads version {VERSION}", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The receipt of something else.
    #[error("{} is not the receipt of {bundle}: {reason}", .path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// The bundle.
        bundle: String,
        /// What differs.
        reason: String,
    },
}

impl Fault for ReceiptError {
    fn class(&self) -> Class {
        match self {
            Self::Malformed { .. } => Class::Malformed,
            Self::Version { .. } => Class::Unsupported,
            Self::Other { .. } => Class::Integrity,
        }
    }
}

/// Where and when a load happened, as the command line knows it.
#[derive(Debug, Clone)]
pub struct Scene {
    /// What the input was called.
    pub input: String,
    /// The name of the host.
    pub host: String,
    /// The directory of the store.
    pub store: String,
    /// Now.
    pub time: jiff::Timestamp,
}

impl Receipt {
    /// The receipt for `images` out of `bundle`.
    pub fn new(images: &[Image], bundle: Option<&KnownBundle>, scene: Scene) -> Self {
        let signer = |signer: &SignedBy| ReceiptSigner {
            fingerprint: signer.fingerprint.clone(),
            principals: signer.principals.clone(),
        };
        let bundle = bundle.map(|bundle| ReceiptBundle {
            set: bundle.set.to_string(),
            root: format!("blake3:{}", bundle.root),
            signed_by: bundle.signed_by.iter().map(signer).collect(),
        });
        let image = |image: &Image| ReceiptImage {
            id: image.config.id().to_string(),
            names: image.names.iter().map(|name| name.full()).collect(),
            manifest: image.manifest.as_ref().map(|manifest| manifest.digest().to_string()),
            layers: image.config.diff_ids().iter().map(|diff_id| diff_id.to_string()).collect(),
        };
        Self {
            format: FORMAT.into(),
            version: VERSION,
            loaded: scene.time.to_string(),
            host: scene.host,
            store: absolute(&scene.store),
            ferry: env!("CARGO_PKG_VERSION").into(),
            input: scene.input,
            bundle,
            images: images.iter().map(image).collect(),
        }
    }

    /// The text of the file: the document, and behind it the signature when there is a signer.
    pub fn seal(&self, signer: Option<&Signer>) -> Result<String, BoxFault> {
        let wrong =
            |error: serde_json::Error| ReceiptError::Malformed { path: PathBuf::new(), reason: error.to_string() };
        let mut text = serde_json::to_string_pretty(self).map_err(wrong)?;
        text.push('\n');
        if let Some(signer) = signer {
            let blob = signer.sign_for(NAMESPACE, text.as_bytes())?;
            text += &armor(&blob);
        }
        Ok(text)
    }
}

/// A path as it reads from anywhere: the receipt is read on another host.
fn absolute(path: &str) -> String {
    std::path::absolute(path).map_or_else(|_| path.to_owned(), |path| path.display().to_string())
}

/// A receipt as it came back.
#[derive(Debug, Clone)]
pub struct Returned {
    /// What it says.
    pub receipt: Receipt,
    /// What the signature is over.
    statement: String,
    /// The signature, if it has one.
    signature: Option<Vec<u8>>,
    path: PathBuf,
}

impl Returned {
    /// Reads the content of the file at `path`. The signature is not verified here.
    pub fn parse(path: &Path, content: &[u8]) -> Result<Self, ReceiptError> {
        let malformed = |reason: &str| ReceiptError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        let text = std::str::from_utf8(content).map_err(|_| malformed("it is not text"))?;
        let (statement, signature) = match text.find(SIGNATURE) {
            Some(at) if at == 0 || text.as_bytes()[at - 1] == b'\n' => {
                let (statement, armored) = text.split_at(at);
                let blob = dearmor(armored).ok_or_else(|| malformed("its signature is malformed"))?;
                (statement, Some(blob))
            }
            _ => (text, None),
        };
        // The version first: a later one may look different.
        #[derive(Deserialize)]
        struct Front {
            format: String,
            version: u32,
        }
        let front: Front = serde_json::from_str(statement).map_err(|error| malformed(&error.to_string()))?;
        if front.format != FORMAT {
            return Err(malformed("its format is another"));
        }
        if front.version != VERSION {
            return Err(ReceiptError::Version { path: path.to_owned(), version: front.version });
        }
        let receipt = serde_json::from_str(statement).map_err(|error| malformed(&error.to_string()))?;
        Ok(Self { receipt, statement: statement.to_owned(), signature, path: path.to_owned() })
    }

    /// Whether it carries a signature.
    pub fn signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Who of those who are trusted signed it.
    pub fn verify(&self, trust: &Trust) -> Result<Vec<SignedBy>, SealError> {
        let what = self.path.display().to_string();
        trust.verify_for(NAMESPACE, &what, &self.statement, self.signature.as_slice())
    }

    /// Fails unless it is for the bundle at `paths`, and names every image in it. Says whether the images were compared:
    /// those of an encrypted bundle are only when `access` has its key.
    pub fn compare(&self, paths: &[PathBuf], access: &Access, ctx: &Ctx) -> Result<bool, BoxFault> {
        let set = VolumeSet::open(paths)?;
        let bundle = set.near().display().to_string();
        let other = |reason: String| ReceiptError::Other { path: self.path.clone(), bundle: bundle.clone(), reason };
        let root = format!("blake3:{}", set.root());
        match &self.receipt.bundle {
            None => return Err(other("it is for an archive".into()).into()),
            Some(named) if named.root != root => {
                return Err(other(format!("it is for one with root {}, this one has {root}", named.root)).into());
            }
            Some(_) => {}
        }
        let encrypted = set.encrypted();
        let source = match carry::open(set, access, ctx) {
            Ok(opened) => opened.source,
            Err(_) if encrypted => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let loaded: BTreeSet<&str> = self.receipt.images.iter().map(|image| image.id.as_str()).collect();
        let ids = source.images().iter().map(|image| image.config.id().to_string());
        if let Some(id) = ids.into_iter().find(|id| !loaded.contains(id.as_str())) {
            return Err(other(format!("image {id} is not in it")).into());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_written_to_the_letter_of_its_specification() {
        let layer = crate::base::Digest::of(b"layer");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
        );
        let config = crate::image::ImageConfig::parse(config.into_bytes()).unwrap();
        let image = Image { names: vec!["app:1".parse().unwrap()], config, manifest: None, layers: Vec::new() };
        let bundle = ReceiptBundle {
            set: "00112233445566778899aabbccddeeff".into(),
            root: format!("blake3:{}", "0123456789abcdef".repeat(4)),
            signed_by: vec![ReceiptSigner { fingerprint: "SHA256:x".into(), principals: vec!["a@example".into()] }],
        };
        let scene = Scene {
            input: "/media/stick/app.ferry".into(),
            host: "far".into(),
            store: "/var/lib/ferry".into(),
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        let receipt = Receipt { bundle: Some(bundle), ferry: "0.1.0".into(), ..Receipt::new(&[image], None, scene) };
        let golden = r#"{
  "format": "ferry-receipt",
  "version": 1,
  "loaded": "1970-01-01T00:00:00Z",
  "host": "far",
  "store": "/var/lib/ferry",
  "ferry": "0.1.0",
  "input": "/media/stick/app.ferry",
  "bundle": {
    "set": "00112233445566778899aabbccddeeff",
    "root": "blake3:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "signedBy": [
      {
        "fingerprint": "SHA256:x",
        "principals": [
          "a@example"
        ]
      }
    ]
  },
  "images": [
    {
      "id": "sha256:8ad5acb20827d5498177084fe0d6c8b238745e06260c03a0d1c22a81051e0f66",
      "names": [
        "docker.io/library/app:1"
      ],
      "manifest": null,
      "layers": [
        "sha256:dac1d7cfa95021764849fd102524e141488c5e3a90f861dbb5a12d9ac8584f85"
      ]
    }
  ]
}
"#;
        assert_eq!(receipt.seal(None).unwrap(), golden);
        assert_eq!(Returned::parse(Path::new("r"), golden.as_bytes()).unwrap().receipt, receipt);
    }

    #[test]
    fn a_receipt_is_read_as_it_was_written_and_others_are_refused() {
        let scene = Scene {
            input: "a\nb.ferry".into(),
            host: "far".into(),
            store: "/s".into(),
            time: jiff::Timestamp::UNIX_EPOCH,
        };
        let receipt = Receipt::new(&[], None, scene);
        let text = receipt.seal(None).unwrap();
        let path = Path::new("r");
        let back = Returned::parse(path, text.as_bytes()).unwrap();
        assert_eq!((&back.receipt, back.signed()), (&receipt, false));
        let class = |text: &str| Returned::parse(path, text.as_bytes()).map(|_| ()).unwrap_err().class();
        for bad in ["", "{}", "[]", "\u{0}", SIGNATURE, &format!("{text}{SIGNATURE}\nx"), &text[..text.len() / 2]] {
            assert_eq!(class(bad), Class::Malformed, "{bad:?}");
        }
        assert_eq!(class(&text.replace("\"version\": 1", "\"version\": 2")), Class::Unsupported);
        assert_eq!(class(&text.replace("ferry-receipt", "other")), Class::Malformed);
    }
}
