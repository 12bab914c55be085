//! Services that people run, from Debian's packages: each starts, answers over a published port, and stops on SIGTERM with the exit
//! code that its program has for that.

use crate::support::ferry;
use crate::support::peers::{Machine, Release};

/// Makes an image of files of the machine's own, and of the libraries that they are linked with.
const IMAGE: &str = r#"
    image() {
      local name=$1 root=$1.root; shift
      mkdir -p $root/usr/{bin,sbin,lib,lib64} $root/{etc,dev,proc,sys,run,root,tmp,var/tmp,var/log/nginx,var/lib/nginx}
      chmod 1777 $root/tmp; for dir in bin sbin lib lib64; do ln -s usr/$dir $root/$dir; done
      cp /etc/passwd /etc/group $root/etc
      cp -a --parents /usr/bin/dash /usr/bin/sh "$@" $root
      find $root -type f \( -perm /111 -o -name '*.so*' \) -print0 | xargs -0 ldd 2>/dev/null | grep -o '/[^ ]*' | sort -u | grep -v : >$root.needs
      while read -r file; do file=$(realpath "$(dirname "$file")")/$(basename "$file"); cp -L --parents "$file" $root; done <$root.needs
      tar -C $root -c . | ferry import -c 'ENV PATH=/usr/sbin:/usr/bin' - $name:1 >/dev/null
    }
"#;
/// Answers are asked for until they come.
const ASK: &str = r#"
    ask() { for i in $(seq 600); do answered $1 2>/dev/null && return; sleep 0.1; done; ferry logs $2; return 1; }
    web() { exec 3<>/dev/tcp/127.0.0.1/$1; printf 'GET / HTTP/1.0\r\n\r\n' >&3; head -n 1 <&3 | grep -q 'HTTP/1.[01] 200'; }
"#;

/// A service: its name, files, options, command, port, a request, and what it ends with.
const SERVICES: [(&str, &str, &str, &str, u16, &str, i32); 6] = [
    (
        "nginx",
        "/usr/sbin/nginx /etc/nginx /usr/share/nginx /usr/lib/nginx /var/www",
        "",
        "nginx -g 'daemon off; error_log stderr;'",
        80,
        "web $1",
        0,
    ),
    ("nginx", "", "--stop-signal QUIT", "nginx -g 'daemon off; error_log stderr;'", 80, "web $1", 0),
    (
        "redis",
        "/usr/bin/redis-server /usr/bin/redis-check-rdb",
        "-w /tmp",
        "redis-server --protected-mode no --bind 0.0.0.0",
        6379,
        "exec 3<>/dev/tcp/127.0.0.1/$1; printf 'PING\\r\\n' >&3; head -n 1 <&3 | grep -q PONG",
        0,
    ),
    (
        "postgres",
        "/usr/lib/postgresql /usr/share/postgresql /usr/share/zoneinfo",
        "-u postgres",
        "sh -c 'PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); initdb -N --no-locale -A trust -D /tmp/d >/dev/null && \
            exec postgres -D /tmp/d -k /tmp -h 0.0.0.0'",
        5432,
        // An SSLRequest, which is answered with one letter.
        "exec 3<>/dev/tcp/127.0.0.1/$1; printf '\\0\\0\\0\\10\\4\\322\\26\\57' >&3; head -c 1 <&3 | grep -q '^[NS]'",
        0,
    ),
    (
        "python",
        "/usr/bin/python3 /usr/bin/python3.* /usr/lib/python3.*",
        "--init -w /etc",
        "python3 -m http.server 80",
        80,
        "web $1",
        143,
    ),
    (
        "node",
        "/usr/bin/node /usr/bin/nodejs /usr/share/nodejs",
        "--init",
        "node -e 'require(\"http\").createServer((q, a) => a.end(\"hello\")).listen(80)'",
        80,
        "web $1",
        143,
    ),
];

#[test]
fn services_answer_over_a_published_port_and_stop_with_their_own_exit_codes() {
    let machine = Machine::start(Release::Debian13);
    let root = machine.dir().join("store");
    let d = format!("ferry() {{ {} --root {} \"$@\"; }}", ferry().display(), root.display());
    let mut said = String::new();
    let mut expected = String::new();
    for (number, (name, files, options, command, port, request, code)) in SERVICES.into_iter().enumerate() {
        let make = if files.is_empty() { String::new() } else { format!("image {name} {files}") };
        let host = 7000 + number;
        let script = format!(
            "{d}\n{IMAGE}\n{ASK}\nset -e\n{make}\nanswered() ( {request}; )
             ferry run -d --name {name} -p {host}:{port} {options} {name}:1 {command} >/dev/null
             ask {host} {name}; ferry stop -t 30 {name}; ferry inspect -f '{{{{.State.ExitCode}}}}' {name}; ferry rm {name} >/dev/null"
        );
        said += &machine.run("bash", ["-c", &script]);
        expected += &format!("{name}\n{code}\n");
    }
    assert_eq!(said, expected);
}
