//! A load that dies, or for which there is no room, leaves the store as it was.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use ferry::base::Ctx;
use ferry::image::ImageId;
use ferry::store::{Depth, Options, Store};

use crate::store::{Memory, entry, layer};
use crate::support::ferry;

/// A layer of many files, each of which differs by `seed`.
fn many_files(seed: u32, count: usize) -> Vec<u8> {
    let files: Vec<(String, String)> =
        (0..count).map(|n| (format!("etc/{seed}-{n}"), format!("{seed} {n} ").repeat(40))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    layer(&files)
}

/// Writes a docker-archive of the image.
fn archive(memory: &Memory, path: &Path) {
    let image = &memory.images[0];
    let config = format!("{}.json", image.config.id().0.hex());
    let names: Vec<String> = image.layers.iter().map(|layer| format!("{}.tar", layer.diff_id.0.hex())).collect();
    let tags: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    let manifest = serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": names}]);
    let mut tar = entry(b'0', &config, "", image.config.raw());
    for (name, layer) in names.iter().zip(&image.layers) {
        tar.extend(entry(b'0', name, "", memory.tar(&layer.diff_id)));
    }
    tar.extend(entry(b'0', "manifest.json", "", manifest.to_string().as_bytes()));
    tar.resize(tar.len() + 1024, 0);
    fs::write(path, tar).unwrap();
}

fn load(root: &Path, archive: &Path) -> Command {
    let mut command = Command::new(ferry());
    command.arg("--root").arg(root).args(["load", "-q", "-i"]).arg(archive);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn ids(store: &Store) -> BTreeSet<ImageId> {
    store.images(&Ctx::silent()).unwrap().iter().map(|image| image.id()).collect()
}

#[test]
fn a_load_killed_at_any_moment_leaves_the_store_as_before_or_as_after() {
    let ctx = Ctx::silent();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = dir.path().join("store");
    let mut first = Memory::default();
    let first_id = first.image(&["first"], &[many_files(1, 50)], false);
    archive(&first, &dir.path().join("first.tar"));
    let mut second = Memory::default();
    let layers: Vec<Vec<u8>> = [1, 2, 3, 4].map(|seed| many_files(seed, if seed == 1 { 50 } else { 300 })).into();
    let second_id = second.image(&["second:1", "second:2"], &layers, false);
    let second_tar = dir.path().join("second.tar");
    archive(&second, &second_tar);
    assert!(load(&root, &dir.path().join("first.tar")).status().unwrap().success());

    let began = Instant::now();
    assert!(load(&root, &second_tar).status().unwrap().success());
    let whole = began.elapsed();
    let store = || Store::open(&root, Options::default()).unwrap();
    store().remove(&second_id.to_string(), true, false, &[], &ctx).unwrap();

    // A hundred by `FERRY_KILLS=100`: each somewhere in its own part of the load's duration.
    let moments: u32 = std::env::var("FERRY_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let (mut before, mut after) = (0, 0);
    let mut seed = 1_u32;
    for moment in 0..moments {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut child = load(&root, &second_tar).spawn().unwrap();
        // Not to wait for anything: the moment of death is what is tested.
        std::thread::sleep(
            whole.mul_f64((f64::from(moment) + f64::from(seed >> 8) / f64::from(1 << 24)) / f64::from(moments)),
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let store = store();
        let there = ids(&store);
        if there.contains(&second_id) {
            after += 1;
            assert_eq!(store.image(&second_id).unwrap().names.len(), 2, "moment {moment}");
        } else {
            before += 1;
            assert!(store.resolve("second:1").is_err(), "moment {moment}");
        }
        assert!(there.contains(&first_id), "moment {moment}");
        let findings = store.fsck(Depth::Contents, &ctx).unwrap();
        assert!(findings.iter().all(|finding| finding.kind.is_leftover()), "moment {moment}: {findings:?}");
        let said = Command::new(ferry()).arg("--root").arg(&root).args(["fsck", "--contents"]).output().unwrap();
        assert!(said.status.success(), "moment {moment}: {}", String::from_utf8_lossy(&said.stdout));
        if there.contains(&second_id) {
            store.remove(&second_id.to_string(), true, false, &[], &ctx).unwrap();
            assert_eq!(store.fsck(Depth::Contents, &ctx).unwrap(), [], "moment {moment}");
        }
    }
    assert!(before > 0 && before + after == moments, "{before} before, {after} after");
    assert!(load(&root, &second_tar).status().unwrap().success());
    assert_eq!(store().fsck(Depth::Contents, &ctx).unwrap(), []);
    assert_eq!(ids(&store()).len(), 2);
    assert_eq!(fs::read_dir(root.join("ferry/staging")).unwrap().count(), 0);
}

#[test]
fn a_disk_too_small_is_one_clear_error_and_nothing_is_left() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut memory = Memory::default();
    // Many inodes and little data: the check of the room beforehand cannot know.
    memory.image(&["big"], &[many_files(1, 20), many_files(2, 3000)], false);
    let tar = dir.path().join("big.tar");
    archive(&memory, &tar);
    let mount = dir.path().join("mount");
    fs::create_dir(&mount).unwrap();
    for (options, message) in [
        // Too small for the bytes: known before the first is written.
        ("size=1m", "not enough room"),
        // Too small for the files: found on the way.
        ("size=64m,nr_inodes=500", "No space left on device"),
    ] {
        let script = format!(
            "mount -t tmpfs -o {options} none {mount} && cd {mount} && mkdir s && \
             {ferry} --root s load -q -i {tar} 2>&1; echo \"code $?\"; \
             find s -path '*/staging/*'; find s/overlay2 s/image -type f; {ferry} --root s images -q",
            mount = mount.display(),
            ferry = ferry().display(),
            tar = tar.display(),
        );
        let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(lines[0].contains(message), "{text}");
        assert!(lines[1] == "code 8" && lines[2].ends_with("repositories.json"), "{text}");
    }
}

#[test]
fn a_pipe_is_not_read_into_a_directory_without_room_for_it() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut memory = Memory::default();
    memory.image(&["one"], &[many_files(1, 2)], false);
    archive(&memory, &dir.path().join("one.tar"));
    let script = format!(
        "cd {dir}; mkdir small; mount -t tmpfs -o size=1m none small; \
         cat one.tar | {ferry} --root s load --spool-dir small 2>&1; echo \"code $?\"; {ferry} --root s images -q; \
         cat one.tar | {ferry} --root s load -q",
        dir = dir.path().display(),
        ferry = ferry().display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "ferry: standard input does not fit into small, where it is kept while it is read: no storage space\n\
                    hint: --spool-dir names another directory\ncode 8\nLoaded image: one:latest\n";
    assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_store_on_two_file_systems_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut memory = Memory::default();
    memory.image(&["one"], &[many_files(1, 2)], false);
    let tar = dir.path().join("one.tar");
    archive(&memory, &tar);
    let root = dir.path().join("store");
    Store::open_or_create(&root, Options::default()).unwrap();
    let script = format!(
        "mount -t tmpfs none {root}/overlay2 && mkdir {root}/overlay2/l && {ferry} --root {root} load -i {tar} 2>&1; \
         find {root} -type f",
        root = root.display(),
        ferry = ferry().display(),
        tar = tar.display(),
    );
    let output = Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("are on different file systems"), "{text}");
    assert!(!text.contains("/staging/"), "{text}");
}
