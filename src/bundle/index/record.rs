//! The records of the index as bytes, both ways.

use super::*;
use crate::base::caps;
use crate::base::codec::{Broken, Take, put_bytes, put_vu};
use crate::image::DiffId;
use crate::layer::replay;

pub(super) fn take_id(t: &mut Take<'_>, length: usize) -> Result<ShortId, Broken> {
    let mut id = [0; 32];
    id[..length].copy_from_slice(t.raw(length)?);
    Ok(ShortId(id))
}

pub(super) fn frame_length(length: u64) -> Result<u32, Broken> {
    if length > FRAME_BYTES { Err("a frame over 64 MiB") } else { Ok(length as u32) }
}

pub(super) fn number(value: u64) -> Result<u32, Broken> {
    u32::try_from(value).map_err(|_| "a number out of its table")
}

pub(super) fn put_layer(b: &mut Vec<u8>, layer: &LayerRecord) {
    b.extend_from_slice(layer.diff_id.0.as_bytes());
    put_vu(b, layer.size);
    match layer.kind {
        LayerKind::Split { frame, offset, length } => {
            b.push(0);
            [frame, offset, length].iter().for_each(|n| put_vu(b, (*n).into()));
        }
        LayerKind::Blob { content } => {
            b.push(1);
            put_vu(b, content.into());
        }
        LayerKind::Base => b.push(2),
    }
    match &layer.original {
        None => b.push(0),
        Some((media_type, digest, size)) => {
            b.push(if layer.replay.is_none() { 1 } else { 2 });
            put_bytes(b, media_type.as_bytes());
            b.extend_from_slice(digest.as_bytes());
            put_vu(b, *size);
            if let Some(replay) = layer.replay {
                b.extend_from_slice(&replay.to_bytes());
                if let Replay::Corrected { frame, offset, length, .. } = replay {
                    [frame, offset, length].iter().for_each(|n| put_vu(b, (*n).into()));
                }
            }
        }
    }
}

pub(super) fn take_layer(t: &mut Take<'_>) -> Result<LayerRecord, Broken> {
    let diff_id = DiffId(Digest::from_bytes(t.array()?));
    let size = t.vu()?;
    if size > i64::MAX as u64 {
        return Err("a layer over 2^63 bytes");
    }
    let kind = match t.u8()? {
        0 => LayerKind::Split { frame: number(t.vu()?)?, offset: number(t.vu()?)?, length: number(t.vu()?)? },
        1 => LayerKind::Blob { content: number(t.vu()?)? },
        2 => LayerKind::Base,
        _ => return Err("an unknown kind of layer"),
    };
    let how = t.u8()?;
    let original = match how {
        0 => None,
        1 | 2 => Some((t.text()?.to_owned(), Digest::from_bytes(t.array()?), t.vu()?)),
        _ => return Err("an unknown way of keeping an original"),
    };
    let replay = match how {
        2 => Some(take_replay(t)?),
        _ => None,
    };
    Ok(LayerRecord { diff_id, size, kind, original, replay })
}

pub(super) fn take_replay(t: &mut Take<'_>) -> Result<Replay, Broken> {
    let how = t.array()?;
    if let Some(recipe) = replay::Recipe::from_bytes(how) {
        return Ok(Replay::Exact(recipe));
    }
    let model = replay::Model::from_bytes(how).ok_or("an unknown way of replaying a compressor")?;
    let (frame, offset, length) = (number(t.vu()?)?, number(t.vu()?)?, number(t.vu()?)?);
    if length as usize > replay::CORRECTIONS {
        return Err("corrections over 32 MiB");
    }
    Ok(Replay::Corrected { model, frame, offset, length })
}

pub(super) fn put_image(b: &mut Vec<u8>, image: &ImageRecord) {
    put_vu(b, image.config.into());
    match &image.manifest {
        None => put_vu(b, 0),
        Some((document, media_type)) => {
            put_vu(b, u64::from(*document) + 1);
            put_bytes(b, media_type.as_bytes());
        }
    }
    put_vu(b, image.names.len() as u64);
    image.names.iter().for_each(|name| put_bytes(b, name.as_bytes()));
    put_vu(b, image.layers.len() as u64);
    image.layers.iter().for_each(|layer| put_vu(b, (*layer).into()));
}

pub(super) fn take_image(t: &mut Take<'_>) -> Result<ImageRecord, Broken> {
    let config = number(t.vu()?)?;
    let manifest = match t.vu()? {
        0 => None,
        document => Some((number(document - 1)?, t.text()?.to_owned())),
    };
    let names = t.count(1)?;
    if names > caps::NAMES {
        return Err("more than 4,096 names of one image");
    }
    let names = (0..names).map(|_| t.text().map(str::to_owned)).collect::<Result<_, _>>()?;
    let layers = t.count(1)?;
    if layers > caps::LAYERS {
        return Err("more than 127 layers in one image");
    }
    let layers = (0..layers).map(|_| number(t.vu()?)).collect::<Result<_, _>>()?;
    Ok(ImageRecord { config, manifest, names, layers })
}

pub(super) fn take_frame(t: &mut Take<'_>) -> Result<FrameRecord, Broken> {
    let (stored, check, objects) = (t.vu()?, t.array()?, number(t.vu()?)?);
    let mut prefix = Vec::new();
    for _ in 0..t.count(3)? {
        prefix.push(PrefixPart { content: number(t.vu()?)?, offset: t.vu()?, length: frame_length(t.vu()?)? });
    }
    Ok(FrameRecord { stored, check, objects, prefix })
}
