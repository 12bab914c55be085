//! Removable media: what is written onto one is checked against its room first and read back from it; a bundle goes over
//! several and comes back in any order.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ferry::bundle::volume::VolumeSet;
use ferry::ops::carried::{self, Luggage};
use ferry::transfer::media::DirectReader;
use tempfile::TempDir;

use crate::support::ferry;
use crate::support::images::Tar;

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A stick: a small ext4 in a file, mounted or not.
struct Stick {
    image: PathBuf,
    point: PathBuf,
}

impl Stick {
    fn new(dir: &Path, name: &str, point: &str, mib: u64) -> Self {
        let image = dir.join(format!("{name}.img"));
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0"]).arg(&image));
        let point = dir.join(point);
        fs::create_dir_all(&point).unwrap();
        Self { image, point }
    }

    /// The options go to this mount and not to the file system: a namespace made meanwhile by another test may still have
    /// the mount before, and as long as it does the kernel refuses to mount the file system read-only.
    fn mount(&self, options: &str) {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.point));
        run(Command::new("mount").args(["-o", &format!("remount,bind,{options}")]).arg(&self.point));
    }

    fn unmount(&self) {
        run(Command::new("umount").arg(&self.point));
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        // Whatever the test left mounted, as often as it did.
        while Command::new("umount").arg("-q").arg(&self.point).status().is_ok_and(|status| status.success()) {}
    }
}

/// Bytes that nothing compresses, other ones for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

struct Site {
    dir: TempDir,
}

impl Site {
    /// A store with one image of so many bytes that nothing compresses.
    fn with_image(bytes: usize) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        let tar = Tar::default().file("noise", &noise(1, bytes)).file("etc/name", b"media\n").finish();
        fs::write(site.path("root.tar"), tar).unwrap();
        site.good(&["import", &site.text("root.tar"), "app:1"]);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn ferry_at(&self, root: &str, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(ferry()).arg("--root").arg(self.path(root)).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn ferry(&self, arguments: &[&str]) -> (i32, String, String) {
        self.ferry_at("store", arguments)
    }

    fn good(&self, arguments: &[&str]) -> String {
        let (code, out, error) = self.ferry(arguments);
        assert_eq!(code, 0, "{arguments:?}: {error}");
        out
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name != "lost+found").collect();
    names.sort();
    names
}

#[test]
fn a_medium_that_is_too_small_or_read_only_is_refused_before_a_byte_is_written() {
    let site = Site::with_image(6 << 20);
    let stick = Stick::new(site.dir.path(), "small", "stick", 4);
    let to = site.text("stick/app.ferry");
    stick.mount("rw");
    let (code, out, error) = site.ferry(&["save", "--medium", "-o", &to, "app:1"]);
    assert_eq!((code, out.as_str()), (8, ""), "{error}");
    assert!(error.contains("/stick: needs ") && error.contains(" are free"), "{error}");
    assert_eq!(names(&stick.point), [""; 0]);
    stick.unmount();
    stick.mount("ro");
    let (code, _, error) = site.ferry(&["save", "--medium", "-o", &to, "app:1"]);
    assert!(code == 7 && error.contains("write-protected"), "{code} {error}");
    let whole = site.text("whole.ferry");
    site.good(&["save", "-o", &whole, "app:1"]);
    let (code, _, error) = site.ferry(&["copy", "--medium", &whole, &site.text("stick")]);
    assert!(code == 7 && error.contains("write-protected"), "{code} {error}");
    stick.unmount();
    stick.mount("rw");
    let (code, _, error) = site.ferry(&["copy", "--medium", &whole, &site.text("stick")]);
    assert_eq!(code, 8, "{error}");
    assert_eq!(names(&stick.point), [""; 0]);
}

#[test]
fn what_is_written_onto_a_medium_is_read_back_and_loads_from_it_read_only() {
    let site = Site::with_image(3 << 20);
    let stick = Stick::new(site.dir.path(), "large", "stick", 32);
    stick.mount("rw");
    for (name, files) in [("app.ferry", 1), ("app.tar", 1), ("parts.ferry", 4)] {
        let to = site.text(&format!("stick/{name}"));
        let more: &[&str] = if files > 1 { &["--volume-size", "1m"] } else { &[] };
        let out = site.good(&[&["save", "--medium", "-o", &to, "app:1"], more].concat());
        assert!(out.contains("read back as written; the medium may be unmounted and taken out"), "{out}");
        let what = if files == 1 { "1 file of".to_owned() } else { format!("{files} files of") };
        assert!(out.contains(&what), "{out}");
        // The same again goes on from what is there.
        if files > 1 {
            site.good(&["save", "--medium", "--resume", "-o", &to, "--volume-size", "1m", "app:1"]);
            let (code, _, error) = site.ferry(&["save", "--medium", "-o", &to, "--volume-size", "1m", "app:1"]);
            assert!(code == 4 && error.contains("exists already"), "{error}");
        }
    }
    stick.unmount();
    stick.mount("ro,noexec");
    for name in ["app.ferry", "app.tar", "parts.ferry"] {
        let (code, _, error) = site.ferry_at(name, &["load", "-i", &site.text(&format!("stick/{name}"))]);
        assert_eq!(code, 0, "{name}: {error}");
        assert_eq!(site.ferry_at(name, &["images", "-q"]).1, site.good(&["images", "-q"]));
    }
}

/// A command that puts the sticks in one after the other, at one mount point.
fn changer(sticks: &[&Stick]) -> String {
    let point = sticks[0].point.display();
    let mount =
        |(stick, number): (&&Stick, usize)| format!("{number}) mount -o loop '{}' '{point}';;", stick.image.display());
    let cases: Vec<String> = sticks.iter().zip(1..).map(mount).collect();
    format!("umount '{point}'; case $FERRY_MEDIUM in {} *) exit 1;; esac", cases.join(" "))
}

#[test]
fn a_bundle_goes_over_several_media_and_comes_back_in_any_order() {
    let site = Site::with_image(14 << 20);
    let sticks: Vec<Stick> = [8, 5, 12]
        .iter()
        .zip(1..)
        .map(|(mib, n)| Stick::new(site.dir.path(), &format!("s{n}"), "stick", *mib))
        .collect();
    let all: Vec<&Stick> = sticks.iter().collect();
    sticks[0].mount("rw");
    let to = site.text("stick/app.ferry");
    let next = changer(&all);
    let out = site.good(&["save", "-o", &to, "--next-medium", &next, "app:1"]);
    assert_eq!(out.matches("may be unmounted and taken out").count(), 3, "{out}");
    sticks[2].unmount();
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let chosen: Vec<&Stick> = order.iter().map(|i| &sticks[*i]).collect();
        chosen[0].mount("ro");
        let root = format!("root{}", order[0]);
        // The folder, or the name the bundle was saved with.
        let from = if order[0] == 0 { site.text("stick") } else { to.clone() };
        let (code, _, error) = site.ferry_at(&root, &["load", "-i", &from, "--next-medium", &changer(&chosen)]);
        assert_eq!(code, 0, "{order:?}: {error}");
        assert_eq!(site.ferry_at(&root, &["images", "-q"]).1, site.good(&["images", "-q"]));
        assert!(!names(&site.path(&root)).iter().any(|name| name.starts_with(".ferry-media")));
        chosen[2].unmount();
    }
    // With one missing nothing is loaded, and it is named.
    sticks[0].mount("ro");
    let (code, _, error) = site.ferry_at("none", &["load", "-i", &to, "--next-medium", &changer(&all[..2])]);
    assert!(code == 1 && error.contains("medium 3") && error.contains("missing"), "{code} {error}");
    assert_eq!(site.ferry_at("none", &["images", "-q"]).1, "");
}

#[test]
fn where_no_medium_is_mounted_nothing_is_written() {
    let site = Site::with_image(8 << 20);
    let stick = Stick::new(site.dir.path(), "one", "stick", 6);
    stick.mount("rw");
    let whole = site.text("whole.ferry");
    site.good(&["save", "-o", &whole, "--volume-size", "1m", "app:1"]);
    let folder = site.text("stick");
    let next = format!("mountpoint -q '{folder}' && umount '{folder}'; true");
    // However the folder is named.
    for folder in [&*folder, "stick", "./stick/../stick"] {
        let mut command = Command::new(ferry());
        command.current_dir(site.dir.path()).arg("--root").arg(site.path("store"));
        let output = command.args(["copy", &whole, folder, "--next-medium", &next]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("no medium is mounted there"), "{folder}: {error}");
        assert_eq!(output.status.code(), Some(3), "{folder}: {error}");
        assert_eq!(names(&stick.point), [""; 0], "{folder}");
        stick.mount("rw");
        run(Command::new("sh").args(["-c", &format!("rm -r '{}'/*", stick.point.display())]));
    }
}

#[test]
fn what_is_read_back_comes_from_the_medium_and_not_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let stick = Stick::new(dir.path(), "one", "stick", 8);
    stick.mount("rw");
    let (path, written) = (stick.point.join("file"), noise(7, 1_000_000));
    fs::write(&path, &written).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let direct = || {
        let mut bytes = Vec::new();
        DirectReader::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert!(direct() == written);
    // The cache knows the file; on the medium a byte becomes another.
    assert!(fs::read(&path).unwrap() == written);
    let cached = fs::File::open(&path).unwrap();
    let image = fs::read(&stick.image).unwrap();
    let at = image.windows(64).position(|window| *window == written[..64]).unwrap() as u64;
    fs::File::options().write(true).open(&stick.image).unwrap().write_all_at(&[written[0] ^ 1], at).unwrap();
    let mut first = [0];
    cached.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first[0], written[0], "whoever reads through the cache does not see it");
    let back = direct();
    assert_eq!((back[0], back[1..] == written[1..]), (written[0] ^ 1, true));
}

#[test]
fn a_bundle_that_is_there_is_copied_as_one_that_starts_itself() {
    let site = Site::with_image(2 << 20);
    let stick = Stick::new(site.dir.path(), "large", "a stick", 256);
    stick.mount("rw");
    let at = |name: &str| site.text(&format!("a stick/{name}"));
    let (whole, parts) = (site.text("it's whole.ferry"), site.text("parts.ferry"));
    site.good(&["save", "-o", &whole, "app:1"]);
    site.good(&["save", "-o", &parts, "--volume-size", "1m", "app:1"]);
    let folder = site.text("a stick");
    for bundle in [&whole, &parts] {
        let out = site.good(&["copy", "--medium", "--self-extracting", bundle, &folder]);
        assert!(out.contains("read back as written"), "{out}");
    }
    site.good(&["copy", "--medium", "--self-extracting", &whole, &at("one.run")]);
    // What is there already is compared to the first byte, the program in front included.
    let copy = || site.ferry(&["copy", "--self-extracting", &whole, &site.text("host.run")]);
    assert_eq!((copy().0, copy().0), (0, 0));
    File::options().write(true).open(site.text("host.run")).unwrap().write_all_at(b"?", 100_000).unwrap();
    let (code, _, error) = copy();
    assert!(code != 0 && error.contains("host.run"), "{code}: {error}");
    // One that starts itself is copied as it is.
    site.good(&["copy", &at("one.run"), &site.text("again.run")]);
    let there = names(&stick.point);
    for name in ["it's whole", "one.run", "parts", "parts.001.ferry", "parts.002.ferry"] {
        assert!(there.iter().any(|there| there == name), "{name} in {there:?}");
    }
    let id = site.good(&["images", "-q"]);
    for (path, root) in
        [(at("it's whole"), "r1"), (at("parts"), "r2"), (at("one.run"), "r3"), (site.text("again.run"), "r4")]
    {
        let root = site.text(root);
        let (code, out, error) = shell(Path::new(&path), &["--root", &root], "/usr/bin:/bin");
        assert_eq!(code, 0, "{path}: {error}");
        assert!(out.contains("Loaded image: app:1"), "{out}");
        let (code, out, error) = shell(Path::new(&path), &["images", "-q", "--root", &root], "/usr/bin:/bin");
        assert_eq!((code, &out), (0, &id), "{path}: {error}");
    }
    // Where one file may not be so large the program lies beside the bundle.
    let set = VolumeSet::open(&[PathBuf::from(&whole)]).unwrap();
    let size = carried::around(&set, Some(&b"#!/bin/sh\n".to_vec())) + fs::metadata(&whole).unwrap().len();
    let there = (None, "it's whole", 0);
    let limits = [there, (Some(size), there.1, 0), (Some(size - 1), "it's whole.ferry", 1)];
    for (limit, name, beside) in limits {
        let mut luggage = Luggage { beside: Vec::new(), lead: Some(b"#!/bin/sh\n".to_vec()) };
        let form = luggage.form_of_copy(&set, &stick.point, limit);
        assert_eq!((form.name.unwrap().to_str().unwrap(), form.lead.is_some()), (name, beside == 0));
        assert_eq!(luggage.beside.len(), beside);
    }
}

fn shell(program: &Path, arguments: &[&str], path: &str) -> (i32, String, String) {
    let mut command = Command::new(program);
    let output = command.args(arguments).env("PATH", path).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

#[test]
fn what_might_have_been_too_large_is_one_executable_file_all_the_same() {
    let site = Site::with_image(3 << 20);
    // More than there is room for, until it is compressed.
    let tar = Tar::default().file("zeros", &vec![0; 260 << 20]).finish();
    fs::write(site.path("root.tar"), tar).unwrap();
    site.good(&["import", &site.text("root.tar"), "zeros:1"]);
    let stick = Stick::new(site.dir.path(), "large", "stick", 256);
    stick.mount("rw");
    let to = site.text("stick/zeros.run");
    let out = site.good(&["save", "--medium", "--self-extracting", "-o", &to, "zeros:1"]);
    assert!(out.contains(": 1 file of "), "{out}");
    assert_eq!(names(&stick.point), ["zeros.run"]);
    site.good(&["verify", &to]);
    let parts = site.text("stick/parts.run");
    site.good(&["save", "--medium", "--self-extracting", "-o", &parts, "--volume-size", "1m", "zeros:1", "app:1"]);
    assert!(names(&stick.point).contains(&"parts.run.002.ferry".to_owned()));
    site.good(&["verify", &parts]);
    stick.unmount();
    stick.mount("ro,noexec");
    for (path, root) in [(&to, "r1"), (&parts, "r2")] {
        let words = [path, "--root", &site.text(root)];
        let (code, out, error) = shell(Path::new("sh"), &words, "/usr/bin:/bin");
        assert_eq!(code, 0, "{path}: {error}");
        assert!(out.contains("Loaded image: zeros:1"), "{out}");
    }
}

#[test]
fn a_bundle_brings_its_ferry_along_even_where_programs_cannot_be_started() {
    let site = Site::with_image(2 << 20);
    let stick = Stick::new(site.dir.path(), "large", "a stick", 256);
    stick.mount("rw");
    let at = |name: &str| site.text(&format!("a stick/{name}"));
    site.good(&["save", "--medium", "--with-ferry", "-o", &at("it's.ferry"), "--volume-size", "1m", "app:1"]);
    let out = site.good(&["save", "--medium", "--self-extracting", "-o", &at("one.run"), "app:1"]);
    assert!(out.contains(": 1 file of "), "{out}");
    site.good(&["save", "--medium", "--self-extracting", "-o", &at("many.run"), "--volume-size", "1m", "app:1"]);
    for whole in ["one.run", "many.run"] {
        site.good(&["verify", "--deep", &at(whole)]);
    }
    assert_eq!(site.ferry(&["verify", &site.text("no.run")]).0, 3);
    let machine = if cfg!(target_arch = "x86_64") { "ferry.x86_64" } else { "ferry.aarch64" };
    let there = names(&stick.point);
    for name in ["it's.001.ferry", "it's.sh", machine, "many.run", "many.run.001.ferry", "one.run"] {
        assert!(there.iter().any(|there| there == name), "{name} in {there:?}");
    }
    stick.unmount();
    stick.mount("ro,noexec");
    let id = site.good(&["images", "-q"]);
    for (name, root) in [("it's.sh", "r1"), ("one.run", "r2"), ("many.run", "r3")] {
        let root = site.text(root);
        let (code, out, error) = shell(Path::new("sh"), &[&at(name), "--root", &root], "/usr/bin:/bin");
        assert_eq!(code, 0, "{name}: {error}");
        assert!(out.contains("Loaded image: app:1"), "{out}");
        let (code, out, error) = shell(Path::new("sh"), &[&at(name), "images", "-q", "--root", &root], "/usr/bin:/bin");
        assert_eq!((code, &out), (0, &id), "{name}: {error}");
        let (code, out, error) = shell(Path::new("sh"), &[&at(name), "ls", "{}"], "/usr/bin:/bin");
        assert!(code == 0 && out.contains("app:1"), "{name}: {out} {error}");
        // The host's own rules hold for it as for any other ferry.
        let keys = site.text("keys");
        fs::write(&keys, "").unwrap();
        let policy = site.text("policy.json");
        fs::write(&policy, r#"{"require-signature": true, "allowed-signers": "keys"}"#).unwrap();
        let root = site.text("closed");
        let words = [&at(name), "load", "--policy", &policy, "--root", &root];
        let (code, _, error) = shell(Path::new("sh"), &words, "/usr/bin:/bin");
        assert!(code == 7 && error.contains("not signed"), "{name}: {code} {error}");
    }
    // Started as a program, copied as one, mended as one, and refused where a byte of either half is another.
    let run = site.text("copy.run");
    assert_eq!(site.ferry(&["copy", &at("one.run"), &run]).0, 0);
    let whole = fs::read(&run).unwrap();
    assert!(whole == fs::read(at("one.run")).unwrap());
    for path in [&run, &at("one.run")] {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
    let (code, _, error) = shell(Path::new(&run), &["--root", &site.text("r4")], "/usr/bin:/bin");
    assert_eq!(code, 0, "{error}");
    for at in [100_000, whole.len() - 1_000_000] {
        let mut broken = whole.clone();
        broken[at] ^= 1;
        fs::write(&run, broken).unwrap();
        let (code, _, error) = shell(Path::new("sh"), &[&run, "--root", &site.text("r5")], "/usr/bin:/bin");
        assert!([5, 6].contains(&code) && error.contains("damaged"), "{at}: {code} {error}");
        assert_eq!(site.ferry_at("r5", &["images", "-q"]).1, "");
    }
}

#[test]
fn a_receipt_says_what_arrived_and_is_proven_on_the_sending_side() {
    let site = Site::with_image(1 << 20);
    for key in ["host", "stranger"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &site.text(key)]));
    }
    let public = fs::read_to_string(site.path("host.pub")).unwrap();
    fs::write(site.path("hosts"), format!("far.example namespaces=\"ferry-receipt\" {public}")).unwrap();
    let (bundle, receipt, hosts) = (site.text("app.ferry"), site.text("receipt"), site.text("hosts"));
    site.good(&["save", "-o", &bundle, "app:1"]);
    let load = ["load", "-i", &bundle, "--receipt", &receipt, "--sign", &site.text("host")];
    assert_eq!(site.ferry_at("far", &load).0, 0);
    let out = site.good(&["verify", "--receipt", &receipt, "--allowed-signers", &hosts, &bundle]);
    assert!(out.contains("Signed:  by far.example (SHA256:"), "{out}");
    assert!(out.contains(site.good(&["images", "-q", "--no-trunc"]).trim()), "{out}");
    assert!(out.ends_with("The receipt is for this bundle, and names all its images.\n"), "{out}");

    // ssh-keygen says the same of it.
    let text = fs::read_to_string(&receipt).unwrap();
    let (document, signature) = text.split_at(text.find("-----BEGIN").unwrap());
    fs::write(site.path("document"), document).unwrap();
    fs::write(site.path("document.sig"), signature).unwrap();
    let mut check = Command::new("ssh-keygen");
    check.args([
        "-Y",
        "verify",
        "-f",
        &hosts,
        "-I",
        "far.example",
        "-n",
        "ferry-receipt",
        "-s",
        &site.text("document.sig"),
    ]);
    run(check.stdin(fs::File::open(site.path("document")).unwrap()));

    // Another bundle, a changed word, a stranger's key, none where one must be.
    site.good(&["tag", "app:1", "app:2"]);
    let other = site.text("other.ferry");
    site.good(&["save", "-o", &other, "app:2"]);
    let verify = |receipt: &str, more: &[&str]| {
        let words = [&["verify", "--receipt", receipt, "--allowed-signers", &hosts], more].concat();
        let (code, _, error) = site.ferry(&words);
        (code, error)
    };
    let (code, error) = verify(&receipt, &[&other]);
    assert!(code == 6 && error.contains("is not the receipt of"), "{code} {error}");
    let forged = site.text("forged");
    fs::write(&forged, text.replace("\"store\": \"", "\"store\": \"/x")).unwrap();
    let (code, error) = verify(&forged, &[]);
    assert!(code != 0 && error.contains("the signature is not over this text"), "{code} {error}");
    let load = ["load", "-i", &bundle, "--receipt", &forged, "--sign", &site.text("stranger")];
    assert_eq!(site.ferry_at("far", &load).0, 0);
    let (code, error) = verify(&forged, &[&bundle]);
    assert!(code != 0 && error.contains("not among the allowed signers"), "{code} {error}");
    fs::write(&forged, document).unwrap();
    assert_eq!(verify(&forged, &[&bundle]).0, 0);
    let (code, error) = verify(&forged, &["--require-signature", &bundle]);
    assert!(code != 0 && error.contains("not signed"), "{code} {error}");
    // Where it cannot be written nothing is loaded.
    let nowhere = site.text("no/receipt");
    assert_ne!(
        site.ferry_at("none", &["load", "-i", &bundle, "--receipt", &nowhere, "--sign", &site.text("host")]).0,
        0
    );
    assert_eq!(site.ferry_at("none", &["images", "-q"]).1, "");
}
