//! Writes JPEGs for tests: sequential or progressive, of any size, from quantized
//! coefficients.

/// What a JPEG is to be like.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub width: usize,
    pub height: usize,
    /// Blocks across and down in a unit, per component.
    pub sampling: Vec<(usize, usize)>,
    pub progressive: bool,
    /// One scan per component, where all could be in one.
    pub apart: bool,
    pub restart_every: usize,
    /// The colour transform of the Adobe marker.
    pub adobe: Option<u8>,
    /// As EXIF has it.
    pub orientation: Option<u8>,
}

/// Steps between the values of every coefficient.
pub const QUANTIZER: u8 = 4;

/// First and last frequency, bits sent before and left for later.
type Band = (usize, usize, u8, u8);

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    ahead: u64,
    count: u32,
    /// Blocks without more, and the bits that refine them.
    empty: u32,
    refining: Vec<u8>,
}

impl Writer {
    fn segment(&mut self, kind: u8, content: &[u8]) {
        self.bytes.extend([0xff, kind]);
        self.bytes.extend((content.len() as u16 + 2).to_be_bytes());
        self.bytes.extend(content);
    }

    fn put(&mut self, value: u32, bits: u32) {
        self.ahead = self.ahead << bits | u64::from(value & ((1 << bits) - 1));
        self.count += bits;
        while self.count >= 8 {
            let byte = (self.ahead >> (self.count - 8)) as u8;
            self.bytes.push(byte);
            self.bytes.extend((byte == 0xff).then_some(0));
            self.count -= 8;
        }
    }

    /// The code of a symbol is the symbol.
    fn symbol(&mut self, zeros: usize, size: u32) {
        self.end_empty();
        self.put((zeros as u32) << 4 | size, 8);
    }

    fn number(&mut self, value: i32, size: u32) {
        self.put(if value < 0 { value - 1 } else { value } as u32, size);
    }

    fn refine(&mut self, bits: &mut Vec<u8>) {
        for bit in bits.drain(..) {
            self.put(bit.into(), 1);
        }
    }

    fn end_empty(&mut self) {
        if self.empty > 0 {
            let size = self.empty.ilog2();
            self.put(size << 4, 8);
            self.put(self.empty, size);
            self.empty = 0;
            let mut bits = std::mem::take(&mut self.refining);
            self.refine(&mut bits);
        }
    }

    fn end(&mut self) {
        self.end_empty();
        let fill = (8 - self.count % 8) % 8;
        self.put((1 << fill) - 1, fill);
    }

    fn mean(&mut self, value: i32, before: &mut i32) {
        let difference = value - std::mem::replace(before, value);
        let size = 32 - difference.unsigned_abs().leading_zeros();
        self.symbol(0, size);
        self.number(difference, size);
    }

    fn detail(&mut self, block: &[i16; 64], (first, last, _, low): Band, progressive: bool) {
        let mut zeros = 0;
        for &value in &block[first..=last] {
            let value = i32::from(value).signum() * (i32::from(value).abs() >> low);
            if value == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 {
                self.symbol(15, 0);
                zeros -= 16;
            }
            let size = 32 - value.unsigned_abs().leading_zeros();
            self.symbol(zeros, size);
            self.number(value, size);
            zeros = 0;
        }
        match zeros {
            0 => {}
            _ if progressive => self.one_more_empty(),
            _ => self.symbol(0, 0),
        }
    }

    fn one_more_empty(&mut self) {
        self.empty += 1;
        if self.empty == 0x7fff {
            self.end_empty();
        }
    }

    fn refined_detail(&mut self, block: &[i16; 64], (first, last, _, low): Band) {
        let size = |frequency: usize| block[frequency].unsigned_abs() >> low;
        let last_new = (first..=last).rfind(|&frequency| size(frequency) == 1).unwrap_or(0);
        let (mut zeros, mut bits) = (0, Vec::new());
        for (frequency, &coefficient) in block.iter().enumerate().take(last + 1).skip(first) {
            let value = coefficient.unsigned_abs() >> low;
            if value == 0 {
                zeros += 1;
                continue;
            }
            while zeros > 15 && frequency <= last_new {
                self.symbol(15, 0);
                self.refine(&mut bits);
                zeros -= 16;
            }
            if value > 1 {
                bits.push((value & 1) as u8);
                continue;
            }
            self.symbol(zeros, 1);
            self.put((coefficient > 0).into(), 1);
            self.refine(&mut bits);
            zeros = 0;
        }
        if zeros > 0 || !bits.is_empty() {
            self.refining.append(&mut bits);
            self.one_more_empty();
        }
    }
}

/// Writes the picture. `block` gives component, column and row their coefficients,
/// zigzag.
pub fn write(spec: &Spec, block: impl Fn(usize, usize, usize) -> [i16; 64]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.bytes.extend([0xff, 0xd8]);
    headers(spec, &mut writer);
    let all: Vec<usize> = (0..spec.sampling.len()).collect();
    let each = || all.iter().map(|&component| vec![component]);
    let together: Vec<Vec<usize>> = if spec.apart { each().collect() } else { vec![all.clone()] };
    let mut scans: Vec<(Vec<usize>, Band)> = Vec::new();
    let mut add = |parts: &[Vec<usize>], band: Band| scans.extend(parts.iter().map(|part| (part.clone(), band)));
    if spec.progressive {
        let each: Vec<_> = each().collect();
        add(&together, (0, 0, 0, 1));
        for band in [(1, 5, 0, 2), (6, 63, 0, 2), (1, 63, 2, 1)] {
            add(&each, band);
        }
        add(&together, (0, 0, 1, 0));
        add(&each, (1, 63, 1, 0));
    } else {
        add(&together, (0, 63, 0, 0));
    }
    for (parts, band) in scans {
        scan(spec, &mut writer, &parts, band, &block);
    }
    writer.bytes.extend([0xff, 0xd9]);
    writer.bytes
}

fn headers(spec: &Spec, writer: &mut Writer) {
    if let Some(orientation) = spec.orientation {
        let tag = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
        writer.segment(0xe1, &[b"Exif\0\0II*\0\x08\0\0\0\x01\0", &tag[..], &[0; 4]].concat());
    }
    if let Some(transform) = spec.adobe {
        writer.segment(0xee, &[b"Adobe\0\x64\0\0\0\0", &[transform][..]].concat());
    }
    writer.segment(0xdb, &[&[0][..], &[QUANTIZER; 64]].concat());
    let [[h1, h0], [w1, w0]] = [spec.height, spec.width].map(|pixels| (pixels as u16).to_be_bytes());
    let mut frame = vec![8, h1, h0, w1, w0, spec.sampling.len() as u8];
    for (id, &(across, down)) in (1..).zip(&spec.sampling) {
        frame.extend([id, (across << 4 | down) as u8, 0]);
    }
    writer.segment(if spec.progressive { 0xc2 } else { 0xc0 }, &frame);
    // All symbols but the last, in eight bits each.
    for (table, count) in [(0x00, 16), (0x10, 255)] {
        let (mut counts, symbols) = ([0; 16], (0..count).collect::<Vec<u8>>());
        counts[7] = count;
        writer.segment(0xc4, &[&[table], &counts[..], &symbols].concat());
    }
    if spec.restart_every > 0 {
        writer.segment(0xdd, &(spec.restart_every as u16).to_be_bytes());
    }
}

fn scan(
    spec: &Spec,
    writer: &mut Writer,
    parts: &[usize],
    band: Band,
    block: &impl Fn(usize, usize, usize) -> [i16; 64],
) {
    let most_across = spec.sampling.iter().map(|s| s.0).max().unwrap_or(1);
    let most_down = spec.sampling.iter().map(|s| s.1).max().unwrap_or(1);
    let header = parts.iter().flat_map(|&part| [part as u8 + 1, 0]);
    let header: Vec<u8> = [parts.len() as u8].into_iter().chain(header).collect();
    writer.segment(0xda, &[&header[..], &[band.0 as u8, band.1 as u8, band.2 << 4 | band.3]].concat());
    let (columns, rows) = match *parts {
        [part] => {
            let (across, down) = spec.sampling[part];
            let blocks = |pixels: usize, own: usize, most: usize| (pixels * own).div_ceil(most).div_ceil(8);
            (blocks(spec.width, across, most_across), blocks(spec.height, down, most_down))
        }
        _ => (spec.width.div_ceil(8 * most_across), spec.height.div_ceil(8 * most_down)),
    };
    let mut before = [0; 4];
    for unit in 0..columns * rows {
        if spec.restart_every > 0 && unit > 0 && unit % spec.restart_every == 0 {
            writer.end();
            writer.bytes.extend([0xff, 0xd0 + (unit / spec.restart_every - 1) as u8 % 8]);
            before = [0; 4];
        }
        let (column, row) = (unit % columns, unit / columns);
        for &part in parts {
            let (across, down) = if parts.len() == 1 { (1, 1) } else { spec.sampling[part] };
            for (x, y) in (0..down).flat_map(|y| (0..across).map(move |x| (x, y))) {
                let block = block(part, column * across + x, row * down + y);
                match (spec.progressive, band.0 == 0, band.2 == 0) {
                    (false, ..) => {
                        writer.mean(block[0].into(), &mut before[part]);
                        writer.detail(&block, (1, 63, 0, 0), false);
                    }
                    (_, true, true) => writer.mean(i32::from(block[0]) >> band.3, &mut before[part]),
                    (_, true, false) => writer.put((block[0] >> band.3) as u32 & 1, 1),
                    (_, false, true) => writer.detail(&block, band, true),
                    (_, false, false) => writer.refined_detail(&block, band),
                }
            }
        }
    }
    writer.end();
}
