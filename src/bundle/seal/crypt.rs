//! Encryption: an age file around the logical stream, read at any offset through its chunks.

use std::fmt;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use age::secrecy::SecretString;
use age::stream::{StreamReader, StreamWriter};

use super::error::SealError;
use crate::base::ReadAt;

/// Asks a person for the passphrase of what it is given; nothing when there is nobody to ask.
pub type Passphrase = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The longest age header that is read, in bytes: some hundreds of recipients.
const HEADER_MAX: u64 = 1 << 20;

/// How hard passphrases are to guess: scrypt with N = 2^18, as age's own tool writes. It takes 256 MiB on both sides, whatever
/// the speed of the writing one.
const WORK_FACTOR: u8 = 18;
/// The hardest that is opened, the most that age's own tool accepts: 4 GiB of memory. Tools that aim at a second's work
/// write some more than 2^18.
const WORK_FACTOR_MAX: u8 = 22;

/// Whom a bundle is encrypted to.
pub enum Recipients {
    /// Keys: `age1…`, `ssh-ed25519 …`.
    Keys(Vec<Box<dyn age::Recipient + Send>>),
    /// A passphrase.
    Passphrase(SecretString),
}

impl Recipients {
    /// Takes recipients as age writes them, one each.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, SealError> {
        let mut keys: Vec<Box<dyn age::Recipient + Send>> = Vec::new();
        for text in texts {
            let text = text.trim();
            let wrong =
                |reason: &str| SealError::Key { what: format!("recipient {text:?}"), reason: reason.to_owned() };
            if text.starts_with("ssh-ed25519 ") {
                let key = age::ssh::Recipient::from_str(text);
                keys.push(Box::new(key.map_err(|_| wrong("it is no ssh-ed25519 public key"))?));
            } else if text.starts_with("age1") {
                keys.push(Box::new(age::x25519::Recipient::from_str(text).map_err(wrong)?));
            } else {
                return Err(wrong("expected age1… or ssh-ed25519 …"));
            }
        }
        Ok(Self::Keys(keys))
    }

    /// One passphrase.
    pub fn passphrase(text: String) -> Self {
        Self::Passphrase(SecretString::from(text))
    }

    /// Encrypts what is written into `out`. Keys and nonce are fresh each time: equal input does not give equal bytes.
    pub fn encrypt<W: Write>(self, out: W) -> Result<Encrypting<W>, SealError> {
        let encryptor = match self {
            Self::Keys(keys) => age::Encryptor::with_recipients(keys.iter().map(|key| &**key as &dyn age::Recipient)),
            Self::Passphrase(secret) => {
                let mut recipient = age::scrypt::Recipient::new(secret);
                recipient.set_work_factor(WORK_FACTOR);
                age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        let encryptor = encryptor.map_err(|error| SealError::Encrypt(error.to_string()))?;
        let stream = encryptor.wrap_output(out).map_err(|error| SealError::Encrypt(error.to_string()))?;
        Ok(Encrypting(stream))
    }
}

/// Encrypts a stream. It is whole only after [`Encrypting::finish`].
pub struct Encrypting<W>(StreamWriter<W>);

impl<W: Write> Encrypting<W> {
    /// Writes the last chunk and gives back what was written into.
    pub fn finish(self) -> io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for Encrypting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Keys that may open an encrypted bundle.
#[derive(Default)]
pub struct Identities {
    keys: Vec<Box<dyn age::Identity + Send + Sync>>,
    ask: Option<Passphrase>,
}

#[derive(Clone)]
struct Ask(Passphrase);

impl age::Callbacks for Ask {
    fn display_message(&self, _: &str) {}

    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }

    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.0(description).map(SecretString::from)
    }
}

impl Identities {
    /// No keys yet; `ask` gives passphrases, of keys and of bundles.
    pub fn new(ask: Option<Passphrase>) -> Self {
        Self { keys: Vec::new(), ask }
    }

    /// Whether nothing can be opened with these.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ask.is_none()
    }

    /// Takes the content of a key file: age identities, one a line, or an OpenSSH ed25519 private key. `what` is for
    /// messages.
    pub fn add(&mut self, what: &str, content: &str) -> Result<(), SealError> {
        let wrong = |reason: String| SealError::Key { what: what.to_owned(), reason };
        if content.contains("PRIVATE KEY-----") {
            let key = age::ssh::Identity::from_buffer(content.as_bytes(), Some(what.to_owned()));
            let key = key.map_err(|error| wrong(error.to_string()))?;
            match (&key, &self.ask) {
                (age::ssh::Identity::Unsupported(_), _) => {
                    return Err(wrong("it is a kind of key that age does not use: ssh-ed25519 keys are".into()));
                }
                (age::ssh::Identity::Encrypted(_), None) => return Err(SealError::Passphrase(what.to_owned())),
                (age::ssh::Identity::Encrypted(_), Some(ask)) => {
                    self.keys.push(Box::new(key.with_callbacks(Ask(ask.clone()))));
                }
                (age::ssh::Identity::Unencrypted(_), _) => self.keys.push(Box::new(key)),
            }
            return Ok(());
        }
        let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let before = self.keys.len();
        for line in lines {
            let key = age::x25519::Identity::from_str(line).map_err(|error| wrong(error.to_owned()))?;
            self.keys.push(Box::new(key));
        }
        if self.keys.len() == before { Err(wrong("it holds no key".into())) } else { Ok(()) }
    }

    /// Opens the age file in `stream`; `what` is for messages. The end is read too, so that a file that lacks some is
    /// found out now.
    pub fn open(&self, what: &str, stream: Arc<dyn ReadAt>) -> Result<Decrypted, SealError> {
        let broken = |reason: String| SealError::Decrypt { what: what.to_owned(), reason };
        let header = stream.size().min(HEADER_MAX) as usize;
        let mut start = vec![0; header];
        stream.read_exact_at(&mut start, 0).map_err(|error| broken(error.to_string()))?;
        if !start.windows(5).any(|five| five == b"\n--- ") {
            return Err(broken("its age header is missing or too long".into()));
        }
        let input = BufReader::new(Cursor::new(stream));
        let decryptor = age::Decryptor::new(input).map_err(|error| broken(error.to_string()))?;
        let opened = if decryptor.is_scrypt() {
            let Some(secret) = self.ask.as_ref().and_then(|ask| ask(what)) else {
                return Err(SealError::Passphrase(what.to_owned()));
            };
            let mut identity = age::scrypt::Identity::new(SecretString::from(secret));
            identity.set_max_work_factor(WORK_FACTOR_MAX);
            decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity))
        } else if self.keys.is_empty() {
            return Err(SealError::Encrypted(what.to_owned()));
        } else {
            decryptor.decrypt(self.keys.iter().map(|key| &**key as &dyn age::Identity))
        };
        let mut reader = opened.map_err(|error| broken(error.to_string()))?;
        let size = reader.seek(SeekFrom::End(0)).map_err(|error| broken(error.to_string()))?;
        Ok(Decrypted { reader: Mutex::new(reader), size })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.keys.len())
    }
}

/// The inside of an age file, at any offset. Chunks of 64 KiB are checked as they are opened; one reader at a time.
pub struct Decrypted {
    reader: Mutex<StreamReader<BufReader<Cursor>>>,
    size: u64,
}

impl ReadAt for Decrypted {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A panic elsewhere leaves the reader at some place; the seek makes it ours again.
        let mut reader = self.reader.lock().unwrap_or_else(|e| e.into_inner());
        reader.seek(SeekFrom::Start(offset))?;
        reader.read_exact(buf)
    }
}

/// Goes through a [`ReadAt`] in order, or to where it is sent.
struct Cursor {
    inner: Arc<dyn ReadAt>,
    position: u64,
}

impl Cursor {
    fn new(inner: Arc<dyn ReadAt>) -> Self {
        Self { inner, position: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.inner.size().saturating_sub(self.position);
        let n = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        self.inner.read_exact_at(&mut buf[..n], self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.inner.size().checked_add_signed(by),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
