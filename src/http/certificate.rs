//! When a certificate expires: the one thing that is wanted of it here and that rustls does not tell.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

/// Until when the first certificate of a PEM file is valid; None where that cannot be read.
pub fn expires(pem: &[u8]) -> Option<Timestamp> {
    not_after(&CertificateDer::pem_slice_iter(pem).next()?.ok()?)
}

/// RFC 5280, 4.1: a sequence whose first part is a sequence of version, serial number, signature, issuer, validity and more; the
/// validity is a sequence of two times.
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    const VERSION: u8 = 0xa0;
    const UTC_TIME: u8 = 0x17;
    let mut rest = element(element(certificate)?.content)?.content;
    let mut next = || {
        let next = element(rest)?;
        rest = next.rest;
        Some(next)
    };
    // The version may be left out.
    if next()?.tag == VERSION {
        next()?;
    }
    let (_signature, _issuer) = (next()?, next()?);
    let not_before = element(next()?.content)?;
    let not_after = element(not_before.rest)?;
    let mut text = str::from_utf8(not_after.content).ok()?.to_owned();
    if not_after.tag == UTC_TIME {
        text.insert_str(0, if text.as_str() < "50" { "20" } else { "19" });
    }
    let time = DateTime::strptime("%Y%m%d%H%M%SZ", &text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// A value in the distinguished encoding rules of ASN.1, and what comes after it.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let [tag, length, bytes @ ..] = bytes else { return None };
    let (length, bytes) = match *length {
        short @ ..=0x7f => (usize::from(short), bytes),
        // So many bytes of length follow; a certificate has no more than two.
        0x81..=0x83 => {
            let (length, bytes) = bytes.split_at_checked(usize::from(length & 0x7f))?;
            (length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), bytes)
        }
        _ => return None,
    };
    let (content, rest) = bytes.split_at_checked(length)?;
    Some(Element { tag: *tag, content, rest })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: &[u8] = include_bytes!("../../tests/tls/certificate.pem");
    const EXPIRED: &[u8] = include_bytes!("../../tests/tls/expired.pem");

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_its_forms() {
        assert_eq!(expires(FAR).unwrap().to_string(), "2126-11-01T23:16:09Z");
        assert_eq!(expires(EXPIRED).unwrap().to_string(), "2026-11-26T23:16:09Z");
        assert_eq!(expires(b"no certificate"), None);
    }

    proptest::proptest! {
        #[test]
        fn rubbish_has_no_end(at in 0..300_usize, byte: u8, cut in 0..400_usize) {
            let mut der = CertificateDer::pem_slice_iter(FAR).next().unwrap().unwrap().to_vec();
            der[at] = byte;
            der.truncate(cut);
            let _ = not_after(&der);
        }
    }
}
