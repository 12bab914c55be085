//! The index as bytes, both ways. What is written is what is read: `parse(encode(x)) == x`, and `encode(parse(b)) == b`.

use super::record::*;
use super::*;
use crate::base::caps;
use crate::base::codec::{Broken, Take, put_bytes, put_vs, put_vu};
use crate::bundle::error::BundleError;

const SECTIONS: [(u8, &str); 10] = [
    (1, "documents"),
    (2, "layers"),
    (3, "images"),
    (4, "frames"),
    (5, "objects"),
    (6, "contents"),
    (7, "writer"),
    (8, "bases"),
    (9, "base contents"),
    (HOLDERS, "holders"),
];
/// Which base has what, for messages: a reader that does not know it does without.
const HOLDERS: u8 = 128;
/// Tags from here on may be skipped by a reader that does not know them.
const ANCILLARY: u8 = 128;
/// Tables are numbered in 32 bits with room to spare for sums.
pub(super) const TABLE: usize = 1 << 30;

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
        if !self.holders.is_empty() {
            section(HOLDERS, &|b| self.holders.iter().for_each(|base| put_vu(b, (*base).into())));
        }
        out
    }

    /// Reads an index and checks that nothing in it points outside.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let mut take = Take(bytes);
        let mut bodies: [Option<&[u8]>; HOLDERS as usize + 1] = [None; HOLDERS as usize + 1];
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
                Some(slot) if SECTIONS.iter().any(|(known, _)| *known == tag) => *slot = Some(body),
                _ if tag >= ANCILLARY => {}
                _ => return Err(BundleError::Newer { what: format!("index section {tag}") }),
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
            _ => {
                while t.left() > 0 {
                    self.holders.push(number(t.vu()?)?);
                }
                if self.holders.is_empty() {
                    return Err("a section of holders without any");
                }
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::image::DiffId;
    use crate::layer::replay;

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
            holders: vec![0, 0],
        }
    }

    #[test]
    fn an_index_survives_and_one_that_points_outside_is_refused() {
        let bytes = sample().encode();
        assert_eq!(Index::parse(&bytes).unwrap(), sample());
        type Change = fn(&mut Index);
        let bad: [(&str, Change); 18] = [
            ("a holder that is no base", |index| index.holders[0] = 1),
            ("a holder too few", |index| index.holders.truncate(1)),
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
        let newer = [&Index { holders: Vec::new(), ..sample() }.encode()[..], &[100, 0]].concat();
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
