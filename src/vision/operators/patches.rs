//! The input of a convolution, laid out for the matrix kernel.
//!
//! A convolution is a product of two matrices: its weights, and the *patches*, a matrix that has for each channel and place in the window (k, a row) the
//! numbers of all outputs' pixels (n, a column). The library writes it number by number, at ten to fifteen instructions each. Here it
//! is written in two steps over contiguous rows:
//!
//! 1. Each channel is spread: for each column of the window a copy of the picture moved by so much, padding included and pixels between strides
//!    left out. After that each row of the matrix is one contiguous piece, because the rows of the picture that a window's row meets follow each other.
//! 2. These pieces are cut into the panels that the kernel reads: `r` columns at a time, either row after row or, for kernels with a dot product of four
//!    numbers, four rows interleaved.
//!
//! Where the rows may stand in any order (as long as those of the weights do too), the four that are interleaved are those of the same place in four channels, one of each
//! quarter of them ([`by_four_channels`]): then the channels are interleaved before they are spread, once and not anew for each place.

use std::slice::ChunksExactMut;

use tract_onnx::{
    prelude::{Datum, DatumType, IntoTValue, TValue, TVec, Tensor, TractResult, TypedFact, TypedModel, tvec},
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, Op, StaticName, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::cnn::conv::Im2Col,
        tract_linalg::{
            mmm::{MMMInputFormat, PackedExoticFact, PackedMatrixStorage},
            pack::{PackedFormat, PackedI8K4},
        },
    },
};

use super::{products::packed, window::Windows};

/// Puts [`PackPatches`] in the place of the library's operator wherever a convolution of 8-bit numbers has a form it knows.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        let node = &model.nodes[id];
        let Some(of_the_library) = node.op_as::<Im2Col>() else { continue };
        if of_the_library.group != 1 || node.inputs.len() > 2 {
            continue;
        }
        let input = model.outlet_fact(node.inputs[0])?;
        let zero_point = match node.inputs.get(1).map(|input| model.outlet_fact(*input)).transpose()? {
            None => 0,
            Some(TypedFact { konst: Some(zero_point), .. }) => zero_point.cast_to_scalar::<i8>()?,
            Some(_) => continue,
        };
        let windows = Windows::new(&of_the_library.pool_spec, input).filter(|_| input.datum_type == DatumType::I8);
        let patches = windows.and_then(|windows| PackPatches::new(windows, zero_point, &node.outputs[0].fact, false));
        let Some(patches) = patches else { continue };
        model.nodes[id].op = Box::new(patches);
    }
    Ok(())
}

/// How the rows of the matrix lie in a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    /// All columns of row 0, of row 1, ...
    Rows,
    /// Column 0 of rows 0 to 3, column 1 of rows 0 to 3, ..., column 0 of rows 4 to 7, ...
    FourRows,
    /// The same of rows in another order ([`by_four_channels`]).
    FourChannels,
}

/// Writes the patches of one picture, of signed 8-bit or 32-bit floating-point numbers, into the kernel's panels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PackPatches {
    windows: Windows,
    /// The padding; in floating point it is 0.
    zero_point: i8,
    /// Rows of the matrix.
    k: usize,
    format: Box<dyn MMMInputFormat>,
    order: Order,
    /// Columns of a panel.
    width: usize,
    /// Numbers of a panel.
    panel: usize,
    alignment: usize,
    fact: TypedFact,
}

/// Where the numbers of a spread picture lie in it and in the channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    /// Columns of padding, columns inside of the picture, and the channel's column that is the first of these.
    left: usize,
    inside: usize,
    first: usize,
    /// The same for rows.
    above: usize,
    present: usize,
    first_row: usize,
}

/// Spread pictures, for other operators, too.
impl Windows {
    /// Rows of a spread picture: those of the outputs, and those that only the window's lower rows reach.
    fn spread_rows(&self) -> usize {
        self.rows.output + (self.rows.window - 1) / self.rows.stride
    }

    /// Numbers of one spread picture.
    pub fn spread_size(&self) -> usize {
        self.spread_rows() * self.columns.output
    }

    /// How the spread pictures of a channel come out of it: one for each column of the window and row between strides.
    pub fn moves(&self) -> Vec<Move> {
        let Windows { rows, columns, .. } = *self;
        let places = (0..columns.window).flat_map(|column| (0..rows.stride).map(move |row| (column, row)));
        places
            .map(|(column, row)| {
                let (left, inside, first) = columns.covered(column, columns.output);
                let (above, present, first_row) = rows.covered(row, self.spread_rows());
                Move { left, inside, first, above, present, first_row }
            })
            .collect()
    }

    /// Step 1 for one channel: `spread` holds for each column of the window, for each row between strides, a picture of [`Self::spread_rows`] rows of the
    /// output's width. Where it is padding it is never written, so that it stays the zero point for all channels.
    /// `number` says what becomes of each number.
    pub fn spread<N: Copy, T: Copy>(
        &self,
        channel: &[N],
        number: impl Fn(N) -> T + Copy,
        zero_point: T,
        moves: &[Move],
        spread: &mut [T],
    ) {
        let Windows { rows, columns, .. } = *self;
        let width = columns.output;
        if columns.window == 3 && columns.stride == 2 && columns.before == 0 && columns.input >= 2 * width {
            return self.spread_by_two(channel, number, zero_point, moves, spread);
        }
        if rows.stride == 1 && columns.stride == 1 && columns.input == width && columns.before < columns.window {
            return self.spread_moved(channel, number, zero_point, moves, spread);
        }
        for (picture, moved) in spread.chunks_exact_mut(self.spread_size()).zip(moves) {
            let Move { left, inside, first, above, present, first_row } = *moved;
            let picture = &mut picture[above * width..(above + present) * width];
            let source = channel.chunks_exact(columns.input).skip(first_row).step_by(rows.stride);
            for (line, source) in picture.chunks_exact_mut(width).zip(source) {
                let source = &source[first.min(source.len())..];
                take_every(columns.stride, source, number, &mut line[left..left + inside]);
            }
        }
    }

    /// The same where pictures are as wide as the channel: one is the channel itself, the others
    /// are that one, moved.
    fn spread_moved<N: Copy, T: Copy>(
        &self,
        channel: &[N],
        number: impl Fn(N) -> T,
        zero_point: T,
        moves: &[Move],
        spread: &mut [T],
    ) {
        let (width, size, itself) = (self.columns.output, self.spread_size(), self.columns.before);
        let Some(Move { above, present, first_row, .. }) = moves.first().copied() else { return };
        let lines = above * width..(above + present) * width;
        let of_itself = &mut spread[itself * size..][lines.clone()];
        let source = &channel[(first_row * width).min(channel.len())..];
        of_itself.iter_mut().zip(source).for_each(|(place, it)| *place = number(*it));
        for (column, Move { left, inside, first, .. }) in moves.iter().enumerate().filter(|(it, _)| *it != itself) {
            let length = lines.len().saturating_sub((*first).max(*left));
            let from = itself * size + lines.start + first;
            let to = column * size + lines.start + left;
            spread.copy_within(from..from + length, to);
            let picture = &mut spread[column * size..][lines.clone()];
            // Each row's end has come into the next one's beginning, or the other way round.
            for padding in (0..*left).chain(left + inside..width) {
                picture[padding..].iter_mut().step_by(width).for_each(|place| *place = zero_point);
            }
        }
    }

    /// The same for windows of three columns that go on by two: a row's even numbers are the
    /// first column's, its odd ones the second's; the third has the first one's, moved.
    fn spread_by_two<N: Copy, T: Copy>(
        &self,
        channel: &[N],
        number: impl Fn(N) -> T + Copy,
        zero_point: T,
        moves: &[Move],
        spread: &mut [T],
    ) {
        let Windows { rows, columns, .. } = *self;
        let (width, size) = (columns.output, self.spread_size());
        let (evens, others) = spread.split_at_mut(rows.stride * size);
        let (odds, moved) = others.split_at_mut(rows.stride * size);
        let pictures = evens.chunks_exact_mut(size).zip(odds.chunks_exact_mut(size)).zip(moved.chunks_exact_mut(size));
        for (((evens, odds), moved), of_rows) in pictures.zip(moves) {
            let lines = of_rows.above * width..(of_rows.above + of_rows.present) * width;
            let (evens, odds, moved) = (&mut evens[lines.clone()], &mut odds[lines.clone()], &mut moved[lines]);
            let source = || channel.chunks_exact(columns.input).skip(of_rows.first_row).step_by(rows.stride);
            for ((evens, odds), row) in evens.chunks_exact_mut(width).zip(odds.chunks_exact_mut(width)).zip(source()) {
                split(&row[..2 * width], number, evens, odds);
            }
            let Some((_, evens)) = evens.split_first() else { continue };
            moved[..evens.len()].copy_from_slice(evens);
            let ends = moved[width - 1..].iter_mut().step_by(width);
            if columns.input > 2 * width {
                ends.zip(source()).for_each(|(end, row)| *end = number(row[2 * width]));
            } else {
                ends.for_each(|end| *end = zero_point);
            }
        }
    }

    /// Where in the spread pictures of a channel the row of the matrix for a place in the window begins.
    fn place(&self, row: usize, column: usize) -> usize {
        let picture = column * self.rows.stride + row % self.rows.stride;
        picture * self.spread_size() + row / self.rows.stride * self.columns.output
    }

    /// Where in the spread pictures of a channel the row of the matrix for each place in the window begins.
    pub fn places(&self) -> Vec<usize> {
        let Windows { rows, columns, .. } = *self;
        let places = (0..rows.window).flat_map(|row| (0..columns.window).map(move |column| (row, column)));
        places.map(|(row, column)| self.place(row, column)).collect()
    }
}

impl PackPatches {
    /// None if the convolution is not of the form that this operator knows. `four_channels` is for kernels that want four rows interleaved.
    pub fn new(windows: Windows, zero_point: i8, output: &TypedFact, four_channels: bool) -> Option<PackPatches> {
        let packed = output.exotic_fact.as_ref()?.downcast_ref::<PackedExoticFact>()?;
        let k = if four_channels { windows.k_by_four_channels() } else { windows.k() };
        let format = packed.format.clone();
        let (order, panel, alignment) = if let Some(format) = format.downcast_ref::<PackedFormat>() {
            (Order::Rows, format.single_panel_len(k), format.alignment())
        } else if let Some(format) = format.downcast_ref::<PackedI8K4>() {
            let order = if four_channels { Order::FourChannels } else { Order::FourRows };
            (order, format.single_panel_len(k), format.alignment())
        } else {
            return None;
        };
        (packed.k == k).then(|| PackPatches {
            windows,
            zero_point,
            k,
            order,
            width: format.r(),
            format,
            panel,
            alignment,
            fact: output.clone(),
        })
    }

    fn packed<T: Datum + Copy>(&self, input: &Tensor, zero_point: T) -> TractResult<TVec<TValue>> {
        let Windows { channels, rows, columns } = self.windows;
        let input = input.try_as_plain_ram()?;
        let picture = input.as_slice::<T>()?;
        if picture.len() != channels * rows.input * columns.input {
            bail!("a picture of {} numbers where {self:?} was planned", picture.len());
        }
        let Some(batch) = self.fact.shape.as_concrete() else { bail!("{self:?} was planned for no fixed size") };
        let n = self.windows.n();
        // Zeros where the kernel reads beyond the last row or column of the matrix.
        let mut panels =
            Tensor::zero_aligned_dt(T::datum_type(), &[n.div_ceil(self.width) * self.panel], self.alignment)?;
        let mut plain = panels.try_as_plain_ram_mut()?;
        let numbers = plain.as_slice_mut::<T>()?;
        match self.order {
            Order::Rows => self.pack(picture, zero_point, self.panel, numbers),
            Order::FourRows => self.pack_four_rows(picture, zero_point, numbers),
            Order::FourChannels => {
                let fours = by_four_channels(picture, channels, zero_point);
                self.pack(fours.as_chunks().0, [zero_point; 4], self.panel / 4, numbers.as_chunks_mut().0);
            }
        }
        let packed = packed(self.format.clone(), [n, self.k], panels, self.panel)?;
        let storage = PackedMatrixStorage::new_batched(batch, tvec!(packed));
        Ok(tvec!(storage.into_tensor(T::datum_type()).into_tvalue()))
    }

    /// Row after row; the numbers may be single ones or fours of four channels.
    fn pack<T: Copy>(&self, picture: &[T], padding: T, panel: usize, panels: &mut [T]) {
        let Windows { rows, columns, .. } = self.windows;
        let mut at = 0;
        let channels = picture.chunks_exact(rows.input * columns.input);
        if self.windows.are_pixels() {
            for channel in channels {
                deal_by(self.width, channel, at, panel, panels);
                at += self.width;
            }
            return;
        }
        let (n, moves, places) = (self.windows.n(), self.windows.moves(), self.windows.places());
        let mut spread = vec![padding; moves.len() * self.windows.spread_size()];
        for channel in channels {
            self.windows.spread(channel, |number| number, padding, &moves, &mut spread);
            for place in &places {
                deal_by(self.width, &spread[*place..*place + n], at, panel, panels);
                at += self.width;
            }
        }
    }

    /// Four rows at a time, those that follow each other.
    fn pack_four_rows<T: Copy>(&self, picture: &[T], padding: T, panels: &mut [T]) {
        let Windows { channels, rows, columns } = self.windows;
        let (n, moves, places) = (self.windows.n(), self.windows.moves(), self.windows.places());
        let per_channel = moves.len() * self.windows.spread_size();
        // Four channels at once, so that the rows of the matrix that are interleaved are there together.
        let mut spread = vec![padding; 4 * per_channel];
        let nothing = vec![padding; n];
        for (group, four) in picture.chunks(4 * rows.input * columns.input).enumerate() {
            let pictures = four.chunks_exact(rows.input * columns.input);
            for (channel, spread) in pictures.zip(spread.chunks_exact_mut(per_channel)) {
                self.windows.spread(channel, |number| number, padding, &moves, spread);
            }
            let first = group * 4;
            let mut of_matrix = spread
                .chunks_exact(per_channel)
                .take(channels - first)
                .flat_map(|spread| places.iter().map(|place| &spread[*place..*place + n]));
            let mut at = first * places.len() * self.width;
            while let Some(row) = of_matrix.next() {
                let [b, c, d] = [(); 3].map(|()| of_matrix.next().unwrap_or(&nothing));
                deal_by(4 * self.width, &interleave_four([row, b, c, d]), at, self.panel, panels);
                at += 4 * self.width;
            }
        }
    }
}

/// Cuts a row into pieces and puts each at `at` in a panel of its own.
pub(super) fn deal_by<T: Copy>(piece: usize, row: &[T], at: usize, panel: usize, panels: &mut [T]) {
    let mut panels = panels.chunks_exact_mut(panel);
    match piece {
        1 => deal::<T, 1>(row, at, panels),
        4 => deal::<T, 4>(row, at, panels),
        5 => deal::<T, 5>(row, at, panels),
        6 => deal::<T, 6>(row, at, panels),
        8 => deal::<T, 8>(row, at, panels),
        12 => deal::<T, 12>(row, at, panels),
        16 => deal::<T, 16>(row, at, panels),
        32 => deal::<T, 32>(row, at, panels),
        64 => deal::<T, 64>(row, at, panels),
        128 => deal::<T, 128>(row, at, panels),
        piece => {
            for (piece, panel) in row.chunks(piece).zip(&mut panels) {
                panel[at..at + piece.len()].copy_from_slice(piece);
            }
        }
    }
}

/// In pieces of a size that the compiler knows, so that each is a few instructions and no call.
fn deal<T: Copy, const PIECE: usize>(row: &[T], at: usize, mut panels: ChunksExactMut<T>) {
    let (pieces, rest) = row.as_chunks::<PIECE>();
    for (piece, panel) in pieces.iter().zip(&mut panels) {
        panel[at..at + PIECE].copy_from_slice(piece);
    }
    if let (false, Some(panel)) = (rest.is_empty(), panels.next()) {
        panel[at..at + rest.len()].copy_from_slice(rest);
    }
}

/// Numbers of so many channels (pictures, or an output's weights) in another order: the first ones of the four quarters of the channels, the second ones, ... What
/// channels are missing to four quarters of the same size is filled up.
pub(super) fn by_four_channels<T: Copy>(numbers: &[T], channels: usize, filling: T) -> Vec<T> {
    let quarter = numbers.len() / channels * channels.div_ceil(4);
    let mut filled = Vec::new();
    let numbers = if channels.is_multiple_of(4) {
        numbers
    } else {
        filled.extend_from_slice(numbers);
        filled.resize(4 * quarter, filling);
        &filled
    };
    interleave_four(std::array::from_fn(|index| &numbers[index * quarter..][..quarter]))
}

/// The first numbers of four rows, the second ones, ...
fn interleave_four<T: Copy>([a, b, c, d]: [&[T]; 4]) -> Vec<T> {
    if cfg!(target_arch = "x86_64") {
        // It has instructions for two only; of a loop over four the compiler makes one that goes byte by byte.
        interleave(&interleave(a, b), &interleave(c, d)).into_flattened().into_flattened()
    } else {
        // ARM has an instruction for it.
        a.iter()
            .zip(b)
            .zip(c.iter().zip(d))
            .map(|((a, b), (c, d))| [*a, *b, *c, *d])
            .collect::<Vec<_>>()
            .into_flattened()
    }
}

fn interleave<T: Copy>(a: &[T], b: &[T]) -> Vec<[T; 2]> {
    a.iter().zip(b).map(|(a, b)| [*a, *b]).collect()
}

/// What becomes of a row's even and odd numbers. A function of its own: there the compiler knows
/// that they do not overlap.
#[inline(never)]
fn split<N: Copy, T>(row: &[N], number: impl Fn(N) -> T, evens: &mut [T], odds: &mut [T]) {
    for ((even, odd), [a, b]) in evens.iter_mut().zip(odds).zip(row.as_chunks::<2>().0) {
        (*even, *odd) = (number(*a), number(*b));
    }
}

/// What becomes of every `stride`th number of a row.
fn take_every<N: Copy, T>(stride: usize, from: &[N], number: impl Fn(N) -> T, to: &mut [T]) {
    match stride {
        1 => to.iter_mut().zip(from).for_each(|(place, it)| *place = number(*it)),
        2 => {
            let (pairs, last) = from.as_chunks::<2>();
            let (of_pairs, of_last) = to.split_at_mut(to.len().min(pairs.len()));
            of_pairs.iter_mut().zip(pairs).for_each(|(place, pair)| *place = number(pair[0]));
            of_last.iter_mut().zip(last).for_each(|(place, it)| *place = number(*it));
        }
        _ => to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(place, it)| *place = number(*it)),
    }
}

impl Op for PackPatches {
    fn name(&self) -> StaticName {
        "PackPatches".into()
    }

    op_as_typed_op!();
}

impl EvalOp for PackPatches {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        match inputs[0].datum_type() {
            DatumType::I8 => self.packed(&inputs[0], self.zero_point),
            DatumType::F32 => self.packed(&inputs[0], 0.0f32),
            other => bail!("{self:?} does not know numbers of type {other:?}"),
        }
    }
}

impl TypedOp for PackPatches {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::operators::window::tests::windows;
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::{DatumTypeExt, ToDim},
        tract_core::tract_linalg::mmm::{EagerPackedInput, MMMInputValue},
    };

    fn format(width: usize, interleaved: bool) -> Box<dyn MMMInputFormat> {
        if interleaved {
            Box::new(PackedI8K4::new(width))
        } else {
            Box::new(PackedFormat::new(DatumType::I8, width, 16))
        }
    }

    /// The matrix of patches by the definition of a convolution, row after row.
    fn naive(picture: &[i8], windows: &Windows, zero_point: i8) -> Vec<i8> {
        let Windows { channels, rows, columns } = *windows;
        let mut matrix = Vec::new();
        for (channel, row) in (0..channels).flat_map(|channel| (0..rows.window).map(move |row| (channel, row))) {
            for (column, y) in (0..columns.window).flat_map(|column| (0..rows.output).map(move |y| (column, y))) {
                for x in 0..columns.output {
                    let y = (y * rows.stride + row).checked_sub(rows.before).filter(|y| *y < rows.input);
                    let x = (x * columns.stride + column).checked_sub(columns.before).filter(|x| *x < columns.input);
                    let at = y.zip(x).map(|(y, x)| (channel * rows.input + y) * columns.input + x);
                    matrix.push(at.map_or(zero_point, |at| picture[at]));
                }
            }
        }
        matrix
    }

    proptest! {
        #[test]
        fn patches_are_those_of_the_definition(
            windows in windows(),
            width in proptest::sample::select(vec![1usize, 4, 6, 8, 16, 32]),
            interleaved: bool,
            four_channels: bool,
            zero_point: i8,
            seed: u8,
        ) {
            let Windows { channels, rows, columns } = windows;
            let picture: Vec<i8> =
                (0..channels * rows.input * columns.input).map(|index| (index * 37 + usize::from(seed)) as u8 as i8).collect();
            let (k, n) = (windows.k(), windows.n());
            let format = format(width, interleaved);
            let matrix = naive(&picture, &windows, zero_point);
            let mut in_order: Vec<usize> = (0..k).collect();
            let four_channels = four_channels && interleaved;
            if four_channels {
                in_order = by_four_channels(&in_order, channels, usize::MAX);
            }
            let of_no_channel = vec![zero_point; n];
            let row = |row: &usize| matrix.get(row.saturating_mul(n)..).map_or(&of_no_channel[..], |rest| &rest[..n]).to_vec();
            let matrix: Vec<i8> = in_order.iter().flat_map(row).collect();
            let k = in_order.len();
            let matrix = Tensor::from_shape(&[k, n], &matrix).unwrap();
            let expected = format.prepare_one(&matrix, 0, 1).unwrap();
            let expected = expected.downcast_ref::<EagerPackedInput>().unwrap();

            let fact = DatumType::I8.fact([1, 1]).with_exotic_fact(PackedExoticFact { format, mn: n.to_dim(), k });
            let operator = PackPatches::new(windows, zero_point, &fact, four_channels).unwrap();
            let picture = Tensor::from_shape(&[1, channels, rows.input, columns.input], &picture).unwrap();
            let packed = operator.eval_out_of_plan(tvec!(picture.into_tvalue())).unwrap().unwrap().remove(0);
            let packed = packed.try_storage_as::<PackedMatrixStorage>().unwrap();
            let packed = packed.value_at(&[0, 0]).downcast_ref::<EagerPackedInput>().unwrap();

            prop_assert_eq!((packed.k(), packed.mn(), packed.panel_bytes), (k, n, expected.panel_bytes));
            prop_assert_eq!(packed.packed.layout(), expected.packed.layout());
            for (panel, (ours, theirs)) in packed.packed.chunks(packed.panel_bytes).zip(expected.packed.chunks(packed.panel_bytes)).enumerate() {
                // Beyond the last row and column the library may leave what it likes; only what the result is made of counts.
                let present = (n - panel * width).min(width);
                for index in (0..k * width).filter(|index| index % width < present) {
                    let (row, column) = (index / width, index % width);
                    let at = if interleaved { row / 4 * 4 * width + column * 4 + row % 4 } else { index };
                    prop_assert_eq!(ours[at], theirs[at], "panel {} row {} column {}", panel, row, column);
                }
            }
        }
    }
}
