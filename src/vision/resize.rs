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

/// Which source pixels one pixel of the result covers, and how much of each, along one axis; the weights sum to 1.
struct Coverage {
    first: usize,
    weights: Vec<f32>,
}

fn coverage(source: usize, target: usize) -> Vec<Coverage> {
    let span = source as f64 / target as f64;
    let one = |i: usize| {
        let (from, to) = (i as f64 * span, ((i + 1) as f64 * span).min(source as f64));
        let first = (from.floor() as usize).min(source - 1);
        let last = ((to.ceil() as usize).max(first + 1)).min(source);
        let covered = |pixel: usize| (to.min((pixel + 1) as f64) - from.max(pixel as f64)).max(0.0);
        let total: f64 = (first..last).map(covered).sum();
        Coverage { first, weights: (first..last).map(|pixel| (covered(pixel) / total) as f32).collect() }
    };
    (0..target).map(one).collect()
}

/// Scales a region of a picture to `width` × `height` and writes it as 32-bit numbers 0 to 255, rounded to whole ones, in
/// channel, row, column order (R, G, B planes), as the nets take it.
///
/// `region` must lie within the picture and be at least 1 × 1.
pub fn resize_to_planes(picture: &RgbImage, region: Region, width: usize, height: usize, planes: &mut Vec<f32>) {
    let columns = coverage(region.width as usize, width);
    let rows = coverage(region.height as usize, height);
    let stride = picture.width() as usize * 3;
    let samples = picture.as_raw();
    let narrowed: Vec<f32> = (0..region.height as usize)
        .flat_map(|y| {
            let row = &samples[(region.y as usize + y) * stride + region.x as usize * 3..][..region.width as usize * 3];
            columns.iter().flat_map(|column| weighted_pixel(row, column))
        })
        .collect();
    planes.clear();
    planes.resize(3 * width * height, 0.0);
    let mut sums = vec![0.0f32; width * 3];
    for (y, row) in rows.iter().enumerate() {
        sums.fill(0.0);
        for (weight, line) in row.weights.iter().zip(narrowed[row.first * width * 3..].chunks_exact(width * 3)) {
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += weight * value);
        }
        for (x, pixel) in sums.as_chunks::<3>().0.iter().enumerate() {
            for (channel, value) in pixel.iter().enumerate() {
                planes[(channel * height + y) * width + x] = (value + 0.5).floor().clamp(0.0, 255.0);
            }
        }
    }
}

fn weighted_pixel(row: &[u8], column: &Coverage) -> [f32; 3] {
    let mut sum = [0.0f32; 3];
    for (weight, pixel) in column.weights.iter().zip(row[column.first * 3..].as_chunks::<3>().0) {
        for channel in 0..3 {
            sum[channel] += weight * pixel[channel] as f32;
        }
    }
    sum
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
            let mut planes = Vec::new();
            resize_to_planes(&picture, region, tw, th, &mut planes);
            for (got, exact) in planes.iter().zip(naive(&picture, region, tw, th)) {
                prop_assert!((got - exact).abs() <= 0.501, "{got} is not {exact} rounded");
            }
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let picture = RgbImage::from_fn(5, 4, |x, y| Rgb([x as u8, y as u8, 9]));
        let mut planes = Vec::new();
        resize_to_planes(&picture, Region::whole(&picture), 5, 4, &mut planes);
        assert_eq!(&planes[..5], &[0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(planes[20 + 5], 1.0);
        assert_eq!(planes[40], 9.0);
    }
}
