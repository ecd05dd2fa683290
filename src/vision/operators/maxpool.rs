//! The greatest number of each window.
//!
//! The library compares number by number, with checks for each. Here the rows of a window are compared first, whole rows of the picture at a
//! time, and then the columns of what is left; both loops run over contiguous numbers, and padding is only a longer row.

use tract_onnx::{
    prelude::{Datum, DatumType, IntoTValue, TValue, TVec, Tensor, TractResult, TypedFact, TypedModel, tvec},
    tract_core::{
        as_op,
        internal::{EvalContext, EvalOp, Op, StaticName, TypedOp, bail},
        op_as_typed_op, op_out_of_plan,
        ops::cnn::OptMaxPool,
    },
};

use super::window::{Axis, Windows};

/// Puts [`MaxPool`] in the place of the library's operator wherever the windows have a form it knows.
pub(super) fn replace(model: &mut TypedModel) -> TractResult<()> {
    for id in 0..model.nodes.len() {
        let node = &model.nodes[id];
        let Some(of_the_library) = node.op_as::<OptMaxPool>() else { continue };
        let input = model.outlet_fact(node.inputs[0])?;
        let known =
            of_the_library.with_index_outputs.is_none() && [DatumType::F32, DatumType::U8].contains(&input.datum_type);
        let Some(windows) = Windows::new(&of_the_library.pool_spec, input).filter(|_| known) else { continue };
        model.nodes[id].op = Box::new(MaxPool { windows, fact: node.outputs[0].fact.clone() });
    }
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct MaxPool {
    windows: Windows,
    fact: TypedFact,
}

impl MaxPool {
    fn pool<T: Datum + Copy + PartialOrd>(&self, input: &Tensor, least: T) -> TractResult<Tensor> {
        let Windows { channels, rows, columns } = self.windows;
        let Some(shape) = self.fact.shape.as_concrete() else { bail!("{self:?} was planned for no fixed size") };
        let mut output = Tensor::zero_dt(T::datum_type(), shape)?;
        let input = input.try_as_plain_ram()?;
        let pictures = input.as_slice::<T>()?;
        if pictures.len() != channels * rows.input * columns.input {
            bail!("{} numbers where {self:?} was planned", pictures.len());
        }
        let mut plain = output.try_as_plain_ram_mut()?;
        let outputs = plain.as_slice_mut::<T>()?.chunks_exact_mut(self.windows.n());
        let mut pooling = Pooling::new(self.windows, least);
        for (picture, output) in pictures.chunks_exact(rows.input * columns.input).zip(outputs) {
            pooling.pool(picture, output);
        }
        Ok(output)
    }
}

/// The greatest numbers of one channel after the other.
pub(super) struct Pooling<T> {
    windows: Windows,
    /// What lies beside the picture: it is never the greatest.
    least: T,
    /// The greatest of the rows that a row of windows reaches over, with the padding on both sides.
    line: Vec<T>,
}

impl<T: Copy + PartialOrd> Pooling<T> {
    pub fn new(windows: Windows, least: T) -> Pooling<T> {
        let columns = windows.columns;
        // One more, so that numbers can be taken in pairs.
        let line = vec![least; (columns.reach() + 1).max(columns.before + columns.input)];
        Pooling { windows, least, line }
    }

    /// The picture of one channel, rows × columns; the output has one number for each window.
    pub fn pool(&mut self, picture: &[T], output: &mut [T]) {
        let Windows { rows, columns, .. } = self.windows;
        for (index, output) in output.chunks_exact_mut(columns.output).enumerate() {
            let of_window = rows.window_of(index);
            let line = &mut self.line[columns.before..][..columns.input];
            greatest_of_rows(of_window.len(), &picture[of_window.start * columns.input..], self.least, line);
            greatest_of_columns(&self.line, columns, output);
        }
    }
}

fn greater<T: Copy + PartialOrd>(a: T, b: T) -> T {
    if a < b { b } else { a }
}

/// Of so many rows, which are the first in `rows`.
fn greatest_of_rows<T: Copy + PartialOrd>(count: usize, rows: &[T], least: T, greatest: &mut [T]) {
    let width = greatest.len();
    match count {
        0 => greatest.fill(least),
        1 => greatest.copy_from_slice(&rows[..width]),
        2 => {
            let (first, second) = rows[..2 * width].split_at(width);
            for ((place, a), b) in greatest.iter_mut().zip(first).zip(second) {
                *place = greater(*a, *b);
            }
        }
        _ => {
            let (first, others) = rows[..count * width].split_at(width);
            let (second, others) = others.split_at(width);
            let (third, others) = others.split_at(width);
            for (((place, a), b), c) in greatest.iter_mut().zip(first).zip(second).zip(third) {
                *place = greater(greater(*a, *b), *c);
            }
            for row in others.chunks_exact(width) {
                for (place, number) in greatest.iter_mut().zip(row) {
                    *place = greater(*place, *number);
                }
            }
        }
    }
}

fn greatest_of_columns<T: Copy + PartialOrd>(line: &[T], columns: Axis, greatest: &mut [T]) {
    let (pairs, _) = line.as_chunks::<2>();
    match (columns.window, columns.stride) {
        // The windows of the nets here have forms of their own, which are vectorised.
        (2, 2) => {
            for (place, [a, b]) in greatest.iter_mut().zip(pairs) {
                *place = greater(*a, *b);
            }
        }
        (3, 2) => {
            for ((place, [a, b]), [c, _]) in greatest.iter_mut().zip(pairs).zip(&pairs[1..]) {
                *place = greater(greater(*a, *b), *c);
            }
        }
        (window, stride) => {
            for (place, of_window) in greatest.iter_mut().zip(line.windows(window).step_by(stride)) {
                *place = of_window[1..].iter().fold(of_window[0], |a, b| greater(a, *b));
            }
        }
    }
}

impl Op for MaxPool {
    fn name(&self) -> StaticName {
        "MaxPool".into()
    }

    op_as_typed_op!();
}

impl EvalOp for MaxPool {
    op_out_of_plan!();

    fn eval(&self, _context: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        super::clean_registers();
        let input = &inputs[0];
        let output = match input.datum_type() {
            DatumType::F32 => self.pool(input, f32::MIN)?,
            DatumType::U8 => self.pool(input, u8::MIN)?,
            other => bail!("{self:?} does not know numbers of type {other:?}"),
        };
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for MaxPool {
    as_op!();

    fn output_facts(&self, _inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.fact.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::operators::window::tests::{naive, windows};
    use proptest::prelude::*;
    use tract_onnx::prelude::DatumTypeExt;

    proptest! {
        #[test]
        fn the_greatest_is_that_of_the_definition(windows in windows(), seed: u8) {
            let pictures: Vec<u8> = (0..windows.channels * windows.rows.input * windows.columns.input)
                .map(|index| (index * 37 + usize::from(seed)) as u8)
                .collect();
            let expected: Vec<u8> = naive(&windows, |_, numbers| {
                numbers.into_iter().map(|(_, at)| pictures[at]).max().unwrap_or(0)
            });
            let input = Tensor::from_shape(&[1, windows.channels, windows.rows.input, windows.columns.input], &pictures).unwrap();
            let shape = [1, windows.channels, windows.rows.output, windows.columns.output];
            let operator = MaxPool { windows, fact: DatumType::U8.fact(shape) };
            let run = |input: Tensor| operator.eval_out_of_plan(tvec!(input.into_tvalue())).unwrap().unwrap().remove(0);
            let output = run(input.clone());
            prop_assert_eq!(output.try_as_plain_ram().unwrap().as_slice::<u8>().unwrap(), &expected[..]);
            let output = run(input.cast_to::<f32>().unwrap().into_owned());
            let expected: Vec<f32> = expected.into_iter().map(f32::from).collect();
            // A window beside the picture has no greatest number; unsigned ones say 0, others the least there is.
            let present = output.try_as_plain_ram().unwrap().as_slice::<f32>().unwrap().iter().map(|v| v.max(0.0)).collect::<Vec<_>>();
            prop_assert_eq!(present, expected);
        }
    }
}
