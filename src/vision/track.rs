//! Faces followed from frame to frame, so that evidence about one face is never mixed with evidence about another.

use std::time::{Duration, Instant};

use super::geometry::{BoundingBox, Detection};

/// A face's running number for as long as it is followed; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackId(pub u64);

/// Boxes of one face in consecutive frames overlap at least this much at some frames per second; those of two faces hardly ever do.
const SAME_FACE_IOU: f32 = 0.3;
/// Or else the centres lie within this share of the box's side and the sizes within this ratio: a step to the side between two slow frames.
const SAME_FACE_SHIFT: f32 = 0.6;
const SAME_FACE_RATIO: f32 = 1.6;

/// A face being followed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Track {
    id: TrackId,
    bounding_box: BoundingBox,
    last_seen: Instant,
}

/// Gives each detection of a frame the number of the track it continues.
#[derive(Debug)]
pub struct Tracker {
    tracks: Vec<Track>,
    next_id: u64,
    /// A face not seen for this long is a new one when it comes back.
    keep: Duration,
}

impl Tracker {
    pub fn new(keep: Duration) -> Tracker {
        Tracker { tracks: Vec::new(), next_id: 1, keep }
    }

    /// Notes that a face of a frame captured at `at` is the one that is followed as `id`.
    pub fn follow(&mut self, id: TrackId, bounding_box: BoundingBox, at: Instant) {
        if let Some(track) = self.tracks.iter_mut().find(|track| track.id == id) {
            (track.bounding_box, track.last_seen) = (bounding_box, at);
        }
    }

    /// Assigns the detections of a frame captured at `at` to tracks that were not seen in that frame yet, greedily by likeness of place;
    /// what fits none starts a new one.
    pub fn assign(&mut self, detections: &[Detection], at: Instant) -> Vec<TrackId> {
        self.tracks.retain(|track| at.saturating_duration_since(track.last_seen) <= self.keep);
        let mut pairs: Vec<(f32, usize, usize)> = Vec::new();
        for (d, detection) in detections.iter().enumerate() {
            for (t, track) in self.tracks.iter().enumerate() {
                if let Some(likeness) = likeness(&track.bounding_box, &detection.bounding_box) {
                    pairs.push((likeness, d, t));
                }
            }
        }
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut assigned: Vec<Option<TrackId>> = vec![None; detections.len()];
        let mut taken: Vec<bool> = self.tracks.iter().map(|track| track.last_seen == at).collect();
        for (_, d, t) in pairs {
            if assigned[d].is_none() && !taken[t] {
                taken[t] = true;
                let track = &mut self.tracks[t];
                (track.bounding_box, track.last_seen) = (detections[d].bounding_box, at);
                assigned[d] = Some(track.id);
            }
        }
        let start = |(id, detection): (Option<TrackId>, &Detection)| {
            id.unwrap_or_else(|| self.start(detection.bounding_box, at))
        };
        assigned.into_iter().zip(detections).map(start).collect()
    }

    /// Whether this face is still followed, or would be if it came back now.
    pub fn follows(&self, id: TrackId) -> bool {
        self.tracks.iter().any(|track| track.id == id)
    }

    fn start(&mut self, bounding_box: BoundingBox, at: Instant) -> TrackId {
        let id = TrackId(self.next_id);
        self.next_id += 1;
        self.tracks.push(Track { id, bounding_box, last_seen: at });
        id
    }
}

/// How likely two boxes are the same face a moment apart; None: they are not.
fn likeness(before: &BoundingBox, now: &BoundingBox) -> Option<f32> {
    let iou = before.iou(now);
    if iou >= SAME_FACE_IOU {
        return Some(iou);
    }
    let (a, b) = (before.center(), now.center());
    let side = before.side().max(now.side());
    let shift = (a.x - b.x).hypot(a.y - b.y) / side;
    let ratio = side / before.side().min(now.side());
    (shift <= SAME_FACE_SHIFT && ratio <= SAME_FACE_RATIO).then_some(SAME_FACE_IOU * (1.0 - shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::geometry::Landmarks;

    fn face(x: f32, y: f32, side: f32) -> Detection {
        Detection {
            bounding_box: BoundingBox { x1: x, y1: y, x2: x + side, y2: y + side },
            score: 1.0,
            landmarks: Landmarks::default(),
        }
    }

    const KEEP: Duration = Duration::from_secs(1);

    #[test]
    fn a_walking_face_keeps_its_number() {
        let (mut tracker, start) = (Tracker::new(KEEP), Instant::now());
        let ids: Vec<TrackId> = (0..20)
            .map(|i| tracker.assign(&[face(10.0 + 30.0 * i as f32, 50.0, 100.0)], start + KEEP / 10 * i)[0])
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn two_faces_side_by_side_are_two_tracks_in_any_order() {
        let (mut tracker, start) = (Tracker::new(KEEP), Instant::now());
        let first = tracker.assign(&[face(0.0, 0.0, 100.0), face(120.0, 0.0, 100.0)], start);
        let second = tracker.assign(&[face(125.0, 2.0, 98.0), face(4.0, 1.0, 101.0)], start + KEEP / 10);
        assert_ne!(first[0], first[1]);
        assert_eq!(second, [first[1], first[0]]);
    }

    #[test]
    fn a_face_elsewhere_or_of_another_size_is_another_track() {
        let (mut tracker, start) = (Tracker::new(KEEP), Instant::now());
        let first = tracker.assign(&[face(0.0, 0.0, 100.0)], start)[0];
        assert_ne!(tracker.assign(&[face(300.0, 0.0, 100.0)], start + KEEP / 10)[0], first);
        assert_ne!(tracker.assign(&[face(30.0, 30.0, 30.0)], start + KEEP / 10)[0], first);
    }

    #[test]
    fn a_face_beside_one_that_is_followed_never_takes_its_number() {
        let (mut tracker, start) = (Tracker::new(KEEP), Instant::now());
        let first = tracker.assign(&[face(0.0, 0.0, 100.0)], start)[0];
        tracker.follow(first, face(10.0, 0.0, 100.0).bounding_box, start + KEEP / 10);
        assert_ne!(tracker.assign(&[face(20.0, 0.0, 100.0)], start + KEEP / 10)[0], first);
    }

    #[test]
    fn a_face_that_was_gone_is_a_new_track() {
        let (mut tracker, start) = (Tracker::new(KEEP), Instant::now());
        let first = tracker.assign(&[face(0.0, 0.0, 100.0)], start)[0];
        assert_eq!(tracker.assign(&[face(0.0, 0.0, 100.0)], start + KEEP)[0], first);
        assert_ne!(tracker.assign(&[face(0.0, 0.0, 100.0)], start + KEEP * 3)[0], first);
    }

    proptest::proptest! {
        #[test]
        fn no_two_faces_of_a_frame_share_a_track(places in proptest::collection::vec(
            proptest::collection::vec((0f32..600.0, 0f32..400.0, 20f32..200.0), 0..6), 1..10)) {
            let (mut tracker, start) = (Tracker::new(KEEP), Instant::now());
            for (i, frame) in places.iter().enumerate() {
                let faces: Vec<Detection> = frame.iter().map(|&(x, y, s)| face(x, y, s)).collect();
                let mut ids = tracker.assign(&faces, start + KEEP / 10 * i as u32);
                proptest::prop_assert_eq!(ids.len(), faces.len());
                ids.sort();
                ids.dedup();
                proptest::prop_assert_eq!(ids.len(), faces.len());
            }
        }
    }
}
