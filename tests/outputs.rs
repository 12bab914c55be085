//! What is written to a path: nothing but a file is replaced, what was asked for arrives, and what cannot be written is
//! said once and changes nothing.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use crate::support::bench::{Bench, archive, archive_of, entry, typed};

const IMAGE: &str = "registry.example.com/app/web:1";

/// A bench with the image in the store `s` and in `in.ferry`, and a key that is also the file `to` of recipients.
fn bench(megabytes: usize) -> Bench {
    let bench = Bench::new(megabytes);
    let key = ssh_key::PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]));
    fs::write(bench.path("key"), key.to_openssh(ssh_key::LineEnding::LF).unwrap().as_bytes()).unwrap();
    fs::write(bench.path("to"), key.public_key().to_openssh().unwrap()).unwrap();
    bench.good(&["convert", "in.tar", "in.ferry"]);
    bench.good(&["--root", "s", "load", "-q", "-i", "in.tar"]);
    bench
}

/// Runs a script with `$FERRY`; its exit code and what it says.
fn sh(bench: &Bench, script: &str) -> (Option<i32>, String) {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).env("FERRY", crate::support::ferry());
    let output = command.current_dir(bench.dir.path()).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn nothing_but_a_file_is_replaced_and_what_was_asked_for_arrives() {
    let bench = bench(1);
    // The command with OUT for the output, how that name ends, and whether the bytes are the same each time.
    for (number, (command, ending, same)) in [
        ("convert in.ferry OUT", ".tar", true),
        ("convert in.tar OUT", ".ferry", true),
        ("--root s save -o OUT IMAGE", ".tar", true),
        ("--root s save -o OUT IMAGE", ".ferry", true),
        ("extract --file data/0 -o OUT in.ferry", "", true),
        ("--root s inventory --label l -o OUT", "", true),
        ("--root s inventory --encrypt-to to -o OUT", "", false),
        ("--root t load -q -i in.ferry --sign key --receipt OUT", "", false),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = bench.path(&number.to_string());
        fs::create_dir(&dir).unwrap();
        let ferry = |name: &str| {
            let out = format!("{number}/{name}{ending}");
            format!("\"$FERRY\" {}", command.replace("OUT", &out).replace("IMAGE", IMAGE))
        };
        let script = format!(
            "cd {number}; mkfifo pipe{ending}; mknod null{ending} c 1 3; echo old >far{ending}
             ln -s far{ending} link{ending}; ln -s new{ending} bare{ending}; ln -s /proc/self/fd/1 out{ending}; cd ..
             {}
             timeout 10 cat {number}/pipe{ending} >{number}/piped & {}; wait
             {}; {}; {}; {} >{number}/printed
             cd {number}; test -p pipe{ending}; test -c null{ending}
             test -L link{ending}; test -L bare{ending}; test -L out{ending}",
            ferry("plain"),
            ferry("pipe"),
            ferry("null"),
            ferry("link"),
            ferry("bare"),
            ferry("out"),
        );
        let (code, error) = sh(&bench, &script);
        assert_eq!(code, Some(0), "{command}: {error}");
        let plain = fs::read(dir.join(format!("plain{ending}"))).unwrap();
        for name in ["piped".to_owned(), format!("far{ending}"), format!("new{ending}"), "printed".to_owned()] {
            let bytes = fs::read(dir.join(&name)).unwrap();
            assert!(if same { bytes == plain } else { bytes.len() > 100 }, "{command}: {name}: {}", bytes.len());
        }
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 10, "{command}: {left:?}");
    }
    // What is printed goes on where it was, and the kernel's word on other people's links holds.
    let script = "{ echo before; \"$FERRY\" convert in.ferry /dev/stdout; echo after; } >all
        \"$FERRY\" convert in.ferry plain.tar; { echo before; cat plain.tar; echo after; } | cmp - all";
    assert_eq!(sh(&bench, script), (Some(0), String::new()));
    for (path, reason) in
        [("s", "cannot open s: Is a directory"), ("round", "(os error 40)"), ("none/x", "cannot create none/.x.")]
    {
        let script = format!("test -L round || ln -s round round; exec \"$FERRY\" convert in.ferry {path}");
        let (code, error) = sh(&bench, &script);
        assert!(code != Some(0) && error.contains(reason), "{path}: {error}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_without_a_word() {
    let bench = bench(3);
    for arguments in [
        &["--root", "s", "save", IMAGE][..],
        &["--root", "s", "save", "--output-format", "bundle", IMAGE],
        &["--root", "s", "save", "-o", "/dev/stdout", IMAGE],
        &["extract", "--image", IMAGE, "in.ferry"],
        &["extract", "--file", "data/0", "in.ferry"],
    ] {
        let mut command = Command::new(crate::support::ferry());
        command.args(arguments).current_dir(bench.dir.path()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), &*error), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn what_cannot_be_written_is_said_once_and_where() {
    let bench = bench(1);
    for (command, place) in [
        ("convert in.tar full", "full"),
        ("convert --output-format bundle in.tar full", "full"),
        ("--root s inventory -o full", "full"),
        ("--root s inventory --encrypt-to to -o full", "full"),
        ("--root s load -q -i in.tar --sign key --receipt full", "full"),
        ("extract --file data/0 -o full in.ferry", "full"),
        ("--root s save IMAGE >full", "standard output"),
        ("--root s save --output-format bundle IMAGE >full", "standard output"),
    ] {
        let ferry = command.replace("IMAGE", IMAGE);
        let (code, error) = sh(&bench, &format!("test -c full || mknod full c 1 7; exec \"$FERRY\" {ferry}"));
        let once = |part: &str| error.matches(part).count() == 1;
        assert!(code == Some(8) && once("cannot write") && once("No space left") && once(place), "{command}: {error}");
        assert!(error.lines().count() == 1, "{command}: {error}");
    }
    // The input is not to blame for a full disk beside it.
    let script = "mkdir spool; unshare -m sh -ec 'mount -t tmpfs -o size=256k none spool
        exec \"$FERRY\" convert --spool-dir spool in.ferry out.tar'";
    let (code, error) = sh(&bench, script);
    assert!(code == Some(8) && error.contains("does not fit into spool") && error.contains("--spool-dir"), "{error}");
    assert!(!bench.path("out.tar").exists());
}

#[test]
fn an_inventory_that_cannot_be_written_pins_nothing_and_lets_go_of_nothing() {
    let bench = bench(1);
    let pins = || bench.good(&["--root", "s", "inventory", "--pins"]);
    bench.good(&["--root", "s", "inventory", "--pin", "--label", "zz", "-o", "zz.inv"]);
    assert_eq!(pins(), "zz\t1 layer\n");
    archive(&bench.path("other.tar"), "registry.example.com/other:1", 2);
    bench.good(&["--root", "s", "load", "-q", "-i", "other.tar"]);
    for (label, out) in [("zz", "none/x.inv"), ("new", "none/x.inv"), ("zz", "s"), ("new", "s")] {
        for more in [&[][..], &["--encrypt-to", "to"]] {
            let arguments = ["--root", "s", "inventory", "--pin", "--label", label, "-o", out];
            let refused = bench.ferry(&[&arguments, more].concat());
            assert!(refused.code != 0 && pins() == "zz\t1 layer\n", "{label} {out} {more:?}: {}", pins());
        }
    }
    bench.good(&["--root", "s", "inventory", "--pin", "--label", "zz", "-o", "zz.inv"]);
    assert_eq!(pins(), "zz\t2 layers\n");
}

#[test]
fn an_empty_passphrase_encrypts_nothing() {
    let bench = bench(1);
    for arguments in [
        &["convert", "--passphrase", "in.tar", "x.ferry"][..],
        &["--root", "s", "save", "--passphrase", "-o", "x.ferry", IMAGE],
        &["--root", "s", "inventory", "--passphrase", "-o", "x.ferry"],
    ] {
        let refused = bench.ferry_with(&[("FERRY_PASSPHRASE", "")], arguments);
        assert!(refused.code == 2 && refused.error.contains("passphrase"), "{arguments:?}: {}", refused.error);
        assert!(!bench.path("x.ferry").exists(), "{arguments:?}");
    }
}

#[test]
fn a_dash_is_standard_output() {
    let bench = bench(1);
    for (command, same) in [
        ("convert in.ferry OUT", true),
        ("convert --output-format bundle in.tar OUT", true),
        ("--root s save -o OUT IMAGE", true),
        ("extract --file data/0 -o OUT in.ferry", true),
        ("--root s inventory --label l -o OUT", true),
        ("--root s inventory --label l --encrypt-to to -o OUT", false),
    ] {
        let ferry = |to: &str| format!("\"$FERRY\" {}", command.replace("OUT", to).replace("IMAGE", IMAGE));
        let script = format!("{}; {} >printed; test ! -e ./-", ferry("plain"), ferry("-"));
        let (code, error) = sh(&bench, &script);
        assert_eq!(code, Some(0), "{command}: {error}");
        let (plain, printed) = (fs::read(bench.path("plain")).unwrap(), fs::read(bench.path("printed")).unwrap());
        assert!(if same { plain == printed } else { printed.len() > 100 }, "{command}: {}", printed.len());
    }
}

#[test]
fn one_volume_of_several_is_not_replaced_and_a_bundle_of_one_file_is() {
    let bench = bench(3);
    fs::create_dir(bench.path("v")).unwrap();
    bench.good(&["convert", "--volume-size", "1m", "--parity", "40%", "in.tar", "v/r.ferry"]);
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    for volume in ["v/r.002.ferry", "v/r.p001.ferry"] {
        let before = read(volume);
        // Its frames tell, or its head alone.
        for (from, bytes) in [("v/r.001.ferry", before.clone()), ("in.tar", before[..before.len() / 2].to_vec())] {
            fs::write(bench.path(volume), &bytes).unwrap();
            for arguments in [
                &["convert", from, volume][..],
                &["convert", "--output-format", "hybrid", "in.tar", volume],
                &["--root", "s", "save", "-o", volume, IMAGE],
                &["--root", "s", "inventory", "-o", volume],
                &["extract", "--file", "data/0", "-o", volume, "in.ferry"],
            ] {
                let refused = bench.ferry(arguments);
                let text = format!("{arguments:?}: {}: {}", refused.code, refused.error);
                assert!(refused.code == 4 && refused.error.contains(&format!("{volume} is one volume")), "{text}");
                assert!(read(volume) == bytes, "{text}");
            }
        }
        fs::write(bench.path(volume), before).unwrap();
    }
    // An input of one file is read to its end before it is replaced.
    let before = read("in.ferry");
    bench.good(&["convert", "in.ferry", "in.ferry"]);
    assert!(read("in.ferry") == before);
}

#[test]
fn a_bundle_that_a_site_counts_on_is_not_replaced_by_the_difference_to_it() {
    let bench = bench(1);
    let send = |to: &str| bench.ferry(&["--root", "s", "save", "--sent-to", "far", "-o", to, IMAGE]);
    assert_eq!(send("to-far.ferry").code, 0);
    let whole = fs::read(bench.path("to-far.ferry")).unwrap();
    let refused = send("to-far.ferry");
    assert!(refused.code == 4 && refused.error.contains("to-far.ferry is a bundle, and site far"), "{}", refused.error);
    assert!(refused.error.contains("`ferry inventory --forget-site far`"), "{}", refused.error);
    assert!(fs::read(bench.path("to-far.ferry")).unwrap() == whole);
    // The ways out, and a file that is no bundle.
    fs::write(bench.path("other.ferry"), "no bundle").unwrap();
    assert_eq!(send("other.ferry").code, 0);
    assert!(fs::metadata(bench.path("other.ferry")).unwrap().len() < 5_000);
    bench.good(&["--root", "s", "inventory", "--forget-site", "far"]);
    assert_eq!(send("to-far.ferry").code, 0);
    assert!(fs::read(bench.path("to-far.ferry")).unwrap() == whole);
}

#[test]
fn what_holds_images_is_its_owners_alone_and_a_receipt_says_where_they_are() {
    let bench = bench(1);
    let mode = |name: &str| {
        let meta = fs::metadata(bench.path(name)).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777
    };
    bench.good(&["convert", "--volume-size", "1m", "--parity", "10%", "in.tar", "v.ferry"]);
    bench.good(&["convert", "in.ferry", "out.tar"]);
    bench.good(&["convert", "in.tar", "LARGE.FERRY"]);
    assert!(fs::read(bench.path("LARGE.FERRY")).unwrap() == fs::read(bench.path("in.ferry")).unwrap());
    let id = bench.good(&["--root", "none", "inspect", "in.ferry"]);
    let id: serde_json::Value = serde_json::from_str(&id).unwrap();
    let layer = id[0]["Layers"][0]["DiffId"].as_str().unwrap();
    bench.good(&["extract", "--layer", layer, "-o", "layer.tar", "in.ferry"]);
    assert_eq!(mode("layer.tar"), 0o600);
    bench.good(&["copy", "in.ferry", "copy.ferry"]);
    for name in ["in.ferry", "v.001.ferry", "v.p001.ferry", "out.tar", "copy.ferry"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    bench.good(&["--root", "t", "load", "-q", "-i", "in.ferry", "--sign", "key", "--receipt", "receipt"]);
    let text = fs::read_to_string(bench.path("receipt")).unwrap();
    let store = text.lines().find_map(|line| line.trim().strip_prefix("\"store\": \"")).unwrap();
    assert!(store.starts_with('/') && store.ends_with("/t\","), "{store}");
}

#[test]
fn a_thin_bundle_without_its_base_is_shown_with_what_it_lacks() {
    let bench = bench(1);
    bench.good(&["convert", "--base", "in.ferry", "in.tar", "thin.ferry"]);
    bench.good(&["--root", "s", "inventory", "--label", "far", "-o", "far.inventory"]);
    bench.good(&["convert", "--base", "far.inventory", "in.tar", "against.ferry"]);
    for (bundle, needs) in [
        ("thin.ferry", "Needs what bundle in.ferry has: 1 layer, 0 contents\n"),
        ("against.ferry", "Needs what far has by its inventory or ledger: 1 layer, 0 contents\n"),
    ] {
        let listed = bench.good(&["ls", bundle]);
        assert!(listed.contains(needs), "{listed}");
        let refused = bench.ferry(&["--root", "empty", "verify", "--deep", "--format", "json", bundle]);
        let shown: serde_json::Value = serde_json::from_str(&refused.out).unwrap();
        assert_eq!((refused.code, &shown["intact"]), (3, &true.into()), "{}", refused.error);
        assert!(shown["error"].as_str().is_some_and(|error| error.contains("this is a thin bundle")), "{shown}");
        assert!(refused.error.contains("where it is an inventory or a site"), "{}", refused.error);
    }
}

#[test]
fn a_file_name_stays_in_its_line() {
    let bench = Bench::new(0);
    let mut layer = Vec::new();
    entry(&mut layer, "a\nb\t\u{1b}[2J", b"1");
    typed(&mut layer, "link", b'2', "to\nnowhere", b"");
    archive_of(&bench.path("names.tar"), IMAGE, &[layer]);
    bench.good(&["convert", "names.tar", "names.ferry"]);
    let shown = bench.good(&["--root", "none", "inspect", "names.ferry"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let layer = shown[0]["Layers"][0]["DiffId"].as_str().unwrap();
    for what in [["--image", IMAGE], ["--layer", layer]] {
        let listed = bench.good(&["ls", what[0], what[1], "names.ferry"]);
        assert_eq!(listed.lines().count(), 2, "{listed}");
        assert!(
            listed.contains("a\u{fffd}b\u{fffd}\u{fffd}[2J\n") && listed.contains("to\u{fffd}nowhere\n"),
            "{listed}"
        );
    }
}

#[test]
fn a_passphrase_that_nobody_gives_is_asked_for_in_its_words_and_ctrl_c_ends_the_question() {
    let bench = bench(1);
    let secret = [("FERRY_PASSPHRASE", "open sesame")];
    assert_eq!(bench.ferry_with(&secret, &["convert", "--passphrase", "in.tar", "locked.ferry"]).code, 0);
    for arguments in ["ls locked.ferry", "convert --passphrase in.tar x.ferry"] {
        let (code, error) = sh(&bench, &format!("unset FERRY_PASSPHRASE; setsid -w \"$FERRY\" {arguments}"));
        assert!(code == Some(2) && error.contains("FERRY_PASSPHRASE"), "{arguments}: {error}");
    }
    // A Ctrl-C once the question is asked and the answer waited for.
    let python = r#"
import os, pty, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.environ.pop("FERRY_PASSPHRASE", None)
    os.execv(sys.argv[1], sys.argv[1:])
def waits():
    state = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0]
    return state == "Z" or state == "S" and not termios.tcgetattr(terminal)[3] & termios.ECHO
while not waits():
    time.sleep(0.01)
os.write(terminal, b"\x03")
shown = b""
try:
    while more := os.read(terminal, 1000):
        shown += more
except OSError:
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    for arguments in [
        &["convert", "--passphrase", "in.tar", "x.ferry"][..],
        &["--root", "s", "inventory", "--passphrase", "-o", "x"],
        &["ls", "locked.ferry"],
        &["convert", "locked.ferry", "x.ferry"],
    ] {
        let mut command = Command::new("python3");
        command.args(["-c", python]).arg(crate::support::ferry()).args(arguments).current_dir(bench.dir.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(130), "{arguments:?}: {shown}");
        let once = shown.contains("Passphrase") && !shown.contains("two different") && !shown.contains("needs a");
        assert!(once, "{arguments:?}: {shown}");
    }
    assert!(!bench.path("x.ferry").exists() && !bench.path("x").exists());
}
