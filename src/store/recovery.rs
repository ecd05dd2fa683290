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

use super::StoreError;

const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// The store holds kilobytes; sled's default of 1 GiB is the whole memory of a board.
const CACHE_BYTES: u64 = 8 << 20;

/// Something the owner should know about opening the store.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecoveryNote {
    #[error("the store was damaged and could be read again without its snapshots; a copy from before is {copy}")]
    SnapshotsDropped { copy: PathBuf },
    #[error(
        "the store could not be read any more: people are taken from the enroll folder again, past events are lost; the damaged store is kept as {copy}"
    )]
    StartedEmpty { copy: PathBuf },
    #[error("{count} damaged records were skipped; people are taken from the enroll folder again")]
    RecordsSkipped { count: usize },
}

pub(super) fn open(path: &Path, now_ms: i64) -> Result<(sled::Db, Vec<RecoveryNote>), StoreError> {
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
    fs::remove_dir_all(path).and_then(|()| super::create_private(path)).map_err(|e| StoreError::io(path, e))?;
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

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    super::create_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
