//! Draws what hides faces onto pictures of them, and finds the direction by which the embedder's features show it.

use facelatch::vision::{
    align::Similarity,
    geometry::{Detection, Point},
};
use image::{Rgb, RgbImage};
use ndarray::{Array1, Array2, Axis};

/// Where a straight face has eyes, nose and mouth, in a square of 150.
const STRAIGHT: [Point; 5] = [
    Point { x: 48.55, y: 46.66 },
    Point { x: 102.36, y: 46.73 },
    Point { x: 75.34, y: 78.5 },
    Point { x: 51.81, y: 105.4 },
    Point { x: 98.99, y: 105.65 },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    Mask,
    Scarf,
    Hand,
    DarkGlasses,
    MaskAndGlasses,
    /// Ordinary ones: they hide nothing.
    Glasses,
    Shadow,
}

pub const COVERS: [Cover; 7] =
    [Cover::Mask, Cover::Scarf, Cover::Hand, Cover::DarkGlasses, Cover::MaskAndGlasses, Cover::Glasses, Cover::Shadow];

impl Cover {
    pub fn hides_mouth(self) -> bool {
        matches!(self, Cover::Mask | Cover::Scarf | Cover::Hand | Cover::MaskAndGlasses)
    }

    pub fn hides_eyes(self) -> bool {
        matches!(self, Cover::DarkGlasses | Cover::MaskAndGlasses)
    }
}

/// Numbers that are the same at every run.
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn between(&mut self, from: f32, to: f32) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from + (to - from) * ((self.0 >> 40) as f32 / (1u64 << 24) as f32)
    }

    fn colour(&mut self) -> [f32; 3] {
        let light = self.between(20.0, 235.0);
        [0; 3].map(|_| (light + self.between(-45.0, 45.0)).clamp(0.0, 255.0))
    }
}

/// The picture with the face covered.
pub fn cover(picture: &RgbImage, face: &Detection, cover: Cover, chance: &mut Chance) -> RgbImage {
    if cover == Cover::MaskAndGlasses {
        let masked = self::cover(picture, face, Cover::Mask, chance);
        return self::cover(&masked, face, Cover::DarkGlasses, chance);
    }
    let Some(fitted) = Similarity::fit(&face.landmarks.0, &STRAIGHT, &[1.0; 5]) else { return picture.clone() };
    let skin = {
        let (x, y) = fitted.inverse().apply(75.0, 28.0);
        let within = |at: f64, most: u32| (at.max(0.0) as u32).min(most - 1);
        picture.get_pixel(within(x, picture.width()), within(y, picture.height())).0.map(f32::from)
    };
    let mut paint = brush(cover, skin, chance);
    let mut covered = picture.clone();
    for (x, y, pixel) in covered.enumerate_pixels_mut() {
        let (u, v) = fitted.apply(f64::from(x), f64::from(y));
        let before = pixel.0.map(f32::from);
        let painted = paint(u as f32, v as f32, before);
        // As a camera sees it: nothing is quite flat.
        let noise = if painted == before { 0.0 } else { chance.between(-9.0, 9.0) };
        *pixel = Rgb(painted.map(|value| (value + noise).clamp(0.0, 255.0) as u8));
    }
    covered
}

type Brush = Box<dyn FnMut(f32, f32, [f32; 3]) -> [f32; 3]>;

/// What becomes of a pixel at a place of the straight face.
fn brush(cover: Cover, skin: [f32; 3], chance: &mut Chance) -> Brush {
    let (colour, wave, strength) = (chance.colour(), chance.between(0.1, 0.8), chance.between(0.0, 25.0));
    let (grade_x, grade_y) = (chance.between(-0.4, 0.4), chance.between(-0.4, 0.4));
    let cloth = move |x: f32, y: f32| {
        let texture = ((x + 0.6 * y) * wave).sin() * strength + (x - 75.0) * grade_x + (y - 75.0) * grade_y;
        colour.map(|value| value + texture)
    };
    match cover {
        Cover::Mask => {
            let (top, slope, chin) =
                (chance.between(60.0, 82.0), chance.between(6.0, 22.0), chance.between(148.0, 165.0));
            Box::new(move |x, y, pixel| {
                let off = ((x - 75.0) / 65.0).abs();
                let inside = off < 1.0 && y > top + slope * off && y < chin - 32.0 * off * off;
                if inside { cloth(x, y) } else { pixel }
            })
        }
        Cover::Scarf => {
            let (top, tilt) = (chance.between(78.0, 96.0), chance.between(-0.15, 0.15));
            Box::new(move |x, y, pixel| {
                let inside = y > top + tilt * (x - 75.0) && y < 250.0 && (-30.0..180.0).contains(&x);
                if inside { cloth(x, y) } else { pixel }
            })
        }
        Cover::Hand => {
            let (middle, angle, light) =
                (chance.between(97.0, 110.0), chance.between(-0.6, 0.6), chance.between(0.8, 1.1));
            let (width, tip) = (chance.between(12.0, 17.0), chance.between(112.0, 135.0));
            let side = if chance.between(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 };
            Box::new(move |x, y, pixel| {
                let (dx, dy) = (side * (x - 75.0), y - middle);
                let (along, across) =
                    (dx * f32::cos(angle) + dy * f32::sin(angle), dy * f32::cos(angle) - dx * f32::sin(angle));
                let inside = (-130.0..tip - 75.0).contains(&along) && across.abs() < 2.0 * width;
                // Darker between the fingers.
                let edge = (across / width).fract().abs();
                let shade = light * if (0.06..0.94).contains(&edge) { 1.0 } else { 0.6 };
                if inside { skin.map(|value| value * shade) } else { pixel }
            })
        }
        Cover::DarkGlasses | Cover::Glasses => glasses(cover == Cover::DarkGlasses, chance),
        Cover::MaskAndGlasses => Box::new(|_, _, pixel| pixel),
        Cover::Shadow => {
            let (least, edge, soft) =
                (chance.between(0.03, 0.25), chance.between(65.0, 85.0), chance.between(2.0, 10.0));
            let (side, tilt) = (if chance.between(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 }, chance.between(-0.3, 0.3));
            Box::new(move |x, y, pixel| {
                let lit = 1.0 / (1.0 + (-side * (x - edge + tilt * (y - 75.0)) / soft).exp());
                pixel.map(|value| value * (least + (1.0 - least) * lit))
            })
        }
    }
}

fn glasses(dark: bool, chance: &mut Chance) -> Brush {
    let (wide, high, power) = (chance.between(19.0, 27.0), chance.between(13.0, 22.0), chance.between(2.0, 4.5));
    let (down, rim) = (chance.between(-2.0, 6.0), chance.between(0.78, 0.93));
    let frame = if dark || chance.between(0.0, 1.0) < 0.7 { [chance.between(5.0, 60.0); 3] } else { chance.colour() };
    let (tint, glare) =
        (if dark { chance.between(0.88, 1.0) } else { chance.between(0.0, 0.15) }, chance.between(0.0, 90.0));
    let glare_at = (chance.between(-10.0, 10.0), chance.between(-8.0, 2.0));
    Box::new(move |x, y, pixel| {
        let eye = if x < 75.5 { 48.55 } else { 102.36 };
        let (dx, dy) = (x - eye, y - 46.7 - down);
        let lens = (dx / wide).abs().powf(power) + (dy / high).abs().powf(power);
        let bridge = (x - 75.5).abs() < 27.0 - wide + 3.0 && (dy + 4.0).abs() < 2.5;
        let arm = !(10.0..141.0).contains(&x) && (-5.0..156.0).contains(&x) && (dy + 5.0).abs() < 2.5;
        if bridge || arm || (rim..1.0).contains(&lens) {
            return frame;
        }
        if lens >= rim {
            return pixel;
        }
        let shine = glare * (-((dx - glare_at.0).powi(2) + (dy - glare_at.1).powi(2)) / 14.0).exp();
        let glass = if dark { frame } else { [200.0; 3] };
        let mut seen = pixel;
        (0..3).for_each(|i| seen[i] = pixel[i] * (1.0 - tint) + glass[i] * tint + shine);
        seen
    })
}

/// Weights and offset that tell rows of features (scaled to length 1) of faces with a part hidden from those without, by ridge
/// regression; so that no more than `allowed` of `bare` others come out above 0.
pub fn direction(hidden: &Array2<f32>, open: &Array2<f32>, bare: &Array2<f32>, allowed: f64) -> Vec<f32> {
    let rows = ndarray::concatenate![Axis(0), *hidden, *open].mapv(f64::from);
    let mut wanted = Array1::<f64>::zeros(rows.nrows());
    wanted.slice_mut(ndarray::s![..hidden.nrows()]).fill(1.0);
    let (mean, level) = (rows.mean_axis(Axis(0)).unwrap(), wanted.mean().unwrap());
    let (rows, wanted) = (&rows - &mean, wanted - level);
    let mut gram = rows.t().dot(&rows);
    let ridge = 0.3 * gram.diag().mean().unwrap();
    gram.diag_mut().iter_mut().for_each(|value| *value += ridge);
    let weights = solve(gram, rows.t().dot(&wanted));
    let mut scores: Vec<f64> = bare.rows().into_iter().map(|row| row.mapv(f64::from).dot(&weights)).collect();
    scores.sort_by(f64::total_cmp);
    let limit = scores[((1.0 - allowed) * (scores.len() - 1) as f64).ceil() as usize];
    weights.iter().map(|weight| *weight as f32).chain([-limit as f32]).collect()
}

/// Solves a symmetric positive system by Cholesky's method.
fn solve(mut a: Array2<f64>, mut b: Array1<f64>) -> Array1<f64> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let sum = a[[i, j]] - a.slice(ndarray::s![i, ..j]).dot(&a.slice(ndarray::s![j, ..j]));
            a[[i, j]] = if i == j { sum.sqrt() } else { sum / a[[j, j]] };
        }
        b[i] = (b[i] - a.slice(ndarray::s![i, ..i]).dot(&b.slice(ndarray::s![..i]))) / a[[i, i]];
    }
    for i in (0..n).rev() {
        let later: f64 = (i + 1..n).map(|k| a[[k, i]] * b[k]).sum();
        b[i] = (b[i] - later) / a[[i, i]];
    }
    b
}
