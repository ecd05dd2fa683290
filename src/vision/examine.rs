//! Whether an ONNX file that somebody brings along can be an embedder, found out by running it.

use super::{
    manifest::PixelEntry,
    model::Precision,
    net::{Net, NetError, NetFile},
};

/// What a usable net turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    /// Numbers it makes of a face.
    pub dimension: usize,
    /// The forms it can be run in.
    pub precisions: Vec<Precision>,
}

/// Why a net cannot be an embedder.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(
        "its output has the shape {shape:?}, an embedder's is [1, N] with N from 8 to 4096; export the net without its last classifier, batch size 1, the embedding as its first output"
    )]
    Shape { shape: Vec<usize> },
    #[error("its output holds numbers that are not finite; are mean and scale those it was trained with?")]
    NotFinite,
    #[error("its output is the same for different pictures")]
    Blind,
}

/// Runs the net on two pictures of noise in every form that a file of its kind has.
///
/// # Errors
/// It cannot be loaded or planned for this input (height, width), or what it makes is no embedding. A quantized file that only one
/// form of works is offered in that form.
pub fn examine(name: &str, file: &[u8], input: [usize; 2], pixels: PixelEntry) -> Result<Examined, Unusable> {
    let plain = NetFile::read(name, file, Precision::F32)?;
    if !plain.is_quantized() {
        let dimension = dimension_of(&plain.plan(input[0], input[1])?, pixels)?;
        return Ok(Examined { dimension, precisions: vec![Precision::F32] });
    }
    let (mut precisions, mut dimension, mut failed) = (Vec::new(), 0, None);
    for precision in [Precision::W8, Precision::Int8] {
        let net = NetFile::read(name, file, precision).and_then(|net| net.plan(input[0], input[1]));
        match net.map_err(Unusable::from).and_then(|net| dimension_of(&net, pixels)) {
            Ok(made) => {
                dimension = made;
                precisions.push(precision);
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if precisions.is_empty() => Err(error),
        _ => Ok(Examined { dimension, precisions }),
    }
}

fn dimension_of(net: &Net, pixels: PixelEntry) -> Result<usize, Unusable> {
    let mut made = Vec::new();
    for seed in [1, 2] {
        let output = net.run(&noise(net.input(), pixels, seed))?;
        let shape = output.shape();
        let numbers = output.values().len();
        // One number per place of one axis; the others have one place.
        if !(8..=4096).contains(&numbers) || !shape.contains(&numbers) {
            return Err(Unusable::Shape { shape: shape.to_vec() });
        }
        if output.values().iter().any(|value| !value.is_finite()) {
            return Err(Unusable::NotFinite);
        }
        made.push(output.values().to_vec());
    }
    if made[0] == made[1] { Err(Unusable::Blind) } else { Ok(made[0].len()) }
}

/// Pixels that vary from one to the next (a linear congruential generator: the same noise everywhere), prepared as a face's are.
fn noise((height, width): (usize, usize), pixels: PixelEntry, seed: u32) -> Vec<f32> {
    let next = |state: &mut u32, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(((*state >> 24) as f32 - pixels.mean) * pixels.scale)
    };
    (0..3 * height * width).scan(seed, next).collect()
}
