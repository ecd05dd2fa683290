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

use super::{
    convolution::FloatConvolution,
    prelu::{Prelu, rectify},
    quantized::Constants,
    window::Windows,
};

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

/// Takes rectifiers before and behind such convolutions of real numbers into them.
pub(super) fn take_in_rectifiers(model: &mut TypedModel) -> TractResult<()> {
    if model.nodes.iter().any(|node| node.op_is::<Depthwise>()) {
        // Operations replaced already would count as successors.
        model.compact()?;
        super::rewrite_by(with_rectifier, model)?;
    }
    Ok(())
}

fn with_rectifier(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(between) = node.inputs.first().filter(|_| node.op_is::<Depthwise>() || node.op_is::<Prelu>()) else {
        return Ok(None);
    };
    let before = &model.nodes[between.node];
    // Unless what lies between them is needed, too.
    if before.outputs[0].successors.len() != 1 || model.outputs.contains(between) {
        return Ok(None);
    }
    let operator = match (before.op_as::<Depthwise>(), node.op_as::<Depthwise>()) {
        (Some(operator), None) if operator.slopes_behind.is_none() => node.op_as::<Prelu>().map(|rectifier| {
            let slopes_behind = Some(rectifier.slopes.clone());
            Depthwise { slopes_behind, ..operator.clone() }
        }),
        (None, Some(operator)) if operator.slopes_before.is_none() => before.op_as::<Prelu>().map(|rectifier| {
            let slopes_before = Some(rectifier.slopes.clone());
            Depthwise { slopes_before, ..operator.clone() }
        }),
        _ => None,
    };
    let Some(operator) = operator.filter(Depthwise::is_real) else { return Ok(None) };
    let mut patch = TypedModelPatch::new("rectified on the way");
    let input = patch.tap_model(model, before.inputs[0])?;
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
    /// Of rectifiers of real numbers, one for each channel, as bits.
    slopes_before: Option<Vec<u32>>,
    slopes_behind: Option<Vec<u32>>,
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
            let weights = real.weights.clone();
            return Ok(Some(Depthwise::new(windows, weights, bias, 0, fact)));
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
        Ok(Some(Depthwise::new(windows, weights, bias, i16::from(zero_point), fact)))
    }

    fn new(windows: Windows, weights: Tensor, bias: Tensor, zero_point: i16, fact: TypedFact) -> Depthwise {
        Depthwise { windows, weights, bias, zero_point, slopes_before: None, slopes_behind: None, fact }
    }

    fn is_real(&self) -> bool {
        self.fact.datum_type == DatumType::F32
    }

    /// What becomes of the channel's numbers before, and of its sums behind the convolution.
    fn convolve<
        N: Datum + Copy,
        T: Datum + Copy + Default,
        R: Datum + Copy,
        B: Fn(N) -> T + Copy,
        E: Fn(R) -> R + Copy,
    >(
        &self,
        input: &Tensor,
        before: impl Fn(usize) -> B,
        add_product: impl Fn(R, T, T) -> R + Copy,
        behind: impl Fn(usize) -> E,
    ) -> TractResult<Tensor> {
        let Some(shape) = self.fact.shape.as_concrete() else { bail!("a convolution was planned for no fixed size") };
        let Windows { channels, rows, columns } = self.windows;
        let [input, weights, bias] =
            [input.try_as_plain_ram()?, self.weights.try_as_plain_ram()?, self.bias.try_as_plain_ram()?];
        let (input, weights) = (input.as_slice::<N>()?, weights.as_slice::<T>()?.as_chunks::<PLACES>().0);
        let inner = rows.input * columns.input;
        if input.len() != channels * inner || weights.len() != channels {
            bail!("{} numbers where {channels} channels were planned", input.len());
        }
        let mut output = Tensor::zero_dt(R::datum_type(), shape)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let (n, moves, places) = (self.windows.n(), self.windows.moves(), self.windows.places());
        let mut spread = vec![T::default(); moves.len() * self.windows.spread_size()];
        let pictures = input.chunks_exact(inner).zip(plain.as_slice_mut::<R>()?.chunks_exact_mut(n));
        let constants = weights.iter().zip(bias.as_slice::<R>()?);
        for (channel, ((picture, output), (weights, bias))) in pictures.zip(constants).enumerate() {
            self.windows.spread(picture, before(channel), T::default(), &moves, &mut spread);
            let mut met: [&[T]; PLACES] = [&[]; PLACES];
            met.iter_mut().zip(&places).for_each(|(row, at)| *row = &spread[*at..][..n]);
            let behind = behind(channel);
            add_up(*bias, &met, weights, output, add_product, behind);
        }
        Ok(output)
    }
}

/// So many sums at once. For fewer it takes as long to go on in nine rows as to add up.
const SUMS: usize = 16;

/// Nine rows, each times its weight.
fn add_up<T: Copy, R: Copy>(
    bias: R,
    rows: &[&[T]; PLACES],
    weights: &[T; PLACES],
    sums: &mut [R],
    add_product: impl Fn(R, T, T) -> R + Copy,
    behind: impl Fn(R) -> R + Copy,
) {
    let count = sums.len();
    add_up_blocks(bias, rows, weights, sums, add_product, behind);
    if count < SUMS {
        for (index, sum) in sums.iter_mut().enumerate() {
            let products = rows.iter().zip(weights);
            *sum = behind(products.fold(bias, |sum, (row, weight)| add_product(sum, row[index], *weight)));
        }
    } else if !count.is_multiple_of(SUMS) {
        // The last ones, with some of those before them once more.
        let last = count - SUMS..count;
        let mut ends = *rows;
        ends.iter_mut().for_each(|row| *row = &row[last.clone()]);
        add_up_blocks(bias, &ends, weights, &mut sums[last], add_product, behind);
    }
}

/// The same but for a rest of less than a block. A function of its own: there the compiler knows
/// that the sums lie in none of the rows.
#[inline(never)]
fn add_up_blocks<T: Copy, R: Copy>(
    bias: R,
    rows: &[&[T]; PLACES],
    weights: &[T; PLACES],
    sums: &mut [R],
    add_product: impl Fn(R, T, T) -> R,
    behind: impl Fn(R) -> R,
) {
    let (count, weights) = (sums.len(), *weights);
    let mut blocks: [&[[T; SUMS]]; PLACES] = [&[]; PLACES];
    blocks.iter_mut().zip(rows).for_each(|(blocks, row)| *blocks = row[..count].as_chunks().0);
    for (index, place) in sums.as_chunks_mut::<SUMS>().0.iter_mut().enumerate() {
        let mut sums = [bias; SUMS];
        for (blocks, weight) in blocks.iter().zip(weights) {
            sums.iter_mut().zip(&blocks[index]).for_each(|(sum, it)| *sum = add_product(*sum, *it, weight));
        }
        sums.iter_mut().for_each(|sum| *sum = behind(*sum));
        *place = sums;
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
        let input = &inputs[0];
        let output = if self.is_real() {
            let rectifier = |slopes: &Option<Vec<u32>>, channel: usize| {
                let slope = slopes.as_ref().map_or(1.0, |slopes| f32::from_bits(slopes[channel]));
                move |number: f32| rectify(number, slope)
            };
            let before = |channel| rectifier(&self.slopes_before, channel);
            let behind = |channel| rectifier(&self.slopes_behind, channel);
            if cfg!(target_arch = "aarch64") {
                // Every such processor has it in one instruction.
                self.convolve(input, before, |sum: f32, a: f32, b| a.mul_add(b, sum), behind)
            } else {
                self.convolve(input, before, |sum: f32, a: f32, b| a * b + sum, behind)
            }
        } else {
            let product = |a: i16, b: i16| i32::from(a).wrapping_mul(i32::from(b));
            let number = |byte: u8| i16::from(byte).wrapping_sub(self.zero_point);
            self.convolve(input, |_| number, |sum: i32, a, b| sum.wrapping_add(product(a, b)), |_| |sum| sum)
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
        prelude::{DatumTypeExt, IntoRunnable, IntoTensor, OutletId, SpecialOps},
        tract_core::{
            internal::Approximation,
            ops::{
                binary::TypedBinOp,
                logic::{Iff, comp_gt},
                math,
            },
        },
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

    /// What this operator and the library's make of the same input; the rectifiers' slopes come
    /// last.
    fn both(
        windows: &Windows,
        q_params: Option<DatumType>,
        input: Tensor,
        constants: Vec<Tensor>,
        [before, behind]: [Option<Tensor>; 2],
    ) -> [Tensor; 2] {
        let mut model = TypedModel::default();
        let fact = input.datum_type().fact(input.shape());
        let source = model.add_source("input", fact).unwrap();
        let mut wires = vec![before.map_or(source, |slopes| rectify(&mut model, "before", source, slopes))];
        for (index, constant) in constants.into_iter().enumerate() {
            wires.push(model.add_const(format!("constant{index}"), constant).unwrap());
        }
        let group = windows.channels;
        let pool_spec = pool_spec(windows, group);
        let convolution = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group, q_params };
        let mut output = model.wire_node("convolution", convolution, &wires).unwrap()[0];
        if let Some(slopes) = behind {
            output = rectify(&mut model, "behind", output, slopes);
        }
        model.select_output_outlets(&[output]).unwrap();
        let of_the_library = model.clone();
        for in_place_of in [in_place_of, crate::vision::operators::prelu::in_place_of] {
            crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
        }
        take_in_rectifiers(&mut model).unwrap();
        let model = model.into_compact().unwrap();
        let operators = model.nodes.iter().filter(|node| !node.inputs.is_empty());
        assert_eq!(operators.map(|node| node.op.name()).collect::<Vec<_>>(), ["Depthwise"]);
        [model, of_the_library].map(|model| {
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            plan.run(tvec!(input.clone().into_tvalue())).unwrap().remove(0).into_tensor()
        })
    }

    /// As the library reads it from a file.
    fn rectify(model: &mut TypedModel, name: &str, wire: OutletId, slopes: Tensor) -> OutletId {
        let mut constant = |of: &str, tensor: Tensor| model.add_const(format!("{name}.{of}"), tensor).unwrap();
        let slopes = constant("slopes", slopes);
        let zero = constant("zero", Tensor::zero::<f32>(&[1, 1, 1, 1]).unwrap());
        let below = model.wire_node(format!("{name}.below"), TypedBinOp(comp_gt(), None), &[zero, wire]).unwrap()[0];
        let product = model.wire_node(format!("{name}.product"), math::mul(), &[slopes, wire]).unwrap()[0];
        model.wire_node(name, Iff, &[below, product, wire]).unwrap()[0]
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
            let [ours, theirs] = both(&windows, Some(DatumType::I32), input, constants, [None, None]);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn real_numbers_are_those_of_the_library(windows in windows(), rectified: [bool; 2], seed: u8) {
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
            let slopes = |seed| Tensor::from_shape(&[1, channels, 1, 1], &real(channels, seed)).unwrap();
            let rectifiers = [rectified[0].then(|| slopes(seed)), rectified[1].then(|| slopes(!seed))];
            let [ours, theirs] = both(&windows, None, input, constants, rectifiers);
            prop_assert!(ours.close_enough(&theirs, Approximation::Close).is_ok());
        }
    }
}
