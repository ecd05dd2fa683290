//! Who is on a visit, kept in the store. A start, a reload or a crash within a visit lets nobody
//! in a second time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    gallery::PersonId,
    store::{Store, StoreError},
};

/// The record's name in the store.
const NAME: &str = "visits";
/// During a visit the record is written again after this.
const REFRESH: Duration = Duration::from_secs(60);
/// A record older than this is of visitors who have left.
const LASTS: Duration = Duration::from_secs(300);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Milliseconds since 1970.
    at_ms: i64,
    people: BTreeSet<PersonId>,
}

/// What stands in the store.
pub(super) struct Visits {
    store: Store,
    kept: BTreeSet<PersonId>,
    due: Instant,
    failed: bool,
}

impl Visits {
    pub(super) fn new(store: Store) -> Visits {
        Visits { store, kept: BTreeSet::new(), due: Instant::now(), failed: false }
    }

    /// The people whose visit had not ended when the last daemon did. `visit_gap` is how long a
    /// visitor may be out of sight.
    ///
    /// # Errors
    /// The record cannot be read: any of those enrolled may be on a visit.
    pub(super) fn recall(&mut self, visit_gap: Duration, now_ms: i64) -> Result<BTreeSet<PersonId>, StoreError> {
        let Some(text) = self.store.recall(NAME)? else { return Ok(BTreeSet::new()) };
        let record: Record = serde_json::from_str(&text).map_err(|error| self.store.damaged(NAME, &error))?;
        let age = Duration::from_millis(now_ms.saturating_sub(record.at_ms).max(0) as u64);
        self.kept.clone_from(&record.people);
        Ok(if age < LASTS.max(visit_gap) { record.people } else { BTreeSet::new() })
    }

    /// Writes down who is on a visit, if that is not what stands there.
    pub(super) fn keep(&mut self, visitors: impl Iterator<Item = PersonId>, now: Instant, now_ms: i64) {
        let people: BTreeSet<PersonId> = visitors.collect();
        let changed = people != self.kept;
        let waits = now < self.due && (!changed || self.failed);
        if waits || (!changed && people.is_empty()) {
            return;
        }
        self.due = now + REFRESH;
        let record = Record { at_ms: now_ms, people };
        let text = serde_json::to_string(&record).unwrap_or_default();
        let written = self.store.remember(NAME, &text);
        self.failed = written.is_err();
        match written {
            Ok(()) => self.kept = record.people,
            Err(error) => log::error!("visits: not recorded ({error}); a restart may open again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: PersonId = PersonId(1);
    const GAP: Duration = Duration::from_secs(3);

    #[test]
    fn who_is_on_a_visit_is_remembered_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("store"), 0).unwrap();
        let minutes = |minutes: i64| minutes * 60_000;
        let recalled = |gap, now_ms| Visits::new(store.clone()).recall(gap, now_ms).unwrap().len();
        assert_eq!(recalled(GAP, 0), 0);
        let (mut visits, now) = (Visits::new(store.clone()), Instant::now());
        visits.keep([ADA].into_iter(), now, minutes(100));
        assert_eq!([recalled(GAP, minutes(104)), recalled(GAP, minutes(106))], [1, 0]);
        assert_eq!(recalled(GAP, 0), 1, "the clock was set back");
        assert_eq!(recalled(Duration::from_secs(3600), minutes(150)), 1, "by its own rule the visit goes on");
        visits.keep([ADA].into_iter(), now + Duration::from_secs(59), minutes(101));
        assert_eq!(recalled(GAP, minutes(106)), 0, "written once a minute");
        visits.keep([ADA].into_iter(), now + Duration::from_secs(61), minutes(101));
        assert_eq!(recalled(GAP, minutes(105)), 1);
        visits.keep([].into_iter(), now + Duration::from_secs(62), minutes(101));
        assert_eq!(recalled(GAP, minutes(101)), 0, "the visitor has left");
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("store"), 0).unwrap();
        store.remember(NAME, "nonsense").unwrap();
        assert!(Visits::new(store).recall(GAP, 0).is_err());
    }
}
