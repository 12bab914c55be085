#!/usr/bin/env python3
"""send against docker save | ssh docker load, podman and rsync, on the loopback and on slow lines.

    transfer.py        CORPUS=/var/tmp/corpus FERRY=target/static/ferry [RELEASES=DIR] [LINES=loopback]

The releases are app:v1 to app:v8 of the corpus' app-all.tar, or RELEASES has release-1.tar to release-8.tar, archives of
one image that docker loads. LINES names a part of one line's name, to run that alone. All tools run in one machine of
tools/peer.sh (Debian 13); the far side is a second network namespace behind a veth pair. Rates are made by TBF on both ends; the delay by netem where the kernel has it (the guest of
`make test-vm` has), else by a relay process on the far end of the line, which holds every byte for 20 ms each way.
Bytes are those that the near end's interface has seen, both ways.
"""

import os
import shutil
import socket
import sys
import threading
import time

from harness import CORPUS, FERRY, FreshFs, Machine, Table, measure, need_corpus, publish, sh

RELEASES = os.environ.get("RELEASES")
LINES = [("loopback", None, 0), ("100 Mbit/s, 40 ms", "100mbit", 20), ("20 Mbit/s, 40 ms", "20mbit", 20)]
# On the slowest the first transfer says nothing that the one before does not, and takes many minutes.
FIRST = {"loopback", "100 Mbit/s, 40 ms"}
ONLY = os.environ.get("LINES")
FAR, PORT = "10.99.0.2", 2222

SETUP = f"""
ip netns add far
ip link add near0 type veth peer name far0 netns far
ip addr add 10.99.0.1/24 dev near0; ip link set near0 up
ip -n far addr add {FAR}/24 dev far0; ip -n far link set far0 up; ip -n far link set lo up
mkdir -p -m 700 /run/bench /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /run/bench/key; ssh-keygen -q -t ed25519 -N '' -f /run/bench/host
cp /run/bench/key.pub /run/bench/authorized
"""
SSHD = ("ip netns exec far /usr/sbin/sshd -D -e -f /dev/null -p 22 -o StrictModes=no -o UsePAM=no -o PermitRootLogin=yes "
        "-o HostKey=/run/bench/host -o AuthorizedKeysFile=/run/bench/authorized -o PidFile=/run/bench/sshd.pid "
        "-o PermitUserEnvironment=yes")
RELAY = os.path.abspath(__file__)


def relay(listen, target, delay):
    """Passes bytes on, each `delay` seconds after it came. A line of its own a connection, as wide as the one below it."""
    def copy(source, sink):
        queue, there = [], threading.Condition()

        def deliver():
            while True:
                with there:
                    while not queue:
                        there.wait()
                    due, data = queue.pop(0)
                time.sleep(max(0, due - time.monotonic()))
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    return

        threading.Thread(target=deliver, daemon=True).start()
        while True:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            with there:
                queue.append((time.monotonic() + delay, data))
                there.notify()
            if not data:
                return

    server = socket.create_server(listen, backlog=64)
    while True:
        near, _ = server.accept()
        far = socket.create_connection(target)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=copy, args=(near, far), daemon=True).start()
        threading.Thread(target=copy, args=(far, near), daemon=True).start()


def crossed(machine):
    """Bytes on the line so far, both ways."""
    line = machine.run("cat /sys/class/net/near0/statistics/tx_bytes /sys/class/net/near0/statistics/rx_bytes")
    return sum(map(int, line.split()))


def shape(machine, rate, delay):
    """Gives both ends of the line a rate and a delay; says which port ssh is to use."""
    for where, device in (("", "near0"), ("ip netns exec far", "far0")):
        machine.run(f"{where} tc qdisc del dev {device} root 2>/dev/null; true")
        if rate:
            machine.run(f"{where} tc qdisc add dev {device} root handle 1: tbf rate {rate} burst 64kb latency 400ms")
        if delay:
            netem = f"{where} tc qdisc add dev {device} parent 1:1 netem delay {delay}ms limit 10000 2>/dev/null"
            if machine.run(f"{netem} && echo yes || echo no").strip() == "no":
                return PORT
    return 22


def releases(folder):
    """Puts release-1.tar to release-8.tar into a folder: app:v1 to app:v8 of the corpus, an archive each."""
    if RELEASES:
        return [f"{RELEASES}/release-{n}.tar" for n in range(1, 9)]
    need_corpus("docker-archive/app-all.tar")
    sh(f"{FERRY} --root {folder}/all load -q -i {CORPUS}/docker-archive/app-all.tar")
    paths = [f"{folder}/release-{n}.tar" for n in range(1, 9)]
    for n, path in enumerate(paths, 1):
        sh(f"{FERRY} --root {folder}/all save --output-format docker -o {path} app:v{n}")
    shutil.rmtree(f"{folder}/all")
    return paths


def main():
    with FreshFs(60) as fs, Machine(13) as machine:
        machine.run(SETUP)
        machine.daemon(SSHD, f"ip netns exec far bash -c 'exec 3<>/dev/tcp/{FAR}/22'")
        docker, far_docker = machine.dockerd(f"{fs}/near-docker"), f"docker -H unix://{fs}/far-docker.sock"
        machine.daemon(f"dockerd -H unix://{fs}/far-docker.sock --data-root {fs}/far-docker --exec-root /run/far-exec "
                       "--pidfile /run/far.pid --bridge=none --iptables=false --ip6tables=false", f"{far_docker} info")
        near = f"{FERRY} --root {fs}/near"
        near_podman = f"podman --root {fs}/near-podman --runroot /run/near-podman --cgroup-manager cgroupfs"
        far_podman = f"podman --root {fs}/far-podman --runroot /run/far-podman --cgroup-manager cgroupfs"
        # What works on the far side for ssh is below sshd; of docker the daemons of both sides work.
        sshd, engines = machine.servers[:1], list(machine.servers)
        names = []
        for path in releases(fs):
            names.append(machine.run(f"{near} load -q -i {path}").split(": ", 1)[1].split()[0])
            machine.run(f"{docker} load -q -i {path}")
            if path.startswith(fs):
                os.unlink(path)
        all_names, seven, eight = " ".join(names), " ".join(names[:7]), names[7]
        machine.run(f"{docker} save {all_names} | {near_podman} load -q")
        relaying = False

        def cell(table, tool, command):
            before = crossed(machine)
            run = measure(machine.inside(command), engines if "docker" in command else sshd)
            table.add(tool, run, bytes=crossed(machine) - before)

        def ways(rate, delay):
            """How ferry sends, and the ssh for all others, on such a line."""
            nonlocal relaying
            port = shape(machine, rate, delay)
            if port == PORT and not relaying:
                machine.daemon(f"ip netns exec far python3 {RELAY} relay {FAR} {PORT} {FAR} 22 {delay / 1000}",
                               f"ip netns exec far bash -c 'exec 3<>/dev/tcp/{FAR}/{PORT}'")
                relaying = True
            options = (f"-F /dev/null -p {port} -i /run/bench/key -o BatchMode=yes -o StrictHostKeyChecking=no "
                       "-o UserKnownHostsFile=/run/bench/known -o LogLevel=ERROR")
            return f"{near} send --ssh 'ssh {options}' --remote-root {fs}/far", f"ssh {options} root@{FAR}", options

        lines = [line for line in LINES if not ONLY or ONLY in line[0]]
        tables = {name: ([], []) for name, *_ in lines}
        # The program is there already in all cells: what is measured is the images' way.
        machine.run(f"{ways(None, 0)[0]} --dry-run {names[0]} root@{FAR}")
        for name, rate, delay in lines:
            if name in FIRST:
                send, ssh, _ = ways(rate, delay)
                table = Table(f"first transfer of eight releases: {name}", ["bytes"])
                cell(table, "ferry send", f"{send} {all_names} root@{FAR}")
                cell(table, "docker save \\| gzip \\| ssh docker load",
                     f"{docker} save {all_names} | gzip | {ssh} '{far_docker} load -q'")
                machine.run(f"rm -rf {fs}/far; {far_docker} image prune -af")
                tables[name][0].append(table)
        # The far side gets releases 1 to 7, whichever way is quickest.
        machine.run(f"{near} save --output-format bundle -o {fs}/seven.ferry {seven}; {FERRY} --root {fs}/far load -q -i {fs}/seven.ferry")
        thin = machine.run(f"{near} save --base {fs}/seven.ferry -o {fs}/thin.ferry {eight}; stat -c %s {fs}/thin.ferry").split()[-1]
        machine.run(f"{docker} save {seven} | {far_docker} load -q; {near_podman} save -m {seven} | {far_podman} load -q")
        machine.run(f"mkdir {fs}/tars {fs}/far-tars")
        for n, one in enumerate(names[6:], 6):
            machine.run(f"{near} save --output-format docker -o {fs}/tars/{n}.tar {one}")
        for name, rate, delay in lines:
            send, ssh, options = ways(rate, delay)
            # The tar of release 7 is named as the next one, so that rsync has something to compare with.
            machine.run(f"cp {fs}/tars/6.tar {fs}/far-tars/7.tar")
            table = Table(f"release 8 to a host with releases 1 to 7: {name}", ["bytes"])
            cell(table, "ferry send", f"{send} {eight} root@{FAR}")
            cell(table, "docker save \\| ssh docker load", f"{docker} save {eight} | {ssh} '{far_docker} load -q'")
            cell(table, "podman save \\| ssh podman load", f"{near_podman} save {eight} | {ssh} '{far_podman} load -q'")
            cell(table, "rsync -z of the saved tar", f"rsync -z -e 'ssh {options}' {fs}/tars/7.tar root@{FAR}:{fs}/far-tars/7.tar")
            machine.run(f"{FERRY} --root {fs}/far rmi {eight}; {far_docker} rmi {eight}; {far_podman} rmi {eight}")
            tables[name][1].append(table)
        sections = [table.markdown(against="ferry send") for pair in tables.values() for some in pair for table in some]
        sections.append(f"The thin bundle of release 8 against releases 1 to 7 has {thin} bytes.\n")
    publish("transfer", "## ssh\n\n`bytes` are all that the near end's interface sent and received, so that ssh, TCP and acknowledgements are in them. "
            "`cpu` has both sides.\n\n" + "\n".join(sections), 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["relay"]:
        relay((sys.argv[2], int(sys.argv[3])), (sys.argv[4], int(sys.argv[5])), float(sys.argv[6]))
    else:
        main()
