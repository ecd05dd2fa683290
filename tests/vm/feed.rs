//! Feeds a virtual camera (v4l2loopback) with a scene, for the tests in virtual machines.
//!
//!     feed DEVICE mjpeg|yuyv SCENE
//!
//! SCENE is a file with the path of a portrait that stands in front of the camera, or with nothing: nobody is there. It is
//! read anew before each frame. 640 × 480, 5 frames in two seconds: an emulated processor
//! is slow.

use std::{env, fs, io::Write, thread, time::Duration};

use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder, imageops};
use v4l::{Device, Format, FourCC, video::Output};

const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [device, format, scene] = &arguments[..] else { return Err("feed DEVICE mjpeg|yuyv SCENE".into()) };
    let code = if format == "yuyv" { b"YUYV" } else { b"MJPG" };
    let mut camera = Device::with_path(device)?;
    let mut wanted = Format::new(WIDTH, HEIGHT, FourCC::new(code));
    wanted.size = WIDTH * HEIGHT * 2;
    Output::set_format(&camera, &wanted)?;
    println!("feeding {device}");
    let (mut shown, mut pictures) = (None, Vec::new());
    for frame in 0.. {
        let portrait = fs::read_to_string(scene).unwrap_or_default().trim().to_owned();
        if shown.as_ref() != Some(&portrait) {
            pictures = (0..3).map(|sway| encode(&compose(&portrait, sway * 8)?, format)).collect::<Result<Vec<_>>>()?;
            shown = Some(portrait);
        }
        camera.write_all(&pictures[frame % pictures.len()])?;
        thread::sleep(Duration::from_millis(400));
    }
    Ok(())
}

/// A grey room, and the portrait in front of it.
fn compose(portrait: &str, sway: u32) -> Result<RgbImage> {
    let mut picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| Rgb([(96 + x / 20 + y / 24) as u8; 3]));
    if !portrait.is_empty() {
        let person = image::open(portrait)?.to_rgb8();
        let (height, width) = (440, person.width() * 440 / person.height());
        let person = imageops::resize(&person, width, height, imageops::FilterType::Triangle);
        let x = i64::from(WIDTH) / 2 - i64::from(width) / 2 + i64::from(sway);
        imageops::overlay(&mut picture, &person, x, i64::from(HEIGHT - height));
    }
    Ok(picture)
}

fn encode(picture: &RgbImage, format: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if format == "yuyv" {
        let luma =
            |p: &Rgb<u8>| (0.257 * f32::from(p[0]) + 0.504 * f32::from(p[1]) + 0.098 * f32::from(p[2]) + 16.0) as u8;
        let blue =
            |p: &Rgb<u8>| (-0.148 * f32::from(p[0]) - 0.291 * f32::from(p[1]) + 0.439 * f32::from(p[2]) + 128.0) as u8;
        let red =
            |p: &Rgb<u8>| (0.439 * f32::from(p[0]) - 0.368 * f32::from(p[1]) - 0.071 * f32::from(p[2]) + 128.0) as u8;
        for pair in picture.pixels().collect::<Vec<_>>().chunks_exact(2) {
            bytes.extend([luma(pair[0]), blue(pair[0]), luma(pair[1]), red(pair[0])]);
        }
    } else {
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(picture)?;
    }
    Ok(bytes)
}
