//! Removable media: what is plugged in, what fits on it, and whether what was written can be read from it.

mod direct;
mod probe;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use direct::DirectReader;

use crate::base::{AtPath, Class, Fault, PathError};
use crate::sys::mountinfo::{self, Mount};

/// A mounted medium, or a partition that could be mounted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Medium {
    /// The block device, `/dev/sdb1`.
    pub device: String,
    /// Where it is mounted.
    pub mount_point: Option<PathBuf>,
    /// The file system's type as the kernel names it.
    pub file_system: Option<String>,
    /// In bytes.
    pub size: u64,
    /// What an ordinary user can still write, in bytes; unknown until it is mounted.
    pub free: Option<u64>,
    /// The largest file the file system takes, in bytes.
    pub max_file: Option<u64>,
    /// Mounted or plugged so that nothing can be written.
    pub read_only: bool,
    /// Mounted so that nothing can be started from it.
    pub no_exec: bool,
    /// Whether the kernel calls the device removable, or it hangs on USB.
    pub removable: bool,
    /// Vendor and model, as the device says.
    pub model: String,
}

/// A medium that cannot take, or does not give back, what it should.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// Not enough room.
    #[error("{}: needs {needed} bytes, {free} are free", .path.display())]
    Room {
        /// Where it should go.
        path: PathBuf,
        /// In bytes.
        needed: u64,
        /// In bytes.
        free: u64,
    },
    /// One file is too large for the file system.
    #[error("{}: {file_system} takes files of at most {limit} bytes", .path.display())]
    FileSize {
        /// Where it should go.
        path: PathBuf,
        /// Its type.
        file_system: String,
        /// In bytes.
        limit: u64,
    },
    /// Nothing can be written.
    #[error("{}: the medium is write-protected", .0.display())]
    ReadOnly(PathBuf),
    /// The medium gives other bytes back than it was given.
    #[error("{}: the medium gives back other bytes than were written to it{}: it is not to be trusted", .path.display(), at(.offset))]
    ReadsBackOther {
        /// The file, which was removed.
        path: PathBuf,
        /// The first block in which they differ, by its first byte.
        offset: Option<u64>,
    },
    /// What was mounted there is there no more.
    #[error("{}: the medium was taken away or unmounted", .0.display())]
    Gone(PathBuf),
    /// Nothing is mounted where a medium should be.
    #[error("{}: no medium is mounted there", .0.display())]
    NotMounted(PathBuf),
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or_else(String::new, |offset| format!(" (in the block at byte {offset})"))
}

impl Fault for MediumError {
    fn class(&self) -> Class {
        match self {
            Self::Room { .. } | Self::FileSize { .. } => Class::NoSpace,
            Self::ReadOnly(_) => Class::Refused,
            Self::ReadsBackOther { .. } => Class::Integrity,
            Self::Gone(_) => Class::System,
            Self::NotMounted(_) => Class::NotFound,
        }
    }
}

/// The largest file that a file system takes, in bytes, where that is less than any image.
///
/// FAT32: 2^32 - 1 (Microsoft's FAT specification); ISO 9660 in one extent: the same; UDF and exFAT have no limit that
/// matters.
pub fn max_file(file_system: &str) -> Option<u64> {
    matches!(file_system, "vfat" | "msdos" | "iso9660").then_some(u64::from(u32::MAX))
}

impl Medium {
    fn of_mount(mount: &Mount) -> Result<Self, PathError> {
        let room = rustix::fs::statvfs(&mount.mount_point).at("look at", &mount.mount_point)?;
        let mut medium = Self {
            device: mount.source.clone(),
            mount_point: Some(mount.mount_point.clone()),
            file_system: Some(mount.file_system.clone()),
            size: room.f_blocks * room.f_frsize,
            free: Some(room.f_bavail * room.f_frsize),
            max_file: max_file(&mount.file_system),
            read_only: mount.has("ro"),
            no_exec: mount.has("noexec"),
            removable: false,
            model: String::new(),
        };
        medium.ask_device(&mount.device_number);
        Ok(medium)
    }

    /// Adds what sysfs knows of the block device with a number like `8:17`.
    fn ask_device(&mut self, number: &str) {
        let Ok(mut device) = fs::canonicalize(format!("/sys/dev/block/{number}")) else { return };
        if device.join("partition").exists() {
            device.pop();
        }
        let read = |name: &str| fs::read_to_string(device.join(name)).map(|text| text.trim().to_owned()).ok();
        self.removable |= read("removable").as_deref() == Some("1") || device.to_string_lossy().contains("/usb");
        self.read_only |= read("ro").as_deref() == Some("1");
        let words = [read("device/vendor"), read("device/model")];
        self.model = words.into_iter().flatten().collect::<Vec<_>>().join(" ").trim().to_owned();
    }
}

impl Medium {
    /// Fails when a file of `size` bytes is more than the file system takes; `path` is for messages.
    pub fn takes_file(&self, path: &Path, size: u64) -> Result<(), MediumError> {
        match self.max_file {
            Some(limit) if size > limit => {
                let file_system = self.file_system.clone().unwrap_or_default();
                Err(MediumError::FileSize { path: path.to_owned(), file_system, limit })
            }
            _ => Ok(()),
        }
    }
}

/// The medium that a path lies on, whether removable or not.
pub fn medium_of(path: &Path) -> Result<Medium, PathError> {
    let device = fs::metadata(path).at("look at", path)?.dev();
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let real = fs::canonicalize(path).at("look at", path)?;
    let mounts = mountinfo::mounts().at("read", "/proc/self/mountinfo")?;
    // The innermost mount counts, and of several on one point the last. btrfs gives files other device numbers than
    // its mounts have: then the path alone decides.
    let under = |mount: &&Mount| real.starts_with(&mount.mount_point);
    let depth = |mount: &&Mount| mount.mount_point.components().count();
    let found = mounts.iter().filter(|m| m.device_number == number).filter(under).max_by_key(depth);
    match found.or_else(|| mounts.iter().filter(under).max_by_key(depth)) {
        Some(mount) => Medium::of_mount(mount),
        None => Err(PathError { action: "find the mount of", path: real, source: io::ErrorKind::NotFound.into() }),
    }
}

/// The removable media that are plugged in, mounted or not, by device name.
pub fn list() -> Result<Vec<Medium>, PathError> {
    let mounts = mountinfo::mounts().at("read", "/proc/self/mountinfo")?;
    let mut media: BTreeMap<String, Medium> = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.source.starts_with("/dev/")) {
        // A mount that cannot be looked at (a dead network disk, another user's) is none of the user's media.
        if let Ok(medium) = Medium::of_mount(mount)
            && medium.removable
        {
            media.entry(medium.device.clone()).or_insert(medium);
        }
    }
    let Ok(devices) = fs::read_dir("/sys/class/block") else { return Ok(media.into_values().collect()) };
    for entry in devices.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let device = format!("/dev/{name}");
        let Ok(number) = fs::read_to_string(entry.path().join("dev")) else { continue };
        let sectors = fs::read_to_string(entry.path().join("size")).ok().and_then(|s| s.trim().parse::<u64>().ok());
        // sysfs counts in sectors of 512 bytes whatever the device's own are.
        let size = sectors.unwrap_or(0) * 512;
        let mut medium = Medium {
            device: device.clone(),
            mount_point: None,
            file_system: None,
            size,
            free: None,
            max_file: None,
            read_only: false,
            no_exec: false,
            removable: false,
            model: String::new(),
        };
        medium.ask_device(number.trim());
        // A disk with mounted partitions is not a medium of its own.
        let part_mounted = media.keys().any(|known| known.starts_with(&device));
        if medium.removable && size > 0 && !part_mounted {
            medium.file_system = probe::file_system(Path::new(&device)).map(Into::into);
            medium.max_file = medium.file_system.as_deref().and_then(max_file);
            media.entry(device).or_insert(medium);
        }
    }
    Ok(media.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_escapes() {
        let text =
            "36 35 8:17 / /media/my\\040stick rw,nosuid,noexec shared:1 - vfat /dev/sdb1 rw,fmask=0022\nbroken\n";
        let mounts = mountinfo::parse(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].mount_point, PathBuf::from("/media/my stick"));
        assert!(mounts[0].has("noexec") && !mounts[0].has("ro"));
        assert_eq!(max_file(&mounts[0].file_system), Some(4_294_967_295));
    }
}
