//! A host that has an sshd, a shell of busybox, and nothing else.

use std::fs;
use std::process::{Command, Output};

use crate::support::peers::{Machine, Release, succeed};
use crate::support::site::Site;

/// A root directory of its own with an sshd in it, on the host's loopback.
struct Bare<'m> {
    machine: &'m Machine,
    port: u16,
}

impl<'m> Bare<'m> {
    fn start(machine: &'m Machine) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = r#"
mkdir -p home/.ssh
ssh-keygen -q -t ed25519 -N '' -f home/.ssh/id_ed25519
ssh-keygen -q -t ed25519 -N '' -f host_key
echo "[127.0.0.1]:$PORT $(cut -d' ' -f1,2 host_key.pub)" >home/.ssh/known_hosts
mkdir bare
cd bare
mkdir -p bin dev etc old proc root run/sshd sys tmp usr/sbin var/lib var/tmp
chmod 1777 tmp var/tmp
cp /bin/busybox bin/
/bin/busybox chroot . /bin/busybox --install -s /bin
cp /usr/sbin/sshd usr/sbin/
for l in $(ldd /usr/sbin/sshd | grep -o '/[^ ]*'); do mkdir -p ".$(dirname "$l")"; cp -L "$l" ".$l"; done
printf 'root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n' >etc/passwd
printf 'root:x:0:\n' >etc/group
cp ../host_key ../home/.ssh/id_ed25519.pub etc/
cat >etc/sshd_config <<END
Port $PORT
ListenAddress 127.0.0.1
HostKey /etc/host_key
AuthorizedKeysFile /etc/id_ed25519.pub
StrictModes no
PermitRootLogin yes
PasswordAuthentication yes
KbdInteractiveAuthentication no
END
unshare -m --propagation private sh -ec '
  mount --bind . .
  cd "$PWD"
  mount -t proc proc proc
  mount --rbind /sys sys
  mount --rbind /dev dev
  pivot_root . old
  exec chroot . /bin/sh -ec "umount -l /old; rmdir /old; exec /usr/sbin/sshd -f /etc/sshd_config"'
for i in $(seq 100); do
  if bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT" 2>/dev/null; then exit 0; fi
  sleep 0.1
done
exit 1
"#;
        machine.sh(&format!("PORT={port}\n{script}"));
        Self { machine, port }
    }

    fn name(&self) -> String {
        format!("root@127.0.0.1:{}", self.port)
    }

    /// `ferry WORDS… HOST` with the built-in ssh, with nobody to ask.
    fn ferry(&self, site: &Site, words: &[&str]) -> Output {
        let inner = site.command(words);
        let mut command = Command::new("/usr/bin/setsid");
        command.arg("-w").arg(inner.get_program()).args(inner.get_args()).arg(self.name());
        // Without a system's ssh, which looks for another home, ferry does all of it.
        command.env("HOME", self.machine.dir().join("home")).env("PATH", "/none");
        for name in ["SSH_AUTH_SOCK", "FERRY_SSH", "FERRY_ROOT"] {
            command.env_remove(name);
        }
        command.output().unwrap()
    }

    /// A command line there, by OpenSSH.
    fn run(&self, line: &str) -> String {
        let home = self.machine.dir().join("home/.ssh");
        let mut command = self.machine.command("ssh");
        command.args(["-F", "/dev/null", "-p", &self.port.to_string(), "-o", "BatchMode=yes", "-i"]);
        command.arg(home.join("id_ed25519")).arg("-o");
        command.arg(format!("UserKnownHostsFile={}", home.join("known_hosts").display()));
        succeed(command.args(["root@127.0.0.1", line]))
    }
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_host_with_only_sshd_gets_ferry_and_an_image_and_runs_it() {
    let machine = Machine::on_host_network(Release::Debian12);
    let bare = Bare::start(&machine);
    let near = Site::new(&machine, "near");
    let rootfs = machine.dir().join("rootfs");
    machine.sh("mkdir -p rootfs/bin rootfs/proc rootfs/sys rootfs/dev && cp /bin/busybox rootfs/bin/ && ln -s busybox rootfs/bin/sh");
    near.import(&machine, &rootfs, "app:v1");
    // With the default store there, and with one whose path a shell would take apart.
    for root in [None, Some("/srv/it's \"here\" $HOME")] {
        let more: Vec<&str> = root.iter().flat_map(|root| ["--remote-root", root]).collect();
        let out = bare.ferry(&near, &[&["send"], &more[..], &["app:v1"]].concat());
        assert!(out.status.success(), "{}", said(&out));
        let told = String::from_utf8(out.stdout).unwrap();
        let (_, command) = told.split_once("no ferry is installed there; this one is: ").unwrap();
        let command = command.trim_end().strip_suffix(" run IMAGE").unwrap();
        assert!(command.starts_with("/root/.cache/ferry/ferry"), "{told}");
        let listed =
            bare.run(&format!("{command} images --no-trunc --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.ID}}}}'"));
        assert_eq!(listed, near.images());
        let run = bare.run(&format!("{command} run --rm --network none app:v1 /bin/sh -c 'echo made it'"));
        assert_eq!(run, "made it\n");
    }
    // It is not uploaded again, and is found by its content: one that was changed is put right.
    let list = || bare.run("cd .cache/ferry; ls -li agent-*; sha256sum <ferry");
    let before = list();
    assert!(bare.ferry(&near, &["send", "app:v1"]).status.success());
    assert_eq!(list(), before);
    bare.run("for file in .cache/ferry/agent-*; do echo changed >>$file; done");
    assert!(bare.ferry(&near, &["send", "app:v1"]).status.success());
    let sum = |list: &str| list.lines().last().unwrap().to_owned();
    assert_eq!(sum(&list()), sum(&before));
    // And back.
    let third = Site::new(&machine, "third");
    let inner = third.command(&["fetch"]);
    let mut fetch = Command::new(inner.get_program());
    fetch.args(inner.get_args()).arg(bare.name()).arg("app:v1").env("HOME", machine.dir().join("home"));
    fetch.env("PATH", "/none");
    succeed(fetch.env_remove("SSH_AUTH_SOCK").env_remove("FERRY_SSH"));
    assert_eq!(third.images(), near.images());
}

#[test]
fn a_login_that_is_refused_and_a_host_that_is_another_end_before_anything_crosses() {
    let machine = Machine::on_host_network(Release::Debian12);
    let bare = Bare::start(&machine);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let ssh = machine.dir().join("home/.ssh");
    let (known, key) = (ssh.join("known_hosts"), ssh.join("id_ed25519"));
    let right = fs::read_to_string(&known).unwrap();
    machine.sh("ssh-keygen -q -t ed25519 -N '' -f other; mv home/.ssh/id_ed25519 away");
    let other = fs::read_to_string(machine.dir().join("other.pub")).unwrap();
    let changed = format!("[127.0.0.1]:{} {other}", bare.port);
    for (name, file, with_key, error, hint) in [
        ("no key", &right, false, "login as root failed", "--ssh COMMAND"),
        ("another host key", &changed, true, "HOST KEY CHANGED", "ssh-keygen -R"),
        ("no host key", &String::new(), true, "is not known", "--accept-new"),
    ] {
        fs::write(&known, file).unwrap();
        let _ = fs::remove_file(&key);
        if with_key {
            fs::copy(machine.dir().join("away"), &key).unwrap();
        }
        let out = bare.ferry(&near, &["send", "app:v1"]);
        assert_eq!(out.status.code(), Some(7), "{name}: {}", said(&out));
        assert!(said(&out).contains(error) && said(&out).contains(hint), "{name}: {}", said(&out));
        assert!(!machine.dir().join("bare/root/.cache").exists(), "{name}");
    }
    let out = bare.ferry(&near, &["send", "--accept-new", "app:v1"]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(bare.ferry(&near, &["send", "app:v1"]).status.success(), "it is known from then on");
}
