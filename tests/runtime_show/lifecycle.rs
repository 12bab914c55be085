//! The verbs against docker's own: the cases of `lifecycle.txt`, whose output has to be docker's, to the letter.

use std::collections::BTreeMap;

use crate::support::containers::Host;
use crate::support::ferry;
use crate::support::peers::{Machine, Release};

const CASES: &str = include_str!("lifecycle.txt");
const HELPERS: &str = "
    is() { d inspect -f '{{.State.Status}} {{.State.ExitCode}}' \"$1\" 2>/dev/null || echo \"no $1\"; }
    rc() { local status=0; \"$@\" >/dev/null 2>&1 </dev/null || status=$?; echo \"$status: ${*:2}\"; }
    until_is() { local name=$1; shift; until [ \"$(is \"$name\")\" = \"$*\" ]; do sleep 0.05; done; }
    up() { until d exec \"$1\" rm /up 2>/dev/null; do sleep 0.05; done; }
";

fn cases() -> Vec<(&'static str, &'static str)> {
    CASES.split("\n== ").skip(1).map(|case| case.split_once('\n').unwrap()).collect()
}

/// What each case prints with the program that the shell function `d` is.
fn play(machine: &Machine, image: &str, d: &str) -> BTreeMap<&'static str, String> {
    let mut said = BTreeMap::new();
    let import = "d import -c 'CMD [\"sh\"]' -c 'ENV PATH=/bin'";
    machine.run("bash", ["-ec", &format!("d() {{ {d}; }}; {import} {image} i")]);
    for (title, lines) in cases() {
        let tidy = "ids=$(d ps -aq); [ -z \"$ids\" ] || d rm -f $ids >/dev/null";
        let script = format!("d() {{ {d}; }}\n{HELPERS}\n{lines}\n{tidy}");
        let output = machine.command("bash").args(["-c", &script]).output().unwrap();
        // docker's inspect prints an empty line for what is not there.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        said.insert(title, text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect());
    }
    said
}

#[test]
fn exit_codes_states_and_output_are_dockers_with_the_built_in_with_runc_and_with_crun() {
    let host = Host::new();
    let machine = Machine::start(Release::Debian13);
    let image = host.path("image.tar").display().to_string();
    let docker = machine.dockerd();
    let ferry = |root: &str| format!("{} --root {}", ferry().display(), machine.dir().join(root).display());
    let builtin = format!("{} \"$@\"", ferry("builtin"));
    let with = |runtime: &str| {
        let insert = format!("v=$1; shift; case $v in run|create) set -- --runtime {runtime} \"$@\" ;; esac");
        format!("local v; {insert}; {} $v \"$@\"", ferry(runtime))
    };
    let (theirs, ours, runcs, cruns) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| play(&machine, &image, &builtin));
        let runcs = scope.spawn(|| play(&machine, &image, &with("runc")));
        let cruns = scope.spawn(|| play(&machine, &image, &with("crun")));
        let theirs = play(&machine, &image, &format!("docker -H {} \"$@\"", docker.host));
        (theirs, ours.join().unwrap(), runcs.join().unwrap(), cruns.join().unwrap())
    });
    let mut wrong = String::new();
    for (title, _) in cases() {
        for (whose, said) in [("the built-in", &ours[title]), ("runc", &runcs[title]), ("crun", &cruns[title])] {
            if *said != theirs[title] {
                wrong += &format!("== {title}\n-- docker\n{}-- {whose}\n{said}", theirs[title]);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
