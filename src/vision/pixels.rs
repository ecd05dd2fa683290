//! Conversion of camera pixel formats to RGB.
//!
//! YUV is taken as ITU-R BT.601 with limited range (luma 16 to 235), which is what webcams send by the UVC specification's
//! default and what rpicam-vid writes at the sizes used here. A camera that means full range looks a little too contrasty; MTCNN and the embedder do not mind.

use std::{borrow::Cow, io::Cursor};

use image::{ImageDecoder, RgbImage, codecs::jpeg::JpegDecoder, imageops};

use super::{
    frame::{Frame, FrameError, PixelFormat},
    jpeg::{self, BLOCK, Unread},
    resize::Region,
};

/// Pictures with more pixels (in millions) are refused before memory is asked for them: where a frame's size comes out of
/// its own header, as with a program's JPEGs, a few bytes could else ask for more than the board has, and end the daemon.
const MOST_MEGAPIXELS: u64 = 50;
/// Side of a [cell](luma_cells) in pixels.
pub const CELL: usize = 16;

impl Frame {
    /// The whole picture as 8-bit RGB, at full resolution.
    ///
    /// # Errors
    /// Too few bytes for its size, or a broken JPEG. Never panics, whatever the bytes
    /// are.
    pub fn rgb(&self) -> Result<RgbImage, FrameError> {
        let mut picture = RgbImage::default();
        self.decode(self.region(), &mut picture)?;
        Ok(picture)
    }

    /// Decodes at least a region to where it lies in `picture`, which becomes as large as
    /// the frame; what it holds elsewhere is of no meaning. Its memory is used again.
    /// Returns the region decoded: of a JPEG all.
    ///
    /// # Errors
    /// As [`Frame::rgb`].
    pub fn decode(&self, region: Region, picture: &mut RgbImage) -> Result<Region, FrameError> {
        check_size(self)?;
        if self.format == PixelFormat::Mjpeg {
            *picture = decode_jpeg(self)?;
            return Ok(self.region());
        }
        let layout = Layout::of(self)?;
        let (width, height) = (self.width, self.height);
        if picture.dimensions() != (width, height) {
            *picture = RgbImage::new(width, height);
        }
        // Pairs of pixels share their colour.
        let (from, to) = (region.x as usize / 2 * 2, (region.x + region.width) as usize);
        let (samples, row) = (picture.as_flat_samples_mut().samples, width as usize * 3);
        for y in region.y as usize..(region.y + region.height) as usize {
            decode_row(self, &layout, y, from, &mut samples[y * row + from * 3..y * row + to * 3]);
        }
        Ok(region)
    }

    /// The frame as a JPEG that any program can show; None for one that is none.
    pub fn jpeg(&self) -> Option<Vec<u8>> {
        (self.format == PixelFormat::Mjpeg).then(|| whole_jpeg(self).ok()).flatten()
    }
}

/// The picture turned clockwise by 90, 180 or 270 degrees; by any other number as it is.
pub fn turned(picture: &RgbImage, degrees: u32) -> RgbImage {
    match degrees {
        90 => imageops::rotate90(picture),
        180 => imageops::rotate180(picture),
        270 => imageops::rotate270(picture),
        _ => picture.clone(),
    }
}

fn check_size(frame: &Frame) -> Result<(), FrameError> {
    let (width, height) = (frame.width, frame.height);
    // A side of 0 makes no other side small: 32 bits hold not even a row of some.
    if u64::from(width.max(1)) * u64::from(height.max(1)) > MOST_MEGAPIXELS * 1_000_000 {
        return Err(FrameError::TooLarge { width, height, most: MOST_MEGAPIXELS });
    }
    Ok(())
}

/// Part of a row of an uncompressed frame, from an even column on; `out` says how far.
fn decode_row(frame: &Frame, layout: &Layout, y: usize, from: usize, out: &mut [u8]) {
    let at = |plane: usize, stride: usize, y: usize, offset: usize| &frame.bytes[plane + y * stride + offset..];
    let stride = layout.stride;
    match frame.format {
        PixelFormat::Yuyv => {
            let pairs = at(0, stride, y, from * 2).as_chunks::<4>().0.iter();
            pairs_to_rgb(pairs.map(|&[first, u, second, v]| ([first, second], u, v)), out);
        }
        PixelFormat::Nv12 => {
            let luma = at(0, stride, y, from).as_chunks::<2>().0.iter();
            let chroma = at(layout.second, stride, y / 2, from).as_chunks::<2>().0.iter();
            pairs_to_rgb(luma.zip(chroma).map(|(&luma, &[u, v])| (luma, u, v)), out);
        }
        PixelFormat::I420 => {
            let luma = at(0, stride, y, from).as_chunks::<2>().0.iter();
            let u = at(layout.second, stride / 2, y / 2, from / 2).iter();
            let v = at(layout.third, stride / 2, y / 2, from / 2).iter();
            pairs_to_rgb(luma.zip(u.zip(v)).map(|(&luma, (&u, &v))| (luma, u, v)), out);
        }
        PixelFormat::Grey => {
            let pixels = out.as_chunks_mut::<3>().0.iter_mut();
            pixels.zip(at(0, stride, y, from)).for_each(|(pixel, &luma)| *pixel = [luma; 3]);
        }
        PixelFormat::Rgb | PixelFormat::Mjpeg => out.copy_from_slice(&at(0, stride, y, from * 3)[..out.len()]),
    }
}

/// Two pixels' luma with the colour they share, one pair after the other; the last pixel of an odd row is the first of its pair.
fn pairs_to_rgb(pairs: impl Iterator<Item = ([u8; 2], u8, u8)>, out: &mut [u8]) {
    for (pixels, (luma, u, v)) in out.chunks_mut(6).zip(pairs) {
        for (pixel, luma) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
            *pixel = rgb_of_yuv(luma, u, v);
        }
    }
}

/// Means of luma over cells of `CELL` × `CELL` pixels, row by row, sampled in every second row; an incomplete last row or column of cells
/// is left out; of a JPEG all rows count. None where the luma is to be had by decoding only.
///
/// # Errors
/// Too few bytes for the frame's size, a torn JPEG, or a size that is not decoded.
pub(super) fn luma_cells(frame: &Frame, cells: &mut Vec<f32>) -> Result<Option<()>, FrameError> {
    check_size(frame)?;
    match frame.format {
        PixelFormat::Mjpeg => return jpeg_cells(frame, cells),
        PixelFormat::Rgb => return Ok(None),
        _ => {}
    }
    let layout = Layout::of(frame)?;
    let row = |y: usize| &frame.bytes[y * layout.stride..];
    let (columns, rows) = (frame.width as usize / CELL, frame.height as usize / CELL);
    match frame.format {
        PixelFormat::Yuyv => {
            let sum = |cell: &[u8; 2 * CELL]| cell.iter().step_by(2).map(|&luma| u32::from(luma)).sum();
            cell_means(columns, rows, |y| row(y).as_chunks().0.iter().map(sum), cells);
        }
        _ => {
            let sum = |cell: &[u8; CELL]| cell.iter().map(|&luma| u32::from(luma)).sum();
            cell_means(columns, rows, |y| row(y).as_chunks().0.iter().map(sum), cells);
        }
    }
    Ok(Some(()))
}

/// None also where it is foreign, or not the frame's size: decoding will say so.
fn jpeg_cells(frame: &Frame, cells: &mut Vec<f32>) -> Result<Option<()>, FrameError> {
    /// Blocks along a cell's side.
    const BLOCKS: usize = CELL / BLOCK;
    let Ok(bytes) = with_huffman_tables(&frame.bytes) else { return Ok(None) };
    let (columns, rows) = (frame.width as usize / CELL, frame.height as usize / CELL);
    cells.clear();
    cells.resize(columns * rows, 0.0);
    let read = jpeg::luma_blocks(&bytes, (frame.width, frame.height), |x, y, mean| {
        let (column, row) = (x / BLOCKS, y / BLOCKS);
        if column < columns && row < rows {
            cells[row * columns + column] += mean / (BLOCKS * BLOCKS) as f32;
        }
    });
    match read {
        Ok(()) => Ok(Some(())),
        Err(Unread::Foreign) => Ok(None),
        Err(Unread::Torn) => Err(FrameError::Torn),
    }
}

/// The same of a decoded picture, green for luma.
pub(super) fn green_cells(picture: &RgbImage, cells: &mut Vec<f32>) {
    let (columns, rows, stride) =
        (picture.width() as usize / CELL, picture.height() as usize / CELL, picture.width() as usize * 3);
    let sum = |cell: &[u8; 3 * CELL]| cell.iter().skip(1).step_by(3).map(|&green| u32::from(green)).sum();
    cell_means(columns, rows, |y| picture.as_raw()[y * stride..].as_chunks().0.iter().map(sum), cells);
}

/// `row_sums(y)` gives the sums of a row's pixels, cell by cell.
fn cell_means<I: Iterator<Item = u32>>(
    columns: usize,
    rows: usize,
    row_sums: impl Fn(usize) -> I,
    cells: &mut Vec<f32>,
) {
    cells.clear();
    cells.resize(columns * rows, 0.0);
    for y in (0..rows * CELL).step_by(2) {
        let line = &mut cells[y / CELL * columns..][..columns];
        line.iter_mut().zip(row_sums(y)).for_each(|(cell, sum)| *cell += sum as f32);
    }
    let samples = (CELL * CELL / 2) as f32;
    cells.iter_mut().for_each(|cell| *cell /= samples);
}

/// Where the planes of an uncompressed frame begin.
struct Layout {
    stride: usize,
    second: usize,
    third: usize,
}

impl Layout {
    fn of(frame: &Frame) -> Result<Layout, FrameError> {
        // In 64 bits for 32-bit boards. What a driver might name beyond them ends at the largest
        // number, which no frame has as many bytes as.
        let (width, height) = (u64::from(frame.width), u64::from(frame.height));
        let chroma_rows = height.div_ceil(2);
        let least_stride = match frame.format {
            PixelFormat::Yuyv => width.div_ceil(2) * 4,
            PixelFormat::Nv12 | PixelFormat::I420 => width.div_ceil(2) * 2,
            PixelFormat::Grey | PixelFormat::Mjpeg => width,
            PixelFormat::Rgb => width * 3,
        };
        let stride = u64::from(frame.stride).max(least_stride);
        let second = stride.saturating_mul(height);
        let chroma = (stride / 2).saturating_mul(chroma_rows);
        let (third, needed) = match frame.format {
            PixelFormat::Nv12 => (second, second.saturating_add(stride.saturating_mul(chroma_rows))),
            PixelFormat::I420 => (second.saturating_add(chroma), second.saturating_add(chroma.saturating_mul(2))),
            // The last row need not be padded to the stride.
            _ => (second, second.saturating_sub(stride - least_stride)),
        };
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        if frame.bytes.len() < needed {
            let Frame { format, width, height, .. } = *frame;
            return Err(FrameError::Short { format, width, height, needed, got: frame.bytes.len() });
        }
        // What lies within the bytes fits into usize; an offset beyond them (no second plane, no rows) is never used.
        let offset = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        Ok(Layout { stride: offset(stride), second: offset(second), third: offset(third) })
    }
}

/// BT.601, limited range, in 8-bit fixed point; within 1 of the real-valued formula.
fn rgb_of_yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let luma = 298 * (i32::from(y) - 16) + 128;
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    [luma + 409 * v, luma - 100 * u - 208 * v, luma + 516 * u].map(|value| (value >> 8).clamp(0, 255) as u8)
}

/// The four Huffman tables of ITU-T T.81, Annex K.3, as DHT segments: what a camera means that sends none (AVI1 MJPEG).
#[rustfmt::skip]
pub(super) const STANDARD_TABLES: &[u8] = &[
    // luma, DC
    0xff, 0xc4, 0x00, 0x1f, 0x00, 0x00, 0x01, 0x05, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
    // luma, AC
    0xff, 0xc4, 0x00, 0xb5, 0x10, 0x00, 0x02, 0x01, 0x03, 0x03, 0x02, 0x04, 0x03, 0x05, 0x05, 0x04, 0x04, 0x00,
    0x00, 0x01, 0x7d, 0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61,
    0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24,
    0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34,
    0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56,
    0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78,
    0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
    0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9,
    0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9,
    0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
    0xf8, 0xf9, 0xfa,
    // chroma, DC
    0xff, 0xc4, 0x00, 0x1f, 0x01, 0x00, 0x03, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
    // chroma, AC
    0xff, 0xc4, 0x00, 0xb5, 0x11, 0x00, 0x02, 0x01, 0x02, 0x04, 0x04, 0x03, 0x04, 0x07, 0x05, 0x04, 0x04, 0x00,
    0x01, 0x02, 0x77, 0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61,
    0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15,
    0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29,
    0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55,
    0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77,
    0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97,
    0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7,
    0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7,
    0xd8, 0xd9, 0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
    0xf8, 0xf9, 0xfa,
];

/// Where the first scan of a JPEG begins if no Huffman table comes before it.
///
/// # Errors
/// A JPEG of more than 8 bits per sample, or of other than one or three components (CMYK): no camera sends them, and
/// what a decoder would make of them is no picture to decide on.
fn scan_without_tables(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let (mut at, mut tables) = (2, false);
    while let Some(&[0xff, kind, high, low]) = bytes.get(at..at + 4) {
        match kind {
            // Any number of fill bytes may precede a marker (T.81, B.1.1.2).
            0xff => {
                at += 1;
                continue;
            }
            0xc4 => tables = true,
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => check_frame_header(bytes, at)?,
            0xda => return Ok((!tables).then_some(at)),
            _ => {}
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    Ok(None)
}

/// The marker, its length, then: bits per sample, height, width, number of components.
fn check_frame_header(bytes: &[u8], at: usize) -> Result<(), FrameError> {
    let (precision, components) = (bytes.get(at + 4).copied().unwrap_or(8), bytes.get(at + 9).copied().unwrap_or(3));
    if precision != 8 {
        return Err(FrameError::Jpeg(format!("it has {precision} bits per sample, where 8 are expected")));
    }
    if ![1, 3].contains(&components) {
        return Err(FrameError::Jpeg(format!(
            "it has {components} components, where 1 (grey) or 3 (colour) are expected"
        )));
    }
    Ok(())
}

/// A JPEG with the standard Huffman tables put in before its first scan, if it has none of its own.
fn with_huffman_tables(bytes: &[u8]) -> Result<Cow<'_, [u8]>, FrameError> {
    Ok(match scan_without_tables(bytes)? {
        Some(at) => Cow::Owned([&bytes[..at], STANDARD_TABLES, &bytes[at..]].concat()),
        None => Cow::Borrowed(bytes),
    })
}

/// A frame's JPEG with all that is needed to decode it.
fn whole_jpeg(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    Ok(with_huffman_tables(&frame.bytes)?.into_owned())
}

/// The size is compared before anything is decoded, so that a broken or hostile header costs nothing.
fn decode_jpeg(frame: &Frame) -> Result<RgbImage, FrameError> {
    let broken = |error: image::ImageError| FrameError::Jpeg(error.to_string());
    let decoder = JpegDecoder::new(Cursor::new(with_huffman_tables(&frame.bytes)?)).map_err(broken)?;
    let (got_width, got_height) = decoder.dimensions();
    if (got_width, got_height) != (frame.width, frame.height) {
        return Err(FrameError::Size { width: frame.width, height: frame.height, got_width, got_height });
    }
    Ok(image::DynamicImage::from_decoder(decoder).map_err(broken)?.to_rgb8())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    fn frame(format: PixelFormat, width: u32, height: u32, stride: u32, bytes: Vec<u8>) -> Frame {
        Frame { bytes, format, width, height, stride, sequence: 0, captured_at: Instant::now() }
    }

    fn naive(y: u8, u: u8, v: u8) -> [f64; 3] {
        let (y, u, v) = (1.164_383 * (f64::from(y) - 16.0), f64::from(u) - 128.0, f64::from(v) - 128.0);
        [y + 1.596_027 * v, y - 0.391_762 * u - 0.812_968 * v, y + 2.017_232 * u].map(|c| c.clamp(0.0, 255.0))
    }

    fn jpeg(width: u32, height: u32) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8 * 3, y as u8 * 3, 90]));
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn the_fixed_point_formula_is_within_one_of_the_real_one(y: u8, u: u8, v: u8) {
            for (got, exact) in rgb_of_yuv(y, u, v).iter().zip(naive(y, u, v)) {
                prop_assert!((f64::from(*got) - exact).abs() <= 1.5, "{got} {exact}");
            }
        }

        #[test]
        fn a_region_is_decoded_as_the_whole_is(
            (w, h) in (1u32..20, 1u32..12), (x, y, across, down) in (0u32..20, 0u32..12, 0u32..20, 0u32..12), seed: u64
        ) {
            use PixelFormat::*;
            let byte = |i: u64| (i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0];
            let (x, y) = (x.min(w), y.min(h));
            let region = Region { x, y, width: across.min(w - x), height: down.min(h - y) };
            for format in [Yuyv, Nv12, I420, Grey, Rgb] {
                let frame = frame(format, w, h, 0, (0..2000).map(byte).collect());
                let whole = frame.rgb().unwrap();
                let mut part = RgbImage::default();
                frame.decode(region, &mut part).unwrap();
                for (x, y) in (x..x + region.width).flat_map(|x| (y..y + region.height).map(move |y| (x, y))) {
                    prop_assert_eq!(part.get_pixel(x, y), whole.get_pixel(x, y), "{:?} {} {}", format, x, y);
                }
            }
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), w in 0u32..20, h in 0u32..20, stride in 0u32..50) {
            use PixelFormat::*;
            for format in [Yuyv, Nv12, I420, Grey, Mjpeg, Rgb] {
                let _ = frame(format, w, h, stride, bytes.clone()).rgb();
            }
        }

        #[test]
        fn a_damaged_jpeg_never_panics(at in 0usize..600, value: u8, cut in 0usize..700) {
            let mut bytes = jpeg(32, 16);
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = frame(Mjpeg, 32, 16, 0, bytes).rgb();
        }
    }
    use PixelFormat::Mjpeg;

    #[test]
    fn each_format_puts_each_pixel_in_its_place() {
        // Four columns, two rows, every luma different, chroma different left and right; strides wider than the rows.
        let (y, u, v) = ([[50, 60, 70, 80], [90, 100, 110, 120]], [100, 160], [140, 90]);
        let yuyv: Vec<u8> = y.iter().flat_map(|r| [r[0], u[0], r[1], v[0], r[2], u[1], r[3], v[1], 0, 0]).collect();
        let luma: Vec<u8> = y.iter().flat_map(|r| [r[0], r[1], r[2], r[3], 0, 0]).collect();
        let nv12 = [&luma[..], &[u[0], v[0], u[1], v[1], 0, 0]].concat();
        let i420 = [&luma[..], &[u[0], u[1], 0], &[v[0], v[1], 0]].concat();
        for (format, stride, bytes) in
            [(PixelFormat::Yuyv, 10, yuyv), (PixelFormat::Nv12, 6, nv12), (PixelFormat::I420, 6, i420)]
        {
            let picture = frame(format, 4, 2, stride, bytes).rgb().unwrap();
            for (row, x) in [(0, 0), (0, 3), (1, 1), (1, 2)] {
                let expected = rgb_of_yuv(y[row][x], u[x / 2], v[x / 2]);
                assert_eq!(picture.get_pixel(x as u32, row as u32).0, expected, "{format:?} {row} {x}");
            }
        }
        assert_eq!(frame(PixelFormat::Grey, 4, 2, 6, luma).rgb().unwrap().get_pixel(2, 1).0, [110; 3]);
    }

    #[test]
    fn the_cells_are_those_of_the_decoded_picture() {
        // Luma in steps of one from cell to cell, without colour; 40 × 36 pixels are 2 × 2 whole cells.
        let luma = |x: usize, y: usize| (100 + x / CELL + 2 * (y / CELL)) as u8;
        let places = || (0..36).flat_map(|y| (0..40).map(move |x| (x, y)));
        let yuyv: Vec<u8> = places().flat_map(|(x, y)| [luma(x, y), 128]).collect();
        let grey: Vec<u8> = places().map(|(x, y)| luma(x, y)).collect();
        for (format, bytes) in [(PixelFormat::Yuyv, yuyv), (PixelFormat::Grey, grey)] {
            let mut cells = Vec::new();
            assert!(luma_cells(&frame(format, 40, 36, 0, bytes), &mut cells).unwrap().is_some());
            assert_eq!(cells, [100.0, 101.0, 102.0, 103.0], "{format:?}");
        }
        let mut cells = Vec::new();
        green_cells(&RgbImage::from_fn(40, 36, |x, y| Rgb([0, luma(x as usize, y as usize), 9])), &mut cells);
        assert_eq!(cells, [100.0, 101.0, 102.0, 103.0]);
        // A JPEG loses a little.
        let grey = RgbImage::from_fn(40, 36, |x, y| Rgb([luma(x as usize, y as usize); 3]));
        let mut bytes = Vec::new();
        grey.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
        assert!(luma_cells(&frame(Mjpeg, 40, 36, 0, bytes), &mut cells).unwrap().is_some());
        let expected = [100.0, 101.0, 102.0, 103.0];
        assert!(cells.iter().zip(expected).all(|(cell, expected)| (cell - expected).abs() < 1.0), "{cells:?}");
    }

    #[test]
    fn a_short_frame_is_an_error_that_says_what_is_missing() {
        let error = frame(PixelFormat::Yuyv, 640, 480, 1280, vec![0; 1000]).rgb().unwrap_err().to_string();
        assert!(error.contains("614400") && error.contains("1000"), "{error}");
    }

    #[test]
    fn a_jpeg_of_another_size_is_refused_before_it_is_decoded() {
        let result = frame(Mjpeg, 640, 480, 0, jpeg(32, 16)).rgb();
        assert!(matches!(result, Err(FrameError::Size { got_width: 32, got_height: 16, .. })));
    }

    fn without_tables(jpeg: &[u8]) -> Vec<u8> {
        let mut bare = jpeg.to_vec();
        while let Some(at) = bare.windows(2).position(|marker| marker == [0xff, 0xc4]) {
            let length = usize::from(u16::from_be_bytes([bare[at + 2], bare[at + 3]]));
            bare.drain(at..at + 2 + length);
        }
        assert!(bare.len() < jpeg.len(), "the encoder wrote tables");
        bare
    }

    #[test]
    fn a_jpeg_without_huffman_tables_is_decoded_as_webcams_mean_it() {
        // This encoder writes the standard's tables, so leaving them out is what a webcam does.
        let with = jpeg(64, 48);
        let without = without_tables(&with);
        let (a, b) = (frame(Mjpeg, 64, 48, 0, with).rgb().unwrap(), frame(Mjpeg, 64, 48, 0, without).rgb().unwrap());
        assert_eq!(a, b);
    }

    /// A JPEG's frame header and nothing else that would matter: marker SOF0, precision, size, components.
    fn header_only(precision: u8, width: u16, height: u16, components: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xc0, 0, 8 + 3 * components, precision];
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.push(components);
        (1..=components).for_each(|id| bytes.extend([id, 0x11, 0]));
        bytes.extend([0xff, 0xda, 0, 6 + 2 * components, components]);
        (1..=components).for_each(|id| bytes.extend([id, 0]));
        bytes.extend([0, 63, 0, 0x55, 0xaa, 0x55, 0xff, 0xd9]);
        bytes
    }

    #[test]
    fn a_jpeg_of_ten_bits_or_four_inks_is_an_error() {
        for (bytes, word) in [(header_only(10, 16, 8, 3), "10 bits"), (header_only(8, 16, 8, 4), "4 components")] {
            let error = frame(Mjpeg, 16, 8, 0, bytes).rgb().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused_by_its_header() {
        // The size agrees with the frame's, as it does where a source takes the frame's size from that very header.
        let error = frame(Mjpeg, 65_500, 65_500, 0, header_only(8, 65_500, 65_500, 3)).rgb().unwrap_err().to_string();
        assert!(error.contains("65500") && error.contains("megapixels"), "{error}");
    }

    #[test]
    fn a_size_that_no_memory_holds_is_an_error() {
        use PixelFormat::*;
        for format in [Yuyv, Nv12, I420, Grey, Mjpeg, Rgb] {
            assert!(frame(format, u32::MAX, u32::MAX, u32::MAX, vec![0; 10]).rgb().is_err(), "{format:?}");
            assert!(frame(format, 1, 1_000, u32::MAX, vec![0; 10]).rgb().is_err(), "{format:?}");
            assert!(frame(format, u32::MAX, 0, 0, vec![]).rgb().is_err(), "{format:?}");
        }
    }

    proptest! {
        /// Sizes and strides about the powers of two, where products overflow.
        #[test]
        fn hostile_sizes_are_errors_and_never_panic(
            [w, h, stride] in [hostile(), hostile(), hostile()],
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            use PixelFormat::*;
            for format in [Yuyv, Nv12, I420, Grey, Mjpeg, Rgb] {
                let frame = frame(format, w, h, stride, bytes.clone());
                // Of a size that such bytes may be; all others are errors.
                let small = u64::from(w) * u64::from(h) <= 100;
                prop_assert!(small || frame.rgb().is_err(), "{format:?}");
                let mut cells = Vec::new();
                let _ = (frame.rgb(), luma_cells(&frame, &mut cells));
                prop_assert!(cells.capacity() < 1_000_000, "{format:?}: {}", cells.capacity());
            }
        }
    }

    fn hostile() -> impl Strategy<Value = u32> {
        let about = |power: u32, off: u32| (1u64 << power).wrapping_add(u64::from(off)).wrapping_sub(2) as u32;
        prop_oneof![0u32..20, any::<u32>(), (0u32..33, 0u32..5).prop_map(move |(power, off)| about(power, off))]
    }

    #[test]
    fn a_half_grey_jpeg_is_torn_and_a_short_frame_too() {
        let whole = jpeg(64, 48);
        let half = [&whole[..whole.len() - 60], &[0; 4000]].concat();
        let torn = [(Mjpeg, half), (PixelFormat::Yuyv, vec![128; 64 * 47 * 2]), (PixelFormat::I420, vec![0; 64])];
        for (format, bytes) in torn {
            let error = luma_cells(&frame(format, 64, 48, 0, bytes), &mut Vec::new()).unwrap_err();
            assert!(error.is_torn(), "{format:?}: {error}");
        }
        let foreign = luma_cells(&frame(Mjpeg, 64, 48, 0, header_only(8, 64, 48, 4)), &mut Vec::new());
        assert!(matches!(foreign, Ok(None)), "decoding says what it is");
    }

    #[test]
    fn fill_bytes_before_markers_do_not_hide_that_the_huffman_tables_are_missing() {
        let plain = jpeg(32, 16);
        let scan = plain.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
        let bare = without_tables(&[&plain[..scan], &[0xff, 0xff], &plain[scan..]].concat());
        assert_eq!(frame(Mjpeg, 32, 16, 0, bare).rgb().unwrap(), frame(Mjpeg, 32, 16, 0, plain).rgb().unwrap());
    }
}
