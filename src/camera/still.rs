//! Whether a camera hangs: it then sends one picture again and again, bit for bit.
//!
//! A sensor has noise, so even a dark, empty room never gives the same bytes for long. A virtual
//! camera that shows a still does; so may a network camera whose encoder passes over a still
//! scene until its next whole picture.

use std::time::{Duration, Instant};

/// Fewer frames than this prove nothing, however long they took.
const FEWEST: u32 = 20;
/// Places of a frame that are compared first, and the bytes of each.
const PLACES: usize = 64;
const BYTES: usize = 16;

/// The last picture, and how often it came.
#[derive(Debug)]
pub(super) struct Still {
    /// Length and checksum of some places. Frames that differ there cost no more than this.
    sample: (usize, u32),
    /// Checksum of all; None for a picture that came once only.
    whole: Option<u32>,
    since: Instant,
    frames: u32,
    /// It was too long the same, and nothing else has come since.
    stuck: bool,
}

impl Default for Still {
    fn default() -> Still {
        Still { sample: (0, 0), whole: None, since: Instant::now(), frames: 0, stuck: false }
    }
}

impl Still {
    /// Takes a frame's bytes; the problem, if they have been the same for `longest`.
    pub(super) fn look(&mut self, bytes: &[u8], longest: Duration, now: Instant) -> Option<String> {
        if !self.is_same(bytes) {
            (self.since, self.frames, self.stuck) = (now, 0, false);
        }
        self.frames += 1;
        let elapsed = now.saturating_duration_since(self.since);
        if self.frames < FEWEST || elapsed < longest {
            return None;
        }
        self.stuck = true;
        let frames = self.frames;
        Some(format!(
            "the same picture for {elapsed:.0?} ({frames} frames, equal bit for bit): it hangs, or shows a still; \
             plug it in again if this goes on"
        ))
    }

    /// Whether this is the picture that the camera was lost with.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// A camera that was opened again has time to show another picture.
    pub(super) fn reopened(&mut self) {
        (self.since, self.frames) = (Instant::now(), 0);
    }

    fn is_same(&mut self, bytes: &[u8]) -> bool {
        let sample = (bytes.len(), sample(bytes));
        if std::mem::replace(&mut self.sample, sample) != sample {
            self.whole = None;
            return false;
        }
        let whole = Some(crc32fast::hash(bytes));
        let before = std::mem::replace(&mut self.whole, whole);
        before.is_none() || before == whole
    }
}

fn sample(bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    let step = (bytes.len() / PLACES).max(BYTES);
    bytes.chunks(step).for_each(|place| sum.update(&place[..place.len().min(BYTES)]));
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    /// The problem with each of the frames, which come ten a second.
    fn problems(frames: impl Iterator<Item = Vec<u8>>) -> Vec<bool> {
        let (mut still, begin) = (Still::default(), Instant::now());
        let at = |i: u32| begin + Duration::from_millis(100) * i;
        (0..).zip(frames).map(|(i, frame)| still.look(&frame, LONGEST, at(i)).is_some()).collect()
    }

    #[test]
    fn the_same_picture_for_long_is_a_fault_and_one_other_bit_is_none() {
        let problems = problems((0..300).map(|i| {
            let mut frame = vec![7; 20_000];
            // A place that the sample passes over.
            frame[12_345] = u8::from(i == 150);
            frame
        }));
        assert_eq!(problems.iter().position(|problem| *problem), Some(100));
        assert_eq!(problems[100..150].iter().filter(|problem| **problem).count(), 50);
        assert_eq!(problems[150..].iter().position(|problem| *problem), Some(101));
    }

    #[test]
    fn a_still_scene_with_noise_is_no_fault() {
        assert!(!problems((0..500u32).map(|i| [vec![9; 5000], i.to_le_bytes().to_vec()].concat())).contains(&true));
        assert!(!problems((0..500).map(|i| vec![9; 5000 + i % 2])).contains(&true));
    }

    #[test]
    fn few_frames_are_no_fault_however_long_they_took() {
        let (mut still, begin) = (Still::default(), Instant::now());
        let at = |i: u32| begin + Duration::from_secs(4) * i;
        let first = (0..50).position(|i| still.look(&[1, 2, 3], LONGEST, at(i)).is_some());
        assert_eq!(first, Some(FEWEST as usize - 1));
    }
}
