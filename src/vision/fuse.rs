//! The looks at one followed face, fused into one probe.
//!
//! A fused probe lies nearer to the right person than a single look does: the mean is without much of
//! what pose, light and noise do to an embedding. It is the unit-length mean of the last looks at a
//! face that differ; one of the same moment as a newer one is replaced by it. What was averaged out is
//! known: the [`Probe::spread`]. Distances of strangers shrink with it too, so the limit of a match
//! has to (see `vision/manifest.rs`). Pictures of one moment share what makes strangers alike, so what
//! they differ by does not count.
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

/// What makes a probe of looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FuseRules {
    /// So many looks that differ are fused, the last ones; at least 1.
    pub window: usize,
    /// Looks farther than this from the newest one, as a distance of embeddings, are not of the same face.
    pub same_face: f32,
    /// Looks nearer than this to each other show one moment and are as good as one.
    pub one_moment: f32,
    /// A face that was not seen for this long is forgotten.
    pub keep: Duration,
}

#[derive(Debug)]
struct Followed {
    /// Good looks, the newest first.
    looks: VecDeque<Embedding>,
    last_seen: Instant,
}

/// What the last looks at a face say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub embedding: Embedding,
    /// What was averaged out, 0 (one look, or looks of one moment) to 1, see [`fused`].
    pub spread: f32,
    /// Looks in it.
    pub looks: usize,
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
        let FuseRules { window, same_face, one_moment, keep } = self.rules;
        self.faces.retain(|_, face| at.saturating_duration_since(face.last_seen) <= keep);
        let face = self.faces.entry(track).or_insert_with(|| Followed { looks: VecDeque::new(), last_seen: at });
        face.last_seen = face.last_seen.max(at);
        // One of another model is not of the same face either.
        let differs = |distance| (one_moment..=same_face).contains(&distance);
        face.looks.retain(|look| look.distance(&embedding).is_some_and(differs));
        face.looks.truncate(window.saturating_sub(1));
        face.looks.push_front(embedding);
        let (embedding, spread) = fused(&face.looks, one_moment)?;
        Ok(Probe { embedding, spread, looks: face.looks.len() })
    }
}

/// The unit-length mean of embeddings of one model, and their spread: the mean square of their
/// distances to the plain mean. That is the sum of the squared distances of all pairs by the squared
/// number of embeddings; pairs nearer than `one_moment` do not count.
///
/// # Errors
/// [`NoDirection`]: there is none, or they cancel each other out.
pub fn fused<'a>(
    embeddings: impl IntoIterator<Item = &'a Embedding>,
    one_moment: f32,
) -> Result<(Embedding, f32), NoDirection> {
    let embeddings: Vec<&Embedding> = embeddings.into_iter().collect();
    let first = embeddings.first().ok_or(NoDirection)?;
    let mut sum = vec![0.0; first.values().len()];
    for embedding in &embeddings {
        sum.iter_mut().zip(embedding.values()).for_each(|(sum, value)| *sum += value);
    }
    let pairs =
        embeddings.iter().enumerate().flat_map(|(i, one)| embeddings[..i].iter().map(move |other| (one, other)));
    let squares = pairs.filter_map(|(one, other)| one.distance(other)).filter(|distance| *distance >= one_moment);
    let spread =
        squares.map(|distance| distance * distance).sum::<f32>() / (embeddings.len() * embeddings.len()) as f32;
    Ok((Embedding::new(sum, first.model())?, spread.min(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::model::ModelId;
    use proptest::prelude::*;

    const MODEL: ModelId = ModelId([1; 16]);
    const TRACK: TrackId = TrackId(1);
    const RULES: FuseRules = FuseRules { window: 3, same_face: 0.35, one_moment: 0.05, keep: Duration::from_secs(1) };

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
        assert!((angle(&probe) - 0.15).abs() < 1e-3 && probe.looks == 2, "{probe:?}");
        assert!((probe.spread - 0.15 * 0.15).abs() < 1e-3, "{probe:?}");
    }

    #[test]
    fn looks_of_one_moment_are_as_good_as_the_newest() {
        let probe = after(&[0.01, 0.02, 0.03, 0.0]);
        assert_eq!((probe.embedding, probe.spread, probe.looks), (at_angle(0.0), 0.0, 1));
        // However many they are, they weigh no more than one look that differs.
        let probe = after(&[0.01, 0.02, 0.03, 0.0, 0.3]);
        assert!((angle(&probe) - 0.15).abs() < 1e-3 && probe.looks == 2, "{probe:?}");
    }

    #[test]
    fn what_pictures_of_one_moment_differ_by_does_not_count() {
        let spread = |angles: [f32; 3], one_moment| fused(&angles.map(at_angle), one_moment).unwrap().1;
        // Two pairs are apart, the third is of one moment.
        let counted = (0.3f32.powi(2) + 0.29f32.powi(2)) / 9.0;
        assert!((spread([0.01, 0.0, 0.3], 0.05) - counted).abs() < 1e-3);
        assert_eq!(spread([0.01, 0.0, 0.03], 0.05), 0.0);
        assert!((spread([0.0, 0.1, 0.2], 0.0) - 2.0 / 3.0 * 0.1f32.powi(2)).abs() < 1e-4);
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
        let (expected, _) = fused(&looks[1..], 0.0).unwrap();
        assert!(probe.embedding.distance(&expected).unwrap() < 1e-3 && probe.looks == 3, "{probe:?}");
    }

    #[test]
    fn whoever_takes_somebodys_place_begins_anew() {
        let known = [0.0, 0.25, 0.0, 0.25];
        let stranger = 0.25 + 0.36;
        let probe = after(&[&known[..], &[stranger]].concat());
        assert_eq!((probe.embedding, probe.looks), (at_angle(stranger), 1));
        // And leaves nothing behind for the one who comes back.
        assert_eq!(after(&[&known[..], &[stranger + 0.3, 0.0]].concat()).looks, 1);
    }

    #[test]
    fn tracks_do_not_mix_and_are_forgotten() {
        let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
        fuser.add(TRACK, at_angle(0.0), start).unwrap();
        assert_eq!(fuser.add(TrackId(2), at_angle(0.3), start).unwrap().looks, 1);
        assert_eq!(fuser.add(TRACK, at_angle(0.3), start + RULES.keep).unwrap().looks, 2);
        assert_eq!(fuser.add(TRACK, at_angle(0.3), start + RULES.keep * 3).unwrap().looks, 1);
        assert_eq!(fuser.faces.len(), 1, "what left is not kept");
    }

    #[test]
    fn looks_of_another_model_are_not_mixed_in() {
        let (mut fuser, start) = (Fuser::new(RULES), Instant::now());
        let other = Embedding::new(vec![1.0, 0.0, 0.0], ModelId([2; 16])).unwrap();
        fuser.add(TRACK, other, start).unwrap();
        assert_eq!(fuser.add(TRACK, at_angle(0.0), start).unwrap().looks, 1);
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
                prop_assert!((1..=i + 1).contains(&probe.looks));
            }
        }
    }
}
