//! Rectifiers with a slope below zero (He et al. 2015, "Delving Deep into Rectifiers", equation 1), one for each channel.
//!
//! The nets' files write them as sums, products and limits, `max(x, a·x)` or `max(x, 0) + a·min(x, 0)`, each of which the library makes a pass
//! over the picture of; so it does of PRelu, which it takes to `if 0 > x then a·x else x`. Here it is one pass, in the place
//! where the numbers lie.

use tract_onnx::{
    prelude::{
        Datum, DatumType, DatumTypeExt, IntoTValue, OutletId, TValue, TVec, TractResult, TypedFact, TypedModel,
        TypedModelPatch, tvec,
    },
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, IntoTensor, Op, StaticName, TypedNode, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::{binary::TypedBinOp, logic::Iff},
    },
};

use super::quantize::{greater, lesser};

/// What takes the place of such sums and limits.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some((source, slopes)) = rectified(model, node) else { return Ok(None) };
    let fact = model.outlet_fact(source)?;
    let Some([1, channels, inner @ ..]) = fact.shape.as_concrete() else { return Ok(None) };
    let inner: usize = inner.iter().product();
    let known = fact.datum_type == DatumType::F32 && inner > 0;
    let Some(slopes) = of_channels::<f32>(model, slopes, *channels).filter(|_| known) else { return Ok(None) };
    let operator = Prelu { slopes: slopes.iter().map(|slope| slope.to_bits()).collect(), inner };
    let mut patch = TypedModelPatch::new("a rectifier at once");
    let source = patch.tap_model(model, source)?;
    let wire = patch.wire_node(&*node.name, operator, &[source])?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// What is rectified, and by which slopes, where the node is the last of one of the three forms.
pub(super) fn rectified(model: &TypedModel, node: &TypedNode) -> Option<(OutletId, OutletId)> {
    if node.op_is::<Iff>() {
        let [below, scaled, source] = node.inputs[..] else { return None };
        let [zero, compared] = inputs(&model.nodes[below.node], "GT")?;
        let scaled = both_ways(inputs(&model.nodes[scaled.node], "Mul")?);
        let slopes = scaled.filter(|(scaled, _)| *scaled == source).map(|(_, slopes)| slopes).next()?;
        return (compared == source && constant::<f32>(model, zero)? == [0.0]).then_some((source, slopes));
    }
    if let Some(inputs_of_max) = inputs(node, "Max") {
        return both_ways(inputs_of_max).find_map(|(source, scaled)| {
            let scaled = both_ways(inputs(&model.nodes[scaled.node], "Mul")?);
            let slopes = scaled.filter(|(scaled, _)| *scaled == source).map(|(_, slopes)| slopes).next()?;
            // With a greater slope it would be the other way round.
            constant::<f32>(model, slopes)?.iter().all(|slope| *slope <= 1.0).then_some((source, slopes))
        });
    }
    both_ways(inputs(node, "Add")?).find_map(|(above, scaled)| {
        let source = limited(model, above, "Max")?;
        let mut scaled = both_ways(inputs(&model.nodes[scaled.node], "Mul")?);
        scaled.find_map(|(below, slopes)| (limited(model, below, "Min")? == source).then_some((source, slopes)))
    })
}

/// What the outlet is the greatest ("Max") or least ("Min") of, beside zero.
pub(super) fn limited(model: &TypedModel, outlet: OutletId, limit: &str) -> Option<OutletId> {
    both_ways(inputs(&model.nodes[outlet.node], limit)?)
        .find_map(|(source, zero)| (constant::<f32>(model, zero)? == [0.0]).then_some(source))
}

pub(super) fn both_ways([a, b]: [OutletId; 2]) -> impl Iterator<Item = (OutletId, OutletId)> {
    [(a, b), (b, a)].into_iter()
}

/// The two inputs of an operation of that name.
pub(super) fn inputs(node: &TypedNode, name: &str) -> Option<[OutletId; 2]> {
    node.op_as::<TypedBinOp>().filter(|operation| operation.0.name() == name && operation.1.is_none())?;
    node.inputs[..].try_into().ok()
}

/// Constants, if there is one for each channel of one picture.
pub(super) fn of_channels<T: Datum>(model: &TypedModel, outlet: OutletId, channels: usize) -> Option<&[T]> {
    let Some([1, count, beside @ ..]) = model.outlet_fact(outlet).ok()?.shape.as_concrete() else { return None };
    constant(model, outlet).filter(|_| *count == channels && beside.iter().all(|length| *length == 1))
}

fn constant<T: Datum>(model: &TypedModel, outlet: OutletId) -> Option<&[T]> {
    model.outlet_fact(outlet).ok()?.konst.as_ref()?.try_as_plain_ram().ok()?.as_slice().ok()
}

pub(super) fn rectify(number: f32, slope: f32) -> f32 {
    if number < 0.0 { number * slope } else { number }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prelu {
    /// One for each channel, as bits, so that operators can be compared.
    pub slopes: Vec<u32>,
    /// Numbers of a channel.
    inner: usize,
}

impl Op for Prelu {
    fn name(&self) -> StaticName {
        "Prelu".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Prelu {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, mut inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let mut tensor = inputs.remove(0).into_tensor();
        let mut plain = tensor.try_as_plain_ram_mut()?;
        let numbers = plain.as_slice_mut::<f32>()?;
        if numbers.len() != self.slopes.len() * self.inner {
            bail!("{} numbers where {} channels of {} were planned", numbers.len(), self.slopes.len(), self.inner);
        }
        for (channel, slope) in numbers.chunks_exact_mut(self.inner).zip(&self.slopes) {
            let slope = f32::from_bits(*slope);
            // Greatest or least of two: half of what it takes to choose by the sign.
            if slope <= 1.0 {
                channel.iter_mut().for_each(|number| *number = greater(*number * slope, *number));
            } else {
                channel.iter_mut().for_each(|number| *number = lesser(*number * slope, *number));
            }
        }
        Ok(tvec!(tensor.into_tvalue()))
    }
}

impl TypedOp for Prelu {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].datum_type.fact(inputs[0].shape.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::{IntoRunnable, SpecialOps, Tensor},
        tract_core::ops::{logic::comp_gt, math},
    };

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Form {
        Greater,
        Sum,
        Choice,
    }

    /// Whether one of the three forms, of a picture of so many channels and columns, is done at once, and what it gives.
    fn run(numbers: &[f32], shape: [usize; 4], slopes: &[f32], of_slopes: [usize; 4], form: Form) -> (bool, Vec<f32>) {
        let mut model = TypedModel::default();
        let x = model.add_source("x", DatumType::F32.fact(shape)).unwrap();
        let slopes = model.add_const("slopes", Tensor::from_shape(&of_slopes, slopes).unwrap()).unwrap();
        let zero = model.add_const("zero", Tensor::from_shape(&[1, 1, 1, 1], &[0f32]).unwrap()).unwrap();
        let output = match form {
            Form::Greater => {
                let scaled = model.wire_node("scaled", math::mul(), &[x, slopes]).unwrap()[0];
                model.wire_node("output", math::max(), &[x, scaled]).unwrap()
            }
            Form::Sum => {
                let above = model.wire_node("above", math::max(), &[x, zero]).unwrap()[0];
                let below = model.wire_node("below", math::min(), &[zero, x]).unwrap()[0];
                let scaled = model.wire_node("scaled", math::mul(), &[slopes, below]).unwrap()[0];
                model.wire_node("output", math::add(), &[scaled, above]).unwrap()
            }
            Form::Choice => {
                let scaled = model.wire_node("scaled", math::mul(), &[x, slopes]).unwrap()[0];
                let below = model.wire_node("below", TypedBinOp(comp_gt(), None), &[zero, x]).unwrap()[0];
                model.wire_node("output", Iff, &[below, scaled, x]).unwrap()
            }
        };
        model.select_output_outlets(&output).unwrap();
        crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
        let at_once = model.nodes.iter().any(|node| node.op_is::<Prelu>());
        let plan = model.into_optimized().unwrap().into_runnable().unwrap();
        let input = Tensor::from_shape(&shape, numbers).unwrap().into_tvalue();
        let result = plan.run(tvec!(input)).unwrap();
        (at_once, result[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec())
    }

    proptest! {
        #[test]
        fn each_channel_has_its_slope(
            channels in proptest::collection::vec((-2f32..2.0, proptest::array::uniform5(-9f32..9.0)), 1..6),
            form in prop_oneof![Just(Form::Greater), Just(Form::Sum), Just(Form::Choice)],
        ) {
            let slopes: Vec<f32> = channels.iter().map(|(slope, _)| *slope).collect();
            let numbers: Vec<f32> = channels.iter().flat_map(|(_, numbers)| *numbers).collect();
            let count = slopes.len();
            let (at_once, result) = run(&numbers, [1, count, 1, 5], &slopes, [1, count, 1, 1], form);
            let is_rectifier = form != Form::Greater || slopes.iter().all(|slope| *slope <= 1.0);
            prop_assert_eq!(at_once, is_rectifier, "the greater of x and 2·x is another function");
            for ((number, result), slope) in numbers.iter().zip(result).zip(slopes.iter().flat_map(|slope| [*slope; 5])) {
                let scaled = |number: f32| number * slope;
                let expected = match form {
                    Form::Greater => number.max(scaled(*number)),
                    _ => number.max(0.0) + scaled(number.min(0.0)),
                };
                prop_assert_eq!(result, expected);
            }
        }
    }
    #[test]
    fn slopes_of_columns_are_left_to_the_library() {
        let (at_once, result) = run(&[-1.0, -2.0, 3.0, -4.0], [1, 2, 1, 2], &[0.5, 0.25], [1, 1, 1, 2], Form::Greater);
        assert_eq!((at_once, &result[..]), (false, &[-0.5, -0.5, 3.0, -1.0][..]));
    }
}
