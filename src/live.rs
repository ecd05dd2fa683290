//! What passes between the door and whoever looks at it while it works: the present picture with its faces, and portraits of a
//! face that somebody enrols from the camera.
//!
//! The door gives without waiting, and only when somebody is there to take: with nobody looking it costs one load of a number a frame.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use image::RgbImage;
use serde::Serialize;

use crate::{
    sight::Portrait,
    vision::{frame::Frame, track::TrackId},
};

/// Looks that are kept of a face enrolled from the camera ...
pub const SITTING: usize = 3;
/// ... no two of them within this time, or they would all be the same.
const BETWEEN_LOOKS: Duration = Duration::from_millis(400);

/// A frame as it was decided on.
#[derive(Debug)]
pub struct View {
    /// Rises with every view.
    pub number: u64,
    pub frame: Frame,
    /// Degrees clockwise that make the frame upright.
    pub rotate: u32,
    pub faces: Vec<LiveFace>,
}

/// A face in view.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveFace {
    pub track: u64,
    /// x1, y1, x2, y2 in pixels of the upright picture.
    pub bounding_box: [f32; 4],
    pub landmarks: [[f32; 2]; 5],
    pub state: FaceState,
    /// Who it is taken for.
    pub name: Option<String>,
    /// To the nearest person, and how large it might be.
    pub distance: Option<f32>,
    pub limit: Option<f32>,
    /// The decision in words.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FaceState {
    Known,
    Unknown,
    Undecided,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Live {
    viewers: AtomicUsize,
    view: Mutex<(u64, Option<Arc<View>>)>,
    shown: Condvar,
    sitting: Mutex<Option<Sitting>>,
    sat: Condvar,
}

#[derive(Debug)]
struct Sitting {
    track: TrackId,
    looks: Vec<RgbImage>,
    last: Option<Instant>,
}

/// Somebody who looks; as long as it lives the door shows what it sees.
#[derive(Debug)]
pub struct Viewer(Arc<Live>);

impl Drop for Viewer {
    fn drop(&mut self) {
        if self.0.viewers.fetch_sub(1, Ordering::Relaxed) == 1 {
            // A picture of people is not kept for whoever comes next.
            lock(&self.0.view).1 = None;
        }
    }
}

impl Live {
    pub fn viewer(self: &Arc<Live>) -> Viewer {
        self.viewers.fetch_add(1, Ordering::Relaxed);
        Viewer(Arc::clone(self))
    }

    pub fn viewers(&self) -> usize {
        self.viewers.load(Ordering::Relaxed)
    }

    /// Shows a frame; the one before is forgotten, taken or not.
    pub fn show(&self, frame: Frame, rotate: u32, faces: Vec<LiveFace>) {
        let mut view = lock(&self.view);
        view.0 += 1;
        view.1 = Some(Arc::new(View { number: view.0, frame, rotate, faces }));
        self.shown.notify_all();
    }

    /// The newest view if it is newer than `after`; waits for one at most so long.
    pub fn next_view(&self, after: u64, patience: Duration) -> Option<Arc<View>> {
        let until = Instant::now() + patience;
        let mut view = lock(&self.view);
        loop {
            if let Some(newest) = view.1.as_ref().filter(|newest| newest.number > after) {
                return Some(Arc::clone(newest));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            view = self.shown.wait_timeout(view, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The face that is being enrolled from the camera.
    pub fn sitter(&self) -> Option<TrackId> {
        lock(&self.sitting).as_ref().map(|sitting| sitting.track)
    }

    /// Takes a portrait if it is one of the sitter, and another look than the ones before.
    pub fn offer(&self, portrait: &Portrait, at: Instant) {
        let mut sitting = lock(&self.sitting);
        let Some(sitting) = sitting.as_mut().filter(|sitting| sitting.track == portrait.track) else { return };
        let too_soon = sitting.last.is_some_and(|last| at.saturating_duration_since(last) < BETWEEN_LOOKS);
        if !too_soon && sitting.looks.len() < SITTING {
            sitting.looks.push(portrait.picture.clone());
            sitting.last = Some(at);
            self.sat.notify_all();
        }
    }

    /// Waits for good looks at a face, at most so long; as many as there were. One face at a time: None when another is being enrolled.
    pub fn sit(&self, track: TrackId, patience: Duration) -> Option<Vec<RgbImage>> {
        let mut sitting = lock(&self.sitting);
        if sitting.is_some() {
            return None;
        }
        *sitting = Some(Sitting { track, looks: Vec::new(), last: None });
        let until = Instant::now() + patience;
        while sitting.as_ref().is_some_and(|sitting| sitting.looks.len() < SITTING) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sitting = self.sat.wait_timeout(sitting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(sitting.take().map_or_else(Vec::new, |sitting| sitting.looks))
    }
}

/// This thread, and those it starts, run when the door has nothing to do. Where that is not allowed they run as all do.
pub fn give_way() {
    // Linux applies a nice value to the calling thread only.
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        log::debug!("a thread cannot be made less urgent: {error}");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::vision::{embed::Embedding, frame::PixelFormat, model::ModelId};

    fn frame() -> Frame {
        Frame {
            bytes: vec![128; 4],
            format: PixelFormat::Grey,
            width: 2,
            height: 2,
            stride: 2,
            sequence: 0,
            captured_at: Instant::now(),
        }
    }

    fn portrait(track: u64) -> Portrait {
        let embedding = Embedding::new(vec![1.0, 0.0], ModelId([0; 16])).unwrap();
        Portrait { track: TrackId(track), picture: RgbImage::new(2, 2), sharpness: 1.0, embedding }
    }

    #[test]
    fn a_viewer_sees_the_newest_view_only_and_none_is_kept_when_it_leaves() {
        let live = Arc::new(Live::default());
        let viewer = live.viewer();
        (0..3).for_each(|_| live.show(frame(), 0, vec![]));
        assert_eq!(live.next_view(0, Duration::ZERO).unwrap().number, 3);
        assert!(live.next_view(3, Duration::from_millis(5)).is_none());
        drop(viewer);
        assert!(live.next_view(0, Duration::ZERO).is_none());
        assert_eq!(live.viewers(), 0);
    }

    #[test]
    fn a_sitting_ends_with_three_looks_at_that_face() {
        let live = Arc::new(Live::default());
        let sitter = Arc::clone(&live);
        let sitting = thread::spawn(move || sitter.sit(TrackId(7), Duration::from_secs(20)));
        while live.sitter().is_none() {
            thread::yield_now();
        }
        let start = Instant::now();
        for look in 0..8 {
            // Somebody else's, and ones that come too fast, do not count.
            live.offer(&portrait(8), start + BETWEEN_LOOKS * look);
            live.offer(&portrait(7), start + BETWEEN_LOOKS * look / 2);
        }
        assert_eq!(sitting.join().unwrap().unwrap().len(), SITTING);
        assert_eq!(live.sitter(), None);
    }

    #[test]
    fn a_sitting_whose_face_left_ends_in_time_and_another_one_is_refused_meanwhile() {
        let live = Arc::new(Live::default());
        let sitter = Arc::clone(&live);
        let sitting = thread::spawn(move || sitter.sit(TrackId(7), Duration::from_millis(300)));
        while live.sitter().is_none() {
            thread::yield_now();
        }
        assert!(live.sit(TrackId(9), Duration::ZERO).is_none());
        assert_eq!(sitting.join().unwrap(), Some(vec![]));
    }
}
