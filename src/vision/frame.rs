//! A frame as the camera gave it: its own bytes in its own pixel format.
//!
//! [`pixels`](super::pixels) decodes it, only when its picture is wanted.

use std::time::Instant;

use super::resize::Region;

/// How a frame's bytes are laid out. Names follow V4L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// Packed 4:2:2, bytes Y U Y V for two pixels.
    Yuyv,
    /// A full luma plane, then interleaved U V at half resolution both ways.
    Nv12,
    /// A full luma plane, then a U and a V plane at half resolution both ways (V4L2 `YU12`, `yuv420` of rpicam-vid).
    I420,
    /// Luma only, one byte per pixel.
    Grey,
    /// A JPEG, possibly without Huffman tables, as webcams send it.
    Mjpeg,
    /// Three bytes R G B per pixel: pictures from files.
    Rgb,
}

/// One picture of the camera.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Exactly the bytes the camera used, without trailing rubbish of its buffer.
    pub bytes: Vec<u8>,
    pub format: PixelFormat,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// Bytes from one row of the first plane to the next; 0 for MJPEG. Chroma planes of `Nv12` have the same stride, of `I420` half of it.
    pub stride: u32,
    /// The camera's running number; gaps are dropped frames.
    pub sequence: u64,
    /// When the frame was taken: by the driver's stamp, by the pace of a program's frames, or by the time it was read.
    pub captured_at: Instant,
}

/// Why a frame could not be decoded. Such a frame is counted and skipped.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the frame has {got} bytes, {format:?} at {width}×{height} needs {needed}")]
    Short { format: PixelFormat, width: u32, height: u32, needed: usize, got: usize },
    #[error("the frame says it is {got_width}×{got_height}, the camera was set to {width}×{height}")]
    Size { width: u32, height: u32, got_width: u32, got_height: u32 },
    #[error("the frame says it is {width}×{height}, more than the {most} megapixels that are decoded")]
    TooLarge { width: u32, height: u32, most: u64 },
    #[error("the JPEG cannot be decoded: {0}")]
    Jpeg(String),
    #[error("the JPEG is torn: its data end early, or are damaged")]
    Torn,
}

impl FrameError {
    /// Whether part of the frame is missing: such frames come now and then, from any camera.
    pub fn is_torn(&self) -> bool {
        matches!(self, FrameError::Torn | FrameError::Short { .. })
    }
}

impl Frame {
    /// The whole frame.
    pub fn region(&self) -> Region {
        Region { x: 0, y: 0, width: self.width, height: self.height }
    }
}
