//! Which net, and how it is calculated.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Identifies what made an embedding: backbone, last layer, preparation of pixels and
/// alignment. The same for every precision of the same net. Embeddings of different
/// models are never compared.
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

impl ModelId {
    /// What this model is when mirror images are averaged in.
    pub(super) fn mirroring(self) -> ModelId {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest([&self.0[..], b" mirror"].concat())[..16]);
        ModelId(id)
    }
}

/// How a net is calculated.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 8-bit weights, 32-bit floating-point arithmetic.
    W8,
    /// 8-bit weights, 8-bit activations, integer arithmetic.
    Int8,
    /// 32-bit floating-point weights and arithmetic: a net that was not quantized.
    F32,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::W8 => "w8",
            Precision::Int8 => "int8",
            Precision::F32 => "f32",
        })
    }
}
