//! From a detection to the fixed picture of a face that an embedder was trained on.

use image::{Rgb, RgbImage};

use super::{
    geometry::{Detection, Landmarks, Point},
    manifest::AlignmentEntry,
};

/// Below this scale bilinear sampling would skip pixels, so the picture is averaged over blocks first.
const SMOOTHED_BELOW: f64 = 0.6;

/// Landmarks are taken to this fraction of a pixel, a tenth of what O-Net is sure of: the same face then gives the same pixels, bit for
/// bit, on every processor, however its floating-point sums are ordered. Embeddings in integer arithmetic need that: one
/// grey level in one pixel may be amplified to a distance of 0.02.
const LANDMARK_GRID: f32 = 8.0;

/// A face cut out, turned and scaled as an embedder wants it: 8-bit RGB, exactly the net's input size.
#[derive(Clone, Debug, PartialEq)]
pub struct AlignedFace(pub RgbImage);

impl AlignedFace {
    /// Left and right exchanged.
    pub fn mirrored(&self) -> AlignedFace {
        AlignedFace(image::imageops::flip_horizontal(&self.0))
    }
}

/// A similarity transform (turn, scale, shift; no mirroring): `x' = a·x − b·y + tx`, `y' = b·x + a·y + ty`, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    pub a: f64,
    pub b: f64,
    pub tx: f64,
    pub ty: f64,
}

impl Similarity {
    /// The transform that brings `from` onto `to` with the least sum of weighted squared distances
    /// (Umeyama 1991, eq. 40–42, for the plane, where it has this closed form without a decomposition).
    ///
    /// None when all points coincide or are not finite: there is no scale then.
    pub fn fit(from: &[Point; 5], to: &[Point; 5], weights: &[f32; 5]) -> Option<Similarity> {
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mean = |points: &[Point; 5]| {
            let sums = points.iter().zip(weights).fold((0.0, 0.0), |(x, y), (p, &w)| {
                (x + f64::from(w) * f64::from(p.x), y + f64::from(w) * f64::from(p.y))
            });
            (sums.0 / total, sums.1 / total)
        };
        let ((fx, fy), (gx, gy)) = (mean(from), mean(to));
        let (mut along, mut across, mut spread) = (0.0, 0.0, 0.0);
        for ((f, g), &weight) in from.iter().zip(to).zip(weights) {
            let (x, y) = (f64::from(f.x) - fx, f64::from(f.y) - fy);
            let (u, v) = (f64::from(g.x) - gx, f64::from(g.y) - gy);
            let weight = f64::from(weight);
            along += weight * (x * u + y * v);
            across += weight * (x * v - y * u);
            spread += weight * (x * x + y * y);
        }
        let (a, b) = (along / spread, across / spread);
        let fitted = Similarity { a, b, tx: gx - a * fx + b * fy, ty: gy - b * fx - a * fy };
        let usable = [fitted.a, fitted.b, fitted.tx, fitted.ty].iter().all(|v| v.is_finite()) && fitted.scale() > 1e-6;
        usable.then_some(fitted)
    }

    /// Length in the result of one pixel of the source.
    pub fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }

    pub fn apply(&self, x: f64, y: f64) -> (f64, f64) {
        (self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty)
    }

    /// The way back.
    pub fn inverse(&self) -> Similarity {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Similarity { a, b, tx: -(a * self.tx - b * self.ty), ty: -(b * self.tx + a * self.ty) }
    }
}

/// Cuts a face out for an embedder whose input is `width` × `height` pixels.
///
/// None when the landmarks or the box are degenerate: such a detection is no face to decide on.
pub fn align(
    picture: &RgbImage,
    detection: &Detection,
    alignment: &AlignmentEntry,
    (width, height): (u32, u32),
) -> Option<AlignedFace> {
    match alignment {
        AlignmentEntry::FivePoints { weights, .. } => {
            let on_grid = |point: Point| Point { x: snapped(point.x), y: snapped(point.y) };
            let fitted = Similarity::fit(&detection.landmarks.0.map(on_grid), &alignment.points()?, weights)?;
            Some(AlignedFace(warp(picture, &fitted, width, height)))
        }
        AlignmentEntry::Box { box_margin, square } => {
            let face = detection.bounding_box;
            let sides = if *square { [face.side(); 2] } else { [face.x2 - face.x1, face.y2 - face.y1] };
            crop(picture, face.center(), sides.map(|side| side * (1.0 + box_margin)), (width, height))
        }
    }
}

fn snapped(position: f32) -> f32 {
    (position * LANDMARK_GRID).round() / LANDMARK_GRID
}

/// The picture seen through `transform`: bilinear, black outside, pixel centres at whole numbers; averaged over blocks of
/// whole pixels beforehand where it shrinks strongly.
fn warp(picture: &RgbImage, transform: &Similarity, width: u32, height: u32) -> RgbImage {
    let back = transform.inverse();
    let block = if transform.scale() < SMOOTHED_BELOW { (1.0 / transform.scale()).floor() as u32 } else { 1 };
    if block == 1 || picture.width() < block || picture.height() < block {
        return RgbImage::from_fn(width, height, |x, y| {
            let (u, v) = back.apply(f64::from(x), f64::from(y));
            bilinear(picture, u, v)
        });
    }
    // In blocks, counted from the picture's first: where a pixel of the result lies, and the blocks that the result needs.
    let place = |x: u32, y: u32| {
        let (u, v) = back.apply(f64::from(x), f64::from(y));
        let offset = f64::from(block - 1) / 2.0;
        ((u - offset) / f64::from(block), (v - offset) / f64::from(block))
    };
    let corners = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)].map(|(x, y)| place(x, y));
    let span = |of: fn(&(f64, f64)) -> f64, blocks: u32| {
        let (least, most) = corners.iter().map(of).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        let within = |value: f64| value.clamp(0.0, f64::from(blocks)) as u32;
        (within(least.floor()), within(most.floor() + 2.0))
    };
    let (columns, rows) = (span(|at| at.0, picture.width() / block), span(|at| at.1, picture.height() / block));
    let averaged = block_means(picture, block, columns, rows);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = place(x, y);
        bilinear(&averaged, u - f64::from(columns.0), v - f64::from(rows.0))
    })
}

/// Means of blocks of `block` × `block` pixels, of a range of columns and rows of such blocks.
fn block_means(picture: &RgbImage, block: u32, columns: (u32, u32), rows: (u32, u32)) -> RgbImage {
    let count = (block * block) as f32;
    RgbImage::from_fn(columns.1 - columns.0, rows.1 - rows.0, |x, y| {
        let (x, y) = (columns.0 + x, rows.0 + y);
        let mut sums = [0u32; 3];
        for (v, u) in (0..block).flat_map(|v| (0..block).map(move |u| (v, u))) {
            let pixel = picture.get_pixel(x * block + u, y * block + v);
            (0..3).for_each(|channel| sums[channel] += u32::from(pixel[channel]));
        }
        Rgb(sums.map(|sum| (sum as f32 / count + 0.5).floor() as u8))
    })
}

fn bilinear(picture: &RgbImage, x: f64, y: f64) -> Rgb<u8> {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, bottom_share) = (x - left, y - top);
    let shares = [
        (1.0 - right_share) * (1.0 - bottom_share),
        right_share * (1.0 - bottom_share),
        (1.0 - right_share) * bottom_share,
        right_share * bottom_share,
    ];
    let (width, height) = (f64::from(picture.width()), f64::from(picture.height()));
    let inside = left >= 0.0 && top >= 0.0 && left + 1.0 < width && top + 1.0 < height;
    let pixels = if inside {
        let at = (top as usize * picture.width() as usize + left as usize) * 3;
        let (upper, lower) = (&picture.as_raw()[at..], &picture.as_raw()[at + picture.width() as usize * 3..]);
        let pixel = |row: &[u8], at: usize| [row[at], row[at + 1], row[at + 2]];
        [pixel(upper, 0), pixel(upper, 3), pixel(lower, 0), pixel(lower, 3)]
    } else {
        let place = |dx: f64, dy: f64| {
            let (x, y) = (left + dx, top + dy);
            let seen = (0.0..width).contains(&x) && (0.0..height).contains(&y);
            if seen { picture.get_pixel(x as u32, y as u32).0 } else { [0; 3] }
        };
        [place(0.0, 0.0), place(1.0, 0.0), place(0.0, 1.0), place(1.0, 1.0)]
    };
    let mut sums = [0.0f64; 3];
    for (share, pixel) in shares.iter().zip(pixels) {
        (0..3).for_each(|channel| sums[channel] += share * f64::from(pixel[channel]));
    }
    // Within 0 to 255: a mean.
    Rgb(sums.map(|sum| (sum + 0.5) as u8))
}

/// What lies in the picture of a rectangle of these sides around `center`, scaled to `width` × `height`.
///
/// The edges are cut to whole pixels and the scaling is Pillow's bilinear one, as in facenet-pytorch's `extract_face`.
fn crop(picture: &RgbImage, center: Point, sides: [f32; 2], (width, height): (u32, u32)) -> Option<AlignedFace> {
    let span = |center: f32, side: f32, most: u32| {
        let within = |edge: f32| edge.clamp(0.0, most as f32) as u32;
        let (from, to) = (within(center - side / 2.0), within(center + side / 2.0));
        (to > from && side.is_finite()).then_some((from, to - from))
    };
    let columns = triangle(span(center.x, sides[0], picture.width())?, width);
    let rows = triangle(span(center.y, sides[1], picture.height())?, height);
    let (first, last) = (rows.first()?.0, rows.iter().map(|(from, weights)| from + weights.len() as u32).max()?);
    let sum = |(from, weights): &(u32, Vec<f64>), pixel: &dyn Fn(u32) -> Rgb<u8>| {
        let taps = || weights.iter().zip(*from..).map(|(weight, at)| (weight, pixel(at)));
        Rgb([0, 1, 2].map(|channel| (taps().map(|(w, p)| w * f64::from(p[channel])).sum::<f64>() + 0.5) as u8))
    };
    let narrowed = RgbImage::from_fn(width, last - first, |x, y| {
        sum(&columns[x as usize], &|at| *picture.get_pixel(at, first + y))
    });
    Some(AlignedFace(RgbImage::from_fn(width, height, |x, y| {
        sum(&rows[y as usize], &|at| *narrowed.get_pixel(x, at - first))
    })))
}

/// For each of `target` pixels that the `count` pixels from `first` on are scaled to: the first source pixel that counts, and
/// how much it and those after it count. A triangle as wide as two pixels of source or target, whichever are larger.
fn triangle((first, count): (u32, u32), target: u32) -> Vec<(u32, Vec<f64>)> {
    let ratio = f64::from(count) / f64::from(target);
    let reach = ratio.max(1.0);
    let one = |i: u32| {
        let middle = (f64::from(i) + 0.5) * ratio;
        let from = (middle - reach + 0.5).max(0.0) as u32;
        let to = ((middle + reach + 0.5) as u32).min(count);
        let weight = |at: u32| (1.0 - ((f64::from(at) + 0.5 - middle) / reach).abs()).max(0.0);
        let total: f64 = (from..to).map(weight).sum();
        (first + from, (from..to).map(|at| weight(at) / total).collect())
    };
    (0..target).map(one).collect()
}

/// How far the head is turned to a side or tilted up or down, 0 (straight) to 1 (profile): where the nose tip lies between
/// the eyes, and between the line of the eyes and that of the mouth, against a straight face.
pub fn turn(landmarks: &Landmarks) -> f32 {
    let [left_eye, right_eye, nose, left_mouth, right_mouth] = landmarks.0;
    let middle = |a: Point, b: Point| Point { x: (a.x + b.x) / 2.0, y: (a.y + b.y) / 2.0 };
    let (eyes, mouth) = (middle(left_eye, right_eye), middle(left_mouth, right_mouth));
    let axis = Point { x: right_eye.x - left_eye.x, y: right_eye.y - left_eye.y };
    let eye_distance = axis.x.hypot(axis.y);
    // Sideways: the nose's offset along the eyes' line from the middle of eyes and mouth; half an eye distance is a profile.
    let center = middle(eyes, mouth);
    let sideways = ((nose.x - center.x) * axis.x + (nose.y - center.y) * axis.y) / eye_distance / (eye_distance / 2.0);
    // Up and down: the nose's share of the way from eyes to mouth, about 0.55 on a straight face.
    let down = Point { x: mouth.x - eyes.x, y: mouth.y - eyes.y };
    let length = down.x.hypot(down.y);
    let share = ((nose.x - eyes.x) * down.x + (nose.y - eyes.y) * down.y) / (length * length);
    let turn = sideways.abs().max((share - 0.55).abs() / 0.55);
    // Degenerate points give NaN or infinity: as bad as a profile.
    if turn.is_finite() { turn.min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::{super::geometry::BoundingBox, *};
    use proptest::prelude::*;

    const TEMPLATE: [Point; 5] = [
        Point { x: 48.55, y: 46.66 },
        Point { x: 102.36, y: 46.73 },
        Point { x: 75.34, y: 78.50 },
        Point { x: 51.81, y: 105.40 },
        Point { x: 98.99, y: 105.65 },
    ];
    const WEIGHTS: [f32; 5] = [1.0, 1.0, 0.12, 0.15, 0.15];

    fn error(fitted: &Similarity, from: &[Point; 5]) -> f64 {
        from.iter()
            .zip(&TEMPLATE)
            .zip(&WEIGHTS)
            .map(|((f, t), &w)| {
                let (x, y) = fitted.apply(f64::from(f.x), f64::from(f.y));
                f64::from(w) * ((x - f64::from(t.x)).powi(2) + (y - f64::from(t.y)).powi(2))
            })
            .sum()
    }

    fn points() -> impl Strategy<Value = [Point; 5]> {
        proptest::array::uniform5((0f32..600.0, 0f32..400.0)).prop_map(|five| five.map(|(x, y)| Point { x, y }))
    }

    proptest! {
        #[test]
        fn no_nearby_similarity_fits_better(from in points(), da in -1e-3f64..1e-3, db in -1e-3f64..1e-3, dt in -0.5f64..0.5) {
            if let Some(best) = Similarity::fit(&from, &TEMPLATE, &WEIGHTS) {
                let other = Similarity { a: best.a + da, b: best.b + db, tx: best.tx + dt, ty: best.ty - dt };
                prop_assert!(error(&best, &from) <= error(&other, &from) + 1e-6);
            }
        }

        #[test]
        fn a_similarity_is_found_again(angle in -3f64..3.0, scale in 0.05f64..20.0, tx in -300f64..300.0, ty in -300f64..300.0) {
            let truth = Similarity { a: scale * angle.cos(), b: scale * angle.sin(), tx, ty };
            let moved = TEMPLATE.map(|p| {
                let (x, y) = truth.inverse().apply(f64::from(p.x), f64::from(p.y));
                Point { x: x as f32, y: y as f32 }
            });
            let fitted = Similarity::fit(&moved, &TEMPLATE, &WEIGHTS).unwrap();
            prop_assert!((fitted.scale() / scale - 1.0).abs() < 1e-2);
            prop_assert!(error(&fitted, &moved) < 1e-2);
        }

        #[test]
        fn there_and_back_is_where_it_was(a in -3f64..3.0, b in 0.1f64..3.0, x in -100f64..100.0, y in -100f64..100.0) {
            let there = Similarity { a, b, tx: 5.0, ty: -7.0 };
            let (u, v) = there.apply(x, y);
            let (p, q) = there.inverse().apply(u, v);
            prop_assert!((p - x).abs() < 1e-6 && (q - y).abs() < 1e-6);
        }
    }

    #[test]
    fn coinciding_points_have_no_alignment() {
        assert_eq!(Similarity::fit(&[Point { x: 3.0, y: 3.0 }; 5], &TEMPLATE, &WEIGHTS), None);
        assert_eq!(Similarity::fit(&[Point { x: f32::NAN, y: 3.0 }; 5], &TEMPLATE, &WEIGHTS), None);
    }

    #[test]
    fn a_picture_already_aligned_stays_as_it_is_and_beyond_it_is_black() {
        let picture = RgbImage::from_fn(150, 150, |x, y| Rgb([x as u8, y as u8, 77]));
        let detection = Detection { bounding_box: BoundingBox::default(), score: 1.0, landmarks: Landmarks(TEMPLATE) };
        let alignment = AlignmentEntry::FivePoints { points: TEMPLATE.map(|p| [p.x, p.y]), weights: WEIGHTS };
        let AlignedFace(face) = align(&picture, &detection, &alignment, (160, 150)).unwrap();
        let off = |x, y| (i32::from(face.get_pixel(x, y)[0]) - x as i32).abs();
        assert!((1..149).all(|i| off(i, 75) <= 1 && off(i, i) <= 1));
        assert_eq!(face.get_pixel(155, 75), &Rgb([0, 0, 0]));
    }

    fn cut_out(picture: &RgbImage, edges: [f32; 4], box_margin: f32, square: bool) -> Option<RgbImage> {
        let [x1, y1, x2, y2] = edges;
        let bounding_box = BoundingBox { x1, y1, x2, y2 };
        let detection = Detection { bounding_box, score: 1.0, landmarks: Landmarks::default() };
        align(picture, &detection, &AlignmentEntry::Box { box_margin, square }, (40, 40)).map(|AlignedFace(face)| face)
    }

    #[test]
    fn a_box_is_made_square_or_stretched() {
        // Columns are told apart by red, rows by green.
        let picture = RgbImage::from_fn(200, 200, |x, y| Rgb([x as u8, y as u8, 0]));
        // 40 wide, 80 high around (100, 100): square it reaches from 60 to 140 both ways, stretched from 80 to 120 across.
        let square = cut_out(&picture, [80.0, 60.0, 120.0, 140.0], 0.0, true).unwrap();
        let stretched = cut_out(&picture, [80.0, 60.0, 120.0, 140.0], 0.0, false).unwrap();
        let wide = cut_out(&picture, [80.0, 60.0, 120.0, 140.0], 0.5, false).unwrap();
        let corners = |face: &RgbImage| [face.get_pixel(0, 0), face.get_pixel(39, 39)].map(|p| [p[0], p[1]]);
        assert_eq!(corners(&square), [[61, 61], [138, 138]]);
        assert_eq!(corners(&stretched), [[80, 61], [119, 138]]);
        assert_eq!(corners(&wide), [[70, 41], [129, 158]]);
    }

    #[test]
    fn a_box_beyond_the_picture_is_cut_and_one_that_is_nowhere_is_no_face() {
        let picture = RgbImage::from_pixel(100, 100, Rgb([9, 90, 200]));
        let half = cut_out(&picture, [-50.0, -50.0, 50.0, 50.0], 0.2, false).unwrap();
        assert!(half.pixels().all(|pixel| *pixel == Rgb([9, 90, 200])));
        for nowhere in
            [[-50.0, 0.0, -20.0, 30.0], [10.0, 10.0, 10.0, 10.0], [f32::NAN; 4], [0.0, 0.0, f32::INFINITY, 9.0]]
        {
            assert!(cut_out(&picture, nowhere, 0.1, false).is_none(), "{nowhere:?}");
        }
    }

    proptest! {
        #[test]
        fn the_triangles_weights_sum_to_1_and_stay_inside(first in 0u32..500, count in 1u32..400, target in 1u32..200) {
            for (from, weights) in triangle((first, count), target) {
                prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                prop_assert!(from >= first && from + weights.len() as u32 <= first + count);
            }
        }
    }

    #[test]
    fn strong_shrinking_averages_instead_of_skipping() {
        // A checkerboard of single pixels, shrunk to a fifth, is grey; sampling alone would give black and white.
        let picture = RgbImage::from_fn(500, 500, |x, y| Rgb([if (x + y) % 2 == 0 { 255 } else { 0 }; 3]));
        let face = warp(&picture, &Similarity { a: 0.2, b: 0.0, tx: 0.0, ty: 0.0 }, 90, 90);
        // The outermost pixels reach beyond the edge, where it is black.
        let inner = (1..89).flat_map(|y| (1..89).map(move |x| (x, y)));
        assert!(inner.into_iter().all(|(x, y)| (100..156).contains(&face.get_pixel(x, y)[0])));
    }

    proptest! {
        #[test]
        fn shrinking_sees_the_blocks_of_the_whole_picture(
            angle in -3f64..3.0, scale in 0.1f64..0.59, tx in -60f64..60.0, ty in -60f64..60.0
        ) {
            let picture = RgbImage::from_fn(97, 83, |x, y| Rgb([((x * 7919) ^ (y * 104_729)) as u8, x as u8, y as u8]));
            let transform = Similarity { a: scale * angle.cos(), b: scale * angle.sin(), tx, ty };
            let block = (1.0 / scale).floor() as u32;
            let whole = block_means(&picture, block, (0, 97 / block), (0, 83 / block));
            let (back, offset) = (transform.inverse(), f64::from(block - 1) / 2.0);
            let expected = RgbImage::from_fn(30, 20, |x, y| {
                let (u, v) = back.apply(f64::from(x), f64::from(y));
                bilinear(&whole, (u - offset) / f64::from(block), (v - offset) / f64::from(block))
            });
            prop_assert_eq!(warp(&picture, &transform, 30, 20), expected);
        }
    }

    #[test]
    fn a_straight_face_is_not_turned_and_a_profile_is() {
        let mut face = Landmarks(TEMPLATE);
        assert!(turn(&face) < 0.1, "{}", turn(&face));
        face.0[2].x = face.0[1].x;
        assert!(turn(&face) > 0.9, "{}", turn(&face));
        face.0[2] = TEMPLATE[2];
        face.0[2].y = face.0[3].y;
        assert!(turn(&face) > 0.5);
        assert_eq!(turn(&Landmarks::default()), 1.0);
    }
}
