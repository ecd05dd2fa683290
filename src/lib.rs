//! facelatch: a door that knows its people.
//!
//! One daemon on one single-board computer: camera in; decision, relay and log out.
//!
//! ```text
//! Camera → Frame → Detection → AlignedFace → Embedding → Match → Decision → pulse → Latch
//!                                                                     └→ Event (log, attendance, page, broker, hooks)
//! ```
//!
//! Data moves from left to right, and nothing on the right is imported by anything on its left. Three threads share the
//! work: *capture* keeps only the newest frame, *recognise* turns a frame into a decision, *latch* owns the relay and
//! locks again by itself at a deadline, so that a stalled camera or model can never hold a door open.
//!
//! Modules, in reading order:
//!
//! | module | what lives there |
//! |---|---|
//! | [`vision`] | frames, boxes, the MTCNN cascade, tracks, quality, alignment, embeddings |
//! | [`gallery`] | templates of known people; nearest and runner-up person |
//! | [`sighting`] | what sight tells policy of a face, and which faces policy wants looked at |
//! | [`policy`] | the only place that decides to open |
//! | [`sight`] | from a frame to what is seen in it, with no more work than the frame is worth |
//! | [`live`] | what passes between the door and whoever looks on |
//! | [`unknown`] | people who came and are not enrolled, kept for a while if that is wanted |
//! | [`latch`] | the relay's pulse and the LEDs, over the lines of [`gpio`] |
//! | [`program`] | a program that is run beside, and killed with all it started |
//! | [`camera`] | where frames come from: V4L2, a program's output, a folder |
//! | [`store`] | people and events on disk |
//! | [`enroll`] | the enroll folder: pictures in, verdicts and templates out |
//! | [`clock`] | what the wall clock showed, and what it should have shown |
//! | [`attendance`] | days out of events: who came when, and left when |
//! | [`threshold`] | from the false-match rate wanted to the distance of a match |
//! | [`scale`] | an embedder's other distances: one person, one face, one moment |
//! | [`evidence`] | what this door's own strangers say about its limit |
//! | [`calibrate`] | what the threshold means for the people who are enrolled |
//! | [`eval`] | how well faces are told apart: rates and thresholds from pictures of known people |
//! | [`triplet`] | triplet loss: an embedder's last layer trained anew |
//! | [`config`] | the TOML file, its units, ranges and contradictions |
//! | [`api`] | what can be asked of a facelatch, and who answers |
//! | [`control`] | the unix socket through which commands ask the running daemon |
//! | [`service`] | what daemon and commands share: models, store, enroll folder, gallery |
//! | [`http`] | the live page and its JSON API |
//! | [`outside`] | an event as programs outside read it |
//! | [`mqtt`] | the broker of a home automation |
//! | [`hooks`] | programs run, and addresses told, on some events |
//! | [`daemon`] | the wiring: threads, order of start and of shutdown; what is done about each frame |
//! | [`cli`] | the commands |
//! | [`telemetry`] | logging and counters |
//! | [`error`] | what kind of trouble an error is |
//! | [`names`] | which names people can have, and when two spellings are one |
#![forbid(unsafe_code)]

pub mod api;
pub mod attendance;
pub mod calibrate;
pub mod camera;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod enroll;
pub mod error;
pub mod eval;
pub mod evidence;
pub mod gallery;
pub mod gpio;
pub mod hooks;
pub mod http;
pub mod latch;
pub mod live;
pub mod mqtt;
pub mod names;
pub mod outside;
pub mod policy;
pub mod program;
pub mod scale;
pub mod service;
pub mod sight;
pub mod sighting;
pub mod store;
pub mod telemetry;
pub mod threshold;
pub mod triplet;
pub mod unknown;
pub mod vision;
