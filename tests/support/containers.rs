//! A host for containers: a store with one image, and shell lines run in a network namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::ferry;

/// A directory with a root file system of busybox and a store that has it as `busybox:1`.
pub struct Host {
    dir: tempfile::TempDir,
    /// What executes containers, when it is not ferry itself.
    runtime: Option<&'static str>,
}

/// Plays a test with the built-in runtime and with runc, each on a host of its own.
pub fn both(test: impl Fn(&Host) + Sync) {
    std::thread::scope(|scope| {
        let runc = scope.spawn(|| test(&Host::with(Some("runc"))));
        test(&Host::new());
        if let Err(panic) = runc.join() {
            eprintln!("this was with runc");
            std::panic::resume_unwind(panic);
        }
    });
}

impl Host {
    pub fn new() -> Self {
        Self::with(None)
    }

    /// The same, whose containers another OCI runtime executes.
    pub fn with(runtime: Option<&'static str>) -> Self {
        let dir = tempfile::Builder::new().prefix("ferry-containers-").tempdir_in("/var/tmp").unwrap();
        let host = Self { dir, runtime };
        host.make_rootfs();
        let import = host.script("ferry import -c 'CMD [\"sh\"]' -c 'ENV PATH=/bin' image.tar busybox:1");
        assert!(import.status.success(), "{import:?}");
        host
    }

    fn make_rootfs(&self) {
        let root = self.path("rootfs");
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy(busybox(), root.join("bin/busybox")).unwrap();
        let applets = Command::new(busybox()).arg("--list").output().unwrap();
        for name in String::from_utf8(applets.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nbob:x:1000:\nwheel:x:10:bob\n").unwrap();
        let tar =
            Command::new("tar").args(["-C", "rootfs", "-cf", "image.tar", "."]).current_dir(self.dir.path()).status();
        assert!(tar.unwrap().success());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// ferry, or a program that is ferry with the host's runtime.
    pub fn program(&self) -> PathBuf {
        let Some(runtime) = self.runtime else { return ferry().to_owned() };
        let path = self.path("ferry-with-runtime");
        let insert = format!("case $1 in run|create) verb=$1; shift; set -- $verb --runtime {runtime} \"$@\" ;; esac");
        fs::write(&path, format!("#!/bin/sh\n{insert}\nexec {} \"$@\"\n", ferry().display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Runs shell lines as on a host of their own: a network namespace with loopback, and forwarding on, which a new one
    /// takes from whatever host this is.
    pub fn script(&self, lines: &str) -> Output {
        let setup = "busybox ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward";
        let script = format!("{setup}; ferry() {{ {} \"$@\"; }}; {lines}", self.program().display());
        Command::new("timeout")
            .args(["-s", "KILL", "280", "unshare", "-n", "sh", "-c", &script])
            .env("FERRY_ROOT", self.path("store"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What they print, errors last.
    pub fn run(&self, lines: &str) -> String {
        let output = self.script(lines);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Everything that containers could leave behind, beside the directory: their IDs are the store's and the given ones.
    /// A process that waits to take an idle bridge down is no trace: it goes with the bridge.
    pub fn traces(&self) -> Vec<String> {
        let here = self.dir.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else { continue };
            let sweeper =
                fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "ferry-sweeper");
            if sweeper {
                continue;
            }
            let text = String::from_utf8_lossy(&cmdline).replace('\0', " ");
            if text.contains(&here) && text.contains("ferry") && text.contains(" __") {
                found.push(format!("process {}: {text}", entry.file_name().display()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(&here)).map(|line| format!("mount {line}")));
        let containers = self.path("store/ferry/containers");
        for path in [containers.join("by-name"), containers] {
            for entry in fs::read_dir(path).unwrap().map(Result::unwrap).filter(|entry| entry.file_name() != "by-name")
            {
                // A name whose container is gone is free.
                if entry.path().exists() {
                    found.push(entry.path().display().to_string());
                }
            }
        }
        found
    }
}

/// The host's busybox, statically linked.
pub fn busybox() -> &'static Path {
    let places = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    places.into_iter().find(|path| path.exists()).expect("busybox is missing: install busybox-static")
}

impl Drop for Host {
    fn drop(&mut self) {
        self.script("for c in $(ferry ps -aq); do ferry rm -f $c; done");
    }
}
