//! What a file is, by its first bytes, in the words of people who own cameras and phones.

use super::png;

/// Of pictures people own; those this program cannot read are refused with a remedy.
const ENDINGS: [&str; 34] = [
    "jpg", "jpeg", "jpe", "jif", "jfif", "jfi", "pjpeg", "png", "apng", "heic", "heif", "hif", "avif", "webp", "jxl",
    "jp2", "bmp", "gif", "tif", "tiff", "psd", "dng", "raw", "cr2", "cr3", "nef", "nrw", "arw", "srw", "orf", "rw2",
    "raf", "pef", "rwl",
];

/// Whether a file is named like a picture.
pub(in crate::enroll) fn is_picture_ending(ending: &str) -> bool {
    ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Jpeg,
    Png,
    /// Too short to tell, or no more than zeros.
    Unfinished,
    /// Of another format, called so.
    Other(&'static str),
    Unknown,
}

const HEIC: &str = "HEIC";
const RAW: &str = "a camera's raw file";

impl Kind {
    pub fn of(bytes: &[u8]) -> Kind {
        let begins = |first: &[u8]| bytes.starts_with(first);
        let holds = |what: &[u8], at: usize| bytes.get(at..).is_some_and(|rest| rest.starts_with(what));
        if begins(b"\xff\xd8\xff") {
            return Kind::Jpeg;
        }
        if begins(png::SIGNATURE) {
            return Kind::Png;
        }
        let unfinished = [b"\xff\xd8\xff", png::SIGNATURE].iter().any(|signature| signature.starts_with(bytes));
        if unfinished || bytes.iter().take(4096).all(|&byte| byte == 0) {
            return Kind::Unfinished;
        }
        Kind::Other(match bytes {
            _ if holds(b"ftyp", 4) => return Kind::of_brand(bytes.get(8..12).unwrap_or_default()),
            _ if begins(b"RIFF") && holds(b"WEBP", 8) => "WebP",
            _ if begins(b"GIF8") => "GIF",
            _ if begins(b"BM") => "BMP",
            _ if begins(b"\xff\x0a") || holds(b"JXL ", 4) => "JPEG XL",
            _ if holds(b"jP  ", 4) || begins(b"\xff\x4f\xff\x51") => "JPEG 2000",
            _ if begins(b"FUJIFILMCCD-RAW") || begins(b"IIRO") || begins(b"IIU\0") => RAW,
            _ if begins(b"II*\0") || begins(b"MM\0*") => "TIFF or a camera's raw file",
            _ if begins(b"8BPS") => "a Photoshop file",
            _ if begins(b"%PDF") => "PDF",
            _ if begins(b"<svg") || begins(b"<?xml") => "SVG or another XML file",
            _ if begins(b"<!") || begins(b"<html") || begins(b"<HTML") => "a web page, not the picture on it",
            _ if begins(b"PK\x03\x04") => "a ZIP archive; unpack it",
            _ => return Kind::Unknown,
        })
    }

    /// Of a file in boxes, as of ISO/IEC 14496-12.
    fn of_brand(brand: &[u8]) -> Kind {
        Kind::Other(match brand {
            b"avif" | b"avis" => "AVIF",
            b"crx " => RAW,
            [b'h', b'e', ..] | b"mif1" | b"msf1" => HEIC,
            _ => "a video",
        })
    }
}

/// How to get a picture that can be read.
pub(super) fn remedy(kind: &str) -> &'static str {
    if kind == HEIC {
        "Save it as a plain RGB JPEG or PNG; on an iPhone: Settings > Camera > Formats > Most Compatible"
    } else {
        "Save it as a plain RGB JPEG or PNG"
    }
}
