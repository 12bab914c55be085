//! What is mounted where: `/proc/self/mountinfo` (proc(5)).

use std::path::PathBuf;

/// A mount, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The device's number: `8:17`.
    pub device_number: String,
    /// Where.
    pub mount_point: PathBuf,
    /// Its own options.
    pub options: Vec<String>,
    /// Its file system's.
    pub super_options: Vec<String>,
    /// The file system's kind.
    pub file_system: String,
    /// What is mounted, a device mostly.
    pub source: String,
}

impl Mount {
    /// Whether it, or its file system, has an option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().chain(&self.super_options).any(|o| o == option)
    }
}

/// All mounts that this process sees, in the kernel's order: what is on top comes later.
pub fn mounts() -> std::io::Result<Vec<Mount>> {
    std::fs::read_to_string("/proc/self/mountinfo").map(|text| parse(&text))
}

/// Reads the file's text; lines that make no sense are passed over.
pub fn parse(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let (file_system, source, super_options) = (right.next()?, right.next()?, right.next().unwrap_or_default());
        let list = |options: &str| options.split(',').map(Into::into).collect();
        Some(Mount {
            device_number: (*left.get(2)?).to_owned(),
            mount_point: PathBuf::from(unescape(left.get(4)?)),
            options: list(left.get(5)?),
            super_options: list(super_options),
            file_system: file_system.to_owned(),
            source: unescape(source),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Blanks, tabs, newlines and backslashes are octal escapes.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(escape, plain);
    }
    out
}
