//! From an aligned face to a unit-length embedding.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies what made an embedding: backbone, last layer, preparation of pixels and alignment. The same for every
/// precision of the same net. Embeddings of different models are never compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelId(pub [u8; 16]);

impl fmt::Debug for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelId({self})")
    }
}

impl fmt::Display for ModelId {
    /// The first eight hexadecimal digits: enough to tell models apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

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
