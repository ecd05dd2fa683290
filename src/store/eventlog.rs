//! The event log: files of records, appended to at the end and forgotten from the front.
//!
//! `events/00000000000000000001.log` holds up to 1,024 events. The name is the number of
//! its first event; the numbers after it follow without a gap. A record lies there as
//! `[length: 4 bytes, little-endian][record]`, the record as [`super::record`] has it.
//!
//! sled keeps about 35 bytes of memory for each event it holds, and as much again once it
//! is read. A file costs none: a million events are read through one buffer.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    ops::RangeInclusive,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Events in a file.
pub(super) const EVENTS_A_FILE: u64 = 1024;
/// Longer records are damage: an event has some hundred bytes.
const LONGEST_RECORD: u32 = 1 << 20;

/// The log, for its one writer.
pub(super) struct EventLog {
    folder: PathBuf,
    /// First numbers of all files.
    files: BTreeSet<u64>,
    tail: Option<Tail>,
}

/// The file that is appended to.
struct Tail {
    file: File,
    first: u64,
    /// The number that comes next in this file.
    next: u64,
    /// Bytes of whole records.
    length: u64,
    /// Something half written could not be cut off: the next record goes into a file of
    /// its own.
    broken: bool,
}

impl EventLog {
    /// Opens the log in its folder, which it makes. A record that was being written when
    /// the power failed is cut off.
    pub(super) fn open(folder: &Path) -> io::Result<EventLog> {
        super::create_private(folder)?;
        let mut log = EventLog { folder: folder.to_owned(), files: list(folder)?, tail: None };
        if let Some(first) = log.files.last().copied() {
            log.tail = Some(log.open_tail(first)?);
        }
        Ok(log)
    }

    fn open_tail(&self, first: u64) -> io::Result<Tail> {
        let file = OpenOptions::new().read(true).append(true).open(file_path(&self.folder, first))?;
        let mut records = Records::new(file.try_clone()?);
        let mut next = first;
        while records.skip()?.is_some() {
            next += 1;
        }
        file.set_len(records.position)?;
        Ok(Tail { file, first, next, length: records.position, broken: false })
    }

    /// Number of the newest event; 0: there is none.
    pub(super) fn last(&self) -> u64 {
        self.tail.as_ref().map_or(0, |tail| tail.next.saturating_sub(1))
    }

    /// Writes an event's record behind the others, to the disk if `sync` says so. Numbers
    /// rise.
    ///
    /// # Errors
    /// Not written; the log is as it was before.
    pub(super) fn append(&mut self, id: u64, record: &[u8], sync: bool) -> io::Result<()> {
        let fits = |tail: &Tail| !tail.broken && tail.next == id && id - tail.first < EVENTS_A_FILE;
        if !self.tail.as_ref().is_some_and(fits) {
            self.sync()?;
            self.tail = Some(self.new_file(id)?);
        }
        let Some(tail) = self.tail.as_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut framed = u32::try_from(record.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
        framed.extend_from_slice(record);
        let written = tail.file.write_all(&framed).and_then(|()| if sync { tail.file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // What lies there half written must not stand before the next record.
            tail.broken = tail.file.set_len(tail.length).is_err();
            return Err(error);
        }
        (tail.next, tail.length) = (id + 1, tail.length + framed.len() as u64);
        Ok(())
    }

    /// Brings to the disk what was appended without.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.tail.as_ref().map_or(Ok(()), |tail| tail.file.sync_data())
    }

    fn new_file(&mut self, first: u64) -> io::Result<Tail> {
        let path = file_path(&self.folder, first);
        // One of this name holds no whole record, or the numbers would go on behind it.
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path)?;
        file.set_len(0)?;
        sync_folder(&self.folder)?;
        self.files.insert(first);
        Ok(Tail { file, first, next: first, length: 0, broken: false })
    }

    /// The events of these numbers, oldest first. Later appends do not change what it
    /// reads.
    pub(super) fn range(&self, ids: RangeInclusive<u64>) -> LogRange {
        let (from, until) = (*ids.start(), (*ids.end()).min(self.last()));
        if from > until {
            return LogRange { folder: self.folder.clone(), parts: Vec::new() };
        }
        let mut starts: Vec<u64> = self.files.range(..=from).next_back().copied().into_iter().collect();
        starts.extend(self.files.range(from.saturating_add(1)..).take_while(|start| **start <= until));
        // The end of a file: where the next one begins.
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([until]);
        let parts = starts.iter().zip(ends).map(|(start, end)| (*start, from.max(*start)..=end)).collect();
        LogRange { folder: self.folder.clone(), parts }
    }

    /// Forgets events up to a number, at most a file's worth; how many. The newest one
    /// stays.
    pub(super) fn forget_some(&mut self, up_to: u64) -> io::Result<u64> {
        let up_to = up_to.min(self.last().saturating_sub(1));
        let Some(first) = self.files.first().copied().filter(|first| *first <= up_to) else { return Ok(0) };
        let end = self.file_end(first);
        if end > up_to {
            self.cut_front(first, up_to + 1)?;
        } else {
            fs::remove_file(file_path(&self.folder, first))?;
            self.files.remove(&first);
        }
        Ok(end.min(up_to) + 1 - first)
    }

    /// Number of the last event a file can hold.
    fn file_end(&self, first: u64) -> u64 {
        let next = self.files.range(first + 1..).next().map_or(self.last() + 1, |next| *next);
        next.min(first + EVENTS_A_FILE) - 1
    }

    /// Writes a new file without the events before `keep`.
    fn cut_front(&mut self, first: u64, keep: u64) -> io::Result<()> {
        let mut records = Records::new(File::open(file_path(&self.folder, first))?);
        for _ in first..keep {
            records.skip()?;
        }
        let mut rest = Vec::new();
        let mut file = File::open(file_path(&self.folder, first))?;
        file.seek(SeekFrom::Start(records.position))?;
        file.read_to_end(&mut rest)?;
        let (path, fresh) = (file_path(&self.folder, keep), self.folder.join("cut"));
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&rest)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        // A crash before this line leaves both; what is forgotten is forgotten once more
        // then.
        fs::remove_file(file_path(&self.folder, first))?;
        sync_folder(&self.folder)?;
        self.files.remove(&first);
        self.files.insert(keep);
        if self.tail.as_ref().is_some_and(|tail| tail.first == first) {
            self.tail = Some(self.open_tail(keep)?);
        }
        Ok(())
    }

    /// The newest number so that at most `most` events have a higher one; None: there are
    /// no more.
    pub(super) fn beyond(&self, most: u64) -> Option<u64> {
        let mut left = most;
        for first in self.files.iter().rev() {
            let count = (self.file_end(*first) + 1).saturating_sub(*first);
            if count > left {
                return Some(self.file_end(*first) - left);
            }
            left -= count;
        }
        None
    }

    /// First numbers of the files that begin within these.
    pub(super) fn starts(&self, ids: RangeInclusive<u64>) -> Vec<u64> {
        self.files.range(ids).copied().collect()
    }
}

/// Some of the log, read as it is asked for. It holds no lock; files that go meanwhile
/// are passed over.
pub(super) struct LogRange {
    folder: PathBuf,
    /// Files and what is wanted of each.
    parts: Vec<(u64, RangeInclusive<u64>)>,
}

impl LogRange {
    /// Reads record by record from the front, as long as `each` says so.
    pub(super) fn read(self, mut each: impl FnMut(u64, &[u8]) -> bool) -> io::Result<()> {
        for (start, ids) in self.parts {
            if !read_file(&self.folder, start, &ids, &mut each)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads file by file from the back, as long as `each` says so; each gets a file's
    /// records in their order.
    pub(super) fn read_back(self, mut each: impl FnMut(Vec<(u64, Vec<u8>)>) -> bool) -> io::Result<()> {
        for (start, ids) in self.parts.into_iter().rev() {
            let mut records = Vec::new();
            read_file(&self.folder, start, &ids, &mut |id, record| {
                records.push((id, record.to_vec()));
                true
            })?;
            if !each(records) {
                break;
            }
        }
        Ok(())
    }
}

/// False: no more is wanted.
fn read_file(
    folder: &Path,
    start: u64,
    wanted: &RangeInclusive<u64>,
    each: &mut impl FnMut(u64, &[u8]) -> bool,
) -> io::Result<bool> {
    let file = match File::open(file_path(folder, start)) {
        // Forgotten meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file?,
    };
    let mut records = Records::new(file);
    for id in start..=*wanted.end() {
        if id < *wanted.start() {
            if records.skip()?.is_none() {
                break;
            }
            continue;
        }
        match records.next()? {
            None => break,
            Some(record) if !each(id, record) => return Ok(false),
            Some(_) => {}
        }
    }
    Ok(true)
}

/// The records of a file, one after the other; it ends where no whole record follows.
struct Records {
    file: BufReader<File>,
    /// Bytes of the whole records so far.
    position: u64,
    left: u64,
    record: Vec<u8>,
}

impl Records {
    fn new(file: File) -> Records {
        let left = file.metadata().map_or(0, |meta| meta.len());
        Records { file: BufReader::with_capacity(16 << 10, file), position: 0, left, record: Vec::new() }
    }

    /// Length of the next record, if it lies there whole.
    fn length(&mut self) -> io::Result<Option<u32>> {
        let mut length = [0; 4];
        if self.left < 4 {
            return Ok(None);
        }
        self.file.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let whole = 4 + u64::from(length);
        if length == 0 || length > LONGEST_RECORD || whole > self.left {
            return Ok(None);
        }
        (self.position, self.left) = (self.position + whole, self.left - whole);
        Ok(Some(length))
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let Some(length) = self.length()? else { return Ok(None) };
        self.record.resize(length as usize, 0);
        self.file.read_exact(&mut self.record)?;
        Ok(Some(&self.record))
    }

    fn skip(&mut self) -> io::Result<Option<()>> {
        let Some(length) = self.length()? else { return Ok(None) };
        self.file.seek_relative(length.into())?;
        Ok(Some(()))
    }
}

fn file_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

fn list(folder: &Path) -> io::Result<BTreeSet<u64>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|number| number.len() == 20);
        files.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    Ok(files)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(dir: &tempfile::TempDir) -> EventLog {
        EventLog::open(&dir.path().join("events")).unwrap()
    }

    fn fill(log: &mut EventLog, ids: RangeInclusive<u64>) {
        for id in ids {
            log.append(id, format!("event {id}").as_bytes(), false).unwrap();
        }
        log.sync().unwrap();
    }

    fn ids(log: &EventLog, wanted: RangeInclusive<u64>) -> Vec<u64> {
        let mut ids = Vec::new();
        let each = |id, record: &[u8]| {
            assert_eq!(record, format!("event {id}").as_bytes());
            ids.push(id);
            true
        };
        log.range(wanted).read(each).unwrap();
        ids
    }

    #[test]
    fn a_log_is_read_across_its_files_and_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(&dir);
        fill(&mut log, 1..=3000);
        fill(&mut log, 5000..=5010);
        let log = open(&dir);
        assert_eq!((log.last(), log.files.len()), (5010, 4));
        assert_eq!(ids(&log, 0..=u64::MAX).len(), 3011);
        assert_eq!(ids(&log, 1023..=1026), [1023, 1024, 1025, 1026]);
        assert_eq!(ids(&log, 2999..=5001), [2999, 3000, 5000, 5001]);
        assert!(ids(&log, 6000..=7000).is_empty());
    }

    #[test]
    fn what_was_half_written_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        fill(&mut open(&dir), 1..=3);
        let file = file_path(&dir.path().join("events"), 1);
        let whole = fs::read(&file).unwrap();
        for torn in [&[9][..], &[9, 0, 0, 0, b'x'], &[0; 4], &[255; 400]] {
            fs::write(&file, [&whole[..], torn].concat()).unwrap();
            let mut log = open(&dir);
            assert_eq!(log.last(), 3);
            fill(&mut log, 4..=4);
            assert_eq!(ids(&open(&dir), 1..=9), [1, 2, 3, 4]);
        }
    }

    #[test]
    fn the_newest_event_is_never_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(&dir);
        fill(&mut log, 1..=2500);
        let mut forgotten = 0;
        loop {
            match log.forget_some(u64::MAX).unwrap() {
                0 => break,
                some if some <= EVENTS_A_FILE => forgotten += some,
                many => panic!("{many} in one step"),
            }
        }
        assert_eq!((forgotten, ids(&log, 0..=u64::MAX)), (2499, vec![2500]));
        fill(&mut log, 2501..=2501);
        assert_eq!(ids(&open(&dir), 0..=u64::MAX), [2500, 2501]);
    }

    proptest! {
        #[test]
        fn what_is_forgotten_is_gone_and_the_rest_stays(
            last in 1u64..4000, up_to in 0u64..4100, most in 0u64..4100
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = open(&dir);
            fill(&mut log, 1..=last);
            prop_assert_eq!(log.beyond(most), last.checked_sub(most).filter(|id| *id > 0));
            while log.forget_some(up_to).unwrap() > 0 {}
            let rest: Vec<u64> = (up_to.min(last - 1) + 1..=last).collect();
            prop_assert_eq!(ids(&log, 0..=u64::MAX), rest.clone());
            prop_assert_eq!(ids(&open(&dir), 0..=u64::MAX), rest);
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            open(&dir);
            fs::write(file_path(&dir.path().join("events"), 7), bytes).unwrap();
            let mut log = open(&dir);
            let last = log.last().max(6);
            fill(&mut log, last + 1..=last + 1);
            let mut read = 0;
            log.range(0..=u64::MAX).read(|_, _| { read += 1; true }).unwrap();
            prop_assert_eq!(read, last - 5);
        }
    }
}
