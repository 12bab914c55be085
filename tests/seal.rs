//! Signatures that OpenSSH makes and accepts, and age files around bundles.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferry::base::read_at::ReadAt;
use ferry::base::{Class, Ctx, Fault};
use ferry::bundle::seal::{
    AllowedSigners, Identities, NAMESPACE, Passphrase, Recipients, RevokedKeys, Signer, Trust, armor,
};
use ferry::bundle::volume::{SetId, SetReader, SetWriter, VolumeSet, WriteOptions};

use crate::support::peers::{Machine, Release};

fn answer(text: &'static str) -> Option<Passphrase> {
    Some(Arc::new(move |_: &str| Some(text.to_owned())))
}

fn trust(allowed: &str, revoked: &str) -> Trust {
    Trust {
        allowed: AllowedSigners::parse(Path::new("allowed"), allowed).unwrap(),
        revoked: RevokedKeys::parse(Path::new("revoked"), revoked.as_bytes()).unwrap(),
        now: jiff::Timestamp::now(),
    }
}

/// A signed set of one volume; what was signed, and the signature.
fn signed(path: &Path, signer: &Signer) -> (String, Vec<u8>) {
    let mut writer = SetWriter::to_path(path, WriteOptions::new(SetId::derive(b"seal"))).unwrap();
    writer.write_all(&vec![7; 100_000]).unwrap();
    let sign = |statement: &str| Ok(vec![signer.sign(statement.as_bytes())?]);
    writer.finish(Some(&sign), &Ctx::silent()).unwrap();
    let set = VolumeSet::open(&[path.to_owned()]).unwrap();
    (set.statement(), set.signatures()[0].clone())
}

#[test]
fn ssh_keygen_accepts_what_keys_and_agents_sign_and_ferry_accepts_what_ssh_keygen_signs() {
    let machine = Machine::start(Release::Debian12);
    machine.sh(
        "ssh-keygen -q -t ed25519 -N '' -C plain -f plain; ssh-keygen -q -t ed25519 -N secret -C locked -f locked
        ssh-keygen -q -t ed25519 -N '' -C held -f held
        ssh-agent -a agent.sock >/dev/null; SSH_AUTH_SOCK=agent.sock ssh-add -q held
        for key in plain locked held; do echo \"$key@example.com $(cut -d' ' -f1,2 $key.pub)\"; done >allowed",
    );
    let dir = machine.dir();
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let socket = Some(dir.join("agent.sock"));
    let signers = [
        ("plain", Signer::new(Path::new("plain"), &read("plain"), None, None).unwrap()),
        ("locked", Signer::new(Path::new("locked"), &read("locked"), answer("secret").as_ref(), None).unwrap()),
        ("held", Signer::new(Path::new("held.pub"), &read("held.pub"), None, socket.clone()).unwrap()),
    ];
    let allowed = String::from_utf8(read("allowed")).unwrap();
    for (name, signer) in &signers {
        let (statement, blob) = signed(&dir.join(format!("{name}.ferry")), signer);
        fs::write(dir.join("statement"), &statement).unwrap();
        fs::write(dir.join("statement.sig"), armor(&blob)).unwrap();
        machine.sh(&format!(
            "ssh-keygen -Y verify -f allowed -I {name}@example.com -n {NAMESPACE} -s statement.sig <statement"
        ));
        let by = trust(&allowed, "").verify("b", &statement, std::slice::from_ref(&blob)).unwrap();
        assert_eq!(by[0].principals, [format!("{name}@example.com")]);

        // Over other bytes, by a key nobody knows, by a revoked one, in another namespace.
        let refused = |trust: Trust, statement: &str, blobs: &[Vec<u8>], reason: &str| {
            let error = trust.verify("b", statement, blobs).unwrap_err();
            assert_eq!(error.class(), Class::Refused);
            assert!(error.to_string().contains(reason), "{error}");
        };
        let blobs = std::slice::from_ref(&blob);
        refused(trust(&allowed, ""), &statement.replace("bytes: 1", "bytes: 2"), blobs, "not over this text");
        refused(trust("", ""), &statement, blobs, "not among the allowed signers");
        let key = String::from_utf8(read(&format!("{name}.pub"))).unwrap();
        refused(trust(&allowed, &key), &statement, blobs, "revoked");
        let fingerprint = machine.sh(&format!("ssh-keygen -l -f {name}.pub | cut -d' ' -f2"));
        refused(trust(&allowed, &fingerprint), &statement, blobs, "revoked");
        refused(trust(&allowed, ""), &statement, &[], "is not signed");
        refused(trust(&allowed, ""), &statement, &[b"SSHSIG".to_vec()], "malformed");
        refused(trust(&allowed, ""), &statement, &[vec![0xff; 300]], "malformed");
    }
    // What ssh-keygen signs.
    fs::write(dir.join("text"), "some text").unwrap();
    machine.sh(&format!("ssh-keygen -q -Y sign -f plain -n {NAMESPACE} text && mv text.sig right.sig"));
    machine.sh("ssh-keygen -q -Y sign -f plain -n file text");
    let blob = |name: &str| {
        let text = fs::read_to_string(dir.join(name)).unwrap();
        let base64: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
    };
    assert!(trust(&allowed, "").verify("b", "some text", &[blob("right.sig")]).is_ok());
    assert!(trust(&allowed, "").verify("b", "some text", &[blob("text.sig")]).is_err());
    // A bad signature beside a good one does no harm.
    assert_eq!(trust(&allowed, "").verify("b", "some text", &[blob("text.sig"), blob("right.sig")]).unwrap().len(), 1);

    // What cannot sign says why.
    let no = |name: &str, ask: Option<Passphrase>, socket: Option<PathBuf>| {
        let signer = Signer::new(Path::new(name), &read(name), ask.as_ref(), socket);
        signer.and_then(|signer| signer.sign(b"x")).unwrap_err().to_string()
    };
    machine.sh("ssh-keygen -q -t rsa -N '' -f rsa; echo hello >text.pub");
    assert!(no("locked", None, None).contains("locked needs a passphrase"));
    assert!(no("locked", answer("wrong"), None).contains("passphrase is wrong"));
    assert!(no("plain.pub", None, socket.clone()).contains("does not hold the key"));
    assert!(no("plain.pub", None, None).contains("SSH_AUTH_SOCK"));
    assert!(no("plain.pub", None, Some(dir.join("nothing"))).contains("cannot talk"));
    assert!(no("rsa", None, None).contains("ssh-ed25519"));
    assert!(no("text.pub", None, socket).starts_with("text.pub: "));
}

fn encrypted(recipients: Recipients, stream: &[u8]) -> Vec<u8> {
    let mut writer = recipients.encrypt(Vec::new()).unwrap();
    writer.write_all(stream).unwrap();
    writer.finish().unwrap()
}

#[test]
fn an_encrypted_stream_is_read_at_any_offset_and_only_with_a_key() {
    let machine = Machine::start(Release::Debian12);
    machine.sh("ssh-keygen -q -t ed25519 -N '' -f plain; ssh-keygen -q -t ed25519 -N secret -f locked");
    let read = |name: &str| fs::read_to_string(machine.dir().join(name)).unwrap();
    let x25519 = age::x25519::Identity::generate();
    let secret = {
        use age::secrecy::ExposeSecret;
        x25519.to_string().expose_secret().to_owned()
    };
    let (plain, locked, public) = (read("plain.pub"), read("locked.pub"), x25519.to_public().to_string());
    for len in [0_usize, 1, 65_535, 65_536, 65_537, 400_000] {
        let stream: Vec<u8> = (0..len as u32).flat_map(|i| i.to_le_bytes()).take(len).collect();
        let sealed = encrypted(Recipients::parse([&*plain, &*locked, &*public]).unwrap(), &stream);
        for (text, ask) in
            [(read("plain"), None), (read("locked"), answer("secret")), (format!("# mine\n{secret}\n"), None)]
        {
            let mut identities = Identities::new(ask);
            identities.add("key", &text).unwrap();
            let opened = identities.open("b", Arc::new(sealed.clone())).unwrap();
            assert_eq!(opened.size(), len as u64);
            let mut back = vec![0; len];
            opened.read_exact_at(&mut back, 0).unwrap();
            assert!(back == stream);
            // Backwards, over chunk borders, and to the very end.
            for offset in (0..len).rev().step_by(9_973) {
                let n = (len - offset).min(70_000);
                opened.read_exact_at(&mut back[..n], offset as u64).unwrap();
                assert!(back[..n] == stream[offset..offset + n], "{len} {offset}");
            }
            assert!(opened.read_exact_at(&mut [0], len as u64).is_err());
            assert!(opened.read_exact_at(&mut [], len as u64).is_ok());
        }
        // Cut anywhere, or changed at the end: found out when it is opened.
        let mut identities = Identities::new(None);
        identities.add("key", &secret).unwrap();
        for end in [sealed.len() - 1, sealed.len() - 17, 300, 20, 0] {
            assert!(identities.open("b", Arc::new(sealed[..end].to_vec())).is_err(), "{len} {end}");
        }
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(identities.open("b", Arc::new(changed)).is_err());
    }
    let sealed = encrypted(Recipients::passphrase("open sesame".into()), b"stream");
    // The work to guess it is the same wherever it was written.
    let header = String::from_utf8_lossy(&sealed).into_owned();
    let stanza = header.lines().find(|line| line.starts_with("-> scrypt ")).unwrap();
    assert!(stanza.ends_with(" 18"), "{stanza}");
    assert!(Identities::new(answer("open sesame")).open("b", Arc::new(sealed.clone())).is_ok());
    for (ask, expected) in [(answer("wrong"), Class::Integrity), (None, Class::Usage)] {
        let error = Identities::new(ask).open("b", Arc::new(sealed.clone())).err().unwrap();
        assert_eq!(error.class(), expected, "{error}");
    }
    let stranger = age::x25519::Identity::generate().to_public().to_string();
    let sealed = encrypted(Recipients::parse([&*stranger]).unwrap(), b"stream");
    let mut identities = Identities::new(None);
    assert_eq!(identities.open("b", Arc::new(sealed.clone())).err().unwrap().class(), Class::Usage);
    identities.add("key", &secret).unwrap();
    assert_eq!(identities.open("b", Arc::new(sealed)).err().unwrap().class(), Class::Integrity);
    assert!(Recipients::parse(["ssh-rsa AAAA"]).is_err() && Recipients::parse(["age1x"]).is_err());
    assert!(identities.add("k", "hello").is_err() && identities.add("k", "# none").is_err());
}

#[test]
fn an_encrypted_set_shows_nothing_of_its_stream_and_is_repaired_without_a_key() {
    use ferry::bundle::volume::{Budget, check, repair};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ferry");
    let key = age::x25519::Identity::generate();
    let stream = b"registry.example.com/secret/name:1 ".repeat(30_000);
    let options = WriteOptions {
        encrypted: true,
        parity: Some("20%".parse().unwrap()),
        ..WriteOptions::new(SetId::derive(b"encrypted"))
    };
    let recipients = Recipients::parse([&*key.to_public().to_string()]).unwrap();
    let writer = SetWriter::to_path(&path, options).unwrap();
    let mut sealing = recipients.encrypt(writer).unwrap();
    sealing.write_all(&stream).unwrap();
    sealing.finish().unwrap().finish(None, &Ctx::silent()).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(!whole.windows(11).any(|part| part == b"secret/name"));
    let mut damaged = whole.clone();
    damaged[70_000..180_000].fill(0);
    fs::write(&path, damaged).unwrap();
    let set = VolumeSet::open(std::slice::from_ref(&path)).unwrap();
    let found = check(&set, Budget::default(), &Ctx::silent()).unwrap();
    repair(&set, found, None, Budget::default(), &Ctx::silent()).unwrap();
    assert!(fs::read(&path).unwrap() == whole);
    let set = VolumeSet::open(&[path]).unwrap();
    assert!(set.encrypted());
    let mut identities = Identities::new(None);
    let secret = {
        use age::secrecy::ExposeSecret;
        key.to_string().expose_secret().to_owned()
    };
    identities.add("key", &secret).unwrap();
    let opened = identities.open("b", Arc::new(SetReader::new(set).unwrap())).unwrap();
    let mut back = vec![0; opened.size() as usize];
    opened.read_exact_at(&mut back, 0).unwrap();
    assert!(back == stream);
}
