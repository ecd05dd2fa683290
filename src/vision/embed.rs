//! From an aligned face to a unit-length embedding.

use std::io::Cursor;

use ndarray::{Array2, ArrayView1};
use ndarray_npy::ReadNpyExt;

use super::{
    align::{self, AlignedFace},
    geometry::Detection,
    manifest::{AlignmentEntry, ChannelOrder, LayerEntry, Manifest, ManifestError, NetEntry, PixelEntry},
    model::{ModelId, Precision},
    net::{Net, NetError, NetFile},
    quality::{Flaw, Part},
};

/// A face as a direction: unit length, and it knows the model that made it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    values: Vec<f32>,
    model: ModelId,
}

/// A vector that has no direction: zero, infinite or NaN.
#[derive(Debug, thiserror::Error)]
#[error("the network's output has no direction (zero, infinite or NaN)")]
pub struct NoDirection;

impl Embedding {
    /// Scales `values` to unit length.
    ///
    /// # Errors
    /// [`NoDirection`] when the length is zero or not finite.
    pub fn new(mut values: Vec<f32>, model: ModelId) -> Result<Embedding, NoDirection> {
        let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
        if !length.is_finite() || length <= f32::MIN_POSITIVE {
            return Err(NoDirection);
        }
        values.iter_mut().for_each(|v| *v /= length);
        Ok(Embedding { values, model })
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub fn model(&self) -> ModelId {
        self.model
    }

    /// Euclidean distance, 0 (same direction) to 2 (opposite). None when the models differ: such embeddings have nothing to say to each other.
    pub fn distance(&self, other: &Embedding) -> Option<f32> {
        let same = self.model == other.model && self.values.len() == other.values.len();
        same.then(|| self.values.iter().zip(&other.values).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt())
    }
}

/// A backbone and, if it is kept apart, its last layer: what turns an aligned face into an [`Embedding`]. Clones share the net.
#[derive(Clone)]
pub struct Embedder {
    net: Net,
    /// [dimension, features]; None when the net's own output is the embedding.
    last_layer: Option<Array2<f32>>,
    /// [2, features + 1], see [`Embedder::hidden`].
    hidden: Option<Array2<f32>>,
    pixels: PixelEntry,
    alignment: AlignmentEntry,
    dimension: usize,
    /// The mirror image of each face is embedded too, and the mean of both counts.
    mirror: bool,
    /// Without mirror images.
    model: ModelId,
}

/// The rows of what tells that a part of a face is hidden.
const PARTS: [Part; 2] = [Part::Mouth, Part::Eyes];

/// Why a face has no embedding, or an embedder cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("{file}: {problem}")]
    LastLayer { file: String, problem: String },
    #[error("net \"{net}\": {problem}")]
    Shape { net: String, problem: String },
    #[error(transparent)]
    NoDirection(#[from] NoDirection),
}

impl Embedder {
    /// Loads an embedder of the manifest, its files verified.
    ///
    /// # Errors
    /// A file is missing, changed or of the wrong shape, or a weight is not a finite number.
    pub fn load(manifest: &Manifest, entry: &NetEntry, precision: Precision) -> Result<Embedder, EmbedError> {
        let shape_error = |problem: String| EmbedError::Shape { net: entry.name.clone(), problem };
        let file = NetFile::read(&entry.name, &manifest.read_net(entry)?, precision)?;
        let last_layer = entry.last_layer.as_ref().map(|layer| read_layer(manifest, layer)).transpose()?;
        let hidden = entry.hidden.as_ref().map(|layer| read_layer(manifest, layer)).transpose()?;
        let (Some(dimension), Some(alignment)) = (entry.dimension, entry.alignment.clone()) else {
            return Err(shape_error("an embedder needs dimension and alignment".into()));
        };
        let embedder = Embedder {
            net: file.into_plan(entry.input[0], entry.input[1])?,
            last_layer,
            hidden,
            pixels: entry.pixels,
            alignment,
            dimension,
            mirror: false,
            model: entry.model_id(),
        };
        let features = embedder.last_layer.as_ref().map_or(dimension, Array2::ncols);
        if embedder.hidden.as_ref().is_some_and(|hidden| hidden.dim() != (PARTS.len(), features + 1)) {
            return Err(shape_error(format!("hidden must have {} rows of {} numbers", PARTS.len(), features + 1)));
        }
        // That the shapes fit together shows at start, not at the first visitor.
        let made = embedder.made().map_err(shape_error)?;
        if made != dimension {
            return Err(shape_error(format!("it makes {made} numbers, the manifest says {dimension}")));
        }
        Ok(embedder)
    }

    /// The same embedder taking the mean of each face and its mirror image, at twice the cost, or not. With it, it is another
    /// model, whose embeddings are compared with its own kind only.
    pub fn mirroring(self, mirror: bool) -> Embedder {
        Embedder { mirror, ..self }
    }

    pub fn model(&self) -> ModelId {
        if self.mirror { self.model.mirroring() } else { self.model }
    }

    /// The net before the last layer.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// Numbers in an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// A face-sized picture of nothing, to measure with.
    pub fn grey_face(&self) -> AlignedFace {
        let (height, width) = self.net.input();
        AlignedFace(image::RgbImage::from_pixel(width as u32, height as u32, image::Rgb([128; 3])))
    }

    /// Cuts the face out as this embedder was trained on it; None for degenerate landmarks.
    pub fn align(&self, picture: &image::RgbImage, detection: &Detection) -> Option<AlignedFace> {
        let (height, width) = self.net.input();
        align::align(picture, detection, &self.alignment, (width as u32, height as u32))
    }

    /// The face's embedding.
    ///
    /// # Errors
    /// The net failed, or its output has no direction.
    pub fn embed(&self, face: &AlignedFace) -> Result<Embedding, EmbedError> {
        self.embedding_of(&self.features(face)?)
    }

    fn embedding_of(&self, features: &[f32]) -> Result<Embedding, EmbedError> {
        let shape_error = |problem| EmbedError::Shape { net: "embedder".into(), problem };
        Ok(Embedding::new(self.project(features).map_err(shape_error)?, self.model())?)
    }

    /// The face's embedding if nothing hides a part of it, as far as this embedder can tell; for enrolment.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    pub fn embed_bare(&self, face: &AlignedFace) -> Result<Result<Embedding, Flaw>, EmbedError> {
        let features = self.features(face)?;
        match self.hidden(&features) {
            Some(part) => Ok(Err(Flaw::Hidden { part })),
            None => self.embedding_of(&features).map(Ok),
        }
    }

    /// The part of a face that something hides. Each has a direction in the space of features, found by ridge regression
    /// between faces with and without drawn masks, scarves, hands and dark glasses (`make hidden`), and an offset.
    fn hidden(&self, features: &[f32]) -> Option<Part> {
        let length = features.iter().map(|v| v * v).sum::<f32>().sqrt();
        let score = |row: ArrayView1<f32>| {
            let sum: f32 = row.iter().zip(features).map(|(weight, value)| weight * value).sum();
            sum / length + row[features.len()]
        };
        let rows = self.hidden.iter().flat_map(|hidden| hidden.rows());
        rows.zip(PARTS).find(|(row, _)| score(*row) > 0.0).map(|(_, part)| part)
    }

    /// What the net itself makes of a face, before the last layer: what that layer is trained on.
    ///
    /// # Errors
    /// The net failed.
    pub fn features(&self, face: &AlignedFace) -> Result<Vec<f32>, EmbedError> {
        let mut features = self.net.run(&self.prepare(face))?.values().to_vec();
        if self.mirror {
            // The last layer is linear, so the mean of its outputs is its output of the mean.
            let mirrored = self.net.run(&self.prepare(&face.mirrored()))?;
            features.iter_mut().zip(mirrored.values()).for_each(|(a, b)| *a = (*a + b) / 2.0);
        }
        Ok(features)
    }

    /// The dense layer behind the features, [dimension, features]; None when the net's own output is the embedding.
    pub fn last_layer(&self) -> Option<&Array2<f32>> {
        self.last_layer.as_ref()
    }

    fn prepare(&self, AlignedFace(face): &AlignedFace) -> Vec<f32> {
        let PixelEntry { order, mean, scale } = self.pixels;
        let channels = match order {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        };
        let (pixels, _) = face.as_raw().as_chunks::<3>();
        let mut planes = Vec::with_capacity(3 * pixels.len());
        for channel in channels {
            planes.extend(pixels.iter().map(|pixel| (f32::from(pixel[channel]) - mean) * scale));
        }
        planes
    }

    fn project(&self, features: &[f32]) -> Result<Vec<f32>, String> {
        match &self.last_layer {
            None => Ok(features.to_vec()),
            Some(layer) if layer.ncols() == features.len() => Ok(layer.dot(&ArrayView1::from(features)).to_vec()),
            Some(layer) => Err(misfit(features.len(), layer)),
        }
    }

    /// The numbers in an embedding, as net and last layer have them.
    fn made(&self) -> Result<usize, String> {
        let features = self.net.outputs().ok_or("its answer is not a fixed count of 32-bit floating-point numbers")?;
        match &self.last_layer {
            None => Ok(features),
            Some(layer) if layer.ncols() == features => Ok(layer.nrows()),
            Some(layer) => Err(misfit(features, layer)),
        }
    }
}

fn misfit(features: usize, layer: &Array2<f32>) -> String {
    format!("it makes {features} features, its last layer takes {}", layer.ncols())
}

/// A layer's weights, finite.
fn read_layer(manifest: &Manifest, layer: &LayerEntry) -> Result<Array2<f32>, EmbedError> {
    let problem = |problem: String| EmbedError::LastLayer { file: layer.file.clone(), problem };
    let weights = Array2::<f32>::read_npy(Cursor::new(manifest.read_layer(layer)?))
        .map_err(|error| problem(format!("not a two-dimensional array of f32: {error}")))?;
    if weights.iter().any(|weight| !weight.is_finite()) {
        return Err(problem("a weight is not a finite number".into()));
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MODEL: ModelId = ModelId([1; 16]);

    proptest! {
        #[test]
        fn embeddings_have_unit_length_or_are_refused(values in proptest::collection::vec(-1e3f32..1e3, 1..64)) {
            match Embedding::new(values.clone(), MODEL) {
                Ok(e) => prop_assert!((e.values().iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-4),
                Err(_) => prop_assert!(values.iter().all(|v| v.abs() < 1e-18)),
            }
        }

        #[test]
        fn distances_lie_between_0_and_2(a in proptest::array::uniform8(-1f32..1.0), b in proptest::array::uniform8(-1f32..1.0)) {
            if let (Ok(a), Ok(b)) = (Embedding::new(a.to_vec(), MODEL), Embedding::new(b.to_vec(), MODEL)) {
                let d = a.distance(&b).unwrap();
                prop_assert!((0.0..=2.0001).contains(&d));
                prop_assert!(a.distance(&a).unwrap() < 1e-3);
                prop_assert!((d - b.distance(&a).unwrap()).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_has_no_direction_is_no_embedding() {
        for bad in [vec![0.0; 4], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0], vec![]] {
            assert!(Embedding::new(bad, MODEL).is_err());
        }
    }

    #[test]
    fn embeddings_of_different_models_have_no_distance() {
        let one = Embedding::new(vec![1.0, 0.0], MODEL).unwrap();
        let other = Embedding::new(vec![1.0, 0.0], ModelId([2; 16])).unwrap();
        assert_eq!(one.distance(&other), None);
    }
}
