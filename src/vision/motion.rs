//! Where a picture has changed since it was last searched for faces: what did not change need not be searched again.
//!
//! The picture is compared cell by cell, by mean luma, with what it was at the last search, so that slow movement adds up. A change
//! that the whole picture shares (a lamp, a cloud, the camera's own exposure) is taken out as a factor first; the median of all
//! cells' factors is not moved by a person who fills less than half of the picture. Means over a cell leave little of the sensor's
//! noise: a tenth of what it is in a pixel.

use image::RgbImage;

use super::{
    frame::{Frame, FrameError},
    geometry::BoundingBox,
    pixels::{self, CELL},
};

/// A cell has changed if its mean luma, 0 to 255, is so far from what was expected: six times the noise of a dark picture (10 grey
/// levels per pixel), and less than a face before nearly any wall.
const CHANGED_BY: f32 = 5.0;

/// A picture's means over cells, for comparing two of the same size.
pub fn cells(picture: &RgbImage) -> Vec<f32> {
    let mut cells = Vec::new();
    pixels::green_cells(picture, &mut cells);
    cells
}

/// The present picture and the last one that was searched, in cells.
#[derive(Clone, Debug, Default)]
pub struct Motion {
    columns: usize,
    now: Vec<f32>,
    /// Empty before the first search.
    searched: Vec<f32>,
    factors: Vec<f32>,
}

impl Motion {
    /// Takes a frame's luma; false if it has to be decoded first, and given to [`Motion::look_at_picture`].
    ///
    /// # Errors
    /// Too few bytes for the frame's size.
    pub fn look(&mut self, frame: &Frame) -> Result<bool, FrameError> {
        self.columns = frame.width as usize / CELL;
        Ok(pixels::luma_cells(frame, &mut self.now)?.is_some())
    }

    pub fn look_at_picture(&mut self, picture: &RgbImage) {
        self.columns = picture.width() as usize / CELL;
        pixels::green_cells(picture, &mut self.now);
    }

    /// The present picture is being searched: from now on it is what others are compared with.
    pub fn searched(&mut self) {
        self.searched.clone_from(&self.now);
    }

    /// How many cells changed since the last search, those whose centre lies in one of `known` left out. All of them before the first
    /// search and when the picture's size changed.
    pub fn changed_outside(&mut self, known: &[BoundingBox]) -> usize {
        if self.searched.len() != self.now.len() {
            return self.now.len().max(1);
        }
        let factor = self.common_factor();
        let center = |cell: usize| ((cell * CELL + CELL / 2) as f32).max(0.0);
        let cells = self.now.iter().zip(&self.searched).enumerate();
        cells
            .filter(|(_, (now, before))| (*now - *before * factor).abs() > CHANGED_BY)
            .filter(|(i, _)| {
                let (x, y) = (center(i % self.columns), center(i / self.columns));
                !known.iter().any(|b| (b.x1..=b.x2).contains(&x) && (b.y1..=b.y2).contains(&y))
            })
            .count()
    }

    /// By how much the whole picture became brighter; cells near black say nothing about it.
    fn common_factor(&mut self) -> f32 {
        const NEARLY_BLACK: f32 = 8.0;
        self.factors.clear();
        let lit = self.now.iter().zip(&self.searched).filter(|(_, before)| **before > NEARLY_BLACK);
        self.factors.extend(lit.map(|(now, before)| now / before));
        if self.factors.is_empty() {
            return 1.0;
        }
        let middle = self.factors.len() / 2;
        *self.factors.select_nth_unstable_by(middle, f32::total_cmp).1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::vision::frame::PixelFormat;

    /// A grey wall with a gradient, seen with `noise` grey levels (standard deviation) at so much light.
    fn wall(light: f32, noise: f32, seed: u32) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761).max(1);
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        // The sum of four uniform numbers is near enough to a normal one; its variance is 4/12.
        let mut normal = move || (0..4).map(|_| random()).sum::<f32>() * 3f32.sqrt();
        let luma = |i: usize| 60.0 + (i % 320) as f32 / 4.0;
        (0..320 * 240).map(|i| (luma(i) * light + noise * normal()).clamp(0.0, 255.0) as u8).collect()
    }

    fn grey(bytes: Vec<u8>) -> Frame {
        Frame {
            bytes,
            format: PixelFormat::Grey,
            width: 320,
            height: 240,
            stride: 320,
            sequence: 0,
            captured_at: Instant::now(),
        }
    }

    fn with_patch(mut wall: Vec<u8>, (x, y, side): (usize, usize, usize), luma: u8) -> Vec<u8> {
        (y..y + side).for_each(|y| wall[y * 320 + x..y * 320 + x + side].fill(luma));
        wall
    }

    fn changed(before: Vec<u8>, now: Vec<u8>, known: &[BoundingBox]) -> usize {
        let mut motion = Motion::default();
        assert!(motion.look(&grey(before)).unwrap());
        motion.searched();
        assert!(motion.look(&grey(now)).unwrap());
        motion.changed_outside(known)
    }

    #[test]
    fn all_is_new_before_the_first_search() {
        let mut motion = Motion::default();
        motion.look(&grey(wall(1.0, 0.0, 1))).unwrap();
        assert_eq!(motion.changed_outside(&[]), 20 * 15);
        motion.searched();
        assert_eq!(motion.changed_outside(&[]), 0);
    }

    #[test]
    fn noise_and_light_are_no_motion() {
        assert_eq!(changed(wall(1.0, 10.0, 1), wall(1.0, 10.0, 2), &[]), 0);
        assert_eq!(changed(wall(1.0, 5.0, 1), wall(0.6, 5.0, 2), &[]), 0);
        assert_eq!(changed(wall(1.0, 5.0, 1), wall(1.4, 5.0, 2), &[]), 0);
    }

    #[test]
    fn a_face_sized_change_is_seen_also_while_the_light_changes_but_not_where_a_face_is_known() {
        let patch = (160, 80, 64);
        let now = || with_patch(wall(0.8, 5.0, 2), patch, 140);
        assert_eq!(changed(wall(1.0, 5.0, 1), now(), &[]), 16);
        let known = BoundingBox { x1: 150.0, y1: 70.0, x2: 230.0, y2: 150.0 };
        assert_eq!(changed(wall(1.0, 5.0, 1), now(), &[known]), 0);
    }

    #[test]
    fn slow_changes_add_up() {
        let mut motion = Motion::default();
        motion.look(&grey(wall(1.0, 0.0, 1))).unwrap();
        motion.searched();
        let mut growing = |by: u8| {
            let mut bytes = wall(1.0, 0.0, 1);
            (0..64 * 320).filter(|i| i % 320 < 64).for_each(|i| bytes[i] += by);
            motion.look(&grey(bytes)).unwrap();
            motion.changed_outside(&[])
        };
        let counts: Vec<usize> = (0..10).map(&mut growing).collect();
        assert_eq!((counts[1], counts[9]), (0, 16), "{counts:?}");
    }
}
