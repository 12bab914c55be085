//! Lives of containers: health, init, restarts, networks that come and go, the boot unit.

use super::{Host, both};

/// Waits for a line of shell to succeed; the script's own time is the limit.
const UNTIL: &str = "come() { while ! eval \"$1\"; do :; done; }";

#[test]
fn health_is_what_the_check_says() {
    both(|host| {
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
    });
}

#[test]
fn an_init_collects_and_passes_on() {
    both(|host| {
        let out = host.run(
            "ferry run --rm --init --network none busybox:1 sh -c '[ $$ = 1 ] || echo another; exit 5'; echo code $?
         ferry run --rm --init --network none busybox:1 nothing 2>/dev/null; echo code $?
         ferry run -d --init --name cc --network none busybox:1 sleep 1000 >/dev/null
         ferry exec cc cat /proc/1/comm; ferry exec cc sh -c '(sleep 0.1 &) ; true'
         ferry stop -t 5 cc; ferry inspect -f '{{.State.ExitCode}} {{.HostConfig.Init}}' cc; ferry rm cc",
        );
        assert_eq!(out, "another\ncode 5\ncode 127\ndocker-init\ncc\n143 true\ncc\n");
    });
}

#[test]
fn a_running_container_joins_and_leaves_networks() {
    both(|host| {
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
         ferry network disconnect two bb; ferry inspect -f '{{len .NetworkSettings.Networks}}' bb
         ferry network connect one bb; ferry exec bb busybox ping -c 1 -w 5 alpha >/dev/null && echo reached
         ferry network disconnect one bb; ferry network connect two bb
         ferry restart -t 0 bb; ferry inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' bb
         ferry rm -f aa bb; ferry network rm one two",
    );
        let expected = "unknown 1\nagain 1\nreached\nreached\nbridge one two \nagain 1\ngone\ndefault via\nbb\ntwo \n\
             0\nreached\nbb\ntwo \naa\nbb\none\ntwo\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn out_of_its_only_network_a_container_is_in_none_and_a_new_name_is_known_at_once() {
    both(|host| {
        let out = host.run(
            "nets() { ferry inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' $1
                 ferry exec $1 sh -c 'busybox echo /sys/class/net/*'; }
             ferry network create one >/dev/null
             ferry run -d --name aa busybox:1 sleep 1000 >/dev/null; ferry stop -t 0 aa
             ferry network connect bridge aa; echo again $?
             ferry network disconnect bridge aa; ferry start aa; nets aa
             ferry network connect one aa; nets aa; ferry network disconnect one aa; ferry restart -t 0 aa; nets aa
             ferry network connect --alias alpha one aa
             ferry run -d --name bb --network one busybox:1 sleep 1000 >/dev/null
             reach() { ferry exec bb busybox ping -c 1 -w 5 $1 >/dev/null 2>&1; echo $1 $?; }
             reach aa; ferry rename aa cc; reach aa; reach cc; reach alpha
             ferry inspect -f '{{index .NetworkSettings.Networks.one.DNSNames 0}}' cc
             ferry rm -f bb cc; ferry network rm one",
        );
        let expected = "aa\nagain 0\naa\n\n/sys/class/net/lo\none \n/sys/class/net/eth0 /sys/class/net/lo\naa\n\n\
             /sys/class/net/lo\naa 0\naa 1\ncc 0\nalpha 0\ncc\nbb\ncc\none\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn that_memory_was_wanting_inside_is_known_while_the_program_runs() {
    both(|host| {
        let out = host.run(&format!(
            "{UNTIL}
             ferry run -d --name cc --network none --memory 16m --memory-swap 16m busybox:1 \
                 sh -c 'tail /dev/zero; sleep 1000' >/dev/null
             come '[ -n \"$(ferry events --since 1h --until 0s -f container=cc -f event=oom)\" ]'
             ferry inspect -f '{{{{.State.Status}}}} {{{{.State.OOMKilled}}}}' cc; ferry restart -t 0 cc
             ferry rm -f cc"
        ));
        assert_eq!(out, "running true\ncc\ncc\n");
    });
}

#[test]
fn one_that_is_being_restarted_is_taken_away_all_the_same() {
    both(|host| {
        let out = host.run(
            "for i in 1 2 3 4 5 6 7 8 9 10; do
                 ferry run -d --name cc --network none busybox:1 sleep 1000 >/dev/null
                 ferry restart -t 0 cc >/dev/null 2>&1 & ferry rm -f cc; wait; done
             ferry ps -aq",
        );
        assert_eq!(out, "cc\n".repeat(10));
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn a_boot_brings_back_what_its_policy_says() {
    both(|host| {
        let out = host.run(&format!(
            "{UNTIL}
         for policy in no always unless-stopped on-failure; do
             ferry run -d --name $policy --restart $policy --network none busybox:1 sleep 1000 >/dev/null; done
         ferry run -d --name stopped --restart unless-stopped --network none busybox:1 sleep 1000 >/dev/null
         ferry run -d --name halted --restart always --network none busybox:1 sleep 1000 >/dev/null
         ferry stop -t 0 stopped halted >/dev/null; ferry ps >/dev/null; ferry inspect -f '{{{{.State.Status}}}}' halted
         for c in no always unless-stopped on-failure; do
             pid=$(ferry inspect -f '{{{{.State.Pid}}}}' $c); m=$(busybox awk '/PPid/ {{print $2}}' /proc/$pid/status)
             kill -9 $m;  come \"! kill -0 $pid 2>/dev/null\"; done
         ferry system start; ferry ps --format '{{{{.Names}}}}' | busybox sort | busybox tr '\\n' ' '; echo
         ferry system install-unit -o - | busybox grep -c 'system start'
         ferry rm -f no always unless-stopped on-failure stopped halted >/dev/null
         ferry run -d --name rr --restart on-failure:2 --network none busybox:1 sh -c 'exit 3' >/dev/null
         ferry wait rr; come '[ \"$(ferry inspect -f \"{{{{.State.Status}}}}\" rr)\" = exited ]'
         ferry inspect -f '{{{{.RestartCount}}}} {{{{.State.ExitCode}}}}' rr; ferry rm rr"
        ));
        assert_eq!(out, "exited\nalways halted on-failure unless-stopped \n1\n3\n2 3\nrr\n");
    });
}

#[test]
fn a_user_opens_its_streams_again_and_the_hosts_null_device_stays_the_hosts() {
    both(|host| {
        let out = host.run(
        "owner() { busybox stat -c '%u:%g %a' /dev/null; }; before=$(owner)
         for user in 5:6 bob; do
             ferry run --rm --network none -u $user busybox:1 sh -c 'echo $(id -u) >/dev/stdout; echo err >/dev/stderr'; done 2>&1
         [ \"$before\" = \"$(owner)\" ] && echo same
         ferry run -d --name cc --network none busybox:1 sleep 1000 >/dev/null
         for user in 5:6 bob; do ferry exec -u $user cc sh -c 'echo $(id -u) >/dev/stdout'; done
         echo in | ferry exec -i -u bob cc sh -c 'cat </dev/stdin'; ferry rm -f cc",
    );
        assert_eq!(out, "5\nerr\n1000\nerr\nsame\n5\n1000\nin\ncc\n");
    });
}

#[test]
fn a_frozen_container_and_one_that_waits_for_its_restart_hear_what_ends_them() {
    both(|host| {
        let out = host.run(&format!(
            "{UNTIL}
         is() {{ [ \"$(ferry inspect -f '{{{{.State.Status}}}}' $1)\" = $2 ]; }}
         code() {{ ferry inspect -f '{{{{.State.Status}}}} {{{{.State.ExitCode}}}}' $1; }}
         ferry run -d --init --name cc --network none busybox:1 sleep 1000 >/dev/null; ferry pause cc
         kill $(busybox head -n 1 store/ferry/containers/$(ferry inspect -f '{{{{.Id}}}}' cc)/monitor)
         come 'is cc exited'; code cc; ferry rm cc
         ferry run -d --init --name dd --network none busybox:1 sleep 1000 >/dev/null; ferry pause dd
         ferry kill -s TERM dd; come 'is dd exited'; code dd; ferry rm dd
         ferry run -d --name ee --restart always --network none busybox:1 false >/dev/null; come 'is ee restarting'
         ferry kill ee; come 'is ee exited'; code ee; ferry rm ee"
        ));
        assert_eq!(out, "cc\nexited 143\ncc\ndd\ndd\nexited 143\ndd\nee\nexited 1\nee\n");
    });
}

#[test]
fn what_cannot_be_taken_away_whole_is_dead_and_can_be_taken_again() {
    let host = Host::new();
    let ferry = crate::support::ferry();
    let out = host.run(&format!(
        "ferry create --name cc --network none busybox:1 true >/dev/null
         ferry cp image.tar cc:/held 2>/dev/null; held=$(busybox find store/ -name held)
         unshare -m sh -c 'mount -o bind image.tar '$held' && {} rm cc >/dev/null 2>&1; echo code $?'
         ferry ps -a --format '{{{{.Names}}}} {{{{.State}}}}'; ferry rm cc; ferry ps -aq",
        ferry.display()
    ));
    assert_eq!(out, "code 1\ncc dead\ncc\n");
}

#[test]
fn one_whose_monitor_was_lost_while_it_was_being_stopped_stays_stopped_until_the_boot() {
    both(|host| {
        let out = host.run(&format!(
            "{UNTIL}
             state() {{ ferry inspect -f '{{{{.State.Status}}}}' cc; }}
             ferry run -d --name cc --restart always --network none busybox:1 sh -c 'trap : TERM; >/up; while :; do sleep 0.05; done' >/dev/null
             come 'ferry exec cc test -e /up'
             pid=$(ferry inspect -f '{{{{.State.Pid}}}}' cc); m=$(busybox awk '/PPid/ {{print $2}}' /proc/$pid/status)
             ferry stop -t 200 cc >/dev/null 2>&1 &
             come '[ -n \"$(ferry events --since 1h --until 0s -f container=cc -f event=kill)\" ]'
             kill -9 $m; come \"! kill -0 $pid 2>/dev/null\"; wait
             ferry ps -q; state; ferry ps -q; state; ferry system start; state; ferry rm -f cc"
        ));
        assert_eq!(out, "exited\nexited\nrunning\ncc\n");
    });
}

#[test]
fn a_start_that_fails_when_the_program_runs_already_ends_it_and_leaves_nothing() {
    let host = Host::new();
    // An OCI runtime that starts the program, sees it run, and says that it could not.
    let runtime = "#!/bin/sh\nrunc \"$@\" || exit\nfor word in \"$@\"; do [ $word != start ] || {
         until [ -e ${0%/*}/out/started ]; do :; done; echo too late >&2; exit 1; }; done\n";
    std::fs::write(host.path("late"), runtime).unwrap();
    let out = host.run(&format!(
        "{UNTIL}
         chmod 755 late; mkdir out
         ferry run -d --name cc --runtime $PWD/late -p 8080:80 -v $PWD/out:/out busybox:1 \
             sh -c 'echo $$ >/out/started; exec sleep 77777' >id 2>said; echo code $?
         busybox cut -d : -f 3- said
         for p in /proc/[0-9]*; do
             [ \"$(busybox cat $p/cmdline 2>/dev/null | busybox tr '\\0' ' ')\" != 'sleep 77777 ' ] || echo $p runs; done
         ferry inspect -f '{{{{.State.Status}}}} {{{{.State.Pid}}}} {{{{.State.ExitCode}}}}' cc
         id=$(ferry inspect -f '{{{{.Id}}}}' cc); find /sys/fs/cgroup -name \"*$id*\" 2>/dev/null
         busybox netstat -tln | grep -c 8080
         ferry rm cc"
    ));
    assert_eq!(out, "code 125\n too late\ncreated 0 125\n0\ncc\n");
    assert_eq!(host.traces(), Vec::<String>::new());
}
