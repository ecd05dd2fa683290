//! Whether a JPEG is whole, and its picture at an eighth, a quarter, half or all of its
//! size.
//!
//! Each 8 × 8 block is kept as its lowest `keep` × `keep` frequencies. An inverse
//! transform of that size yields the block in as many pixels. So memory is bounded for
//! progressive pictures, too: of the frequencies left out, one bit each says whether it
//! is zero, which refining scans need (ITU-T T.81, annex G). With `keep` 0 nothing is
//! kept: the data are only read to their end.

use std::f32::consts::PI;

use image::{RgbImage, metadata::Orientation};

use super::{Fault, Upright};
use crate::vision::jpeg::{Bits, Table};

/// Pictures have a dozen scans; hundreds are written to keep a reader busy.
const MOST_SCANS: usize = 100;
/// Bytes behind the last block of a scan that some cameras leave there.
const SPARE_BYTES: usize = 64;
/// Not sent yet.
const UNSENT: u8 = u8::MAX;
/// A frequency that is not kept.
const LEFT_OUT: u8 = u8::MAX;

/// Row times 8 plus column of the frequencies in the order of the data.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A JPEG whose headers were read, up to its first scan.
pub(super) struct Jpeg<'a> {
    pub width: u32,
    pub height: u32,
    pub orientation: Orientation,
    pub progressive: bool,
    /// As many components as the first scan has.
    first_scan: usize,
    components: Vec<Component>,
    quantizers: [Option<[u16; 64]>; 4],
    /// Four of DC coefficients, four of the others.
    tables: [Option<Table<'a>>; 8],
    /// In units of the scan; 0: never.
    restart_every: usize,
    /// The colour transform of the Adobe marker.
    adobe: Option<u8>,
    jfif: bool,
    /// Behind the last marker read.
    rest: &'a [u8],
}

struct Component {
    id: u8,
    /// Blocks in a unit of a scan of several components.
    across: usize,
    down: usize,
    quantizer: usize,
    /// As it was when the component's first scan began.
    steps: Option<[u16; 64]>,
    /// Blocks in the frame, whole units.
    columns: usize,
    rows: usize,
    /// Blocks that hold pixels; a scan of this component alone has no others.
    own_columns: usize,
    own_rows: usize,
    /// The lowest bit that was sent of each frequency.
    sent: [u8; 64],
    /// Where each frequency is kept within a block.
    places: [u8; 64],
    kept_per_block: usize,
    kept: Vec<i16>,
    /// Per block, a bit per frequency that is not zero; progressive pictures only.
    nonzero: Vec<u64>,
}

struct Scan {
    /// Component, DC table, AC table.
    parts: Vec<(usize, usize, usize)>,
    /// First and last frequency.
    band: (usize, usize),
    /// Bits that were sent before, and that are left to later scans.
    high: u8,
    low: u8,
}

fn ends(what: &str) -> Fault {
    Fault::Incomplete(format!("it ends in {what}"))
}

impl<'a> Jpeg<'a> {
    /// Reads what stands before the first scan.
    pub fn read(bytes: &'a [u8]) -> Result<Jpeg<'a>, Fault> {
        let mut jpeg = Jpeg {
            width: 0,
            height: 0,
            orientation: Orientation::NoTransforms,
            progressive: false,
            first_scan: 0,
            components: Vec::new(),
            quantizers: [None; 4],
            tables: [const { None }; 8],
            restart_every: 0,
            adobe: None,
            jfif: false,
            rest: bytes.get(2..).unwrap_or_default(),
        };
        loop {
            match jpeg.marker()? {
                0xda if jpeg.components.is_empty() => {
                    return Err(Fault::Damaged("a scan comes before its size".into()));
                }
                0xda => {
                    jpeg.first_scan = jpeg.rest.get(2).copied().ok_or_else(|| ends("its headers"))?.into();
                    return Ok(jpeg);
                }
                0xd9 => return Err(Fault::Damaged("it has no picture data".into())),
                kind => jpeg.segment(kind)?,
            }
        }
    }

    /// Whether blocks of one place come in several scans.
    pub fn in_several_scans(&self) -> bool {
        self.progressive || self.first_scan < self.components.len()
    }

    /// Whether the image library reads it right. It takes inks without a marker for
    /// inverted ones, and loses its place where restarts divide scans of one component
    /// (seen in zune-jpeg 0.5.15).
    pub fn is_common(&self) -> bool {
        let unmarked_inks = self.components.len() == 4 && self.adobe.is_none();
        !unmarked_inks && (self.progressive || !self.in_several_scans())
    }

    pub fn is_grey(&self) -> bool {
        self.components.len() == 1
    }

    /// Of the whole picture.
    pub fn coefficients(&self) -> u64 {
        self.blocks_in_all() * 64
    }

    fn blocks_in_all(&self) -> u64 {
        self.components.iter().map(|c| c.columns as u64 * c.rows as u64).sum()
    }

    /// What [`Jpeg::decode`] needs, in bytes.
    pub fn need(&self, keep: usize) -> u64 {
        let blocks = self.blocks_in_all();
        let samples = blocks * (keep * keep) as u64;
        let nonzero = if self.progressive { blocks * 8 } else { 0 };
        let picture = u64::from(self.width) * u64::from(self.height) * 3 * (keep * keep) as u64 / 64;
        // Coefficients of two bytes become samples of one, and those become the picture.
        nonzero + (samples * 3).max(samples + picture)
    }

    /// The kind of the next marker that is neither a restart nor part of the data.
    fn marker(&mut self) -> Result<u8, Fault> {
        loop {
            let at = self.rest.iter().position(|&byte| byte == 0xff).ok_or_else(|| ends("its data"))?;
            let behind = &self.rest[at + 1..];
            let kind = *behind.first().ok_or_else(|| ends("its data"))?;
            // 0xFF before a marker fills; 0x00 behind one makes it data.
            if kind == 0xff {
                self.rest = behind;
                continue;
            }
            self.rest = &behind[1..];
            if !matches!(kind, 0x00 | 0x01 | 0xd0..=0xd8) {
                return Ok(kind);
            }
        }
    }

    fn take_segment(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.rest.first_chunk().map(|&length| usize::from(u16::from_be_bytes(length)));
        let length = length.ok_or_else(|| ends("its headers"))?;
        if length < 2 {
            return Err(Fault::Damaged("a header has no length".into()));
        }
        let (segment, behind) = self.rest.split_at_checked(length).ok_or_else(|| ends("its headers"))?;
        self.rest = behind;
        Ok(&segment[2..])
    }

    fn segment(&mut self, kind: u8) -> Result<(), Fault> {
        let segment = self.take_segment()?;
        let read = match kind {
            0xc0..=0xc2 => return self.frame(segment, kind == 0xc2),
            0xc4 => self.huffman_tables(segment),
            0xc3 | 0xc5..=0xcf => return Err(Fault::Foreign("a lossless or arithmetic-coded JPEG".into())),
            0xdb => self.quantizers(segment),
            0xdd => segment.first_chunk().map(|&every| self.restart_every = usize::from(u16::from_be_bytes(every))),
            0xe0 => {
                self.jfif |= segment.starts_with(b"JFIF");
                Some(())
            }
            0xe1 => {
                let exif = segment.strip_prefix(b"Exif\0\0").and_then(Orientation::from_exif_chunk);
                self.orientation = exif.unwrap_or(self.orientation);
                Some(())
            }
            0xee => {
                self.adobe = if segment.starts_with(b"Adobe") { segment.get(11).copied() } else { self.adobe };
                Some(())
            }
            _ => Some(()),
        };
        read.ok_or_else(|| Fault::Damaged(format!("its header {kind:#04x} is broken")))
    }

    fn frame(&mut self, segment: &[u8], progressive: bool) -> Result<(), Fault> {
        let broken = || Fault::Damaged("its size is broken".into());
        let (&[precision, h1, h0, w1, w0, count], parts) = segment.split_first_chunk().ok_or_else(broken)?;
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        if precision != 8 || !matches!(count, 1 | 3 | 4) {
            return Err(Fault::Foreign(format!("a JPEG of {count} colours with {precision} bits each")));
        }
        if !self.components.is_empty() || parts.len() != 3 * usize::from(count) || width == 0 || height == 0 {
            return Err(broken());
        }
        (self.width, self.height, self.progressive) = (width.into(), height.into(), progressive);
        let parts = parts.as_chunks::<3>().0.iter();
        let parts: Vec<_> = parts.map(|&[id, sampling, table]| (id, sampling >> 4, sampling & 15, table)).collect();
        let most = |of: fn(&(u8, u8, u8, u8)) -> u8| usize::from(parts.iter().map(of).max().unwrap_or(1));
        let (most_across, most_down) = (most(|part| part.1), most(|part| part.2));
        for (id, across, down, quantizer) in parts {
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || quantizer > 3 {
                return Err(broken());
            }
            let (across, down) = (usize::from(across), usize::from(down));
            let blocks = |pixels: u16, own: usize, most: usize| {
                let pixels = usize::from(pixels);
                (pixels.div_ceil(8 * most) * own, (pixels * own).div_ceil(most).div_ceil(8))
            };
            let (columns, own_columns) = blocks(width, across, most_across);
            let (rows, own_rows) = blocks(height, down, most_down);
            self.components.push(Component {
                id,
                across,
                down,
                quantizer: quantizer.into(),
                steps: None,
                columns,
                rows,
                own_columns,
                own_rows,
                sent: [UNSENT; 64],
                places: [LEFT_OUT; 64],
                kept_per_block: 0,
                kept: Vec::new(),
                nonzero: Vec::new(),
            });
        }
        Ok(())
    }

    fn quantizers(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&which, behind)) = segment.split_first() {
            let wide = usize::from(which >> 4).min(1);
            let (steps, behind) = behind.split_at_checked(64 << wide)?;
            let mut table = [0u16; 64];
            for (step, bytes) in table.iter_mut().zip(steps.chunks(1 << wide)) {
                *step = bytes.iter().fold(0, |value, &byte| value << 8 | u16::from(byte));
            }
            *self.quantizers.get_mut(usize::from(which & 15))? = Some(table);
            segment = behind;
        }
        Some(())
    }

    fn huffman_tables(&mut self, mut segment: &'a [u8]) -> Option<()> {
        while let Some((&which, behind)) = segment.split_first() {
            let (kind, place) = (usize::from(which >> 4), usize::from(which & 15));
            let (counts, behind) = behind.split_first_chunk()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, behind) = behind.split_at_checked(total)?;
            if kind > 1 || place > 3 {
                return None;
            }
            self.tables[4 * kind + place] = Some(Table::new(counts, symbols)?);
            segment = behind;
        }
        Some(())
    }

    /// Reads all scans to the end of the picture; what is behind it does not matter.
    fn scans(&mut self, keep: usize) -> Result<(), Fault> {
        for component in &mut self.components {
            let blocks = component.columns * component.rows;
            for (place, &natural) in component.places.iter_mut().zip(&ZIGZAG) {
                let (row, column) = (usize::from(natural / 8), usize::from(natural % 8));
                *place = if row < keep && column < keep { (row * keep + column) as u8 } else { LEFT_OUT };
            }
            component.kept_per_block = keep * keep;
            component.kept = vec![0; blocks * keep * keep];
            component.nonzero = vec![0; if self.progressive { blocks } else { 0 }];
        }
        let mut kind = 0xda;
        for _ in 0..MOST_SCANS {
            let header = self.take_segment()?;
            let scan = self.scan_header(header).ok_or_else(|| Fault::Damaged("a scan's header is broken".into()))?;
            self.scan(&scan)?;
            loop {
                kind = self.marker()?;
                match kind {
                    0xda => break,
                    0xd9 => return self.all_was_sent(),
                    // The number of lines, which the header said already.
                    kind => self.segment(kind)?,
                }
            }
        }
        Err(Fault::Damaged(format!("it has more than {MOST_SCANS} scans (marker {kind:#04x})")))
    }

    fn scan_header(&mut self, header: &[u8]) -> Option<Scan> {
        let (&count, behind) = header.split_first()?;
        let (parts, rest) = behind.split_at_checked(2 * usize::from(count))?;
        let &[first, last, bits] = rest.first_chunk()?;
        let mut scan = Scan { parts: Vec::new(), band: (first.into(), last.into()), high: bits >> 4, low: bits & 15 };
        let dc = first == 0;
        let fits = if self.progressive { first <= last && last < 64 && dc == (last == 0) } else { true };
        if !fits || !(1..=4).contains(&count) || scan.low > 13 || (!dc && count > 1) {
            return None;
        }
        if !self.progressive {
            (scan.band, scan.high, scan.low) = ((0, 63), 0, 0);
        }
        for &[id, tables] in parts.as_chunks().0 {
            let index = self.components.iter().position(|component| component.id == id)?;
            if scan.parts.iter().any(|part| part.0 == index) {
                return None;
            }
            let component = &mut self.components[index];
            component.steps = component.steps.or(self.quantizers[component.quantizer]);
            component.sent[scan.band.0..=scan.band.1].fill(scan.low);
            scan.parts.push((index, usize::from(tables >> 4), 4 + usize::from(tables & 15)));
        }
        Some(scan)
    }

    fn scan(&mut self, scan: &Scan) -> Result<(), Fault> {
        let mut bits = Bits::new(self.rest);
        let whole = self.blocks(scan, &mut bits).and_then(|()| bits.within_data());
        let (ahead, rest) = bits.left();
        self.rest = rest;
        if whole.is_none() {
            return Err(Fault::Incomplete("its data end, or are damaged, before the picture is complete".into()));
        }
        let next = rest.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff));
        match next {
            None => Err(ends("its data")),
            Some(next) if ahead + next > SPARE_BYTES || (0xd0..=0xd7).contains(&rest[next + 1]) => {
                Err(Fault::Incomplete("its data are damaged: they go on behind the picture".into()))
            }
            Some(_) => Ok(()),
        }
    }

    /// None: the data ended, or cannot be.
    fn blocks(&mut self, scan: &Scan, bits: &mut Bits<'_>) -> Option<()> {
        let mut means = [0i32; 4];
        let mut empty_blocks = 0;
        let (columns, rows) = match *scan.parts {
            [(only, ..)] => (self.components[only].own_columns, self.components[only].own_rows),
            _ => {
                let first = self.components.first()?;
                (first.columns / first.across, first.rows / first.down)
            }
        };
        for unit in 0..columns * rows {
            if self.restart_every > 0 && unit > 0 && unit % self.restart_every == 0 {
                bits.restart().ok()?;
                (means, empty_blocks) = ([0; 4], 0);
            }
            let (column, row) = (unit % columns, unit / columns);
            for (&(index, dc, ac), mean) in scan.parts.iter().zip(&mut means) {
                let component = &mut self.components[index];
                let (across, down) = if scan.parts.len() == 1 { (1, 1) } else { (component.across, component.down) };
                let tables = [self.tables.get(dc)?.as_ref(), self.tables.get(ac)?.as_ref()];
                for (x, y) in (0..down).flat_map(|y| (0..across).map(move |x| (x, y))) {
                    let at = (row * down + y) * component.columns + column * across + x;
                    let mut block = Block { component, at, bits, tables };
                    match (self.progressive, scan.band.0 == 0, scan.high == 0) {
                        (false, ..) => block.sequential(mean)?,
                        (true, true, true) => block.first_mean(scan.low, mean)?,
                        (true, true, false) => block.refined_mean(scan.low)?,
                        (true, false, true) => block.first_detail(scan, &mut empty_blocks)?,
                        (true, false, false) => block.refined_detail(scan, &mut empty_blocks)?,
                    }
                }
            }
        }
        Some(())
    }

    /// Luma to its last bit, and what was begun of the colours. Some programs leave out
    /// their detail.
    fn all_was_sent(&self) -> Result<(), Fault> {
        let luma = self.components.first().is_some_and(|luma| luma.sent.iter().all(|&bit| bit == 0));
        let others = self.components.iter().all(|other| other.sent.iter().all(|&bit| bit == 0 || bit == UNSENT));
        if luma && others && self.components.iter().all(|component| component.sent[0] == 0) {
            return Ok(());
        }
        Err(Fault::Incomplete("some of its scans are missing".into()))
    }

    /// Reads the data to their end, and keeps nothing.
    pub fn check(mut self) -> Result<(), Fault> {
        self.scans(0)
    }

    /// The picture, upright, at `keep` eighths of its size.
    pub fn decode(mut self, keep: usize) -> Result<RgbImage, Fault> {
        self.scans(keep)?;
        let colours = Colours::of(&self);
        let most_across = self.components.iter().map(|c| c.across).max().unwrap_or(1);
        let most_down = self.components.iter().map(|c| c.down).max().unwrap_or(1);
        let mut planes = Vec::new();
        for component in self.components {
            let (across, down, width) = (component.across, component.down, component.columns * keep);
            let samples = component.samples(keep).ok_or_else(|| Fault::Damaged("it has no quantizers".into()))?;
            planes.push((samples, width, across, down));
        }
        let inverted = match colours {
            Colours::Inks { inverted } => inverted.unwrap_or_else(|| mostly_white(&planes[3].0)),
            _ => false,
        };
        let scaled = |pixels: u32| (pixels * keep as u32).div_ceil(8);
        let mut picture = Upright::new(scaled(self.width), scaled(self.height), self.orientation);
        for y in 0..picture.height {
            for x in 0..picture.width {
                let mut pixel = [0u8; 4];
                for (value, (samples, width, across, down)) in pixel.iter_mut().zip(&planes) {
                    let (x, y) = (x as usize * across / most_across, y as usize * down / most_down);
                    *value = samples[y * width + x];
                }
                picture.put(x, y, colours.rgb(pixel, inverted));
            }
        }
        Ok(picture.picture)
    }
}

/// Where a block's data go.
struct Block<'c, 'b, 'd, 't> {
    component: &'c mut Component,
    at: usize,
    bits: &'b mut Bits<'d>,
    /// Of the mean, and of the other frequencies.
    tables: [Option<&'t Table<'t>>; 2],
}

impl Block<'_, '_, '_, '_> {
    fn kept(&mut self, frequency: usize) -> Option<&mut i16> {
        let place = self.component.places[frequency];
        let start = self.at * self.component.kept_per_block;
        if place == LEFT_OUT { None } else { self.component.kept.get_mut(start + usize::from(place)) }
    }

    fn put(&mut self, frequency: usize, value: i32) {
        if let Some(kept) = self.kept(frequency) {
            *kept = value as i16;
        }
    }

    /// A symbol of a table, and the signed number behind it.
    fn signed(&mut self, table: usize) -> Option<(usize, u8, i32)> {
        let (symbol, number) = self.bits.take(self.tables[table]?)?;
        let size = symbol & 15;
        let negative = size > 0 && number >> (size - 1) == 0;
        let value = number as i32 - if negative { (1 << size) - 1 } else { 0 };
        Some((usize::from(symbol >> 4), size, value))
    }

    fn mean(&mut self, mean: &mut i32) -> Option<i32> {
        let (zeros, _, difference) = self.signed(0)?;
        *mean = mean.wrapping_add(difference);
        (zeros == 0).then_some(*mean)
    }

    fn sequential(&mut self, mean: &mut i32) -> Option<()> {
        let value = self.mean(mean)?;
        self.put(0, value);
        let mut frequency = 1;
        while frequency < 64 {
            let (zeros, size, value) = self.signed(1)?;
            if size == 0 && zeros < 15 {
                break;
            }
            frequency += zeros;
            if frequency > 63 {
                return None;
            }
            self.put(frequency, value);
            frequency += 1;
        }
        Some(())
    }

    fn first_mean(&mut self, low: u8, mean: &mut i32) -> Option<()> {
        let value = self.mean(mean)?;
        self.put(0, value << low);
        Some(())
    }

    fn refined_mean(&mut self, low: u8) -> Option<()> {
        let bit = self.bits.number(1)? as i16;
        if let Some(kept) = self.kept(0) {
            *kept |= bit << low;
        }
        Some(())
    }

    /// As many blocks from this one on have nothing more in this scan.
    fn empty_blocks(&mut self, exponent: usize) -> Option<usize> {
        Some((1 << exponent) + self.bits.number(exponent as u32)? as usize)
    }

    fn first_detail(&mut self, scan: &Scan, empty_blocks: &mut usize) -> Option<()> {
        if *empty_blocks > 0 {
            *empty_blocks -= 1;
            return Some(());
        }
        let mut frequency = scan.band.0;
        while frequency <= scan.band.1 {
            let (zeros, size, value) = self.signed(1)?;
            if size == 0 && zeros < 15 {
                *empty_blocks = self.empty_blocks(zeros)? - 1;
                break;
            }
            frequency += zeros;
            if frequency > 63 {
                return None;
            }
            if size > 0 {
                self.component.nonzero[self.at] |= 1 << frequency;
                self.put(frequency, value << scan.low);
            }
            frequency += 1;
        }
        Some(())
    }

    /// One more bit for a frequency that is not zero.
    fn refine(&mut self, frequency: usize, low: u8) -> Option<()> {
        let more = self.bits.number(1)? == 1;
        if let Some(kept) = self.kept(frequency).filter(|_| more) {
            let step = 1i16 << low;
            *kept = if *kept < 0 { kept.wrapping_sub(step) } else { kept.wrapping_add(step) };
        }
        Some(())
    }

    fn refined_detail(&mut self, scan: &Scan, empty_blocks: &mut usize) -> Option<()> {
        let (mut frequency, last) = scan.band;
        while *empty_blocks == 0 && frequency <= last {
            let (mut zeros, size, value) = self.signed(1)?;
            match size {
                0 if zeros < 15 => {
                    *empty_blocks = self.empty_blocks(zeros)?;
                    break;
                }
                0 | 1 => {}
                _ => return None,
            }
            // Over as many zeros; what is not zero is refined on the way.
            while frequency <= last {
                if self.component.nonzero[self.at] & 1 << frequency != 0 {
                    self.refine(frequency, scan.low)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                frequency += 1;
            }
            if size > 0 && frequency <= last {
                self.component.nonzero[self.at] |= 1 << frequency;
                self.put(frequency, value << scan.low);
            }
            frequency += 1;
        }
        if *empty_blocks > 0 {
            *empty_blocks -= 1;
            for frequency in frequency..=last {
                if self.component.nonzero[self.at] & 1 << frequency != 0 {
                    self.refine(frequency, scan.low)?;
                }
            }
        }
        Some(())
    }
}

impl Component {
    /// The component's samples, `keep` × `keep` of each block. None: it has no
    /// quantizers.
    fn samples(self, keep: usize) -> Option<Vec<u8>> {
        let steps = self.steps?;
        let mut scales = vec![0.0; keep * keep];
        for (&place, &step) in self.places.iter().zip(&steps).filter(|(place, _)| **place != LEFT_OUT) {
            scales[usize::from(place)] = f32::from(step) * keep as f32 / 8.0;
        }
        let basis = basis(keep);
        let width = self.columns * keep;
        let mut samples = vec![0; width * self.rows * keep];
        let (mut values, mut rows) = (vec![0.0; keep * keep], vec![0.0; keep * keep]);
        for (index, block) in self.kept.chunks_exact(keep * keep).enumerate() {
            for ((value, &kept), &scale) in values.iter_mut().zip(block).zip(&scales) {
                *value = f32::from(kept) * scale;
            }
            transform(&values, &basis, keep, &mut rows);
            transform(&rows, &basis, keep, &mut values);
            let start = index / self.columns * keep * width + index % self.columns * keep;
            for (y, row) in values.chunks_exact(keep).enumerate() {
                for (sample, value) in samples[start + y * width..].iter_mut().zip(row) {
                    *sample = (value + 128.5).clamp(0.0, 255.0) as u8;
                }
            }
        }
        Some(samples)
    }
}

/// The orthonormal inverse cosine transform: by position, then frequency.
fn basis(keep: usize) -> Vec<f32> {
    let size = keep as f32;
    let entry = |index: usize| {
        let (x, u) = ((index / keep) as f32, (index % keep) as f32);
        let norm = if u == 0.0 { 1.0 / size } else { 2.0 / size };
        norm.sqrt() * ((2.0 * x + 1.0) * u * PI / (2.0 * size)).cos()
    };
    (0..keep * keep).map(entry).collect()
}

/// Transforms the rows, and turns rows into columns: twice is both directions.
fn transform(from: &[f32], basis: &[f32], keep: usize, to: &mut [f32]) {
    for (y, row) in from.chunks_exact(keep).enumerate() {
        for (x, weights) in basis.chunks_exact(keep).enumerate() {
            to[x * keep + y] = row.iter().zip(weights).map(|(value, weight)| value * weight).sum();
        }
    }
}

/// What the components mean.
enum Colours {
    Grey,
    Rgb,
    Luma,
    /// Cyan, magenta, yellow, black; None: the file does not say which end is white.
    Inks {
        inverted: Option<bool>,
    },
    /// The same, its colours as luma and differences.
    LumaAndBlack,
}

impl Colours {
    fn of(jpeg: &Jpeg<'_>) -> Colours {
        let ids: Vec<u8> = jpeg.components.iter().map(|component| component.id).collect();
        match (ids.len(), jpeg.adobe) {
            (1, _) => Colours::Grey,
            (3, Some(0)) if !jpeg.jfif => Colours::Rgb,
            (3, None) if !jpeg.jfif && ids == *b"RGB" => Colours::Rgb,
            (3, _) => Colours::Luma,
            (_, Some(2)) => Colours::LumaAndBlack,
            (_, adobe) => Colours::Inks { inverted: adobe.map(|_| true) },
        }
    }

    fn rgb(&self, pixel: [u8; 4], inverted: bool) -> [u8; 3] {
        let [a, b, c, d] = pixel;
        // As much light as the black ink lets through.
        let under =
            |light: [u8; 3], black: u8| light.map(|light| ((u32::from(light) * u32::from(black) + 127) / 255) as u8);
        match self {
            Colours::Grey => [a; 3],
            Colours::Rgb => [a, b, c],
            Colours::Luma => rgb_of([a, b, c]),
            Colours::Inks { .. } if inverted => under([a, b, c], d),
            Colours::Inks { .. } => under([255 - a, 255 - b, 255 - c], 255 - d),
            Colours::LumaAndBlack => under(rgb_of([a, b, c]).map(|ink| 255 - ink), d),
        }
    }
}

/// From luma and two differences (ITU-R BT.601, full range).
fn rgb_of([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    let (luma, blue, red) = (f32::from(luma), f32::from(blue) - 128.0, f32::from(red) - 128.0);
    [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue]
        .map(|value| (value + 0.5).clamp(0.0, 255.0) as u8)
}

/// Pictures use little black ink: where most of its values are large, large ones are
/// white.
fn mostly_white(black: &[u8]) -> bool {
    black.iter().filter(|&&value| value > 127).count() * 2 > black.len()
}
