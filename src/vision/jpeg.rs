//! The luma of a JPEG in means over blocks of 8 × 8 pixels, without decoding the picture.
//!
//! A JPEG keeps each block as its mean (the DC coefficient) and 63 numbers of detail. To see whether anything moved the means are enough, so
//! the detail is passed over: its Huffman codes have to be read, since nothing else says where the next block begins, but not what they
//! stand for. That takes a fifth of the time of decoding (docs/performance.md).
//!
//! Only what cameras send is read: Huffman-coded sequential JPEGs of 8 bits (ITU-T T.81), all components in one scan, luma the first of them and at
//! full resolution. Anything else is foreign: the whole decoder has to say what that is.
//!
//! A decoder fills what is missing of a torn picture with grey, or with noise, and calls it good.
//! Here it shows: the data end before the last block, or hold what stands for nothing.

/// Codes of up to so many bits are looked up, longer ones searched for: they are rare.
const LOOKUP_BITS: u32 = 9;
/// Bytes that some cameras write too many where the data stop.
const MOST_PADDING: u32 = 16;
/// A block's side in pixels.
pub(super) const BLOCK: usize = 8;

/// Why there are no means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unread {
    /// Another kind of JPEG, another size, or none at all: the whole decoder will tell.
    Foreign,
    /// Its data end early, or are damaged.
    Torn,
}

/// Calls `block` with column, row and mean luma (0 to 255) of each block of a JPEG of that size, those at its edges that are not full included.
///
/// # Errors
/// See [`Unread`]; `block` may have been called before a torn picture shows.
pub(super) fn luma_blocks(bytes: &[u8], size: (u32, u32), block: impl FnMut(usize, usize, f32)) -> Result<(), Unread> {
    let headers = Headers::read(bytes).filter(|headers| headers.size == size).ok_or(Unread::Foreign)?;
    let scan = headers.luma_first().ok_or(Unread::Foreign)?;
    scan.read(&headers, block)
}

/// How the blocks of a scan follow each other.
struct Scan<'a> {
    /// Blocks of luma in a unit of the scan.
    across: usize,
    down: usize,
    scale: f32,
    luma: Tables<'a>,
    /// Of the blocks behind those of luma.
    skipped: Vec<Tables<'a>>,
}

/// DC, others.
type Tables<'a> = (&'a Table<'a>, &'a Table<'a>);

impl Scan<'_> {
    fn read(&self, headers: &Headers<'_>, mut block: impl FnMut(usize, usize, f32)) -> Result<(), Unread> {
        let Scan { across, down, scale, luma: (dc, ac), ref skipped } = *self;
        let mut bits = Bits::new(headers.data);
        let mut mean = 0i32;
        let units = |pixels: u32, blocks: usize| (pixels as usize).div_ceil(BLOCK * blocks);
        let columns = units(headers.size.0, across);
        for unit in 0..columns * units(headers.size.1, down) {
            if headers.restart_every > 0 && unit > 0 && unit % headers.restart_every == 0 {
                bits.restart()?;
                mean = 0;
            }
            let (column, row) = (unit % columns * across, unit / columns * down);
            for (x, y) in (0..down).flat_map(|y| (0..across).map(move |x| (x, y))) {
                mean = mean.wrapping_add(bits.difference(dc).ok_or(Unread::Torn)?);
                bits.pass_over(ac).ok_or(Unread::Torn)?;
                block(column + x, row + y, mean as f32 * scale + 128.0);
            }
            for (dc, ac) in skipped {
                bits.difference(dc).ok_or(Unread::Torn)?;
                bits.pass_over(ac).ok_or(Unread::Torn)?;
            }
        }
        bits.within_data().filter(|()| !bits.ran_into_zeros(headers.data)).ok_or(Unread::Torn)
    }
}

/// What stands before the compressed data.
struct Headers<'a> {
    size: (u32, u32),
    components: Vec<Component>,
    /// Of the DC coefficients.
    quantizers: [Option<u16>; 4],
    /// Four of DC coefficients, four of the others.
    tables: [Option<Table<'a>>; 8],
    /// In units of the scan; 0: never.
    restart_every: usize,
    data: &'a [u8],
}

struct Component {
    id: u8,
    /// Blocks in a unit of the scan.
    across: usize,
    down: usize,
    quantizer: usize,
    /// DC, others.
    tables: [usize; 2],
}

impl<'a> Headers<'a> {
    fn read(bytes: &'a [u8]) -> Option<Headers<'a>> {
        let mut headers = Headers {
            size: (0, 0),
            components: Vec::new(),
            quantizers: [None; 4],
            tables: [const { None }; 8],
            restart_every: 0,
            data: &[],
        };
        let mut rest = bytes.strip_prefix(&[0xff, 0xd8])?;
        loop {
            let (&[mark, kind], behind) = rest.split_first_chunk()?;
            if mark != 0xff {
                return None;
            }
            // Any number of fill bytes may precede a marker.
            if kind == 0xff {
                rest = &rest[1..];
                continue;
            }
            let length = usize::from(u16::from_be_bytes(*behind.first_chunk()?));
            let segment = behind.get(2..length)?;
            rest = &behind[length..];
            match kind {
                0xc0 | 0xc1 => headers.frame(segment)?,
                0xc4 => headers.huffman_tables(segment)?,
                0xda => {
                    headers.scan(segment)?;
                    headers.data = rest;
                    return Some(headers);
                }
                0xdb => headers.quantizers(segment)?,
                0xdd => headers.restart_every = usize::from(u16::from_be_bytes(*segment.first_chunk()?)),
                // Progressive, lossless and the like; markers that have no place here.
                0xc2..=0xcf | 0x00..=0x01 | 0xd0..=0xd9 => return None,
                _ => {}
            }
        }
    }

    /// None where luma is not the first component, or not the finest.
    fn luma_first(&self) -> Option<Scan<'_>> {
        let (luma, others) = self.components.split_first()?;
        // A single component comes block by block, whatever its sampling is.
        let (across, down) = if others.is_empty() { (1, 1) } else { (luma.across, luma.down) };
        if others.iter().any(|other| other.across > across || other.down > down) {
            return None;
        }
        let tables = |component: &Component| {
            let [dc, ac] = component.tables.map(|table| self.tables.get(table)?.as_ref());
            Some((dc?, ac?))
        };
        let scale = f32::from(self.quantizers[luma.quantizer]?) / BLOCK as f32;
        let mut skipped = Vec::new();
        for other in others {
            skipped.extend(std::iter::repeat_n(tables(other)?, other.across * other.down));
        }
        Some(Scan { across, down, scale, luma: tables(luma)?, skipped })
    }

    fn frame(&mut self, segment: &[u8]) -> Option<()> {
        let (&[precision, h1, h0, w1, w0, count], components) = segment.split_first_chunk()?;
        let known = precision == 8 && matches!(count, 1 | 3) && components.len() == 3 * usize::from(count);
        if !known || !self.components.is_empty() {
            return None;
        }
        self.size = (u16::from_be_bytes([w1, w0]).into(), u16::from_be_bytes([h1, h0]).into());
        for &[id, sampling, quantizer] in components.as_chunks().0 {
            let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let quantizer = usize::from(quantizer);
            if !(1..=4).contains(&across) || !(1..=4).contains(&down) || quantizer > 3 {
                return None;
            }
            self.components.push(Component { id, across, down, quantizer, tables: [0, 0] });
        }
        Some(())
    }

    fn quantizers(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&which, behind)) = segment.split_first() {
            let place = self.quantizers.get_mut(usize::from(which & 15))?;
            let (first, size) = match which >> 4 {
                0 => (behind.first().copied().map(u16::from)?, 64),
                1 => (u16::from_be_bytes(*behind.first_chunk()?), 128),
                _ => return None,
            };
            *place = Some(first);
            segment = behind.get(size..)?;
        }
        Some(())
    }

    fn huffman_tables(&mut self, mut segment: &'a [u8]) -> Option<()> {
        while let Some((&which, behind)) = segment.split_first() {
            let (kind, place) = (usize::from(which >> 4), usize::from(which & 15));
            let (counts, behind) = behind.split_first_chunk()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = behind.get(..total)?;
            if kind > 1 || place > 3 {
                return None;
            }
            self.tables[4 * kind + place] = Some(Table::new(counts, symbols)?);
            segment = &behind[total..];
        }
        Some(())
    }

    /// All components at once, in their order.
    fn scan(&mut self, segment: &[u8]) -> Option<()> {
        let (&count, behind) = segment.split_first()?;
        let (which, rest) = behind.split_at_checked(2 * usize::from(count))?;
        if usize::from(count) != self.components.len() || count == 0 || rest != [0, 63, 0] {
            return None;
        }
        for (component, &[id, tables]) in self.components.iter_mut().zip(which.as_chunks().0) {
            if id != component.id {
                return None;
            }
            component.tables = [usize::from(tables >> 4), 4 + usize::from(tables & 15)];
        }
        Some(())
    }
}

/// A Huffman table. A symbol says how many zeros come before a number (its upper four bits) and how many bits that number has (its lower four).
pub(crate) struct Table<'a> {
    /// By the next bits: how many bits the code that they begin with and the number behind it have together, and the symbol. No bits: the code
    /// is longer.
    lookup: [(u8, u8); 1 << LOOKUP_BITS],
    /// For each length of code: the first one that is longer, aligned left in 16 bits.
    ends: [u32; 17],
    /// For each length: what has to be added to a code of it to find its symbol.
    offsets: [i32; 17],
    symbols: &'a [u8],
}

impl<'a> Table<'a> {
    /// From how many codes there are of each length, and what they stand for. None for what is no prefix code.
    pub(crate) fn new(counts: &[u8; 16], symbols: &'a [u8]) -> Option<Table<'a>> {
        let mut table = Table { lookup: [(0, 0); 1 << LOOKUP_BITS], ends: [0; 17], offsets: [0; 17], symbols };
        // Codes of a length are numbered through; those of the next begin behind them, a bit longer.
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1..).zip(counts) {
            table.offsets[length] = index as i32 - code as i32;
            for _ in 0..count {
                if length <= LOOKUP_BITS as usize {
                    let beginning_so = 1 << (LOOKUP_BITS as usize - length);
                    let symbol = symbols[index];
                    let places = table.lookup.get_mut(code as usize * beginning_so..)?.get_mut(..beginning_so)?;
                    places.fill((length as u8 + (symbol & 15), symbol));
                }
                code += 1;
                index += 1;
            }
            if code > 1 << length {
                return None;
            }
            table.ends[length] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// What stands for a code that is not looked up, the first of these 16 bits.
    fn long(&self, next: u32) -> Option<(u8, u8)> {
        let length = (1..17).find(|&length| next < self.ends[length])?;
        let index = (next >> (16 - length)) as i32 + self.offsets[length];
        let symbol = *self.symbols.get(usize::try_from(index).ok()?)?;
        Some((length as u8 + (symbol & 15), symbol))
    }
}

/// The compressed data, bit by bit.
pub(crate) struct Bits<'a> {
    rest: &'a [u8],
    /// The next bits, from the highest on; zeros behind them.
    ahead: u64,
    /// So many of them are of the data; fewer than none when more was read than there is.
    count: i32,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Bits<'a> {
        Bits { rest, ahead: 0, count: 0 }
    }

    /// At least 32 bits ahead, if there are as many. None when more was read than there is.
    #[inline(always)] // A call for each coefficient would cost a third.
    fn fill(&mut self) -> Option<()> {
        if self.count >= 32 {
            return Some(());
        }
        self.within_data()?;
        if let Some((four, behind)) = self.rest.split_first_chunk() {
            let word = u32::from_be_bytes(*four);
            // Whether a byte of it is 0xFF, for all four at once.
            let has_mark = (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080 != 0;
            if !has_mark {
                self.ahead |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.rest = behind;
                return Some(());
            }
        }
        while self.count <= 56 {
            let (byte, behind) = match *self.rest {
                [0xff, 0x00, ref behind @ ..] => (0xff, behind),
                [0xff, ..] | [] => return Some(()),
                [byte, ref behind @ ..] => (byte, behind),
            };
            self.ahead |= u64::from(byte) << (56 - self.count);
            self.count += 8;
            self.rest = behind;
        }
        Some(())
    }

    /// Takes a symbol and the number behind it. What comes back is the symbol, and that number in as many bits as it has.
    pub(crate) fn take(&mut self, table: &Table<'_>) -> Option<(u8, u32)> {
        self.fill()?;
        let looked_up = table.lookup[(self.ahead >> (64 - LOOKUP_BITS)) as usize];
        let (bits, symbol) = if looked_up.0 > 0 { looked_up } else { table.long((self.ahead >> 48) as u32)? };
        // At most 31 in all.
        let (bits, size) = (u32::from(bits), u32::from(symbol & 15));
        let number = (self.ahead << (bits - size) >> 32) as u32;
        self.ahead <<= bits;
        self.count -= bits as i32;
        Some((symbol, number.checked_shr(32 - size).unwrap_or(0)))
    }

    /// A DC coefficient less the one before.
    fn difference(&mut self, table: &Table<'_>) -> Option<i32> {
        let (size, number) = self.take(table)?;
        if size > 11 {
            return None;
        }
        // Numbers whose first bit is 0 are negative.
        let negative = size > 0 && number >> (size - 1) == 0;
        Some(number as i32 - if negative { (1 << size) - 1 } else { 0 })
    }

    /// The other coefficients of a block.
    fn pass_over(&mut self, table: &Table<'_>) -> Option<()> {
        let mut coefficient = 1;
        while coefficient < 64 {
            let (symbol, _) = self.take(table)?;
            // The others are zero.
            if symbol == 0 {
                return Some(());
            }
            coefficient += (symbol >> 4) + 1;
        }
        (coefficient == 64).then_some(())
    }

    /// Behind the next restart marker. Many a webcam writes a byte or two too many before it.
    pub(crate) fn restart(&mut self) -> Result<(), Unread> {
        self.within_data().ok_or(Unread::Torn)?;
        (self.ahead, self.count) = (0, 0);
        let mut passed = 0;
        loop {
            passed += u32::from(self.rest.first().is_some_and(|byte| *byte != 0));
            self.rest = match *self.rest {
                [0xff, 0xd0..=0xd7, ref behind @ ..] => {
                    self.rest = behind;
                    return Ok(());
                }
                [0xff, 0x00, ref behind @ ..] => behind,
                [0xff, 0xff, ..] => &self.rest[1..],
                // With data left there are no restarts, though they were announced.
                [] | [0xff, ..] if passed > MOST_PADDING => return Err(Unread::Foreign),
                [] | [0xff, ..] => return Err(Unread::Torn),
                [_, ref behind @ ..] => behind,
            };
        }
    }

    /// Whether zeros that fill up a buffer were taken for blocks: they began before the data's end, and go on behind it.
    fn ran_into_zeros(&self, data: &[u8]) -> bool {
        /// The data themselves may end in a few.
        const OF_DATA: usize = 4;
        let end: &[u8] = if data.ends_with(&[0xff, 0xd9]) { &[0xff, 0xd9] } else { &[] };
        let zeros = data[..data.len() - end.len()].iter().rev().take_while(|byte| **byte == 0).count();
        let unread = self.rest.len().saturating_sub(end.len()) + self.count as usize / 8;
        unread > MOST_PADDING as usize && unread + OF_DATA < zeros
    }

    pub(crate) fn within_data(&self) -> Option<()> {
        (self.count >= 0).then_some(())
    }

    /// Takes up to 16 bits as a number.
    pub(crate) fn number(&mut self, bits: u32) -> Option<u32> {
        self.fill()?;
        let number = (self.ahead >> 32).checked_shr(32 - bits).unwrap_or(0);
        self.ahead <<= bits;
        self.count -= bits as i32;
        Some(number as u32)
    }

    /// What was not taken: whole bytes read ahead, and the data behind them.
    pub(crate) fn left(&self) -> (usize, &'a [u8]) {
        (self.count.max(0) as usize / 8, self.rest)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use image::ImageFormat;
    use proptest::prelude::*;

    use super::*;
    use crate::vision::pixels::STANDARD_TABLES;

    /// Means by column and row.
    type Blocks = BTreeMap<(usize, usize), f32>;

    fn blocks(bytes: &[u8], size: (u32, u32)) -> Result<Blocks, Unread> {
        let mut blocks = Blocks::new();
        luma_blocks(bytes, size, |x, y, mean| assert_eq!(blocks.insert((x, y), mean), None)).map(|()| blocks)
    }

    /// What a JPEG is to be like.
    #[derive(Clone, Debug)]
    struct Kind {
        size: (u32, u32),
        /// Luma's blocks in a unit; None: grey.
        colour: Option<(usize, usize)>,
        restart_every: usize,
        seed: u32,
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        let colour = prop_oneof![Just(None), (1usize..3, 1usize..3).prop_map(Some)];
        let kind = ((1u32..70, 1u32..70), colour, 0usize..4, 1u32..);
        kind.prop_map(|(size, colour, restart_every, seed)| Kind { size, colour, restart_every, seed })
    }

    const QUANTIZER: i32 = 4;

    /// Writes JPEGs of coefficients that come by chance, small enough that no pixel goes beyond black and white.
    struct Encoder {
        bytes: Vec<u8>,
        /// Bits that are no whole byte yet.
        ahead: u32,
        count: u32,
        random: u32,
        /// Code and its length by kind (luma 0, chroma 1, of details + 16) and symbol.
        codes: BTreeMap<(u8, u8), (u32, u32)>,
    }

    impl Encoder {
        fn encode(kind: &Kind) -> (Vec<u8>, Blocks) {
            let mut encoder =
                Encoder { bytes: Vec::new(), ahead: 0, count: 0, random: kind.seed, codes: BTreeMap::new() };
            encoder.learn_codes();
            let (across, down) = kind.colour.unwrap_or((1, 1));
            encoder.headers(kind, across, down);
            let mut expected = Blocks::new();
            let units = |pixels: u32, blocks: usize| (pixels as usize).div_ceil(8 * blocks);
            let columns = units(kind.size.0, across);
            let mut before = [0; 3];
            for unit in 0..columns * units(kind.size.1, down) {
                if kind.restart_every > 0 && unit > 0 && unit % kind.restart_every == 0 {
                    encoder.flush();
                    encoder.bytes.extend([0xff, 0xd0 + ((unit / kind.restart_every - 1) % 8) as u8]);
                    before = [0; 3];
                }
                for (x, y) in (0..down).flat_map(|y| (0..across).map(move |x| (x, y))) {
                    let mean = encoder.block(0, 180, &mut before[0]);
                    let place = (unit % columns * across + x, unit / columns * down + y);
                    expected.insert(place, (mean * QUANTIZER) as f32 / 8.0 + 128.0);
                }
                for before in before[1..].iter_mut().filter(|_| kind.colour.is_some()) {
                    encoder.block(1, 10, before);
                }
            }
            encoder.flush();
            encoder.bytes.extend([0xff, 0xd9]);
            (encoder.bytes, expected)
        }

        fn learn_codes(&mut self) {
            let mut rest = STANDARD_TABLES;
            while let [0xff, 0xc4, high, low, which, ref behind @ ..] = *rest {
                let (counts, symbols) = behind.split_at(16);
                let (mut code, mut symbols) = (0, symbols.iter());
                for (length, &count) in (1..).zip(counts) {
                    for symbol in symbols.by_ref().take(count.into()) {
                        self.codes.insert((which, *symbol), (code, length));
                        code += 1;
                    }
                    code <<= 1;
                }
                rest = &rest[2 + usize::from(u16::from_be_bytes([high, low]))..];
            }
        }

        fn headers(&mut self, kind: &Kind, across: usize, down: usize) {
            self.bytes.extend([0xff, 0xd8, 0xff, 0xdb, 0, 67, 0]);
            self.bytes.extend([QUANTIZER as u8; 64]);
            let restart_every = kind.restart_every as u8;
            self.bytes.extend([0xff, 0xdd, 0, 4, 0, restart_every]);
            self.bytes.extend(STANDARD_TABLES);
            let components: &[u8] = if kind.colour.is_some() { &[1, 2, 3] } else { &[1] };
            let count = components.len() as u8;
            self.bytes.extend([0xff, 0xc0, 0, 8 + 3 * count, 8]);
            self.bytes
                .extend([kind.size.1, kind.size.0].map(|side| side as u16).iter().flat_map(|side| side.to_be_bytes()));
            self.bytes.push(count);
            for &id in components {
                let sampling = if id == 1 { (across << 4 | down) as u8 } else { 0x11 };
                self.bytes.extend([id, sampling, 0]);
            }
            self.bytes.extend([0xff, 0xda, 0, 6 + 2 * count, count]);
            components.iter().for_each(|&id| self.bytes.extend([id, if id == 1 { 0 } else { 0x11 }]));
            self.bytes.extend([0, 63, 0]);
        }

        /// The mean that was written, `within` so far from 0.
        fn block(&mut self, table: u8, within: u32, before: &mut i32) -> i32 {
            let mean = self.below(2 * within) as i32 - within as i32;
            self.number(table, 0, mean - *before);
            *before = mean;
            let mut coefficient = 1;
            for _ in 0..self.below(6) {
                // Now and then the last one, with as many zeros before it as there can be.
                let zeros = if self.below(9) == 0 { 63 - coefficient } else { self.below(30) };
                if coefficient + zeros > 63 {
                    break;
                }
                for _ in 0..zeros / 16 {
                    self.symbol(0x10 + table, 0xf0);
                }
                let number = [-3, -2, -1, 1, 2, 3][self.below(6) as usize];
                self.number(0x10 + table, (zeros % 16) as u8, number);
                coefficient += zeros + 1;
                if coefficient > 63 {
                    return mean;
                }
            }
            self.symbol(0x10 + table, 0);
            mean
        }

        fn number(&mut self, table: u8, zeros: u8, number: i32) {
            let size = 32 - number.unsigned_abs().leading_zeros();
            self.symbol(table, zeros << 4 | size as u8);
            let bits = if number < 0 { number + (1 << size) - 1 } else { number };
            self.put(bits as u32, size);
        }

        fn symbol(&mut self, table: u8, symbol: u8) {
            let (code, length) = self.codes[&(table, symbol)];
            self.put(code, length);
        }

        fn put(&mut self, bits: u32, count: u32) {
            for bit in (0..count).rev() {
                self.ahead = self.ahead << 1 | bits >> bit & 1;
                self.count += 1;
                if self.count == 8 {
                    self.bytes.push(self.ahead as u8);
                    if self.ahead as u8 == 0xff {
                        self.bytes.push(0);
                    }
                    (self.ahead, self.count) = (0, 0);
                }
            }
        }

        fn flush(&mut self) {
            if self.count > 0 {
                self.put(u32::MAX, 8 - self.count);
            }
        }

        fn below(&mut self, end: u32) -> u32 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            self.random % end
        }
    }

    /// The mean luma of a block of a decoded picture, if it is a whole one.
    fn decoded_mean(picture: &image::RgbImage, (column, row): (usize, usize)) -> Option<f32> {
        let (x, y) = (8 * column as u32, 8 * row as u32);
        let luma = |x: u32, y: u32| {
            picture.get_pixel_checked(x, y).map(|p| {
                [0.299, 0.587, 0.114].iter().zip(p.0).map(|(share, value)| share * f32::from(value)).sum::<f32>()
            })
        };
        let pixels = (0..64).map(|i| luma(x + i % 8, y + i / 8)).collect::<Option<Vec<f32>>>()?;
        Some(pixels.iter().sum::<f32>() / 64.0)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_means_are_those_that_were_written_and_those_of_the_whole_picture(kind in kinds()) {
            let (bytes, expected) = Encoder::encode(&kind);
            prop_assert_eq!(&blocks(&bytes, kind.size).unwrap(), &expected);
            let whole = image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).unwrap().to_rgb8();
            for (place, mean) in expected {
                if let Some(decoded) = decoded_mean(&whole, place) {
                    prop_assert!((decoded - mean).abs() < 1.5, "{decoded} where {mean} was written at {place:?}");
                }
            }
        }

        #[test]
        fn damage_never_panics(kind in kinds(), at in 0usize..3000, value: u8, cut in 0usize..2000) {
            let (mut bytes, _) = Encoder::encode(&kind);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = blocks(&bytes, kind.size);
            bytes.truncate(bytes.len().saturating_sub(cut));
            let _ = blocks(&bytes, kind.size);
        }

        #[test]
        fn rubbish_never_panics(
            headers in 0usize..700,
            rubbish in proptest::collection::vec(prop_oneof![Just(0xffu8), Just(0), any::<u8>()], 0..600),
        ) {
            let (bytes, _) = Encoder::encode(&Kind { size: (64, 64), colour: Some((2, 1)), restart_every: 3, seed: 1 });
            let _ = blocks(&[&bytes[..headers.min(bytes.len())], &rubbish].concat(), (64, 64));
        }
    }

    #[test]
    fn what_ends_early_is_torn_whatever_fills_its_place() {
        for restart_every in [0, 1, 3] {
            let kind = Kind { size: (64, 64), colour: Some((2, 1)), restart_every, seed: 7 };
            let (bytes, _) = Encoder::encode(&kind);
            let whole = blocks(&bytes, kind.size).unwrap();
            let data = bytes.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap() + 14;
            // Of the last blocks it cannot be told what a few zeros stand for.
            for end in (data..bytes.len() - 48).step_by(5) {
                let zeros_and_end = [&[0; 100_000][..], &[0xff, 0xd9]].concat();
                for behind in [&[][..], &[0xff, 0xd9], &[0; 100_000], &zeros_and_end, &[0xff, 0xd8, 0xff, 0xdb]] {
                    let torn = [&bytes[..end], behind].concat();
                    assert_eq!(blocks(&torn, kind.size), Err(Unread::Torn), "{end} of {} bytes", bytes.len());
                }
            }
            // Padding behind the end, and an end marker that is missing, tear nothing.
            assert_eq!(blocks(&[&bytes[..], &[0; 5000]].concat(), kind.size).as_ref(), Ok(&whole));
            assert_eq!(blocks(&[&bytes[..bytes.len() - 2], &[0; 5000]].concat(), kind.size), Ok(whole));
        }
    }

    #[test]
    fn a_flat_picture_whose_data_are_zeros_is_whole() {
        // Tables in which nothing is the shortest code, as of encoders that make the best ones.
        let table = |which: u8| [&[0xff, 0xc4, 0, 20, which, 1][..], &[0; 15], &[0]].concat();
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
        bytes.extend([4; 64]);
        bytes.extend([table(0), table(0x10)].concat());
        bytes.extend([0xff, 0xc0, 0, 11, 8, 0, 64, 0, 64, 1, 1, 0x11, 0]);
        bytes.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        bytes.extend([0; 64 * 2 / 8]);
        bytes.extend([0xff, 0xd9]);
        let means = blocks(&bytes, (64, 64)).unwrap();
        assert!(means.len() == 64 && means.values().all(|mean| *mean == 128.0));
        bytes.truncate(bytes.len() - 6);
        assert_eq!(blocks(&bytes, (64, 64)), Err(Unread::Torn));
    }

    #[test]
    fn headers_that_end_early_are_left_to_the_whole_decoder() {
        let kind = Kind { size: (64, 64), colour: Some((2, 1)), restart_every: 0, seed: 7 };
        let (bytes, _) = Encoder::encode(&kind);
        let data = bytes.windows(2).position(|marker| marker == [0xff, 0xda]).unwrap() + 14;
        for end in 0..data {
            assert_eq!(blocks(&bytes[..end], kind.size), Err(Unread::Foreign), "{end}");
        }
    }

    #[test]
    fn a_byte_too_many_before_a_restart_tears_nothing() {
        let kind = Kind { size: (64, 64), colour: Some((2, 2)), restart_every: 2, seed: 3 };
        let (bytes, expected) = Encoder::encode(&kind);
        let mut padded = Vec::new();
        for (i, &byte) in bytes.iter().enumerate() {
            let restart = byte == 0xff && matches!(bytes.get(i + 1), Some(0xd0..=0xd7));
            padded.extend(restart.then_some(0x3f));
            padded.push(byte);
        }
        assert!(padded.len() > bytes.len());
        assert_eq!(blocks(&padded, kind.size).unwrap(), expected);
    }

    #[test]
    fn other_kinds_and_sizes_are_left_to_the_whole_decoder() {
        let kind = Kind { size: (32, 16), colour: Some((2, 2)), restart_every: 0, seed: 3 };
        let (bytes, _) = Encoder::encode(&kind);
        assert_eq!(blocks(&bytes, (32, 24)), Err(Unread::Foreign));
        let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        let with = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[frame + at] = value;
            blocks(&bytes, kind.size)
        };
        assert!(with(1, 0xc0).is_ok());
        assert_eq!(with(1, 0xc2), Err(Unread::Foreign), "progressive");
        assert_eq!(with(4, 12), Err(Unread::Foreign), "12 bits");
        assert_eq!(with(14, 0x44), Err(Unread::Foreign), "finer colour than luma");
    }
}
