//! The one TOML file: sections, units, defaults, and what cannot be right.

mod defaults;

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::gallery::TemplateFusion;

/// Everything a person may set. Every key has a default, so an empty file is a valid configuration of the default paths.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub mode: Mode,
    pub camera: CameraConfig,
    pub models: ModelsConfig,
    pub detection: DetectionConfig,
    pub recognition: RecognitionConfig,
    pub enroll: EnrollConfig,
    pub store: StoreConfig,
    pub latch: LatchConfig,
    pub led: LedConfig,
    pub control: ControlConfig,
    pub log: LogConfig,
}

/// What a known face does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Pulses the relay.
    Unlock,
    /// Signals only: LED, log, event. The relay is never touched after it was driven inactive at start.
    Attendance,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct CameraConfig {
    pub source: CameraSource,
    /// `auto`, or a device node; a /dev/v4l/by-id path survives replugging.
    pub device: String,
    /// Wanted size in pixels.
    pub width: u32,
    pub height: u32,
    /// Wanted frames per second; for `files`, the rate of the pictures.
    pub fps: u32,
    /// `auto` or one of yuyv, nv12, i420, grey, mjpeg.
    pub format: String,
    /// Clockwise, in degrees: 0, 90, 180 or 270.
    pub rotate: u32,
    /// No frame for this long: the camera is reopened.
    pub timeout: Duration,
    /// Program and arguments of the `command` source; no shell.
    pub command: Vec<String>,
    /// What the program writes: mjpeg, or yuv420 frames of width × height.
    pub stream: CommandStream,
    /// The `files` source: a folder of pictures, played in the order of their names.
    pub folder: PathBuf,
    /// Begin again at the end of the folder.
    pub repeat: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CameraSource {
    V4l2,
    Command,
    Files,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CommandStream {
    Mjpeg,
    Yuv420,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ModelsConfig {
    /// The folder of models.toml.
    pub dir: PathBuf,
    /// Name of an embedder in the manifest.
    pub embedder: String,
    pub precision: PrecisionChoice,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    Auto,
    W8,
    Int8,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct DetectionConfig {
    /// Smallest face looked for, side of its box in pixels of the frame: 20 to 1000.
    pub min_face: u32,
    /// Probabilities a candidate must reach at P-, R- and O-Net, 0 to 1.
    pub thresholds: [f32; 3],
    /// Least sharpness of a face that may decide (see vision/quality.rs), 0 to 1.
    pub min_sharpness: f32,
    /// Mean luma of a face that may decide, 0 to 255.
    pub min_brightness: f32,
    pub max_brightness: f32,
    /// How far a head may be turned, 0 (straight) to 1 (profile).
    pub max_turn: f32,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct RecognitionConfig {
    /// How often a stranger may be taken for somebody, per comparison: "1/10000" or a number in (0, 0.01].
    pub false_match_rate: FalseMatchRate,
    /// Overrides the distance that the manifest gives for `false_match_rate`, in (0, 2).
    pub max_distance: Option<f32>,
    /// How much nearer the nearest person must be than the next one, in distance.
    pub margin: f32,
    /// k: frames that must agree ...
    pub confirm: u32,
    /// ... of the last n usable frames of a face.
    pub window: u32,
    pub several_faces: SeveralFaces,
    /// A visit ends when the person was not seen for this long.
    pub visit_gap: Duration,
    /// No second pulse for anybody within this time.
    pub cooldown: Duration,
    /// A frame older than this is not decided on.
    pub max_decision_age: Duration,
    pub template_fusion: TemplateFusion,
}

/// A probability in (0, 0.01].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FalseMatchRate(pub f64);

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum SeveralFaces {
    /// More than one face in view: nobody is let in.
    Refuse,
    /// Any known face opens, whoever stands beside it.
    AnyKnown,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EnrollConfig {
    pub folder: PathBuf,
    /// A picture counts as completely written when it has not changed for this long.
    pub settle: Duration,
    /// Smallest face accepted, side of its box in pixels.
    pub min_face: u32,
    /// Largest picture read, in millions of pixels; checked in its header before decoding.
    pub max_megapixels: u32,
    /// Largest distance between two pictures of one person.
    pub max_spread: f32,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    pub path: PathBuf,
    /// Events older than this are forgotten.
    pub keep_events: Duration,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LatchConfig {
    pub backend: GpioBackend,
    /// `auto`, or a gpiochip device such as /dev/gpiochip0.
    pub chip: String,
    /// Number on the chip (BCM number on a Raspberry Pi) or name of the line. None: no relay.
    pub line: Option<LineChoice>,
    /// True for relay boards that switch on when the line is low.
    pub active_low: bool,
    /// How long a pulse lasts.
    pub hold: Duration,
    /// No sequence of pulses keeps the relay active for longer than this.
    pub max_hold: Duration,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum GpioBackend {
    Auto,
    Rppal,
    Gpiochip,
    Simulated,
}

/// A line by number or by name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum LineChoice {
    Number(u32),
    Name(String),
}

/// Status LEDs; they use the latch's backend and chip. None: not fitted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LedConfig {
    /// On while ready, blinking while the camera is lost.
    pub ready: Option<LineChoice>,
    /// On for as long as a pulse, for a known face (in attendance mode too).
    pub granted: Option<LineChoice>,
    /// Blinks three times when a visitor was refused.
    pub denied: Option<LineChoice>,
    pub active_low: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// error, warn, info, debug or trace; or env_logger's filter syntax. The environment's RUST_LOG goes first.
    pub level: String,
}

impl<'de> Deserialize<'de> for FalseMatchRate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(FalseMatchRate)
    }
}
