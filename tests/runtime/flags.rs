//! The flags of run: each does what it says.

use super::{Host, both};

#[test]
fn every_flag_of_run_does_what_it_says() {
    both(|host| {
        std::fs::write(host.path("env"), "# c\nA=from file\nB\n").unwrap();
        std::fs::write(host.path("marked"), "\u{feff}A=first\nB=second\n").unwrap();
        std::fs::write(host.path("labels"), "\u{feff}l=1\nbare\n").unwrap();
        std::fs::create_dir(host.path("bound")).unwrap();
        std::fs::write(host.path("bound/f"), "bound\n").unwrap();
        let bound = host.path("bound").display().to_string();
        let bind = format!("type=bind,source={bound},target=/b,readonly");
        let plain = format!("{bound}:/b");
        for (flags, command, expected) in [
            ("-h name", "busybox hostname", "name\n"),
            ("--hostname -name -e -x", "busybox hostname", "-name\n"),
            ("", "sh -c 'echo $# \"$1\" $2' x '' y", "2  y\n"),
            ("--env-file marked", "sh -c 'echo $A $B'", "first second\n"),
            ("--hostname name --domainname dom", "cat /proc/sys/kernel/domainname", "dom\n"),
            ("-e A=1 -e A=2", "sh -c 'echo $A'", "2\n"),
            ("-e A=1 -e A", "sh -c 'echo ${A-taken away}'", "taken away\n"),
            ("-v ./bound:/b:ro", "cat /b/f", "bound\n"),
            ("-v ./x/../bound:/b", "cat /b/f", "bound\n"),
            ("--mount type=bind,source=./bound,target=/b", "cat /b/f", "bound\n"),
            ("--env-file env", "sh -c 'echo $A $B.'", "from file .\n"),
            ("-w /new/dir", "busybox pwd", "/new/dir\n"),
            ("-u bob", "id -u", "1000\n"),
            ("-u 7:8", "busybox sh -c 'id -u; id -g'", "7\n8\n"),
            ("-u bob --group-add 55", "busybox id -G", "1000 10 55\n"),
            ("--entrypoint /bin/sh", "-c 'echo entry'", "entry\n"),
            ("--add-host there:10.9.8.7", "busybox grep there /etc/hosts", "10.9.8.7\tthere\n"),
            (
                "--dns 9.9.9.9 --dns-search x.y --dns-option ndots:3",
                "busybox cat /etc/resolv.conf",
                "nameserver 9.9.9.9\nsearch x.y\noptions ndots:3\n",
            ),
            (&*format!("--mount {bind}"), "sh -c 'cat /b/f; echo x >/b/g || echo ro' 2>/dev/null", "bound\nro\n"),
            (&*format!("-v {plain}:ro"), "sh -c 'cat /b/f; echo x >/b/g || echo ro' 2>/dev/null", "bound\nro\n"),
            (
                "--mount type=tmpfs,target=/t,tmpfs-size=1m",
                "sh -c 'busybox df -k /t | busybox tail -n 1 | busybox awk \"{print \\$2}\"'",
                "1024\n",
            ),
            (
                "--tmpfs /t:size=2m",
                "sh -c 'busybox df -k /t | busybox tail -n 1 | busybox awk \"{print \\$2}\"'",
                "2048\n",
            ),
            (
                "--shm-size 3m",
                "sh -c 'busybox df -k /dev/shm | busybox tail -n 1 | busybox awk \"{print \\$2}\"'",
                "3072\n",
            ),
            ("--read-only", "sh -c 'touch /x || echo ro' 2>/dev/null", "ro\n"),
            ("--read-only --tmpfs /tmp", "sh -c 'touch /tmp/x && echo rw'", "rw\n"),
            ("--ulimit nofile=100:200", "sh -c 'ulimit -n; ulimit -Hn'", "100\n200\n"),
            ("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward", "1\n"),
            ("--device /dev/zero:/dev/mine", "sh -c 'busybox head -c 1 /dev/mine | busybox wc -c'", "1\n"),
            ("--cap-drop ALL", "busybox grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
            ("--cap-drop ALL --cap-add CHOWN", "busybox grep CapEff /proc/self/status", "CapEff:\t0000000000000001\n"),
            ("--security-opt no-new-privileges", "busybox grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"),
            ("--security-opt seccomp=unconfined", "busybox grep Seccomp: /proc/self/status", "Seccomp:\t0\n"),
            ("--oom-score-adj 300", "cat /proc/self/oom_score_adj", "300\n"),
            ("--pid host", "sh -c '[ $$ = 1 ] || echo host'", "host\n"),
            ("--uts host", "sh -c 'echo uts'", "uts\n"),
            ("--ipc none", "sh -c 'busybox grep -q /dev/shm /proc/mounts || echo none'", "none\n"),
            ("--userns host", "cat /proc/self/uid_map", "         0          0 4294967295\n"),
            ("--cgroupns host", "sh -c 'echo ok'", "ok\n"),
            ("--pull never --platform linux", "sh -c 'echo ok'", "ok\n"),
        ] {
            let network = if flags.contains("dns") || flags.contains("add-host") { "" } else { "--network none" };
            let out = host.run(&format!("ferry run --rm {network} {flags} busybox:1 {command}"));
            assert_eq!(out, expected, "{flags}");
        }
        let out = host.run(
        "ferry create --cidfile id --name cc --label a=b --label-file labels --expose 80 --expose 90-91/udp -P --restart always \
             --stop-signal USR1 --stop-timeout 3 --annotation k=v --mac-address 02:00:00:00:00:07 busybox:1 true >/dev/null
         [ $(cat id) = $(ferry inspect -f '{{.Id}}' cc) ] && echo same
         ferry create --cidfile id busybox:1 true 2>/dev/null; echo code $?
         ferry inspect -f '{{json .Config.Labels}} {{json .Config.ExposedPorts}} {{.HostConfig.PublishAllPorts}}' cc
         ferry inspect -f '{{.HostConfig.RestartPolicy.Name}} {{.Config.StopSignal}} {{.Config.StopTimeout}}' cc
         ferry rm cc",
    );
        let expected = "same\ncode 1\n{\"a\":\"b\",\"l\":\"1\"} {\"80/tcp\":{},\"90/udp\":{},\"91/udp\":{}} true\nalways USR1 3\ncc\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_made() {
    let host = Host::new();
    for flags in [
        "--network host --network bridge",
        "--ip 10.0.0.9",
        "--network-alias x",
        "--restart always",
        "--restart sometimes",
        "--memory 1m",
        "--memory-reservation 1m",
        "--memory-swappiness -2",
        "--cpuset-cpus x",
        "--cpu-quota 500",
        "--restart :3",
        "-v /a:/x -v /b:/x/",
        "-v dup:/x --mount type=tmpfs,target=/x",
        "--cpus 4000",
        "--cpus 0.001",
        "--cpus 1 --cpu-quota 5000",
        "--memory-swap 64m",
        "--ulimit nofile=9:3",
        "--sysctl kernel.hostname=x",
        "--device /dev/nothing",
        "--device-cgroup-rule nonsense",
        "--mount type=bind,target=/x",
        "--mount type=bind,source=/nothing/there,target=/x",
        "-v a:b",
        "-v /a:/",
        "--tmpfs relative",
        "--cap-add NOTHING",
        "--security-opt nothing=1",
        "--pid nonsense",
        "--platform windows/amd64",
        "-e =x",
        "--label =x",
        "-v /a:/x:ro,rw",
        "--mount type=bind,source=/tmp,target=/x,volume-nocopy",
        "--mount type=tmpfs,source=foo,target=/x",
        "--cpu-shares 1",
        "-p target=80,x",
    ] {
        let output = host.script(&format!("ferry run --rm {flags} busybox:1 true"));
        assert_eq!(output.status.code(), Some(125), "{flags}: {output:?}");
        assert!(!output.stderr.is_empty(), "{flags}");
    }
    assert_eq!(host.run("ferry ps -aq; ferry volume ls -q"), "");
    let out = host.run(
        "ferry create -v /a:/x --tmpfs /x/ busybox:1 true
         ferry create --name cc --network none -v /x -v /tmp:/x --mount type=tmpfs,target=/y --tmpfs /y busybox:1 true >/dev/null
         ferry inspect -f '{{range .Mounts}}{{.Type}}:{{.Destination}} {{end}}{{json .Config.Volumes}}' cc
         ferry create --name dd --network none --memory 64m --memory-swap -1 busybox:1 true >/dev/null
         ferry update --memory 5m dd; ferry update --memory 80m --pids-limit 0 --cpus 0 dd
         ferry inspect -f '{{with .HostConfig}}{{.Memory}} {{.MemorySwap}} {{.PidsLimit}} {{.NanoCPUs}}{{end}}' dd",
    );
    let expected = "bind:/x tmpfs:/y {\"/x\":{}}\ndd\n83886080 -1 <nil> 0\n\
                    ferry: Duplicate mount point: /x\nferry: Minimum memory limit allowed is 6MB\n";
    assert_eq!(out, expected);
}

#[test]
fn a_terminal_without_input_has_the_size_of_ours() {
    both(|host| {
        let ferry = host.program().display().to_string();
        let lines = format!(
            "stty rows 31 cols 97; {ferry} run --rm -t --network none busybox:1 stty size
             {ferry} run -d --name cc --network none busybox:1 sleep 1000 >/dev/null
             {ferry} exec -t cc stty size; {ferry} rm -f cc"
        );
        std::fs::write(host.path("lines"), lines).unwrap();
        let out = host.run("python3 -c 'import pty; pty.spawn([\"sh\", \"lines\"])' | tr -d '\\r'");
        assert_eq!(out, "31 97\n31 97\ncc\n");
    });
}

#[test]
fn an_image_of_another_platform_is_warned_of_unless_it_was_asked_for() {
    let host = Host::new();
    host.run("ferry import --platform linux/s390x -c 'ENV PATH=/bin' image.tar other:1");
    for flags in ["run --rm", "create"] {
        let output = host.script(&format!("ferry {flags} --network none other:1 true"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let warning =
            "WARNING: The requested image's platform (linux/s390x) does not match the detected host platform (linux/";
        assert!(said.starts_with(warning) && said.ends_with("no specific platform was requested\n"), "{said}");
    }
    let out = host.run("ferry run --rm --network none --platform linux/s390x other:1 echo asked");
    assert_eq!(out, "asked\n");
}

#[test]
fn in_the_default_network_there_are_links_within_it_only() {
    let host = Host::new();
    let out = host.run(
        "exec 2>&1; ferry network create n >/dev/null
         ferry create --name there --network n busybox:1 true >/dev/null
         ferry create --name here busybox:1 true >/dev/null
         ferry create --link there busybox:1 true; echo $?; ferry run --link there:x busybox:1 true; echo $?
         ferry create --name linked --link here:x busybox:1 true >/dev/null; echo $?
         ferry ps -a --format '{{.Names}}'",
    );
    let refused = "ferry: Cannot link to /there, as it does not belong to the default network\n";
    assert_eq!(out, format!("{refused}1\n{refused}125\n0\nlinked\nhere\nthere\n"));
}

#[test]
fn lists_are_filtered_and_cut_as_docker_does_it() {
    let host = Host::new();
    let out = host.run(
        "ferry create --name one --network none --label a=1 --label b= -v vv:/v busybox:1 sh -c 'echo a b' >/dev/null
         ferry create --name two --network none --label a=2 -v /anon busybox:1 true >/dev/null
         ferry ps -a --format '{{.Names}} {{.Command}}'; ferry ps -a --no-trunc --format '{{.Command}}' -f name=one
         ferry ps -a --format '{{.Names}}' -f label=a -f label=b; ferry ps -aq --format '{{.Names}}' -f name=two
         [ \"$(ferry ps -aq --format table)\" = \"$(ferry ps -aq)\" ] && echo quiet
         ferry inspect -f '{{range .Mounts}}{{.Mode}}.{{end}}' one two
         ferry update one 2>/dev/null; echo code $?
         ferry network create --label k=v n1 >/dev/null; ferry network create n2 >/dev/null
         for f in driver=null type=custom label=k=v name=1 dangling=true type=builtin; do
           echo $f: $(ferry network ls --format '{{.Name}}' -f $f)
         done
         ferry network ls -f type=odd 2>/dev/null; echo code $?; ferry network rm none 2>&1; ferry ps -a -f status=odd 2>&1
         ferry network prune -f --filter label!=k; ferry system prune -f --filter label=k=w; ferry network prune -f --filter until=1h
         ferry network ls -q -f type=custom | busybox wc -l; ferry system prune -f --volumes --filter until=1h 2>/dev/null; echo code $?
         ferry container prune -f --filter label!=b >/dev/null; ferry ps -a --format '{{.Names}}'
         ferry volume ls -q -f dangling=false",
    );
    let expected = "two \"true\"\none \"sh -c 'echo a b'\"\n\"sh -c 'echo a b'\"\none\ntwo\nquiet\nz.\n.\ncode 1\n\
        driver=null: none\ntype=custom: n1 n2\nlabel=k=v: n1\nname=1: n1\ndangling=true: n1 n2\ntype=builtin: bridge host none\n\
        code 1\nferry: none is a pre-defined network and cannot be removed\nferry: invalid filter \"status=odd\"\n\
        Deleted Networks:\nn2\n\nTotal reclaimed space: 0B\nTotal reclaimed space: 0B\n1\ncode 1\none\nvv\n";
    assert_eq!(out, expected);
}
