//! Operators of this program's own in the plans of the network library.
//!
//! The library (tract) multiplies matrices as fast as the processor can, but what stands between its multiplications is written for every shape
//! that may come, one number at a time. On the nets here that took more instructions than the multiplications (docs/performance.md). So a few
//! operators are replaced, each by one that does the same for the shapes of these nets, in loops over contiguous rows which the compiler
//! turns into vector instructions; where a graph does not have the shape expected, the library's operator stays.
//!
//! | module | what |
//! |---|---|
//! | [`quantize`] | real numbers to 8 bits, as the standard says |
//! | [`window`] | how windows lie on a picture |
//! | [`products`] | products of matrices by the library's kernels |
//! | [`patches`] | the input of a convolution, laid out for the matrix kernel |
//! | [`maxpool`] | the greatest number of each window |
//! | [`lookup`] | what stands between two quantized convolutions, byte by byte |
//! | [`prelu`] | rectifiers with a slope below zero |
//! | [`residual`] | the end of a residual block in integers |
//! | [`winograd`] | convolutions of 3 × 3 in floating point with fewer multiplications |
//! | [`convolution`] | other small convolutions in floating point |
//! | [`quantized`] | quantized convolutions |

mod convolution;
mod lookup;
mod maxpool;
mod patches;
mod prelu;
mod products;
mod quantize;
mod quantized;
mod residual;
mod window;
#[cfg_attr(not(any(target_arch = "aarch64", target_arch = "arm")), allow(dead_code))]
mod winograd;

use tract_onnx::{
    model::OnnxOpRegister,
    prelude::{TractResult, TypedModel, TypedModelPatch},
    tract_core::internal::TypedNode,
};

/// Replaces operators of the library by those of this module where a net is read.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    quantize::register(operators);
}

/// Replaces operations of a net that the library has simplified, before it chooses kernels for them.
pub(super) fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    // Where a kernel multiplies 16 numbers at once, the transformations take what the multiplications gain: on a PC with AVX-512 the embedder
    // took 10.2 ms without and 10.5 ms with it, on the ARM processors of a Raspberry Pi a ninth fewer instructions.
    if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
        rewrite_by(winograd::in_place_of, model)?;
    }
    rewrite_by(convolution::in_place_of, model)?;
    rewrite_by(quantized::in_place_of, model)?;
    rewrite_by(lookup::in_place_of, model)?;
    rewrite_by(residual::in_place_of, model)?;
    rewrite_by(prelu::in_place_of, model)
}

/// Puts in the place of each operation what `in_place_of` has for it.
fn rewrite_by(
    in_place_of: fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>,
    model: &mut TypedModel,
) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        if let Some(patch) = in_place_of(model, &model.nodes[id])? {
            patch.apply(model)?;
        }
    }
    Ok(())
}

/// Replaces operators of the library in a plan that is optimised already.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    patches::replace(model)?;
    maxpool::replace(model)
}

/// On x86 the library's kernels use the vector registers at their full width and leave the upper halves in use (they never execute
/// `vzeroupper`). Until somebody clears them, every vector operation of code for any x86 processor, as all of this program is
/// (operators in the middle of a net too), has to keep those halves, and takes up to twice as long. Searching bytes does clear them: `memchr` does it at full width where the processor
/// can, and the compiler clears up behind it. It takes nanoseconds; elsewhere it does no harm.
pub(super) fn clean_registers() {
    std::hint::black_box(memchr::memchr(1, std::hint::black_box(&[0; 64])));
}
