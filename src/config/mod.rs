//! The one TOML file: sections, units, defaults, and what cannot be right.

mod access;
mod check;
mod defaults;
mod place;
pub mod secret;
pub mod token;
pub mod units;
mod way;

use std::{
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{civil::Time, tz::TimeZone};
use serde::{Deserialize, Serialize};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use self::{access::Owner, token::Token};
use crate::{error::ErrorKind, gallery::TemplateFusion};

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
    pub attendance: AttendanceConfig,
    pub control: ControlConfig,
    pub http: HttpConfig,
    pub mqtt: MqttConfig,
    pub hooks: Vec<HookConfig>,
    pub log: LogConfig,
}

/// What a known face does.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Pulses the relay.
    Unlock,
    /// Signals only: LED, log, event. The relay's line is held inactive.
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
    #[serde(deserialize_with = "units::duration")]
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
    /// Average each face with its mirror image: surer, at twice the cost of embedding.
    pub mirror: bool,
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
    /// How often a stranger's visit may be taken for somebody, whoever is enrolled: "1/1000" or a number in (0, 0.01].
    pub false_match_rate: FalseMatchRate,
    /// Overrides the distance that the manifest gives for `false_match_rate`, in (0, 2).
    pub max_distance: Option<f32>,
    /// Overrides the manifest: how much nearer the nearest person must be than the next one.
    pub margin: Option<f32>,
    /// k: frames that must agree ...
    pub confirm: u32,
    /// ... of the last n usable frames of a face.
    pub window: u32,
    pub several_faces: SeveralFaces,
    /// A visit ends when the person was not seen for this long.
    #[serde(deserialize_with = "units::duration")]
    pub visit_gap: Duration,
    /// No second pulse for anybody within this time.
    #[serde(deserialize_with = "units::duration")]
    pub cooldown: Duration,
    /// A frame older than this is not decided on.
    #[serde(deserialize_with = "units::duration")]
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
    #[serde(deserialize_with = "units::duration")]
    pub settle: Duration,
    /// Smallest face accepted, side of its box in pixels.
    pub min_face: u32,
    /// Largest picture read, in millions of pixels; checked in its header before decoding.
    pub max_megapixels: u32,
    /// Overrides the manifest: largest distance of a picture from the person's other pictures.
    pub max_spread: Option<f32>,
    /// So many unknown people who came to the door are kept with their pictures; 0: none.
    pub keep_unknown: u32,
    /// An unknown person not seen for this long is forgotten.
    #[serde(deserialize_with = "units::duration")]
    pub unknown_expiry: Duration,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    pub path: PathBuf,
    /// Events older than this are forgotten.
    #[serde(deserialize_with = "units::duration")]
    pub keep_events: Duration,
    /// Of more events than this the oldest are forgotten.
    pub max_events: u64,
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
    #[serde(deserialize_with = "units::duration")]
    pub hold: Duration,
    /// No sequence of pulses keeps the relay active for longer than this at a stretch; pauses of
    /// less than a second do not end one.
    #[serde(deserialize_with = "units::duration")]
    pub max_hold: Duration,
    /// See [`LatchConfig::budget`].
    #[serde(deserialize_with = "units::optional_duration")]
    pub max_active_per_minute: Option<Duration>,
}

impl LatchConfig {
    /// How long the relay may be active in any minute.
    pub fn budget(&self) -> Duration {
        self.max_active_per_minute.unwrap_or_else(|| self.max_hold.max(HALF_A_MINUTE))
    }
}

/// The budget where none is set: ten people a minute with the default `hold`.
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum GpioBackend {
    Auto,
    Rppal,
    Gpiochip,
    Simulated,
}

/// A line by number or by name.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
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

/// How days are made of visits.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct AttendanceConfig {
    /// Sightings of a person with less than this between them are one visit.
    #[serde(deserialize_with = "units::duration")]
    pub gap: Duration,
    /// When a day begins, in local time.
    #[serde(deserialize_with = "units::time_of_day")]
    pub day_start: Time,
    /// `system`, or a name of the time zone database such as Europe/Berlin.
    pub time_zone: String,
    pub direction: Direction,
}

/// Whom the device at the door sees.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// People who come and people who go: a day's first sighting is coming, its last is going. Those between are not taken in turns for
    /// going and coming, because one that was missed would turn the rest of the day around.
    Both,
    /// Only people who come: nothing is known about going.
    Entry,
    /// Only people who go: nothing is known about coming.
    Exit,
}

impl AttendanceConfig {
    /// The time zone meant; None: this system does not know it.
    pub fn zone(&self) -> Option<TimeZone> {
        if self.time_zone == "system" { Some(TimeZone::system()) } else { TimeZone::get(&self.time_zone).ok() }
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    pub socket: PathBuf,
}

/// The live page and its JSON API.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    pub enabled: bool,
    /// Address and port; beyond loopback only with a password.
    pub listen: SocketAddr,
    /// What `facelatch password` printed (argon2, PHC string), or `${credential:NAME}`. Empty: whoever reaches the port may do everything.
    pub password: String,
    /// Bearer tokens of programs, as `facelatch password --token` prints them.
    pub tokens: Vec<Token>,
    /// PEM files; both or none.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// A reverse proxy in front speaks TLS and says who asks (X-Forwarded-For).
    pub proxied: bool,
    /// Pictures per second of the live view.
    pub fps: u32,
    /// Prometheus text at /metrics.
    pub metrics: bool,
}

/// What is told to an MQTT broker, and whether the door may be opened from there.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct MqttConfig {
    /// None: off.
    #[serde(deserialize_with = "units::broker")]
    pub broker: Option<Broker>,
    /// Whose certificates are trusted, for mqtts: a file of PEM certificates.
    pub ca: PathBuf,
    pub user: String,
    /// May hold `${credential:NAME}`.
    pub password: String,
    /// Goes instead of `password`.
    pub password_file: PathBuf,
    /// What all topics begin with; empty: facelatch/HOSTNAME.
    pub prefix: String,
    /// What the topics begin with that Home Assistant discovers devices by; empty: nothing is said to it.
    pub discovery: String,
    /// What the device is called there; empty: facelatch HOSTNAME.
    pub name: String,
    /// Whether a message may open the door.
    pub allow_open: bool,
    /// So many events are kept while the broker is away.
    pub queue: usize,
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

/// What is done on some events: a program is run, or an address is told.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct HookConfig {
    pub on: Vec<EventName>,
    /// Program and arguments, which may hold `${credential:NAME}`; no shell.
    pub command: Vec<String>,
    /// Where the event is sent to with POST; may hold `${credential:NAME}`.
    pub url: String,
    /// What the message is signed with; may hold `${credential:NAME}`. Empty: not signed.
    pub secret: String,
    /// Goes instead of `secret`.
    pub secret_file: PathBuf,
    /// Whose certificates are trusted, for https: a file of PEM certificates.
    pub ca: PathBuf,
    /// The program is killed, the address given up, after this.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
}

/// The kinds of events, as programs outside call them.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EventName {
    Started,
    Stopped,
    Granted,
    Denied,
    Opened,
    Enrolled,
    Refused,
    Forgotten,
    Renamed,
    CameraLost,
    CameraBack,
    ClockSet,
    ShutOut,
    RelayStuck,
    RelayFreed,
    DeniedMore,
    StoreDamaged,
    FolderLost,
    FolderBack,
}

impl EventName {
    pub const ALL: [EventName; 19] = [
        EventName::Started,
        EventName::Stopped,
        EventName::Granted,
        EventName::Denied,
        EventName::Opened,
        EventName::Enrolled,
        EventName::Refused,
        EventName::Forgotten,
        EventName::Renamed,
        EventName::CameraLost,
        EventName::CameraBack,
        EventName::ClockSet,
        EventName::ShutOut,
        EventName::RelayStuck,
        EventName::RelayFreed,
        EventName::DeniedMore,
        EventName::StoreDamaged,
        EventName::FolderLost,
        EventName::FolderBack,
    ];
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// error, warn, info, debug or trace; or env_logger's filter syntax. The environment's RUST_LOG goes first.
    pub level: String,
}

/// Why a configuration is not accepted; the program then changes nothing and exits with 78, or 77 where it may not read it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "{path}: {source}; an annotated example is config/facelatch.toml (installed as /etc/facelatch/facelatch.toml)"
    )]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path}: Permission denied; commands need the group facelatch (usermod -aG facelatch NAME), \
         the daemon a file of mode 0640 that belongs to root:facelatch"
    )]
    Denied { path: PathBuf },
    /// Others can write or replace it.
    #[error("{0}")]
    Exposed(String),
    #[error("{path}: the file is empty; start from the annotated example, config/facelatch.toml")]
    Empty { path: PathBuf },
    /// One line per problem, each with file, line, key, what is wrong and the remedy.
    #[error("{0}")]
    Wrong(String),
}

impl ConfigError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        if matches!(self, ConfigError::Denied { .. }) { ErrorKind::Denied } else { ErrorKind::Conflict }
    }
}

impl Config {
    /// Whether anything may drive the relay: there is one, and the mode is `unlock`.
    pub fn opens(&self) -> bool {
        self.mode == Mode::Unlock && self.latch.line.is_some()
    }

    /// Reads and checks a configuration file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// Unreadable, not TOML, an unknown key, a wrong unit, out of range, contradictory; or users other than root and the
    /// daemon's can write the file, or replace it; or others can write where the store lies.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::checked(path, Owner::Daemon)
    }

    /// As [`Config::load`], for a command that asks the daemon: it cannot know the daemon's user, so any may own the file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_to_ask(path: &Path) -> Result<Config, ConfigError> {
        Config::checked(path, Owner::Any)
    }

    /// And the store lies where others cannot write.
    fn checked(path: &Path, owner: Owner) -> Result<Config, ConfigError> {
        let text = access::read(path, owner)?;
        let config = Config::parse(&text, path)?;
        let Some(problem) = check::store_place(&config, owner) else { return Ok(config) };
        let line = span_of(&text, "store.path").map_or(1, |span| line_of(&text, &span));
        Err(ConfigError::Wrong(format!("{}:{line}: store.path: {problem}", path.display())))
    }

    /// What is accepted and seldom meant, each with its key and the remedy.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(self)
    }

    /// As [`Config::load`], from a text; `path` is where it came from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        if text.trim().is_empty() {
            return Err(ConfigError::Empty { path: path.to_owned() });
        }
        let mut config: Config = toml::from_str(text).map_err(|error| {
            let place = error.span().map_or(1, |span| line_of(text, &span));
            let key =
                error.span().and_then(|span| key_at(text, &span)).map_or_else(String::new, |key| format!("{key}: "));
            let message = error.message().replace('\n', " ");
            ConfigError::Wrong(format!("{}:{place}: {key}{message}{}", path.display(), suggestion(&message)))
        })?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        let mut problems: Vec<(usize, String)> = check::problems(&config)
            .into_iter()
            .map(|problem| {
                let line = span_of(text, &problem.key).map_or(1, |span| line_of(text, &span));
                (line, format!("{}:{line}: {}: {}", path.display(), problem.key, problem.text))
            })
            .collect();
        problems.sort();
        if problems.is_empty() {
            return Ok(config);
        }
        Err(ConfigError::Wrong(problems.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")))
    }

    fn resolve(&mut self, folder: &Path) {
        let paths = [
            &mut self.models.dir,
            &mut self.enroll.folder,
            &mut self.store.path,
            &mut self.control.socket,
            &mut self.camera.folder,
            &mut self.http.certificate,
            &mut self.http.key,
            &mut self.mqtt.ca,
            &mut self.mqtt.password_file,
        ];
        let of_hooks = self.hooks.iter_mut().flat_map(|hook| [&mut hook.secret_file, &mut hook.ca]);
        for path in paths.into_iter().chain(of_hooks) {
            if !path.as_os_str().is_empty() && path.is_relative() {
                *path = folder.join(&*path);
            }
        }
    }
}

/// The line, counted from 1, in which a span begins.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes()[..span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Where a key such as `latch.hold` or `hooks.0.url` stands; of a key that is not written, the section's place.
fn span_of(text: &str, key: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut table: &DeTable<'_> = document.get_ref();
    let mut span = None;
    let mut parts = key.split('.');
    while let Some(part) = parts.next() {
        let Some((name, value)) = table.get_key_value(part) else { break };
        span = Some(name.span());
        let mut value = value.get_ref();
        if let DeValue::Array(entries) = value {
            let Some(entry) = parts.next().and_then(|part| entries.get(part.parse::<usize>().ok()?)) else { break };
            span = Some(entry.span());
            value = entry.get_ref();
        }
        match value {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    span
}

/// The key on whose value a span lies.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    let inside = |value: &Spanned<DeValue<'_>>| value.span().start <= span.start && span.end <= value.span().end;
    let mut table: &DeTable<'_> = document.get_ref();
    let mut path: Vec<String> = Vec::new();
    while let Some((name, value)) =
        table.iter().find(|(name, value)| inside(value) || (matches!(value.get_ref(), DeValue::Table(inner) if inner.iter().any(|(n, v)| inside(v) || n.span() == *span))) || name.span() == *span)
    {
        path.push(name.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    (!path.is_empty()).then(|| path.join("."))
}

/// "did you mean" for an unknown key or value, read out of the message that lists the known ones.
fn suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return String::new();
    }
    let Some(unknown) = quoted.next() else { return String::new() };
    let nearest = quoted.map(|known| (edits(unknown, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 3 => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance in characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
