//! Layers: what is unpacked is put together again bit for bit, whatever the tar holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ferry::base::{BoxFault, Class, Ctx, Digest};
use ferry::layer::assemble::{Assembler, Unpacked, prove};
use ferry::layer::diff::{self, DiffOptions, Tree};
use ferry::layer::{Applied, ApplyOptions, Target, apply};
use ferry::sys::dir::{Dir, Kind};

/// Unpacks a tar in a directory of its own.
struct Case {
    dir: tempfile::TempDir,
    applied: Applied,
}

fn target(dir: &Path) -> Target {
    fs::create_dir(dir.join("diff")).unwrap();
    Target { tree: Dir::open(dir.join("diff")).unwrap(), spare: dir.join("spare"), tar_split: dir.join("split") }
}

fn try_apply(dir: &Path, mut tar: &[u8], writers: usize) -> Result<Applied, BoxFault> {
    apply(&mut tar, &target(dir), &ApplyOptions { writers, ..ApplyOptions::default() }, &Ctx::silent())
}

impl Case {
    fn new(tar: &[u8], writers: usize) -> Case {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let applied = try_apply(dir.path(), tar, writers).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(applied.diff_id.0, Digest::of(tar));
        assert_eq!(applied.tar_size, tar.len() as u64);
        Case { dir, applied }
    }

    fn unpacked(&self, listed: bool) -> Unpacked {
        Unpacked {
            tree: Dir::open(self.dir.path().join("diff")).unwrap(),
            tar_split: File::open(self.dir.path().join("split")).unwrap(),
            contents: listed.then(|| self.applied.contents.clone()),
        }
    }

    fn diff(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("diff").join(path)
    }
}

fn comes_back(name: &str, tar: &[u8]) {
    for writers in [0, 1, 3] {
        let case = Case::new(tar, writers);
        let mut back = Vec::new();
        Assembler::new(case.unpacked(true)).read_to_end(&mut back).unwrap();
        assert!(back == tar, "{name}: other bytes with {writers} writers");
        let (digest, size, contents) = prove(case.unpacked(false)).unwrap();
        assert_eq!((digest, size), (Digest::of(tar), tar.len() as u64), "{name}");
        assert_eq!(contents, case.applied.contents, "{name}");
        assert!(!case.dir.path().join("spare").exists(), "{name}: nothing is left over");
    }
}

/// A tar made by Python's tarfile: `script` fills `t`, with `add(name, data=b'', **fields)` at hand.
pub fn python_tar(format: &str, script: &str) -> Vec<u8> {
    let prelude = format!(
        "import io, sys, tarfile\nb = io.BytesIO()\nt = tarfile.open(fileobj=b, mode='w', format=tarfile.{format})\n\
         def add(name, data=b'', type=tarfile.REGTYPE, link='', pax=None, **f):\n\
         \x20   i = tarfile.TarInfo(name); i.type = type; i.linkname = link; i.mode = 0o644; i.mtime = 1700000000\n\
         \x20   for k, v in f.items(): setattr(i, k, v)\n\
         \x20   i.pax_headers.update(pax or {{}})\n\
         \x20   i.size = len(data); t.addfile(i, io.BytesIO(data) if data else None)\n\
         D, S, H = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE\n"
    );
    let script = format!("{prelude}{script}\nt.close()\nsys.stdout.buffer.write(b.getvalue())");
    let out = Command::new("python3").args(["-c", &script]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn every_kind_of_layer_comes_back_bit_for_bit() {
    let big = "bytes((i * 7 + i // 251) % 256 for i in range(3000000))";
    let cases = [
        ("empty", "PAX_FORMAT", ""),
        ("plain", "PAX_FORMAT", "add('d', type=D, mode=0o755)\nadd('d/f', b'x')\nadd('d/e')\nadd('d/g', b'y' * 513)"),
        ("large", "PAX_FORMAT", &format!("add('big', {big})\nadd('after', b'1')") as &str),
        (
            "links",
            "PAX_FORMAT",
            "add('a', b'abc')\nadd('b', type=H, link='a')\nadd('s', type=S, link='/a')\nadd('d', type=S, link='no')\nadd('h', type=H, link='d')",
        ),
        (
            "replaced link",
            "PAX_FORMAT",
            "add('a', b'abc')\nadd('b', type=H, link='a')\nadd('a', b'other')\nadd('b', b'third')",
        ),
        ("twice", "PAX_FORMAT", "add('x', b'1')\nadd('x', b'22')\nadd('./x', b'333')\nadd('y', b'')\nadd('y', b'1')"),
        (
            "directory twice",
            "PAX_FORMAT",
            "add('d', type=D, mode=0o755)\nadd('d/f', b'1')\nadd('d/', type=D, mode=0o700)",
        ),
        (
            "file then directory",
            "PAX_FORMAT",
            "add('x', b'1')\nadd('x', type=D, mode=0o755)\nadd('x/y', b'2')\nadd('x', b'3')",
        ),
        (
            "through a link",
            "PAX_FORMAT",
            "add('d', type=D, mode=0o755)\nadd('l', type=S, link='d')\nadd('l/f', b'1')\nadd('d/f', b'22')\nadd('l/f', b'333')",
        ),
        (
            "link out",
            "PAX_FORMAT",
            "add('l', type=S, link='../../../tmp')\nadd('tmp', type=D, mode=0o755)\nadd('l/inside', b'1')",
        ),
        ("absolute", "PAX_FORMAT", "add('/etc/x', b'1')"),
        (
            "whiteouts",
            "PAX_FORMAT",
            "add('w', type=D, mode=0o755)\nadd('w/.wh.gone')\nadd('w/.wh..wh..opq')\nadd('w/new', b'1')\nadd('.wh.w2')\nadd('w2', b'back')\nadd('k', b'1')\nadd('.wh.k')",
        ),
        (
            "long names",
            "GNU_FORMAT",
            "add('n' * 200, b'1')\nadd('s' * 99, type=S, link='l' * 150)\nadd('p/' * 60 + 'f', b'2')",
        ),
        (
            "long names",
            "PAX_FORMAT",
            "add('n' * 200, b'1')\nadd('s' * 99, type=S, link='l' * 150)\nadd('p/' * 60 + 'f', b'2')",
        ),
        ("raw names", "GNU_FORMAT", "add('bad-\\udcff\\udcfe', b'1')\nadd('new\\nline', b'2')"),
        (
            "times",
            "PAX_FORMAT",
            "add('a', b'1', pax={'mtime': '-1.500000001'})\nadd('b', b'1', pax={'mtime': '1700000000.123456789'})\nadd('c', b'1', mtime=-86400)",
        ),
        ("owners", "PAX_FORMAT", "add('a', b'1', uid=3000000, gid=4294967293)\nadd('s', b'1', mode=0o6755, uid=7)"),
        (
            "owners",
            "GNU_FORMAT",
            "add('a', b'1', uid=3000000, gid=3000001)\nadd('d', type=D, mode=0o2775, gid=5)\nadd('d/f', b'1')",
        ),
        (
            "attributes",
            "PAX_FORMAT",
            "add('a', b'1', pax={'SCHILY.xattr.user.x': 'a=b\\nc', 'SCHILY.xattr.trusted.overlay.redirect': '/'})",
        ),
        (
            "nodes",
            "PAX_FORMAT",
            "add('f', type=tarfile.FIFOTYPE)\nadd('c', type=tarfile.CHRTYPE, devmajor=240, devminor=70000)",
        ),
    ];
    for (name, format, script) in cases {
        let mut tar = python_tar(format, script);
        comes_back(name, &tar);
        tar.extend_from_slice(b"bytes behind the end");
        comes_back(&format!("{name}, with a tail"), &tar);
    }
    comes_back("no bytes at all", b"");
    comes_back("two zero blocks", &[0; 1024]);
}

#[test]
fn sparse_files_are_unpacked_and_come_back_bit_for_bit() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let script = "truncate -s 5M s; for o in 0 3 9 100 1279; do printf x | dd of=s bs=4096 seek=$o conv=notrunc status=none; done; \
                  truncate -s 1M hole; for i in $(seq 0 2 80); do printf y | dd of=many bs=4096 seek=$i conv=notrunc status=none; done";
    assert!(Command::new("sh").args(["-ec", script]).current_dir(&dir).status().unwrap().success());
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let out = Command::new("tar")
            .args(["-cS"])
            .args(format)
            .args(["s", "hole", "many"])
            .current_dir(&dir)
            .output()
            .unwrap();
        assert!(out.status.success());
        comes_back(&format!("{format:?}"), &out.stdout);
        let case = Case::new(&out.stdout, 1);
        for name in ["s", "hole", "many"] {
            assert!(
                fs::read(case.diff(name)).unwrap() == fs::read(dir.path().join(name)).unwrap(),
                "{format:?} {name}"
            );
        }
        assert!(fs::metadata(case.diff("s")).unwrap().blocks() < 1000, "{format:?}: it is sparse on disk");
    }
}

#[test]
fn files_are_what_the_tar_says() {
    let tar = python_tar(
        "PAX_FORMAT",
        "add('d', type=D, mode=0o750, mtime=5)\nadd('d/f', b'x', mode=0o4755, uid=1000, gid=50, pax={'mtime': '7.000000009', 'SCHILY.xattr.user.k': 'v'})\n\
         add('.wh.gone')\nadd('c', type=tarfile.CHRTYPE, mode=0o600, devmajor=1, devminor=3)\nadd('h', type=H, link='d/f')",
    );
    let case = Case::new(&tar, 1);
    let (d, f) = (fs::metadata(case.diff("d")).unwrap(), fs::metadata(case.diff("d/f")).unwrap());
    assert_eq!((d.mode() & 0o7777, d.mtime()), (0o750, 5));
    assert_eq!((f.mode() & 0o7777, f.uid(), f.gid(), f.mtime(), f.mtime_nsec()), (0o4755, 1000, 50, 7, 9));
    assert_eq!((f.nlink(), f.ino()), (2, fs::metadata(case.diff("h")).unwrap().ino()));
    let tree = Dir::open(case.diff("")).unwrap();
    assert_eq!(tree.xattr("d/f", "user.k".as_ref()).unwrap().as_deref(), Some(&b"v"[..]));
    let gone = fs::symlink_metadata(case.diff("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(case.applied.size, 1);
}

#[test]
fn hostile_layers_are_refused_and_touch_nothing_outside() {
    let cases = [
        ("../x", "add('../x', b'1')"),
        ("deep climb", "add('a/../../x', b'1')"),
        ("link to nothing", "add('h', type=H, link='nowhere')"),
        ("link to the outside", "add('h', type=H, link='../../../etc/passwd')"),
        ("through a file", "add('f', b'1')\nadd('f/g', b'1')"),
        ("loop", "add('l', type=S, link='l')\nadd('l/x', b'1')"),
        ("name of 256", "add('n' * 256, b'1')"),
        ("path of 5000", "add('d/' * 2500 + 'f', b'1')"),
        ("link to nowhere", "add('l', type=S, link='/var/tmp')\nadd('l/x', b'1')"),
        ("hides nothing", "add('.wh.', b'')"),
        ("hides the parent", "add('d/.wh...', b'')"),
    ];
    for (name, script) in cases {
        let tar = python_tar("PAX_FORMAT", script);
        for writers in [0, 1] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let fault = try_apply(dir.path(), &tar, writers).expect_err(name);
            assert_eq!(fault.class(), Class::Malformed, "{name}: {fault}");
        }
    }
    let escape = python_tar(
        "PAX_FORMAT",
        "add('var/tmp', type=D, mode=0o755)\nadd('l', type=S, link='/var/tmp')\nadd('l/ferry-escaped', b'1')",
    );
    let case = Case::new(&escape, 1);
    assert!(!Path::new("/var/tmp/ferry-escaped").exists());
    assert!(case.diff("var/tmp/ferry-escaped").exists());
}

#[test]
fn a_damaged_tar_is_an_error_or_another_digest_and_never_a_panic() {
    let tar = python_tar(
        "PAX_FORMAT",
        "add('d', type=D, mode=0o755)\nadd('d/f', b'x' * 2000, pax={'mtime': '1.5', 'k': 'v' * 700})\nadd('n' * 150, b'1')",
    );
    let mut seed = 0x2545_f491_u32;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as usize % below
    };
    for round in 0..400 {
        let mut bytes = tar.clone();
        match round % 3 {
            0 => bytes.truncate(random(bytes.len())),
            1 => {
                let at = random(bytes.len());
                bytes[at] ^= 1 << random(8);
            }
            _ => {
                // With a right checksum, so that the parser goes on.
                let block = random(bytes.len() / 512) * 512;
                bytes[block + random(512)] = random(256) as u8;
                let header = &mut bytes[block..block + 512];
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        if let Ok(applied) = try_apply(dir.path(), &bytes, 0) {
            assert_eq!(applied.diff_id.0, Digest::of(&bytes));
        }
    }
}

#[test]
fn a_file_that_was_changed_on_disk_is_noticed() {
    let tar = python_tar("PAX_FORMAT", "add('a', b'abc')\nadd('b', b'12345' * 1000)");
    for (change, with) in [("a", "abd"), ("b", "short"), ("a", "")] {
        let case = Case::new(&tar, 1);
        fs::write(case.diff(change), with).unwrap();
        for listed in [true, false] {
            let error = Assembler::new(case.unpacked(listed)).read_to_end(&mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("was changed since"), "{change}, {listed}: {error}");
        }
        fs::remove_file(case.diff(change)).unwrap();
        assert!(Assembler::new(case.unpacked(true)).read_to_end(&mut Vec::new()).is_err());
    }
}

fn diff_of(dir: &Path, tree: Tree, latest: Option<i64>) -> Vec<u8> {
    diff_of_layers(&[dir.to_owned()], DiffOptions { tree, userxattr: false, latest, owners: None })
}

fn diff_of_layers(dirs: &[PathBuf], options: DiffOptions<'_>) -> Vec<u8> {
    let mut tar = Vec::new();
    let layers: Vec<Dir> = dirs.iter().map(|dir| Dir::open(dir).unwrap()).collect();
    diff::write(&layers, &mut tar, &options, &Ctx::silent()).unwrap();
    tar
}

/// Puts some things into a layer, of few names so that layers meet; which ones follows from `random`.
fn fill_at_random(layer: &Dir, random: &mut impl FnMut(u32) -> u32) {
    for _ in 0..30 {
        let depth = 1 + random(3);
        let path: PathBuf = (0..depth).map(|_| ["a", "b", "c", "d"][random(4) as usize]).collect();
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            // Where a file is in the way nothing is made.
            if layer.mkdir_all(parent, 0o755).is_err() {
                continue;
            }
        }
        let _ = match random(7) {
            0 => layer.mknod(&path, Kind::CharDevice, 0o600, 0),
            1 => layer.mknod(&path, Kind::Fifo, 0o640, 0),
            2 => layer.symlink("a/b", &path),
            3 => layer.hard_link(["a", "b", "c", "d"][random(4) as usize], &path),
            4 => layer.mkdir(&path, 0o700 + random(8)),
            5 => {
                let made = layer.mkdir(&path, 0o750);
                made.and_then(|()| layer.set_xattr(&path, "trusted.overlay.opaque".as_ref(), b"y"))
            }
            _ => layer.create_file(&path, 0o600 + random(8)).map(|mut file| {
                file.write_all(&vec![b'x'; random(3) as usize * 700]).unwrap();
            }),
        };
    }
}

/// A mounted overlay.
struct Overlay(PathBuf);

impl Overlay {
    fn new(layers: &[PathBuf], at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let names: Vec<&str> = layers.iter().map(|layer| layer.to_str().unwrap()).collect();
        let options = format!("ro,redirect_dir=off,metacopy=off,index=off,lowerdir={}", names.join(":"));
        let mount = Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(&at).output().unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self(at)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// What is below a directory: kind and mode, and a file's length or a link's target.
fn shape(root: &Path) -> BTreeMap<PathBuf, (u32, u64, Option<PathBuf>)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // In a directory of one layer the kernel lists whiteouts, which are not there then.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let length = if metadata.is_file() { metadata.len() } else { 0 };
            let name = path.strip_prefix(root).unwrap().to_owned();
            found.insert(name, (metadata.mode(), length, fs::read_link(&path).ok()));
            if metadata.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

#[test]
fn what_layers_show_together_is_what_an_overlay_of_them_shows() {
    let options = DiffOptions { tree: Tree::Merged, userxattr: false, latest: None, owners: None };
    let mut state = 1_u64;
    let mut random = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % below
    };
    let mut sizes = BTreeSet::new();
    for round in 0..30 {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let layers: Vec<PathBuf> = (0..4).map(|n| dir.path().join(format!("l{n}"))).collect();
        for layer in &layers {
            fs::create_dir(layer).unwrap();
            fill_at_random(&Dir::open(layer).unwrap(), &mut random);
        }
        let tar = diff_of_layers(&layers, options);
        let mount = Overlay::new(&layers, dir.path().join("merged"));
        assert_eq!(shape(&Case::new(&tar, 1).diff("")), shape(&mount.0), "round {round}");
        sizes.insert(tar.len());
    }
    assert!(sizes.len() > 5, "{sizes:?}");
}

#[test]
fn what_a_container_changed_becomes_a_layer_that_unpacks_to_the_same() {
    let long = format!("d/{}", "n".repeat(180));
    let script = format!(
        "add('a', b'one', mtime=-5, uid=3000000)\nadd('d', type=D, mode=0o2755, mtime=7)\nadd('d/.wh..wh..opq')\n\
         add('d/.wh.gone')\nadd('d/h', type=H, link='a')\nadd('d/s', type=S, link='../a', mtime=9)\n\
         add('d/p', type=tarfile.FIFOTYPE, mtime=9)\n\
         add('d/b', type=tarfile.BLKTYPE, devmajor=259, devminor=70000, mtime=9)\n\
         add('{long}', b'x' * 700, pax={{'mtime': '7.25'}})\nadd('ü', b'u', mode=0o4711)"
    );
    let case = Case::new(&python_tar("PAX_FORMAT", &script), 1);
    let root = Dir::open(case.diff("")).unwrap();
    // CAP_NET_BIND_SERVICE, permitted and effective, as the kernel keeps it.
    let capability = [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat();
    root.set_xattr("a", "security.capability".as_ref(), &capability).unwrap();
    let upper = Tree::Upper;
    let tar = diff_of(&case.diff(""), upper, None);
    assert_eq!(tar, diff_of(&case.diff(""), upper, None));
    comes_back("diff", &tar);
    let again = Case::new(&tar, 1);
    assert_eq!(tar, diff_of(&again.diff(""), upper, None), "unpacked and packed again it is the same");
    let a = fs::symlink_metadata(again.diff("a")).unwrap();
    assert_eq!((a.mtime(), a.uid(), a.nlink(), a.len()), (-5, 3_000_000, 2, 3));
    assert_eq!(fs::metadata(again.diff(&long)).unwrap().mtime_nsec(), 250_000_000);
    assert_eq!(fs::metadata(again.diff("d")).unwrap().mode() & 0o7777, 0o2755);
    let device = fs::symlink_metadata(again.diff("d/b")).unwrap();
    assert!(device.file_type().is_block_device() && device.rdev() == rustix::fs::makedev(259, 70000));
    let tree = Dir::open(again.diff("")).unwrap();
    assert_eq!(tree.xattr("a", "security.capability".as_ref()).unwrap(), Some(capability));
    assert_eq!(tree.xattr("d", "trusted.overlay.opaque".as_ref()).unwrap().as_deref(), Some(&b"y"[..]));
    assert!(fs::symlink_metadata(again.diff("d/gone")).unwrap().file_type().is_char_device());
    // GNU tar reads the same names.
    let mut list = Command::new("tar").args(["-tf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    list.stdin.take().unwrap().write_all(&tar).unwrap();
    let listed = String::from_utf8(list.wait_with_output().unwrap().stdout).unwrap();
    let expected = format!("a\nd/\nd/.wh..wh..opq\nd/b\nd/.wh.gone\nd/h\n{long}\nd/p\nd/s\n");
    assert!(listed.starts_with(&expected), "{listed}");
    // No time is later than asked for.
    let clamped = Case::new(&diff_of(&case.diff(""), upper, Some(6)), 1);
    assert_eq!(fs::symlink_metadata(clamped.diff("d/s")).unwrap().mtime(), 6);
    assert_eq!(fs::symlink_metadata(clamped.diff("a")).unwrap().mtime(), -5);
}

#[test]
fn marks_of_the_other_style_are_not_taken_for_changes() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("w"), b"").unwrap();
    let root = Dir::open(dir.path()).unwrap();
    root.set_xattr("d", "user.overlay.opaque".as_ref(), b"y").unwrap();
    root.set_xattr("w", "user.overlay.whiteout".as_ref(), b"y").unwrap();
    let names = |tree, userxattr| {
        let tar =
            diff_of_layers(&[dir.path().to_owned()], DiffOptions { tree, userxattr, latest: Some(0), owners: None });
        tar.chunks(512)
            .map(|b| String::from_utf8_lossy(&b[..100]).trim_end_matches('\0').to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(Tree::Upper, true), ["d/", "d/.wh..wh..opq", ".wh.w", "", ""]);
    assert_eq!(names(Tree::Upper, false), ["d/", "w", "", ""]);
    assert_eq!(names(Tree::Merged, true), ["d/", "", ""]);
    assert_eq!(names(Tree::Merged, false), ["d/", "w", "", ""]);
}
