//! Images from host to host by ssh: only what is missing crosses, and what breaks off goes on.

use std::fs;
use std::io::Read;

use ferry::transfer::remote::quote;

use crate::support::ferry;
use crate::support::peers::{Machine, Release, Sshd, succeed};
use crate::support::site::{Site, noise};

/// OpenSSH's client in the server's machine, as the words before the host.
fn by_ssh(sshd: &Sshd<'_>) -> String {
    let command = sshd.ssh("true");
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.truncate(words.len() - 2);
    words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

#[test]
fn images_arrive_at_a_bare_host_and_the_next_release_costs_what_is_new() {
    let machine = Machine::on_host_network(Release::Debian12);
    let sshd = machine.sshd();
    let (ssh, host) = (by_ssh(&sshd), "root@127.0.0.1");
    let (near, far) = (Site::new(&machine, "near"), Site::new(&machine, "far"));
    let far_root = far.root.to_str().unwrap().to_owned();
    let binary = crate::support::static_ferry();
    let send = |words: &[&str]| {
        let mut all = vec!["send", "--remote-root", &far_root, "--json", "--ferry-binary", binary.to_str().unwrap()];
        all.extend(words);
        all.extend(["--ssh", &ssh, host]);
        let out = near.command(&all).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };
    near.release(&machine, 1);
    let first = send(&["app:v1"]);
    assert_eq!(first["loaded"], serde_json::json!(["app:v1"]));
    assert_eq!(near.images(), far.images());
    // The same again: nothing but an index.
    let again = send(&["app:v1"]);
    assert_eq!((&again["layers_present"], &again["layers"]), (&1.into(), &1.into()));
    assert!(again["wire"].as_u64().unwrap() < 4000, "{again}");
    // What a dry run says is what is sent.
    near.release(&machine, 2);
    let dry = send(&["--dry-run", "app:v2"]);
    assert!(!far.images().contains("app:v2"));
    let second = send(&["app:v2"]);
    assert_eq!((&dry["stream"], &dry["wire"]), (&second["stream"], &second["wire"]));
    assert_eq!(near.images(), far.images());

    // And back, to a third place.
    let third = Site::new(&machine, "third");
    let binary = binary.to_str().unwrap();
    let words = ["fetch", "--remote-root", &far_root, "--ferry-binary", binary, "--ssh", &ssh, host, "app:v2"];
    third.run(&words);
    assert!(far.images().contains(third.images().trim()));
    // What comes this way is loaded, for whoever watches.
    let loads = |site: &Site| {
        let words = ["events", "--since", "1h", "--until", "0s", "-f", "event=load", "--format", "{{.Actor.ID}}"];
        site.run(&words)
    };
    let id = |site: &Site, image: &str| site.run(&["images", "--no-trunc", "-q", image]);
    assert_eq!(loads(&far), id(&far, "app:v1").repeat(2) + &id(&far, "app:v2"));
    assert_eq!(loads(&third), id(&third, "app:v2"));
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let machine = Machine::start(Release::Debian12);
    let (near, far) = (Site::new(&machine, "near"), Site::new(&machine, "far"));
    near.release(&machine, 1);
    // A line that ends after so many bytes. It passes on what comes as it comes: a buffer would hold messages back.
    let line = machine.dir().join("line");
    let agent = format!("{} --root '{}' agent", ferry().display(), far.root.display());
    let cut_file = machine.dir().join("cut");
    let cutter = "import os, sys\nleft = int(open(sys.argv[1]).read())\nwhile left > 0:\n    b = os.read(0, min(left, 65536))\n    \
                  if not b: break\n    os.write(1, b); left -= len(b)\n";
    fs::write(machine.dir().join("cutter.py"), cutter).unwrap();
    let script = format!("#!/bin/sh\npython3 '{0}/cutter.py' '{0}/cut' | {agent}\n", machine.dir().display());
    fs::write(&line, script).unwrap();
    fs::set_permissions(&line, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // Looking at the host and starting the agent are two commands; only the second is cut.
    let ssh = machine.dir().join("ssh");
    let script = format!(
        "#!/bin/sh\nshift\ncase \"$1\" in *' agent'*) exec '{}' ;; *) exec sh -c \"$1\" ;; esac\n",
        line.display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bin = machine.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(ferry(), bin.join("ferry")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut sent = 0;
    let mut resumed = 0;
    for (round, cut) in [150_000, 1, 200_000, 5_000, 100_000, 100_000_000].into_iter().enumerate() {
        fs::write(&cut_file, cut.to_string()).unwrap();
        let words = ["send", "--json", "--no-upload", "--ssh", ssh.to_str().unwrap(), "app:v1", "far"];
        let out = near.command(&words).env("PATH", &path).output().unwrap();
        if round < 5 {
            assert_eq!(out.status.code(), Some(9), "cut {cut}: {}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(far.images(), "", "nothing is visible before all of it is there");
            sent += cut;
        } else {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            resumed = told["resumed"].as_u64().unwrap();
            sent += told["wire"].as_u64().unwrap();
        }
    }
    assert!(resumed > 300_000, "{resumed}");
    let whole = 600_000;
    // Each break loses at most the message that it cuts.
    assert!(sent < whole * 11 / 10 + 5 * 33_000, "{sent} bytes in all tries");
    assert_eq!(near.images(), far.images());
    assert_eq!(fs::read_dir(far.root.join("ferry/transfers")).unwrap().count(), 0);
}

#[test]
fn a_peer_that_talks_nonsense_is_an_error_and_leaves_nothing() {
    let machine = Machine::start(Release::Debian12);
    let far = Site::new(&machine, "far");
    let hello = |tail: &[u8]| {
        let json = br#"{"protocol":1,"version":"0","platform":"linux/amd64"}"#;
        [&(json.len() as u32 + 1).to_le_bytes()[..], &[1], json, tail].concat()
    };
    let message =
        |kind: u8, json: &str| [&(json.len() as u32 + 1).to_le_bytes()[..], &[kind], json.as_bytes()].concat();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let offer = message(3, &format!(r#"{{"images":[{{"names":["a:1"],"id":"{zeros}","layers":[]}}]}}"#));
    let stream = message(8, &format!(r#"{{"plan":"{zeros}"}}"#));
    let resume = message(9, r#"{"offset":0,"hash":""}"#);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("silence", vec![]),
        ("noise", vec![0xff; 4096]),
        ("a message of 4 GiB", hello(&[0xff; 8])),
        ("an unknown kind", hello(&[1, 0, 0, 0, 99])),
        ("nothing in turn", hello(&message(12, r#"{"loaded":[]}"#))),
        ("deep JSON", hello(&message(3, &"[".repeat(100_000)))),
        ("an offer that ends", hello(&offer)),
        (
            "data that is no bundle",
            hello(
                &[
                    offer.clone(),
                    stream.clone(),
                    resume.clone(),
                    message(10, "xxxx"),
                    message(11, r#"{"length":4,"hash":"0"}"#),
                ]
                .concat(),
            ),
        ),
        (
            "a stream that goes on elsewhere",
            hello(&[offer.clone(), stream.clone(), message(9, r#"{"offset":77,"hash":""}"#)].concat()),
        ),
    ];
    for (name, bytes) in cases {
        let input = machine.dir().join("input");
        fs::write(&input, bytes).unwrap();
        let mut command = far.command(&["agent"]);
        let mut child = command
            .stdin(fs::File::open(&input).unwrap())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(!out.status.success(), "{name}");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(stderr.starts_with("ferry: ") && !stderr.contains("panicked"), "{name}: {stderr}");
        assert_eq!(far.images(), "", "{name}");
    }
}

#[test]
fn an_agent_answers_what_has_come_though_nothing_more_does() {
    use std::io::Write;

    use ferry::transfer::patience::Patient;
    use ferry::transfer::wire::{Hello, Message, Offer, await_banner};

    let machine = Machine::start(Release::Debian12);
    let mut command = Site::new(&machine, "far").command(&["agent"]);
    let piped = std::process::Stdio::piped;
    let mut agent = command.stdin(piped()).stdout(piped()).spawn().unwrap();
    // Both in one piece: what the agent reads of it at once it must not forget when it waits.
    let mut bytes = Vec::new();
    let hello = Hello { protocol: 1, version: "0".into(), platform: "linux/amd64".into() };
    Message::Hello(hello).write(&mut bytes).unwrap();
    Message::Offer(Offer { images: vec![] }).write(&mut bytes).unwrap();
    let mut stdin = agent.stdin.take().unwrap();
    stdin.write_all(&bytes).unwrap();
    let mut stdout = Patient::new(agent.stdout.take().unwrap(), std::time::Duration::from_secs(30)).unwrap();
    await_banner(&mut stdout).unwrap();
    let answer =
        (0..30).map(|_| Message::read(&mut stdout).unwrap()).find(|message| matches!(message, Message::Have(_)));
    assert!(answer.is_some(), "only signs of life");
    drop(stdin);
    agent.wait().unwrap();
}

/// A host that is this machine: the look at it is whole, the agent's input ends after so many bytes, as the file says.
fn cut_line(machine: &Machine) -> (String, std::path::PathBuf) {
    let (cut, ssh, cutter) = (machine.dir().join("cut"), machine.dir().join("cut-ssh"), machine.dir().join("cut.py"));
    let python = "import os, sys\nleft = int(open(sys.argv[1]).read())\nwhile left > 0:\n    b = os.read(0, min(left, 65536))\n    \
                  if not b: break\n    while b: n = os.write(1, b); b = b[n:]; left -= n\n";
    fs::write(&cutter, python).unwrap();
    let script = format!(
        "#!/bin/sh\nshift\ncase \"$1\" in *' agent'*) python3 {} {} | sh -c \"$1\" ;; *) exec sh -c \"$1\" ;; esac\n",
        quote(&cutter.display().to_string()),
        quote(&cut.display().to_string())
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (quote(&ssh.display().to_string()), cut)
}

/// All of them with FERRY_CUTS=50.
#[test]
fn transfers_cut_at_any_byte_go_on_and_cost_little_more_than_a_clean_one() {
    let rounds: u32 = std::env::var("FERRY_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let (ssh, cut_file) = cut_line(&machine);
    let bin = machine.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(ferry(), bin.join("ferry")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let send = |root: &str, cut: u64| {
        fs::write(&cut_file, cut.to_string()).unwrap();
        let words = ["send", "--json", "--no-upload", "--remote-root", root, "--ssh", &ssh, "app:v1", "far"];
        near.command(&words).env("PATH", &path).output().unwrap()
    };
    let told = |out: &std::process::Output| serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap();
    let clean_site = Site::new(&machine, "clean");
    let out = send(clean_site.root.to_str().unwrap(), u64::MAX >> 1);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let clean = told(&out)["wire"].as_u64().unwrap();
    let mut random = 20_261_126_u64;
    let (mut all, mut most) = (0, 0);
    for round in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let cut = 1 + (random >> 20) % (clean - 1);
        let far = Site::new(&machine, &format!("far-{round}"));
        let root = far.root.to_str().unwrap();
        let out = send(root, cut);
        assert_eq!(out.status.code(), Some(9), "cut at {cut}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(far.images(), "", "nothing is visible before all of it is there");
        let out = send(root, u64::MAX >> 1);
        assert!(out.status.success(), "cut at {cut}: {}", String::from_utf8_lossy(&out.stderr));
        let second = told(&out)["wire"].as_u64().unwrap();
        assert!((cut + second) * 10 <= clean * 11, "cut at {cut}: {second} bytes more, {clean} in a clean transfer");
        (all, most) = (all + cut + second, most.max(cut + second));
        assert_eq!(near.images(), far.images());
        assert!(far.run(&["fsck"]).is_empty() || far.command(&["fsck"]).output().unwrap().status.success());
        fs::remove_dir_all(&far.root).unwrap();
    }
    let share = |bytes: u64| bytes as f64 / clean as f64;
    println!("{rounds} cuts: {:.3} of a clean transfer, {:.3} at most", share(all) / f64::from(rounds), share(most));
}

#[test]
fn a_key_that_may_run_an_agent_alone_sends_and_fetches_by_it() {
    let machine = Machine::start(Release::Debian12);
    let (near, far, third) = (Site::new(&machine, "near"), Site::new(&machine, "far"), Site::new(&machine, "third"));
    // As a forced command it does not look at what is asked for.
    let ssh = machine.dir().join("forced");
    let (program, root) = (quote(ferry().to_str().unwrap()), quote(far.root.to_str().unwrap()));
    fs::write(&ssh, format!("#!/bin/sh\nexec {program} --root {root} agent --reveal 'app:v1'\n")).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ssh = quote(ssh.to_str().unwrap());
    near.release(&machine, 1);
    near.run(&["send", "--ssh", &ssh, "app:v1", "far"]);
    assert_eq!(near.images(), far.images());
    third.run(&["fetch", "--ssh", &ssh, "far", "app:v1"]);
    assert_eq!(near.images(), third.images());
    for (option, value) in [("--to", "docker"), ("--remote-root", "/elsewhere")] {
        let out = near.command(&["send", "--ssh", &ssh, option, value, "app:v1", "far"]).output().unwrap();
        assert_eq!(out.status.code(), Some(7), "{option}");
        let expected = format!("a forced command answers there, and {option} would be for that one to say");
        assert!(String::from_utf8_lossy(&out.stderr).contains(&expected), "{out:?}");
    }
}

#[test]
fn sixteen_hosts_share_one_reading_and_one_compression() {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use ferry::base::{BoxFault, Ctx, ReadAt};
    use ferry::bundle::{BundleOptions, Level};
    use ferry::image::{Extent, Form, Image, ImageSource, Layer, SplitContent, SplitSink};
    use ferry::ops::send::{Visible, answer, chosen};
    use ferry::store::{self, LoadOptions, Store};
    use ferry::transfer::ground::Ground;
    use ferry::transfer::home::{Reveal, StoreHome};
    use ferry::transfer::send::{SendOptions, Sender};
    use ferry::transfer::session::Session;
    use ferry::transfer::wire::await_banner;

    /// Counts what is read of a source.
    struct Counting<'s>(&'s dyn ImageSource, Arc<AtomicU64>);
    struct CountingBytes(Arc<dyn ReadAt>, Arc<AtomicU64>);
    impl ReadAt for CountingBytes {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(buf, offset)
        }
    }
    impl ImageSource for Counting<'_> {
        fn origin(&self) -> String {
            self.0.origin()
        }
        fn images(&self) -> &[Image] {
            self.0.images()
        }
        fn open_layer(&self, layer: &Layer, form: Form) -> Result<Box<dyn Read + Send + '_>, BoxFault> {
            panic!("layer {} is read as a whole in form {form:?}", layer.diff_id)
        }
        fn split_layer(&self, layer: &Layer, sink: &mut dyn SplitSink) -> Result<bool, BoxFault> {
            self.0.split_layer(layer, sink)
        }
        fn has_contents(&self, layer: &Layer) -> bool {
            self.0.has_contents(layer)
        }
        fn content(&self, layer: &Layer, content: &SplitContent<'_>) -> Result<Option<Extent>, BoxFault> {
            let counted = |extent: Extent| Extent {
                bytes: Arc::new(CountingBytes(extent.bytes, self.1.clone())),
                offset: extent.offset,
            };
            Ok(self.0.content(layer, content)?.map(counted))
        }
    }

    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let ctx = Ctx::silent();
    let open = |site: &Site| Store::open_or_create(&site.root, store::Options::default()).unwrap();
    let near_store = open(&near);
    let (source, images) = chosen(&near_store, &["app:v1".to_owned()], &ctx).unwrap();
    let spool = machine.dir().to_owned();
    let bundle =
        BundleOptions { level: Level::FAST, threads: 2, memory: 1 << 28, keep_originals: true, spool_dir: spool };
    let options = SendOptions { bundle, level: None, hints: vec![], rate: None, dry_run: false };
    let mut counts = Vec::new();
    for hosts in [1, 16] {
        let read = Arc::new(AtomicU64::new(0));
        let counting = Counting(&source, read.clone());
        let ground = Ground { store: None, source: &counting, bundle: None, threads: 2 };
        let sender = Sender::new(ground, &images, options.clone());
        let stores: Vec<Store> = (0..hosts).map(|n| open(&Site::new(&machine, &format!("far-{hosts}-{n}")))).collect();
        std::thread::scope(|scope| {
            for store in &stores {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let (ctx, options, sender) = (&ctx, &options, &sender);
                scope.spawn(move || {
                    let home = StoreHome::new(store, LoadOptions::default(), Reveal::All);
                    let visible = Visible::default();
                    let (from, to) = (Box::new(theirs.try_clone().unwrap()), Box::new(theirs));
                    let mut session = Session::far(from, to).unwrap();
                    answer(&mut session, &home, Some((store, &visible)), &|| Ok(()), options, ctx)
                        .unwrap_or_else(|fault| panic!("{fault}"));
                });
                scope.spawn(move || {
                    let mut from = ours.try_clone().unwrap();
                    await_banner(&mut from).unwrap();
                    let mut session = Session::near(Box::new(from), Box::new(ours)).unwrap();
                    let sent = sender.send(&mut session, "far", ctx).unwrap_or_else(|fault| panic!("{fault}"));
                    assert_eq!(sent.loaded, ["app:v1"]);
                });
            }
        });
        for n in 0..hosts {
            assert_eq!(Site::new(&machine, &format!("far-{hosts}-{n}")).images(), near.images());
        }
        counts.push((read.load(Ordering::Relaxed), sender.streams()));
    }
    // The same bytes for sixteen as for one, in one stream.
    assert_eq!(counts[0], counts[1]);
    let (read, (streams, written)) = counts[1];
    assert_eq!((read, streams), (600_001, 1), "each byte of the files is read once");
    assert!(written < 610_000, "{written}");
}

#[test]
fn one_host_that_fails_does_not_stop_the_others() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 1);
    let ssh = machine.dir().join("ssh");
    let script = format!(
        "#!/bin/sh\ncase $1 in bad) echo 'no route to host' >&2; exit 255 ;; esac\nexec env FERRY_ROOT='{}/'$1 PATH='{}':$PATH sh -c \"$2\"\n",
        machine.dir().display(),
        ferry().parent().unwrap().display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hosts = machine.dir().join("hosts");
    fs::write(&hosts, "one # the first\n\nbad\ntwo\n").unwrap();
    let words = ["send", "--no-upload", "--json", "--hosts", hosts.to_str().unwrap(), "--ssh", ssh.to_str().unwrap()];
    let out = near.command(&words).args(["--parallel", "3", "app:v1"]).output().unwrap();
    assert_eq!(out.status.code(), Some(9));
    let lines: Vec<serde_json::Value> =
        String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[1]["error"].as_str().unwrap().contains("no route to host"), "{}", lines[1]);
    for site in ["one", "two"] {
        assert_eq!(Site::new(&machine, site).images(), near.images());
    }
}

#[test]
fn archives_and_bundles_are_sent_as_they_are_and_what_is_common_is_not() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    (1..=2).for_each(|number| near.release(&machine, number));
    let far = Site::new(&machine, "far");
    let (ssh, _) = cut_line(&machine);
    fs::write(machine.dir().join("cut"), (u64::MAX >> 1).to_string()).unwrap();
    let path = format!("{}:/usr/bin:/bin", ferry().parent().unwrap().display());
    let file = |name: &str| machine.dir().join(name).to_str().unwrap().to_owned();
    near.run(&["save", "-o", &file("both.tar"), "app:v1", "app:v2"]);
    near.run(&["save", "-o", &file("both.tar.zst"), "app:v1", "app:v2"]);
    near.run(&["save", "-o", &file("both.ferry"), "app:v1", "app:v2"]);
    // With a store on this side that is empty: what is common is in the archive itself.
    let empty = Site::new(&machine, "empty");
    for (input, most) in [("both.tar", 20_000), ("both.ferry", 20_000), ("both.tar.zst", 20_000)] {
        let root = far.root.to_str().unwrap();
        for image in ["app:v1", "app:v2"] {
            let words = ["send", "-i", &file(input), "--json", "--no-upload", "--remote-root", root, "--ssh", &ssh];
            let out = empty.command(&words).args([image, "far"]).env("PATH", &path).output().unwrap();
            assert!(out.status.success(), "{input}: {}", String::from_utf8_lossy(&out.stderr));
            let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            let wire = told["wire"].as_u64().unwrap();
            assert!(if image == "app:v1" { wire > 500_000 } else { wire < most }, "{input}: {told}");
        }
        assert_eq!(far.images(), near.images(), "{input}");
        fs::remove_dir_all(&far.root).unwrap();
    }
    let words = ["send", "-i", &file("both.tar"), "--no-upload", "--ssh", &ssh, "app:v9", "far"];
    let out = empty.command(&words).env("PATH", &path).output().unwrap();
    assert_eq!(out.status.code(), Some(3), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn contents_are_found_in_layers_that_only_the_receiver_knows_unless_they_are_hidden() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    near.release(&machine, 2);
    let path = format!("{}:/usr/bin:/bin", ferry().parent().unwrap().display());
    for (reveal, cheap) in
        [("", true), ("--reveal 'app:*'", true), ("--reveal other", false), ("--reveal-nothing", false)]
    {
        // The far side has a release that this side has never seen.
        let far = Site::new(&machine, "far");
        far.release(&machine, 1);
        let ssh = machine.dir().join("ssh");
        let script = format!(
            "#!/bin/sh\ncase \"$2\" in *' agent'*) exec ferry --root '{}' agent {reveal} ;; *) exec sh -c \"$2\" ;; esac\n",
            far.root.display()
        );
        fs::write(&ssh, script).unwrap();
        fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let words = ["send", "--json", "--no-upload", "--ssh", ssh.to_str().unwrap(), "app:v2", "far"];
        let out = near.command(&words).env("PATH", &path).output().unwrap();
        assert!(out.status.success(), "{reveal}: {}", String::from_utf8_lossy(&out.stderr));
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(told["wire"].as_u64().unwrap() < 20_000, cheap, "{reveal}: {told}");
        assert!(far.images().contains(near.images().trim()));
        // What is hidden cannot be fetched either.
        let words = ["fetch", "--no-upload", "--ssh", ssh.to_str().unwrap(), "far", "app:v1"];
        let third = Site::new(&machine, "third");
        let out = third.command(&words).env("PATH", &path).output().unwrap();
        assert_eq!(out.status.code(), Some(if cheap { 0 } else { 3 }), "{reveal}");
        for site in [far.root, third.root] {
            let _ = fs::remove_dir_all(site);
        }
    }
}

#[test]
fn a_file_on_another_host_is_read_in_place() {
    let machine = Machine::start(Release::Debian12);
    let near = Site::new(&machine, "near");
    (1..=2).for_each(|number| near.release(&machine, number));
    let folder = machine.dir().join("a 'b' \"c\"");
    fs::create_dir(&folder).unwrap();
    let ssh = machine.dir().join("ssh");
    let count = machine.dir().join("count");
    let script = format!("#!/bin/sh\nsh -c \"$2\" | tee -a {}\n", quote(&count.display().to_string()));
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let here = Site::new(&machine, "here");
    let first = machine.dir().join("first.tar");
    near.run(&["save", "-o", first.to_str().unwrap(), "app:v1"]);
    here.run(&["load", "-i", first.to_str().unwrap()]);
    for name in ["two.ferry", "two.tar", "two.tar.zst"] {
        let file = folder.join(name);
        near.run(&["save", "-o", file.to_str().unwrap(), "app:v1", "app:v2"]);
        let url = format!("ssh://op@far{}", file.display());
        fs::write(&count, "").unwrap();
        here.run(&["load", "-i", &url, "--ssh", ssh.to_str().unwrap()]);
        assert_eq!(here.images(), near.images(), "{name}");
        here.run(&["rmi", "app:v2"]);
    }
    // Layers that are here are not read again.
    fs::write(&count, "").unwrap();
    here.run(&["load", "-i", &format!("ssh://far{}/two.tar", folder.display()), "--ssh", ssh.to_str().unwrap()]);
    let all = folder.join("two.tar").metadata().unwrap().len();
    let crossed = count.metadata().unwrap().len();
    assert!(crossed < all * 2 / 3, "{crossed} of {all} bytes crossed");
    // A ferry there looks into it, whatever it is, and sends what is missing.
    let path = format!("{}:{}", ferry().parent().unwrap().display(), std::env::var("PATH").unwrap());
    for name in ["alone.ferry", "alone.tar", "alone.tar.zst"] {
        near.run(&["save", "-o", folder.join(name).to_str().unwrap(), "app:v2"]);
    }
    for name in ["two.ferry", "two.tar", "two.tar.zst", "alone.ferry", "alone.tar", "alone.tar.zst"] {
        here.run(&["rmi", "app:v2"]);
        fs::write(&count, "").unwrap();
        let url = format!("ssh://far{}/{name}", folder.display());
        let mut load = here.command(&["load", "-i", &url, "--ssh", ssh.to_str().unwrap()]);
        let told = succeed(load.env("PATH", &path));
        assert!(told.ends_with("Loaded image: app:v2\n"), "{name}: {told}");
        assert_eq!(here.images(), near.images(), "{name}");
        let crossed = count.metadata().unwrap().len();
        assert!(crossed < 20_000, "{name}: {crossed} bytes crossed");
    }
    // A bundle in volumes is found by its name, as it is here.
    here.run(&["rmi", "app:v2"]);
    near.run(&["save", "--volume-size", "1MiB", "-o", folder.join("set.ferry").to_str().unwrap(), "app:v2"]);
    let url = format!("ssh://far{}/set.ferry", folder.display());
    let mut load = here.command(&["load", "-i", &url, "--ssh", ssh.to_str().unwrap()]);
    assert_eq!(succeed(load.env("PATH", &path)), "Loaded image: app:v2\n");
    fs::write(&ssh, "#!/bin/sh\nexec sh -c \"$2\"\n").unwrap();
    let there = folder.display();
    for (path, expected) in [
        ("/nowhere.tar".to_owned(), "/nowhere.tar: no such file\n"),
        (format!("{there}/one.ferry"), "one.ferry: no such file\n"),
        (format!("{there}"), "is a directory; name a file in it, of a bundle any volume\n"),
    ] {
        let url = format!("ssh://far{path}");
        let out = here.command(&["load", "-i", &url, "--ssh", ssh.to_str().unwrap()]).output().unwrap();
        assert!(String::from_utf8_lossy(&out.stderr).ends_with(expected), "{out:?}");
        assert_eq!(out.status.code(), Some(3), "{path}");
    }
}

#[test]
fn of_a_bundle_on_another_host_without_a_ferry_the_frames_that_are_needed_cross() {
    let machine = Machine::start(Release::Debian12);
    let (near, here) = (Site::new(&machine, "near"), Site::new(&machine, "here"));
    // A little more than a frame holds, and a small file behind it.
    let dir = machine.dir().join("tree");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("large"), noise(66 << 20, 3)).unwrap();
    for number in 1..=2 {
        fs::write(dir.join("version"), number.to_string()).unwrap();
        near.import(&machine, &dir, &format!("app:v{number}"));
    }
    let file = |name: &str| machine.dir().join(name).display().to_string();
    near.run(&["save", "-o", &file("one.ferry"), "app:v1"]);
    near.run(&["save", "-o", &file("two.ferry"), "app:v2"]);
    here.run(&["load", "-q", "-i", &file("one.ferry")]);
    let count = machine.dir().join("count");
    let ssh = machine.dir().join("ssh");
    let script = format!("#!/bin/sh\nsh -c \"$2\" | tee -a {}\n", quote(&count.display().to_string()));
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let words = ["load", "--no-upload", "-i", &format!("ssh://far{}", file("two.ferry")), "--ssh"];
    here.run(&[&words[..], &[ssh.to_str().unwrap()]].concat());
    assert_eq!(here.images(), near.images());
    let crossed = count.metadata().unwrap().len();
    assert!(crossed < 6 << 20, "{crossed} bytes crossed");
    // What has changed in the store is taken from the bundle.
    here.run(&["rmi", "app:v2"]);
    let diff = here.root.join("overlay2");
    let mut large = fs::read_dir(&diff).unwrap().map(|entry| entry.unwrap().path().join("diff/large"));
    let large = large.find(|path| path.exists()).unwrap();
    let mut bytes = fs::read(&large).unwrap();
    bytes[5] ^= 1;
    fs::write(&large, bytes).unwrap();
    here.run(&[&words[..], &[ssh.to_str().unwrap()]].concat());
    let back = Site::new(&machine, "back");
    here.run(&["save", "-o", &file("back.tar"), "app:v2"]);
    back.run(&["load", "-q", "-i", &file("back.tar")]);
    assert!(near.images().contains(back.images().trim()));
}
