//! Convolutions in floating point whose patches are small enough to be written out.
//!
//! The library gathers the patches of such a convolution piece by piece while it multiplies. Where the weights are many and the outputs few (the
//! embedder's last blocks: 256 channels, 9 pixels) it gathers the same piece anew for each row of the kernel's tiles, 32 times. Here they are
//! written once, by [`PackPatches`](super::patches::PackPatches).

use tract_onnx::{
    prelude::{DatumType, DatumTypeExt, SpecialOps, Tensor, ToDim, TractResult, TypedModel, TypedModelPatch, tvec},
    tract_core::{
        internal::{AxisOp, TypedNode},
        ops::cnn::{Conv, KernelFormat},
        tract_linalg::mmm::PackedExoticFact,
    },
};

use super::{patches::PackPatches, products::Products, window::Windows};

/// Larger ones would not stay in the cache between writing and reading (512 KiB is what a Cortex-A76 has for each core).
const PATCHES_AT_MOST: usize = 512 << 10;

/// Replaces the convolutions for which it pays.
pub(super) fn rewrite(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        if let Some(patch) = in_place_of(model, &model.nodes[id])? {
            patch.apply(model)?;
        }
    }
    Ok(())
}

fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(convolution) = node.op_as::<Conv>() else { return Ok(None) };
    let Some(constants) = FloatConvolution::of(model, node, convolution)? else { return Ok(None) };
    let FloatConvolution { windows, weights, bias } = constants;
    let outputs = convolution.output_channels();
    let k = windows.channels * windows.rows.window * windows.columns.window;
    let n = windows.rows.output * windows.columns.output;
    // A single output has its input for patches; there is nothing to write.
    if n == 1 || k * n * size_of::<f32>() > PATCHES_AT_MOST {
        return Ok(None);
    }
    let Some(products) = Products::new(1, [outputs, k, n]) else { return Ok(None) };
    let fact = PackedExoticFact { format: Box::new(products.format().clone()), mn: n.to_dim(), k };
    let fact = DatumType::F32.fact([1]).with_exotic_fact(fact);
    let Some(patches) = PackPatches::new(windows, 0, &fact) else { return Ok(None) };
    let weights = products.weights([weights.try_as_plain_ram()?.as_slice::<f32>()?])?;

    let mut patch = TypedModelPatch::new("patches written once");
    let input = patch.tap_model(model, node.inputs[0])?;
    let weights = patch.add_const(format!("{}.packed_weights", node.name), weights)?;
    let bias = patch.add_const(format!("{}.bias", node.name), Tensor::from_shape(&[outputs], &bias)?)?;
    let wire = patch.wire_node(format!("{}.patches", node.name), patches, &[input])?[0];
    let wire = patch.wire_node(format!("{}.product", node.name), products.operator(true)?, &[wire, weights, bias])?[0];
    let picture = tvec!(windows.rows.output.to_dim(), windows.columns.output.to_dim());
    let pictures = AxisOp::Reshape(2, tvec!(n.to_dim()), picture);
    let mut wire = patch.wire_node(format!("{}.pictures", node.name), pictures, &[wire])?[0];
    if node.outputs[0].fact.rank() == 3 {
        wire = patch.wire_node(format!("{}.one", node.name), AxisOp::Rm(0), &[wire])?[0];
    }
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
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
    ) -> TractResult<Option<FloatConvolution<'a>>> {
        let [input, weights, bias] = node.inputs[..] else { return Ok(None) };
        let fact = model.outlet_fact(input)?;
        let plain = convolution.q_params.is_none()
            && convolution.group == 1
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
