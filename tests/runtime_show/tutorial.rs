//! The tutorial: run, change, commit, carry to a host that has nothing, run and change there, carry on.

use crate::support::containers::Host;
use crate::support::ferry;

#[test]
fn what_was_made_here_runs_is_changed_and_is_carried_on_at_the_other_side() {
    let host = Host::new();
    // The far side is another store, and another network namespace as its host.
    let far = format!(
        "far() {{ FERRY_ROOT=$PWD/far {ferry} \"$@\"; }}
         busybox ip link set lo up
         get() {{ until busybox wget -qO- \"$1\" 2>/dev/null; do busybox usleep 20000; done; }}
         far images -q; far load -q -i both.tar
         far images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' | sort
         far run -d --name web -p 8081:80 linuxea/httpd:v1 httpd -f -h /data/html >/dev/null
         get http://$(far inspect -f '{{{{.NetworkSettings.Networks.bridge.IPAddress}}}}' web)/
         get http://127.0.0.1:8081/
         far exec web sh -c 'echo \"<h1>far</h1>\" >/data/html/index.html'
         far commit -m 'changed there' web linuxea/httpd:v2 >/dev/null
         far rm -f web
         far save -o back.tar linuxea/httpd:v2
         far history --format '{{{{.Comment}}}}' linuxea/httpd:v2",
        ferry = ferry().display()
    );
    std::fs::write(host.path("far.sh"), far).unwrap();
    let out = host.run(
        "get() { until busybox wget -qO- \"$1\" 2>/dev/null; do busybox usleep 20000; done; }
         ferry run --name page busybox:1 sh -c 'mkdir -p /data/html; echo \"<h1>here</h1>\" >/data/html/index.html'
         ferry commit -m 'a page' page linuxea/httpd:v1 >/dev/null
         ferry run -d --name web -p 8080:80 linuxea/httpd:v1 httpd -f -h /data/html >/dev/null
         ferry ps -a --format '{{.Names}} {{.State}}'
         get http://$(ferry inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web)/
         get http://127.0.0.1:8080/
         ferry rm -f web page
         ferry save -o both.tar linuxea/httpd:v1 busybox:1
         unshare -n sh far.sh
         ferry load -q -i back.tar
         ferry run --rm linuxea/httpd:v2 cat /data/html/index.html
         ferry fsck --contents; FERRY_ROOT=$PWD/far ferry fsck --contents",
    );
    let here = "web running\npage exited\n<h1>here</h1>\n<h1>here</h1>\nweb\npage\n";
    let far = "Loaded image: linuxea/httpd:v1\nLoaded image: busybox:1\nbusybox:1\nlinuxea/httpd:v1\n\
               <h1>here</h1>\n<h1>here</h1>\nweb\nchanged there\na page\nImported from image.tar\n";
    assert_eq!(out, format!("{here}{far}Loaded image: linuxea/httpd:v2\n<h1>far</h1>\n"));
    assert_eq!(host.traces(), Vec::<String>::new());
}
