//! PNGs row by row, as means of `step` × `step` pixels.

use std::io::Cursor;

use image::{RgbImage, metadata::Orientation};
use png::{BitDepth, Decoder, DecodingError, Limits, Transformations};

use super::{Fault, Upright};

pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// For rows and what else the decoder keeps.
const DECODER_BYTES: u64 = 16 << 20;
/// So that a row is small.
const MOST_PIXELS_A_SIDE: u32 = 65_535;
/// First column and row of the passes of an interlaced picture, and their steps.
pub(super) const PASSES: [[u32; 4]; 7] =
    [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];
const NO_PASSES: [[u32; 4]; 1] = [[0, 0, 1, 1]];

/// A PNG whose headers were read.
pub(super) struct Png<'a> {
    pub width: u32,
    pub height: u32,
    reader: png::Reader<Cursor<&'a [u8]>>,
    orientation: Orientation,
    interlaced: bool,
}

impl From<DecodingError> for Fault {
    fn from(error: DecodingError) -> Fault {
        match error {
            DecodingError::LimitsExceeded => Fault::NeedsMemory,
            error => Fault::Incomplete(format!("its data end, or are damaged ({error})")),
        }
    }
}

impl<'a> Png<'a> {
    /// Reads what stands before the pixels, once the file was seen to go on to its end.
    pub fn read(bytes: &'a [u8]) -> Result<Png<'a>, Fault> {
        let (width, height) = size(bytes)?;
        if width > MOST_PIXELS_A_SIDE || height > MOST_PIXELS_A_SIDE {
            return Err(Fault::Foreign(format!("a PNG of {width} x {height} pixels (at most 65535 a side)")));
        }
        has_its_end(bytes)?;
        let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: DECODER_BYTES as usize });
        decoder.set_transformations(Transformations::EXPAND);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        let reader = decoder.read_info()?;
        let info = reader.info();
        let exif = info.exif_metadata.as_deref().and_then(Orientation::from_exif_chunk);
        let (orientation, interlaced) = (exif.unwrap_or(Orientation::NoTransforms), info.interlaced);
        Ok(Png { width, height, reader, orientation, interlaced })
    }

    /// What [`Png::decode`] needs, in bytes.
    pub fn need(width: u32, height: u32, step: u32) -> u64 {
        let pixels = u64::from(width.div_ceil(step)) * u64::from(height.div_ceil(step));
        DECODER_BYTES / 4 + pixels * if step == 1 { 3 } else { 3 + 6 }
    }

    /// The picture, upright, a pixel for each `step` × `step` of it. Transparency is
    /// passed over.
    pub fn decode(mut self, step: u32) -> Result<RgbImage, Fault> {
        let (columns, rows) = (self.width.div_ceil(step), self.height.div_ceil(step));
        let mut picture = Upright::new(columns, rows, self.orientation);
        // At most 16 × 16 values of 255.
        let mut sums = vec![[0u16; 3]; if step > 1 { columns as usize * rows as usize } else { 0 }];
        let (colour, depth) = self.reader.output_color_type();
        let layout = (colour.samples(), depth == BitDepth::Sixteen);
        let passes = if self.interlaced { &PASSES[..] } else { &NO_PASSES };
        for &[left, top, right, down] in passes {
            if left >= self.width {
                continue;
            }
            for y in (top..self.height).step_by(down as usize) {
                let row = self.reader.next_row()?.ok_or_else(|| Fault::Incomplete("rows are missing".into()))?;
                let pixels = (left..self.width).step_by(right as usize);
                for (x, pixel) in pixels.zip(row.data().chunks_exact(layout.0 << u32::from(layout.1))) {
                    let rgb = rgb(pixel, layout);
                    match sums.get_mut(y as usize / step as usize * columns as usize + (x / step) as usize) {
                        Some(sum) => *sum = [0, 1, 2].map(|channel| sum[channel] + u16::from(rgb[channel])),
                        None => picture.put(x, y, rgb),
                    }
                }
            }
        }
        // Those at the right and bottom edges may stand for fewer pixels.
        let covered = |at: u32, length: u32| step.min(length - at * step);
        for (index, sum) in (0..).zip(sums) {
            let (x, y) = (index % columns, index / columns);
            let count = covered(x, self.width) * covered(y, self.height);
            picture.put(x, y, sum.map(|sum| ((u32::from(sum) + count / 2) / count) as u8));
        }
        Ok(picture.picture)
    }
}

/// Of a pixel, given its samples, of 16 bits or of 8.
fn rgb(pixel: &[u8], (samples, wide): (usize, bool)) -> [u8; 3] {
    let value = |index: usize| match wide {
        false => pixel[index],
        true => ((u32::from(pixel[2 * index]) << 8 | u32::from(pixel[2 * index + 1])) + 128).wrapping_div(257) as u8,
    };
    if samples < 3 { [value(0); 3] } else { [value(0), value(1), value(2)] }
}

/// Width and height as the first chunk says.
pub(super) fn size(bytes: &[u8]) -> Result<(u32, u32), Fault> {
    let header = bytes.get(SIGNATURE.len()..).and_then(|chunks| chunks.first_chunk::<16>());
    let Some(&[_, _, _, _, b'I', b'H', b'D', b'R', w3, w2, w1, w0, h3, h2, h1, h0]) = header else {
        return Err(Fault::Incomplete("it has no header".into()));
    };
    Ok((u32::from_be_bytes([w3, w2, w1, w0]), u32::from_be_bytes([h3, h2, h1, h0])))
}

/// From chunk to chunk to the last.
fn has_its_end(bytes: &[u8]) -> Result<(), Fault> {
    let mut rest = bytes.get(SIGNATURE.len()..).unwrap_or_default();
    while let Some((&[l3, l2, l1, l0, kind @ ..], behind)) = rest.split_first_chunk::<8>() {
        if !kind.iter().all(u8::is_ascii_alphabetic) {
            return Err(Fault::Incomplete("its data are damaged".into()));
        }
        // The checksum behind it as well.
        let length = u64::from(u32::from_be_bytes([l3, l2, l1, l0])) + 4;
        let Some(next) = usize::try_from(length).ok().and_then(|length| behind.get(length..)) else { break };
        if &kind == b"IEND" {
            return Ok(());
        }
        rest = next;
    }
    Err(Fault::Incomplete("its data end before the picture does".into()))
}
