//! From a camera's bytes to a unit-length embedding: nothing here knows people, thresholds, doors or the time of day.

pub mod align;
pub mod cut;
pub mod embed;
pub mod examine;
pub mod frame;
pub mod fuse;
pub mod geometry;
pub(crate) mod jpeg;
pub mod manifest;
pub mod model;
pub mod motion;
pub mod mtcnn;
pub mod net;
mod operators;
pub mod pixels;
mod precision;
pub mod quality;
pub mod resize;
pub mod track;

use std::path::Path;

use image::RgbImage;

use embed::{EmbedError, Embedder, Embedding};
use geometry::{BoundingBox, Detection};
use manifest::{Manifest, ManifestError, NetEntry, Role};
use model::Precision;
use mtcnn::{Mtcnn, MtcnnSettings};
use net::{Net, NetError, NetFile};
use quality::Quality;

use crate::error::ErrorKind;

/// Detector and embedder, loaded. Clones share the nets, so each thread can have one.
#[derive(Clone)]
pub struct Vision {
    detector: Mtcnn,
    embedder: Embedder,
}

/// Why the models cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error("net \"{net}\" cannot be run as {wanted}; the manifest offers {offered}: set models.precision = \"auto\"")]
    Precision { net: String, wanted: Precision, offered: String },
}

impl VisionError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            VisionError::Manifest(error) | VisionError::Embed(EmbedError::Manifest(error)) => error.kind(),
            VisionError::Precision { .. } => ErrorKind::Conflict,
            VisionError::Net(_) | VisionError::Embed(_) => ErrorKind::Io,
        }
    }
}

/// A face of a picture with all that is known about it but whose it is.
#[derive(Clone, Debug)]
pub struct Face {
    pub detection: Detection,
    pub quality: Quality,
    pub embedding: Embedding,
}

impl Vision {
    /// Loads the detector and the embedder of that name from the folder of the manifest, every file verified.
    ///
    /// Nets that do not offer `precision` (P-Net is always calculated in floating point, its integer form being slower) use
    /// the one they have; the embedder must offer it.
    ///
    /// # Errors
    /// What is missing, changed or of another shape than the manifest says.
    pub fn load(
        dir: &Path,
        embedder: &str,
        precision: Precision,
        settings: MtcnnSettings,
    ) -> Result<Vision, VisionError> {
        let choose = |net: &NetEntry| if net.role == Role::Embedder { precision } else { offered(net, precision) };
        Vision::load_each(dir, embedder, choose, settings)
    }

    /// As [`Vision::load`], with a precision for each net.
    ///
    /// # Errors
    /// As [`Vision::load`], and a net that does not offer the precision chosen.
    pub fn load_each(
        dir: &Path,
        embedder: &str,
        choose: impl Fn(&NetEntry) -> Precision,
        settings: MtcnnSettings,
    ) -> Result<Vision, VisionError> {
        let manifest = Manifest::load(dir)?;
        let chosen = |net: &NetEntry| match choose(net) {
            precision if net.precisions.contains(&precision) => Ok(precision),
            wanted => {
                let offered = net.precisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(VisionError::Precision { net: net.name.clone(), wanted, offered })
            }
        };
        let entry = manifest.embedder(embedder)?;
        let precision = chosen(entry)?;
        let file = |role: Role| -> Result<NetFile, VisionError> {
            let net = manifest.detector(role)?;
            Ok(NetFile::read(&net.name, &manifest.read_net(net)?, chosen(net)?)?)
        };
        let detector = Mtcnn::new(file(Role::Pnet)?, file(Role::Rnet)?, file(Role::Onet)?, settings)?;
        Ok(Vision { detector, embedder: Embedder::load(&manifest, entry, precision)? })
    }

    /// The nets whose input has one size, with their names: R-Net, O-Net and the embedder.
    pub fn nets(&self) -> [&Net; 3] {
        let [rnet, onet] = self.detector.nets();
        [rnet, onet, self.embedder.net()]
    }

    /// The same nets looking for faces of another size.
    pub fn with_settings(&self, settings: MtcnnSettings) -> Vision {
        Vision { detector: self.detector.with_settings(settings), embedder: self.embedder.clone() }
    }

    /// The same nets with the embedder taking the mean of each face and its mirror image, or not; see [`Embedder::mirroring`].
    pub fn mirroring(self, mirror: bool) -> Vision {
        Vision { embedder: self.embedder.mirroring(mirror), ..self }
    }

    pub fn settings(&self) -> MtcnnSettings {
        self.detector.settings()
    }

    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    /// Finds the faces of a picture, the most certain first.
    ///
    /// # Errors
    /// A net failed.
    pub fn detect(&mut self, picture: &RgbImage) -> Result<Vec<Detection>, VisionError> {
        Ok(self.detector.detect(picture)?)
    }

    /// Finds the faces of a picture besides those known, see [`Mtcnn::detect_beside`].
    ///
    /// # Errors
    /// A net failed.
    pub fn detect_beside(&mut self, picture: &RgbImage, known: &[Detection]) -> Result<Vec<Detection>, VisionError> {
        Ok(self.detector.detect_beside(picture, known)?)
    }

    /// The face that was at `expected` a moment ago, if it still is, see [`Mtcnn::confirm`].
    ///
    /// # Errors
    /// A net failed.
    pub fn confirm(&mut self, picture: &RgbImage, expected: &BoundingBox) -> Result<Option<Detection>, VisionError> {
        Ok(self.detector.confirm(picture, expected)?)
    }

    /// Quality of a detected face and the picture to embed; None for degenerate landmarks.
    pub fn look(&self, picture: &RgbImage, detection: &Detection) -> Option<(Quality, align::AlignedFace)> {
        let aligned = self.embedder.align(picture, detection)?;
        Some((Quality::of(picture, detection, &aligned), aligned))
    }

    /// Detects, aligns, measures and embeds every face of a picture.
    ///
    /// # Errors
    /// A net failed.
    pub fn faces(&mut self, picture: &RgbImage) -> Result<Vec<Face>, VisionError> {
        let detections = self.detect(picture)?;
        let whole = detections.into_iter().filter_map(|detection| {
            let (quality, aligned) = self.look(picture, &detection)?;
            Some(self.embedder.embed(&aligned).map(|embedding| Face { detection, quality, embedding }))
        });
        Ok(whole.collect::<Result<_, _>>()?)
    }
}

/// The precision wanted where the net offers it, or else the first it offers.
fn offered(net: &NetEntry, wanted: Precision) -> Precision {
    if net.precisions.contains(&wanted) { wanted } else { net.precisions[0] }
}
