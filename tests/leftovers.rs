//! What containers leave when they, or who watches over them, are killed: `fsck` tells of it and clears it away.

use std::fs;

use crate::support::containers::Host;
use crate::support::ferry;

/// Plays shell lines in a mount namespace of their own; IDs are shown as words.
fn play(host: &Host, lines: &str) -> String {
    let head = format!(
        "exec 2>&1
         ferry() {{ {} \"$@\"; }}
         show() {{ sed -E 's/[0-9a-f]{{64}}/ID/g; s/container [0-9a-f]{{12}}/container ID/; s#/[^ ]*/(ID|ferry)#../\\1#g'; }}
         fsck() {{ ferry fsck \"$@\" >said; code=$?; show <said; echo code $code; }}
         export LC_ALL=C; containers=$PWD/store/ferry/containers\n",
        ferry().display()
    );
    fs::write(host.path("lines"), head + lines).unwrap();
    let out = host.run("unshare -m sh lines");
    assert_eq!(host.traces(), Vec::<String>::new(), "{out}");
    out
}

#[test]
fn a_container_that_was_killed_with_its_monitor_is_told_and_brought_to_rest_or_back() {
    let host = Host::new();
    let out = play(
        &host,
        r#"
        ferry run -d --name one -p 8080:80 busybox:1 sleep 1000 >/dev/null
        ferry run -d --name two --restart always --network none busybox:1 sleep 1000 >/dev/null
        pids=$(ferry inspect -f '{{.State.Pid}}' one two)
        for pid in $pids; do monitors="$monitors $(awk '/PPid/ {print $2}' /proc/$pid/status)"; done
        fsck
        kill -9 $monitors $pids
        for pid in $pids $monitors; do while kill -0 $pid 2>/dev/null; do :; done; done
        fsck; fsck --repair; fsck
        ferry ps -a --format '{{.Names}} {{.State}}' | sort
        ip -o link | grep -c ferry; ls /sys/fs/cgroup/*/ferry /sys/fs/cgroup/ferry 2>/dev/null | grep -c $(ferry inspect -f '{{.Id}}' one)
        ferry rm -f one two
        "#,
    );
    let lost = "container-lost: ID: it is running and nobody watches over it";
    let network = "network-left: bridge: the address 172.17.0.2 of container ID";
    let all = |how: &str| format!("{lost} ({how})\n{lost} ({how})\n{network} ({how})\ncode 0\n");
    let (told, repaired) = (all("can be repaired"), all("repaired"));
    assert_eq!(out, format!("code 0\n{told}{repaired}code 0\none exited\ntwo running\n0\n0\none\ntwo\n"));
}

#[test]
fn mounts_and_control_groups_of_no_container_that_runs_are_cleared_away() {
    let host = Host::new();
    let out = play(
        &host,
        r#"
        for name in one gone lives; do ferry run -d --name $name --network none busybox:1 sleep 1000 >/dev/null; done
        one=$(ferry inspect -f '{{.Id}}' one); gone=$(ferry inspect -f '{{.Id}}' gone)
        ferry kill one >/dev/null; ferry wait one >/dev/null; ferry rm -f gone >/dev/null
        mkdir -p $containers/$one/rootfs; mount -t tmpfs "a name" $containers/$one/rootfs
        mkdir $containers/$one/rootfs/in; mount -t tmpfs x $containers/$one/rootfs/in
        groups=$(ls -d /sys/fs/cgroup/*/ferry /sys/fs/cgroup/ferry 2>/dev/null)
        sleep 1000 & sleep=$!
        for group in $groups; do
            mkdir -p $group/$one $group/$gone/inner
            # A cpuset takes nobody before it has processors.
            case $group in */cpuset/*) ;; *) echo $sleep >$group/$gone/inner/cgroup.procs;; esac; done
        # Another store's, for all that this one knows.
        other=$(echo $one | tr 0-9a-f a-f0-9); mkdir $(echo $groups | awk '{print $1}')/$other
        fsck | sort; fsck --repair | sort; fsck
        wait $sleep; echo sleep $?
        for group in $groups; do ls -d $group/$one $group/$gone 2>/dev/null; done
        ls -d $(echo $groups | awk '{print $1}')/$other | wc -l; rmdir $(echo $groups | awk '{print $1}')/$other
        grep -c $containers /proc/self/mounts
        ferry ps --format '{{.Names}} {{.State}}'; ferry rm -f one lives
        "#,
    );
    let each = |how: &str, code: u8| {
        let mount = format!("mount-left: ID: ../ID/rootfs ({how})\nmount-left: ID: ../ID/rootfs/in ({how})\n");
        let group = format!("cgroup-left: ID: ../ID ({how})\n");
        format!("{group}{group}code {code}\n{mount}")
    };
    let (told, repaired) = (each("can be repaired", 6), each("repaired", 0));
    let rest = "code 0\nsleep 137\n1\n0\nlives running\none\nlives\n";
    assert_eq!(out, format!("{told}{repaired}{rest}"));
}

#[test]
fn what_a_killed_command_began_and_what_cannot_be_read_is_told_and_cleared_away_where_nothing_is_lost() {
    let host = Host::new();
    let out = play(
        &host,
        r#"
        for name in state config layer whole; do ferry run --name $name --network none busybox:1 true; done
        for name in state config layer; do eval $name=$(ferry inspect -f '{{.Id}}' $name); done
        id=$(echo $state | tr 0-9a-f a-f0-9); gone=$(echo $id | tr 0-9a-f a-f0-9)
        mkdir $containers/$id $containers/.$id $containers/.$gone.gone; echo x >$containers/.$gone.gone/left
        fsck | sort; fsck --repair | sort; fsck; ls -A $containers | grep -c "$id\|$gone"
        echo '{' >$containers/$state/state.json; fsck; fsck --repair
        ferry ps -a -f name=state --format '{{.Names}} {{.State}}'
        rm -r $containers/$layer; fsck; fsck --repair
        echo '{' >$containers/$config/config.json; fsck --repair; ferry fsck --format json | grep -c '"repairable":false'
        ferry rm -f $config | show; fsck
        ferry ps -a --format '{{.Names}} {{.State}}'; ferry rm state whole; fsck
        "#,
    );
    let half = |how: &str| {
        let line = |id: &str| format!("container-half-made: {id} ({how})\n");
        ["code 0\n".to_owned(), line(".ID"), line(".ID.gone"), line("ID")].concat()
    };
    let state = "container-unreadable: ID: ../ID/state.json: EOF while parsing an object at line 2 column 0";
    let config = "container-unreadable: ID: ../ID/config.json: EOF while parsing an object at line 2 column 0; ferry rm -f ID \
                  takes it away, with what it changed";
    let expected = [
        half("can be repaired"),
        half("repaired"),
        "code 0\n0\n".to_owned(),
        format!("{state} (can be repaired)\ncode 6\n{state} (repaired)\ncode 0\nstate exited\n"),
        "container-layer-unused: ID (can be repaired)\ncode 6\ncontainer-layer-unused: ID (repaired)\ncode 0\n"
            .to_owned(),
        format!("{config}\ncode 6\n1\nID\ncode 0\nwhole exited\nstate exited\nstate\nwhole\ncode 0\n"),
    ];
    assert_eq!(out, expected.concat());
}

#[test]
fn the_documentation_lists_all_that_can_be_left() {
    let page = fs::read_to_string(crate::support::checkout().join("docs/format/store.md")).unwrap();
    for kind in ferry::runtime::leftovers::Kind::ALL {
        let row = format!("| `{}` | ", kind.slug());
        assert!(page.contains(&row), "docs/format/store.md lacks: {row}");
    }
}
