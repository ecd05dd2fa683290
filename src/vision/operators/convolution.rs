//! Convolutions in floating point whose patches are small enough to be written out.
//!
//! The library gathers the patches of such a convolution piece by piece while it multiplies. Where the weights are many and the outputs few (the
//! embedder's last blocks: 256 channels, 9 pixels) it gathers the same piece anew for each row of the kernel's tiles, 32 times. Here they are
//! written once, by [`PackPatches`](super::patches::PackPatches).

use tract_onnx::{
    prelude::{
        DatumType, DatumTypeExt, OutletId, SpecialOps, Tensor, ToDim, TractResult, TypedModel, TypedModelPatch, tvec,
    },
    tract_core::{
        dyn_clone,
        internal::{AxisOp, TypedNode},
        ops::{
            cnn::{Conv, KernelFormat},
            matmul::optimized::ProtoFusedSpec,
        },
        tract_linalg::mmm::PackedExoticFact,
    },
};

use super::{patches::PackPatches, products::Products, window::Windows};

/// Larger patches would not stay in the cache between writing and reading: 512 KiB is what a Cortex-A76 has for each core, and 4 MiB lie in
/// the part of a PC's cache that all cores share. In bytes.
const PATCHES_AT_MOST: usize = if cfg!(target_arch = "x86_64") { 4 << 20 } else { 512 << 10 };
/// For a picture of fewer channels and wide rows the library has a kernel that needs no patches, faster than writing many.
const FEW_CHANNELS: usize = 8;
const PATCHES_OF_FEW_CHANNELS: usize = 512 << 10;
/// For fewer outputs the library's own product takes as long, and is planned faster.
const LEAST_TURNED: usize = 8;

/// What takes the place of a convolution for which it pays.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    replaced(model, node, cfg!(target_arch = "aarch64"))
}

/// `turns_pixels`: whether the library's kernels store products faster where pixels are the rows.
/// There a window of one pixel pays, too, which has its input for patches.
fn replaced(model: &TypedModel, node: &TypedNode, turns_pixels: bool) -> TractResult<Option<TypedModelPatch>> {
    let Some(convolution) = node.op_as::<Conv>() else { return Ok(None) };
    let Some(constants) = FloatConvolution::of(model, node, convolution, 1)? else { return Ok(None) };
    let FloatConvolution { windows, weights, bias } = constants;
    let outputs = convolution.output_channels();
    let (k, n) = (windows.k(), windows.n());
    let turned = turns_pixels && windows.are_pixels() && outputs >= LEAST_TURNED;
    let at_most = if windows.channels < FEW_CHANNELS { PATCHES_OF_FEW_CHANNELS } else { PATCHES_AT_MOST };
    let pays = turned || k > windows.channels && k * n * size_of::<f32>() <= at_most;
    // A single output has its input for patches, too.
    if n == 1 || !pays {
        return Ok(None);
    }
    let sizes = [outputs, k, n];
    let products = if turned { Products::turned(sizes) } else { Products::new(DatumType::F32, 1, sizes) };
    let Some(products) = products else { return Ok(None) };
    let weights = products.weights([weights.try_as_plain_ram()?.as_slice::<f32>()?])?;
    let bias = Tensor::from_shape(&[outputs], &bias)?;

    let mut patch = TypedModelPatch::new("patches written once");
    let input = patch.tap_model(model, node.inputs[0])?;
    let steps = vec![products.add_to_rows(2)];
    let product = Product {
        windows,
        zero_point: 0,
        weights,
        four_channels: false,
        constants: vec![("bias", bias)],
        steps,
        result: DatumType::F32,
    };
    let Some(wire) = product.wire(&mut patch, node, input, products)? else { return Ok(None) };
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// A convolution as one product.
pub(super) struct Product {
    pub windows: Windows,
    pub zero_point: i8,
    pub weights: Tensor,
    /// Whether the weights are [by four channels](super::patches::by_four_channels), filled up by 0.
    pub four_channels: bool,
    /// What the steps refer to, from input 2 on, with names for the graph.
    pub constants: Vec<(&'static str, Tensor)>,
    pub steps: Vec<ProtoFusedSpec>,
    pub result: DatumType,
}

impl Product {
    /// None if the kernel wants the patches in a way that is not known.
    pub fn wire(
        self,
        patch: &mut TypedModelPatch,
        node: &TypedNode,
        input: OutletId,
        products: Products,
    ) -> TractResult<Option<OutletId>> {
        let Windows { rows, columns, .. } = self.windows;
        let (k, n) = (products.k(), self.windows.n());
        let format = dyn_clone::clone_box(products.format());
        let packed = PackedExoticFact { format, mn: n.to_dim(), k };
        let packed = self.weights.datum_type().fact([1]).with_exotic_fact(packed);
        let Some(patches) = PackPatches::new(self.windows, self.zero_point, &packed, self.four_channels) else {
            return Ok(None);
        };
        let mut wires = vec![patch.wire_node(format!("{}.patches", node.name), patches, &[input])?[0]];
        for (name, constant) in [("weights", self.weights)].into_iter().chain(self.constants) {
            wires.push(patch.add_const(format!("{}.{name}_constant", node.name), constant)?);
        }
        let operator = products.operator(self.steps, self.result)?;
        let wire = patch.wire_node(format!("{}.product", node.name), operator, &wires)?[0];
        let pictures = AxisOp::Reshape(2, tvec!(n.to_dim()), tvec!(rows.output.to_dim(), columns.output.to_dim()));
        let mut wire = patch.wire_node(format!("{}.pictures", node.name), pictures, &[wire])?[0];
        if node.outputs[0].fact.rank() == 3 {
            wire = patch.wire_node(format!("{}.one", node.name), AxisOp::Rm(0), &[wire])?[0];
        }
        Ok(Some(wire))
    }
}

/// What is known of a convolution in floating point with constant weights.
pub(super) struct FloatConvolution<'a> {
    pub windows: Windows,
    /// Output, input, row, column.
    pub weights: &'a Tensor,
    /// One for each output.
    pub bias: Vec<f32>,
}

impl<'a> FloatConvolution<'a> {
    /// None if it is of another kind.
    pub fn of(
        model: &'a TypedModel,
        node: &TypedNode,
        convolution: &Conv,
        groups: usize,
    ) -> TractResult<Option<FloatConvolution<'a>>> {
        let [input, weights, bias] = node.inputs[..] else { return Ok(None) };
        let fact = model.outlet_fact(input)?;
        let plain = convolution.q_params.is_none()
            && convolution.group == groups
            && convolution.kernel_fmt == KernelFormat::OIHW
            && fact.datum_type == DatumType::F32;
        let (Some(windows), Some(weights), Some(bias)) = (
            Windows::new(&convolution.pool_spec, fact).filter(|_| plain),
            &model.outlet_fact(weights)?.konst,
            &model.outlet_fact(bias)?.konst,
        ) else {
            return Ok(None);
        };
        let bias = bias.cast_to::<f32>()?;
        let bias = bias.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
        let bias = if bias.len() == 1 { vec![bias[0]; convolution.output_channels()] } else { bias };
        Ok(Some(FloatConvolution { windows, weights, bias }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::operators::window::{
        Axis,
        tests::{naive, pool_spec, windows},
    };
    use proptest::prelude::*;
    use tract_onnx::prelude::{IntoRunnable, IntoTValue};

    /// The same picture with a window for each pixel.
    fn of_pixels(windows: Windows) -> Windows {
        let axis = |input: usize| Axis { input, output: input, window: 1, stride: 1, before: 0 };
        let Windows { channels, rows, columns } = windows;
        Windows { channels, rows: axis(rows.input), columns: axis(columns.input) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn the_outputs_are_those_of_the_definition(
            windows in prop_oneof![3 => windows(), 1 => windows().prop_map(of_pixels)],
            outputs in 1usize..20,
            turns_pixels: bool,
            seed: u8,
        ) {
            let Windows { channels, rows, columns } = windows;
            let window = rows.window * columns.window;
            let number = |index: usize, step: usize| f32::from((index * step + usize::from(seed)) as u8) / 128.0 - 1.0;
            let shape = [1, channels, rows.input, columns.input];
            let picture: Vec<f32> = (0..shape.iter().product()).map(|index| number(index, 37)).collect();
            let weights: Vec<f32> = (0..outputs * channels * window).map(|index| number(index, 89)).collect();
            let bias: Vec<f32> = (0..outputs).map(|index| number(index, 53)).collect();

            let mut model = TypedModel::default();
            let input = model.add_source("input", DatumType::F32.fact(shape)).unwrap();
            let kernel = Tensor::from_shape(&[outputs, channels, rows.window, columns.window], &weights).unwrap();
            let kernel = model.add_const("weights", kernel).unwrap();
            let bias_wire = model.add_const("bias", Tensor::from_shape(&[outputs], &bias).unwrap()).unwrap();
            let pool_spec = pool_spec(&windows, outputs);
            let convolution = Conv { pool_spec, kernel_fmt: KernelFormat::OIHW, group: 1, q_params: None };
            let output = model.wire_node("convolution", convolution, &[input, kernel, bias_wire]).unwrap();
            model.select_output_outlets(&output).unwrap();
            type Replace = fn(&TypedModel, &TypedNode) -> TractResult<Option<TypedModelPatch>>;
            let turning: Replace = |model, node| replaced(model, node, true);
            let straight: Replace = |model, node| replaced(model, node, false);
            let replace = if turns_pixels { turning } else { straight };
            crate::vision::operators::rewrite_by(replace, &mut model).unwrap();
            let n = windows.n();
            let turned = turns_pixels && windows.are_pixels() && outputs >= LEAST_TURNED;
            let written = n > 1 && (turned || rows.window * columns.window > 1);
            prop_assert_eq!(model.nodes.iter().any(|node| node.name == "convolution.product"), written);
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            let result = plan.run(tvec!(Tensor::from_shape(&shape, &picture).unwrap().into_tvalue())).unwrap();
            let result = result[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();

            // What each channel adds to each output of each of its windows.
            let parts = naive(&windows, |channel, numbers| {
                let of_output = |output: usize| {
                    let weights = &weights[(output * channels + channel) * window..][..window];
                    numbers.iter().map(|(place, at)| f64::from(weights[*place]) * f64::from(picture[*at])).sum::<f64>()
                };
                (0..outputs).map(of_output).collect::<Vec<_>>()
            });
            for (index, number) in result.into_iter().enumerate() {
                let (output, at) = (index / n, index % n);
                let exact = f64::from(bias[output]) + (0..channels).map(|channel| parts[channel * n + at][output]).sum::<f64>();
                prop_assert!((f64::from(number) - exact).abs() < 1e-4, "{} where {} is exact", number, exact);
            }
        }
    }
}
