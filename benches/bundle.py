#!/usr/bin/env python3
"""The bundle against borg, restic, casync and zstd, on the same archives.

    bundle.py [sizes] [blob] [corpus] [thin] [load]        ROUNDS=3 CORPUS=/var/tmp/corpus FERRY=target/static/ferry

LEVELS="fast default" leaves out the level that takes minutes.
"""

import os
import sys

from harness import CORPUS, FERRY, FreshFs, Machine, Table, local, measure, need_corpus, publish, sh

APPS = " ".join(f"app:v{n}" for n in range(1, 9))
APP_ALL = f"{CORPUS}/docker-archive/app-all.tar"
BLOBS = [f"{CORPUS}/docker-archive/bigblob-v{n}.tar" for n in (1, 2)]
ALL = ["busybox", "httpd", "debian", "nginx", "redis", "postgres", "python", "app-all", "node", "bigblob-v1", "bigblob-v2", "weird-1", "weird-2.asmade"]
ENV = "export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes RESTIC_PASSWORD=x; "


def size(path):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path) for f in files) if os.path.isdir(path) else os.path.getsize(path)


def cell(table, name, fs, output, argv, prepare=None):
    sh(f"rm -rf {output}")
    if prepare:
        sh(prepare)
    table.add(name, measure(argv), MB=f"{size(output) / 1e6:.1f}")


def repositories(table, fs, machine, tars):
    """borg, restic and casync, run from the Debian 12 tree with everything they keep below `fs`."""
    env = ENV + f"export BORG_BASE_DIR={fs}/borgbase RESTIC_CACHE_DIR={fs}/cache; "
    steps = {
        "borg 1.2, zstd,3": ("borg", f"rm -rf {fs}/borgbase; borg init -e none {fs}/borg",
                             [f"borg create -C zstd,3 {fs}/borg::{n} {tar}" for n, tar in enumerate(tars)]),
        "restic 0.14": ("restic", f"rm -rf {fs}/cache; restic -q init -r {fs}/restic", [f"restic -q -r {fs}/restic backup {tar}" for tar in tars]),
        "casync 2": ("casync", f"mkdir {fs}/casync",
                     [f"casync make --store={fs}/casync/s.castr {fs}/casync/{n}.caibx {tar}" for n, tar in enumerate(tars)]),
    }
    for name, (output, prepare, commands) in steps.items():
        sh(f"rm -rf {fs}/{output}")
        machine.run(env + prepare)
        taken = measure(machine.inside(env + " && ".join(commands) + f" && sync -f {fs}"))
        table.add(name, taken, MB=f"{size(f'{fs}/{output}') / 1e6:.1f}")


LEVELS = os.environ.get("LEVELS", "fast default max").split()


def rounds():
    return range(int(os.environ.get("ROUNDS", "3")))


def bench_sizes():
    need_corpus("docker-archive/app-all.tar")
    table = Table("eight releases of one application (2,262 MB as docker saves them)", ["MB"])
    with FreshFs(gib=24) as fs:
        sh(f"{FERRY} --root {fs}/store load -q -i {APP_ALL}; cat {APP_ALL} >/dev/null")
        with Machine(12) as machine:
            for _ in rounds():
                for level in LEVELS:
                    for what, command in (("from the store", f"{FERRY} --root {fs}/store save --level {level} -o {fs}/x.ferry {APPS}"),
                                          ("from the tar", f"{FERRY} convert --level {level} {APP_ALL} {fs}/x.ferry")):
                        if level == "max" and what == "from the tar":
                            continue  # minutes of zstd, the same as from the store
                        cell(table, f"ferry bundle, --level {level}, {what}", fs, f"{fs}/x.ferry", local(f"{command} && sync -f {fs}"))
                cell(table, "zstd -3 --long=31 -T2", fs, f"{fs}/z", local(f"zstd -q -3 --long=31 -T2 {APP_ALL} -o {fs}/z && sync -f {fs}"))
                if "max" in LEVELS:
                    cell(table, "zstd -19 --long=31", fs, f"{fs}/z", local(f"zstd -q -19 --long=31 {APP_ALL} -o {fs}/z && sync -f {fs}"))
                cell(table, "docker save | zstd -3 -T2, zstd alone", fs, f"{fs}/z", local(f"zstd -q -3 -T2 {APP_ALL} -o {fs}/z && sync -f {fs}"))
                repositories(table, fs, machine, [APP_ALL])
    publish("bundle", "## the bundle: eight releases\n\n`sync -f` is inside the time for all. The others read the plain tar from the page cache.\n\n"
            + table.markdown(against="ferry bundle, --level default, from the store"))


def bench_blob():
    need_corpus("docker-archive/bigblob-v1.tar", "docker-archive/bigblob-v2.tar")
    table = Table("two releases with one layer of 0.9 GB each (2,062 MB)", ["MB"])
    with FreshFs(gib=24) as fs:
        for tar in BLOBS:
            sh(f"{FERRY} --root {fs}/store load -q -i {tar}")
        with Machine(12) as machine:
            for _ in rounds():
                cell(table, "ferry bundle, default level", fs, f"{fs}/x.ferry",
                     local(f"{FERRY} --root {fs}/store save -o {fs}/x.ferry bigblob:v1 bigblob:v2 && sync -f {fs}"))
                cell(table, "ferry bundle, release 1 alone", fs, f"{fs}/x.ferry",
                     local(f"{FERRY} --root {fs}/store save -o {fs}/x.ferry bigblob:v1 && sync -f {fs}"))
                cell(table, "zstd -3 --long=31 -T2", fs, f"{fs}/z",
                     local(f"cat {' '.join(BLOBS)} | zstd -q -3 --long=31 -T2 -o {fs}/z && sync -f {fs}"))
                repositories(table, fs, machine, BLOBS)
    publish("blob", "## the bundle: one big layer, twice\n\n" + table.markdown(against="ferry bundle, default level"))


def bench_thin():
    need_corpus("docker-archive/app-all.tar", "docker-archive/bigblob-v1.tar", "docker-archive/bigblob-v2.tar")
    table = Table("the second release, given the first", ["MB"])
    with FreshFs(gib=24) as fs:
        sh(f"{FERRY} --root {fs}/store load -q -i {APP_ALL}")
        for tar in BLOBS:
            sh(f"{FERRY} --root {fs}/store load -q -i {tar}")
        ferry = f"{FERRY} --root {fs}/store save"
        sh(f"{ferry} -o {fs}/app7.ferry app:v7; {ferry} -o {fs}/blob1.ferry bigblob:v1")
        sh(f"{ferry} -o {fs}/app7.tar app:v7; {ferry} -o {fs}/app8.tar app:v8")
        for _ in rounds():
            for name, new, base, tars in (("app v7 → v8", "app:v8", f"{fs}/app7.ferry", (f"{fs}/app7.tar", f"{fs}/app8.tar")),
                                          ("big layer v1 → v2", "bigblob:v2", f"{fs}/blob1.ferry", BLOBS)):
                cell(table, f"{name}: ferry, --base", fs, f"{fs}/x.ferry", local(f"{ferry} --base {base} -o {fs}/x.ferry {new} && sync -f {fs}"))
                there = f"{fs}/there"
                sh(f"rm -rf {there}; {FERRY} --root {there} load -q -i {base}; cat {fs}/x.ferry >/dev/null")
                table.add(f"{name}: ferry, load of it where the base is", measure(local(f"{FERRY} --root {there} load -q -i {fs}/x.ferry && sync -f {fs}")), MB="")
                cell(table, f"{name}: zstd -3 --patch-from", fs, f"{fs}/z",
                     local(f"zstd -q -3 --long=31 --patch-from={tars[0]} {tars[1]} -o {fs}/z && sync -f {fs}"))
    publish("thin", "## thin bundles\n\n" + table.markdown())


def bench_corpus():
    tars = [f"{CORPUS}/docker-archive/{name}.tar" for name in ALL]
    need_corpus(*(f"docker-archive/{name}.tar" for name in ALL))
    total = sum(os.path.getsize(tar) for tar in tars) / 1e6
    table = Table(f"all images of the corpus ({total:.0f} MB in {len(tars)} archives)", ["MB"])
    with FreshFs(gib=40) as fs:
        for tar in tars:
            sh(f"{FERRY} --root {fs}/store load -q -i {tar}")
        names = " ".join(sh(f"{FERRY} --root {fs}/store images --format '{{{{.Repository}}}}:{{{{.Tag}}}}'").split())
        with Machine(12) as machine:
            for _ in rounds():
                for level in ("fast", "default"):
                    cell(table, f"ferry bundle, --level {level}", fs, f"{fs}/x.ferry",
                         local(f"{FERRY} --root {fs}/store save --level {level} -o {fs}/x.ferry {names} && sync -f {fs}"))
                repositories(table, fs, machine, tars)
    publish("corpus", "## the bundle: everything\n\nferry writes from its store, the others read the archives.\n\n"
            + table.markdown(against="ferry bundle, --level default"))


class Throttled:
    """A file system that a control group's processes read at no more than 100 MB/s, with nothing of it in the page cache."""

    GROUP = "/sys/fs/cgroup/blkio/ferry-bench"

    def __init__(self, fs):
        self.fs = fs

    def __enter__(self):
        device = sh(f"findmnt -no SOURCE {self.fs}").strip()
        # A fresh mount has no pages of the files.
        sh(f"umount {self.fs}; mount {device} {self.fs}; mkdir {self.GROUP}")
        number = os.stat(device).st_rdev
        sh(f"echo '{os.major(number)}:{os.minor(number)} 100000000' >{self.GROUP}/blkio.throttle.read_bps_device")
        return f"echo $$ >{self.GROUP}/cgroup.procs; "

    def __exit__(self, *_):
        os.rmdir(self.GROUP)


def bench_load():
    need_corpus("docker-archive/app-all.tar")
    fast, slow = Table("from the page cache"), Table("from a medium that reads 100 MB/s")
    with FreshFs(gib=8) as media:
        sh(f"{FERRY} convert {APP_ALL} {media}/x.ferry; cp {APP_ALL} {media}/x.tar; zstd -q -3 -T0 {APP_ALL} -o {media}/x.tar.zst")
        for _ in rounds():
            for name, source in (("the docker-archive", "x.tar"), ("the docker-archive, zstd -3", "x.tar.zst"), ("the bundle", "x.ferry")):
                load = f"{FERRY} --root $FS/store load -q -i {media}/{source} && sync -f $FS"
                sh(f"cat {media}/{source} >/dev/null")
                with FreshFs() as fs:
                    fast.add(name, measure(local(f"FS={fs}; {load}")))
                with FreshFs() as fs, Throttled(media) as join:
                    slow.add(name, measure(local(f"{join} FS={fs}; {load}")))
    publish("bundle-load", "## load of the eight releases from a bundle\n\n" + fast.markdown(against="the docker-archive") + "\n"
            + slow.markdown(against="the docker-archive"))


if __name__ == "__main__":
    for part in sys.argv[1:] or ["sizes", "blob", "corpus", "thin", "load"]:
        {"sizes": bench_sizes, "blob": bench_blob, "corpus": bench_corpus, "thin": bench_thin, "load": bench_load}[part]()
