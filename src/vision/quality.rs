//! Is this face good enough to be enrolled, or to be decided on?

use image::RgbImage;

use super::{
    align::{self, AlignedFace},
    cut,
    geometry::Detection,
};

/// What can be said about a face's picture without knowing whose it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Side of the face's box in pixels of the frame.
    pub face_px: f32,
    /// 0 (nothing but blur) to 1, see [`sharpness`].
    pub sharpness: f32,
    /// Mean luma of the face, 0 (black) to 255 (white).
    pub brightness: f32,
    /// 0 (straight) to 1 (profile), see [`align::turn`].
    pub turn: f32,
    /// Share of the face that the picture shows, 0 to 1, see [`cut::shown`].
    pub shown: f32,
    /// How much darker one half of the face is than the other, 0 to 1 (black).
    pub shade: f32,
}

/// A part of a face that something may hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Mouth,
    Eyes,
}

/// The least share of a face that is enough: pictures cut at the face's box pass, those that lack three tenths of it at the
/// top or two at the bottom do not (`make hidden`).
pub const LEAST_SHOWN: f32 = 0.95;
/// A template's halves may differ in light by this much: of pictures as they come 1 in 100 has more (`make hidden`).
pub const MOST_SHADE: f32 = 0.5;

/// The least that is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QualityLimits {
    pub min_face_px: f32,
    pub min_sharpness: f32,
    pub min_brightness: f32,
    pub max_brightness: f32,
    pub max_turn: f32,
}

/// Why a face is not good enough; the message says what was seen and what is needed.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Flaw {
    #[error("face too small: {px:.0} px, needs {needs:.0}")]
    TooSmall { px: f32, needs: f32 },
    #[error("blurred: sharpness {sharpness:.2}, needs {needs:.2}")]
    Blurred { sharpness: f32, needs: f32 },
    #[error("too dark: brightness {brightness:.0}, needs {needs:.0}")]
    TooDark { brightness: f32, needs: f32 },
    #[error("too bright: brightness {brightness:.0}, at most {most:.0}")]
    TooBright { brightness: f32, most: f32 },
    #[error("turned away: {turn:.2}, at most {most:.2}")]
    Turned { turn: f32, most: f32 },
    #[error("the face is cut by the picture's edge: {:.0} % of it is there, needs {:.0} %", shown * 100.0, needs * 100.0)]
    Cut { shown: f32, needs: f32 },
    #[error("half of the face is in shadow: {:.0} % darker than the other, at most {:.0} %", shade * 100.0, most * 100.0)]
    Shaded { shade: f32, most: f32 },
    #[error("something hides the {}", match part { Part::Mouth => "mouth", Part::Eyes => "eyes" })]
    Hidden { part: Part },
}

impl Quality {
    /// Looks at a face and at its aligned picture.
    pub fn of(picture: &RgbImage, detection: &Detection, AlignedFace(face): &AlignedFace) -> Quality {
        let luma = central_luma(face);
        Quality {
            face_px: detection.bounding_box.side(),
            sharpness: sharpness(&luma),
            brightness: luma.values.iter().sum::<f32>() / luma.values.len().max(1) as f32,
            turn: align::turn(&detection.landmarks),
            shown: cut::shown(picture, &detection.landmarks),
            shade: shade(&luma),
        }
    }

    /// As [`Quality::check`], for a template: one in half shadow is near to others in half shadow, where a visitor in it is
    /// not near to people enrolled in good light.
    ///
    /// # Errors
    /// As [`Quality::check`].
    pub fn check_template(&self, limits: &QualityLimits) -> Result<(), Flaw> {
        self.check(limits)?;
        let lit = self.shade <= MOST_SHADE;
        if lit { Ok(()) } else { Err(Flaw::Shaded { shade: self.shade, most: MOST_SHADE }) }
    }

    /// The first thing that is wrong, the most telling one first.
    ///
    /// # Errors
    /// The flaw. A number that is not one counts as a flaw.
    pub fn check(&self, limits: &QualityLimits) -> Result<(), Flaw> {
        let at_least = |value: f32, least: f32| value >= least;
        if !at_least(self.face_px.round(), limits.min_face_px) {
            return Err(Flaw::TooSmall { px: self.face_px, needs: limits.min_face_px });
        }
        if !at_least(self.shown, LEAST_SHOWN) {
            return Err(Flaw::Cut { shown: self.shown, needs: LEAST_SHOWN });
        }
        if !at_least(self.brightness, limits.min_brightness) {
            return Err(Flaw::TooDark { brightness: self.brightness, needs: limits.min_brightness });
        }
        if !at_least(limits.max_brightness, self.brightness) {
            return Err(Flaw::TooBright { brightness: self.brightness, most: limits.max_brightness });
        }
        if !at_least(self.sharpness, limits.min_sharpness) {
            return Err(Flaw::Blurred { sharpness: self.sharpness, needs: limits.min_sharpness });
        }
        if !at_least(limits.max_turn, self.turn) {
            return Err(Flaw::Turned { turn: self.turn, most: limits.max_turn });
        }
        Ok(())
    }
}

/// How much darker the darker half of a face is than the lighter one, left against right.
fn shade(luma: &Luma) -> f32 {
    let (mut left, mut right) = (0.0, 0.0);
    for row in luma.values.chunks(luma.width.max(1)) {
        let (a, b) = row.split_at(row.len() / 2);
        left += a.iter().sum::<f32>();
        right += b[row.len() % 2..].iter().sum::<f32>();
    }
    1.0 - left.min(right) / left.max(right).max(1.0)
}

/// A single-channel picture of 32-bit numbers, row by row.
struct Luma {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

/// The middle two thirds each way: the face itself, without hair, background or the black beyond the frame's edge.
fn central_luma(face: &RgbImage) -> Luma {
    let (left, top) = (face.width() / 6, face.height() / 6);
    let (width, height) = (face.width() - 2 * left, face.height() - 2 * top);
    let values = (top..top + height)
        .flat_map(|y| (left..left + width).map(move |x| (x, y)))
        .map(|(x, y)| {
            let [r, g, b] = face.get_pixel(x, y).0.map(f32::from);
            0.299 * r + 0.587 * g + 0.114 * b
        })
        .collect();
    Luma { width: width as usize, height: height as usize, values }
}

/// How much of the picture's variation from pixel to pixel is lost when it is blurred, 0 to 1: a sharp picture loses much,
/// one that is blurred already loses little (Crete, Dolmiere, Ladret, Nicolas 2007, "The blur effect: perception and
/// estimation with a new no-reference perceptual blur metric"; this is 1 minus their measure, with their 9-pixel blur).
fn sharpness(luma: &Luma) -> f32 {
    let at = |x: usize, y: usize| luma.values[y * luma.width + x];
    let across = lost_share(luma.height, luma.width, |line, i| at(i, line));
    let down = lost_share(luma.width, luma.height, at);
    across.min(down)
}

fn lost_share(lines: usize, length: usize, at: impl Fn(usize, usize) -> f32) -> f32 {
    const HALF_WIDTH: usize = 4;
    if length < 2 * HALF_WIDTH + 2 {
        return 0.0;
    }
    let (mut variation, mut lost) = (0.0f32, 0.0f32);
    for line in 0..lines {
        let mut window: f32 = (0..=2 * HALF_WIDTH).map(|i| at(line, i)).sum();
        for i in HALF_WIDTH + 1..length - HALF_WIDTH {
            let before = window;
            window += at(line, i + HALF_WIDTH) - at(line, i - HALF_WIDTH - 1);
            let sharp = (at(line, i) - at(line, i - 1)).abs();
            let blurred = (window - before).abs() / (2 * HALF_WIDTH + 1) as f32;
            variation += sharp;
            lost += (sharp - blurred).max(0.0);
        }
    }
    if variation > 0.0 { lost / variation } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::geometry::{BoundingBox, Landmarks};
    use image::{Rgb, imageops};

    const LIMITS: QualityLimits = QualityLimits {
        min_face_px: 80.0,
        min_sharpness: 0.3,
        min_brightness: 40.0,
        max_brightness: 220.0,
        max_turn: 0.6,
    };
    const GOOD: Quality =
        Quality { face_px: 100.0, sharpness: 0.6, brightness: 120.0, turn: 0.1, shown: 1.0, shade: 0.1 };

    fn textured() -> RgbImage {
        let noise = |x: u32, y: u32| ((x * 7919) ^ (y * 104_729)).wrapping_mul(2_654_435_761) as u8;
        RgbImage::from_fn(150, 150, |x, y| Rgb([noise(x / 3, y / 3); 3]))
    }

    #[test]
    fn blurring_lowers_sharpness_each_time() {
        let measures: Vec<f32> = [0.0, 1.0, 2.0, 4.0]
            .map(|sigma| if sigma == 0.0 { textured() } else { imageops::blur(&textured(), sigma) })
            .iter()
            .map(|face| sharpness(&central_luma(face)))
            .collect();
        assert!(measures.windows(2).all(|pair| pair[0] > pair[1] + 0.02), "{measures:?}");
        assert!(measures.iter().all(|m| (0.0..=1.0).contains(m)));
    }

    #[test]
    fn a_plain_wall_is_not_sharp() {
        assert_eq!(sharpness(&central_luma(&RgbImage::from_pixel(150, 150, Rgb([90; 3])))), 0.0);
    }

    #[test]
    fn each_flaw_is_named() {
        assert_eq!(GOOD.check(&LIMITS), Ok(()));
        let flaw = |quality: Quality| quality.check(&LIMITS).unwrap_err().to_string();
        assert_eq!(flaw(Quality { face_px: 43.2, ..GOOD }), "face too small: 43 px, needs 80");
        assert!(flaw(Quality { sharpness: 0.1, ..GOOD }).starts_with("blurred"));
        assert!(flaw(Quality { brightness: 10.0, ..GOOD }).starts_with("too dark"));
        assert!(flaw(Quality { brightness: 250.0, ..GOOD }).starts_with("too bright"));
        assert!(flaw(Quality { turn: 0.9, ..GOOD }).starts_with("turned away"));
        assert!(flaw(Quality { shown: 0.7, ..GOOD }).starts_with("the face is cut by the picture's edge: 70 %"));
    }

    #[test]
    fn a_template_in_half_shadow_is_a_flaw_and_a_visitor_is_not() {
        let lit = RgbImage::from_fn(150, 150, |x, _| Rgb([if x < 70 { 160 } else { 40 }; 3]));
        let shaded = Quality { shade: shade(&central_luma(&lit)), ..GOOD };
        assert!((shaded.shade - 0.7).abs() < 0.1, "{}", shaded.shade);
        assert_eq!(shaded.check(&LIMITS), Ok(()));
        assert!(shaded.check_template(&LIMITS).unwrap_err().to_string().starts_with("half of the face is in shadow"));
        assert_eq!(GOOD.check_template(&LIMITS), Ok(()));
        assert!(Quality { shade: f32::NAN, ..GOOD }.check_template(&LIMITS).is_err());
    }

    #[test]
    fn what_is_not_a_number_is_a_flaw() {
        for bad in [
            Quality { face_px: f32::NAN, ..GOOD },
            Quality { sharpness: f32::NAN, ..GOOD },
            Quality { brightness: f32::NAN, ..GOOD },
            Quality { turn: f32::NAN, ..GOOD },
            Quality { shown: f32::NAN, ..GOOD },
        ] {
            assert!(bad.check(&LIMITS).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn brightness_is_that_of_the_face() {
        let detection = Detection { bounding_box: BoundingBox::default(), score: 1.0, landmarks: Landmarks::default() };
        let mut face = RgbImage::from_pixel(150, 150, Rgb([0; 3]));
        imageops::overlay(&mut face, &RgbImage::from_pixel(100, 100, Rgb([200; 3])), 25, 25);
        let quality = Quality::of(&RgbImage::new(150, 150), &detection, &AlignedFace(face));
        assert!((quality.brightness - 200.0).abs() < 0.5);
    }
}
