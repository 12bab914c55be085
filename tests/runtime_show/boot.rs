//! The boot unit, run by a systemd that is the first process of a machine.

use std::fs;
use std::process::Command;

use crate::support::ferry;
use crate::support::peers::{Machine, Release};
use crate::support::{checkout, containers::Host};

/// What the machine's first process does: it becomes systemd, with ferry's unit enabled and one that looks at it.
const BOOT: &str = r#"
set -e
umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
"$FERRY" system install-unit 2>/dev/null >"$OUT"
systemd-analyze verify --man=no /etc/systemd/system/ferry.service >>"$OUT" 2>&1
systemctl -q enable ferry.service
for unit in systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket systemd-udevd.service \
  systemd-udev-trigger.service systemd-logind.service systemd-networkd.service dbus.service docker.service containerd.service \
  docker-registry.service ssh.service getty.target console-getty.service; do
  ln -sf /dev/null /etc/systemd/system/$unit
done
{
  printf '[Unit]\nAfter=ferry.service\n[Service]\nType=oneshot\nExecStart=/bin/bash %s\n' "$PROBE"
  printf 'Environment=OUT=%s FERRY=%s FERRY_ROOT=%s\n' "$OUT" "$FERRY" "$FERRY_ROOT"
} >/etc/systemd/system/probe.service
mkdir -p /etc/systemd/system/multi-user.target.wants
ln -s ../probe.service /etc/systemd/system/multi-user.target.wants/probe.service
exec env container=peer /lib/systemd/systemd --system --unit=multi-user.target --log-target=null
"#;

/// What the machine says of itself once it is up, before it is cut off again.
const LOOK: &str = r#"
exec >>"$OUT" 2>&1
show() { "$FERRY" ps -a --format '{{.Names}} {{.State}}' | sort; }
systemctl is-active ferry.service; show
"$FERRY" exec always true && grep -l __monitor $(sed 's|$|/cmdline|; s|^|/proc/|' /sys/fs/cgroup/system.slice/ferry.service/cgroup.procs) | wc -l
systemctl stop ferry.service; show
systemctl start ferry.service; show
systemctl poweroff -ff >/dev/null 2>&1
"#;

#[test]
fn the_unit_brings_containers_back_after_the_machine_was_cut_off_and_stops_them_in_order() {
    let host = Host::new();
    let store = host.path("store");
    let before = Machine::start(Release::Debian13);
    let script = "r=$1; o='--stop-timeout 1'
        for p in always no unless-stopped; do \"$0\" --root $r run -d --name $p --restart $p --net none $o busybox:1 sleep 100000; done
        \"$0\" --root $r run -d --name stopped --restart unless-stopped --net none $o busybox:1 sleep 100000; \"$0\" --root $r stop -t 0 stopped
        \"$0\" --root $r run -d --name halted --restart always --net none $o busybox:1 sleep 100000; \"$0\" --root $r stop -t 0 halted
        \"$0\" --root $r ps -a --filter name=halted --format '{{.State}}'";
    let arguments = ["-ec", script].map(std::ffi::OsString::from);
    let more = [ferry().as_os_str().to_owned(), store.clone().into_os_string()];
    let said = before.run("bash", arguments.into_iter().chain(more));
    // As docker: `always` holds for one that was stopped by hand as well, but from the boot on only.
    assert!(said.ends_with("halted\nexited\n"), "{said}");
    // Nobody stops anything in order: the power is gone.
    drop(before);

    let (out, probe, boot) = (host.path("out"), host.path("probe"), host.path("boot"));
    fs::write(&probe, LOOK).unwrap();
    fs::write(&boot, BOOT).unwrap();
    let booted = Command::new("timeout")
        .args(["-k", "5", "120"])
        .arg(checkout().join("tools/peer.sh"))
        .args(["13", "--", "bash"])
        .arg(&boot)
        .env("FERRY", ferry())
        .env("FERRY_ROOT", &store)
        .env("OUT", &out)
        .env("PROBE", &probe)
        .output()
        .unwrap();
    let said = fs::read_to_string(&out).unwrap_or_default();
    let up = "always running\nhalted running\nno exited\nstopped exited\nunless-stopped running\n";
    let down = "always exited\nhalted exited\nno exited\nstopped exited\nunless-stopped exited\n";
    let expected = format!("/etc/systemd/system/ferry.service\nactive\n{up}3\n{down}{up}");
    assert_eq!(said, expected, "{booted:?}");
}
