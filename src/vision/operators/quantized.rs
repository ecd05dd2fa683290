//! Quantized convolutions, put together from kernel and constants at once.
//!
//! The library takes such a convolution to pieces: sums of weights and of patches, corrections for zero points, scale, limits, some thirty small operators
//! each, which its optimiser then folds into the product again, one by one. That took two thirds of the instructions of loading in integer
//! arithmetic. Where scales and zero points are constants and the weights' zero point is 0, what comes out is known beforehand.

use std::borrow::Cow;

use tract_onnx::{
    prelude::{DatumType, OutletId, SpecialOps, TVec, Tensor, TractResult, TypedModel, TypedModelPatch, tvec},
    tract_core::{
        internal::TypedNode,
        ops::{
            cnn::{Conv, KernelFormat},
            math,
            matmul::optimized::ProtoFusedSpec,
            quant::offset_u8_as_i8,
        },
        tract_linalg::{BinOp, Scaler, mmm::RoundingPolicy},
    },
};

use super::{convolution::Product, patches::by_four_channels, products::Products, window::Windows};

/// What takes the place of a convolution of that kind.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(convolution) = node.op_as::<Conv>() else { return Ok(None) };
    let input = model.outlet_fact(node.inputs[0])?;
    let known = matches!(convolution.q_params, Some(DatumType::U8 | DatumType::I32))
        && convolution.group == 1
        && convolution.kernel_fmt == KernelFormat::OIHW
        && input.datum_type == DatumType::U8;
    let Some(windows) = Windows::new(&convolution.pool_spec, input).filter(|_| known) else { return Ok(None) };
    let Some(constants) = Constants::of(model, &node.inputs, convolution.output_channels())? else { return Ok(None) };
    let sums_only = convolution.q_params == Some(DatumType::I32);
    if sums_only && !constants.leave_sums_alone() {
        return Ok(None);
    }
    let Constants { weights, bias, zero_point, scale, output_zero_point } = constants;
    let (k, n) = (windows.k(), windows.n());
    let Some(products) = Products::new(DatumType::I32, 1, [bias.len(), k, n]) else { return Ok(None) };
    // What the kernels multiply is signed.
    let zero_point = zero_point - 128;
    let correct = |(bias, weights): (&i32, &[i8])| {
        // Checks for an overflow that cannot happen would keep it from being vectorised.
        let sum = weights.iter().fold(0i32, |sum, weight| sum.wrapping_add(i32::from(*weight)));
        bias.wrapping_sub(zero_point.wrapping_mul(sum))
    };
    let bias: Vec<i32> = bias.iter().zip(weights.chunks_exact(k)).map(correct).collect();
    // Sums of integers are the same in any order. Filling up three channels to four costs a third more multiplications, and is still faster.
    let four_channels = products.interleaves_four() && windows.channels > 2;
    let (products, weights) = if four_channels {
        let k_by_four_channels = windows.k_by_four_channels();
        let mut ordered = Vec::with_capacity(bias.len() * k_by_four_channels);
        for weights in weights.chunks_exact(k) {
            ordered.extend_from_slice(&by_four_channels(weights, windows.channels, 0));
        }
        (products.with_k(k_by_four_channels), Cow::Owned(ordered))
    } else {
        (products, Cow::Borrowed(weights))
    };
    let mut product = Product {
        windows,
        zero_point: zero_point as i8,
        weights: products.weights([&*weights])?,
        four_channels,
        constants: vec![
            ("bias", Tensor::from_shape(&[bias.len()], &bias)?),
            ("zero_point", Tensor::from(output_zero_point)),
            ("greatest", Tensor::from(i32::from(u8::MAX))),
            ("least", Tensor::from(i32::from(u8::MIN))),
        ],
        steps: vec![
            products.add_to_rows(2),
            ProtoFusedSpec::Scaler(Scaler::new(scale, RoundingPolicy::Even)),
            ProtoFusedSpec::BinScalar(3, BinOp::Add),
            ProtoFusedSpec::BinScalar(4, BinOp::Min),
            ProtoFusedSpec::BinScalar(5, BinOp::Max),
        ],
        result: DatumType::U8,
    };
    if sums_only {
        product.constants.clear();
        product.steps.clear();
        product.result = DatumType::I32;
    }
    let mut patch = TypedModelPatch::new("a quantized convolution at once");
    let input = patch.tap_model(model, node.inputs[0])?;
    let input = patch.wire_node(format!("{}.signed", node.name), offset_u8_as_i8(), &[input])?[0];
    let Some(wire) = product.wire(&mut patch, node, input, products)? else { return Ok(None) };
    let wire = if sums_only { add_to_channels(&mut patch, node, wire, &bias)? } else { wire };
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// An operation of its own, for the one that the [sums](super::sums) become to take in.
fn add_to_channels(
    patch: &mut TypedModelPatch,
    node: &TypedNode,
    sums: OutletId,
    bias: &[i32],
) -> TractResult<OutletId> {
    let mut shape: TVec<usize> = tvec!(1; node.outputs[0].fact.rank());
    let channels = shape.len() - 3;
    shape[channels] = bias.len();
    let bias = patch.add_const(format!("{}.bias_constant", node.name), Tensor::from_shape(&shape, bias)?)?;
    Ok(patch.wire_node(format!("{}.biased", node.name), math::add(), &[sums, bias])?[0])
}

/// The constant inputs of a quantized convolution.
pub(super) struct Constants<'a> {
    pub weights: &'a [i8],
    /// One for each output.
    pub bias: Vec<i32>,
    pub zero_point: i32,
    /// Of input and weights over that of the output.
    scale: f32,
    output_zero_point: i32,
}

impl<'a> Constants<'a> {
    /// None if one is not constant, or there is one for each output where one for all is known, or the weights' zero point is not 0.
    pub fn of(model: &'a TypedModel, inputs: &[OutletId], outputs: usize) -> TractResult<Option<Constants<'a>>> {
        let constant = |index: usize| -> TractResult<Option<&'a Tensor>> {
            Ok(inputs
                .get(index)
                .map(|input| model.outlet_fact(*input))
                .transpose()?
                .and_then(|fact| fact.konst.as_deref()))
        };
        let single = |index: usize| {
            Ok::<_, tract_onnx::prelude::TractError>(constant(index)?.filter(|tensor| tensor.len() == 1))
        };
        let (Some(weights), Some(bias)) = (constant(1)?, constant(2)?) else { return Ok(None) };
        let [
            Some(zero_point),
            Some(scale),
            Some(of_weights),
            Some(weight_scale),
            Some(output_zero),
            Some(output_scale),
        ] = [single(3)?, single(4)?, single(5)?, single(6)?, single(7)?, single(8)?]
        else {
            return Ok(None);
        };
        let number = |tensor: &Tensor| tensor.cast_to_scalar::<i32>();
        let real = |tensor: &Tensor| tensor.cast_to_scalar::<f32>();
        if weights.datum_type() != DatumType::I8 || number(of_weights)? != 0 || ![1, outputs].contains(&bias.len()) {
            return Ok(None);
        }
        let bias = bias.cast_to::<i32>()?;
        let bias = bias.try_as_plain_ram()?.as_slice::<i32>()?.to_vec();
        Ok(Some(Constants {
            weights: weights.try_as_plain_ram()?.as_slice::<i8>()?,
            bias: if bias.len() == 1 { vec![bias[0]; outputs] } else { bias },
            zero_point: number(zero_point)?,
            scale: real(weight_scale)? * real(scale)? / real(output_scale)?,
            output_zero_point: number(output_zero)?,
        }))
    }

    /// Whether the output is the sums themselves, as that of `ConvInteger` is.
    pub fn leave_sums_alone(&self) -> bool {
        self.scale == 1.0 && self.output_zero_point == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::operators::window::tests::{pool_spec, windows};
    use proptest::prelude::*;
    use tract_onnx::prelude::{DatumTypeExt, IntoRunnable, IntoTValue, IntoTensor, SpecialOps};

    fn run(model: TypedModel, input: Tensor) -> Tensor {
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        plan.run(tvec!(input.into_tvalue())).unwrap().remove(0).into_tensor()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// The library's own form is the oracle: nothing may change but the way to it.
        #[test]
        fn put_together_at_once_it_gives_the_same_numbers(
            sums_only: bool,
            windows in windows(),
            outputs in 1usize..12,
            zero_points in proptest::array::uniform2(0i32..256),
            scales in proptest::array::uniform3(0.001f32..0.1),
            seed: u8,
        ) {
            let Windows { channels, rows, columns } = windows;
            let k = windows.k();
            let byte = |index: usize, step: usize| (index * step + usize::from(seed)) as u8;
            let shape = [1, channels, rows.input, columns.input];
            let picture: Vec<u8> = (0..shape.iter().product()).map(|index| byte(index, 37)).collect();
            let weights: Vec<i8> = (0..outputs * k).map(|index| byte(index, 89) as i8).collect();
            let bias: Vec<i32> = (0..outputs).map(|index| i32::from(byte(index, 53)) * 64 - 8000).collect();

            let mut model = TypedModel::default();
            let mut wires = vec![model.add_source("input", DatumType::U8.fact(shape)).unwrap()];
            let constants = [
                Tensor::from_shape(&[outputs, channels, rows.window, columns.window], &weights).unwrap(),
                Tensor::from_shape(&[outputs], &bias).unwrap(),
                Tensor::from(zero_points[0]),
                Tensor::from(if sums_only { 1.0 } else { scales[0] }),
                Tensor::from(0i32),
                Tensor::from(if sums_only { 1.0 } else { scales[1] }),
                Tensor::from(if sums_only { 0 } else { zero_points[1] }),
                Tensor::from(if sums_only { 1.0 } else { scales[2] }),
            ];
            for (index, constant) in constants.into_iter().enumerate() {
                wires.push(model.add_const(format!("constant{index}"), constant).unwrap());
            }
            let convolution = Conv {
                pool_spec: pool_spec(&windows, outputs),
                kernel_fmt: KernelFormat::OIHW,
                group: 1,
                q_params: Some(if sums_only { DatumType::I32 } else { DatumType::U8 }),
            };
            let output = model.wire_node("convolution", convolution, &wires).unwrap();
            model.select_output_outlets(&output).unwrap();
            let of_the_library = model.clone();
            crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
            prop_assert!(model.nodes.iter().any(|node| node.name == "convolution.product"));

            let input = Tensor::from_shape(&shape, &picture).unwrap();
            prop_assert_eq!(run(model, input.clone()), run(of_the_library, input));
        }
    }
}
