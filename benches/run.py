#!/usr/bin/env python3
"""run, commit and export against docker, podman, runc and crun.

    run.py        ROUNDS=20 CORPUS=/var/tmp/corpus FERRY=target/static/ferry

All run in one machine of tools/peer.sh (Debian 13, cgroups v1 of the host), so that none has another's kernel features.
"""

import json
import os
import re

from harness import CORPUS, FERRY, FreshFs, Machine, Table, measure, need_corpus, publish, sh

ROUNDS = int(os.environ.get("ROUNDS", "20"))
LIMITS = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
FILL = "mkdir /d; i=0; while [ $i -lt 5000 ]; do echo $i of %d >/d/$i; i=$((i+1)); done"


def main():
    need_corpus("docker-archive/busybox.tar", "docker-archive/node.tar")
    starts = Table("run --rm busybox true")
    bridged = Table("run --rm busybox true, on the bridge")
    changes = Table("commit of 5,000 changed files, export of 37,000 files")
    busybox = f"{CORPUS}/docker-archive/busybox.tar"
    with FreshFs() as fs, Machine(13) as machine:
        ferry, docker = f"{FERRY} --root {fs}/ferry", machine.dockerd(f"{fs}/docker", bridge=True)
        podman = f"podman --root {fs}/podman --runroot /run/podman --cgroup-manager cgroupfs"
        for tool in (ferry, docker, podman):
            machine.run(f"{tool} load -q -i {busybox}")
        for tool in (ferry, docker):
            machine.run(f"{tool} load -q -i {CORPUS}/docker-archive/node.tar")
        # runc and crun get the unpacked bundle that umoci makes, without what this machine may not raise
        machine.run(f"cd {fs}; skopeo copy -q docker-archive:{busybox} oci:layout:b; umoci unpack --image layout:b bundle")
        config = json.load(open(f"{fs}/bundle/config.json"))
        config["process"].update(terminal=False, args=["true"])
        config["process"].pop("rlimits", None)
        config["linux"].pop("seccomp", None)
        json.dump(config, open(f"{fs}/bundle/config.json", "w"))
        commands = {
            "ferry run --rm --net=none": f"{ferry} run --rm --net=none busybox:1.35 true",
            "runc run (unpacked bundle)": f"runc run -b {fs}/bundle r$$",
            "crun run (unpacked bundle)": f"crun run -b {fs}/bundle c$$",
            "podman 5 run --rm --net=none": f"{podman} run {LIMITS} --rm --net=none busybox:1.35 true",
            "docker 26 run --rm --net=none": f"{docker} run --rm --net=none busybox:1.35 true",
        }
        on_bridge = {
            "ferry run --rm": f"{ferry} run --rm busybox:1.35 true",
            "docker 26 run --rm": f"{docker} run --rm busybox:1.35 true",
        }
        for _ in range(ROUNDS):
            for table, rows in ((starts, commands), (bridged, on_bridge)):
                for name, command in rows.items():
                    table.add(name, measure(machine.inside(command), machine.servers if "docker" in name else ()))
        resident = monitor(machine, ferry)
        for tool in (ferry, docker):
            machine.run(f"{tool} create --name many node:18")
        for number in range(max(3, ROUNDS // 2)):
            for name, tool, pids in (("ferry", ferry, ()), ("docker 26", docker, machine.servers)):
                # Other contents each time: a layer that is there already is no work for either.
                machine.run(f"{tool} run --name filled{number} --net=none busybox:1.35 sh -c '{FILL % number}' && sync -f {fs}")
                commit = f"{tool} commit filled{number} bench:{number} && sync -f {fs}"
                changes.add(f"{name} commit", measure(machine.inside(commit), pids))
            for name, tool, pids in (("ferry", ferry, ()), ("docker 26", docker, machine.servers)):
                changes.add(f"{name} export -o file, synced", measure(machine.inside(f"{tool} export -o {fs}/x.tar many && sync -f {fs}"), pids))
                if name == "ferry":
                    copy = f"dd if={fs}/x.tar of={fs}/y.tar bs=1M status=none && sync -f {fs}"
                    changes.add("the same file copied from the page cache, synced", measure(machine.inside(copy)))
                    os.unlink(f"{fs}/y.tar")
                os.unlink(f"{fs}/x.tar")
                # The disk is the limit there; not here, where nobody syncs, and where it goes on to ssh or a compressor.
                changes.add(f"{name} export >file, not synced", measure(machine.inside(f"{tool} export many >{fs}/x.tar"), pids))
                os.unlink(f"{fs}/x.tar")
                changes.add(f"{name} export to a pipe", measure(machine.inside(f"{tool} export many | cat >/dev/null"), pids))
    publish("run", "## run\n\nIncludes entering the machine's namespaces (about 5 ms), for all alike. Commit and export take half as many rounds.\n\n"
            + starts.markdown(against="ferry run --rm --net=none") + "\n" + bridged.markdown(against="ferry run --rm") + "\n"
            + changes.markdown() + "\n" + resident, ROUNDS)


def monitor(machine, ferry):
    """What the monitor of a container has in memory while it runs, with a published port and a log."""
    machine.run(f"{ferry} run -d --name watched -p 8080:80 busybox:1.35 sh -c 'i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done; exec sleep 1000'")
    status = machine.run(f"p=$({ferry} inspect -f '{{{{.State.Pid}}}}' watched); sleep 1; cat /proc/$(awk '/PPid/ {{print $2}}' /proc/$p/status)/status")
    machine.run(f"{ferry} rm -f watched")
    sizes = dict(re.findall(r"(VmRSS|RssAnon|RssFile):\s+(\d+)", status))
    print(f"monitor: {sizes}", flush=True)
    return ("### The monitor of a running container\n\n| resident | of that its own memory | of that the program's file, shared with other"
            " monitors |\n|---|---|---|\n| " + " | ".join(f"{int(sizes[k]) / 1024:.2f} MiB" for k in ("VmRSS", "RssAnon", "RssFile")) + " |\n")


if __name__ == "__main__":
    main()
