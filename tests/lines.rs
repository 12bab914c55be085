//! Lines and hosts that fail: one clear error with its exit code, nothing half-visible, and the next try goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use ferry::transfer::remote::quote;
use serde_json::Value;

use crate::support::ferry;
use crate::support::peers::{Machine, Release};
use crate::support::site::Site;

/// A program in the machine's directory.
fn script(machine: &Machine, name: &str, text: &str) -> PathBuf {
    let path = machine.dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn send(near: &Site, ssh: &str, root: &str, more: &[&str]) -> Output {
    let words = ["send", "--json", "--ssh", ssh, "--remote-root", root, "--ferry-binary", ferry().to_str().unwrap()];
    let mut command = near.command(&words);
    // A host that is this machine has ferry installed.
    command.env("PATH", format!("{}:{}", ferry().parent().unwrap().display(), std::env::var("PATH").unwrap()));
    command.args(["--timeout", "4"]).args(more).args(["app:v1", "far"]).output().unwrap()
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn told(out: &Output) -> Value {
    assert!(out.status.success(), "{}", said(out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// A host that is this machine. When an agent is started, so many of the bytes to it pass as the file `line` says, and then
/// happens what it says: `cut` ends the line, `stall` lets nothing pass either way, `deaf` takes nothing more.
const LINE: &str = r#"
import os, signal, subprocess, sys, threading
command, (how, left) = sys.argv[2], open(os.path.dirname(sys.argv[0]) + "/line").read().split()
if not command.startswith("exec "):
    os.execvp("sh", ["sh", "-c", command])
left = int(left)
agent = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
mute = threading.Event()
def back():
    while data := os.read(agent.stdout.fileno(), 65536):
        if not mute.is_set():
            os.write(1, data)
    if not mute.is_set():
        os._exit(agent.wait())
threading.Thread(target=back, daemon=True).start()
while left > 0 and (data := os.read(0, min(left, 65536))):
    left -= len(data)
    while data:
        data = data[os.write(agent.stdin.fileno(), data):]
if left <= 0 and how != "cut":
    if how == "stall":
        mute.set()
    while True:
        signal.pause()
agent.stdin.close()
agent.wait()
"#;

fn line(machine: &Machine) -> String {
    let program = script(machine, "line.py", LINE);
    format!("python3 {}", quote(&program.display().to_string()))
}

#[test]
fn a_line_that_drops_stalls_or_takes_nothing_more_is_given_up_and_the_next_try_goes_on() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let ssh = line(&machine);
    for how in ["cut", "stall", "deaf"] {
        let far = Site::new(&machine, &format!("far {how}"));
        let root = far.root.to_str().unwrap();
        fs::write(machine.dir().join("line"), format!("{how} 300000")).unwrap();
        let began = Instant::now();
        let out = send(&near, &ssh, root, &[]);
        assert_eq!(out.status.code(), Some(9), "{how}: {}", said(&out));
        let expected = if how == "cut" { "the connection ended" } else { "silent for 4 seconds" };
        assert!(said(&out).contains(expected) && said(&out).lines().count() == 1, "{how}: {}", said(&out));
        assert!(began.elapsed() < Duration::from_secs(15), "{how}: {:?}", began.elapsed());
        assert_eq!(far.images(), "", "{how}: nothing is visible before all of it is there");
        // What a dry run says now is what the next try sends.
        fs::write(machine.dir().join("line"), format!("cut {}", u64::MAX >> 1)).unwrap();
        let dry = told(&send(&near, &ssh, root, &["--dry-run"]));
        assert_eq!(far.images(), "", "{how}");
        let next = told(&send(&near, &ssh, root, &[]));
        assert!(next["resumed"].as_u64().unwrap() > 150_000, "{how}: {next}");
        for figure in ["stream", "resumed", "wire"] {
            assert_eq!(dry[figure], next[figure], "{how}: {figure}");
        }
        assert_eq!(far.images(), near.images(), "{how}");
    }
}

#[test]
fn a_peer_that_floods_is_an_error() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let hello = r#"{"protocol":1,"version":"0","platform":"linux/amd64"}"#;
    let greet = format!(r"printf '\0ferry-agent/1\r\n\{:03o}\0\0\0\1%s' '{hello}'", hello.len() + 1);
    for (name, agent, survey, expected) in [
        ("noise instead of an answer", "exit 1", "exec yes", "more than"),
        ("noise instead of an agent", "exec yes", "exec sh -c \"$2\"", "bytes of something else came"),
        ("messages without end", &format!("{greet}; exec yes"), "exec sh -c \"$2\"", "is the limit"),
        ("complaints without end", &format!("{greet}; exec yes >&2"), "exec sh -c \"$2\"", "the connection ended"),
    ] {
        let text = format!("#!/bin/sh\ncase $2 in *' agent'*) {agent} ;; *) {survey} ;; esac\n");
        let ssh = script(&machine, "flood", &text);
        let out = send(&near, &quote(ssh.to_str().unwrap()), "/none", &[]);
        assert_eq!(out.status.code(), Some(9), "{name}: {}", said(&out));
        assert!(said(&out).contains(expected), "{name}: {}", said(&out));
    }
}

/// `COMMAND HOST LINE` for a host that is the machine, with shims before its programs and a cache of its own.
fn inside(machine: &Machine) -> String {
    let mut command = machine.command("env");
    let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", machine.dir().join("shims").display());
    let cache = format!("XDG_CACHE_HOME={}", machine.dir().join("a 'cache'").display());
    command.args([path, cache]).args(["sh", "-c", "eval \"$1\""]);
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_host_of_another_kind_is_refused_before_anything_is_uploaded() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let ssh = inside(&machine);
    let root = machine.dir().join("far").display().to_string();
    let cache = machine.dir().join("a 'cache'");
    for (system, kind, error, hint) in
        [("Linux", "aarch64", "far: is arm64, ", "--ferry-binary names"), ("FreeBSD", "amd64", "runs FreeBSD", "")]
    {
        let shim = format!("#!/bin/sh\n[ \"$1\" = -m ] && echo {kind} || echo {system}\n");
        script(&machine, "shims/uname", &shim);
        let out = send(&near, &ssh, &root, &[]);
        assert_eq!(out.status.code(), Some(10), "{kind}: {}", said(&out));
        assert!(said(&out).contains(error) && said(&out).contains(hint), "{kind}: {}", said(&out));
        assert!(!cache.exists(), "{kind}");
    }
    fs::remove_file(machine.dir().join("shims/uname")).unwrap();
    let words = ["send", "--no-upload", "--ssh", &ssh, "app:v1", "far"];
    let out = near.command(&words).output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", said(&out));
    assert!(said(&out).contains("not installed there, and uploading it is forbidden"), "{}", said(&out));
    assert!(!cache.exists());
    // A binary that is damaged on its way never gets its name.
    script(&machine, "shims/cat", "#!/bin/sh\n/bin/cat \"$@\"; echo more\n");
    let out = send(&near, &ssh, &root, &[]);
    assert_eq!(out.status.code(), Some(6), "{}", said(&out));
    assert!(said(&out).contains("another digest there"), "{}", said(&out));
    assert_eq!(cache.join("ferry").read_dir().unwrap().count(), 0);
    fs::remove_file(machine.dir().join("shims/cat")).unwrap();
    told(&send(&near, &ssh, &root, &[]));
}

#[test]
fn a_far_disk_that_fills_is_one_error_and_with_more_room_the_next_try_goes_on() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let ssh = inside(&machine);
    // Full while it arrives, and while it is unpacked.
    for (room, most) in [("400k", 500_000), ("1000k", 4_000)] {
        let far = machine.dir().join(format!("far {room}"));
        fs::create_dir(&far).unwrap();
        let root = far.to_str().unwrap();
        machine.run("mount", ["-t", "tmpfs", "-o", &format!("size={room}"), "tmpfs", root]);
        let images = || {
            let mut command = machine.command(ferry());
            let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
            let out = command.args(["--root", root, "images", "--no-trunc", "--format", format]).output().unwrap();
            String::from_utf8(out.stdout).unwrap()
        };
        let out = send(&near, &ssh, root, &[]);
        assert_eq!(out.status.code(), Some(8), "{room}: {}", said(&out));
        assert!(said(&out).starts_with("ferry: the far side: ") && said(&out).lines().count() == 1, "{}", said(&out));
        assert_eq!(images(), "", "{room}");
        machine.run("mount", ["-o", "remount,size=20m", root]);
        let next = told(&send(&near, &ssh, root, &[]));
        assert!(next["resumed"].as_u64().unwrap() > 100_000, "{room}: {next}");
        assert!(next["wire"].as_u64().unwrap() < most, "{room}: {next}");
        assert_eq!(images(), near.images(), "{room}");
    }
}
