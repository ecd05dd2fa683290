//! How much of a face its picture shows: by the five landmarks and the picture alone, so for every embedder alike.

use image::RgbImage;

use super::{
    align::Similarity,
    geometry::{Landmarks, Point},
};

/// The five landmarks of a straight face in a square of 150 pixels (the mean face that dlib aligns to).
const STRAIGHT: [Point; 5] = [
    Point { x: 48.55, y: 46.66 },
    Point { x: 102.36, y: 46.73 },
    Point { x: 75.34, y: 78.50 },
    Point { x: 51.81, y: 105.40 },
    Point { x: 98.99, y: 105.65 },
];
/// The eyes are surer than nose and mouth, which move with the head's turn.
const WEIGHTS: [f32; 5] = [1.0, 1.0, 0.12, 0.15, 0.15];
/// The face without hair and ears, in that square: centre and half axes.
const OVAL: [f64; 4] = [75.0, 76.0, 36.0, 60.0];
/// As wide as a head. Of a face cut at its side the detector places the hidden eye just within the picture, as if the face were
/// narrower: the picture has to go on beyond it.
const HEAD: [f64; 4] = [75.0, 76.0, 51.0, 60.0];
/// The square is looked at in cells, so many along each side.
const CELLS: usize = 30;
const CELL: f64 = 5.0;
/// Cells this near in each colour are one flat area: the bars around a picture, with what JPEG does to them.
const FLAT: u8 = 4;
/// Fewer such cells are no bar.
const SMALLEST_AREA: usize = 15;

/// Share of the face's oval that the picture shows, or of the head's if that is less, 0 to 1. What lies outside the picture is not shown, nor is a flat area that
/// reaches in from around the face: the bars that programs put around a picture. 0 for landmarks that nothing fits.
pub fn shown(picture: &RgbImage, landmarks: &Landmarks) -> f32 {
    let Some(fitted) = Similarity::fit(&landmarks.0, &STRAIGHT, &WEIGHTS) else { return 0.0 };
    let back = fitted.inverse();
    let colour = |at: usize| {
        let (x, y) = back.apply(middle(at % CELLS), middle(at / CELLS));
        let within =
            x > -0.5 && y > -0.5 && x < f64::from(picture.width()) - 0.5 && y < f64::from(picture.height()) - 0.5;
        within.then(|| picture.get_pixel(x.round() as u32, y.round() as u32).0)
    };
    let colours: Vec<Option<[u8; 3]>> = (0..CELLS * CELLS).map(colour).collect();
    let hidden = hidden(&colours);
    // Beside a narrow face a plain wall may begin: flat areas count over the face itself only.
    let face = share(OVAL, |at| !hidden[at]);
    face.min(share(HEAD, |at| colours[at].is_some()))
}

/// Share of an oval's cells that are shown.
fn share([x, y, a, b]: [f64; 4], is_shown: impl Fn(usize) -> bool) -> f32 {
    let in_oval = |at: &usize| {
        let (u, v) = ((middle(at % CELLS) - x) / a, (middle(at / CELLS) - y) / b);
        u * u + v * v <= 1.0
    };
    let oval: Vec<usize> = (0..CELLS * CELLS).filter(in_oval).collect();
    oval.iter().filter(|at| is_shown(**at)).count() as f32 / oval.len() as f32
}

/// Of a cell, along one side.
fn middle(cell: usize) -> f64 {
    CELL * (cell as f64 + 0.5)
}

/// The cells outside the picture, and those of flat areas that begin at the square's edge or where the picture ends.
fn hidden(colours: &[Option<[u8; 3]>]) -> Vec<bool> {
    let mut hidden: Vec<bool> = colours.iter().map(Option::is_none).collect();
    let neighbours = |at: usize| {
        let (x, y) = (at % CELLS, at / CELLS);
        let all = [(x > 0, 1, 0), (x + 1 < CELLS, 0, 1), (y > 0, CELLS, 0), (y + 1 < CELLS, 0, CELLS)];
        all.into_iter().filter(|(is_there, ..)| *is_there).map(move |(_, less, more)| at + more - less)
    };
    for start in 0..colours.len() {
        let at_edge = neighbours(start).count() < 4 || neighbours(start).any(|at| colours[at].is_none());
        let Some(flat) = colours[start].filter(|_| at_edge && !hidden[start]) else { continue };
        let is_flat =
            |at: usize| colours[at].is_some_and(|colour| colour.iter().zip(flat).all(|(a, b)| a.abs_diff(b) <= FLAT));
        let mut area = Vec::new();
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            if !hidden[at] && is_flat(at) {
                hidden[at] = true;
                area.push(at);
                open.extend(neighbours(at));
            }
        }
        if area.len() < SMALLEST_AREA {
            area.into_iter().for_each(|at| hidden[at] = false);
        }
    }
    hidden
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Rgb, imageops};

    /// Something like a face of this size before a patterned wall, its landmarks those of a straight face.
    fn pattern(side: u32) -> RgbImage {
        let noise = |x: u32, y: u32| ((x / 2 * 7919) ^ (y / 2 * 104_729)).wrapping_mul(2_654_435_761) as u8;
        RgbImage::from_fn(side, side, |x, y| Rgb([noise(x, y), noise(y, x), noise(x + y, y)]))
    }

    fn moved(x: f32, y: f32) -> Landmarks {
        Landmarks(STRAIGHT.map(|point| Point { x: point.x + x, y: point.y + y }))
    }

    #[test]
    fn a_face_within_its_picture_is_shown() {
        assert_eq!(shown(&pattern(150), &moved(0.0, 0.0)), 1.0);
    }

    #[test]
    fn what_lies_beyond_each_edge_is_not_shown() {
        for (x, y) in [(-75.0, 0.0), (75.0, 0.0), (0.0, -76.0), (0.0, 76.0)] {
            let half = shown(&pattern(150), &moved(x, y));
            assert!((half - 0.5).abs() < 0.05, "{x}, {y}: {half}");
        }
    }

    #[test]
    fn a_face_whose_eye_is_at_the_edge_is_cut() {
        // An eye is 7 of 150 from the edge, an eighth of the distance between the eyes.
        for (x, y) in [(-41.5, 0.0), (41.5, 0.0)] {
            let share = shown(&pattern(150), &moved(x, y));
            assert!((0.85..0.95).contains(&share), "{x}: {share}");
        }
        assert!(shown(&pattern(150), &moved(-31.5, 0.0)) > 0.95);
    }

    #[test]
    fn a_bar_over_a_face_is_not_shown_in_any_colour_or_turn() {
        for colour in [0, 90, 255] {
            let mut barred = pattern(150);
            imageops::overlay(&mut barred, &RgbImage::from_pixel(150, 76, Rgb([colour; 3])), 0, 0);
            let half = shown(&barred, &moved(0.0, 0.0));
            assert!((half - 0.5).abs() < 0.05, "{colour}: {half}");
            let upside_down = Landmarks(STRAIGHT.map(|point| Point { x: 149.0 - point.x, y: 149.0 - point.y }));
            let half = shown(&imageops::rotate180(&barred), &upside_down);
            assert!((half - 0.5).abs() < 0.05, "{colour}, turned: {half}");
        }
    }

    #[test]
    fn a_flat_wall_around_a_face_hides_nothing_of_it() {
        let mut portrait = RgbImage::from_pixel(150, 150, Rgb([255; 3]));
        imageops::overlay(&mut portrait, &imageops::crop_imm(&pattern(150), 0, 0, 84, 130).to_image(), 33, 12);
        assert_eq!(shown(&portrait, &moved(0.0, 0.0)), 1.0);
    }

    #[test]
    fn landmarks_that_coincide_or_are_no_numbers_show_nothing() {
        for value in [3.0, f32::NAN, f32::INFINITY] {
            assert_eq!(shown(&pattern(50), &Landmarks([Point { x: value, y: value }; 5])), 0.0);
        }
    }
}
