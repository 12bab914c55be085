//! A store that one side of a transfer works on.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::ferry;
use super::peers::{Machine, succeed};

/// A store.
pub struct Site {
    /// Where it is.
    pub root: PathBuf,
}

impl Site {
    /// A store in the machine's directory; nothing is made yet.
    pub fn new(machine: &Machine, name: &str) -> Site {
        Site { root: machine.dir().join(name) }
    }

    /// `ferry WORDS…`, not yet run.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ferry());
        command.arg("--root").arg(&self.root).args(words).env_remove("FERRY_ROOT");
        command
    }

    /// `ferry WORDS…`; gives what it printed.
    pub fn run(&self, words: &[&str]) -> String {
        succeed(&mut self.command(words))
    }

    /// The images, with their IDs.
    pub fn images(&self) -> String {
        self.run(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
    }

    /// Makes `app:vNUMBER`: one layer with a large file that all releases share and a small one of its own.
    pub fn release(&self, machine: &Machine, number: u32) {
        let dir = machine.dir().join(format!("release-{number}"));
        fs::create_dir_all(dir.join("lib")).unwrap();
        fs::write(dir.join("lib/shared"), noise(600_000, 1)).unwrap();
        fs::write(dir.join("version"), number.to_string()).unwrap();
        self.import(machine, &dir, &format!("app:v{number}"));
    }

    /// Imports a directory as an image of one layer.
    pub fn import(&self, machine: &Machine, dir: &std::path::Path, name: &str) {
        let tar = machine.dir().join("import.tar");
        succeed(Command::new("tar").arg("-C").arg(dir).args(["--sort=name", "--mtime=@1", "-cf"]).arg(&tar).arg("."));
        self.run(&["import", tar.to_str().unwrap(), name]);
    }

    /// Makes an image of another one's layers and a small one on top.
    pub fn child(&self, machine: &Machine, parent: &str, name: &str) {
        let python = r#"
import hashlib, io, json, sys, tarfile
source, target, name = sys.argv[1:]
with tarfile.open(source) as old, tarfile.open(target, "w") as new:
    listed = json.load(old.extractfile("manifest.json"))[0]
    config = json.load(old.extractfile(listed["Config"]))
    top = io.BytesIO()
    with tarfile.open(fileobj=top, mode="w") as layer:
        layer.addfile(tarfile.TarInfo("child"), None)
    top = top.getvalue()
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(top).hexdigest())
    config["history"] = [{"created_by": "x"} for _ in config["rootfs"]["diff_ids"]]
    config = json.dumps(config).encode()
    def add(path, data):
        info = tarfile.TarInfo(path)
        info.size = len(data)
        new.addfile(info, io.BytesIO(data))
    for path in dict.fromkeys(listed["Layers"]):
        add(path, old.extractfile(path).read())
    add("top.tar", top)
    add("config.json", config)
    layers = listed["Layers"] + ["top.tar"]
    add("manifest.json", json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": layers}]).encode())
"#;
        let (old, new) = (machine.dir().join("parent.tar"), machine.dir().join("child.tar"));
        self.run(&["save", "--output-format", "docker", "-o", old.to_str().unwrap(), parent]);
        succeed(Command::new("python3").args(["-c", python]).arg(&old).arg(&new).arg(name));
        self.run(&["load", "-q", "-i", new.to_str().unwrap()]);
        fs::remove_file(old).unwrap();
    }
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(size: usize, mut seed: u32) -> Vec<u8> {
    let next = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..size).map(next).collect()
}
