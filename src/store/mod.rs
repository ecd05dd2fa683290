//! People and events on disk. What a function here acknowledged is flushed.
//!
//! People are in sled, events in an [`eventlog`]. A person is one record, so nobody is
//! ever half enrolled. Every record carries a format version and a checksum.

mod eventlog;
mod events;
mod index;
mod mark;
mod nearness;
mod numbers;
mod record;
mod recovery;

use std::{
    collections::HashMap,
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use nearness::{KeptNearness, Measure};
pub use recovery::RecoveryNote;

use self::{eventlog::EventLog, events::Writer};
use crate::{clock::Stamp, error::ErrorKind, gallery::PersonId, vision::model::ModelId};

/// Layout of trees and keys; a store of a newer one is not touched. 1: events in sled; 2:
/// in a log.
const SCHEMA: u32 = 2;
/// So much room the store needs before it is opened again: sled grows by such steps.
const PROBE_BYTES: usize = 512 << 10;
/// Files of the event log, the newest, that opening checks; a daemon checks the others
/// later.
const CHECKED_AT_OPENING: usize = 16;

/// One person: everything about them in one record, so that nobody is ever half enrolled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Person {
    pub id: PersonId,
    /// As the enroll folder spells it.
    pub name: String,
    pub pictures: Vec<EnrolledPicture>,
}

/// An accepted picture and the template made from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolledPicture {
    /// Relative to the enroll folder.
    pub path: String,
    /// SHA-256 of the file's contents.
    pub sha256: [u8; 32],
    pub model: ModelId,
    /// Unit length.
    pub embedding: Vec<f32>,
    /// Side of the face's box in pixels.
    pub face_px: u32,
    /// Milliseconds since 1970, when it was accepted.
    pub enrolled_at_ms: i64,
}

/// What was found on a picture of the enroll folder. It holds as long as the file and the rules are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Of the file: inode, size, times.
    pub stamp: Vec<i64>,
    /// Digest of everything else that the finding depends on.
    pub rules: [u8; 16],
    /// SHA-256 of the file's contents.
    pub sha256: [u8; 32],
    /// The face, or why there is none that can be used.
    pub found: Result<FoundFace, String>,
}

/// The one face of a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoundFace {
    pub model: ModelId,
    /// Unit length.
    pub embedding: Vec<f32>,
    /// Side of the face's box in pixels.
    pub face_px: u32,
}

/// What changes in the store at one look at the enroll folder.
#[derive(Debug, Default)]
pub struct EnrolmentChange {
    pub people: Vec<Person>,
    pub gone_people: Vec<PersonId>,
    /// By the picture's path in the folder.
    pub readings: Vec<(String, Reading)>,
    pub gone_readings: Vec<String>,
}

impl EnrolmentChange {
    pub fn is_empty(&self) -> bool {
        let EnrolmentChange { people, gone_people, readings, gone_readings } = self;
        people.is_empty() && gone_people.is_empty() && readings.is_empty() && gone_readings.is_empty()
    }
}

/// Somebody who came to the door and is nobody of those enrolled; kept only if the configuration asks for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stranger {
    pub id: u32,
    /// Milliseconds since 1970.
    pub first_ms: i64,
    pub last_ms: i64,
    pub visits: u32,
    /// The best first.
    pub looks: Vec<StrangerLook>,
}

/// A picture of a stranger and what was made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StrangerLook {
    /// A JPEG of the face with what is around it.
    pub picture: Vec<u8>,
    pub sharpness: f32,
    pub model: ModelId,
    /// Unit length.
    pub embedding: Vec<f32>,
}

/// Something that happened, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Running number, given by the store; never given twice.
    pub id: u64,
    /// Wall clock, milliseconds since 1970.
    pub at_ms: i64,
    /// Which start of the machine this was (/proc/sys/kernel/random/boot_id), and how long after it: what a board without a clock can trust.
    pub boot_id: String,
    pub since_boot: Duration,
    pub kind: EventKind,
}

/// What happened. Names are kept as they were then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Started,
    Stopped,
    /// A known person's visit was decided: the relay was pulsed (`unlock`), or the visit was only signalled (`attendance`).
    Granted {
        person: PersonId,
        name: String,
        distance: f32,
        frames: u32,
        latency_ms: u32,
        pulsed: bool,
    },
    /// A visit that ended in no pulse.
    Denied {
        reason: String,
        nearest: Option<(PersonId, String)>,
        distance: Option<f32>,
        frames: u32,
    },
    /// The relay was pulsed by request: with `facelatch open`, on the page, by the broker. `by` says who, and where it is not the command line also how.
    Opened {
        by: String,
    },
    Enrolled {
        person: PersonId,
        name: String,
        picture: String,
    },
    Refused {
        name: String,
        picture: String,
        reason: String,
    },
    Forgotten {
        person: PersonId,
        name: String,
        picture: String,
    },
    Renamed {
        person: PersonId,
        from: String,
        to: String,
    },
    CameraLost {
        problem: String,
    },
    CameraBack {
        after: Duration,
    },
    /// The wall clock was set, and differs by this much from before; negative: it was set back.
    ClockSet {
        by_ms: i64,
    },
    /// People who are enrolled and are not let in, until something changes; without names: everybody.
    ShutOut {
        names: Vec<String>,
        reason: String,
    },
    /// The relay is active and cannot be released.
    RelayStuck {
        problem: String,
    },
    /// It is released, so long after it was found stuck.
    RelayFreed {
        after: Duration,
    },
    /// More visits that ended in no pulse than are listed one by one.
    DeniedMore {
        count: u32,
        over: Duration,
    },
    /// Opening the store showed that it was damaged, emptied or put back.
    StoreDamaged {
        problem: String,
        events_missing: u64,
    },
    /// The enroll folder is not there, cannot be read, or is another one; those known stay known.
    FolderLost {
        problem: String,
    },
    FolderBack,
}

impl Event {
    /// What the clocks said.
    pub fn stamp(&self) -> Stamp<'_> {
        Stamp { id: self.id, at_ms: self.at_ms, boot_id: &self.boot_id, since_boot: self.since_boot }
    }
}

impl EventKind {
    /// The person it speaks of, as they are called from then on.
    pub fn names(&self) -> Option<(PersonId, &str)> {
        match self {
            EventKind::Granted { person, name, .. }
            | EventKind::Enrolled { person, name, .. }
            | EventKind::Forgotten { person, name, .. }
            | EventKind::Renamed { person, to: name, .. } => Some((*person, name)),
            _ => None,
        }
    }
}

/// The moment of an event, by every clock there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    pub at_ms: i64,
    pub boot_id: String,
    pub since_boot: Duration,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path}: in use by another facelatch; stop it (systemctl stop facelatch) or give this one another store.path"
    )]
    InUse { path: PathBuf },
    #[error("{path}: {source}; nothing was changed")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {problem}; nothing was changed")]
    Write { path: PathBuf, problem: String },
    #[error(
        "{path}: it belongs to user {owner}; run this as that user (sudo -u facelatch ...), or files of another owner would lock the daemon out"
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{path}: damaged: {problem}")]
    Damaged { path: PathBuf, problem: String },
    #[error("{path}: written by a newer facelatch (layout {found}, this program knows {SCHEMA}); update this program")]
    Newer { path: PathBuf, found: u32 },
}

impl StoreError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StoreError::InUse { .. } => ErrorKind::Unavailable,
            StoreError::Foreign { .. } => ErrorKind::Denied,
            StoreError::Io { source, .. } => ErrorKind::of_io(source),
            StoreError::Write { .. } | StoreError::Damaged { .. } | StoreError::Newer { .. } => ErrorKind::Io,
        }
    }

    fn io(path: &Path, source: io::Error) -> StoreError {
        let source = if is_full(&source) { io::Error::new(source.kind(), FULL) } else { source };
        StoreError::Io { path: path.to_owned(), source }
    }
}

/// The open store; clones are the same store.
#[derive(Clone)]
pub struct Store {
    path: PathBuf,
    db: sled::Db,
    meta: sled::Tree,
    people: sled::Tree,
    readings: sled::Tree,
    strangers: sled::Tree,
    /// How near strangers came; and what of it was damaged.
    nearness: sled::Tree,
    nearness_aside: sled::Tree,
    followers: Arc<Mutex<Vec<Sender<Event>>>>,
    writer: Arc<Mutex<Writer>>,
    /// sled keeps its first failed write for good, whatever becomes of the disk.
    broken: Arc<AtomicBool>,
    /// Given back last.
    _lock: Arc<fs::File>,
}

impl Store {
    /// Opens the store in a folder of its own, creating it (0700) if it is not there, and repairs what a power cut left.
    ///
    /// # Errors
    /// In use, no permission, written by a newer program. Damage is no error: it is repaired, and the notes say how.
    pub fn open(path: &Path, now_ms: i64) -> Result<(Store, Vec<RecoveryNote>), StoreError> {
        refuse_foreign(path)?;
        create_private(path).map_err(|error| StoreError::io(path, error))?;
        let lock = recovery::lock(path)?;
        let (db, mut notes) = recovery::open(path, now_ms)?;
        check_schema(path, &db)?;
        let folder = path.join("events");
        let mut log = EventLog::open(&folder).map_err(|error| StoreError::io(&folder, error))?;
        let db = recovery::move_events(path, db, &mut log)?;
        let (writer, found) = Writer::open(path, &db, log, &notes)?;
        notes.extend(found);
        let tree = |name: &str| db.open_tree(name).map_err(|error| write_error(path, &error));
        let store = Store {
            path: path.to_owned(),
            meta: tree("meta")?,
            people: tree("people")?,
            readings: tree("readings")?,
            strangers: tree("strangers")?,
            nearness: tree("nearness")?,
            nearness_aside: tree("nearness_aside")?,
            db,
            followers: Arc::default(),
            broken: Arc::default(),
            _lock: Arc::new(lock),
            writer: Arc::new(Mutex::new(writer)),
        };
        store.write(&store.meta, b"schema", SCHEMA.to_be_bytes().to_vec())?;
        let count = store.drop_bad_people()?;
        if count > 0 {
            notes.push(RecoveryNote::RecordsSkipped { count });
        }
        // After a crash this is all there is; only a store of an older program takes more
        // steps.
        store.index_some()?;
        for _ in 0..CHECKED_AT_OPENING {
            let checked = store.check_some_events(&mut notes);
            if !checked.inspect_err(|error| log::warn!("{error}")).unwrap_or(false) {
                break;
            }
        }
        Ok((store, notes))
    }

    /// Whether opening it moves the events of an older program, for which sled takes
    /// memory that it keeps.
    pub fn is_outdated(path: &Path) -> bool {
        path.join("db").exists() && !path.join("events").exists()
    }

    fn drop_bad_people(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        for entry in self.people.iter() {
            let (key, value) = entry.map_err(|error| self.failed(&error))?;
            if let Err(problem) = record::decode::<Person>(&value) {
                log::warn!("{}: a person's record is skipped: {problem}", self.path.display());
                self.people.remove(key).map_err(|error| self.failed(&error))?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn failed(&self, error: &sled::Error) -> StoreError {
        if matches!(error, sled::Error::Io(_)) {
            self.broken.store(true, Ordering::Relaxed);
        }
        write_error(&self.path, error)
    }

    /// Whether a write failed and would succeed now: the store has to be opened again for
    /// that, by a new start.
    pub fn wants_opening_again(&self) -> bool {
        let probe = self.path.join("probe");
        let written = || fs::File::create(&probe).and_then(|mut file| file.write_all(&[1; PROBE_BYTES]));
        let writable = self.broken.load(Ordering::Relaxed) && written().is_ok();
        // A failed one may have begun.
        let _ = fs::remove_file(&probe);
        writable
    }

    fn read_meta(&self, key: &str) -> Result<Option<sled::IVec>, StoreError> {
        self.meta.get(key).map_err(|error| self.failed(&error))
    }

    /// Inserts and flushes; an error means that nothing was acknowledged.
    fn write(&self, tree: &sled::Tree, key: &[u8], value: Vec<u8>) -> Result<(), StoreError> {
        tree.insert(key, value).map_err(|error| self.failed(&error))?;
        self.flush()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(|error| self.failed(&error))
    }

    /// Where the store lies. Other small files of the program may lie there too, under
    /// names of their own.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// A short text kept under a name, for what a program wants to remember about this machine.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn recall(&self, name: &str) -> Result<Option<String>, StoreError> {
        Ok(self.read_meta(name)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// For a text that was kept and says nothing.
    pub(crate) fn damaged(&self, name: &str, problem: &dyn std::fmt::Display) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), problem: format!("{name}: {problem}") }
    }

    /// # Errors
    /// Not written.
    pub fn remember(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.write(&self.meta, name.as_bytes(), text.as_bytes().to_vec())
    }

    /// Everybody, in the order of their numbers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn people(&self) -> Result<Vec<Person>, StoreError> {
        let mut people = Vec::new();
        for entry in self.people.iter() {
            let (_, value) = entry.map_err(|error| self.failed(&error))?;
            match record::decode(&value) {
                Ok(person) => people.push(person),
                Err(problem) => log::warn!("{}: a person's record is skipped: {problem}", self.path.display()),
            }
        }
        Ok(people)
    }

    /// Writes a person, replacing the record as a whole.
    ///
    /// # Errors
    /// Not written (disk full, read-only ...): the old record stands.
    pub fn put_person(&self, person: &Person) -> Result<(), StoreError> {
        let value = record::encode(person)
            .map_err(|error| StoreError::Write { path: self.path.clone(), problem: error.to_string() })?;
        self.write(&self.people, &person.id.0.to_be_bytes(), value)
    }

    /// # Errors
    /// Not removed.
    pub fn remove_person(&self, id: PersonId) -> Result<(), StoreError> {
        self.people.remove(id.0.to_be_bytes()).map_err(|error| self.failed(&error))?;
        self.flush()
    }

    /// What was read of the pictures in the enroll folder, by path. What cannot be understood is left out, and read again.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn readings(&self) -> Result<HashMap<String, Reading>, StoreError> {
        let mut readings = HashMap::new();
        for entry in self.readings.iter() {
            let (key, value) = entry.map_err(|error| self.failed(&error))?;
            if let (Ok(path), Ok(reading)) = (std::str::from_utf8(&key), record::decode(&value)) {
                readings.insert(path.to_owned(), reading);
            }
        }
        Ok(readings)
    }

    /// Writes what one look at the enroll folder changed: the people all at once.
    ///
    /// # Errors
    /// Not written (disk full, read-only ...): the old records stand.
    pub fn write_enrolment(&self, change: &EnrolmentChange) -> Result<(), StoreError> {
        let unwritable = |problem: String| StoreError::Write { path: self.path.clone(), problem };
        let mut people = sled::Batch::default();
        for person in &change.people {
            let value = record::encode(person).map_err(|error| unwritable(error.to_string()))?;
            people.insert(&person.id.0.to_be_bytes(), value);
        }
        change.gone_people.iter().for_each(|id| people.remove(&id.0.to_be_bytes()));
        let mut readings = sled::Batch::default();
        for (path, reading) in &change.readings {
            let value = record::encode(reading).map_err(|error| unwritable(error.to_string()))?;
            readings.insert(path.as_bytes(), value);
        }
        change.gone_readings.iter().for_each(|path| readings.remove(path.as_bytes()));
        for (tree, batch) in [(&self.people, people), (&self.readings, readings)] {
            tree.apply_batch(batch).map_err(|error| self.failed(&error))?;
        }
        self.flush()
    }

    /// A number that no person had before.
    ///
    /// # Errors
    /// It could not be noted.
    pub fn fresh_person_id(&self) -> Result<PersonId, StoreError> {
        let last =
            self.read_meta("last_person")?.and_then(|bytes| Some(u32::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        // Where the people were lost, the events still speak of them.
        let next = last.unwrap_or(0).max(self.last_person_seen()?) + 1;
        self.write(&self.meta, b"last_person", next.to_be_bytes().to_vec())?;
        Ok(PersonId(next))
    }

    /// Everybody unknown who is kept, in the order of their numbers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn strangers(&self) -> Result<Vec<Stranger>, StoreError> {
        let mut strangers = Vec::new();
        for entry in self.strangers.iter() {
            let (_, value) = entry.map_err(|error| self.failed(&error))?;
            match record::decode(&value) {
                Ok(stranger) => strangers.push(stranger),
                Err(problem) => log::warn!("{}: an unknown face's record is skipped: {problem}", self.path.display()),
            }
        }
        Ok(strangers)
    }

    /// Writes an unknown person, replacing the record as a whole; one without a number (0) gets the next.
    ///
    /// # Errors
    /// Not written: the old record stands.
    pub fn put_stranger(&self, stranger: &mut Stranger) -> Result<(), StoreError> {
        if stranger.id == 0 {
            let last = self.read_meta("last_stranger")?;
            let last = last.and_then(|bytes| Some(u32::from_be_bytes(bytes.as_ref().try_into().ok()?)));
            stranger.id = last.unwrap_or(0) + 1;
            self.write(&self.meta, b"last_stranger", stranger.id.to_be_bytes().to_vec())?;
        }
        let value = record::encode(stranger)
            .map_err(|error| StoreError::Write { path: self.path.clone(), problem: error.to_string() })?;
        self.write(&self.strangers, &stranger.id.to_be_bytes(), value)
    }

    /// # Errors
    /// Not removed.
    pub fn remove_stranger(&self, id: u32) -> Result<(), StoreError> {
        self.strangers.remove(id.to_be_bytes()).map_err(|error| self.failed(&error))?;
        self.flush()
    }
}

/// A store of another layout than this or older ones is not touched.
fn check_schema(path: &Path, db: &sled::Db) -> Result<(), StoreError> {
    let schema = db.open_tree("meta").and_then(|meta| meta.get("schema"));
    let schema = schema.map_err(|error| write_error(path, &error))?;
    match schema.and_then(|bytes| Some(u32::from_be_bytes(bytes.as_ref().try_into().ok()?))) {
        Some(found) if found > SCHEMA => Err(StoreError::Newer { path: path.to_owned(), found }),
        _ => Ok(()),
    }
}

fn write_error(path: &Path, error: &sled::Error) -> StoreError {
    let problem = match error {
        sled::Error::Io(error) if is_full(error) => FULL.into(),
        // The rest of a copied error is for programmers.
        sled::Error::Io(error) => error.kind().to_string(),
        error => error.to_string(),
    };
    StoreError::Write { path: path.to_owned(), problem }
}

const FULL: &str = "no space left on its disk; make room there";

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Root may open any store, but what it writes there the daemon's user cannot read.
fn refuse_foreign(path: &Path) -> Result<(), StoreError> {
    let Ok(meta) = fs::metadata(path) else { return Ok(()) };
    let owner = meta.uid();
    if owner != rustix::process::geteuid().as_raw() {
        return Err(StoreError::Foreign { path: path.to_owned(), owner });
    }
    Ok(())
}

/// A folder only its owner may look into: templates and events are personal data.
fn create_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests;
