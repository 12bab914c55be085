//! What `verify --deep` and `extract` say of bundles that claim much, lean on a base, or contradict themselves.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use ferry::base::{Ctx, Digest};
use ferry::bundle::index::{Contents, ImageRecord, Index, LayerKind, LayerRecord, RecipeFrameRecord};
use ferry::bundle::volume::{SetId, SetWriter, WriteOptions};
use ferry::image::{Descriptor, DiffId, Manifest};

use crate::support::bench::{Bench, archive_of, entry};
use crate::support::images::{Tar, TestImage, layer, layout, zstd};

fn vu(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A bundle of one image of one layer of so many zeros, which nothing has the digest of; written as docs/format/bundle.md
/// has it, since no writer would.
fn zeros(bench: &Bench, name: &str, count: u64, manifest: Option<&dyn Fn(Descriptor) -> Manifest>) {
    let diff_id = Digest::of(b"nothing");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    // One op, whose count is in the column of counts.
    let mut counts = Vec::new();
    vu(&mut counts, count);
    let mut recipe = vec![1, 4, 0, 0, 0, 0];
    vu(&mut recipe, counts.len() as u64);
    recipe.extend_from_slice(&counts);
    recipe.extend_from_slice(&[0, 0]);
    let stored = zstd::bulk::compress(&recipe, 3).unwrap();
    let of_config = Descriptor::of("application/vnd.oci.image.config.v1+json", config.as_bytes());
    let manifest = manifest.map(|build| build(of_config));
    let kind = LayerKind::Split { frame: 0, offset: 0, length: recipe.len() as u32 };
    let mut index = Index {
        documents: vec![config.into_bytes()],
        layers: vec![LayerRecord { diff_id: DiffId(diff_id), size: count, kind, original: None, replay: None }],
        recipe_frames: vec![RecipeFrameRecord {
            stored: stored.len() as u64,
            check: *blake3::hash(&stored).as_bytes(),
            length: recipe.len() as u32,
        }],
        contents: Contents { id_length: 16, ..Contents::default() },
        writer: "by hand".into(),
        ..Index::default()
    };
    index.documents.extend(manifest.iter().map(|manifest| manifest.raw().to_vec()));
    let manifest = manifest.map(|manifest| (1, manifest.media_type().to_owned()));
    index.images.push(ImageRecord {
        config: 0,
        manifest,
        names: vec!["docker.io/library/hi:1".into()],
        layers: vec![0],
    });
    let raw = index.encode();
    let packed = zstd::bulk::compress(&raw, 3).unwrap();
    let mut stream = b"FERRYOB\n\x01\0\x01\0\0\0\0\0".to_vec();
    stream.extend_from_slice(&stored);
    let offset = stream.len() as u64;
    stream.extend_from_slice(&packed);
    [offset, packed.len() as u64, raw.len() as u64].iter().for_each(|n| stream.extend_from_slice(&n.to_le_bytes()));
    stream.extend_from_slice(blake3::hash(&packed).as_bytes());
    stream.extend_from_slice(b"FERRYEN\n");
    let mut writer = SetWriter::to_path(&bench.path(name), WriteOptions::new(SetId::derive(b"zeros"))).unwrap();
    writer.write_all(&stream).unwrap();
    writer.finish(None, &Ctx::silent()).unwrap();
}

#[test]
fn a_layer_of_bytes_without_end_is_refused_and_the_user_may_end_any() {
    let bench = Bench::new(0);
    zeros(&bench, "small.ferry", 1 << 20, None);
    zeros(&bench, "large.ferry", 1 << 36, None);
    zeros(&bench, "huge.ferry", 1 << 50, None);
    let layer = Digest::of(b"nothing").hex();
    let commands = |bundle: &'static str| {
        [
            vec!["--progress", "json", "verify", "--deep", bundle],
            vec!["extract", "--layer", &layer, bundle],
            vec!["convert", bundle, "out.tar"],
        ]
    };
    for arguments in commands("small.ferry").iter().take(2) {
        let refused = Command::new(crate::support::ferry()).args(arguments).current_dir(bench.dir.path()).output();
        assert_eq!(refused.unwrap().status.code(), Some(6), "{arguments:?}: the digest is another");
    }
    for arguments in commands("huge.ferry") {
        let refused = bench.ferry(&arguments);
        assert!(refused.code == 5 && refused.error.contains("over the limit of"), "{arguments:?}: {}", refused.error);
    }
    for arguments in commands("large.ferry").iter().take(2) {
        let mut command = Command::new(crate::support::ferry());
        command.args(arguments).current_dir(bench.dir.path()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut out, error) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut lines = BufReader::new(error).lines().map(Result::unwrap);
        // It is at the layer: that comes out, or all before it is done.
        match arguments[0] {
            "extract" => out.read_exact(&mut [0; 1 << 16]).unwrap(),
            _ => assert!(lines.by_ref().any(|line| line.contains("Decompressing")), "{arguments:?}"),
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        std::io::copy(&mut out, &mut std::io::sink()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments:?}: {:?}", lines.collect::<Vec<_>>());
    }
}

#[test]
fn what_a_load_refuses_is_not_proven() {
    let bench = Bench::new(0);
    let other =
        |_: Descriptor| Manifest::build(Descriptor::of("application/vnd.oci.image.config.v1+json", b"{}"), vec![]);
    let longer = |config: Descriptor| Manifest::build(config, vec![]);
    zeros(&bench, "other.ferry", 1024, Some(&other));
    zeros(&bench, "longer.ferry", 1024, Some(&longer));
    for (name, path) in [("climbs", "../../evil"), ("good", "a/../evil")] {
        let mut layer = Vec::new();
        entry(&mut layer, path, b"x");
        archive_of(&bench.path("in.tar"), "a:1", &[layer]);
        bench.good(&["convert", "in.tar", &format!("{name}.ferry")]);
    }
    for (bundle, reason) in [
        ("other.ferry", Some("manifest is that of another image")),
        ("longer.ferry", Some("another number of layers")),
        ("climbs.ferry", Some("../../evil")),
        ("good.ferry", None),
    ] {
        for command in [&["verify", "--deep"][..], &["--root", "s", "load", "-q", "-i"]] {
            let done = bench.ferry(&[command, &[bundle]].concat());
            match reason {
                None => assert_eq!(done.code, 0, "{bundle}: {}", done.error),
                Some(reason) => {
                    let right = done.code == 5 && done.error.contains(reason) && !done.out.contains("Proven");
                    assert!(right, "{bundle} {command:?}: {}: {}", done.code, done.error);
                }
            }
        }
    }
}

#[test]
fn a_thin_bundle_is_proven_where_its_base_is_and_elsewhere_says_what_to_do() {
    let bench = Bench::new(0);
    let file = |path: &str| {
        let mut layer = Vec::new();
        entry(&mut layer, path, path.as_bytes());
        layer
    };
    archive_of(&bench.path("one.tar"), "app:1", &[file("base")]);
    archive_of(&bench.path("two.tar"), "app:2", &[file("base"), file("top")]);
    bench.good(&["--root", "near", "load", "-q", "-i", "one.tar"]);
    bench.good(&["--root", "near", "inventory", "--label", "site near", "-o", "near.inventory"]);
    bench.good(&["convert", "--base", "near.inventory", "two.tar", "thin.ferry"]);
    let out = bench.good(&["--root", "near", "verify", "--deep", "thin.ferry"]);
    assert!(out.contains("Proven:    1 image, 1 layer; 1 more are in the store\n"), "{out}");
    bench.good(&["--root", "empty", "load", "-q", "-i", "in.tar"]);
    for arguments in [
        &["--root", "empty", "verify", "--deep", "thin.ferry"][..],
        &["--root", "empty", "extract", "--image", "app:2", "-o", "out.tar", "thin.ferry"],
        &["--root", "empty", "extract", "--file", "base", "-o", "out.tar", "thin.ferry"],
        &["convert", "thin.ferry", "out.tar"],
    ] {
        let refused = bench.ferry(arguments);
        let says = refused.error.contains("site near") && refused.error.contains("load ");
        assert!(refused.code == 3 && says, "{arguments:?}: {}: {}", refused.code, refused.error);
        assert!(!bench.path("out.tar").exists(), "{arguments:?}");
    }
    bench.good(&["convert", "two.tar", "plain.tar"]);
    bench.good(&["--root", "near", "extract", "--image", "app:2", "-o", "out.tar", "thin.ferry"]);
    assert!(fs::read(bench.path("out.tar")).unwrap() == fs::read(bench.path("plain.tar")).unwrap());
}

/// Three releases, as archives `r1.tar`, as bundles `full1.ferry` and as archives made of those, `plain1.tar`: a layer that
/// all have, compressed as its registry has it, and one with a large file that changes a little. Gives the first.
fn releases(bench: &Bench) -> Vec<u8> {
    let base = Tar::default().dir("etc/").file("etc/base", b"of all").finish();
    let known = base.clone();
    let pack = move |tar: &[u8]| if *tar == known { (zstd(tar), "+zstd") } else { (tar.to_vec(), "") };
    let mut big: Vec<u8> = (0_u32..75_000).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 3).to_le_bytes()).collect();
    for (number, name) in (1..).zip(["app:1", "app:2", "app:3"]) {
        let image = TestImage::new("amd64", &[base.clone(), Tar::default().file("usr/big", &big).finish()], &[name]);
        let [archive, full, plain] = ["r", "full", "plain"].map(|kind| format!("{kind}{number}"));
        fs::write(bench.path(&format!("{archive}.tar")), layout(&[image], &pack).tar().finish()).unwrap();
        bench.good(&["convert", &format!("{archive}.tar"), &format!("{full}.ferry")]);
        bench.good(&["convert", &format!("{full}.ferry"), &format!("{plain}.tar")]);
        big[100_000 + 1_000 * number] ^= 0xff;
    }
    base
}

#[test]
fn what_a_thin_bundle_leaves_out_comes_from_bundles_and_from_the_store_as_it_was() {
    let bench = Bench::new(0);
    let base = releases(&bench);
    bench.good(&["convert", "--base", "full1.ferry", "r2.tar", "thin2.ferry"]);
    bench.good(&["convert", "--base", "thin2.ferry", "r3.tar", "thin3.ferry"]);
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    assert!(read("thin2.ferry").len() < 20_000, "{}", read("thin2.ferry").len());
    bench.good(&["--root", "s", "load", "-q", "-i", "full1.ferry"]);
    let of_two = ["--input-base", "full1.ferry", "thin2.ferry"];
    let of_three = ["--input-base", "full1.ferry", "--input-base", "thin2.ferry", "thin3.ferry"];
    let (diff_id, digest) = (Digest::of(&base).to_string(), Digest::of(&zstd(&base)).to_string());
    for (command, bundle, expected) in [
        (&["convert"][..], &of_two[..], "plain2.tar"),
        (&["convert"], &of_three, "plain3.tar"),
        (&["--root", "empty", "extract", "--image", "app:2", "-o"], &of_two, "plain2.tar"),
        (&["--root", "empty", "extract", "--image", "app:3", "-o"], &of_three, "plain3.tar"),
        (&["--root", "s", "extract", "--image", "app:2", "-o"], &["thin2.ferry"], "plain2.tar"),
        (&["--root", "s", "extract", "--image", "app:3", "-o"], &of_three[2..], "plain3.tar"),
    ] {
        // Input before output, or the other way round.
        let arguments = match command[0] {
            "convert" => [command, bundle, &["out.tar"]].concat(),
            _ => [command, &["out.tar"], bundle].concat(),
        };
        bench.good(&arguments);
        assert!(read("out.tar") == read(expected), "{arguments:?}");
    }
    for (root, bundle) in [("empty", &of_two[..]), ("s", &["thin2.ferry"])] {
        let extract = |what: &[&str]| {
            bench.good(&[&["--root", root, "extract", "-o", "out"], what, bundle].concat());
            read("out")
        };
        assert!(extract(&["--layer", &diff_id]) == base, "{root}");
        assert!(extract(&["--layer", &digest]) == zstd(&base), "{root}");
        assert!(extract(&["--file", "etc/base"]) == b"of all", "{root}");
        assert_eq!(extract(&["--file", "usr/big"]).len(), 300_000, "{root}");
    }

    // What is missing is named, with the way out.
    for arguments in [
        &["convert", "--input-base", "full3.ferry", "thin2.ferry", "no.tar"][..],
        &["convert", "--input-base", "thin2.ferry", "--input-base", "full1.ferry", "thin3.ferry", "no.tar"],
        &["--root", "empty", "extract", "--image", "app:2", "-o", "no.tar", "thin2.ferry"],
        &["--root", "empty", "extract", "--file", "usr/big", "-o", "no.tar", "thin2.ferry"],
        &["--root", "empty", "extract", "--file", "etc/base", "-o", "no.tar", "thin2.ferry"],
    ] {
        let refused = bench.ferry(arguments);
        let says = refused.error.contains("full1.ferry") && refused.error.contains("--input-base");
        assert!(refused.code == 3 && says, "{arguments:?}: {}: {}", refused.code, refused.error);
        assert!(!bench.path("no.tar").exists(), "{arguments:?}");
    }
    // What was changed in the store is not given out.
    let layers = fs::read_dir(bench.path("s/overlay2")).unwrap().map(|layer| layer.unwrap().path());
    let changed = layers.map(|layer| layer.join("diff/etc/base")).find(|path| path.exists()).unwrap();
    fs::write(changed, b"of aLL").unwrap();
    let refused = bench.ferry(&["--root", "s", "extract", "--file", "etc/base", "-o", "no", "thin2.ferry"]);
    assert!(refused.code != 0 && refused.error.contains("was changed"), "{}: {}", refused.code, refused.error);
    assert!(!bench.path("no").exists());
}

#[test]
fn a_larger_window_is_accepted_all_the_way_into_a_bundle_and_out_of_it() {
    let bench = Bench::new(0);
    // A frame that says it needs 512 MiB; its one block is stored.
    let pack = |tar: &[u8]| {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3];
        frame.extend_from_slice(&(((tar.len() as u32) << 3) | 1).to_le_bytes()[..3]);
        frame.extend_from_slice(tar);
        (frame, "+zstd")
    };
    let image = TestImage::new("amd64", &[layer("etc/a", b"a file")], &["a:1"]);
    fs::write(bench.path("wide.tar"), layout(&[image], &pack).tar().finish()).unwrap();
    let wide = ["--max-window", "512MiB"];
    let refused = bench.ferry(&["convert", "wide.tar", "wide.ferry"]);
    assert!(refused.code == 5 && refused.error.contains("--max-window"), "{}: {}", refused.code, refused.error);
    bench.good(&[&["convert"], &wide[..], &["wide.tar", "wide.ferry"]].concat());
    for arguments in [
        &["convert", "--no-originals", "wide.ferry", "out.tar"][..],
        &["--root", "s", "load", "-q", "--no-originals", "-i", "wide.ferry"],
    ] {
        let refused = bench.ferry(arguments);
        assert!(refused.code == 5 && refused.error.contains("--max-window"), "{arguments:?}: {}", refused.error);
        bench.good(&[arguments, &wide].concat());
    }
    assert!(bench.path("out.tar").exists());
    let diff_id = Digest::of(&layer("etc/a", b"a file")).to_string();
    for arguments in [
        &["verify", "--deep", "wide.ferry"][..],
        &["extract", "--image", "a:1", "--no-originals", "-o", "out.tar", "wide.ferry"],
        &["extract", "--layer", &diff_id, "-o", "out", "wide.ferry"],
        &["extract", "--file", "etc/a", "wide.ferry"],
        &["ls", "--image", "a:1", "wide.ferry"],
        &["ls", "--layer", &diff_id, "wide.ferry"],
        &["diff", "wide.ferry", "wide.ferry"],
    ] {
        let refused = bench.ferry(arguments);
        assert!(refused.code == 5 && refused.error.contains("--max-window"), "{arguments:?}: {}", refused.error);
        bench.good(&[arguments, &wide].concat());
    }
}
