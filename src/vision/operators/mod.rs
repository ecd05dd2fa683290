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
//! | [`kernels`] | kernels of the library that may not be used |
//! | [`products`] | products of matrices by the library's kernels |
//! | [`patches`] | the input of a convolution, laid out for the matrix kernel |
//! | [`maxpool`] | the greatest number of each window |
//! | [`lookup`] | what stands between two quantized convolutions, byte by byte |
//! | [`prelu`] | rectifiers with a slope below zero |
//! | [`residual`] | the end of a residual block in integers |
//! | [`winograd`] | convolutions of 3 × 3 in floating point with fewer multiplications |
//! | [`convolution`] | other small convolutions in floating point |
//! | [`quantized`] | quantized convolutions |
//! | [`depthwise`] | convolutions of 3 × 3, each channel by itself |
//! | [`sums`] | what becomes of sums of integers: real numbers, rectified, quantized |

mod convolution;
mod depthwise;
mod kernels;
mod lookup;
mod maxpool;
mod patches;
mod prelu;
mod products;
mod quantize;
mod quantized;
mod residual;
mod sums;
mod window;
#[cfg_attr(not(any(target_arch = "aarch64", target_arch = "arm")), allow(dead_code))]
mod winograd;

use tract_onnx::{
    model::OnnxOpRegister,
    prelude::{TractResult, TypedModel, TypedModelPatch},
    tract_core::{
        internal::{AxisOp, TypedNode},
        optim::{Optimizer, OptimizerSession, TypedPass},
    },
};

/// Replaces operators of the library by those of this module where a net is read.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    kernels::leave_out();
    quantize::register(operators);
}

/// Simplifies a net and chooses kernels for it.
///
/// The library does it in two rounds, each until nothing changes: a long one that simplifies, and one for the kernels, in which it simplifies what comes of
/// them. Here it is one round, an eighth of the instructions of loading less: operations are replaced as soon as constants are folded, and what is left is simplified
/// before kernels are chosen for it. Simplifying for long pays for a net that transposes pictures.
pub(super) fn optimise(model: &mut TypedModel) -> TractResult<()> {
    if model.nodes.iter().any(|node| matches!(node.op_as::<AxisOp>(), Some(AxisOp::Move(..)))) {
        model.declutter()?;
    }
    // What is found before constants are folded is no work for the library; most convolutions are known only after it.
    Rewrite.run_direct(model)?;
    let mut optimizer = Optimizer::codegen();
    // The library has no other name for it than what it prints. If it were not found, kernels would be chosen before it.
    let (mut passes, others) = optimizer.passes.into_iter().partition(|pass| format!("{pass:?}") == "declutter");
    optimizer.passes = others;
    passes.insert(0, Box::new(Rewrite));
    // The first one folds constants.
    optimizer.passes.splice(1..1, passes);
    optimizer.optimize(model)?;
    patches::replace(model)?;
    maxpool::replace(model)
}

/// Replaces operations before the library chooses kernels for them.
#[derive(Clone, Debug)]
struct Rewrite;

impl TypedPass for Rewrite {
    fn reset(&mut self) -> TractResult<()> {
        Ok(())
    }

    fn next(&mut self, _session: &mut OptimizerSession, _model: &TypedModel) -> TractResult<Option<TypedModelPatch>> {
        Ok(None)
    }

    fn run_direct(&mut self, model: &mut TypedModel) -> TractResult<bool> {
        let before = model.nodes.len();
        // Where a kernel multiplies 16 numbers at once, the transformations take what the multiplications gain: on a PC with AVX-512 the embedder
        // took 10.2 ms without and 10.5 ms with it, on the ARM processors of a Raspberry Pi a ninth fewer instructions.
        if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
            rewrite_by(winograd::in_place_of, model)?;
        }
        rewrite_by(convolution::in_place_of, model)?;
        rewrite_by(quantized::in_place_of, model)?;
        rewrite_by(depthwise::in_place_of, model)?;
        rewrite_by(sums::in_place_of, model)?;
        rewrite_by(lookup::in_place_of, model)?;
        rewrite_by(residual::in_place_of, model)?;
        rewrite_by(prelu::in_place_of, model)?;
        let changed = model.nodes.len() > before;
        depthwise::take_in_rectifiers(model)?;
        Ok(changed)
    }
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

/// On x86 the library's kernels use the vector registers at their full width and leave the upper halves in use (they never execute
/// `vzeroupper`). Until somebody clears them, every vector operation of code for any x86 processor, as all of this program is
/// (operators in the middle of a net too), has to keep those halves, and takes up to twice as long. Searching bytes does clear them: `memchr` does it at full width where the processor
/// can, and the compiler clears up behind it. It takes nanoseconds; elsewhere it does no harm.
pub(super) fn clean_registers() {
    std::hint::black_box(memchr::memchr(1, std::hint::black_box(&[0; 64])));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::{
        prelude::{DatumType, DatumTypeExt, IntoRunnable, IntoTValue, SpecialOps, Tensor, tvec},
        tract_core::ops::math,
    };

    #[test]
    fn a_net_that_transposes_gives_what_it_gives_as_it_stands() {
        let shape = [1, 3, 4, 5];
        let numbers: Vec<f32> = (0u8..60).map(|number| f32::from(number) - 30.0).collect();
        let mut model = TypedModel::default();
        let mut wire = tvec!(model.add_source("input", DatumType::F32.fact(shape)).unwrap());
        wire = model.wire_node("channels_last", AxisOp::Move(1, 3), &wire).unwrap();
        let zero = model.add_const("zero", Tensor::zero::<f32>(&[1, 1, 1, 1]).unwrap()).unwrap();
        wire = model.wire_node("rectified", math::max(), &[wire[0], zero]).unwrap();
        wire = model.wire_node("columns_first", AxisOp::Move(2, 1), &wire).unwrap();
        model.select_output_outlets(&wire).unwrap();
        let run = |model: TypedModel| {
            let input = Tensor::from_shape(&shape, &numbers).unwrap().into_tvalue();
            let output = model.into_runnable().unwrap().run(tvec!(input)).unwrap();
            (output[0].shape().to_vec(), output[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec())
        };
        let as_it_stands = run(model.clone());
        assert_eq!(as_it_stands.0, [1, 5, 4, 3]);
        optimise(&mut model).unwrap();
        assert_eq!(run(model), as_it_stands);
    }

    #[test]
    fn the_library_folds_constants_first_and_has_one_pass_that_simplifies() {
        let passes: Vec<String> = Optimizer::codegen().passes.iter().map(|pass| format!("{pass:?}")).collect();
        assert!(passes[0].starts_with("PropConst"), "{passes:?}");
        assert_eq!(passes.iter().filter(|pass| *pass == "declutter").count(), 1, "{passes:?}");
    }
}
