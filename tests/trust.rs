//! Who may bring what in: signatures, keys, policies.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use ferry::base::Ctx;
use ferry::base::read_at::ReadAt;
use ferry::bundle::volume::{SetId, SetReader, SetWriter, VolumeSet, WriteOptions};

use crate::support::bench::{Bench, Done, archive, entry};
use crate::support::peers::{Machine, Release};

#[test]
fn signed_and_encrypted_bundles_are_let_in_by_key_policy_and_name_alone() {
    let machine = Machine::start(Release::Debian12);
    machine.sh("ssh-keygen -q -t ed25519 -N '' -f key; ssh-keygen -q -t ed25519 -N '' -f stranger
        echo \"release@example.com $(cut -d' ' -f1,2 key.pub)\" >allowed
        echo \"other@example.com $(cut -d' ' -f1,2 stranger.pub)\" >strangers");
    let bench = Bench::new(1);
    for name in ["key", "key.pub", "stranger", "allowed", "strangers"] {
        fs::copy(machine.dir().join(name), bench.path(name)).unwrap();
    }
    let plain = bench.plain();
    let recipient = fs::read_to_string(bench.path("key.pub")).unwrap();
    bench.good(&["convert", "in.tar", "bare.ferry"]);
    bench.good(&["convert", "--sign", "key", "in.tar", "signed.ferry"]);
    bench.good(&["convert", "--sign", "key", "--encrypt-to", recipient.trim(), "in.tar", "sealed.ferry"]);

    let out = bench.good(&["verify", "--allowed-signers", "allowed", "--export-signature", "x", "signed.ferry"]);
    assert!(out.contains("Signed:    by release@example.com (SHA256:"), "{out}");
    fs::copy(bench.path("x/statement"), machine.dir().join("statement")).unwrap();
    fs::copy(bench.path("x/statement.sig"), machine.dir().join("statement.sig")).unwrap();
    machine.sh("ssh-keygen -Y verify -f allowed -I release@example.com -n ferry-bundle -s statement.sig <statement");

    let code = |arguments: &[&str]| bench.ferry(&[&["convert"], arguments, &["out.tar"]].concat()).code;
    let trusted = ["--allowed-signers", "allowed", "--require-signature"];
    assert_eq!(code(&[&trusted[..], &["signed.ferry"]].concat()), 0);
    assert!(fs::read(bench.path("out.tar")).unwrap() == plain);
    assert_eq!(code(&[&trusted[..], &["bare.ferry"]].concat()), 7);
    assert_eq!(code(&[&trusted[..], &["in.tar"]].concat()), 7);
    assert_eq!(code(&["--allowed-signers", "allowed", "bare.ferry"]), 0);
    assert_eq!(code(&["--allowed-signers", "strangers", "signed.ferry"]), 7);
    fs::copy(bench.path("key.pub"), bench.path("revoked")).unwrap();
    assert_eq!(code(&["--allowed-signers", "allowed", "--revoked-keys", "revoked", "signed.ferry"]), 7);

    assert_eq!(code(&["sealed.ferry"]), 2);
    assert_eq!(code(&["--identity", "stranger", "sealed.ferry"]), 6);
    assert_eq!(code(&["--identity", "key", "sealed.ferry"]), 0);
    assert!(fs::read(bench.path("out.tar")).unwrap() == plain);
    // The signature is over what is carried: it can be checked without the key.
    bench.good(&["verify", "--allowed-signers", "allowed", "--require-signature", "sealed.ferry"]);
    let sealed = fs::read(bench.path("sealed.ferry")).unwrap();
    assert!(!sealed.windows(7).any(|part| part == b"app/web"));

    let secret = [("FERRY_PASSPHRASE", "open sesame")];
    let locked = bench.ferry_with(&secret, &["convert", "--passphrase", "in.tar", "locked.ferry"]);
    assert_eq!(locked.code, 0, "{}", locked.error);
    assert_eq!(bench.ferry_with(&secret, &["convert", "locked.ferry", "out.tar"]).code, 0);
    let wrong = bench.ferry_with(&[("FERRY_PASSPHRASE", "sesame")], &["convert", "locked.ferry", "out.tar"]);
    assert_eq!(wrong.code, 6, "{}", wrong.error);
    // Inventories are signed and sealed like bundles, and used as a base only where their signature and key are right.
    bench.good(&["--root", "site", "load", "-q", "-i", "in.tar"]);
    let inventory =
        ["--root", "site", "inventory", "--sign", "key", "--encrypt-to", recipient.trim(), "-o", "site.inventory"];
    bench.good(&inventory);
    let sealed = fs::read(bench.path("site.inventory")).unwrap();
    bench.good(&["verify", "--allowed-signers", "allowed", "--require-signature", "site.inventory"]);
    let against =
        |base: &str, more: &[&str]| bench.ferry(&[&["convert", "--base", base, "in.tar", "thin.ferry"], more].concat());
    let (key, right) = (["--base-identity", "key"], ["--base-identity", "key", "--base-signers", "allowed"]);
    assert_eq!(against("site.inventory", &key).code, 0);
    assert_eq!(against("site.inventory", &right).code, 0);
    assert!(fs::metadata(bench.path("thin.ferry")).unwrap().len() < 5_000);
    bench.good(&["--root", "site", "load", "-q", "-i", "thin.ferry"]);
    bench.good(&["--root", "site", "inventory", "-o", "bare.inventory"]);
    let mut changed = sealed.clone();
    changed[200] ^= 1;
    fs::write(bench.path("changed.inventory"), changed).unwrap();
    let mut damaged = fs::read(bench.path("bare.inventory")).unwrap();
    damaged[60] ^= 1;
    fs::write(bench.path("damaged.inventory"), damaged).unwrap();
    for (base, more, code, reason) in [
        ("site.inventory", &[][..], 2, "is encrypted: name its key with --base-identity"),
        ("site.inventory", &["--base-identity", "stranger"], 6, "cannot decrypt"),
        (
            "site.inventory",
            &["--base-identity", "key", "--base-signers", "strangers"],
            7,
            "not among the allowed signers",
        ),
        ("bare.inventory", &["--base-signers", "allowed"], 7, "is not signed"),
        ("changed.inventory", &key, 6, "changed.inventory"),
        ("damaged.inventory", &[], 6, "damaged.inventory"),
    ] {
        let refused = against(base, more);
        assert!(
            refused.code == code && refused.error.contains(reason),
            "{base} {more:?}: {}: {}",
            refused.code,
            refused.error
        );
    }
    // An inventory is no bundle, however well it is signed.
    let refused = bench.ferry(&["convert", "--identity", "key", "site.inventory", "out.tar"]);
    assert!(refused.code == 5 && refused.error.contains("not a ferry bundle"), "{}: {}", refused.code, refused.error);

    let both = bench.ferry(&["convert", "--resume", "--encrypt-to", recipient.trim(), "in.tar", "r.ferry"]);
    assert!(both.code == 2 && both.error.contains("cannot be resumed"), "{}", both.error);
}

/// Writes the bundle at `from` once more, to `to`, with the signatures of the one at `signed`.
fn with_signatures_of(signed: &Path, from: &Path, to: &Path) {
    let open = |path: &Path| VolumeSet::open(&[path.to_owned()]).unwrap();
    let signatures = open(signed).signatures().to_vec();
    let stream = SetReader::new(open(from)).unwrap();
    let mut bytes = vec![0; stream.size() as usize];
    stream.read_exact_at(&mut bytes, 0).unwrap();
    let mut writer = SetWriter::to_path(to, WriteOptions::new(SetId::derive(b"with signatures of"))).unwrap();
    writer.write_all(&bytes).unwrap();
    writer.finish(Some(&|_: &str| Ok(signatures.clone())), &Ctx::silent()).unwrap();
}

#[test]
fn a_signature_counts_for_its_bundle_its_namespace_its_time_and_the_names_of_its_signer() {
    let machine = Machine::start(Release::Debian12);
    machine.sh("ssh-keygen -q -t ed25519 -N '' -f key; cut -d' ' -f1,2 key.pub >public; ssh-keygen -l -f key.pub | cut -d' ' -f2 >print");
    let bench = Bench::new(1);
    fs::copy(machine.dir().join("key"), bench.path("key")).unwrap();
    let read = |name: &str| fs::read_to_string(machine.dir().join(name)).unwrap().trim().to_owned();
    let (public, print) = (read("public"), read("print"));
    archive(&bench.path("other.tar"), "registry.example.com/other:1", 1);
    bench.good(&["convert", "--sign", "key", "in.tar", "signed.ferry"]);
    bench.good(&["convert", "--sign", "key", "other.tar", "other.ferry"]);
    bench.good(&["convert", "in.tar", "bare.ferry"]);
    with_signatures_of(&bench.path("other.ferry"), &bench.path("bare.ferry"), &bench.path("swapped.ferry"));
    with_signatures_of(&bench.path("signed.ferry"), &bench.path("signed.ferry"), &bench.path("again.ferry"));

    // What stands in front of the key, what is revoked, the names of the signer, the bundle, and why it is refused.
    let any = "*";
    for (options, revoked, names, bundle, reason) in [
        ("", "", any, "signed.ferry", None),
        ("", "", any, "swapped.ferry", Some("not over this")),
        // Another set of the same bytes has a root of its own.
        ("", "", any, "again.ferry", Some("not over this")),
        ("", "", any, "bare.ferry", Some("is not signed")),
        ("namespaces=\"ferry-bundle\"", "", any, "signed.ferry", None),
        ("namespaces=\"file\"", "", any, "signed.ferry", Some("not allowed for the namespace")),
        ("valid-after=\"20200101\",valid-before=\"21200101\"", "", any, "signed.ferry", None),
        ("valid-before=\"20200101\"", "", any, "signed.ferry", Some("no longer valid")),
        ("valid-after=\"21200101\"", "", any, "signed.ferry", Some("not valid yet")),
        ("", &public, any, "signed.ferry", Some("revoked")),
        ("", &print, any, "signed.ferry", Some("revoked")),
        ("", "", "registry.example.com/app/*", "signed.ferry", None),
        ("", "", "registry.example.com/app/*", "other.ferry", Some("registry.example.com/other:1")),
    ] {
        fs::write(bench.path("allowed"), format!("release@example.com {options} {public}\n")).unwrap();
        fs::write(bench.path("revoked"), revoked).unwrap();
        let policy = format!(
            r#"{{"require-signature": true, "allowed-signers": "allowed", "revoked-keys": "revoked",
                "images": {{"release@example.com": ["{names}"]}}}}"#
        );
        fs::write(bench.path("policy.json"), policy).unwrap();
        let done = bench.ferry(&["--root", "site", "load", "-q", "--policy", "policy.json", "-i", bundle]);
        let what = format!("{options} {revoked} {names} {bundle}: {}: {}", done.code, done.error);
        let there = bench.good(&["--root", "site", "images", "-q"]);
        match reason {
            None => assert!(done.code == 0 && there.lines().count() == 1, "{what}"),
            Some(reason) => assert!(done.code == 7 && done.error.contains(reason) && there.is_empty(), "{what}"),
        }
        let _ = fs::remove_dir_all(bench.path("site"));
    }
}

/// A key in the file `key`, and its public half.
fn key(bench: &Bench) -> String {
    let pair = ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]);
    let key = ssh_key::PrivateKey::from(pair);
    fs::write(bench.path("key"), key.to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes()).unwrap();
    key.public_key().to_openssh().unwrap()
}

#[test]
fn what_a_policy_restricts_it_restricts_without_required_signatures_and_wherever_it_is_named() {
    let bench = Bench::new(1);
    fs::write(bench.path("allowed"), format!("release@example.com {}\n", key(&bench))).unwrap();
    archive(&bench.path("other.tar"), "registry.example.com/other:1", 1);
    bench.good(&["convert", "--sign", "key", "in.tar", "signed.ferry"]);
    bench.good(&["convert", "--sign", "key", "other.tar", "other.ferry"]);
    bench.good(&["convert", "in.tar", "bare.ferry"]);
    bench.good(&["--root", "r", "load", "-q", "-i", "bare.ferry", "--receipt", "receipt"]);
    let load = &["--root", "site", "load", "-q", "-i"][..];
    let names = r#""allowed-signers": "allowed", "images": {"release@example.com": ["registry.example.com/app/*"]}"#;
    let needs =
        |name: &'static str| move |error: &str| error.contains(name) && error.contains("needs \"allowed-signers\"");
    let says = |part: &'static str| move |error: &str| error.contains(part);
    let nothing = |error: &str| error.is_empty();
    // The policy, the command, the bundle, its exit code, what it says.
    type Row<'a> = (String, &'a [&'a str], &'a str, i32, Box<dyn Fn(&str) -> bool>);
    let of = |members: &str| format!("{{{members}}}");
    let rows: [Row<'_>; 13] = [
        (of(names), load, "signed.ferry", 0, Box::new(nothing)),
        (of(names), load, "bare.ferry", 0, Box::new(nothing)),
        (of(names), load, "other.ferry", 7, Box::new(says("release@example.com may not sign"))),
        (of(r#""images": {"a": ["*"]}"#), load, "bare.ferry", 5, Box::new(needs("images"))),
        (of(r#""revoked-keys": "/none""#), load, "bare.ferry", 5, Box::new(needs("revoked-keys"))),
        (of(r#""allowed-signers": "allowed", "revoked-keys": "none""#), load, "bare.ferry", 3, Box::new(says("none"))),
        (of(names), &["convert"], "signed.ferry", 0, Box::new(nothing)),
        (of(names), &["convert"], "other.ferry", 7, Box::new(says("release@example.com may not sign"))),
        (of(&format!("{names}, \"require-signature\": true")), &["convert"], "signed.ferry", 0, Box::new(nothing)),
        (of(&format!("{names}, \"require-signature\": true")), &["convert"], "bare.ferry", 7, Box::new(says("signed"))),
        ("no policy".into(), &["convert"], "bare.ferry", 5, Box::new(says("policy.json"))),
        (String::new(), &["convert"], "bare.ferry", 3, Box::new(says("policy.json"))),
        (of(names), &["verify", "--receipt", "receipt"], "bare.ferry", 2, Box::new(says("cannot be used with"))),
    ];
    for (policy, command, bundle, code, right) in rows {
        let _ = fs::remove_file(bench.path("policy.json"));
        if !policy.is_empty() {
            fs::write(bench.path("policy.json"), &policy).unwrap();
        }
        let to = if command == ["convert"] { &["out.tar"][..] } else { &[] };
        let done = bench.ferry(&[command, &[bundle], to, &["--policy", "policy.json"]].concat());
        assert!(
            done.code == code && right(&done.error),
            "{policy} {command:?} {bundle}: {}: {}",
            done.code,
            done.error
        );
        assert_eq!(bench.path("out.tar").exists(), code == 0 && !to.is_empty(), "{policy} {bundle}");
        let _ = (fs::remove_file(bench.path("out.tar")), fs::remove_dir_all(bench.path("site")));
    }
}

/// A machine whose /etc holds the policy, as far as a command and what it starts can see.
fn under(bench: &Bench, policy: Option<&str>, input: Option<&str>, arguments: &[&str]) -> Done {
    let etc = bench.path("etc");
    fs::create_dir_all(etc.join("ferry")).unwrap();
    if let Some(policy) = policy {
        fs::write(etc.join("ferry/policy.json"), policy).unwrap();
    }
    let mut command = match policy {
        None => Command::new(crate::support::ferry()),
        Some(_) => {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", "mount --bind \"$0\" /etc && exec \"$@\""]).arg(&etc);
            command.arg(crate::support::ferry());
            command
        }
    };
    command
        .args(arguments)
        .current_dir(bench.dir.path())
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bench.path("bin").display()));
    match input {
        Some(file) => command.stdin(fs::File::open(bench.path(file)).unwrap()),
        None => command.stdin(Stdio::null()),
    };
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done { code: output.status.code().unwrap(), out: text(output.stdout), error: text(output.stderr) }
}

#[test]
fn under_a_policy_that_requires_signatures_every_way_in_is_closed_that_it_does_not_name() {
    const IMAGE: &str = "registry.example.com/app/web:1";
    let bench = Bench::new(1);
    bench.good(&["--root", "s", "load", "-q", "-i", "in.tar"]);
    bench.good(&["convert", "--output-format", "oci", "in.tar", "oci.tar"]);
    bench.good(&["convert", "in.tar", "plain.ferry"]);
    fs::create_dir(bench.path("oci")).unwrap();
    assert!(
        Command::new("tar")
            .arg("-xf")
            .arg(bench.path("oci.tar"))
            .arg("-C")
            .arg(bench.path("oci"))
            .status()
            .unwrap()
            .success()
    );
    let mut tree = Vec::new();
    entry(&mut tree, "a", b"a file");
    tree.resize(tree.len() + 1_024, 0);
    fs::write(bench.path("tree.tar"), tree).unwrap();
    // Lines to another host that is this one, with the policy or without it.
    fs::create_dir(bench.path("bin")).unwrap();
    std::os::unix::fs::symlink(crate::support::ferry(), bench.path("bin/ferry")).unwrap();
    let line = |name: &str, script: String| {
        let path = bench.path(name);
        fs::write(&path, format!("#!/bin/sh\nshift\n{script}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let bind = format!("exec unshare -m sh -c \"mount --bind '{}' /etc && $1\"", bench.path("etc").display());
    let to_guarded = line("to-guarded", bind);
    let to_open = line("to-open", "exec unshare -m sh -c \"umount /etc; $1\"".to_owned());
    let url = format!("ssh://far{}", bench.path("in.tar").display());
    let near = bench.path("s").to_str().unwrap().to_owned();

    // The way, what permits it, whether the policy is the far side's, what it reads, the command.
    let ways = [
        ("a docker-archive", Some("archive"), false, None, vec!["load", "-q", "-i", "in.tar"]),
        ("a docker-archive on a pipe", Some("archive"), false, Some("in.tar"), vec!["load", "-q"]),
        ("an OCI archive", Some("archive"), false, None, vec!["load", "-q", "-i", "oci.tar"]),
        ("an OCI layout", Some("archive"), false, None, vec!["load", "-q", "-i", "oci"]),
        ("an archive of another host", Some("archive"), false, None, vec!["load", "-q", "-i", &url, "--ssh", &to_open]),
        ("a bundle that nobody signed", None, false, None, vec!["load", "-q", "-i", "plain.ferry"]),
        ("such a bundle on a pipe", None, false, Some("plain.ferry"), vec!["load", "-q"]),
        ("import", Some("import"), false, None, vec!["import", "tree.tar", "tree:1"]),
        (
            "fetch",
            Some("pull"),
            false,
            None,
            vec!["fetch", "--no-upload", "--remote-root", &near, "--ssh", &to_open, "far", IMAGE],
        ),
        (
            "send",
            Some("receive"),
            true,
            None,
            vec!["send", "--no-upload", "--ssh", &to_guarded, IMAGE, "far", "--remote-root"],
        ),
    ];
    for (number, (way, permit, far, input, words)) in ways.into_iter().enumerate() {
        let root = bench.path(&format!("t{number}")).to_str().unwrap().to_owned();
        let policy = |permits: &[&str]| {
            format!(r#"{{"require-signature": true, "allowed-signers": "/etc/ferry/allowed", "permit": {permits:?}}}"#)
        };
        let go = |policy: &str| {
            fs::create_dir_all(bench.path("etc/ferry")).unwrap();
            fs::write(bench.path("etc/ferry/allowed"), "").unwrap();
            fs::write(bench.path("etc/ferry/policy.json"), policy).unwrap();
            let mut all = vec!["--root", if far { "s" } else { &root }];
            all.extend(&words);
            all.extend(far.then_some(&*root));
            under(&bench, (!far).then_some(policy), input, &all)
        };
        let others: Vec<&str> =
            ["archive", "import", "pull", "receive"].into_iter().filter(|other| Some(*other) != permit).collect();
        for permits in [&[][..], &others] {
            let refused = go(&policy(permits));
            assert!(
                refused.code != 0 && refused.error.lines().count() <= 2,
                "{way}, {permits:?}: {}{}",
                refused.out,
                refused.error
            );
            assert!(
                refused.error.contains("policy.json") || refused.error.contains("is not signed"),
                "{way}: {}",
                refused.error
            );
            assert!(far || refused.code == 7, "{way}: {}", refused.code);
            assert_eq!(bench.good(&["--root", &root, "images", "-q"]), "", "{way}");
        }
        if let Some(permit) = permit {
            let done = go(&policy(&[permit]));
            assert_eq!(done.code, 0, "{way}: {}{}", done.out, done.error);
            assert_eq!(bench.good(&["--root", &root, "images", "-q"]).lines().count(), 1, "{way}");
        }
    }
    // What goes out, or is made of what is here, does not come in.
    let guarded = r#"{"require-signature": true, "allowed-signers": "/etc/ferry/allowed"}"#;
    fs::write(bench.path("etc/ferry/policy.json"), guarded).unwrap();
    let words = ["fetch", "--no-upload", "--remote-root", &near, "--ssh", &to_guarded, "far", IMAGE];
    let done = under(&bench, None, None, &[&["--root", "fetched"][..], &words].concat());
    assert_eq!(done.code, 0, "{}", done.error);
    let done = under(&bench, Some(guarded), None, &["--root", "s", "tag", IMAGE, "local:1"]);
    assert_eq!(done.code, 0, "{}", done.error);
    for words in [&["create", "--name", "box", IMAGE, "/a"][..], &["commit", "box", "local:2"], &["rm", "box"]] {
        let done = under(&bench, Some(guarded), None, &[&["--root", "s"], words].concat());
        assert_eq!(done.code, 0, "{words:?}: {}", done.error);
    }
}
