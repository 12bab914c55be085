//! Hosts that only the system's ssh reaches: behind another host, or by a certificate. ferry sees it in the configuration.

use crate::support::ferry;
use crate::support::peers::{Machine, Release, succeed};
use crate::support::site::Site;

/// Two hosts in networks of their own: `bastion`, which is seen from here and takes users with a certificate of an
/// authority, and `inner`, which only `bastion` sees. The configuration of the machine's user says how they are reached.
const HOSTS: &str = r#"
ip netns add bastion
ip netns add inner
ip link add near type veth peer name eth0 netns bastion
ip -n bastion link add eth1 type veth peer name eth0 netns inner
ip addr add 10.81.0.1/24 dev near
ip link set near up
ip -n bastion addr add 10.81.0.2/24 dev eth0
ip -n bastion addr add 10.82.0.1/24 dev eth1
ip -n inner addr add 10.82.0.2/24 dev eth0
for n in bastion inner; do ip -n $n link set lo up; ip -n $n link set eth0 up; done
ip -n bastion link set eth1 up
mkdir -p -m 700 /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f ca
for key in certified plain; do ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/$key; done
ssh-keygen -q -s ca -I somebody -n root /root/.ssh/certified.pub
ssh-keygen -q -t ed25519 -N '' -f host_key
for address in 10.81.0.2 10.82.0.2; do echo "$address $(cut -d' ' -f1,2 host_key.pub)"; done >/root/.ssh/known_hosts
for n in bastion inner; do
  cat >$n.conf <<END
HostKey $PWD/host_key
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PidFile none
SetEnv XDG_CACHE_HOME=$PWD/cache-$n
END
  case $n in
    bastion) printf 'TrustedUserCAKeys %s\nAuthorizedKeysFile none\n' "$PWD/ca.pub" ;;
    inner) echo "AuthorizedKeysFile /root/.ssh/plain.pub" ;;
  esac >>$n.conf
  ip netns exec $n /usr/sbin/sshd -f $PWD/$n.conf -E $PWD/$n.log
done
cat >/root/.ssh/config <<END
Host bastion
  HostName 10.81.0.2
  IdentityFile ~/.ssh/certified
Host inner
  HostName 10.82.0.2
  IdentityFile ~/.ssh/plain
  ProxyJump bastion
END
for i in $(seq 100); do
  if ssh -o BatchMode=yes inner true; then exit 0; fi
  sleep 0.1
done
cat bastion.log inner.log >&2
exit 1
"#;

#[test]
fn a_host_behind_another_and_one_that_wants_a_certificate_are_reached_by_the_systems_ssh() {
    let machine = Machine::start(Release::Debian12);
    machine.sh(HOSTS);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    // Without the certificate, and without the way, nobody gets there.
    for line in [
        "mv /root/.ssh/certified-cert.pub .; ! ssh -o BatchMode=yes bastion true; mv certified-cert.pub /root/.ssh/",
        "! ssh -o BatchMode=yes -o ProxyJump=none -o ConnectTimeout=1 inner true",
    ] {
        machine.sh(line);
    }
    for (host, reason) in [("bastion", "a certificate is configured"), ("inner", "ProxyJump is configured")] {
        let far = Site::new(&machine, &format!("far-{host}"));
        let ferry = |words: &[&str]| {
            let mut command = machine.command(ferry());
            command
                .env("HOME", "/root")
                .arg("--root")
                .arg(&near.root)
                .args(words)
                .args(["--remote-root"])
                .arg(&far.root);
            command
        };
        let mut send = ferry(&["send", "app:v1", host]);
        let out = send.args(["--log-level", "info"]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{host}: {said}");
        assert!(said.contains(reason), "{host}: {said}");
        assert_eq!(far.images(), near.images(), "{host}");
        let back = Site::new(&machine, &format!("back-{host}"));
        let mut fetch = machine.command(crate::support::ferry());
        fetch.env("HOME", "/root").arg("--root").arg(&back.root).args(["fetch", host, "app:v1", "--remote-root"]);
        succeed(fetch.arg(&far.root));
        assert_eq!(back.images(), near.images(), "{host}");
        assert!(machine.dir().join(format!("cache-{host}/ferry/ferry")).exists(), "{host}: it was that host");
    }
    // That somebody is not let in comes from ssh, and so do the ways out of it.
    machine.sh("mv /root/.ssh/plain .");
    let mut send = machine.command(ferry());
    let out =
        send.env("HOME", "/root").arg("--root").arg(&near.root).args(["send", "app:v1", "inner"]).output().unwrap();
    assert_eq!(out.status.code(), Some(9), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("hint: 255 is ssh's own: try `ssh HOST true`"), "{out:?}");
}
