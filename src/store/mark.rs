//! How far the event log had come, written down outside of the store: beside its folder,
//! and inside.
//!
//! A store that was emptied, overwritten or put back from a copy is whole in itself; only
//! what stands elsewhere shows what is missing. The mark is written after each event, in
//! place and without waiting for the disk, so after a power cut it may be older than the
//! log, never newer.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::fs::OFlags;

use super::eventlog::HIGHEST;

/// `facelatch store ID event NUMBER CHECKSUM` and a line break.
const LENGTH: usize = 85;

/// What a mark says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reached {
    /// Which store, in hexadecimal digits.
    pub store: String,
    /// Number of its newest event.
    pub event: u64,
}

/// The files it is written to.
pub(super) struct Mark {
    files: Vec<File>,
}

impl Mark {
    /// Opens or makes both files, and reads the one beside; where that cannot be, the one
    /// inside has to do.
    pub(super) fn open(store: &Path) -> (Mark, Option<Reached>) {
        let mut beside = store.as_os_str().to_owned();
        beside.push(".mark");
        let opened = [Path::new(&beside).to_owned(), store.join("mark")]
            .into_iter()
            .filter_map(|path| open(&path).inspect_err(|error| log::debug!("{}: {error}", path.display())).ok());
        let files: Vec<File> = opened.collect();
        let reached = files.iter().find_map(read);
        (Mark { files }, reached)
    }

    pub(super) fn write(&self, reached: &Reached) {
        let text = format!("facelatch store {} event {:020}", reached.store, reached.event);
        let text = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
        for file in &self.files {
            if let Err(error) = file.write_all_at(text.as_bytes(), 0) {
                log::debug!("the mark of the event log: {error}");
            }
        }
    }
}

/// No link is followed, and a file of another user is not believed.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags as i32);
    let file = file.open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("not a file of this user's"));
    }
    Ok(file)
}

fn read(file: &File) -> Option<Reached> {
    let mut text = String::new();
    file.take(LENGTH as u64).read_to_string(&mut text).ok()?;
    let (text, sum) = text.trim_end().rsplit_once(' ')?;
    if u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(text.as_bytes()) {
        return None;
    }
    let (store, event) = text.strip_prefix("facelatch store ")?.split_once(" event ")?;
    let event = event.parse().ok().filter(|event| *event <= HIGHEST)?;
    Some(Reached { store: store.to_owned(), event })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_mark_says_what_was_written_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        let reached = |event| Reached { store: "0123456789abcdef0123456789abcdef".into(), event };
        let (mark, before) = Mark::open(&store);
        assert_eq!(before, None);
        (1..=12).for_each(|event| mark.write(&reached(event)));
        assert_eq!(fs::metadata(store.join("mark")).unwrap().len(), LENGTH as u64);
        fs::remove_dir_all(&store).unwrap();
        fs::create_dir(&store).unwrap();
        assert_eq!(Mark::open(&store).1, Some(reached(12)), "the one beside is left");
        fs::write(dir.path().join("store.mark"), "nonsense").unwrap();
        assert_eq!(Mark::open(&store).1, None);
    }

    #[test]
    fn a_link_is_no_mark() {
        let dir = tempfile::tempdir().unwrap();
        let (store, victim) = (dir.path().join("store"), dir.path().join("victim"));
        fs::create_dir(&store).unwrap();
        fs::write(&victim, "mine").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("store.mark")).unwrap();
        let (mark, _) = Mark::open(&store);
        mark.write(&Reached { store: "0".into(), event: 1 });
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(Mark::open(&store).1.map(|reached| reached.event), Some(1), "the one inside has to do");
    }
}
