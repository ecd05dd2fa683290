//! What can be asked of a facelatch, and who answers it.
//!
//! Each question is a type and knows the type of its answer, whether it is asked in this
//! process (the page, the broker) or through the socket of `control` (the commands).

use std::{fmt, sync::mpsc::Receiver};

use jiff::civil::Date;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{attendance::Attendance, calibrate::Calibration, error::ErrorKind, store::Event};

/// Events in one answer.
pub const MOST_EVENTS: usize = 2_000;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub problem: String,
    pub kind: ErrorKind,
}

impl Failure {
    pub fn new(kind: ErrorKind, problem: impl Into<String>) -> Failure {
        Failure { problem: problem.into(), kind }
    }

    /// What was asked for was tried, and the answer is no.
    pub fn refused(reason: impl fmt::Display) -> Failure {
        Failure::new(ErrorKind::Refused, reason.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Failure {}

/// A question.
pub trait Ask: Into<Request> {
    type Answer: Serialize + DeserializeOwned;

    /// What the backend says to it. `asker` is the asking user, for the record.
    ///
    /// # Errors
    /// The backend's.
    fn of(self, backend: &dyn Backend, asker: &str) -> Result<Self::Answer, Failure>;
}

/// For each question its type, a variant of [`Request`], and the method of [`Backend`]
/// that answers it.
macro_rules! questions {
    ($($(#[$about:meta])* $question:ident { $($(#[$mark:meta])* $field:ident: $type:ty),* } $answers:ident -> $answer:ty;)*) => {
        /// The questions.
        pub mod ask {
            use super::*;

            $($(#[$about])*
            #[derive(Clone, Debug, Default, Serialize, Deserialize)]
            pub struct $question {
                $($(#[$mark])* pub $field: $type,)*
            })*
        }

        /// Any question.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(tag = "ask", rename_all = "snake_case")]
        pub enum Request {
            $($question(ask::$question),)*
        }

        /// Whoever can answer: the running daemon, or the store itself when none runs.
        pub trait Backend: Send + Sync {
            $(fn $answers(&self, question: ask::$question, asker: &str) -> Result<$answer, Failure>;)*

            /// Every event from now on.
            fn follow(&self) -> Receiver<Event>;
        }

        $(impl From<ask::$question> for Request {
            fn from(question: ask::$question) -> Request {
                Request::$question(question)
            }
        }

        impl Ask for ask::$question {
            type Answer = $answer;

            fn of(self, backend: &dyn Backend, asker: &str) -> Result<$answer, Failure> {
                backend.$answers(self, asker)
            }
        })*

        impl Request {
            /// The answer as JSON: that of the question's type, or a [`Failure`].
            ///
            /// # Errors
            /// The answer is none that JSON can hold.
            pub fn answered(self, backend: &dyn Backend, asker: &str) -> serde_json::Result<Vec<u8>> {
                match self {
                    $(Request::$question(question) => serde_json::to_vec(&question.of(backend, asker)),)*
                }
            }
        }
    };
}

questions! {
    People {} people -> Vec<PersonSummary>;
    /// Events since a moment (milliseconds since 1970; None: all), at most `limit` and
    /// [`MOST_EVENTS`], oldest first; the newest ones when there are more.
    Events { since_ms: Option<i64>, limit: Option<usize>, follow: bool } events -> Vec<Event>;
    /// Events with a higher number, oldest first, at most [`MOST_EVENTS`]: to read them
    /// all, ask on from the last one.
    EventsAfter { id: u64, since_ms: Option<i64> } events_after -> Vec<Event>;
    Status {} status -> Status;
    /// Takes a picture into the enroll folder.
    Enroll { name: String, file_name: String, #[serde(skip)] picture: Vec<u8> } enroll -> Enrolled;
    Identify { #[serde(skip)] picture: Vec<u8> } identify -> Vec<IdentifiedFace>;
    /// What the threshold means for the people enrolled.
    Calibrate {} calibrate -> Calibration;
    /// Forgets how near strangers came to this door.
    ForgetStrangers {} forget_strangers -> ();
    /// Enrols a face that is in view now, by its number on the live page: good looks are
    /// waited for and taken in as pictures.
    EnrollFace { track: u64, name: String } enroll_face -> Looked;
    /// Who came to the door and is not enrolled, as far as such people are kept.
    Unknown {} unknown -> Vec<UnknownFace>;
    /// One of the pictures of an unknown person, counted from 0: a JPEG.
    UnknownPicture { id: u32, look: usize } unknown_picture -> Vec<u8>;
    /// Enrols an unknown person by the pictures kept.
    NameUnknown { id: u32, name: String } name_unknown -> Looked;
    ForgetUnknown { id: u32 } forget_unknown -> ();
    /// Who was there on the days from `from` to `to`, both included; without them, the
    /// last seven days.
    Attendance { from: Option<Date>, to: Option<Date>, person: Option<String> } attendance -> Attendance;
    /// Pulse the relay for somebody authorised.
    Open {} open -> ();
}

impl Request {
    /// The picture that goes with it.
    pub fn picture(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Request::Enroll(ask::Enroll { picture, .. }) | Request::Identify(ask::Identify { picture }) => {
                Some(picture)
            }
            _ => None,
        }
    }
}

/// A picture that was taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Enrolled {
    pub name: String,
    /// Its place in the enroll folder.
    pub picture: String,
    pub face_px: u32,
    /// What to better about the person's pictures.
    #[serde(default)]
    pub advice: Vec<String>,
}

/// What became of each look at a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Looked {
    pub name: String,
    pub verdicts: Vec<Verdict>,
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
    /// What to better, if anything.
    #[serde(default)]
    pub advice: Vec<String>,
}

/// Whether a look at somebody was taken in: its place in the enroll folder, or the reason
/// why not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Enrolled(String),
    Refused(String),
}

/// One line of `facelatch unknown`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnknownFace {
    pub id: u32,
    /// Milliseconds since 1970.
    pub first_ms: i64,
    pub last_ms: i64,
    pub visits: u32,
    /// How many pictures are kept.
    pub pictures: usize,
    /// The person enrolled who is nearest to the best picture.
    pub nearest: Option<String>,
    pub distance: Option<f32>,
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
    /// The distance as of one picture against one, to which the daemon's limit applies:
    /// more where that person's pictures are averaged.
    pub distance_as_single: Option<f32>,
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
    /// What to do about the camera, if the daemon noticed something; a part of `camera`, too.
    #[serde(default)]
    pub camera_advice: Option<String>,
    pub relay: String,
    pub relay_active: bool,
    /// Why the relay cannot be released; None: it can.
    #[serde(default)]
    pub relay_problem: Option<String>,
    pub model: String,
    pub precision: String,
    pub max_distance: f32,
    /// Of strangers' visits; None: it was not measured for a distance so loose.
    pub false_match_rate: Option<f64>,
    /// The people who set that limit, and where the evidence of them ends; None: the
    /// configuration set it.
    #[serde(default)]
    pub limit_basis: Option<String>,
    pub people: usize,
    pub templates: usize,
    /// What keeps people out who are enrolled, with the remedies.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What to better about people who are enrolled, by name.
    #[serde(default)]
    pub advice: Vec<String>,
    /// Why nobody can be enrolled or removed now: the folder is lost, or its thread
    /// hangs.
    #[serde(default)]
    pub enroll_problem: Option<String>,
    /// Named counters of this run: frames, broken_frames, faces, granted, denied, ...
    pub counters: std::collections::BTreeMap<String, u64>,
}
