//! A second face in view: how many of them the search before the door opens finds, by
//! thresholds of the detector.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use facelatch::{
    sight::{SMALLER, SMALLER_THRESHOLDS},
    vision::{
        Vision,
        geometry::{BoundingBox, Landmarks, Point},
        mtcnn::MtcnnSettings,
    },
};
use image::{Rgb, RgbImage, imageops};

use super::{any_picture, bordered, each, full, main_face, people, pictures_in, vision};
use crate::support::{beside_checkout, picture, skipped, too_slow_here};

/// The smallest face that is let in.
const MIN_FACE: f32 = 80.0;
/// The second row is in force.
const THRESHOLDS: [[f32; 3]; 5] =
    [[0.6, 0.7, 0.7], SMALLER_THRESHOLDS, [0.6, 0.6, 0.3], [0.5, 0.5, 0.5], [0.3, 0.4, 0.3]];
const IN_FORCE: usize = 1;
const SIZE: (u32, u32) = (640, 480);
/// Frame, middle and side of a head that looks down, in video/walk.mp4.
const BOWED: [(usize, f32, f32, f32); 12] = [
    (0, 703.0, 599.0, 97.0),
    (15, 761.0, 635.0, 102.0),
    (30, 666.0, 643.0, 102.0),
    (45, 632.0, 662.0, 107.0),
    (60, 574.0, 650.0, 117.0),
    (75, 545.0, 665.0, 122.0),
    (30, 1012.0, 730.0, 88.0),
    (45, 1026.0, 752.0, 97.0),
    (15, 316.0, 703.0, 88.0),
    (30, 297.0, 720.0, 92.0),
    (45, 263.0, 742.0, 97.0),
    (60, 229.0, 723.0, 102.0),
];

/// A head with its surroundings.
#[derive(Clone)]
struct Head {
    picture: RgbImage,
    face: BoundingBox,
    /// Where the nose is, sideways and down, see [`turned`].
    turned: [f32; 2],
}

/// What lies before a part of the second face, as a share of its box: a piece of the
/// first person's clothes.
#[derive(Clone, Copy)]
struct Before {
    side: f32,
    below: f32,
}

const NOTHING: Before = Before { side: 0.0, below: 0.0 };

impl Head {
    fn of(vision: &mut Vision, picture: RgbImage) -> Option<Head> {
        let face = main_face(vision, &picture)?;
        Some(Head { picture, face: face.bounding_box, turned: turned(&face.landmarks) })
    }

    fn around((x, y): (f32, f32), side: f32, picture: RgbImage) -> Head {
        let half = side / 2.0;
        let face = BoundingBox { x1: x - half, y1: y - half, x2: x + half, y2: y + half };
        Head { picture, face, turned: [0.0; 2] }
    }

    /// Draws the head, 2.4 times as large as its face, with soft edges; where its face is
    /// then.
    fn draw(&self, scene: &mut RgbImage, middle: (f32, f32), side: f32) -> BoundingBox {
        let (center, scale) = (self.face.center(), self.face.side() / side);
        for (x, y, pixel) in scene.enumerate_pixels_mut() {
            let (u, v) = (x as f32 - middle.0, y as f32 - middle.1);
            let alpha = ((1.2 - u.abs().max(v.abs()) / side) / 0.2).clamp(0.0, 1.0);
            let colour = sample(&self.picture, center.x + u * scale, center.y + v * scale, scale);
            if let Some(colour) = colour.filter(|_| alpha > 0.0) {
                for (old, new) in pixel.0.iter_mut().zip(colour) {
                    *old = (f32::from(*old) * (1.0 - alpha) + new * alpha) as u8;
                }
            }
        }
        Head::around(middle, side, RgbImage::new(1, 1)).face
    }

    /// The head bowed by an angle: its picture laid on an ellipsoid that turns. Above the
    /// hairline it stretches the hair.
    fn bowed(&self, degrees: f32) -> Head {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let (center, rx, ry) = (self.face.center(), self.face.width() * 0.62, self.face.height() * 0.78);
        let mut picture = self.picture.clone();
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            let (u, v) = ((x as f32 - center.x) / rx, (y as f32 - center.y + 0.1 * ry) / ry);
            let square = 1.0 - u * u - v * v;
            if square <= 0.0 {
                continue;
            }
            let depth = square.sqrt();
            let seen_before = v * sin + depth * cos > 0.0;
            let row = if seen_before { v * cos - depth * sin } else { -(1.0 - u * u).sqrt() * 0.95 };
            let colour = sample(&self.picture, x as f32, center.y - 0.1 * ry + row * ry, 1.0);
            *pixel = colour.map_or(*pixel, |colour| Rgb(colour.map(|value| value as u8)));
        }
        Head { picture, ..self.clone() }
    }
}

/// How far the nose lies off the middle, in eye distances, and down the way from the eyes
/// to the mouth.
fn turned(Landmarks([left_eye, right_eye, nose, left_mouth, right_mouth]): &Landmarks) -> [f32; 2] {
    let middle = |a: &Point, b: &Point| ((a.x + b.x) / 2.0, (a.y + b.y) / 2.0);
    let (eyes, mouth) = (middle(left_eye, right_eye), middle(left_mouth, right_mouth));
    let apart = (right_eye.x - left_eye.x).hypot(right_eye.y - left_eye.y).max(1.0);
    [(nose.x - (eyes.0 + mouth.0) / 2.0) / apart, (nose.y - eyes.1) / (mouth.1 - eyes.1).max(1.0)]
}

/// The mean of a square of a picture, at least of one pixel; None outside.
fn sample(picture: &RgbImage, x: f32, y: f32, side: f32) -> Option<[f32; 3]> {
    let side = side.max(1.0);
    let points = (side.ceil() as i32 * 2).max(2);
    let at = |i: i32| ((i as f32 + 0.5) / points as f32 - 0.5) * side;
    let mut sum = [0.0; 3];
    for (i, j) in (0..points).flat_map(|i| (0..points).map(move |j| (i, j))) {
        let (x, y) = (x + at(i), y + at(j));
        if x < 0.0 || y < 0.0 || x as u32 >= picture.width() || y as u32 >= picture.height() {
            return None;
        }
        let pixel = picture.get_pixel(x as u32, y as u32);
        sum.iter_mut().zip(pixel.0).for_each(|(sum, value)| *sum += f32::from(value));
    }
    Some(sum.map(|sum| sum / (points * points) as f32))
}

/// A known person before a wall, and a second one; the place of the second face.
fn scene(known: &Head, second: Option<(&Head, f32, Before)>) -> (RgbImage, BoundingBox) {
    let mut picture = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| Rgb([(90 + x / 20 + y / 30) as u8; 3]));
    known.draw(&mut picture, (200.0, 230.0), 150.0);
    let Some((head, side, before)) = second else { return (picture, BoundingBox::default()) };
    let place = head.draw(&mut picture, (500.0, 200.0), side);
    // The lowest tenth of the first person's picture shows what she wears.
    let (width, height) = known.picture.dimensions();
    let cloth = imageops::crop_imm(&known.picture, width / 4, height * 9 / 10, width / 2, height / 10).to_image();
    let hide = |picture: &mut RgbImage, x: f32, y: f32, width: f32, height: f32| {
        let cloth = imageops::resize(&cloth, width as u32, height as u32, imageops::FilterType::Triangle);
        imageops::overlay(picture, &cloth, x as i64, y as i64);
    };
    if before.side > 0.0 {
        hide(&mut picture, place.x1 - side, place.y1 - side, side * (1.0 + before.side), side * 3.0);
    }
    if before.below > 0.0 {
        hide(&mut picture, place.x1 - side, place.y2 - side * before.below, side * 3.0, side * 1.5);
    }
    (picture, place)
}

/// The vision of a door, and one that looks for smaller faces by each of the thresholds.
#[derive(Clone)]
struct Searches {
    door: Vision,
    finer: Vec<Vision>,
}

impl Searches {
    fn new(vision: &Vision) -> Searches {
        let with =
            |share: f32, thresholds| vision.with_settings(MtcnnSettings { min_face: MIN_FACE * share, thresholds });
        let finer = THRESHOLDS.iter().map(|thresholds| with(SMALLER, *thresholds)).collect();
        let mut searches = Searches { door: with(1.0, THRESHOLDS[0]), finer };
        // Their clones keep the plans made for this size.
        let Searches { door, finer } = &mut searches;
        finer.iter_mut().chain([door]).for_each(|vision| drop(vision.detect(&RgbImage::new(SIZE.0, SIZE.1))));
        searches
    }

    /// The faces beside the largest one, by each of the thresholds; None: there is no
    /// first face.
    fn beside(&mut self, picture: &RgbImage) -> Option<Vec<Vec<BoundingBox>>> {
        let known = [main_face(&mut self.door, picture)?];
        let boxes = |vision: &mut Vision| {
            let found = vision.detect_beside(picture, &known).unwrap();
            found.into_iter().map(|face| face.bounding_box).collect()
        };
        Some(self.finer.iter_mut().map(boxes).collect())
    }
}

/// A face found about there is the one.
fn is_there(found: &[BoundingBox], place: &BoundingBox) -> bool {
    let (at, side) = (place.center(), place.side());
    found.iter().any(|face| {
        let center = face.center();
        (center.x - at.x).abs() < side / 2.0 && (center.y - at.y).abs() < side / 2.0
    })
}

/// Prints of how many frames a second face is found in, by thresholds: all, and those of
/// the thresholds in force.
fn row(name: &str, frames: &[Option<Vec<bool>>]) -> [usize; 2] {
    let all = frames.iter().flatten().count();
    let count = |i: usize| frames.iter().flatten().filter(|found| found[i]).count();
    let counts: String = (0..THRESHOLDS.len()).map(|i| format!("{:13}", count(i))).collect();
    println!("{name:38} {all:5}{counts}");
    [all, count(IN_FORCE)]
}

fn heading() {
    let names: Vec<String> = THRESHOLDS.iter().map(|[p, r, o]| format!("{:>13}", format!("{p} {r} {o}"))).collect();
    println!("{:38} {:>5}{}", "found at thresholds of", "of", names.concat());
}

/// The same heads behind known people in one way.
fn behind(name: &str, known: &[Head], heads: &[Head], size: f32, before: Before, searches: &Searches) -> [usize; 2] {
    let numbered: Vec<usize> = (0..heads.len()).collect();
    let found = each(&numbered, searches, |searches, &i| {
        let (picture, place) = scene(&known[i % known.len()], Some((&heads[i], MIN_FACE * size, before)));
        let found = searches.beside(&picture)?;
        Some(found.iter().map(|found| is_there(found, &place)).collect())
    });
    row(&format!("{name}, {size}"), &found)
}

fn heads(files: &[PathBuf]) -> Vec<Head> {
    each(files, &vision(), |vision, file| Head::of(vision, picture(file))).into_iter().flatten().collect()
}

/// Those turned most to a side, and those bowed most, by their landmarks.
fn most(heads: &[Head], count: usize, by: impl Fn([f32; 2]) -> f32) -> Vec<Head> {
    let mut order: Vec<(f32, &Head)> = heads.iter().map(|head| (by(head.turned), head)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    order.into_iter().take(count).map(|(_, head)| head.clone()).collect()
}

/// Every so many of a video's frames.
fn frames(video: &Path, every: usize) -> Vec<RgbImage> {
    let dir = tempfile::tempdir().unwrap();
    let select = format!("select=not(mod(n\\,{every}))");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(video).args(["-vf", &select, "-fps_mode", "vfr", "-q:v", "2"]);
    if !ffmpeg.arg(dir.path().join("%04d.jpg")).status().is_ok_and(|status| status.success()) {
        skipped("frames of videos: ffmpeg is not installed");
        return Vec::new();
    }
    pictures_in(&dir.path().to_path_buf()).iter().map(|file| picture(file)).collect()
}

#[test]
fn most_second_faces_are_found() {
    if too_slow_here("faces behind others") {
        return;
    }
    let (Some(first), Some(others)) = (people(40, true), people(if full() { 600 } else { 60 }, false)) else { return };
    let (known, others) = (heads(&first), heads(&others));
    let searches = Searches::new(&vision());
    let few = &others[..others.len().min(if full() { 150 } else { 30 })];
    let found = |name: &str, heads: &[Head], size, before, least: f32| {
        let [all, found] = behind(name, &known, heads, size, before, &searches);
        assert!(found as f32 >= least * all as f32, "{name}, {size}: {found} of {all}");
    };
    heading();
    for size in [1.0, 0.75, 0.5] {
        found("faces", few, size, NOTHING, 0.98);
    }
    for (share, least) in [(0.3, 0.95), (0.5, 0.7)] {
        found(&format!("side hidden by {share}"), few, 0.75, Before { side: share, below: 0.0 }, least);
        found(&format!("hidden below by {share}"), few, 0.75, Before { side: 0.0, below: share }, least);
    }
    for size in [0.75, 0.5] {
        let sideways = most(&others, few.len() / 3, |[sideways, _]| sideways.abs());
        found("turned most to a side", &sideways, size, NOTHING, 0.95);
        let bowed = most(&others, few.len() / 3, |[sideways, down]| if sideways.abs() < 0.3 { down } else { 0.0 });
        found("bowed most", &bowed, size, NOTHING, 0.95);
        for (degrees, least) in [(20.0, 0.95), (40.0, 0.8), (60.0, 0.0)] {
            let bowed: Vec<Head> = few.iter().map(|head| head.bowed(degrees)).collect();
            found(&format!("drawn bowed by {degrees}"), &bowed, size, NOTHING, least);
        }
    }
    let Some(video) = beside_checkout("data/video/walk.mp4") else { return };
    let walk = frames(&video, 15);
    if walk.is_empty() {
        return;
    }
    let bowed = BOWED.map(|(frame, x, y, side)| Head::around((x, y), side, walk[frame / 15].clone()));
    for size in [1.0, 0.75, 0.5] {
        found("walking, looking down", &bowed, size, NOTHING, 0.7);
    }
}

/// In how many frames a face is seen besides the largest.
fn others_seen(name: &str, frames: &[RgbImage], searches: &Searches) -> [usize; 2] {
    let seen = each(frames, searches, |searches, frame| {
        let found = searches.beside(frame)?;
        Some(found.iter().map(|found| !found.is_empty()).collect())
    });
    row(name, &seen)
}

#[test]
fn hardly_any_second_face_is_invented() {
    if too_slow_here("faces that are not there") {
        return;
    }
    let (Some(faces), Some(pad)) = (beside_checkout("data/faces2/one_each"), beside_checkout("data/pad")) else {
        return;
    };
    let searches = Searches::new(&vision());
    let step = if full() { 1 } else { 12 };
    heading();
    let files = pictures_in(&faces);
    let pictures: Vec<RgbImage> = files.iter().step_by(step).map(|file| bordered(&any_picture(file))).collect();
    let mut counts = vec![others_seen("alone: UTKFace", &pictures, &searches)];
    let mut videos = pictures_in(&pad.join("heads"));
    videos.push(pad.join("replay/real.mp4"));
    for video in videos {
        let name = format!("alone: {}", video.file_name().unwrap().display());
        counts.push(others_seen(&name, &frames(&video, if full() { 5 } else { 50 }), &searches));
    }
    let [all, invented] = counts.into_iter().fold([0, 0], |sum, count| [sum[0] + count[0], sum[1] + count[1]]);
    assert!(invented * 200 <= all, "{invented} of {all}");
}

/// Only printed: who is in the background must be judged by eye.
#[test]
fn faces_in_the_background_are_told() {
    if !full() {
        return skipped("faces in the background: only with FACELATCH_LFW=full");
    }
    let (Some(first), Some(pad)) = (people(900, true), beside_checkout("data/pad")) else { return };
    let searches = Searches::new(&vision());
    heading();
    let enlarged = |file: &PathBuf| imageops::resize(&picture(file), 480, 480, imageops::FilterType::Triangle);
    others_seen("LFW", &first.iter().map(enlarged).collect::<Vec<_>>(), &searches);
    for sequence in fs::read_dir(pad.join("nuaa/real")).unwrap().map(|entry| entry.unwrap().path()) {
        let frames: Vec<RgbImage> = pictures_in(&sequence).iter().map(|file| picture(file)).collect();
        let [_, seen] = others_seen(&sequence.file_name().unwrap().display().to_string(), &frames, &searches);
        // A man sits there, bowed over his desk.
        assert!(!sequence.ends_with("0001_00_00_02") || seen == frames.len(), "{seen}");
    }
}
