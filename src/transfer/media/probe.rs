//! What file system an unmounted medium has, by its first bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Enough for the descriptor of an ISO 9660 file system, which comes last.
const FRONT: usize = 33 << 10;

/// The file system on a device, as the kernel names it; nothing when it is another one, or the device cannot be read.
pub fn file_system(device: &Path) -> Option<&'static str> {
    let mut front = vec![0; FRONT];
    File::open(device).and_then(|file| file.read_exact_at(&mut front, 0)).ok()?;
    recognise(&front)
}

/// Microsoft's FAT and exFAT specifications, ext4's on-disk layout in the kernel's documentation, ECMA-119.
fn recognise(front: &[u8]) -> Option<&'static str> {
    let has = |at: usize, text: &[u8]| front.get(at..at + text.len()) == Some(text);
    let bit = |at: usize, bit: u8| front.get(at).is_some_and(|byte| byte & bit != 0);
    match () {
        () if has(3, b"EXFAT   ") => Some("exfat"),
        () if has(3, b"NTFS    ") => Some("ntfs"),
        () if has(82, b"FAT32   ") || has(54, b"FAT16   ") || has(54, b"FAT12   ") => Some("vfat"),
        // Extents make it ext4, a journal ext3.
        () if has(1080, &[0x53, 0xef]) && bit(1120, 0x40) => Some("ext4"),
        () if has(1080, &[0x53, 0xef]) => Some(if bit(1116, 4) { "ext3" } else { "ext2" }),
        () if has(32_769, b"CD001") => Some("iso9660"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_are_known_by_their_first_bytes() {
        type Places<'a> = &'a [(usize, &'a [u8])];
        let front = |places: Places<'_>| {
            let mut front = vec![0; FRONT];
            places.iter().for_each(|(at, bytes)| front[*at..at + bytes.len()].copy_from_slice(bytes));
            front
        };
        let cases: [(Places<'_>, Option<&str>); 7] = [
            (&[(3, b"EXFAT   ")], Some("exfat")),
            (&[(82, b"FAT32   ")], Some("vfat")),
            (&[(1080, &[0x53, 0xef]), (1120, &[0x42])], Some("ext4")),
            (&[(1080, &[0x53, 0xef]), (1116, &[4])], Some("ext3")),
            (&[(1080, &[0x53, 0xef])], Some("ext2")),
            (&[(32_769, b"CD001")], Some("iso9660")),
            (&[], None),
        ];
        for (places, expected) in cases {
            assert_eq!(recognise(&front(places)), expected);
        }
        assert_eq!(recognise(b""), None);
    }
}
