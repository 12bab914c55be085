//! Files of containers: cp by docker's rules, diff, volumes.

use std::fs;

use rustix::fs::XattrFlags;

use super::{Host, both};

#[test]
fn cp_follows_dockers_path_rules_both_ways() {
    both(|host| {
        fs::create_dir_all(host.path("d/sub")).unwrap();
        fs::write(host.path("d/one"), "1\n").unwrap();
        fs::write(host.path("d/sub/two"), "2\n").unwrap();
        std::os::unix::fs::symlink("one", host.path("d/link")).unwrap();
        fs::write(host.path("f"), "f\n").unwrap();
        // A stopped and a running container alike.
        for state in ["create", "run -d"] {
            let out = host.run(&format!(
                "exec 2>&1
             ferry {state} --name cc --network none busybox:1 sleep 1000 >/dev/null
             show() {{ ferry cp cc:/t - | busybox tar t | busybox sort | busybox tr '\\n' ' '; echo; }}
             mkdir -p t; ferry cp t cc:/; show
             ferry cp f cc:/t/new; ferry cp f cc:/t; ferry cp f cc:/t/missing/; echo code $?
             ferry cp d cc:/t/renamed; ferry cp d cc:/t/renamed; ferry cp d/. cc:/t/contents; show
             ferry cp d cc:/t/f; echo code $?
             ferry cp f cc:/t/contents/sub; ferry cp cc:/t/contents/link out; ferry cp -L cc:/t/contents/link out2
             busybox readlink out; cat out2; rm -f out out2
             ferry cp cc:/t/contents/sub/. back; ls back; ferry cp cc:/t/contents back; ls back; rm -rf back
             echo over >o; ferry cp o cc:/t/new; ferry cp cc:/t/new o2; cat o2; rm o o2
             ferry cp cc:/t/nothing x; echo code $?; ferry cp a b; echo code $?
             ferry rm -f cc"
            ));
            let expected = "t/ \n\
            ferry: no such directory: /t/missing/\ncode 1\n\
            t/ t/contents/ t/contents/link t/contents/one t/contents/sub/ t/contents/sub/two t/f t/new t/renamed/ \
            t/renamed/d/ t/renamed/d/link t/renamed/d/one t/renamed/d/sub/ t/renamed/d/sub/two t/renamed/link \
            t/renamed/one t/renamed/sub/ t/renamed/sub/two \n\
            ferry: cannot copy a directory to the file /t/f\ncode 1\n\
            one\n1\nf\ntwo\ncontents\nf\ntwo\nover\n\
            ferry: there is no /t/nothing to copy\ncode 1\n\
            ferry: must specify at least one container source\ncode 1\ncc\n";
            assert_eq!(out, expected, "{state}");
        }
    });
}

#[test]
fn a_tar_stream_goes_in_and_out_and_never_out_of_the_container() {
    both(|host| {
        fs::write(host.path("secret"), "host\n").unwrap();
        let inside = host.path("secret").display().to_string();
        let out = host.run(&format!(
            "exec 2>&1
         ferry run -d --name cc --network none busybox:1 sleep 1000 >/dev/null
         mkdir -p s/a; echo x >s/a/b; busybox tar -C s -cf - . | ferry cp - cc:/tmp; ferry exec cc cat /tmp/a/b
         busybox tar -C s -czf - a | ferry cp - cc:/tmp/a; ferry exec cc cat /tmp/a/a/b
         ferry cp - cc:/tmp/a/b </dev/null; echo code $?
         ferry exec cc busybox ln -s {inside} /tmp/l; ferry cp -L cc:/tmp/l got; echo code $?; ls got 2>/dev/null
         ferry exec cc busybox ln -s /../../../../../../tmp/escaped /tmp/e
         echo y >y; ferry cp y cc:/tmp/e; ferry exec cc cat /tmp/escaped; ls /tmp/escaped 2>/dev/null
         ferry rm -f cc"
        ));
        let shown: Vec<&str> = out.lines().map(|line| line.split(": ").next().unwrap_or(line)).collect();
        assert_eq!(shown, ["x", "x", "ferry", "code 1", "ferry", "code 1", "y", "cc"], "{out}");
    });
}

#[test]
fn further_names_and_capabilities_come_along_in_a_stream() {
    // CAP_NET_BIND_SERVICE, effective and permitted (`include/uapi/linux/capability.h`, revision 2).
    let capability = [&[1, 0, 0, 2, 0, 4, 0, 0][..], &[0; 12]].concat();
    both(|host| {
        fs::write(host.path("one"), "one\n").unwrap();
        rustix::fs::setxattr(host.path("one"), "security.capability", &capability, XattrFlags::empty()).unwrap();
        let out = host.run(
            "for name in cc dd; do ferry run -d --name $name --network none busybox:1 sleep 1000 >/dev/null; done
         ferry exec cc mkdir /t; ferry cp one cc:/t/one; ferry exec cc busybox ln /t/one /t/two
         ferry cp cc:/t - >stream; busybox tar tvf stream | busybox grep -o ' t/.*'; ferry cp - dd:/ <stream
         ferry exec dd busybox stat -c %h /t/one; ferry exec dd cat /t/two; ferry inspect -f '{{.State.Pid}}' dd",
        );
        let (told, pid) = out.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(told, " t/\n t/one\n t/two -> t/one\n2\none");
        let mut value = [0; 64];
        let n = rustix::fs::getxattr(format!("/proc/{pid}/root/t/two"), "security.capability", &mut value[..]).unwrap();
        assert_eq!(value[..n], capability);
        host.run("ferry rm -f cc dd");
    });
}

#[test]
fn diff_tells_what_docker_tells() {
    both(|host| {
        let out = host.run(
            "exec 2>&1
         ferry run --name cc --network none busybox:1 sh -c 'echo x >/tmp/new; mkdir -p /root/a/b; rm /etc/group; \
         echo bob >>/etc/passwd; rm -r /bin/true; rm -r /tmp; mkdir /tmp; echo y >/tmp/z'
         ferry diff cc; ferry diff nothing; echo code $?; ferry rm cc",
        );
        let expected = "C /bin\nD /bin/true\nC /etc\nD /etc/group\nC /etc/passwd\nC /root\nA /root/a\nA /root/a/b\nC /tmp\nA /tmp/z\n\
         ferry: no such container: nothing\ncode 1\ncc\n";
        assert_eq!(out, expected);
    });
}

#[test]
fn volumes_are_made_listed_kept_and_pruned() {
    let host = Host::new();
    let out = host.run(
        "ferry volume create --label a=b one; ferry volume create one; ferry volume ls -q
         ferry volume inspect -f '{{.Name}} {{.Driver}} {{.Labels.a}} {{.Scope}}' one
         ferry run --rm --network none -v one:/v -v /anon busybox:1 sh -c 'echo kept >/v/f'
         ferry run --name cc --network none -v one:/v:ro -v /anon busybox:1 sh -c 'cat /v/f; echo no >/v/f' 2>/dev/null
         echo code $?; ferry volume ls -q | busybox wc -l
         ferry volume rm one 2>/dev/null; echo code $?
         ferry volume ls -q -f dangling=true; ferry rm cc
         ferry volume ls -q -f dangling=true | busybox wc -l
         ferry volume prune -f | busybox tail -n 1 | busybox cut -c 1-15; ferry volume ls -q
         ferry volume rm one nothing 2>/dev/null; echo code $?; ferry volume rm -f nothing; ferry volume ls",
    );
    let expected = "one\none\none\none local b local\nkept\ncode 1\n2\ncode 1\ncc\n2\nTotal reclaimed\none\none\ncode 1\n\
        nothing\nDRIVER    VOLUME NAME\n";
    assert_eq!(out, expected);
}

#[test]
fn a_volume_that_nobody_named_is_pruned() {
    let host = Host::new();
    let out = host.run(
        "ferry volume create one; ferry volume create --label a=b >name
         ferry volume prune -f | busybox sed -n 2p | cmp - name && echo pruned; ferry volume ls -q",
    );
    assert_eq!(out, "one\npruned\none\n");
}

#[test]
fn a_mount_makes_its_volume_as_it_says() {
    let host = Host::new();
    let out = host.run(
        "mount='type=volume,source=vv,target=/v,volume-label=a=b,volume-opt=type=tmpfs,volume-opt=device=tmpfs'
         ferry run --rm --network none --mount \"$mount\",'\"volume-opt=o=size=1m,nosuid\"' busybox:1 busybox df -k /v |
           busybox awk 'END {print $2}'
         ferry volume inspect -f '{{.Labels.a}} {{.Options.o}}' vv
         ferry run --rm --network none --mount source=vv,target=/v,volume-subpath=x busybox:1 true 2>/dev/null; echo $?",
    );
    assert_eq!(out, "1024\nb size=1m,nosuid\n125\n");
}
