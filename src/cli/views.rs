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
