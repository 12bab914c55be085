//! The commands as users meet them: what they print, how they end, and what they leave behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ferry::base::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::store::snapshot;
use crate::support::images::{self, Tar, TestImage, gzip, layer, manifest_json, pair};
use crate::support::{checkout, ferry};

/// A directory with a store in it.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        // Not in /tmp, which may be a tmpfs without the attributes that overlay wants.
        Self(tempfile::Builder::new().prefix("ferry-cli-").tempdir_in("/var/tmp").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("store")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ferry());
        command.args(arguments).env("FERRY_ROOT", self.root()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command that must succeed prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ferry {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and the complaint of a command that must fail.
    fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.output(arguments);
        assert!(!output.status.success(), "ferry {arguments:?} succeeded");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

fn ids() -> (String, String) {
    let pair = pair();
    (pair[0].id().to_string(), pair[1].id().to_string())
}

/// A place with the two images of [`pair`].
fn loaded() -> Place {
    let place = Place::new();
    place.write("pair.tar", &images::docker_24(&pair()));
    place.run(&["load", "-q", "-i", "pair.tar"]);
    place
}

#[test]
fn load_list_tag_and_remove_speak_as_docker_does() {
    let place = Place::new();
    let archive = place.write("pair.tar", &images::docker_24(&pair()));
    assert_eq!(place.run(&["images"]), "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
    let stdin = fs::File::open(&archive).unwrap();
    let output = place.command(&["load"]).stdin(stdin).output().unwrap();
    let loaded = "Loaded image: one:1\nLoaded image: ghcr.io/a/one:latest\nLoaded image: two:2\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), loaded);
    assert_eq!(place.run(&["load", "-i", "pair.tar"]), loaded, "again changes nothing");

    let (one, two) = ids();
    let (short_one, short_two) = (&one[7..19], &two[7..19]);
    let list = |arguments: &[&str]| {
        let format = ["images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"];
        let mut lines: Vec<String> =
            place.run(&[&format[..], arguments].concat()).lines().map(ToOwned::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    let all = format!("ghcr.io/a/one:latest {short_one}\none:1 {short_one}\ntwo:2 {short_two}");
    assert_eq!(list(&[]), all);
    assert_eq!(list(&["two"]), format!("two:2 {short_two}"));
    assert_eq!(list(&["o*:1"]), format!("one:1 {short_one}"));
    assert_eq!(list(&["--filter", "reference=ghcr.io/*/*"]), format!("ghcr.io/a/one:latest {short_one}"));
    assert_eq!(list(&["--filter", "label=a=b", "--filter", "dangling=false"]), all);
    assert_eq!(list(&["--filter", "label=nothing"]), "");
    let mut quiet: Vec<String> = place.run(&["images", "-q", "--no-trunc"]).lines().map(Into::into).collect();
    quiet.sort();
    let mut expected = vec![one.clone(), two.clone()];
    expected.sort();
    assert_eq!(quiet, expected);
    let line: Value = serde_json::from_str(&place.run(&["images", "--format", "json", "two"])).unwrap();
    assert_eq!((&line["Repository"], &line["Tag"], &line["ID"]), (&json!("two"), &json!("2"), &json!(short_two)));
    let table = place.run(&["images", "--format", "table {{.Tag}}\\t{{.ID}}", "two"]);
    assert_eq!(table, format!("TAG       IMAGE ID\n2         {short_two}\n"));

    place.run(&["tag", "two:2", "three"]);
    place.run(&["tag", short_two, "localhost:5000/x/three:v3"]);
    assert_eq!(
        place.run(&["rmi", "three", "localhost:5000/x/three:v3"]),
        "Untagged: three:latest\nUntagged: localhost:5000/x/three:v3\n"
    );
    let removed = place.run(&["rmi", "two:2"]);
    assert!(removed.starts_with(&format!("Untagged: two:2\nDeleted: {two}\nDeleted: sha256:")), "{removed}");
    let (code, error) = place.fail(&["rmi", short_one]);
    assert_eq!(code, 4);
    assert_eq!(
        error,
        format!(
            "ferry: conflict: unable to delete {short_one} (must be forced) - image is referenced in multiple \
             repositories\nhint: -f removes it all the same\n"
        )
    );
    place.run(&["rmi", "-f", short_one]);
    assert_eq!(place.run(&["images", "-aq"]), "");
    assert_eq!(place.fail(&["rmi", "nothing"]), (3, "ferry: no such image: nothing\n".to_owned()));
    let forced = place.output(&["rmi", "-f", "nothing"]);
    assert!(forced.status.success());
    assert_eq!(String::from_utf8(forced.stderr).unwrap(), "ferry: no such image: nothing\n");
    assert_eq!(place.run(&["fsck", "--contents"]), "");
}

#[test]
fn history_and_inspect_show_what_docker_shows() {
    let place = loaded();
    let (_, two) = ids();
    let history = place.run(&["history", "--format", "{{.ID}} {{.CreatedBy}} {{.Size}}", "two:2"]);
    assert_eq!(history, format!("{} /bin/sh -c make 1B\n<missing> /bin/sh -c make 4B\n", &two[7..19]));
    let heading = place.run(&["history", "two:2"]);
    assert!(heading.starts_with("IMAGE          CREATED       CREATED BY        SIZE      COMMENT\n"), "{heading}");
    let document: Value = serde_json::from_str(&place.run(&["inspect", "two:2"])).unwrap();
    let document = &document[0];
    assert_eq!(document["Id"], json!(two));
    assert_eq!(document["RepoTags"], json!(["two:2"]));
    assert_eq!(document["Created"], json!("2024-01-18T22:31:19.5Z"));
    assert_eq!(document["Config"]["Env"], json!(["PATH=/bin"]));
    assert_eq!(document["GraphDriver"]["Name"], json!("overlay2"));
    assert_eq!(
        place.run(&["inspect", "-f", "{{.Os}}/{{.Architecture}} {{json .Config.Cmd}}", "two:2"]),
        "linux/amd64 [\"/bin/sh\"]\n"
    );
    assert_eq!(place.run(&["inspect", "-f", "{{index .Config.Labels \"a\"}}", &two[7..19]]), "b\n");
    let (code, error) = place.fail(&["inspect", "nothing"]);
    assert_eq!((code, error.as_str()), (3, "ferry: no such image: nothing\n"));
    let (code, error) = place.fail(&["inspect", "-f", "{{.Nothing}}", "two:2"]);
    assert_eq!(code, 2, "{error}");
}

#[test]
fn save_gives_the_same_bytes_whatever_the_way_in_and_out() {
    let place = loaded();
    place.run(&["save", "-o", "a.tar", "one:1", "ghcr.io/a/one", "two:2"]);
    let first = fs::read(place.path("a.tar")).unwrap();
    assert_eq!(place.output(&["save", "one:1", "ghcr.io/a/one", "two:2"]).stdout, first);
    for (ending, magic) in [("tar.gz", &[0x1f, 0x8b][..]), ("tar.zst", &[0x28, 0xb5]), ("tgz", &[0x1f, 0x8b])] {
        let name = format!("a.{ending}");
        place.run(&["save", "--verify", "-o", &name, "one:1", "ghcr.io/a/one", "two:2"]);
        assert!(fs::read(place.path(&name)).unwrap().starts_with(magic));
        let other = Place::new();
        let archive = place.path(&name);
        other.run(&["load", "-i", archive.to_str().unwrap()]);
        let again = other.output(&["save", "one:1", "ghcr.io/a/one", "two:2"]).stdout;
        assert_eq!(Digest::of(&again), Digest::of(&first), "{ending}");
    }
    // Registry blobs and manifests come back as they were.
    for (shape, make) in [("containerd", images::containerd as fn(&[TestImage]) -> Vec<u8>), ("oci", images::oci)] {
        let other = Place::new();
        other.write("in.tar", &make(&pair()));
        other.run(&["load", "-i", "in.tar"]);
        other.run(&["convert", "in.tar", "converted.tar"]);
        other.run(&["save", "-o", "out.tar", "one:1", "ghcr.io/a/one", "two:2"]);
        let listing = |name: &str| {
            let output = Command::new("tar").arg("-tf").arg(other.path(name)).output().unwrap();
            let mut names: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(Into::into).collect();
            names.sort();
            names
        };
        assert_eq!(listing("out.tar"), listing("converted.tar"), "{shape}");
        assert_eq!(other.run(&["fsck", "--contents"]), "");
    }
}

#[test]
fn nothing_is_written_when_the_list_of_images_is_wrong() {
    let place = loaded();
    for (arguments, code, text) in [
        (&["save", "-o", "x.tar", "two:2", "nothing:1"][..], 3, "no such image: nothing:1"),
        (&["save", "-o", "x.tar", "--platform", "linux/s390x", "two:2"], 3, "is for linux/amd64, not for linux/s390x"),
        (&["save", "-o", "x.tar.xz", "two:2"], 2, "ferry does not write .xz"),
        (&["save", "-o", "x.tar.gz", "--level", "99", "two:2"], 2, "level 99 is not one of 1 to 9"),
        (&["save", "-o", "no/such/dir/x.tar", "two:2"], 3, "cannot create no/such/dir/"),
    ] {
        let before = snapshot(place.0.path());
        let (found, error) = place.fail(arguments);
        assert_eq!(found, code, "{error}");
        assert!(error.contains(text), "{error}");
        assert_eq!(snapshot(place.0.path()), before, "{arguments:?}");
    }
}

#[test]
fn names_that_are_taken_move_stay_or_stop_the_load() {
    let place = loaded();
    let (_, two) = ids();
    let other = TestImage::new("amd64", &[layer("etc/new", b"new")], &["two:2"]);
    place.write("new.tar", &images::podman(std::slice::from_ref(&other)));
    let plan = place.run(&["load", "--dry-run", "-i", "new.tar"]);
    assert!(plan.starts_with("New layers: 1, 2.56kB\nLayers there already: 0\n"), "{plan}");
    assert!(plan.contains(&format!("Name two:2 = {} (moves from {two})\n", other.id())), "{plan}");
    let (code, error) = place.fail(&["load", "--on-conflict", "fail", "-i", "new.tar"]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("two:2 is image") && error.contains("hint: --on-conflict"), "{error}");
    let kept = place.run(&["load", "--on-conflict", "keep", "-i", "new.tar"]);
    assert_eq!(kept, format!("Kept name: two:2 is {two}\n"));
    assert_eq!(place.run(&["inspect", "-f", "{{.Id}}", "two:2"]).trim(), two);
    let moved = place.run(&["load", "-i", "new.tar"]);
    assert_eq!(
        moved,
        format!(
            "The image two:2 already exists, renaming the old one with ID {two} to empty string\nLoaded image: two:2\n"
        )
    );
    assert_eq!(place.run(&["images", "-q", "--no-trunc", "--filter", "dangling=true"]).trim(), two);
    let pruned = place.command(&["prune", "-f"]).output().unwrap();
    let pruned = String::from_utf8(pruned.stdout).unwrap();
    assert!(pruned.starts_with(&format!("Deleted Images:\ndeleted: {two}\n")), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
}

#[test]
fn an_image_without_a_name_is_loaded_by_id_and_can_be_given_one() {
    let place = Place::new();
    let image = TestImage::new("amd64", &[layer("etc/x", b"x")], &[]);
    place.write("nameless.tar", &images::podman(std::slice::from_ref(&image)));
    assert_eq!(place.run(&["load", "-i", "nameless.tar"]), format!("Loaded image ID: {}\n", image.id()));
    assert_eq!(place.run(&["load", "-i", "nameless.tar", "--tag", "found"]), "Loaded image: found:latest\n");
    place.write("pair.tar", &images::podman(&pair()));
    let (code, error) = place.fail(&["load", "-i", "pair.tar", "--tag", "x"]);
    assert_eq!((code, error.contains("cannot be the name of all 2 images")), (2, true), "{error}");
}

#[test]
fn import_makes_an_image_of_a_root_file_system() {
    let place = Place::new();
    let tar = layer("etc/hello", b"hello");
    place.write("root.tar.gz", &gzip(&tar));
    let id = place.run(&[
        "import",
        "-c",
        "CMD [\"/bin/x\"]",
        "-c",
        "ENV A=1",
        "-m",
        "by hand",
        "--platform",
        "linux/arm64",
        "root.tar.gz",
        "made:1",
    ]);
    let document: Value = serde_json::from_str(&place.run(&["inspect", "made:1"])).unwrap();
    assert_eq!(document[0]["Id"], json!(id.trim()));
    assert_eq!(document[0]["Architecture"], json!("arm64"));
    assert_eq!(document[0]["Config"]["Cmd"], json!(["/bin/x"]));
    assert_eq!(document[0]["Comment"], json!("by hand"));
    assert_eq!(document[0]["RootFS"]["Layers"], json!([Digest::of(&tar).to_string()]));
    let before = snapshot(&place.root());
    let (code, error) = place.fail(&["import", "-c", "RUN x", "root.tar.gz"]);
    assert_eq!((code, error.contains("RUN is not one of CMD")), (2, true), "{error}");
    place.write("broken.tar", &tar[..700]);
    assert_eq!(place.fail(&["import", "broken.tar"]).0, 5);
    assert_eq!(snapshot(&place.root()), before);
}

#[test]
fn bad_input_gives_one_line_and_leaves_the_store_as_it_was() {
    let place = loaded();
    let good = TestImage::new("amd64", &[layer("etc/new", b"some new bytes")], &["bad:1"]);
    let with_layer = |bytes: &[u8]| {
        let diff_id = Digest::of(&good.layers[0]);
        let item = json!({"Config": "c.json", "RepoTags": ["bad:1"], "Layers": [format!("{}.tar", diff_id.hex())]});
        Tar::default()
            .file("c.json", &good.config)
            .file(&format!("{}.tar", diff_id.hex()), bytes)
            .file("manifest.json", &manifest_json(&[item]))
            .finish()
    };
    let one_layer = |tar: Vec<u8>| images::docker_25(&[TestImage::new("amd64", &[tar], &["bad:1"])]);
    let listed = |change: &dyn Fn(&mut Value)| {
        let mut item = json!({"Config": "c.json", "RepoTags": ["bad:1"], "Layers": ["l.tar"]});
        change(&mut item);
        let tar = Tar::default().file("c.json", &good.config).file("l.tar", &good.layers[0]);
        tar.file("manifest.json", &manifest_json(&[item])).finish()
    };
    let document = |text: String| Tar::default().file("manifest.json", text.as_bytes()).finish();
    let a_billion = format!("[{{\"Config\":\"c\",\"Layers\":[{}\"\"]}}]", "\"\",".repeat(1_000_000));
    let mut without_layer = images::layout(std::slice::from_ref(&good), &|tar| (gzip(tar), "+gzip"));
    without_layer.blobs.remove(0);
    let mut lied_about = images::oci(std::slice::from_ref(&good));
    let at = lied_about.windows(15).position(|bytes| bytes == b"\"schemaVersion\"").unwrap();
    lied_about[at + 1] = b'S';
    let mut flipped = good.layers[0].clone();
    flipped[1030] ^= 1;
    let whole = images::containerd(std::slice::from_ref(&good));
    let mut bad_blob = whole.clone();
    let at = whole.windows(2).position(|bytes| bytes == [0x1f, 0x8b]).unwrap() + 30;
    bad_blob[at] ^= 1;
    let cases: Vec<(&str, Vec<u8>, i32)> = vec![
        ("a layer with a flipped bit", with_layer(&flipped), 6),
        ("a layer cut short", with_layer(&good.layers[0][..1100]), 6),
        ("a compressed layer with a flipped bit", bad_blob, 6),
        ("an archive cut short", whole[..whole.len() / 2].to_vec(), 5),
        ("a path that climbs", one_layer(Tar::default().file("../../escape", b"x").finish()), 5),
        (
            "an absolute link and a file below",
            { one_layer(Tar::default().symlink("out", "/var/tmp").hard_link("h", "../../etc/passwd").finish()) },
            5,
        ),
        (
            "a file through a link laid before it",
            one_layer(Tar::default().symlink("out", "/var/tmp").file("out/escape", b"x").finish()),
            5,
        ),
        ("a name over the limit", one_layer(Tar::default().file(&"n".repeat(256), b"x").finish()), 5),
        ("a path over the limit", one_layer(Tar::default().file(&"d/".repeat(2500), b"x").finish()), 5),
        ("no archive", b"no archive at all".to_vec(), 5),
        ("no layer", with_layer(b"")[..2048].to_vec(), 5),
        ("a layer that is not there", listed(&|item| item["Layers"] = json!(["none.tar"])), 5),
        ("a config that is not there", listed(&|item| item["Config"] = json!("none.json")), 5),
        ("a config of another number of layers", listed(&|item| item["Layers"] = json!(["l.tar", "l.tar"])), 5),
        ("a blob that is not there", without_layer.tar().finish(), 5),
        ("a manifest of another digest", lied_about, 6),
        ("layers without end", gzip(&document(a_billion)), 5),
        ("JSON nested without end", gzip(&document("[{\"Unknown\":".to_owned() + &"[".repeat(1_000_000))), 5),
        ("a window over the limit", wide(&one_layer(layer("etc/wide", b"wide"))), 5),
        (
            "a layer's window over the limit",
            images::layout(&[wide_layer()], &|tar| (wide(tar), "+zstd")).tar().finish(),
            5,
        ),
    ];
    for (what, bytes, code) in cases {
        place.write("bad.tar", &bytes);
        let before = snapshot(&place.root());
        let (found, error) = place.fail(&["load", "-i", "bad.tar"]);
        assert_eq!(found, code, "{what}: {error}");
        assert!(error.starts_with("ferry: ") && error.contains("bad.tar"), "{what}: {error}");
        assert!(error.lines().skip(1).all(|line| line.starts_with("hint: ")), "{what}: {error}");
        assert_eq!(error.contains("hint: --max-window"), what.contains("window"), "{what}: {error}");
        assert_eq!(snapshot(&place.root()), before, "{what}");
    }
    assert_eq!(place.run(&["fsck", "--contents"]), "");
    assert!(!Path::new("/var/tmp/escape").exists());
}

#[test]
fn a_layer_that_old_engines_cannot_read_is_named_and_converted_when_asked() {
    let place = Place::new();
    let zstd = |tar: &[u8]| (zstd::bulk::compress(tar, 3).unwrap(), "+zstd");
    place.write("in.tar", &images::layout(&[wide_layer()], &zstd).tar().finish());
    place.run(&["load", "-q", "-i", "in.tar"]);
    let said = |arguments: &[&str]| {
        let output = place.output(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let layer = wide_layer().layers[0].clone();
    let id = Digest::of(&layer).short().to_string();
    let warning = said(&["save", "-o", "as-it-is.tar", "wide:1"]);
    assert!(
        warning.contains(&format!("layer {id} is compressed with zstd")) && warning.contains("Docker"),
        "{warning}"
    );
    let told = said(&["save", "--compat", "-o", "for-all.tar", "wide:1"]);
    assert!(!told.contains("compressed with zstd") && told.matches("sha256:").count() == 2, "{told}");
    // Without the originals in the store there is nothing to warn of.
    place.run(&["--root", "bare", "load", "-q", "--no-originals", "-i", "in.tar"]);
    assert!(!place.path("bare/ferry/blobs/sha256").read_dir().is_ok_and(|mut dir| dir.next().is_some()));
    assert_eq!(said(&["--root", "bare", "save", "-o", "bare.tar", "wide:1"]), "");
}

fn wide_layer() -> TestImage {
    TestImage::new("amd64", &[layer("etc/wide", b"wide")], &["wide:1"])
}

/// zstd with a window of 512 MiB.
fn wide(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(29).unwrap();
    encoder.include_contentsize(false).unwrap();
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_wide_window_is_taken_when_the_user_says_so() {
    let place = Place::new();
    let archive = images::layout(&[wide_layer()], &|tar| (wide(tar), "+zstd")).tar().finish();
    place.write("wide.tar.zst", &wide(&archive));
    place.run(&["load", "--max-window", "512MiB", "-i", "wide.tar.zst"]);
    assert_eq!(place.run(&["fsck", "--contents"]), "");
}

#[test]
fn what_lies_on_a_link_of_the_layer_below_goes_into_a_directory_of_its_own() {
    let place = Place::new();
    let below = Tar::default().symlink("out", "/var/tmp").finish();
    let above = Tar::default().file("out/ferry-escaped", b"x").finish();
    place.write("two.tar", &images::podman(&[TestImage::new("amd64", &[below, above], &["two:1"])]));
    place.run(&["load", "-i", "two.tar"]);
    assert!(!Path::new("/var/tmp/ferry-escaped").exists());
    assert_eq!(place.run(&["fsck", "--contents"]), "");
}

#[test]
fn an_archive_cut_anywhere_leaves_the_store_as_it_was() {
    let place = loaded();
    let before = snapshot(&place.root());
    let image = TestImage::new("amd64", &[layer("etc/new", &[7; 3000])], &["cut:1"]);
    for (name, bytes) in [
        ("a.tar", images::containerd(std::slice::from_ref(&image))),
        ("a.tar.zst", images::zstd(&images::oci(&[image]))),
    ] {
        // The blocks at the end of a tar may be missing.
        let whole = if name == "a.tar" { bytes.len() - 1536 } else { bytes.len() };
        for end in (0..whole).step_by(whole / 12) {
            place.write(name, &bytes[..end]);
            let (code, error) = place.fail(&["load", "-i", name]);
            assert!([5, 6].contains(&code) && error.contains(name) && error.lines().count() == 1, "{end}: {error}");
            assert_eq!(snapshot(&place.root()), before, "{name} of {end} bytes");
        }
    }
}

#[test]
fn a_hundred_and_twenty_layers_and_an_empty_one_come_back() {
    let place = Place::new();
    let mut layers: Vec<Vec<u8>> = (0..119).map(|at| layer(&format!("etc/{at}"), at.to_string().as_bytes())).collect();
    layers.push(Tar::default().finish());
    let image = TestImage::new("amd64", &layers, &["tall:1"]);
    place.write("tall.tar", &images::docker_25(std::slice::from_ref(&image)));
    place.run(&["load", "-i", "tall.tar"]);
    place.run(&["save", "--verify", "-o", "again.tar", "tall:1"]);
    let other = Place::new();
    other.run(&["load", "-i", place.path("again.tar").to_str().unwrap()]);
    assert_eq!(other.run(&["inspect", "-f", "{{.Id}}", "tall:1"]).trim(), image.id().to_string());
    assert_eq!(other.run(&["fsck", "--contents"]), "");
    let too_tall = TestImage::new("amd64", &vec![layers[0].clone(); 128], &["tall:2"]);
    place.write("too-tall.tar", &images::docker_25(&[too_tall]));
    assert_eq!(place.fail(&["load", "-i", "too-tall.tar"]).0, 5);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_without_a_word() {
    let place = loaded();
    for arguments in [&["images"][..], &["man", "--markdown"], &["inspect", "two:2"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn the_command_reference_is_what_the_program_says() {
    let place = Place::new();
    let page = fs::read_to_string(checkout().join("docs/commands.md")).unwrap_or_default();
    assert_eq!(place.run(&["man", "--markdown"]), page, "refresh it: ferry man --markdown >docs/commands.md");
    assert!(place.run(&["man", "load"]).contains(".SH NAME"));
    assert!(place.run(&["completion", "bash"]).contains("ferry"));
    place.run(&["man", "-o", "pages"]);
    for page in ["ferry-save.1", "ferry-agent.1", "ferry-network-create.1", "ferry-system-install-unit.1"] {
        assert!(place.path("pages").join(page).exists(), "{page}");
    }
    let create = place.run(&["man", "network", "create"]);
    assert!(create.contains("ferry network create") && create.contains("internal"), "{create}");
    assert_eq!(place.run(&["man", "image", "remove"]), place.run(&["man", "image", "rm"]), "by another name");
    assert_eq!(place.fail(&["man", "network", "nope"]).0, 2);
    for title in ["ferry agent", "ferry volume create", "ferry container run"] {
        assert!(page.contains(&format!("\n## {title}\n")), "{title}");
    }
}

#[test]
fn what_docker_has_and_ferry_has_not_is_said_in_one_line_with_the_way_to_the_same_end() {
    let place = Place::new();
    for (words, way) in [
        (&["pull", "a:1"][..], "`ferry load -i FILE`"),
        (&["image", "pull", "a:1"], "`ferry load -i FILE`"),
        (&["push", "a:1"], "`ferry save -o FILE IMAGE`"),
        (&["build", "."], "`ferry import`"),
        (&["login"], "`ferry fetch`"),
        (&["compose", "up"], "`ferry network create NET`"),
        (&["search", "x"], "no registry client"),
    ] {
        let (code, error) = place.fail(words);
        let said = error.starts_with("ferry: ") && error.contains(way) && error.lines().count() == 1;
        assert!(code == 2 && said, "{words:?}: {code} {error}");
    }
    assert!(place.fail(&["nonsense"]).1.contains("unrecognized subcommand"));
}

#[test]
fn progress_as_json_is_an_object_a_line_and_what_is_not_known_is_null() {
    let place = Place::new();
    place.write("pair.tar", &images::docker_24(&pair()));
    let stdin = fs::File::open(place.path("pair.tar")).unwrap();
    let mut cat = Command::new("cat").stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
    let mut load = place.command(&["--progress", "json", "load"]);
    let output = load.stdin(cat.stdout.take().unwrap()).output().unwrap();
    assert!(cat.wait().unwrap().success() && output.status.success(), "{output:?}");
    let events: Vec<Value> =
        String::from_utf8(output.stderr).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let began: Vec<&Value> = events.iter().filter(|event| event["event"] == "began").collect();
    assert_eq!((&began[0]["action"], &began[0]["total"]), (&json!("Receiving"), &Value::Null), "how long a pipe is");
    assert!(began[1..].iter().all(|event| event["action"].is_string() && event["total"].is_u64()), "{began:?}");
    for event in began {
        let end = json!({"event": "ended", "task": event["task"], "completed": true});
        assert!(events.contains(&end), "{events:?}");
    }
}

#[test]
fn df_counts_layers_once_and_what_images_share() {
    let place = loaded();
    let rows = place.run(&["df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"]);
    assert!(rows.starts_with("Images 2 "), "{rows}");
    let images = place.run(&["df", "-v", "--format", "{{.Repository}} {{.SharedSize}} {{.UniqueSize}}"]);
    assert!(images.contains("two 4B 1B\n"), "{images}");
    let info: Value = serde_json::from_str(&place.run(&["info", "--format", "json"])).unwrap();
    assert_eq!(info["Images"], json!(2));
}
