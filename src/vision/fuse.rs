//! The looks at one followed face, fused into one probe.
//!
//! A fused probe lies nearer to the right person than a single look does, because what a moment's pose, light and noise do to an
//! embedding is averaged out. It is the unit-length mean of the last looks at a face that differ from each other; one that hardly
//! differs from a newer one is replaced by it, and brings nothing more than that one alone. What was averaged out is known: the
//! [`Probe::spread`]. Distances of strangers shrink with it too, so the limit of a match has to (see `vision/manifest.rs`).
//!
//! A look too far from the newest one is not of the same face and is forgotten. Whoever stood there before, the probe is about who
//! stands there now: of strangers that take the place of a known person in the middle of a track, a mean without this rule
//! takes one in four for that person, with it no more than of strangers who come alone (README.md, `make fusion`).
//! Weighting the looks by sharpness, pose, size or brightness changed nothing measurable once the quality gates were passed.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    embed::{Embedding, NoDirection},
    track::TrackId,
};

/// Looks nearer than this share of `same_face` to each other are as good as one. Of 0, 0.3, 0.45, 0.6, 0.65 and 0.75 (people walking
/// towards a camera, 25 and 8 frames per second), 0.6 and 0.65 let most genuine probes pass at the same limit: a window of looks
/// that differ averages more out, and beyond that there are not enough of them.
const DISTINCT_SHARE: f32 = 0.6;

/// What makes a probe of looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FuseRules {
    /// So many looks that differ are fused, the last ones; at least 1.
    pub window: usize,
    /// Looks farther than this from the newest one, as a distance of embeddings, are not of the same face.
    pub same_face: f32,
    /// A face that was not seen for this long is forgotten.
    pub keep: Duration,
}

/// A good look at a face, and how many of its frames it stands for.
#[derive(Debug)]
struct Look {
    embedding: Embedding,
    frames: usize,
}

#[derive(Debug)]
struct Followed {
    /// The newest first.
    looks: VecDeque<Look>,
    last_seen: Instant,
}

/// What the last looks at a face say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub embedding: Embedding,
    /// The mean square of the distances from the looks to their mean, 0 (one look, or all the same) to 1.
    pub spread: f32,
    /// Frames that it stands for: good ones that show the same face as the newest, that one included.
    pub frames: usize,
}

/// Gathers looks by track.
#[derive(Debug)]
pub struct Fuser {
    rules: FuseRules,
    faces: HashMap<TrackId, Followed>,
}

impl Fuser {
    pub fn new(rules: FuseRules) -> Fuser {
        Fuser { rules, faces: HashMap::new() }
    }

    /// Adds a good look at a face in a frame captured at `at`; the probe made of this and the looks before it.
    ///
    /// # Errors
    /// [`NoDirection`]: the looks cancel each other out, which those of one face cannot.
    pub fn add(&mut self, track: TrackId, embedding: Embedding, at: Instant) -> Result<Probe, NoDirection> {
        let FuseRules { window, same_face, keep } = self.rules;
        self.faces.retain(|_, face| at.saturating_duration_since(face.last_seen) <= keep);
        let face = self.faces.entry(track).or_insert_with(|| Followed { looks: VecDeque::new(), last_seen: at });
        face.last_seen = face.last_seen.max(at);
        let mut newest = Look { embedding, frames: 1 };
        face.looks.retain(|look| {
            // Of another model: not of the same face either.
            let distance = look.embedding.distance(&newest.embedding).unwrap_or(f32::INFINITY);
            let replaced = distance < same_face * DISTINCT_SHARE;
            newest.frames += if replaced { look.frames } else { 0 };
            !replaced && distance <= same_face
        });
        face.looks.truncate(window.saturating_sub(1));
        face.looks.push_front(newest);
        let (embedding, spread) = fused(face.looks.iter().map(|look| &look.embedding))?;
        Ok(Probe { embedding, spread, frames: face.looks.iter().map(|look| look.frames).sum() })
    }
}

/// The unit-length mean of embeddings of one model, and their spread: the mean square of their distances to the plain mean,
/// which is 1 less that mean's squared length.
///
/// # Errors
/// [`NoDirection`]: there is none, or they cancel each other out.
pub fn fused<'a>(embeddings: impl IntoIterator<Item = &'a Embedding>) -> Result<(Embedding, f32), NoDirection> {
    let mut embeddings = embeddings.into_iter().peekable();
    let (first, mut count) = (*embeddings.peek().ok_or(NoDirection)?, 0.0);
    let mut sum = vec![0.0; first.values().len()];
    for embedding in embeddings {
        count += 1.0;
        sum.iter_mut().zip(embedding.values()).for_each(|(sum, value)| *sum += value);
    }
    let square = sum.iter().map(|value| value * value).sum::<f32>() / (count * count);
    let mean = Embedding::new(sum, first.model())?;
    Ok((mean, (1.0 - square).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::embed::ModelId;
    use proptest::prelude::*;

    const MODEL: ModelId = ModelId([1; 16]);
    const TRACK: TrackId = TrackId(1);
    const RULES: FuseRules = FuseRules { window: 3, same_face: 0.35, keep: Duration::from_secs(1) };

    /// At this angle from the first axis; for small ones the distance of two is the difference of their angles.
    fn at_angle(angle: f32) -> Embedding {
        Embedding::new(vec![angle.cos(), angle.sin(), 0.0], MODEL).unwrap()
    }

    fn angle(probe: &Probe) -> f32 {
        probe.embedding.values()[1].atan2(probe.embedding.values()[0])
    }

    /// The probe after the last of these looks, a frame each.
    fn after(angles: &[f32]) -> Probe {
        let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
        let add =
            |(i, &angle)| fuser.add(TRACK, at_angle(angle), start + Duration::from_millis(100) * i as u32).unwrap();
        angles.iter().enumerate().map(add).last().unwrap()
    }

    #[test]
    fn looks_that_differ_are_averaged() {
        let probe = after(&[0.0, 0.3]);
        assert!((angle(&probe) - 0.15).abs() < 1e-3 && probe.frames == 2, "{probe:?}");
        assert!((probe.spread - 0.15 * 0.15).abs() < 1e-3, "{probe:?}");
    }

    #[test]
    fn looks_that_hardly_differ_are_as_good_as_the_newest() {
        let probe = after(&[0.01, 0.02, 0.03, 0.0]);
        assert_eq!((probe.embedding, probe.frames), (at_angle(0.0), 4));
        assert!(probe.spread < 1e-6);
        // However many they are, they weigh no more than one look that differs.
        let probe = after(&[0.01, 0.02, 0.03, 0.0, 0.3]);
        assert!((angle(&probe) - 0.15).abs() < 1e-3 && probe.frames == 5, "{probe:?}");
    }

    #[test]
    fn only_the_last_looks_are_fused() {
        let around = |angle: f32| {
            let (height, radius) = (0.9854f32, 0.17f32);
            Embedding::new(vec![height, radius * angle.cos(), radius * angle.sin()], MODEL).unwrap()
        };
        let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
        let looks: Vec<Embedding> = (0..4).map(|quarter| around(quarter as f32 * 1.571)).collect();
        let probe = looks.iter().map(|look| fuser.add(TRACK, look.clone(), start).unwrap()).last().unwrap();
        // All four are near enough to each other to be one face; the first is one too many.
        let (expected, _) = fused(&looks[1..]).unwrap();
        assert!(probe.embedding.distance(&expected).unwrap() < 1e-3 && probe.frames == 3, "{probe:?}");
    }

    #[test]
    fn whoever_takes_somebodys_place_begins_anew() {
        let known = [0.0, 0.25, 0.0, 0.25];
        let stranger = 0.25 + 0.36;
        let probe = after(&[&known[..], &[stranger]].concat());
        assert_eq!((probe.embedding, probe.frames), (at_angle(stranger), 1));
        // And leaves nothing behind for the one who comes back.
        assert_eq!(after(&[&known[..], &[stranger + 0.3, 0.0]].concat()).frames, 1);
    }

    #[test]
    fn tracks_do_not_mix_and_are_forgotten() {
        let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
        fuser.add(TRACK, at_angle(0.0), start).unwrap();
        assert_eq!(fuser.add(TrackId(2), at_angle(0.3), start).unwrap().frames, 1);
        assert_eq!(fuser.add(TRACK, at_angle(0.3), start + RULES.keep).unwrap().frames, 2);
        assert_eq!(fuser.add(TRACK, at_angle(0.3), start + RULES.keep * 3).unwrap().frames, 1);
        assert_eq!(fuser.faces.len(), 1, "what left is not kept");
    }

    #[test]
    fn looks_of_another_model_are_not_mixed_in() {
        let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
        let other = Embedding::new(vec![1.0, 0.0, 0.0], ModelId([2; 16])).unwrap();
        fuser.add(TRACK, other, start).unwrap();
        assert_eq!(fuser.add(TRACK, at_angle(0.0), start).unwrap().frames, 1);
    }

    proptest! {
        /// Whatever comes: every look in the probe lies within `same_face` of the newest, and so does the probe.
        #[test]
        fn the_probe_lies_near_the_newest_look(looks in proptest::collection::vec(proptest::array::uniform8(-1f32..1.0), 1..30), loose in 0f32..1.0) {
            let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
            for (i, mut values) in looks.into_iter().enumerate() {
                values[0] += 8.0 * loose;
                let Ok(newest) = Embedding::new(values.to_vec(), MODEL) else { continue };
                let probe = fuser.add(TRACK, newest.clone(), start + Duration::from_millis(i as u64)).unwrap();
                prop_assert!(probe.embedding.distance(&newest).unwrap() <= RULES.same_face);
                prop_assert!((0.0..=RULES.same_face * RULES.same_face).contains(&probe.spread));
                prop_assert!(fuser.faces[&TRACK].looks.len() <= RULES.window);
                prop_assert!((1..=i + 1).contains(&probe.frames));
            }
        }
    }
}
