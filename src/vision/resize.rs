//! Scaling by area: each pixel of the result is the mean of the part of the picture that it covers.
//!
//! The whole region is stretched onto the result; along each axis result pixel `i` of `n` covers `[i·s/n, (i+1)·s/n)` of
//! the `s` source pixels, and source pixels count by how much of them is covered. For shrinking this is the
//! anti-aliased choice MTCNN was trained with (OpenCV's `INTER_AREA`); for enlarging it blends at pixel borders only.

use image::RgbImage;

/// A region in whole pixels: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

impl Region {
    pub fn whole(picture: &RgbImage) -> Region {
        Region { x: 0, y: 0, width: picture.width(), height: picture.height() }
    }
}

/// Which source pixels one pixel of the result covers along one axis, `first` to before `end`, and how much the first, each
/// of those between, and the last of them count; together they count 1.
#[derive(Clone, Copy, Debug)]
struct Coverage {
    first: usize,
    end: usize,
    head: f32,
    body: f32,
    tail: f32,
}

fn coverage(source: usize, target: usize) -> impl Iterator<Item = Coverage> {
    let span = source as f64 / target as f64;
    (0..target).map(move |i| {
        let (from, to) = (i as f64 * span, ((i + 1) as f64 * span).min(source as f64));
        let first = (from.floor() as usize).min(source - 1);
        let end = (to.ceil() as usize).clamp(first + 1, source);
        let covered = |pixel: usize| (to.min((pixel + 1) as f64) - from.max(pixel as f64)).max(0.0);
        let (head, tail) = (covered(first), if end - first > 1 { covered(end - 1) } else { 0.0 });
        let between = (end - first).saturating_sub(2) as f64;
        let total = head + between + tail;
        Coverage { first, end, head: (head / total) as f32, body: (1.0 / total) as f32, tail: (tail / total) as f32 }
    })
}

/// Scales regions of pictures for the nets; keeps its buffers.
#[derive(Clone, Debug, Default)]
pub struct Resizer {
    columns: Vec<Coverage>,
    /// One row of the source's width: sums of whole source rows, then the weighted sum.
    whole: Vec<u16>,
    row: Vec<f32>,
    planes: Vec<f32>,
}

/// So many rows of 8-bit samples can be added up in 16 bits.
const ROWS_IN_16_BITS: usize = 257;

impl Resizer {
    /// Scales a region of a picture to `width` × `height`: 32-bit numbers 0 to 255, rounded to whole ones, in channel, row,
    /// column order (R, G, B planes), as the nets take it.
    ///
    /// `region` must lie within the picture and be at least 1 × 1.
    pub fn planes(&mut self, picture: &RgbImage, region: Region, width: usize, height: usize) -> &[f32] {
        let all = Region { x: 0, y: 0, width: width as u32, height: height as u32 };
        self.planes_in(picture, region, all, width, height)
    }

    /// As [`Resizer::planes`], with the region scaled onto `target`, a part of the result; the rest stays black.
    pub fn planes_in(
        &mut self,
        picture: &RgbImage,
        region: Region,
        target: Region,
        width: usize,
        height: usize,
    ) -> &[f32] {
        self.columns.clear();
        self.columns.extend(coverage(region.width as usize, target.width as usize));
        self.planes.clear();
        self.planes.resize(3 * width * height, 0.0);
        let samples = region.width as usize * 3;
        let stride = picture.width() as usize * 3;
        let from = region.y as usize * stride + region.x as usize * 3;
        let source_row = |y: usize| &picture.as_raw()[from + y * stride..][..samples];
        let (left, top) = (target.x as usize, target.y as usize);
        for (y, rows) in coverage(region.height as usize, target.height as usize).enumerate() {
            self.add_rows(rows, source_row);
            let [red, green, blue] = [0, 1, 2].map(|channel| (channel * height + top + y) * width + left);
            for (x, column) in self.columns.iter().enumerate() {
                let [r, g, b] = weighted_pixel(&self.row, column);
                self.planes[red + x] = whole_number(r);
                self.planes[green + x] = whole_number(g);
                self.planes[blue + x] = whole_number(b);
            }
        }
        &self.planes
    }

    /// The weighted sum of the rows covered. Rows of equal weight are added up as integers first: that is what makes large
    /// pictures cheap.
    fn add_rows<'a>(&mut self, rows: Coverage, source_row: impl Fn(usize) -> &'a [u8]) {
        self.row.clear();
        self.row.extend(source_row(rows.first).iter().map(|&sample| rows.head * f32::from(sample)));
        let last = rows.end - 1;
        let mut next = rows.first + 1;
        while next < last {
            let end = last.min(next + ROWS_IN_16_BITS);
            self.whole.clear();
            self.whole.resize(self.row.len(), 0);
            for y in next..end {
                add_samples(&mut self.whole, source_row(y));
            }
            self.row.iter_mut().zip(&self.whole).for_each(|(sum, &whole)| *sum += rows.body * f32::from(whole));
            next = end;
        }
        if last > rows.first {
            self.row.iter_mut().zip(source_row(last)).for_each(|(sum, &sample)| *sum += rows.tail * f32::from(sample));
        }
    }
}

/// Nothing overflows, see [`ROWS_IN_16_BITS`]; without a check for it the loop is vectorised.
fn add_samples(sums: &mut [u16], samples: &[u8]) {
    sums.iter_mut().zip(samples).for_each(|(sum, &sample)| *sum = sum.wrapping_add(u16::from(sample)));
}

fn weighted_pixel(row: &[f32], column: &Coverage) -> [f32; 3] {
    let pixels = &row.as_chunks::<3>().0[column.first..column.end];
    let mut sum = pixels[0].map(|sample| column.head * sample);
    if let [_, between @ .., last] = pixels {
        let mut whole = [0.0f32; 3];
        for pixel in between {
            (0..3).for_each(|channel| whole[channel] += pixel[channel]);
        }
        (0..3).for_each(|channel| sum[channel] += column.body * whole[channel] + column.tail * last[channel]);
    }
    sum
}

fn whole_number(value: f32) -> f32 {
    // What is not negative is rounded down by leaving the fraction out.
    (value + 0.5).clamp(0.0, 255.0) as u8 as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use proptest::prelude::*;

    /// The definition, read off a fine grid: both sizes divide `GRID · size`, so sampling is exact.
    fn naive(picture: &RgbImage, region: Region, width: usize, height: usize) -> Vec<f32> {
        let mut planes = vec![0.0; 3 * width * height];
        for (channel, y, x) in (0..3).flat_map(|c| (0..height).flat_map(move |y| (0..width).map(move |x| (c, y, x)))) {
            let mut sum = 0.0f64;
            // In units of 1/width (1/height) of a source pixel, everything is a whole number.
            for v in y * region.height as usize..(y + 1) * region.height as usize {
                for u in x * region.width as usize..(x + 1) * region.width as usize {
                    let pixel = picture.get_pixel(region.x + (u / width) as u32, region.y + (v / height) as u32);
                    sum += pixel[channel] as f64;
                }
            }
            planes[(channel * height + y) * width + x] = (sum / (region.width * region.height) as f64) as f32;
        }
        planes
    }

    proptest! {
        #[test]
        fn it_is_the_mean_of_what_each_pixel_covers(
            (w, h) in (1u32..40, 1u32..40), (tw, th) in (1usize..30, 1usize..30), seed in any::<u32>()
        ) {
            let noise = |x: u32, y: u32, c: u32| (seed ^ (x * 7919 + y * 104_729 + c * 1_299_709)).wrapping_mul(2_654_435_761) as u8;
            let picture = RgbImage::from_fn(w + 3, h + 2, |x, y| Rgb([noise(x, y, 0), noise(x, y, 1), noise(x, y, 2)]));
            let region = Region { x: 2, y: 1, width: w, height: h };
            let mut resizer = Resizer::default();
            let planes = resizer.planes(&picture, region, tw, th);
            prop_assert_eq!(planes.len(), 3 * tw * th);
            for (got, exact) in planes.iter().zip(naive(&picture, region, tw, th)) {
                prop_assert!((got - exact).abs() <= 0.501, "{got} is not {exact} rounded");
            }
        }
    }

    #[test]
    fn rows_too_many_for_16_bits_are_added_up_all_the_same() {
        let picture = RgbImage::from_pixel(2, 2 * 257 + 3, Rgb([255; 3]));
        let mut resizer = Resizer::default();
        assert_eq!(resizer.planes(&picture, Region::whole(&picture), 1, 1), [255.0; 3]);
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let picture = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8, y as u8, 9]));
        let mut resizer = Resizer::default();
        let planes = resizer.planes(&picture, Region::whole(&picture), 5, 4);
        assert_eq!(&planes[..5], &[0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(planes[20 + 5], 1.0);
        assert_eq!(planes[40], 9.0);
    }
}
