//! How large a volume may be, and how its files are called.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The most bytes of a volume file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeSize(u64);

/// A text that is no volume size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no volume size: give fat32, cd, dvd, bd, or bytes with k, m, g or t (powers of 1024), at least 1m")]
pub struct VolumeSizeError(String);

impl VolumeSize {
    /// The smallest volume, in bytes.
    pub const MIN: u64 = 1 << 20;

    /// A limit in bytes; nothing below [`VolumeSize::MIN`].
    pub fn new(bytes: u64) -> Option<Self> {
        (Self::MIN..=1 << 50).contains(&bytes).then_some(Self(bytes))
    }

    /// The limit in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for VolumeSize {
    type Err = VolumeSizeError;

    fn from_str(text: &str) -> Result<Self, VolumeSizeError> {
        // Media: their capacity less 2 MiB for the file system's own. A DVD is taken as DVD+R, the smaller of the two
        // kinds; a disc needs UDF, since ISO 9660 without it ends at 4 GiB a file.
        const FILE_SYSTEM: u64 = 2 << 20;
        let wrong = || VolumeSizeError(text.chars().take(40).collect());
        let bytes = match text.to_ascii_lowercase().as_str() {
            "fat32" => u64::from(u32::MAX),
            "cd" => 360_000 * 2_048 - FILE_SYSTEM,
            "dvd" => 2_295_104 * 2_048 - FILE_SYSTEM,
            "bd" => 12_219_392 * 2_048 - FILE_SYSTEM,
            other => {
                let other = other.strip_suffix("ib").or_else(|| other.strip_suffix('b')).unwrap_or(other);
                let digits = other.trim_end_matches(['k', 'm', 'g', 't']);
                let shift = match &other[digits.len()..] {
                    "" => 0,
                    "k" => 10,
                    "m" => 20,
                    "g" => 30,
                    "t" => 40,
                    _ => return Err(wrong()),
                };
                let number: u64 = digits.parse().map_err(|_| wrong())?;
                number.checked_mul(1 << shift).ok_or_else(wrong)?
            }
        };
        Self::new(bytes).ok_or_else(wrong)
    }
}

/// A share of parity, in hundredths of a percent of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityShare(u32);

/// A text that is no share of parity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no share of parity: give a percentage from 0.01% to 100%")]
pub struct ParityShareError(String);

impl ParityShare {
    /// The parity blocks for `data` data blocks.
    pub fn blocks(self, data: u64) -> u64 {
        (u128::from(data) * u128::from(self.0)).div_ceil(10_000) as u64
    }
}

impl FromStr for ParityShare {
    type Err = ParityShareError;

    fn from_str(text: &str) -> Result<Self, ParityShareError> {
        let wrong = || ParityShareError(text.chars().take(40).collect());
        let number = text.strip_suffix('%').unwrap_or(text);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if part.len() > 2 || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let whole: u32 = whole.parse().map_err(|_| wrong())?;
        let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
        let share = whole.checked_mul(100).and_then(|whole| whole.checked_add(part)).ok_or_else(wrong)?;
        (1..=10_000).contains(&share).then_some(Self(share)).ok_or_else(wrong)
    }
}

/// The ending of a bundle's files.
pub const ENDING: &str = ".ferry";

/// A file name without [`ENDING`], in letters of either case, as media have them; nothing for a name without it.
fn stem_of(name: &[u8]) -> Option<&[u8]> {
    let at = name.len().checked_sub(ENDING.len())?;
    name[at..].eq_ignore_ascii_case(ENDING.as_bytes()).then(|| &name[..at])
}

/// Whether a file is called like a bundle.
pub fn has_ending(path: &Path) -> bool {
    stem_of(path.as_os_str().as_encoded_bytes()).is_some()
}

/// How the files of a set are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    directory: PathBuf,
    whole: OsString,
    stem: OsString,
}

impl Names {
    /// After the path the user gave, with or without the ending. Nothing for a path without a file name.
    pub fn new(path: &Path) -> Option<Self> {
        let whole = path.file_name()?.to_owned();
        let stem = stem_of(whole.as_bytes()).filter(|stem| !stem.is_empty());
        let stem = stem.map_or_else(|| whole.clone(), |stem| OsString::from_vec(stem.to_vec()));
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Some(Self { directory, whole, stem })
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The one file of a set without a volume size.
    pub fn single(&self) -> PathBuf {
        self.directory.join(&self.whole)
    }

    /// Data volume `number`, from 1.
    pub fn data(&self, number: u32) -> PathBuf {
        self.numbered(format!(".{number:03}{ENDING}"))
    }

    /// Parity volume `number`, from 1.
    pub fn parity(&self, number: u32) -> PathBuf {
        self.numbered(format!(".p{number:03}{ENDING}"))
    }

    fn numbered(&self, ending: String) -> PathBuf {
        let mut name = self.stem.clone();
        name.push(ending);
        self.directory.join(name)
    }

    /// The names behind a volume's file name: `x.002.ferry` belongs to `x.ferry`.
    pub fn of_volume(path: &Path) -> Option<Self> {
        let name = path.file_name()?.as_bytes();
        let stem = stem_of(name)?;
        let base = base_of_numbered(name).unwrap_or(stem);
        Self::new(&path.with_file_name(OsString::from_vec([base, &name[stem.len()..]].concat())))
    }

    /// Whether a file is called as a numbered volume of this set is, wherever it lies.
    pub fn is_numbered(&self, path: &Path) -> bool {
        path.file_name().and_then(|name| base_of_numbered(name.as_bytes())) == Some(self.stem.as_bytes())
    }
}

/// What stands before number and ending in the name of a numbered volume. File names are bytes: not all are text.
fn base_of_numbered(name: &[u8]) -> Option<&[u8]> {
    let stem = stem_of(name)?;
    let dot = stem.iter().rposition(|byte| *byte == b'.')?;
    let digits = stem[dot + 1..].strip_prefix(b"p").unwrap_or(&stem[dot + 1..]);
    (digits.len() >= 3 && digits.iter().all(u8::is_ascii_digit)).then_some(&stem[..dot])
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn sizes_and_shares_are_read_as_people_write_them() {
        let size = |text: &str| text.parse().ok().map(VolumeSize::bytes);
        for (text, bytes) in [
            ("4g", Some(4 << 30)),
            ("4GiB", Some(4 << 30)),
            ("700m", Some(700 << 20)),
            ("1048576", Some(1 << 20)),
            ("fat32", Some((4 << 30) - 1)),
            ("DVD", Some(4_700_372_992 - (2 << 20))),
            ("1048575", None),
            ("", None),
            ("g", None),
            ("4gg", None),
            ("-1", None),
            ("99999999999t", None),
        ] {
            assert_eq!(size(text), bytes, "{text:?}");
        }
        let blocks = |text: &str| text.parse().ok().map(|share: ParityShare| share.blocks(1_000));
        for (text, expected) in [
            ("10%", Some(100)),
            ("10", Some(100)),
            ("0.5%", Some(5)),
            ("0.01%", Some(1)),
            ("33.33%", Some(334)),
            ("100%", Some(1_000)),
            ("0%", None),
            ("100.01%", None),
            ("+1%", None),
            ("1.234%", None),
            ("%", None),
        ] {
            assert_eq!(blocks(text), expected, "{text:?}");
        }
    }

    #[test]
    fn names_of_volumes_lead_back_to_the_name_of_the_set() {
        let names = Names::new(Path::new("/a/x.ferry")).unwrap();
        assert_eq!(names.data(1), Path::new("/a/x.001.ferry"));
        assert_eq!(names.parity(12), Path::new("/a/x.p012.ferry"));
        for path in ["/a/x.ferry", "/a/x.001.ferry", "/a/x.1000.ferry", "/a/x.p001.ferry"] {
            assert_eq!(Names::of_volume(Path::new(path)).as_ref(), Some(&names), "{path}");
        }
        assert_eq!(Names::of_volume(Path::new("x.1.ferry")).unwrap().single(), Path::new("./x.1.ferry"));
        // Letters of either case end a name.
        let names = Names::new(Path::new("/a/X.FERRY")).unwrap();
        assert_eq!((names.single(), names.data(1)), ("/a/X.FERRY".into(), "/a/X.001.ferry".into()));
        assert!(names.is_numbered(Path::new("X.001.FERRY")) && has_ending(Path::new("a.Ferry")));
        assert!(!has_ending(Path::new("ferry")) && !has_ending(Path::new("a.ferry.part")));
        // Names are bytes.
        let names = Names::new(Path::new(OsStr::from_bytes(b"/a/\xff\xfe.ferry"))).unwrap();
        for path in [names.single(), names.data(2), names.parity(1)] {
            assert_eq!(Names::of_volume(&path).as_ref(), Some(&names), "{path:?}");
        }
    }

    #[test]
    fn numbered_volumes_of_a_name_are_told_from_all_other_files() {
        for name in ["/a/x.ferry", "/a/x"] {
            let names = Names::new(Path::new(name)).unwrap();
            for (file, numbered) in [
                ("/a/x.001.ferry", true),
                ("/a/x.p012.ferry", true),
                ("x.1000.ferry", true),
                ("/a/x.ferry", false),
                ("/a/x.01.ferry", false),
                ("/a/x.001.ferry.part", false),
                ("/a/x.q001.ferry", false),
                ("/a/xx.001.ferry", false),
                ("/a/x.001.002.ferry", false),
            ] {
                assert_eq!(names.is_numbered(Path::new(file)), numbered, "{file} of {name}");
            }
        }
    }
}
