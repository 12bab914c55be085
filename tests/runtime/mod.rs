//! Containers: the tutorial, exit codes, limits, confinement, and that nothing is left behind. What is the runtime's own work is
//! shown of the built-in and of runc.

mod files;
mod flags;
mod life;
mod shares;
mod terminal;
mod watch;

use std::fs;

use crate::support::containers::{Host, both};

#[test]
fn the_tutorial_runs_word_for_word() {
    both(|host| {
        let out = host.run(
            "ferry run --name bb busybox:1 sh -c 'mkdir -p /data/html; echo \"<h1>ferry</h1>\" >/data/html/index.html'
         ferry commit -m 'a page' bb linuxea/httpd:v1 >/dev/null
         ferry run -d --name web -p 8080:80 linuxea/httpd:v1 httpd -f -h /data/html >/dev/null
         ferry ps -a --format '{{.Names}} {{.State}}'
         ip=$(ferry inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web)
         for i in 1 2 3 4 5 6 7 8 9; do busybox wget -qO- http://$ip/ && break; done 2>/dev/null
         busybox wget -qO- http://127.0.0.1:8080/
         ferry rm -f web bb",
        );
        assert_eq!(out, "web running\nbb exited\n<h1>ferry</h1>\n<h1>ferry</h1>\nweb\nbb\n");
    });
}

#[test]
fn exit_codes_are_dockers() {
    both(|host| {
        for (command, code) in [
            ("true", 0),
            ("sh -c 'exit 7'", 7),
            ("nothing-of-that-name", 127),
            ("/bin/nothing", 127),
            ("/etc", 126),
            ("/etc/passwd", 126),
            ("sh -c 'kill -9 $$; sleep 0.1; exit 3'", 3),
        ] {
            let output = host.script(&format!("ferry run --rm --network none busybox:1 {command}"));
            assert_eq!(output.status.code(), Some(code), "{command}: {output:?}");
        }
        let left: Vec<_> =
            fs::read_dir(host.path("store/ferry/containers")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["by-name"], "--rm leaves nothing");
        assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(&*host.path("").to_string_lossy()));
    });
}

#[test]
fn init_and_exec_are_confined_alike() {
    both(|host| {
        let status = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status";
        let out = host.run(&format!(
            "ferry run -d --name one --network none busybox:1 sleep 1000 >/dev/null
         ferry exec one busybox {status}
         ferry exec one busybox sh -c 'ls -l /proc/self/fd 2>/dev/null | busybox wc -l'
         ferry exec -u bob -w /tmp -e A=b one sh -c 'id -u; busybox pwd; echo $A'
         ferry exec one mount -t tmpfs x /tmp 2>/dev/null; echo mount $?
         ferry rm -f one
         ferry run --rm --network none busybox:1 busybox {status}",
        ));
        let confined = "NoNewPrivs:\t0\nSeccomp:\t2\n";
        let caps = "CapEff:\t00000000a80425fb\n";
        assert_eq!(out, format!("{caps}{confined}5\n1000\n/tmp\nb\nmount 1\none\n{caps}{confined}"));
    });
}

#[test]
fn limits_hold() {
    both(|host| {
        let hog = host.script("ferry run --rm --network none --memory 16m --memory-swap 16m busybox:1 tail /dev/zero");
        assert_eq!(hog.status.code(), Some(137), "{hog:?}");
        let bomb = "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done";
        let output = host.run(&format!("ferry run --rm --network none --pids-limit 5 busybox:1 sh -c '{bomb}'"));
        assert!(output.contains("can't fork"), "{output}");
    });
}

#[test]
fn a_container_dies_with_its_monitor_and_the_next_command_knows() {
    both(|host| {
        let out = host.run(
            "ferry run -d --name one --network none busybox:1 sleep 1000 >/dev/null
         pid=$(ferry inspect -f '{{.State.Pid}}' one)
         kill -9 $(busybox awk '/PPid/ {print $2}' /proc/$pid/status)
         while kill -0 $pid 2>/dev/null; do :; done
         ferry ps -a --format '{{.Names}} {{.State}}'
         ferry inspect -f '{{.State.ExitCode}}' one
         ferry start one; ferry ps --format '{{.Names}} {{.State}}'; ferry rm -f one",
        );
        assert_eq!(out, "one exited\n255\none\none running\none\n");
    });
}
