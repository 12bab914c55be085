//! What an entry is, from its header and the metadata before it.

use super::header::Header;
use super::pax::Extended;
use super::sparse::SparseMap;
use crate::base::caps;

/// A time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Since 1970; negative before.
    pub seconds: i64,
    /// Added to the seconds; below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What kind of file an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With content.
    Regular,
    /// Another name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// PAX records for all that follows: nothing on disk.
    Global,
    /// A type that makes no file anywhere, by its flag.
    Other(u8),
}

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: Kind,
    /// Its name as the stream has it.
    pub path: Vec<u8>,
    /// Where a link points, as the stream has it.
    pub link: Vec<u8>,
    /// Permission bits, with set-ID and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Last modification.
    pub mtime: Time,
    /// Device numbers: major, minor.
    pub device: (u32, u32),
    /// Extended attributes, in the stream's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// How many bytes of data follow in the stream.
    pub stored: u64,
    /// Where in the file the data goes, for a sparse one.
    pub sparse: Option<SparseMap>,
}

impl Entry {
    /// Puts an entry together. The flag says that a sparse map stands at the beginning of the data.
    pub(super) fn new(
        header: &Header<'_>,
        extended: Extended,
        sparse: Option<SparseMap>,
    ) -> Result<(Self, bool), &'static str> {
        let mut path = match extended.path {
            Some(path) => path,
            None if header.prefix.is_empty() => header.name.to_vec(),
            None => [header.prefix, b"/", header.name].concat(),
        };
        let kind = match header.type_flag {
            // Before POSIX a directory was a file whose name ends in a slash; PAX sparse files may not be that.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::Regular,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'g' => Kind::Global,
            other => Kind::Other(other),
        };
        let mut stored = extended.size.unwrap_or(header.size);
        if !matches!(kind, Kind::Regular | Kind::Global | Kind::Other(_)) {
            // As Go: these have no data whatever their size field says.
            stored = 0;
        }
        let (mut map, mut in_data) = (sparse, false);
        if kind == Kind::Regular && map.is_none() {
            let found = extended.sparse.finish(stored)?;
            in_data = found.in_data;
            map = found.map;
            if let Some(name) = found.name {
                path = name;
            }
        }
        if let Some(map) = &map
            && !in_data
        {
            map.check(stored)?;
        }
        let id = |value: Option<i64>, own| {
            u32::try_from(value.unwrap_or(own)).map_err(|_| "an owner is not in the range of 32 bits")
        };
        let device = |value| u32::try_from(value).map_err(|_| "a device number is not in the range of 32 bits");
        if path.len() > caps::PATH_BYTES || extended.link.as_ref().is_some_and(|link| link.len() > caps::PATH_BYTES) {
            return Err("a path is longer than 4095 bytes");
        }
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let entry = Self {
            kind,
            path,
            link: extended.link.unwrap_or_else(|| header.link.to_vec()),
            // Only the permission bits of what is a mode with file type in some archives.
            mode: u32::try_from(header.mode & 0o7777).unwrap_or(0),
            uid: id(extended.uid, header.uid)?,
            gid: id(extended.gid, header.gid)?,
            mtime: extended.mtime.unwrap_or(Time { seconds: header.mtime, nanoseconds: 0 }),
            device: if is_device { (device(header.dev_major)?, device(header.dev_minor)?) } else { (0, 0) },
            xattrs: extended.xattrs,
            stored,
            sparse: map,
        };
        Ok((entry, in_data))
    }

    /// The size of the file that the entry makes, in bytes.
    pub fn size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.stored, |map| map.size)
    }
}
