//! MTCNN: face detection by a cascade of three small nets (Zhang, Zhang, Li, Qiao 2016, "Joint Face Detection and Alignment
//! Using Multitask Cascaded Convolutional Networks").
//!
//! P-Net, fully convolutional, proposes boxes on a pyramid of scaled pictures; R-Net sifts and corrects them on 24-pixel
//! crops; O-Net sifts and corrects again on 48-pixel crops and finds five landmarks. The arithmetic of boxes (the +1 of
//! inclusive pixels, truncation, squaring) is the original's, which later ports kept.

use std::collections::HashMap;

use image::RgbImage;
use rayon::prelude::*;

use super::{
    geometry::{BoundingBox, Detection, Landmarks, Point},
    net::{Net, NetError, NetFile},
    resize::{Region, Resizer},
};

/// Each level of the pyramid is this much smaller than the one before (the original's choice, about 1/√2).
const PYRAMID_FACTOR: f64 = 0.709;
/// P-Net sees a window of 12 × 12 pixels and moves it by 2.
const PNET_WINDOW: f32 = 12.0;
const PNET_STRIDE: f32 = 2.0;
/// A picture of another size needs P-Net plans of its own. Cameras have one size; pictures dropped for enrolment have
/// any, so the oldest plans are forgotten beyond this number.
const PLANS_KEPT: usize = 64;
/// Of candidates that overlap by more than this (intersection over union) only the most certain one goes on to R- and to O-Net. The original
/// lets all below .7 go on, which sent fourteen boxes of one face through R-Net and five through O-Net, and tells people apart no better
/// (docs/performance.md).
pub(crate) const SAME_FACE: f32 = 0.4;
/// A proposal that lies in a face known already by this share is no other face.
const BESIDE: f32 = 0.5;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MtcnnSettings {
    /// Smallest face, side of its box in pixels, at least 12.
    pub min_face: f32,
    /// Probabilities a candidate must reach at P-, R- and O-Net.
    pub thresholds: [f32; 3],
}

/// The detector. Clones share the nets and plan for themselves.
#[derive(Clone)]
pub struct Mtcnn {
    settings: MtcnnSettings,
    pnet: NetFile,
    plans: HashMap<(usize, usize), Net>,
    rnet: Net,
    onet: Net,
    resizer: Resizer,
}

/// A box on its way through the cascade.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    bounding_box: BoundingBox,
    /// Of the last net that saw it. Not the probability: that is 1 to the last digit for every clear face, and the order of faces would be lost.
    logit: f32,
    /// The net's corrections of x1, y1, x2, y2, as shares of the box's size.
    offsets: [f32; 4],
    landmarks: Landmarks,
}

/// How two boxes' overlap is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overlap {
    /// Intersection over union.
    Union,
    /// Intersection over the smaller box: also drops a box inside another.
    Smaller,
}

impl Mtcnn {
    /// Makes the plans of R- and O-Net; P-Net's are made as picture sizes turn up.
    ///
    /// # Errors
    /// A net cannot be planned.
    pub fn new(pnet: NetFile, rnet: NetFile, onet: NetFile, settings: MtcnnSettings) -> Result<Mtcnn, NetError> {
        let (rnet, onet) = (rnet.into_plan(24, 24)?, onet.into_plan(48, 48)?);
        Ok(Mtcnn { settings, pnet, plans: HashMap::new(), rnet, onet, resizer: Resizer::default() })
    }

    pub fn settings(&self) -> MtcnnSettings {
        self.settings
    }

    /// The same nets looking for something else.
    pub fn with_settings(&self, settings: MtcnnSettings) -> Mtcnn {
        Mtcnn { settings, ..self.clone() }
    }

    /// R- and O-Net.
    pub fn nets(&self) -> [&Net; 2] {
        [&self.rnet, &self.onet]
    }

    /// Finds the faces of a picture, the most certain first.
    ///
    /// # Errors
    /// A net failed; a picture without faces is no error.
    pub fn detect(&mut self, picture: &RgbImage) -> Result<Vec<Detection>, NetError> {
        self.detect_beside(picture, &[])
    }

    /// Finds the faces of a picture other than those known to be in it. Most of the work of detection is that on the many
    /// boxes around a face, so this costs hardly more than a picture without faces.
    ///
    /// # Errors
    /// As [`Mtcnn::detect`].
    pub fn detect_beside(&mut self, picture: &RgbImage, known: &[Detection]) -> Result<Vec<Detection>, NetError> {
        let mut proposals = self.propose(picture)?;
        let lies_in = |c: &Candidate, face: &Detection| {
            inclusive_overlap(face.bounding_box, c.bounding_box, Overlap::Smaller) > BESIDE
        };
        proposals.retain(|candidate| !known.iter().any(|face| lies_in(candidate, face)));
        let refined = self.refine(picture, proposals)?;
        Ok(self.output(picture, refined)?.into_iter().map(Candidate::detection).collect())
    }

    /// Looks whether the face that was at `expected` a moment ago is still there, with O-Net alone: None if it is not, or has moved by
    /// more than a part of its size.
    ///
    /// # Errors
    /// The net failed.
    pub fn confirm(&mut self, picture: &RgbImage, expected: &BoundingBox) -> Result<Option<Detection>, NetError> {
        let candidate = Candidate {
            bounding_box: square(*expected),
            logit: 0.0,
            offsets: [0.0; 4],
            landmarks: Landmarks::default(),
        };
        let found = sift(&self.onet, &mut self.resizer, picture, candidate, self.settings.thresholds[2])?;
        Ok(found.map(|c| Candidate { bounding_box: shift(c.bounding_box, c.offsets, 1.0), ..c }.detection()))
    }

    /// Levels are examined side by side on all processors, as are the candidates after them: somebody may be waiting.
    fn propose(&mut self, picture: &RgbImage) -> Result<Vec<Candidate>, NetError> {
        let levels = pyramid(picture.width(), picture.height(), self.settings.min_face);
        self.plan_pnet(&levels)?;
        let on_level = |resizer: &mut Resizer, level: &Level| {
            let planes = resizer.planes(picture, Region::whole(picture), level.width, level.height);
            let output = self.plans[&(level.height, level.width)].run(planes)?;
            let found = read_map(output.values(), output.shape(), level.scale, logit(self.settings.thresholds[0]));
            Ok(suppress(found, 0.5, Overlap::Union))
        };
        let found: Vec<Vec<Candidate>> =
            levels.par_iter().map_init(Resizer::default, on_level).collect::<Result<_, NetError>>()?;
        let kept = suppress(found.concat(), SAME_FACE, Overlap::Union);
        Ok(kept
            .into_iter()
            .map(|c| Candidate { bounding_box: square(shift(c.bounding_box, c.offsets, 0.0)), ..c })
            .collect())
    }

    fn plan_pnet(&mut self, levels: &[Level]) -> Result<(), NetError> {
        if self.plans.len() + levels.len() > PLANS_KEPT {
            self.plans.retain(|&size, _| levels.iter().any(|level| (level.height, level.width) == size));
        }
        for &Level { height, width, .. } in levels {
            if !self.plans.contains_key(&(height, width)) {
                self.plans.insert((height, width), self.pnet.plan(height, width)?);
            }
        }
        Ok(())
    }

    fn refine(&self, picture: &RgbImage, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, NetError> {
        let passed = sift_all(&self.rnet, picture, candidates, self.settings.thresholds[1])?;
        let kept = suppress(passed, SAME_FACE, Overlap::Union);
        Ok(kept
            .into_iter()
            .map(|c| Candidate { bounding_box: square(shift(c.bounding_box, c.offsets, 1.0)), ..c })
            .collect())
    }

    fn output(&self, picture: &RgbImage, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, NetError> {
        let passed = sift_all(&self.onet, picture, candidates, self.settings.thresholds[2])?;
        let corrected = passed
            .into_iter()
            .map(|c| Candidate { bounding_box: shift(c.bounding_box, c.offsets, 1.0), ..c })
            .collect();
        Ok(suppress(corrected, 0.7, Overlap::Smaller))
    }
}

impl Candidate {
    fn detection(self) -> Detection {
        Detection { bounding_box: self.bounding_box, score: probability(self.logit), landmarks: self.landmarks }
    }
}

/// One level of the pyramid.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    /// Size of this level against the picture.
    scale: f64,
    width: usize,
    height: usize,
}

/// The levels, from the one in which the smallest face fills P-Net's window down to the one that is itself no larger than the window.
fn pyramid(width: u32, height: u32, min_face: f32) -> Vec<Level> {
    let window = f64::from(PNET_WINDOW);
    let first = window / f64::from(min_face);
    std::iter::successors(Some(first), |scale| Some(scale * PYRAMID_FACTOR))
        .take_while(|scale| f64::from(width.min(height)) * scale >= window)
        .map(|scale| Level {
            scale,
            width: (f64::from(width) * scale + 1.0) as usize,
            height: (f64::from(height) * scale + 1.0) as usize,
        })
        .collect()
}

/// Reads P-Net's map: channel 0 is the face's logit, 1 to 4 are the box's corrections.
fn read_map(values: &[f32], shape: &[usize], scale: f64, threshold: f32) -> Vec<Candidate> {
    let &[_, _, rows, columns] = shape else { return Vec::new() };
    let at = |channel: usize, index: usize| values[channel * rows * columns + index];
    let in_picture = |position: f32| (f64::from(position) / scale).floor() as f32;
    (0..rows * columns)
        .filter(|&index| at(0, index) >= threshold)
        .map(|index| {
            let (x, y) = ((index % columns) as f32 * PNET_STRIDE, (index / columns) as f32 * PNET_STRIDE);
            Candidate {
                bounding_box: BoundingBox {
                    x1: in_picture(x + 1.0),
                    y1: in_picture(y + 1.0),
                    x2: in_picture(x + PNET_WINDOW),
                    y2: in_picture(y + PNET_WINDOW),
                },
                logit: at(0, index),
                offsets: [at(1, index), at(2, index), at(3, index), at(4, index)],
                landmarks: Landmarks::default(),
            }
        })
        .collect()
}

/// Those of the candidates that R- or O-Net lets pass, in their order.
fn sift_all(
    net: &Net,
    picture: &RgbImage,
    candidates: Vec<Candidate>,
    threshold: f32,
) -> Result<Vec<Candidate>, NetError> {
    let sifted: Vec<Option<Candidate>> = candidates
        .into_par_iter()
        .map_init(Resizer::default, |resizer, candidate| sift(net, resizer, picture, candidate, threshold))
        .collect::<Result<_, _>>()?;
    Ok(sifted.into_iter().flatten().collect())
}

/// Runs R- or O-Net on a candidate's crop: the candidate with the net's own score, corrections and landmarks, if it is above the threshold.
fn sift(
    net: &Net,
    resizer: &mut Resizer,
    picture: &RgbImage,
    candidate: Candidate,
    threshold: f32,
) -> Result<Option<Candidate>, NetError> {
    let (height, width) = net.input();
    let Some((region, target)) = crop_region(picture, candidate.bounding_box, (width, height)) else {
        return Ok(None);
    };
    let output = net.run(resizer.planes_in(picture, region, target, width, height))?;
    let answer = output.values();
    if answer[0] <= logit(threshold) {
        return Ok(None);
    }
    let offsets = [answer[1], answer[2], answer[3], answer[4]];
    let landmarks = answer.get(5..15).map_or_else(Landmarks::default, |points| place(points, candidate.bounding_box));
    Ok(Some(Candidate { logit: answer[0], offsets, landmarks, ..candidate }))
}

/// The whole pixels of a box within the picture, and where they lie in a crop of `width` × `height` of the whole box;
/// None where nothing of the box is in the picture.
///
/// What lies outside is black, as in the original. Ports of it stretch the part inside over the whole crop instead: the
/// landmarks of a face at the picture's edge then move the same way for all faces cut alike, and so these match.
fn crop_region(picture: &RgbImage, b: BoundingBox, (width, height): (usize, usize)) -> Option<(Region, Region)> {
    let (x, columns) = crop_span(b.x1, b.x2, picture.width(), width)?;
    let (y, rows) = crop_span(b.y1, b.y2, picture.height(), height)?;
    let region = |x: (u32, u32), y: (u32, u32)| Region { x: x.0, y: y.0, width: x.1, height: y.1 };
    Some((region(x, y), region(columns, rows)))
}

/// Along one axis: first pixel and number of pixels within the picture's `size`, and the same in the crop's `target`.
/// The edges count from 1, both inclusive.
fn crop_span(from: f32, to: f32, size: u32, target: usize) -> Option<((u32, u32), (u32, u32))> {
    let whole = |edge: f32| edge.clamp(-1e6, 1e6) as i64;
    let (from, to) = (whole(from), whole(to));
    let (first, last) = (from.max(1), to.min(i64::from(size)));
    if first > last {
        return None;
    }
    let in_crop = |pixel: i64| {
        let share = (pixel - from) as f64 / (to - from + 1) as f64;
        (share * target as f64).round() as u32
    };
    let (start, end) = (in_crop(first).min(target as u32 - 1), in_crop(last + 1));
    Some((((first - 1) as u32, (last - first + 1) as u32), (start, end.max(start + 1) - start)))
}

/// O-Net's landmarks, five x and five y as shares of the box, in pixels of the picture.
fn place(shares: &[f32], bounding_box: BoundingBox) -> Landmarks {
    let (width, height) = (bounding_box.width() + 1.0, bounding_box.height() + 1.0);
    Landmarks(std::array::from_fn(|i| Point {
        x: width * shares[i] + bounding_box.x1 - 1.0,
        y: height * shares[5 + i] + bounding_box.y1 - 1.0,
    }))
}

/// Moves each edge by its correction; `inclusive` is 1 where a box from 3 to 5 is three pixels wide.
fn shift(b: BoundingBox, [x1, y1, x2, y2]: [f32; 4], inclusive: f32) -> BoundingBox {
    let (width, height) = (b.width() + inclusive, b.height() + inclusive);
    BoundingBox { x1: b.x1 + x1 * width, y1: b.y1 + y1 * height, x2: b.x2 + x2 * width, y2: b.y2 + y2 * height }
}

/// The square around the same centre with the longer side.
fn square(b: BoundingBox) -> BoundingBox {
    let side = b.side();
    let (x1, y1) = (b.x1 + b.width() * 0.5 - side * 0.5, b.y1 + b.height() * 0.5 - side * 0.5);
    BoundingBox { x1, y1, x2: x1 + side, y2: y1 + side }
}

/// Non-maximum suppression: the most certain box stays, and those that overlap it by more than `limit` go; and so on with the rest.
fn suppress(mut candidates: Vec<Candidate>, limit: f32, overlap: Overlap) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.logit.total_cmp(&a.logit));
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.iter().all(|k| inclusive_overlap(k.bounding_box, candidate.bounding_box, overlap) <= limit) {
            kept.push(candidate);
        }
    }
    kept
}

/// Overlap of boxes whose edges are pixels of theirs.
fn inclusive_overlap(a: BoundingBox, b: BoundingBox, overlap: Overlap) -> f32 {
    let area = |b: BoundingBox| (b.width() + 1.0) * (b.height() + 1.0);
    let width = (a.x2.min(b.x2) - a.x1.max(b.x1) + 1.0).max(0.0);
    let height = (a.y2.min(b.y2) - a.y1.max(b.y1) + 1.0).max(0.0);
    let intersection = width * height;
    match overlap {
        Overlap::Union => intersection / (area(a) + area(b) - intersection),
        Overlap::Smaller => intersection / area(a).min(area(b)),
    }
}

fn probability(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

fn logit(probability: f32) -> f32 {
    (probability / (1.0 - probability)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate((x1, y1, w, h, logit): (f32, f32, f32, f32, f32)) -> Candidate {
        Candidate {
            bounding_box: BoundingBox { x1, y1, x2: x1 + w, y2: y1 + h },
            logit,
            offsets: [0.0; 4],
            landmarks: Landmarks::default(),
        }
    }

    /// Suppression by the book: take the best of what is left, strike out what overlaps it.
    fn naive_suppress(mut left: Vec<Candidate>, limit: f32, overlap: Overlap) -> Vec<f32> {
        let mut kept = Vec::new();
        while let Some(best) = (0..left.len()).max_by(|&a, &b| left[a].logit.total_cmp(&left[b].logit).then(b.cmp(&a)))
        {
            let best = left.remove(best);
            left.retain(|other| inclusive_overlap(best.bounding_box, other.bounding_box, overlap) <= limit);
            kept.push(best.logit);
        }
        kept
    }

    fn boxes() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0f32..50.0, 0f32..50.0, 1f32..30.0, 1f32..30.0, 0f32..1.0).prop_map(candidate);
        proptest::collection::vec(one, 0..40)
    }

    proptest! {
        #[test]
        fn suppression_does_as_the_naive_one(boxes in boxes(), limit in 0.1f32..0.9) {
            for overlap in [Overlap::Union, Overlap::Smaller] {
                let kept: Vec<f32> = suppress(boxes.clone(), limit, overlap).iter().map(|c| c.logit).collect();
                prop_assert_eq!(kept, naive_suppress(boxes.clone(), limit, overlap));
            }
        }

        #[test]
        fn squares_are_square_and_keep_their_centre(b in (0f32..500.0, 0f32..500.0, 1f32..300.0, 1f32..300.0, 0f32..1.0)) {
            let before = candidate(b).bounding_box;
            let after = square(before);
            prop_assert!((after.width() - after.height()).abs() < 1e-3 && (after.side() - before.side()).abs() < 1e-3);
            prop_assert!((after.center().x - before.center().x).abs() < 1e-2);
            prop_assert!((after.center().y - before.center().y).abs() < 1e-2);
        }

        #[test]
        fn crops_lie_within_the_picture(x1 in -1e6f32..1e6, y1 in -1e6f32..1e6, w in 0f32..1e6, h in 0f32..1e6) {
            let picture = RgbImage::new(64, 48);
            let whole = BoundingBox { x1, y1, x2: x1 + w, y2: y1 + h };
            if let Some((region, target)) = crop_region(&picture, whole, (24, 24)) {
                for (r, width, height) in [(region, 64, 48), (target, 24, 24)] {
                    prop_assert!(r.width >= 1 && r.height >= 1 && r.x + r.width <= width && r.y + r.height <= height);
                }
            }
        }
    }

    #[test]
    fn a_box_of_nan_has_no_crop_beyond_the_picture() {
        let nan = BoundingBox { x1: f32::NAN, y1: f32::NAN, x2: f32::NAN, y2: f32::NAN };
        assert_eq!(crop_region(&RgbImage::new(64, 48), nan, (24, 24)), None);
    }

    #[test]
    fn what_lies_outside_the_picture_is_black_in_a_crop() {
        let white = RgbImage::from_pixel(100, 100, image::Rgb([255; 3]));
        // Half of the box is above the picture, a quarter to the right of it.
        let beyond = BoundingBox { x1: 71.0, y1: -19.0, x2: 110.0, y2: 20.0 };
        let (region, target) = crop_region(&white, beyond, (24, 24)).unwrap();
        assert_eq!(region, Region { x: 70, y: 0, width: 30, height: 20 });
        assert_eq!(target, Region { x: 0, y: 12, width: 18, height: 12 });
        let mut resizer = Resizer::default();
        let red = &resizer.planes_in(&white, region, target, 24, 24)[..24 * 24];
        let is_white = |x: usize, y: usize| x < 18 && y >= 12;
        assert!((0..24 * 24).all(|at| (red[at] == 255.0) == is_white(at % 24, at / 24)));
    }

    #[test]
    fn the_pyramid_starts_at_the_smallest_face_and_ends_at_the_window() {
        let levels = pyramid(640, 480, 80.0);
        assert_eq!((levels[0].width, levels[0].height), (97, 73));
        assert!(levels.iter().all(|level| level.scale * 480.0 >= 12.0));
        assert!(levels.last().is_some_and(|level| level.scale * PYRAMID_FACTOR * 480.0 < 12.0));
        assert!(pyramid(79, 79, 80.0).is_empty(), "a picture smaller than the smallest face has no level");
    }

    #[test]
    fn the_map_is_read_where_the_original_reads_it() {
        // One cell above the threshold: row 1, column 2 of a 2 × 3 map.
        let mut values = vec![-9.0; 5 * 6];
        values[5] = 2.0;
        let found = read_map(&values, &[1, 5, 2, 3], 0.5, 0.4055);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].bounding_box, BoundingBox { x1: 10.0, y1: 6.0, x2: 32.0, y2: 28.0 });
    }
}
