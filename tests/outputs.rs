//! What is written to a path: nothing but a file is replaced, what was asked for arrives, and what cannot be written is
//! said once and changes nothing.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use crate::support::bench::{Bench, archive};

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
    assert_eq!(pins(), "zz\t1 layers\n");
    archive(&bench.path("other.tar"), "registry.example.com/other:1", 2);
    bench.good(&["--root", "s", "load", "-q", "-i", "other.tar"]);
    for (label, out) in [("zz", "none/x.inv"), ("new", "none/x.inv"), ("zz", "s"), ("new", "s")] {
        for more in [&[][..], &["--encrypt-to", "to"]] {
            let arguments = ["--root", "s", "inventory", "--pin", "--label", label, "-o", out];
            let refused = bench.ferry(&[&arguments, more].concat());
            assert!(refused.code != 0 && pins() == "zz\t1 layers\n", "{label} {out} {more:?}: {}", pins());
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
