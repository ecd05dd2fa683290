//! Convolutions of 3 × 3 with fewer multiplications (Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks", F(2 × 2, 3 × 3)).
//!
//! Four outputs, 2 × 2, of one channel take 36 multiplications. Winograd's way takes 16: the 4 × 4 numbers of the input that they come from and the 3 × 3 weights
//! are both transformed into 16 numbers, which are multiplied one by one, and a third transformation makes the outputs. Over all channels the
//! multiplications are 16 products of matrices, which the library's kernels do; the transformations are sums over contiguous rows, vectorised by the compiler.
//! The result differs by rounding: about 1e-6 of a layer's greatest number.
//!
//! Weights grow by 16 / 9, so it is done only where the picture has enough outputs for the multiplications to count.

use tract_onnx::{
    prelude::{
        DatumType, DatumTypeExt, IntoTValue, SpecialOps, TValue, TVec, Tensor, ToDim, TractResult, TypedFact,
        TypedModel, TypedModelPatch, tvec,
    },
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, Op, StaticName, TypedNode, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::cnn::Conv,
        tract_linalg::{
            mmm::{PackedExoticFact, PackedMatrixStorage},
            pack::PackedFormat,
        },
    },
};

use super::{
    convolution::FloatConvolution,
    patches::deal_by,
    products::{self, Products},
    window::{Axis, Windows},
};

/// Products of matrices that take the place of one convolution.
const PRODUCTS: usize = 16;
/// With fewer channels or tiles the transformations and the edges of the kernels' tiles eat what the multiplications gain (measured on the nets here).
const LEAST_CHANNELS: usize = 32;
const LEAST_TILES: usize = 16;

/// What takes the place of a convolution for which it pays.
pub(super) fn in_place_of(model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
    let Some(convolution) = node.op_as::<Conv>() else { return Ok(None) };
    let Some(constants) = FloatConvolution::of(model, node, convolution, 1)? else { return Ok(None) };
    let FloatConvolution { windows, weights, bias } = constants;
    let outputs = convolution.output_channels();
    let tiles = Tiles::over(&windows);
    let three = |axis: Axis| axis.window == 3 && axis.stride == 1 && axis.before <= 1;
    let pays = windows.channels.min(outputs) >= LEAST_CHANNELS && tiles.count() >= LEAST_TILES;
    if !(three(windows.rows) && three(windows.columns) && pays) {
        return Ok(None);
    }
    let Some(products) = Products::new(DatumType::F32, PRODUCTS, [outputs, windows.channels, tiles.count()]) else {
        return Ok(None);
    };
    let Some(format) = products.format().downcast_ref::<PackedFormat>().cloned() else { return Ok(None) };
    let Some(of_weights) = products.format_of_weights().downcast_ref::<PackedFormat>() else { return Ok(None) };
    // Weights of so many outputs are calculated at once, and lie in one panel.
    if !of_weights.panel_width().is_multiple_of(LANES) {
        return Ok(None);
    }
    let weights = transform_weights(weights, outputs, windows.channels, of_weights)?;
    let weights = products.packed_weights(weights)?;
    let into_tiles = IntoTiles { windows, tiles, format };
    let bias = bias.iter().map(|number| number.to_bits()).collect();
    let out_of_tiles = OutOfTiles { tiles, outputs, bias, fact: node.outputs[0].fact.clone() };

    let mut patch = TypedModelPatch::new("fewer multiplications");
    let input = patch.tap_model(model, node.inputs[0])?;
    let weights = patch.add_const(format!("{}.winograd_weights", node.name), weights)?;
    let wire = patch.wire_node(format!("{}.into_tiles", node.name), into_tiles, &[input])?[0];
    let wire = patch.wire_node(
        format!("{}.products", node.name),
        products.operator(Vec::new(), DatumType::F32)?,
        &[wire, weights],
    )?[0];
    let wire = patch.wire_node(&*node.name, out_of_tiles, &[wire])?[0];
    patch.shunt_outside(model, node.id.into(), wire)?;
    Ok(Some(patch))
}

/// For each product the transformed weights, packed: panels of outputs, each of which has for each input a number of every output.
fn transform_weights(
    weights: &Tensor,
    outputs: usize,
    inputs: usize,
    format: &PackedFormat,
) -> TractResult<Vec<Tensor>> {
    let plain = weights.try_as_plain_ram()?;
    let (kernels, _) = plain.as_slice::<f32>()?.as_chunks::<9>();
    if kernels.len() != outputs * inputs {
        bail!("{} kernels of 3 × 3 for {inputs} channels into {outputs}", kernels.len());
    }
    let (width, panel) = (format.panel_width(), format.single_panel_len(inputs));
    let zeros = || Tensor::zero_aligned::<f32>(&[outputs.div_ceil(width) * panel], format.alignment());
    let mut packed = (0..PRODUCTS).map(|_| zeros()).collect::<TractResult<Vec<_>>>()?;
    {
        let mut products = packed.iter_mut().map(Tensor::try_as_plain_ram_mut).collect::<TractResult<Vec<_>>>()?;
        let mut products =
            products.iter_mut().map(|product| product.as_slice_mut::<f32>()).collect::<TractResult<Vec<_>>>()?;
        // In the place of outputs beyond the last one.
        let nothing = vec![[0.0; 9]; inputs];
        for first in (0..outputs).step_by(LANES) {
            let of_output = |output: usize| kernels.get(output * inputs..(output + 1) * inputs).unwrap_or(&nothing);
            let of_lanes: [&[[f32; 9]]; LANES] = std::array::from_fn(|lane| of_output(first + lane));
            let start = first / width * panel + first % width;
            for input in 0..inputs {
                // Number by number of the kernels beside each other, so that the sums are vector instructions.
                let kernels = of_lanes.map(|kernels| kernels[input]);
                let [a, b, c, d, e, f, g, h, i] = std::array::from_fn(|place| kernels.map(|kernel| kernel[place]));
                let columns = [transformed_three(a, b, c), transformed_three(d, e, f), transformed_three(g, h, i)];
                let at = start + input * width;
                for (column, products) in products.chunks_exact_mut(4).enumerate() {
                    let of_column = transformed_three(columns[0][column], columns[1][column], columns[2][column]);
                    for (product, numbers) in products.iter_mut().zip(&of_column) {
                        product[at..at + LANES].copy_from_slice(numbers);
                    }
                }
            }
        }
    }
    Ok(packed)
}

/// Lavin's and Gray's G, of so many kernels.
fn transformed_three(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [[f32; LANES]; 4] {
    let (mut plus, mut minus) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let outer = a[lane] + c[lane];
        plus[lane] = (outer + b[lane]) * 0.5;
        minus[lane] = (outer - b[lane]) * 0.5;
    }
    [a, plus, minus, c]
}

/// 2 × 2 outputs each, row after row; the last ones may reach beyond the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tiles {
    rows: usize,
    columns: usize,
}

impl Tiles {
    fn over(windows: &Windows) -> Tiles {
        Tiles { rows: windows.rows.output.div_ceil(2), columns: windows.columns.output.div_ceil(2) }
    }

    fn count(&self) -> usize {
        self.rows * self.columns
    }

    /// Numbers in a row of the input that all tiles of a row reach over.
    fn reach(&self) -> usize {
        2 * self.columns + 2
    }
}

/// The input's 4 × 4 numbers of each tile, transformed and packed as the second matrix of each product.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct IntoTiles {
    windows: Windows,
    tiles: Tiles,
    format: PackedFormat,
}

impl IntoTiles {
    /// One channel. `padded` is the picture with its padding, and a few numbers more.
    fn transform(&self, padded: &[f32], scratch: &mut Scratch) {
        let Tiles { rows, columns } = self.tiles;
        for row in 0..2 * (rows + 1) {
            let [a, b, c, d] = &mut scratch.across[row % 2];
            let at = row / 2 * columns;
            let places = [&mut a[at..], &mut b[at..], &mut c[at..], &mut d[at..]];
            transform_columns(&padded[row * self.tiles.reach()..], places, columns);
        }
        let [even, odd] = &scratch.across;
        for ((even, odd), products) in even.iter().zip(odd).zip(scratch.transformed.chunks_exact_mut(4)) {
            transform_rows([even, odd, &even[columns..], &odd[columns..]], products);
        }
    }
}

/// Numbers of one channel between the steps.
struct Scratch {
    /// The picture's rows after the columns have been transformed: even ones and odd ones, four numbers for each tile. Kept apart so, the rows
    /// that a tile needs lie equally far apart for all tiles.
    across: [[Vec<f32>; 4]; 2],
    /// For each product the tiles' numbers.
    transformed: Vec<Vec<f32>>,
}

/// So many numbers are calculated at once. Rows of tiles are filled up to a multiple of that; what was written too much is overwritten by
/// the next row, or lies behind the last one. Ends of rows that are treated on their own would cost more than all the rest, rows being this short.
const LANES: usize = 4;

impl Scratch {
    fn new(tiles: &Tiles) -> Scratch {
        let across = (tiles.rows + 1) * tiles.columns + LANES;
        Scratch {
            across: std::array::from_fn(|_| std::array::from_fn(|_| vec![0.0; across])),
            transformed: vec![vec![0.0; tiles.count() + LANES]; PRODUCTS],
        }
    }
}

/// Lavin's and Gray's B, over the columns of one row: tile x reaches over the numbers 2 x to 2 x + 3.
fn transform_columns(row: &[f32], places: [&mut [f32]; 4], columns: usize) {
    let (pairs, _) = row.as_chunks::<2>();
    let [a, b, c, d] = places;
    let count = columns.next_multiple_of(LANES);
    let (a, b, c, d) = (&mut a[..count], &mut b[..count], &mut c[..count], &mut d[..count]);
    for ((((a, b), c), d), ([e0, e1], [e2, e3])) in a.iter_mut().zip(b).zip(c).zip(d).zip(pairs.iter().zip(&pairs[1..]))
    {
        (*a, *b, *c, *d) = (e0 - e2, e1 + e2, e2 - e1, e1 - e3);
    }
}

/// Lavin's and Gray's B, over the four rows of all tiles.
fn transform_rows(rows: [&[f32]; 4], products: &mut [Vec<f32>]) {
    let [a, b, c, d] = products else { return };
    let [r0, r1, r2, r3] = rows;
    let places = a.iter_mut().zip(b).zip(c).zip(d);
    for ((((a, b), c), d), (((r0, r1), r2), r3)) in places.zip(r0.iter().zip(r1).zip(r2).zip(r3)) {
        (*a, *b, *c, *d) = (r0 - r2, r1 + r2, r2 - r1, r1 - r3);
    }
}

impl Op for IntoTiles {
    fn name(&self) -> StaticName {
        "WinogradIntoTiles".into()
    }

    op_as_typed_op!();
}

impl EvalOp for IntoTiles {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let Windows { channels, rows, columns } = self.windows;
        let plain = inputs[0].try_as_plain_ram()?;
        let pictures = plain.as_slice::<f32>()?;
        if pictures.len() != channels * rows.input * columns.input {
            bail!("{} numbers where {self:?} was planned", pictures.len());
        }
        let (count, width) = (self.tiles.count(), self.format.panel_width());
        let panel = self.format.single_panel_len(channels);
        let zeros = || Tensor::zero_aligned::<f32>(&[count.div_ceil(width) * panel], self.format.alignment());
        let mut packed = (0..PRODUCTS).map(|_| zeros()).collect::<TractResult<Vec<_>>>()?;
        {
            let mut packed = packed.iter_mut().map(Tensor::try_as_plain_ram_mut).collect::<TractResult<Vec<_>>>()?;
            let mut panels = packed.iter_mut().map(|p| p.as_slice_mut::<f32>()).collect::<TractResult<Vec<_>>>()?;
            let reach = self.tiles.reach();
            let mut padded = vec![0.0; (2 * self.tiles.rows + 2) * reach + 2 * LANES];
            let mut scratch = Scratch::new(&self.tiles);
            for (channel, picture) in pictures.chunks_exact(rows.input * columns.input).enumerate() {
                let inner = padded.chunks_exact_mut(reach).skip(rows.before);
                for (line, row) in inner.zip(picture.chunks_exact(columns.input)) {
                    let line = &mut line[columns.before..];
                    line.iter_mut().zip(row).for_each(|(place, number)| *place = *number);
                }
                self.transform(&padded, &mut scratch);
                for (panels, row) in panels.iter_mut().zip(&scratch.transformed) {
                    deal_by(width, &row[..count], channel * width, panel, panels);
                }
            }
        }
        let value = |matrix: Tensor| products::packed(Box::new(self.format.clone()), [count, channels], matrix, panel);
        let values = packed.into_iter().map(value).collect::<TractResult<TVec<_>>>()?;
        Ok(tvec!(PackedMatrixStorage::new_batched(&[PRODUCTS], values).into_tensor(DatumType::F32).into_tvalue()))
    }
}

impl TypedOp for IntoTiles {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let packed = PackedExoticFact {
            format: Box::new(self.format.clone()),
            mn: self.tiles.count().to_dim(),
            k: self.windows.channels,
        };
        Ok(tvec!(DatumType::F32.fact([PRODUCTS]).with_exotic_fact(packed)))
    }
}

/// From the products to the outputs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct OutOfTiles {
    tiles: Tiles,
    outputs: usize,
    /// One for each output channel, as bits, so that operators can be compared.
    bias: Vec<u32>,
    fact: TypedFact,
}

impl OutOfTiles {
    /// One channel: the numbers of the 16 products, tile by tile, to a picture of the given width. `rows` has room for 8 numbers of each tile, `lines` for 4.
    fn transform(
        &self,
        products: &[&[f32]; PRODUCTS],
        bias: f32,
        rows: &mut [f32],
        lines: &mut [f32],
        picture: &mut [f32],
        width: usize,
    ) {
        let count = self.tiles.count();
        let (upper, lower) = rows.split_at_mut(4 * count);
        let halves = upper.chunks_exact_mut(count).zip(lower.chunks_exact_mut(count));
        for ((upper, lower), of_column) in halves.zip(products.chunks_exact(4)) {
            let [a, b, c, d] = of_column else { continue };
            for (((((upper, lower), a), b), c), d) in upper.iter_mut().zip(lower).zip(*a).zip(*b).zip(*c).zip(*d) {
                (*upper, *lower) = (a + b + c, b - c - d);
            }
        }
        for (half, lines) in rows.chunks_exact(4 * count).zip(lines.chunks_exact_mut(2 * count)) {
            let column = |column: usize| &half[column * count..][..count];
            let (a, b, c, d) = (column(0), column(1), column(2), column(3));
            for ((((pair, a), b), c), d) in lines.as_chunks_mut::<2>().0.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *pair = [a + b + c + bias, b - c - d + bias];
            }
        }
        let (upper, lower) = lines.split_at(2 * count);
        let pitch = 2 * self.tiles.columns;
        let lines = upper.chunks_exact(pitch).zip(lower.chunks_exact(pitch)).flat_map(|(upper, lower)| [upper, lower]);
        for (place, line) in picture.chunks_exact_mut(width).zip(lines) {
            place.copy_from_slice(&line[..width]);
        }
    }
}

impl Op for OutOfTiles {
    fn name(&self) -> StaticName {
        "WinogradOutOfTiles".into()
    }

    op_as_typed_op!();
}

impl EvalOp for OutOfTiles {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let count = self.tiles.count();
        let plain = inputs[0].try_as_plain_ram()?;
        let products = plain.as_slice::<f32>()?;
        let (Some(shape), true) = (self.fact.shape.as_concrete(), products.len() == PRODUCTS * self.outputs * count)
        else {
            bail!("{} numbers where {self:?} was planned", products.len());
        };
        let (height, width) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let mut output = Tensor::zero::<f32>(shape)?;
        let (mut rows, mut lines) = (vec![0.0; 8 * count], vec![0.0; 4 * count]);
        let mut plain = output.try_as_plain_ram_mut()?;
        for (channel, picture) in plain.as_slice_mut::<f32>()?.chunks_exact_mut(height * width).enumerate() {
            let of_channel =
                std::array::from_fn(|index| &products[(index * self.outputs + channel) * count..][..count]);
            let bias = self.bias.get(channel).map_or(0.0, |bits| f32::from_bits(*bits));
            self.transform(&of_channel, bias, &mut rows, &mut lines, picture, width);
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for OutOfTiles {
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
        prelude::{IntoRunnable, SpecialOps},
        tract_core::ops::{
            cnn::{KernelFormat, PaddingSpec, PoolSpec},
            nn::DataFormat,
        },
    };

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 8_388_608.0 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn the_outputs_are_those_of_a_convolution(
            channels in LEAST_CHANNELS..40,
            outputs in LEAST_CHANNELS..40,
            (height, width) in (8usize..20, 8usize..20),
            padding in proptest::array::uniform4(0usize..2),
            seed: u64,
        ) {
            let [top, left, bottom, right] = padding;
            let picture = numbers(channels * height * width, seed);
            let weights = numbers(outputs * channels * 9, seed ^ 1);
            let bias = numbers(outputs, seed ^ 2);

            let mut model = TypedModel::default();
            let input = model.add_source("input", DatumType::F32.fact([1, channels, height, width])).unwrap();
            let kernel = model.add_const("weights", Tensor::from_shape(&[outputs, channels, 3, 3], &weights).unwrap()).unwrap();
            let bias_wire = model.add_const("bias", Tensor::from_shape(&[outputs], &bias).unwrap()).unwrap();
            let window = PoolSpec {
                data_format: DataFormat::NCHW,
                kernel_shape: tvec!(3, 3),
                padding: PaddingSpec::Explicit(tvec!(top, left), tvec!(bottom, right)),
                dilations: None,
                strides: None,
                input_channels: channels,
                output_channels: outputs,
            };
            let convolution = Conv { pool_spec: window, kernel_fmt: KernelFormat::OIHW, group: 1, q_params: None };
            let output = model.wire_node("conv", convolution, &[input, kernel, bias_wire]).unwrap();
            model.select_output_outlets(&output).unwrap();
            crate::vision::operators::rewrite_by(in_place_of, &mut model).unwrap();
            let pays = Tiles { rows: (height + top + bottom - 2).div_ceil(2), columns: (width + left + right - 2).div_ceil(2) };
            prop_assert_eq!(model.nodes.iter().any(|node| node.op_is::<OutOfTiles>() ), pays.count() >= LEAST_TILES);
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            let result = plan.run(tvec!(Tensor::from_shape(&[1, channels, height, width], &picture).unwrap().into_tvalue())).unwrap();
            let result = result[0].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().to_vec();

            let (rows, columns) = (height + top + bottom - 2, width + left + right - 2);
            prop_assert_eq!(result.len(), outputs * rows * columns);
            for (index, number) in result.into_iter().enumerate() {
                let (output, y, x) = (index / (rows * columns), index / columns % rows, index % columns);
                let mut exact = f64::from(bias[output]);
                for (channel, (i, j)) in (0..channels).flat_map(|c| (0..9).map(move |at| (c, (at / 3, at % 3)))) {
                    let (Some(y), Some(x)) = ((y + i).checked_sub(top), (x + j).checked_sub(left)) else { continue };
                    if y < height && x < width {
                        let weight = weights[(output * channels + channel) * 9 + i * 3 + j];
                        exact += f64::from(weight) * f64::from(picture[(channel * height + y) * width + x]);
                    }
                }
                prop_assert!((f64::from(number) - exact).abs() < 5e-5, "{} where {} is exact", number, exact);
            }
        }
    }
}
