//! The unix socket through which commands ask the running daemon, and the questions they can ask.
//!
//! One JSON object per line each way; a `Follow` of events is answered by a line per event until the client goes away.

use serde::{Deserialize, Serialize};

use crate::store::Event;

/// What a command asks. The same questions are answered from the store itself when no daemon runs, see `crate::cli`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    People,
    /// Events since a moment (milliseconds since 1970; None: all), at most `limit`, oldest first; the newest ones when there are more.
    Events {
        since_ms: Option<i64>,
        limit: Option<usize>,
        follow: bool,
    },
    Status,
    /// Takes a picture into the enroll folder and answers with its verdict.
    Enroll {
        name: String,
        file_name: String,
        picture: Vec<u8>,
    },
    Identify {
        picture: Vec<u8>,
    },
    /// Pulse the relay for somebody authorised; the socket's permissions are the authorisation. `by` is the asker's user name.
    Open {
        by: String,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    People {
        people: Vec<PersonSummary>,
    },
    Events {
        events: Vec<Event>,
    },
    Status {
        status: Box<Status>,
    },
    Enrolled {
        name: String,
        picture: String,
        face_px: u32,
    },
    /// The picture was refused; nothing was kept.
    Refused {
        reason: String,
    },
    Identified {
        faces: Vec<IdentifiedFace>,
    },
    Opened,
    Failed {
        problem: String,
        exit_code: u8,
    },
}

/// One line of `facelatch people`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PersonSummary {
    pub name: String,
    pub pictures: usize,
    /// Side of the smallest enrolled face in pixels.
    pub smallest_face_px: u32,
    /// Milliseconds since 1970.
    pub enrolled_at_ms: i64,
    /// When this person's last visit was granted.
    pub last_seen_ms: Option<i64>,
}

/// One face of `facelatch identify`, in pixels of the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentifiedFace {
    /// x1, y1, x2, y2.
    pub bounding_box: [f32; 4],
    pub landmarks: [[f32; 2]; 5],
    pub score: f32,
    /// The person this face is taken for, when nothing speaks against it.
    pub person: Option<String>,
    /// Why not, in words.
    pub why_not: Option<String>,
    pub nearest: Option<String>,
    pub distance: Option<f32>,
    pub runner_up: Option<String>,
    pub runner_up_distance: Option<f32>,
}

/// `facelatch status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// 0 when no daemon runs.
    pub pid: u32,
    pub uptime_s: u64,
    pub mode: String,
    pub camera: String,
    pub camera_ok: bool,
    pub relay: String,
    pub relay_active: bool,
    pub model: String,
    pub precision: String,
    pub max_distance: f32,
    pub false_match_rate: f64,
    pub people: usize,
    pub templates: usize,
    /// Named counters of this run: frames, broken_frames, faces, granted, denied, ...
    pub counters: std::collections::BTreeMap<String, u64>,
}
