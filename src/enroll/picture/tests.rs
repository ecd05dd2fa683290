use std::collections::HashMap;

use image::{ExtendedColorType, ImageEncoder, ImageFormat, Rgb, codecs::png::PngEncoder, imageops};
use proptest::prelude::*;

use super::{
    writer::{QUANTIZER, Spec, write},
    *,
};

/// A smooth picture of any size that is different everywhere.
fn hills(width: u32, height: u32) -> RgbImage {
    let wave = |at: f32, length: f32| (100.0 + 100.0 * (at / length).sin()) as u8;
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32, y as f32);
        Rgb([wave(x, 31.0), wave(y, 23.0), wave(x + y, 40.0)])
    })
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

/// Coefficients by chance, the same for the same block: few and small, so that pixels
/// keep within black and white.
fn block(seed: u32) -> impl Fn(usize, usize, usize) -> [i16; 64] {
    move |component, column, row| {
        let mut state = seed ^ (component as u32 * 7919 + column as u32 * 104_729 + row as u32 * 1_299_709 + 1);
        let mut chance = |below: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % below
        };
        let mut block = [0; 64];
        block[0] = chance(300) as i16 - 150;
        for _ in 0..chance(9) {
            block[1 + chance(63) as usize] = chance(19) as i16 - 9;
        }
        block
    }
}

fn specs() -> impl Strategy<Value = (Spec, u32)> {
    let sampling = prop_oneof![
        Just(vec![(1, 1)]),
        Just(vec![(1, 1); 3]),
        Just(vec![(2, 1), (1, 1), (1, 1)]),
        Just(vec![(2, 2), (1, 1), (1, 1)]),
        Just(vec![(1, 2), (1, 1), (1, 1)]),
        Just(vec![(4, 1), (1, 1), (1, 1)]),
    ];
    let flags = (any::<bool>(), any::<bool>(), 0usize..4, proptest::option::of(1u8..9));
    ((1usize..90, 1usize..90), sampling, flags, 1u32..).prop_map(|(size, sampling, flags, seed)| {
        let (progressive, apart, restart_every, orientation) = flags;
        let (width, height) = size;
        (Spec { width, height, sampling, progressive, apart, restart_every, orientation, adobe: None }, seed)
    })
}

/// The plain formula of the standard, for one component: what `keep` 8 has to come to.
fn grey_by_definition(spec: &Spec, seed: u32) -> Vec<f32> {
    let block = block(seed);
    let mut blocks = HashMap::new();
    let mut pixels = Vec::new();
    for (y, x) in (0..spec.height).flat_map(|y| (0..spec.width).map(move |x| (y, x))) {
        let at = (x / 8, y / 8);
        let coefficients = blocks.entry(at).or_insert_with(|| block(0, at.0, at.1));
        let mut sum = 0.0;
        for (&place, &value) in jpeg::ZIGZAG.iter().zip(coefficients.iter()).filter(|(_, value)| **value != 0) {
            let part = |at: usize, frequency: u8| {
                let norm = if frequency == 0 { 0.5f32.sqrt() } else { 1.0 };
                norm * ((2 * at + 1) as f32 * f32::from(frequency) * std::f32::consts::PI / 16.0).cos()
            };
            sum += f32::from(value) * f32::from(QUANTIZER) / 4.0 * part(x % 8, place % 8) * part(y % 8, place / 8);
        }
        pixels.push((sum + 128.0).clamp(0.0, 255.0));
    }
    pixels
}

/// What [`Jpeg::decode`] yields, asserted against the decoder of small pictures where
/// that is exact.
fn assert_as_image_has_it(bytes: &[u8], tolerance: i32) {
    let ours = Jpeg::read(bytes).unwrap().decode(8).unwrap();
    let theirs = whole_jpeg(bytes).unwrap();
    assert_eq!(ours.dimensions(), theirs.dimensions());
    for (at, (a, b)) in ours.iter().zip(theirs.iter()).enumerate() {
        assert!((i32::from(*a) - i32::from(*b)).abs() <= tolerance, "{a} is not {b} at {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whole_jpegs_of_every_kind_are_read((spec, seed) in specs()) {
        let bytes = write(&spec, block(seed));
        prop_assert_eq!(Jpeg::read(&bytes).unwrap().check(), Ok(()));
        let spec = Spec { sampling: spec.sampling.iter().map(|_| (1, 1)).collect(), ..spec };
        let decoded = |spec: &Spec| decode(&write(spec, block(seed)), 50).map(|decoded| decoded.picture);
        if spec.progressive || !spec.apart || spec.sampling.len() == 1 {
            assert_as_image_has_it(&write(&spec, block(seed)), 4);
        } else {
            let together = Spec { apart: false, ..spec.clone() };
            prop_assert_eq!(
                Jpeg::read(&write(&together, block(seed))).unwrap().decode(8),
                decoded(&spec).map_err(|refusal| Fault::Damaged(refusal.to_string()))
            );
        }
    }

    #[test]
    fn a_grey_jpeg_is_as_its_definition_says((spec, seed) in specs()) {
        let spec = Spec { sampling: vec![(1, 1)], orientation: None, ..spec };
        let ours = Jpeg::read(&write(&spec, block(seed))).unwrap().decode(8).unwrap();
        for (pixel, value) in ours.pixels().zip(grey_by_definition(&spec, seed)) {
            prop_assert!((f32::from(pixel.0[0]) - value).abs() < 0.6);
        }
    }

    #[test]
    fn a_jpeg_cut_anywhere_is_not_complete((spec, seed) in specs(), share in 0.0f64..1.0) {
        let bytes = write(&spec, block(seed));
        let kept = (bytes.len() as f64 * share) as usize;
        let mut zeros = bytes.clone();
        zeros[kept..].fill(0);
        for broken in [&bytes[..kept], &zeros] {
            let refused = decode(broken, 50).err();
            // A few zeros at the end of a header may be damage as well.
            let told = broken.len() == kept || zeros.len() - kept >= 16;
            prop_assert!(
                refused.is_some() && (!told || matches!(refused, Some(Refusal::Incomplete(_)))),
                "{refused:?}"
            );
        }
        // An end mark does not make it whole. The last bytes may be no more than filling.
        if kept + 8 < bytes.len() {
            let marked = [&bytes[..kept], &[0xff, 0xd9]].concat();
            prop_assert!(decode(&marked, 50).is_err());
        }
    }

    #[test]
    fn mutated_pictures_never_panic(
        (spec, seed) in specs(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        keep in prop::sample::select(vec![0usize, 1, 2, 4, 8]),
        jpeg in any::<bool>(),
    ) {
        let png = || encoded(&hills(spec.width as u32, spec.height as u32).into(), ImageFormat::Png);
        let mut bytes = if jpeg { write(&spec, block(seed)) } else { png() };
        for (at, value) in changes {
            *at.get_mut(&mut bytes) = value;
        }
        let _ = decode(&bytes, 1);
        if let Ok(jpeg) = Jpeg::read(&bytes).and_then(|jpeg| check_pixels(jpeg.width, jpeg.height, 1).map(|()| jpeg)) {
            let _ = if keep == 0 { jpeg.check().err() } else { jpeg.decode(keep).err() };
        }
        if let Ok(png) = Png::read(&bytes).and_then(|png| check_pixels(png.width, png.height, 1).map(|()| png)) {
            let _ = png.decode(1 + keep as u32);
        }
    }
}

#[test]
fn jpegs_of_phones_are_whole_whatever_is_around_the_picture() {
    let spec = Spec { width: 64, height: 40, sampling: vec![(2, 2), (1, 1), (1, 1)], ..Spec::default() };
    let bytes = write(&spec, block(1));
    let thumbnail = [&[0xff, 0xe1, 1, 0][..], b"Exif\0\0", &bytes[..200], &[0xff, 0xd9], &[7; 46]].concat();
    let comment = [0xff, 0xfe, 0, 6, 0xff, 0xd9, 0xff, 0xd8];
    let fill = [&bytes[..bytes.len() - 2], &[0xff; 20], &[0xff, 0xd9]].concat();
    let spare = [&bytes[..bytes.len() - 2], &[0; 20], &[0xff, 0xd9]].concat();
    for odd in [
        [&bytes[..2], &thumbnail, &bytes[2..]].concat(),
        [&bytes[..2], &comment, &bytes[2..]].concat(),
        // A second picture behind it, a video, zeros.
        [&bytes[..], &bytes[..bytes.len() / 2]].concat(),
        [&bytes[..], b"\0\0\0\x1cftypmp42", &[9; 5000]].concat(),
        [&bytes[..], &[0; 5000]].concat(),
        fill,
        spare,
    ] {
        assert_eq!(decode(&odd, 50).map(|decoded| decoded.picture), decode(&bytes, 50).map(|decoded| decoded.picture));
    }
}

#[test]
fn damage_in_the_midst_of_a_jpeg_is_found() {
    let spec = Spec { width: 640, height: 400, sampling: vec![(1, 1); 3], restart_every: 40, ..Spec::default() };
    let bytes = write(&spec, block(1));
    for (from, length) in [(3000, 2000), (9000, 512), (12_000, 4096)] {
        let mut broken = bytes.clone();
        broken[from..from + length].fill(0);
        assert!(matches!(decode(&broken, 50).err(), Some(Refusal::Incomplete(_))), "{length} zeros at {from}");
    }
    let progressive = write(&Spec { progressive: true, restart_every: 0, ..spec }, block(1));
    let scans: Vec<usize> = (0..progressive.len()).filter(|&at| progressive[at..].starts_with(&[0xff, 0xda])).collect();
    for &scan in &scans[1..] {
        let refused = decode(&[&progressive[..scan], &[0xff, 0xd9]].concat(), 50).err();
        assert!(matches!(&refused, Some(Refusal::Incomplete(why)) if why.contains("scans")), "{refused:?}");
    }
}

#[test]
fn a_reduced_jpeg_shows_what_the_whole_one_shows() {
    let picture = hills(320, 240);
    let bytes = encoded(&picture.into(), ImageFormat::Jpeg);
    let whole = whole_jpeg(&bytes).unwrap();
    for keep in [4, 2, 1] {
        let small = Jpeg::read(&bytes).unwrap().decode(keep).unwrap();
        let step = 8 / keep as u32;
        assert_eq!(small.dimensions(), (320 / step, 240 / step));
        let means = imageops::resize(&whole, 320 / step, 240 / step, imageops::FilterType::Triangle);
        let difference: u64 = small.iter().zip(means.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        assert!(difference < 4 * small.len() as u64, "{keep}: {}", difference as f64 / small.len() as f64);
    }
}

#[test]
fn inks_with_and_without_a_marker_are_the_same_picture() {
    let spec = Spec { width: 64, height: 64, sampling: vec![(1, 1); 4], adobe: Some(0), ..Spec::default() };
    // Stored as Adobe does (255 is white), and the other way round: much light, little
    // black.
    let stored = |sign: i16| {
        move |component: usize, column: usize, row: usize| {
            let light = [90, -60, 20, 230][component] - (column * 3 + row * 2) as i16;
            let mut block = [0; 64];
            block[0] = sign * light;
            block
        }
    };
    let marked = decode(&write(&spec, stored(1)), 50).unwrap().picture;
    let unmarked = Spec { adobe: None, ..spec };
    for sign in [1, -1] {
        let plain = decode(&write(&unmarked, stored(sign)), 50).unwrap().picture;
        for (a, b) in marked.iter().zip(plain.iter()) {
            assert!(a.abs_diff(*b) <= 8, "{a} is not {b}");
        }
    }
    let ycck = Spec { adobe: Some(2), ..unmarked };
    let bytes = write(&ycck, stored(1));
    for (a, b) in Jpeg::read(&bytes).unwrap().decode(8).unwrap().iter().zip(whole_jpeg(&bytes).unwrap().iter()) {
        assert!(a.abs_diff(*b) <= 8, "{a} is not {b}");
    }
}

#[test]
fn pngs_of_every_kind_are_as_the_image_library_has_them() {
    let hills = DynamicImage::from(hills(37, 23));
    let clear = DynamicImage::from(imageops::flip_horizontal(&hills.to_rgba8()));
    for picture in [
        hills.clone(),
        clear,
        hills.to_luma8().into(),
        hills.to_luma_alpha8().into(),
        hills.to_rgb16().into(),
        hills.to_rgba16().into(),
        hills.to_luma16().into(),
    ] {
        let bytes = encoded(&picture, ImageFormat::Png);
        assert_eq!(decode(&bytes, 50).unwrap().picture, picture.to_rgb8());
        let halved = Png::read(&bytes).unwrap().decode(2).unwrap();
        assert_eq!(halved.dimensions(), (19, 12));
        let mean = [(36, 22), (36, 22)].map(|(x, y)| u32::from(picture.to_rgb8().get_pixel(x, y)[0]));
        assert_eq!(u32::from(halved.get_pixel(18, 11)[0]), mean.iter().sum::<u32>() / 2, "a corner of one pixel");
    }
}

/// An interlaced PNG of 8-bit grey pixels, pass by pass.
fn interlaced(picture: &RgbImage) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let mut rows = Vec::new();
    for [left, top, right, down] in png::PASSES {
        for y in (top..height).step_by(down as usize).filter(|_| left < width) {
            rows.push(0);
            rows.extend((left..width).step_by(right as usize).map(|x| picture.get_pixel(x, y)[0]));
        }
    }
    let mut bytes = Vec::new();
    let picture = RgbImage::new(1, 1);
    PngEncoder::new(&mut bytes).write_image(&picture, 1, 1, ExtendedColorType::Rgb8).unwrap();
    // One stored block will do for less than 64 KiB; the sum is Adler's.
    let (mut a, mut b) = (1u32, 0u32);
    for &byte in &rows {
        a = (a + u32::from(byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let length = rows.len() as u16;
    let [l0, l1] = length.to_le_bytes();
    let data = [&[0x78, 1, 1, l0, l1, !l0, !l1][..], &rows, &(b << 16 | a).to_be_bytes()].concat();
    let chunk = |kind: &[u8], content: &[u8]| {
        let body = [kind, content].concat();
        [&(content.len() as u32).to_be_bytes()[..], &body, &crc32fast::hash(&body).to_be_bytes()].concat()
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 1]].concat();
    [png::SIGNATURE, &chunk(b"IHDR", &header), &chunk(b"IDAT", &data), &chunk(b"IEND", b"")].concat()
}

#[test]
fn interlaced_pngs_of_any_size_are_read() {
    for (width, height) in [(1, 1), (3, 2), (5, 5), (8, 9), (37, 23), (4, 70)] {
        let picture = DynamicImage::from(hills(width, height).clone()).to_luma8();
        let picture = DynamicImage::from(picture).to_rgb8();
        let bytes = interlaced(&picture);
        assert_eq!(Png::read(&bytes).unwrap().decode(1).unwrap(), picture, "{width} x {height}");
        let reduced = Png::read(&bytes).unwrap().decode(4).unwrap();
        assert_eq!(reduced.dimensions(), (width.div_ceil(4), height.div_ceil(4)));
    }
}

#[test]
fn no_header_makes_a_picture_need_more_than_the_limit() {
    for (width, height) in [(12_000, 16_000), (65_500, 3_000), (3_000, 65_500)] {
        for sampling in [vec![(1, 1); 4], vec![(4, 4), (1, 1), (1, 1)], vec![(1, 1), (4, 4), (4, 4)]] {
            for progressive in [false, true] {
                let spec = Spec { width: 8, height: 8, sampling: sampling.clone(), progressive, ..Spec::default() };
                let mut bytes = write(&spec, block(1));
                let frame =
                    bytes.windows(2).position(|pair| pair[0] == 0xff && [0xc0, 0xc2].contains(&pair[1])).unwrap();
                bytes[frame + 5..frame + 7].copy_from_slice(&(height as u16).to_be_bytes());
                bytes[frame + 7..frame + 9].copy_from_slice(&(width as u16).to_be_bytes());
                let jpeg = Jpeg::read(&bytes).unwrap();
                let reduced = [8, 4, 2, 1].map(|keep| jpeg.need(keep));
                let whole = need_of_whole(&jpeg, 0);
                assert!(reduced.is_sorted_by(|more, less| more > less) && whole > MOST_MEMORY, "{reduced:?}");
                let refused = decode(&bytes, 200).err();
                let fits = reduced[3] + SMALL_CHANGE + bytes.len() as u64 <= MOST_MEMORY;
                assert_eq!(matches!(refused, Some(Refusal::Incomplete(_))), fits, "{refused:?}");
                assert_eq!(matches!(refused, Some(Refusal::NeedsMemory { .. })), !fits, "{refused:?}");
            }
        }
    }
}
