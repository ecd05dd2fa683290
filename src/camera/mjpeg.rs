//! Cuts a stream of JPEGs, one after the other without anything in between, into pictures.
//!
//! Segments are skipped by their length, so that a thumbnail inside a header does not end the picture; in the compressed
//! data an end marker cannot occur by chance (T.81, B.1.1.5: 0xFF is followed by 0x00 there).

/// A larger picture is no camera frame: the stream is out of step.
const MOST_BYTES: usize = 16 << 20;

/// Collects bytes and gives out whole pictures.
#[derive(Debug, Default)]
pub(super) struct MjpegSplitter {
    buffer: Vec<u8>,
}

/// How far a picture can be read.
enum Scan {
    Whole(usize),
    /// More bytes are needed.
    Unfinished,
    /// From here on it is no JPEG: look for the next start behind it.
    Broken,
}

impl MjpegSplitter {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole picture, if there is one already.
    pub(super) fn next_picture(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.buffer.windows(3).position(|bytes| bytes == [0xff, 0xd8, 0xff]) {
                Some(start) => drop(self.buffer.drain(..start)),
                None => {
                    // The last bytes may be the beginning of a start.
                    let keep = self.buffer.len().min(2);
                    self.buffer.drain(..self.buffer.len() - keep);
                    return None;
                }
            }
            match scan(&self.buffer) {
                Scan::Whole(length) => return Some(self.buffer.drain(..length).collect()),
                Scan::Unfinished if self.buffer.len() <= MOST_BYTES => return None,
                Scan::Unfinished | Scan::Broken => drop(self.buffer.drain(..2)),
            }
        }
    }
}

fn scan(bytes: &[u8]) -> Scan {
    let mut at = 2;
    loop {
        let Some(&[mark, kind]) = bytes.get(at..at + 2) else { return Scan::Unfinished };
        match (mark, kind) {
            (0xff, 0xff) => at += 1,
            (0xff, 0xd9) => return Scan::Whole(at + 2),
            (0xff, 0x01 | 0xd0..=0xd7) => at += 2,
            // A picture inside a picture, or 0xFF00 outside of compressed data.
            (0xff, 0x00 | 0xd8) => return Scan::Broken,
            (0xff, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return Scan::Unfinished };
                let length = usize::from(u16::from_be_bytes([high, low]));
                if length < 2 {
                    return Scan::Broken;
                }
                at += 2 + length;
                if kind == 0xda {
                    match end_of_data(bytes, at) {
                        Some(end) => at = end,
                        None => return Scan::Unfinished,
                    }
                }
            }
            _ => return Scan::Broken,
        }
    }
}

/// Where the compressed data that begins at `from` is followed by a marker other than a restart.
fn end_of_data(bytes: &[u8], from: usize) -> Option<usize> {
    let data = bytes.get(from..)?;
    data.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff)).map(|i| from + i)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{Rgb, RgbImage};
    use proptest::prelude::*;

    use super::*;

    fn jpeg(seed: u8) -> Vec<u8> {
        let picture = RgbImage::from_fn(24, 16, |x, y| Rgb([(x as u8).wrapping_mul(seed), y as u8 * 9, seed]));
        let mut bytes = Vec::new();
        picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Jpeg).unwrap();
        bytes
    }

    fn with_thumbnail(seed: u8) -> Vec<u8> {
        let (outer, inner) = (jpeg(seed), jpeg(seed + 1));
        let length = (inner.len() + 2) as u16;
        [&outer[..2], &[0xff, 0xe1], &length.to_be_bytes(), &inner, &outer[2..]].concat()
    }

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = MjpegSplitter::default();
        let mut pictures = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            pictures.extend(std::iter::from_fn(|| splitter.next_picture()));
        }
        pictures
    }

    #[test]
    fn a_thumbnail_does_not_end_a_picture() {
        let pictures = [with_thumbnail(3), jpeg(9)];
        assert_eq!(split(&[&pictures.concat()]), pictures);
    }

    #[test]
    fn rubbish_between_pictures_is_skipped() {
        let stream = [b"rubbish\xff\xd8\xff".to_vec(), jpeg(5), b"--boundary\r\n".to_vec(), jpeg(6)].concat();
        assert_eq!(split(&[&stream]), [jpeg(5), jpeg(6)]);
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_pictures(cuts in proptest::collection::vec(1usize..400, 1..30)) {
            let pictures = [jpeg(2), with_thumbnail(7), jpeg(200)];
            let stream = pictures.concat();
            let mut chunks = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            prop_assert_eq!(split(&chunks), pictures);
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(prop_oneof![Just(0xffu8), Just(0xd8), Just(0xda), any::<u8>()], 0..400)) {
            split(&[&bytes]);
        }
    }
}
