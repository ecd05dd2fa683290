//! People and events on disk.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{gallery::PersonId, vision::embed::ModelId};

/// One person: everything about them in one record, so that nobody is ever half enrolled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Person {
    pub id: PersonId,
    /// As the enroll folder spells it.
    pub name: String,
    pub pictures: Vec<EnrolledPicture>,
}

/// An accepted picture and the template made from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnrolledPicture {
    /// Relative to the enroll folder.
    pub path: String,
    /// SHA-256 of the file's contents.
    pub sha256: [u8; 32],
    pub model: ModelId,
    /// Unit length.
    pub embedding: Vec<f32>,
    /// Side of the face's box in pixels.
    pub face_px: u32,
    /// Milliseconds since 1970, when it was accepted.
    pub enrolled_at_ms: i64,
}

/// Something that happened, as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Running number, given by the store; never given twice.
    pub id: u64,
    /// Wall clock, milliseconds since 1970.
    pub at_ms: i64,
    /// Which start of the machine this was (/proc/sys/kernel/random/boot_id), and how long after it: what a board without a clock can trust.
    pub boot_id: String,
    pub since_boot: Duration,
    pub kind: EventKind,
}

/// What happened. Names are kept as they were then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Started,
    Stopped,
    /// A known person's visit was decided: the relay was pulsed (`unlock`), or the visit was only signalled (`attendance`).
    Granted {
        person: PersonId,
        name: String,
        distance: f32,
        frames: u32,
        latency_ms: u32,
        pulsed: bool,
    },
    /// A visit that ended in no pulse.
    Denied {
        reason: String,
        nearest: Option<(PersonId, String)>,
        distance: Option<f32>,
        frames: u32,
    },
    /// Somebody asked with `facelatch open`.
    Opened {
        by: String,
    },
    Enrolled {
        person: PersonId,
        name: String,
        picture: String,
    },
    Refused {
        name: String,
        picture: String,
        reason: String,
    },
    Forgotten {
        person: PersonId,
        name: String,
        picture: String,
    },
    Renamed {
        person: PersonId,
        from: String,
        to: String,
    },
    CameraLost {
        problem: String,
    },
    CameraBack {
        after: Duration,
    },
}
