//! Time per stage on one 640 × 480 frame with one face, one thread: `make bench`.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    time::Instant,
};

use divan::{Bencher, black_box};
use facelatch::{
    gallery::{Gallery, PersonId, Template, TemplateFusion},
    vision::{
        Vision,
        embed::Embedding,
        frame::{Frame, PixelFormat},
        manifest::{Manifest, Role},
        model::Precision,
        motion::Motion,
        mtcnn::MtcnnSettings,
        net::NetFile,
    },
};
use image::{ImageFormat, Rgb, RgbImage, imageops};

fn main() {
    divan::main();
}

const PRECISIONS: [&str; 2] = ["w8", "int8"];
const NETS: [&str; 8] =
    ["pnet w8", "pnet int8", "rnet w8", "rnet int8", "onet w8", "onet int8", "embedder w8", "embedder int8"];

fn precision(name: &str) -> Precision {
    if name == "w8" { Precision::W8 } else { Precision::Int8 }
}

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn vision(name: &str, min_face: f32) -> Vision {
    Vision::load(&models(), "dlib", precision(name), MtcnnSettings { min_face, thresholds: [0.6, 0.7, 0.7] }).unwrap()
}

/// A portrait before a wall; the face is about 130 px.
fn picture() -> RgbImage {
    let portrait = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/barack_obama_1.png");
    let person = imageops::resize(&image::open(portrait).unwrap().to_rgb8(), 240, 240, imageops::FilterType::Triangle);
    let mut frame = RgbImage::from_fn(640, 480, |x, y| Rgb([(90 + x / 20 + y / 30) as u8; 3]));
    imageops::overlay(&mut frame, &person, 200, 120);
    frame
}

#[divan::bench(args = [40.0, 80.0])]
fn detect(bencher: Bencher<'_, '_>, min_face: f32) {
    let (mut vision, picture) = (vision("w8", min_face), picture());
    assert_eq!(vision.detect(&picture).unwrap().len(), 1);
    bencher.bench_local(|| vision.detect(black_box(&picture)).unwrap());
}

#[divan::bench]
fn detect_in_an_empty_doorway(bencher: Bencher<'_, '_>) {
    let (mut vision, picture) = (vision("w8", 80.0), RgbImage::from_pixel(640, 480, Rgb([100; 3])));
    bencher.bench_local(|| vision.detect(black_box(&picture)).unwrap());
}

#[divan::bench]
fn align_and_measure_quality(bencher: Bencher<'_, '_>) {
    let (mut vision, picture) = (vision("w8", 80.0), picture());
    let face = vision.detect(&picture).unwrap()[0];
    bencher.bench_local(|| vision.look(black_box(&picture), &face));
}

#[divan::bench(args = PRECISIONS)]
fn embed(bencher: Bencher<'_, '_>, precision: &str) {
    let (mut vision, picture) = (vision(precision, 80.0), picture());
    let face = vision.detect(&picture).unwrap()[0];
    let (_, aligned) = vision.look(&picture, &face).unwrap();
    bencher.bench_local(|| vision.embedder().embed(black_box(&aligned)).unwrap());
}

/// One net alone, on grey; P-Net on the size of a level of the pyramid.
#[divan::bench(args = NETS)]
fn net(bencher: Bencher<'_, '_>, net: &str) {
    let (role, name) = net.split_once(' ').unwrap();
    let manifest = Manifest::load(&models()).unwrap();
    let entry = match role {
        "pnet" => manifest.detector(Role::Pnet),
        "rnet" => manifest.detector(Role::Rnet),
        "onet" => manifest.detector(Role::Onet),
        _ => manifest.embedder("dlib"),
    };
    let entry = entry.unwrap();
    let [height, width] = if role == "pnet" { [120, 160] } else { entry.input };
    let file = NetFile::read(&entry.name, &manifest.read_net(entry).unwrap(), precision(name)).unwrap();
    let (net, grey) = (file.plan(height, width).unwrap(), vec![128.0; 3 * height * width]);
    bencher.bench_local(|| net.run(black_box(&grey)).unwrap());
}

#[divan::bench(args = PRECISIONS)]
fn load(bencher: Bencher<'_, '_>, precision: &str) {
    bencher.bench_local(|| vision(precision, 80.0));
}

/// As a camera sends it.
fn frame(format: &str) -> Frame {
    let picture = picture();
    let mut jpeg = Vec::new();
    picture.write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg).unwrap();
    let (format, bytes, stride) = match format {
        "yuyv" => (PixelFormat::Yuyv, vec![120; 640 * 480 * 2], 1280),
        _ => (PixelFormat::Mjpeg, jpeg, 0),
    };
    Frame { bytes, format, width: 640, height: 480, stride, sequence: 0, captured_at: Instant::now() }
}

#[divan::bench(args = ["yuyv", "mjpeg"])]
fn decode(bencher: Bencher<'_, '_>, format: &str) {
    let frame = frame(format);
    bencher.bench_local(|| black_box(&frame).rgb().unwrap());
}

/// What an empty doorway costs for each frame.
#[divan::bench(args = ["yuyv", "mjpeg"])]
fn look_for_motion(bencher: Bencher<'_, '_>, format: &str) {
    let (frame, mut motion) = (frame(format), Motion::default());
    assert!(motion.look(&frame).unwrap());
    bencher.bench_local(|| motion.look(black_box(&frame)).unwrap());
}

#[divan::bench(args = [10, 1_000, 100_000])]
fn search(bencher: Bencher<'_, '_>, templates: u32) {
    let model = vision("w8", 80.0).embedder().model();
    let noise =
        |i: u32, j: u32| (i.wrapping_mul(7919) ^ j.wrapping_mul(104_729)).wrapping_mul(2_654_435_761) as i32 as f32;
    let embedding = |i: u32| Embedding::new((0..128).map(|j| noise(i, j)).collect(), model).unwrap();
    let all: Vec<Template> =
        (0..templates).map(|i| Template { person: PersonId(i), embedding: embedding(i) }).collect();
    let (gallery, probe) = (Gallery::new(model, TemplateFusion::Mean, &all), embedding(u32::MAX));
    bencher.bench_local(|| gallery.search(black_box(&probe)));
}
