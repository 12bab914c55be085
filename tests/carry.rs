//! Bundles from the command line: carried in volumes, damaged and mended, thin, compared, taken apart.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use ferry::base::{Ctx, Digest};
use ferry::layer::replay::{Recipe, rebuild};

use crate::support::bench::{Bench, archive_of, entry, typed};
use crate::support::images::{Layout, Tar, TestImage, gzip, layer, layout, zstd};
use crate::support::peers::{Machine, Release};

#[test]
fn an_archive_goes_through_volumes_with_parity_and_damage_and_back() {
    let bench = Bench::new(5);
    let plain = bench.plain();
    bench.good(&["convert", "--volume-size", "2m", "--parity", "60%", "in.tar", "b.ferry"]);
    let names = |at: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names.retain(|name| name.ends_with("ferry"));
        names
    };
    let volumes = names(bench.dir.path());
    assert!(volumes.len() >= 5 && volumes[0] == "b.001.ferry", "{volumes:?}");
    for from in ["b.ferry", "b.002.ferry"] {
        bench.good(&["convert", from, "back.tar"]);
        assert!(fs::read(bench.path("back.tar")).unwrap() == plain, "{from}");
    }
    let out = bench.good(&["verify", "--deep", "b.ferry"]);
    assert!(out.contains("Proven:    1 image, 1 layer\n"), "{out}");

    let before: Vec<Vec<u8>> = volumes.iter().map(|name| fs::read(bench.path(name)).unwrap()).collect();
    fs::remove_file(bench.path("b.003.ferry")).unwrap();
    let mut damaged = before[0].clone();
    damaged[300_000..340_000].fill(0);
    fs::write(bench.path("b.001.ferry"), damaged).unwrap();
    let refused = bench.ferry(&["convert", "b.ferry", "no.tar"]);
    assert_eq!(refused.code, 3, "{}", refused.error);
    assert!(refused.error.contains("volume 3 (b.003.ferry)") && !bench.path("no.tar").exists(), "{}", refused.error);
    bench.good(&["convert", "--repair", "b.ferry", "back.tar"]);
    assert!(fs::read(bench.path("back.tar")).unwrap() == plain);
    assert!(!bench.path("b.003.ferry").exists());
    bench.good(&["repair", "b.ferry"]);
    for (name, bytes) in volumes.iter().zip(&before) {
        assert!(fs::read(bench.path(name)).unwrap() == *bytes, "{name}");
    }
    // The same again: equal bytes, and nothing to write.
    bench.good(&["convert", "--resume", "--volume-size", "2m", "--parity", "60%", "in.tar", "b.ferry"]);
    let other = bench.ferry(&["convert", "--volume-size", "2m", "in.tar", "b.ferry"]);
    assert_eq!(other.code, 4, "{}", other.error);
}

#[test]
fn a_bundle_on_a_pipe_is_the_file_and_is_staged_before_it_counts() {
    let bench = Bench::new(1);
    let plain = bench.plain();
    bench.good(&["convert", "in.tar", "a.ferry"]);
    let sh = |script: &str| {
        let ferry = crate::support::ferry();
        let status =
            Command::new("sh").args(["-ec", script]).env("FERRY", ferry).current_dir(bench.dir.path()).status();
        status.unwrap().code()
    };
    assert_eq!(sh("mkfifo p; cat a.ferry >p & $FERRY convert p piped.tar; wait"), Some(0));
    assert!(fs::read(bench.path("piped.tar")).unwrap() == plain);
    assert_eq!(
        sh("head -c 700000 a.ferry >p & $FERRY convert p cut.tar 2>err || test $? = 6; grep -q 'cut off' err; wait"),
        Some(0)
    );
    assert!(!bench.path("cut.tar").exists());
    assert_eq!(sh("cat p >copy & $FERRY convert --output-format bundle in.tar p; wait; cmp copy a.ferry"), Some(0));
    let refused = bench.ferry(&["convert", "--output-format", "bundle", "--parity", "10%", "in.tar", "p"]);
    assert_eq!(refused.code, 2, "{}", refused.error);
    let refused = bench.ferry(&["convert", "--parity", "10%", "in.tar", "a.tar"]);
    assert!(refused.code == 2 && refused.error.contains("are for bundles"), "{}", refused.error);
}

#[test]
fn images_leave_one_store_as_a_bundle_and_enter_another() {
    let bench = Bench::new(2);
    fs::write(
        bench.path("policy.json"),
        r#"{"require-signature": true, "allowed-signers": "allowed", "images": {"a": ["x/*"]}}"#,
    )
    .unwrap();
    bench.good(&["--root", "one", "load", "-q", "-i", "in.tar"]);
    bench.good(&[
        "--root",
        "one",
        "save",
        "--volume-size",
        "1m",
        "--parity",
        "60%",
        "-o",
        "b.ferry",
        "registry.example.com/app/web:1",
    ]);
    fs::remove_file(bench.path("b.002.ferry")).unwrap();
    let refused = bench.ferry(&["--root", "two", "load", "-q", "-i", "b.ferry"]);
    assert_eq!(refused.code, 3, "{}", refused.error);
    let images = |root: &str| bench.good(&["--root", root, "images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    assert_eq!(images("two"), "");
    let out = bench.good(&["--root", "two", "load", "-q", "--repair", "-i", "b.001.ferry"]);
    assert!(out.contains("Loaded image: registry.example.com/app/web:1"), "{out}");
    assert_eq!(images("two"), images("one"));

    // Under a policy: signed by the right key, for the right names, or not at all.
    let machine = Machine::start(Release::Debian12);
    machine.sh("ssh-keygen -q -t ed25519 -N '' -f key; echo \"a $(cut -d' ' -f1,2 key.pub)\" >allowed");
    for name in ["key", "allowed"] {
        fs::copy(machine.dir().join(name), bench.path(name)).unwrap();
    }
    let load = |from: &str| bench.ferry(&["--root", "three", "load", "-q", "--policy", "policy.json", "-i", from]);
    bench.good(&["--root", "one", "save", "--sign", "key", "-o", "s.ferry", "registry.example.com/app/web:1"]);
    for (from, reason) in [
        ("in.tar", "does not permit loading archives"),
        ("b.ferry", "is not signed"),
        ("s.ferry", "a may not sign registry.example.com/app/web:1"),
    ] {
        let refused = load(from);
        assert!(refused.code == 7 && refused.error.contains(reason), "{from}: {}", refused.error);
    }
    assert_eq!(images("three"), "");
    let policy =
        r#"{"require-signature": true, "allowed-signers": "allowed", "images": {"a": ["registry.example.com/*"]}}"#;
    fs::write(bench.path("policy.json"), policy).unwrap();
    assert_eq!(load("s.ferry").code, 0);
    assert_eq!(images("three"), images("one"));
}

/// A base layer, and what the second release puts on top of it.
fn two_releases(bench: &Bench) {
    let mut base = Vec::new();
    typed(&mut base, "etc/", b'5', "", b"");
    entry(&mut base, "etc/hostname", b"one\n");
    entry(&mut base, "etc/old", b"gone tomorrow");
    typed(&mut base, "etc/os-release", b'2', "../usr/lib/os-release", b"");
    entry(&mut base, "usr/lib/os-release", b"ID=test\n");
    typed(&mut base, "usr/lib/other-name", b'1', "usr/lib/os-release", b"");
    typed(&mut base, "lib", b'2', "usr/lib", b"");
    typed(&mut base, "loop", b'2', "loop", b"");
    let mut first = Vec::new();
    entry(&mut first, "app/main", &[1; 3_000]);
    entry(&mut first, "app/gone", &[2; 500]);
    let mut second = Vec::new();
    entry(&mut second, "app/main", &[3; 4_000]);
    entry(&mut second, "app/new", &[4; 700]);
    entry(&mut second, "etc/.wh.old", b"");
    archive_of(&bench.path("a.tar"), "app:1", &[base.clone(), first]);
    archive_of(&bench.path("b.tar"), "app:2", &[base, second]);
    bench.good(&["convert", "a.tar", "a.ferry"]);
    bench.good(&["convert", "b.tar", "b.ferry"]);
    bench.good(&["--root", "s", "load", "-q", "-i", "a.tar"]);
    bench.good(&["--root", "s", "load", "-q", "-i", "b.tar"]);
    bench.good(&["--root", "s", "save", "-o", "both.ferry", "app:1", "app:2"]);
}

#[test]
fn bundles_are_compared_by_image_layer_file_and_byte() {
    let bench = Bench::new(0);
    two_releases(&bench);
    let out = bench.good(&["diff", "a.ferry", "b.ferry"]);
    let (images, rest) = out.split_at(out.find("A layer").unwrap().min(out.find("D layer").unwrap()));
    let lines: Vec<&str> = images.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("D image app:1 ") && lines[1].starts_with("A image app:2 "),
        "{out}"
    );
    let files: Vec<&str> = rest.lines().filter(|line| !line.contains(" layer ")).collect();
    assert_eq!(
        files,
        [
            "D /app/gone -500B",
            "C /app/main +4kB -3kB",
            "A /app/new +700B",
            "A /etc/.wh.old +0B",
            "Layers: 1 added, 1 deleted, 1 the same",
            "Files:  2 added, 1 changed, 1 deleted",
            "Bytes:  4.7kB added, 3.5kB deleted",
        ]
    );
    // What is in both is no difference, and neither is a second image beside it.
    let out = bench.good(&["diff", "-q", "a.ferry", "both.ferry"]);
    assert!(out.starts_with("A image app:2 ") && out.ends_with("Bytes:  4.7kB added, 0B deleted\n"), "{out}");
    assert!(!out.contains(" /app"), "{out}");
    let out = bench.good(&["diff", "a.ferry", "a.ferry"]);
    assert!(out.starts_with("Layers: 0 added, 0 deleted, 2 the same\n"), "{out}");
    let json: serde_json::Value =
        serde_json::from_str(&bench.good(&["diff", "--format", "json", "a.ferry", "b.ferry"])).unwrap();
    assert_eq!((&json["bytesAdded"], &json["bytesDeleted"]), (&4_700.into(), &3_500.into()));
    // A thin bundle is compared without its base.
    bench.good(&["convert", "--base", "a.ferry", "b.tar", "thin.ferry"]);
    let out = bench.good(&["diff", "b.ferry", "thin.ferry"]);
    assert!(out.starts_with("Layers: 0 added, 0 deleted, 2 the same\n"), "{out}");
    assert!(out.contains("Files:  0 added, 0 changed, 0 deleted\n"), "{out}");
    assert_eq!(bench.ferry(&["diff", "a.ferry", "none.ferry"]).code, 3);
}

#[test]
fn one_image_layer_or_file_is_taken_out_of_a_bundle() {
    let bench = Bench::new(0);
    two_releases(&bench);
    let file = |image: &str, path: &str| bench.ferry(&["extract", "--image", image, "--file", path, "both.ferry"]);
    for (image, path, expected) in [
        ("app:1", "/etc/hostname", "one\n"),
        ("app:1", "etc/os-release", "ID=test\n"),
        ("app:2", "/usr/lib/other-name", "ID=test\n"),
        ("app:2", "/lib/../lib/os-release", "ID=test\n"),
        ("app:1", "/etc/old", "gone tomorrow"),
    ] {
        let done = file(image, path);
        assert_eq!((done.code, &*done.out), (0, expected), "{image} {path}: {}", done.error);
    }
    for (path, code, reason) in [
        ("/etc/old", 3, "app:2 has no file /etc/old"),
        ("/app/gone", 3, "has no file"),
        ("/loop", 3, "has no file"),
        ("/etc", 2, "/etc is a directory"),
    ] {
        let done = file("app:2", path);
        assert!(done.code == code && done.error.contains(reason), "{path}: {} {}", done.code, done.error);
    }
    let refused = bench.ferry(&["extract", "--file", "/etc/hostname", "both.ferry"]);
    assert!(refused.code == 2 && refused.error.contains("name one of app:1, app:2"), "{}", refused.error);
    let refused = bench.ferry(&["extract", "--image", "app:3", "--file", "/x", "both.ferry"]);
    assert!(refused.code == 3 && refused.error.contains("has no image app:3"), "{}", refused.error);

    bench.good(&["extract", "--image", "app:2", "-o", "app2.tar", "both.ferry"]);
    bench.good(&["convert", "b.tar", "plain2.tar"]);
    assert!(fs::read(bench.path("app2.tar")).unwrap() == fs::read(bench.path("plain2.tar")).unwrap());

    let document: serde_json::Value = serde_json::from_str(&bench.good(&["inspect", "both.ferry"])).unwrap();
    let layers = document[0]["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for layer in layers {
        let diff_id = layer["DiffId"].as_str().unwrap();
        bench.good(&["extract", "--layer", &diff_id[..20], "-o", "layer.tar", "both.ferry"]);
        let bytes = fs::read(bench.path("layer.tar")).unwrap();
        assert_eq!(Digest::of(&bytes).to_string(), diff_id);
        assert_eq!(layer["Kept"], "split");
        assert!(layer["Stored"]["Recipe"].as_u64().unwrap() > 0);
        let listed = bench.good(&["ls", "--layer", diff_id, "both.ferry"]);
        let count = listed.lines().count();
        assert!((2..=8).contains(&count), "{listed}");
    }
    let listed = bench.good(&["ls", "--image", "app:2", "both.ferry"]);
    assert!(
        listed.contains(" /app/new\n") && listed.contains(" /etc/os-release -> ../usr/lib/os-release\n"),
        "{listed}"
    );
    assert!(!listed.contains("/etc/old") && !listed.contains(".wh."), "{listed}");
    let own: u64 = layers.iter().map(|layer| layer["Stored"]["Own"].as_u64().unwrap()).sum();
    assert!(own > 0, "{document}");
    assert_eq!(bench.ferry(&["extract", "--layer", "ff", "both.ferry"]).code, 3);
    assert_eq!(bench.ferry(&["extract", "both.ferry"]).code, 2);
}

#[test]
fn volumes_are_named_in_any_order_and_those_that_are_missing_are_named() {
    let bench = Bench::new(4);
    fs::create_dir(bench.path("set")).unwrap();
    bench.good(&["convert", "--volume-size", "1m", "in.tar", "set/b.ferry"]);
    let volume = |n: u32| format!("set/b.{n:03}.ferry");
    let all: Vec<String> = (1..=5).map(volume).collect();
    assert!(bench.path(&all[4]).exists() && !bench.path(&volume(6)).exists());
    // Apart, so that what is not named is not found beside what is.
    for (n, name) in all.iter().enumerate() {
        fs::create_dir(bench.path(&n.to_string())).unwrap();
        fs::rename(bench.path(name), bench.path(&format!("{n}/v"))).unwrap();
    }
    let list = ["-i", "3/v", "-i", "0/v", "-i", "4/v", "-i", "1/v", "-i", "2/v"];
    let out = bench.good(&[&["--root", "s", "load", "-q"], &list[..]].concat());
    assert!(out.contains("Loaded image: registry.example.com/app/web:1"), "{out}");
    let refused = bench.ferry(&[&["--root", "t", "load", "-q"], &list[..6]].concat());
    assert!(
        refused.code == 3 && refused.error.contains("volume 2") && refused.error.contains("volume 3"),
        "{}",
        refused.error
    );
    assert_eq!(bench.good(&["--root", "t", "images", "-q"]), "");
    for command in ["verify", "ls"] {
        bench.good(&[command, "4/v", "2/v", "0/v", "1/v", "3/v"]);
        let missed = bench.ferry(&[command, "4/v", "0/v", "1/v", "3/v"]);
        let text = format!("{}{}", missed.out, missed.error);
        assert!(missed.code != 0 && text.to_lowercase().contains("volume 3"), "{command}: {text}");
    }
}

/// A release of one file that hardly changes and some that do not at all.
fn releases_of_a_big_file(bench: &Bench) {
    releases(bench, 2);
}

fn releases(bench: &Bench, count: u8) {
    let mut big: Vec<u8> = (0_u32..75_000).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 3).to_le_bytes()).collect();
    for number in 1..=count {
        let mut layer = Vec::new();
        entry(&mut layer, "usr/bin/big", &big);
        entry(&mut layer, "etc/same", b"the same in both");
        archive_of(&bench.path(&format!("r{number}.tar")), &format!("app:{number}"), &[layer]);
        bench.good(&["--root", "s", "load", "-q", "-i", &format!("r{number}.tar")]);
        big[122_456 + 1_000 * usize::from(number)] ^= 0xff;
    }
}

#[test]
fn a_site_is_sent_the_difference_to_what_its_inventory_or_the_ledger_says_it_has() {
    let bench = Bench::new(0);
    releases_of_a_big_file(&bench);
    let size = |name: &str| fs::metadata(bench.path(name)).unwrap().len();
    let load = |root: &str, from: &str| bench.ferry(&["--root", root, "load", "-q", "-i", from]);
    let images = |root: &str| bench.good(&["--root", root, "images", "--no-trunc", "--format", "{{.Tag}} {{.ID}}"]);
    let lacks = |root: &str, from: &str, base: &str| {
        let refused = load(root, from);
        assert!(refused.code == 3 && refused.error.contains(base), "{from}: {}: {}", refused.code, refused.error);
        assert_eq!(images(root), "", "{from}");
        let layers = fs::read_dir(bench.path(&format!("{root}/overlay2"))).unwrap().count();
        assert!(layers <= 1, "only the directory of links: {layers}");
    };

    // By inventory.
    bench.good(&["--root", "s", "save", "-o", "one.ferry", "app:1"]);
    assert_eq!(load("t", "one.ferry").code, 0);
    bench.good(&["--root", "t", "inventory", "--label", "site t", "-o", "t.inventory"]);
    bench.good(&["--root", "s", "save", "--base", "t.inventory", "-o", "two.ferry", "app:2"]);
    assert!(size("one.ferry") > 150_000 && size("two.ferry") < 3_000, "{} {}", size("one.ferry"), size("two.ferry"));
    lacks("empty", "two.ferry", "it was written against site t");
    assert_eq!(load("t", "two.ferry").code, 0);
    assert_eq!(images("t"), images("s"));

    // By ledger: the first bundle is whole, and just the one without a ledger.
    bench.good(&["--root", "s", "save", "--sent-to", "far", "-o", "first.ferry", "app:1"]);
    assert!(fs::read(bench.path("first.ferry")).unwrap() == fs::read(bench.path("one.ferry")).unwrap());
    bench.good(&["--root", "s", "save", "--sent-to", "far", "-o", "second.ferry", "app:2"]);
    assert!(size("second.ferry") < 3_000, "{}", size("second.ferry"));
    lacks("empty", "second.ferry", "it was written against far");
    assert_eq!(load("u", "first.ferry").code, 0);
    assert_eq!(load("u", "second.ferry").code, 0);
    assert_eq!(images("u"), images("s"));
    bench.good(&["--root", "s", "inventory", "--forget-site", "far"]);
    bench.good(&["--root", "s", "save", "--sent-to", "far", "-o", "third.ferry", "app:1"]);
    assert!(size("third.ferry") == size("one.ferry"));
    for (arguments, reason) in [
        (&["save", "--sent-to", "../x", "-o", "x.ferry", "app:1"][..], "is no name for a site"),
        (&["save", "--sent-to", "far", "-o", "x.tar", "app:1"], "--sent-to is for bundles"),
    ] {
        let refused = bench.ferry(&[&["--root", "s"], arguments].concat());
        assert!(refused.code == 2 && refused.error.contains(reason), "{}", refused.error);
    }
    // What cannot be read is named, with the way out, which works; so is what is not there.
    let ledger = bench.path("s/ferry/sites/far");
    let mut bytes = fs::read(&ledger).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let at = bytes.len() - 60;
    for (damage, code) in [
        (bytes.clone(), 5),
        (
            fs::read(&ledger)
                .map(|mut b| {
                    b[at] ^= 1;
                    b
                })
                .unwrap(),
            6,
        ),
    ] {
        fs::write(&ledger, damage).unwrap();
        let refused = bench.ferry(&["--root", "s", "save", "--sent-to", "far", "-o", "x.ferry", "app:2"]);
        assert_eq!(refused.code, code, "{}", refused.error);
        for part in ["the ledger of site far", "s/ferry/sites/far", "--forget-site far"] {
            assert!(refused.error.contains(part), "{part}: {}", refused.error);
        }
        assert!(!bench.path("x.ferry").exists());
    }
    bench.good(&["--root", "s", "inventory", "--forget-site", "far"]);
    let refused = bench.ferry(&["--root", "s", "inventory", "--forget-site", "far"]);
    assert!(refused.code == 3 && refused.error.contains("nothing was noted of site far"), "{}", refused.error);
    assert!(refused.error.contains("s/ferry/sites/far"), "{}", refused.error);
    bench.good(&["--root", "s", "save", "--sent-to", "far", "-o", "fourth.ferry", "app:1"]);
    assert!(size("fourth.ferry") == size("one.ferry"));
}

#[test]
fn damage_has_its_own_exit_code_wherever_it_is_in_a_bundle() {
    let bench = Bench::new(2);
    bench.good(&["convert", "in.tar", "good.ferry"]);
    let good = fs::read(bench.path("good.ferry")).unwrap();
    for at in [good.len() / 4, good.len() / 2, good.len() - 5_000] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(bench.path("bad.ferry"), bad).unwrap();
        for command in [
            &["convert", "bad.ferry", "out.tar"][..],
            &["convert", "bad.ferry", "out.ferry"],
            &["--root", "s", "load", "-q", "-i", "bad.ferry"],
            &["verify", "--deep", "bad.ferry"],
            &["extract", "--image", "registry.example.com/app/web:1", "-o", "out.tar", "bad.ferry"],
        ] {
            let refused = bench.ferry(command);
            assert_eq!(refused.code, 6, "{command:?} at {at}: {}{}", refused.out, refused.error);
        }
        assert!(!bench.path("out.tar").exists() && !bench.path("out.ferry").exists(), "{at}");
    }
}

#[test]
fn a_thin_bundle_is_the_base_of_the_next_and_bases_may_be_named_in_any_order() {
    let bench = Bench::new(0);
    releases(&bench, 3);
    let save = |bases: &[&str], to: &str, image: &str| {
        let mut arguments = vec!["--root", "s", "save", "-o", to];
        bases.iter().for_each(|base| arguments.extend(["--base", base]));
        arguments.push(image);
        bench.good(&arguments);
        fs::metadata(bench.path(to)).unwrap().len()
    };
    let whole = save(&[], "one.ferry", "app:1");
    let two = save(&["one.ferry"], "two.ferry", "app:2");
    let three = save(&["two.ferry"], "three.ferry", "app:3");
    assert!(whole > 150_000 && two < 3_000 && three < 3_000, "{whole} {two} {three}");
    for (bases, to) in [(["two.ferry", "one.ferry"], "a.ferry"), (["one.ferry", "two.ferry"], "b.ferry")] {
        assert!(save(&bases, to, "app:3") < 3_000, "{bases:?}");
    }
    for last in ["three.ferry", "a.ferry", "b.ferry"] {
        let root = format!("of-{last}");
        for from in ["one.ferry", "two.ferry", last] {
            bench.good(&["--root", &root, "load", "-q", "-i", from]);
        }
        let ids = |root: &str| bench.good(&["--root", root, "images", "--no-trunc", "-q"]);
        assert_eq!(ids(&root), ids("s"), "{last}");
    }
}

#[test]
fn of_several_bases_the_one_that_is_missing_is_named() {
    let bench = Bench::new(0);
    releases(&bench, 3);
    let save = |to: &str, more: &[&str]| bench.good(&[&["--root", "s", "save", "-o", to], more].concat());
    save("one.ferry", &["app:1"]);
    save("three.ferry", &["app:3"]);
    let bases = ["--base", "one.ferry", "--base", "three.ferry"];
    // A layer of each, and contents of each.
    save("layers.ferry", &[&bases[..], &["app:1", "app:3"]].concat());
    save("contents.ferry", &[&bases[..], &["app:2"]].concat());
    bench.good(&["--root", "t", "load", "-q", "-i", "one.ferry"]);
    let refused = bench.ferry(&["--root", "t", "load", "-q", "-i", "layers.ferry"]);
    assert_eq!(refused.code, 3, "{}", refused.error);
    assert!(refused.error.contains("three.ferry") && !refused.error.contains("one.ferry"), "{}", refused.error);
    let refused = bench.ferry(&["--root", "empty", "load", "-q", "-i", "contents.ferry"]);
    assert!(refused.code == 3 && refused.error.contains(".ferry"), "{}", refused.error);
    bench.good(&["--root", "t", "load", "-q", "-i", "three.ferry"]);
    for from in ["layers.ferry", "contents.ferry"] {
        bench.good(&["--root", "t", "load", "-q", "-i", from]);
    }
    let ids = |root: &str| bench.good(&["--root", root, "images", "--no-trunc", "-q"]);
    assert_eq!(ids("t"), ids("s"));
}

#[test]
fn a_base_of_the_right_name_and_wrong_content_is_refused_and_nothing_is_loaded() {
    let bench = Bench::new(0);
    releases_of_a_big_file(&bench);
    bench.good(&["--root", "s", "save", "-o", "one.ferry", "app:1"]);
    bench.good(&["--root", "s", "save", "--base", "one.ferry", "-o", "two.ferry", "app:2"]);
    bench.good(&["--root", "t", "load", "-q", "-i", "one.ferry"]);
    let before = bench.good(&["--root", "t", "images", "--no-trunc"]);
    let layers = fs::read_dir(bench.path("t/overlay2")).unwrap().map(|layer| layer.unwrap().path());
    let big = layers.map(|layer| layer.join("diff/usr/bin/big")).find(|path| path.exists()).unwrap();
    let mut bytes = fs::read(&big).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&big, &bytes).unwrap();
    let refused = bench.ferry(&["--root", "t", "load", "-q", "-i", "two.ferry"]);
    assert!(refused.code == 6 && refused.error.contains("base content"), "{}: {}", refused.code, refused.error);
    assert_eq!(bench.good(&["--root", "t", "images", "--no-trunc"]), before);
    assert_eq!(fs::read_dir(bench.path("t/image/overlay2/layerdb/sha256")).unwrap().count(), 1);
}

#[test]
fn what_an_inventory_pins_stays_until_it_is_unpinned() {
    let bench = Bench::new(0);
    releases_of_a_big_file(&bench);
    bench.good(&["--root", "t", "load", "-q", "-i", "r1.tar"]);
    bench.good(&["--root", "t", "inventory", "--pin", "--label", "told", "-o", "t.inventory"]);
    assert_eq!(bench.good(&["--root", "t", "inventory", "--pins"]), "told\t1 layer\n");
    bench.good(&["--root", "s", "save", "--base", "t.inventory", "-o", "two.ferry", "app:2"]);
    let rmi = bench.good(&["--root", "t", "rmi", "app:1"]);
    assert!(rmi.lines().count() == 2, "the name and the image, not the layer: {rmi}");
    bench.good(&["--root", "t", "prune", "-a", "-f"]);
    bench.good(&["--root", "t", "fsck"]);
    bench.good(&["--root", "t", "load", "-q", "-i", "two.ferry"]);
    bench.good(&["--root", "t", "rmi", "app:2"]);
    let layers = || fs::read_dir(bench.path("t/image/overlay2/layerdb/sha256")).unwrap().count();
    assert_eq!(layers(), 1);
    bench.good(&["--root", "t", "inventory", "--unpin", "told"]);
    bench.good(&["--root", "t", "prune", "-f"]);
    assert_eq!(layers(), 0);
    assert_eq!(bench.ferry(&["--root", "t", "inventory", "--unpin", "told"]).code, 3);
    // A pin that cannot be read keeps everything.
    bench.good(&["--root", "t", "load", "-q", "-i", "r1.tar"]);
    bench.good(&["--root", "t", "inventory", "--pin", "-o", "t.inventory"]);
    let pin = fs::read_dir(bench.path("t/ferry/pins")).unwrap().next().unwrap().unwrap().path();
    fs::write(&pin, "t.inventory\nnonsense\n").unwrap();
    let refused = bench.ferry(&["--root", "t", "rmi", "app:1"]);
    assert!(refused.code == 6 && refused.error.contains("pins"), "{}: {}", refused.code, refused.error);
    assert_eq!(layers(), 1);
}

#[test]
fn compressed_archives_and_bundles_become_the_same_bundle_as_the_plain_archive() {
    let bench = Bench::new(1);
    bench.plain();
    for arguments in [
        ["convert", "plain.tar", "plain.ferry"],
        ["convert", "plain.tar", "plain.tar.gz"],
        ["convert", "plain.tar", "plain.tar.zst"],
        ["convert", "plain.tar.gz", "gz.ferry"],
        ["convert", "plain.tar.zst", "zst.ferry"],
        ["convert", "plain.ferry", "again.ferry"],
    ] {
        bench.good(&arguments);
    }
    let bytes = |name: &str| fs::read(bench.path(name)).unwrap();
    for name in ["gz.ferry", "zst.ferry", "again.ferry"] {
        assert!(bytes(name) == bytes("plain.ferry"), "{name}");
    }
}

#[test]
fn a_finished_set_that_is_resumed_is_not_written_again() {
    let bench = Bench::new(3);
    bench.good(&["--root", "one", "load", "-q", "-i", "in.tar"]);
    let save = |resume: &[&str]| {
        let rest = ["--volume-size", "1m", "--parity", "30%", "-o", "set.ferry", "registry.example.com/app/web:1"];
        bench.good(&[&["--root", "one", "save"], resume, &rest].concat());
        let mut seen = Vec::new();
        for entry in fs::read_dir(bench.path("")).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("set.") {
                let stat = entry.metadata().unwrap();
                seen.push((name, std::os::unix::fs::MetadataExt::ino(&stat), stat.modified().unwrap()));
            }
        }
        seen.sort();
        seen
    };
    let before = save(&[]);
    assert!(before.len() > 4, "{before:?}");
    assert_eq!(save(&["--resume"]), before);
}

#[test]
fn a_bundle_is_opened_by_an_x25519_identity_and_not_without_it() {
    let bench = Bench::new(0);
    // The key of the scalar 0x42…42, as age writes it, and its recipient.
    let key = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    fs::write(bench.path("key"), format!("# a comment\n{key}\n")).unwrap();
    fs::write(bench.path("broken"), format!("{}\n", key.replace("EGAEX", "EGAEY"))).unwrap();
    let plain = bench.plain();
    bench.good(&["convert", "--encrypt-to", recipient, "in.tar", "sealed.ferry"]);
    bench.good(&["convert", "--identity", "key", "sealed.ferry", "out.tar"]);
    assert!(fs::read(bench.path("out.tar")).unwrap() == plain);
    for arguments in [&["convert", "--identity", "broken"][..], &["convert"]] {
        let refused = bench.ferry(&[arguments, &["sealed.ferry", "none.tar"]].concat());
        assert!(refused.code != 0 && !bench.path("none.tar").exists(), "{}", refused.error);
    }
}

/// What `program` makes of these bytes.
fn through(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in"), bytes).unwrap();
    let input = fs::File::open(dir.path().join("in")).unwrap();
    let output = Command::new(program).args(arguments).stdin(input).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

#[test]
fn inspect_tells_how_each_layer_is_kept_and_what_it_costs() {
    let bench = Bench::new(0);
    let blobs = bench.path("oci/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        format!(r#""digest":"{digest}","size":{}"#, bytes.len())
    };
    // A plain layer, one of a compressor that is known, and one of a compressor that is not replayed.
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (number, form) in ["", "+gzip", "+zstd"].into_iter().enumerate() {
        let mut tar = Vec::new();
        for file in 0..50 {
            let data = format!("layer {number}, file {file}\n").repeat(file + 30);
            entry(&mut tar, &format!("d{number}/{file}"), data.as_bytes());
        }
        tar.resize(tar.len() + 1_024, 0);
        diff_ids.push(format!("\"{}\"", Digest::of(&tar)));
        let blob = match form {
            "+gzip" => through("gzip", &["-6", "-n"], &tar),
            "+zstd" => zstd::encode_all(&tar[..], 3).unwrap(),
            _ => tar,
        };
        layers.push(format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar{form}",{}}}"#, put(&blob)));
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let media = r#""mediaType":"application/vnd.oci.image"#;
    let manifest = format!(
        r#"{{"schemaVersion":2,{media}.manifest.v1+json","config":{{{media}.config.v1+json",{}}},"layers":[{}]}}"#,
        put(config.as_bytes()),
        layers.join(",")
    );
    let name = r#""annotations":{"org.opencontainers.image.ref.name":"a:1"}"#;
    let described = put(manifest.as_bytes());
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{{media}.manifest.v1+json",{described},{name}}}]}}"#);
    fs::write(bench.path("oci/index.json"), index).unwrap();
    fs::write(bench.path("oci/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();

    bench.good(&["convert", "oci", "b.ferry"]);
    let document: serde_json::Value = serde_json::from_str(&bench.good(&["inspect", "b.ferry"])).unwrap();
    let layers = document[0]["Layers"].as_array().unwrap();
    let told: Vec<_> = layers.iter().map(|layer| (layer["Kept"].as_str().unwrap(), layer["Replay"].as_str())).collect();
    assert_eq!(told, [("split", None), ("replay", Some("zlib, level 6")), ("blob", None)]);
    for (layer, (recipe, corrections, original)) in
        layers.iter().zip([(true, false, false), (true, true, true), (false, false, true)])
    {
        let stored = |what: &str| layer["Stored"][what].as_u64().unwrap();
        assert!(stored("Own") > 0, "{layer}");
        assert_eq!((stored("Recipe") > 0, stored("Corrections") > 0), (recipe, corrections), "{layer}");
        assert_eq!(layer["Original"]["Size"].as_u64().is_some(), original, "{layer}");
    }
}

#[test]
fn damage_to_what_only_another_image_needs_leaves_this_one_readable() {
    let bench = Bench::new(0);
    // More than half a frame each, so that the end of the second is in a frame where nothing of the first is.
    for (name, image) in [("first", "first:1"), ("second", "second:1")] {
        let mut data = vec![0; 40_000_000];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut data);
        let mut layer = Vec::new();
        entry(&mut layer, name, &data);
        archive_of(&bench.path(&format!("{name}.tar")), image, &[layer]);
        bench.good(&["--root", "one", "load", "-q", "-i", &format!("{name}.tar")]);
    }
    bench.good(&["--root", "one", "save", "-o", "both.ferry", "first:1", "second:1"]);
    let mut bytes = fs::read(bench.path("both.ferry")).unwrap();
    let at = bytes.len() - 5_000_000;
    bytes[at] ^= 1;
    fs::write(bench.path("bad.ferry"), bytes).unwrap();
    bench.good(&["convert", "first.tar", "plain.tar"]);
    bench.good(&["extract", "--image", "first:1", "-o", "out.tar", "bad.ferry"]);
    assert!(fs::read(bench.path("out.tar")).unwrap() == fs::read(bench.path("plain.tar")).unwrap());
    for image in ["first:1", "second:1"] {
        assert!(bench.good(&["ls", "--image", image, "bad.ferry"]).contains(" 40000000 "));
    }
    assert!(bench.good(&["diff", "bad.ferry", "both.ferry"]).contains("Layers: 0 added, 0 deleted, 2 the same"));
    let refused = bench.ferry(&["extract", "--image", "second:1", "-o", "none.tar", "bad.ferry"]);
    assert!(refused.code == 6 && refused.error.contains("is damaged at byte"), "{}", refused.error);
    assert!(!bench.path("none.tar").exists());
}

/// What docker makes of a tar at a level.
fn go(tar: &[u8], level: u8) -> Vec<u8> {
    let mut blob = Vec::new();
    rebuild(Recipe::from_bytes([1, level]).unwrap(), &mut &tar[..], &mut blob, &Ctx::silent()).unwrap();
    blob
}

/// Compresses a tar, and says how the media type ends.
type Pack = fn(&[u8]) -> (Vec<u8>, &'static str);

/// By what each image knows its layers.
const WAYS: [Pack; 5] = [
    |tar| (go(tar, 6), "+gzip"),
    |tar| (go(tar, 9), "+gzip"),
    |tar| (zstd(tar), "+zstd"),
    |tar| (tar.to_vec(), ""),
    |tar| (gzip(tar), "+gzip"),
];

/// The layer that all images of [`many_ways`] are built upon.
fn common() -> Vec<u8> {
    let text: Vec<u8> =
        (0..30_000_u32).flat_map(|n| format!("{} ", n.wrapping_mul(2_654_435_761) % 1_000).into_bytes()).collect();
    Tar::default().dir("etc/").file("etc/base", &text).finish()
}

/// An OCI archive of five images on one layer, each of which was pushed by another program; gives the digests of their
/// manifests.
fn many_ways(bench: &Bench, archive: &str, names: [&'static str; 5]) -> BTreeSet<String> {
    let mut all = Layout { blobs: Vec::new(), entries: Vec::new(), items: Vec::new() };
    for (pack, name) in WAYS.iter().zip(names) {
        let image = TestImage::new("amd64", &[common(), layer("etc/own", name.as_bytes())], &[name]);
        let Layout { blobs, entries, .. } = layout(&[image], pack);
        all.blobs.extend(blobs);
        all.entries.extend(entries);
    }
    fs::write(bench.path(archive), all.tar().finish()).unwrap();
    let digests = manifests(bench, archive);
    assert_eq!(digests.len(), names.len());
    digests
}

/// The digests of the manifests in an archive.
fn manifests(bench: &Bench, archive: &str) -> BTreeSet<String> {
    let output = Command::new("tar").arg("-xOf").arg(bench.path(archive)).arg("index.json").output().unwrap();
    let index: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let digest = |manifest: &serde_json::Value| manifest["digest"].as_str().unwrap().to_owned();
    index["manifests"].as_array().unwrap().iter().map(digest).collect()
}

#[test]
fn a_layer_that_images_know_by_several_blobs_comes_back_as_each_knows_it() {
    let bench = Bench::new(0);
    let names = ["a:1", "b:1", "c:1", "d:1", "e:1"];
    let digests = many_ways(&bench, "many.tar", names);
    bench.good(&["convert", "many.tar", "many.ferry"]);
    bench.good(&["convert", "many.ferry", "out.tar"]);
    assert_eq!(manifests(&bench, "out.tar"), digests);
    // Through one store, as a bundle, and another.
    bench.good(&["--root", "one", "load", "-q", "-i", "many.ferry"]);
    let save = |root: &str, to: &str| bench.good(&[&["--root", root, "save", "-o", to][..], &names].concat());
    save("one", "one.tar");
    assert_eq!(manifests(&bench, "one.tar"), digests);
    save("one", "again.ferry");
    bench.good(&["--root", "two", "load", "-q", "-i", "again.ferry"]);
    save("two", "two.tar");
    assert_eq!(manifests(&bench, "two.tar"), digests);
    // One alone, and a bundle of it.
    let base = common();
    for (pack, name) in WAYS.iter().zip(names) {
        bench.good(&["extract", "--image", name, "-o", "image.tar", "many.ferry"]);
        let own = manifests(&bench, "image.tar");
        assert!(own.len() == 1 && own.is_subset(&digests), "{name}: {own:?}");
        let (blob, _) = pack(&base);
        bench.good(&["extract", "--layer", &Digest::of(&blob).to_string(), "-o", "blob", "many.ferry"]);
        assert!(fs::read(bench.path("blob")).unwrap() == blob, "{name}");
        let listed = bench.good(&["ls", "--image", name, "many.ferry"]);
        assert!(listed.contains(" /etc/base\n") && listed.contains(" /etc/own\n"), "{name}: {listed}");
    }
    assert_eq!(bench.good(&["extract", "--image", "b:1", "--file", "etc/own", "many.ferry"]), "b:1");

    // What is said of it: five blobs of one layer, of which those that are made again need one recipe.
    let document: serde_json::Value = serde_json::from_str(&bench.good(&["inspect", "many.ferry"])).unwrap();
    let diff_id = Digest::of(&base).to_string();
    let layers = document[0]["Layers"].as_array().unwrap().iter().filter(|layer| layer["DiffId"] == *diff_id);
    let kept: Vec<&str> = layers.map(|layer| layer["Kept"].as_str().unwrap()).collect();
    assert_eq!(kept[..4], ["replay", "replay", "blob", "split"], "{document}");
    assert_eq!(kept.len(), 5);
    let listed = bench.good(&["ls", "many.ferry"]);
    let bases: Vec<&str> = listed.lines().filter(|line| line.contains(&diff_id[7..19])).collect();
    let again = "compressed again when asked for";
    for (line, how) in bases.iter().zip([again, again, "as its registry has it", "deduplicated"]) {
        assert!(line.ends_with(how), "{listed}");
    }
    assert!(bases.len() == 5 && listed.contains("5 images, 6 layers of "), "{listed}");
    let proven = bench.good(&["verify", "--deep", "many.ferry"]);
    assert!(proven.contains("Proven:    5 images, 6 layers\n"), "{proven}");
    bench.good(&["extract", "--image", "c:1", "-o", "c.ferry", "many.ferry"]);
    let compared = bench.good(&["diff", "c.ferry", "many.ferry"]);
    assert!(compared.contains("Layers: 4 added, 0 deleted, 2 the same\n"), "{compared}");
    assert_eq!(compared.lines().filter(|line| line.starts_with("A layer ")).count(), 4, "{compared}");

    // The blob of a layer that is left out is the one that the manifest names, of those that the base has.
    let next = many_ways(&bench, "next.tar", ["a:2", "b:2", "c:2", "d:2", "e:2"]);
    bench.good(&["convert", "--base", "many.ferry", "next.tar", "thin.ferry"]);
    bench.good(&["convert", "--input-base", "many.ferry", "thin.ferry", "next.out.tar"]);
    assert_eq!(manifests(&bench, "next.out.tar"), next);
    // A blob that the base has not goes along, made of what the base has.
    bench.good(&["extract", "--image", "a:1", "-o", "a.ferry", "many.ferry"]);
    bench.good(&["extract", "--image", "b:2", "-o", "b.tar", "--input-base", "many.ferry", "thin.ferry"]);
    bench.good(&["convert", "--base", "a.ferry", "b.tar", "thinner.ferry"]);
    bench.good(&["convert", "--input-base", "a.ferry", "thinner.ferry", "image.tar"]);
    assert_eq!(manifests(&bench, "image.tar"), manifests(&bench, "b.tar"));
    bench.good(&["--root", "three", "load", "-q", "-i", "a.ferry"]);
    bench.good(&["--root", "three", "load", "-q", "-i", "thinner.ferry"]);
    bench.good(&["--root", "three", "save", "-o", "image.tar", "a:1", "b:2"]);
    assert!(manifests(&bench, "image.tar").is_superset(&manifests(&bench, "b.tar")));
    let sizes = ["a.ferry", "thinner.ferry"].map(|name| bench.path(name).metadata().unwrap().len());
    assert!(sizes[1] * 4 < sizes[0], "{sizes:?}");
    bench.good(&["--root", "one", "extract", "--image", "b:2", "-o", "image.tar", "thin.ferry"]);
    assert!(manifests(&bench, "image.tar").is_subset(&next));
    bench.good(&["--root", "one", "load", "-q", "-i", "thin.ferry"]);
    bench.good(&["--root", "one", "save", "-o", "next.one.tar", "a:2", "b:2", "c:2", "d:2", "e:2"]);
    assert_eq!(manifests(&bench, "next.one.tar"), next);
}

#[test]
fn one_image_of_two_manifests_is_two_images_of_a_bundle_and_an_id_does_not_say_which() {
    let bench = Bench::new(0);
    let image = |names: &[&'static str]| TestImage::new("amd64", &[common()], names);
    let mut both = layout(&[image(&["x:1", "x:2"])], &|tar| (go(tar, 6), "+gzip"));
    let other = layout(&[image(&["y:1"])], &|tar| (zstd(tar), "+zstd"));
    both.blobs.extend(other.blobs);
    both.entries.extend(other.entries);
    fs::write(bench.path("both.tar"), both.tar().finish()).unwrap();
    let digests = manifests(&bench, "both.tar");
    bench.good(&["convert", "both.tar", "both.ferry"]);
    bench.good(&["convert", "both.ferry", "out.tar"]);
    assert_eq!((manifests(&bench, "out.tar"), digests.len()), (digests, 2));
    let id = image(&[]).id();
    for wanted in [&*id.to_string(), &id.hex()[..12]] {
        let refused = bench.ferry(&["extract", "--image", wanted, "-o", "none.tar", "both.ferry"]);
        let says = refused.error.contains(&format!("has several images {wanted}: name one of x:1, x:2, y:1"));
        assert!(refused.code == 2 && says, "{}: {}", refused.code, refused.error);
    }
    let refused = bench.ferry(&["extract", "--image", "z:1", "-o", "none.tar", "both.ferry"]);
    assert!(refused.code == 3 && refused.error.contains("it has x:1, x:2, y:1"), "{}", refused.error);
}

#[test]
fn a_platform_is_asked_of_a_bundle_as_of_an_archive() {
    let bench = Bench::new(0);
    let image = TestImage::new("s390x", &[layer("etc/a", b"a")], &["app:1"]);
    fs::write(bench.path("app.tar"), layout(&[image], &|tar| (gzip(tar), "+gzip")).tar().finish()).unwrap();
    bench.good(&["convert", "app.tar", "app.ferry"]);
    fs::create_dir(bench.path("set")).unwrap();
    bench.good(&["convert", "app.tar", "set/app.ferry"]);
    for from in ["app.tar", "app.ferry", "set"] {
        for command in [&["--root", "s", "load", "-q", "-i", from][..], &["convert", from, "out.tar"]] {
            let asked = |platform| bench.ferry(&[command, &["--platform", platform]].concat());
            let refused = asked("linux/riscv64");
            let says = refused.error.contains("has no image for linux/riscv64 of app:1; it has linux/s390x");
            assert!(refused.code == 3 && says, "{command:?}: {}: {}", refused.code, refused.error);
            let taken = asked("linux/s390x");
            assert_eq!(taken.code, 0, "{command:?}: {}", taken.error);
        }
        bench.good(&["--root", "s", "rmi", "app:1"]);
    }
    assert_eq!(bench.good(&["--root", "s", "images", "-q"]), "");
}

#[test]
fn what_lies_behind_a_gzip_member_and_is_none_is_refused_as_docker_does() {
    let bench = Bench::new(0);
    let image = TestImage::new("amd64", &[layer("etc/a", b"a")], &["a:1"]);
    let pack = |tar: &[u8]| ([gzip(tar), vec![0; 512]].concat(), "+gzip");
    fs::write(bench.path("zeros.tar"), layout(&[image], &pack).tar().finish()).unwrap();
    for arguments in [&["convert", "zeros.tar", "zeros.ferry"][..], &["--root", "s", "load", "-q", "-i", "zeros.tar"]] {
        let refused = bench.ferry(arguments);
        let says = refused.error.contains("gzip");
        assert!(refused.code == 5 && says, "{arguments:?}: {}: {}", refused.code, refused.error);
    }
    assert!(!bench.path("zeros.ferry").exists());
}
