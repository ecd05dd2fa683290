//! Operators that the network library computes a little otherwise than the standard says, done as it says.
//!
//! The library quantizes by multiplying with the reciprocal of the scale where ONNX divides by the scale. The two round
//! differently about once in 30,000 numbers, and a chain of twenty quantized blocks turns one such step into an embedding that
//! is 0.02 away. With this operator the nets give, in integer arithmetic, bit for bit what another ONNX runtime gives.

use tract_onnx::{
    model::{OnnxOpRegister, ParsingContext},
    pb::{NodeProto, tensor_proto::DataType},
    tract_core::{
        internal::TypedNode,
        ops::element_wise::{ElementWiseMiniOp, ElementWiseOp},
    },
    tract_hir::internal::{
        Datum, DatumType, Expansion, InferenceOp, InferenceResult, OutletId, Solver, SpecialOps, StaticName, TVec,
        Tensor, TensorProxy, TractResult, TypedModel, bail, check_input_arity, check_output_arity, expand,
    },
};

const QUANTIZE: &str = "QuantizeLinear";

/// Replaces the library's operators by those of this module.
pub(super) fn register(operators: &mut OnnxOpRegister) {
    operators.insert(QUANTIZE, parse);
}

/// One scale and one unsigned zero point for the whole tensor is what the nets here have; the rest is left to the library.
fn parse(context: &ParsingContext<'_>, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let graph = context.model.graph.as_ref();
    let constant = |name: &String| graph?.initializer.iter().find(|tensor| tensor.name == *name);
    let single = |name: &String, kind: DataType| {
        constant(name).is_some_and(|t| t.data_type == kind as i32 && t.dims.iter().product::<i64>() == 1)
    };
    match &node.input[..] {
        [_, scale, zero_point] if single(scale, DataType::Float) && single(zero_point, DataType::Uint8) => {
            Ok((expand(QuantizeLinear), Vec::new()))
        }
        _ => match tract_onnx::onnx().op_register.0.get(QUANTIZE) {
            Some(of_the_library) => of_the_library(context, node),
            None => bail!("the network library does not know {QUANTIZE}"),
        },
    }
}

/// The node as it stands in a file: number, scale, zero point.
#[derive(Clone, Debug)]
struct QuantizeLinear;

impl Expansion for QuantizeLinear {
    fn name(&self) -> StaticName {
        QUANTIZE.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        solver.equals(&inputs[1].datum_type, f32::datum_type())?;
        solver.equals(&outputs[0].datum_type, u8::datum_type())?;
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let (Some(scale), Some(zero_point)) =
            (&model.outlet_fact(inputs[1])?.konst, &model.outlet_fact(inputs[2])?.konst)
        else {
            bail!("scale and zero point of a {QUANTIZE} must be constants");
        };
        let scale = scale.cast_to_scalar::<f32>()?;
        let zero_point = zero_point.cast_to_scalar::<u8>()?;
        let operator = ElementWiseOp(Box::new(Quantize { scale, zero_point }), None);
        model.wire_node(prefix, operator, &[inputs[0]])
    }
}

/// `saturate(round_half_to_even(x / scale) + zero_point)` (ONNX operator QuantizeLinear, opset 13).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantize {
    pub scale: f32,
    pub zero_point: u8,
}

/// Scales come from verified files and are numbers.
impl Eq for Quantize {}

impl ElementWiseMiniOp for Quantize {
    fn name(&self) -> String {
        QUANTIZE.into()
    }

    fn output_type(&self, _input: DatumType) -> Option<DatumType> {
        Some(u8::datum_type())
    }

    fn eval_out_of_place(&self, input: &Tensor, _wanted: Option<DatumType>) -> TractResult<Tensor> {
        super::clean_registers();
        let mut output = Tensor::zero::<u8>(input.shape())?;
        let numbers = input.try_as_plain_ram()?;
        for (place, number) in
            output.try_as_plain_ram_mut()?.as_slice_mut::<u8>()?.iter_mut().zip(numbers.as_slice::<f32>()?)
        {
            *place = self.quantize(*number);
        }
        Ok(output)
    }
}

impl Quantize {
    /// What the node does, if it is this.
    pub fn of(node: &TypedNode) -> Option<&Quantize> {
        node.op_as::<ElementWiseOp>()?.0.downcast_ref()
    }

    pub fn quantize(&self, number: f32) -> u8 {
        self.round(number / self.scale)
    }

    /// The same of a number in units of the scale.
    fn round(&self, number: f32) -> u8 {
        self.byte(self.rounded(number))
    }

    /// The first step of that: the byte, less the zero point, is in the last bits.
    pub fn rounded(&self, number: f32) -> f32 {
        let (least, greatest) = (-f32::from(self.zero_point), f32::from(u8::MAX - self.zero_point));
        // What is not a number becomes the least.
        lesser(greater(number, least), greatest) + NO_FRACTION
    }

    /// The second step.
    pub fn byte(&self, rounded: f32) -> u8 {
        (rounded.to_bits() as u8).wrapping_add(self.zero_point)
    }
}

/// 1.5 · 2²³: added to a number of at most 2²² it leaves no bits for a fraction, the sum is
/// rounded half to even, and its last bits are the whole number. In this form loops are
/// vectorised on every processor.
const NO_FRACTION: f32 = 12_582_912.0;

/// The greater of two, in one instruction; the second where the first is not a number.
pub(super) fn greater(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.max(b)
    } else if a > b {
        a
    } else {
        b
    }
}

/// The lesser of two, in the same way.
pub(super) fn lesser(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        a.min(b)
    } else if a < b {
        a
    } else {
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn quantizing_is_what_the_standard_says(number in -300f32..600.0, scale in 0.001f32..4.0, zero_point: u8) {
            let exact = (number / scale).round_ties_even() + f32::from(zero_point);
            let expected = exact.clamp(0.0, 255.0) as u8;
            proptest::prop_assert_eq!(Quantize { scale, zero_point }.quantize(number), expected);
        }
    }

    #[test]
    fn ties_go_to_the_even_number_and_what_is_no_number_to_zero() {
        let one = Quantize { scale: 1.0, zero_point: 0 };
        assert_eq!([0.5, 1.5, 2.5, 254.5, 255.5].map(|x| one.quantize(x)), [0, 2, 2, 254, 255]);
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY, f32::NAN].map(|x| one.quantize(x)), [0, 255, 0]);
    }
}
