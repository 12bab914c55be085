"""What the benchmarks share: fresh file systems, peers in machines of their own, and the measuring of a command.

Every cell of a table is measured alike: the wall time of one command with `sync -f` of its file system inside, the processor
time and the largest resident process of the command and of the daemon that works for it, and what the rest of the machine
burnt meanwhile. Tools take turns, round after round, each on a journaled ext4 made for that one run: creating files where many were
just deleted is several times slower on some file systems.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FERRY = os.environ.get("FERRY", os.path.join(TOP, "target/static/ferry"))
CORPUS = os.environ.get("CORPUS", "/var/tmp/corpus")
SCRATCH = os.environ.get("BENCH", "/var/tmp/ferry-bench")
ROUNDS = int(os.environ.get("ROUNDS", "3"))
TICKS = os.sysconf("SC_CLK_TCK")


def sh(script, **options):
    """Runs a shell script; its failure ends the benchmark."""
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, text=True, capture_output=True, **options).stdout


class FreshFs:
    """A journaled ext4 on a loop device, gone at the end."""

    def __init__(self, gib=24):
        os.makedirs(SCRATCH, exist_ok=True)
        self.image = tempfile.mktemp(prefix="fs-", suffix=".img", dir=SCRATCH)
        self.path = self.image[:-4]
        self.gib = gib

    def __enter__(self):
        os.mkdir(self.path)
        # Nothing is left for the kernel to initialise lazily while somebody is measured.
        sh(f"truncate -s {self.gib}G {self.image}; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 {self.image}; "
           # Direct, or the page cache would hold everything twice, and the kernel's flusher do the work of both.
           f"mount $(losetup -f --show --direct-io=on {self.image}) {self.path}; sync")
        return self.path

    def __exit__(self, *_):
        for _ in range(50):
            if subprocess.run(["umount", "-d", self.path], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        else:
            sh(f"umount -d -l {self.path}")
        os.rmdir(self.path)
        os.unlink(self.image)


class Machine:
    """One of the Debian trees in namespaces of its own (tools/peer.sh)."""

    def __init__(self, release, net=True):
        self.keeper = subprocess.Popen([os.path.join(TOP, "tools/peer.sh"), str(release)] + ([] if net else ["-n", "host"]),
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.keeper.stdout.readline()
        if not line.startswith("ready "):
            sys.exit(f"tools/peer.sh {release} did not start")
        self.pid = int(line.split()[1])
        self.servers = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.keeper.stdin.close()
        self.keeper.wait()

    def inside(self, command):
        """The argv that runs a shell command line inside."""
        join = "for g in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do [ ! -e $g ] || echo 0 >$g; done; "
        return ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "bash", "-o", "pipefail", "-c",
                join + "export PATH=/usr/sbin:/usr/bin:/sbin:/bin PODMAN_IGNORE_CGROUPSV1_WARNING=1; " + command]

    def run(self, command):
        done = subprocess.run(self.inside(command), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def daemon(self, command, ready):
        """Starts a server and waits until `ready` succeeds."""
        self.log = tempfile.NamedTemporaryFile(prefix="daemon-", dir=SCRATCH)
        server = subprocess.Popen(self.inside("exec " + command), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.servers.append(server.pid)
        for _ in range(300):
            if subprocess.run(self.inside(ready), stdin=subprocess.DEVNULL, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"{command} does not answer:\n{open(self.log.name).read()[-2000:]}")

    def dockerd(self, root, bridge=False):
        """Starts dockerd with its data-root at `root`, with its bridge on demand; returns what to put before docker's arguments."""
        host = f"unix://{root}.sock"
        self.daemon(f"dockerd -H {host} --data-root {root} --exec-root /run/exec --pidfile /run/dockerd.pid"
                    + ("" if bridge else " --bridge=none --iptables=false --ip6tables=false"), f"docker -H {host} info")
        return f"docker -H {host}"


def processes(roots):
    """The given processes and all that descend from them."""
    children = {}
    for d in os.listdir("/proc"):
        if d.isdigit():
            try:
                parent = int(open(f"/proc/{d}/stat").read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(d))
    found, todo = [], list(roots)
    while todo:
        p = todo.pop()
        found.append(p)
        todo += children.get(p, [])
    return found


def cpu_of(pids):
    total = 0
    for p in pids:
        try:
            fields = open(f"/proc/{p}/stat").read().rsplit(")", 1)[1].split()
            total += sum(int(x) for x in fields[11:15])
        except OSError:
            pass
    return total / TICKS


def peak_of(pids):
    peak = 0
    for p in pids:
        try:
            found = re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{p}/status").read())
            peak = max(peak, int(found.group(1)) if found else 0)
        except OSError:
            pass
    return peak


def busy():
    fields = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICKS


class Run:
    """What one command took: wall and cpu in seconds, peak in MiB, other in processor seconds of everybody else."""

    def __init__(self, wall, cpu, peak, other):
        self.wall, self.cpu, self.peak, self.other = wall, cpu, peak, other


def measure(argv, daemons=()):
    """Runs a command and measures it together with the daemons that serve it, given by PID."""
    sh("sync")
    before = processes(daemons) if daemons else []
    for p in before:
        try:
            open(f"/proc/{p}/clear_refs", "w").write("5")
        except OSError:
            pass
    cpu0, busy0 = cpu_of(before), busy()
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            said.seek(0)
            sys.exit(f"{argv}: status {child.returncode}\n{said.read().decode(errors='replace')[-3000:]}")
    after = processes(daemons) if daemons else []
    cpu = usage.ru_utime + usage.ru_stime + cpu_of(after) - cpu0
    return Run(wall, cpu, max(usage.ru_maxrss, peak_of(after)) / 1024, max(0, busy() - busy0 - cpu))


def local(command):
    """The argv of a shell command line on this host."""
    return ["bash", "-o", "pipefail", "-c", command]


class Table:
    """Rows of a benchmark, in the order they first appear."""

    def __init__(self, title, columns=()):
        self.title, self.columns, self.rows = title, list(columns), {}

    def add(self, name, run, **more):
        self.rows.setdefault(name, []).append((run, more))
        print(f"{self.title}: {name}: {run.wall:.2f} s, cpu {run.cpu:.2f}, peak {run.peak:.0f} MiB, other {run.other:.1f}"
              + "".join(f", {k} {v}" for k, v in more.items()), flush=True)

    def wall(self, name):
        return statistics.median(run.wall for run, _ in self.rows[name])

    def markdown(self, against=None):
        head = ["", "n", "wall s, median (min–max)", "cpu s", "peak MiB"] + self.columns + ["other cpu s"]
        if against:
            head.insert(3, f"× {against}")
        out = [f"### {self.title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name, runs in self.rows.items():
            walls = [run.wall for run, _ in runs]
            digits = 3 if statistics.median(walls) < 2 else 1
            row = [name, str(len(runs)), f"{statistics.median(walls):.{digits}f} ({min(walls):.{digits}f}–{max(walls):.{digits}f})"]
            if against:
                row.append(f"{self.wall(name) / self.wall(against):.2f}")
            row += [f"{statistics.median(run.cpu for run, _ in runs):.2f}", f"{max(run.peak for run, _ in runs):.0f}"]
            row += [str(runs[-1][1].get(column, "")) for column in self.columns]
            row.append(f"{statistics.median(run.other for run, _ in runs):.1f}")
            out.append("| " + " | ".join(row) + " |")
        return "\n".join(out) + "\n"


def machine_line(rounds):
    """One line about where the figures come from."""
    cpu = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read()).group(1)) / 1048576
    ferry = subprocess.run([FERRY, "--version"], capture_output=True, text=True).stdout.strip()
    return (f"{time.strftime('%Y-%m-%d')}, {ferry}, static build; a virtual machine, {os.cpu_count()} cores"
            f"{' (' + cpu.group(1) + ')' if cpu else ''}, {memory:.0f} GiB, Linux {os.uname().release.split('-')[0]}. "
            f"{'One round.' if rounds == 1 else f'{rounds} rounds.'}")


def publish(section, body, rounds=ROUNDS):
    """Puts a section into docs/benchmarks.md, in the place of its last edition."""
    page = os.path.join(TOP, "docs/benchmarks.md")
    text = open(page).read() if os.path.exists(page) else open(os.path.join(TOP, "benches/head.md")).read()
    begin, end = f"<!-- begin {section} -->\n", f"<!-- end {section} -->\n"
    block = begin + machine_line(rounds) + "\n\n" + body + end
    if begin in text:
        a, b = text.index(begin), text.index(end) + len(end)
        text = text[:a] + block + text[b:]
    else:
        text = text.rstrip("\n") + "\n\n" + block
    open(page, "w").write(text)


def need_corpus(*files):
    missing = [f for f in files if not os.path.exists(os.path.join(CORPUS, f))]
    if missing:
        sys.exit(f"the corpus at {CORPUS} lacks {', '.join(missing)} (set CORPUS)")


def clean():
    shutil.rmtree(SCRATCH, ignore_errors=True)
