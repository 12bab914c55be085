//! Volume sets: what is written comes back, damage is located, repaired bit for bit, or refused with its place.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ferry::base::read_at::ReadAt;
use ferry::base::{BoxFault, Class, Ctx, Fault};
use ferry::bundle::volume::{
    Budget, Report, SetId, SetReader, State, VolumeError, VolumeSet, VolumeSize, WriteOptions, Written, check, repair,
    restore, trailer,
};
use ferry::ops::carried::Luggage;
use ferry::ops::media::{self, Attendant};
use proptest::prelude::*;

use crate::fuzz::{fuzz, runs};

/// Bytes that look random and are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Noise(seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15)).bytes(len)
}

fn options(size: Option<u64>, parity: Option<&str>) -> WriteOptions {
    WriteOptions {
        volume_size: size.map(|bytes| VolumeSize::new(bytes).unwrap()),
        parity: parity.map(|share| share.parse().unwrap()),
        ..WriteOptions::new(SetId::derive(b"test"))
    }
}

fn write(path: &Path, stream: &[u8], options: WriteOptions) -> Result<Written, VolumeError> {
    let mut writer = ferry::bundle::volume::SetWriter::to_path(path, options)?;
    // Odd steps: block borders must not matter.
    for part in stream.chunks(100_003) {
        writer.write_all(part).unwrap();
    }
    writer.finish(None, &Ctx::silent())
}

fn read(paths: &[PathBuf]) -> Result<Vec<u8>, Box<dyn Fault>> {
    let reader = SetReader::new(VolumeSet::open(paths)?)?;
    let mut bytes = vec![0; reader.size() as usize];
    reader.read_exact_at(&mut bytes, 0).map_err(|error| {
        let source = error;
        ferry::base::PathError { action: "read", path: PathBuf::new(), source }
    })?;
    Ok(bytes)
}

fn verify(path: &Path) -> Report {
    let set = VolumeSet::open(&[path.to_owned()]).unwrap();
    check(&set, Budget::default(), &Ctx::silent()).unwrap().report
}

fn mend(path: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let set = VolumeSet::open(&[path.to_owned()])?;
    let damage = check(&set, Budget::default(), &Ctx::silent())?;
    repair(&set, damage, None, Budget::default(), &Ctx::silent())
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Overwrites a range with other bytes.
fn destroy(path: &Path, offset: u64, len: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let end = (offset + len).min(file.metadata().unwrap().len());
    let mut bytes = vec![0; end.saturating_sub(offset) as usize];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes.iter_mut().for_each(|byte| *byte ^= 0xA5);
    file.write_all_at(&bytes, offset).unwrap();
}

const MIB: u64 = 1 << 20;

#[test]
fn a_stream_of_any_length_comes_back_from_any_shape() {
    let shapes =
        [(None, None), (None, Some("10%")), (Some(MIB), None), (Some(MIB), Some("25%")), (Some(20 * MIB), None)];
    for (size, parity) in shapes {
        for len in [0, 1, 63, 4_031, 4_032, 4_033, 65_472, 65_473, 900_000, 3 * MIB as usize + 17] {
            let dir = tempfile::tempdir().unwrap();
            let stream = noise(len as u64, len);
            let written = write(&dir.path().join("a.ferry"), &stream, options(size, parity)).unwrap();
            let what = format!("{len} bytes in {size:?} with {parity:?}");
            assert_eq!(read(&[dir.path().to_owned()]).unwrap(), stream, "{what}");
            assert!(verify(dir.path()).intact(), "{what}");
            let sum: u64 = written.files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
            assert_eq!(sum, written.bytes, "{what}");
            let most = written.files.iter().map(|file| fs::metadata(file).unwrap().len()).max().unwrap();
            assert!(size.is_none_or(|size| most <= size), "{what}: {most}");
            assert_eq!(files(dir.path()).len(), written.files.len(), "{what}");
        }
    }
}

#[test]
fn a_small_bundle_costs_little_and_a_pipe_gives_the_bytes_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let stream = noise(1, 1_000_000);
    let path = dir.path().join("a.ferry");
    write(&path, &stream, options(None, None)).unwrap();
    let file = fs::read(&path).unwrap();
    assert!(file.len() - stream.len() < 1_000, "{}", file.len() - stream.len());
    let mut piped = Vec::new();
    let options = options(None, None);
    let mut writer = ferry::bundle::volume::SetWriter::to_pipe(Box::new(&mut piped), options).unwrap();
    writer.write_all(&stream).unwrap();
    writer.finish(None, &Ctx::silent()).unwrap();
    assert!(piped == file);
}

#[test]
fn a_pipe_takes_neither_parity_nor_volumes() {
    for options in [options(None, Some("1%")), options(Some(MIB), None)] {
        let refused = ferry::bundle::volume::SetWriter::to_pipe(Box::new(Vec::new()), options).err().unwrap();
        assert_eq!(refused.class(), Class::Usage);
    }
}

#[test]
fn a_set_is_found_by_its_folder_by_any_volume_by_a_list_and_by_its_name_whatever_the_files_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let stream = noise(2, 3_000_000);
    let path = dir.path().join("a.ferry");
    let written = write(&path, &stream, options(Some(MIB), Some("10%"))).unwrap();
    assert!(written.files.len() >= 5);
    let mut backwards = written.files.clone();
    backwards.reverse();
    for paths in [vec![dir.path().to_owned()], vec![written.files[2].clone()], backwards, vec![path]] {
        assert!(read(&paths).unwrap() == stream, "{paths:?}");
    }
    // Renamed so that order and ending are gone.
    for (file, name) in written.files.iter().zip(["z", "y.bin", "x", "w", "v", "u", "t"]) {
        fs::rename(file, dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("other"), b"a file of somebody else's").unwrap();
    assert!(read(&[dir.path().to_owned()]).unwrap() == stream);
    assert!(read(&[dir.path().join("x")]).unwrap() == stream);
}

#[test]
fn all_missing_volumes_are_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(&dir.path().join("a.ferry"), &noise(3, 5_000_000), options(Some(MIB), None)).unwrap();
    fs::remove_file(&written.files[1]).unwrap();
    fs::remove_file(&written.files[4]).unwrap();
    let error = read(&[dir.path().to_owned()]).unwrap_err();
    assert_eq!(error.class(), Class::NotFound);
    let text = error.to_string();
    assert!(text.contains("volume 2 (a.002.ferry), volume 5 (a.005.ferry)"), "{text}");
}

#[test]
fn mixed_sets_two_versions_and_cut_or_grown_volumes_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one.ferry");
    let written = write(&one, &noise(4, 3_000_000), options(Some(MIB), None)).unwrap();
    let other = WriteOptions { set: SetId::derive(b"other"), ..options(Some(MIB), None) };
    let others = write(&dir.path().join("two.ferry"), &noise(5, 3_000_000), other).unwrap();
    let error = read(&[dir.path().to_owned()]).unwrap_err();
    assert_eq!(error.class(), Class::Conflict);
    assert!(error.to_string().contains("volumes of 2 bundles"), "{error}");
    assert!(read(&[written.files[0].clone()]).unwrap() == noise(4, 3_000_000));
    assert!(read(&[written.files[0].clone(), others.files[1].clone()]).is_err());
    others.files.iter().for_each(|file| fs::remove_file(file).unwrap());

    // The same set ID, other content: a second version of volume 2 in the place of the first.
    let apart = tempfile::tempdir().unwrap();
    let again = write(&apart.path().join("one.ferry"), &noise(6, 3_000_000), options(Some(MIB), None)).unwrap();
    let kept = fs::read(&written.files[1]).unwrap();
    fs::copy(&again.files[1], &written.files[1]).unwrap();
    let error = read(&[dir.path().to_owned()]).unwrap_err();
    assert!(error.to_string().contains("two versions"), "{error}");
    assert!(read(&[written.files[0].clone()]).unwrap_err().to_string().contains("two versions"));
    fs::copy(&again.files[1], dir.path().join("one.002 (1).ferry")).unwrap();
    fs::write(&written.files[1], &kept).unwrap();
    // Beside a whole set that is named it does not matter.
    assert!(read(&[written.files[0].clone()]).unwrap() == noise(4, 3_000_000));
    assert!(read(&[dir.path().to_owned()]).unwrap_err().to_string().contains("two versions"));
    fs::remove_file(dir.path().join("one.002 (1).ferry")).unwrap();
    // The same volume twice is none.
    fs::write(dir.path().join("copy.ferry"), &kept).unwrap();
    assert!(read(&[dir.path().to_owned()]).is_ok());
    fs::remove_file(dir.path().join("copy.ferry")).unwrap();

    let last = written.files.last().unwrap();
    let whole = fs::read(last).unwrap();
    fs::write(last, &whole[..whole.len() - 1]).unwrap();
    let error = read(&[dir.path().to_owned()]).unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    assert!(error.to_string().contains("cut off"), "{error}");
    fs::write(last, [&whole[..], b"x"].concat()).unwrap();
    assert!(read(&[dir.path().to_owned()]).unwrap_err().to_string().contains("appended"));
}

#[test]
fn a_lone_volume_that_is_cut_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    write(&path, &noise(7, 300_000), options(None, None)).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in [whole.len() - 1, 200_000, 64] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = read(std::slice::from_ref(&path)).unwrap_err();
        assert_eq!(error.class(), Class::Integrity, "{len}: {error}");
    }
    for bytes in [&whole[..63], b"", b"#!/bin/sh\n"] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(read(std::slice::from_ref(&path)).unwrap_err().class(), Class::Malformed);
    }
}

#[test]
fn no_byte_of_a_damaged_block_is_given_out_and_the_rest_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let stream = noise(8, 1_000_000);
    write(&path, &stream, options(None, None)).unwrap();
    destroy(&path, 3 * 65_536 + 77, 1);
    let reader = SetReader::new(VolumeSet::open(std::slice::from_ref(&path)).unwrap()).unwrap();
    let mut byte = [0];
    for offset in 0..stream.len() as u64 {
        let bad = (offset + 64) >> 16 == 3;
        if bad || offset % 4_096 == 0 {
            let result = reader.read_exact_at(&mut byte, offset);
            if offset % 1_024 == 0 || !bad {
                assert_eq!(result.is_err(), bad, "{offset}");
            }
            if !bad {
                assert_eq!(byte[0], stream[offset as usize]);
            } else if offset % 4_096 != 0 {
                continue;
            }
        }
    }
    let report = verify(&path);
    assert_eq!(report.lost_blocks, 1);
    let damaged = &report.volumes[0].damaged;
    assert_eq!((damaged.len(), damaged[0].offset, damaged[0].len), (1, 3 * 65_536, 65_536));
    assert!(reader.read_exact_at(&mut [0; 2], stream.len() as u64 - 1).is_err());
    assert!(reader.read_exact_at(&mut [0; 1], u64::MAX).is_err());
}

#[test]
fn equal_input_gives_equal_bytes_whatever_the_budget() {
    let stream = noise(9, 6_000_000);
    let mut first = None;
    for (memory, threads) in [(256 << 20, 1), (256 << 20, 2), (200_000, 2), (1, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let options = WriteOptions { budget: Budget { memory, threads }, ..options(Some(2 * MIB), Some("30%")) };
        write(&dir.path().join("a.ferry"), &stream, options).unwrap();
        let bytes: Vec<_> = files(dir.path()).into_values().collect();
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{memory} bytes, {threads} threads");
    }
}

/// Slots of `block` bytes over all files of a set, as a medium would lose them.
fn slots(files: &BTreeMap<PathBuf, Vec<u8>>, block: u64) -> Vec<(PathBuf, u64)> {
    let each = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        let path = path.clone();
        (0..(bytes.len() as u64).div_ceil(block)).map(move |slot| (path.clone(), slot * block)).collect::<Vec<_>>()
    };
    files.iter().flat_map(each).collect()
}

#[test]
fn any_blocks_up_to_the_parity_come_back_bit_for_bit() {
    let shapes = [(None, "10%", 65_536), (Some(2 * MIB), "10%", 4_096), (Some(2 * MIB), "60%", 4_096)];
    for (shape, (size, parity, block)) in shapes.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let stream = noise(10, 7_000_000);
        let path = dir.path().join("a.ferry");
        write(&path, &stream, options(size, Some(parity))).unwrap();
        let before = files(dir.path());
        let report = verify(dir.path());
        for round in 0..6 {
            let mut noise = Noise(shape as u64 * 100 + round + 1);
            let mut slots = slots(&before, block);
            for _ in 0..report.parity_blocks {
                let (path, offset) = slots.swap_remove(noise.below(slots.len() as u64) as usize);
                destroy(&path, offset, block);
            }
            let found = verify(dir.path());
            assert!(!found.intact() && found.repairable(), "{size:?} {parity} {round}: {}", found.losses());
            let written = mend(dir.path()).unwrap();
            assert!(!written.is_empty());
            assert!(files(dir.path()) == before, "{size:?} {parity} {round}");
        }
    }
}

#[test]
fn a_burst_as_long_as_the_parity_comes_back_wherever_it_hits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    write(&path, &noise(11, 9_000_000), options(None, Some("20%"))).unwrap();
    let before = files(dir.path());
    let whole = before[&path].len() as u64;
    let parity = verify(&path).parity_blocks;
    for start in (0..whole / 65_536 - parity).step_by(7).chain([whole / 65_536 - parity]) {
        destroy(&path, start * 65_536, parity * 65_536);
        mend(&path).unwrap_or_else(|error| panic!("burst at block {start}: {error}"));
        assert!(files(dir.path()) == before, "burst at block {start}");
    }
}

#[test]
fn a_lost_volume_comes_back_under_its_name_when_parity_covers_it() {
    let dir = tempfile::tempdir().unwrap();
    let stream = noise(12, 6_500_000);
    let written = write(&dir.path().join("a.ferry"), &stream, options(Some(2 * MIB), Some("34%"))).unwrap();
    let before = files(dir.path());
    for lost in &written.files {
        fs::remove_file(lost).unwrap();
        assert!(verify(dir.path()).repairable(), "{}", lost.display());
        assert_eq!(mend(dir.path()).unwrap(), std::slice::from_ref(lost));
        assert!(files(dir.path()) == before, "{}", lost.display());
    }
    // Without its head and both of its last frames a file is nothing by itself: it is as good as lost.
    destroy(&written.files[1], 0, 64);
    let len = fs::metadata(&written.files[1]).unwrap().len();
    destroy(&written.files[1], len - 64, 64);
    mend(dir.path()).unwrap();
    assert!(files(dir.path()) == before);
    // Cut off, or something appended.
    for bytes in [before[&written.files[0]][..MIB as usize].to_vec(), [&before[&written.files[0]][..], b"x"].concat()] {
        fs::write(&written.files[0], bytes).unwrap();
        mend(dir.path()).unwrap();
        assert!(files(dir.path()) == before);
    }
}

#[test]
fn just_past_the_parity_repair_refuses_names_the_loss_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    write(&path, &noise(13, 4_000_000), options(None, Some("10%"))).unwrap();
    let parity = verify(&path).parity_blocks;
    for block in 0..=parity {
        destroy(&path, block * 2 * 65_536, 65_536);
    }
    let before = files(dir.path());
    let error = mend(&path).unwrap_err();
    assert_eq!(error.class(), Class::Integrity);
    let text = error.to_string();
    assert!(text.contains(&format!("{} of 62 blocks", parity + 1)), "{text}");
    assert!(text.contains(" 1 too few") && text.contains("a.ferry has") && text.contains("at 0-65535,"), "{text}");
    assert!(files(dir.path()) == before);
    assert_eq!(verify(&path).beyond_repair, 1);
}

/// The hashes of all files of a set.
fn hashes(directory: &Path) -> BTreeMap<PathBuf, [u8; 32]> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), *blake3::hash(&fs::read(&path).unwrap()).as_bytes())).collect()
}

/// With FERRY_FULL set on 680 MiB with a burst of 64 MiB, otherwise on a thirtieth of that.
#[test]
fn four_volumes_with_a_tenth_of_parity_survive_random_loss_a_burst_and_a_volume_and_refuse_what_is_past_it() {
    let scale = if std::env::var_os("FERRY_FULL").is_some() { 30 } else { 1 };
    let (len, volume, burst) = (scale * 680 * MIB / 30, scale * 200 * MIB / 30, scale * 64 * MIB / 30);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let stream = noise(50, len as usize);
    write(&path, &stream, options(Some(volume), Some("10%"))).unwrap();
    let set = VolumeSet::open(&[dir.path().to_owned()]).unwrap();
    assert_eq!(set.volumes(), (4, 1));
    let before = hashes(dir.path());
    let report = verify(dir.path());
    let lengths: Vec<(PathBuf, u64)> =
        report.volumes.iter().map(|volume| (volume.path.clone(), volume.expected)).collect();
    let slots: Vec<(PathBuf, u64)> = lengths
        .iter()
        .flat_map(|(path, len)| (0..len.div_ceil(report.block)).map(|slot| (path.clone(), slot * report.block)))
        .collect();
    let mut noise = Noise(51);
    let mut lose = |count: u64, from: &[(PathBuf, u64)]| {
        let mut left = from.to_vec();
        for _ in 0..count {
            let (path, offset) = left.swap_remove(noise.below(left.len() as u64) as usize);
            destroy(&path, offset, report.block);
        }
    };
    let slack = report.blocks.div_ceil(200);
    for round in 0..2 {
        lose(report.parity_blocks - slack, &slots);
        let found = verify(dir.path());
        assert!(!found.intact() && found.repairable(), "{round}: {}", found.losses());
        mend(dir.path()).unwrap();
        assert!(hashes(dir.path()) == before, "random loss {round}");
    }
    for (n, at) in [(0, 0), (1, volume / 3 + 7), (3, volume / 9)] {
        destroy(&lengths[n].0, at, burst);
        mend(dir.path()).unwrap();
        assert!(hashes(dir.path()) == before, "a burst in volume {}", n + 1);
    }
    // At the limit and just past it. Data blocks alone, which lie in front in each data volume, so that each counts.
    let is_data = |slot: &&(PathBuf, u64)| {
        lengths[..4].iter().any(|(path, length)| slot.0 == *path && slot.1 + report.block <= length * 9 / 10)
    };
    let data: Vec<(PathBuf, u64)> = slots.iter().filter(is_data).cloned().collect();
    lose(report.parity_blocks, &data);
    mend(dir.path()).unwrap();
    assert!(hashes(dir.path()) == before, "as many data blocks as there is parity");
    lose(report.parity_blocks + 1, &data);
    let damaged = hashes(dir.path());
    let error = mend(dir.path()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.class(), Class::Integrity);
    assert!(text.contains(" 1 too few") && text.contains("a.001.ferry has"), "{text}");
    assert!(hashes(dir.path()) == damaged);

    let dir = tempfile::tempdir().unwrap();
    let written = write(&dir.path().join("b.ferry"), &stream, options(Some(volume), Some("31%"))).unwrap();
    let before = hashes(dir.path());
    fs::remove_file(&written.files[1]).unwrap();
    assert_eq!(mend(dir.path()).unwrap(), std::slice::from_ref(&written.files[1]));
    assert!(hashes(dir.path()) == before);
}

#[test]
fn parity_that_disagrees_is_found_out_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let stream = noise(14, 2_000_000);
    write(&path, &stream, options(None, Some("20%"))).unwrap();
    let good = fs::read(&path).unwrap();
    let set = VolumeSet::open(std::slice::from_ref(&path)).unwrap();
    let damage = check(&set, Budget::default(), &Ctx::silent()).unwrap();
    drop(set);
    drop(damage);
    destroy(&path, 0, 65_536);
    let set = VolumeSet::open(std::slice::from_ref(&path)).unwrap();
    let damage = check(&set, Budget::default(), &Ctx::silent()).unwrap();
    // Between the check and the repair a data block changes: as with parity that an attacker's tables vouch for, what the
    // code gives has not the hashes of the tables.
    destroy(&path, 5 * 65_536, 65_536);
    let before = files(dir.path());
    let error = repair(&set, damage, None, Budget::default(), &Ctx::silent()).unwrap_err();
    assert!(matches!(error, VolumeError::ParityDisagrees(_)), "{error}");
    assert!(files(dir.path()) == before);
    assert!(before[&path] != good);
}

#[test]
fn a_damaged_set_is_read_through_its_parity_without_writing_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let stream = noise(15, 5_000_000);
    let written = write(&dir.path().join("a.ferry"), &stream, options(Some(2 * MIB), Some("50%"))).unwrap();
    fs::remove_file(&written.files[1]).unwrap();
    destroy(&written.files[0], 10_000, 20_000);
    let before = files(dir.path());
    let set = VolumeSet::open(&[dir.path().to_owned()]).unwrap();
    let damage = check(&set, Budget::default(), &Ctx::silent()).unwrap();
    let restored = restore(&set, damage, false, scratch.path(), Budget::default(), &Ctx::silent()).unwrap();
    let reader = SetReader::repaired(set, restored);
    let mut bytes = vec![0; reader.size() as usize];
    reader.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == stream);
    assert!(files(dir.path()) == before);
    assert_eq!(files(scratch.path()).len(), 0);
}

#[test]
fn more_stripes_than_one_protect_as_one_code_would_less_the_stated_slack() {
    use ferry::bundle::volume::SetWriter;
    // The smallest blocks make a set of two stripes small enough for a test.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let size = Some(15 * MIB);
    let mut writer = SetWriter::to_path(&path, options(size, Some("10%"))).unwrap();
    let mut source = Noise(16);
    for _ in 0..240 {
        writer.write_all(&source.bytes(1 << 20)).unwrap();
    }
    let written = writer.finish(None, &Ctx::silent()).unwrap();
    let report = verify(dir.path());
    assert!(report.blocks > 57_344, "{}", report.blocks);
    let sums = |files: &[PathBuf]| -> Vec<blake3::Hash> {
        files.iter().map(|file| blake3::hash(&fs::read(file).unwrap())).collect()
    };
    let before = sums(&written.files);
    let slack = (report.blocks + report.parity_blocks) / 200;
    let mut slots: Vec<(PathBuf, u64)> = Vec::new();
    for file in &written.files {
        let len = fs::metadata(file).unwrap().len();
        slots.extend((0..len / 4_096).map(|slot| (file.clone(), slot * 4_096)));
    }
    for _ in 0..report.parity_blocks - slack {
        let (path, offset) = slots.swap_remove(source.below(slots.len() as u64) as usize);
        destroy(&path, offset, 4_096);
    }
    let found = verify(dir.path());
    assert!(found.repairable(), "{}", found.losses());
    mend(dir.path()).unwrap();
    assert!(sums(&written.files) == before);
}

#[test]
fn an_interrupted_write_is_resumed_to_the_same_bytes_and_a_failed_one_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let stream = noise(17, 5_000_000);
    let wanted = {
        let apart = tempfile::tempdir().unwrap();
        write(&apart.path().join("a.ferry"), &stream, options(Some(2 * MIB), Some("20%"))).unwrap();
        files(apart.path()).into_values().collect::<Vec<_>>()
    };
    let resumed = WriteOptions { resume: true, ..options(Some(2 * MIB), Some("20%")) };
    for (resume, left) in [(false, 0), (true, 2)] {
        let options = WriteOptions { resume, ..resumed.clone() };
        let mut writer = ferry::bundle::volume::SetWriter::to_path(&path, options).unwrap();
        writer.write_all(&stream[..3_000_000]).unwrap();
        drop(writer);
        assert_eq!(files(dir.path()).len(), left);
    }
    let error = VolumeSet::open(std::slice::from_ref(&path)).unwrap_err();
    assert!(matches!(error, VolumeError::Unfinished { .. }), "{error}");
    // What was left is damaged, too.
    destroy(&dir.path().join("a.001.ferry.part"), 5_000, 1);
    let written_before = fs::metadata(dir.path().join("a.002.ferry.part")).unwrap().len();
    assert!(written_before > 500_000);
    write(&path, &stream, resumed.clone()).unwrap();
    assert!(files(dir.path()).into_values().collect::<Vec<_>>() == wanted);
    // Once more over what is finished: nothing changes; with other content it is refused.
    write(&path, &stream, resumed.clone()).unwrap();
    assert!(files(dir.path()).into_values().collect::<Vec<_>>() == wanted);
    let mut writer = ferry::bundle::volume::SetWriter::to_path(&path, resumed).unwrap();
    assert!(writer.write_all(&noise(18, 5_000_000)).is_err());
    drop(writer);
    assert!(files(dir.path()).into_values().collect::<Vec<_>>() == wanted);
    // Without --resume numbered files are not overwritten.
    let refused = write(&path, &stream, options(Some(2 * MIB), None)).unwrap_err();
    assert_eq!(refused.class(), Class::Conflict);
}

#[test]
fn what_a_volume_cannot_say_makes_no_reader_panic_or_allocate() {
    // Every byte of a small set flipped in turn, and its ends cut: an error, or the very same stream.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let stream = noise(19, 5_000);
    write(&path, &stream, options(None, None)).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut step = Noise(20);
    for i in 0..whole.len() {
        if (100..4_900).contains(&i) && i % 97 != 0 {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[i] ^= 1 << step.below(8);
        fs::write(&path, &bytes).unwrap();
        assert!(read(std::slice::from_ref(&path)).is_err(), "byte {i}");
    }
}

/// A frame around a forged record, at the end of a file that is otherwise a good one.
fn forge(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let bytes = fs::read(path).unwrap();
    let len = u32::from_le_bytes(bytes[bytes.len() - 16..][..4].try_into().unwrap()) as usize;
    let (body, frame) = bytes.split_at(bytes.len() - len);
    let size = u32::from_le_bytes(frame[16..20].try_into().unwrap()) as usize;
    let mut record = frame[32..32 + size].to_vec();
    change(&mut record);
    let mut out = frame[..8].to_vec();
    out.extend_from_slice(&(record.len() as u32 + 80).to_le_bytes());
    out.extend_from_slice(&frame[12..16]);
    out.extend_from_slice(&(record.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&record);
    out.extend_from_slice(blake3::hash(&out).as_bytes());
    out.extend_from_slice(&(record.len() as u32 + 80).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(b"FERRYEND");
    fs::write(path, [body, &out].concat()).unwrap();
}

#[test]
fn forged_records_with_right_checksums_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let put = |at: usize, bytes: &'static [u8]| {
        move |record: &mut Vec<u8>| record[at..at + bytes.len()].copy_from_slice(bytes)
    };
    type Change = Box<dyn Fn(&mut Vec<u8>)>;
    let cases: Vec<(&str, Change, &str)> = vec![
        ("magic", Box::new(put(0, b"x")), "does not begin with a core"),
        ("version", Box::new(put(8, &[2])), "container version 2"),
        ("block", Box::new(put(10, &[63])), "block size"),
        ("flags", Box::new(put(11, &[0x80])), "unknown flags"),
        ("aligned", Box::new(put(11, &[1])), "parity exactly when"),
        ("volumes", Box::new(put(12, &[2])), "does not follow"),
        ("full", Box::new(put(32, &[0xff; 8])), "make no sense"),
        ("stream", Box::new(put(40, &[0xff; 8])), "make no sense"),
        ("longer stream", Box::new(put(46, &[1])), "does not follow"),
        ("pieces", Box::new(put(48, &[0xff; 4])), "does not follow"),
        ("reserved", Box::new(put(60, &[1])), "reserved"),
        (
            "signatures",
            Box::new(|record| {
                let n = record.len();
                record[n - 4..].copy_from_slice(&[0xff; 4])
            }),
            "too many signatures",
        ),
        ("appended", Box::new(|record| record.push(0)), "too long"),
        ("cut", Box::new(|record| record.truncate(70)), "too short"),
    ];
    for (what, change, expected) in cases {
        write(&path, &noise(21, 100_000), options(None, None)).unwrap();
        forge(&path, change);
        let error = VolumeSet::open(std::slice::from_ref(&path)).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(error.to_string().contains("a.ferry"), "{what}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_is_repaired_exactly_or_refused_and_never_made_worse(
        len in 1_usize..3_000_000,
        share in 1_u32..60,
        volumes in proptest::bool::ANY,
        hits in proptest::collection::vec((any::<u64>(), 1_u64..200_000, 0_u8..10), 1..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let stream = noise(len as u64, len);
        let size = volumes.then_some(MIB);
        let written = write(&dir.path().join("a.ferry"), &stream, options(size, Some(&format!("{share}%")))).unwrap();
        let before = files(dir.path());
        for (at, count, kind) in hits {
            let file = &written.files[(at >> 32) as usize % written.files.len()];
            let Ok(meta) = fs::metadata(file) else { continue };
            match kind {
                0 => fs::remove_file(file).unwrap(),
                1 => OpenOptions::new().write(true).open(file).unwrap().set_len(meta.len() / 2).unwrap(),
                _ => destroy(file, at % meta.len().max(1), count),
            }
        }
        let after = files(dir.path());
        match mend(dir.path()) {
            Ok(_) => prop_assert!(files(dir.path()) == before),
            Err(error) => {
                prop_assert!(files(dir.path()) == after, "{}", error);
                prop_assert!(error.class() == Class::Integrity || error.class() == Class::Malformed, "{}", error);
            }
        }
    }
}

#[test]
fn verify_tells_volume_by_volume_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let written = write(&dir.path().join("a.ferry"), &noise(22, 3_000_000), options(Some(MIB), Some("40%"))).unwrap();
    destroy(&written.files[0], 8_192, 4_096 * 2);
    fs::remove_file(&written.files[2]).unwrap();
    let report = verify(dir.path());
    let states: Vec<State> = report.volumes.iter().map(|volume| volume.state).collect();
    assert_eq!(states[..4], [State::Damaged, State::Intact, State::Missing, State::Intact]);
    let runs: Vec<(u64, u64)> = report.volumes[0].damaged.iter().map(|run| (run.offset, run.len)).collect();
    assert_eq!(runs, [(8_192, 8_192)]);
    assert!(report.volumes.iter().any(|volume| volume.parity));
}

fn ferry(arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(crate::support::ferry()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_commands_verify_repair_and_copy_say_what_they_find_and_do() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let written = write(&path, &noise(23, 3_000_000), options(Some(MIB), Some("20%"))).unwrap();
    let before = files(dir.path());
    let folder = dir.path().to_str().unwrap();
    let (code, out, _) = ferry(&["verify", folder]);
    assert_eq!(code, 0, "{out}");
    assert!(out.ends_with("The bundle is intact.\n"), "{out}");
    destroy(&written.files[1], 40_960, 5_000);
    let (code, out, _) = ferry(&["verify", folder]);
    assert_eq!(code, 6);
    assert!(out.contains("a.002.ferry: damaged\n    bytes 40960 to 49151\n"), "{out}");
    assert!(out.contains("ferry repair can mend it"), "{out}");
    let (code, out, _) = ferry(&["verify", "--format", "json", folder]);
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["lostBlocks"], &found["repairable"]), (6, &2.into(), &true.into()));
    assert_eq!(found["volumes"][1]["damaged"][0]["offset"], 40_960);

    // A damaged source is not copied; what is whole of it stays for the next time.
    let to = other.path().to_str().unwrap();
    let (code, _, error) = ferry(&["copy", folder, to]);
    assert_eq!(code, 6);
    assert!(error.contains("a.002.ferry is damaged at byte 40960"), "{error}");
    assert_eq!(ferry(&["repair", path.to_str().unwrap()]).0, 0);
    assert!(files(dir.path()) == before);
    let (code, out, _) = ferry(&["copy", folder, to]);
    assert_eq!(code, 0);
    let there = fs::metadata(&written.files[0]).unwrap().len() + 40_960;
    assert!(out.contains(&format!("{there} bytes were there")), "{out} {there}");
    let copies: Vec<_> = files(other.path()).into_values().collect();
    assert!(copies == before.values().cloned().collect::<Vec<_>>());

    for file in &written.files[..2] {
        fs::remove_file(file).unwrap();
    }
    let (code, out, _) = ferry(&["verify", folder]);
    assert!(code == 6 && out.contains("cannot be repaired") && out.contains("a.001.ferry is missing"), "{out}");
    let (code, _, error) = ferry(&["repair", folder]);
    assert!(code == 6 && error.contains("cannot be repaired") && error.contains("a.002.ferry is missing"), "{error}");
}

/// A bundle of its own, with another set ID for each name.
fn write_as(path: &Path, seed: u64, parity: Option<&str>) -> Vec<u8> {
    let set = SetId::derive(path.as_os_str().as_encoded_bytes());
    write(path, &noise(seed, 300_000), WriteOptions { set, ..options(None, parity) }).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_named_file_that_is_no_volume_is_refused_by_its_name_whatever_lies_beside_it() {
    for parity in [None, Some("20%")] {
        let dir = tempfile::tempdir().unwrap();
        let whole = write_as(&dir.path().join("other.ferry"), 60, parity);
        let garbage = noise(61, 500_000);
        let contents: [&[u8]; 4] = [b"", b"hello\n", &garbage, &whole[..63]];
        for neighbours in 1..=2 {
            for (name, bytes) in ["app.ferry", "readme.txt"].into_iter().flat_map(|name| contents.map(|c| (name, c))) {
                let path = dir.path().join(name);
                fs::write(&path, bytes).unwrap();
                let what = format!("{name} of {} bytes, {neighbours} beside it, {parity:?}", bytes.len());
                for paths in [vec![path.clone()], vec![path.clone(), dir.path().join("other.ferry")]] {
                    let error = VolumeSet::open(&paths).map(|_| ()).expect_err(&what);
                    assert!(
                        matches!(&error, VolumeError::NotAVolume { path: named } if *named == path),
                        "{what}: {error}"
                    );
                }
                let before = files(dir.path());
                assert!(mend(&path).is_err(), "{what}");
                assert!(files(dir.path()) == before, "{what}");
                fs::remove_file(&path).unwrap();
            }
            write_as(&dir.path().join("third.ferry"), 62, parity);
        }
    }
}

#[test]
fn a_named_volume_is_judged_and_mended_itself_however_whole_its_copy_looks() {
    // Into the frames, and through all of the parity.
    for (parity, cut) in
        [(None, 1), (None, 200_000), (Some("10%"), 1), (Some("10%"), 200_000), (Some("10%"), 1_000_000)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (good, copy) = (dir.path().join("good.ferry"), dir.path().join("copy.ferry"));
        write(&good, &noise(63, 3_000_000), options(None, parity)).unwrap();
        let whole = fs::read(&good).unwrap();
        fs::write(&copy, &whole[..whole.len() - cut]).unwrap();
        let what = format!("{parity:?} {cut}");
        let cut_off = |paths: &[PathBuf]| {
            let error = read(paths).unwrap_err().to_string();
            assert!(error.contains("copy.ferry has") && error.contains("cut off"), "{what}: {error}");
        };
        // Neither passes for the other when both are named.
        for paths in [vec![copy.clone()], vec![good.clone(), copy.clone()], vec![copy.clone(), good.clone()]] {
            cut_off(&paths);
        }
        let report = verify(&copy);
        assert_eq!((report.intact(), &report.volumes[0].path), (false, &copy), "{what}");
        if parity.is_some() {
            assert_eq!(mend(&copy).unwrap(), std::slice::from_ref(&copy), "{what}");
            assert!(fs::read(&copy).unwrap() == whole, "{what}");
        }
        assert!(fs::read(&good).unwrap() == whole, "{what}");
        assert!(read(std::slice::from_ref(&good)).is_ok(), "{what}");
    }
}

#[test]
fn a_named_volume_without_head_and_end_belongs_to_the_set_that_misses_it() {
    let dir = tempfile::tempdir().unwrap();
    let stream = noise(64, 6_500_000);
    let written = write(&dir.path().join("a.ferry"), &stream, options(Some(2 * MIB), Some("34%"))).unwrap();
    write_as(&dir.path().join("b.ferry"), 65, None);
    let before = files(dir.path());
    let lost = &written.files[1];
    for bytes in [Vec::new(), noise(66, 100_000), noise(67, before[lost].len())] {
        fs::write(lost, &bytes).unwrap();
        let report = verify(lost);
        let damaged: Vec<u32> = report.volumes.iter().filter(|v| v.state != State::Intact).map(|v| v.number).collect();
        assert_eq!(damaged, [2], "{} bytes", bytes.len());
        assert_eq!(mend(lost).unwrap(), std::slice::from_ref(lost), "{} bytes", bytes.len());
        assert!(files(dir.path()) == before, "{} bytes", bytes.len());
    }
}

#[test]
fn a_program_beside_its_volumes_stands_for_them_under_either_name() {
    let dir = tempfile::tempdir().unwrap();
    let stream = noise(75, 3_000_000);
    let written = write(&dir.path().join("a.ferry"), &stream, options(Some(MIB), None)).unwrap();
    write_as(&dir.path().join("b.ferry"), 76, None);
    let lead = b"#!/bin/sh\n";
    for name in ["a", "a.ferry"] {
        let path = dir.path().join(name);
        fs::write(&path, [&lead[..], &trailer(lead, 0)].concat()).unwrap();
        assert!(read(std::slice::from_ref(&path)).unwrap() == stream, "{name}");
        fs::rename(&written.files[1], dir.path().join("aside")).unwrap();
        let error = read(std::slice::from_ref(&path)).unwrap_err();
        fs::rename(dir.path().join("aside"), &written.files[1]).unwrap();
        assert!(error.class() == Class::NotFound && error.to_string().contains("a.002.ferry"), "{name}: {error}");
        fs::remove_file(&path).unwrap();
    }
    // Without any volume it stands for nothing, whatever else lies there.
    let path = dir.path().join("c.ferry");
    fs::write(&path, [&lead[..], &trailer(lead, 0)].concat()).unwrap();
    assert!(
        matches!(VolumeSet::open(std::slice::from_ref(&path)), Err(VolumeError::NotAVolume { path: p }) if p == path)
    );
}

#[test]
fn what_is_left_of_tables_and_parity_is_enough_when_the_blocks_are() {
    type Loss = fn(&[PathBuf]);
    /// Overwrites whole blocks of a set of one file with 31 data blocks: piece 31, frames 32 and 33, parity from 34 on.
    fn lose(files: &[PathBuf], blocks: std::ops::Range<u64>) {
        destroy(&files[0], blocks.start * 65_536, (blocks.end - blocks.start) * 65_536);
    }
    fn parity_volumes(files: &[PathBuf]) {
        let parity = files.iter().filter(|file| file.to_str().unwrap().contains(".p0"));
        parity.for_each(|file| fs::remove_file(file).unwrap());
    }
    let cases: [(&str, Option<u64>, &str, u64, Loss); 5] = [
        ("the only parity volume", Some(2 * MIB), "10%", 0, parity_volumes),
        ("all of several parity volumes", Some(MIB), "60%", 0, parity_volumes),
        ("a parity area, its frames all but one pair", None, "10%", 0, |files| {
            let blocks = fs::metadata(&files[0]).unwrap().len() / 65_536;
            lose(files, 34..blocks - 2);
        }),
        ("a parity area with all its frames but one", None, "10%", 0, |files| {
            let blocks = fs::metadata(&files[0]).unwrap().len() / 65_536;
            lose(files, 33..blocks);
        }),
        // The parity alone is left, and no shard of any table: the record vouches for the table that the blocks make.
        ("a table, its shards and a block", None, "100%", 31, |files| {
            [5..6, 31..32, 34..42, 73..80].into_iter().for_each(|blocks| lose(files, blocks));
        }),
    ];
    for (what, size, parity, lost, loss) in cases {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&dir.path().join("a.ferry"), &noise(68, 2_000_000), options(size, Some(parity))).unwrap();
        let before = files(dir.path());
        loss(&written.files);
        assert!(files(dir.path()) != before, "{what}");
        let report = verify(dir.path());
        assert!(!report.intact() && report.repairable(), "{what}: {}", report.losses());
        assert_eq!(report.lost_blocks, lost, "{what}");
        mend(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(files(dir.path()) == before, "{what}");
    }
}

#[test]
fn numbered_volumes_are_not_overwritten_whichever_of_them_are_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let written = write(&path, &noise(69, 3_000_000), options(Some(MIB), Some("20%"))).unwrap();
    let count = written.files.len();
    for left in [1..count, 1..2, count - 1..count] {
        let kept: Vec<(usize, Vec<u8>)> = left.map(|i| (i, fs::read(&written.files[i]).unwrap())).collect();
        written.files.iter().for_each(|file| drop(fs::remove_file(file)));
        kept.iter().for_each(|(i, bytes)| fs::write(&written.files[*i], bytes).unwrap());
        // With and without the ending that is added.
        for name in ["a.ferry", "a"] {
            let refused = write(&dir.path().join(name), &noise(70, 3_000_000), options(Some(MIB), None)).unwrap_err();
            assert!(matches!(refused, VolumeError::Exists { .. }), "{refused}");
        }
        assert_eq!(files(dir.path()).len(), kept.len());
        assert!(kept.iter().all(|(i, bytes)| fs::read(&written.files[*i]).unwrap() == *bytes));
        write(&path, &noise(69, 3_000_000), WriteOptions { resume: true, ..options(Some(MIB), Some("20%")) }).unwrap();
    }
    // One file of that name, and volumes of others, are in nobody's way.
    written.files.iter().for_each(|file| fs::remove_file(file).unwrap());
    for name in ["a.ferry", "aa.001.ferry", "a.1.ferry"] {
        fs::write(dir.path().join(name), b"another").unwrap();
    }
    write(&path, &noise(69, 3_000_000), options(Some(MIB), None)).unwrap();
}

/// Puts in the same medium for ever.
struct Patient(std::cell::Cell<usize>);

impl Attendant for Patient {
    fn settled(&self, _: &Path, files: &[PathBuf], _: u64) {
        assert!(files.is_empty(), "written onto {files:?}");
    }

    fn can_change(&self) -> bool {
        true
    }

    fn next(&self, _: usize, folder: &Path, why: &str) -> Result<PathBuf, BoxFault> {
        self.0.set(self.0.get() + 1);
        if self.0.get() > 100 {
            return Err(VolumeError::Unsuitable(format!("asked for ever: {why}")).into());
        }
        Ok(folder.to_owned())
    }
}

#[test]
fn a_medium_that_stays_full_is_not_asked_for_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.ferry"), &noise(71, 3_000_000), options(Some(MIB), None)).unwrap();
    let set = VolumeSet::open(&[dir.path().to_owned()]).unwrap();
    let attendant = Patient(std::cell::Cell::new(0));
    // A file system that never has any room.
    let error = media::copy(&set, Path::new("/proc"), Luggage::default(), &attendant, &Ctx::silent()).unwrap_err();
    assert_eq!(error.class(), Class::NoSpace, "{error}");
    assert!(error.to_string().contains("/proc: needs ") && error.to_string().contains(", 0 are free"), "{error}");
}

/// Does something as a user who may only do what the permission bits say.
fn unprivileged<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let limited = || {
        // Capabilities are a thread's own.
        let mut sets = capabilities(None).unwrap();
        sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, sets).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(limited).join().unwrap())
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_volume_that_may_not_be_read_is_neither_missing_nor_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let stream = noise(72, 6_500_000);
    let path = dir.path().join("a.ferry");
    let written = write(&path, &stream, options(Some(2 * MIB), Some("34%"))).unwrap();
    let before = files(dir.path());
    for closed in &written.files {
        allow(closed, 0);
        let other = written.files.iter().find(|file| *file != closed).unwrap();
        for paths in [dir.path(), &path, other, closed] {
            let error = unprivileged(|| mend(paths)).unwrap_err();
            let expected = format!("cannot open {}: Permission denied", closed.display());
            assert!(error.to_string().starts_with(&expected), "{}: {error}", paths.display());
            assert_eq!(error.class(), Class::System);
        }
        allow(closed, 0o644);
    }
    // Another bundle's is nobody's concern.
    let foreign = dir.path().join("b.ferry");
    fs::write(&foreign, b"closed").unwrap();
    allow(&foreign, 0);
    assert!(unprivileged(|| read(&[dir.path().to_owned()])).unwrap() == stream);
    fs::remove_file(&written.files[1]).unwrap();
    assert_eq!(unprivileged(|| mend(dir.path())).unwrap(), std::slice::from_ref(&written.files[1]));
    fs::remove_file(&foreign).unwrap();
    assert!(files(dir.path()) == before);
    // When no volume can be read, that is what is said.
    written.files.iter().for_each(|file| allow(file, 0));
    let error = unprivileged(|| VolumeSet::open(&[dir.path().to_owned()])).unwrap_err();
    assert!(error.to_string().contains("Permission denied"), "{error}");
}

#[test]
fn names_that_are_no_text_lead_to_missing_volumes_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(OsStr::from_bytes(b"\xff\xfe.ferry"));
    let written = write(&path, &noise(73, 6_500_000), options(Some(2 * MIB), Some("34%"))).unwrap();
    let before = files(dir.path());
    fs::remove_file(&written.files[1]).unwrap();
    for paths in [dir.path(), &path, &written.files[0]] {
        let error = read(&[paths.to_owned()]).unwrap_err().to_string();
        assert!(error.contains("volume 2 (\u{fffd}\u{fffd}.002.ferry)"), "{error}");
    }
    assert_eq!(mend(dir.path()).unwrap(), std::slice::from_ref(&written.files[1]));
    assert!(files(dir.path()) == before);
}

#[test]
fn repair_where_nothing_can_be_written_says_how_to_write_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    write(&path, &noise(74, 1_000_000), options(None, Some("20%"))).unwrap();
    let whole = fs::read(&path).unwrap();
    destroy(&path, 70_000, 1);
    allow(dir.path(), 0o555);
    let (here, there) = unprivileged(|| {
        let mended = |to: Option<&Path>| {
            let set = VolumeSet::open(std::slice::from_ref(&path))?;
            let damage = check(&set, Budget::default(), &Ctx::silent())?;
            repair(&set, damage, to, Budget::default(), &Ctx::silent())
        };
        (mended(None), mended(Some(elsewhere.path())))
    });
    allow(dir.path(), 0o755);
    let error = here.unwrap_err().to_string();
    assert!(error.contains("cannot create a scratch file in") && error.contains("`ferry repair -o DIR`"), "{error}");
    let mended = elsewhere.path().join("a.ferry");
    assert_eq!(there.unwrap(), std::slice::from_ref(&mended));
    assert!(fs::read(mended).unwrap() == whole);
}

/// The vectors: made once by version 1, read for ever after.
fn vectors() -> PathBuf {
    crate::support::checkout().join("testdata/volumes")
}

#[test]
fn the_vectors_of_version_1_are_read_repaired_and_written_again_byte_for_byte() {
    let stream: Vec<u8> = (0..20_000_u32).flat_map(|i| (i * i).to_le_bytes()).take(20_000).collect();
    let cases = [
        ("compact", 1, WriteOptions { set: SetId::derive(b"compact"), ..options(None, None) }),
        ("parity", 2, WriteOptions { set: SetId::derive(b"parity"), ..options(Some(MIB), Some("100%")) }),
    ];
    for (name, count, options) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(format!("{name}.ferry")), &stream, options).unwrap();
        let made = files(dir.path());
        assert_eq!(made.len(), count);
        for (path, bytes) in &made {
            let vector = vectors().join(path.file_name().unwrap());
            assert!(fs::read(&vector).is_ok_and(|old| old == *bytes), "{} differs", vector.display());
        }
        let first = made.keys().next().unwrap().file_name().unwrap();
        assert!(read(&[vectors().join(first)]).unwrap() == stream, "{name}");
    }
    // The data volume back from the parity of the vector alone.
    let dir = tempfile::tempdir().unwrap();
    fs::copy(vectors().join("parity.p001.ferry"), dir.path().join("parity.p001.ferry")).unwrap();
    mend(dir.path()).unwrap();
    assert!(
        fs::read(dir.path().join("parity.001.ferry")).unwrap() == fs::read(vectors().join("parity.001.ferry")).unwrap()
    );
}

#[test]
fn the_bad_vectors_are_refused_each_for_its_reason() {
    let mut refused = 0;
    let text = fs::read_to_string(vectors().join("bad.txt")).unwrap();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        // FILE OFFSET HEX REASON: what is put where in which good vector, and what the reader says.
        let [file, offset, bytes, reason] = line.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.ferry");
        let mut content = fs::read(vectors().join(file)).unwrap();
        let at: usize = offset.parse().unwrap();
        if bytes == "cut" {
            content.truncate(at);
        } else {
            let bytes = hex::decode(bytes).unwrap();
            content[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        fs::write(&path, content).unwrap();
        let error = read(std::slice::from_ref(&path)).unwrap_err().to_string();
        assert!(error.contains(reason), "{line}: {error}");
        refused += 1;
    }
    assert!(refused >= 6);
}

#[test]
fn records_and_signers_of_any_bytes_are_refused_without_a_panic() {
    use ferry::bundle::seal::{AllowedSigners, Policy, RevokedKeys};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let whole = fs::read(vectors().join("compact.ferry")).unwrap();
    let read = || {
        // A record whose checksum is right may only be refused, or be read as far as the blocks agree with it.
        if let Ok(set) = VolumeSet::open(std::slice::from_ref(&path)) {
            let _ = check(&set, Budget::default(), &Ctx::silent());
            let _ = SetReader::new(set).map(|reader| reader.read_exact_at(&mut [0; 64], 0));
        }
    };
    let seed = std::cell::RefCell::new(Vec::new());
    fs::write(&path, &whole).unwrap();
    forge(&path, |record| seed.replace(record.clone()).clear());
    fuzz("volume record", 5 * runs(), &[seed.into_inner()], false, |bytes| {
        fs::write(&path, &whole).unwrap();
        forge(&path, |record| *record = bytes.to_vec());
        read();
    });
    let with_parity = dir.path().join("p.ferry");
    write(&with_parity, &noise(5, 100_000), options(None, Some("10%"))).unwrap();
    let files = fs::read_dir(dir.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    let volumes: Vec<Vec<u8>> = files.chain([whole.clone()]).collect();
    fuzz("volume", runs(), &volumes, false, |bytes| {
        fs::write(&path, bytes).unwrap();
        read();
    });
    let seeds = [
        "a@x,b namespaces=\"ferry-bundle\",valid-after=\"20260101Z\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti c\n",
        r#"{"require-signature": true, "allowed-signers": "s", "images": {"a": ["*"]}, "permit": ["import"]}"#,
    ];
    fuzz("signers", 10 * runs(), &seeds.map(|seed| seed.as_bytes().to_vec()), false, |text| {
        let lossy = String::from_utf8_lossy(text);
        let _ = AllowedSigners::parse(Path::new("f"), &lossy);
        let _ = RevokedKeys::parse(Path::new("f"), text);
        let _ = Policy::parse(Path::new("f"), text);
    });
}

#[test]
fn repair_replaces_the_volume_that_it_mends_and_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let apart = tempfile::tempdir().unwrap();
    let written =
        write(&dir.path().join("r.ferry"), &noise(80, 6_500_000), options(Some(2 * MIB), Some("34%"))).unwrap();
    let before = files(dir.path());
    let (lost, first) = (&written.files[1], written.files[0].to_str().unwrap());
    // An intact volume of another bundle, a whole bundle, one of this bundle, a folder, a link that leads nowhere.
    let other = WriteOptions { set: SetId::derive(b"other"), ..options(Some(2 * MIB), None) };
    let others = write(&apart.path().join("o.ferry"), &noise(81, 6_500_000), other).unwrap();
    write_as(&apart.path().join("single.ferry"), 82, None);
    for there in [others.files[1].clone(), apart.path().join("single.ferry"), written.files[2].clone()] {
        fs::copy(&there, lost).unwrap();
        let foreign = files(dir.path());
        let (code, out, error) = ferry(&["repair", first]);
        let what = format!("{}: {out}{error}", there.display());
        assert!(code == 4 && error.contains(lost.to_str().unwrap()) && error.contains("is not that volume"), "{what}");
        assert!(files(dir.path()) == foreign, "{what}");
        let (code, _, error) = ferry(&["ls", first]);
        let is_ours = there == written.files[2];
        assert!(
            code == 3 && error.contains("r.002.ferry") && error.contains("of another bundle") != is_ours,
            "{error}"
        );
        let out = ferry(&["verify", first]).1;
        assert!(out.contains("r.002.ferry: missing, and another file has its name"), "{out}");
    }
    fs::remove_file(lost).unwrap();
    for is_link in [false, true] {
        let made = if is_link { std::os::unix::fs::symlink("nowhere", lost) } else { fs::create_dir(lost) };
        made.unwrap();
        assert_eq!(ferry(&["repair", first]).0, 4);
        assert!(lost.symlink_metadata().is_ok());
        let _ = (fs::remove_dir(lost), fs::remove_file(lost));
    }
    // Elsewhere nothing at all is replaced, and the folder is made.
    let to = apart.path().join("new/folder");
    fs::create_dir_all(&to).unwrap();
    fs::write(to.join("r.002.ferry"), "a file").unwrap();
    let into = |to: &Path| ferry(&["repair", "-o", to.to_str().unwrap(), first]);
    let (code, _, error) = into(&to);
    assert!(code == 4 && error.contains("r.002.ferry exists already"), "{error}");
    assert_eq!(fs::read(to.join("r.002.ferry")).unwrap(), b"a file");
    fs::remove_dir_all(to.parent().unwrap()).unwrap();
    assert_eq!(into(&to).0, 0);
    assert!(fs::read(to.join("r.002.ferry")).unwrap() == before[lost]);
    // What has lost both ends counts by its name alone, whatever has its length; then it comes back.
    let ruin = dir.path().join("ruin.ferry");
    fs::write(&ruin, noise(83, before[lost].len())).unwrap();
    assert_eq!(ferry(&["repair", first]).0, 0);
    assert!(fs::read(&ruin).unwrap() == noise(83, before[lost].len()));
    fs::remove_file(&ruin).unwrap();
    assert!(files(dir.path()) == before);
}

#[test]
fn a_volume_behind_a_link_is_mended_where_it_is_and_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let apart = tempfile::tempdir().unwrap();
    let path = apart.path().join("a.ferry");
    write(&path, &noise(84, 1_000_000), options(None, Some("20%"))).unwrap();
    let whole = fs::read(&path).unwrap();
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    destroy(&path, 70_000, 1);
    allow(&path, 0o640);
    let link = dir.path().join("a.ferry");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(ferry(&["repair", link.to_str().unwrap()]).0, 0);
    assert!(link.is_symlink() && fs::read(&path).unwrap() == whole);
    assert_eq!(mode(), 0o640);
}

#[test]
fn what_is_finished_and_differs_is_damaged_or_another_one() {
    for (size, parity) in [(None, None), (Some(MIB), Some("20%"))] {
        let dir = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        let stream = noise(85, 2_500_000);
        let name = dir.path().join("a.ferry");
        let written = write(&name, &stream, options(size, parity)).unwrap();
        let folder = to.path().to_str().unwrap();
        let source = written.files[0].to_str().unwrap();
        assert_eq!(ferry(&["copy", source, folder]).0, 0);
        let copy = to.path().join(written.files[0].file_name().unwrap());
        let whole = fs::read(&copy).unwrap();
        let mut damaged = vec![whole[..whole.len() - 1].to_vec(), [&whole[..], b"x"].concat()];
        for at in [0, 100_000, whole.len() - 10] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            damaged.push(bytes);
        }
        for (number, bytes) in damaged.into_iter().enumerate() {
            fs::write(&copy, &bytes).unwrap();
            let (code, _, error) = ferry(&["copy", source, folder]);
            let text = copy.to_str().unwrap();
            let what = format!("{size:?} {number}: {code} {error}");
            assert!(code == 6 && error.contains(text) && error.contains("damaged: mend it"), "{what}");
            assert!(fs::read(&copy).unwrap() == bytes, "{what}");
            // The same by `--resume`.
            let resumed = WriteOptions { resume: true, ..options(size, parity) };
            let mut writer = ferry::bundle::volume::SetWriter::to_path(&to.path().join("a.ferry"), resumed).unwrap();
            let failed = match writer.write_all(&stream) {
                Err(error) => ferry::base::error::class_of_io(&error),
                Ok(()) => writer.finish(None, &Ctx::silent()).unwrap_err().class(),
            };
            assert_eq!(failed, Class::Integrity, "{what}");
        }
        // Whole, and of something else: of the same set in another version, and of another one.
        for set in [SetId::derive(b"test"), SetId::derive(b"other")] {
            let apart = tempfile::tempdir().unwrap();
            let other = WriteOptions { set, ..options(size, parity) };
            let others = write(&apart.path().join("a.ferry"), &noise(86, 2_500_000), other).unwrap();
            fs::copy(&others.files[0], &copy).unwrap();
            let (code, _, error) = ferry(&["copy", source, folder]);
            assert!(code == 4 && error.contains("of something else"), "{size:?}: {code} {error}");
        }
    }
}

#[test]
fn files_of_several_bundles_and_pipes_are_told_for_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one.ferry"), dir.path().join("TWO.FERRY"));
    write_as(&one, 87, None);
    write_as(&two, 88, None);
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let (code, _, error) = ferry(&["verify", one, two]);
    assert!(code == 4 && error.contains("are of 2 bundles") && error.contains(one) && error.contains(two), "{error}");
    let (code, _, error) = ferry(&["verify", dir.path().to_str().unwrap()]);
    assert!(code == 4 && error.contains("holds volumes of 2 bundles"), "{error}");
    assert_eq!(ferry(&["verify", two]).0, 0);
    for command in ["verify", "ls"] {
        let script = format!("cat '{one}' | \"$FERRY\" {command} /dev/stdin");
        let mut shell = std::process::Command::new("sh");
        let output = shell.args(["-c", &script]).env("FERRY", crate::support::ferry()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains("/dev/stdin is no file"), "{command}: {error}");
    }
    // A name begins no line of its own.
    let path = dir.path().join("a\nVolume 9: x.ferry");
    write_as(&path, 89, None);
    let (_, out, _) = ferry(&["verify", path.to_str().unwrap()]);
    assert!(out.contains("a\u{fffd}Volume 9: x.ferry: intact") && !out.contains("\nVolume 9"), "{out}");
}
