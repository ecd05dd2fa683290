//! Convolutions of 3 × 3, each channel by itself: real numbers, or bytes to sums of integers.
//!
//! Each channel is spread as for [patches](super::patches): what a place of the window
//! meets is one contiguous row then. Nine of these are added up, each times its weight.

use tract_onnx::{
    prelude::{
        Datum, DatumType, IntoTValue, TValue, TVec, Tensor, TractResult, TypedFact, TypedModel, TypedModelPatch, tvec,
    },
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, Op, StaticName, TypedNode, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::cnn::{Conv, KernelFormat},
    },
};

use super::{convolution::FloatConvolution, quantized::Constants, window::Windows};

/// Places of a window.
const PLACES: usize = 9;

/// What takes the place of a convolution of that kind.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(convolution) = node.op_as::<Conv>() else { return Ok(None) };
    let Some(operator) = Depthwise::of(model, node, convolution)? else { return Ok(None) };
    let mut patch = TypedModelPatch::new("each channel by itself");
    let input = patch.tap_model(model, node.inputs[0])?;
    let wire = patch.wire_node(&*node.name, operator, &[input])?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Depthwise {
    windows: Windows,
    /// Nine for each channel: real numbers, or integers of 16 bits as bytes less a zero
    /// point are, too.
    weights: Tensor,
    /// One for each channel, of the output's type.
    bias: Tensor,
    zero_point: i16,
    fact: TypedFact,
}

impl Depthwise {
    fn of(model: &TypedModel, node: &TypedNode, convolution: &Conv) -> TractResult<Option<Depthwise>> {
        let channels = convolution.output_channels();
        let input = model.outlet_fact(node.inputs[0])?;
        let known = convolution.group == channels
            && convolution.input_channels() == channels
            && convolution.kernel_fmt == KernelFormat::OIHW
            && convolution.pool_spec.kernel_shape[..] == [3, 3];
        let Some(windows) = Windows::new(&convolution.pool_spec, input).filter(|_| known) else { return Ok(None) };
        let fact = node.outputs[0].fact.clone();
        if let Some(real) = FloatConvolution::of(model, node, convolution, channels)? {
            let bias = Tensor::from_shape(&[channels], &real.bias)?;
            return Ok(Some(Depthwise { windows, weights: real.weights.clone(), bias, zero_point: 0, fact }));
        }
        if convolution.q_params != Some(DatumType::I32) || input.datum_type != DatumType::U8 {
            return Ok(None);
        }
        let constants = Constants::of(model, &node.inputs, channels)?.filter(Constants::leave_sums_alone);
        let Some(Constants { weights, bias, zero_point, .. }) = constants else { return Ok(None) };
        let Ok(zero_point) = u8::try_from(zero_point) else { return Ok(None) };
        let weights: Vec<i16> = weights.iter().map(|weight| i16::from(*weight)).collect();
        let weights = Tensor::from_shape(&[weights.len()], &weights)?;
        let bias = Tensor::from_shape(&[channels], &bias)?;
        Ok(Some(Depthwise { windows, weights, bias, zero_point: i16::from(zero_point), fact }))
    }

    fn convolve<N: Datum + Copy, T: Datum + Copy + Default, R: Datum + Copy>(
        &self,
        input: &Tensor,
        number: impl Fn(N) -> T,
        add_product: impl Fn(R, T, T) -> R + Copy,
    ) -> TractResult<Tensor> {
        let Some(shape) = self.fact.shape.as_concrete() else { bail!("a convolution was planned for no fixed size") };
        let Windows { channels, rows, columns } = self.windows;
        let [input, weights, bias] =
            [input.try_as_plain_ram()?, self.weights.try_as_plain_ram()?, self.bias.try_as_plain_ram()?];
        let (input, weights) = (input.as_slice::<N>()?, weights.as_slice::<T>()?.as_chunks::<PLACES>().0);
        if input.len() != channels * rows.input * columns.input || weights.len() != channels {
            bail!("{} numbers where {channels} channels were planned", input.len());
        }
        let mut output = Tensor::zero_dt(R::datum_type(), shape)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let (n, moves, places) = (self.windows.n(), self.windows.moves(), self.windows.places());
        let Some(places) = places.first_chunk::<PLACES>() else { bail!("windows have {} places", places.len()) };
        let mut channel = vec![T::default(); rows.input * columns.input];
        let mut spread = vec![T::default(); moves.len() * self.windows.spread_size()];
        let pictures = input.chunks_exact(channel.len()).zip(plain.as_slice_mut::<R>()?.chunks_exact_mut(n));
        for ((picture, output), (weights, bias)) in pictures.zip(weights.iter().zip(bias.as_slice::<R>()?)) {
            channel.iter_mut().zip(picture).for_each(|(place, it)| *place = number(*it));
            self.windows.spread(&channel, T::default(), &moves, &mut spread);
            add_up(*bias, places.map(|at| &spread[at..][..n]), weights, output, add_product);
        }
        Ok(output)
    }
}

/// A function of its own: there the compiler knows that the sums lie in none of the rows.
#[inline(never)]
fn add_up<T: Copy, R: Copy>(
    bias: R,
    rows: [&[T]; PLACES],
    weights: &[T; PLACES],
    sums: &mut [R],
    add_product: impl Fn(R, T, T) -> R,
) {
    let (rows, weights) = (rows.map(|row| &row[..sums.len()]), *weights);
    for (index, sum) in sums.iter_mut().enumerate() {
        *sum = (0..PLACES).fold(bias, |sum, place| add_product(sum, rows[place][index], weights[place]));
    }
}

impl Op for Depthwise {
    fn name(&self) -> StaticName {
        "Depthwise".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Depthwise {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let output = if self.fact.datum_type == DatumType::I32 {
            let product = |a: i16, b: i16| i32::from(a).wrapping_mul(i32::from(b));
            let number = |byte: u8| i16::from(byte).wrapping_sub(self.zero_point);
            self.convolve(&inputs[0], number, |sum: i32, a, b| sum.wrapping_add(product(a, b)))
        } else if cfg!(target_arch = "aarch64") {
            // Every such processor has it in one instruction.
            self.convolve(&inputs[0], |number: f32| number, |sum: f32, a: f32, b| a.mul_add(b, sum))
        } else {
            self.convolve(&inputs[0], |number: f32| number, |sum: f32, a: f32, b| a * b + sum)
        };
        Ok(tvec!(output?.into_tvalue()))
    }
}

impl TypedOp for Depthwise {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::operators::window::{Axis, tests::pool_spec};
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::{DatumTypeExt, IntoRunnable, IntoTensor, SpecialOps},
        tract_core::internal::Approximation,
    };

    /// Windows of 3 × 3 with several strides and paddings.
    fn windows() -> impl Strategy<Value = Windows> {
        let axis = (1usize..20, 1usize..4, 0usize..3, 0usize..3);
        let axis = axis.prop_filter_map("the window fits", |(input, stride, before, after)| {
            let room = (input + before + after).checked_sub(3)?;
            Some(Axis { input, output: room / stride + 1, window: 3, stride, before })
        });
        (2usize..20, axis.clone(), axis).prop_map(|(channels, rows, columns)| Windows { channels, rows, columns })
    }

    /// What this operator and the library's make of the same input.
    fn both(windows: &Windows, q_params: Option<DatumType>, input: Tensor, constants: Vec<Tensor>) -> [Tensor; 2] {
        let mut model = TypedModel::default();
        let fact = input.datum_type().fact(input.shape());
        let mut wires = vec![model.add_source("input", fact).unwrap()];
        for (index, constant) in constants.into_iter().enumerate() {
            wires.push(model.add_const(format!("constant{index}"), constant).unwrap());
        }
        let group = windows.channels;
        let pool_spec = pool_spec(windows, group);
        let convolution = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group, q_params };
        let output = model.wire_node("convolution", convolution, &wires).unwrap();
        model.select_output_outlets(&output).unwrap();
        let of_the_library = model.clone();
        crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
        assert!(model.nodes.iter().any(|node| node.op_is::<Depthwise>()));
        [model, of_the_library].map(|model| {
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            plan.run(tvec!(input.clone().into_tvalue())).unwrap().remove(0).into_tensor()
        })
    }

    fn bytes(count: usize, seed: u8) -> Vec<u8> {
        (0..count).map(|index| ((index * 37) ^ (index >> 3) ^ usize::from(seed)) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn sums_are_those_of_the_library(windows in windows(), zero_point: u8, bias: i32, seed: u8) {
            let Windows { channels, rows, columns } = windows;
            let shape = [1, channels, rows.input, columns.input];
            let input = Tensor::from_shape(&shape, &bytes(shape.iter().product(), seed)).unwrap();
            let weights: Vec<i8> = bytes(channels * PLACES, !seed).into_iter().map(|byte| byte as i8).collect();
            let biases: Vec<i32> = (0..channels as i32).map(|channel| bias / 4 - channel).collect();
            let constants = vec![
                Tensor::from_shape(&[channels, 1, 3, 3], &weights).unwrap(),
                Tensor::from_shape(&[channels], &biases).unwrap(),
                Tensor::from(i32::from(zero_point)),
                Tensor::from(1f32),
                Tensor::from(0i32),
                Tensor::from(1f32),
                Tensor::from(0i32),
                Tensor::from(1f32),
            ];
            let [ours, theirs] = both(&windows, Some(DatumType::I32), input, constants);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn real_numbers_are_those_of_the_library(windows in windows(), seed: u8) {
            let Windows { channels, rows, columns } = windows;
            let shape = [1, channels, rows.input, columns.input];
            let real = |count: usize, seed: u8| -> Vec<f32> {
                bytes(count, seed).into_iter().map(|byte| f32::from(byte) / 64.0 - 2.0).collect()
            };
            let input = Tensor::from_shape(&shape, &real(shape.iter().product(), seed)).unwrap();
            let constants = vec![
                Tensor::from_shape(&[channels, 1, 3, 3], &real(channels * PLACES, !seed)).unwrap(),
                Tensor::from_shape(&[channels], &real(channels, seed ^ 85)).unwrap(),
            ];
            let [ours, theirs] = both(&windows, None, input, constants);
            prop_assert!(ours.close_enough(&theirs, Approximation::Close).is_ok());
        }
    }
}
