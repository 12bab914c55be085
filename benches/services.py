#!/usr/bin/env python3
"""The services of the corpus in containers: each starts, answers over a published port, and stops as docker's does.

    services.py        CORPUS=/var/tmp/corpus FERRY=target/static/ferry

For each image, ferry's container serves a request on 127.0.0.1 and is then stopped by SIGTERM; its exit code has to be the
one of docker's container of the same command. All in one machine of tools/peer.sh. Fails on the first difference.
"""

import shlex
import sys

from harness import CORPUS, FERRY, FreshFs, Machine, need_corpus, publish

HTTP = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -q1 -w2 127.0.0.1 PORT | grep -q 'HTTP/1.[01] 200'"
POSTGRES = "PATH=$PATH:/usr/lib/postgresql/15/bin; initdb -A trust -D /tmp/d >/dev/null && exec postgres -D /tmp/d -k /tmp -h 0.0.0.0"
NODE = "require('http').createServer((q, a) => a.end('hello')).listen(80); process.on('SIGTERM', () => process.exit(0))"

# name, image, options, command, port, a request that succeeds when it is answered
SERVICES = [
    ("nginx", "nginx:1.22", "--entrypoint nginx", "-g 'daemon off;'", 80, HTTP),
    ("redis", "redis:7", "--entrypoint redis-server", "--protected-mode no --bind 0.0.0.0", 6379,
     r"printf 'PING\r\n' | nc -q1 -w2 127.0.0.1 PORT | grep -q PONG"),
    ("postgres", "postgres:15", "--user postgres --entrypoint sh", f"-c '{POSTGRES}'", 5432,
     # an SSLRequest, which is answered with one letter
     r"printf '\0\0\0\10\4\322\26\57' | nc -q1 -w2 127.0.0.1 PORT | grep -q '^[NS]'"),
    ("python", "python:3.11", "--workdir /etc --entrypoint python3", "-m http.server 80", 80, HTTP),
    ("node", "node:18", "--entrypoint node", f'-e "{NODE}"', 80, HTTP),
]


def main():
    chosen = [service for service in SERVICES if not sys.argv[1:] or service[0] in sys.argv[1:]]
    need_corpus(*(f"docker-archive/{name}.tar" for name, *_ in chosen))
    rows = []
    with FreshFs() as fs, Machine(13) as machine:
        ferry, docker = f"{FERRY} --root {fs}/ferry", machine.dockerd(f"{fs}/docker")
        for number, (name, image, options, command, port, request) in enumerate(chosen):
            ask = request.replace("PORT", str(7000 + number))
            codes = {}
            for tool, network in ((ferry, f"-p {7000 + number}:{port}"), (docker, "--net none")):
                machine.run(f"{tool} load -q -i {CORPUS}/docker-archive/{name}.tar")
                machine.run(f"{tool} run -d --name {name} {network} {options} {image} {command}")
                if tool == ferry:
                    machine.run(f"for i in $(seq 300); do {{ {ask}; }} && exit 0; sleep 0.1; done; {tool} logs {name}; exit 1")
                else:
                    # It has no port: it is asked in its own network namespace.
                    inside = shlex.quote(request.replace("PORT", str(port)))
                    machine.run(f"p=$({tool} inspect -f '{{{{.State.Pid}}}}' {name}); for i in $(seq 300); do "
                                f"nsenter -t $p -n bash -o pipefail -c {inside} && exit 0; sleep 0.1; done; {tool} logs {name}; exit 1")
                machine.run(f"{tool} stop -t 3 {name}")
                codes[tool] = machine.run(f"{tool} inspect -f '{{{{.State.ExitCode}}}}' {name}").strip()
                machine.run(f"{tool} rm {name}")
            print(f"{name}: answers; stopped with {codes[ferry]}, docker's with {codes[docker]}", flush=True)
            if codes[ferry] != codes[docker]:
                sys.exit(f"{name}: the exit codes differ")
            rows.append(f"| {image} | yes | {codes[ferry]} | {codes[docker]} |\n")
    if len(rows) == len(SERVICES):
        publish("services", "## services of the corpus\n\nEach is started by ferry, asked over a published port, and stopped by SIGTERM; docker 26 does the same.\n\n"
                "| image | answers | exit code | docker's |\n|---|---|---|---|\n" + "".join(rows), 1)


if __name__ == "__main__":
    main()
