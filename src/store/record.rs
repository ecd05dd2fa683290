//! How a record lies on disk: `[format version: 1 byte][CRC-32 of the payload: 4 bytes, little-endian][payload: postcard]`.

use serde::{Serialize, de::DeserializeOwned};

const VERSION: u8 = 1;
const HEADER: usize = 5;

/// Why stored bytes are no record. Such a record is skipped and counted; it never stops the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    #[error("too short")]
    Short,
    #[error("format version {0} is not known to this program")]
    Version(u8),
    #[error("checksum does not fit")]
    Checksum,
    #[error("content cannot be read")]
    Content,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, postcard::Error> {
    let payload = postcard::to_stdvec(value)?;
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.push(VERSION);
    record.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    record.extend_from_slice(&payload);
    Ok(record)
}

pub(super) fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T, BadRecord> {
    let Some((&[version, a, b, c, d], payload)) = record.split_first_chunk::<HEADER>() else {
        return Err(BadRecord::Short);
    };
    if version != VERSION {
        return Err(BadRecord::Version(version));
    }
    if crc32fast::hash(payload) != u32::from_le_bytes([a, b, c, d]) {
        return Err(BadRecord::Checksum);
    }
    postcard::from_bytes(payload).map_err(|_| BadRecord::Content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        gallery::PersonId,
        store::{EnrolledPicture, Person},
        vision::model::ModelId,
    };

    fn ada() -> Person {
        let picture = EnrolledPicture {
            path: "Ada/1.jpg".into(),
            sha256: [7; 32],
            model: ModelId([1; 16]),
            embedding: vec![0.5; 8],
            face_px: 120,
            enrolled_at_ms: 1,
        };
        Person { id: PersonId(3), name: "Ada".into(), pictures: vec![picture] }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(decode::<Person>(&encode(&ada()).unwrap()), Ok(ada()));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(bit in 0usize..1600) {
            let mut record = encode(&ada()).unwrap();
            let bit = bit % (record.len() * 8);
            record[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode::<Person>(&record).is_err());
        }

        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Person>(&bytes);
            // With a right checksum, so that the payload's reader sees it too.
            let mut record = vec![VERSION];
            record.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
            record.extend_from_slice(&bytes);
            let _ = decode::<Person>(&record);
            let _ = decode::<crate::store::Event>(&record);
        }
    }
}
