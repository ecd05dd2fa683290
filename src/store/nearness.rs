//! How near strangers came, a record for each day, model and precision. Numbers only: no
//! face, no template, no person.

use super::{Store, StoreError, record};
use crate::{
    evidence::Nearness,
    vision::{model::ModelId, model::Precision},
};

const DAY_MS: i64 = 86_400_000;

/// What is counted together: embeddings of one model, calculated in one way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    pub model: ModelId,
    pub precision: Precision,
}

impl Measure {
    fn prefix(&self) -> String {
        let digits: String = self.model.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{digits}/{}/", self.precision)
    }
}

/// What the store holds of strangers' visits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptNearness {
    pub nearness: Nearness,
    /// Visits counted with another model or precision: their distances mean something
    /// else.
    pub of_others: u32,
    /// Days whose record was damaged and is set aside.
    pub damaged_days: usize,
}

impl Store {
    /// Counts one more visit of a stranger.
    ///
    /// # Errors
    /// Not written: the old count stands.
    pub fn count_stranger(
        &self,
        measure: Measure,
        now_ms: i64,
        comparisons: usize,
        distance: f32,
    ) -> Result<(), StoreError> {
        let key = format!("{}{:06}", measure.prefix(), day(now_ms));
        let mut nearness = self.nearness_at(key.as_bytes())?.unwrap_or_default();
        nearness.add(comparisons, distance);
        let value = record::encode(&nearness)
            .map_err(|error| StoreError::Write { path: self.path.clone(), problem: error.to_string() })?;
        self.write(&self.nearness, key.as_bytes(), value)
    }

    /// All that is counted.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn nearness(&self, measure: Measure) -> Result<KeptNearness, StoreError> {
        let (mut kept, prefix) = (KeptNearness::default(), measure.prefix());
        for key in self.nearness.iter().keys() {
            let key = key.map_err(|error| self.failed(&error))?;
            match self.nearness_at(&key)? {
                Some(day) if key.starts_with(prefix.as_bytes()) => kept.nearness.merge(&day),
                Some(day) => kept.of_others = kept.of_others.saturating_add(day.visits()),
                None => {}
            }
        }
        kept.damaged_days = self.nearness_aside.len();
        Ok(kept)
    }

    /// One day's record. A damaged one is moved, as it is, to where nothing is counted.
    fn nearness_at(&self, key: &[u8]) -> Result<Option<Nearness>, StoreError> {
        let Some(value) = self.nearness.get(key).map_err(|error| self.failed(&error))? else { return Ok(None) };
        let problem = match record::decode(&value) {
            Ok(nearness) => return Ok(Some(nearness)),
            Err(problem) => problem,
        };
        let name = String::from_utf8_lossy(key);
        log::error!(
            "{}: how near strangers came, {name}, is damaged ({problem}); set aside, the others count",
            self.path.display()
        );
        // A number keeps what was set aside before.
        let number = self.db.generate_id().map_err(|error| self.failed(&error))?;
        let aside = format!("{number}/{name}");
        self.write(&self.nearness_aside, aside.as_bytes(), value.to_vec())?;
        self.nearness.remove(key).map_err(|error| self.failed(&error))?;
        self.flush()?;
        Ok(None)
    }

    /// Forgets the days that ended before `before_ms`, and with None all; how many.
    ///
    /// # Errors
    /// Not forgotten.
    pub fn forget_nearness(&self, before_ms: Option<i64>) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        for tree in [&self.nearness, &self.nearness_aside] {
            for key in tree.iter().keys() {
                let key = key.map_err(|error| self.failed(&error))?;
                if before_ms.is_some_and(|before_ms| day_of(&key).is_some_and(|of| of >= day(before_ms))) {
                    continue;
                }
                tree.remove(key).map_err(|error| self.failed(&error))?;
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            self.flush()?;
        }
        Ok(forgotten)
    }
}

/// Days since 1970.
fn day(at_ms: i64) -> i64 {
    at_ms.div_euclid(DAY_MS).max(0)
}

/// The day that a key ends with.
fn day_of(key: &[u8]) -> Option<i64> {
    std::str::from_utf8(key).ok()?.rsplit_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const W8: Measure = Measure { model: ModelId([1; 16]), precision: Precision::W8 };

    fn open(dir: &Path) -> Store {
        Store::open(&dir.join("store"), 0).unwrap().0
    }

    fn visits(store: &Store, measure: Measure) -> u32 {
        store.nearness(measure).unwrap().nearness.visits()
    }

    #[test]
    fn visits_counted_are_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for visit in 0..30 {
            store.count_stranger(W8, DAY_MS * (visit / 10), 1 + visit as usize % 2, 1.0).unwrap();
        }
        drop(store);
        let kept = open(dir.path()).nearness(W8).unwrap();
        assert_eq!((kept.nearness.visits(), kept.of_others, kept.damaged_days), (30, 0, 0));
        assert_eq!(kept.nearness.bins().into_values().collect::<Vec<_>>(), [30]);
    }

    #[test]
    fn evidence_of_another_model_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let others = [Measure { precision: Precision::Int8, ..W8 }, Measure { model: ModelId([2; 16]), ..W8 }];
        others.iter().for_each(|other| store.count_stranger(*other, 0, 1, 0.9).unwrap());
        store.count_stranger(W8, 0, 1, 1.2).unwrap();
        for measure in [W8, others[0], others[1]] {
            let kept = store.nearness(measure).unwrap();
            assert_eq!((kept.nearness.visits(), kept.of_others), (1, 2));
        }
    }

    #[test]
    fn a_damaged_record_is_set_aside_and_the_others_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        [0, DAY_MS].iter().for_each(|at| store.count_stranger(W8, *at, 1, 1.2).unwrap());
        let key = format!("{}{:06}", W8.prefix(), 0);
        for (round, damaged) in [&b"nonsense"[..], b"", &[255; 400]].into_iter().enumerate() {
            store.nearness.insert(&key, damaged).unwrap();
            // Both what reads and what adds finds it.
            if round == 1 {
                store.count_stranger(W8, 0, 1, 1.2).unwrap();
                store.nearness.remove(&key).unwrap();
            }
            let kept = store.nearness(W8).unwrap();
            assert_eq!((kept.nearness.visits(), kept.damaged_days), (1, round + 1), "the other day counts");
        }
        let aside: Vec<_> = store.nearness_aside.iter().values().map(|value| value.unwrap().to_vec()).collect();
        assert!(aside.len() == 3 && aside.contains(&b"nonsense".to_vec()), "nothing is overwritten");
        assert_eq!(store.forget_nearness(None).unwrap(), 4);
        assert_eq!(store.nearness(W8).unwrap(), KeptNearness::default());
    }

    #[test]
    fn visits_are_forgotten_by_their_age() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        (0..10).for_each(|day| store.count_stranger(W8, day * DAY_MS, 1, 1.2).unwrap());
        store.nearness.insert(format!("{}{:06}", W8.prefix(), 3), b"nonsense").unwrap();
        assert_eq!(visits(&store, W8), 9);
        // The fifth day has not ended yet when its visits may have been.
        assert_eq!(store.forget_nearness(Some(4 * DAY_MS + DAY_MS / 2)).unwrap(), 4, "what is set aside, too");
        assert_eq!(visits(&store, W8), 6);
        assert_eq!(store.forget_nearness(Some(i64::MIN)).unwrap(), 0);
        assert_eq!(store.forget_nearness(Some(i64::MAX)).unwrap(), 6);
    }
}
