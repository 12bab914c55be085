//! What containers share with the host or with each other when told so, and what nobody gets.

use super::{Host, both};

/// Plays lines and compares what each prints.
fn table(host: &Host, cases: &[(&str, &str)]) {
    let script: String = cases.iter().map(|(lines, _)| format!("{lines}\necho --\n")).collect();
    let out = host.script(&script);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let parts: Vec<_> = stdout.split("--\n").collect();
    for (at, (lines, expected)) in cases.iter().enumerate() {
        assert_eq!(parts.get(at).copied(), Some(*expected), "{lines}\n{stderr}");
    }
}

#[test]
fn namespaces_ports_and_rights_are_shared_as_told() {
    both(|host| {
        table(
        host,
        &[
            ("ferry run -d --name one --ipc shareable -P --expose 81 -p 127.0.0.1:9000:80 busybox:1 sleep 1000 | busybox wc -l", "1\n"),
            ("ferry port one 80; ferry port one 80/tcp", "127.0.0.1:9000\n127.0.0.1:9000\n"),
            (
                "ferry port one | busybox sed 's/:[0-9]*$//'",
                "80/tcp -> 127.0.0.1\n81/tcp -> 0.0.0.0\n81/tcp -> [::]\n",
            ),
            (
                "ferry inspect -f '{{.HostConfig.NetworkMode}} {{len .NetworkSettings.SandboxID}}' one
                 ferry network inspect -f '{{.Driver}} {{.IPAM.Driver}} {{json .IPAM.Config}} {{len .Labels}} {{len .Containers}}' none host
                 [ \"$(ferry network inspect -f '{{.Created}}' none)\" = \"$(ferry network inspect -f '{{.Created}}' bridge)\" ] && echo as old",
                "bridge 64\nnull default null 0 0\nhost default null 0 0\nas old\n",
            ),
            (
                "for names in '-h aa' '-h aa.x' '-h aa.x --domainname d.e' '-h aa --domainname d.e'; do
                     ferry run --rm $names busybox:1 busybox tail -n 1 /etc/hosts | busybox cut -f 2; done",
                "aa\naa.x aa\naa.x.d.e aa\naa.d.e aa\n",
            ),
            ("ferry port one 99 2>&1; echo code $?", "ferry: no public port '99/tcp' published for one\ncode 1\n"),
            (
                "ferry network inspect -f '{{.Name}} {{.Driver}} {{len .Containers}} {{(index .IPAM.Config 0).Subnet}}' bridge",
                "bridge bridge 1 172.17.0.0/16\n",
            ),
            (
                "ferry run --rm --network container:one busybox:1 ip -o -4 addr show eth0 | busybox awk '{print $4}'",
                "172.17.0.2/16\n",
            ),
            (
                "[ $(ferry run --rm --network host busybox:1 readlink /proc/self/ns/net) = $(readlink /proc/self/ns/net) ] \
                 && echo same",
                "same\n",
            ),
            ("ferry run --rm --network none --pid container:one busybox:1 cat /proc/1/comm", "sleep\n"),
            (
                "ipc='readlink /proc/self/ns/ipc'
                 [ $(ferry exec one $ipc) = $(ferry run --rm --network none --ipc container:one busybox:1 $ipc) ] && echo same
                 [ $(ferry exec one $ipc) = $(ferry run --rm --network none busybox:1 $ipc) ] || echo other",
                "same\nother\n",
            ),
            (
                "caps='grep CapEff /proc/self/status'
                 [ \"$(ferry run --rm --network none --privileged busybox:1 $caps)\" = \"$($caps)\" ] && echo all",
                "all\n",
            ),
            (
                "ferry run --rm --network none --cpuset-cpus 0 busybox:1 grep Cpus_allowed_list /proc/self/status",
                "Cpus_allowed_list:\t0\n",
            ),
            ("ferry rm -f one", "one\n"),
            (
                "ferry run --name vp --network none busybox:1 busybox ln -s /proc /p
                 ferry commit -c 'VOLUME /p' vp vp:1 >/dev/null; ferry rm vp
                 for flags in '' '-v /tmp:/proc/sys' '--mount type=tmpfs,target=/x/../proc' '--tmpfs /x/../proc' '--tmpfs /p'; do
                     ferry run --rm --network none $flags vp:1 true 2>/dev/null && echo ran || echo refused; done
                 ferry run --rm --network none -v $PWD/image.tar:/proc/uptime busybox:1 true; echo code $?",
                "vp\nrefused\nrefused\nrefused\nrefused\nrefused\ncode 0\n",
            ),
        ],
    );
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn mounts_lie_on_each_other_by_depth_and_the_engines_files_on_what_is_at_etc() {
    both(|host| {
        let places = r"busybox awk '$2 ~ /^.(x|data|foo)/ {print $2}' /proc/mounts";
        table(
            host,
            &[
                (
                    "mkdir etc1 etc2
                 for flags in '-v ve:/etc' '-v ve:/etc:ro' '--tmpfs /etc' '--tmpfs /etc:ro' '--mount type=tmpfs,target=/etc,readonly' \
                     \"-v $PWD/etc1:/etc\" \"-v $PWD/etc1:/etc:ro\"; do
                     ferry run --rm --network none -h hh $flags busybox:1 sh -c 'cat /etc/hostname; [ -s /etc/hosts ] || echo none'; done
                 ls etc1; busybox cat etc1/hostname",
                    "hh\nhh\nhh\nhh\nhh\nhh\nhh\nhostname\nhosts\nresolv.conf\n",
                ),
                (
                    "for flags in '--tmpfs /etc:ro' '--mount type=tmpfs,target=/etc,readonly'; do
                     ferry run --rm --network none $flags busybox:1 touch /etc/f 2>/dev/null; echo code $?; done",
                    "code 1\ncode 1\n",
                ),
                (
                    "ferry run --rm --network none -v $PWD/etc2:/etc:ro busybox:1 true 2>/dev/null; echo code $?; ls etc2",
                    "code 125\n",
                ),
                (
                    &format!(
                        "ferry run --rm --network none -v va:/x/y -v vb:/x --tmpfs /x/y/z busybox:1 {places}
                         ferry run --rm --network none -v va:/x/y --tmpfs /x/../x busybox:1 {places}"
                    ),
                    "/x\n/x/y\n/x/y/z\n/x\n/x/y\n",
                ),
                (
                    &format!(
                        "ferry import -c 'VOLUME data' -c 'ENV PATH=/bin' image.tar rel:1 >/dev/null
                         ferry run --rm --network none -v foo rel:1 {places} | busybox sort
                         ferry run --rm --network none -v foo:bar rel:1 true 2>/dev/null; echo code $?"
                    ),
                    "/data\n/foo\ncode 125\n",
                ),
                ("ferry volume rm va vb ve; ferry volume ls -q", "va\nvb\nve\n"),
            ],
        );
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn what_an_image_declares_is_honoured_and_what_is_committed_is_told() {
    both(|host| {
        table(
            host,
            &[
                (
                    "ferry import -c 'VOLUME /data' -c 'CMD [\"sleep\",\"1000\"]' -c 'ENV PATH=/bin' \
                    -c 'HEALTHCHECK --interval=50ms --retries=1 CMD test -e /data/well' image.tar vol:1 | busybox wc -l
                 ferry run -d --name one --network none vol:1 | busybox wc -l",
                    "1\n1\n",
                ),
                (
                    "ferry inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.Driver}} {{.RW}}{{end}}' one
                 ferry exec one grep -c ' /data ' /proc/mounts; ferry volume ls -q | busybox wc -l",
                    "volume /data local true\n1\n1\n",
                ),
                (
                    "ferry exec one touch /data/well
                 until [ $(ferry inspect -f '{{.State.Health.Status}}' one) = healthy ]; do :; done; echo healthy",
                    "healthy\n",
                ),
                // What is in a volume is no part of the image.
                (
                    "ferry commit -a 'some one' -m why one vol:2 | busybox wc -l; ferry rm -fv one; ferry volume ls -q
                 ferry inspect -f '{{.Author}}, {{.Comment}}, {{json .Config.Volumes}}' vol:2
                 ferry run --rm --network none vol:2 ls /data",
                    "1\none\nsome one, why, {\"/data\":{}}\n",
                ),
                (
                    "ferry run --name two --network none busybox:1 sh -c 'echo a >/tmp/a; mkdir /d; ln /tmp/a /d/b'
                 for i in 1 2; do
                     SOURCE_DATE_EPOCH=1700000000 ferry commit two same:$i >ids.$i
                     ferry inspect -f '{{.Created}} {{.RootFS.Layers}}' same:$i >said.$i
                     ferry export two >/dev/null; done
                 cmp ids.1 ids.2 && cmp said.1 said.2 && busybox cut -d ' ' -f 1 said.2; ferry rm two",
                    "2023-11-14T22:13:20Z\ntwo\n",
                ),
            ],
        );
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn the_kernels_files_are_masked_and_forbidden_calls_fail_for_init_and_exec_whatever_the_capabilities() {
    both(|host| {
        // swapon is forbidden by the profile and allowed by the capability: a file that is no swap area is an invalid argument then.
        let swap = "swapon /etc/passwd 2>&1 | busybox sed 's/.*: //'";
        let run = "--network none --cap-add ALL";
        let seen = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/latency_stats /proc/sched_debug; do
                    busybox head -c 1 $f 2>/dev/null; done | busybox wc -c
                ls -A /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | busybox grep -v : | busybox grep -c .
                for f in /proc/sys/kernel/hostname /proc/sys/vm/swappiness; do echo 1 >$f; done 2>&1 | busybox grep -c Read-only
                mkdir /sys/fs/xx 2>&1 | busybox grep -c Read-only";
        let masked = "0\n0\n2\n1\n";
        table(
        host,
        &[
            (&format!("ferry run --rm --network none busybox:1 sh -c '{seen}'"), masked),
            (&format!("ferry run --rm {run} busybox:1 sh -c '{}'", swap.replace('\'', "\"")), "Operation not permitted\n"),
            (&format!("ferry run -d --name one {run} busybox:1 sleep 1000 | busybox wc -l"), "1\n"),
            (&format!("ferry exec one {swap}"), "Operation not permitted\n"),
            (&format!("ferry exec one sh -c '{seen}'"), masked),
            (
                &format!("ferry run --rm {run} --security-opt seccomp=unconfined busybox:1 {swap}"),
                "Invalid argument\n",
            ),
            (
                &format!(
                    "ferry run -d --name two {run} --security-opt seccomp=unconfined busybox:1 sleep 1000 | busybox wc -l
                     ferry exec two {swap}; ferry rm -f one two"
                ),
                "1\nInvalid argument\none\ntwo\n",
            ),
        ],
    );
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn volumes_of_other_places_are_mounted_for_their_containers_alone_and_gone_with_them() {
    both(|host| {
        table(
            host,
            &[
                (
                    "mkdir src; echo hi >src/f; ferry volume create -o type=none -o o=bind -o device=$PWD/src vb
                 ferry volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=1m,uid=1000 vt
                 ferry volume inspect -f '{{.Options.type}} {{.Options.o}}' vb vt",
                    "vb\nvt\nnone bind\ntmpfs size=1m,uid=1000\n",
                ),
                (
                    "ferry run --rm --network none -v vb:/x -v vb:/y busybox:1 sh -c 'cat /x/f; echo out >/y/g'; cat src/g",
                    "hi\nout\n",
                ),
                (
                    "ferry run -d --name one --network none -v vt:/t -v vb:/b:ro busybox:1 sh -c 'echo m >/t/f; sleep 1000' >/dev/null
                 until ferry exec one test -e /t/f; do :; done
                 ferry exec one busybox stat -c '%a %u' /t; ferry exec one sh -c 'echo no >/b/f' 2>/dev/null; echo code $?
                 grep -c ferry/volumes /proc/mounts",
                    "1777 1000\ncode 1\n0\n",
                ),
                (
                    "ferry run --rm --network none -v vt:/t busybox:1 true 2>&1; echo code $?",
                    "ferry: volume vt is memory of container one: one running container at a time can have it\ncode 125\n",
                ),
                (
                    "pid=$(ferry inspect -f '{{.State.Pid}}' one); kill -9 $(busybox awk '/PPid/ {print $2}' /proc/$pid/status)
                 while kill -0 $pid 2>/dev/null; do :; done; ferry ps -a --format '{{.Names}} {{.State}}'
                 grep -c ferry/volumes /proc/mounts; ferry run --rm --network none -v vt:/t busybox:1 ls /t
                 ferry cp one:/b/f - | busybox tar xO; ferry rm one",
                    "one exited\n0\nhi\none\n",
                ),
                (
                    "ferry volume create -o type=none -o o=bind -o device=$PWD/nothing vn
                 ferry run --rm --network none -v vn:/x busybox:1 true 2>&1 | busybox cut -c 1-31",
                    "vn\nferry: cannot mount volume vn: \n",
                ),
                (
                    "ferry volume create -o type=ext4 -o device=/dev/nothing ve 2>&1; echo code $?
                 ferry volume rm vb vt vn; ls src; ferry volume ls -q",
                    "ferry: a volume of type \"ext4\" is not supported: there are bind mounts (type=none, o=bind), tmpfs and nfs\n\
                 code 1\nvb\nvt\nvn\nf\ng\n",
                ),
            ],
        );
        assert_eq!(host.traces(), Vec::<String>::new());
    });
}

#[test]
fn what_is_read_only_on_the_host_stays_so() {
    both(|host| {
        let ferry = host.program().display().to_string();
        let out = host.run(&format!(
            "mkdir src; unshare -m sh -c 'mount -o bind src src; mount -o remount,bind,ro src
                 {ferry} run --rm --network none -v $PWD/src:/x busybox:1 touch /x/f
                 {ferry} create --name cc --network none -v $PWD/src:/x busybox:1 true >/dev/null
                 {ferry} cp image.tar cc:/x/f >/dev/null 2>&1; echo code $?; {ferry} rm cc' 2>&1; ls src"
        ));
        assert_eq!(out, "touch: /x/f: Read-only file system\ncode 1\ncc\n");
    });
}
