//! Opening sled whatever state a power cut left it in.
//!
//! sled 0.34.7 does not open over a snapshot that was being written, may call a torn snapshot corruption though its log is
//! whole, may panic on damaged data, and gives its lock back a moment after its process was killed. Each is dealt with here; what is given up on is kept beside.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{fs::FlockOperation, io::Errno};

use super::{EventKind, EventLog, StoreError};

const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// The store holds kilobytes; sled's default of 1 GiB is the whole memory of a board.
const CACHE_BYTES: u64 = 8 << 20;

/// Something the owner should know about opening the store.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecoveryNote {
    #[error("the store was damaged and could be read again without its snapshots; a copy from before is {copy}")]
    SnapshotsDropped { copy: PathBuf },
    #[error(
        "the store could not be read any more: people are taken from the enroll folder again; what could not be read is kept as {copy}"
    )]
    StartedEmpty { copy: PathBuf },
    #[error("{count} damaged records were skipped; people are taken from the enroll folder again")]
    RecordsSkipped { count: usize },
    #[error(
        "the store is not the one that was here before (emptied, overwritten or exchanged): {events} events are missing, people are taken from the enroll folder again"
    )]
    Replaced { events: u64 },
    #[error(
        "the store is older than it was (put back from a copy, or overwritten): {events} events are missing, numbers {first} to {last}"
    )]
    EventsMissing { events: u64, first: u64, last: u64 },
    #[error("{file} {problem}: {events} events are missing, numbers {first} to {last}; all others are kept")]
    EventsLost { file: PathBuf, problem: &'static str, events: u64, first: u64, last: u64 },
}

impl RecoveryNote {
    /// How many events were recorded and are not there.
    pub fn events_missing(&self) -> u64 {
        match self {
            RecoveryNote::Replaced { events }
            | RecoveryNote::EventsMissing { events, .. }
            | RecoveryNote::EventsLost { events, .. } => *events,
            _ => 0,
        }
    }

    /// As it is recorded.
    pub fn event(&self) -> EventKind {
        EventKind::StoreDamaged { problem: self.to_string(), events_missing: self.events_missing() }
    }
}

/// Takes the folder for this process, for as long as the answer is kept: nobody else
/// repairs it meanwhile.
pub(super) fn lock(path: &Path) -> Result<fs::File, StoreError> {
    let folder = fs::File::open(path).map_err(|error| StoreError::io(path, error))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(Duration::from_millis(100)),
            Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(error) => return Err(StoreError::io(path, error.into())),
        }
    }
}

pub(super) fn open(path: &Path, now_ms: i64) -> Result<(sled::Db, Vec<RecoveryNote>), StoreError> {
    finish_rebuilding(path).map_err(|e| StoreError::io(path, e))?;
    remove_snapshots(path, |name| name.ends_with(".generating")).map_err(|e| StoreError::io(path, e))?;
    match patiently(path) {
        Err(StoreError::Damaged { .. }) => {}
        result => return result.map(|db| (db, Vec::new())),
    }
    let copy = path.with_extension(format!("damaged-{now_ms}"));
    copy_folder(path, &copy).map_err(|e| StoreError::io(&copy, e))?;
    remove_snapshots(path, |_| true).map_err(|e| StoreError::io(path, e))?;
    match patiently(path) {
        Err(StoreError::Damaged { .. }) => {}
        result => return result.map(|db| (db, vec![RecoveryNote::SnapshotsDropped { copy }])),
    }
    remove_tables(path).map_err(|e| StoreError::io(path, e))?;
    patiently(path).map(|db| (db, vec![RecoveryNote::StartedEmpty { copy }]))
}

fn patiently(path: &Path) -> Result<sled::Db, StoreError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match once(path) {
            Err(StoreError::InUse { .. }) if Instant::now() < until => thread::sleep(Duration::from_millis(100)),
            result => return result,
        }
    }
}

fn once(path: &Path) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(CACHE_BYTES)
        .mode(sled::Mode::LowSpace)
        // Everything that is acknowledged is flushed by hand.
        .flush_every_ms(None);
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("lock") => {
            Err(StoreError::InUse { path: path.to_owned() })
        }
        Ok(Err(sled::Error::Io(error))) if error.kind() != io::ErrorKind::InvalidData => {
            Err(StoreError::io(path, error))
        }
        Ok(Err(error)) => Err(StoreError::Damaged { path: path.to_owned(), problem: error.to_string() }),
        Err(_) => Err(StoreError::Damaged { path: path.to_owned(), problem: "it cannot be read".into() }),
    }
}

fn remove_snapshots(path: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("snap.") && which(name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What sled keeps in the folder, but for snapshots.
const TABLES: [&str; 3] = ["blobs", "conf", "db"];

fn remove_tables(path: &Path) -> io::Result<()> {
    remove_snapshots(path, |_| true)?;
    TABLES.iter().try_for_each(|name| remove(&path.join(name)))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Moves the events of an older program out of sled, into the log. sled remembers in
/// memory every page it ever had, so all else is written into a new one.
pub(super) fn move_events(path: &Path, db: sled::Db, log: &mut EventLog) -> Result<sled::Db, StoreError> {
    let failed = |error: sled::Error| super::write_error(path, &error);
    if !db.tree_names().iter().any(|name| name.as_ref() == b"events") {
        return Ok(db);
    }
    log::info!("the store is of an older facelatch: its events move into files of their own");
    let events = db.open_tree("events").map_err(failed)?;
    // Behind what was moved before a crash.
    for entry in events.range((log.last() + 1).to_be_bytes()..) {
        let (key, record) = entry.map_err(failed)?;
        let Ok(id) = key.as_ref().try_into().map(u64::from_be_bytes) else { continue };
        log.append(id, &record, false).map_err(|error| StoreError::io(path, error))?;
    }
    log.sync().map_err(|error| StoreError::io(path, error))?;
    let fresh = path.join(REBUILT);
    remove(&fresh).and_then(|()| super::create_private(&fresh)).map_err(|error| StoreError::io(path, error))?;
    let to = once(&fresh)?;
    for name in db.tree_names().into_iter().filter(|name| name.as_ref() != b"events") {
        let (from, to) = (db.open_tree(&name).map_err(failed)?, to.open_tree(&name).map_err(failed)?);
        for entry in from.iter() {
            let (key, value) = entry.map_err(failed)?;
            to.insert(key, value).map_err(failed)?;
        }
    }
    to.flush().map_err(failed)?;
    drop((events, to, db));
    let done = fs::File::create(fresh.join(DONE)).and_then(|file| file.sync_all());
    done.and_then(|()| finish_rebuilding(path)).map_err(|error| StoreError::io(path, error))?;
    patiently(path)
}

const REBUILT: &str = "rebuilt";
/// Lies in it when all is.
const DONE: &str = "done";

/// Puts rebuilt tables in the place of the old ones; what a crash left of that is done
/// first.
fn finish_rebuilding(path: &Path) -> io::Result<()> {
    let fresh = path.join(REBUILT);
    if !fresh.join(DONE).exists() {
        return remove(&fresh);
    }
    // sled needs no snapshot.
    remove_snapshots(path, |_| true)?;
    for name in TABLES.iter().filter(|name| fresh.join(name).exists()) {
        remove(&path.join(name))?;
        fs::rename(fresh.join(name), path.join(name))?;
    }
    fs::File::open(path)?.sync_all()?;
    remove(&fresh)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    super::create_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        // The events stay where they are.
        if entry.file_name() == "events" {
            continue;
        }
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
