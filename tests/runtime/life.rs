//! Lives of containers: health, init, restarts, networks that come and go, the boot unit.

use super::Host;

/// Waits for a line of shell to succeed; the script's own time is the limit.
const UNTIL: &str = "come() { while ! eval \"$1\"; do :; done; }";

#[test]
fn health_is_what_the_check_says() {
    let host = Host::new();
    let out = host.run(&format!(
        "{UNTIL}
         health() {{ ferry inspect -f '{{{{.State.Health.Status}}}}' cc; }}
         ferry run -d --name cc --network none --health-cmd 'echo said; test -e /tmp/well' --health-interval 50ms \
             --health-retries 2 busybox:1 sleep 1000 >/dev/null
         come '[ $(health) = unhealthy ]'; health
         ferry inspect -f '{{{{range .State.Health.Log}}}}{{{{.ExitCode}}}} {{{{.Output}}}}{{{{end}}}}' cc | busybox head -n 1
         ferry exec cc touch /tmp/well; come '[ $(health) = healthy ]'; ferry ps --format '{{{{.Status}}}}' | busybox sed 's/.*(/(/'
         ferry ps -q -f health=healthy | busybox wc -l
         ferry events --since 1h --until 0s -f event=health_status --format '{{{{.Action}}}}'
         ferry rm -f cc
         ferry run -d --name tt --network none --health-cmd 'sleep 100' --health-interval 50ms --health-timeout 100ms \
             --health-retries 1 busybox:1 sleep 1000 >/dev/null
         come '[ \"$(ferry inspect -f \"{{{{.State.Health.Status}}}}\" tt)\" = unhealthy ]'
         ferry inspect -f '{{{{range .State.Health.Log}}}}{{{{.Output}}}} {{{{end}}}}' tt | busybox cut -d ')' -f 1; ferry rm -f tt"
    ));
    let expected = "unhealthy\n1 said\n(healthy)\n1\nhealth_status: unhealthy\nhealth_status: healthy\ncc\n\
         Health check exceeded timeout (100ms\ntt\n";
    assert_eq!(out, expected);
}

#[test]
fn an_init_collects_and_passes_on() {
    let host = Host::new();
    let out = host.run(
        "ferry run --rm --init --network none busybox:1 sh -c 'echo $$; exit 5'; echo code $?
         ferry run --rm --init --network none busybox:1 nothing 2>/dev/null; echo code $?
         ferry run -d --init --name cc --network none busybox:1 sleep 1000 >/dev/null
         ferry exec cc cat /proc/1/comm; ferry exec cc sh -c '(sleep 0.1 &) ; true'
         ferry stop -t 5 cc; ferry inspect -f '{{.State.ExitCode}} {{.HostConfig.Init}}' cc; ferry rm cc",
    );
    assert_eq!(out, "2\ncode 5\ncode 127\ndocker-init\ncc\n143 true\ncc\n");
}

#[test]
fn a_running_container_joins_and_leaves_networks() {
    let host = Host::new();
    let out = host.run(
        "ferry network create one >/dev/null; ferry network create two >/dev/null
         ferry run -d --name aa --network one --network-alias alpha busybox:1 sleep 1000 >/dev/null
         ferry run -d --name bb busybox:1 sleep 1000 >/dev/null
         ferry exec bb busybox nslookup aa >/dev/null 2>&1; echo unknown $?
         ferry network connect --alias beta one bb; ferry network connect one bb 2>/dev/null; echo again $?
         ferry exec bb busybox ping -c 1 -w 5 alpha >/dev/null && echo reached
         ferry exec aa busybox ping -c 1 -w 5 beta >/dev/null && echo reached
         ferry network connect two bb; ferry inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' bb
         ferry network disconnect one bb; ferry network disconnect one bb 2>/dev/null; echo again $?
         ferry exec aa busybox ping -c 1 -w 1 beta >/dev/null 2>&1 || echo gone
         ferry network disconnect bridge bb; ferry exec bb busybox ip route | busybox cut -d ' ' -f 1,2 | busybox head -n 1
         ferry restart -t 0 bb; ferry inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' bb
         ferry rm -f aa bb; ferry network rm one two",
    );
    let expected = "unknown 1\nagain 1\nreached\nreached\nbridge one two \nagain 1\ngone\ndefault via\nbb\ntwo \naa\nbb\none\ntwo\n";
    assert_eq!(out, expected);
}

#[test]
fn a_boot_brings_back_what_its_policy_says() {
    let host = Host::new();
    let out = host.run(&format!(
        "{UNTIL}
         for policy in no always unless-stopped on-failure; do
             ferry run -d --name $policy --restart $policy --network none busybox:1 sleep 1000 >/dev/null; done
         ferry run -d --name stopped --restart unless-stopped --network none busybox:1 sleep 1000 >/dev/null
         ferry stop -t 0 stopped >/dev/null
         for c in no always unless-stopped on-failure; do
             pid=$(ferry inspect -f '{{{{.State.Pid}}}}' $c); m=$(busybox awk '/PPid/ {{print $2}}' /proc/$pid/status)
             kill -9 $m;  come \"! kill -0 $pid 2>/dev/null\"; done
         ferry system start; ferry ps --format '{{{{.Names}}}}' | busybox sort | busybox tr '\\n' ' '; echo
         ferry system install-unit -o - | busybox grep -c 'system start'
         ferry rm -f no always unless-stopped on-failure stopped >/dev/null
         ferry run -d --name rr --restart on-failure:2 --network none busybox:1 sh -c 'exit 3' >/dev/null
         ferry wait rr; come '[ \"$(ferry inspect -f \"{{{{.State.Status}}}}\" rr)\" = exited ]'
         ferry inspect -f '{{{{.RestartCount}}}} {{{{.State.ExitCode}}}}' rr; ferry rm rr"
    ));
    assert_eq!(out, "always on-failure unless-stopped \n1\n3\n2 3\nrr\n");
}
