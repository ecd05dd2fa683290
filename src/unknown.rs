//! Unknown faces: people who came to the door and are not enrolled, kept for a while so that they can be given a name.
//!
//! Only if `enroll.keep_unknown` says so, and no more of them than it says. Whoever comes again is added to what is kept of that person
//! already. Naming one writes the pictures into the enroll folder, which judges them like any others.

use std::{
    io::{self, Cursor},
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::Duration,
};

use image::{RgbImage, codecs::jpeg::JpegEncoder};

use crate::{
    sight::Portrait,
    store::{Store, StoreError, Stranger, StrangerLook},
    vision::embed::Embedding,
};

/// Pictures kept of a person.
const LOOKS: usize = 3;
/// Visits that wait for being written down; the door does not wait for the disk.
const WAITING: usize = 4;
/// Finer than what a camera sends, so that nothing is lost by enrolling it.
const JPEG_QUALITY: u8 = 92;

/// How much is kept, and what is one person.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnknownRules {
    /// People; 0: none, and what was kept before is forgotten.
    pub limit: usize,
    /// Who was not seen for so long is forgotten.
    pub expiry: Duration,
    /// Two faces nearer than this are one person's.
    pub same_person: f32,
}

/// The best looks at one face during its visit.
#[derive(Debug, Default)]
pub struct Looks(Vec<Portrait>);

impl Looks {
    /// Keeps it if it is one of the best.
    pub fn add(&mut self, portrait: Portrait) {
        self.0.push(portrait);
        self.0.sort_by(|a, b| b.sharpness.total_cmp(&a.sharpness));
        self.0.truncate(LOOKS);
    }
}

/// Writes visits down on a thread of its own. Dropping it waits for what is being written.
pub struct UnknownFaces {
    rules: UnknownRules,
    sender: Option<SyncSender<(Looks, i64)>>,
    thread: Option<JoinHandle<()>>,
}

impl UnknownFaces {
    /// # Errors
    /// The thread cannot be started.
    pub fn start(store: Store, rules: UnknownRules) -> io::Result<UnknownFaces> {
        let (sender, visits) = mpsc::sync_channel::<(Looks, i64)>(WAITING);
        let thread = thread::Builder::new().name("unknown".into()).spawn(move || {
            for (looks, at_ms) in visits {
                if let Err(error) = note(&store, rules, looks, at_ms) {
                    log::error!("an unknown face could not be kept: {error}");
                }
            }
        })?;
        Ok(UnknownFaces { rules, sender: Some(sender), thread: Some(thread) })
    }

    /// Whether there is anything to collect looks for.
    pub fn wanted(&self) -> bool {
        self.rules.limit > 0
    }

    /// Somebody unknown was at the door; false when there are too many to write down.
    pub fn note(&self, looks: Looks, at_ms: i64) -> bool {
        if looks.0.is_empty() || !self.wanted() {
            return true;
        }
        let sent = self.sender.as_ref().map(|sender| sender.try_send((looks, at_ms)));
        !matches!(sent, Some(Err(TrySendError::Full(_))))
    }
}

impl Drop for UnknownFaces {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Adds a visit to the person it is one of, or to a new one.
fn note(store: &Store, rules: UnknownRules, looks: Looks, at_ms: i64) -> Result<(), StoreError> {
    let mut new = looks.0.into_iter().filter_map(kept);
    let Some(best) = new.next() else { return Ok(()) };
    let strangers = store.strangers()?;
    let distance = |stranger: &Stranger| {
        let to = |look: &StrangerLook| distance(look, &best);
        stranger.looks.iter().filter_map(to).fold(f32::INFINITY, f32::min)
    };
    let nearest = strangers.into_iter().map(|stranger| (distance(&stranger), stranger));
    let nearest = nearest.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(distance, _)| *distance <= rules.same_person);
    let mut stranger = match nearest {
        Some((_, stranger)) => stranger,
        None => Stranger { id: 0, first_ms: at_ms, last_ms: at_ms, visits: 0, looks: Vec::new() },
    };
    stranger.visits = stranger.visits.saturating_add(1);
    stranger.last_ms = at_ms;
    stranger.looks.extend([best].into_iter().chain(new));
    stranger.looks.sort_by(|a, b| b.sharpness.total_cmp(&a.sharpness));
    stranger.looks.truncate(LOOKS);
    store.put_stranger(&mut stranger)?;
    tidy(store, rules, at_ms).map(drop)
}

/// Forgets who is too old, and beyond the limit who was not seen for the longest time; how many.
///
/// # Errors
/// The store cannot be written.
pub fn tidy(store: &Store, rules: UnknownRules, now_ms: i64) -> Result<usize, StoreError> {
    let mut strangers = store.strangers()?;
    strangers.sort_by_key(|stranger| std::cmp::Reverse(stranger.last_ms));
    let oldest = now_ms.saturating_sub(i64::try_from(rules.expiry.as_millis()).unwrap_or(i64::MAX));
    let mut forgotten = 0;
    for (number, stranger) in strangers.iter().enumerate() {
        if number >= rules.limit || stranger.last_ms < oldest {
            store.remove_stranger(stranger.id)?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

fn kept(portrait: Portrait) -> Option<StrangerLook> {
    Some(StrangerLook {
        picture: jpeg(&portrait.picture)?,
        sharpness: portrait.sharpness,
        model: portrait.embedding.model(),
        embedding: portrait.embedding.values().to_vec(),
    })
}

/// A picture as a JPEG; None for one without any pixels.
pub fn jpeg(picture: &RgbImage) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)).ok()?;
    Some(bytes.into_inner())
}

/// None: made by different models.
fn distance(a: &StrangerLook, b: &StrangerLook) -> Option<f32> {
    let embedding = |look: &StrangerLook| Embedding::new(look.embedding.clone(), look.model).ok();
    embedding(a)?.distance(&embedding(b)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{model::ModelId, track::TrackId};

    const RULES: UnknownRules = UnknownRules { limit: 2, expiry: Duration::from_secs(3600), same_person: 0.5 };

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), 0).unwrap().0;
        (dir, store)
    }

    /// A look at somebody who stands in this direction from everybody else.
    fn looks(direction: f32, sharpness: f32) -> Looks {
        let embedding = Embedding::new(vec![direction.cos(), direction.sin()], ModelId([1; 16])).unwrap();
        Looks(vec![Portrait { track: TrackId(1), picture: RgbImage::new(4, 4), sharpness, embedding }])
    }

    fn ids(store: &Store) -> Vec<(u32, u32)> {
        store.strangers().unwrap().iter().map(|stranger| (stranger.id, stranger.visits)).collect()
    }

    #[test]
    fn who_comes_again_is_one_person_with_the_best_looks_first() {
        let (_dir, store) = store();
        for (at_ms, sharpness) in [(10, 0.3), (20, 0.8), (30, 0.5), (40, 0.4)] {
            note(&store, RULES, looks(0.1 * sharpness, sharpness), at_ms).unwrap();
        }
        note(&store, RULES, looks(2.0, 0.5), 50).unwrap();
        assert_eq!(ids(&store), [(1, 4), (2, 1)]);
        let first = &store.strangers().unwrap()[0];
        assert_eq!((first.first_ms, first.last_ms), (10, 40));
        assert_eq!(first.looks.iter().map(|look| look.sharpness).collect::<Vec<_>>(), [0.8, 0.5, 0.4]);
    }

    #[test]
    fn no_more_are_kept_than_the_limit_and_none_beyond_its_time() {
        let (_dir, store) = store();
        for (number, direction) in [0.0, 1.0, 2.0].into_iter().enumerate() {
            note(&store, RULES, looks(direction, 0.5), number as i64).unwrap();
        }
        assert_eq!(ids(&store), [(2, 1), (3, 1)], "the one not seen for the longest time is gone");
        assert_eq!(tidy(&store, RULES, 3_600_002).unwrap(), 1);
        assert_eq!(ids(&store), [(3, 1)]);
        assert_eq!(tidy(&store, UnknownRules { limit: 0, ..RULES }, 0).unwrap(), 1, "nothing is kept any more");
        assert_eq!(ids(&store), []);
        note(&store, RULES, looks(0.0, 0.5), 0).unwrap();
        assert_eq!(ids(&store), [(4, 1)], "no number is given twice");
    }

    #[test]
    fn the_thread_writes_what_it_was_given_before_it_ends() {
        let (_dir, store) = store();
        let faces = UnknownFaces::start(store.clone(), RULES).unwrap();
        assert!(faces.note(looks(0.0, 0.5), 1));
        assert!(faces.note(Looks::default(), 2), "a visit without a good look leaves nothing");
        drop(faces);
        assert_eq!(ids(&store), [(1, 1)]);
    }
}
