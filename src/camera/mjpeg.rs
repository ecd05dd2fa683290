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
    /// Of the picture that the buffer begins with, so much is read.
    read: usize,
    /// Its compressed data have begun, and whether they go on at `read`.
    data_begun: bool,
    in_data: bool,
}

/// A picture that broke off in its data or was cut by the beginning of another.
#[derive(Debug, PartialEq)]
pub(super) struct Torn;

/// How far a picture can be read.
enum Scan {
    Whole,
    /// More bytes are needed.
    Unfinished,
    /// What was read is of a picture, and does not go on as one.
    Torn,
    /// It is no JPEG: look for the next start behind its first bytes.
    NoPicture,
}

impl MjpegSplitter {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole picture or torn one, if there is one already.
    pub(super) fn next_picture(&mut self) -> Option<Result<Vec<u8>, Torn>> {
        loop {
            if self.read == 0 && !self.find_start() {
                return None;
            }
            match self.scan() {
                Scan::Whole => return Some(Ok(self.take(self.read))),
                Scan::Unfinished if self.buffer.len() <= MOST_BYTES => return None,
                Scan::Unfinished => drop(self.take(self.buffer.len())),
                Scan::Torn => {
                    self.take(self.read);
                    return Some(Err(Torn));
                }
                Scan::NoPicture => drop(self.take(2)),
            }
        }
    }

    /// Drops what stands before the next start.
    fn find_start(&mut self) -> bool {
        let start = self.buffer.windows(3).position(|bytes| bytes == [0xff, 0xd8, 0xff]);
        // The last bytes may be the beginning of a start.
        self.buffer.drain(..start.unwrap_or(self.buffer.len().saturating_sub(2)));
        self.read = if start.is_some() { 2 } else { 0 };
        start.is_some()
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        (self.read, self.data_begun, self.in_data) = (0, false, false);
        self.buffer.drain(..bytes).collect()
    }

    /// Reads on where the last reading ended for want of bytes.
    fn scan(&mut self) -> Scan {
        loop {
            if self.in_data && !self.pass_data() {
                return Scan::Unfinished;
            }
            let Some(&[mark, kind]) = self.buffer.get(self.read..self.read + 2) else { return Scan::Unfinished };
            match (mark, kind) {
                (0xff, 0xff) => self.read += 1,
                (0xff, 0xd9) => {
                    self.read += 2;
                    return Scan::Whole;
                }
                (0xff, 0x01 | 0xd0..=0xd7) => self.read += 2,
                (0xff, 0xd8) if self.read > 2 => return Scan::Torn,
                (0xff, 0x02..) => {
                    let Some(&[high, low]) = self.buffer.get(self.read + 2..self.read + 4) else {
                        return Scan::Unfinished;
                    };
                    let length = usize::from(u16::from_be_bytes([high, low]));
                    if length < 2 {
                        return self.broken();
                    }
                    self.read += 2 + length;
                    self.in_data = kind == 0xda;
                    self.data_begun |= self.in_data;
                }
                _ => return self.broken(),
            }
        }
    }

    fn broken(&self) -> Scan {
        if self.data_begun { Scan::Torn } else { Scan::NoPicture }
    }

    /// Goes on to the marker that ends the compressed data, a restart being none; false: it
    /// has not come yet.
    fn pass_data(&mut self) -> bool {
        let data = self.buffer.get(self.read..).unwrap_or_default();
        let ends = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff);
        let end = data.windows(2).position(ends);
        // The last byte may be the beginning of a marker.
        self.read += end.unwrap_or(data.len().saturating_sub(1));
        self.in_data = end.is_none();
        end.is_some()
    }
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

    fn split_all(chunks: &[&[u8]]) -> Vec<Result<Vec<u8>, Torn>> {
        let mut splitter = MjpegSplitter::default();
        let mut pictures = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            pictures.extend(std::iter::from_fn(|| splitter.next_picture()));
        }
        pictures
    }

    /// The whole ones.
    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        split_all(chunks).into_iter().flatten().collect()
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

    #[test]
    fn a_picture_that_breaks_off_is_torn_and_takes_no_other_with_it() {
        let whole = jpeg(5);
        let data = whole.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap();
        for cut in [data + 20, whole.len() - 30, whole.len() - 2] {
            let stream = [&whole[..], &whole[..cut], &whole, &whole[..cut], &whole].concat();
            let torn = split_all(&[&stream]).iter().map(Result::is_err).collect::<Vec<_>>();
            assert_eq!(torn, [false, true, false, true, false], "{cut}");
            assert_eq!(split(&[&stream]), vec![whole.clone(); 3]);
        }
    }

    #[test]
    fn the_thumbnail_of_a_torn_picture_is_no_picture() {
        let (torn, whole) = (with_thumbnail(3), jpeg(9));
        let stream = [&torn[..torn.len() - 40], &whole].concat();
        assert_eq!(split_all(&[&stream]), [Err(Torn), Ok(whole)]);
    }

    #[test]
    fn a_picture_without_end_takes_no_more_memory_than_the_largest() {
        let mut splitter = MjpegSplitter::default();
        let begin = jpeg(5);
        splitter.push(&begin[..begin.len() - 2]);
        let mut most = 0;
        for _ in 0..1000 {
            splitter.push(&[0x55; 1 << 16]);
            assert_eq!(splitter.next_picture(), None);
            most = most.max(splitter.buffer.len());
        }
        assert!(most <= MOST_BYTES + (1 << 16), "{most}");
        splitter.push(&begin);
        assert_eq!(splitter.next_picture(), Some(Ok(begin)), "and it goes on afterwards");
    }

    /// Damage to a stream of whole pictures: where (in thousandths of it), what, how much.
    type Damage = (u32, u32, u8);

    fn damaged(mut stream: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
        for &(at, kind, value) in damages {
            let at = at as usize * stream.len() / 1000;
            let end = (at + usize::from(value)).min(stream.len());
            match kind {
                0 => stream[at] = value,
                1 => drop(stream.drain(at..end)),
                2 => stream[at..end].fill(0),
                3 => drop(stream.splice(at..at, [0xff, value])),
                _ => drop(stream.splice(at..at, stream[at..end].to_vec())),
            }
        }
        stream
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn damaged_streams_never_panic_and_keep_no_more_than_came(
            damages in proptest::collection::vec((0u32..1000, 0u32..5, any::<u8>()), 0..8), cut in 1usize..3000,
        ) {
            let stream = damaged([jpeg(2), with_thumbnail(7), jpeg(200), jpeg(9)].concat(), &damages);
            let chunks: Vec<&[u8]> = stream.chunks(cut).collect();
            let pictures = split_all(&chunks);
            let given: usize = pictures.iter().flatten().map(Vec::len).sum();
            prop_assert!(given <= stream.len());
            prop_assert_eq!(pictures, split_all(&[&stream]), "in one piece the same");
        }
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
