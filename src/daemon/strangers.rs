//! Which denied visits are counted as strangers'.
//!
//! A known person who is denied (bad light, a turned face) mostly was or is let in within
//! two minutes: a visit that is somewhat like the person waits for that before it counts.
//! One face counts once a day, however often it comes. For that, the day's templates are
//! held in memory; they are never written, and forgotten at midnight (UTC).

use std::time::{Duration, Instant};

use crate::{gallery::PersonId, vision::embed::Embedding};

/// A known person gets so long to be recognised after all.
const PATIENCE: Duration = Duration::from_secs(120);
/// More faces a day say nothing more; with these in memory it is a few hundred kilobytes.
const MOST_A_DAY: usize = 100;
const DAY_MS: i64 = 86_400_000;

/// A denied visit.
#[derive(Clone, Debug)]
pub(super) struct Stranger {
    /// The person enrolled who is nearest.
    pub nearest: PersonId,
    pub distance: f32,
    /// What the face was compared with.
    pub comparisons: usize,
    pub face: Embedding,
}

/// The day's strangers.
pub(super) struct Strangers {
    /// Nearer than this a face may be the known person's; farther away it is not.
    somewhat_like: f32,
    waiting: Vec<(Instant, Stranger)>,
    let_in: Vec<(Instant, PersonId)>,
    day: i64,
    counted: Vec<Embedding>,
}

impl Strangers {
    pub(super) fn new(somewhat_like: f32) -> Strangers {
        Strangers { somewhat_like, waiting: Vec::new(), let_in: Vec::new(), day: 0, counted: Vec::new() }
    }

    /// Whether there is nothing to do now.
    pub(super) fn is_idle(&self, now: Instant, now_ms: i64) -> bool {
        let waited = |(since, _): &(Instant, Stranger)| now.saturating_duration_since(*since) >= PATIENCE;
        !self.waiting.first().is_some_and(waited) && (self.counted.is_empty() || self.day == day(now_ms))
    }

    pub(super) fn denied(&mut self, stranger: Stranger, now: Instant) {
        self.let_in.retain(|(at, _)| now.saturating_duration_since(*at) < PATIENCE);
        let is_known = self.let_in.iter().any(|(_, person)| self.may_be(&stranger, *person));
        if !is_known && self.waiting.len() < MOST_A_DAY {
            self.waiting.push((now, stranger));
        }
    }

    /// Who is denied within the patience and somewhat like this person probably is the
    /// person.
    pub(super) fn granted(&mut self, person: PersonId, now: Instant) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = waiting.into_iter().filter(|(_, stranger)| !self.may_be(stranger, person)).collect();
        self.let_in.retain(|(_, other)| *other != person);
        self.let_in.push((now, person));
    }

    fn may_be(&self, stranger: &Stranger, person: PersonId) -> bool {
        stranger.nearest == person && stranger.distance < self.somewhat_like
    }

    /// The visits that count from now on; with `at_once` none waits longer. Two faces
    /// nearer than `same_face` are one.
    pub(super) fn due(&mut self, now: Instant, now_ms: i64, same_face: f32, at_once: bool) -> Vec<Stranger> {
        if self.day != day(now_ms) {
            self.day = day(now_ms);
            self.counted.clear();
        }
        let waits = |since: Instant| !at_once && now.saturating_duration_since(since) < PATIENCE;
        let (due, waiting) = self.waiting.drain(..).partition(|(since, _)| !waits(*since));
        self.waiting = waiting;
        let mut fresh: Vec<Stranger> = due.into_iter().map(|(_, stranger): (Instant, Stranger)| stranger).collect();
        fresh.retain(|stranger| {
            let same = |face: &Embedding| face.distance(&stranger.face).is_some_and(|distance| distance <= same_face);
            let new = self.counted.len() < MOST_A_DAY && !self.counted.iter().any(same);
            if new {
                self.counted.push(stranger.face.clone());
            }
            new
        });
        fresh
    }
}

fn day(now_ms: i64) -> i64 {
    now_ms.div_euclid(DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::model::ModelId;

    const ADA: PersonId = PersonId(1);
    const BEN: PersonId = PersonId(2);

    fn stranger(nearest: PersonId, angle: f32) -> Stranger {
        let face = Embedding::new(vec![angle.cos(), angle.sin()], ModelId([1; 16])).unwrap();
        Stranger { nearest, distance: 1.0, comparisons: 2, face }
    }

    #[test]
    fn a_known_person_who_comes_in_after_all_is_no_stranger() {
        let (mut strangers, start) = (Strangers::new(1.1), Instant::now());
        strangers.denied(stranger(ADA, 0.0), start);
        strangers.denied(stranger(BEN, 1.5), start);
        assert!(strangers.due(start + PATIENCE / 2, 0, 0.5, false).is_empty(), "it may be a known person");
        assert!(strangers.is_idle(start + PATIENCE / 2, 0) && !strangers.is_idle(start + PATIENCE, 0));
        strangers.granted(ADA, start + PATIENCE / 2);
        let due = strangers.due(start + PATIENCE, 0, 0.5, false);
        assert_eq!(due.iter().map(|stranger| stranger.nearest).collect::<Vec<_>>(), [BEN]);
        assert!(strangers.due(start + PATIENCE * 2, 0, 0.5, false).is_empty(), "each counts once");
        strangers.denied(stranger(ADA, 0.7), start + PATIENCE);
        assert!(strangers.waiting.is_empty(), "the person was let in a minute ago");
        strangers.denied(stranger(ADA, 0.7), start + PATIENCE * 2);
        assert_eq!(strangers.waiting.len(), 1);
        let unlike = Stranger { distance: 1.2, ..stranger(ADA, 0.0) };
        strangers.denied(unlike, start + PATIENCE * 2);
        strangers.granted(ADA, start + PATIENCE * 2);
        assert_eq!(strangers.waiting.len(), 1, "another visitor, who is not like her");
    }

    #[test]
    fn one_face_counts_once_a_day() {
        let (mut strangers, start) = (Strangers::new(1.1), Instant::now());
        let mut count = |now_ms| {
            // Thirty visits of one face, each a little different, and one of another.
            (0..30).for_each(|visit| strangers.denied(stranger(ADA, visit as f32 * 0.01), start));
            strangers.denied(stranger(ADA, 1.5), start);
            strangers.due(start, now_ms, 0.5, true).len()
        };
        assert_eq!([count(0), count(DAY_MS - 1), count(DAY_MS)], [2, 0, 2]);
        assert!(strangers.is_idle(start, DAY_MS) && !strangers.is_idle(start, 2 * DAY_MS), "templates go at midnight");
        assert!(strangers.due(start, 2 * DAY_MS, 0.5, false).is_empty() && strangers.counted.is_empty());
    }

    #[test]
    fn a_flood_of_faces_is_bounded() {
        let (mut strangers, start) = (Strangers::new(1.1), Instant::now());
        let mut counted = 0;
        for round in 0..10 {
            (0..1000).for_each(|i| strangers.denied(stranger(ADA, (round * 1000 + i) as f32 * 1e-4), start));
            counted += strangers.due(start, 0, 0.0, true).len();
        }
        assert_eq!((counted, strangers.counted.len()), (MOST_A_DAY, MOST_A_DAY));
    }
}
