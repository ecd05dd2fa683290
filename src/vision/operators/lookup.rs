//! What stands between two quantized convolutions, looked up.
//!
//! A net in integer arithmetic turns the bytes of a convolution into real numbers, rectifies these, takes the greatest of each window, and quantizes
//! again: four passes. But a byte has 256 values only, so for each channel what becomes of it stands in a table, made by the same
//! calculations. The greatest of a window is then one of bytes; where a table nowhere falls, it is taken first, and the fewer numbers are looked up.

use tract_onnx::{
    prelude::{DatumType, IntoTValue, TValue, TVec, Tensor, TractResult, TypedFact, TypedModel, TypedModelPatch, tvec},
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, Op, StaticName, TypedNode, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::{cnn::MaxPool, quant::DequantizeLinearF32},
    },
};

use super::{maxpool::Pooling, prelu, quantize::Quantize, window::Windows};

/// What takes the place of such operations, the last of which is the node.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(quantize) = Quantize::of(node) else { return Ok(None) };
    let mut before = &model.nodes[node.inputs[0].node];
    let pool = before.op_as::<MaxPool>();
    if pool.is_some() {
        before = &model.nodes[before.inputs[0].node];
    }
    let Some((source, slopes)) = prelu::rectified(model, before) else { return Ok(None) };
    let before = &model.nodes[source.node];
    let Some(dequantize) = before.op_as::<DequantizeLinearF32>() else { return Ok(None) };
    let fact = model.outlet_fact(before.inputs[0])?;
    let Some([1, channels, inner @ ..]) = fact.shape.as_concrete() else { return Ok(None) };
    let inner: usize = inner.iter().product();
    // With a scale below zero quantizing turns the greatest into the least.
    let known = fact.datum_type == DatumType::U8 && channels * inner > 0 && quantize.scale > 0.0;
    let Some(slopes) = prelu::of_channels::<f32>(model, slopes, *channels).filter(|_| known) else { return Ok(None) };
    // A window that lies beside the picture has no byte to look up.
    let windows = pool.map(|pool| {
        Windows::new(&pool.pool_spec, fact)
            .filter(|windows| pool.with_index_outputs.is_none() && windows.all_reach_the_picture())
    });
    if windows == Some(None) {
        return Ok(None);
    }
    let numbers: [f32; 256] =
        std::array::from_fn(|byte| (byte as i32).wrapping_sub(dequantize.zero_point) as f32 * dequantize.scale);
    let table = |slope: &f32| {
        let mut bytes = [0; 256];
        for (byte, number) in bytes.iter_mut().zip(&numbers) {
            *byte = quantize.quantize(prelu::rectify(*number, *slope));
        }
        Table { bytes, rising: bytes.is_sorted() }
    };
    let operator = Lookup {
        tables: slopes.iter().map(table).collect(),
        inner,
        windows: windows.flatten(),
        fact: node.outputs[0].fact.clone(),
    };
    let mut patch = TypedModelPatch::new("bytes looked up");
    let source = patch.tap_model(model, before.inputs[0])?;
    let wire = patch.wire_node(&*node.name, operator, &[source])?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// What becomes of each byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Table {
    bytes: [u8; 256],
    /// A greater byte never becomes a lesser one.
    rising: bool,
}

impl Table {
    fn look_up(&self, bytes: &[u8], output: &mut [u8]) {
        for (place, byte) in output.iter_mut().zip(bytes) {
            *place = self.bytes[usize::from(*byte)];
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lookup {
    /// One for each channel.
    tables: Vec<Table>,
    /// Numbers of a channel in the input.
    inner: usize,
    /// If the greatest of each window is what comes out.
    windows: Option<Windows>,
    fact: TypedFact,
}

impl Op for Lookup {
    fn name(&self) -> StaticName {
        "Lookup".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Lookup {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let Some(shape) = self.fact.shape.as_concrete() else { bail!("a lookup was planned for no fixed size") };
        let plain = inputs[0].try_as_plain_ram()?;
        let bytes = plain.as_slice::<u8>()?;
        if bytes.len() != self.tables.len() * self.inner {
            bail!("{} bytes where {} channels of {} were planned", bytes.len(), self.tables.len(), self.inner);
        }
        let mut output = Tensor::zero_dt(DatumType::U8, shape)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let outputs = plain.as_slice_mut::<u8>()?;
        let of_channel = outputs.len() / self.tables.len();
        let channels = bytes.chunks_exact(self.inner).zip(outputs.chunks_exact_mut(of_channel)).zip(&self.tables);
        let mut pooling = self.windows.map(|windows| Pooling::new(windows, u8::MIN));
        let mut between = vec![0; self.inner.max(of_channel)];
        for ((bytes, output), table) in channels {
            match &mut pooling {
                None => table.look_up(bytes, output),
                Some(pooling) if table.rising => {
                    pooling.pool(bytes, &mut between[..of_channel]);
                    table.look_up(&between, output);
                }
                Some(pooling) => {
                    table.look_up(bytes, &mut between);
                    pooling.pool(&between[..self.inner], output);
                }
            }
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Lookup {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::operators::window::tests::{pool_spec, windows};
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::{DatumTypeExt, IntoRunnable, SpecialOps, Tensor},
        tract_core::ops::{element_wise::ElementWiseOp, math},
    };

    fn run(model: TypedModel, input: &Tensor) -> Vec<u8> {
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let output = plan.run(tvec!(input.clone().into_tvalue())).unwrap();
        output[0].try_as_plain_ram().unwrap().as_slice::<u8>().unwrap().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// The four operations one after the other are the oracle.
        #[test]
        fn looked_up_it_gives_the_same_bytes(
            windows in windows(),
            pooled: bool,
            scale_below_zero: bool,
            slopes in proptest::collection::vec(-1.5f32..1.0, 10),
            zero_points in proptest::array::uniform2(0u8..=255),
            scales in proptest::array::uniform2(0.001f32..0.1),
            seed: u8,
        ) {
            let Windows { channels, rows, columns } = windows;
            let shape = [1, channels, rows.input, columns.input];
            let bytes: Vec<u8> = (0..shape.iter().product()).map(|index: usize| (index * 37 + usize::from(seed)) as u8).collect();
            let mut model = TypedModel::default();
            let source = model.add_source("input", DatumType::U8.fact(shape)).unwrap();
            let dequantize = DequantizeLinearF32 { scale: scales[0], zero_point: i32::from(zero_points[0]) };
            let numbers = model.wire_node("numbers", dequantize, &[source]).unwrap()[0];
            let slopes = Tensor::from_shape(&[1, channels, 1, 1], &slopes[..channels]).unwrap();
            let slopes = model.add_const("slopes", slopes).unwrap();
            let scaled = model.wire_node("scaled", math::mul(), &[numbers, slopes]).unwrap()[0];
            let mut wire = model.wire_node("rectified", math::max(), &[numbers, scaled]).unwrap()[0];
            if pooled {
                let pool = MaxPool { pool_spec: pool_spec(&windows, channels), with_index_outputs: None };
                wire = model.wire_node("pooled", pool, &[wire]).unwrap()[0];
            }
            let scale = if scale_below_zero { -scales[1] } else { scales[1] };
            let quantize = Quantize { scale, zero_point: zero_points[1] };
            let wire = model.wire_node("output", ElementWiseOp(Box::new(quantize), None), &[wire]).unwrap();
            model.select_output_outlets(&wire).unwrap();
            let one_by_one = model.clone();
            crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
            let known = !scale_below_zero && (!pooled || windows.all_reach_the_picture());
            prop_assert_eq!(model.nodes.iter().any(|node| node.op_is::<Lookup>()), known);

            let input = Tensor::from_shape(&shape, &bytes).unwrap();
            prop_assert_eq!(run(model, &input), run(one_by_one, &input));
        }
    }
}
