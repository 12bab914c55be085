//! Watching containers: events, stats, logs.

use super::Host;

#[test]
fn events_tell_what_happened() {
    let host = Host::new();
    let out = host.run(
        "start=$(busybox date +%s)
         ferry run --name cc --label l=v --network none busybox:1 sh -c 'exit 3'; ferry rm cc >/dev/null
         ferry events --since $start --until $(($(busybox date +%s)+1)) -f container=cc --format '{{.Action}} {{.Actor.Attributes.name}}'
         ferry events --since $start --until 0s -f event=die | busybox sed 's/^[^ ]* //; s/[0-9a-f]\\{64\\}/ID/'
         ferry events --since $start --until 0s -f event=die -f label=other
         ferry events -f nonsense=1 2>/dev/null; echo code $?",
    );
    let expected = "create cc\nstart cc\ndie cc\ndestroy cc\n\
         container die ID (exitCode=3, image=busybox:1, l=v, name=cc)\ncode 1\n";
    assert_eq!(out, expected);
}

#[test]
fn stats_show_what_is_used() {
    let host = Host::new();
    let out = host.run(
        "ferry run -d --name cc --network none --memory 64m busybox:1 sh -c 'while :; do :; done' >/dev/null
         ferry create --name idle --network none busybox:1 true >/dev/null
         ferry stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}} {{.NetIO}}' | busybox sed 's/ [0-9.]*[KM]*i*B / MEM /'
         ferry stats --no-stream --format '{{.CPUPerc}}' cc | busybox grep -c '^[1-9]'
         ferry stats --no-stream -a --format '{{.Name}} {{.CPUPerc}}' idle
         ferry stats --no-stream | busybox head -n 1 | busybox tr -s ' '
         ferry rm -f cc idle",
    );
    let expected = "cc MEM / 64MiB 1 0B / 0B\n1\nidle --\n\
         CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS\ncc\nidle\n";
    assert_eq!(out, expected);
}

#[test]
fn logs_are_cut_by_lines_and_by_time() {
    let host = Host::new();
    let out = host.run(
        "ferry run --name cc --network none busybox:1 sh -c 'echo one; echo two; echo err >&2; sleep 0.1; echo three' >/dev/null 2>&1
         ferry logs cc 2>/dev/null; ferry logs cc 2>&1 >/dev/null; ferry logs -n 1 cc
         ferry logs --since $(ferry logs -t -n 1 cc | busybox cut -d ' ' -f 1) cc; ferry logs --until 2020-01-01 cc; ferry logs -t -n 1 cc | busybox cut -d ' ' -f 2
         ferry logs --since 2020-01-01T00:00:00Z -n 2 cc 2>/dev/null; ferry logs -f -n 1 cc; ferry rm cc",
    );
    assert_eq!(out, "one\ntwo\nthree\nerr\nthree\nthree\nthree\nthree\nthree\ncc\n");
}
