//! Draws what was found into a picture: boxes, landmarks, names.

use std::{convert::Infallible, path::Path};

use embedded_graphics::{
    mono_font::{MonoTextStyle, iso_8859_1::FONT_10X20},
    pixelcolor::Rgb888,
    prelude::*,
    primitives::{Circle, PrimitiveStyle, Rectangle},
    text::{Baseline, Text},
};
use image::{Rgb, RgbImage};

use crate::api::IdentifiedFace;

const KNOWN: Rgb888 = Rgb888::new(40, 200, 80);
const UNKNOWN: Rgb888 = Rgb888::new(230, 60, 50);
const LANDMARK: Rgb888 = Rgb888::new(255, 220, 60);

/// Decodes a picture, draws the faces into it and writes it to `target`, whose ending says in which format.
///
/// # Errors
/// A sentence for people.
pub(super) fn annotate_file(picture: &[u8], faces: &[IdentifiedFace], target: &Path) -> Result<(), String> {
    let mut decoded = crate::enroll::decode_picture(picture, 200).map_err(|error| error.to_string())?;
    let mut faces = faces.to_vec();
    for face in &mut faces {
        // A large picture is drawn as small as it was looked at.
        face.bounding_box = face.bounding_box.map(|pixel| pixel / decoded.step);
        face.landmarks = face.landmarks.map(|point| point.map(|pixel| pixel / decoded.step));
    }
    annotate(&mut decoded.picture, &faces);
    decoded.picture.save(target).map_err(|error| format!("{error}; give a file ending in .jpg or .png"))
}

/// Draws the faces into a picture; what lies outside of it is left out.
pub(super) fn annotate(picture: &mut RgbImage, faces: &[IdentifiedFace]) {
    let size = Size::new(picture.width(), picture.height());
    let stroke = (size.width.max(size.height) / 250).clamp(2, 12);
    let mut canvas = Canvas(picture);
    for face in faces {
        let color = if face.person.is_some() { KNOWN } else { UNKNOWN };
        let [x1, y1, x2, y2] = face.bounding_box.map(pixel);
        let outline = Rectangle::with_corners(Point::new(x1, y1), Point::new(x2, y2));
        // Drawing into this canvas cannot fail: its error type has no values.
        let Ok(()) = outline.into_styled(PrimitiveStyle::with_stroke(color, stroke)).draw(&mut canvas);
        for [x, y] in face.landmarks {
            let dot = Circle::with_center(Point::new(pixel(x), pixel(y)), stroke * 2 + 1);
            let Ok(()) = dot.into_styled(PrimitiveStyle::with_fill(LANDMARK)).draw(&mut canvas);
        }
        label(&mut canvas, &caption(face), color, Point::new(x1, y1), size);
    }
}

/// Coordinates far outside are brought near, where they are still outside.
fn pixel(value: f32) -> i32 {
    value.round().clamp(-10_000.0, 20_000.0) as i32
}

fn caption(face: &IdentifiedFace) -> String {
    let distance = face.distance.map_or_else(String::new, |distance| format!(" {distance:.2}"));
    match (&face.person, &face.nearest) {
        (Some(name), _) => format!("{name}{distance}"),
        (None, Some(nearest)) => format!("unknown ({nearest}{distance})"),
        (None, None) => "unknown".into(),
    }
}

/// A strip with text above a corner, or as near to it as the picture allows.
fn label(canvas: &mut Canvas<'_>, text: &str, color: Rgb888, corner: Point, size: Size) {
    let font = &FONT_10X20;
    // The font has the letters of western Europe; others are shown by a question mark.
    let text: String = text.chars().map(|c| if (' '..='ÿ').contains(&c) { c } else { '?' }).collect();
    let strip = Size::new(text.chars().count() as u32 * font.character_size.width + 6, font.character_size.height + 4);
    let most =
        Point::new(size.width.saturating_sub(strip.width) as i32, size.height.saturating_sub(strip.height) as i32);
    let place = Point::new(corner.x.clamp(0, most.x), (corner.y - strip.height as i32).clamp(0, most.y));
    let Ok(()) = Rectangle::new(place, strip).into_styled(PrimitiveStyle::with_fill(color)).draw(canvas);
    let style = MonoTextStyle::new(font, Rgb888::BLACK);
    let Ok(_) = Text::with_baseline(&text, place + Point::new(3, 2), style, Baseline::Top).draw(canvas);
}

/// A picture as something to draw on.
struct Canvas<'a>(&'a mut RgbImage);

impl OriginDimensions for Canvas<'_> {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas<'_> {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(point, color) in pixels {
            let inside = u32::try_from(point.x).ok().zip(u32::try_from(point.y).ok());
            if let Some(pixel) = inside.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
                *pixel = Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(bounding_box: [f32; 4], person: Option<&str>) -> IdentifiedFace {
        IdentifiedFace {
            bounding_box,
            landmarks: [[60.0, 60.0]; 5],
            score: 1.0,
            person: person.map(str::to_owned),
            why_not: None,
            nearest: Some("Ada".into()),
            distance: Some(0.2),
            distance_as_single: Some(0.22),
            runner_up: None,
            runner_up_distance: None,
        }
    }

    #[test]
    fn known_faces_are_green_unknown_ones_red() {
        for (person, color) in [(Some("Ada"), [40, 200, 80]), (None, [230, 60, 50])] {
            let mut picture = RgbImage::new(200, 150);
            annotate(&mut picture, &[face([40.0, 40.0, 100.0, 120.0], person)]);
            assert_eq!(picture.get_pixel(40, 80).0, color, "the left edge");
            assert_eq!(picture.get_pixel(60, 60).0, [255, 220, 60], "a landmark");
            assert_eq!(picture.get_pixel(70, 100).0, [0; 3], "the face itself is left alone");
        }
    }

    proptest::proptest! {
        #[test]
        fn boxes_anywhere_never_panic(b in proptest::array::uniform4(-1e9f32..1e9), name in "\\PC{0,80}") {
            let mut picture = RgbImage::new(50, 40);
            annotate(&mut picture, &[face(b, Some(&name)), face([f32::NAN; 4], None)]);
        }
    }
}
