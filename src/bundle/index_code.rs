//! The index as bytes, both ways. What is written is what is read: `parse(encode(x)) == x`, and `encode(parse(b)) == b`.

use std::collections::HashSet;

use super::error::BundleError;
use super::index::*;
use crate::base::codec::{Broken, Take, put_bytes, put_vs, put_vu};
use crate::base::{Digest, caps};
use crate::image::DiffId;
use crate::layer::replay;

const SECTIONS: [(u8, &str); 9] = [
    (1, "documents"),
    (2, "layers"),
    (3, "images"),
    (4, "frames"),
    (5, "objects"),
    (6, "contents"),
    (7, "writer"),
    (8, "bases"),
    (9, "base contents"),
];
/// Tags from here on may be skipped by a reader that does not know them.
const ANCILLARY: u8 = 128;
/// Tables are numbered in 32 bits with room to spare for sums.
const TABLE: usize = 1 << 30;

impl Index {
    /// The bytes of the index, before compression.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut section = |tag: u8, write: &dyn Fn(&mut Vec<u8>)| {
            let mut body = Vec::new();
            write(&mut body);
            out.push(tag);
            put_bytes(&mut out, &body);
        };
        section(1, &|b| {
            put_vu(b, self.documents.len() as u64);
            self.documents.iter().for_each(|document| put_bytes(b, document));
        });
        section(2, &|b| {
            put_vu(b, self.layers.len() as u64);
            self.layers.iter().for_each(|layer| put_layer(b, layer));
        });
        section(3, &|b| {
            put_vu(b, self.images.len() as u64);
            self.images.iter().for_each(|image| put_image(b, image));
        });
        section(4, &|b| {
            put_vu(b, self.frames.len() as u64);
            put_vu(b, self.recipe_frames.len() as u64);
            for frame in &self.frames {
                put_vu(b, frame.stored);
                b.extend_from_slice(&frame.check);
                put_vu(b, frame.objects.into());
                put_vu(b, frame.prefix.len() as u64);
                for part in &frame.prefix {
                    put_vu(b, part.content.into());
                    put_vu(b, part.offset);
                    put_vu(b, part.length.into());
                }
            }
            for frame in &self.recipe_frames {
                put_vu(b, frame.stored);
                b.extend_from_slice(&frame.check);
                put_vu(b, frame.length.into());
            }
        });
        section(5, &|b| self.objects.iter().for_each(|size| put_vu(b, (*size).into())));
        section(6, &|b| {
            let Contents { id_length, ids, starts, objects } = &self.contents;
            put_vu(b, ids.len() as u64);
            b.push(*id_length as u8);
            ids.iter().for_each(|id| b.extend_from_slice(&id.0[..*id_length]));
            let mut next = 0;
            for range in starts.windows(2) {
                put_vu(b, u64::from(range[1] - range[0]));
                for object in &objects[range[0] as usize..range[1] as usize] {
                    put_vs(b, i64::from(*object) - next);
                    next = i64::from(*object) + 1;
                }
            }
        });
        section(7, &|b| put_bytes(b, self.writer.as_bytes()));
        if self.is_thin() {
            section(8, &|b| {
                put_vu(b, self.bases.len() as u64);
                for base in &self.bases {
                    b.push(match base.kind {
                        BaseKind::Bundle => 0,
                        BaseKind::Inventory => 1,
                    });
                    b.extend_from_slice(&base.identity);
                    put_bytes(b, base.label.as_bytes());
                }
            });
            section(9, &|b| {
                let BaseContents { ids, sizes } = &self.base_contents;
                put_vu(b, ids.len() as u64);
                ids.iter().for_each(|id| b.extend_from_slice(&id.0[..self.contents.id_length]));
                sizes.iter().for_each(|size| put_vu(b, *size));
            });
        }
        out
    }

    /// Reads an index and checks that nothing in it points outside.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let mut take = Take(bytes);
        let mut bodies: [Option<&[u8]>; 10] = [None; 10];
        let mut last = 0;
        while take.left() > 0 {
            let broken = |what: &str| BundleError::malformed("index", what);
            let tag = take.u8().map_err(broken)?;
            if tag <= last {
                return Err(broken("its sections are out of order"));
            }
            last = tag;
            let body = take.bytes().map_err(broken)?;
            match bodies.get_mut(usize::from(tag)) {
                Some(slot) => *slot = Some(body),
                None if tag >= ANCILLARY => {}
                None => return Err(BundleError::Newer { what: format!("index section {tag}") }),
            }
        }
        let mut index = Self::default();
        for (tag, name) in SECTIONS {
            let place = || format!("index, section {tag} ({name})");
            let Some(body) = bodies[usize::from(tag)] else {
                if tag <= 7 || (tag == 9 && index.is_thin()) {
                    return Err(BundleError::malformed(place(), "it is missing"));
                }
                continue;
            };
            let mut body = Take(body);
            index.take_section(tag, &mut body).map_err(|what| BundleError::malformed(place(), what))?;
            body.end().map_err(|what| BundleError::malformed(place(), what))?;
        }
        index.check().map_err(|(place, what)| BundleError::malformed(format!("index, {place}"), what))?;
        Ok(index)
    }

    fn take_section(&mut self, tag: u8, t: &mut Take<'_>) -> Result<(), Broken> {
        match tag {
            1 => {
                for _ in 0..t.count(1)? {
                    let document = t.bytes()?;
                    if document.len() as u64 > DOCUMENT_BYTES {
                        return Err("a document over 16 MiB");
                    }
                    self.documents.push(document.to_vec());
                }
            }
            2 => self.layers = (0..t.count(35)?).map(|_| take_layer(t)).collect::<Result<_, _>>()?,
            3 => {
                let count = t.count(4)?;
                if count > caps::IMAGES {
                    return Err("more than 65,536 images");
                }
                self.images = (0..count).map(|_| take_image(t)).collect::<Result<_, _>>()?;
            }
            4 => {
                let (contents, recipes) = (t.count(35)?, t.count(34)?);
                self.frames = (0..contents).map(|_| take_frame(t)).collect::<Result<_, _>>()?;
                for _ in 0..recipes {
                    let (stored, check) = (t.vu()?, t.array()?);
                    self.recipe_frames.push(RecipeFrameRecord { stored, check, length: frame_length(t.vu()?)? });
                }
            }
            5 => {
                while t.left() > 0 {
                    let size = frame_length(t.vu()?)?;
                    if size == 0 || self.objects.len() >= TABLE {
                        return Err("an object without bytes, or too many objects");
                    }
                    self.objects.push(size);
                }
            }
            6 => self.take_contents(t)?,
            7 => self.writer = t.text()?.to_owned(),
            8 => {
                for _ in 0..t.count(34)? {
                    let kind = match t.u8()? {
                        0 => BaseKind::Bundle,
                        1 => BaseKind::Inventory,
                        _ => return Err("an unknown kind of base"),
                    };
                    self.bases.push(Base { kind, identity: t.array()?, label: t.text()?.to_owned() });
                }
                if self.bases.is_empty() {
                    return Err("a section of bases without any");
                }
            }
            9 => {
                if !self.is_thin() {
                    return Err("base contents without a base");
                }
                let count = t.count(self.contents.id_length + 1)?;
                for _ in 0..count {
                    self.base_contents.ids.push(take_id(t, self.contents.id_length)?);
                }
                for _ in 0..count {
                    let size = t.vu()?;
                    if size > i64::MAX as u64 {
                        return Err("a content over 2^63 bytes");
                    }
                    self.base_contents.sizes.push(size);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take_contents(&mut self, t: &mut Take<'_>) -> Result<(), Broken> {
        let count = t.count(16)?;
        let id_length = usize::from(t.u8()?);
        if !(16..=32).contains(&id_length) {
            return Err("IDs of a length other than 16 to 32");
        }
        if count >= TABLE {
            return Err("too many contents");
        }
        let mut contents = Contents { id_length, ..Contents::default() };
        for _ in 0..count {
            contents.ids.push(take_id(t, id_length)?);
        }
        let mut next = 0i64;
        for _ in 0..count {
            let objects = t.count(1)?;
            if objects == 0 {
                return Err("a content of no object");
            }
            for _ in 0..objects {
                let object = next.checked_add(t.vs()?).ok_or("an object out of the table")?;
                let number = u32::try_from(object).map_err(|_| "an object out of the table")?;
                if number as usize >= self.objects.len() {
                    return Err("an object out of the table");
                }
                contents.objects.push(number);
                next = object + 1;
            }
            // The section is capped at 1 GiB, so the list fits 32 bits.
            contents.starts.push(contents.objects.len() as u32);
        }
        self.contents = contents;
        Ok(())
    }

    /// What can only be checked when all tables are there.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let mut ids = HashSet::with_capacity(self.contents.ids.len() + self.base_contents.ids.len());
        if !self.contents.ids.iter().chain(&self.base_contents.ids).all(|id| ids.insert(*id)) {
            return Err(("contents", "two contents with one ID"));
        }
        let contents = self.contents.ids.len() + self.base_contents.ids.len();
        if contents >= TABLE {
            return Err(("contents", "too many contents"));
        }
        let mut objects = self.objects.iter();
        for frame in &self.frames {
            if frame.objects == 0 || objects.len() < frame.objects as usize {
                return Err(("frames", "they do not hold as many objects as there are"));
            }
            let length: u64 = objects.by_ref().take(frame.objects as usize).map(|size| u64::from(*size)).sum();
            if length > FRAME_BYTES {
                return Err(("frames", "a frame over 64 MiB"));
            }
            let mut prefix = 0u64;
            for part in &frame.prefix {
                let base = (part.content as usize).checked_sub(self.contents.ids.len());
                let size = base.and_then(|base| self.base_contents.sizes.get(base));
                let end = part.offset.checked_add(part.length.into());
                match (size, end) {
                    (Some(size), Some(end)) if end <= *size => {}
                    _ => return Err(("frames", "a prefix that is not inside a base content")),
                }
                prefix += u64::from(part.length);
            }
            if prefix > FRAME_BYTES {
                return Err(("frames", "a prefix over 64 MiB"));
            }
        }
        if objects.next().is_some() {
            return Err(("frames", "they do not hold as many objects as there are"));
        }
        let mut diff_ids = HashSet::new();
        for layer in &self.layers {
            if !diff_ids.insert(layer.diff_id) {
                return Err(("layers", "two layers with one diff ID"));
            }
            let in_frame = |frame: u32, offset: u32, length: u32| {
                let frame = self.recipe_frames.get(frame as usize).ok_or(("layers", "no such recipe frame"))?;
                if offset.checked_add(length).is_none_or(|end| end > frame.length) {
                    return Err(("layers", "a recipe that ends outside its frame"));
                }
                Ok(())
            };
            if let Some(Replay::Corrected { frame, offset, length, .. }) = layer.replay {
                in_frame(frame, offset, length)?;
            }
            match layer.kind {
                LayerKind::Split { frame, offset, length } => in_frame(frame, offset, length)?,
                LayerKind::Blob { content } => {
                    if content as usize >= contents {
                        return Err(("layers", "no such content"));
                    }
                    if layer.original.as_ref().is_some_and(|(_, _, size)| *size != self.content_size(content)) {
                        return Err(("layers", "a blob of another size than its original"));
                    }
                }
                LayerKind::Base if !self.is_thin() => return Err(("layers", "a layer of a base without a base")),
                LayerKind::Base => {}
            }
            let kept = |(_, digest, size): &(String, Digest, u64)| match layer.kind {
                LayerKind::Split { .. } if layer.replay.is_some() => true,
                // The tar is the original.
                LayerKind::Split { .. } => *digest == layer.diff_id.0 && *size == layer.size,
                LayerKind::Blob { .. } => layer.replay.is_none(),
                LayerKind::Base => false,
            };
            if !layer.original.as_ref().is_none_or(kept) {
                return Err(("layers", "an original that is not kept"));
            }
        }
        for image in &self.images {
            let documents = [Some(image.config), image.manifest.as_ref().map(|m| m.0)];
            if documents.into_iter().flatten().any(|number| number as usize >= self.documents.len()) {
                return Err(("images", "no such document"));
            }
            if image.layers.iter().any(|number| *number as usize >= self.layers.len()) {
                return Err(("images", "no such layer"));
            }
        }
        Ok(())
    }
}

fn take_id(t: &mut Take<'_>, length: usize) -> Result<ShortId, Broken> {
    let mut id = [0; 32];
    id[..length].copy_from_slice(t.raw(length)?);
    Ok(ShortId(id))
}

fn frame_length(length: u64) -> Result<u32, Broken> {
    if length > FRAME_BYTES { Err("a frame over 64 MiB") } else { Ok(length as u32) }
}

fn number(value: u64) -> Result<u32, Broken> {
    u32::try_from(value).map_err(|_| "a number out of its table")
}

fn put_layer(b: &mut Vec<u8>, layer: &LayerRecord) {
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

fn take_layer(t: &mut Take<'_>) -> Result<LayerRecord, Broken> {
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

fn take_replay(t: &mut Take<'_>) -> Result<Replay, Broken> {
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

fn put_image(b: &mut Vec<u8>, image: &ImageRecord) {
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

fn take_image(t: &mut Take<'_>) -> Result<ImageRecord, Broken> {
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

fn take_frame(t: &mut Take<'_>) -> Result<FrameRecord, Broken> {
    let (stored, check, objects) = (t.vu()?, t.array()?, number(t.vu()?)?);
    let mut prefix = Vec::new();
    for _ in 0..t.count(3)? {
        prefix.push(PrefixPart { content: number(t.vu()?)?, offset: t.vu()?, length: frame_length(t.vu()?)? });
    }
    Ok(FrameRecord { stored, check, objects, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layer with an original that is not its tar.
    fn compressed(layer: &mut LayerRecord, size: u64, level: Option<u8>) {
        layer.original = Some(("x".into(), Digest::of(b"other"), size));
        layer.replay = level.and_then(|level| replay::Recipe::from_bytes([1, level])).map(Replay::Exact);
    }

    fn sample() -> Index {
        let id = |n: u8| ShortId(std::array::from_fn(|at| if at < ID_LENGTH { n } else { 0 }));
        let frame = FrameRecord {
            stored: 100,
            check: [7; 32],
            objects: 2,
            prefix: vec![PrefixPart { content: 2, offset: 1, length: 5 }],
        };
        let layer = |n: u8, kind| LayerRecord {
            diff_id: DiffId(Digest::of(&[n])),
            size: 300,
            kind,
            original: None,
            replay: None,
        };
        Index {
            documents: vec![b"{}".to_vec(), b"{\"a\":1}".to_vec()],
            layers: vec![layer(1, LayerKind::Split { frame: 0, offset: 2, length: 9 }), layer(2, LayerKind::Base)],
            images: vec![ImageRecord {
                config: 0,
                manifest: Some((1, "text/x".into())),
                names: vec!["docker.io/library/a:1".into()],
                layers: vec![0, 1],
            }],
            frames: vec![frame],
            recipe_frames: vec![RecipeFrameRecord { stored: 20, check: [8; 32], length: 11 }],
            objects: vec![10, 20],
            contents: Contents {
                id_length: ID_LENGTH,
                ids: vec![id(1), id(2)],
                starts: vec![0, 1, 3],
                objects: vec![1, 0, 1],
            },
            writer: "test".into(),
            bases: vec![Base { kind: BaseKind::Bundle, identity: [9; 32], label: "old".into() }],
            base_contents: BaseContents { ids: vec![id(3)], sizes: vec![6] },
        }
    }

    #[test]
    fn an_index_survives_and_one_that_points_outside_is_refused() {
        let bytes = sample().encode();
        assert_eq!(Index::parse(&bytes).unwrap(), sample());
        type Change = fn(&mut Index);
        let bad: [(&str, Change); 16] = [
            ("an object", |index| index.contents.objects[0] = 2),
            ("a frame of too many objects", |index| index.frames[0].objects = 3),
            ("objects in no frame", |index| index.frames[0].objects = 1),
            ("a frame over its limit", |index| index.objects = vec![40 << 20, 40 << 20]),
            ("a prefix of no base content", |index| index.frames[0].prefix[0].content = 1),
            ("a prefix past its content", |index| index.frames[0].prefix[0].length = 6),
            ("a recipe past its frame", |index| {
                index.layers[0].kind = LayerKind::Split { frame: 0, offset: 3, length: 9 };
            }),
            ("a recipe of no frame", |index| {
                index.layers[0].kind = LayerKind::Split { frame: 1, offset: 0, length: 0 };
            }),
            ("a blob of no content", |index| index.layers[0].kind = LayerKind::Blob { content: 3 }),
            ("one layer twice", |index| index.layers[1].diff_id = index.layers[0].diff_id),
            ("one content twice", |index| index.contents.ids[1] = index.contents.ids[0]),
            ("an image of no layer", |index| index.images[0].layers[0] = 2),
            ("a config that is not there", |index| index.images[0].config = 2),
            ("an original that is not kept", |index| {
                compressed(&mut index.layers[0], 300, None);
            }),
            ("a replay of a layer that is not here", |index| {
                compressed(&mut index.layers[1], 300, Some(6));
            }),
            ("a replay of a blob", |index| {
                index.layers[0].kind = LayerKind::Blob { content: 0 };
                compressed(&mut index.layers[0], 30, Some(6));
            }),
        ];
        for (what, change) in bad {
            let mut index = sample();
            change(&mut index);
            assert!(Index::parse(&index.encode()).is_err(), "{what}");
        }
        let mut replayed = sample();
        compressed(&mut replayed.layers[0], 299, Some(9));
        let mut bytes_of_replayed = replayed.encode();
        assert_eq!(Index::parse(&bytes_of_replayed).unwrap(), replayed);
        let at = bytes_of_replayed.windows(2).position(|pair| pair == [1, 9]).unwrap();
        bytes_of_replayed[at + 1] = 5;
        assert!(Index::parse(&bytes_of_replayed).is_err(), "a replay nobody knows");
        let newer = [&bytes[..], &[100, 0]].concat();
        assert!(matches!(Index::parse(&newer), Err(BundleError::Newer { .. })));
        assert_eq!(Index::parse(&[&bytes[..], &[200, 1, 5]].concat()).unwrap(), sample(), "an ancillary section");
    }

    #[test]
    fn a_damaged_index_is_an_error_or_another_index_and_never_a_panic() {
        let good = sample().encode();
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..1 + next() % 4 {
                let at = next() % bad.len();
                match next() % 4 {
                    0 => bad[at] = next() as u8,
                    1 => bad[at] ^= 1 << (next() % 8),
                    2 => bad.truncate(at.max(1)),
                    _ => bad.insert(at, next() as u8),
                }
            }
            if let Ok(index) = Index::parse(&bad) {
                // Whatever was accepted can be followed.
                for content in 0..index.content_count() {
                    index.content_size(content);
                }
                assert_eq!(Index::parse(&index.encode()).unwrap(), index);
            }
        }
    }
}
