//! Events: written one by one, read in parts, forgotten in steps.
//!
//! A query holds the writer's lock for as long as it takes to look something up, never
//! while it reads.

use std::{
    collections::HashMap,
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{
        MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
};

use super::{
    Event, EventKind, Moment, RecoveryNote, Store, StoreError,
    eventlog::EventLog,
    index::Index,
    mark::{Mark, Reached},
    numbers::Numbers,
    record, write_error,
};
use crate::{
    clock::{History, SLACK_MS, Stretch},
    gallery::PersonId,
};

/// Events the index takes in one step, for which an event that is recorded waits.
const INDEXED_A_STEP: u64 = 1000;

/// What is changed with each event, by one thread at a time, so that numbers rise in the
/// order of writing.
pub(super) struct Writer {
    log: EventLog,
    index: Index,
    mark: Mark,
    /// The newest event of this store, and its number even if the event itself is
    /// missing.
    reached: Reached,
    gone: Gone,
}

/// Numbers of events that are not in the log and need not be: forgotten, or known to be
/// missing.
struct Gone {
    numbers: Numbers,
    meta: sled::Tree,
    noted: bool,
}

impl Gone {
    /// Where this was never noted, what has no file is gone.
    fn open(meta: sled::Tree, log: &EventLog) -> Result<Gone, sled::Error> {
        let noted = meta.get(GONE)?.and_then(|value| record::decode(&value).ok()).and_then(Numbers::of);
        Ok(Gone { noted: noted.is_some(), numbers: noted.unwrap_or_else(|| log.named().lacks(1..=log.last())), meta })
    }

    fn insert(&mut self, ids: RangeInclusive<u64>) {
        self.numbers.insert(ids);
        self.noted = false;
    }

    fn note(&mut self) -> Result<(), sled::Error> {
        if !self.noted {
            let value = record::encode(&self.numbers.ranges());
            self.meta.insert(GONE, value.map_err(|error| sled::Error::Unsupported(error.to_string()))?)?;
            self.noted = true;
        }
        Ok(())
    }
}

/// Under which the store's tree `meta` has these numbers.
const GONE: &str = "events_gone";

impl Writer {
    /// Opens log, mark and index of a store; and what its files and the mark show to be
    /// missing.
    pub(super) fn open(
        path: &Path,
        db: &sled::Db,
        log: EventLog,
        notes: &[RecoveryNote],
    ) -> Result<(Writer, Vec<RecoveryNote>), StoreError> {
        let failed = |error| write_error(path, &error);
        let meta = db.open_tree("meta").map_err(failed)?;
        let (mark, before) = Mark::open(path);
        let mut reached = reached(path, &meta, log.last())?;
        let mut gone = Gone::open(meta.clone(), &log).map_err(failed)?;
        // No number is given twice.
        let newest = reached.event.max(before.as_ref().map_or(0, |before| before.event));
        let inner = log.named().lacks_both(&gone.numbers, 1..=log.last());
        let behind = gone.numbers.lacks(log.last() + 1..=newest);
        let mut found: Vec<RecoveryNote> =
            inner.ranges().iter().map(|ids| lost(log.file_of(ids.0), "is gone", *ids, ids.1 - ids.0 + 1)).collect();
        found.extend(missing(before.as_ref(), &reached, notes, &behind, &log));
        let index = Index::open(db, meta, log.last(), behind.count() > 0).map_err(failed)?;
        [inner, behind].iter().flat_map(Numbers::ranges).for_each(|ids| gone.insert(ids.0..=ids.1));
        reached.event = newest;
        Ok((Writer { log, index, mark, reached, gone }, found))
    }
}

impl Store {
    /// Writes an event and tells the followers.
    ///
    /// # Errors
    /// Not written; nobody was told.
    pub fn append_event(&self, moment: Moment, kind: EventKind) -> Result<Event, StoreError> {
        let mut writer = self.writer();
        let id = writer.reached.event + 1;
        let event = Event { id, at_ms: moment.at_ms, boot_id: moment.boot_id, since_boot: moment.since_boot, kind };
        let record = record::encode(&event)
            .map_err(|error| StoreError::Write { path: self.path.clone(), problem: error.to_string() })?;
        let before = writer.log.last();
        writer.log.append(id, &record, true).map_err(|error| StoreError::io(&self.path, error))?;
        writer.reached.event = id;
        writer.mark.write(&writer.reached);
        if let Err(error) = writer.gone.note() {
            log::error!("numbers of missing events: {}; trying again", self.failed(&error));
        }
        // One that lags behind is caught up with elsewhere.
        if writer.index.known() == before
            && let Err(error) = writer.index.add(&event)
        {
            log::error!("the index of events lags behind: {}", self.failed(&error));
        }
        self.tell(&event);
        Ok(event)
    }

    /// Checks one file of the log, after opening and where a query found less than it should:
    /// what it lacks is noted. False: there is none to check.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn check_some_events(&self, notes: &mut Vec<RecoveryNote>) -> Result<bool, StoreError> {
        let Some(file) = self.writer().log.next_unchecked() else { return Ok(false) };
        let held = file.held().map_err(|error| StoreError::io(&file.path, error))?;
        let mut writer = self.writer();
        if !writer.log.has(&file) {
            return Ok(true);
        }
        let problem = if held.is_some() { "is damaged" } else { "is gone" };
        let missing = held.unwrap_or_default().lacks_both(&writer.gone.numbers, file.ids);
        missing.ranges().iter().for_each(|ids| writer.gone.insert(ids.0..=ids.1));
        notes.extend(span(&missing).map(|ids| lost(file.path, problem, ids, missing.count())));
        Ok(true)
    }

    /// Looks whether all files of the log are in their folder; what is lost shows at the
    /// next check.
    pub fn look_for_lost_events(&self) {
        self.writer().log.look_for_lost_files();
    }

    /// Tells the followers of an event that was written before they came.
    pub fn tell(&self, event: &Event) {
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.send(event.clone()).is_ok());
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the index catch up with the log by a step. False: it has.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn index_some(&self) -> Result<bool, StoreError> {
        let behind = self.index_step()?;
        if !behind {
            self.flush()?;
        }
        Ok(behind)
    }

    fn index_step(&self) -> Result<bool, StoreError> {
        let mut writer = self.writer();
        let Writer { log, index, .. } = &mut *writer;
        let from = index.wants().unwrap_or(index.known() + 1);
        let until = log.last().min(index.known() + INDEXED_A_STEP);
        let mut result = Ok(());
        let each = |id: u64, record: &[u8]| {
            result = match record::decode::<Event>(record) {
                Ok(event) if id <= index.known() => index.remind(&event),
                Ok(event) => index.add(&event),
                Err(problem) => {
                    log::warn!("{}: event {id} is skipped: {problem}", self.path.display());
                    index.pass(id.max(index.known()))
                }
            };
            result.is_ok()
        };
        log.range(from..=until).read(each).map_err(|error| StoreError::io(&self.path, error))?;
        // Numbers that were never given are behind it too.
        let known = until.max(index.known());
        let passed = result.and_then(|()| index.pass(known)).and_then(|()| index.note());
        passed.map_err(|error| self.failed(&error))?;
        Ok(known < log.last())
    }

    /// The index when it knows all events.
    fn indexed(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        loop {
            let writer = self.writer();
            if writer.index.known() >= writer.log.last() {
                return Ok(writer);
            }
            drop(writer);
            self.index_some()?;
        }
    }

    /// When the clock was set, for dating events.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn history(&self) -> Result<History, StoreError> {
        self.indexed()?.index.history().map_err(|error| self.failed(&error))
    }

    /// Shows the events of some stretches, oldest first, as long as `each` says so.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn read_events(&self, stretches: Vec<Stretch>, mut each: impl FnMut(&Event) -> bool) -> Result<(), StoreError> {
        let mut go_on = true;
        for stretch in stretches {
            let range = self.narrowed(&stretch).map(|ids| self.writer().log.range(ids));
            let each = |id, record: &[u8]| {
                go_on = self.decoded(id, record).is_none_or(|event| each(&event));
                go_on
            };
            range.map_or(Ok(()), |range| range.read(each)).map_err(|error| StoreError::io(&self.path, error))?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    /// None, and a line in the log, where it cannot be read.
    fn decoded(&self, id: u64, record: &[u8]) -> Option<Event> {
        let skipped = |problem: &record::BadRecord| {
            log::warn!("{}: event {id} is skipped: {problem}", self.path.display());
        };
        record::decode(record).inspect_err(skipped).ok()
    }

    /// The numbers of a stretch, as near as the files of the log tell; some events before
    /// and after it are among them.
    fn narrowed(&self, stretch: &Stretch) -> Option<RangeInclusive<u64>> {
        let (first, last) = (*stretch.ids.start(), *stretch.ids.end());
        let (from, until) = (stretch.since_ms.start.saturating_sub(SLACK_MS), stretch.since_ms.end);
        let starts = self.writer().log.starts(first..=last);
        let since = |id: &u64| {
            let mut found = None;
            let first_record = |id, record: &[u8]| {
                found = self.decoded(id, record).and_then(|event| i64::try_from(event.since_boot.as_millis()).ok());
                false
            };
            let range = self.writer().log.range(*id..=*id);
            // What cannot be read is not left out.
            let _ = range.read(first_record);
            found
        };
        let begin = starts.partition_point(|id| since(id).is_some_and(|since| since < from));
        let until = until.saturating_add(SLACK_MS);
        let end = starts.partition_point(|id| since(id).is_none_or(|since| since <= until));
        let begin = begin.checked_sub(1).map_or(first, |place| starts[place]);
        let end = starts.get(end).map_or(last, |next| next - 1);
        (begin <= end).then_some(begin..=end)
    }

    /// Events since a moment (milliseconds since 1970), oldest first; of more than
    /// `limit` the newest.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn events(&self, since_ms: Option<i64>, limit: Option<usize>) -> Result<Vec<Event>, StoreError> {
        let limit = limit.unwrap_or(usize::MAX);
        let ranges = self.recorded_since(since_ms)?;
        let mut events = Vec::new();
        for ids in ranges.into_iter().rev().take_while(|_| limit > 0) {
            if events.len() >= limit {
                break;
            }
            let range = self.writer().log.range(ids);
            let of_a_file = |records: Vec<(u64, Vec<u8>)>| {
                let new = records.iter().rev().filter_map(|(id, record)| self.decoded(*id, record));
                let new = new.filter(|event| since_ms.is_none_or(|since| event.at_ms >= since));
                events.extend(new.take(limit - events.len()));
                events.len() < limit
            };
            range.read_back(of_a_file).map_err(|error| StoreError::io(&self.path, error))?;
        }
        events.reverse();
        Ok(events)
    }

    /// Events with a higher number, and since a moment, oldest first, at most `limit`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn events_after(&self, id: u64, since_ms: Option<i64>, limit: usize) -> Result<Vec<Event>, StoreError> {
        let mut events = Vec::new();
        for ids in self.recorded_since(since_ms)? {
            let range = self.writer().log.range(id.saturating_add(1).max(*ids.start())..=*ids.end());
            let each = |id: u64, record: &[u8]| {
                let event = self.decoded(id, record);
                events.extend(event.filter(|event: &Event| since_ms.is_none_or(|since| event.at_ms >= since)));
                events.len() < limit
            };
            range.read(each).map_err(|error| StoreError::io(&self.path, error))?;
            if events.len() >= limit {
                break;
            }
        }
        Ok(events)
    }

    /// Where events since a moment lie, by the clock as it was: one that was set back
    /// leaves them out of order.
    fn recorded_since(&self, since_ms: Option<i64>) -> Result<Vec<RangeInclusive<u64>>, StoreError> {
        let Some(since) = since_ms else { return Ok(vec![0..=u64::MAX]) };
        let stretches = self.history()?.recorded_since(since);
        Ok(stretches.iter().filter_map(|stretch| self.narrowed(stretch)).collect())
    }

    /// When each person was last granted, milliseconds since 1970.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn last_granted(&self) -> Result<HashMap<PersonId, i64>, StoreError> {
        let seen = self.indexed()?.index.seen().map_err(|error| self.failed(&error))?;
        Ok(seen.into_iter().filter_map(|(person, seen)| Some((person, seen.granted?.1))).collect())
    }

    /// Everybody whom events speak of, as the newest one calls them.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn names(&self) -> Result<HashMap<PersonId, String>, StoreError> {
        let seen = self.indexed()?.index.seen().map_err(|error| self.failed(&error))?;
        Ok(seen.into_iter().map(|(person, seen)| (person, seen.name)).collect())
    }

    /// The highest number of a person in the events.
    pub(super) fn last_person_seen(&self) -> Result<u32, StoreError> {
        self.indexed()?.index.last_person().map_err(|error| self.failed(&error))
    }

    /// Every event from now on.
    pub fn follow(&self) -> Receiver<Event> {
        let (sender, receiver) = mpsc::channel();
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// The newest event that is too old (before a moment, by corrected time) or one too
    /// many; None: there is none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn outlived(&self, before_ms: i64, most: u64) -> Result<Option<u64>, StoreError> {
        let history = self.history()?;
        let mut old = None;
        for stretch in history.before(before_ms) {
            self.read_events(vec![stretch], |event| {
                let is_old = history.time(event.stamp()).is_some_and(|at| at < before_ms);
                old = old.max(is_old.then_some(event.id));
                true
            })?;
            // Events are numbered as they happen, so that those before are old as well.
            if old.is_some() {
                break;
            }
        }
        Ok(old.max(self.writer().log.beyond(most)))
    }

    /// Forgets events up to a number in one step, about a thousand; how many. The newest
    /// one stays, for its number.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn forget_some_events(&self, up_to: u64) -> Result<u64, StoreError> {
        let mut writer = self.writer();
        if let Some(forgets) = writer.log.forgets(up_to) {
            // First, so that a crash does not leave them missing.
            writer.gone.insert(1..=forgets);
            writer.gone.note().map_err(|error| self.failed(&error))?;
            self.flush()?;
        }
        let forgotten = writer.log.forget_some(up_to).map_err(|error| StoreError::io(&self.path, error))?;
        if forgotten == 0 {
            let up_to = up_to.min(writer.log.last().saturating_sub(1));
            writer.index.forget(up_to).map_err(|error| self.failed(&error))?;
        }
        Ok(forgotten)
    }

    /// Forgets the events up to a number; how many.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn forget_events_up_to(&self, id: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        loop {
            match self.forget_some_events(id)? {
                0 => return Ok(forgotten),
                some => forgotten += some,
            }
        }
    }
}

/// Which store this is, from its first opening on, and how far its log goes.
fn reached(path: &Path, meta: &sled::Tree, event: u64) -> Result<Reached, StoreError> {
    let known = meta.get("store_id").map_err(|error| write_error(path, &error))?;
    if let Some(known) = known {
        return Ok(Reached { store: String::from_utf8_lossy(&known).into_owned(), event });
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StoreError::io(path, io::Error::other(error.to_string())))?;
    let store = format!("{:032x}", u128::from_be_bytes(bytes));
    meta.insert("store_id", store.as_bytes()).map_err(|error| write_error(path, &error))?;
    Ok(Reached { store, event })
}

/// From the first to the last.
fn span(numbers: &Numbers) -> Option<(u64, u64)> {
    Some((numbers.ranges().first()?.0, numbers.ranges().last()?.1))
}

fn lost(file: PathBuf, problem: &'static str, (first, last): (u64, u64), events: u64) -> RecoveryNote {
    RecoveryNote::EventsLost { file, problem, events, first, last }
}

/// What a mark from before shows that the store itself does not: events `behind` its newest.
fn missing(
    before: Option<&Reached>,
    now: &Reached,
    notes: &[RecoveryNote],
    behind: &Numbers,
    log: &EventLog,
) -> Option<RecoveryNote> {
    let (before, events) = (before?, behind.count());
    let told = notes.iter().any(|note| matches!(note, RecoveryNote::StartedEmpty { .. }));
    if before.store != now.store && !(told && events == 0) {
        return Some(RecoveryNote::Replaced { events });
    }
    let (first, last) = span(behind)?;
    Some(match log.damaged() {
        Some(file) => lost(file.to_owned(), "is damaged", (first, last), events),
        None => RecoveryNote::EventsMissing { events, first, last },
    })
}
