//! What becomes of a convolution's sums of integers: a bias is added, each channel has its
//! scale, a rectifier follows, and bytes for the next convolution.
//!
//! For the library these are eight passes over the picture; here it is one. Products and sums
//! are rounded one by one, as the standard says.

use tract_onnx::{
    prelude::{
        Datum, DatumType, IntoTValue, OutletId, TValue, TVec, Tensor, TractResult, TypedFact, TypedModel,
        TypedModelPatch, tvec,
    },
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, Op, StaticName, TypedNode, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::cast::Cast,
    },
};

use super::{
    prelu::{both_ways, inputs, of_channels, rectified},
    quantize::{Quantize, greater, lesser},
};

/// What takes the place of the operations up to the node. Later ones take in earlier ones.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((source, operator)) =
        scaled(model, node).or_else(|| rectified_too(model, node)).or_else(|| quantized_too(model, node))
    else {
        return Ok(None);
    };
    let mut patch = TypedModelPatch::new("what becomes of sums, at once");
    let source = patch.tap_model(model, source)?;
    let wire = patch.wire_node(&*node.name, operator, &[source])?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// Sums, and the operator for them if the node multiplies sums and biases with scales.
fn scaled(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, Sums)> {
    both_ways(inputs(node, "Mul")?).find_map(|(real, scales)| {
        let cast = &model.nodes[real.node];
        cast.op_as::<Cast>().filter(|cast| cast.to == DatumType::F32)?;
        let fact = node.outputs[0].fact.clone();
        let &[1, channels, ..] = fact.shape.as_concrete()? else { return None };
        let scales = of_channels::<f32>(model, scales, channels)?;
        let channel = |scale: &f32| Channel { bias: 0, scale: *scale, slope: None };
        let mut operator = Sums { channels: scales.iter().map(channel).collect(), quantize: None, fact };
        let mut sums = cast.inputs[0];
        while let Some((before, biases)) = biased(model, sums, channels) {
            let places = operator.channels.iter_mut().zip(biases);
            places.for_each(|(channel, bias)| channel.bias = channel.bias.wrapping_add(*bias));
            sums = before;
        }
        let of_sums = model.outlet_fact(sums).ok()?;
        let known = of_sums.datum_type == DatumType::I32 && of_sums.shape == operator.fact.shape;
        (known && operator.fact.shape.volume() != 0.into()).then_some((sums, operator))
    })
}

/// What a bias for each channel is added to.
fn biased(model: &TypedModel, sums: OutletId, channels: usize) -> Option<(OutletId, &[i32])> {
    let added = inputs(&model.nodes[sums.node], "Add")?;
    both_ways(added).find_map(|(before, bias)| Some((before, of_channels(model, bias, channels)?)))
}

fn rectified_too(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, Sums)> {
    let (source, slopes) = rectified(model, node)?;
    let before = &model.nodes[source.node];
    let mut operator = before.op_as::<Sums>()?.clone();
    let slopes = of_channels::<f32>(model, slopes, operator.channels.len())?;
    if operator.quantize.is_some() || operator.channels.iter().any(|channel| channel.slope.is_some()) {
        return None;
    }
    operator.channels.iter_mut().zip(slopes).for_each(|(channel, slope)| channel.slope = Some(*slope));
    Some((before.inputs[0], operator))
}

/// Unless the real numbers are needed, too.
fn quantized_too(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, Sums)> {
    let quantize = Quantize::of(node)?;
    let before = &model.nodes[node.inputs[0].node];
    let operator = before.op_as::<Sums>()?;
    let alone = before.outputs[0].successors.len() == 1 && !model.outputs.contains(&node.inputs[0]);
    let fact = node.outputs[0].fact.clone();
    let known = alone && operator.quantize.is_none();
    known.then(|| (before.inputs[0], Sums { quantize: Some(quantize.clone()), fact, ..operator.clone() }))
}

#[derive(Clone, Debug, PartialEq)]
struct Sums {
    channels: Vec<Channel>,
    quantize: Option<Quantize>,
    fact: TypedFact,
}

/// Its numbers come from verified files and are numbers.
impl Eq for Sums {}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Channel {
    bias: i32,
    scale: f32,
    slope: Option<f32>,
}

impl Sums {
    /// Each number in two steps, for the compiler's sake.
    fn all<T: Datum + Copy + Default>(
        &self,
        sums: &Tensor,
        first: impl Fn(f32) -> f32 + Copy,
        second: impl Fn(f32) -> T + Copy,
    ) -> TractResult<TVec<TValue>> {
        let sums = sums.try_as_plain_ram()?;
        let sums = sums.as_slice::<i32>()?;
        let Some(shape) = self.fact.shape.as_concrete() else { bail!("sums were planned for no fixed size") };
        let mut output = Tensor::zero_dt(T::datum_type(), shape)?;
        if sums.len() != output.len() || self.channels.is_empty() {
            bail!("{} sums where {} were planned", sums.len(), output.len());
        }
        let inner = sums.len() / self.channels.len();
        let mut plain = output.try_as_plain_ram_mut()?;
        let places = sums.chunks_exact(inner).zip(plain.as_slice_mut::<T>()?.chunks_exact_mut(inner));
        for (channel, (sums, places)) in self.channels.iter().zip(places) {
            channel.each(sums, places, first, second);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl Channel {
    fn each<T: Copy + Default>(
        self,
        sums: &[i32],
        places: &mut [T],
        first: impl Fn(f32) -> f32,
        second: impl Fn(f32) -> T,
    ) {
        let Channel { bias, scale, slope } = self;
        let number = |sum: i32| sum.wrapping_add(bias) as f32 * scale;
        let rectified = |sum: i32, slope: f32, choose: fn(f32, f32) -> f32| {
            let number = number(sum);
            choose(number * slope, number)
        };
        match slope {
            None => in_blocks(sums, places, |sum| first(number(sum)), second),
            Some(slope) if slope <= 1.0 => {
                in_blocks(sums, places, |sum| first(rectified(sum, slope, greater)), second);
            }
            Some(slope) => in_blocks(sums, places, |sum| first(rectified(sum, slope, lesser)), second),
        }
    }
}

/// Sixteen at a time: a vector of bytes on every processor. In one step the compiler would
/// narrow them four by four.
fn in_blocks<T: Copy + Default>(sums: &[i32], places: &mut [T], first: impl Fn(i32) -> f32, second: impl Fn(f32) -> T) {
    let ((sums, rest), (places, of_rest)) = (sums.as_chunks::<16>(), places.as_chunks_mut::<16>());
    for (place, sums) in places.iter_mut().zip(sums) {
        // Four blocks at once would cost it twice the instructions.
        std::hint::black_box(());
        let (mut between, mut results) = ([0.0; 16], [T::default(); 16]);
        between.iter_mut().zip(sums).for_each(|(place, sum)| *place = first(*sum));
        results.iter_mut().zip(between).for_each(|(place, number)| *place = second(number));
        *place = results;
    }
    of_rest.iter_mut().zip(rest).for_each(|(place, sum)| *place = second(first(*sum)));
}

impl Op for Sums {
    fn name(&self) -> StaticName {
        "Sums".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Sums {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        match &self.quantize {
            None => self.all(&inputs[0], |number| number, |number| number),
            // Dividing by 1 changes nothing.
            Some(quantize) if quantize.scale == 1.0 => {
                self.all(&inputs[0], |number| quantize.rounded(number), |rounded| quantize.byte(rounded))
            }
            Some(quantize) => {
                let first = |number| quantize.rounded(number / quantize.scale);
                self.all(&inputs[0], first, |rounded| quantize.byte(rounded))
            }
        }
    }
}

impl TypedOp for Sums {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::{DatumTypeExt, IntoRunnable, IntoTensor, SpecialOps},
        tract_core::ops::{
            binary::TypedBinOp,
            cast::cast,
            element_wise::ElementWiseOp,
            logic::{Iff, comp_gt},
            math,
        },
    };

    fn run(model: TypedModel, input: &Tensor) -> Vec<Tensor> {
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let outputs = plan.run(tvec!(input.clone().into_tvalue())).unwrap();
        outputs.into_iter().map(TValue::into_tensor).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        /// The operations one after the other are the oracle.
        #[test]
        fn at_once_they_give_the_same_numbers_and_bytes(
            channels in proptest::collection::vec((-9000i32..9000, 0.0001f32..0.01, -3f32..3.0), 1..9),
            inner in 1usize..40,
            has_slopes: bool,
            has_bytes: bool,
            real_too: bool,
            scale in prop_oneof![Just(1f32), 0.1f32..2.0],
            zero_point: u8,
            seed: u8,
        ) {
            let shape = [1, channels.len(), 1, inner];
            let of_channels = [1, channels.len(), 1, 1];
            let sums: Vec<i32> = (0..channels.len() * inner)
                .map(|index| ((index * 7919 + usize::from(seed) * 524) % 60_000) as i32 - 30_000)
                .collect();
            let mut model = TypedModel::default();
            let source = model.add_source("sums", DatumType::I32.fact(shape)).unwrap();
            let mut constant = |name: &str, tensor: Tensor| model.add_const(name, tensor).unwrap();
            let numbers = |of: fn(&(i32, f32, f32)) -> f32| {
                Tensor::from_shape(&of_channels, &channels.iter().map(of).collect::<Vec<_>>()).unwrap()
            };
            let biases: Vec<i32> = channels.iter().map(|channel| channel.0).collect();
            let biases = constant("biases", Tensor::from_shape(&of_channels, &biases).unwrap());
            let [scales, slopes] = [("scales", numbers(|it| it.1)), ("slopes", numbers(|it| it.2))].map(|(n, t)| constant(n, t));
            let zero = constant("zero", Tensor::zero::<f32>(&[1, 1, 1, 1]).unwrap());
            let biased = model.wire_node("biased", math::add(), &[source, biases]).unwrap()[0];
            let real = model.wire_node("real", cast(DatumType::F32), &[biased]).unwrap()[0];
            let mut wire = model.wire_node("scaled", math::mul(), &[real, scales]).unwrap()[0];
            if has_slopes {
                let below = model.wire_node("below", TypedBinOp(comp_gt(), None), &[zero, wire]).unwrap()[0];
                let product = model.wire_node("product", math::mul(), &[slopes, wire]).unwrap()[0];
                wire = model.wire_node("rectified", Iff, &[below, product, wire]).unwrap()[0];
            }
            let mut outputs = vec![wire];
            if has_bytes {
                let quantize = ElementWiseOp(Box::new(Quantize { scale, zero_point }), None);
                outputs.push(model.wire_node("bytes", quantize, &[wire]).unwrap()[0]);
                outputs.drain(..usize::from(!real_too));
            }
            model.select_output_outlets(&outputs).unwrap();
            let one_by_one = model.clone();
            crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
            let left = |name: &str| model.eval_order().unwrap().iter().filter(|id| model.nodes[**id].op.name() == name).count();
            prop_assert_eq!([left("Sums"), left("Cast"), left("Iff")], [1, 0, 0]);
            prop_assert_eq!(left("QuantizeLinear"), usize::from(has_bytes && real_too));
            let input = Tensor::from_shape(&shape, &sums).unwrap();
            prop_assert_eq!(run(model, &input), run(one_by_one, &input));
        }
    }
}
