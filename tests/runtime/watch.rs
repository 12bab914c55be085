//! Watching containers: events, stats, logs.

use super::{Host, both};

#[test]
fn events_tell_what_happened() {
    both(|host| {
        let out = host.run(
        "start=$(busybox date +%s)
         ferry run --name cc --label l=v --network none busybox:1 sh -c 'exit 3'; ferry rm cc >/dev/null
         ferry events --since $start --until $(($(busybox date +%s)+1)) -f container=cc --format '{{.Action}} {{.Actor.Attributes.name}}'
         ferry events --since $start --until 0s -f event=die | busybox sed 's/^[^ ]* //; s/[0-9a-f]\\{64\\}/ID/'
         ferry events --since $start --until 0s -f event=die -f label=other
         ferry events -f nonsense=1 2>/dev/null; echo code $?",
    );
        let expected = "create cc\nattach cc\nstart cc\ndie cc\ndestroy cc\n\
         container die ID (execDuration=0, exitCode=3, image=busybox:1, l=v, name=cc)\ncode 1\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn events_of_exec_images_networks_and_volumes_are_dockers() {
    both(|host| {
        let out = host.run(
        "start=$(busybox date +%s)
         exec 3>&1 >/dev/null
         ferry tag busybox:1 b:2; ferry save -o x.tar b:2
         ferry network create n; ferry volume create vv
         ferry run -d --name one --network n busybox:1 sleep 1000
         ferry exec one true; ferry exec -d one sh -c 'exit 3'; ferry exec one nothing 2>/dev/null
         until ferry events --since $start --until 0s -f event=exec_die | grep -q exitCode=3; do busybox usleep 50000; done
         ferry commit -m why one c:1; ferry export -o e.tar one; ferry cp one:/etc/passwd p; ferry cp p one:/p; ferry top one
         ferry rename one two; ferry stop -t 0 two; ferry rm two
         ferry network rm n; ferry volume rm vv; ferry import e.tar d:1; ferry rmi c:1 d:1 b:2; ferry load -i x.tar
         exec >&3
         ferry events --since $start --until 0s |
           busybox sed -nE '/name=b:2/,$ { s/^[^ ]* //; s/[0-9a-f]{64}/ID/g; s/sha256:ID/IMAGE/g; s/execDuration=[0-9]*/execDuration=N/; p }'",
    );
        let expected = "\
        image tag IMAGE (name=b:2)\n\
        image save IMAGE (name=IMAGE)\n\
        network create ID (name=n, type=bridge)\n\
        volume create vv (driver=local)\n\
        container create ID (image=busybox:1, name=one)\n\
        network connect ID (container=ID, name=n, type=bridge)\n\
        container start ID (image=busybox:1, name=one)\n\
        container exec_create: true  ID (execID=ID, image=busybox:1, name=one)\n\
        container exec_start: true  ID (execID=ID, image=busybox:1, name=one)\n\
        container exec_die ID (execID=ID, exitCode=0, image=busybox:1, name=one)\n\
        container exec_create: sh -c exit 3 ID (execID=ID, image=busybox:1, name=one)\n\
        container exec_start: sh -c exit 3 ID (execID=ID, image=busybox:1, name=one)\n\
        container exec_create: nothing  ID (execID=ID, image=busybox:1, name=one)\n\
        container exec_start: nothing  ID (execID=ID, image=busybox:1, name=one)\n\
        container pause ID (image=busybox:1, name=one)\n\
        container unpause ID (image=busybox:1, name=one)\n\
        image tag IMAGE (name=c:1)\n\
        container commit ID (comment=why, image=busybox:1, imageID=IMAGE, imageRef=c:1, name=one)\n\
        container export ID (image=busybox:1, name=one)\n\
        container archive-path ID (image=busybox:1, name=one)\n\
        container extract-to-dir ID (image=busybox:1, name=one)\n\
        container top ID (image=busybox:1, name=one)\n\
        container rename ID (image=busybox:1, name=two, oldName=/one)\n\
        container kill ID (image=busybox:1, name=two, signal=15)\n\
        container kill ID (image=busybox:1, name=two, signal=9)\n\
        network disconnect ID (container=ID, name=n, type=bridge)\n\
        container die ID (execDuration=N, exitCode=137, image=busybox:1, name=two)\n\
        container stop ID (image=busybox:1, name=two)\n\
        container destroy ID (image=busybox:1, name=two)\n\
        network destroy ID (name=n, type=bridge)\n\
        volume destroy vv (driver=local)\n\
        image tag IMAGE (name=d:1)\n\
        image import IMAGE (name=IMAGE)\n\
        image untag IMAGE (name=IMAGE)\n\
        image delete IMAGE (name=IMAGE)\n\
        image untag IMAGE (name=IMAGE)\n\
        image delete IMAGE (name=IMAGE)\n\
        image untag IMAGE (name=IMAGE)\n\
        image load IMAGE (name=IMAGE)\n";
        // What runs in the background may end before or after what comes next is noted.
        let detached = "container exec_die ID (execID=ID, exitCode=3, image=busybox:1, name=one)\n";
        assert!(out.contains(detached), "{out}");
        assert_eq!(out.replacen(detached, "", 1), expected);
    });
}

#[test]
fn volumes_that_are_mounted_and_all_that_is_pruned_are_dockers_events() {
    both(|host| {
        let out = host.run(
            "start=$(busybox date +%s)
         exec 3>&1 >/dev/null
         ferry run --rm --name one --network none -v vv:/data -v vv:/ro:ro -v /tmp:/host busybox:1 true
         ferry create --name two --network none busybox:1 true; ferry container prune -f; ferry volume prune -af
         ferry network prune -f; ferry prune -af; ferry system prune -f --volumes
         exec >&3
         since() { ferry events --since $start --until 0s \"$@\"; }
         since -f type=volume -f event=mount -f event=unmount |
           busybox sed -E 's/^[^ ]* //; s/[0-9a-f]{64}/ID/g'
         since --format '{{.Action}} {{.Type}}' -f volume=vv -f type=volume | busybox tr '\\n' ,; echo
         since --format '{{.Type}} {{.Action}} {{json .Actor}}' -f event=prune | busybox sed 's/\"[1-9][0-9]*\"/\"N\"/'
         since --format json -f event=prune | grep -c '\"status\":\"prune\"'",
        );
        let expected = "\
        volume mount vv (container=ID, destination=/data, driver=local, propagation=, read/write=true)\n\
        volume mount vv (container=ID, destination=/ro, driver=local, propagation=, read/write=false)\n\
        volume unmount vv (container=ID, driver=local)\n\
        volume unmount vv (container=ID, driver=local)\n\
        create volume,mount volume,mount volume,unmount volume,unmount volume,destroy volume,\n\
        container prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        volume prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        network prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        image prune {\"Attributes\":{\"reclaimed\":\"N\"},\"ID\":\"\"}\n\
        container prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        network prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        volume prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        image prune {\"Attributes\":{\"reclaimed\":\"0\"},\"ID\":\"\"}\n\
        4\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn stats_show_what_is_used() {
    both(|host| {
        let out = host.run(
        "ferry run -d --name cc --network none --memory 64m busybox:1 sh -c 'while :; do :; done' >/dev/null
         ferry create --name idle --network none busybox:1 true >/dev/null
         ferry stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}} {{.NetIO}}' | busybox sed 's/ [0-9.]*[KM]*i*B / MEM /'
         ferry stats --no-stream --format '{{.CPUPerc}}' cc | busybox grep -c '^[1-9]'
         ferry stats --no-stream -a --format '{{.Name}} {{.CPUPerc}}' idle
         ferry stats --no-stream | busybox head -n 1 | busybox tr -s ' '
         ferry rm -f cc idle",
    );
        let expected = "cc MEM / 64MiB 1 0B / 0B\n1\nidle 0.00%\n\
         CONTAINER ID NAME CPU % MEM USAGE / LIMIT MEM % NET I/O BLOCK I/O PIDS\ncc\nidle\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn processes_are_found_and_counted_without_control_groups() {
    let host = Host::new();
    let lines = format!(
        "ferry() {{ {} \"$@\"; }}; umount -l -R /sys/fs/cgroup
         ferry run -d --name cc --network none busybox:1 sh -c 'sleep 1000 & while :; do :; done' >/dev/null
         ferry exec -d cc sleep 1000
         until [ \"$(ferry top cc -o pid,comm | grep -c sleep)\" = 2 ]; do :; done
         ferry top cc -o pid,comm | busybox awk '{{print $2}}' | sort | tr '\\n' ' '
         ferry stats --no-stream --format '{{{{.PIDs}}}} {{{{.CPUPerc}}}} {{{{.MemUsage}}}}' cc |
           grep -cE '^3 [0-9.]*[1-9][0-9.]*% [1-9]'
         ferry run -di --name dd --network none --pid host busybox:1 sh -c 'cat; true' >/dev/null
         until ferry top dd -o pid,comm | grep -q cat; do :; done
         ferry top dd -o pid,comm | busybox awk '{{print $2}}' | tr '\\n' ' '
         ferry rm -f cc dd",
        host.program().display()
    );
    std::fs::write(host.path("lines"), lines).unwrap();
    // In a mount namespace of their own. What is left of the second ends with its input.
    let out = host.run("unshare -m sh lines");
    assert_eq!(out, "COMMAND sh sleep sleep 1\nCOMMAND sh cat cc\ndd\n");
}

#[test]
fn logs_are_cut_by_lines_and_by_time() {
    both(|host| {
        let out = host.run(
        "ferry run --name cc --network none busybox:1 sh -c 'echo one; echo two; echo err >&2; sleep 0.1; echo three' >/dev/null 2>&1
         ferry logs cc 2>/dev/null; ferry logs cc 2>&1 >/dev/null; ferry logs -n 1 cc
         ferry logs --since $(ferry logs -t -n 1 cc | busybox cut -d ' ' -f 1) cc; ferry logs --until 2020-01-01 cc; ferry logs -t -n 1 cc | busybox cut -d ' ' -f 2
         ferry logs --since 2020-01-01T00:00:00Z -n 2 cc 2>/dev/null; ferry logs -f -n 1 cc; ferry rm cc",
    );
        assert_eq!(out, "one\ntwo\nthree\nerr\nthree\nthree\nthree\nthree\nthree\ncc\n");
    });
}

#[test]
fn who_follows_a_log_sees_every_line_while_it_is_rotated() {
    let host = Host::new();
    // So many lines at once that a log with old files has been rotated twice, and one without is just begun anew.
    for (files, lines, compress, names) in [
        (3, 20, "", ".log .log.1 .log.2 "),
        (3, 20, "--log-opt compress=true", ".log .log.1.gz .log.2.gz "),
        (1, 8, "", ".log "),
    ] {
        let out = host.run(&format!(
            "ferry run -d --name cc --network none --log-opt max-size=1k --log-opt max-file={files} {compress} busybox:1 sh -c '
               for n in 1 2 3 4 5 6; do until [ -e /go$n ]; do sleep 0.02; done; for i in $(busybox seq {lines}); do echo $n.$i; done; done' >/dev/null
             ferry logs -f cc >seen &
             for n in 1 2 3 4 5 6; do
               ferry exec cc touch /go$n; until grep -qx $n.{lines} seen; do busybox usleep 20000; done
             done; wait
             for n in 1 2 3 4 5 6; do for i in $(busybox seq {lines}); do echo $n.$i; done; done | cmp - seen && echo whole
             for file in store/ferry/containers/*/*-json.log*; do echo ${{file##*-json}}; done | busybox tr '\\n' ' '; echo
             ferry logs cc >kept; busybox tail -n $(busybox wc -l <kept) seen | cmp - kept && echo same
             ferry rm cc"
        ));
        assert_eq!(out, format!("whole\n{names}\nsame\ncc\n"));
    }
}

#[test]
fn who_reads_no_further_ends_the_command_without_a_word_and_not_the_program() {
    both(|host| {
        let out = host.run(
            "first() { { \"$@\" 2>said; echo $? >code; } | busybox head -n 1; busybox cat code said; }
         ferry run -d -i --name cc --network none busybox:1 sh -c 'read x; busybox seq 200000; sleep 1000' >/dev/null
         first ferry exec cc busybox seq 200000
         first ferry run --name dd --network none busybox:1 busybox seq 200000
         ferry wait dd >/dev/null; first ferry start -a dd
         ferry wait dd >/dev/null; first ferry logs dd; first ferry logs -f dd
         echo go | first ferry attach cc
         ferry ps --format '{{.Names}}'; ferry rm -f cc dd >/dev/null
         ferry run -d --name ee --network none busybox:1 sh -c 'busybox seq 200000 >&2; sleep 1000' >/dev/null
         { ferry logs -f ee 2>&1 >/dev/null; echo $? >code; } | busybox head -n 1; busybox cat code; ferry rm -f ee",
        );
        assert_eq!(out, "1\n141\n".repeat(6) + "cc\n1\n141\nee\n");
    });
}

#[test]
fn what_a_log_cannot_do_is_refused_and_leaves_nothing() {
    let host = Host::new();
    for (options, word) in [
        ("--log-opt mode=non-blocking", "mode=non-blocking"),
        ("--log-opt max-buffer-size=1m", "max-buffer-size=1m"),
        ("--log-opt mode=x", "logging mode not supported: x"),
        ("--log-opt tag={{upper}}", "{{upper}} is not one of"),
        ("--log-opt env-regex=[", "env-regex"),
        ("--log-opt compress=true", "compress cannot be true"),
        ("--log-opt max-size=0", "max-size"),
        ("--log-driver none --log-opt labels=a", "invalid logging opts for driver none"),
    ] {
        let output = host.script(&format!("ferry run --rm --network none {options} busybox:1 true"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(125) && said.contains(word), "{options}: {said}");
    }
    assert_eq!(host.run("ferry ps -aq"), "");
}
