//! The verbs against docker's own: the cases of `lifecycle/*.txt`, whose output has to be docker's, to the letter.
//!
//! A case is a title behind `==` and lines of shell, played in a directory of its own. `d` is the program; containers have names
//! that no other case has, for cases are played beside each other, and what is left is taken away at the end. Helpers: `is NAME` prints a container's
//! state and exit code, `rc COMMAND` a command's exit code, `until_is NAME WORDS` waits for such a state, `up NAME` until its program has
//! made /up, `attached NAME COUNT` until so many commands have attached; `child PID` is the process that a job's shell has started.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::support::containers::Host;
use crate::support::ferry;
use crate::support::peers::{Machine, Release};

const CASES: [&str; 5] = [
    include_str!("lifecycle/states.txt"),
    include_str!("lifecycle/streams.txt"),
    include_str!("lifecycle/files.txt"),
    include_str!("lifecycle/watch.txt"),
    include_str!("lifecycle/words.txt"),
];
const HELPERS: &str = "
    is() { d inspect -f '{{.State.Status}} {{.State.ExitCode}}' \"$1\" 2>/dev/null || echo \"no $1\"; }
    rc() { local status=0; \"$@\" >/dev/null 2>&1 </dev/null || status=$?; echo \"$status: ${*:2}\"; }
    until_is() { local name=$1; shift; until [ \"$(is \"$name\")\" = \"$*\" ]; do sleep 0.05; done; }
    up() { until d exec \"$1\" rm /up 2>/dev/null; do sleep 0.05; done; }
    attached() { until [ \"$(d events --since 1h --until 0s -f container=$1 -f event=attach | wc -l)\" = $2 ]; do sleep 0.05; done; }
    child() { until pgrep -P \"$1\"; do sleep 0.05; done; }
";
/// Cases of one program that are played at the same time: they wait more than they work.
const BESIDE: usize = 3;

fn cases() -> Vec<(&'static str, &'static str)> {
    let all = CASES.iter().flat_map(|file| file.split("\n== ").skip(1));
    all.map(|case| case.split_once('\n').unwrap()).collect()
}

/// What each case prints with the program that the shell function `d` is.
fn play(machine: &Machine, image: &str, d: &str) -> BTreeMap<&'static str, String> {
    let d = format!("d() {{ {d}; }}");
    machine.run("bash", ["-ec", &format!("{d}; d import -c 'CMD [\"sh\"]' -c 'ENV PATH=/bin' {image} i")]);
    let left = Mutex::new(cases().into_iter().enumerate());
    let said = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some((number, (title, lines))) = { left.lock().unwrap().next() } {
            let script = format!("{d}\n{HELPERS}\nmkdir case-{number}; cd case-{number}\n{lines}");
            let output = machine.command("bash").args(["-c", &script]).output().unwrap();
            // docker's inspect prints an empty line for what is not there.
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let text = text.lines().filter(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect();
            said.lock().unwrap().insert(title, text);
        }
    };
    std::thread::scope(|scope| (0..BESIDE).for_each(|_| drop(scope.spawn(work))));
    machine.run("bash", ["-c", &format!("{d}; d rm -f $(d ps -aq) >/dev/null")]);
    said.into_inner().unwrap()
}

#[test]
fn exit_codes_states_and_output_are_dockers_with_the_built_in_with_runc_and_with_crun() {
    let host = Host::new();
    let image = host.path("image.tar").display().to_string();
    let ferry = |machine: &Machine| format!("{} --root {}", ferry().display(), machine.dir().join("store").display());
    let ours = || {
        let machine = Machine::start(Release::Debian13);
        play(&machine, &image, &format!("{} \"$@\"", ferry(&machine)))
    };
    let with = |runtime: &str| {
        let machine = Machine::start(Release::Debian13);
        let insert = format!("v=$1; shift; case $v in run|create) set -- --runtime {runtime} \"$@\" ;; esac");
        play(&machine, &image, &format!("local v; {insert}; {} $v \"$@\"", ferry(&machine)))
    };
    let (theirs, ours, runcs, cruns) = std::thread::scope(|scope| {
        let ours = scope.spawn(ours);
        let runcs = scope.spawn(|| with("runc"));
        let cruns = scope.spawn(|| with("crun"));
        let machine = Machine::start(Release::Debian13);
        let docker = machine.dockerd();
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
