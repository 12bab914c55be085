//! Files that go and change while a layer is made of them: what comes out is a whole tar all the same.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use ferry::base::{BoxFault, Class, Ctx};
use ferry::layer::diff::{self, DiffOptions, Tree};
use ferry::layer::{ApplyOptions, Target, apply};
use ferry::sys::dir::{Dir, Kind};

use crate::support::Warnings;
use crate::support::containers::Host;

/// Takes bytes; does one thing before it takes the first of them.
struct Meddling<F: FnOnce()> {
    bytes: Vec<u8>,
    then: Option<F>,
}

impl<F: FnOnce()> Write for Meddling<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(then) = self.then.take() {
            then();
        }
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The tar of some layers of which `meddle` changes something once its first bytes are there, and the warnings.
fn tar_of(layers: &[&Path], tree: Tree, meddle: impl FnOnce()) -> (Result<Vec<u8>, BoxFault>, Vec<String>) {
    let (ctx, warnings) = Warnings::kept();
    let mut out = Meddling { bytes: Vec::new(), then: Some(meddle) };
    let layers: Vec<Dir> = layers.iter().map(|layer| Dir::open(layer).unwrap()).collect();
    let options = DiffOptions { tree, userxattr: false, latest: None, owners: None };
    let written = diff::write(&layers, &mut out, &options, &ctx);
    let mut warned = warnings.all();
    warned.sort();
    (written.map(|()| out.bytes), warned)
}

/// So much of a file is read before anybody takes it that the end of it is not.
const BIG: u64 = 4 << 20;

/// A layer in which what comes after `a` and the many files behind it is not looked at before the first bytes of the tar
/// are taken: those who read ahead wait then.
fn layer() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::File::create(at("a")).unwrap().set_len(BIG).unwrap();
    fs::create_dir(at("b")).unwrap();
    for number in 0..2500 {
        fs::write(at(&format!("b/{number}")), b"b").unwrap();
    }
    for name in ["z-dir", "z-other", "z-stays"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("in"), b"in").unwrap();
    }
    for name in ["z-fifo", "z-file", "z-link", "z-longer", "z-stays/file"] {
        fs::write(at(name), b"one").unwrap();
    }
    fs::hard_link(at("z-file"), at("z-name")).unwrap();
    symlink("z-file", at("z-symlink")).unwrap();
    dir
}

fn meddle(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::File::options().write(true).open(at("a")).unwrap().set_len(3).unwrap();
    for name in ["z-fifo", "z-file", "z-link", "z-symlink"] {
        fs::remove_file(at(name)).unwrap();
    }
    Dir::open(dir).unwrap().mknod("z-fifo", Kind::Fifo, 0o600, 0).unwrap();
    symlink("/etc/passwd", at("z-link")).unwrap();
    fs::remove_dir_all(at("z-dir")).unwrap();
    fs::remove_dir_all(at("z-other")).unwrap();
    fs::write(at("z-other"), b"no directory").unwrap();
    fs::write(at("z-longer"), b"longer").unwrap();
}

#[test]
fn what_goes_or_changes_while_it_is_read_is_told_and_the_tar_is_whole() {
    for tree in [Tree::Upper, Tree::Merged] {
        let dir = layer();
        let (tar, warned) = tar_of(&[dir.path()], tree, || meddle(dir.path()));
        let tar = tar.unwrap();
        let gone = |name: &str| format!("{name:?} went or became another while it was read, and is left out");
        let (shrank, left_out) = warned.split_first().unwrap();
        assert!(shrank.starts_with("\"a\" shrank while it was read: its last "), "{warned:?}");
        assert_eq!(left_out, [gone("z-dir"), gone("z-file"), gone("z-symlink")], "{tree:?}");
        let out = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| out.path().join("diff").join(name);
        fs::create_dir(at("")).unwrap();
        let target = Target {
            tree: Dir::open(at("")).unwrap(),
            spare: out.path().join("spare"),
            tar_split: out.path().join("split"),
        };
        apply(&mut tar.as_slice(), &target, &ApplyOptions::default(), &Ctx::silent()).unwrap();
        assert_eq!(fs::metadata(at("a")).unwrap().len(), BIG);
        assert_eq!(fs::read(at("z-longer")).unwrap(), b"longer");
        assert_eq!(fs::read(at("z-other")).unwrap(), b"no directory");
        assert_eq!(fs::read(at("z-name")).unwrap(), b"one");
        assert_eq!(fs::read_link(at("z-link")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::read(at("z-stays/in")).unwrap(), b"in");
        assert!(!at("z-dir").exists() && !at("z-file").exists());
    }
}

#[test]
fn nothing_but_a_regular_file_is_opened_even_for_a_moment() {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), b"bytes").unwrap();
    fs::create_dir(at("directory")).unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    // No driver has this number: whoever opened it would be told so.
    mknodat(CWD, at("device"), FileType::BlockDevice, Mode::RUSR, makedev(400, 77)).unwrap();
    assert_eq!(fs::File::open(at("device")).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    let tree = Dir::open(dir.path()).unwrap();
    assert_eq!(std::io::read_to_string(tree.open_file_of_others("file").unwrap()).unwrap(), "bytes");
    for name in ["directory", "link", "fifo", "device"] {
        let error = tree.open_file_of_others(name).unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::InvalidInput, "{name}");
    }
}

#[test]
fn a_file_of_an_images_layer_that_is_not_there_is_an_error() {
    let (top, image) = (tempfile::tempdir_in("/var/tmp").unwrap(), layer());
    let (tar, warned) = tar_of(&[top.path(), image.path()], Tree::Merged, || {
        fs::remove_file(image.path().join("z-file")).unwrap();
    });
    assert_eq!(tar.unwrap_err().class(), Class::NotFound);
    assert_eq!(warned, Vec::<String>::new());
}

/// A program that makes, changes, links, replaces and removes files and directories as fast as it can.
const CHURN: &str = "mkdir -p /w; cd /w; i=0; \
    while :; do i=$((i+1)); n=$((i%40)); \
      echo $i >f$n; ln f$n l$n; ln -s f$n s$n; mkdir -p d$n/e; echo x >d$n/e/f; dd if=/dev/zero of=big$((n%4)) bs=64k count=$n; \
      mv f$((RANDOM%40)) d$n/m; rm -rf d$((RANDOM%40)) f$((RANDOM%40)) l$((RANDOM%40)) s$((RANDOM%40)) big$((RANDOM%4)); \
      echo x >d$((RANDOM%40)); >big$((RANDOM%4)); \
    done 2>/dev/null";

/// Reads a tar to its end, and fails where it is not whole or a hard link leads to nothing.
const CHECK: &str = "import sys, tarfile\nseen = set()\nwith tarfile.open(fileobj=sys.stdin.buffer, mode='r|', errorlevel=2) as t:\n\
    \x20   for m in t:\n        assert not m.islnk() or m.linkname in seen, m.name\n        seen.add(m.name)\n\
    \x20       if m.isreg():\n            f = t.extractfile(m); n = 0\n            while b := f.read(1 << 20): n += len(b)\n\
    \x20           assert n == m.size, m.name\nassert (sys.argv + ['bin/busybox'])[1].rstrip('/') in seen";

#[test]
fn a_running_container_is_exported_committed_and_compared_whatever_its_programs_do_meanwhile() {
    let host = Host::new();
    fs::write(host.path("check.py"), CHECK).unwrap();
    fs::write(host.path("churn"), CHURN).unwrap();
    let out = host.run(
        "exec 2>&1
         ferry run -d --name one --network none busybox:1 sh -c \"$(cat churn)\" >/dev/null
         # At least so often, and until files were seen to go.
         n=0; while [ $n -lt 12 ] || { [ $n -lt 1000 ] && ! grep -q 'left out' warned; }; do
             ferry export one 2>>warned >out || echo export $?
             python3 check.py <out || echo tar $n
             n=$((n+1))
         done
         n=0; while [ $n -lt 4 ]; do
             ferry commit --pause=false one c:$n >/dev/null 2>>warned || echo commit $?
             ferry diff one >/dev/null || echo diff $?
             ferry cp one:/w - 2>>warned >out || echo cp $?; python3 check.py w/ <out || echo tar of cp $n
             n=$((n+1))
         done
         grep -v 'left out\\|are zeros' warned
         ferry rm -f one
         ferry fsck --contents
         ferry run --rm --network none c:3 sh -c 'cd /w && echo there'",
    );
    assert_eq!(out, "one\nthere\n");
    assert_eq!(host.traces(), Vec::<String>::new());
}

#[test]
fn a_container_that_is_taken_away_while_it_is_exported_fails_the_export() {
    let host = Host::new();
    let out = host.run(
        "exec 2>&1
         ferry run --name one --network none busybox:1 sh -c 'i=0; while [ $i -lt 2000 ]; do echo x >/tmp/$i; i=$((i+1)); done'
         mkfifo pipe; (ferry export one >pipe 2>said; echo export $? >code) & exec 3<pipe
         busybox dd bs=512 count=1 <&3 2>/dev/null | busybox wc -c
         ferry rm one
         cat <&3 >/dev/null; wait; cat code; grep -v 'left out' said",
    );
    assert_eq!(out, "512\none\nexport 1\nferry: container one was removed while its files were read\n");
}
