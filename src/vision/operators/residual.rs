//! The end of a residual block in integer arithmetic (He et al. 2016, "Deep residual learning for image recognition", section 3.2).
//!
//! The bytes of the block's last convolution become real numbers, the shortcut is added, the sum is rectified, and quantized for the next convolution, while
//! the sum itself is the next block's shortcut. For the library these are four passes; here it is one, in the place where the shortcut lies.

use tract_onnx::{
    prelude::{DatumType, IntoTValue, TValue, TVec, Tensor, TractResult, TypedFact, TypedModel, TypedModelPatch, tvec},
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, IntoTensor, Op, StaticName, TypedNode, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::quant::DequantizeLinearF32,
    },
};

use super::{
    prelu::{both_ways, inputs, limited},
    quantize::Quantize,
};

/// What takes the place of such an end, the last operation of which is the node.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(quantize) = Quantize::of(node) else { return Ok(None) };
    let rectified = node.inputs[0];
    let Some(sum) = limited(model, rectified, "Max") else { return Ok(None) };
    let Some(added) = inputs(&model.nodes[sum.node], "Add") else { return Ok(None) };
    let of_bytes = both_ways(added).find_map(|(numbers, shortcut)| {
        let node = &model.nodes[numbers.node];
        Some((node.op_as::<DequantizeLinearF32>()?.clone(), node.inputs[0], shortcut))
    });
    let Some((dequantize, bytes, shortcut)) = of_bytes else { return Ok(None) };
    let [of_bytes, of_shortcut, fact] =
        [model.outlet_fact(bytes)?, model.outlet_fact(shortcut)?, model.outlet_fact(rectified)?];
    let known = of_bytes.datum_type == DatumType::U8
        && of_shortcut.datum_type == DatumType::F32
        && of_shortcut.shape == of_bytes.shape
        && fact.shape == of_bytes.shape;
    if !known {
        return Ok(None);
    }
    let facts = [fact.clone(), node.outputs[0].fact.clone()];
    let operator = Residual { dequantize, quantize: quantize.clone(), facts };
    let mut patch = TypedModelPatch::new("the end of a residual block at once");
    let inputs = [patch.tap_model(model, bytes)?, patch.tap_model(model, shortcut)?];
    let outputs = patch.wire_node(&*node.name, operator, &inputs)?;
    patch.shunt_outside(model, rectified, outputs[0])?;
    patch.shunt_outside(model, node.id.into(), outputs[1])?;
    Ok(Some(patch))
}

/// Inputs are the bytes and the shortcut, outputs the rectified sum and its bytes, all of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Residual {
    dequantize: DequantizeLinearF32,
    quantize: Quantize,
    facts: [TypedFact; 2],
}

impl Op for Residual {
    fn name(&self) -> StaticName {
        "Residual".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Residual {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let mut sum = inputs.remove(1).into_tensor();
        let mut output = Tensor::zero::<u8>(sum.shape())?;
        let bytes = inputs[0].try_as_plain_ram()?;
        let bytes = bytes.as_slice::<u8>()?;
        if bytes.len() != sum.len() {
            bail!("{} bytes and a shortcut of {} numbers", bytes.len(), sum.len());
        }
        let mut plain = sum.try_as_plain_ram_mut()?;
        let mut of_output = output.try_as_plain_ram_mut()?;
        let places = plain.as_slice_mut::<f32>()?.iter_mut().zip(of_output.as_slice_mut::<u8>()?);
        let DequantizeLinearF32 { scale, zero_point } = self.dequantize;
        for ((sum, place), byte) in places.zip(bytes) {
            *sum = (i32::from(*byte).wrapping_sub(zero_point) as f32 * scale + *sum).max(0.0);
            *place = self.quantize.quantize(*sum);
        }
        Ok(tvec!(sum.into_tvalue(), output.into_tvalue()))
    }
}

impl TypedOp for Residual {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(self.facts.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::{DatumTypeExt, IntoRunnable, SpecialOps},
        tract_core::ops::{element_wise::ElementWiseOp, math},
    };

    fn run(model: TypedModel, inputs: &[Tensor]) -> (Vec<f32>, Vec<u8>) {
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let outputs = plan.run(inputs.iter().map(|input| input.clone().into_tvalue()).collect()).unwrap();
        (
            outputs[0].try_as_plain_ram().unwrap().as_slice().unwrap().to_vec(),
            outputs[1].try_as_plain_ram().unwrap().as_slice().unwrap().to_vec(),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// The four operations one after the other are the oracle.
        #[test]
        fn at_once_it_gives_the_same_numbers_and_bytes(
            shape in proptest::array::uniform3(1usize..6),
            bytes_first: bool,
            zero_points in proptest::array::uniform2(0u8..=255),
            scales in proptest::array::uniform2(0.001f32..0.1),
            seed: u8,
        ) {
            let shape = [1, shape[0], shape[1], shape[2]];
            let bytes: Vec<u8> = (0..shape.iter().product()).map(|index: usize| (index * 37 + usize::from(seed)) as u8).collect();
            let shortcut: Vec<f32> = bytes.iter().map(|byte| f32::from(byte.wrapping_mul(89)) / 16.0 - 8.0).collect();
            let mut model = TypedModel::default();
            let input = model.add_source("bytes", DatumType::U8.fact(shape)).unwrap();
            let shortcut_wire = model.add_source("shortcut", DatumType::F32.fact(shape)).unwrap();
            let dequantize = DequantizeLinearF32 { scale: scales[0], zero_point: i32::from(zero_points[0]) };
            let numbers = model.wire_node("numbers", dequantize, &[input]).unwrap()[0];
            let added = if bytes_first { [numbers, shortcut_wire] } else { [shortcut_wire, numbers] };
            let sum = model.wire_node("sum", math::add(), &added).unwrap()[0];
            let zero = model.add_const("zero", Tensor::zero::<f32>(&[1, 1, 1, 1]).unwrap()).unwrap();
            let rectified = model.wire_node("rectified", math::max(), &[sum, zero]).unwrap()[0];
            let quantize = Quantize { scale: scales[1], zero_point: zero_points[1] };
            let output = model.wire_node("output", ElementWiseOp(Box::new(quantize), None), &[rectified]).unwrap()[0];
            model.select_output_outlets(&[rectified, output]).unwrap();
            let one_by_one = model.clone();
            crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
            prop_assert!(model.nodes.iter().any(|node| node.op_is::<Residual>()));
            let inputs = [Tensor::from_shape(&shape, &bytes).unwrap(), Tensor::from_shape(&shape, &shortcut).unwrap()];
            prop_assert_eq!(run(model, &inputs), run(one_by_one, &inputs));
        }
    }
}
