//! A layer's tar on its way into a tree.

use std::io::{self, Read};

use super::Options;
use super::contents::{self, ContentList};
use super::error::StoreError;
use crate::base::digest::HashingReader;
use crate::base::{BoxFault, Ctx, PathError};
use crate::image::DiffId;
use crate::layer::{ApplyOptions, Target, apply};

/// What a tar turned out to be.
pub(super) struct Unpacked {
    pub diff_id: DiffId,
    /// The sum of its files' sizes in bytes, as docker counts.
    pub size: u64,
    pub contents: ContentList,
}

/// Unpacks a tar into `tree`, an empty directory, and writes its tar-split. *Unverified*: what comes is to be compared
/// with what was promised before it is used. `spare` is a place for a directory that may be left over; `expected` is
/// for messages alone.
pub(super) fn unpack(
    tar: &mut (dyn Read + Send),
    target: &Target,
    options: Options,
    expected: Option<DiffId>,
    ctx: &Ctx,
) -> Result<Unpacked, StoreError> {
    let apply_options =
        ApplyOptions { userxattr: options.userxattr, single_id: options.single_id, ..ApplyOptions::default() };
    let applied =
        apply(tar, target, &apply_options, ctx).map_err(|source| StoreError::Layer { diff_id: expected, source })?;
    let fingerprint = contents::fingerprint(&target.tar_split)?;
    let contents = ContentList { tar_size: applied.tar_size, fingerprint, entries: applied.contents };
    Ok(Unpacked { diff_id: applied.diff_id, size: applied.size, contents })
}

/// Reads a tar to its end and compares its digest.
pub(super) fn prove(tar: &mut (dyn Read + Send), expected: DiffId) -> Result<(), StoreError> {
    let mut reader = HashingReader::new(tar);
    io::copy(&mut reader, &mut io::sink()).map_err(|error| fault(expected, error))?;
    let (digest, _, _) = reader.finish();
    if digest == expected.0 { Ok(()) } else { Err(StoreError::WrongDiffId { expected, got: DiffId(digest) }) }
}

/// An error in reading a layer's bytes.
pub(super) fn fault(diff_id: DiffId, source: io::Error) -> StoreError {
    let path = diff_id.to_string().into();
    let source: BoxFault = PathError { action: "read", path, source }.into();
    StoreError::Layer { diff_id: Some(diff_id), source }
}
