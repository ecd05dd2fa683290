//! How windows lie on a picture: sizes that operators over windows share.

use std::ops::Range;

use tract_onnx::{prelude::TypedFact, tract_core::ops::cnn::PoolSpec};

/// Windows over the channels of one picture, each channel row after row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Windows {
    pub channels: usize,
    pub rows: Axis,
    pub columns: Axis,
}

/// Sizes along one axis of the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Axis {
    pub input: usize,
    pub output: usize,
    pub window: usize,
    pub stride: usize,
    /// Padding before the first number of the picture.
    pub before: usize,
}

impl Windows {
    /// None for what is not one picture of a fixed size, channel after channel, or whose windows have holes.
    pub fn new(window: &PoolSpec, input: &TypedFact) -> Option<Windows> {
        let shape = input.shape.as_concrete()?;
        let &[.., channels, height, width] = shape else { return None };
        let known = window.rank() == 2
            && !window.data_format.c_is_last()
            && window.dilations().iter().all(|dilation| *dilation == 1)
            && shape.iter().product::<usize>() == channels * height * width;
        if !known {
            return None;
        }
        let padding = window.computed_padding(&[height, width]);
        let axis = |index: usize, input: usize| Axis {
            input,
            output: padding[index].convoluted,
            window: window.kernel_shape[index],
            stride: window.stride(index),
            before: padding[index].pad_before,
        };
        let windows = Windows { channels, rows: axis(0, height), columns: axis(1, width) };
        // A picture smaller than the window has no output.
        (windows.rows.output > 0 && windows.columns.output > 0).then_some(windows)
    }

    /// Numbers of a window in all channels: rows of the matrix of patches.
    pub fn k(&self) -> usize {
        self.channels * self.rows.window * self.columns.window
    }

    /// How many windows there are: columns of the matrix of patches.
    pub fn n(&self) -> usize {
        self.rows.output * self.columns.output
    }

    /// Whether each is one pixel, and each pixel one.
    pub fn are_pixels(&self) -> bool {
        let pixels = |axis: Axis| axis.window == 1 && axis.stride == 1 && axis.input == axis.output;
        pixels(self.rows) && pixels(self.columns)
    }

    /// The same with the channels filled up to four quarters of the same size.
    pub fn k_by_four_channels(&self) -> usize {
        self.channels.next_multiple_of(4) * self.rows.window * self.columns.window
    }

    /// Whether none lies in the padding alone.
    pub fn all_reach_the_picture(&self) -> bool {
        let reach = |axis: Axis| !axis.window_of(0).is_empty() && !axis.window_of(axis.output - 1).is_empty();
        reach(self.rows) && reach(self.columns)
    }
}

impl Axis {
    /// How many numbers the windows reach over, padding included.
    pub fn reach(&self) -> usize {
        (self.output - 1) * self.stride + self.window
    }

    /// The part of the picture that a window covers; empty beside the picture.
    pub fn window_of(&self, output: usize) -> Range<usize> {
        let inside = |place: usize| place.saturating_sub(self.before).min(self.input);
        inside(output * self.stride)..inside(output * self.stride + self.window)
    }

    /// For the number at `place` in each of the first windows: how many of these numbers lie before the picture, how many in it, and
    /// where the first of those is.
    pub fn covered(&self, place: usize, windows: usize) -> (usize, usize, usize) {
        let before = self.before.saturating_sub(place).div_ceil(self.stride).min(windows);
        let end = (self.input + self.before).saturating_sub(place).div_ceil(self.stride).min(windows);
        let first = (before * self.stride + place).saturating_sub(self.before);
        (before, end.saturating_sub(before), first)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use tract_onnx::{
        prelude::tvec,
        tract_core::ops::{cnn::PaddingSpec, nn::DataFormat},
    };

    /// Windows of many sizes, each reaching the picture or its padding.
    pub fn windows() -> impl Strategy<Value = Windows> {
        let axis = (1usize..20, 1usize..5, 1usize..4, 0usize..3, 0usize..3);
        let axis = axis.prop_filter_map("the window fits", |(input, window, stride, before, after)| {
            let room = (input + before + after).checked_sub(window)?;
            Some(Axis { input, output: room / stride + 1, window, stride, before })
        });
        (1usize..10, axis.clone(), axis).prop_map(|(channels, rows, columns)| Windows { channels, rows, columns })
    }

    /// The library's words for them.
    pub fn pool_spec(windows: &Windows, outputs: usize) -> PoolSpec {
        let Windows { channels, rows, columns } = *windows;
        let after =
            |axis: Axis| ((axis.output - 1) * axis.stride + axis.window).saturating_sub(axis.before + axis.input);
        PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: tvec!(rows.window, columns.window),
            padding: PaddingSpec::Explicit(tvec!(rows.before, columns.before), tvec!(after(rows), after(columns))),
            dilations: None,
            strides: Some(tvec!(rows.stride, columns.stride)),
            input_channels: channels,
            output_channels: outputs,
        }
    }

    /// Asks for each window what comes of it; told are the channel, and of each number that lies in the picture its place in the window and its index.
    pub fn naive<T>(windows: &Windows, of_window: impl Fn(usize, Vec<(usize, usize)>) -> T) -> Vec<T> {
        let Windows { channels, rows, columns } = *windows;
        let inside = |axis: Axis, output: usize| {
            (0..axis.window)
                .filter_map(move |place| Some((place, (output * axis.stride + place).checked_sub(axis.before)?)))
                .filter(move |(_, at)| *at < axis.input)
        };
        let mut results = Vec::new();
        for channel in 0..channels {
            for (y, x) in (0..rows.output).flat_map(|y| (0..columns.output).map(move |x| (y, x))) {
                let numbers = inside(rows, y).flat_map(|(row, y)| {
                    let index = move |x: usize| (channel * rows.input + y) * columns.input + x;
                    inside(columns, x).map(move |(column, x)| (row * columns.window + column, index(x)))
                });
                results.push(of_window(channel, numbers.collect()));
            }
        }
        results
    }
}
