//! Bundles from the command line: carried in volumes, signed, encrypted, damaged and mended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ferry::base::Digest;
use tempfile::TempDir;

use crate::support::peers::{Machine, Release};

fn entry(tar: &mut Vec<u8>, path: &str, data: &[u8]) {
    let mut block = [0_u8; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&block);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A docker-archive of one image with one layer of `megabytes` that do not compress.
fn archive(path: &Path, name: &str, megabytes: usize) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let mut layer = Vec::new();
    for number in 0..megabytes {
        let data: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
        entry(&mut layer, &format!("data/{number}"), &data);
    }
    layer.resize(layer.len() + 1_024, 0);
    let diff_id = Digest::of(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},"history":[{{}}]}}"#
    );
    let id = Digest::of(config.as_bytes()).hex();
    let mut tar = Vec::new();
    entry(&mut tar, &format!("{id}.json"), config.as_bytes());
    entry(&mut tar, "l/layer.tar", &layer);
    let manifest = format!(r#"[{{"Config":"{id}.json","RepoTags":["{name}"],"Layers":["l/layer.tar"]}}]"#);
    entry(&mut tar, "manifest.json", manifest.as_bytes());
    tar.resize(tar.len() + 1_024, 0);
    fs::write(path, tar).unwrap();
}

struct Done {
    code: i32,
    out: String,
    error: String,
}

struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new(megabytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        archive(&dir.path().join("in.tar"), "registry.example.com/app/web:1", megabytes);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ferry(&self, arguments: &[&str]) -> Done {
        self.ferry_with(&[], arguments)
    }

    fn ferry_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Done {
        let mut command = Command::new(crate::support::ferry());
        command.current_dir(self.dir.path()).args(arguments).stdin(Stdio::null());
        command.env_remove("SSH_AUTH_SOCK").envs(environment.iter().copied());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: output.status.code().unwrap(), out: text(output.stdout), error: text(output.stderr) }
    }

    fn good(&self, arguments: &[&str]) -> String {
        let done = self.ferry(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {}{}", done.out, done.error);
        done.out
    }

    /// What the archive is once it went through ferry, to compare with.
    fn plain(&self) -> Vec<u8> {
        self.good(&["convert", "in.tar", "plain.tar"]);
        fs::read(self.path("plain.tar")).unwrap()
    }
}

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
    assert!(out.contains("Proven:    1 images, 1 layers\n"), "{out}");

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
    let both = bench.ferry(&["convert", "--resume", "--encrypt-to", recipient.trim(), "in.tar", "r.ferry"]);
    assert!(both.code == 2 && both.error.contains("cannot be resumed"), "{}", both.error);
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
