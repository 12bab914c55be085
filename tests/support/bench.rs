//! A directory with an archive in it, and ferry run there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ferry::base::Digest;
use tempfile::TempDir;

pub fn entry(tar: &mut Vec<u8>, path: &str, data: &[u8]) {
    typed(tar, path, b'0', "", data);
}

pub fn typed(tar: &mut Vec<u8>, path: &str, kind: u8, link: &str, data: &[u8]) {
    let mut block = [0_u8; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A docker-archive of one image with one layer of `megabytes` that do not compress.
pub fn archive(path: &Path, name: &str, megabytes: usize) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let mut layer = Vec::new();
    for number in 0..megabytes {
        let data: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
        entry(&mut layer, &format!("data/{number}"), &data);
    }
    archive_of(path, name, &[layer]);
}

/// A docker-archive of one image of these layers, each without its trailer.
pub fn archive_of(path: &Path, name: &str, layers: &[Vec<u8>]) {
    let mut tar = Vec::new();
    let (mut diff_ids, mut files) = (Vec::new(), Vec::new());
    for (number, layer) in layers.iter().enumerate() {
        let mut layer = layer.clone();
        layer.resize(layer.len() + 1_024, 0);
        diff_ids.push(format!("\"{}\"", Digest::of(&layer)));
        files.push(format!("\"{number}/layer.tar\""));
        entry(&mut tar, &format!("{number}/layer.tar"), &layer);
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[{{}}]}}"#,
        diff_ids.join(",")
    );
    let id = Digest::of(config.as_bytes()).hex();
    entry(&mut tar, &format!("{id}.json"), config.as_bytes());
    let files = files.join(",");
    let manifest = format!(r#"[{{"Config":"{id}.json","RepoTags":["{name}"],"Layers":[{files}]}}]"#);
    entry(&mut tar, "manifest.json", manifest.as_bytes());
    tar.resize(tar.len() + 1_024, 0);
    fs::write(path, tar).unwrap();
}

pub struct Done {
    pub code: i32,
    pub out: String,
    pub error: String,
}

pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new(megabytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        archive(&dir.path().join("in.tar"), "registry.example.com/app/web:1", megabytes);
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn ferry(&self, arguments: &[&str]) -> Done {
        self.ferry_with(&[], arguments)
    }

    pub fn ferry_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Done {
        let mut command = Command::new(crate::support::ferry());
        command.current_dir(self.dir.path()).args(arguments).stdin(Stdio::null());
        command.env_remove("SSH_AUTH_SOCK").envs(environment.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), error: text(output.stderr) }
    }

    pub fn good(&self, arguments: &[&str]) -> String {
        let done = self.ferry(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}{}", done.out, done.error);
        done.out
    }

    /// What the archive is once it went through ferry, to compare with.
    pub fn plain(&self) -> Vec<u8> {
        self.good(&["convert", "in.tar", "plain.tar"]);
        fs::read(self.path("plain.tar")).unwrap()
    }
}
