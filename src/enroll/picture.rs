//! From a file somebody dropped to pixels, without trusting it.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use super::Refusal;

/// Decodes a picture and turns it upright as its EXIF data say. The size in its header is judged before anything is decoded.
///
/// # Errors
/// Not a picture, damaged, or larger than `max_megapixels`.
pub fn decode(bytes: &[u8], max_megapixels: u32) -> Result<RgbImage, Refusal> {
    let not_a_picture = |problem: String| Refusal::NotAPicture(problem);
    let reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| not_a_picture(error.to_string()))?;
    if reader.format().is_none() {
        return Err(not_a_picture("its first bytes are those of no known format".into()));
    }
    let too_many_pixels = |size: String| Refusal::TooManyPixels { size, most: max_megapixels };
    let mut decoder = reader.into_decoder().map_err(|error| match error {
        // A 32-bit board cannot even count the bytes of such a picture, and its decoder does not say the size.
        ImageError::Limits(_) => too_many_pixels("more pixels than this board can address".into()),
        error => not_a_picture(error.to_string()),
    })?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > u64::from(max_megapixels) * 1_000_000 {
        return Err(too_many_pixels(format!("{width} x {height} pixels")));
    }
    // 16-bit RGBA is the most a pixel can take.
    let mut limits = Limits::default();
    limits.max_alloc = Some(u64::from(max_megapixels) * 1_000_000 * 8 + (16 << 20));
    decoder.set_limits(limits).map_err(|error| not_a_picture(error.to_string()))?;
    let orientation = decoder.orientation().map_err(|error| not_a_picture(error.to_string()))?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| not_a_picture(error.to_string()))?;
    picture.apply_orientation(orientation);
    Ok(picture.to_rgb8())
}
