#!/usr/bin/env python3
"""load and save against docker, podman, skopeo, containerd and GNU tar, on the same archives, taking turns.

    load_save.py [load] [save]        ROUNDS=3 CORPUS=/var/tmp/corpus FERRY=target/static/ferry INPUTS="app-all node"
"""

import json
import os
import sys
import tarfile

from harness import CORPUS, FERRY, ROUNDS, SCRATCH, FreshFs, Machine, Table, local, measure, need_corpus, publish, sh

APPS = " ".join(f"app:v{n}" for n in range(1, 9))
INPUTS = os.environ.get("INPUTS", "app-all node").split()


def archive(name):
    return f"{CORPUS}/docker-archive/{name}.tar"


def layers_of(name):
    """Each distinct layer of the archive as a plain tar file of its own, for GNU tar to unpack."""
    out = f"{SCRATCH}/layers-{name}"
    if not os.path.exists(f"{out}/list"):
        os.makedirs(out, exist_ok=True)
        manifest = json.loads(sh(f"tar -xOf {archive(name)} manifest.json"))
        paths = list(dict.fromkeys(path for image in manifest for path in image["Layers"]))
        with tarfile.open(archive(name)) as tar:
            for number, path in enumerate(paths):
                member = tar.getmember(path)
                while member.issym():
                    member = tar.getmember(os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname)))
                with tar.extractfile(member) as source, open(f"{out}/{number}.tar", "wb") as target:
                    while block := source.read(1 << 20):
                        target.write(block)
        open(f"{out}/list", "w").write("\n".join(f"{out}/{n}.tar" for n in range(len(paths))))
    return open(f"{out}/list").read().split()


def warm(*files):
    for f in files:
        sh(f"cat {f} >/dev/null")


def load_with_ferry(fs, name, _):
    return measure(local(f"{FERRY} --root {fs}/ferry load -q -i {archive(name)} && sync -f {fs}"))


def load_with_docker(fs, name, release):
    with Machine(release) as machine:
        docker = machine.dockerd(f"{fs}/docker")
        return measure(machine.inside(f"{docker} load -q -i {archive(name)} && sync -f {fs}"), machine.servers)


def load_with_podman(fs, name, release):
    with Machine(release) as machine:
        return measure(machine.inside(f"podman --root {fs}/podman --runroot /run/podman load -q -i {archive(name)} && sync -f {fs}"))


def load_with_skopeo(fs, name, release):
    with Machine(release) as machine:
        manifest = json.loads(sh(f"tar -xOf {archive(name)} manifest.json"))
        names = [tag for image in manifest for tag in image["RepoTags"]]
        storage = f"containers-storage:[overlay@{fs}/containers+/run/podman]"
        steps = [f"skopeo --insecure-policy copy -q docker-archive:{archive(name)}:{tag} {storage}{tag}" for tag in names]
        return measure(machine.inside(" && ".join(steps) + f" && sync -f {fs}"))


def load_with_ctr(fs, name, release):
    with Machine(release) as machine:
        machine.daemon(f"containerd --root {fs}/ctd --state /run/ctd --address /run/ctr.sock", "ctr -a /run/ctr.sock version")
        return measure(machine.inside(f"ctr -a /run/ctr.sock images import {archive(name)} && sync -f {fs}"), machine.servers)


def unpack_with_tar(fs, name, _):
    steps = [f"mkdir {fs}/{n} && tar --xattrs --xattrs-include='*' -xpf {layer} -C {fs}/{n}" for n, layer in enumerate(layers_of(name))]
    return measure(local(" && ".join(steps) + f" && sync -f {fs}"))


LOADERS = {
    "ferry load": (load_with_ferry, None),
    "GNU tar, the layers one after the other": (unpack_with_tar, None),
    "docker 20.10 load": (load_with_docker, 12),
    "docker 26 load": (load_with_docker, 13),
    "podman 5 load": (load_with_podman, 13),
    "skopeo 1.18 copy, image by image": (load_with_skopeo, 13),
    "ctr images import (containerd 1.7)": (load_with_ctr, 13),
}


def bench_load():
    parts = []
    for name in INPUTS:
        need_corpus(f"docker-archive/{name}.tar")
        size = os.path.getsize(archive(name)) / 1e6
        table = Table(f"load of {name}.tar ({size:.0f} MB)")
        for _ in range(ROUNDS):
            for tool, (run, release) in LOADERS.items():
                warm(archive(name), *(layers_of(name) if "tar" in tool else []))
                with FreshFs() as fs:
                    table.add(tool, run(fs, name, release))
        parts.append(table.markdown(against="ferry load"))
    publish("load", "## load\n\nFrom a plain docker-archive in the page cache to a durable store: `sync -f` of the target is inside the time, for all "
            "alike. Each run has a fresh journaled ext4 of its own. tar gets the layers as files, unpacked from the archive beforehand, and neither hashes "
            "nor records anything.\n\n" + "\n".join(parts))


def bench_save():
    need_corpus("docker-archive/app-all.tar")
    source = archive("app-all")
    table = Table("save of eight releases (app:v1 … v8)", ["MB"])
    zst = Table("the same, compressed with zstd", ["MB"])
    with FreshFs(gib=48) as fs:
        out = f"{fs}/out"
        with Machine(12) as old, Machine(13) as new:
            docker20, docker26 = old.dockerd(f"{fs}/docker20"), new.dockerd(f"{fs}/docker26")
            podman = f"podman --root {fs}/podman --runroot /run/podman"
            sh(f"{FERRY} --root {fs}/ferry load -q -i {source}")
            old.run(f"{docker20} load -q -i {source}")
            new.run(f"{docker26} load -q -i {source}")
            new.run(f"{podman} load -q -i {source}")
            names = " ".join(new.run(f"{podman} images --format '{{{{.Repository}}}}:{{{{.Tag}}}}'").split())
            storage = f"containers-storage:[overlay@{fs}/podman+/run/podman]"
            copies = " && ".join(f"skopeo --insecure-policy copy -q {storage}{n} oci:{out}.tar:{n.split(':')[-1]}" for n in names.split())
            skopeo = "skopeo 1.18 copy, image by image, to an OCI layout (gzip)"
            # The tool: the store it reads, and the argv.
            savers = {
                "ferry save": ("ferry", local(f"{FERRY} --root {fs}/ferry save -o {out}.tar {APPS} && sync -f {fs}"), ()),
                "docker 20.10 save": ("docker20", old.inside(f"{docker20} save -o {out}.tar {APPS} && sync -f {fs}"), old.servers),
                "docker 26 save": ("docker26", new.inside(f"{docker26} save -o {out}.tar {APPS} && sync -f {fs}"), new.servers),
                "podman 5 save --multi-image-archive":
                    ("podman", new.inside(f"{podman} save -q --multi-image-archive -o {out}.tar {names} && sync -f {fs}"), ()),
                skopeo: ("podman", new.inside(f"{copies} && sync -f {fs}"), ()),
            }
            compressors = {
                "ferry save -o app.tar.zst": f"{FERRY} --root {fs}/ferry save -o {out}.tar.zst {APPS}",
                "zstd -3 -T0 of the tar alone": f"zstd -q -3 -T0 -f {source} -o {out}.tar.zst",
            }
            for number in range(ROUNDS):
                for tool, (store, argv, servers) in savers.items():
                    if tool == skopeo and number > 0:
                        continue  # a minute of gzip, each time the same
                    sh(f"find {fs}/{store} -type f -exec cat {{}} + >/dev/null")
                    taken = measure(argv, servers)
                    table.add(tool, taken, MB=f"{int(sh(f'du -sb {out}.tar').split()[0]) / 1e6:.0f}")
                    sh(f"rm -r {out}.tar")
                for tool, command in compressors.items():
                    warm(source)
                    taken = measure(local(f"{command} && sync -f {fs}"))
                    zst.add(tool, taken, MB=f"{os.path.getsize(out + '.tar.zst') / 1e6:.0f}")
                    os.unlink(out + ".tar.zst")
    publish("save", "## save\n\nFrom a store in the page cache to a file on the same journaled ext4, `sync -f` inside the time.\n\n"
            + table.markdown(against="ferry save") + "\n" + zst.markdown(against="ferry save -o app.tar.zst"))


if __name__ == "__main__":
    for part in sys.argv[1:] or ["load", "save"]:
        {"load": bench_load, "save": bench_save}[part]()
