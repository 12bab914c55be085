//! What hostile images and programs try; `docs/security.md` has the list.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::containers::Host;

/// Makes an image of busybox's with a change in it.
fn image(host: &Host, name: &str, change: impl FnOnce(&std::path::Path)) {
    let root = host.path(name);
    let copied = Command::new("cp").arg("-a").arg(host.path("rootfs")).arg(&root).status().unwrap();
    assert!(copied.success());
    change(&root);
    let out = host.run(&format!("tar -C {name} -c . | ferry import -c 'ENV PATH=/bin' - {name}:1 >/dev/null"));
    assert_eq!(out, "");
}

#[test]
fn mount_points_that_are_symlinks_are_refused_or_stay_inside() {
    let host = Host::new();
    let outside = host.path("outside");
    fs::create_dir(&outside).unwrap();
    for point in ["proc", "sys", "dev"] {
        image(&host, point, |root| {
            fs::remove_dir(root.join(point)).unwrap();
            symlink(&outside, root.join(point)).unwrap();
        });
        let out = host.script(&format!("ferry run --rm --net none {point}:1 true"));
        assert!(!out.status.success(), "/{point} is a symlink: {out:?}");
    }
    image(&host, "target", |root| symlink("/../../..", root.join("up")).unwrap());
    fs::write(host.path("data"), "data").unwrap();
    let out = host.run("ferry run --rm --net none -v $PWD/data:/up/bound target:1 cat /bound");
    assert_eq!(out, "data", "a bind target's symlink ends at the container's root");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is made outside");
    assert!(!std::path::Path::new("/bound").exists());
}

#[test]
fn a_passwd_of_a_gigabyte_or_a_fifo_is_refused_at_once() {
    let host = Host::new();
    image(&host, "large", |root| {
        fs::File::create(root.join("etc/passwd")).unwrap().set_len(1 << 30).unwrap();
    });
    image(&host, "fifo", |root| {
        fs::remove_file(root.join("etc/passwd")).unwrap();
        assert!(Command::new("mkfifo").arg(root.join("etc/passwd")).status().unwrap().success());
    });
    for (name, error) in [("large", "/etc/passwd is over the limit"), ("fifo", "unable to find user bob")] {
        let out = host.script(&format!("ulimit -v 4000000; ferry run --rm --net none -u bob {name}:1 true"));
        assert_eq!(out.status.code(), Some(125), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains(error), "{out:?}");
    }
}

#[test]
fn ferrys_binary_cannot_be_written_from_inside() {
    let host = Host::new();
    // Whatever ferry has running near the container is looked for and written to, while execs come and go.
    let attack = "for i in 1 2 3 4 5 6 7 8 9 10; do for p in /proc/[0-9]*/exe; do
                    case $(readlink $p) in *busybox*|'') ;; *) (echo x >>$p) 2>/dev/null && echo wrote $p ;; esac
                  done; done";
    fs::write(host.path("attack"), attack).unwrap();
    let out = host.run(&format!(
        "before=$(busybox sha256sum {ferry})
         ferry run -d --name one --net none --cap-add SYS_PTRACE -v $PWD/attack:/attack busybox:1 sleep 1000 >/dev/null
         for i in 1 2 3; do ferry exec one true & ferry exec one /proc/self/exe 2>/dev/null & ferry exec one sh /attack; wait; done
         ferry rm -f one
         [ \"$before\" = \"$(busybox sha256sum {ferry})\" ] && echo unchanged",
        ferry = crate::support::ferry().display(),
    ));
    assert_eq!(out, "one\nunchanged\n");
}

#[test]
fn an_images_own_null_device_masks_nothing_and_the_init_cannot_be_written_to() {
    let host = Host::new();
    image(&host, "null", |root| fs::write(root.join("dev/null"), "something else").unwrap());
    let out = host.run(
        "ferry run --rm --net none --init null:1 sh -c '
           ls -l /dev/null | busybox cut -c 1; cat /proc/keys /proc/timer_list 2>/dev/null | busybox wc -c
           (echo x >>/sbin/docker-init) 2>/dev/null || echo refused
           busybox grep -c \"/docker-init [^ ]* ro,\" /proc/mounts'",
    );
    assert_eq!(out, "c\n0\nrefused\n1\n");
}

#[test]
fn no_descriptor_of_the_hosts_reaches_a_program() {
    let host = Host::new();
    let count = "ls /proc/self/fd | wc -l";
    let out = host.run(&format!(
        "exec 7</etc/hostname 9</ 
         ferry run --rm --net none busybox:1 sh -c '{count}'
         ferry run -d --name one --net none busybox:1 sleep 1000 >/dev/null
         ferry exec one sh -c '{count}'
         for n in 3 4 5 6 7 8 9 10; do ferry exec -w /proc/self/fd/$n one pwd 2>/dev/null && echo leaked; done
         ferry run --rm --net none -w /proc/self/fd/7 busybox:1 pwd 2>/dev/null && echo leaked
         ferry rm -f one"
    ));
    // 0, 1, 2 and the directory that ls reads.
    assert_eq!(out, "4\n4\none\n");
}

#[test]
fn exec_into_a_container_that_ends_fails_or_is_ended_with_it() {
    let host = Host::new();
    let out = host.run(
        "for i in 1 2 3 4 5 6; do
           ferry run -d --rm --name dying$i --net none busybox:1 sleep 0.$i >/dev/null
           while ferry exec dying$i true 2>>errors; do :; done
         done
         ferry rm -f dying1 dying2 dying3 dying4 dying5 dying6 >/dev/null 2>&1
         grep -vE 'no such container|cannot run a command|is ending|cannot (find|open|enter|talk|reach|join|watch|start|make|hear)|ended|end of' errors
         grep -c panicked errors",
    );
    assert_eq!(out, "0\n");
    assert_eq!(host.traces(), Vec::<String>::new());
}

#[test]
fn line_breaks_in_names_and_hosts_are_refused_and_in_labels_harmless() {
    let host = Host::new();
    for option in [r"--hostname $(printf 'a\nb')", r"--name $(printf 'a\nb')", r"--add-host $(printf 'a\nb'):1.2.3.4"] {
        let (flag, value) = option.split_once(' ').unwrap();
        let out = host.script(&format!("ferry run --rm --net none {flag} \"{value}\" busybox:1 true"));
        assert_eq!(out.status.code(), Some(125), "{option}: {out:?}");
    }
    let out = host.run(
        r#"ferry create --name one --label "l=$(printf 'a\nb')" busybox:1 >/dev/null
         ferry ps -a --format '{{.Labels}}'; ferry inspect -f '{{index .Config.Labels "l"}}' one; ferry rm one"#,
    );
    assert_eq!(out, "l=a\u{fffd}b\na\nb\none\n");
}

#[test]
fn a_fork_bomb_and_a_memory_hog_hurt_themselves_alone() {
    let host = Host::new();
    let out = host.run(
        "ferry run -d --name bomb --net none --pids-limit 20 busybox:1 sh -c 'f() { f | f & }; f; sleep 1000' >/dev/null
         ferry run --name hog --net none --memory 16m --memory-swap 16m busybox:1 tail /dev/zero >/dev/null 2>&1; echo $?
         ferry inspect -f '{{.State.OOMKilled}}' hog
         ferry run --rm --net none busybox:1 echo well
         ferry rm -f bomb hog",
    );
    assert_eq!(out, "137\ntrue\nwell\nbomb\nhog\n");
}

/// A program swaps a directory with symlinks to one of the host's, by its path there and from above the root, as fast as it can,
/// while `cp` reads it and writes into it. `FERRY_ENDURANCE=1` makes it 60 rounds.
#[test]
fn directories_that_become_symlinks_while_cp_copies_lead_nowhere() {
    let host = Host::new();
    let rounds = if std::env::var_os("FERRY_ENDURANCE").is_some() { 60 } else { 12 };
    let out = host.run(&format!(
        "mkdir out src src/sub; echo secret >out/f; mkdir out/sub; echo secret >out/sub/f
         echo planted >src/f; echo planted >src/sub/f; echo planted >src/new; busybox tar -C src -cf src.tar .
         ferry run -d --name cc --net none busybox:1 sh -c '
           mkdir -p /t/d/sub; cd /t; echo inside >d/f; echo inside >d/sub/f
           while :; do for to in $0 /../../../..$0; do mv d e; ln -s $to d; rm d; mv e d; done; done' $PWD/out >/dev/null 2>&1
         until ferry exec cc test -e /t/d/sub/f; do :; done
         n=0; while [ $n -lt {rounds} ]; do
           n=$((n + 1))
           for from in t t/d t/d/. t/d/f t/d/sub; do
             rm -rf got; ferry cp cc:/$from got 2>/dev/null
             if [ -L got ] || [ -L got/d ]; then echo link; fi
             [ -L got ] || grep -rhs . got
           done
           ferry cp src/. cc:/t/d; ferry cp src cc:/t/d/sub; ferry cp src/f cc:/t/d/f; ferry cp src/f cc:/t/d/new
           ferry cp - cc:/t/d <src.tar; ferry cp - cc:/t <src.tar
         done >seen 2>errors
         sort -u seen | grep -v -e '^inside$' -e '^planted$'; grep -c panicked errors
         ls -R out; cat out/f out/sub/f; ferry rm -f cc",
    ));
    assert_eq!(out, "link\n0\nout:\nf\nsub\n\nout/sub:\nf\nsecret\nsecret\ncc\n");
}
