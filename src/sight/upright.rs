//! Notices a camera that hangs upside down or on its side.
//!
//! While something moves and no face is certain, the frame is searched in one other turn now and then. Faces that are found
//! in one of them several times, and none in the frame as it is meanwhile, mean that the camera is turned.

use std::time::{Duration, Instant};

use image::RgbImage;

use crate::vision::{Vision, VisionError, pixels::turned};

/// One search more in so much time: on a slow board one or two hundredths of it.
const EVERY: Duration = Duration::from_secs(5);
/// A face this certain is upright; of faces in a wrong turn, one in twenty that are found is as certain.
const CERTAIN: f32 = 0.99;
/// Finds in one turn that are enough.
const FINDS: u32 = 3;
const TURNS: [u32; 3] = [180, 90, 270];

#[derive(Debug, Default)]
pub(super) struct UprightWatch {
    tried_at: Option<Instant>,
    /// The turn to try next, and the finds in each.
    turn: usize,
    finds: [u32; TURNS.len()],
    /// Degrees, clockwise, once they are known and not told yet.
    advice: Option<u32>,
    advised: bool,
}

impl UprightWatch {
    /// Notes how certain the faces of a frame are (0: there are none), and tries another turn if that is due.
    pub(super) fn look(
        &mut self,
        vision: &mut Vision,
        picture: &RgbImage,
        certainty: f32,
        at: Instant,
    ) -> Result<(), VisionError> {
        if certainty >= CERTAIN {
            self.finds = [0; TURNS.len()];
            return Ok(());
        }
        if self.advised || self.tried_at.is_some_and(|tried| at.saturating_duration_since(tried) < EVERY) {
            return Ok(());
        }
        self.tried_at = Some(at);
        let faces = vision.detect(&turned(picture, TURNS[self.turn]))?;
        if faces.iter().any(|face| face.score >= CERTAIN) {
            self.finds[self.turn] += 1;
        } else {
            self.turn = (self.turn + 1) % TURNS.len();
        }
        if self.finds[self.turn] >= FINDS {
            self.advised = true;
            self.advice = Some(TURNS[self.turn]);
        }
        Ok(())
    }

    /// By how many degrees the frame should be turned clockwise, said once.
    pub(super) fn take_advice(&mut self) -> Option<u32> {
        self.advice.take()
    }
}
