//! Many containers at once, and commands and monitors that are killed: nothing is lost, and nothing is left.
//!
//! The counts are small here; `FERRY_ENDURANCE=1` makes them 200 containers and 100 kills.

use crate::support::containers::Host;

fn count(small: usize, full: usize) -> usize {
    if std::env::var_os("FERRY_ENDURANCE").is_some() { full } else { small }
}

/// Lines that print what is left in the network namespace, and in the control groups of the containers named in `ids`.
const LEFT: &str = "
    busybox usleep 2500000; ferry ps
    busybox ip -o link | busybox awk -F': ' '{print $2}'
    for i in $ids; do find /sys/fs/cgroup -name \"*$i*\" 2>/dev/null; done
    busybox netstat -tln | grep LISTEN
    ferry fsck
    ls store/overlay2 | grep -c .
";
const NOTHING_LEFT: &str = "CONTAINER ID   IMAGE     COMMAND   CREATED   STATUS    PORTS     NAMES\nlo\n2\n";

#[test]
fn containers_started_used_and_removed_in_parallel_leave_nothing() {
    let host = Host::new();
    let count = count(24, 200);
    let out = host.run(&format!(
        "one() {{
           ferry run -d --name c$1 -p $((9000 + $1)):80 busybox:1 sh -c 'echo $0 >/tmp/index.html; exec httpd -f -h /tmp' $1 \\
             >>ids || echo run $1 failed
           until [ \"$(busybox wget -qO- http://127.0.0.1:$((9000 + $1))/ 2>/dev/null)\" = $1 ]; do busybox usleep 20000; done
           [ \"$(ferry exec c$1 cat /tmp/index.html)\" = $1 ] || echo exec $1 failed
           ferry rm -f c$1 >/dev/null || echo rm $1 failed
         }}
         i=0; while [ $i -lt {count} ]; do
           one $i &
           i=$((i + 1)); [ $((i % 8)) != 0 ] || wait
         done; wait
         ids=$(cat ids); {LEFT}"
    ));
    assert_eq!(out, NOTHING_LEFT);
    assert_eq!(host.traces(), Vec::<String>::new());
}

#[test]
fn killed_commands_and_monitors_leave_nothing_that_the_next_command_does_not_clear() {
    let host = Host::new();
    let count = count(15, 100);
    let out = host.run(&format!(
        "pause() {{ busybox usleep $(($(od -An -N2 -tu2 /dev/urandom) * $1)); }}
         monitor() {{ busybox awk '/PPid/ {{print $2}}' /proc/$(ferry inspect -f '{{{{.State.Pid}}}}' $1)/status; }}
         ferry run -d --name always --restart always busybox:1 sleep 100000 >/dev/null
         n=0; while [ $n -lt {count} ]; do
           n=$((n + 1))
           case $((n % 3)) in
             0) {ferry} run -d --name k$n -p $((10000 + n)):80 busybox:1 sleep 1000 >/dev/null 2>&1 & pause 2; kill -9 $!; wait $! ;;
             1) {ferry} run --rm --name k$n busybox:1 sleep 0.1 >/dev/null 2>&1 & pause 3; kill -9 $!; wait $! ;;
             2) ferry run -d --rm --name k$n -v made:/v busybox:1 sleep 1000 >/dev/null; p=$(monitor k$n); pause 1; kill -9 $p ;;
           esac 2>/dev/null
           if [ $((n % 5)) = 0 ]; then
             p=$(ferry inspect -f '{{{{.State.Pid}}}}' always)
             kill -9 $(monitor always); while kill -0 $p 2>/dev/null; do :; done
             ferry ps >/dev/null
             ferry inspect -f '{{{{.State.Status}}}}' always
           fi
         done
         ids=$(ls store/ferry/containers | grep -v by-name)
         # What is being made while its command is killed may still come.
         busybox usleep 500000
         ids=\"$ids $(ls store/ferry/containers | grep -v by-name)\"
         all=$(ferry ps -aq); ferry rm -f $all >/dev/null
         {LEFT}",
        ferry = crate::support::ferry().display(),
    ));
    assert_eq!(out, format!("{}{NOTHING_LEFT}", "running\n".repeat(count / 5)));
    assert_eq!(host.traces(), Vec::<String>::new());
}
