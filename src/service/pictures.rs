//! Pictures from files: who is on one, and reading one for enrolment.

use std::sync::{Mutex, PoisonError};

use image::RgbImage;

use super::{Services, quality_limits, why_not};
use crate::{
    control::IdentifiedFace,
    enroll::{FaceReader, Refusal, decode_picture},
    vision::{
        Face, Vision,
        embed::{Embedding, ModelId},
        mtcnn::MtcnnSettings,
        quality::QualityLimits,
    },
};

/// Of several faces in a picture dropped for enrolment, those smaller than this share of the largest are passers-by.
const BACKGROUND_FACE: f32 = 0.4;
/// A face in such a picture is looked for down to this share of its longer side, whatever its resolution.
const SMALLEST_SHARE: f32 = 1.0 / 16.0;

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
        let shared = self.vision.lock().unwrap_or_else(PoisonError::into_inner);
        let mut vision = shared.with_settings(picture_settings(picture, shared.settings().thresholds));
        drop(shared);
        let mut faces = vision.detect(picture).map_err(|error| failed(&error))?;
        faces.sort_by(|a, b| b.bounding_box.side().total_cmp(&a.bounding_box.side()));
        let Some(face) = faces.first().copied() else { return Err(Refusal::NoFace) };
        let rivals =
            faces.iter().filter(|f| f.bounding_box.side() >= face.bounding_box.side() * BACKGROUND_FACE).count();
        if rivals > 1 {
            return Err(Refusal::SeveralFaces(rivals));
        }
        let (quality, aligned) = vision.look(picture, &face).ok_or(Refusal::NoFace)?;
        let limits = QualityLimits { min_face_px: min_face_px as f32, ..self.limits };
        quality.check(&limits).map_err(|flaw| Refusal::Flawed { flaw })?;
        let embedding = vision.embedder().embed(&aligned).map_err(|error| failed(&error))?;
        Ok((embedding, face.bounding_box.side() as u32))
    }
}
