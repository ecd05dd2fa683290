//! Conversion of camera pixel formats to RGB.

use image::RgbImage;

use super::frame::{Frame, FrameError};

pub(super) fn to_rgb(_frame: &Frame) -> Result<RgbImage, FrameError> {
    Err(FrameError::Jpeg(String::new()))
}
