//! Containers of an ordinary user: with ranges of IDs, without them, and without the tools that ranges need.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::containers::busybox;
use crate::support::ferry;
use crate::support::peers::{Machine, Release};

const UID: u32 = 4242;

/// A directory with an image of files of three owners, the user's home, and a copy of ferry that they can reach.
fn place() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("ferry-user-").tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let open = |name: &str| fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["bin", "home", "r/bin", "r/etc", "r/tmp", "r/dir"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::copy(ferry(), at("bin/ferry")).unwrap();
    fs::copy(busybox(), at("r/bin/busybox")).unwrap();
    for applet in ["sh", "cat", "id", "stat", "touch", "sleep"] {
        symlink("busybox", at("r/bin").join(applet)).unwrap();
    }
    fs::write(at("r/etc/passwd"), "root:x:0:0::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n").unwrap();
    fs::write(at("r/bobs"), "bobs\n").unwrap();
    chown(at("r/bobs"), Some(1000), Some(1000)).unwrap();
    chown(at("r/tmp"), Some(5), Some(6)).unwrap();
    fs::write(at("r/dir/in"), "in\n").unwrap();
    chown(at("r/dir/in"), Some(7), Some(8)).unwrap();
    chown(at("r/dir"), Some(9), Some(10)).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-C", "r", "--numeric-owner", "-cf", "image.tar", "."]).current_dir(dir.path());
    assert!(tar.status().unwrap().success());
    chown(at("home"), Some(UID), Some(UID)).unwrap();
    for name in [".", "bin", "bin/ferry", "home"] {
        open(name);
    }
    dir
}

/// Runs lines as a user whom `/etc/subuid` gives these ranges, with these directories in PATH.
fn play(dir: &Path, subuid: &str, path: &str, lines: &str) -> String {
    for (name, line) in [("passwd", "user:x:4242:4242::/:/bin/sh\n"), ("group", "user:x:4242:\n")] {
        let theirs = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        fs::write(dir.join(name), theirs + line).unwrap();
    }
    fs::write(dir.join("subuid"), subuid).unwrap();
    // The host's own files are covered in a mount namespace, and nowhere else.
    let script = format!(
        "busybox ip link set lo up
         for f in passwd group; do mount --bind $f /etc/$f; done
         for f in subuid subgid; do [ -e /etc/$f ] || touch /etc/$f; mount --bind subuid /etc/$f; done
         cd home; HOME=$PWD PATH={}/bin:{path} exec setpriv --reuid user --regid user --clear-groups sh -c \"$0\"",
        dir.display()
    );
    let output = Command::new("timeout")
        .args(["-s", "KILL", "280", "unshare", "-mn", "sh", "-ec", &script, lines])
        .current_dir(dir)
        .env_remove("FERRY_ROOT")
        .env_remove("XDG_DATA_HOME")
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const WORK: &str = "
    ferry import -c 'ENV PATH=/bin' -c 'CMD [\"sh\"]' ../image.tar i:1 >/dev/null
    ferry run --rm --net none i:1 id -u
    ferry run --name one --net none i:1 sh -c 'echo more >/new; cat /bobs'
    ferry commit one i:2 >/dev/null
    ferry run -d --name two --net none i:2 sleep 1000 >/dev/null
    ferry exec two cat /new
    ferry exec two sh -c 'exit 7'; echo $?
    ferry commit two i:3 2>&1 >/dev/null | grep -o 'two is not paused'; ferry commit --pause=false two i:3 >/dev/null
    ferry ps --format '{{.Names}} {{.State}}'
    ferry rm -f one two
    ferry save -o out.tar i:2
    mkdir x; tar -C x -xf out.tar
    for t in $(find x -type f); do tar --numeric-owner -tvf $t 2>/dev/null; done |
      awk '{sub(\"^\\\\./\", \"\", $6)} $6 == \"bobs\" || $6 == \"new\" || $6 == \"tmp/\" {print $2, $6}' | sort
    ferry fsck --contents
    ferry info --format '{{.Rootless}}'
    cat .local/share/ferry/ferry/ids
";
const DONE: &str =
    "0\nbobs\nmore\n7\ntwo is not paused\ntwo running\none\ntwo\n0/0 new\n1000/1000 bobs\n5/6 tmp/\ntrue\n";

const REFUSED: &str =
    "ferry: a network needs a bridge, which only root can make: without root there is the default network\n";

#[test]
fn a_user_with_ranges_runs_execs_commits_and_saves_with_owners_intact() {
    let dir = place();
    let more = "ferry run --rm --net none -u bob i:1 id -u; ferry run --rm --net none i:1 stat -c '%u %g' /bobs /tmp
                stat -c %u .local/share/ferry/overlay2/*/diff/bobs
                ns='busybox readlink /proc/self/ns/pid'; [ \"$(ferry run --rm --net none --pid host i:1 $ns)\" = \"$($ns)\" ] && echo same
                ferry run --rm --net none --pid host i:1 sh -c 'cat /proc/keys /proc/timer_list; echo 1 >/proc/sys/kernel/panic' 2>&1 |
                    grep -c -e 'Read-only file system' -e denied
                ferry network create nn 2>&1; ferry network ls --format '{{.Name}}' | grep -c nn";
    let out = play(dir.path(), "user:700000:65536\n", "$PATH", &format!("{WORK}{more}"));
    assert_eq!(out, format!("{DONE}ranges\n1000\n1000 1000\n5 6\n700999\nsame\n1\n{REFUSED}0\n"));
}

#[test]
fn a_user_without_ranges_does_the_same_with_one_id() {
    let dir = place();
    let out = play(dir.path(), "other:700000:65536\n", "$PATH", WORK);
    assert_eq!(out, format!("{DONE}single\n"));
}

/// A changed file, a changed directory, a further name, a directory made anew and a new file; shown as they are exported
/// and as they are saved; changed again in the next container.
const CHANGED: &str = "
    owners() { tar --numeric-owner -tvf $1 2>/dev/null | awk '{sub(\"^\\\\./\", \"\", $6)} $6 ~ /bob|dir|new|^tmp/ {print $2, $6}'; }
    ferry import -c 'ENV PATH=/bin' ../image.tar i:1 >/dev/null
    ferry run --name one --net none i:1 sh -c 'echo more >>/bobs; busybox ln /bobs /bobs2; busybox chmod 700 /tmp; echo x >/tmp/new
        busybox rm -r /dir; busybox mkdir /dir; echo x >/dir/in'
    ferry diff one; ferry export one >out.tar; owners out.tar
    ferry cp one:/ - >copy.tar; owners copy.tar | LC_ALL=C sort -k 2; ferry cp one:/bobs - >copy.tar; owners copy.tar
    ferry commit one i:2 >/dev/null
    ferry run --name two --net none i:2 sh -c 'echo again >>/bobs; busybox chmod 711 /dir; cat /bobs'; ferry commit two i:3 >/dev/null
    ferry rm one two >/dev/null
    ferry save -o saved.tar i:3; mkdir saved; tar -C saved -xf saved.tar
    for t in $(tar -xOf saved.tar manifest.json | sed 's/.*\"Layers\":\\[//; s/\\].*//' | tr -d '\"' | tr , ' '); do
        echo layer; owners saved/$t | LC_ALL=C sort -k 2; done
";

#[test]
fn what_a_container_changes_keeps_its_owner_with_one_id() {
    let dir = place();
    let out = play(dir.path(), "other:700000:65536\n", "$PATH", CHANGED);
    let diff = "C /bobs\nA /bobs2\nC /dir\nC /dir/in\nC /tmp\nA /tmp/new\n";
    let made = "1000/1000 bobs\n1000/1000 bobs2\n0/0 dir/\n";
    let rest = "0/0 dir/in\n5/6 tmp/\n0/0 tmp/new\n";
    let first = "layer\n1000/1000 bobs\n9/10 dir/\n7/8 dir/in\n5/6 tmp/\n";
    let second = format!("layer\n{made}0/0 dir/.wh..wh..opq\n{rest}");
    assert_eq!(
        out,
        format!(
            "{diff}{made}{rest}{made}{rest}1000/1000 bobs\nbobs\nmore\nagain\n{first}{second}layer\n1000/1000 bobs\n0/0 dir/\n"
        )
    );
}

#[test]
fn a_user_is_told_when_newuidmap_is_missing_and_goes_on_with_one_id() {
    let dir = place();
    for tool in ["sh", "cat", "setpriv"] {
        symlink(Path::new("/bin").join(tool), dir.path().join("bin").join(tool)).unwrap();
    }
    let lines = "ferry import ../image.tar i:1 >/dev/null; ferry images --format '{{.Repository}}'
                 cat .local/share/ferry/ferry/ids";
    let out = play(dir.path(), "user:700000:65536\n", "", lines);
    assert!(out.starts_with("i\nsingle\n"), "{out}");
    assert!(out.contains("newuidmap is missing (Debian: uidmap, Fedora: shadow-utils)"), "{out}");
}

/// A machine with a user, a way out to a server, and a device for tunnels as hosts have it.
const HOST: &str = r#"
    install -m 755 "$FERRY" /usr/bin/ferry
    useradd -u 4242 user
    mknod -m 666 /run/tun c 10 200; mount --bind /run/tun /dev/net/tun
    mkdir home out; chown user: home; chmod 755 .; echo outside >out/index.html
    unshare -n sleep 1000 >/dev/null 2>&1 & other=$!
    until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
    ip link add v0 type veth peer name v1 netns $other
    nsenter -t $other -n sh -c 'ip addr add 10.9.0.254/24 dev v1; ip link set v1 up; busybox httpd -p 80 -h out' >/dev/null 2>&1
    ip addr add 10.9.0.1/24 dev v0; ip link set v0 up; ip route add default via 10.9.0.254
    user() { HOME=$PWD/home setpriv --reuid user --regid user --clear-groups env -u FERRY_ROOT sh -c "$WORK"; }
    for tool in pasta slirp4netns none; do echo $tool; user 2>&1; rm -f /usr/bin/$tool; done; kill $other
"#;
const REACH: &str = r#"
    cd home
    [ -e .local/share/ferry ] || ferry import ../image.tar i:1 >/dev/null
    ferry run --rm i:1 busybox wget -qO- http://10.9.0.254/
    ferry run -d --name web -p 8080:80 i:1 sh -c 'echo inside >/tmp/index.html; exec busybox httpd -f -h /tmp' 2>&1 >/dev/null
    ferry exec web sh -c 'until busybox netstat -tln | busybox grep -q :80; do :; done'
    busybox wget -qO- http://127.0.0.1:8080/; ferry rm -f web
"#;

#[test]
fn a_user_reaches_out_by_pasta_or_slirp4netns_and_is_told_when_there_is_neither() {
    let machine = Machine::start(Release::Debian13);
    let dir = place();
    fs::copy(dir.path().join("image.tar"), machine.dir().join("image.tar")).unwrap();
    let mut command = machine.command("bash");
    let output = command.args(["-ec", HOST]).env("FERRY", ferry()).env("WORK", REACH).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = "pasta\noutside\ninside\nweb\nslirp4netns\noutside\ninside\nweb\nnone\n{told}\
        wget: can't connect to remote host (10.9.0.254): Network is unreachable\n{told}inside\nweb\n";
    let told = "ferry: warning: without root and without pasta or slirp4netns a container has no way out of its network; its \
                published ports are served by a proxy\n";
    assert_eq!(said, expected.replace("{told}", told), "{output:?}");
}
