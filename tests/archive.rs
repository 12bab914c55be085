//! Every archive that exists is read, what is written is read by all, and nothing that is broken is believed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Mutex;

use ferry::archive::write::{ArchiveSink, Format, WriteOptions};
use ferry::archive::{self, Input, OpenOptions};
use ferry::base::{BoxFault, Class, Ctx, Digest};
use ferry::image::{Form, ImageSink, ImageSource, Layer};
use serde_json::json;

use crate::support::Warnings;
use crate::support::images::{
    self, Layout, SHAPES, Tar, TestImage, bzip2, gzip, layer, layout, manifest_json, pair, xz, zstd,
};

type Pack = fn(&[u8]) -> Vec<u8>;
const PACKINGS: &[(&str, Pack)] =
    &[("plain", |bytes| bytes.to_vec()), ("gzip", gzip), ("bzip2", bzip2), ("xz", xz), ("zstd", zstd)];

fn options(dir: &Path) -> OpenOptions {
    OpenOptions { spool: dir.to_owned(), ..OpenOptions::default() }
}

fn open(bytes: &[u8], dir: &Path) -> Result<Box<dyn ImageSource>, BoxFault> {
    let path = dir.join("archive");
    fs::write(&path, bytes).unwrap();
    Ok(archive::open(Input::Path(path), &options(dir), &Ctx::silent())?)
}

/// Reads every layer in both forms and proves each; the digests of what was read.
pub fn read_all(source: &dyn ImageSource) -> Result<BTreeMap<String, Digest>, BoxFault> {
    let mut wanted: Vec<(Layer, Form)> = Vec::new();
    for layer in source.images().iter().flat_map(|image| &image.layers) {
        for form in [Form::Tar, Form::Original] {
            if !wanted.contains(&(layer.clone(), form)) {
                wanted.push((layer.clone(), form));
            }
        }
    }
    let digests = Mutex::new(BTreeMap::new());
    // Forms of one layer look alike to a visitor: one pass for each.
    for form in [Form::Tar, Form::Original] {
        let wanted: Vec<_> = wanted.iter().filter(|(_, wanted)| *wanted == form).cloned().collect();
        source.visit_layers(&wanted, 2, &Ctx::silent(), &|layer, reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(|source| ferry::base::PathError {
                action: "read",
                path: layer.diff_id.to_string().into(),
                source,
            })?;
            let name = format!("{:?} {}", form, layer.diff_id);
            digests.lock().unwrap().insert(name, Digest::of(&bytes));
            Ok(())
        })?;
    }
    Ok(digests.into_inner().unwrap())
}

/// Holds a source to the images it was made of.
fn check(source: &dyn ImageSource, expected: &[TestImage], what: &str) {
    assert_eq!(source.images().len(), expected.len(), "{what}");
    let digests = read_all(source).unwrap_or_else(|fault| panic!("{what}: {fault}"));
    for (image, expected) in source.images().iter().zip(expected) {
        assert_eq!(image.config.raw(), expected.config, "{what}");
        let mut names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
        names.sort();
        let mut wanted: Vec<&str> = expected.names.clone();
        wanted.sort();
        assert_eq!(names, wanted, "{what}");
        for (layer, tar) in image.layers.iter().zip(&expected.layers) {
            assert_eq!(layer.diff_id.0, Digest::of(tar), "{what}");
            assert_eq!(digests[&format!("Tar {}", layer.diff_id)], layer.diff_id.0, "{what}");
            assert!(layer.size.is_none_or(|size| size == tar.len() as u64), "{what}");
            let original = layer.original.as_ref().map_or(layer.diff_id.0, |original| original.digest);
            assert_eq!(digests[&format!("Original {}", layer.diff_id)], original, "{what}");
        }
    }
}

fn write(source: &dyn ImageSource, options: WriteOptions) -> Vec<u8> {
    let mut sink = ArchiveSink::new(Vec::new(), options);
    sink.take(source, source.images(), &Ctx::silent()).unwrap();
    sink.into_inner()
}

#[test]
fn every_shape_gives_the_same_images_however_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, make) in SHAPES {
        let bytes = make(&pair());
        for (packing, pack) in PACKINGS {
            let what = format!("{shape}, {packing}");
            let packed = pack(&bytes);
            check(&*open(&packed, dir.path()).unwrap(), &pair(), &what);
            let stream = Input::Stream(Box::new(Cursor::new(packed)), "a pipe".into());
            let source = archive::open(stream, &options(dir.path()), &Ctx::silent()).unwrap();
            check(&*source, &pair(), &format!("{what}, from a pipe"));
        }
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["archive"], "nothing stays in the spool directory");
}

#[test]
fn a_directory_is_read_like_the_archive_and_never_beyond_itself() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, make) in SHAPES {
        let root = dir.path().join(shape.replace(' ', "-"));
        fs::create_dir(&root).unwrap();
        unpack(&make(&pair()), &root);
        let source = archive::open(Input::Path(root.clone()), &options(dir.path()), &Ctx::silent()).unwrap();
        check(&*source, &pair(), shape);
    }
    let outside = dir.path().join("outside.json");
    fs::write(&outside, "[]").unwrap();
    let root = dir.path().join("evil");
    fs::create_dir(&root).unwrap();
    std::os::unix::fs::symlink("../outside.json", root.join("manifest.json")).unwrap();
    let fault = archive::open(Input::Path(root), &options(dir.path()), &Ctx::silent()).err().unwrap();
    assert!(fault.to_string().contains("leads out of the directory"), "{fault}");
}

/// Unpacks a tar of [`Tar`]'s with the system's tar.
fn unpack(bytes: &[u8], root: &Path) {
    let file = root.parent().unwrap().join("unpack.tar");
    fs::write(&file, bytes).unwrap();
    let status = std::process::Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(root).status().unwrap();
    assert!(status.success());
}

#[test]
fn what_is_written_holds_the_same_images_and_is_the_same_every_time() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, make) in SHAPES {
        for format in [Format::Hybrid, Format::Docker, Format::Oci] {
            let what = format!("{shape} as {format:?}");
            let source = open(&make(&pair()), dir.path()).unwrap();
            let options = WriteOptions { format, spool: dir.path().into(), prove: true, ..WriteOptions::default() };
            let once = write(&*source, options.clone());
            let again = open(&once, &dir.path().join("..").join(dir.path())).unwrap();
            check(&*again, &pair(), &what);
            if format != Format::Docker {
                let manifests = |source: &dyn ImageSource| -> Vec<_> {
                    source.images().iter().map(|image| image.manifest.clone().map(|m| m.raw().to_vec())).collect()
                };
                let source = open(&make(&pair()), dir.path()).unwrap();
                if source.images()[0].manifest.is_some() {
                    assert_eq!(manifests(&*source), manifests(&*open(&once, dir.path()).unwrap()), "{what}");
                }
            }
            let source = open(&once, dir.path()).unwrap();
            assert_eq!(write(&*source, options), once, "{what}: written from itself");
        }
    }
}

#[test]
fn a_written_archive_is_plain_files_and_each_blob_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&images::docker_24(&pair()), dir.path()).unwrap();
    let bytes = write(&*source, WriteOptions { spool: dir.path().into(), ..WriteOptions::default() });
    let path = dir.path().join("out.tar");
    fs::write(&path, &bytes).unwrap();
    let listing = std::process::Command::new("tar").args(["--full-time", "-tvf"]).arg(&path).output().unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    let names: Vec<&str> = listing.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let mut unique = names.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "{listing}");
    for line in listing.lines() {
        assert!(line.starts_with("-rw-r--r-- 0/0") && line.contains(" 1970-01-01 00:00:00 "), "{line}");
    }
    assert_eq!(names[..3], ["oci-layout", "index.json", "manifest.json"]);
    // Three layers, two configs, two manifests.
    assert_eq!(names.len(), 3 + 3 + 2 + 2, "{listing}");
}

#[test]
fn zstd_layers_go_out_as_they_are_or_are_converted_and_the_digests_that_change_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&images::oci_zstd(&pair()), dir.path()).unwrap();
    let mut sink = ArchiveSink::new(Vec::new(), WriteOptions { spool: dir.path().into(), ..WriteOptions::default() });
    assert_eq!(sink.take(&*source, source.images(), &Ctx::silent()).unwrap().changed, []);
    let options = WriteOptions { spool: dir.path().into(), compat: true, ..WriteOptions::default() };
    let mut sink = ArchiveSink::new(Vec::new(), options);
    let report = sink.take(&*source, source.images(), &Ctx::silent()).unwrap();
    let old: Vec<Digest> = report.changed.iter().map(|(old, _)| *old).collect();
    let expected: Vec<Digest> = source.images().iter().map(|i| i.manifest.as_ref().unwrap().digest()).collect();
    assert_eq!(old, expected);
    let converted = open(&sink.into_inner(), dir.path()).unwrap();
    check(&*converted, &pair(), "converted");
    assert!(converted.images().iter().flat_map(|image| &image.layers).all(|layer| layer.original.is_none()));
}

/// An index of three platforms, of which `present` are there, in an index; `name` makes its name of its digest.
pub fn multi_arch(present: &[&str], name: &dyn Fn(Digest) -> String) -> Vec<u8> {
    let mut whole = Layout { blobs: vec![], entries: vec![], items: vec![] };
    let mut inner = Vec::new();
    for architecture in ["amd64", "arm64", "s390x"] {
        let image = TestImage::new(architecture, &[layer("etc/arch", architecture.as_bytes())], &[]);
        let one = layout(&[image], &|layer| (gzip(layer), "+gzip"));
        let mut entry = one.entries[0].clone();
        entry["platform"] = json!({"architecture": architecture, "os": "linux"});
        inner.push(entry);
        if present.contains(&architecture) {
            whole.blobs.extend(one.blobs);
        }
    }
    inner.push(json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(b"attestation").to_string(),
        "size": 7, "platform": {"architecture": "unknown", "os": "unknown"},
    }));
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": inner,
    })
    .to_string()
    .into_bytes();
    whole.entries.push(json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": Digest::of(&index).to_string(),
        "size": index.len(), "annotations": {"io.containerd.image.name": name(Digest::of(&index))},
    }));
    whole.blobs.push(index);
    whole.tar().finish()
}

#[test]
fn of_several_platforms_the_right_one_is_taken_or_the_choice_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let host = ferry::image::Platform::host().architecture;
    let all = ["amd64", "arm64", "s390x"];
    let absent: Vec<&str> = all.iter().filter(|name| **name != host).copied().collect();
    for (present, wanted, expected) in [
        (&all[..], None, Ok(host.as_str())),
        (&all[..], Some("linux/arm64"), Ok("arm64")),
        (&all[..], Some("linux/arm64/v8"), Ok("arm64")),
        (&all[..], Some("s390x"), Ok("s390x")),
        (&["s390x"][..], None, Ok("s390x")),
        (&["s390x"][..], Some("linux/amd64"), Err("has no image for linux/amd64 of multi:1; it has linux/s390x")),
        (&absent[..], None, Err("has several platforms of multi:1 and none is this host's: linux/")),
        (&[][..], None, Err("is missing; index")),
    ] {
        fs::write(dir.path().join("archive"), multi_arch(present, &|_| "docker.io/library/multi:1".into())).unwrap();
        let options = OpenOptions { platform: wanted.map(|text| text.parse().unwrap()), ..options(dir.path()) };
        let (ctx, warnings) = Warnings::kept();
        let opened = archive::open(Input::Path(dir.path().join("archive")), &options, &ctx);
        // What is there and left behind without anybody having asked for it is told.
        let left = present.len() > 1 && wanted.is_none() && expected.is_ok();
        assert_eq!(
            warnings.all().iter().filter(|text| text.contains("of multi:1 only linux/")).count(),
            usize::from(left)
        );
        match (opened, expected) {
            (Ok(source), Ok(architecture)) => {
                let [image] = source.images() else { panic!("one image") };
                assert_eq!(image.config.fields().architecture, architecture);
                assert_eq!(image.names[0].to_string(), "multi:1");
                read_all(&*source).unwrap();
            }
            (Err(fault), Err(text)) => assert!(fault.to_string().contains(text), "{fault}"),
            (opened, expected) => panic!("{present:?} {wanted:?}: {:?}, not {expected:?}", opened.err()),
        }
    }
}

#[test]
fn names_survive_in_all_their_forms() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::new("amd64", &[layer("etc/x", b"x")], &[]);
    let plain = layout(std::slice::from_ref(&image), &|layer| (layer.to_vec(), ""));
    let digest = plain.entries[0]["digest"].as_str().unwrap().to_owned();
    let other = Digest::of(b"of no document here");
    for (annotations, expected) in [
        (json!({"io.containerd.image.name": "docker.io/library/app:1"}), vec!["app:1".to_owned()]),
        (json!({"org.opencontainers.image.ref.name": "ghcr.io/a/b:1"}), vec!["ghcr.io/a/b:1".into()]),
        (json!({"org.opencontainers.image.ref.name": "app:2"}), vec!["app:2".into()]),
        (json!({"org.opencontainers.image.ref.name": "latest"}), vec![]),
        (json!({"io.containerd.image.name": format!("docker.io/library/app@{digest}")}), vec![format!("app@{digest}")]),
        (
            json!({"io.containerd.image.name": format!("ghcr.io/a/b:1@{digest}")}),
            vec!["ghcr.io/a/b:1".into(), format!("ghcr.io/a/b@{digest}")],
        ),
        (
            json!({"org.opencontainers.image.ref.name": format!("ghcr.io/a/b:1@{digest}")}),
            vec!["ghcr.io/a/b:1".into(), format!("ghcr.io/a/b@{digest}")],
        ),
        (json!({"io.containerd.image.name": format!("docker.io/library/app@{other}")}), vec![]),
        (json!({"io.containerd.image.name": format!("docker.io/library/app:3@{other}")}), vec!["app:3".into()]),
        (json!({"io.containerd.image.name": format!("moby-dangling@{digest}")}), vec![]),
        (json!({}), vec![]),
    ] {
        let mut entries = plain.entries.clone();
        let claims_other = annotations.to_string().contains(&other.to_string());
        entries[0]["annotations"] = annotations;
        fs::write(
            dir.path().join("named"),
            Layout { blobs: plain.blobs.clone(), entries, items: vec![] }.tar().finish(),
        )
        .unwrap();
        let (ctx, warnings) = Warnings::kept();
        let input = Input::Path(dir.path().join("named"));
        let source = archive::open(input, &options(dir.path()), &ctx).unwrap();
        let left_out = format!("@{other} is left out: no manifest or index of that digest leads to image");
        assert_eq!(warnings.all().iter().any(|text| text.contains(&left_out)), claims_other, "{:?}", warnings.all());
        let names: Vec<String> = source.images()[0].names.iter().map(ToString::to_string).collect();
        assert_eq!(names, expected);
        // And through what ferry writes.
        let bytes = write(&*source, WriteOptions { spool: dir.path().into(), ..WriteOptions::default() });
        let again = open(&bytes, dir.path()).unwrap();
        assert_eq!(again.images()[0].names, source.images()[0].names);
    }
}

#[test]
fn a_name_pinned_to_an_index_stays_true_through_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let name = |digest: Digest| format!("docker.io/library/multi:1@{digest}");
    let source = open(&multi_arch(&["amd64", "arm64", "s390x"], &name), dir.path()).unwrap();
    let [image] = source.images() else { panic!("one image") };
    let index = image.names[1].digest().unwrap();
    assert_eq!(
        image.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["multi:1".into(), format!("multi@{index}")]
    );
    assert_ne!(image.manifest.as_ref().unwrap().digest(), index);
    for format in [Format::Hybrid, Format::Oci] {
        let options = WriteOptions { format, spool: dir.path().into(), ..WriteOptions::default() };
        let other = tempfile::tempdir().unwrap();
        let again = open(&write(&*source, options.clone()), other.path()).unwrap();
        let [second] = again.images() else { panic!("one image") };
        assert_eq!((&second.names, &second.manifest), (&image.names, &image.manifest));
        assert_eq!(Digest::of(&again.index(&index).unwrap().unwrap()), index);
        read_all(&*again).unwrap();
        // Where the manifest had to change nothing leads to it any more, and the name says so.
        let mut sink = ArchiveSink::new(Vec::new(), WriteOptions { no_originals: true, ..options });
        let (ctx, warnings) = Warnings::kept();
        sink.take(&*source, source.images(), &ctx).unwrap();
        assert!(warnings.all().iter().any(|text| text.contains(&format!("multi@{index} is left out"))));
        let names = |source: &dyn ImageSource| source.images()[0].names.clone();
        assert_eq!(names(&*open(&sink.into_inner(), other.path()).unwrap()), image.names[..1]);
    }
}

#[test]
fn a_docker_archive_gives_tags_and_no_digest_that_it_cannot_prove() {
    let dir = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"of no document here");
    let tags = json!(["a:1", format!("b:2@{digest}"), format!("c@{digest}")]);
    fs::write(dir.path().join("tagged"), one(|item| item["RepoTags"] = tags)).unwrap();
    let (ctx, warnings) = Warnings::kept();
    let source = archive::open(Input::Path(dir.path().join("tagged")), &options(dir.path()), &ctx).unwrap();
    assert_eq!(source.images()[0].names.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    assert_eq!(warnings.all().iter().filter(|text| text.contains("is left out")).count(), 2);
}

#[test]
fn what_is_no_image_is_counted_and_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::new("amd64", &[layer("etc/x", b"x")], &["a:1"]);
    let mut layout = layout(std::slice::from_ref(&image), &|layer| (gzip(layer), "+gzip"));
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let (chart, signature) =
        ("application/vnd.cncf.helm.config.v1+json", "application/vnd.dev.cosign.simplesigning.v1+json");
    for (config, layer, platform) in [
        (chart, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", None),
        ("application/vnd.oci.image.config.v1+json", signature, None),
        ("application/vnd.oci.image.config.v1+json", "application/vnd.in-toto+json", Some("unknown")),
    ] {
        let blob = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
        let document = json!({
            "schemaVersion": 2, "mediaType": manifest,
            "config": blob(config, &image.config), "layers": [blob(layer, b"{}")],
        });
        let document = document.to_string().into_bytes();
        let mut entry = blob(manifest, &document);
        if let Some(os) = platform {
            entry["platform"] = json!({"os": os, "architecture": os});
        }
        layout.entries.push(entry);
        layout.blobs.extend([document, b"{}".to_vec()]);
    }
    fs::write(dir.path().join("more"), layout.tar().finish()).unwrap();
    let (ctx, warnings) = Warnings::kept();
    let source = archive::open(Input::Path(dir.path().join("more")), &options(dir.path()), &ctx).unwrap();
    check(&*source, std::slice::from_ref(&image), "an image and artifacts");
    let [warning] = &warnings.all()[..] else { panic!("{:?}", warnings.all()) };
    assert!(warning.ends_with(&format!(": 2 artifacts that are no images are left out (the first is {chart})")));
}

#[test]
fn contents_of_a_plain_archive_are_read_where_they_lie() {
    let dir = tempfile::tempdir().unwrap();
    let tar = layer("etc/data", b"the content");
    let source = open(&images::docker_25(&[TestImage::new("amd64", &[tar], &["a:1"])]), dir.path()).unwrap();
    let layer = &source.images()[0].layers[0];
    assert!(source.has_contents(layer));
    let content = ferry::image::SplitContent {
        id: ferry::base::ContentId::of(b"the content"),
        size: 11,
        offset: 1024,
        path: b"etc/data",
    };
    let extent = source.content(layer, &content).unwrap().unwrap();
    let mut bytes = [0; 11];
    extent.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"the content");
    let packed = open(&gzip(&images::docker_25(&pair())), dir.path()).unwrap();
    assert!(!packed.has_contents(&packed.images()[0].layers[0]));
}

/// One manifest.json item about one image of one layer, to be broken.
fn one(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let image = TestImage::new("amd64", &[layer("etc/x", b"x")], &["a:1"]);
    let mut item = json!({"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]});
    change(&mut item);
    Tar::default()
        .file("config.json", &image.config)
        .file("layer.tar", &image.layers[0])
        .symlink("out", "../../etc/passwd")
        .symlink("a/1", "2")
        .symlink("a/2", "1")
        .entry("fifo", b'6', "", b"")
        .file("manifest.json", &manifest_json(&[item]))
        .finish()
}

fn raw(manifest: &str) -> Vec<u8> {
    Tar::default().file("manifest.json", manifest.as_bytes()).finish()
}

#[test]
fn each_fault_gives_one_clear_error_of_the_right_class() {
    let dir = tempfile::tempdir().unwrap();
    let image = TestImage::new("amd64", &[layer("etc/x", b"x")], &["a:1"]);
    let good = layout(std::slice::from_ref(&image), &|layer| (gzip(layer), "+gzip"));
    let without = |at: usize| {
        let mut blobs = good.blobs.clone();
        blobs.remove(at);
        Layout { blobs, entries: good.entries.clone(), items: vec![] }.tar().finish()
    };
    let wrong = |at: usize| {
        let mut tar = good.tar();
        let digest = Digest::of(&good.blobs[at]);
        let mut bytes = good.blobs[at].clone();
        bytes[10] ^= 1;
        tar = tar.file(&format!("blobs/sha256/{}", digest.hex()), &bytes);
        tar.finish()
    };
    let sized = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut entries = good.entries.clone();
        change(&mut entries[0]);
        Layout { blobs: good.blobs.clone(), entries, items: vec![] }.tar().finish()
    };
    let mut too_many: Vec<String> = Vec::new();
    too_many.resize(128, "layer.tar".into());
    let deep = format!(r#"[{{"Unknown": {}"#, "[".repeat(100_000));
    let bomb = {
        let mut names = String::from(r#"[{"Config":"c","RepoTags":[],"Layers":["#);
        names.push_str(&"\"\",".repeat(1_000_000));
        names + "\"\"]}]"
    };
    let old = Tar::default().file("repositories", b"{}").finish();
    let rootfs = Tar::default().dir("bin/").file("bin/sh", b"x").file("etc/passwd", b"x").finish();
    let mut long_links = Tar::default().file("t0", b"[]");
    for at in 1..10 {
        long_links = long_links.symlink(&format!("t{at}"), &format!("t{}", at - 1));
    }
    let huge_window = {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(29).unwrap();
        encoder.include_contentsize(false).unwrap();
        std::io::Write::write_all(&mut encoder, &images::docker_25(&pair())).unwrap();
        encoder.finish().unwrap()
    };
    let cases: Vec<(&str, Vec<u8>, Class, &str)> = vec![
        ("empty", vec![], Class::Malformed, "is not an image archive: it is empty"),
        ("text", b"hello".repeat(200), Class::Malformed, "it is no tar archive"),
        ("gzip of text", gzip(&b"hello".repeat(200)), Class::Malformed, "malformed tar at byte 0"),
        (
            "no documents",
            Tar::default().file("x", b"").finish(),
            Class::Malformed,
            "neither manifest.json nor index.json",
        ),
        ("root file system", rootfs, Class::Malformed, "it looks like a root file system"),
        ("before 1.10", old, Class::Unsupported, "the image format of Docker before 1.10"),
        ("not JSON", raw("{"), Class::Malformed, "manifest.json is malformed"),
        ("deep JSON", raw(&deep), Class::Malformed, "manifest.json is malformed: EOF"),
        ("a million layers", raw(&bomb), Class::Malformed, "more than 127 items"),
        ("no images", raw("[]"), Class::Malformed, "it lists no image"),
        ("no config", one(|item| item["Config"] = json!("none.json")), Class::Malformed, "none.json is missing"),
        ("no layer", one(|item| item["Layers"] = json!(["none.tar"])), Class::Malformed, "none.tar is missing"),
        ("too few layers", one(|item| item["Layers"] = json!([])), Class::Malformed, "1 layers by its config, but 0"),
        ("too many layers", one(|item| item["Layers"] = json!(too_many)), Class::Malformed, "more than 127 items"),
        ("a layer outside", one(|item| item["Layers"] = json!(["../x"])), Class::Malformed, "leads out of the archive"),
        ("a link outside", one(|item| item["Layers"] = json!(["out"])), Class::Malformed, "leads out of the archive"),
        ("a circle", one(|item| item["Layers"] = json!(["a/1"])), Class::Malformed, "too many links"),
        ("a fifo", one(|item| item["Layers"] = json!(["fifo"])), Class::Malformed, "neither a plain file nor a link"),
        ("a bad name", one(|item| item["RepoTags"] = json!(["UPPER/x y"])), Class::Malformed, "invalid reference"),
        ("an entry outside", Tar::default().file("../x", b"").finish(), Class::Malformed, "leads out of the archive"),
        (
            "many links",
            long_links.symlink("manifest.json", "t9").finish(),
            Class::Malformed,
            "goes through too many links",
        ),
        ("layer missing", without(0), Class::Malformed, "is missing; manifest sha256:"),
        ("config missing", without(1), Class::Malformed, "is missing; manifest sha256:"),
        ("manifest missing", without(2), Class::Malformed, "is missing; index.json refers to it"),
        ("config changed", wrong(1), Class::Integrity, "has other content than promised"),
        ("manifest changed", wrong(2), Class::Integrity, "has other content than promised"),
        ("a size that lies", sized(&|entry| entry["size"] = json!(1)), Class::Malformed, "where its descriptor says 1"),
        ("sha512", sized(&|e| e["digest"] = json!("sha512:00")), Class::Malformed, "only sha256 is"),
        ("a wide window", huge_window, Class::Malformed, "a zstd frame needs a larger window than 128 MiB"),
    ];
    for (what, bytes, class, text) in cases {
        let Err(fault) = open(&bytes, dir.path()) else { panic!("{what} was taken") };
        let message = fault.to_string();
        assert!(message.contains(text), "{what}: {message}");
        assert_eq!(fault.class(), class, "{what}: {message}");
        assert!(message.contains("archive") && !message.contains('\n'), "{what}: {message}");
    }
}

#[test]
fn an_archive_that_expands_without_end_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.zst");
    // One entry of 8 EiB of zeros; the compressed stream of it is endless here.
    struct Zeros(Cursor<Vec<u8>>, u64);
    impl Read for Zeros {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.read(buf)?;
            if n > 0 || self.1 == 0 {
                return Ok(n);
            }
            let n = buf.len().min(usize::try_from(self.1).unwrap());
            buf[..n].fill(0);
            self.1 -= n as u64;
            Ok(n)
        }
    }
    let mut header = Tar::default().file("layer.tar", b"").finish()[..512].to_vec();
    header[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    let sum: u32 =
        header.iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = zstd::stream::write::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
    std::io::copy(&mut Zeros(Cursor::new(header), 2 << 30), &mut out).unwrap();
    out.finish().unwrap();
    let fault = archive::open(Input::Path(path), &options(dir.path()), &Ctx::silent()).err().unwrap();
    assert_eq!(ferry::base::Fault::class(&fault), Class::Malformed, "{fault}");
}

#[test]
fn truncated_anywhere_an_archive_is_refused_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (shape, make) in SHAPES {
        let bytes = make(&pair());
        for (packing, pack) in PACKINGS {
            let packed = pack(&bytes);
            let step = if *packing == "plain" { 256 } else { packed.len() / 40 + 1 };
            for end in (0..packed.len()).step_by(step) {
                let what = format!("{shape}, {packing}, {end} of {} bytes", packed.len());
                same_or_refused(&packed[..end], dir.path(), &what);
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_found_or_changes_nothing_that_matters() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = 7_u64;
    for (shape, make) in SHAPES {
        let bytes = make(&pair());
        for (packing, pack) in PACKINGS {
            let packed = pack(&bytes);
            for _ in 0..60 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mut broken = packed.clone();
                let at = (seed >> 20) as usize % broken.len();
                broken[at] ^= 1 << (seed % 8);
                same_or_refused(&broken, dir.path(), &format!("{shape}, {packing}, byte {at}"));
            }
        }
    }
}

/// Reads a broken archive to its end: an error, or configs and layers that are what their digests say.
fn same_or_refused(bytes: &[u8], dir: &Path, what: &str) {
    let Ok(source) = open(bytes, dir) else { return };
    let Ok(digests) = read_all(&*source) else { return };
    let known: Vec<Digest> = pair().iter().map(TestImage::id).collect();
    for image in source.images() {
        // A docker-archive's config is named by its digest in all shapes; a layer is proven by whoever reads it.
        assert!(known.contains(&image.config.id().0), "{what}");
        for layer in &image.layers {
            assert!(digests.contains_key(&format!("Tar {}", layer.diff_id)), "{what}");
        }
    }
}
