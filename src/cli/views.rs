//! The views of a picture that a layer is trained on: what another day, another light or a worse camera might have made of the face.

use image::{
    RgbImage,
    imageops::{self, FilterType},
};

use crate::{
    eval::collection,
    triplet::Random,
    vision::{Vision, align::AlignedFace, geometry::Detection},
};

/// The face as it is, its mirror image, and two of each that are made different; the first two are what the program measures on.
pub(super) const VIEWS: usize = 6;

/// How far each landmark is moved, as a share of the distance of the eyes (standard deviation).
const MOVED: f32 = 0.04;
/// Brightness is multiplied, and its curve bent, by e to the power of a normally distributed number with this standard deviation.
const LIGHT: f32 = 0.25;
/// At most so much noise is added, in grey levels (standard deviation).
const NOISE: f32 = 6.0;
/// The picture of the face has at least this share of the pixels along a side that it should have, blurred accordingly.
const COARSEST: f32 = 0.2;

/// Says which views these are, so that features kept from others are told apart.
pub(super) fn recipe() -> String {
    format!("{VIEWS} views: {MOVED} {LIGHT} {NOISE} {COARSEST}")
}

/// The embedder's features of the views of a picture's main face; None when there is no face.
///
/// # Errors
/// A net failed.
pub(super) fn features(
    vision: &mut Vision,
    picture: &RgbImage,
    random: &mut Random,
) -> Result<Option<[Vec<f32>; VIEWS]>, String> {
    let Some(face) = collection::main_face(vision, picture)? else { return Ok(None) };
    let cut_out = |face: &Detection| vision.look(picture, face).map(|(_, aligned)| aligned);
    let Some(aligned) = cut_out(&face) else { return Ok(None) };
    // Landmarks so near to each other that a small move makes them degenerate are left where they are.
    let mut moved = || cut_out(&moved(face, random)).unwrap_or_else(|| aligned.clone());
    let [first, second, third, fourth] = std::array::from_fn(|_| moved());
    let views = [
        aligned.clone(),
        aligned.mirrored(),
        first,
        second.mirrored(),
        spoilt(&third, random),
        spoilt(&fourth, random).mirrored(),
    ];
    let mut features = [const { Vec::new() }; VIEWS];
    for (features, view) in features.iter_mut().zip(&views) {
        *features = vision.embedder().features(view).map_err(|error| error.to_string())?;
    }
    Ok(Some(features))
}

/// The face with landmarks that a detector might have found as well.
fn moved(mut face: Detection, random: &mut Random) -> Detection {
    let [left, right, ..] = face.landmarks.0;
    let far = MOVED * (left.x - right.x).hypot(left.y - right.y);
    for point in &mut face.landmarks.0 {
        point.x += far * random.normal();
        point.y += far * random.normal();
    }
    face
}

/// The face as a camera with fewer pixels, more noise and another exposure shows it.
fn spoilt(AlignedFace(face): &AlignedFace, random: &mut Random) -> AlignedFace {
    let share = COARSEST + (1.0 - COARSEST) * random.share();
    let [width, height] = [face.width(), face.height()].map(|side| (side as f32 * share).ceil() as u32);
    let coarse = imageops::resize(face, width, height, FilterType::Triangle);
    let mut face = imageops::resize(&coarse, face.width(), face.height(), FilterType::Triangle);
    let [gain, bend] = [(); 2].map(|()| (LIGHT * random.normal()).exp());
    let noise = NOISE * random.share();
    for value in face.iter_mut() {
        let light = (f32::from(*value) / 255.0 * gain).min(1.0).powf(bend) * 255.0;
        *value = (light + noise * random.normal() + 0.5).clamp(0.0, 255.0) as u8;
    }
    AlignedFace(face)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::geometry::{BoundingBox, Landmarks, Point};
    use image::Rgb;

    fn mean_change(a: &AlignedFace, b: &AlignedFace) -> f32 {
        let changes = a.0.iter().zip(b.0.iter()).map(|(a, b)| f32::from(a.abs_diff(*b)));
        changes.sum::<f32>() / a.0.len() as f32
    }

    #[test]
    fn a_spoilt_face_is_another_but_the_same_from_the_same_seed() {
        let face = AlignedFace(RgbImage::from_fn(150, 150, |x, y| Rgb([x as u8, y as u8, (x / 8 % 2 * 200) as u8])));
        for seed in 0..20 {
            let spoilt = |seed| spoilt(&face, &mut Random::new(seed));
            let change = mean_change(&spoilt(seed), &face);
            assert!((1.0..90.0).contains(&change), "seed {seed}: {change}");
            assert_eq!(spoilt(seed), spoilt(seed));
            assert_ne!(spoilt(seed), spoilt(seed + 1));
        }
    }

    #[test]
    fn landmarks_move_by_a_share_of_the_eyes_distance() {
        let points = [(100.0, 100.0), (200.0, 100.0), (150.0, 160.0), (110.0, 210.0), (190.0, 210.0)];
        let landmarks = Landmarks(points.map(|(x, y)| Point { x, y }));
        let face = Detection { bounding_box: BoundingBox::default(), score: 1.0, landmarks };
        let mut random = Random::new(3);
        let mut squares = 0.0;
        for _ in 0..200 {
            let moved = moved(face, &mut random);
            let pairs = moved.landmarks.0.iter().zip(&landmarks.0);
            squares += pairs.map(|(a, b)| (a.x - b.x).powi(2) + (a.y - b.y).powi(2)).sum::<f32>();
        }
        let deviation = (squares / 2000.0).sqrt();
        assert!((deviation - 100.0 * MOVED).abs() < 0.3, "{deviation}");
    }
}
