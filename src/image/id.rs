//! The three kinds of SHA-256 that Docker and OCI give names to, kept apart by type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::base::digest::DigestError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// The digest of an image's config document: the image's identity for docker.
    ImageId
}
id! {
    /// The digest of a layer's uncompressed tar stream.
    DiffId
}
id! {
    /// The digest that names a layer together with all below it (OCI image specification, "Layer ChainID").
    ChainId
}

impl ChainId {
    /// The chain ID of the bottom layer.
    pub const fn base(diff_id: DiffId) -> Self {
        Self(diff_id.0)
    }

    /// The chain ID of `diff_id` on top of `self`.
    pub fn child(&self, diff_id: DiffId) -> Self {
        Self(Digest::of(format!("{self} {diff_id}").as_bytes()))
    }

    /// The chain IDs of a stack of layers, base first; one for each.
    pub fn chain(diff_ids: impl IntoIterator<Item = DiffId>) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::new();
        for diff_id in diff_ids {
            chain.push(chain.last().map_or(Self::base(diff_id), |parent| parent.child(diff_id)));
        }
        chain
    }
}
