//! From a file of unknown origin to pixels.
//!
//! What decoding takes is known from the header, before anything is decoded. A picture
//! that needs more than [`MOST_MEMORY`] is decoded at a fraction of its size, and one
//! picture at a time.

mod jpeg;
pub(super) mod kind;
mod png;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod writer;

use std::{
    io::Cursor,
    sync::{Mutex, MutexGuard, PoisonError},
};

use image::{DynamicImage, ImageDecoder, RgbImage, codecs::jpeg::JpegDecoder, metadata::Orientation};

use self::{jpeg::Jpeg, kind::Kind, png::Png};
use super::Refusal;

/// Of the file and what its decoding needs. The nets need some MiB more.
const MOST_MEMORY: u64 = 80 << 20;
/// Rows in work, and the like.
const SMALL_CHANGE: u64 = 4 << 20;
/// The holder decodes a picture, or has one to look at.
static TURN: Mutex<()> = Mutex::new(());

/// Of a format that is not read, a smaller file would be refused as well.
pub(super) fn too_large(bytes: &[u8]) -> Refusal {
    match Kind::of(bytes) {
        Kind::Other(kind) => Refusal::Foreign { kind: kind.into(), remedy: kind::remedy(kind) },
        _ => Refusal::TooLargeFile,
    }
}

/// A decoded picture. No other is decoded before it is dropped.
pub struct Decoded {
    pub picture: RgbImage,
    /// How many pixels of the file a pixel's side stands for.
    pub step: f32,
    _turn: MutexGuard<'static, ()>,
}

/// Decodes a picture, upright as its EXIF data say, when it is its turn. A large one is
/// made smaller.
///
/// # Errors
/// Not a picture, not complete, or larger than `max_megapixels`.
pub fn decode(bytes: &[u8], max_megapixels: u32) -> Result<Decoded, Refusal> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (picture, step) = decode_at_once(bytes, max_megapixels)?;
    Ok(Decoded { picture, step, _turn: turn })
}

/// As [`decode`], without a turn: for commands that use all cores, and the memory this
/// takes.
///
/// # Errors
/// As [`decode`].
pub fn decode_at_once(bytes: &[u8], max_megapixels: u32) -> Result<(RgbImage, f32), Refusal> {
    let decoded = match Kind::of(bytes) {
        Kind::Jpeg => decode_jpeg(bytes, max_megapixels),
        Kind::Png => decode_png(bytes, max_megapixels),
        Kind::Unfinished => Err(Fault::Incomplete("it is empty, or ends in its header".into())),
        Kind::Other(kind) => return Err(Refusal::Foreign { kind: kind.into(), remedy: kind::remedy(kind) }),
        Kind::Unknown => Err(Fault::Damaged("its first bytes are those of no known format".into())),
    };
    decoded.map_err(|fault| match fault {
        // What was to come may be zeros yet: some programs set a file's length first.
        Fault::Damaged(problem) | Fault::Foreign(problem) if bytes.ends_with(&[0; 16]) => Refusal::Incomplete(problem),
        Fault::Incomplete(problem) => Refusal::Incomplete(problem),
        Fault::Damaged(problem) => Refusal::NotAPicture(problem),
        Fault::Foreign(kind) => Refusal::Foreign { remedy: kind::remedy(&kind), kind },
        Fault::TooManyPixels(size) => Refusal::TooManyPixels { size, most: max_megapixels },
        Fault::NeedsMemory => Refusal::NeedsMemory { most: MOST_MEMORY >> 20 },
    })
}

/// Why a picture is not decoded.
#[derive(Debug, PartialEq)]
enum Fault {
    /// More of the file may come.
    Incomplete(String),
    Damaged(String),
    /// Of a kind that is not read.
    Foreign(String),
    TooManyPixels(String),
    NeedsMemory,
}

fn check_pixels(width: u32, height: u32, max_megapixels: u32) -> Result<(), Fault> {
    let pixels = u64::from(width) * u64::from(height);
    // A phone's "50 megapixels" are up to 50.4 million.
    match pixels >= u64::from(max_megapixels) * 1_000_000 + 500_000 {
        true => {
            Err(Fault::TooManyPixels(format!("{width} x {height} pixels ({} megapixels)", pixels.div_ceil(1_000_000))))
        }
        false => Ok(()),
    }
}

fn decode_jpeg(bytes: &[u8], max_megapixels: u32) -> Result<(RgbImage, f32), Fault> {
    let jpeg = Jpeg::read(bytes)?;
    check_pixels(jpeg.width, jpeg.height, max_megapixels)?;
    let fits = |need: u64| need + SMALL_CHANGE <= MOST_MEMORY;
    if jpeg.is_common() && fits(need_of_whole(&jpeg, bytes.len() as u64)) {
        jpeg.check()?;
        return whole_jpeg(bytes).map(|picture| (picture, 1.0)).map_err(|error| Fault::Damaged(error.to_string()));
    }
    let keep = [8, 4, 2, 1].into_iter().find(|&keep| fits(bytes.len() as u64 + jpeg.need(keep)));
    let keep = keep.ok_or(Fault::NeedsMemory)?;
    Ok((jpeg.decode(keep)?, 8.0 / keep as f32))
}

/// What [`whole_jpeg`] needs, in bytes.
fn need_of_whole(jpeg: &Jpeg<'_>, file: u64) -> u64 {
    let pixels = u64::from(jpeg.width) * u64::from(jpeg.height);
    let decoded = pixels * if jpeg.is_grey() { 1 } else { 3 };
    let coefficients = if jpeg.in_several_scans() { jpeg.coefficients() * 2 } else { 0 };
    // The decoder has a copy of the file and may have one of its headers; turning by a
    // quarter, and grey to colours, take one of the picture.
    let quarter = !matches!(
        jpeg.orientation,
        Orientation::NoTransforms | Orientation::Rotate180 | Orientation::FlipHorizontal | Orientation::FlipVertical
    );
    let copied = if jpeg.is_grey() { 3 * pixels } else { 0 }.max(if quarter { decoded } else { 0 });
    (3 * file + decoded + coefficients).max(file + decoded + copied)
}

fn whole_jpeg(bytes: &[u8]) -> image::ImageResult<RgbImage> {
    let mut decoder = JpegDecoder::new(Cursor::new(bytes))?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

fn decode_png(bytes: &[u8], max_megapixels: u32) -> Result<(RgbImage, f32), Fault> {
    let (width, height) = png::size(bytes)?;
    // First: the decoder itself gives up on what 32 bits cannot count.
    check_pixels(width, height, max_megapixels)?;
    let png = Png::read(bytes)?;
    let fits = |step: &u32| bytes.len() as u64 + Png::need(png.width, png.height, *step) <= MOST_MEMORY;
    let step = (1..=16).find(fits).ok_or(Fault::NeedsMemory)?;
    Ok((png.decode(step)?, step as f32))
}

/// A picture whose pixels are put where they belong once it is turned upright.
struct Upright {
    picture: RgbImage,
    /// As the file has it.
    width: u32,
    height: u32,
    orientation: Orientation,
}

impl Upright {
    fn new(width: u32, height: u32, orientation: Orientation) -> Upright {
        let (x, y) = Upright::place(orientation, (width, height), (width - 1, 0));
        let (far_x, far_y) = Upright::place(orientation, (width, height), (0, height - 1));
        // Two opposite corners.
        let picture = RgbImage::new(x.abs_diff(far_x) + 1, y.abs_diff(far_y) + 1);
        Upright { picture, width, height, orientation }
    }

    fn place(orientation: Orientation, (width, height): (u32, u32), (x, y): (u32, u32)) -> (u32, u32) {
        let (right, bottom) = (width - 1 - x, height - 1 - y);
        match orientation {
            Orientation::NoTransforms => (x, y),
            Orientation::FlipHorizontal => (right, y),
            Orientation::Rotate180 => (right, bottom),
            Orientation::FlipVertical => (x, bottom),
            Orientation::Rotate90FlipH => (y, x),
            Orientation::Rotate90 => (bottom, x),
            Orientation::Rotate270FlipH => (bottom, right),
            Orientation::Rotate270 => (y, right),
        }
    }

    fn put(&mut self, x: u32, y: u32, rgb: [u8; 3]) {
        let (x, y) = Upright::place(self.orientation, (self.width, self.height), (x, y));
        self.picture.put_pixel(x, y, image::Rgb(rgb));
    }
}
