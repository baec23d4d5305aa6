//! Under which key is a person's data, and how is it destroyed?
//!
//! `keys` is a file of slots of 128 bytes: one for each subject of each endpoint, with a key of 32 random bytes that is wrapped
//! by the master key. The master key is in a file elsewhere. Rows of a subject are encrypted under keys that are derived from its
//! own (`seal.rs`), so that whoever writes zeros over the slot has destroyed all of them. Nothing in the file says who a subject
//! is: its name there is an HMAC under the master key.
//!
//! The process that captures and the command that erases may work on it at the same time: each has the file's lock while it
//! does, and looks at the slot itself, never at a copy, before it uses a key.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::FlockOperation;

use crate::{Error, Result, disk};

/// A key of AES-256 or HMAC-SHA-256.
pub type Key = [u8; 32];

const SLOT_BYTES: usize = 128;
const MAGIC: &[u8; 8] = b"TYKEYS1\n";
/// Bytes that AES-GCM adds.
pub(crate) const TAG_BYTES: usize = 16;

/// Half of a subject's name: which person, and which endpoint. All endpoints is a half of zeros.
type Half = [u8; 16];
/// A subject's name.
pub(crate) type Name = [u8; 32];

/// States of a slot.
const HELD: u8 = 1;
const ERASED: u8 = 2;

/// Where parts of a slot are.
const NAME: usize = 8;
const NONCE: usize = 40;
const WRAPPED: usize = 52;
const ERASED_MS: usize = 100;
const IS_RECORDED: usize = 108;
/// How many keys an erasure destroyed.
const KEYS: usize = 112;
const CHECK: usize = 124;

/// Derives a key from another for one purpose.
pub(crate) fn derived(key: &Key, purpose: &[u8], of: &[u8]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(purpose);
    context.update(&[0]);
    context.update(of);
    let mut found = [0; 32];
    found.copy_from_slice(context.sign().as_ref());
    found
}

/// Random bytes of the system's.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(Error::io("get random bytes for", Path::new("keys"), io::Error::other("the system gives none"))),
    }
}

pub(crate) fn aead(key: &Key) -> LessSafeKey {
    // The length is the algorithm's own.
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap_or_else(|_| unreachable!("a key of 32 bytes")))
}

/// Somebody's erasure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Erasure {
    /// Names the subject to whoever has the master key and its key, and to nobody else: 64 hexadecimal digits.
    pub commitment: String,
    /// When it was, in milliseconds since 1970: rows of earlier requests are gone.
    pub erased_ms: u64,
    /// Keys that were destroyed, one for each endpoint at most.
    pub keys: u64,
}

#[derive(Clone, Debug)]
struct Slot([u8; SLOT_BYTES]);

impl Slot {
    fn state(&self) -> u8 {
        self.0[0]
    }

    fn name(&self) -> Name {
        self.part(NAME)
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut part = [0; N];
        part.copy_from_slice(&self.0[at..at + N]);
        part
    }

    fn erased_ms(&self) -> u64 {
        u64::from_le_bytes(self.part(ERASED_MS))
    }

    fn erased(name: &Name, now_ms: u64, keys: u64) -> Slot {
        let mut slot = Slot([0; SLOT_BYTES]);
        slot.0[0] = ERASED;
        slot.0[NAME..NAME + 32].copy_from_slice(name);
        slot.0[ERASED_MS..ERASED_MS + 8].copy_from_slice(&now_ms.to_le_bytes());
        slot.0[KEYS..KEYS + 8].copy_from_slice(&keys.to_le_bytes());
        slot.checked()
    }

    fn checked(mut self) -> Slot {
        let check = crc32fast::hash(&self.0[..CHECK]);
        self.0[CHECK..].copy_from_slice(&check.to_le_bytes());
        self
    }

    fn is_whole(&self) -> bool {
        matches!(self.state(), HELD | ERASED) && self.0[CHECK..] == crc32fast::hash(&self.0[..CHECK]).to_le_bytes()
    }
}

/// What the file has of a name.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The slot with its key.
    held: Option<u64>,
    /// When it was last erased: rows of requests up to then must not be readable.
    erased_ms: Option<u64>,
}

/// The keys of the subjects of a capture's folder.
#[derive(Debug)]
pub struct Keys {
    path: PathBuf,
    file: File,
    master: Key,
    known: HashMap<Name, Known>,
    /// Slots that were read, the header not among them.
    slots: u64,
    /// Slots that are to be written before a segment needs them.
    fresh: Vec<Slot>,
    /// The file's length and time when it was last read or written here.
    seen: Option<(u64, SystemTime)>,
    /// Keys that were unwrapped since the file was locked, by endpoint and subject.
    unwrapped: HashMap<(String, String), (Name, Key)>,
}

impl Keys {
    /// Opens the keys in a capture's folder, or begins the file. Fails where it was made under another master key.
    pub fn open(folder: &Path, master: &Key) -> Result<Keys> {
        let path = folder.join("keys");
        if !path.exists() {
            make(&path, master)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| Error::io("open", &path, error))?;
        let mut header = [0; SLOT_BYTES];
        file.read_exact_at(&mut header, 0).map_err(|error| Error::io("read", &path, error))?;
        if !header.starts_with(MAGIC) {
            return Err(Error::broken(
                &path,
                "not a file of keys: restore it, what it should hold cannot be made again",
            ));
        }
        if header != head(master) {
            return Err(Error::broken(&path, "made under another master key: expected the file that was given then"));
        }
        let mut keys = Keys {
            path,
            file,
            master: *master,
            known: HashMap::new(),
            slots: 0,
            fresh: Vec::new(),
            seen: None,
            unwrapped: HashMap::new(),
        };
        keys.locked(Keys::refresh)?;
        Ok(keys)
    }

    /// Does something while nobody else reads or writes the file.
    pub(crate) fn locked<T>(&mut self, work: impl FnOnce(&mut Keys) -> Result<T>) -> Result<T> {
        let flock = |operation| {
            let done = rustix::io::retry_on_intr(|| rustix::fs::flock(&self.file, operation));
            done.map_err(|error| Error::io("lock", &self.path, error.into()))
        };
        flock(FlockOperation::LockExclusive)?;
        let done = work(self);
        self.unwrapped.clear();
        let unlocked = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        unlocked.map_err(|error| Error::io("unlock", &self.path, error.into()))?;
        done
    }

    /// Reads what others changed: new slots, and erasures of old ones.
    pub(crate) fn refresh(&mut self) -> Result<()> {
        self.drop_fresh();
        let seen = self.look()?;
        if self.seen == Some(seen) {
            return Ok(());
        }
        self.known.clear();
        let content = fs::read(&self.path).map_err(|error| Error::io("read", &self.path, error))?;
        let (slots, _torn) = content[SLOT_BYTES.min(content.len())..].as_chunks::<SLOT_BYTES>();
        for (number, slot) in slots.iter().enumerate() {
            self.learn(number as u64, &Slot(*slot));
        }
        self.slots = slots.len() as u64;
        self.seen = Some(seen);
        Ok(())
    }

    fn look(&self) -> Result<(u64, SystemTime)> {
        let looked = self.file.metadata().and_then(|found| Ok((found.len(), found.modified()?)));
        looked.map_err(|error| Error::io("look at", &self.path, error))
    }

    /// Forgets keys that no segment was written under.
    fn drop_fresh(&mut self) {
        for slot in std::mem::take(&mut self.fresh) {
            self.known.entry(slot.name()).or_default().held = None;
        }
    }

    fn learn(&mut self, number: u64, slot: &Slot) {
        // One that is not whole was being written at a loss of power: nothing was written under its key.
        if !slot.is_whole() {
            return;
        }
        let known = self.known.entry(slot.name()).or_default();
        match slot.state() {
            HELD => known.held = Some(number),
            // A key of that name that was there before is this slot's no more.
            _ => known.erased_ms = known.erased_ms.max(Some(slot.erased_ms())),
        }
    }

    fn halves(&self, subject: &str, endpoint: Option<&str>) -> (Half, Half) {
        let half = |purpose: &[u8], of: &str| {
            let mut half = [0; 16];
            half.copy_from_slice(&derived(&self.master, purpose, of.as_bytes())[..16]);
            half
        };
        (half(b"subject", subject), endpoint.map_or([0; 16], |endpoint| half(b"endpoint", endpoint)))
    }

    fn name(&self, subject: &str, endpoint: Option<&str>) -> Name {
        let (subject, endpoint) = self.halves(subject, endpoint);
        let mut name = [0; 32];
        name[..16].copy_from_slice(&subject);
        name[16..].copy_from_slice(&endpoint);
        name
    }

    /// The name and the key of a subject of an endpoint, for a row of a request that was accepted at `time_ms`. A key is made
    /// where there is none. A row that is older than the subject's erasure gets a key that nobody keeps.
    pub(crate) fn sealing_key(&mut self, endpoint: &str, subject: &str, time_ms: u64) -> Result<(Name, Key)> {
        let subject = (endpoint.to_owned(), subject.to_owned());
        if let Some(found) = self.unwrapped.get(&subject) {
            return Ok(*found);
        }
        let (found, is_kept) = self.made_sealing_key(endpoint, &subject.1, time_ms)?;
        // Of a subject that was erased once, each row's time is looked at.
        if is_kept {
            self.unwrapped.insert(subject, found);
        }
        Ok(found)
    }

    fn made_sealing_key(&mut self, endpoint: &str, subject: &str, time_ms: u64) -> Result<((Name, Key), bool)> {
        let name = self.name(subject, Some(endpoint));
        let everywhere = self.known.get(&self.name(subject, None)).and_then(|known| known.erased_ms);
        let known = self.known.get(&name).copied().unwrap_or_default();
        let erased_ms = known.erased_ms.max(everywhere);
        if erased_ms.is_some_and(|erased_ms| time_ms <= erased_ms) {
            return Ok(((name, random()?), false));
        }
        let is_kept = erased_ms.is_none();
        if let Some(number) = known.held {
            return match self.unwrapped(number, &name)? {
                Some(key) => Ok(((name, key), is_kept)),
                None => Err(Error::broken(&self.path, "a key that cannot be unwrapped: the file is damaged")),
            };
        }
        let (key, nonce) = (random::<32>()?, random::<12>()?);
        let mut slot = Slot([0; SLOT_BYTES]);
        slot.0[0] = HELD;
        slot.0[NAME..NAME + 32].copy_from_slice(&name);
        slot.0[NONCE..NONCE + 12].copy_from_slice(&nonce);
        let mut wrapped = key.to_vec();
        let wrapping = aead(&derived(&self.master, b"wrap", &[]));
        wrapping
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&name), &mut wrapped)
            .map_err(|_| Error::broken(&self.path, "a key cannot be wrapped"))?;
        slot.0[WRAPPED..WRAPPED + 48].copy_from_slice(&wrapped);
        let number = self.slots + self.fresh.len() as u64;
        self.fresh.push(slot.checked());
        self.known.entry(name).or_default().held = Some(number);
        Ok(((name, key), is_kept))
    }

    /// The key of a name that a row says it is under; `None` where it is destroyed.
    pub(crate) fn opening_key(&self, name: &Name) -> Result<Option<Key>> {
        match self.known.get(name).and_then(|known| known.held) {
            Some(number) => self.unwrapped(number, name),
            None => Ok(None),
        }
    }

    /// Whether a subject's rows were erased once.
    pub(crate) fn was_erased(&self, name: &Name) -> bool {
        let mut everywhere = *name;
        everywhere[16..].fill(0);
        [name, &everywhere].into_iter().any(|name| self.known.get(name).is_some_and(|known| known.erased_ms.is_some()))
    }

    fn unwrapped(&self, number: u64, name: &Name) -> Result<Option<Key>> {
        let slot = match number.checked_sub(self.slots) {
            Some(fresh) => self.fresh[fresh as usize].clone(),
            None => self.slot(number)?,
        };
        if slot.state() != HELD || slot.name() != *name || !slot.is_whole() {
            return Ok(None);
        }
        let mut wrapped: [u8; 48] = slot.part(WRAPPED);
        let nonce = Nonce::assume_unique_for_key(slot.part(NONCE));
        let wrapping = aead(&derived(&self.master, b"wrap", &[]));
        let opened = wrapping.open_in_place(nonce, Aad::from(name), &mut wrapped);
        Ok(opened.ok().and_then(|key| key.first_chunk().copied()))
    }

    fn slot(&self, number: u64) -> Result<Slot> {
        let mut slot = [0; SLOT_BYTES];
        let read = self.file.read_exact_at(&mut slot, place(number));
        read.map_err(|error| Error::io("read", &self.path, error))?;
        Ok(Slot(slot))
    }

    /// Has the keys that were made since on the disk.
    pub(crate) fn save(&mut self) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let bytes: Vec<u8> = self.fresh.iter().flat_map(|slot| slot.0).collect();
        let written = self.file.write_all_at(&bytes, place(self.slots)).and_then(|()| self.file.sync_all());
        written.map_err(|error| Error::io("write", &self.path, error))?;
        self.slots += self.fresh.len() as u64;
        self.fresh.clear();
        self.seen = Some(self.look()?);
        Ok(())
    }

    /// Destroys a subject's keys: of one endpoint, or of all. When this returns, zeros are on the disk in their place, and rows of
    /// requests up to `now_ms` that are in no segment yet will not be readable either. To do it again does no harm.
    pub fn erase(&mut self, subject: &str, endpoint: Option<&str>, now_ms: u64) -> Result<Erasure> {
        let (person, of_endpoint) = self.halves(subject, endpoint);
        let name = self.name(subject, endpoint);
        let commitment = self.commitment(&name);
        let keys = self.locked(|keys| {
            keys.refresh()?;
            let mut destroyed = 0;
            for number in 0..keys.slots {
                let slot = keys.slot(number)?;
                let is_its = slot.is_whole()
                    && slot.name()[..16] == person
                    && (endpoint.is_none() || slot.name()[16..] == of_endpoint);
                if is_its && slot.state() == HELD {
                    // The slot below is what goes on the record, once.
                    let mut erased = Slot::erased(&slot.name(), now_ms, 0);
                    erased.0[IS_RECORDED] = 1;
                    keys.write(number, &erased.checked())?;
                    destroyed += 1;
                }
            }
            // Rows that wait in the ring, and whoever looks at the record, learn of it by this.
            keys.write(keys.slots, &Slot::erased(&name, now_ms, destroyed))?;
            keys.file.sync_all().map_err(|error| Error::io("sync", &keys.path, error))?;
            keys.seen = None;
            keys.refresh()?;
            Ok(destroyed)
        })?;
        Ok(Erasure { commitment, erased_ms: now_ms, keys })
    }

    fn write(&self, number: u64, slot: &Slot) -> Result<()> {
        self.file.write_all_at(&slot.0, place(number)).map_err(|error| Error::io("write", &self.path, error))
    }

    fn commitment(&self, name: &Name) -> String {
        tiltyard_types::Digest::new(derived(&self.master, b"erased", name)).to_string()
    }

    /// Erasures that the manifest may not have yet, with the slots that say so.
    pub(crate) fn unrecorded(&self) -> Result<Vec<(u64, Erasure)>> {
        let mut found = Vec::new();
        if self.known.values().all(|known| known.erased_ms.is_none()) {
            return Ok(found);
        }
        for number in 0..self.slots {
            let slot = self.slot(number)?;
            if slot.is_whole() && slot.state() == ERASED && slot.0[IS_RECORDED] == 0 {
                let keys = u64::from_le_bytes(slot.part(KEYS));
                let commitment = self.commitment(&slot.name());
                found.push((number, Erasure { commitment, erased_ms: slot.erased_ms(), keys }));
            }
        }
        Ok(found)
    }

    /// Notes that the manifest has the erasure of a slot.
    pub(crate) fn recorded(&self, number: u64) -> Result<()> {
        let mut slot = self.slot(number)?;
        slot.0[IS_RECORDED] = 1;
        self.write(number, &slot.checked())
    }

    /// The key that names of subjects in a segment are under.
    pub(crate) fn names(&self, salt: &[u8; 16]) -> Key {
        derived(&self.master, b"names", salt)
    }
}

fn place(number: u64) -> u64 {
    (number + 1) * SLOT_BYTES as u64
}

/// The first bytes of the file: they say which master key it is of.
fn head(master: &Key) -> [u8; SLOT_BYTES] {
    let mut head = [0; SLOT_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..40].copy_from_slice(&derived(master, b"check", &[]));
    head
}

fn make(path: &Path, master: &Key) -> Result<()> {
    let making = path.with_extension("making");
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&making).and_then(|file| {
        file.write_all_at(&head(master), 0)?;
        file.sync_all()?;
        fs::rename(&making, path)?;
        disk::sync_folder_of(path)
    });
    made.map_err(|error| Error::io("make", path, error))
}

#[cfg(test)]
mod tests;
