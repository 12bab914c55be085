//! Images from host to host by ssh: only what is missing crosses, and what breaks off goes on.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use ferry::transfer::remote::quote;

use crate::support::ferry;
use crate::support::peers::{Machine, Release, Sshd, succeed};

/// A store that one side works on.
struct Site {
    root: PathBuf,
}

impl Site {
    fn new(machine: &Machine, name: &str) -> Site {
        Site { root: machine.dir().join(name) }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(ferry());
        command.arg("--root").arg(&self.root).args(words).env_remove("FERRY_ROOT");
        command
    }

    fn run(&self, words: &[&str]) -> String {
        succeed(&mut self.command(words))
    }

    fn images(&self) -> String {
        self.run(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])
    }

    /// Makes an image of a layer that all releases share and one of their own.
    fn release(&self, machine: &Machine, number: u32) {
        let dir = machine.dir().join(format!("release-{number}"));
        fs::create_dir_all(dir.join("lib")).unwrap();
        let mut seed = 1_u32;
        let mut noise = |size: usize| -> Vec<u8> {
            let next = |_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            };
            (0..size).map(next).collect()
        };
        fs::write(dir.join("lib/shared"), noise(600_000)).unwrap();
        fs::write(dir.join("version"), number.to_string()).unwrap();
        let tar = machine.dir().join(format!("{number}.tar"));
        succeed(Command::new("tar").arg("-C").arg(&dir).args(["--mtime=@1", "-cf"]).arg(&tar).arg("."));
        self.run(&["import", tar.to_str().unwrap(), &format!("app:v{number}")]);
    }
}

/// OpenSSH's client in the server's machine, as the words before the host.
fn by_ssh(sshd: &Sshd<'_>) -> String {
    let command = sshd.ssh("true");
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.truncate(words.len() - 2);
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

#[test]
fn images_arrive_at_a_bare_host_and_the_next_release_costs_what_is_new() {
    let machine = Machine::on_host_network(Release::Debian12);
    let sshd = machine.sshd();
    let (ssh, host) = (by_ssh(&sshd), "root@127.0.0.1");
    let (near, far) = (Site::new(&machine, "near"), Site::new(&machine, "far"));
    let far_root = far.root.to_str().unwrap().to_owned();
    let binary = crate::support::static_ferry();
    let send = |words: &[&str]| {
        let mut all = vec!["send", "--remote-root", &far_root, "--json", "--ferry-binary", binary.to_str().unwrap()];
        all.extend(words);
        all.extend(["--ssh", &ssh, host]);
        let out = near.command(&all).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    near.release(&machine, 1);
    let first = send(&["app:v1"]);
    assert_eq!(first["loaded"], serde_json::json!(["app:v1"]));
    assert_eq!(near.images(), far.images());
    // The same again: nothing but an index.
    let again = send(&["app:v1"]);
    assert_eq!((&again["layers_present"], &again["layers"]), (&1.into(), &1.into()));
    assert!(again["wire"].as_u64().unwrap() < 4000, "{again}");
    // What a dry run says is what is sent.
    near.release(&machine, 2);
    let dry = send(&["--dry-run", "app:v2"]);
    assert!(!far.images().contains("app:v2"));
    let second = send(&["app:v2"]);
    assert_eq!(dry["stream"], second["stream"]);
    assert_eq!(near.images(), far.images());

    // And back, to a third place.
    let third = Site::new(&machine, "third");
    let binary = binary.to_str().unwrap();
    let words = ["fetch", "--remote-root", &far_root, "--ferry-binary", binary, "--ssh", &ssh, host, "app:v2"];
    third.run(&words);
    assert!(far.images().contains(third.images().trim()));
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let machine = Machine::start(Release::Debian12);
    let (near, far) = (Site::new(&machine, "near"), Site::new(&machine, "far"));
    near.release(&machine, 1);
    // A line that ends after so many bytes. It passes on what comes as it comes: a buffer would hold messages back.
    let line = machine.dir().join("line");
    let agent = format!("{} --root '{}' agent", ferry().display(), far.root.display());
    let cut_file = machine.dir().join("cut");
    let cutter = "import os, sys\nleft = int(open(sys.argv[1]).read())\nwhile left > 0:\n    b = os.read(0, min(left, 65536))\n    \
                  if not b: break\n    os.write(1, b); left -= len(b)\n";
    fs::write(machine.dir().join("cutter.py"), cutter).unwrap();
    let script = format!("#!/bin/sh\npython3 '{0}/cutter.py' '{0}/cut' | {agent}\n", machine.dir().display());
    fs::write(&line, script).unwrap();
    fs::set_permissions(&line, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Looking at the host and starting the agent are two commands; only the second is cut.
    let ssh = machine.dir().join("ssh");
    let script = format!(
        "#!/bin/sh\nshift\ncase \"$1\" in *' agent'*) exec '{}' ;; *) exec sh -c \"$1\" ;; esac\n",
        line.display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bin = machine.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(ferry(), bin.join("ferry")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut sent = 0;
    let mut resumed = 0;
    for (round, cut) in [150_000, 1, 200_000, 5_000, 100_000, 100_000_000].into_iter().enumerate() {
        fs::write(&cut_file, cut.to_string()).unwrap();
        let words = ["send", "--json", "--no-upload", "--ssh", ssh.to_str().unwrap(), "app:v1", "far"];
        let out = near.command(&words).env("PATH", &path).output().unwrap();
        if round < 5 {
            assert_eq!(out.status.code(), Some(9), "cut {cut}: {}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(far.images(), "", "nothing is visible before all of it is there");
            sent += cut;
        } else {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            resumed = told["resumed"].as_u64().unwrap();
            sent += told["wire"].as_u64().unwrap();
        }
    }
    assert!(resumed > 300_000, "{resumed}");
    let whole = 600_000;
    // Each break loses at most the message that it cuts.
    assert!(sent < whole * 11 / 10 + 5 * 33_000, "{sent} bytes in all tries");
    assert_eq!(near.images(), far.images());
    assert_eq!(fs::read_dir(far.root.join("ferry/transfers")).unwrap().count(), 0);
}

#[test]
fn a_peer_that_talks_nonsense_is_an_error_and_leaves_nothing() {
    let machine = Machine::start(Release::Debian12);
    let far = Site::new(&machine, "far");
    let hello = |tail: &[u8]| {
        let json = br#"{"protocol":1,"version":"0","platform":"linux/amd64"}"#;
        [&(json.len() as u32 + 1).to_le_bytes()[..], &[1], json, tail].concat()
    };
    let message =
        |kind: u8, json: &str| [&(json.len() as u32 + 1).to_le_bytes()[..], &[kind], json.as_bytes()].concat();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let offer = message(3, &format!(r#"{{"images":[{{"names":["a:1"],"id":"{zeros}","layers":[]}}]}}"#));
    let stream = message(8, &format!(r#"{{"plan":"{zeros}"}}"#));
    let resume = message(9, r#"{"offset":0,"hash":""}"#);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("silence", vec![]),
        ("noise", vec![0xff; 4096]),
        ("a message of 4 GiB", hello(&[0xff; 8])),
        ("an unknown kind", hello(&[1, 0, 0, 0, 99])),
        ("nothing in turn", hello(&message(12, r#"{"loaded":[]}"#))),
        ("deep JSON", hello(&message(3, &"[".repeat(100_000)))),
        ("an offer that ends", hello(&offer)),
        (
            "data that is no bundle",
            hello(
                &[
                    offer.clone(),
                    stream.clone(),
                    resume.clone(),
                    message(10, "xxxx"),
                    message(11, r#"{"length":4,"hash":"0"}"#),
                ]
                .concat(),
            ),
        ),
        (
            "a stream that goes on elsewhere",
            hello(&[offer.clone(), stream.clone(), message(9, r#"{"offset":77,"hash":""}"#)].concat()),
        ),
    ];
    for (name, bytes) in cases {
        let input = machine.dir().join("input");
        fs::write(&input, bytes).unwrap();
        let mut command = far.command(&["agent"]);
        let mut child = command
            .stdin(fs::File::open(&input).unwrap())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(!out.status.success(), "{name}");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(stderr.starts_with("ferry: ") && !stderr.contains("panicked"), "{name}: {stderr}");
        assert_eq!(far.images(), "", "{name}");
    }
}
