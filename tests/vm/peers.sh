# docker and podman of Debian 12 work in the guest, on cgroups v2, with networks and rlimits.

mkdir -p root/bin
cp /bin/busybox root/bin/
for a in sh echo true; do ln root/bin/busybox root/bin/$a; done
dockerd --data-root "$PWD/docker" >dockerd.log 2>&1 &
check "dockerd answers" until_true 60 docker info
check "docker imports" sh -c 'tar -C root -c . | docker import - small:1'
check "docker runs a container on its bridge" docker run --rm small:1 /bin/echo hello
check "docker saves" docker save -o small.tar small:1
check "podman loads it" podman --root "$PWD/podman" load -q -i small.tar
check "podman runs a container" podman --root "$PWD/podman" run --rm --network none localhost/small:1 /bin/echo hello
