//! What the user should know of a start: told once, whichever command starts; and the networks that are there from the first day.

use crate::support::containers::Host;

#[test]
fn what_a_start_had_to_change_on_the_host_is_told_once_by_whichever_command_starts() {
    let host = Host::new();
    let out = host.run(
        r#"exec 2>&1
        off() { echo 0 >/proc/sys/net/ipv4/ip_forward; }
        off; ferry run --rm busybox:1 true; echo run
        off; ferry run -d --name one busybox:1 sleep 1000 >/dev/null; echo run -d
        off; ferry restart -t 0 one; ferry rm -f one
        ferry create --name two busybox:1 true >/dev/null
        off; ferry start -a two; echo start -a
        off; ferry start two; ferry wait two
        off; ferry start -ai two; echo start -ai
        ferry run --rm busybox:1 true; ferry rm two"#,
    );
    let told = "ferry: warning: IPv4 forwarding was off on this host; it is on now (net.ipv4.ip_forward)\n";
    let expected =
        format!("{told}run\n{told}run -d\n{told}one\none\n{told}start -a\n{told}two\n0\n{told}start -ai\ntwo\n");
    assert_eq!(out, expected);
}

#[test]
fn the_default_network_is_listed_and_shown_before_anything_used_it() {
    let host = Host::new();
    let out = host.run(
        r#"exec 2>&1
        ferry network ls --format '{{.Name}} {{.Driver}}'; before=$(ferry network ls -q -f name=bridge)
        ferry network inspect -f '{{.Name}} {{(index .IPAM.Config 0).Subnet}}' bridge
        ferry run --rm busybox:1 true
        [ $before = $(ferry network ls -q -f name=bridge) ] && echo the same; ferry network rm bridge"#,
    );
    let expected = "bridge bridge\nhost host\nnone null\nbridge 172.17.0.0/16\nthe same\n\
        ferry: bridge is a pre-defined network and cannot be removed\n";
    assert_eq!(out, expected);
}
