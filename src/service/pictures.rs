//! Pictures from files: who is on one, and reading one for enrolment.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
};

use image::{RgbImage, imageops};

use super::{Services, quality_limits, why_not};
use crate::{
    api::IdentifiedFace,
    enroll::{FaceReader, Refusal, decode_picture},
    vision::{
        Face, Vision, VisionError, embed::Embedding, geometry::Detection, model::ModelId, mtcnn::MtcnnSettings,
        pixels::turned, quality::QualityLimits,
    },
};

/// Of several faces in a picture dropped for enrolment, those smaller than this share of the largest are passers-by.
const BACKGROUND_FACE: f32 = 0.4;
/// A face in such a picture is looked for down to this share of its longer side, whatever its resolution.
const SMALLEST_SHARE: f32 = 1.0 / 16.0;

/// A face this certain is upright. Faces that lie on their side or head reach .998 (make hidden), those upright nearly always 1.
const UPRIGHT: f32 = 0.999;
/// Pictures are turned with their longer side at most this long: faces keep 128 pixels, memory stays small.
const TURNED_SIDE: u32 = 2048;

/// The faces of a picture, the largest first, and the picture turned so that they are upright.
///
/// The detector finds some faces that lie on their side or head, with landmarks it invented. So the other turns are tried
/// unless the largest face is beyond doubt, and the turn in which it is the most certain is taken.
fn upright<'a>(vision: &Vision, picture: &'a RgbImage) -> Result<(Cow<'a, RgbImage>, Vec<Detection>), VisionError> {
    let thresholds = vision.settings().thresholds;
    let detect = |picture: &RgbImage| -> Result<Vec<Detection>, VisionError> {
        let mut faces = vision.with_settings(picture_settings(picture, thresholds)).detect(picture)?;
        faces.sort_by(|a, b| b.bounding_box.side().total_cmp(&a.bounding_box.side()));
        Ok(faces)
    };
    let certainty = |faces: &[Detection]| faces.first().map_or(0.0, |face| face.score);
    let mut best = (Cow::Borrowed(picture), detect(picture)?);
    if certainty(&best.1) < UPRIGHT {
        let smaller = reduced(picture);
        for degrees in [90, 180, 270] {
            let turned = turned(&smaller, degrees);
            let faces = detect(&turned)?;
            if certainty(&faces) > certainty(&best.1) {
                best = (Cow::Owned(turned), faces);
            }
        }
    }
    Ok(best)
}

/// The picture with its longer side at most [`TURNED_SIDE`].
fn reduced(picture: &RgbImage) -> Cow<'_, RgbImage> {
    let longer = picture.width().max(picture.height());
    if longer <= TURNED_SIDE {
        return Cow::Borrowed(picture);
    }
    let side = |pixels: u32| (u64::from(pixels) * u64::from(TURNED_SIDE) / u64::from(longer)).max(1) as u32;
    Cow::Owned(imageops::thumbnail(picture, side(picture.width()), side(picture.height())))
}

fn picture_settings(picture: &RgbImage, thresholds: [f32; 3]) -> MtcnnSettings {
    let longer = picture.width().max(picture.height()) as f32;
    MtcnnSettings { min_face: (longer * SMALLEST_SHARE).max(24.0), thresholds }
}

impl Services {
    /// Faces of a picture with everything that was considered about them, the largest first.
    ///
    /// # Errors
    /// The picture cannot be read, or a net failed.
    pub fn identify(&self, picture: &[u8]) -> Result<Vec<IdentifiedFace>, Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::Failed(error.to_string());
        let decoded = decode_picture(picture, self.config.enroll.max_megapixels)?;
        let (picture, step) = (&decoded.picture, decoded.step);
        let mut vision = self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        vision = vision.with_settings(picture_settings(picture, self.config.detection.thresholds));
        let mut faces = vision.faces(picture).map_err(|error| failed(&error))?;
        faces.sort_by(|a, b| b.detection.bounding_box.side().total_cmp(&a.detection.bounding_box.side()));
        let (roster, limits) = (self.roster(), quality_limits(&self.config.detection, self.config.enroll.min_face));
        let describe = |face: Face| {
            let matched = roster.gallery.search(&face.embedding);
            let why_not = why_not(&self.rules, &roster, face.quality.check(&limits), matched);
            let b = face.detection.bounding_box;
            IdentifiedFace {
                bounding_box: [b.x1, b.y1, b.x2, b.y2].map(|pixel| pixel * step),
                landmarks: face.detection.landmarks.0.map(|p| [p.x * step, p.y * step]),
                score: face.detection.score,
                person: matched.filter(|_| why_not.is_none()).map(|m| roster.name(m.person)),
                why_not,
                nearest: matched.map(|m| roster.name(m.person)),
                distance: matched.map(|m| m.distance),
                distance_as_single: matched.map(|m| roster.threshold.limits.as_single(m.distance, m.spread)),
                runner_up: matched.and_then(|m| m.runner_up).map(|(person, _)| roster.name(person)),
                runner_up_distance: matched.and_then(|m| m.runner_up).map(|(_, distance)| distance),
            }
        };
        Ok(faces.into_iter().map(describe).collect())
    }
}

/// Reads pictures dropped for enrolment.
pub(super) struct PictureReader {
    pub vision: Mutex<Vision>,
    pub limits: QualityLimits,
}

impl FaceReader for PictureReader {
    fn model(&self) -> ModelId {
        self.vision.lock().unwrap_or_else(PoisonError::into_inner).embedder().model()
    }

    fn rules(&self) -> String {
        let thresholds = self.vision.lock().unwrap_or_else(PoisonError::into_inner).settings().thresholds;
        format!("{:?} {thresholds:?} {:?}", self.model().0, self.limits)
    }

    fn read(&self, picture: &RgbImage, min_face_px: u32) -> Result<(Embedding, u32), Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::Failed(error.to_string());
        let vision = self.vision.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (picture, faces) = upright(&vision, picture).map_err(|error| failed(&error))?;
        let Some(face) = faces.first().copied() else { return Err(Refusal::NoFace) };
        let rivals =
            faces.iter().filter(|f| f.bounding_box.side() >= face.bounding_box.side() * BACKGROUND_FACE).count();
        if rivals > 1 {
            return Err(Refusal::SeveralFaces(rivals));
        }
        let (quality, aligned) = vision.look(&picture, &face).ok_or(Refusal::NoFace)?;
        let limits = QualityLimits { min_face_px: min_face_px as f32, ..self.limits };
        quality.check_template(&limits).map_err(|flaw| Refusal::Flawed { flaw })?;
        let bare = vision.embedder().embed_bare(&aligned).map_err(|error| failed(&error))?;
        let embedding = bare.map_err(|flaw| Refusal::Flawed { flaw })?;
        Ok((embedding, face.bounding_box.side() as u32))
    }
}
