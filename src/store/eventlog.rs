//! The event log: files of records, appended to at the end and forgotten from the front.
//!
//! `events/00000000000000000001.log` holds up to 1,024 events. The name is the number of
//! its first event; the numbers after it rise. A record lies there as
//! `[length: 4 bytes, little-endian][record]`, the record as [`super::record`] has it.
//! Each has its checksum and its number, so that reading goes on behind damaged bytes.
//!
//! sled keeps about 35 bytes of memory for each event it holds, and as much again once it
//! is read. A file costs none: a million events are read through one buffer.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    mem,
    ops::RangeInclusive,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::fstat;

use super::{numbers::Numbers, record};

/// Events in a file.
pub(super) const EVENTS_A_FILE: u64 = 1024;
/// Longer records are damage: an event has some hundred bytes.
const LONGEST_RECORD: usize = 1 << 20;
/// Bytes behind damaged ones that are searched for the next record.
const SEARCHED: u64 = 16 << 20;
/// No event has a higher number.
pub(super) const HIGHEST: u64 = u64::MAX / 2;

/// The log, for its one writer.
pub(super) struct EventLog {
    folder: PathBuf,
    /// First numbers of all files.
    files: BTreeSet<u64>,
    tail: Option<Tail>,
    /// What opening found to be damaged at the end of the log.
    damaged: Option<PathBuf>,
    unchecked: Unchecked,
}

/// First numbers of files that may lack events.
#[derive(Clone, Default)]
struct Unchecked(Arc<Mutex<BTreeSet<u64>>>);

impl Unchecked {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that is appended to.
struct Tail {
    file: File,
    first: u64,
    /// The number that comes next in this file.
    next: u64,
    /// Bytes of whole records.
    length: u64,
    /// Damaged bytes end it, or half a record could not be cut off: the next record goes
    /// into another file.
    broken: bool,
}

impl Tail {
    fn is_deleted(&self) -> bool {
        fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

impl EventLog {
    /// Opens the log in its folder, which it makes. A record that was being written when
    /// the power failed is cut off.
    pub(super) fn open(folder: &Path) -> io::Result<EventLog> {
        super::create_private(folder)?;
        let mut log = EventLog {
            folder: folder.to_owned(),
            files: list(folder)?,
            tail: None,
            damaged: None,
            unchecked: Unchecked::default(),
        };
        while let Some(first) = log.files.last().copied() {
            log.tail = log.open_tail(first)?;
            if log.tail.is_some() {
                break;
            }
            log.files.remove(&first);
        }
        log.unchecked.lock().extend(&log.files);
        Ok(log)
    }

    /// None: it holds no event, and was set aside.
    fn open_tail(&mut self, first: u64) -> io::Result<Option<Tail>> {
        let path = file_path(&self.folder, first);
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        let mut records = Records::new(file.try_clone()?, first)?;
        let mut next = None;
        while let Some((id, _)) = records.next()? {
            next = Some(id + 1);
        }
        let (length, broken) = (records.position, !records.ends_unfinished()?);
        if broken {
            log::warn!("{}: damaged bytes from {length} on; they stay as they are", path.display());
        }
        let Some(next) = next else {
            let aside = if broken { Some(set_aside(&path)?) } else { fs::remove_file(&path).map(|()| None)? };
            self.damaged = aside.or(self.damaged.take());
            return Ok(None);
        };
        if broken {
            self.damaged = Some(path);
        } else {
            file.set_len(length)?;
        }
        Ok(Some(Tail { file, first, next, length, broken }))
    }

    /// The file in which damaged bytes stood behind the newest event at opening.
    pub(super) fn damaged(&self) -> Option<&Path> {
        self.damaged.as_deref()
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
        if self.tail.as_ref().is_some_and(Tail::is_deleted) {
            super::create_private(&self.folder)?;
            self.tail = Some(self.new_file(id)?);
        } else if !self.tail.as_ref().is_some_and(fits) {
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
        let mut options = OpenOptions::new();
        // One of this name holds no whole record, or the numbers would go on behind it.
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
        let log = |parts| LogRange { folder: self.folder.clone(), unchecked: self.unchecked.clone(), parts };
        if from > until {
            return log(Vec::new());
        }
        let mut starts: Vec<u64> = self.files.range(..=from).next_back().copied().into_iter().collect();
        starts.extend(self.files.range(from.saturating_add(1)..).take_while(|start| **start <= until));
        // The end of a file: where the next one begins.
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([until]);
        log(starts.iter().zip(ends).map(|(start, end)| (*start, from.max(*start)..=end)).collect())
    }

    /// How far [`EventLog::forget_some`] goes.
    pub(super) fn forgets(&self, up_to: u64) -> Option<u64> {
        let up_to = up_to.min(self.last().saturating_sub(1));
        let first = self.files.first().filter(|first| **first <= up_to)?;
        Some(self.file_end(*first).min(up_to))
    }

    /// Forgets events up to a number, at most a file's worth; how many. The newest one
    /// stays.
    pub(super) fn forget_some(&mut self, up_to: u64) -> io::Result<u64> {
        let (Some(first), Some(forgets)) = (self.files.first().copied(), self.forgets(up_to)) else { return Ok(0) };
        if self.file_end(first) > forgets {
            self.cut_front(first, forgets + 1)?;
        } else {
            fs::remove_file(file_path(&self.folder, first)).or_else(unless_gone)?;
            self.files.remove(&first);
        }
        Ok(forgets + 1 - first)
    }

    /// Number of the last event a file can hold.
    fn file_end(&self, first: u64) -> u64 {
        let next = self.files.range(first + 1..).next().map_or(self.last() + 1, |next| *next);
        next.min(first + EVENTS_A_FILE) - 1
    }

    /// Writes a new file without the events before `keep`.
    fn cut_front(&mut self, first: u64, keep: u64) -> io::Result<()> {
        let mut file = File::open(file_path(&self.folder, first))?;
        let mut records = Records::new(file.try_clone()?, first)?;
        let mut from = 0;
        while records.next()?.is_some_and(|(id, _)| id < keep) {
            from = records.position;
        }
        let mut rest = Vec::new();
        file.seek(SeekFrom::Start(from))?;
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
            self.tail = self.open_tail(keep)?;
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

    /// The numbers for which there are files.
    pub(super) fn named(&self) -> Numbers {
        let mut named = Numbers::default();
        self.files.iter().for_each(|first| named.insert(*first..=self.file_end(*first).min(self.last())));
        named
    }

    /// Where an event of this number lies, or would.
    pub(super) fn file_of(&self, id: u64) -> PathBuf {
        let first = self.files.range(..=id).next_back().filter(|first| self.file_end(**first) >= id);
        file_path(&self.folder, first.map_or(id, |first| *first))
    }

    /// A file that is not checked yet, and the numbers it should hold.
    pub(super) fn next_unchecked(&self) -> Option<LogFile> {
        let first = self.unchecked.lock().pop_last()?;
        let end = if self.files.contains(&first) { self.file_end(first).min(self.last()) } else { first - 1 };
        Some(LogFile { path: file_path(&self.folder, first), first, ids: first..=end })
    }

    pub(super) fn has(&self, file: &LogFile) -> bool {
        self.files.contains(&file.first)
    }

    /// Has the files checked that are not in their folder any more.
    pub(super) fn look_for_lost_files(&self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let there: BTreeSet<u64> = entries.filter_map(|entry| first_number(&entry.path())).collect();
        self.unchecked.lock().extend(self.files.difference(&there));
    }

    /// First numbers of the files that begin within these.
    pub(super) fn starts(&self, ids: RangeInclusive<u64>) -> Vec<u64> {
        self.files.range(ids).copied().collect()
    }
}

/// A file of the log.
pub(super) struct LogFile {
    pub path: PathBuf,
    first: u64,
    /// What it should hold.
    pub ids: RangeInclusive<u64>,
}

impl LogFile {
    /// The numbers of the events that can be read in it. None: it is not there.
    pub(super) fn held(&self) -> io::Result<Option<Numbers>> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (mut records, mut held) = (Records::new(file, self.first)?, Numbers::default());
        loop {
            match records.next() {
                Ok(Some((id, _))) => held.insert(id..=id),
                Ok(None) => return Ok(Some(held)),
                Err(error) => {
                    log::warn!("{}: {error}", self.path.display());
                    return Ok(Some(held));
                }
            }
        }
    }
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Some of the log, read as it is asked for. It holds no lock; files that go meanwhile
/// are passed over.
pub(super) struct LogRange {
    folder: PathBuf,
    unchecked: Unchecked,
    /// Files and what is wanted of each.
    parts: Vec<(u64, RangeInclusive<u64>)>,
}

impl LogRange {
    /// Reads record by record from the front, as long as `each` says so.
    pub(super) fn read(mut self, mut each: impl FnMut(u64, &[u8]) -> bool) -> io::Result<()> {
        for (start, ids) in mem::take(&mut self.parts) {
            if !self.read_file(start, &ids, &mut each)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads file by file from the back, as long as `each` says so; each gets a file's
    /// records in their order.
    pub(super) fn read_back(mut self, mut each: impl FnMut(Vec<(u64, Vec<u8>)>) -> bool) -> io::Result<()> {
        for (start, ids) in mem::take(&mut self.parts).into_iter().rev() {
            let mut records = Vec::new();
            self.read_file(start, &ids, &mut |id, record| {
                records.push((id, record.to_vec()));
                true
            })?;
            if !each(records) {
                break;
            }
        }
        Ok(())
    }

    /// False: no more is wanted. A file that lacks something is checked later.
    fn read_file(
        &self,
        start: u64,
        wanted: &RangeInclusive<u64>,
        each: &mut impl FnMut(u64, &[u8]) -> bool,
    ) -> io::Result<bool> {
        let file = match File::open(file_path(&self.folder, start)) {
            // Forgotten meanwhile, or lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.unchecked.lock().insert(start);
                return Ok(true);
            }
            file => file?,
        };
        let (mut records, mut next) = (Records::new(file, start)?, start);
        while next <= *wanted.end() {
            let Some((id, record)) = records.next()? else { break };
            if id != next {
                self.unchecked.lock().insert(start);
            }
            next = id + 1;
            if wanted.contains(&id) && !each(id, record) {
                return Ok(false);
            }
        }
        if next <= *wanted.end() {
            self.unchecked.lock().insert(start);
        }
        Ok(true)
    }
}

/// The records of a file, one after the other. Damaged ones are passed over.
struct Records {
    file: BufReader<File>,
    /// End of the last whole record.
    position: u64,
    size: u64,
    /// Numbers that the next record can have.
    next: RangeInclusive<u64>,
    record: Vec<u8>,
}

impl Records {
    fn new(file: File, first: u64) -> io::Result<Records> {
        let size = file.metadata()?.len();
        let next = first..=first + EVENTS_A_FILE - 1;
        Ok(Records { file: BufReader::with_capacity(16 << 10, file), position: 0, size, next, record: Vec::new() })
    }

    /// The next whole record and its number.
    fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        let id = match self.follow()? {
            None => self.search()?,
            id => id,
        };
        let Some(id) = id else { return Ok(None) };
        self.next = id + 1..=*self.next.end();
        Ok(Some((id, &self.record)))
    }

    /// Reads the record that follows, if it is whole.
    fn follow(&mut self) -> io::Result<Option<u64>> {
        let left = self.size - self.position;
        let mut length = [0; 4];
        if left < 4 {
            return Ok(None);
        }
        self.file.read_exact(&mut length)?;
        let Some(length) = record_length(length).filter(|length| 4 + *length as u64 <= left) else { return Ok(None) };
        self.record.resize(length, 0);
        self.file.read_exact(&mut self.record)?;
        let id = self.number(&self.record);
        self.position += id.map_or(0, |_| 4 + length as u64);
        Ok(id)
    }

    /// Searches the rest of the file for a whole record.
    fn search(&mut self) -> io::Result<Option<u64>> {
        let rest = self.rest()?;
        for from in 1..rest.len().saturating_sub(4) {
            let (length, behind) = rest[from..].split_at(4);
            let length = record_length([length[0], length[1], length[2], length[3]]);
            let Some(record) = length.and_then(|length| behind.get(..length)) else { continue };
            if let Some(id) = self.number(record) {
                self.record = record.to_vec();
                self.position += (from + 4 + record.len()) as u64;
                self.file.seek(SeekFrom::Start(self.position))?;
                return Ok(Some(id));
            }
        }
        self.file.seek(SeekFrom::Start(self.position))?;
        Ok(None)
    }

    /// The number of a whole record that can come next.
    fn number(&self, record: &[u8]) -> Option<u64> {
        record::decode::<u64>(record).ok().filter(|id| self.next.contains(id))
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.file.seek(SeekFrom::Start(self.position))?;
        let left = (self.size - self.position).min(SEARCHED);
        self.file.by_ref().take(left).read_to_end(&mut rest)?;
        Ok(rest)
    }

    /// Whether behind the last whole record lies nothing or part of one more, as a power
    /// cut leaves it: cut short, or never filled.
    fn ends_unfinished(&mut self) -> io::Result<bool> {
        let rest = self.rest()?;
        let Some(length) = rest.first_chunk::<4>() else { return Ok(true) };
        let whole = record_length(*length).map(|length| 4 + length);
        Ok(whole.is_some_and(|whole| whole >= rest.len()) || rest.iter().all(|byte| *byte == 0))
    }
}

/// None: no record is so long.
fn record_length(bytes: [u8; 4]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes) as usize;
    (1..=LONGEST_RECORD).contains(&length).then_some(length)
}

fn file_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.log"))
}

/// First numbers of the log's files. What has such a name and is no file is set aside.
fn list(folder: &Path) -> io::Result<BTreeSet<u64>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(first) = first_number(&path) else { continue };
        if fs::metadata(&path).is_ok_and(|meta| !meta.is_file()) {
            set_aside(&path)?;
        } else {
            files.insert(first);
        }
    }
    Ok(files)
}

fn first_number(path: &Path) -> Option<u64> {
    let number = path.file_name()?.to_str()?.strip_suffix(".log").filter(|number| number.len() == 20)?;
    number.parse().ok().filter(|first| (1..=HIGHEST).contains(first))
}

/// Renames what is no part of the log, so that it is in no event's way.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("log.damaged");
    log::warn!("{}: holds no event; renamed to {}", path.display(), aside.display());
    fs::rename(path, &aside)?;
    Ok(aside)
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

    fn event(id: u64) -> Vec<u8> {
        record::encode(&(id, format!("event {id}"))).unwrap()
    }

    fn fill(log: &mut EventLog, ids: RangeInclusive<u64>) {
        for id in ids {
            log.append(id, &event(id), false).unwrap();
        }
        log.sync().unwrap();
    }

    fn ids(log: &EventLog, wanted: RangeInclusive<u64>) -> Vec<u64> {
        let mut ids = Vec::new();
        let each = |id, record: &[u8]| {
            assert_eq!(record, event(id));
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
    fn damage_costs_only_the_events_it_lies_in() {
        let rubbish = |from: usize, bytes: Vec<u8>| {
            move |whole: &mut Vec<u8>| whole[from..from + bytes.len()].copy_from_slice(&bytes)
        };
        type Damage = Box<dyn Fn(&mut Vec<u8>)>;
        let frame = 4 + event(100).len();
        let cases: [(Damage, usize); 5] = [
            (Box::new(rubbish(0, vec![255; 4])), 1),
            (Box::new(rubbish(0, vec![0; 4])), 1),
            (Box::new(rubbish(30, vec![1; 2])), 1),
            (Box::new(rubbish(100 * frame, vec![0; 10 * frame])), 12),
            (Box::new(|whole| drop(whole.splice(1000..1003, []))), 1),
        ];
        for (number, (damage, lost)) in cases.into_iter().enumerate() {
            for last in [1024, 500] {
                let dir = tempfile::tempdir().unwrap();
                fill(&mut open(&dir), 1..=last);
                let file = file_path(&dir.path().join("events"), 1);
                let mut bytes = fs::read(&file).unwrap();
                damage(&mut bytes);
                fs::write(&file, &bytes).unwrap();
                let mut log = open(&dir);
                assert_eq!(log.last(), last);
                fill(&mut log, last + 1..=last + 3);
                let left = ids(&open(&dir), 1..=u64::MAX).len();
                assert!(last as usize + 3 - left <= lost, "case {number}: {left} left");
                assert!(fs::read(&file).unwrap().starts_with(&bytes), "nothing was cut");
            }
        }
    }

    #[test]
    fn damaged_bytes_at_the_end_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        fill(&mut open(&dir), 1..=100);
        let file = file_path(&dir.path().join("events"), 1);
        let mut bytes = fs::read(&file).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].fill(255);
        fs::write(&file, &bytes).unwrap();
        let mut log = open(&dir);
        assert!((48..=50).contains(&log.last()), "{}", log.last());
        assert_eq!(log.damaged(), Some(&*file));
        fill(&mut log, 101..=103);
        assert_eq!(fs::read(&file).unwrap(), bytes);
        assert_eq!(ids(&open(&dir), 90..=200), [101, 102, 103]);
    }

    #[test]
    fn a_stray_file_gives_no_event_its_number() {
        let last = [1108, 9_999, u64::MAX / 2, u64::MAX - 5, u64::MAX];
        for (number, content) in last.iter().flat_map(|number| [(number, None), (number, Some("junk"))]) {
            let dir = tempfile::tempdir().unwrap();
            fill(&mut open(&dir), 1..=3);
            let stray = file_path(&dir.path().join("events"), *number);
            match content {
                Some(junk) => fs::write(&stray, junk).unwrap(),
                None => drop(fs::copy(file_path(&dir.path().join("events"), 1), &stray).unwrap()),
            }
            let mut log = open(&dir);
            assert_eq!(log.last(), 3, "{number}");
            fill(&mut log, 4..=2000);
            assert_eq!(ids(&open(&dir), 0..=u64::MAX).len(), 2000, "{number}");
            assert!(stray.exists() || stray.with_extension("log.damaged").exists(), "{number}");
        }
    }

    #[test]
    fn what_is_no_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = file_path(&dir.path().join("events"), 1);
        open(&dir);
        fs::create_dir(&path).unwrap();
        fill(&mut open(&dir), 1..=3);
        assert_eq!(ids(&open(&dir), 0..=9), [1, 2, 3]);
        assert!(path.with_extension("log.damaged").is_dir());
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
