//! Runs one stage of recognition a number of times, for cross/arm-cost/measure to count the instructions of.
//!
//!     cost STAGE PRECISION TIMES          the stages stand in `prepare`; PRECISION is w8 or int8
//!
//! What a stage needs is prepared before; so the difference between two runs is that of its repetitions. Run it in the checkout's root.

use std::{env, error::Error, hint::black_box, path::Path};

use facelatch::vision::{
    Vision,
    manifest::{Manifest, NetEntry, Role},
    model::Precision,
    mtcnn::{Mtcnn, MtcnnSettings},
    net::NetFile,
};
use image::{Rgb, RgbImage, imageops};

/// Of the portrait in the frame: its face's box is then 120 px wide.
const PORTRAIT_SIDE: u32 = 222;
const PRECISIONS: [Precision; 2] = [Precision::W8, Precision::Int8];

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Work = Box<dyn FnMut() -> Result<()>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [stage, precision, times] = &arguments[..] else { return Err("cost STAGE PRECISION TIMES".into()) };
    let precision =
        PRECISIONS.into_iter().find(|p| p.to_string() == *precision).ok_or("the precision is w8 or int8")?;
    let mut work = prepare(stage, precision)?;
    for _ in 0..times.parse::<u32>()? {
        work()?;
    }
    Ok(())
}

/// The work of a stage, ready to be repeated.
fn prepare(stage: &str, precision: Precision) -> Result<Work> {
    let frame = frame()?;
    Ok(match stage {
        "detect-80" => detect(frame, precision, 80.0)?,
        "detect-40" => detect(frame, precision, 40.0)?,
        "first-frame-80" => {
            let fresh = detector(precision, 80.0)?;
            work(move || fresh.clone().detect(&frame))
        }
        "fresh-frame-80" => {
            let mut vision = load(precision)?;
            work(move || -> Result<_> {
                let face = vision.detect(&frame)?.into_iter().next().ok_or("no face")?;
                let (_, aligned) = vision.look(&frame, &face).ok_or("the landmarks are degenerate")?;
                Ok(vision.embedder().embed(&aligned)?)
            })
        }
        "align" => {
            let mut vision = load(precision)?;
            let face = vision.detect(&frame)?.into_iter().next().ok_or("no face")?;
            work(move || vision.look(&frame, &face).ok_or("the landmarks are degenerate"))
        }
        "embed" => {
            let vision = load(precision)?;
            let face = vision.embedder().grey_face();
            work(move || vision.embedder().embed(&face))
        }
        "pnet" => net(Role::Pnet, precision, Some([120, 160]))?,
        "rnet" => net(Role::Rnet, precision, None)?,
        "onet" => net(Role::Onet, precision, None)?,
        "embedder" => embedder("dlib", precision)?,
        "mobilefacenet" => embedder("mobilefacenet", precision)?,
        "load" => work(move || load(precision)),
        other => return Err(format!("there is no stage {other}").into()),
    })
}

fn work<T, E: Into<Box<dyn Error>>>(mut once: impl FnMut() -> std::result::Result<T, E> + 'static) -> Work {
    Box::new(move || once().map(|made| drop(black_box(made))).map_err(Into::into))
}

fn detect(frame: RgbImage, precision: Precision, min_face: f32) -> Result<Work> {
    let mut detector = detector(precision, min_face)?;
    // The first frame of a size makes P-Net's plans.
    let sides: Vec<f32> = detector.detect(&frame)?.iter().map(|face| face.bounding_box.side()).collect();
    // The box drawn around the 120 px is a little narrower.
    if !matches!(sides[..], [side] if (110.0..120.0).contains(&side)) {
        return Err(format!("the frame should have one face of 120 px, not {sides:?}").into());
    }
    Ok(work(move || detector.detect(&frame)))
}

fn models() -> &'static Path {
    Path::new("models")
}

fn settings(min_face: f32) -> MtcnnSettings {
    MtcnnSettings { min_face, thresholds: [0.6, 0.7, 0.7] }
}

fn load(precision: Precision) -> Result<Vision> {
    Ok(Vision::load(models(), "dlib", precision, settings(80.0))?)
}

fn file(manifest: &Manifest, entry: &NetEntry, precision: Precision) -> Result<NetFile> {
    Ok(NetFile::read(&entry.name, &manifest.read_net(entry)?, precision)?)
}

/// The detector alone, as `Vision` makes it: P-Net always calculates in floating point.
fn detector(precision: Precision, min_face: f32) -> Result<Mtcnn> {
    let manifest = Manifest::load(models())?;
    let net = |role, precision| -> Result<NetFile> { file(&manifest, manifest.detector(role)?, precision) };
    Ok(Mtcnn::new(
        net(Role::Pnet, Precision::W8)?,
        net(Role::Rnet, precision)?,
        net(Role::Onet, precision)?,
        settings(min_face),
    )?)
}

/// One of the detector's nets on one input, of the size of the manifest where none is given.
fn net(role: Role, precision: Precision, input: Option<[usize; 2]>) -> Result<Work> {
    let manifest = Manifest::load(models())?;
    run(&manifest, manifest.detector(role)?, precision, input)
}

fn embedder(name: &str, precision: Precision) -> Result<Work> {
    let manifest = Manifest::load(models())?;
    run(&manifest, manifest.embedder(name)?, precision, None)
}

fn run(manifest: &Manifest, entry: &NetEntry, precision: Precision, input: Option<[usize; 2]>) -> Result<Work> {
    let [height, width] = input.unwrap_or(entry.input);
    let net = file(manifest, entry, precision)?.plan(height, width)?;
    let grey = vec![128.0; 3 * height * width];
    Ok(work(move || net.run(&grey)))
}

/// 640 × 480: a portrait before a wall.
fn frame() -> Result<RgbImage> {
    let portrait = image::open("tests/data/barack_obama_1.png")?.to_rgb8();
    let person = imageops::resize(&portrait, PORTRAIT_SIDE, PORTRAIT_SIDE, imageops::FilterType::Triangle);
    let mut frame = RgbImage::from_fn(640, 480, |x, y| Rgb([(90 + x / 20 + y / 30) as u8; 3]));
    imageops::overlay(&mut frame, &person, 200, 120);
    Ok(frame)
}
