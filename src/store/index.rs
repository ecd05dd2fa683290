//! What queries need to know of all events, so that none of them reads them all: when the
//! clock was set, and when each person was last seen.
//!
//! It lags behind the log after a crash, and in a store of an older program it is not
//! there at all; it catches up in steps. No event waits for it to be on the disk: a crash
//! only makes it lag.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Event, EventKind, record};
use crate::{
    clock::{History, Mark, Span, Stamp},
    gallery::PersonId,
};

/// A clock that is set more often than this in one boot is not followed: events keep the
/// time they were recorded with.
const MOST_SETTINGS: usize = 1000;
/// Events after which it is noted how far the index goes.
const NOTED_EVERY: u64 = 64;

/// A person in the events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// As the newest event has it.
    pub name: String,
    /// Number of that event.
    pub named_by: u64,
    /// The last visit: the event's number, and its time in milliseconds since 1970.
    pub granted: Option<(u64, i64)>,
}

/// The first event of a span of the clock.
#[derive(Serialize, Deserialize)]
struct Begin {
    boot_id: String,
    offset_ms: i64,
    since_ms: i64,
    /// Time since boot of the event before, which ended the span before.
    before_ms: i64,
}

pub(super) struct Index {
    meta: sled::Tree,
    seen: sled::Tree,
    spans: sled::Tree,
    /// The newest event it knows of, and how far that is noted.
    known: u64,
    noted: u64,
    /// The newest event's time since boot, in the span it belongs to.
    last: Option<Mark>,
    /// The boot of that event, and how many spans it has.
    boot: String,
    settings: usize,
}

type Sled<T> = Result<T, sled::Error>;

impl Index {
    /// `last` is the log's newest event. An index that knows of more belongs to a log
    /// that is gone, as one does of which it is known that events were `lost`.
    pub(super) fn open(db: &sled::Db, meta: sled::Tree, last: u64, lost: bool) -> Sled<Index> {
        let (seen, spans) = (db.open_tree("seen")?, db.open_tree("spans")?);
        let mut known = number(meta.get("indexed")?).unwrap_or(0);
        if known > last || lost {
            seen.clear()?;
            spans.clear()?;
            meta.remove("indexed")?;
            known = 0;
        }
        Ok(Index { meta, seen, spans, known, noted: known, last: None, boot: String::new(), settings: 0 })
    }

    pub(super) fn known(&self) -> u64 {
        self.known
    }

    /// The newest event it knows, if that has to be shown to it before the next: after
    /// opening.
    pub(super) fn wants(&self) -> Option<u64> {
        (self.last.is_none() && self.known > 0).then_some(self.known)
    }

    pub(super) fn remind(&mut self, event: &Event) -> Sled<()> {
        let newest = self.spans.iter().values().rev().take(MOST_SETTINGS + 1);
        let newest = newest.filter_map(|value| value.map(|value| record::decode::<Begin>(&value).ok()).transpose());
        let newest = newest.collect::<Sled<Vec<Begin>>>()?;
        self.boot.clone_from(&event.boot_id);
        self.settings = newest.iter().filter(|begin| begin.boot_id == self.boot).count();
        let since_ms = Mark::of(event.stamp()).since_ms;
        self.last =
            newest.into_iter().next().map(|Begin { boot_id, offset_ms, .. }| Mark { boot_id, offset_ms, since_ms });
        Ok(())
    }

    /// What an event says about the clocks, if that is believed.
    fn mark(&mut self, event: &Event) -> Mark {
        if event.boot_id != self.boot {
            self.boot.clone_from(&event.boot_id);
            self.settings = 0;
        }
        let stamp = event.stamp();
        Mark::of(if self.settings > MOST_SETTINGS { Stamp { boot_id: "", ..stamp } } else { stamp })
    }

    /// Takes the next event; to take one again changes nothing.
    pub(super) fn add(&mut self, event: &Event) -> Sled<()> {
        let mark = self.mark(event);
        let since_ms = mark.since_ms;
        match self.last.as_mut().filter(|last| last.goes_on(&mark)) {
            // Its offset stays, so that many small steps are noticed too.
            Some(last) => last.since_ms = since_ms,
            None => {
                let before_ms = self.last.as_ref().map_or(0, |last| last.since_ms);
                let Mark { boot_id, offset_ms, .. } = mark.clone();
                put(&self.spans, &event.id.to_be_bytes(), &Begin { boot_id, offset_ms, since_ms, before_ms })?;
                self.settings += 1;
                self.last = Some(mark);
            }
        }
        if let Some((person, name)) = event.kind.names() {
            let key = person.0.to_be_bytes();
            let before = self.seen.get(key)?.and_then(|value| record::decode::<Seen>(&value).ok());
            let granted = match event.kind {
                EventKind::Granted { .. } => Some((event.id, event.at_ms)),
                _ => before.and_then(|seen| seen.granted),
            };
            put(&self.seen, &key, &Seen { name: name.to_owned(), named_by: event.id, granted })?;
        }
        self.pass(event.id)
    }

    /// Goes on behind an event that cannot be read.
    pub(super) fn pass(&mut self, id: u64) -> Sled<()> {
        self.known = id;
        if id >= self.noted + NOTED_EVERY { self.note() } else { Ok(()) }
    }

    pub(super) fn note(&mut self) -> Sled<()> {
        self.meta.insert("indexed", &self.known.to_be_bytes())?;
        self.noted = self.known;
        Ok(())
    }

    pub(super) fn history(&self) -> Sled<History> {
        let mut spans: Vec<Span> = Vec::new();
        for entry in self.spans.iter() {
            let (key, value) = entry?;
            let (Some(first), Ok(begin)) = (number(Some(key)), record::decode::<Begin>(&value)) else { continue };
            if let Some(span) = spans.last_mut() {
                (span.last, span.until_ms) = (first.saturating_sub(1), begin.before_ms.max(span.begin.since_ms));
            }
            let Begin { boot_id, offset_ms, since_ms, .. } = begin;
            let begin = Mark { boot_id, offset_ms, since_ms };
            spans.push(Span { first, last: self.known, begin, until_ms: since_ms });
        }
        if let (Some(span), Some(last)) = (spans.last_mut(), &self.last) {
            span.until_ms = last.since_ms;
        }
        Ok(History::of(spans))
    }

    pub(super) fn seen(&self) -> Sled<HashMap<PersonId, Seen>> {
        let mut people = HashMap::new();
        for entry in self.seen.iter() {
            let (key, value) = entry?;
            let person = key.as_ref().try_into().map(|key| PersonId(u32::from_be_bytes(key)));
            people.extend(person.ok().zip(record::decode(&value).ok()));
        }
        Ok(people)
    }

    /// The highest number of a person in the events.
    pub(super) fn last_person(&self) -> Sled<u32> {
        let last = self.seen.last()?.and_then(|(key, _)| key.as_ref().try_into().ok());
        Ok(last.map_or(0, u32::from_be_bytes))
    }

    /// Forgets whom only events up to a number speak of, and the spans of such events.
    pub(super) fn forget(&self, up_to: u64) -> Sled<()> {
        for (person, seen) in self.seen()? {
            let key = person.0.to_be_bytes();
            if seen.named_by <= up_to {
                self.seen.remove(key)?;
            } else if seen.granted.is_some_and(|(id, _)| id <= up_to) {
                put(&self.seen, &key, &Seen { granted: None, ..seen })?;
            }
        }
        let old: Vec<_> = self.spans.range(..=up_to.saturating_add(1).to_be_bytes()).keys().collect::<Sled<_>>()?;
        // The last of them reaches beyond.
        for key in old.iter().rev().skip(1) {
            self.spans.remove(key)?;
        }
        Ok(())
    }
}

fn put<T: Serialize>(tree: &sled::Tree, key: &[u8], value: &T) -> Sled<()> {
    let value = record::encode(value).map_err(|error| sled::Error::Unsupported(error.to_string()))?;
    tree.insert(key, value).map(drop)
}

fn number(bytes: Option<sled::IVec>) -> Option<u64> {
    Some(u64::from_be_bytes(bytes?.as_ref().try_into().ok()?))
}
